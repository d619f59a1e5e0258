"""Patients of DICOM files: one case for each study."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from data.case import DICOM, MODALITIES, Case, TimePoint
from data.errors import InputError, UsageError, few
from data.find.dicom.choice import choose_series
from data.find.visits.names import date_of
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
    studies, unread, media = read_studies(paths)
    broken: dict[Path, list[str]] = {}
    for path, sentence in unread:
        broken.setdefault(_below(top, path), []).append(sentence)
    _require_known(options, studies)
    if options.case is not None and len(studies) != 1:
        raise UsageError(f"--case {options.case}: {len(studies)} DICOM studies are there; it names one alone")
    ordered = sorted(studies, key=lambda key: (key[0], studies[key][0].study_date, key[1]))
    days = Counter((patient, records[0].study_date) for (patient, _), records in studies.items())
    found = [*cases]
    for key in ordered:
        records = studies[key]
        found.append(_case(key, records, options, alone=days[key[0], records[0].study_date] == 1))
    for folder, sentences in broken.items():
        found = _with_damaged(found, folder, sentences, options, is_top=folder == Path(top))
    for folder in dict.fromkeys(_below(top, path) for path in media):
        if not any(
            case.layout == DICOM and (folder in case.folder.parents or _is_beside(case, folder, True)) for case in found
        ):
            text = "a DICOMDIR is there and no image that it lists; copy the images too"
            found.append(_row(folder, text, options))
    return found


def read_studies(
    paths: Sequence[str],
) -> tuple[dict[tuple[str, str], list[Record]], list[tuple[str, str]], list[str]]:
    """Read the headers of DICOM files.

    Returns
    -------
    studies, unread, media
        The records of each study, which is known by its patient and StudyInstanceUID; (path, sentence) of each file
        that cannot be used; and the DICOMDIR files, which are neither.
    """
    studies: dict[tuple[str, str], list[Record]] = {}
    unread: list[tuple[str, str]] = []
    media: list[str] = []
    for path in paths:
        try:
            record = read_record(Path(path))
        except InputError as error:
            unread.append((path, str(error)))
            continue
        if record.sop_class == _DIRECTORY:
            media.append(path)
        elif not record.series:
            unread.append((path, "a DICOM file: has no SeriesInstanceUID"))
        else:
            studies.setdefault((record.patient, record.study), []).append(record)
    return studies, unread, media


def _below(top: str, path: str) -> Path:
    """Return the folder directly below ``top`` that holds a file; ``top`` where none does."""
    parts = Path(os.path.relpath(path, top)).parts
    return Path(top, parts[0]) if len(parts) > 1 else Path(top)


def _require_known(options: DicomOptions, studies: Mapping[tuple[str, str], Sequence[Record]]) -> None:
    known = {record.series for records in studies.values() for record in records}
    for role, uid in options.series.items():
        if uid not in known:
            raise UsageError(f"--series {role}={uid}: no series has this UID; `inspect` lists those that there are")


def _case(key: tuple[str, str], records: Sequence[Record], options: DicomOptions, *, alone: bool) -> Case:
    """Return the case of a study.

    It is called after patient and study, so that a further study renames none. ``alone`` is the patient's only study of
    its day.
    """
    person, study = key
    chosen = choose_series(records, options.series)
    patient = (records[0].patient_id.replace(os.sep, "_") if options.keep_identity else "") or person
    digits = hashlib.sha256(study.encode()).hexdigest()[:6]
    name = options.case or f"{patient}-{digits}"
    problems = list(chosen.problems)
    if not chosen.images and not problems:
        problems.append(f"{name}: no series shows T1, T1c, T2 or FLAIR; `inspect` lists the series, --series names one")
    warnings = list(chosen.warnings)
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
        patient=options.case or patient,
        timepoint=_time_point(records[0].study_date, digits, alone),
    )


def _time_point(text: str, digits: str, alone: bool) -> TimePoint:
    """Return the time point of a study.

    Its label is the date, with ``digits`` where another study has that date, and they alone where none is known.
    """
    day = date_of(text)
    if day is None:
        return TimePoint(digits)
    return TimePoint(day.isoformat() if alone else f"{day.isoformat()}-{digits}", day)


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
    """Tell whether a folder's files lie where a case's do.

    That is in its folder, or, of a study, in a part of that.
    """
    if case.folder == folder or (case.layout == DICOM and case.folder in folder.parents):
        return True
    return not is_top and folder in case.folder.parents


def _with_text(case: Case, text: str) -> Case:
    """Add a text to a case's problems, if any, else to its warnings."""
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
