"""Boundary voxels of two masks, and the distances in mm between the boundaries.

Pure functions on boolean masks of any number of axes. They are the geometry under :mod:`pipeline.score.metrics`, whose
docstring defines the boundary, the distance, and what an empty mask or an unknown spacing gives.

Notes
-----
The boundaries of a prediction and of its reference run close together. So each boundary voxel looks at its own place
on the other boundary first, then at its neighbours in the order of their distance, up to ``REACH`` voxels: an array
lookup each. What has found nothing by then asks a KD-tree. Both ways are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from data.labels import Mask

REACH = 3
"""How far the neighbours are looked at, in voxels of the axis with the finest spacing: 123 places in a cube's grid."""

Distances = NDArray[np.float64]


@dataclass(frozen=True)
class MaskPair:
    """Two masks cut to the box around their union.

    ``REACH`` voxels of background are left around it.
    """

    prediction: Mask
    """(d1, ..., dN) bool, in C order. Axes of one voxel are gone, and the slowest axis of the file is the first."""
    reference: Mask
    """Of the same shape as ``prediction``."""
    spacing_mm: Distances | None
    """(N,) distance between neighbouring voxel centres along each axis that is left, in mm; None where unknown."""


def mask_pair(prediction: Mask, reference: Mask, spacing_mm: Sequence[float] | None) -> MaskPair:
    """Check two masks and cut them to the box around their union.

    Nothing is lost: beyond the box there is no voxel of either mask, and beyond the image counts as that too. A slice
    that is stored as a volume of depth 1 becomes a 2D image, for in 3D each of its voxels would be boundary. Two empty
    masks give a pair of nothing but background.

    Raises
    ------
    ValueError
        When a mask is not boolean, the shapes differ, or the spacing is not one positive number per axis.
    """
    prediction, reference = np.asarray(prediction), np.asarray(reference)
    spacing = None if spacing_mm is None else np.asarray(spacing_mm, dtype=np.float64)
    _check(prediction, reference, spacing)
    wide = [axis for axis in range(prediction.ndim) if prediction.shape[axis] != 1] or [0]
    # Slowest axis first: whole planes drop out early, and numpy walks memory in order whatever the file's layout.
    wide.sort(key=lambda axis: -abs(prediction.strides[axis]))
    order = wide + [axis for axis in range(prediction.ndim) if axis not in wide]
    shape = [prediction.shape[axis] for axis in wide]
    masks = [np.transpose(mask, order).reshape(shape) for mask in (prediction, reference)]
    box = _union_box(masks)
    first, second = (_padded(mask[box], REACH) for mask in masks)
    return MaskPair(first, second, None if spacing is None else spacing[wide])


def boundary(mask: Mask) -> Mask:
    """Return the voxels of a mask that have a face neighbour outside it.

    Beyond the image counts as outside.

    Parameters
    ----------
    mask : (d1, ..., dN) bool
        An empty mask gives an empty boundary.

    Returns
    -------
    (d1, ..., dN) bool
    """
    return _boundary_of_padded(_padded(mask, 1))[(slice(1, -1),) * mask.ndim].copy()


def surface_distances_mm(prediction: Mask, reference: Mask, spacing_mm: Sequence[float]) -> tuple[Distances, Distances]:
    """Measure the distance from every boundary voxel to the other mask's boundary.

    Both directions, in mm.

    Parameters
    ----------
    prediction, reference : (d1, ..., dN) bool
        The two masks, on the same grid.
    spacing_mm : N floats
        Distance between neighbouring voxel centres along each array axis, in mm.

    Returns
    -------
    (prediction_to_reference, reference_to_prediction) : float64 arrays
        One value per boundary voxel, ascending. A mask without voxels has no boundary: its own array has length 0,
        and the other's is all ``inf``.

    Raises
    ------
    ValueError
        When a mask is not boolean, the shapes differ, or the spacing is not one positive number per axis.
    """
    return directed_distances_mm(mask_pair(prediction, reference, spacing_mm))


def directed_distances_mm(pair: MaskPair) -> tuple[Distances, Distances]:
    """Return :func:`surface_distances_mm` of a pair that has been cut already.

    Raises
    ------
    ValueError
        When the pair has no spacing.
    """
    if pair.spacing_mm is None:
        raise ValueError("surface distances in mm need the voxel size; region_scores() takes None for unknown")
    surfaces = [_boundary_of_padded(mask) for mask in (pair.prediction, pair.reference)]
    points = [np.flatnonzero(surface) for surface in surfaces]
    there = _directed(points[0], points[1], surfaces[1], pair.spacing_mm)
    back = _directed(points[1], points[0], surfaces[0], pair.spacing_mm)
    return there, back


def _directed(sources: NDArray[np.intp], targets: NDArray[np.intp], surface: Mask, spacing: Distances) -> Distances:
    """Measure distances in mm, ascending, from ``sources`` to the nearest of ``targets``.

    ``targets`` are the places of ``surface``.

    Places are indices into the flattened array.
    """
    if not targets.size:
        return np.full(sources.size, np.inf)
    lengths, steps = _neighbourhood(spacing, surface)
    flat, left = surface.ravel(), sources
    found = []
    for step in steps:
        hit = flat[left + step]
        found.append(int(np.count_nonzero(hit)))
        if found[-1]:
            left = left[~hit]
        if not left.size:
            break
    near = np.repeat(lengths[: len(found)], found)
    if not left.size:
        return near
    # No balancing and large leaves: the tree is asked once, so building it is a good part of the price.
    tree = cKDTree(_centres_mm(targets, surface, spacing), leafsize=32, balanced_tree=False, compact_nodes=False)
    far = tree.query(_centres_mm(left, surface, spacing))[0]
    return np.concatenate([near, np.sort(far)])


def _neighbourhood(spacing: Distances, array: Mask) -> tuple[Distances, NDArray[np.intp]]:
    """List the places around a voxel, nearest first: distance in mm, flat offset.

    They lie within ``REACH`` voxels of the finest axis.
    """
    n_axes = array.ndim
    radius = REACH * spacing.min() * (1 + 1e-9)
    offsets = np.indices((2 * REACH + 1,) * n_axes).reshape(n_axes, -1).T - REACH
    lengths = np.sqrt(((offsets * spacing) ** 2).sum(axis=1))
    nearest = np.argsort(lengths, kind="stable")
    nearest = nearest[lengths[nearest] <= radius]
    return lengths[nearest], offsets[nearest] @ np.array(array.strides)  # a voxel is a byte


def _centres_mm(places: NDArray[np.intp], array: Mask, spacing: Distances) -> Distances:
    return np.stack(np.unravel_index(places, array.shape), axis=-1) * spacing


def _padded(mask: Mask, width: int) -> Mask:
    """Return the mask in C order with background around it.

    ``np.pad`` would keep Fortran order.
    """
    padded = np.zeros([length + 2 * width for length in mask.shape], bool)
    padded[tuple(slice(width, width + length) for length in mask.shape)] = mask
    return padded


def _boundary_of_padded(mask: Mask) -> Mask:
    """Return :func:`boundary` of a padded mask.

    The mask is in C order, and its outermost voxels are all background.
    """
    flat = mask.ravel()
    inside = flat.copy()
    # Flat neighbours wrap around the ends of rows, but there both rows are background.
    for stride in mask.strides:
        inside[stride:] &= flat[:-stride]
        inside[:-stride] &= flat[stride:]
    # `inside` is the eroded mask, a part of the mask, so exclusive or is the difference.
    return np.logical_xor(flat, inside, out=inside).reshape(mask.shape)


def _union_box(masks: Sequence[Mask]) -> tuple[slice, ...]:
    """Return the smallest box that holds all voxels of all masks.

    Its slices have length 0 when there are none.
    """
    box: tuple[slice, ...] = ()
    while masks[0].ndim:
        others = tuple(range(1, masks[0].ndim))
        occupied = np.flatnonzero(np.any([np.any(mask, axis=others) for mask in masks], axis=0))
        found = slice(int(occupied[0]), int(occupied[-1]) + 1) if occupied.size else slice(0, 0)
        box += (found,)
        masks = [np.asarray(np.any(mask[found], axis=0)) for mask in masks]
    return box


def _check(prediction: Mask, reference: Mask, spacing: Distances | None) -> None:
    if prediction.dtype != bool or reference.dtype != bool:
        raise ValueError(
            f"masks are boolean, not {prediction.dtype} and {reference.dtype}; use LabelConvention.region_masks()"
        )
    if prediction.shape != reference.shape:
        raise ValueError(
            f"the masks have different shapes, {prediction.shape} and {reference.shape}; resample one first"
        )
    if spacing is not None and not (
        spacing.shape == (prediction.ndim,) and np.isfinite(spacing).all() and (spacing > 0).all()
    ):
        raise ValueError(
            f"spacing_mm is {prediction.ndim} positive numbers in mm, or None where unknown; not {spacing.tolist()}"
        )
