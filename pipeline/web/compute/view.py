"""Files that the viewer loads: images and masks as NIfTI, on one crop."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cc3d
import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from data.case import ImageSource
from data.errors import InputError
from data.find.naming import MODALITIES
from data.grid import Grid
from data.io.read import Volume, read_volume, write_bytes_atomically
from data.labels import Mask
from data.references import voxels_on
from pipeline.report.colours import region_colour
from pipeline.report.preview import largest_lesion_centre
from pipeline.score.lesions import find_lesions
from transforms.postprocess import bounding_box

if TYPE_CHECKING:  # it imports SimpleITK
    from transforms.registration.move import Move

BRAIN_BIT = 7
"""Bit of the prediction's file that tells the brain; the regions have those below."""


def write_view(
    images: Mapping[str, ImageSource],
    mask: Volume,
    masks: Mapping[str, Mask],
    truth: Mapping[str, Mask] | None,
    folder: Path,
    max_voxels: int,
    *,
    moves: Mapping[str, Move] | None = None,
    brain: Mask | None = None,
) -> dict[str, Any]:
    """Write the viewer's files to ``folder``.

    Returns their description for the API, with file names in place of URLs. Images are shown where their ``moves``
    laid them, and ``brain``, on the mask's grid, is a bit of the prediction.

    All lie on one crop of the mask's grid: to the heads and masks, with a margin of two voxels. An image on another
    grid is resampled for this; one that cannot be brought onto the mask's is left out.
    """
    backgrounds = _backgrounds(images, mask.grid, max_voxels, moves or {})
    filled = np.zeros(mask.grid.shape, dtype=bool)
    for array in (*backgrounds.values(), *masks.values(), *(truth or {}).values()):
        filled |= array != 0
    box = bounding_box(filled, margin=2) if filled.any() else tuple(slice(0, n) for n in mask.grid.shape)
    affine = mask.grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [s.start for s in box]
    regions = list(masks)
    windows: dict[str, list[float]] = {}
    for modality, array in backgrounds.items():
        grey, low, high = _eight_bits(array[box])
        windows[modality] = [low, high]
        write_eight_bits(folder / f"{modality}.nii.gz", grey, affine, (high - low) / 255, low)
    packed = _bits(masks, regions, box)
    has_brain = brain is not None and len(regions) <= BRAIN_BIT
    if brain is not None and has_brain:
        packed |= brain[box].astype(np.uint8) << BRAIN_BIT
    write_eight_bits(folder / "prediction.nii.gz", packed, affine)
    if truth is not None:
        write_eight_bits(folder / "reference.nii.gz", _bits(truth, regions, box), affine)
    whole = next((m for m in [*masks.values(), *(truth or {}).values()] if m.any()), filled)
    centre = mask.grid.affine[:3, :3] @ largest_lesion_centre(whole) + mask.grid.affine[:3, 3]
    return {
        "background": {modality: f"{modality}.nii.gz" for modality in backgrounds},
        "prediction": "prediction.nii.gz",
        "reference": None if truth is None else "reference.nii.gz",
        "regions": regions,
        "colours": [region_colour(region) for region in regions],
        "centre_mm": [round(float(v), 3) for v in centre],
        "windows": windows,
        "offset": [int(s.start) for s in box],
        "brain": BRAIN_BIT if has_brain else None,
    }


def _backgrounds(
    images: Mapping[str, ImageSource], grid: Grid, max_voxels: int, moves: Mapping[str, Move]
) -> dict[str, NDArray[Any]]:
    found: dict[str, NDArray[Any]] = {}
    for modality in sorted(images, key=lambda name: MODALITIES.index(name) if name in MODALITIES else 9):
        try:
            volume = read_volume(images[modality], max_voxels=max_voxels)
        except InputError:  # the run's warnings name it
            continue
        place = moves[modality].lay(volume.grid) if modality in moves else volume.grid
        array = voxels_on(volume, grid) if modality not in moves else None
        if array is None and grid.spacing_known and volume.grid.spacing_known:
            import torch

            from transforms.restore import resample_to

            array = resample_to(torch.from_numpy(np.ascontiguousarray(volume.array)).float()[None], place, grid)[
                0
            ].numpy()
        if array is not None:
            found[modality] = array
    return found


def _eight_bits(image: NDArray[Any]) -> tuple[NDArray[np.uint8], float, float]:
    """Scale an image to 256 grey values, as the report's viewer does.

    They span the 0.5 to the 99.8 percentile of the voxels that are not 0.
    """
    inside = image[image != 0]
    low, high = map(float, np.percentile(inside, [0.5, 99.8])) if inside.size else (0.0, 1.0)
    low = min(low, 0.0)
    high = high if high > low else low + 1.0
    return (
        np.rint(np.clip((image - np.float32(low)) * np.float32(255 / (high - low)), 0, 255)).astype(np.uint8),
        low,
        high,
    )


def _bits(masks: Mapping[str, Mask], regions: list[str], box: tuple[slice, ...]) -> NDArray[np.uint8]:
    packed = np.zeros(next(iter(masks.values()))[box].shape, np.uint8)
    for bit, region in enumerate(regions):
        if region in masks:
            packed[masks[region][box]] |= np.uint8(1 << bit)
    return packed


def write_eight_bits(
    path: Path, array: NDArray[np.uint8], affine: NDArray[Any], slope: float = 1.0, intercept: float = 0.0
) -> None:
    """Write a volume of (d1, d2, d3) uint8 as the viewer reads it: NIfTI-1, little-endian."""
    image = nib.Nifti1Image(array, affine)
    image.header.set_slope_inter(slope, intercept)
    image.header.set_data_offset(352)
    raw = image.header.binaryblock + b"\0" * 4 + array.tobytes(order="F")
    write_bytes_atomically(path, gzip.compress(raw, compresslevel=4, mtime=0))


_NEAR_MM = 0.01
"""Distance below which two centroids are the same: the mask's file holds its grid in single precision."""


def lesion_centres(
    mask: NDArray[np.bool_], grid: Grid, rows: Sequence[Mapping[str, Any]]
) -> dict[int, tuple[int, int, int]]:
    """Return each lesion's voxel that is nearest to the lesion's centroid.

    Parameters
    ----------
    mask : (d1, d2, d3) bool
        Of one region, on ``grid``.
    rows : sequence of mappings
        As of :func:`pipeline.score.lesions.lesion_table`: ``lesion``, ``voxels`` and ``centroid_x_mm`` and so on.

    Returns
    -------
    dict
        Number of the lesion -> index of the voxel in ``mask``; of equally near voxels the first in C order. A row
        with which the component of its number does not agree (lesions that were cut apart, another mask) is left out.
    """
    if not rows or not mask.any():
        return {}
    box = bounding_box(mask)
    corner = np.array([cut.start for cut in box])
    labels, n = find_lesions(mask[box], grid.spacing_mm)
    boxes = cc3d.statistics(labels)["bounding_boxes"]
    found = {}
    for row in rows:
        number = int(row["lesion"])
        if not 1 <= number <= n:
            continue
        part = boxes[number]
        voxels = np.argwhere(labels[part] == number) + corner + [cut.start for cut in part]
        centroid = voxels.mean(axis=0)
        if _agrees(row, len(voxels), grid.affine[:3, :3] @ centroid + grid.affine[:3, 3]):
            apart_mm = np.linalg.norm((voxels - centroid) @ grid.affine[:3, :3].T, axis=1)
            # Rounded to a millionth, so that rounding errors do not choose among equally near voxels.
            i, j, k = voxels[np.round(apart_mm, 6).argmin()].tolist()
            found[number] = (i, j, k)
    return found


def _agrees(row: Mapping[str, Any], voxels: int, centroid_mm: NDArray[np.float64]) -> bool:
    said = np.array([float(row.get(f"centroid_{axis}_mm", np.nan)) for axis in "xyz"])
    return row.get("voxels") == voxels and bool((np.isnan(said) | (np.abs(said - centroid_mm) < _NEAR_MM)).all())
