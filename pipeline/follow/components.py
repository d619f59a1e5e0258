"""Components of a region at one visit.

They are measured on its own grid and laid on the baseline's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data.grid import Grid
from data.labels import Mask
from pipeline.follow.measures import MEASURABLE_MM, THICK_MM, at_most, is_measurable_2d, is_measurable_3d
from pipeline.score.diameters import axial_diameters, slice_axis
from pipeline.score.lesions import Labels, find_lesions, measure_lesions
from transforms.postprocess import bounding_box

Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True, eq=False)
class Component:
    """One component of a region at one visit.

    Parameters
    ----------
    number : int
        In `Components.labels`, from 1.
    volume_ml, longest_mm, perpendicular_mm : float
        On the visit's own grid.
    slice : int
        Index of the diameter's slice along the visit's slice axis.
    measurable, measurable_3d, measurable_2010 : bool
        See `pipeline.follow.measures`; the last is None where slices are at most 5 mm thick.
    laid_ml : float
        Volume of the baseline's voxels on which it is laid.
    places_mm : (n, 3) float64
        Its voxels' centres, laid on the baseline, mm (RAS+).
    """

    number: int
    volume_ml: float
    longest_mm: float
    perpendicular_mm: float
    slice: int
    measurable: bool
    measurable_3d: bool
    measurable_2010: bool | None
    laid_ml: float
    places_mm: NDArray[np.float64]

    @property
    def centre_mm(self) -> tuple[float, ...]:
        """Mean of its places on the baseline, to a thousandth of a mm."""
        return tuple(np.round(self.places_mm.mean(axis=0), 3).tolist())


@dataclass(frozen=True, eq=False)
class Components:
    """Numbered components of a region at one visit.

    Parameters
    ----------
    labels : (d1, d2, d3) int32
        Their numbers on the visit's own grid; 0 elsewhere.
    laid : (b1, b2, b3) int32
        The same on the baseline's grid.
    grid, baseline : Grid
        Of ``labels`` and of ``laid``.
    found : tuple of Component
        By number.
    """

    labels: Labels
    laid: Labels
    grid: Grid
    baseline: Grid
    found: tuple[Component, ...]


def find_components(mask: Mask, grid: Grid, matrix: NDArray[np.float64], baseline: Grid) -> Components:
    """Find, measure and lay the components of a region at one visit.

    Parameters
    ----------
    mask : (d1, d2, d3) bool
        On ``grid``; may be empty.
    grid : Grid
        Of the visit, with a known spacing.
    matrix : (4, 4) float64
        Takes a place at the baseline to the same anatomy's place at the visit, mm
        (`transforms.registration.move.Move`).
    baseline : Grid
        Onto which components are laid: each voxel takes the component that lies at its middle. A component that lies
        at none (the baseline's voxels are larger) takes the voxels in which its own voxels' middles lie.

    Raises
    ------
    ValueError
        When the mask is not boolean or not of the grid's shape, or the spacing is not known.
    """
    mask = np.asarray(mask)
    if mask.shape != grid.shape:
        raise ValueError(f"the mask is {mask.shape}, the grid {grid.shape}; resample it to the grid first")
    if not grid.spacing_known:
        raise ValueError("lesions of images without a voxel size cannot be followed: give the spacing")
    labels, _ = find_lesions(mask, grid.spacing_mm)
    box = bounding_box(mask)
    corner = np.array([cut.start for cut in box])
    inside = np.ascontiguousarray(labels[box])
    to_baseline = np.linalg.inv(matrix) @ grid.affine
    places = _places(inside, corner, to_baseline)
    laid = lay_box(inside, corner, np.linalg.inv(to_baseline), baseline, order=0)
    for number, places_mm in enumerate(places, start=1):
        _push(laid, number, places_mm, baseline)
    laid_ml = np.bincount(laid[laid > 0], minlength=len(places) + 1) * baseline.voxel_volume_ml
    found = []
    for row in measure_lesions(inside, corner, grid):
        number = row["lesion"]
        size = (row["volume_ml"], row["diameter_mm"], row["perpendicular_mm"], row["slice"])
        shape = _measurable(inside == number, row["diameter_mm"], row["perpendicular_mm"], grid)
        found.append(Component(number, *size, *shape, float(laid_ml[number]), places[number - 1]))
    return Components(labels, laid, grid, baseline, tuple(found))


def _measurable(lesion: Mask, longest_mm: float, perpendicular_mm: float, grid: Grid) -> tuple[bool, bool, bool | None]:
    """Tell whether a lesion is measurable in 2D, in 3D and by RANO 2010."""
    axis = slice_axis(grid.affine)
    slice_mm = grid.spacing_mm[axis]
    used = np.flatnonzero(lesion.any(axis=tuple({0, 1, 2} - {axis})))
    # No slice has a longer diameter than the longest: a small lesion needs no look at each.
    sizes = []
    for index in used if longest_mm >= MEASURABLE_MM * (1 - 1e-6) else ():
        size = axial_diameters(lesion.take([index], axis), grid.affine, axis=axis)
        sizes.append((size.diameter_mm, size.perpendicular_mm))
    height_mm = float(used[-1] - used[0] + 1) * slice_mm
    by_2010 = None if at_most(slice_mm, THICK_MM) else is_measurable_2d(sizes, slice_mm=slice_mm)
    return is_measurable_2d(sizes), is_measurable_3d((longest_mm, perpendicular_mm, height_mm)), by_2010


def _places(labels: Labels, corner: NDArray[np.int64], affine: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Return the places, (n, 3) in mm, of each component's voxels."""
    voxels = np.argwhere(labels)
    numbers = labels[tuple(voxels.T)]
    places = (voxels + corner) @ affine[:3, :3].T + affine[:3, 3]
    order = np.argsort(numbers, kind="stable")
    return np.split(places[order], np.cumsum(np.bincount(numbers, minlength=1)[1:]))[:-1]


def lay_box(
    array: NDArray[Number], corner: NDArray[np.int64], to_voxels: NDArray[Any], baseline: Grid, order: int
) -> NDArray[Number]:
    """Lay a part of a visit's array on the baseline's grid.

    Around it is 0.

    Parameters
    ----------
    array : (n1, n2, n3)
    corner : (3,) int
        Its first voxel's place on the visit's grid.
    to_voxels : (4, 4) float64
        From places at the baseline, mm, to voxels of the visit's grid.
    order : 0 or 1
        Nearest voxel, or linear interpolation.

    Returns
    -------
    array of the baseline's shape and the same number type
    """
    laid = np.zeros(baseline.shape, array.dtype)
    to_array = to_voxels @ baseline.affine
    to_array[:3, 3] -= corner
    there = np.linalg.inv(to_array)
    ends = np.stack(np.meshgrid(*((-1, n) for n in array.shape), indexing="ij"), -1).reshape(-1, 3)
    ends = ends @ there[:3, :3].T + there[:3, 3]
    low = np.clip(np.floor(ends.min(axis=0)).astype(int), 0, baseline.shape)
    high = np.clip(np.ceil(ends.max(axis=0)).astype(int) + 1, 0, baseline.shape)
    if array.size and (high > low).all():
        # Padded by one, for scipy gives nothing in the outer half of a voxel at the border.
        offset = to_array[:3, :3] @ low + to_array[:3, 3] + 1
        here = ndimage.affine_transform(np.pad(array, 1), to_array[:3, :3], offset, tuple(high - low), order=order)
        laid[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = here
    return laid


def _push(laid: Labels, number: int, places_mm: NDArray[np.float64], baseline: Grid) -> None:
    """Lay a component that the voxels' middles miss by its own middles."""
    back = np.linalg.inv(baseline.affine)
    voxels = np.rint(places_mm @ back[:3, :3].T + back[:3, 3]).astype(int)
    at = tuple(voxels[((voxels >= 0) & (voxels < baseline.shape)).all(axis=1)].T)
    if len(at[0]) and not (laid[at] == number).any():
        laid[at] = np.where(laid[at] == 0, number, laid[at])
