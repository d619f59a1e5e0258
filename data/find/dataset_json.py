"""``dataset.json`` of MSD and nnU-Net folders.

It says which channel is which modality, and what the labels mean.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from data.errors import ConventionError, few
from data.find.naming import modality_called
from data.labels import CONVENTIONS, load_convention, parse_convention
from data.regular_file import parse_json, read_regular_file
from data.visible import is_visible

_LARGEST_BYTES, _MOST_VALUES = 16 * 2**20, 2**20
"""Of a set of 100,000 patients, each with image and mask: 200,000 values."""
_MOST_LABELS = 1000
# Order matters: "surrounding non-enhancing FLAIR hyperintensity" holds "non-enhancing", and that "enhancing".
_TISSUES = (
    ("RC", r"cavity|resect|\brc\b"),
    # Painted over by its parts, the whole tumour is its rim.
    ("WT", r"o?edema|\bed\b|snfh|surrounding|peritumo|whole|\bwt\b|flair|hyperintens|signal"),
    ("TC", r"non.?enh|necro|cyst|\bncr\b|\bnetc?\b|\bcc\b"),
    ("ET", r"enhanc|\bet\b|\bce\b"),
    ("TC", r"core|\btc\b"),
)
_TUMOUR = r"tumou?r|lesion|glioma|metasta"
"""Names of a tumour that say nothing of its tissue."""
_NOTHING = r"background|ignore"
_REGION_NAMES = (("WT", r"whole|\bwt\b"), ("RC", r"cavity|\brc\b"), ("TC", r"core|\btc\b"), ("ET", r"enhanc|\bet\b"))


@dataclass(frozen=True)
class DatasetJson:
    """Content of a ``dataset.json``; empty when it is absent or unusable.

    Parameters
    ----------
    channels : tuple of (str or None)
        Modality of every channel in order; None for one that is none of the four.
    conventions : tuple of str
        Conventions that agree with the tissues or regions its labels name, else the one that it says itself. Labels
        without a tissue are the whole tumour. Empty when it has no labels.
    warning : str or None
        Why the file could not be used.
    note : str
        What a reader of a reference must know of its labels; empty where nothing.
    """

    channels: tuple[str | None, ...] = ()
    conventions: tuple[str, ...] = ()
    warning: str | None = None
    note: str = ""


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
    conventions, note = conventions_of(path, labels) if isinstance(labels, dict) else ((), "")
    return DatasetJson(
        named,
        conventions,
        None if any(named) else f"{path} names no channel that is known ({_why_no_channel(channels)}); {_EXAMPLE}",
        note,
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


@dataclass(frozen=True)
class _Label:
    """Entry of ``labels``: its values, and the region that its name tells, if any."""

    name: str
    values: frozenset[int]
    is_region: bool  # a list of values is a whole region, one value a tissue, which lies in no smaller region
    told: str | None


def _labels(raw: Mapping[str, Any]) -> list[_Label]:
    """Return the readable entries of ``labels`` but for background."""
    found = []
    for key, value in raw.items():
        # MSD writes {"1": "edema"}, nnU-Net {"edema": 1} or, for regions, {"tumor core": [2, 3]}.
        name, values = (str(value), int(key)) if key.isascii() and key.isdigit() and len(key) < 4 else (key, value)
        numbers = values if isinstance(values, list) else [values]
        text = name.lower().replace("_", " ")
        if not numbers or not all(type(number) is int for number in numbers) or numbers == [0]:
            continue
        if re.search(_NOTHING, text):
            continue
        known = _REGION_NAMES if isinstance(values, list) else _TISSUES
        told = next((region for region, pattern in known if re.search(pattern, text)), None)
        found.append(_Label(name, frozenset(numbers), isinstance(values, list), told))
    return found


def conventions_of(path: str, raw: Mapping[str, Any], name: str = "dataset.json") -> tuple[tuple[str, ...], str]:
    """Return the conventions that the names of labels tell.

    A note says where these say less than they could.

    Parameters
    ----------
    path : str
        The file, for the note.
    raw : mapping
        ``labels`` as MSD or nnU-Net write them.
    name : str
        Of a convention that is none of the shipped ones.
    """
    labels = _labels(raw) if len(raw) <= _MOST_LABELS else []
    if not labels:
        return (), ""
    regions = _regions(labels)
    if any(label.told for label in labels):
        agreeing = tuple(known for known in CONVENTIONS if _agrees(known, labels, set(regions)))
        if agreeing:
            return agreeing, ""
        if own := _own_convention(labels, regions, name):
            return (own,), ""
    cavity = _values(labels, "RC")
    whole = frozenset().union(*(label.values for label in labels)) - cavity - {0}
    if not (own := _own_convention(labels, {"WT": whole}, name)):
        return (), f"{path}: its labels are no label convention and were not used; correct them"
    listed = few(sorted(whole))
    return (own,), (
        f"{path}: its labels ({few((repr(label.name[:20]) for label in labels), 4)}) do not tell the tissues; {listed} "
        "together are read as the whole tumour, and nothing else is"
    )


def _values(labels: Sequence[_Label], region: str, *, listed: bool = False) -> frozenset[int]:
    """Return the values of the tissues, or of the lists, that tell a region."""
    return frozenset().union(*(each.values for each in labels if each.told == region and each.is_region is listed))


def _regions(labels: Sequence[_Label]) -> dict[str, frozenset[int]]:
    """Return the regions that the names tell wholly.

    One that lacks a part is left out.
    """
    vague = [each.values for each in labels if _is_vague(each)]
    enhancing, core, oedema, cavity = (_values(labels, region) for region in ("ET", "TC", "WT", "RC"))
    tissues = {
        "WT": oedema.union(core, enhancing, *vague) if oedema or vague else oedema,
        "TC": core | enhancing if core and not vague else frozenset(),  # a "tumour" beside it may be core too
        "ET": enhancing,
        "RC": cavity,
    }
    told = {region: _values(labels, region, listed=True) or values for region, values in tissues.items()}
    return {region: values for region, values in told.items() if values}


def _is_vague(label: _Label) -> bool:
    """Tell whether a label is tumour of an unnamed tissue."""
    return not label.told and re.search(_TUMOUR, label.name.lower()) is not None


def _agrees(name: str, labels: Sequence[_Label], told: Collection[str]) -> bool:
    """Tell whether a convention reads every label as its name says.

    It adds no region that the names leave open.
    """
    convention = load_convention(name)
    regions = convention.regions
    if any(region in regions and region not in told for region in ("WT", "ET")):
        return False
    for label in labels:
        if label.told is None:
            if _is_vague(label) or label.values & set(convention.labels):
                return False
        elif label.told not in regions:
            return False
        elif label.is_region:
            if regions[label.told] != label.values:
                return False
        elif not label.values <= _own(regions, label.told):
            return False
    return True


def _own(regions: Mapping[str, frozenset[int]], region: str) -> frozenset[int]:
    """Return the labels of a region that lie in no smaller one."""
    return regions[region].difference(*(other for other in regions.values() if other < regions[region]))


def _own_convention(labels: Sequence[_Label], regions: Mapping[str, frozenset[int]], own_name: str) -> str | None:
    """Return the spelling of the convention with these regions.

    A shipped one keeps its name.

    None where they are no convention.
    """
    for name in CONVENTIONS:
        if load_convention(name).regions == regions:
            return name
    names = {value: each.name for each in labels for value in each.values if not each.is_region}
    for longest in (30, 0):  # of hundreds of labels the names are too long for a spelling
        tissues = {
            value: "".join(filter(is_visible, names.get(value, "")))[:longest] or str(value)
            for value in sorted(frozenset().union(*regions.values()))
        }
        content = {
            "name": own_name,
            "source": f"labels of {own_name}",
            "labels": tissues,
            "regions": {region: sorted(values) for region, values in regions.items()},
            "written_as": {region: min(own) for region in regions if (own := _own(regions, region))},
        }
        with suppress(ConventionError):
            return load_convention(parse_convention(content, own_name).spelling).spelling
    return None
