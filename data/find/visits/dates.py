"""Dates of visits from a table of the user's own."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from data.case import Case
from data.errors import UsageError, few
from data.find.visits.names import parse_date
from data.find.visits.order import Found, evidence_of, with_time_points
from data.regular_file import read_regular_file

_LARGEST = 2**24
_FORMS = ({"case", "date"}, {"patient", "timepoint", "date"})


def with_dates(cases: Sequence[Case], table: Path) -> list[Case]:
    """Return the cases with the dates and the order that a table gives.

    Parameters
    ----------
    cases : sequence of Case
        Of one discovery.
    table : Path
        UTF-8 CSV with the columns ``case`` and ``date``, or ``patient``, ``timepoint`` and ``date``; dates as
        2021-03-04 or 20210304. A date takes the place of one that names or headers tell; visits that the table does
        not name keep theirs.

    Returns
    -------
    list of Case
        In their given order.

    Raises
    ------
    data.errors.UsageError
        The table cannot be read or has other columns; a row names no visit that is there, or one that another row
        names; a date is none. The error gives file, line, value and fix.
    """
    dates = read_dates(table, cases)
    found = {}
    for case in cases:
        told = Found("") if case.timepoint is None else evidence_of(case.timepoint)
        found[case.case_id] = replace(told, moment=dates.get(case.case_id, told.moment))
    return with_time_points(cases, found)


def read_dates(table: Path, cases: Sequence[Case]) -> dict[str, datetime]:
    """Read the dates of a table by case id, see :func:`with_dates`."""
    try:
        text = read_regular_file(table, _LARGEST).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise UsageError(f"--dates {table}: cannot be read ({error}); give a table in UTF-8 (CSV)") from None
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    dates: dict[str, datetime] = {}
    lines: dict[str, int] = {}
    try:
        columns = list(rows.fieldnames or ())
        if set(columns) not in _FORMS or len(set(columns)) < len(columns):
            raise UsageError(
                f"--dates {table}, line 1: its columns are {', '.join(columns) or 'none'}; give case, date or "
                "patient, timepoint, date"
            )
        visits = _visits(cases, by_case="case" in columns)
        for row in rows:
            line = rows.line_num
            if None in row or None in row.values():
                cells = [cell for cell in row.values() if isinstance(cell, str)] + list(row.get(None, ()))
                _refuse(table, line, f"{len(cells)} cells", f"give {len(columns)} cells")
            key = tuple(row[name].strip() for name in ("case", "patient", "timepoint") if name in columns)
            case_id = _named(table, line, key, visits)
            if case_id in dates:
                _refuse(table, line, " ".join(key), f"it stands in line {lines[case_id]} too; keep one")
            try:
                dates[case_id], lines[case_id] = parse_date(row["date"]), line
            except ValueError as error:
                raise UsageError(f"--dates {table}, line {line}: {' '.join(key)}: {error}") from None
    except csv.Error as error:
        _refuse(table, rows.reader.line_num, str(error), "write it as CSV, quotes closed")
    return dates


def _visits(cases: Sequence[Case], *, by_case: bool) -> dict[tuple[str, ...], list[str]]:
    """Return the ids of cases by the names that a row may give."""
    visits: dict[tuple[str, ...], list[str]] = {}
    for case in cases:
        key = (case.case_id,) if by_case else (case.patient, case.timepoint.label if case.timepoint else "")
        visits.setdefault(key, []).append(case.case_id)
    return visits


def _named(table: Path, line: int, key: tuple[str, ...], visits: Mapping[tuple[str, ...], Sequence[str]]) -> str:
    own = visits.get(key, ())
    if len(own) > 1:
        _refuse(table, line, " ".join(key), f"{few(own, 3)} are called so; name them in a column case")
    if not own:
        there = [" ".join(name) for name in visits if name[0] == key[0]] or [" ".join(name) for name in visits]
        _refuse(table, line, " ".join(key), f"no such visit; there are {few(there, 5)}, and `inspect` lists all")
    return own[0]


def _refuse(table: Path, line: int, value: str, fix: str) -> NoReturn:
    raise UsageError(f"--dates {table}, line {line}: {value[:80]!r}: {fix}")
