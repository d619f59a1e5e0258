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
from data.find.visits.bids import bids_moment
from data.find.visits.order import evidence_of, found_in_name, with_time_points
from data.find.walk import find_cases
from data.io.suffixes import split_suffix
from data.same_patient import patient_and_time

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
    return _in_order(cases, root, on_disk=True)


def cases_of_names(names: Names) -> list[Case]:
    """Return the patients of a list of names, as :func:`discover_cases` does.

    No disk is asked. Empty where no name says anything.
    """
    root = Path(names.root)
    return _in_order(find_cases(root, names), root)


def _in_order(cases: list[Case], root: Path, *, on_disk: bool = False) -> list[Case]:
    ordered = sorted(cases, key=lambda case: (natural_key(str(case.folder)), natural_key(case.case_id)))
    named, times = _with_unique_ids(ordered, root)
    found = {}
    for index, (case, time) in enumerate(zip(named, times, strict=True)):
        told = found_in_name(time)
        if on_disk and case.layout != DICOM:
            moment, warnings = bids_moment(case)
            told = replace(told, moment=moment or told.moment)
            named[index] = replace(case, warnings=(*case.warnings, *warnings)) if warnings else case
        elif case.timepoint is not None:
            told = evidence_of(case.timepoint)
        found[case.case_id] = told
    return with_time_points(named, found)


def _with_unique_ids(cases: list[Case], root: Path) -> tuple[list[Case], list[str]]:
    """Give every case a name from its own path and files, and its patient.

    The second list has the names of their time points. Other cases do not change them, unless they have the very name.
    """
    top = os.path.abspath(root)
    names = [_own_name(case, top) for case in cases]
    often = Counter(name for name, _, _ in names)
    unique, times, taken = [], [], set(often)
    for case, (name, patient, time) in zip(cases, names, strict=True):
        if often[name] > 1:
            note = f"{often[name]} patients are called {name!r}; this one is told apart by its path"
            case = replace(case, case_id=name, warnings=(*case.warnings, note))
            name = next(longer for longer in _longer_names(case, top) if longer not in taken)
            taken.add(name)
        unique.append(replace(case, case_id=name, patient=patient))
        times.append(time)
    return unique, times


def _own_name(case: Case, top: str) -> tuple[str, str, str]:
    """Return a case's name, its patient and the name of its time point.

    A time point that is a folder is joined to its patient: ``sub-01_ses-2`` for ``sub-01/ses-2``, so that the folder of
    its results needs no other name.
    """
    if case.layout == DICOM:
        return case.case_id, case.patient, ""
    name = _path_name(case, top)
    patient, time = patient_and_time(name)
    if patient == ".":
        above = os.path.basename(top)
        # The root is the patient's folder, or else the folder of the one time point.
        return name, above if name != above else name, time
    *folders, last = name.split(os.sep)
    own = os.path.basename(patient)
    if time and folders and not last.startswith(own):
        name = f"{patient}_{time}"
    elif time and folders[-1:] == [own]:  # 100010/100010_time1
        name = os.sep.join([*folders[:-1], last])
    return name, patient, time


def _path_name(case: Case, top: str) -> str:
    """Return the name of a case by its path, a function of it alone.

    A public set's own name stands alone; any other patient is called after the path below the root, so that a later
    patient of the same folder name renames none.
    """
    in_set = _name_in_its_set(case)
    if in_set and case.case_id.startswith(in_set):
        return case.case_id
    folder = str(case.folder)
    path = os.path.relpath(folder, top)
    parts = [part for part in path.split(os.sep) if part != os.curdir and not says_only_what_it_holds(part)]
    if in_set and in_set in ("_".join(parts[-2:]), "_".join(parts[-3:])):  # 8/t0/8_t0_t1gd.nii.gz
        return in_set
    if not parts:
        return case.case_id
    is_folders = case.case_id in (path, os.path.basename(folder), patient_name(folder, top))
    return os.sep.join(parts if is_folders or parts[-1] == case.case_id else [*parts, case.case_id])


def _name_in_its_set(case: Case) -> str:
    """Return the name that a set's own files give a case, else ``""``."""
    layout = load_layouts().get(case.layout)
    sources = [*case.images.values(), *([case.reference] if case.reference else [])]
    if layout is None or layout.pattern is None or layout.kind == "numbered" or layout.name.startswith("generic"):
        return ""
    matches = (layout.pattern.fullmatch(split_suffix(source.paths[0].name)[0]) for source in sources)
    names = (found.groupdict().get("patient") for found in matches if found)
    return next((name for name in names if name), "")


def _longer_names(case: Case, top: str) -> Iterator[str]:
    if case.layout == DICOM:  # its folders may bear the patient's name
        yield from (f"{case.case_id}#{number}" for number in count(2))
    wanted = os.path.relpath(session_folder(str(case.folder), top), top)
    if wanted == os.curdir or patient_name(str(case.folder), top) != case.case_id:
        wanted = os.path.join(wanted, case.case_id)
    yield wanted
    yield os.path.relpath(case.folder, top)
    yield from (f"{wanted}#{number}" for number in count(2))
