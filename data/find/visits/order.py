"""Order of a patient's visits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time

from data.case import Case, TimePoint
from data.find.visits.names import are_numbered, date_of, days_of, is_follow_up, place_of


@dataclass(frozen=True)
class Found:
    """Evidence for the time of one case.

    Parameters
    ----------
    label : str
        Name of the time point, ``""`` where there is none.
    moment : datetime.datetime or None
        When the scan was made, midnight where only the day is known.
    days : float or None
        Days since a zero of the data set.
    """

    label: str
    moment: datetime | None = None
    days: float | None = None


def found_in_name(label: str) -> Found:
    """Return all that the name of a time point tells."""
    return Found(label, midnight(date_of(label)), days_of(label))


def evidence_of(point: TimePoint) -> Found:
    """Return the evidence that a time point holds of itself."""
    # Days of a discovery count from the patient's first visit for all, or are not known.
    return Found(point.label, midnight(point.date), point.days if point.order_from == "days" else None)


def midnight(day: date | None) -> datetime | None:
    """Return the beginning of a day; None for none."""
    return None if day is None else datetime.combine(day, time())


def with_time_points(cases: Sequence[Case], found: Mapping[str, Found]) -> list[Case]:
    """Return the cases with their time points, in their given order.

    Visits are ordered by their dates where all of a patient have one, else by days or weeks where all have these,
    else by the numbers in their names. Dates that are known of some alone do not make an order, unless they
    contradict that of the names; then visits without one come last.

    Parameters
    ----------
    cases : sequence of Case
        With their patients.
    found : mapping of str to Found
        By case id; a case that is absent here has only its name, its time point only where its patient has others.

    Returns
    -------
    list of Case
    """
    visits: dict[str, list[Case]] = {}
    for case in cases:
        visits.setdefault(case.patient, []).append(case)
    points: dict[str, TimePoint] = {}
    for own in visits.values():
        told = {case.case_id: found.get(case.case_id, Found("")) for case in own}
        if len(own) > 1 or any(each.label or each.moment for each in told.values()):
            points |= _ordered(told)
    return [replace(case, timepoint=points.get(case.case_id)) for case in cases]


def _ordered(told: Mapping[str, Found]) -> dict[str, TimePoint]:
    """Return the time points of one patient by case id."""
    told = _with_baseline(told)
    labels = {name: _label(name, each) for name, each in told.items()}
    by_name = sorted(told, key=lambda name: (place_of(labels[name]), name))
    moments = {name: each.moment for name, each in told.items() if each.moment is not None}
    days = {name: each.days for name, each in told.items() if each.days is not None}
    since: dict[str, float] = {}
    if len(moments) == len(told):
        evidence, ordered = "date", sorted(by_name, key=moments.__getitem__)
        first = moments[ordered[0]].date()
        since = {name: float((moment.date() - first).days) for name, moment in moments.items()}
    elif len(days) == len(told):
        evidence, ordered = "days", sorted(by_name, key=days.__getitem__)
        since = {name: days[name] - days[ordered[0]] for name in told}
    else:
        evidence, ordered = "number" if are_numbered(list(labels.values())) else "name", by_name
        dated = [name for name in ordered if name in moments]
        if dated != sorted(dated, key=moments.__getitem__):
            undated = [name for name in ordered if name not in moments]
            evidence, ordered = "name", [*sorted(dated, key=moments.__getitem__), *undated]
    return {
        name: TimePoint(
            labels[name], moments[name].date() if name in moments else None, since.get(name), place, evidence
        )
        for place, name in enumerate(ordered)
    }


def _with_baseline(told: Mapping[str, Found]) -> Mapping[str, Found]:
    """Let the one case without a label be the baseline of follow-ups (UCSF-PDGM)."""
    unnamed = [name for name, each in told.items() if not each.label and each.moment is None]
    others = [each for each in told.values() if each.label]
    if len(unnamed) != 1 or not others or not all(is_follow_up(each.label) for each in others):
        return told
    return {**told, unnamed[0]: Found("baseline", days=0.0)}


def _label(name: str, found: Found) -> str:
    return found.label or (found.moment.date().isoformat() if found.moment else name)
