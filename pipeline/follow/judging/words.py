"""Words of reasons: sizes, changes, visits."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.follow.criteria import Criterion
from pipeline.follow.measures import VisitMeasures


def named_visit(visit: VisitMeasures) -> str:
    """Return the date of a visit, or its label where it has none."""
    return visit.date.isoformat() if visit.date else visit.label


def size_words(criterion: Criterion, value: float) -> str:
    """Return the measure, its value and unit: "product 412 mm2", "volume 1.25 ml"."""
    return f"{criterion.measure} {value:.{0 if criterion.measure == 'product' else 2}f} {criterion.unit}"


def percent(value: float, reference: float | None) -> float | None:
    """Return a change in per cent of its reference; None where that is 0 or none."""
    return 100 * (value - reference) / reference if reference else None


def change(value: float, reference: float) -> str:
    """Return a change in words: "+31 %", or with the decimals that tell it from whole per cent."""
    share = percent(value, reference)
    if share is None:
        return "from 0"
    decimals = 0 if abs(share - round(share)) < 1e-6 else 1
    while 0 < decimals < 6 and round(share, decimals) == round(share):
        decimals += 1
    return f"{share:+.{decimals}f} %"


def why_not(visit: VisitMeasures, regions: Iterable[str]) -> str:
    """Return the reason why a visit gets no category; empty where it may."""
    if not visit.evaluable:
        return visit.why_not or "not evaluable"
    lacking = [region for region in regions if region not in visit.regions]
    return f"{' and '.join(lacking)} not measured" if lacking else ""


def days_words(days: float) -> str:
    """Return a number of days in words."""
    return f"{days:g} day{'' if days == 1 else 's'}"


def about(lesions: Iterable[int]) -> str:
    """Return the numbers of lesions in words: "2 and 5", "1, 2 and 5"."""
    *first, last = map(str, lesions)
    return f"{', '.join(first)} and {last}" if first else last
