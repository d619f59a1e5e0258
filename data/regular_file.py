"""Regular files of a bounded size, read from folders that others can write to.

A fifo or a device is never waited for, a file that grows while it is read gives no more than it had, and JSON is
bounded in bytes, in values and in depth before anything is made of it.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, NoReturn

LARGEST_RECORD = 2**27
"""Bytes of a table or a JSON file that a run leaves: some 300,000 lesions of one patient, or 50,000 patients."""
MOST_VALUES = 2**23
"""Values in a JSON file. Parsed, one takes some 70 bytes, whatever it takes as text."""


@contextmanager
def open_regular_file(
    path: Path | str, largest: int | None = None, *, follow: bool = True
) -> Iterator[tuple[BufferedReader, int]]:
    """Open a file for reading, and give it with its size in bytes.

    Raises
    ------
    OSError
        It is not there, or cannot be read; or it is a link, where ``follow`` is False.
    ValueError
        It is no regular file, or has more than ``largest`` bytes; the text is the reason, without the path.
    """
    # The kind is asked of what was opened: asked of the name, it may be another file's.
    flags = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
    flags |= 0 if follow else getattr(os, "O_NOFOLLOW", 0)
    with open(path, "rb", opener=lambda name, mode: os.open(name, mode | flags)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("is no file of bytes")
        if largest is not None and status.st_size > largest:
            raise ValueError(f"has {status.st_size} bytes, more than the {largest} that such a file may have")
        yield file, status.st_size


def read_regular_file(path: Path | str, largest: int | None = None) -> bytes:
    """Read all bytes of a file.

    Raises as `open_regular_file` does.
    """
    with open_regular_file(path, largest) as (file, size):
        return file.read(size)


def read_json(path: Path | str, largest: int = LARGEST_RECORD) -> Any:
    """Read a JSON file: no key twice, numbers finite.

    Raises
    ------
    OSError
        It is not there, or cannot be read.
    ValueError
        It is no regular file, too large, no JSON in UTF-8, or too deep; the text is the reason, without the path.
    """
    return parse_json(read_regular_file(path, largest))


def parse_json(content: bytes | str, most_values: int = MOST_VALUES) -> Any:
    """Parse a JSON text of at most ``most_values``, as `read_json` does.

    Raises ValueError.
    """
    text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
    if sum(map(text.count, "[{,")) > most_values:
        raise ValueError(f"holds more than {most_values} values")
    try:
        return json.loads(
            text, object_pairs_hook=without_double_keys, parse_constant=_refuse_constant, parse_float=_finite
        )
    except RecursionError:
        raise ValueError("is nested too deep") from None


def read_json_object(path: Path | str) -> dict[str, Any]:
    """Read a JSON object that is wanted but not needed.

    ``{}`` where the file is not there, or is no such file.
    """
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def without_double_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that a JSON object has twice.

    It is a hook of ``json.loads``: two readers might take different ones. Raises ValueError.
    """
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:80]} is said twice")
        found[key] = value
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:80]} is larger than any number")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
