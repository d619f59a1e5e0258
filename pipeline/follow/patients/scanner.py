"""Scanner of an image, as DICOM or the JSON file beside it tells."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from data.case import DICOM, Case
from data.errors import SegmentationError
from data.io.suffixes import split_suffix
from data.regular_file import read_json_object
from data.visible import visible

_TAGS = ("Manufacturer", "ManufacturerModelName", "MagneticFieldStrength")
_KEYS = ("Manufacturer", "ManufacturersModelName", "MagneticFieldStrength")
"""Names of the same in BIDS."""
_LONGEST = 40


def scanner_of(case: Case) -> str:
    """Return maker, model and field strength of a case's scanner.

    Empty where nothing tells them.
    """
    for image in case.images.values():
        if not image.paths:
            continue
        told = _of_dicom(image.paths[0]) if case.layout == DICOM else _beside(image.paths[0])
        if told:
            return told
    return ""


def _of_dicom(path: Path) -> str:
    from data.io.dicom.dataset import open_dataset, text_of

    with suppress(SegmentationError, OSError, ValueError):
        dataset = open_dataset(path, "a DICOM file", _TAGS)
        return _worded([text_of(dataset, name) for name in _TAGS])
    return ""


def _beside(path: Path) -> str:
    stem, _ = split_suffix(path.name)
    about = read_json_object(path.with_name(f"{stem}.json"))
    return _worded([about.get(key) for key in _KEYS])


def _worded(parts: list[Any]) -> str:
    """Join maker, model and tesla, as far as they are known."""
    maker, model, tesla = (str(part).strip() if isinstance(part, str | int | float) else "" for part in parts)
    with suppress(ValueError):
        tesla = f"{round(float(tesla), 1):g} T" if tesla else ""
    words = [visible(word)[:_LONGEST] for word in (maker.title(), model, tesla) if word]
    return " ".join(words)
