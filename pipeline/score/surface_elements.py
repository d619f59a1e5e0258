"""Surface distances weighted by the area of each surface element, and their HD95.

The definition of DeepMind's surface-distance [1]_, which the BraTS scripts call. It is not the definition of
``metrics.hd95_mm``, whose surface is made of voxels that all count the same; on one mask the two may differ by mm.

surface element
    The piece of surface inside a cell of 2x2x2 neighbouring voxels (2D: piece of contour inside 2x2 pixels) that has
    both kinds of voxels; it sits at the cell's centre, where the voxels meet. Outside the image is outside the mask.
area
    Of the triangles that marching cubes draws in the cell, in mm2 (2D: length of the contour in mm). It depends on
    which voxels are in the mask, the neighbour code, and on the spacing.
distance
    From the centre of an element to the nearest centre of an element of the other mask, in mm.
2D
    An axis of one voxel does not count, as in ``metrics``: a slice stored as a volume has a contour, whose elements
    have a length. (DeepMind's code would wrap such a slice in a surface on both sides.)

References
----------
.. [1] https://github.com/google-deepmind/surface-distance, version 0.1: ``compute_surface_distances`` and
   ``compute_robust_hausdorff``. Nikolov et al.: Clinically applicable segmentation of head and neck anatomy for
   radiotherapy. JMIR 23(7), 2021, arXiv:1809.04430.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from data.labels import Mask

NEAR_CELLS = 3
"""How far from an element, in cells, its neighbourhood is looked through before a KD-tree is asked. Speed alone."""


class WeightedDistances(NamedTuple):
    """Distances of one mask's surface elements to the other surface, and their weights."""

    distance_mm: NDArray[np.float64]
    """(elements,) In no promised order; ``inf`` where the other mask has no surface."""
    area: NDArray[np.float64]
    """(elements,) In mm2; 2D: length in mm."""


def area_weighted_hd95_mm(
    prediction: Mask, reference: Mask, spacing_mm: Sequence[float] | None, penalty_mm: float = 374.0
) -> float:
    """Compute the HD95 in mm over surface elements weighted by area.

    This is the definition of BraTS 2023 and later.

    Parameters
    ----------
    prediction, reference : (d1, d2) or (d1, d2, d3) bool
        The two masks, on the same grid.
    spacing_mm : 2 or 3 floats, or None where the voxel size is unknown
        Distance between neighbouring voxel centres along each array axis, in mm.
    penalty_mm : float
        The distance that stands for a mask without voxels beside one that has some.

    Returns
    -------
    float
        The larger directed percentile. Both masks empty: 0. One empty: ``penalty_mm``. Spacing unknown: NaN.

    Raises
    ------
    ValueError
        When a mask is not boolean, 2D or 3D, the shapes differ, or the spacing is not one positive number per axis.
    """
    prediction, reference, spacing = checked_pair(prediction, reference, spacing_mm)
    if spacing is None:
        return math.nan
    distance = robust_hausdorff_mm(weighted_surface_distances(prediction, reference, spacing), 95.0)
    return distance if math.isfinite(distance) else float(penalty_mm)


def weighted_surface_distances(
    prediction: Mask, reference: Mask, spacing_mm: Sequence[float]
) -> tuple[WeightedDistances, WeightedDistances]:
    """Compute distance and area of every surface element of both masks.

    Parameters
    ----------
    prediction, reference : (d1, d2) or (d1, d2, d3) bool
        The two masks, of one shape. All axes count here, also those of one voxel.
    spacing_mm : 2 or 3 positive floats
        Distance between neighbouring voxel centres along each array axis, in mm.

    Returns
    -------
    (prediction_to_reference, reference_to_prediction)
        A mask without voxels has no elements: its own arrays have length 0, the other's distances are all ``inf``.
    """
    spacing = tuple(float(step) for step in spacing_mm)
    areas = element_areas(spacing)
    box = union_box(prediction, reference)
    (elements_p, area_p), (elements_r, area_r) = (_elements(mask[box], areas) for mask in (prediction, reference))
    return (
        WeightedDistances(_directed_mm(elements_p, elements_r, spacing), area_p),
        WeightedDistances(_directed_mm(elements_r, elements_p, spacing), area_r),
    )


def robust_hausdorff_mm(directed: tuple[WeightedDistances, WeightedDistances], percent: float) -> float:
    """Return the larger of the two directed percentiles over area, in mm.

    A directed percentile is the smallest distance below or at which lies at least ``percent`` of the surface's area;
    there is no interpolation. Both surfaces empty: 0. One empty: ``inf``.
    """
    if not any(one.distance_mm.size for one in directed):
        return 0.0
    return max(_percentile_mm(one, percent) for one in directed)


@lru_cache(maxsize=64)
def element_areas(spacing_mm: tuple[float, ...]) -> NDArray[np.float64]:
    """Return the area of a surface element by its neighbour code.

    Parameters
    ----------
    spacing_mm : 2 or 3 floats
        The voxel's size along each array axis, in mm.

    Returns
    -------
    (256,) or, 2D, (16,) float64
        In mm2 (2D: mm), to float32 precision, read-only. Index 0 and the last, a cell that is all outside or all
        inside, are 0. See :func:`neighbour_codes`. Source: DeepMind's tables as MONAI 1.6.1 carries them.
    """
    from monai.metrics.utils import get_code_to_measure_table

    areas = get_code_to_measure_table(spacing_mm)[0].numpy().astype(np.float64)
    areas.setflags(write=False)
    return areas


def neighbour_codes(mask: Mask) -> NDArray[np.uint8]:
    """Encode the voxels around each cell's centre that are in the mask.

    Each voxel is a bit of the cell's number.

    Parameters
    ----------
    mask : (d1, d2) or (d1, d2, d3) bool

    Returns
    -------
    (d1 + 1, d2 + 1[, d3 + 1]) uint8
        One code per cell; cell ``i`` has the voxels ``i - 1`` and ``i`` of each axis. The first voxel of all has the
        highest bit, the last axis changes fastest.
    """
    codes = np.pad(mask, 1).view(np.uint8)
    # A bit for each voxel is a sum over both voxels of each axis in turn: one pass an axis, not one a corner.
    for axis, shift in zip(reversed(range(mask.ndim)), (1, 2, 4), strict=False):
        along = np.moveaxis(codes, axis, 0)
        codes = np.moveaxis((along[:-1] << np.uint8(shift)) | along[1:], 0, axis)
    return codes


def _elements(mask: Mask, areas: NDArray[np.float64]) -> tuple[Mask, NDArray[np.float64]]:
    """Find the cells with a surface element, and their areas in array order."""
    codes = neighbour_codes(mask)
    elements = (codes != 0) & (codes != len(areas) - 1)
    return elements, areas[codes[elements]]


def _directed_mm(source: Mask, target: Mask, spacing: tuple[float, ...]) -> NDArray[np.float64]:
    """Measure the distance of every element of ``source`` to the nearest of ``target``.

    In array order; ``inf`` where ``target`` has none.
    """
    source, target = (np.ascontiguousarray(np.pad(cells, NEAR_CELLS)) for cells in (source, target))
    asked = np.flatnonzero(source)
    distances = np.full(asked.size, np.inf)
    if not target.any():
        return distances
    # A good prediction's surface is near: looking at the cells around, nearest first, finds it without a tree.
    left, flat_target = np.arange(asked.size), target.ravel()
    for offset, length in _near_offsets(spacing):
        hit = flat_target[asked + int(np.dot(offset, target.strides))]  # a bool is a byte: strides count cells
        distances[left[hit]] = length
        left, asked = left[~hit], asked[~hit]
        if not left.size:
            return distances
    # No balancing and large leaves: the tree is asked once, so building it is a good part of the price.
    points = _points_mm(np.flatnonzero(target), target.shape, spacing)
    tree = cKDTree(points, leafsize=32, balanced_tree=False, compact_nodes=False)
    distances[left] = tree.query(_points_mm(asked, target.shape, spacing))[0]
    return distances


def _points_mm(index: NDArray[np.intp], shape: tuple[int, ...], spacing: tuple[float, ...]) -> NDArray[np.float64]:
    return np.stack(np.unravel_index(index, shape), axis=1) * np.asarray(spacing)


@lru_cache(maxsize=64)
def _near_offsets(spacing: tuple[float, ...]) -> list[tuple[tuple[int, ...], float]]:
    """List the steps to nearby cells with their lengths, by length.

    The list is complete: no cell beyond ``NEAR_CELLS`` is nearer than one of it.
    """
    steps = product(range(-NEAR_CELLS, NEAR_CELLS + 1), repeat=len(spacing))
    offsets = [(step, math.hypot(*(n * mm for n, mm in zip(step, spacing, strict=True)))) for step in steps]
    complete_to = (NEAR_CELLS + 1) * min(spacing)
    return sorted((offset for offset in offsets if offset[1] < complete_to), key=lambda offset: offset[1])


def _percentile_mm(directed: WeightedDistances, percent: float) -> float:
    if not directed.distance_mm.size:
        return math.inf
    # Equal distances are sorted by area, as DeepMind's code does: a flipped mask then sums in the same order.
    order = np.lexsort((directed.area, directed.distance_mm))
    cumulative = np.cumsum(directed.area[order]) / np.sum(directed.area)
    found = int(np.searchsorted(cumulative, percent / 100.0))
    return float(directed.distance_mm[order[min(found, order.size - 1)]])


def checked_pair(
    prediction: Mask, reference: Mask, spacing_mm: Sequence[float] | None
) -> tuple[Mask, Mask, tuple[float, ...] | None]:
    """Check two masks and drop the axis of one voxel.

    A slice stored as a volume has one; the spacing loses it too.

    Two axes are left at least. Parameters and errors are those of :func:`area_weighted_hd95_mm`.
    """
    ndim, shape = prediction.ndim, prediction.shape
    if prediction.dtype != bool or reference.dtype != bool:
        raise ValueError(
            f"masks are boolean, not {prediction.dtype} and {reference.dtype}; use LabelConvention.region_masks()"
        )
    if shape != reference.shape:
        raise ValueError(f"the masks have different shapes, {shape} and {reference.shape}; resample one first")
    if ndim not in (2, 3):
        raise ValueError(f"surface elements are of 2D or 3D masks, not of shape {shape}; pass one slice or volume")
    spacing = None if spacing_mm is None else tuple(float(step) for step in spacing_mm)
    if spacing is not None and not (len(spacing) == ndim and all(math.isfinite(step) and step > 0 for step in spacing)):
        raise ValueError(f"spacing_mm is {ndim} positive numbers in mm, or None where unknown; not {list(spacing)}")
    wide = [axis for axis in range(ndim) if shape[axis] != 1]
    thin = [axis for axis in range(ndim) if shape[axis] == 1]
    kept = sorted(wide + thin[: max(0, 2 - len(wide))])
    dropped = tuple(axis for axis in range(ndim) if axis not in kept)
    prediction, reference = np.squeeze(prediction, dropped), np.squeeze(reference, dropped)
    return prediction, reference, None if spacing is None else tuple(spacing[axis] for axis in kept)


def union_box(*masks: Mask) -> tuple[slice, ...]:
    """Return the smallest box with all voxels of all masks (equal shapes).

    Without a voxel, its slices have length 0.
    """
    ndim = masks[0].ndim
    box = [slice(0, 0)] * ndim
    # Slowest axis first: whole planes drop out before the axes whose voxels lie scattered in memory.
    for axis in sorted(range(ndim), key=lambda axis: -abs(masks[0].strides[axis])):
        others = tuple(other for other in range(ndim) if other != axis)
        occupied = np.flatnonzero(np.logical_or.reduce([mask.any(axis=others) for mask in masks]))
        if not occupied.size:
            return (slice(0, 0),) * ndim
        box[axis] = slice(int(occupied[0]), int(occupied[-1]) + 1)
        cut = (slice(None),) * axis + (box[axis],)
        masks = tuple(mask[cut] for mask in masks)
    return tuple(box)
