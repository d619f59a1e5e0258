"""Visits that a user has marked as one patient's: the record of a follow-up."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from data.find.visits.names import date_of
from data.same_patient import patient_and_time
from pipeline.web.compute.process import JobFailed
from pipeline.web.store import CaseRecord, Store

MOST_VISITS = 20
"""Largest number of visits of one follow-up."""
TASK = "follow"
_GONE = "{} was removed, or has no result any more; mark the visits anew"


@dataclass(frozen=True)
class Mark:
    """Visit of a follow-up.

    Parameters
    ----------
    case : str
        Id of the case.
    label : str
        Name of the time point, unique within the follow-up.
    date : str
        ``2021-03-04``; empty where it is not known.
    """

    case: str
    label: str
    date: str


def day_in(name: str) -> str:
    """Return the day that a case's name holds, ``2021-03-04``; empty where it holds none."""
    day = date_of(name)
    return "" if day is None else day.isoformat()


def mark_visits(cases: Sequence[CaseRecord], dates: Sequence[datetime.date | None]) -> list[Mark]:
    """Return the marks of cases in order of time.

    That is the order of their dates where each has one, else the given order. A date that is not given is the case's.
    """
    told = [record.date if day is None else day.isoformat() for record, day in zip(cases, dates, strict=True)]
    labels = [patient_and_time(record.name)[1] or day or record.name for record, day in zip(cases, told, strict=True)]
    for label in {label for label in labels if labels.count(label) > 1}:
        same = [place for place, own in enumerate(labels) if own == label]
        for number, place in enumerate(same, 1):
            labels[place] = f"{label} ({number})"
    marks = [Mark(*about) for about in zip((record.id for record in cases), labels, told, strict=True)]
    return sorted(marks, key=lambda mark: mark.date) if all(told) else marks


def patient_of(cases: Sequence[CaseRecord]) -> str:
    """Name the patient of a follow-up after its first case, without the time point."""
    name = patient_and_time(cases[0].name)[0]
    return cases[0].name if name in ("", ".") else name


def about(marks: Sequence[Mark], criterion: str) -> str:
    """Return the text of a record that holds the marks."""
    return json.dumps({"visits": [asdict(mark) for mark in marks], "criterion": criterion})


def is_followup(record: CaseRecord) -> bool:
    """Tell a follow-up from a case with images of its own."""
    return record.task == TASK


def marks_of(record: CaseRecord) -> list[Mark]:
    """Return the visits of a follow-up in order of time; none of another case."""
    return [Mark(**mark) for mark in json.loads(record.task_about)["visits"]] if is_followup(record) else []


def visits_of(record: CaseRecord, store: Store) -> list[CaseRecord]:
    """Return the cases of a follow-up as they are now.

    They are those of its own session. Raises JobFailed where one is gone or is not finished.
    """
    found = []
    for mark in marks_of(record):
        case = store.get(mark.case, record.owner)
        if case is None or not is_finished_case(case):
            raise JobFailed(_GONE.format(f"the visit {mark.label}"))
        found.append(case)
    return found


def is_finished_case(record: CaseRecord) -> bool:
    """Tell whether a case has a mask and is no follow-up."""
    return record.state == "done" and record.result is not None and not is_followup(record)
