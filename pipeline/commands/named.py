"""Patients of files named by hand, or by a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from data.case import MODALITIES, Case, ImageSource
from data.errors import UsageError
from data.find.visits.names import parse_date
from data.find.visits.order import Found, found_in_name, with_time_points
from data.regular_file import read_regular_file
from data.same_patient import patient_and_time

_MOST_BYTES = 2**24
_COLUMNS = ("case", *MODALITIES, "reference", "date", "patient")
"""Columns of a manifest."""


def named_case(images: Mapping[str, Path], folder: Path, name: str | None) -> Case:
    """Return the patient of images that are named one by one.

    Parameters
    ----------
    images : mapping of modality to Path
        At least one; a path that is not there is looked for in ``folder``.
    folder : Path
        The patient's folder.
    name : str, optional
        Of the patient; by default that of the folder.

    Raises
    ------
    UsageError
        A file is not there, or two modalities have one file.
    """
    found: dict[str, Path] = {}
    for modality, path in images.items():
        there = next((place for place in (path, folder / path) if place.is_file()), None)
        if there is None:
            raise UsageError(f"--{modality} {path}: no such file, here or in {folder}")
        twice = next((other for other, taken in found.items() if taken.samefile(there)), None)
        if twice:
            raise UsageError(f"--{modality} {path}: is the file of --{twice} too; name each modality's own")
        found[modality] = there
    return _case(name or folder.resolve().name, folder, found, None, "named on the command line")


def manifest_cases(path: Path) -> list[Case]:
    """Return the patients of a table, UTF-8 CSV.

    Parameters
    ----------
    path : Path
        With the columns ``case`` and at least one of t1, t1c, t2, flair; ``reference``, ``date`` and ``patient`` may be
        there. Paths are relative to the table's folder; an empty cell is no image, no date, or a patient as the case's
        name tells (:func:`data.same_patient.patient_id`).

    Raises
    ------
    UsageError
        The table cannot be read, lacks a column or has one twice, names a patient twice or none, or a row has no image,
        a date that is none, or fewer or more cells than there are columns.
    """
    try:
        text = read_regular_file(path, _MOST_BYTES).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise UsageError(f"--manifest {path}: cannot be read ({error}); give a table in UTF-8 (CSV)") from None
    cases: dict[str, Case] = {}
    found: dict[str, Found] = {}
    for number, row in _rows(path, text):
        name = row["case"].strip()
        if not name or name in cases:
            raise UsageError(f"--manifest {path}, line {number}: the case {name!r} is empty or stands there twice")
        images = {m: path.parent / row[m].strip() for m in MODALITIES if row.get(m, "").strip()}
        if not images:
            raise UsageError(f"--manifest {path}, line {number}: {name} has no image")
        reference = row.get("reference", "").strip()
        case = _case(name, path.parent, images, path.parent / reference if reference else None, f"line {number}")
        patient, label = patient_and_time(name)
        cases[name] = replace(case, patient=row.get("patient", "").strip() or (name if patient == "." else patient))
        found[name] = found_in_name(label)
        if text := row.get("date", "").strip():
            try:
                found[name] = replace(found[name], moment=parse_date(text))
            except ValueError as error:
                raise UsageError(f"--manifest {path}, line {number}: {name}: {error}") from None
    if not cases:
        raise UsageError(f"--manifest {path}: has no row; give one a patient")
    return with_time_points(list(cases.values()), found)


def _rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield each row of a manifest with its line.

    It has a cell for each column. Raises UsageError.
    """
    table = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = list(table.fieldnames or ())
        known = len(set(columns)) == len(columns) and set(columns) <= set(_COLUMNS)
        if "case" not in columns or not known or not set(columns) & set(MODALITIES):
            raise UsageError(
                f"--manifest {path}: its columns are {', '.join(columns) or 'none'}; give case, at least one of "
                f"{', '.join(MODALITIES)}, and perhaps reference, date and patient, each once"
            )
        for row in table:
            if None in row or None in row.values():
                amount = "many" if None in row else "few"
                raise UsageError(
                    f"--manifest {path}, line {table.line_num}: {row['case']!r} has too {amount} cells; give "
                    f"{len(columns)}, empty ones between commas"
                )
            yield table.line_num, row
    except csv.Error as error:  # a quote that is never closed would swallow the patients after it
        raise UsageError(
            f"--manifest {path}, line {table.reader.line_num}: {error}; write it as CSV, quotes closed"
        ) from None


def _case(name: str, folder: Path, images: Mapping[str, Path], reference: Path | None, reason: str) -> Case:
    return Case(
        case_id=name,
        folder=folder,
        layout="named",
        layout_reason=reason,
        images={modality: ImageSource((path,)) for modality, path in images.items()},
        reference=ImageSource((reference,)) if reference else None,
    )
