"""Post-processing, from probabilities on the case's own grid to region masks.

Its steps are threshold, nesting, small components and holes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from data.grid import Grid
from data.labels import Mask


def to_masks(
    probabilities: Mapping[str, NDArray[np.float32]],
    parents: Mapping[str, str | None],
    voxel_volume_ml: float,
    threshold: float = 0.5,
    nest: bool = True,
    min_component_ml: Mapping[str, float] | None = None,
    min_component_share: Mapping[str, float] | None = None,
    fill_holes: bool = False,
    drawn: Mapping[str, Mask] | None = None,
) -> dict[str, Mask]:
    """Threshold and clean the probabilities of one case.

    Parameters
    ----------
    probabilities : region -> (d1, d2, d3) float32
        Outer regions before the ones inside them.
    parents : region -> region or None
        The smallest region that contains it.
    voxel_volume_ml : float
        NaN where the spacing is unknown: components are then left alone, since their volume is unknown too.
    threshold, nest, min_component_ml, min_component_share, fill_holes
        As in :class:`pipeline.config.PostprocessConfig`.
    drawn : region -> (d1, d2, d3) bool, optional
        Masks that stand in for the thresholded probability of the regions named, and are cleaned in the same way.

    Returns
    -------
    region -> (d1, d2, d3) bool; all false stays all false.
    """
    masks: dict[str, Mask] = {}
    for region, probability in probabilities.items():
        mask = drawn[region].copy() if drawn and region in drawn else probability >= threshold
        parent = parents.get(region)
        if nest and parent in masks:
            mask &= masks[parent]
        if fill_holes:
            mask = fill_cavities(mask)
        smallest = (min_component_ml or {}).get(region, 0.0) / voxel_volume_ml
        share = (min_component_share or {}).get(region, 0.0)
        if smallest > 0 or share > 0:  # an unknown voxel size makes the volume NaN, which is not above 0
            mask = remove_small_components(mask, smallest if smallest > 0 else 0.0, share)
        masks[region] = mask
    return masks


def kept_elsewhere(found: Mask, grid: Grid, before: Mask, after: Mask, own: Grid) -> Mask:
    """Drop from a mask on another grid all that post-processing dropped.

    A voxel follows the voxel of ``before`` that is nearest to it. Where none is within a diagonal of both grids'
    voxels, the own grid shows nothing there, and the voxel goes too.

    Parameters
    ----------
    found : (n1, n2, n3) bool
        Thresholded, on ``grid``.
    before, after : (d1, d2, d3) bool
        On ``own``: thresholded, and post-processed.

    Returns
    -------
    (n1, n2, n3) bool, within ``found``.
    """
    result = np.zeros_like(found)
    voxels = np.argwhere(found)
    if not len(voxels) or not before.any():
        return result
    to_own = np.linalg.solve(own.affine, grid.affine)
    places = voxels @ to_own[:3, :3].T + to_own[:3, 3]
    nearest = np.rint(places).astype(np.intp)
    inside = ((nearest >= 0) & (nearest < own.shape)).all(axis=1)
    hits = np.zeros(len(voxels), bool)
    hits[inside] = before[tuple(nearest[inside].T)]
    stays = np.zeros(len(voxels), bool)
    stays[hits] = after[tuple(nearest[hits].T)]
    if not hits.all():
        surface = np.argwhere(_surface(before))
        reach = sum(float(np.linalg.norm(each.spacing_mm)) for each in (own, grid))
        tree = cKDTree(surface @ own.affine[:3, :3].T)
        distance, index = tree.query(places[~hits] @ own.affine[:3, :3].T, distance_upper_bound=reach)
        near = np.isfinite(distance)
        missed = np.flatnonzero(~hits)
        stays[missed[near]] = after[tuple(surface[index[near]].T)]
    result[tuple(voxels[stays].T)] = True
    return result


def _surface(mask: Mask) -> Mask:
    """Return the voxels of a mask with a neighbour outside."""
    result = np.zeros_like(mask)
    box = bounding_box(mask)
    result[box] = mask[box] & ~ndimage.binary_erosion(mask[box])
    return result


def bounding_box(mask: Mask, margin: int = 0) -> tuple[slice, ...]:
    """Return the smallest box with all true voxels, as slices.

    It is grown by ``margin`` within the array; empty for none.
    """
    box = []
    for axis in range(mask.ndim):
        hits = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        box.append(slice(max(int(hits[0]) - margin, 0), int(hits[-1]) + 1 + margin) if hits.size else slice(0, 0))
    return tuple(box)


def union_box(boxes: Sequence[tuple[slice, ...]], shape: Sequence[int], margin: int = 0) -> tuple[slice, ...]:
    """Return the smallest box around those of ``boxes`` that are not empty.

    It is grown by ``margin`` within ``shape``; empty for none.
    """
    filled = [box for box in boxes if all(cut.stop > cut.start for cut in box)]
    if not filled:
        return tuple(slice(0, 0) for _ in shape)
    return tuple(
        slice(max(min(cut.start for cut in cuts) - margin, 0), min(max(cut.stop for cut in cuts) + margin, n))
        for cuts, n in zip(zip(*filled, strict=True), shape, strict=True)
    )


def dilate_18(mask: Mask, iterations: int) -> Mask:
    """Dilate a mask by the 18 neighbours of its voxels.

    Those share a face or an edge with the voxel (2D: 8, an edge or a corner).

    Equal to ``scipy.ndimage.binary_dilation`` with ``generate_binary_structure(ndim, 2)``, several times faster: the 18
    neighbours and the voxel are three squares of nine, and a square is a line dilated along another axis.
    """
    for _ in range(iterations):
        lines = [_dilate_along(mask, axis) for axis in range(mask.ndim - 1)]
        squares = [_dilate_along(lines[a], b) for a, b in combinations(range(mask.ndim), 2)]
        mask = np.logical_or.reduce(squares)
    return mask


def _dilate_along(mask: Mask, axis: int) -> Mask:
    dilated = mask.copy()
    to, source = np.moveaxis(dilated, axis, 0), np.moveaxis(mask, axis, 0)
    to[1:] |= source[:-1]
    to[:-1] |= source[1:]
    return dilated


def label_components(mask: Mask) -> NDArray[np.unsignedinteger]:
    """Number the 26-connected (2D: 8-connected) components of a mask from 1 on.

    Outside it is 0; the shape is the mask's.
    """
    if not mask.size:
        return np.zeros(mask.shape, np.uint32)
    # A frame of background: cc3d 4.1.1 raises on thin arrays with many components, such as [[[True, False, True]]].
    framed = cc3d.connected_components(np.pad(mask, 1), connectivity=26 if mask.ndim == 3 else 8)
    return framed[(slice(1, -1),) * mask.ndim]


def remove_small_components(mask: Mask, min_voxels: float, min_share: float = 0.0) -> Mask:
    """Drop components below ``min_voxels`` voxels, or below ``min_share`` of the largest one.

    One of exactly that size stays. See :func:`label_components`.
    """
    result = np.zeros_like(mask)
    box = bounding_box(mask)
    components = label_components(mask[box])
    sizes = np.bincount(components.ravel(), minlength=2)
    sizes[0] = 0
    # A volume divided by a voxel's volume may come out a hair above the whole number that it is: headers are float32,
    # and the same patient in other units or another orientation is rounded otherwise.
    keep = sizes >= max(min_voxels, min_share * sizes.max()) * (1 - 1e-6)
    keep[0] = False
    result[box] = keep[components]
    return result


def largest_component(mask: Mask) -> Mask:
    """Return the component of most voxels, the first of equals.

    An empty mask gives an empty one. See :func:`label_components`.
    """
    components = label_components(mask)
    sizes = np.bincount(components.ravel(), minlength=2)
    sizes[0] = 0
    return (components == sizes.argmax()) & mask


def fill_cavities(mask: Mask) -> Mask:
    """Fill background that has no path to the outside of the mask.

    A path goes through faces of background voxels, to the border of the mask's bounding box.
    """
    result = mask.copy()
    box = bounding_box(mask)
    if mask[box].size:
        result[box] = ndimage.binary_fill_holes(mask[box])
    return result
