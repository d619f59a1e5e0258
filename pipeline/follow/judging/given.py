"""CSV tables that a user gives, read strictly.

Every fault names file, line, value and fix.
"""

from __future__ import annotations

import csv
import datetime
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from data.errors import UsageError, did_you_mean
from data.regular_file import read_regular_file

MOST_BYTES = 2**24
"""Bytes of such a table: some 300,000 rows."""


def read_rows(path: Path, columns: Sequence[str], needed: Iterable[str]) -> list[tuple[int, dict[str, str]]]:
    """Read a UTF-8 CSV of known columns.

    Parameters
    ----------
    path : Path
    columns : sequence of str
        All columns that there may be; one that is not there is empty in each row.
    needed : iterable of str
        Columns that must be there, and filled in each row.

    Returns
    -------
    list of (int, dict)
        Line of each row in the file and its cells, stripped. Empty lines are left out; a table without rows gives none.

    Raises
    ------
    UsageError
        The file cannot be read, or has an unknown column, a column twice, a needed one missing or empty, or a row with
        more or fewer cells than columns.
    """
    try:
        text = read_regular_file(path, MOST_BYTES).decode("utf-8-sig")
        table = csv.reader(io.StringIO(text, newline=""), strict=True)
        lines = [(table.line_num, [cell.strip() for cell in cells]) for cells in table]
    except (OSError, ValueError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read ({error}); give a table in UTF-8 (CSV)") from None
    filled = [(line, cells) for line, cells in lines if any(cells)]
    if not filled:
        raise UsageError(f"{path}: is empty; its first line names columns: {', '.join(columns)}")
    head = filled[0][1]
    for name in head:
        if name not in columns:
            raise UsageError(
                f"{path}, line {filled[0][0]}: unknown column {name!r}{did_you_mean(name, columns)}; "
                f"the columns are {', '.join(columns)}"
            )
    twice = next((name for name in head if head.count(name) > 1), None)
    lacking = next((name for name in needed if name not in head), None)
    if twice or lacking:
        fault = (
            f"the column {twice!r} stands there twice; keep one"
            if twice
            else f"the column {lacking!r} is missing; add it"
        )
        raise UsageError(f"{path}, line {filled[0][0]}: {fault}")
    rows = []
    for line, cells in filled[1:]:
        if len(cells) != len(head):
            raise UsageError(
                f"{path}, line {line}: has {len(cells)} cells where the head has {len(head)}; leave a cell empty, or "
                "put a text with a comma in quotes"
            )
        row = dict.fromkeys(columns, "") | dict(zip(head, cells, strict=True))
        empty = next((name for name in needed if not row[name]), None)
        if empty:
            raise UsageError(f"{path}, line {line}: {empty} is empty; fill it in")
        rows.append((line, row))
    return rows


def check_patient(path: Path, line: int, patient: str, patients: Iterable[str]) -> None:
    """Raise `UsageError` where a patient is none of those given."""
    known = list(patients)
    if patient not in known:
        raise UsageError(
            f"{path}, line {line}: no patient is called {patient!r}{did_you_mean(patient, known)}; give a name as "
            "`inspect` shows it"
        )


def read_word(path: Path, line: int, column: str, word: str, words: Iterable[str]) -> str:
    """Return a cell that is one of some words, or raise `UsageError`."""
    known = list(words)
    if word not in known:
        raise UsageError(
            f"{path}, line {line}: {column} {word!r} is not known{did_you_mean(word, known)}; write one of "
            f"{', '.join(known)}"
        )
    return word


def read_date(path: Path, line: int, text: str) -> datetime.date:
    """Return a cell that is a date as 2025-03-02, or raise `UsageError`."""
    try:
        date = datetime.date.fromisoformat(text)
    except ValueError:
        date = None
    if date is None or date.isoformat() != text:
        raise UsageError(f"{path}, line {line}: date {text!r} is none; write year-month-day, as 2025-03-02")
    return date


def read_number(path: Path, line: int, column: str, text: str, least: float = -math.inf) -> float:
    """Return a cell that is a finite number, or raise `UsageError`."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number < least:
        bound = "" if least == -math.inf else f" of at least {least:g}"
        raise UsageError(f"{path}, line {line}: {column} {text!r} is none; write a number{bound}, with a point")
    return number
