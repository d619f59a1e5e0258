"""Split into cases to learn from and cases to hold back.

It goes by patient, so that two scans of one head never stand on both sides.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from pathlib import Path
from typing import Any

from data.errors import UsageError
from data.regular_file import read_json
from data.same_patient import known_as, patient_id

log = logging.getLogger(__name__)

LARGEST_FILE = 2**24
"""Bytes of a split: some 500,000 ids."""
_REMARKS = ("data", "rule")
"""Keys of a split file that explain it to a person."""


@dataclass(frozen=True)
class Split:
    """Case ids by their use; no patient is in two of them.

    Parameters
    ----------
    train : tuple of str
        Learnt from.
    validation : tuple of str
        Seen while training, for stopping and choosing; may be empty in a split read from a file.
    test : tuple of str
        Held back for the last figure.
    set_aside : tuple of str
        Held back as well, of further folders: lesions of which a model is measured on (bench.cubes). They need not be
        among the patients.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...] = ()
    set_aside: tuple[str, ...] = ()

    @property
    def held_back(self) -> tuple[str, ...]:
        """Cases that are not learnt from, in the order of the lists."""
        return (*self.validation, *self.test, *self.set_aside)

    def as_lists(self) -> dict[str, tuple[str, ...]]:
        """Return the content of a split file.

        ``set_aside`` is absent where it is empty, as in files of earlier versions.
        """
        lists = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: ids for name, ids in lists.items() if ids or name != "set_aside"}


def fold_split(case_ids: Sequence[str], folds: int, fold: int, same: Iterable[Sequence[str]] = ()) -> Split:
    """Return one fold of a cross-validation.

    Patients are sorted by id and dealt round-robin.

    Parameters
    ----------
    case_ids : sequence of str
        In any order; the cases of one patient (see `known_as`) stay together.
    folds : int
        How many parts, from 2 to the number of patients.
    fold : int
        Which part is held back, from 0 to ``folds`` - 1. Over all folds each patient is held back exactly once.
    same : iterable of sequence of str
        Groups of cases that show one patient, whatever they are called (`data.io.equal_files.same_files`).

    Returns
    -------
    Split
        Sorted case ids; ``test`` is empty, neither of the others is.

    Raises
    ------
    data.errors.UsageError
        The numbers do not fit each other or the patients.
    """
    names: dict[str, str] = {}  # sorted by the name in the data: a second name elsewhere moves no patient
    whose = patients_of(case_ids, same)
    for case_id in sorted(set(case_ids)):
        names.setdefault(whose[case_id], patient_id(case_id))
    patients = sorted(names, key=lambda patient: names[patient])
    if folds < 2:
        raise UsageError(f"--folds {folds}: a cross-validation needs at least 2 folds")
    if folds > len(patients):
        raise UsageError(f"--folds {folds}: there are only {len(patients)} patients; choose at most as many folds")
    if not 0 <= fold < folds:
        raise UsageError(f"--fold {fold}: with --folds {folds} the folds are 0 to {folds - 1}")
    held_back = set(patients[fold::folds])
    ordered = sorted(set(case_ids))
    return Split(
        tuple(case_id for case_id in ordered if whose[case_id] not in held_back),
        tuple(case_id for case_id in ordered if whose[case_id] in held_back),
    )


def patients_of(case_ids: Iterable[str], same: Iterable[Sequence[str]] = ()) -> dict[str, str]:
    """Return the patient of each case.

    It follows from the name (`known_as`), and is one for each group of ``same``.
    """
    whose = {case_id: known_as(case_id) for case_id in case_ids}
    for group in same:
        one = {whose[case_id] for case_id in group if case_id in whose}
        whose |= {case_id: min(one) for case_id, patient in whose.items() if patient in one}
    return whose


def described(split: Split, same: Iterable[Sequence[str]] = ()) -> str:
    """Word the patients and scans on each side: ``to learn from: 3 patients (9 scans: A, B, C)``."""
    whose = patients_of([*split.train, *split.validation, *split.test], same)
    sides = {"to learn from": split.train, "to validate on": split.validation, "held back": split.test}
    said = []
    for side, ids in sides.items():
        patients = list(dict.fromkeys(whose[case_id] for case_id in ids))
        if ids:
            said.append(f"{side}: {_counted(patients, 'patient')} in {_counted(ids, 'scan')} ({listed(patients)})")
    return "; ".join(said)


def _counted(items: Sequence[str], what: str) -> str:
    return f"{len(items)} {what}{'' if len(items) == 1 else 's'}"


def refuse_shared_files(split: Split, same: Iterable[Sequence[str]], source: Path | str) -> None:
    """Refuse a split with equal image files, or one patient, in two lists.

    Raises
    ------
    data.errors.UsageError
    """
    where = {case_id: name for name, ids in split.as_lists().items() for case_id in ids}
    for group in same:
        if len({where[case_id] for case_id in group if case_id in where}) > 1:
            raise UsageError(
                f"{source}: {listed(group)} have the same image files or show one patient, and are in different "
                "lists; a patient belongs to one of them"
            )


def read_split(path: Path) -> Split:
    """Read a split from a JSON file.

    It holds the lists of case ids ``train``, ``validation`` and perhaps others.

    The others are ``test`` and ``set_aside``, see :class:`Split`.
    The texts ``data`` and ``rule`` may explain it; any other key is an error.

    Raises
    ------
    data.errors.UsageError
        The file cannot be read, is no such JSON, has no case to learn from, says an id twice, or has one patient in
        two lists.
    """
    try:
        content = read_json(path, LARGEST_FILE)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None
    except ValueError as error:  # also of the decoding
        raise UsageError(f"{path}: is not a valid JSON file ({error}); correct it") from None
    names = [field.name for field in fields(Split)]
    if not isinstance(content, dict) or not {"train", "validation"} <= set(content):
        raise UsageError(f"{path}: a split has the keys train and validation, and perhaps test; add them")
    if unknown := set(content) - {*names, *_REMARKS}:
        raise UsageError(f"{path}: unknown key {', '.join(sorted(unknown))}; a split has {', '.join(names)}")
    split = Split(**{name: _read_ids(content[name], name, path) for name in names if name in content})
    if not split.train:
        raise UsageError(f"{path}: train is empty; name at least one case to learn from")
    _refuse_overlap(split, path)
    return split


def match_split(split: Split, case_ids: Iterable[str], source: Path | str) -> Split:
    """Match a split with the cases that are there.

    Cases that it does not name are left out, with a warning logged.

    Parameters
    ----------
    split : Split
    case_ids : iterable of str
        What was discovered.
    source : Path or str
        Where the split comes from, for the error.

    Raises
    ------
    data.errors.UsageError
        The split names a case that is not there.
    """
    found = set(case_ids)
    named = {*split.train, *split.validation, *split.test}
    if absent := sorted(named - found):
        raise UsageError(f"{source}: no case {listed(absent)} in the data; correct the split or add the data")
    if unnamed := sorted(found - named):
        log.warning("%s: does not name %s; left out", source, listed(unnamed))
    return split


def listed(ids: Sequence[str], most: int = 5) -> str:
    """Word the first of the ids and the number of the others."""
    rest = f" and {len(ids) - most} more" if len(ids) > most else ""
    return ", ".join(ids[:most]) + rest


def _read_ids(ids: Any, name: str, path: Path) -> tuple[str, ...]:
    if not isinstance(ids, list) or not all(isinstance(case_id, str) and case_id for case_id in ids):
        raise UsageError(f"{path}: {name} must be a list of case ids")
    if twice := sorted(case_id for case_id, times in Counter(ids).items() if times > 1):
        raise UsageError(f"{path}: {name} names {listed(twice)} twice; keep one")
    return tuple(ids)


def _refuse_overlap(split: Split, path: Path) -> None:
    groups = {field.name: {known_as(case_id) for case_id in getattr(split, field.name)} for field in fields(split)}
    for one, other in combinations(groups, 2):
        if both := sorted(groups[one] & groups[other]):
            raise UsageError(f"{path}: {listed(both)} is in {one} and in {other}; a patient belongs to one of them")
