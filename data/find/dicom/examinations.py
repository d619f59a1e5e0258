"""Patients of DICOM files: one case for each study."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from data.case import DICOM, MODALITIES, Case
from data.errors import InputError, UsageError, few
from data.find.dicom.choice import choose_series
from data.io.dicom.record import Record, read_record

_DIRECTORY = "1.2.840.10008.1.3.10"
_MOST_FILES = 2**18


@dataclass(frozen=True)
class DicomOptions:
    """Choices of a user about DICOM examinations.

    Parameters
    ----------
    series : mapping of modality to SeriesInstanceUID
        Series to take, whatever the rules say.
    keep_identity : bool
        Call cases by PatientID, as it is.
    case : str or None
        Name of the only study; None for the hash of its PatientID.
    """

    series: Mapping[str, str] = field(default_factory=dict)
    keep_identity: bool = False
    case: str | None = None


def parse_series(texts: Sequence[str]) -> dict[str, str]:
    """Parse choices such as ``t1c=1.2.840.1``.

    Raises
    ------
    UsageError
        A text is no MODALITY=UID, or a modality is named twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        role, _, uid = text.partition("=")
        if role not in MODALITIES or not uid or role in found:
            raise UsageError(f"--series {text}: give MODALITY=UID, each of {', '.join(MODALITIES)} once")
        found[role] = uid
    return found


def with_examinations(cases: Sequence[Case], paths: Sequence[str], options: DicomOptions, top: str) -> list[Case]:
    """Return these cases, and one for each study among DICOM files.

    Parameters
    ----------
    cases : sequence of Case
        Found in other files of the folder.
    paths : sequence of str
        Files that begin as DICOM does, in any order.
    options : DicomOptions
    top : str
        Folder that all of them lie in.

    Returns
    -------
    list of Case
        In the order of patients and dates. A study without a usable series is a case with problems. So is a folder
        directly below ``top`` whose DICOM files cannot be read; where others of it can, its cases get a warning.
    """
    if len(paths) > _MOST_FILES:
        raise UsageError(f"{len(paths)} DICOM files are there; give at most {_MOST_FILES} at once")
    studies: dict[tuple[str, str], list[Record]] = {}
    broken: dict[Path, list[str]] = {}
    directories: list[Path] = []
    for path in paths:
        try:
            record = read_record(Path(path))
        except InputError as error:
            broken.setdefault(_below(top, path), []).append(str(error))
            continue
        if record.sop_class == _DIRECTORY:
            directories.append(_below(top, path))
        elif not record.series:
            broken.setdefault(_below(top, path), []).append("a DICOM file: has no SeriesInstanceUID")
        else:
            studies.setdefault((record.patient, record.study), []).append(record)
    _require_known(options, studies)
    if options.case is not None and len(studies) != 1:
        raise UsageError(f"--case {options.case}: {len(studies)} DICOM studies are there; it names one alone")
    ordered = sorted(studies, key=lambda key: (key[0], studies[key][0].study_date, key[1]))
    often = [patient for patient, _ in studies]
    found = [*cases, *(_case(key, studies[key], options, often.count(key[0]) > 1) for key in ordered)]
    for folder, sentences in broken.items():
        found = _with_damaged(found, folder, sentences, options, is_top=folder == Path(top))
    for folder in dict.fromkeys(directories):
        if not any(
            case.layout == DICOM and (folder in case.folder.parents or _is_beside(case, folder, True)) for case in found
        ):
            text = "a DICOMDIR is there and no image that it lists; copy the images too"
            found.append(_row(folder, text, options))
    return found


def _below(top: str, path: str) -> Path:
    """Return the folder directly below ``top`` that holds a file; ``top`` where none does."""
    parts = Path(os.path.relpath(path, top)).parts
    return Path(top, parts[0]) if len(parts) > 1 else Path(top)


def _require_known(options: DicomOptions, studies: Mapping[tuple[str, str], Sequence[Record]]) -> None:
    known = {record.series for records in studies.values() for record in records}
    for role, uid in options.series.items():
        if uid not in known:
            raise UsageError(f"--series {role}={uid}: no series has this UID; `inspect` lists those that there are")


def _case(key: tuple[str, str], records: Sequence[Record], options: DicomOptions, told_apart: bool) -> Case:
    patient, study = key
    chosen = choose_series(records, options.series)
    name = records[0].patient_id.replace(os.sep, "_") if options.keep_identity else ""
    name = options.case or name or patient
    if told_apart:
        name = f"{name}-{hashlib.sha256(study.encode()).hexdigest()[:6]}"
    problems = list(chosen.problems)
    if not chosen.images and not problems:
        problems.append(f"{name}: no series shows T1, T1c, T2 or FLAIR; `inspect` lists the series, --series names one")
    warnings = list(chosen.warnings)
    if told_apart:
        warnings.append("the patient has several studies; each is a case of its own")
    files = sum(line.pictures for line in chosen.series)
    return Case(
        case_id=name,
        folder=Path(os.path.commonpath([record.path.parent for record in records])),
        layout=DICOM,
        layout_reason=f"a DICOM study of {len(chosen.series)} series, {files} pictures",
        images=chosen.images,
        reference=None,
        problems=tuple(problems),
        warnings=tuple(warnings),
        series=chosen.series,
    )


def _with_damaged(
    cases: Sequence[Case], folder: Path, sentences: Sequence[str], options: DicomOptions, *, is_top: bool
) -> list[Case]:
    """Say of a folder's cases that DICOM files beside them cannot be read.

    A folder without a case gets one, called by the hash of its name: folders of an export bear names of patients.
    """
    text = f"{len(sentences)} DICOM files cannot be read ({few(dict.fromkeys(sentences), 2)})"
    beside = [_is_beside(case, folder, is_top) for case in cases]
    if any(beside):
        return [_with_text(case, text) if here else case for case, here in zip(cases, beside, strict=True)]
    return [*cases, _row(folder, text, options)]


def _is_beside(case: Case, folder: Path, is_top: bool) -> bool:
    """Tell whether a folder's files lie where a case's do: in its folder, or, of a study, in a part of that."""
    if case.folder == folder or (case.layout == DICOM and case.folder in folder.parents):
        return True
    return not is_top and folder in case.folder.parents


def _with_text(case: Case, text: str) -> Case:
    """Add a text to the problems of a case that has some, else to its warnings."""
    if case.problems:
        return replace(case, problems=(*case.problems, text))
    return replace(case, warnings=(*case.warnings, text))


def _row(folder: Path, text: str, options: DicomOptions) -> Case:
    hidden = f"DICOM-{hashlib.sha256(os.fsencode(folder.name)).hexdigest()[:10]}"
    if not options.keep_identity:
        text += "; `inspect --keep-identity` names their folder"
    return Case(
        case_id=folder.name if options.keep_identity else hidden,
        folder=folder,
        layout=DICOM,
        layout_reason="its files begin as DICOM does",
        images={},
        reference=None,
        problems=(text,),
    )
