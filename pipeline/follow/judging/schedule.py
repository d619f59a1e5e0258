"""Order of a patient's visits in time, and the baselines that events begin."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from data.errors import UsageError
from pipeline.follow.clinical import NEAR_DAYS, Clinical, ClinicalEntry
from pipeline.follow.criteria import AFTER_RADIOTHERAPY_DAYS, BEFORE_TREATMENT_DAYS
from pipeline.follow.measures import VisitMeasures


@dataclass(frozen=True)
class Schedule:
    """Visits in order of time."""

    visits: tuple[VisitMeasures, ...]
    """Sorted by day; by their names' order where one of them has none. ``days`` is filled in where it is known."""
    first: datetime.date | None
    """Date of the first visit, where all have one."""
    notes: tuple[str, ...]
    """Doubts about the order."""

    def gap(self, earlier: int, later: int) -> float | None:
        """Return the days from one visit to another; None: not computable."""
        a, b = self.visits[earlier].days, self.visits[later].days
        return None if a is None or b is None else b - a

    def day_of(self, entry: ClinicalEntry) -> float | None:
        """Return the day of a clinical row since the first visit; None: not computable."""
        if entry.visit:
            return next(visit.days for visit in self.visits if visit.label == entry.visit)
        if entry.date is not None:
            return None if self.first is None else float((entry.date - self.first).days)
        return entry.days

    def index_of(self, label: str) -> int:
        """Return the place of a visit, by its label."""
        return next(index for index, visit in enumerate(self.visits) if visit.label == label)

    def is_after(self, index: int, entry: ClinicalEntry) -> bool | None:
        """Tell whether a visit is later than a clinical row; None: not computable."""
        if entry.visit:
            return index > self.index_of(entry.visit)
        day, own = self.day_of(entry), self.visits[index].days
        return None if day is None or own is None else own > day


@dataclass(frozen=True)
class Period:
    """Visits from one baseline to the visit before the next."""

    baseline: int
    """Place of the baseline among the visits."""
    how: str
    """Reason in words why this visit is the baseline."""
    treatment: bool = False
    """True: begun by a treatment without radiotherapy."""


def in_time(visits: Sequence[VisitMeasures]) -> Schedule:
    """Sort visits by day.

    Dates count where all visits have one, then days, then the order of their names. Two visits of one day stay in the
    order of their names.

    Raises
    ------
    UsageError
        Two visits have one label.
    """
    labels = [visit.label for visit in visits]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise UsageError(f"two visits are called {twice!r}; give each a label of its own")
    by_name = sorted(visits, key=lambda visit: visit.order)
    dates = [visit.date for visit in by_name if visit.date is not None]
    first = min(dates) if dates and len(dates) == len(by_name) else None
    if first is not None:
        by_name = [replace(v, days=float((v.date - first).days)) for v in by_name if v.date is not None]
    known = [visit.days for visit in by_name if visit.days is not None]
    notes = []
    ordered = list(by_name)
    if len(known) < len(by_name):
        notes.append("not every visit has a day: visits stand in the order of their names")
        if known != sorted(known):
            notes.append("the days that are given contradict that order")
    else:
        ordered.sort(key=lambda visit: (visit.days or 0.0, visit.order))
        if [v.label for v in ordered] != [v.label for v in by_name]:
            notes.append("days contradict the order of the names: visits stand in the order of their days")
    return Schedule(tuple(ordered), first, tuple(notes))


def find_periods(
    schedule: Schedule, clinical: Clinical, given: Sequence[str], usable: Callable[[VisitMeasures], bool]
) -> tuple[list[Period], list[str]]:
    """Find the baselines of a patient.

    Parameters
    ----------
    given : labels of visits
        Baselines that the user names; they replace those of the rules.
    usable : callable
        Tells whether a visit can be a baseline.

    Returns
    -------
    periods : list of Period
        By time; none where no visit can be a baseline.
    notes : list of str
        Events that begin no period, and why.

    Raises
    ------
    UsageError
        A baseline that is named is no visit, or not evaluable.
    """
    if given:
        for label in given:
            visit = next((v for v in schedule.visits if v.label == label), None)
            if visit is None or not usable(visit):
                why = "there is no such visit" if visit is None else "it is not evaluable"
                labels = ", ".join(v.label for v in schedule.visits if usable(v)) or "none"
                raise UsageError(f"baseline {label!r}: {why}; name one of {labels}")
        return [Period(index, "baseline given") for index in sorted(map(schedule.index_of, given))], []
    places = [index for index, visit in enumerate(schedule.visits) if usable(visit)]
    if not places:
        return [], ["no visit is evaluable"]
    periods, notes = [], []
    for entry in clinical.entries:
        if entry.event in ("radiotherapy_end", "treatment_start", "surgery"):
            period, note = _begun_by(schedule, entry, places)
            periods += [period] if period else []
            notes += [note] if note else []
    treated = [p.baseline for p in periods if not p.how.startswith("surgery")]
    if not treated:
        periods.append(Period(places[0], "baseline assumed: first visit, no table of treatment"))
    start = min(treated, default=places[0])  # an operation before the first treatment moves no baseline
    kept = {period.baseline: period for period in reversed(periods) if period.baseline >= start}
    return [kept[index] for index in sorted(kept)], notes


def _begun_by(schedule: Schedule, entry: ClinicalEntry, places: Sequence[int]) -> tuple[Period | None, str]:
    """Return the period that an event begins, or a note why it begins none."""
    after = [schedule.is_after(index, entry) for index in places]
    when = entry.visit or (str(entry.date) if entry.date else f"day {entry.days:g}")
    name = {"radiotherapy_end": "end of radiotherapy", "treatment_start": "start of treatment"}.get(
        entry.event, entry.event
    )
    if None in after:
        return None, f"{name} of {when} cannot be placed among visits without days"
    later = [index for index, is_later in zip(places, after, strict=True) if is_later]
    sooner = [index for index, is_later in zip(places, after, strict=True) if not is_later]
    treatment = entry.event == "treatment_start"
    chosen = sooner[-1] if treatment and sooner else later[0] if later else None
    if chosen is None:
        return None, f"no scan after {name} of {when}: it begins no baseline"
    day, own = schedule.day_of(entry), schedule.visits[chosen].days
    gap = None if day is None or own is None else own - day
    how = f"{name} {when}"
    if gap is not None:
        how += f", {abs(gap):g} days {'after' if gap > 0 else 'before'} this scan" if treatment else ""
        how += "" if treatment else f", {gap:g} days before this scan"
    if treatment and gap is not None and not -BEFORE_TREATMENT_DAYS <= gap <= 0:
        how += f"; at most {BEFORE_TREATMENT_DAYS} days before are asked for"
    low, high = AFTER_RADIOTHERAPY_DAYS
    if entry.event == "radiotherapy_end" and gap is not None and not low <= gap <= high:
        how += f"; {low} to {high} days are asked for"
    return Period(chosen, how, treatment), ""


def near(schedule: Schedule, clinical: Clinical, index: int, column: str) -> object | None:
    """Return the clinical value that is about a visit; None: not given.

    A row that names the visit counts first, then the nearest within `NEAR_DAYS`, of two equally near the earlier.
    """
    label, own = schedule.visits[index].label, schedule.visits[index].days
    found: list[tuple[float, float, object]] = []
    for entry in clinical.entries:
        value = entry.steroids_mg if column == "steroids_mg" else entry.state or None
        if value is None:
            continue
        if entry.visit == label:
            return value
        day = None if entry.visit else schedule.day_of(entry)
        if day is not None and own is not None and abs(own - day) <= NEAR_DAYS:
            found.append((abs(own - day), day, value))
    return min(found, key=lambda item: item[:2])[2] if found else None
