"""Safetensors files that hold their own SHA-256.

Damage anywhere in them is found before they are used.

A sealed file's header metadata has the entry ``sha256``: the SHA-256 of the whole file with these 64 digits as zeros.
Whatever bit is flipped, it is a bit of the text that is digested, or of the digest, or of the name it is found by.
A digest is no signature: whoever edits such a file on purpose can seal it again. Where a file comes from is for the
one who names it to know; that it can run no code is the format's.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.regular_file import open_regular_file, parse_json

LARGEST_HEADER = 2**22
"""Bytes. Parsed JSON takes up to some forty times its text; a header of ours has 20 to 200 kB."""
NO_DIGEST = "holds no SHA-256 of itself"
BLANK = b"0" * 64
_DIGEST = re.compile(rb'"sha256": "([0-9a-f]{64})"')
"""In a JSON text these bytes are a key and its value: within a string the quotation marks would be escaped."""
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True)
class SealedHeader:
    """Header of a sealed file, after its digest was found right.

    Parameters
    ----------
    metadata : dict of str
        As it was given to safetensors.
    tensors : name -> (dtype, shape)
        dtype in safetensors' names ("F16"); together they take the file's bytes, no more and no less.
    sha256 : str
        Of the whole file as it lies on the disk: what ``sha256sum`` gives.
    """

    metadata: Mapping[str, str]
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]
    sha256: str


def read_sealed_file(path: Path, largest: int) -> bytes:
    """Read all bytes of a file of at most ``largest``.

    They are read only where the first eight fit a header.

    Raises
    ------
    OSError
        It cannot be read.
    ValueError
        It is no regular file, too large, or begins as no safetensors file does; the text is the reason, without the
        path.
    """
    with open_regular_file(path, largest) as (file, size):
        _header_end(file.read(8), size)
        file.seek(0)
        return file.read(size)


def seal(content: bytes, metadata: Mapping[str, str] | None = None) -> bytes:
    """Return a safetensors file with its digest in its metadata.

    ``metadata`` is added too, and the header's keys are put in order.

    safetensors itself writes the keys in another order each time. ValueError where ``content`` is no such file.
    """
    header, end = _header(content)
    header["__metadata__"] = {**header.get("__metadata__", {}), **(metadata or {}), "sha256": BLANK.decode()}
    text = json.dumps(header, sort_keys=True, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of eight bytes
    blank = len(text).to_bytes(8, "little") + text + content[end:]
    at = _digest_at(blank)
    sealed = blank[:at] + hashlib.sha256(blank).hexdigest().encode() + blank[at + len(BLANK) :]
    read_seal(sealed)
    return sealed


def read_seal(content: bytes) -> SealedHeader:
    """Check a file's digest, and only then its header.

    Raises
    ------
    ValueError
        It is damaged, or no sealed file; the text is the reason in a few words, without the path.
    """
    at = _digest_at(content)
    said = content[at : at + len(BLANK)]
    view = memoryview(content)
    found = hashlib.sha256(view[:at])
    found.update(BLANK)
    found.update(view[at + len(BLANK) :])
    if found.hexdigest().encode() != said:
        raise ValueError(
            f"is damaged: its bytes have the SHA-256 {found.hexdigest()[:12]}..., but it says {said[:12].decode()}..."
        )
    header, end = _header(content)
    metadata = header.pop("__metadata__", {})
    if metadata.get("sha256") != said.decode():
        raise ValueError("its header is damaged (the SHA-256 does not stand where it should)")
    return SealedHeader(metadata, _table(header, len(content) - end), hashlib.sha256(content).hexdigest())


def format_of(content: bytes) -> str | None:
    """Read the metadata's entry ``format``, sealed or not.

    Nothing of it was checked; it is None where there is none.
    """
    try:
        found = _header(content)[0].get("__metadata__", {}).get("format")
    except ValueError:
        return None
    return None if found is None else found[:80]


def _digest_at(content: bytes) -> int:
    """Find where the digits begin."""
    places = [match.start(1) for match in _DIGEST.finditer(content, 8, _header_end(content, len(content)))]
    if len(places) != 1:
        raise ValueError(NO_DIGEST)
    return places[0]


def _header_end(content: bytes, size: int) -> int:
    length = int.from_bytes(content[:8], "little")
    if size < 8 or not 2 <= length <= min(size - 8, LARGEST_HEADER):
        raise ValueError(f"not readable as safetensors (a header of {length} bytes in a file of {size})")
    return 8 + length


def _header(content: bytes) -> tuple[dict[str, Any], int]:
    """Read the header and the number of the byte behind it.

    The metadata is text, and every other entry is for :func:`_table` to check.
    """
    end = _header_end(content, len(content))
    try:
        header = parse_json(content[8:end])
    except ValueError as error:
        raise ValueError(f"not readable as safetensors ({' '.join(str(error).split())[:80]})") from None
    metadata = header.get("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("not readable as safetensors (its metadata is no table of texts)")
    return header, end


def _table(entries: Mapping[str, Any], n_bytes: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Read dtype and shape of every tensor.

    Their places must share out ``n_bytes`` without gap or overlap.
    """
    table: dict[str, tuple[str, tuple[int, ...]]] = {}
    places: list[tuple[int, int]] = []
    for name, entry in entries.items():
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"its header is damaged (the entry of {name[:80]!r})")
        dtype, shape, place = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in _BYTES or not _are_counts(shape) or not _are_counts(place):
            raise ValueError(f"its header is damaged (the entry of {name[:80]!r})")
        if len(place) != 2 or place[1] - place[0] != math.prod(shape) * _BYTES[dtype]:
            raise ValueError(f"its header is damaged (the size of {name[:80]!r})")
        table[name] = (dtype, tuple(shape))
        places.append((place[0], place[1]))
    reached = 0
    for start, end in sorted(places):
        if start != reached:
            raise ValueError("its header is damaged (its tensors overlap or leave a gap)")
        reached = end
    if reached != n_bytes:
        raise ValueError(f"its header is damaged (its tensors take {reached} bytes, and there are {n_bytes})")
    return table


def _are_counts(values: Any) -> bool:
    """Tell whether a value is a list of whole numbers from 0 to 2^63.

    Eight dimensions are more than any weight has.
    """
    return isinstance(values, list) and len(values) <= 8 and all(type(v) is int and 0 <= v < 2**63 for v in values)
