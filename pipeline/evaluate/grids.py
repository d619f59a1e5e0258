"""Grids of a prediction and its reference, brought to one."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from data.case import GRID_ORDER, ImageSource
from data.errors import InputError, UsageError
from data.find.discover import discover_cases
from data.grid import TOLERANCE_MM, Grid
from data.io.read import MAX_VOXELS, Volume, read_header
from data.labels import Mask
from data.references import slightly_off
from pipeline.score.tables import text_cell

LEAST_OVERLAP = 0.5
"""Part of the smaller grid that lies within the larger one, at least, where both show one head."""

Masks = dict[str, Mask]


def to_one_grid(
    reference: tuple[Volume, Masks], prediction: tuple[Volume, Masks], resample: bool
) -> tuple[Masks, Masks, Grid, list[str]]:
    """Bring the masks of both sides to one grid.

    It is the reference's where that holds the prediction's.

    Else it is the reference's lattice over both: outside its own box either side is background.

    Returns
    -------
    masks of the reference, masks of the prediction, their grid, and what was done to them that a reader must know.

    Raises
    ------
    data.errors.InputError
        The grids differ and ``resample`` is not set, one has lost its header, or they hardly overlap.
    """
    (expected, truth), (predicted, masks) = reference, prediction
    one, other = predicted.grid, expected.grid
    # Without a voxel size on one side there is no place in the patient to compare, only the number of voxels.
    placed = one.spacing_known and other.spacing_known
    if one.matches(other) if placed else one.shape == other.shape:
        return truth, masks, other, []
    if placed and one.off_mm(other) is not None:  # stored in another order, or by a header that is a little off
        turned = {region: one.turn(mask, other.orientation) for region, mask in masks.items()}
        return truth, turned, other, slightly_off("the prediction", one, other)
    differ = (
        f"prediction and reference lie on different grids: {predicted.header.path} has {one.described()}, "
        f"{expected.header.path} has {other.described()}"
    )
    if not placed:
        _refuse_unplaced(differ, resample)
    _refuse_lost(differ, predicted, expected)
    before, after, share = _beyond(one, other)
    by_format = _are_stored_as_boxes(predicted, expected)
    if share < LEAST_OVERLAP and not by_format:
        raise InputError(
            f"{differ}; only {100 * share:.0f} % of the smaller one lies within the other, so that they do not show "
            "one head: correct the header of one"
        )
    if not resample and not by_format:
        raise InputError(f"{differ}; resample one onto the other, or ask for it with --resample")
    target = _enlarged(other, before, after, differ)
    if target is not other:
        truth = {region: _padded(mask, before, after) for region, mask in truth.items()}
    moved = {region: _resampled(mask, one, target) for region, mask in masks.items()}
    # A box around the segments is how 3D Slicer stores them: nothing to remark.
    return truth, moved, target, [] if by_format else _remarks(one, other, target)


def _remarks(one: Grid, other: Grid, target: Grid) -> list[str]:
    """Return how both sides were brought to one grid, a sentence each."""
    remarks = []
    if not _on_one_lattice(one, other):
        remarks.append(
            f"the prediction was resampled onto the reference's grid, from {one.described()} to {other.described()}"
        )
    if target is not other:
        remarks.append(
            f"the reference is stored for {_sized(other)} voxels of {_sized(target)}; outside that box it was taken "
            "for background"
        )
    elif not remarks:
        remarks.append(
            f"the prediction is stored for {_sized(one)} voxels of {_sized(other)}; outside that box it was taken for "
            "background"
        )
    return remarks


def _refuse_unplaced(differ: str, resample: bool) -> None:
    if not resample:
        raise InputError(f"{differ}; resample one onto the other, or ask for it with --resample")
    raise InputError(f"{differ}; without a voxel size on both sides they cannot be resampled: convert one")


def _sized(grid: Grid) -> str:
    return "x".join(map(str, grid.shape))


def _are_stored_as_boxes(predicted: Volume, expected: Volume) -> bool:
    """Tell whether two grids differ only as 3D Slicer stores boxes."""
    one, other = predicted.grid, expected.grid
    return (
        _on_one_lattice(one, other)
        and (expected.header.is_segmentation or one.offset_in(other) is not None)
        and (predicted.header.is_segmentation or other.offset_in(one) is not None)
    )


# ---- lost headers ----


def has_lost_header(grid: Grid) -> bool:
    """Tell whether an affine is the identity but for signs.

    Tools that know none write it so.
    """
    linear = np.abs(grid.affine[:3, :3])
    return bool(np.abs(linear - np.eye(3)).max() <= TOLERANCE_MM and np.abs(grid.affine[:3, 3]).max() <= TOLERANCE_MM)


def _refuse_lost(differ: str, predicted: Volume, expected: Volume) -> None:
    one, other = predicted.grid, expected.grid
    lost = [volume for volume in (predicted, expected) if has_lost_header(volume.grid)]
    if len(lost) == 1 and other.shape in (one.shape, one.shape[::-1]):
        way_out = "give its images with --like IMAGES" if lost[0] is predicted else "write it again with its header"
        raise InputError(
            f"{differ}; both have the same voxels, and the header of {lost[0].header.path.name} looks lost (the "
            f"identity is its affine): {way_out}"
        )


def images_like(folder: Path | None) -> dict[str, ImageSource]:
    """Return one image of each case of a folder, by cell.

    Without a folder there is none.

    Raises
    ------
    data.errors.UsageError
        There is no such folder, or it holds no image.
    """
    if folder is None:
        return {}
    found = {}
    for case in discover_cases(folder):
        sources = [case.images[name] for name in GRID_ORDER if name in case.images]
        if sources:
            found[text_cell(case.case_id)] = sources[0]
    if not found:
        raise UsageError(f"--like {folder}: holds no image; give the folder of the images that were segmented")
    return found


def with_header_of(volume: Volume, image: ImageSource | None) -> tuple[Volume, list[str]]:
    """Give a label map without header the place of its image.

    A warning says so.

    One stored with its axes reversed, as arrays of SimpleITK are, is turned. Any other label map stays as it is.
    """
    if image is None or not has_lost_header(volume.grid):
        return volume, []
    grid, array = read_header(image).grid, volume.array
    if grid.matches(volume.grid) or grid.shape not in (array.shape, array.shape[::-1]):
        return volume, []
    if grid.shape != array.shape:
        array = array.transpose()
    remark = f"the header of {volume.header.path.name} is lost; that of {image.paths[0].name} was taken (--like)"
    return replace(volume, array=array, header=replace(volume.header, grid=grid)), [remark]


# ---- places ----


def _beyond(one: Grid, other: Grid) -> tuple[list[int], list[int], float]:
    """Return how many voxels of ``other``'s lattice ``one`` reaches beyond it, and their overlap.

    The numbers are those before and after it along each axis; the overlap is a part of the smaller grid.
    """
    corners = np.array([[-0.5 if low else n - 0.5 for low, n in zip(c, one.shape, strict=True)] for c in _CORNERS])
    to_other = np.linalg.solve(other.affine, one.affine)
    edges = corners @ to_other[:3, :3].T + to_other[:3, 3]
    low, high, shape = edges.min(axis=0), edges.max(axis=0), np.array(other.shape)
    tolerance = TOLERANCE_MM / np.array(other.spacing_mm)
    before = np.maximum(np.floor(-low + tolerance), 0).astype(int)
    after = np.maximum(np.floor(high - (shape - 1) + tolerance), 0).astype(int)
    shared = np.maximum(np.minimum(high, shape - 0.5) - np.maximum(low, -0.5), 0)
    own = abs(np.linalg.det(to_other[:3, :3])) * math.prod(one.shape)  # in voxels of the other
    return before.tolist(), after.tolist(), float(shared.prod() / min(own, shape.prod()))


_CORNERS = [(a, b, c) for a in (True, False) for b in (True, False) for c in (True, False)]


def _enlarged(grid: Grid, before: list[int], after: list[int], differ: str) -> Grid:
    if not any(before) and not any(after):
        return grid
    shape = tuple(n + a + b for n, a, b in zip(grid.shape, before, after, strict=True))
    if math.prod(shape) > MAX_VOXELS:
        raise InputError(f"{differ}; one grid over both would have {math.prod(shape)} voxels: resample one")
    affine = grid.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ np.array(before)
    return Grid(shape, affine, grid.spacing_known)  # type: ignore[arg-type]


def _on_one_lattice(one: Grid, other: Grid) -> bool:
    """Tell whether voxel centres of both grids coincide, in any order of axes."""
    turned = one.reoriented(other.orientation)
    moved = np.linalg.solve(other.affine, turned.affine)
    drift = np.abs(moved[:3, :3] - np.eye(3)) * np.array(turned.shape)
    apart = np.abs(moved[:3, 3] - np.round(moved[:3, 3]))
    return bool(max(drift.max(), apart.max()) * max(other.spacing_mm) <= TOLERANCE_MM)


def _padded(mask: Mask, before: list[int], after: list[int]) -> Mask:
    return np.pad(mask, list(zip(before, after, strict=True)))


def _resampled(mask: Mask, source: Grid, target: Grid) -> Mask:
    """Linear interpolation of the region, then the threshold .5; nested regions stay nested."""
    import torch  # takes seconds to import

    from transforms.restore import resample_to

    share = resample_to(torch.from_numpy(mask.astype(np.float32))[None], source, target)[0]
    return np.asarray((share >= 0.5).numpy())
