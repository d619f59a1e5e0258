"""Visits from one baseline on, judged one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from pipeline.follow.clinical import Clinical, ClinicalEntry
from pipeline.follow.criteria import CONFIRM_DAYS, EARLY_DAYS, Criterion
from pipeline.follow.judging.overall import combine, with_clinic
from pipeline.follow.judging.rows import Response
from pipeline.follow.judging.schedule import Period, Schedule, near
from pipeline.follow.judging.side import Reference, Side, judge
from pipeline.follow.judging.sums import lesions_until
from pipeline.follow.judging.words import change, days_words, named_visit, percent, size_words, why_not
from pipeline.follow.measures import at_least


@dataclass
class _Course:
    """State on the way through the visits of one baseline."""

    schedule: Schedule
    criterion: Criterion
    regions: tuple[str, ...]
    clinical: Clinical
    period: Period
    start: int
    """First visit that may be the nadir."""
    targets: dict[str, tuple[int, ...]]
    usable: list[int]
    rows: dict[int, Response] = field(default_factory=dict)
    waiting: list[int] = field(default_factory=list)
    """Visits with a preliminary PD that waits for its confirmation, the first one first."""
    progressed: bool = False


def judge_period(
    schedule: Schedule,
    criterion: Criterion,
    regions: tuple[str, ...],
    clinical: Clinical,
    period: Period,
    targets: Mapping[str, tuple[int, ...]],
    indices: Sequence[int],
    usable: Sequence[int],
) -> dict[int, Response]:
    """Judge visits after a baseline.

    Parameters
    ----------
    targets : mapping of region to lesions
    indices : sequence of int
        Visits to be judged, by time.
    usable : sequence of int
        Visits from the baseline on that are evaluable.

    Returns
    -------
    dict of int to Response
        For each of ``indices``.
    """
    own = dict(targets)
    course = _Course(schedule, criterion, regions, clinical, period, period.baseline, own, list(usable))
    for index in indices:
        visit = schedule.visits[index]
        if index not in usable:
            course.rows[index] = _row(course, index, "NE", why_not(visit, regions))
        elif schedule.gap(period.baseline, index) == 0:
            course.rows[index] = _row(course, index, "NE", "same day as the baseline: nothing to compare with")
        else:
            _judge_visit(course, index)
    _settle_by_histology(course, None)
    _confirm_responses(course, list(indices))
    return course.rows


def _row(course: _Course, index: int, category: str, reason: str) -> Response:
    visit = course.schedule.visits[index]
    baseline = course.schedule.visits[course.period.baseline].label
    return Response(visit.label, visit.date, visit.days, course.criterion.name, category, reason, baseline=baseline)


def _judge_visit(course: _Course, index: int) -> None:
    """Judge an evaluable visit, and settle a preliminary PD that waits for it."""
    schedule = course.schedule
    _settle_by_histology(course, index)
    confirms = _settle_by_scan(course, index)
    earlier = tuple(i for i in course.usable if course.start <= i < index and schedule.gap(i, index) != 0)
    reference = Reference(course.period.baseline, course.start, earlier)
    sides = []
    for region in course.regions:
        lesions = lesions_until(course.criterion, region, schedule.visits[: index + 1])
        side = judge(lesions, index, reference, course.targets[region])
        course.targets[region] = side.targets
        sides.append(side)
    images, note = combine(sides)
    parts = [f"{s.region}: {s.category}, {s.reason}" if len(sides) > 1 else s.reason for s in sides]
    new, unseen = _new_elsewhere(course, index)
    if new:
        images, parts = "PD", [new, *parts]
    dose, dose_then, state = (
        near(schedule, course.clinical, place, column)
        for place, column in ((index, "steroids_mg"), (course.period.baseline, "steroids_mg"), (index, "state"))
    )
    overall, about_clinic, lacking = with_clinic(images, dose, dose_then, state)  # type: ignore[arg-type]
    at_once = state == "worse"
    if any(e.event == "leptomeningeal" and _between(course, e, index) for e in course.clinical.entries):
        overall, about_clinic, lacking, at_once = "PD", "clear leptomeningeal disease", [], True
    category = overall or images
    parts += [each for each in (unseen, note, about_clinic) if each]
    preliminary: bool | None = False
    if category == "PD":
        preliminary, words = _is_preliminary(course, index, at_once)
        parts += [words] if words else []
    row = replace(_with_numbers(_row(course, index, category, "; ".join(parts)), course, sides), images=images)
    row = replace(row, overall=overall, not_given=tuple(lacking), preliminary=preliminary)
    if category == "PD":
        word = {True: "no", None: "not computable", False: "yes" if confirms else "not needed"}[preliminary]
        row = replace(row, confirmed=word)
        if preliminary:
            course.waiting.append(index)
        elif preliminary is False:
            course.progressed = True
    course.rows[index] = row


def _with_numbers(row: Response, course: _Course, sides: Sequence[Side]) -> Response:
    first = sides[0]
    value = first.value
    return replace(
        row,
        sides=tuple(sides),
        targets=tuple((side.region, lesion) for side in sides for lesion in side.targets),
        nadir=course.schedule.visits[first.nadir].label if value is not None else None,
        value=value,
        unit=course.criterion.unit,
        change_from_baseline_percent=None if value is None else percent(value, first.at_baseline),
        change_from_nadir_percent=None if value is None else percent(value, first.at_nadir),
        inside_repeatability=first.inside,
        doubtful=any(side.doubtful for side in sides),
    )


def _new_elsewhere(course: _Course, index: int) -> tuple[str, str]:
    """Return words about a new lesion of another region, and about one that lacks.

    RANO-LGG asks for no new enhancement.
    """
    visits = course.schedule.visits
    unseen = ""
    for region in course.criterion.region_of_new:
        if region not in visits[index].regions or region not in visits[course.period.baseline].regions:
            unseen = f"{region} not measured: new lesions there are not seen"
            continue
        lesions = lesions_until(course.criterion, region, visits[: index + 1])
        new = sorted(lesions.present(index) - lesions.present(course.period.baseline))
        if new:
            size = lesions.diameters(index, new[0])
            return f"new lesion {new[0]} of {region}, {size[0]:.1f} x {size[1]:.1f} mm", unseen
    return "", unseen


def _between(course: _Course, entry: ClinicalEntry, index: int | None) -> bool:
    """Tell whether a clinical row lies between the baseline and a visit, both included."""
    schedule = course.schedule
    if schedule.is_after(course.period.baseline, entry) is not False:
        return False
    if index is None or schedule.is_after(index, entry):
        return True
    day = schedule.day_of(entry)
    return entry.visit == schedule.visits[index].label or (day is not None and day == schedule.visits[index].days)


def _is_preliminary(course: _Course, index: int, at_once: bool) -> tuple[bool | None, str]:
    """Tell whether PD lies within 12 weeks of radiotherapy; None: not computable."""
    if at_once or course.progressed:
        return False, ""
    ends = [e for e in course.clinical.entries if e.event == "radiotherapy_end"]
    if not ends:
        if course.period.treatment:
            return False, ""
        return None, "end of radiotherapy not given: the 12-week rule is not computable"
    own = course.schedule.visits[index].days
    days = [course.schedule.day_of(entry) for entry in ends]
    if own is None or None in days:
        return None, "no days: the 12-week rule is not computable"
    since = [own - day for day in days if day is not None and day <= own]
    if since and min(since) <= EARLY_DAYS:
        return True, (
            f"{days_words(min(since))} after the end of radiotherapy, within {EARLY_DAYS}: preliminary PD, to be "
            "confirmed"
        )
    return False, ""


def _settle_by_histology(course: _Course, index: int | None) -> None:
    """Confirm preliminary PD where histology has proven tumour by a visit."""
    for entry in course.clinical.entries:
        if entry.event != "histology" or not course.waiting or not _between(course, entry, index):
            continue
        first = course.schedule.visits[course.waiting[0]]
        day = course.schedule.day_of(entry)
        same_day = entry.visit == first.label or (day is not None and day == first.days)
        if same_day or course.schedule.is_after(course.waiting[0], entry) is False:
            for place in course.waiting:
                row = course.rows[place]
                course.rows[place] = replace(row, confirmed="yes", reason=row.reason + "; confirmed by histology")
            course.waiting, course.progressed = [], True


def _settle_by_scan(course: _Course, index: int) -> bool:
    """Confirm a preliminary PD by further growth, or call it pseudoprogression; True: confirmed."""
    criterion, schedule = course.criterion, course.schedule
    if not course.waiting or criterion.confirmed_by is None:
        return False
    first = course.waiting[0]
    gap = schedule.gap(first, index)
    if gap is None or gap < CONFIRM_DAYS:
        return False
    grown, words = False, []
    for side in course.rows[first].sides:
        if side.category != "PD":
            continue
        lesions = lesions_until(criterion, side.region, schedule.visits[: index + 1])
        own = {lesions.root[lesion] for lesion in side.grown_from}
        then, now = lesions.size(first, own), lesions.size(index, own)
        if then > 0 and at_least(now, (1 + criterion.confirmed_by) * Fraction(then)):
            grown = True
        bound = f"further {float(criterion.confirmed_by):.0%}".replace("%", " %")
        words.append(f"{size_words(criterion, now)}, {change(now, then)}, bound {bound}")
    visit = schedule.visits[index]
    told = f"by {named_visit(visit)}, {days_words(gap)} later ({'; '.join(words)})"
    for place in course.waiting:
        row = course.rows[place]
        reason = f"confirmed {told}" if grown else f"not confirmed {told}: pseudoprogression"
        later = schedule.gap(place, index)
        course.rows[place] = replace(
            row, reason=f"{row.reason}; {reason}", confirmed="yes" if grown else "no",
            confirmed_by=visit.label if grown else None, confirmed_after_days=later if grown else None,
        )  # fmt: skip
    course.waiting = []
    course.progressed = course.progressed or grown
    if not grown:
        course.start = first
    return grown


_RANK = {"CR": 0, "PR": 1, "MR": 2}


def _confirm_responses(course: _Course, indices: Sequence[int]) -> None:
    """Say of each CR, PR and MR whether a later scan confirms it."""
    for position, index in enumerate(indices):
        row = course.rows[index]
        if row.category not in _RANK:
            continue
        word, reason = "no", f"no scan at least {CONFIRM_DAYS} days later: not confirmed"
        for later in indices[position + 1 :]:
            other, gap = course.rows[later], course.schedule.gap(index, later)
            if other.category == "NE":
                continue
            when = named_visit(course.schedule.visits[later])
            if _RANK.get(other.category, 9) > _RANK[row.category]:
                word, reason = "no", f"not confirmed: {other.category} on {when}"
                break
            if gap is None:
                word, reason = "not computable", "no days: the 4-week rule is not computable"
                break
            if gap >= CONFIRM_DAYS:
                row = replace(row, confirmed_by=other.label, confirmed_after_days=gap)
                word, reason = "yes", f"confirmed by {other.category} on {when}, {days_words(gap)} later"
                break
        course.rows[index] = replace(row, confirmed=word, reason=f"{row.reason}; {reason}")
