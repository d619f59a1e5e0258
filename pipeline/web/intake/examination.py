"""DICOM examination of an upload: its series, and the choice among them.

Names of files and folders of an export bear names of patients, so none is kept or said. It runs in the checking process
alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from data.case import MODALITIES, ImageSource, Series
from data.errors import InputError, few
from data.find.dicom.choice import choose_series, tie_fix
from data.find.dicom.examinations import read_studies
from data.find.visits.names import date_of
from pipeline.web.names import Received, one_line
from pipeline.web.store import Source

MOST_SERIES = 64
"""Largest number that is shown; those of which a role was found come first."""
_NO_READER = (
    "the upload holds DICOM, which this server cannot read (the extra `dicom` is not installed); export the images as "
    "NIfTI, or tell the person who runs the server"
)


@dataclass(frozen=True)
class Examination:
    """Series of an upload, with remarks.

    ``name`` is a hash of PatientID; ``ties`` are (modality, sentence) of those for which a user must choose.
    """

    name: str
    sources: tuple[Source, ...]
    reason: str
    ties: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    date: str = ""
    """Day of the study, ``2021-03-04``; empty where it is not told."""


def take_examination(files: Sequence[Received], folder: Path) -> Examination:
    """Keep DICOM files as ``folder/f0001.dcm`` and so on, and choose among their series.

    Raises
    ------
    InputError
        They cannot be read here or at all, or are of several examinations.
    """
    if find_spec("pydicom") is None:
        raise InputError(_NO_READER)
    paths = []
    for number, item in enumerate(files, 1):
        kept = folder / f"f{number:04d}.dcm"
        item.path.rename(kept)
        paths.append(str(kept))
    studies, unread, _ = read_studies(paths)
    said = f"{len(unread)} of {len(files)} DICOM files cannot be read ({few(dict.fromkeys(s for _, s in unread), 2)})"
    if not studies:
        what = said if unread else "the upload holds an index of DICOM files (DICOMDIR) and none of them"
        raise InputError(f"{what}; drop the folder of the examination")
    if len(studies) > 1:
        raise InputError(f"the upload holds {len(studies)} DICOM examinations; drop one at a time")
    [((patient, _), records)] = studies.items()
    chosen = choose_series(records, {})
    shown = _shown(chosen.series)
    several = Counter(line.uid for line in chosen.series)
    sources = tuple(
        _source(str(place), chosen.series[i], chosen.files[i], several[chosen.series[i].uid] > 1)
        for place, i in enumerate(shown, 1)
    )
    ties = {role: _for_page(role, text) for text in chosen.problems for role in MODALITIES if _is_tie(role, text)}
    notes = [text for text in chosen.problems if not any(_is_tie(role, text) for role in MODALITIES)]
    notes += [*chosen.warnings, *([said] if unread else [])]
    if len(shown) < len(chosen.series):
        notes.append(f"{len(chosen.series) - len(shown)} further series are not shown")
    reason = f"a DICOM examination of {len(chosen.series)} series"
    day = date_of(records[0].study_date)
    date = "" if day is None else day.isoformat()
    return Examination(patient, sources, reason, tuple(ties.items()), tuple(notes), date)


def _shown(series: Sequence[Series]) -> list[int]:
    """Return the places of the series that are shown, in their order."""
    first = sorted(range(len(series)), key=lambda i: (not series[i].role, i))
    return sorted(first[:MOST_SERIES])


def _source(number: str, line: Series, files: ImageSource, of_several: bool) -> Source:
    number_said = "without a number" if line.number is None else str(line.number)
    pictures = "1 picture" if line.pictures == 1 else f"{line.pictures} pictures"
    name = f"Series {number_said}: {one_line(line.description) or 'no description'} ({pictures})"
    name += f", part {number}" if of_several else ""
    role = line.role or None
    kept = tuple(path.name for path in files.paths)
    return Source(number, name, kept, None, role, role, series=line.uid, reasons=tuple(map(one_line, line.reasons)))


def _is_tie(role: str, text: str) -> bool:
    return text.startswith(f"{role}: ") and text.endswith(tie_fix(role))


def _for_page(role: str, text: str) -> str:
    return text.removesuffix(tie_fix(role)) + "choose one in the list"
