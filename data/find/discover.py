"""Discovery of patients.

It tells which folders hold one, what each of their files shows, and what is wrong with them before anything is read.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from data.case import DICOM, Case
from data.errors import UsageError
from data.find.layouts.layout import load_layouts
from data.find.naming import natural_key, patient_name, says_only_what_it_holds, session_folder
from data.find.places import Names
from data.find.walk import find_cases
from data.io.suffixes import split_suffix

if TYPE_CHECKING:
    from data.find.dicom.examinations import DicomOptions

__all__ = ["cases_of_names", "discover_cases"]


def discover_cases(
    root: Path | str, *, exclude: Path | str | None = None, dicom: DicomOptions | None = None
) -> list[Case]:
    """Return all patients below a folder, in natural order of their paths.

    Parameters
    ----------
    root : Path or str
        A data set's folder in any layout, several data sets mixed, or one patient's folder of files.
    exclude : Path or str, optional
        A folder whose content is no input: an output folder that lies inside ``root``.
    dicom : DicomOptions, optional
        Choices about DICOM examinations.

    Returns
    -------
    list of Case
        At least one. Every folder that holds or should hold a patient is there, with `Case.problems` where it is
        unusable.

    Raises
    ------
    UsageError
        The root is missing, not a folder, not readable, or holds no patient.
    """
    root = Path(root)
    if not root.is_dir():
        what = "is a file" if root.is_file() else "does not exist"
        raise UsageError(f"{root} {what}: give the folder of a data set, or one patient's folder of files")
    try:
        os.scandir(root).close()
    except OSError as error:
        raise UsageError(f"{root} cannot be listed ({error.strerror}): check its permissions") from error
    cases = find_cases(root, dicom=dicom)
    outside = None if exclude is None else Path(exclude).resolve()
    if outside is not None and outside.is_relative_to(root.resolve()):  # an input inside the output is all input
        cases = [case for case in cases if not case.folder.resolve().is_relative_to(outside)]
    if not cases:
        raise UsageError(
            f"{root} holds no patient: no folder, and no image that any layout names; give a folder of "
            "patients, or one patient's files, and say with --layout how files of your own naming are called"
        )
    return _in_order(cases, root)


def cases_of_names(names: Names) -> list[Case]:
    """Return the patients of a list of names, as :func:`discover_cases` does.

    No disk is asked. Empty where no name says anything.
    """
    root = Path(names.root)
    return _in_order(find_cases(root, names), root)


def _in_order(cases: list[Case], root: Path) -> list[Case]:
    ordered = sorted(cases, key=lambda case: (natural_key(str(case.folder)), natural_key(case.case_id)))
    return _with_unique_ids(ordered, root)


def _with_unique_ids(cases: list[Case], root: Path) -> list[Case]:
    """Give every case a name from its own path and files.

    Other cases do not change it.
    """
    top = os.path.abspath(root)
    cases = [replace(case, case_id=_own_name(case, top)) for case in cases]
    often = Counter(case.case_id for case in cases)
    unique, taken = [], set(often)
    for case in cases:
        if often[case.case_id] > 1:
            note = f"{often[case.case_id]} patients are called {case.case_id!r}; this one is told apart by its path"
            name = next(name for name in _longer_names(case, top) if name not in taken)
            taken.add(name)
            case = replace(case, case_id=name, warnings=(*case.warnings, note))
        unique.append(case)
    return unique


def _own_name(case: Case, top: str) -> str:
    """Return the name of a case, a function of its own path and files.

    A public set's own name stands alone; any other patient is called after the path below the root, so that a later
    patient of the same folder name renames none.
    """
    if case.layout == DICOM or _is_named_by_its_set(case):
        return case.case_id
    folder = str(case.folder)
    path = os.path.relpath(folder, top)
    parts = [part for part in path.split(os.sep) if part != os.curdir and not says_only_what_it_holds(part)]
    if not parts:
        return case.case_id
    is_folders = case.case_id in (path, os.path.basename(folder), patient_name(folder, top))
    return os.sep.join(parts if is_folders or parts[-1] == case.case_id else [*parts, case.case_id])


def _is_named_by_its_set(case: Case) -> bool:
    """Tell whether a case bears the name of its files in its set."""
    layout = load_layouts().get(case.layout)
    sources = [*case.images.values(), *([case.reference] if case.reference else [])]
    if layout is None or layout.pattern is None or layout.kind == "numbered" or layout.name.startswith("generic"):
        return False
    matches = (layout.pattern.fullmatch(split_suffix(source.paths[0].name)[0]) for source in sources)
    return any(found and _begins(case.case_id, found.groupdict().get("patient")) for found in matches)


def _begins(name: str, patient: str | None) -> bool:
    return bool(patient) and name.startswith(patient or "")


def _longer_names(case: Case, top: str) -> Iterator[str]:
    if case.layout == DICOM:  # its folders may bear the patient's name
        yield from (f"{case.case_id}#{number}" for number in count(2))
    wanted = os.path.relpath(session_folder(str(case.folder), top), top)
    if wanted == os.curdir or patient_name(str(case.folder), top) != case.case_id:
        wanted = os.path.join(wanted, case.case_id)
    yield wanted
    yield os.path.relpath(case.folder, top)
    yield from (f"{wanted}#{number}" for number in count(2))
