"""Time points as names spell them: dates, days and places in an order."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import date, datetime

from data.find.naming import natural_key

_ISO = re.compile(r"(?<![0-9])((?:1[89]|20)[0-9]{2})([-_.]?)([01][0-9])\2([0-3][0-9])(?![0-9])")
_DAYS_IN = (
    (re.compile(r"(?:week|wk)[-_ ]?([0-9]{1,4})(?:[-_ ][0-9]{1,2})?", re.IGNORECASE), 7),  # LUMIERE: week-044-1
    (re.compile(r"(?:day|FU)[-_ ]?([0-9]{1,5})d?", re.IGNORECASE), 1),  # UCSF-PDGM: FU003d
)
_FIRST = re.compile(
    r"(?:ses|session)?[-_ ]?(?:baseline|base|bl|"
    r"pre(?:[-_ ]?(?:op|operative|operation|surgery|rt|radiotherapy|treatment|therapy))?)",
    re.IGNORECASE,
)
"""Words for what comes before all else."""


def date_of(text: str) -> date | None:
    """Return the day that a name holds (``20210304``, ``2021-03-04T10:15``), None where it holds none."""
    if found := _ISO.search(text):
        with suppress(ValueError):
            return date(int(found[1]), int(found[3]), int(found[4]))
    return None


def parse_date(text: str) -> datetime:
    """Parse a date of a table: ISO 8601 (``2021-03-04``, with or without a time) or DICOM's ``20210304``.

    Raises
    ------
    ValueError
        It is none of these, or no day of the calendar.
    """
    text = text.strip()
    if re.fullmatch(r"[0-9]{8}|[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ][0-9:.]+Z?)?", text):
        with suppress(ValueError):  # the 31st of June
            return datetime.fromisoformat(text.removesuffix("Z"))
    raise ValueError(f"{text[:40]!r} is no date; write it as 2021-03-04")


def days_of(label: str) -> float | None:
    """Return the days in a time point's name, from a zero of its set.

    ``week-044-1`` gives 308, ``FU003d`` gives 3; None for other names, months among them, which differ in length.
    """
    for pattern, each in _DAYS_IN:
        if found := pattern.fullmatch(label):
            return float(int(found[1]) * each)
    return None


def is_follow_up(label: str) -> bool:
    """Tell whether a label counts days from a baseline that has none (UCSF-PDGM)."""
    return re.fullmatch("FU[0-9]+d", label) is not None


def place_of(label: str) -> tuple[bool, tuple[tuple[int, int, str], ...]]:
    """Return the sorting key of a time point's name.

    Words for a baseline come first, and numbers count as numbers.
    """
    return not _FIRST.fullmatch(label), natural_key(label)


def are_numbered(labels: list[str]) -> bool:
    """Tell whether the numbers in names give an order.

    The names are alike but for their numbers; a baseline may come before them.
    """
    others = [label for label in labels if not _FIRST.fullmatch(label)]
    alike = len({re.sub("[0-9]+", "0", label) for label in others}) < 2
    return alike and len(labels) - len(others) < 2 and all(re.search("[0-9]", label) for label in others)
