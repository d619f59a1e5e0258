"""Dates of BIDS sessions, from their tables."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from pathlib import Path

from data.case import Case
from data.find.visits.names import parse_date
from data.regular_file import read_regular_file

_SUBJECT, _SESSION = re.compile(r"sub-[0-9A-Za-z]+"), re.compile(r"ses-[0-9A-Za-z]+")
_LARGEST = 2**22
"""Bytes of a table: some 100,000 scans."""
Rows = Sequence[Mapping[str, str]]


def bids_moment(case: Case) -> tuple[datetime | None, list[str]]:
    """Return the moment of a BIDS case's scan, and warnings about its tables.

    ``scans.tsv`` of the subject or session tells of each image, of which the earliest counts; ``sessions.tsv`` of the
    session. A table that is not there, lacks the row or says ``n/a`` tells nothing. Both lie in the subject's folder.

    Parameters
    ----------
    case : Case
        With files on the disk.

    Returns
    -------
    moment : datetime.datetime or None
        The scans' own, where both tables tell one.
    warnings : list of str
        Values that are no dates, and tables that name two days.
    """
    subject, session = _folders(case.folder)
    if subject is None:
        return None, []
    warnings: list[str] = []
    of_scans = _of_scans(case, session or subject, [subject.name, *([session.name] if session else [])], warnings)
    of_session = None
    if session is not None:
        table = subject / f"{subject.name}_sessions.tsv"
        own = [row for row in _rows(table) if row.get("session_id", "") in (session.name, session.name[4:])]
        of_session = min(_moments(own, table, warnings), default=None)
    if of_scans and of_session and of_scans.date() != of_session.date():
        warnings.append(
            f"{subject.name}_sessions.tsv says {of_session.date()} where scans.tsv says {of_scans.date()}, which was "
            "taken; correct one of them"
        )
    return of_scans or of_session, warnings


def _folders(folder: Path) -> tuple[Path | None, Path | None]:
    """Return the folders of subject and session that hold a case's."""
    chain = [folder, *folder.parents]
    for index, place in enumerate(chain[:3]):
        if _SUBJECT.fullmatch(place.name):
            return place, next((inner for inner in chain[:index] if _SESSION.fullmatch(inner.name)), None)
    return None, None


def _of_scans(case: Case, folder: Path, entities: Sequence[str], warnings: list[str]) -> datetime | None:
    table = folder / f"{'_'.join(entities)}_scans.tsv"
    rows = _rows(table)
    if not rows:
        return None
    names = {Path(os.path.relpath(path, folder)).as_posix() for source in case.images.values() for path in source.paths}
    return min(_moments([row for row in rows if row.get("filename", "") in names], table, warnings), default=None)


def _moments(rows: Rows, table: Path, warnings: list[str]) -> Iterator[datetime]:
    for row in rows:
        text = row.get("acq_time", "").strip()
        if text and text.lower() != "n/a":
            try:
                yield parse_date(text)
            except ValueError as error:
                warnings.append(f"{table.name}: acq_time {error}, or n/a")


def _rows(table: Path) -> Rows:
    with suppress(OSError):
        status = table.stat()
        return _read(table, status.st_mtime_ns, status.st_size)
    return ()


@lru_cache(maxsize=64)
def _read(table: Path, _time: int, _size: int) -> Rows:
    """Return the rows of a table.

    It may hold anything, and one that is none has no rows.
    """
    with suppress(OSError, ValueError, csv.Error):
        text = read_regular_file(table, _LARGEST).decode("utf-8-sig")
        return [
            {str(key): str(value or "") for key, value in row.items()}
            for row in csv.DictReader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
        ]
    return ()
