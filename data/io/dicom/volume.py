"""Volume of a DICOM series: its header and its voxels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data.io.dicom.geometry import Stack, stack
from data.io.dicom.pixels import COMPRESSED, check_syntax, is_lossy, read_frames
from data.io.dicom.record import read_record
from data.io.header import ImageHeader, far_away, millimetres
from data.io.stream import refuse

if TYPE_CHECKING:
    from data.case import ImageSource

UNSCALED = (1.0, 0.0)


def read_dicom_stack(source: ImageSource, max_voxels: int) -> tuple[ImageHeader, Stack]:
    """Read and check the headers of a volume's files.

    Raises
    ------
    data.errors.InputError
        As :func:`data.io.dicom.geometry.stack` does; the sentence names the series, never a file or a person.
    """
    pictures = stack([read_record(path) for path in source.paths], max_voxels)
    first = pictures.records[0]
    shown = Path(first.shown)
    notes: list[str] = []

    def warn(text: str) -> None:
        notes.append(f"{shown}: {text}")

    for record in pictures.records:
        check_syntax(record)
        if record.syntax not in COMPRESSED and _declared_bytes(record) > record.path.stat().st_size:
            refuse(
                shown, f"a file of it is shorter than its {_declared_bytes(record)} bytes of pixels", "copy it again"
            )
    if is_lossy(first.syntax):
        warn(f"its pictures were stored with loss ({COMPRESSED[first.syntax]}); masks follow what was lost")
    millimetres(shown, ("mm", 1.0), pictures.grid.affine, warn)
    if doubt := far_away(pictures.grid):
        warn(doubt)
    header = ImageHeader(
        path=shown,
        grid=pictures.grid,
        dtype=_stored_type(pictures).name,
        channels=1,
        sform_code=1,
        qform_code=1,
        qform=None,
        xyzt_units=2,
        warnings=tuple(notes),
    )
    return header, pictures


def _declared_bytes(record: Any) -> int:
    return int(record.rows * record.columns * record.n_frames * record.bits[0] // 8)


def _stored_type(pictures: Stack) -> np.dtype:
    first = pictures.records[0]
    return np.dtype(f"{'i' if first.signed else 'u'}{first.bits[0] // 8}")


def read_dicom_voxels(pictures: Stack, type_for: Callable[[np.dtype, bool], np.dtype]) -> NDArray[Any]:
    """Read the voxels of a volume, (columns, rows, slices), scaling applied slice by slice.

    Parameters
    ----------
    type_for : callable
        Of the stored type, and whether it is scaled: the type of the voxels.
    """
    stored = _stored_type(pictures)
    scalings = {frame.scaling for record in pictures.records for frame in record.frames}
    scaled = scalings != {UNSCALED}
    # In the order of the pictures, of which each lies in one piece.
    voxels = np.empty(pictures.grid.shape, type_for(stored, scaled), order="F")
    places = {place: index for index, place in enumerate(pictures.order)}
    for file, record in enumerate(pictures.records):
        for number, pixels in enumerate(read_frames(record)):
            slope, intercept = record.frames[number].scaling
            target = voxels[:, :, places[file, number]]
            if record.frames[number].scaling == UNSCALED:
                target[...] = pixels.T
            else:
                target[...] = pixels.T * np.float32(slope) + np.float32(intercept)
            if record.padding is not None and record.padding < 0:
                target[record.padding == pixels.T] = 0  # marks what lies outside the image
    return voxels
