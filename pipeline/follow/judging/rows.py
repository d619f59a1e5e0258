"""Response of one visit, by one set of criteria."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from pipeline.follow.judging.side import Side


@dataclass(frozen=True)
class Response:
    """Category of one visit, with its reason."""

    label: str
    """Visit."""
    date: datetime.date | None
    days: float | None
    """Days since the first visit; None: not known."""
    criterion: str
    """Name of the criteria."""
    category: str
    """One of `CATEGORIES`: that of the images, steroids and clinical state; of the images where these lack."""
    reason: str
    """In words, with numbers and dates."""
    images: str = ""
    """Category of the images alone; empty for BASELINE and where there is no image."""
    overall: str = ""
    """Category with steroids and clinical state; empty where it is not computable."""
    not_given: tuple[str, ...] = ()
    """Facts that the overall category lacks."""
    preliminary: bool | None = False
    """True: PD within 12 weeks of radiotherapy; None: PD of which that cannot be told."""
    confirmed: str = ""
    """``yes``, ``no``, ``not needed``, ``not computable``; empty where there is nothing to confirm."""
    confirmed_by: str | None = None
    """Label of the confirming visit."""
    confirmed_after_days: float | None = None
    """Days to the confirming visit."""
    baseline: str | None = None
    """Label of the baseline; None before it."""
    nadir: str | None = None
    """Label of the nadir, of the first region."""
    value: float | None = None
    """Sum over the targets of the first region, in ``unit``; None: no targets."""
    unit: str = ""
    """``mm2`` or ``ml``."""
    change_from_baseline_percent: float | None = None
    change_from_nadir_percent: float | None = None
    """None where the reference is 0 or there are no targets."""
    inside_repeatability: bool | None = None
    """Of the first region: the change is no larger than the masks' repeatability."""
    doubtful: bool = False
    """True: a bound lies inside the repeatability of a sum."""
    sides: tuple[Side, ...] = ()
    """Each region, in the order asked for."""
    targets: tuple[tuple[str, int], ...] = ()
    """Targets, with those added since the baseline: region and lesion."""
