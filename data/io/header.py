"""Checked header of a file of any format, and checks that formats share."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from data.grid import Grid
from data.io.stream import StoredVoxels, printable, refuse

if TYPE_CHECKING:
    from data.case import ImageSource

SPACING_UNKNOWN = b"spacing unknown"
"""The ``descrip`` of a NIfTI file that was written from slices without a voxel size; the reader believes it."""
PLACEMENT_FIELDS = (
    *("pixdim", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z", "sform_code", "qform_code", "xyzt_units"),
)
"""The NIfTI header fields that place voxels in the patient."""
FAR = 1e9
"""No coordinate is larger, in any unit: a kilometre in microns."""

LENGTHS_MM = {"mm": 1.0, "um": 1e-3, "cm": 10.0, "m": 1e3}
"""Units of length of MetaImage and NRRD headers, in mm."""
_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
SPACING_RANGE_MM = (0.01, 100.0)
"""A voxel of a head measures so much along each axis."""

_MAX_COSINE = 1e-3  # of the angle between two columns of an affine: float32 rounding stays far below, shear far above


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageHeader:
    """Checked header of an image file.

    Parameters
    ----------
    path : Path
        The file; of slices the first.
    grid : Grid
        Shape (d1, d2, d3) of one volume and its affine in mm, whatever the units of the file.
    dtype : str
        numpy's name of the stored voxel type, before any scaling.
    channels : int
        Volumes of a 4D file, or bands of colour slices; 1 otherwise.
    sform_code, qform_code, xyzt_units : int
        As the NIfTI header stores them; for other formats what is written for them.
    qform : (4, 4) float64 or None
        The qform in the file's own units; None where the file has none.
    warnings : tuple of str
        One sentence for everything that was repaired or is doubtful.
    ndim : int
        2 for a NIfTI file that declares two axes, else 3: a mask gets the same.
    placement : mapping
        `PLACEMENT_FIELDS` of the file, for the writer to copy; empty where the file is no NIfTI.
    segments : mapping of int to str
        Name of each label, where the header of a segmentation gives them.
    is_segmentation : bool
        A segmentation of 3D Slicer, which may be stored no larger than its segments.
    """

    path: Path
    grid: Grid
    dtype: str
    channels: int
    sform_code: int
    qform_code: int
    qform: NDArray[np.float64] | None
    xyzt_units: int
    warnings: tuple[str, ...] = ()
    ndim: int = 3
    placement: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    segments: Mapping[int, str] = field(default_factory=dict)
    is_segmentation: bool = False


def number(word: str) -> float:
    """Return the number that a word of a header spells, NaN for none."""
    # float() takes "2_0", "nan" and digits of other scripts.
    return float(word.strip()) if _NUMBER.fullmatch(word.strip()) else math.nan


def check_affine(path: Path, affine: NDArray[np.float64]) -> None:
    """Refuse an affine that is not finite, is singular, or is sheared."""
    rewrite = "set the orientation and export the image again"
    if not np.isfinite(affine).all():
        refuse(path, f"its affine holds a value that is not finite: {affine[:3].tolist()}", rewrite)
    lengths = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    if lengths.min() < 1e-9 or np.abs(affine).max() > FAR:
        refuse(path, f"its affine is singular or out of range: {affine[:3].tolist()}", rewrite)
    columns = affine[:3, :3] / lengths
    cosine = float(np.abs(columns.T @ columns - np.eye(3)).max())
    if abs(np.linalg.det(columns)) < 1e-3:
        refuse(path, f"its affine is singular: {affine[:3].tolist()}", rewrite)
    if cosine > _MAX_COSINE:
        refuse(
            path,
            f"its affine is sheared: two axes meet at {math.degrees(math.acos(min(cosine, 1.0))):.4g} degrees",
            "resample the image to a rectangular grid",
        )


def millimetres(path: Path, unit: tuple[str, float], affine: NDArray[np.float64], warn: Callable[[str], None]) -> float:
    """Return the factor from a file's units, (name, mm), to mm.

    Units that no head can have are not believed, with a warning.
    """
    name, factor = unit
    lengths = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    low, high = SPACING_RANGE_MM

    def plausible(scale: float) -> bool:
        return bool(low <= lengths.min() * scale and lengths.max() * scale <= high)

    if not plausible(factor):
        if factor == 1 or not plausible(1.0):
            refuse(
                path,
                f"its voxels measure {[float(f'{n:.4g}') for n in lengths * factor]} mm",
                f"a voxel of a head has {low:g} to {high:g} mm: correct the voxel size or its units",
            )
        warn(f"its units are said to be {name}, voxels of {lengths.max() * factor:.4g} mm; they were read as mm")
        return 1.0
    if factor != 1:
        warn(f"its units are {name}; they were converted to mm")
    return factor


def far_away(grid: Grid) -> str | None:
    """Doubt an image with corners that lie too far out.

    A NIfTI file keeps float32, which cannot tell voxels apart there.
    """
    corners = np.array(list(product(*((0, n - 1) for n in grid.shape), (1,))))
    farthest = float(np.abs(corners @ grid.affine[:3].T).max())
    step = float(np.spacing(np.float32(farthest)))
    if step <= min(grid.spacing_mm) / 2:
        return None
    return (
        f"its coordinates reach {farthest:.3g} mm, where NIfTI's numbers have steps of {step:.3g} mm; correct the "
        "origin, or its mask may lie elsewhere in other programs"
    )


def pick_channel(source: ImageSource, path: Path, channels: int, noun: str) -> int:
    """Return the channel that is asked for.

    It is refused where the file has none such, and where a choice is needed and none was made.
    """
    if source.volumes is not None and source.volumes != channels:
        refuse(
            path,
            f"holds {channels} {noun}, but {source.volumes} are named",
            "correct channel_names in dataset.json (without it, MSD's order of four is taken), or the file",
        )
    if source.channel is None and channels > 1:
        refuse(path, f"holds {channels} {noun}, and which one is meant cannot be told", _SPLIT[noun])
    if not 0 <= (source.channel or 0) < channels:
        refuse(path, f"has no channel {source.channel}, only {channels} {noun}, counted from 0", _SPLIT[noun])
    return source.channel or 0


_SPLIT = {
    "volumes": "write each volume into a file of its own",
    "colour bands": "write each modality as grey slices of its own, named after it (flair_1.png)",
}


def itk_header(path: Path, stored: StoredVoxels, grid: Grid, notes: Iterable[str]) -> ImageHeader:
    """Return the header of a format of ITK's, MetaImage or NRRD.

    ``notes`` are its warnings, to which the doubt of :func:`far_away` is added. What such a format lacks is as NIfTI
    files of ours have it.
    """
    doubt = far_away(grid)
    return ImageHeader(
        path=path,
        grid=grid,
        dtype=stored.dtype.name,
        channels=stored.channels,
        sform_code=1,
        qform_code=1,
        qform=None,
        xyzt_units=2 if grid.spacing_known else 0,
        warnings=(*notes, *([f"{printable(path)}: {doubt}"] if doubt else [])),
    )
