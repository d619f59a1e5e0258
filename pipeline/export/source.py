"""DICOM series from which a mask was made, as its formats refer to it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.case import MAX_VOXELS, ImageSource
from data.errors import InputError
from data.grid import Grid
from data.io.dicom.dataset import open_dataset, pydicom_or_refuse
from data.io.dicom.geometry import Stack
from data.io.dicom.volume import read_dicom_stack
from pipeline.export.formats import DICOM_OBJECTS, require_series

_ROOT = "2.25."
_ALWAYS = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
    *("AccessionNumber", "ReferringPhysicianName"),
)


@dataclass(frozen=True, eq=False)
class SourceSeries:
    """Headers of a series in the order of its slices.

    They bear the patient's identity, which DICOM masks need to be filed under.

    Parameters
    ----------
    datasets : tuple of pydicom Dataset
        Without pixels; one for each slice, or one of an enhanced file.
    stack : Stack
        Its grid has the axes columns, rows, slices.
    """

    datasets: tuple[Any, ...]
    stack: Stack

    def image_of(self, index: int) -> tuple[Any, int | None]:
        """Return the dataset that shows a slice, and its frame number.

        The number is None in a file of one frame.
        """
        if len(self.datasets) == 1 and len(self.stack.order) > 1:
            return self.datasets[0], self.stack.order[index][1] + 1
        return self.datasets[index], None


def read_source(source: ImageSource, max_voxels: int = MAX_VOXELS) -> SourceSeries:
    """Read the headers of a DICOM series.

    Raises
    ------
    InputError
        The image is no DICOM series, or can no longer be read.
    """
    require_series(DICOM_OBJECTS, [source])
    _, stack = read_dicom_stack(source, max_voxels)
    records = [stack.records[file] for file in dict.fromkeys(file for file, _ in stack.order)]
    return SourceSeries(tuple(_mended(open_dataset(record.path, record.shown, None)) for record in records), stack)


def _mended(dataset: Any) -> Any:
    """Give a header the elements that every DICOM object has.

    They are empty where it lacks them, or where they are no dates.
    """
    kinds = pydicom_or_refuse().valuerep
    for keyword in _ALWAYS:
        if keyword not in dataset:
            setattr(dataset, keyword, "")
    for keyword, kind in (("PatientBirthDate", kinds.DA), ("StudyDate", kinds.DA), ("StudyTime", kinds.TM)):
        try:
            kind(dataset[keyword].value)
        except Exception:  # pydicom raises what a value happens to meet
            setattr(dataset, keyword, "")
    return dataset


def on_source(label_map: NDArray[np.uint8], grid: Grid, source: SourceSeries) -> tuple[NDArray[np.uint8], Grid]:
    """Turn a label map into the planes of a series: (slices, rows, columns).

    Parameters
    ----------
    label_map : (d1, d2, d3)
        On ``grid``.

    Returns
    -------
    ((slices, rows, columns) uint8, Grid)
        The voxels, permuted and flipped, never resampled; the grid has the axes columns, rows, slices. Where the mask
        lies on other voxels than the series, its axes are those nearest to the series'.
    """
    codes = source.stack.grid.orientation
    turned = grid.reoriented(codes)
    voxels = grid.turn(label_map, codes)
    if turned.matches(source.stack.grid):
        turned = source.stack.grid
    elif np.linalg.det(turned.affine[:3, :3]) < 0:  # sets of slices are right-handed in DICOM
        raise InputError(
            "the mask's axes are left-handed where the series' are right-handed; it cannot be a DICOM mask"
        )
    return np.ascontiguousarray(voxels.transpose(2, 1, 0)), turned


def derived_uid(*parts: object) -> str:
    """Return a UID that follows from parts.

    The same mask of the same series is then the same object wherever it is filed.
    """
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    number = bytearray(digest[:16])
    number[6], number[8] = number[6] & 0x0F | 0x50, number[8] & 0x3F | 0x80  # the form of a UUID, PS3.5 B.2
    return _ROOT + str(int.from_bytes(number, "big"))
