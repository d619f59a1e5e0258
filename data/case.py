"""Patients: which folders hold one, what each of their files shows, and what is wrong with them before anything is
read."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

from data.discovery import find_cases
from data.errors import UsageError
from data.naming import natural_key, patient_name, session_folder
from data.patient import Case, ImageSource
from data.places import Names
from data.visible import is_visible

__all__ = ["Case", "ImageSource", "cases_of_names", "discover_cases", "folder_name", "unique_folder_names"]


def discover_cases(root: Path | str, *, exclude: Path | str | None = None) -> list[Case]:
    """All patients below a folder, in natural order of their paths.

    Parameters
    ----------
    root : Path or str
        A data set's folder in any layout, several data sets mixed, or one patient's folder of files.
    exclude : Path or str, optional
        A folder whose content is no input: an output folder that lies inside ``root``.

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
    cases = find_cases(root)
    outside = None if exclude is None else Path(exclude).resolve()
    if outside is not None and outside.is_relative_to(root.resolve()):  # an input inside the output is all input
        cases = [case for case in cases if not case.folder.resolve().is_relative_to(outside)]
    if not cases:
        raise UsageError(
            f"{root} holds no patient: no folder, and no image that any layout names; give a folder of "
            "patients, or one patient's files"
        )
    return _in_order(cases, root)


def cases_of_names(names: Names) -> list[Case]:
    """As :func:`discover_cases`, from names alone: no disk is asked. Empty where no name says anything."""
    root = Path(names.root)
    return _in_order(find_cases(root, names), root)


def _in_order(cases: list[Case], root: Path) -> list[Case]:
    ordered = sorted(cases, key=lambda case: (natural_key(str(case.folder)), natural_key(case.case_id)))
    return _with_unique_ids(ordered, root)


def _with_unique_ids(cases: list[Case], root: Path) -> list[Case]:
    often = Counter(case.case_id for case in cases)
    unique, taken = [], set(often)
    for case in cases:
        if often[case.case_id] > 1:
            note = f"{often[case.case_id]} patients are called {case.case_id!r}; this one is told apart by its path"
            name = next(name for name in _longer_names(case, root) if name not in taken)
            taken.add(name)
            case = replace(case, case_id=name, warnings=(*case.warnings, note))
        unique.append(case)
    return unique


def _longer_names(case: Case, root: Path) -> Iterator[str]:
    top = os.path.abspath(root)
    wanted = os.path.relpath(session_folder(str(case.folder), top), top)
    if wanted == os.curdir or patient_name(str(case.folder), top) != case.case_id:
        wanted = os.path.join(wanted, case.case_id)
    yield wanted
    yield os.path.relpath(case.folder, top)
    yield from (f"{wanted}#{number}" for number in count(2))


_LONGEST_NAME = 100
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
# A run keeps its own files beside the patients' folders: report.csv, run.json and more, now and in later versions.
_LIKE_OUTPUT = re.compile(r".*\.(csv|html|json|txt|ctbl|yaml|png|gz|log|lock|tmp)", re.IGNORECASE)


def folder_name(case_id: str) -> str:
    """A safe output name for a case: one path component, valid on Linux, macOS and Windows.

    Letters, digits, blanks within and ``-_.+=,@()[]`` stay; anything else becomes ``_``. None begins as a spreadsheet
    formula does, or ends as the files do that a run writes. A name that had to be altered gets eight hexadecimal digits of its SHA-256, so that different ids
    stay different; at most 109 characters. An empty id gives ``_-e3b0c442``.
    """
    safe = "".join(
        letter if (letter.isalnum() and is_visible(letter)) or letter in "-_.+=,@()[] " else "_" for letter in case_id
    )
    safe = re.sub(r"\.\.+", "_", safe).lstrip(". =+-@").rstrip(". ")
    # 100 letters may be 400 bytes, and a file system counts bytes (255).
    safe = safe[:_LONGEST_NAME].encode("utf-8")[:_LONGEST_NAME].decode("utf-8", "ignore").rstrip(". ")
    if safe == case_id and safe and not _RESERVED.fullmatch(safe) and not _LIKE_OUTPUT.fullmatch(safe):
        return safe
    return f"{safe or '_'}-{hashlib.sha256(case_id.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def unique_folder_names(case_ids: Iterable[str]) -> dict[str, str]:
    """`folder_name` of every id, made different where a file system that ignores case or composition takes two for one.

    The name of an id depends on the other ids only where they clash; the ids' order does not matter.
    """
    ids = sorted(set(case_ids))
    clashes: dict[str, int] = {}
    for case_id in ids:
        key = _as_one_name(folder_name(case_id))
        clashes[key] = clashes.get(key, 0) + 1
    names: dict[str, str] = {}
    taken: set[str] = set()
    for case_id in ids:
        name = folder_name(case_id)
        if clashes[_as_one_name(name)] > 1:
            name = f"{name}-{hashlib.sha256(case_id.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
        while _as_one_name(name) in taken:
            name += "_"
        taken.add(_as_one_name(name))
        names[case_id] = name
    return names


def _as_one_name(name: str) -> str:
    """The same for names that some file system takes for one: of other case, or of accents composed otherwise (APFS)."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
