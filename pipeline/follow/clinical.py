"""Clinical table: end of radiotherapy, surgery, treatment, steroids and clinical state.

One row a patient and day, UTF-8 CSV. Columns:

``patient``
    As `inspect` shows it.
``date``, ``days``, ``visit``
    The day: as 2025-03-02, in days since the patient's first visit, or a visit's label. One of them in each row.
``event``
    One of :data:`EVENTS`, or empty.
``steroids_mg``
    Dose a day on that day, or empty.
``clinical_state``
    One of :data:`STATES`, or empty; compared with the baseline.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from data.errors import UsageError
from pipeline.follow.judging.given import check_patient, read_date, read_number, read_rows, read_word

EVENTS: Mapping[str, str] = {
    "radiotherapy_end": "last day of radiotherapy; the first scan after it is the baseline",
    "treatment_start": "first day of a treatment without radiotherapy; the last scan before it is the baseline",
    "surgery": "operation; the first scan after it is the baseline (a rule of ours)",
    "leptomeningeal": "clear leptomeningeal disease: PD",
    "histology": "tumour proven by histology: confirms a preliminary PD",
}
"""Events that the table may name."""
STATES: Mapping[str, str] = {
    "better": "better than at the baseline",
    "stable": "as at the baseline",
    "worse": "worse, due to tumour: PD",
    "worse_other": "worse, for another reason",
}
"""Clinical states that the table may name."""
COLUMNS = ("patient", "date", "days", "visit", "event", "steroids_mg", "clinical_state")
"""Columns that the table may have."""
NEAR_DAYS = 14
"""Most days from a row with steroids or clinical state to the scan that it is about (ours)."""


@dataclass(frozen=True)
class ClinicalEntry:
    """Row of the clinical table."""

    line: int
    """Line in the file."""
    date: datetime.date | None = None
    """Day, where the row gives a date."""
    days: float | None = None
    """Day, since the patient's first visit."""
    visit: str = ""
    """Label of the visit, where the row names one."""
    event: str = ""
    """One of `EVENTS`, or empty."""
    steroids_mg: float | None = None
    """Dose of a day; None: not given."""
    state: str = ""
    """One of `STATES`, or empty: not given."""


@dataclass(frozen=True)
class Clinical:
    """Rows of one patient."""

    entries: tuple[ClinicalEntry, ...] = field(default=())
    """In the file's order; none: nothing is given."""


def read_clinical(path: Path, patients: Mapping[str, Iterable[str]]) -> dict[str, Clinical]:
    """Read the clinical table.

    Parameters
    ----------
    path : Path
        UTF-8 CSV; columns stand in the module.
    patients : mapping of str to labels
        All patients, each with the labels of its visits.

    Returns
    -------
    dict of str to Clinical
        Patients without a row are left out.

    Raises
    ------
    UsageError
        For an unknown column, patient, visit, word, date or number, a row without a day or with two, a row that says
        nothing, two rows that contradict each other on one day. The message names file, line, value and fix.
    """
    found: dict[str, list[ClinicalEntry]] = {}
    for line, row in read_rows(path, COLUMNS, ("patient",)):
        check_patient(path, line, row["patient"], patients)
        entry = _entry(path, line, row)
        labels = list(patients[row["patient"]])
        if entry.visit and labels.count(entry.visit) != 1:
            how = "has no visit" if entry.visit not in labels else "has several visits"
            raise UsageError(
                f"{path}, line {line}: {row['patient']} {how} {entry.visit!r}; write one of {', '.join(labels)}, or a "
                "date"
            )
        for other in found.setdefault(row["patient"], []):
            _refuse_contradiction(path, entry, other)
        found[row["patient"]].append(entry)
    return {patient: Clinical(tuple(entries)) for patient, entries in found.items()}


def _entry(path: Path, line: int, row: Mapping[str, str]) -> ClinicalEntry:
    days = [name for name in ("date", "days", "visit") if row[name]]
    if len(days) != 1:
        found = "no day" if not days else " and ".join(days)
        raise UsageError(f"{path}, line {line}: gives {found}; give one of date, days, visit")
    if not (row["event"] or row["steroids_mg"] or row["clinical_state"]):
        raise UsageError(
            f"{path}, line {line}: says nothing; fill in event, steroids_mg or clinical_state, or delete it"
        )
    state, event = row["clinical_state"], row["event"]
    dose = row["steroids_mg"]
    return ClinicalEntry(
        line=line,
        date=read_date(path, line, row["date"]) if row["date"] else None,
        days=read_number(path, line, "days", row["days"]) if row["days"] else None,
        visit=row["visit"],
        event=read_word(path, line, "event", event, EVENTS) if event else "",
        steroids_mg=read_number(path, line, "steroids_mg", dose, least=0) if dose else None,
        state=read_word(path, line, "clinical_state", state, STATES) if state else "",
    )


def _refuse_contradiction(path: Path, entry: ClinicalEntry, other: ClinicalEntry) -> None:
    """Refuse two rows that give one day two doses or two states."""
    if (entry.date, entry.days, entry.visit) != (other.date, other.days, other.visit):
        return
    for column, mine, theirs in (
        ("steroids_mg", entry.steroids_mg, other.steroids_mg),
        ("clinical_state", entry.state or None, other.state or None),
    ):
        if mine is not None and theirs is not None and mine != theirs:
            raise UsageError(
                f"{path}, line {entry.line}: {column} {mine} contradicts {theirs} of line {other.line} on the same "
                "day; keep one"
            )
