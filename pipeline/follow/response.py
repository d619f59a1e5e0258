"""Response of a patient over time: a category at each visit, best response, progression.

Computed from masks by a research tool; no diagnosis. The rules stand in docs/follow.md, the bounds in
:mod:`pipeline.follow.criteria`.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from data.errors import UsageError
from pipeline.follow.clinical import Clinical
from pipeline.follow.criteria import CATEGORIES, RESPONSES, Criterion, criterion_named
from pipeline.follow.judging.period import judge_period
from pipeline.follow.judging.rows import Response
from pipeline.follow.judging.schedule import Period, Schedule, find_periods, in_time
from pipeline.follow.judging.sums import lesions_until
from pipeline.follow.judging.words import about, named_visit, size_words, why_not
from pipeline.follow.measures import VisitMeasures
from pipeline.follow.targets import Chosen, check_targets, choose_targets

__all__ = ["DISCLAIMER", "PatientResponse", "Response", "respond"]

DISCLAIMER = "Computed from masks by a research tool; no diagnosis"
"""Sentence of every page and table with categories."""


@dataclass(frozen=True)
class PatientResponse:
    """Response of one patient by one set of criteria."""

    patient: str
    criterion: str
    regions: tuple[str, ...]
    """Regions that are judged, the first one first."""
    visits: tuple[Response, ...]
    """One of each visit, by time."""
    baseline: str | None
    """Label of the first baseline; None: no visit is evaluable."""
    baseline_how: str
    """Reason why it is the baseline, in words."""
    best: str
    """Best category up to progression: of CR, PR and MR those that a later scan does not leave unconfirmed."""
    best_confirmed: str
    """``yes`` or, without days, ``not computable``; empty for SD, PD, NE."""
    best_unconfirmed: str
    """Best category up to progression, confirmed or not."""
    progression: str | None
    """Label of the first visit with PD that is not merely preliminary; None: no progression."""
    progression_date: datetime.date | None
    progression_days: float | None
    """Days since the first visit."""
    time_to_progression_days: float | None
    """Days from the first baseline."""
    counts: Mapping[str, int]
    """Visits of each category, all of `CATEGORIES`."""
    notes: tuple[str, ...]
    """Doubts about order and baselines."""


def respond(
    visits: Sequence[VisitMeasures],
    criterion: str | Criterion,
    clinical: Clinical | None = None,
    *,
    patient: str = "",
    regions: Sequence[str] | None = None,
    baselines: Sequence[str] = (),
    targets: Chosen | None = None,
) -> PatientResponse:
    """Judge all visits of a patient.

    Parameters
    ----------
    visits : sequence of VisitMeasures
        In any order; none gives a response without visits.
    criterion : str or Criterion
        One of `CRITERIA`, by name.
    clinical : Clinical, optional
        The patient's rows of the clinical table.
    patient : str
        Name, for the result and for errors.
    regions : sequence of str, optional
        Regions to be judged; ``("ET", "NCE")`` is a mixed tumour. Without it the one of the criteria.
    baselines : sequence of str
        Labels of visits that are baselines; they replace the rules.
    targets : mapping, optional
        Lesions that a table names, by criterion and region.

    Raises
    ------
    UsageError
        Two visits have one label; a baseline or a target that is named does not fit.
    """
    rule = criterion_named(criterion) if isinstance(criterion, str) else criterion
    judged = tuple(regions or (rule.region,))

    def usable(visit: VisitMeasures) -> bool:
        return visit.evaluable and all(region in visit.regions for region in judged)

    try:
        schedule = in_time(visits)
        places = [index for index, visit in enumerate(schedule.visits) if usable(visit)]
        periods, notes = find_periods(schedule, clinical or Clinical(), baselines, usable)
        rows = _before(schedule, rule, judged, periods)
        for number, period in enumerate(periods):
            following = periods[number + 1] if number + 1 < len(periods) else None
            end = following.baseline + following.treatment if following else len(schedule.visits)
            chosen = _targets(schedule, rule, judged, period, places, targets or {})
            _add_baseline(rows, schedule, rule, period, chosen)
            own = [index for index in places if index >= period.baseline]
            indices = range(period.baseline + 1, end)
            rows |= judge_period(schedule, rule, judged, clinical or Clinical(), period, chosen, indices, own)
    except UsageError as error:
        raise UsageError(f"{patient}: {error.fault}" if patient else error.fault) from None
    ordered = tuple(rows[index] for index in sorted(rows))
    return _summed_up(patient, rule, judged, ordered, periods, (*schedule.notes, *notes))


def _before(
    schedule: Schedule, rule: Criterion, regions: Sequence[str], periods: Sequence[Period]
) -> dict[int, Response]:
    """Return the rows of the visits before the first baseline: they get no category."""
    first = periods[0].baseline if periods else len(schedule.visits)
    rows = {}
    for index, visit in enumerate(schedule.visits[:first]):
        reason = why_not(visit, regions) or f"before the baseline of {named_visit(schedule.visits[first])}"
        rows[index] = Response(visit.label, visit.date, visit.days, rule.name, "NE", reason)
    return rows


def _targets(
    schedule: Schedule, rule: Criterion, regions: Sequence[str], period: Period, places: Sequence[int], named: Chosen
) -> dict[str, tuple[int, ...]]:
    most = rule.most_targets if len(regions) == 1 else rule.most_targets_mixed
    before = [index for index in places if index < period.baseline]
    chosen = {}
    for region in regions:
        lesions = lesions_until(rule, region, schedule.visits[: period.baseline + 1])
        if own := named.get((rule.name, region)):
            chosen[region] = check_targets(lesions, period.baseline, own, most)
        else:
            chosen[region] = choose_targets(lesions, period.baseline, before[-1] if before else None, most)
    return chosen


def _add_baseline(
    rows: dict[int, Response],
    schedule: Schedule,
    rule: Criterion,
    period: Period,
    targets: Mapping[str, tuple[int, ...]],
) -> None:
    """Write the row of a baseline.

    One that the period before has judged keeps its category.
    """
    visit = schedule.visits[period.baseline]
    parts = [period.how]
    values = []
    for region, own in targets.items():
        lesions = lesions_until(rule, region, schedule.visits[: period.baseline + 1])
        values.append(lesions.size(period.baseline, own) if own else None)
        size = f"{size_words(rule, values[-1])} of target {about(own)}" if values[-1] is not None else ""
        parts.append(f"{region}: {size or 'no measurable disease, SD is the best there is'}")
    reason = "; ".join(parts)
    if judged := rows.get(period.baseline):
        rows[period.baseline] = replace(judged, reason=f"{judged.reason}; also the next baseline: {reason}")
        return
    rows[period.baseline] = Response(
        visit.label, visit.date, visit.days, rule.name, "BASELINE", reason, baseline=visit.label, value=values[0],
        unit=rule.unit, targets=tuple((region, lesion) for region, own in targets.items() for lesion in own),
    )  # fmt: skip


def _summed_up(
    patient: str,
    rule: Criterion,
    regions: tuple[str, ...],
    rows: tuple[Response, ...],
    periods: Sequence[Period],
    notes: tuple[str, ...],
) -> PatientResponse:
    progression = next(
        (row for row in rows if row.category == "PD" and (row.preliminary is not True or row.confirmed == "yes")), None
    )
    until = rows[: rows.index(progression)] if progression else rows
    answers = [row for row in until if row.category in RESPONSES and row.confirmed != "no"]
    rest = {row.category for row in until if row.category in RESPONSES or row.category == "SD"}
    best = min(answers, key=lambda row: (CATEGORIES.index(row.category), row.confirmed != "yes")) if answers else None
    plain = "SD" if rest else "PD" if progression else "NE"
    baseline = rows[periods[0].baseline] if periods else None
    to_progression = None
    if progression and baseline and progression.days is not None and baseline.days is not None:
        to_progression = progression.days - baseline.days
    return PatientResponse(
        patient=patient,
        criterion=rule.name,
        regions=regions,
        visits=rows,
        baseline=baseline.label if baseline else None,
        baseline_how=periods[0].how if periods else "",
        best=best.category if best else plain,
        best_confirmed=best.confirmed if best else "",
        best_unconfirmed=min(rest, key=CATEGORIES.index) if rest else plain,
        progression=progression.label if progression else None,
        progression_date=progression.date if progression else None,
        progression_days=progression.days if progression else None,
        time_to_progression_days=to_progression,
        counts={name: Counter(row.category for row in rows)[name] for name in CATEGORIES},
        notes=notes,
    )
