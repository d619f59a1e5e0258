"""Rows of timepoints.csv and response.csv of one patient."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.follow.clinical import Clinical
from pipeline.follow.criteria import CATEGORIES, CRITERIA, Criterion
from pipeline.follow.judging.sums import lesions_until
from pipeline.follow.judging.words import percent
from pipeline.follow.measures import VisitMeasures
from pipeline.follow.patients.measured import CAVITY
from pipeline.follow.patients.task import PatientTask, Row
from pipeline.follow.resection import classify_resection
from pipeline.follow.response import PatientResponse, Response
from pipeline.follow.targets import choose_targets

MONTH_DAYS = 365.25 / 12
SUMS = {"target_volume_ml": CRITERIA["rano2-volume"], "sum_of_products_mm2": CRITERIA["rano2"]}
"""Columns of sums over the targets, and criteria that add up so."""


@dataclass(frozen=True)
class Told:
    """One visit, with its volumes."""

    case: str
    measures: VisitMeasures
    volumes_ml: Mapping[str, float]


def timepoint_rows(task: PatientTask, visits: Sequence[Told], responses: Sequence[PatientResponse]) -> list[Row]:
    """Return a row for each visit, in order of time.

    Parameters
    ----------
    visits : sequence of Told
        In any order.
    responses : sequence of PatientResponse
        One for each of the task's criteria, in their order; sums and changes are those of the first.
    """
    first = responses[0]
    by_label = {each.measures.label: each for each in visits}
    ordered = [by_label[row.label] for row in first.visits]
    sums = [_sums(task, first, [each.measures for each in ordered], place) for place in range(len(ordered))]
    rows = []
    for place, (each, response) in enumerate(zip(ordered, first.visits, strict=True)):
        row: Row = {
            "patient": task.patient, "case": each.case, "timepoint": response.label,
            "date": response.date.isoformat() if response.date else None, "days": response.days,
        }  # fmt: skip
        row |= {f"volume_ml_{region}": ml for region, ml in each.volumes_ml.items()}
        row |= {name: values[0] for name, values in sums[place].items()}
        row |= _changes(first.visits, ordered, place, sums[place])
        row |= _speeds(first.visits, ordered, place)
        rows.append(row)
    for judged in responses:
        own = {visit.label: visit for visit in judged.visits}
        for row in rows:
            row |= _judged(CRITERIA[judged.criterion], own[row["timepoint"]])
    for row, each in zip(rows, ordered, strict=True):
        row["resection"] = None
        row["flags"] = "; ".join(each.measures.flags)
    _tell_resections(task.clinical, rows)
    return rows


def failed_rows(task: PatientTask, reason: str) -> list[Row]:
    """Return the rows of a patient without any result."""
    return [
        {
            "patient": task.patient, "case": visit.case.case_id, "timepoint": visit.label,
            "date": visit.point.date.isoformat() if visit.point.date else None, "days": visit.point.days,
        }
        | {f"{name}_{CRITERIA[criterion].column}": value for criterion in task.criteria for name, value in (
            ("category", "NE"), ("reason", visit.why_not or reason))}
        for visit in task.visits
    ]  # fmt: skip


def response_row(task: PatientTask, response: PatientResponse) -> Row:
    """Return the row of response.csv of one patient and criterion."""
    days = [row.days for row in response.visits if row.days is not None]
    return {
        "patient": task.patient, "criterion": response.criterion, "status": "", "reason": "",
        "visits": len(response.visits), "days": max(days) - min(days) if days else None,
        "baseline": response.baseline, "baseline_reason": response.baseline_how,
        "best_response": response.best, "best_response_confirmed": response.best_confirmed,
        "best_response_unconfirmed": response.best_unconfirmed,
        "progression_timepoint": response.progression,
        "progression_date": response.progression_date.isoformat() if response.progression_date else None,
        "days_to_progression": response.time_to_progression_days,
    } | {f"n_{name}": response.counts[name] for name in CATEGORIES} | {"notes": "; ".join(response.notes)}  # fmt: skip


def targets_of(task: PatientTask, response: PatientResponse, measures: Sequence[VisitMeasures]) -> dict[str, set[int]]:
    """Return the lesions that are targets at any visit, by region."""
    found: dict[str, set[int]] = {}
    ordered = {each.label: each for each in measures}
    visits = [ordered[row.label] for row in response.visits]
    for place in range(len(visits)):
        region, own = _targets(task, response, visits, place)
        found.setdefault(region, set()).update(own)
    return found


def _targets(
    task: PatientTask, response: PatientResponse, visits: Sequence[VisitMeasures], place: int
) -> tuple[str, tuple[int, ...]]:
    """Return the region that is judged first, and its targets at a visit."""
    rule, region = CRITERIA[response.criterion], response.regions[0]
    row = response.visits[place]
    if row.sides:
        return region, row.sides[0].targets
    if row.category != "BASELINE":
        return region, ()
    lesions = lesions_until(rule, region, visits[: place + 1])
    if named := task.targets.get((rule.name, region)):
        return region, tuple(dict.fromkeys(lesions.root[lesion] for lesion in named if lesion in lesions.root))
    before = [index for index in range(place) if visits[index].evaluable and region in visits[index].regions]
    return region, choose_targets(lesions, place, before[-1] if before else None, rule.most_targets)


def _sums(
    task: PatientTask, response: PatientResponse, visits: Sequence[VisitMeasures], place: int
) -> dict[str, tuple[float | None, float | None, float | None]]:
    """Return each sum over a visit's targets.

    At the visit, at its baseline, and at the nadir before it.
    """
    region, targets = _targets(task, response, visits, place)
    row = response.visits[place]
    if not targets:
        return dict.fromkeys(SUMS, (None, None, None))
    found: dict[str, tuple[float | None, float | None, float | None]] = {}
    for name, rule in SUMS.items():
        lesions = lesions_until(rule, region, visits[: place + 1])
        own = {lesions.root.get(lesion, lesion) for lesion in targets}
        value = lesions.size(place, own)
        if row.category == "BASELINE":
            found[name] = (value, None, None)
            continue
        earlier = _earlier(response.visits, visits, place)
        then = [lesions.size(index, own) for index in earlier]
        found[name] = (value, then[0] if then else None, min(then) if then else None)
    return found


def _earlier(rows: Sequence[Response], visits: Sequence[VisitMeasures], place: int) -> list[int]:
    """Return the evaluable visits before one, its baseline first.

    Those of its own day are not among them.
    """
    row = rows[place]
    start = next((index for index, each in enumerate(rows) if each.label == row.baseline), None)
    if start is None or start >= place:
        return []
    days = [rows[index].days for index in range(place)]
    return [
        index
        for index in range(start, place)
        if visits[index].evaluable and (index == start or days[index] is None or days[index] != row.days)
    ]


def _changes(
    rows: Sequence[Response],
    visits: Sequence[Told],
    place: int,
    sums: Mapping[str, tuple[float | None, float | None, float | None]],
) -> Row:
    changes: Row = {}
    for name, (value, base, least) in sums.items():
        for kind, reference in (("baseline", base), ("nadir", least)):
            changes[f"change_from_{kind}_percent_{name}"] = None if value is None else percent(value, reference)
    earlier = [] if rows[place].category == "BASELINE" else _earlier(rows, [each.measures for each in visits], place)
    for region, value in visits[place].volumes_ml.items():
        then = [ml for index in earlier if (ml := visits[index].volumes_ml.get(region)) is not None]
        name = f"volume_ml_{region}"
        changes[f"change_from_baseline_percent_{name}"] = percent(value, then[0]) if then else None
        changes[f"change_from_nadir_percent_{name}"] = percent(value, min(then)) if then else None
    return changes


def _speeds(rows: Sequence[Response], visits: Sequence[Told], place: int) -> Row:
    """Return growth in ml a month and the doubling time.

    Both are since the last visit before that was measured.
    """
    speeds: Row = {}
    now = rows[place].days
    for region, value in visits[place].volumes_ml.items():
        speeds[f"growth_ml_per_month_{region}"] = speeds[f"doubling_days_{region}"] = None
        before = next((i for i in range(place - 1, -1, -1) if region in visits[i].volumes_ml), None)
        then = None if before is None else rows[before].days
        if before is None or now is None or then is None or now <= then:
            continue
        old = visits[before].volumes_ml[region]
        speeds[f"growth_ml_per_month_{region}"] = (value - old) * MONTH_DAYS / (now - then)
        if value > old > 0:
            speeds[f"doubling_days_{region}"] = (now - then) * math.log(2) / math.log(value / old)
    return speeds


def _judged(criterion: Criterion, row: Response) -> Row:
    preliminary = {True: "yes", None: "not computable"}.get(row.preliminary, "") if row.category == "PD" else ""
    return {
        f"category_{criterion.column}": row.category,
        f"confirmed_{criterion.column}": row.confirmed,
        f"preliminary_{criterion.column}": preliminary,
        f"reason_{criterion.column}": row.reason,
    }


# ---- after surgery ----


def _tell_resections(clinical: Clinical, rows: Sequence[Row]) -> None:
    """Word the resection at each visit that is the first after surgery.

    The clinical table tells it, or a cavity that is new.
    """
    cavity = f"volume_ml_{CAVITY}"
    if not any(cavity in row for row in rows):
        return
    before: Row | None = None
    for row in rows:
        if cavity not in row or "volume_ml_ET" not in row:
            continue
        hours = _hours_since_surgery(clinical, row, before)
        is_new = row[cavity] > 0 and (before is None or before.get(cavity, 0.0) == 0)
        if is_new or hours is not None:
            resection = classify_resection(
                row["volume_ml_ET"],
                cavity_ml=row[cavity],
                enhancing_before_ml=before["volume_ml_ET"] if before is not None else None,
                hours=hours,
            )
            core = row.get("volume_ml_TC", row["volume_ml_ET"]) - row["volume_ml_ET"]
            row["resection"] = f"{resection.words}: {resection.reason}; core that does not enhance {core:.2f} ml"
        before = row


def _hours_since_surgery(clinical: Clinical, row: Row, before: Row | None) -> float | None:
    """Return the hours from an operation between two visits to the later one.

    None: there is no such operation.
    """
    hours: list[Any] = []
    for entry in clinical.entries:
        if entry.event != "surgery":
            continue
        day = entry.days
        if entry.date is not None and row["date"] is not None and row["days"] is not None:
            import datetime

            day = row["days"] - (datetime.date.fromisoformat(row["date"]) - entry.date).days
        if day is None or row["days"] is None or day > row["days"]:
            continue
        if before is None or before["days"] is None or day >= before["days"]:
            hours.append(24.0 * (row["days"] - day))
    return min(hours) if hours else None
