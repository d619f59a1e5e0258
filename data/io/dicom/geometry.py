"""Grid of a DICOM volume: where its pictures lie, and in which order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.case import MAX_VOXELS
from data.errors import Mend
from data.grid import Grid
from data.io.dicom.record import Frame, Record
from data.io.header import FAR, check_affine
from data.io.stream import refuse

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_SAME_DIRECTION = 1e-3
"""Direction cosines of two pictures of one volume differ by no more."""
_OFF_THE_LINE, _OFF_THE_LINE_MM = 0.02, 0.02
"""A slice lies no farther from its place, in distances of slices and in mm beside it."""
_TILT = 1e-3
_EXPORT = "export the series again, whole and once"


@dataclass(frozen=True, eq=False)
class Stack:
    """Pictures of one volume in the order of their places.

    Parameters
    ----------
    records : tuple of Record
        Its files.
    order : tuple of (file, frame)
        Indices into ``records`` and into that file's frames, slice by slice.
    grid : Grid
        Array axes are columns, rows and slices: (columns, rows, slices) voxels.
    """

    records: tuple[Record, ...]
    order: tuple[tuple[int, int], ...]
    grid: Grid


def stack(records: Sequence[Record], max_voxels: int = MAX_VOXELS) -> Stack:
    """Put the pictures of one volume in order.

    Parameters
    ----------
    records : sequence of Record
        The files of one volume, in any order; a file that is there twice counts once.

    Returns
    -------
    Stack

    Raises
    ------
    data.errors.InputError
        The pictures are no volume: slices are missing, doubled, tilted or of several volumes, or a place is not said.
    """
    records = tuple({(record.instance or record.path, record.frames): record for record in records}.values())
    shown = Path(records[0].shown)
    _check_pictures(shown, records, max_voxels)
    frames = [(r, f, frame) for r, record in enumerate(records) for f, frame in enumerate(record.frames)]
    first = frames[0][2]
    if first.orientation is None or first.spacing is None or any(frame.position is None for *_, frame in frames):
        refuse(shown, "its pictures have no place in the patient", "export the original series, not pictures of it")
    if min(first.spacing) <= 0:
        refuse(shown, "its pixels measure {:g} x {:g} mm".format(*first.spacing), _EXPORT)
    across, down = _directions(shown, first.orientation)
    for *_, frame in frames:
        if not _near(frame.orientation, first.orientation, _SAME_DIRECTION):
            refuse(shown, "its pictures lie in several directions", "export each direction as a series of its own")
        if not _near(frame.spacing, first.spacing, 1e-4 * max(first.spacing)):
            refuse(shown, "its pictures have several pixel sizes", _EXPORT)
    positions = np.array([frame.position for *_, frame in frames], float)
    if np.abs(positions).max() > FAR:
        refuse(shown, f"its pictures lie {np.abs(positions).max():.3g} mm away", "export the series again")
    depths = positions @ np.cross(across, down)
    order = np.argsort(depths, kind="stable")
    step = _step(shown, positions[order], depths[order], np.cross(across, down), _thickness(records[0]))
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = across * first.spacing[1], down * first.spacing[0], step
    affine[:3, 3] = positions[order[0]]
    affine = LPS_TO_RAS @ affine
    check_affine(shown, affine)
    shape = (records[0].columns, records[0].rows, len(frames))
    return Stack(records, tuple((frames[i][0], frames[i][1]) for i in order), Grid(shape, affine))


def _check_pictures(shown: Path, records: Sequence[Record], max_voxels: int) -> None:
    """Refuse pictures that cannot be read as one volume, from their headers alone."""
    first = records[0]
    kinds = {(r.rows, r.columns, r.bits, r.signed, r.samples) for r in records}
    if len(kinds) > 1:
        sizes = " and ".join(sorted({f"{r.columns} x {r.rows}" for r in records})[:3])
        refuse(shown, f"its pictures differ ({sizes} pixels, or in their kind)", _EXPORT)
    if first.samples != 1 or not first.photometric.startswith("MONOCHROME"):
        refuse(shown, f"its pictures are in colour ({first.photometric or first.samples})", "give the original series")
    if first.photometric != "MONOCHROME2":
        refuse(shown, "its greys are inverted (MONOCHROME1)", "export the original series")
    if any(record.burned_in for record in records):
        refuse(shown, "text is burnt into its pictures", "export the original series")
    allocated, stored, high = first.bits
    if allocated not in (8, 16, 32) or not 1 <= stored <= allocated or not stored - 1 <= high < allocated:
        refuse(shown, f"its pixels have {stored} of {allocated} bits, the highest {high}", "export the series again")
    if first.rows < 1 or first.columns < 1:
        refuse(shown, f"declares {first.columns} x {first.rows} pixels", "export the original series")
    count = sum(record.n_frames for record in records)
    if first.rows * first.columns * count > max_voxels:
        declared = f"declares {first.columns} x {first.rows} x {count} voxels, over the limit of {max_voxels}"
        refuse(shown, declared, Mend.CHECK_HEADER)
    if any(record.n_frames != len(record.frames) for record in records):
        refuse(shown, "not every picture of it has a place in the patient", "export the original series")
    for slope, intercept in {frame.scaling for record in records for frame in record.frames}:
        if not math.isfinite(slope) or slope == 0:
            refuse(shown, f"RescaleSlope is {'0' if slope == 0 else 'no number'}", _EXPORT)
        if not math.isfinite(intercept):
            refuse(shown, "RescaleIntercept is no number", _EXPORT)


def _directions(shown: Path, orientation: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    across, down = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = np.linalg.norm(across), np.linalg.norm(down)
    if min(lengths) < 0.9 or max(lengths) > 1.1 or abs(across @ down) > _SAME_DIRECTION:
        refuse(shown, f"the directions of its rows and columns are no right angle: {list(orientation)}", _EXPORT)
    return across / lengths[0], down / lengths[1]


def _near(one: Sequence[float] | None, other: Sequence[float], tolerance: float) -> bool:
    return one is not None and max(abs(a - b) for a, b in zip(one, other, strict=True)) <= tolerance


def _thickness(record: Record) -> float:
    thickness = record.thickness or 0.0
    return thickness if 0 < thickness < FAR else 1.0


def _step(
    shown: Path, positions: NDArray[np.float64], depths: NDArray[np.float64], normal: NDArray[np.float64], alone: float
) -> NDArray[np.float64]:
    """Return the way from a slice to the next, in mm, (3,); ``alone`` is the length where there is one slice."""
    if len(depths) == 1:
        return normal * alone
    gaps = np.diff(depths)
    usual = float(np.median(gaps))
    if gaps.min() < 1e-3 + 0.05 * max(usual, 0.0):
        doubled = int((gaps < 1e-3 + 0.05 * max(usual, 0.0)).sum())
        refuse(shown, f"{doubled} of its {len(depths)} pictures lie where another lies", _several(len(depths), doubled))
    step = (positions[-1] - positions[0]) / (len(depths) - 1)
    places = positions[0] + np.arange(len(depths))[:, None] * step
    off = float(np.linalg.norm(positions - places, axis=1).max())
    if off > max(_OFF_THE_LINE * usual, _OFF_THE_LINE_MM):
        lost = [round(gap / usual) - 1 for gap in gaps if gap > 1.5 * usual and _is_whole(gap / usual)]
        if lost and all(abs(gap / usual - round(gap / usual)) < 0.1 for gap in gaps):
            refuse(shown, f"{sum(lost)} of its slices are missing between {len(depths)} others", _EXPORT)
        refuse(
            shown,
            f"its slices lie {gaps.min():.4g} to {gaps.max():.4g} mm apart",
            "a volume has one distance: export the original series",
        )
    tilt = abs(float(step @ normal)) / float(np.linalg.norm(step))
    if tilt < math.cos(math.asin(_TILT)):
        angle = math.degrees(math.acos(min(tilt, 1.0)))
        refuse(shown, f"its slices are stacked {angle:.3g} degrees askew (gantry tilt)", "resample it upright")
    return step


def _several(n_pictures: int, doubled: int) -> str:
    if doubled * 2 >= n_pictures:
        return "it holds several volumes: export each as a series of its own"
    return _EXPORT


def _is_whole(ratio: float) -> bool:
    return abs(ratio - round(ratio)) < 0.1


def same_kind(one: Frame, other: Frame) -> bool:
    """Tell whether two pictures can belong to one volume: same echo, weighting and direction."""
    if one.kind != other.kind:
        return False
    if one.orientation is None or other.orientation is None:
        return one.orientation is other.orientation
    return _near(one.orientation, other.orientation, _SAME_DIRECTION)
