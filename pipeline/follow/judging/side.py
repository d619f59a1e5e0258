"""Category of one region at one visit, from its lesions alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from pipeline.follow.criteria import GROWN_MM, GROWN_TO_MM, REPEATABILITY_PERCENT, Criterion
from pipeline.follow.judging.sums import Lesions
from pipeline.follow.judging.words import about, change, named_visit, size_words
from pipeline.follow.measures import at_least, at_most


@dataclass(frozen=True)
class Reference:
    """Visits with which one visit is compared."""

    baseline: int
    """Place of the baseline."""
    start: int
    """Place of the first visit that may be the nadir: the baseline, or a pseudoprogression."""
    earlier: tuple[int, ...]
    """Evaluable visits from ``start`` on, of earlier days than the visit that is judged."""


@dataclass(frozen=True)
class Side:
    """Category of one region at one visit."""

    region: str
    category: str
    """CR, PR, MR, SD or PD."""
    reason: str
    """In words, with numbers and dates."""
    value: float | None
    """Sum over the targets, mm2 or ml; None without measurable disease at the baseline."""
    at_baseline: float | None
    at_nadir: float | None
    nadir: int
    """Place of the nadir among the visits."""
    targets: tuple[int, ...]
    """Targets, with those added since the baseline."""
    grown_from: tuple[int, ...] = ()
    """Lesions whose sum a confirming scan compares: the targets and what made PD."""
    inside: bool | None = None
    """True: the change is inside the repeatability; None: there is none in percent."""
    doubtful: bool = False
    """True: a bound lies inside the repeatability of the value."""


def judge(lesions: Lesions, index: int, reference: Reference, targets: Sequence[int]) -> Side:
    """Return the category of a visit in one region.

    Parameters
    ----------
    lesions : Lesions
        Of all visits up to this one.
    index : int
        Place of the visit.
    reference : Reference
        At least one earlier visit.
    targets : sequence of int
        Target lesions, with those added so far; none: no measurable disease at the baseline.
    """
    own = tuple(dict.fromkeys(lesions.root[lesion] for lesion in targets))
    added = _grown_others(lesions, index, reference, own) if own or reference.start != reference.baseline else ()
    own += added
    criterion = lesions.criterion
    nadir = min(reference.earlier, key=lambda place: (lesions.size(place, own), place))
    value = lesions.size(index, own)
    base, least = lesions.size(reference.baseline, own), lesions.size(nadir, own)
    causes, culprits = _new_and_grown(lesions, index, reference, own)
    compared = size_words(criterion, value)
    if own and least > 0:
        if at_least(value, (1 + criterion.progression) * Fraction(least)):
            causes.insert(0, _against(lesions, criterion, value, least, nadir))
    elif own and _returned(lesions, index, own):
        causes.insert(0, f"{compared}, targets are back after none was left at {named_visit(lesions.visits[nadir])}")
    if causes:
        category, why = "PD", "; ".join(causes)
    elif not own:
        category, why = "SD", "no measurable disease at the baseline: SD is the best there is"
    else:
        category, why = _fall(lesions, index, value, base, reference.baseline)
        if category == "SD":
            why = _against(lesions, criterion, value, least, nadir) if least > 0 else compared
    if added:
        why += f"; lesion {about(added)} beside the targets grew and is added to the sum at all visits"
        why += f" ({size_words(criterion, base)} at the baseline, {size_words(criterion, least)} at the nadir)"
    inside, doubtful, noise = _noise(criterion, lesions.region, value, base, least, category)
    return Side(
        lesions.region, category, why + noise + _watched(lesions, index, reference), value if own else None,
        base if own else None, least if own else None, nadir, own, (*own, *culprits), inside, doubtful,
    )  # fmt: skip


def _against(lesions: Lesions, criterion: Criterion, value: float, least: float, nadir: int) -> str:
    bound = f"bound {float(criterion.progression):.0%}".replace("%", " %")
    where = named_visit(lesions.visits[nadir])
    return f"{size_words(criterion, value)}, {change(value, least)} from the nadir of {where}, {bound}"


def _fall(lesions: Lesions, index: int, value: float, base: float, baseline: int) -> tuple[str, str]:
    """Return the category by the fall from the baseline, and the reason."""
    criterion = lesions.criterion
    where = named_visit(lesions.visits[baseline])
    if base <= 0:
        return "SD", ""
    if not lesions.at(index):
        return "CR", f"no lesion left, {size_words(criterion, base)} at the baseline of {where}"
    bounds = [("PR", criterion.partial)]
    if lesions.region in criterion.minor_regions:
        bounds.append(("MR", criterion.minor))
    for category, fall in bounds:
        if at_most(value, (1 - fall) * Fraction(base)):
            bound = f"{float(fall):.0%}".replace("%", " %")
            return category, (
                f"{size_words(criterion, value)}, {change(value, base)} from the baseline of {where}, bound -{bound}"
            )
    return "SD", ""


def _known(lesions: Lesions, reference: Reference) -> set[int]:
    """Return the lesions that are not new: of the baseline, or of a pseudoprogression."""
    return lesions.present(reference.baseline) | lesions.present(reference.start)


def _grown_others(lesions: Lesions, index: int, reference: Reference, targets: Sequence[int]) -> tuple[int, ...]:
    """Find measurable lesions beside the targets that grew by the bound of PD.

    Growth is from their own smallest size.
    """
    grown = []
    for lesion in sorted((lesions.present(index) & _known(lesions, reference)) - set(targets)):
        least = min(lesions.size(place, [lesion]) for place in reference.earlier)
        bound = (1 + lesions.criterion.progression) * Fraction(least)
        enough = lesions.measurable(index, lesion) and at_least(lesions.size(index, [lesion]), bound)
        if enough and not _grown_from_small(lesions, index, reference, lesion):
            grown.append(lesion)
    return tuple(grown)


def _new_and_grown(
    lesions: Lesions, index: int, reference: Reference, targets: Sequence[int]
) -> tuple[list[str], list[int]]:
    """Find new lesions, and grown ones that were not measurable, that make PD."""
    causes, culprits = [], []
    known = _known(lesions, reference)
    for lesion in sorted(lesions.present(index) - set(targets)):
        now = lesions.diameters(index, lesion)
        shown = f"{now[0]:.1f} x {now[1]:.1f} mm"
        measurable = lesions.measurable(index, lesion)
        if lesion not in known:
            if measurable or lesions.criterion.any_new_lesion:
                kind = "measurable" if measurable else "not measurable"
                causes.append(f"new {kind} lesion {lesion} of {shown}")
                culprits.append(lesion)
            continue
        if grew := _grown_from_small(lesions, index, reference, lesion):
            causes.append(
                f"{grew} to {shown}, bound {GROWN_MM} x {GROWN_MM} mm to at least {GROWN_TO_MM} x {GROWN_TO_MM} mm"
            )
            culprits.append(lesion)
    return causes, culprits


def _grown_from_small(lesions: Lesions, index: int, reference: Reference, lesion: int) -> str:
    """Return words of a lesion that grew from not measurable; empty for others."""
    smallest = min(reference.earlier, key=lambda place: (lesions.size(place, [lesion]), place))
    now, then = lesions.diameters(index, lesion), lesions.diameters(smallest, lesion)
    grown = all(
        at_least(a, Fraction(b) + GROWN_MM) and at_least(a, GROWN_TO_MM) for a, b in zip(now, then, strict=True)
    )
    if not grown or lesions.measurable(smallest, lesion):
        return ""
    where = named_visit(lesions.visits[smallest])
    if lesion not in lesions.present(smallest):
        return f"lesion {lesion}, gone at {where}, is back: from 0"
    return f"lesion {lesion}, not measurable at {where}, grew from {then[0]:.1f} x {then[1]:.1f}"


def _returned(lesions: Lesions, index: int, targets: Sequence[int]) -> bool:
    """Tell whether targets that were all gone are back.

    As with new lesions any of them counts, or a measurable one alone.
    """
    back = [lesion for lesion in targets if lesion in lesions.present(index)]
    return any(lesions.criterion.any_new_lesion or lesions.measurable(index, lesion) for lesion in back)


def _watched(lesions: Lesions, index: int, reference: Reference) -> str:
    """Return words about new lesions that are too small to count."""
    if lesions.criterion.any_new_lesion:
        return ""
    new = lesions.present(index) - _known(lesions, reference)
    small = sorted(lesion for lesion in new if not lesions.measurable(index, lesion))
    return f"; new lesion {about(small)} is not measurable: watch" if small else ""


def _noise(
    criterion: Criterion, region: str, value: float, base: float, least: float, category: str
) -> tuple[bool | None, bool, str]:
    """Tell whether a change, and whether a bound, lies inside the repeatability; with words."""
    low, high = REPEATABILITY_PERCENT[criterion.measure]
    share = Fraction(high, 100)
    compared = base if category in ("CR", "PR", "MR") else least
    if compared <= 0:
        return None, False, ""
    inside = at_most(abs(Fraction(value) - Fraction(compared)), share * Fraction(compared))
    bounds = [(1 + criterion.progression) * Fraction(least)] if least > 0 else []
    falls = [criterion.partial] + ([criterion.minor] if region in criterion.minor_regions else [])
    bounds += [(1 - fall) * Fraction(base) for fall in falls]
    small, large = Fraction(value) * (1 - share), Fraction(value) * (1 + share)
    doubtful = any(at_least(large, bound) and at_most(small, bound) for bound in bounds) and value > 0
    words = f"; the change is inside the repeatability of {low} to {high} %" if inside else ""
    words += f"; a bound lies within the repeatability of {low} to {high} %" if doubtful else ""
    return inside, doubtful, words
