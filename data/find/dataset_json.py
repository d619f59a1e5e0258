"""``dataset.json`` of MSD and nnU-Net folders.

It says which channel is which modality, and what the labels mean.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data.errors import few
from data.find.naming import modality_called
from data.labels import CONVENTIONS, load_convention
from data.regular_file import parse_json, read_regular_file

_LARGEST_BYTES, _MOST_VALUES = 16 * 2**20, 2**20
"""Of a set of 100,000 patients, each with image and mask: 200,000 values."""
_MOST_LABELS = 1000
# Order matters: "non-enhancing" holds "enhancing".
_TISSUES = (
    ("RC", r"cavity|\brc\b"),
    ("TC", r"non.?enh|necro|\bncr\b|\bnetc?\b"),
    ("ET", r"enhanc|\bet\b"),
    ("WT", r"o?edema|\bed\b|snfh"),
)
_REGION_NAMES = (("WT", r"whole|\bwt\b"), ("RC", r"cavity|\brc\b"), ("TC", r"core|\btc\b"), ("ET", r"enhanc|\bet\b"))


@dataclass(frozen=True)
class DatasetJson:
    """Content of a ``dataset.json``; empty when it is absent or unusable.

    Parameters
    ----------
    channels : tuple of (str or None)
        Modality of every channel in order; None for one that is none of the four.
    conventions : tuple of str
        Conventions that agree with the tissues or regions its labels name; empty when they name none.
    warning : str or None
        Why the file could not be used.
    """

    channels: tuple[str | None, ...] = ()
    conventions: tuple[str, ...] = ()
    warning: str | None = None


def read_dataset_json(path: str) -> DatasetJson:
    """Read ``dataset.json``, a regular file of at most 16 MiB.

    A pipe is never read. Anything unusable becomes a warning, not an error.
    """
    if not os.path.lexists(path):
        return DatasetJson()
    try:
        return parse_dataset_json(path, read_regular_file(path, _LARGEST_BYTES))
    except OSError as error:
        return DatasetJson(warning=f"{path} could not be read ({error.strerror}); write it again")
    except ValueError:
        return DatasetJson(warning=f"{path} is no file of at most 16 MiB and was not read; write it again")


def parse_dataset_json(path: str, text: bytes) -> DatasetJson:
    """Parse the text of a ``dataset.json`` as :func:`read_dataset_json` does.

    ``path`` is for sentences.
    """
    try:
        content = parse_json(text, _MOST_VALUES)
    except UnicodeDecodeError:
        return DatasetJson(warning=f"{path} is no UTF-8 text and was not used; save it as UTF-8")
    except ValueError as error:
        return DatasetJson(warning=f"{path} could not be read as JSON ({_why_no_json(error)}); write it again")
    if not isinstance(content, dict):
        return DatasetJson(warning=f"{path} holds {_kind(content)}, not an object; write it again")
    channels = content.get("channel_names", content.get("modality"))
    labels = content.get("labels")
    named = _channels(channels) if isinstance(channels, dict) else ()
    return DatasetJson(
        named,
        _conventions_that_agree(labels) if isinstance(labels, dict) else (),
        None if any(named) else f"{path} names no channel that is known ({_why_no_channel(channels)}); {_EXAMPLE}",
    )


_EXAMPLE = 'write "channel_names": {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"} into it, in the order of the files'


def _kind(value: Any) -> str:
    """Return JSON's name for the type of a value."""
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def _why_no_json(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} in line {error.lineno}"
    return "a number in it is too long" if str(error).startswith("Exceeds") else f"it says: {error}"


def _why_no_channel(raw: Any) -> str:
    if raw is None:
        return "it has no channel_names"
    if not isinstance(raw, dict):
        return f"its channel_names are {_kind(raw)}, not an object"
    shown = few((f"{key[:20]!r}: {str(value)[:20]!r}" for key, value in raw.items()), 4)
    return f"its channel_names are {{{shown}}}"


def _channels(raw: Mapping[str, Any]) -> tuple[str | None, ...]:
    if not all(key.isascii() and key.isdigit() and len(key) < 4 for key in raw):
        return ()
    named = {int(key): modality_called(str(value)) for key, value in raw.items()}
    return tuple(named.get(index) for index in range(max(named, default=-1) + 1))


def _conventions_that_agree(raw: Mapping[str, Any]) -> tuple[str, ...]:
    claims: list[tuple[str, str, frozenset[int]]] = []
    if len(raw) > _MOST_LABELS:
        return ()
    for key, value in raw.items():
        # MSD writes {"1": "edema"}, nnU-Net {"edema": 1} or, for regions, {"tumor core": [2, 3]}.
        name, values = (str(value), int(key)) if key.isascii() and key.isdigit() and len(key) < 4 else (key, value)
        kind, names = ("region", _REGION_NAMES) if isinstance(values, list) else ("tissue", _TISSUES)
        numbers = values if isinstance(values, list) else [values]
        found = next((region for region, pattern in names if re.search(pattern, name.lower())), None)
        if found and all(type(number) is int for number in numbers):
            claims.append((kind, found, frozenset(numbers)))
    if not claims:
        return ()
    return tuple(name for name in CONVENTIONS if all(_agrees(name, *claim) for claim in claims))


def _agrees(name: str, kind: str, region: str, values: frozenset[int]) -> bool:
    regions = load_convention(name).regions
    if region not in regions:
        return False
    if kind == "region":
        return regions[region] == values
    inner: frozenset[int] = frozenset().union(*(other for other in regions.values() if other < regions[region]))
    return values <= regions[region] - inner
