"""Patients as found on disk.

Plain frozen data, made by `data.find.walk` and used by everything above.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

MODALITIES = ("t1", "t1c", "t2", "flair")
GRID_ORDER = ("t1c", "flair", "t1", "t2")
"""The first of these that a patient has gives the grid; the contrast-enhanced scan usually has the smallest voxels."""

DICOM = "dicom"
"""Layout of a DICOM examination."""

MAX_VOXELS = 2**28
"""Most voxels of up to 4 bytes that one file may declare, all its volumes together (float64 counts double)."""


_SERIES = "series "


@dataclass(frozen=True)
class ImageSource:
    """Place of one image's voxels.

    Parameters
    ----------
    paths : tuple of Path
        One file, or the slices of one volume in natural order.
    channel : int or None
        Index of the volume in a 4D file or of the band in colour slices; None when there is only one.
    volumes : int or None
        So many volumes the names, or dataset.json, give the file; None where they say nothing of it.
    series : str
        SeriesInstanceUID where the files are DICOM, which their names do not tell; else ``""``.
    """

    paths: tuple[Path, ...]
    channel: int | None = None
    volumes: int | None = field(default=None, compare=False)
    series: str = ""

    @property
    def names(self) -> list[str]:
        """Paths as records and pages may show them.

        Of DICOM it is the series, for its files may bear a person's name.
        """
        return [f"{_SERIES}{self.series}"] if self.series else [str(path) for path in self.paths]

    @classmethod
    def named(cls, names: Sequence[str], channel: int | None) -> ImageSource:
        """Make an image of its `names`; that of a DICOM series has no paths."""
        series = names[0].removeprefix(_SERIES) if names and names[0].startswith(_SERIES) else ""
        return cls(() if series else tuple(map(Path, names)), channel, series=series)

    def absolute(self) -> ImageSource:
        """Return the image with absolute paths."""
        return replace(self, paths=tuple(path.absolute() for path in self.paths))


@dataclass(frozen=True, kw_only=True)
class Series:
    """One series of an examination, and the use made of it.

    Parameters
    ----------
    uid : str
        SeriesInstanceUID.
    number : int or None
    description : str
        Without the words of a person's name.
    role : str
        The modality that it was taken for; ``""`` where it was left aside.
    pictures : int
    reasons : tuple of str
        Why it was taken, or left aside.
    """

    uid: str
    number: int | None
    description: str
    role: str
    pictures: int
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class TimePoint:
    """Visit of a patient, and its place among the patient's others.

    Parameters
    ----------
    label : str
        As the data set spells it: ``000``, ``week-044-1``, ``ses-01``, ``2021-03-04``.
    date : datetime.date or None
        Day of the scan, where a name, a table or a DICOM header tells it; data sets may have shifted it.
    days : float or None
        Days since the patient's first visit that was found; None where no date or week is known of each visit.
    order : int
        Place among the patient's visits, from 0. Two visits of one day stand in the order of their labels.
    order_from : {"date", "days", "number", "name"}
        Evidence for the order. A name is none (``predrug``): its order is that of the alphabet, which says nothing.
    """

    label: str
    date: date | None = None
    days: float | None = None
    order: int = 0
    order_from: str = "name"

    def as_record(self) -> dict[str, str | float | None]:
        """Return the values as JSON holds them, the date as ``2021-03-04``."""
        return {
            "timepoint": self.label,
            "date": None if self.date is None else self.date.isoformat(),
            "days": self.days,
            "order": self.order,
            "order_from": self.order_from,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> TimePoint | None:
        """Make a time point of a record that may hold anything; None where it is none."""
        label, day, days, order = (record.get(key) for key in ("timepoint", "date", "days", "order"))
        if not isinstance(label, str) or not label or type(order) is not int:
            return None
        told = record.get("order_from")
        try:
            known = date.fromisoformat(day) if isinstance(day, str) else None
        except ValueError:
            known = None
        number = float(days) if isinstance(days, int | float) and not isinstance(days, bool) else None
        return cls(label, known, number, order, told if told in ("date", "days", "number") else "name")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One patient as found on disk; nothing but names was looked at.

    Parameters
    ----------
    case_id : str
        The path of the patient's folder below the root, without folders that only say what they hold (``P1`` for
        ``P1/images``, ``sub-01/ses-1`` for ``sub-01/ses-1/anat``), and the name inside the file names where several
        patients lie in it. A public set's own name stands alone (``BraTS2021_00001``). It follows from the patient's
        own path and files, so that another patient changes none. Unique within one discovery.
    folder : Path
        The folder that holds the files.
    layout, layout_reason : str
        Which naming was recognised, and a sentence that says why.
    images : mapping of str to ImageSource
        Modality (t1, t1c, t2, flair) to its image; a missing modality is absent.
    reference : ImageSource or None
    conventions : tuple of str
        Label conventions that the naming admits, best first; empty when it says nothing.
    conventions_from : str
        What tells them where it is not the naming: the names in the header of a segmentation.
    problems : tuple of str
        Sentences that make the patient an error row.
    warnings : tuple of str
        Sentences about what is doubtful.
    unrecognised : tuple of Path
        Files (and folders within) that no layout names; they change nothing.
    series : tuple of Series
        All series of a DICOM examination, in the order of their numbers; empty for other patients.
    patient : str
        The patient whom it shows, one for all time points; the case's id where nothing tells of others.
    timepoint : TimePoint or None
        None where nothing tells that it is one.
    """

    case_id: str
    folder: Path
    layout: str
    layout_reason: str
    images: Mapping[str, ImageSource]
    reference: ImageSource | None
    conventions: tuple[str, ...] = ()
    conventions_from: str = ""
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    unrecognised: tuple[Path, ...] = ()
    series: tuple[Series, ...] = ()
    patient: str = ""
    timepoint: TimePoint | None = None

    def __post_init__(self) -> None:
        if not self.patient:
            object.__setattr__(self, "patient", self.case_id)

    @property
    def shown(self) -> str:
        """Place of the patient in sentences.

        Of a DICOM examination it is the case's id, for folders may bear a person's name.
        """
        return self.case_id if self.layout == DICOM else str(self.folder)


def same_patients(cases: Iterable[Case]) -> list[list[str]]:
    """Return the ids of the cases of each patient that has several."""
    groups: dict[str, list[str]] = {}
    for case in cases:
        groups.setdefault(case.patient, []).append(case.case_id)
    return [group for group in groups.values() if len(group) > 1]
