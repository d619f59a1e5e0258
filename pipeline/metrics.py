"""How well a predicted mask covers a reference mask: overlap, surface distances in mm, volume in ml.

Pure functions on boolean masks. They take any number of axes (2D slices, 3D volumes); axes of one voxel do not count.

Definitions that every number here rests on:

boundary voxel
    A voxel of the mask that has a face neighbour outside the mask; outside the image counts as outside the mask. This
    is the mask without its erosion by the cross-shaped neighbourhood, which is also what MONAI does [1]_.
surface distance
    From the centre of a boundary voxel of one mask to the nearest centre of a boundary voxel of the other, in mm.
    Other definitions (DeepMind's, weighted by area; MedPy's, both directions pooled) give other numbers.
empty rule
    Per region: both masks empty is a perfect score (Dice 1, distances 0); one of them empty is the worst (Dice 0,
    distances ``penalty_mm``). No function returns NaN because a mask is empty.
unknown spacing
    ``spacing_mm=None`` says that nobody knows the size of a voxel: whatever is in mm or ml is NaN then, empty or not.

References
----------
.. [1] MONAI, ``monai.metrics.utils.get_mask_edges`` and ``monai.metrics.compute_hausdorff_distance``, version 1.6.1.
.. [2] Huttenlocher, Klanderman, Rucklidge: Comparing images using the Hausdorff distance. IEEE PAMI 15(9), 1993.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

PENALTY_MM = 374.0
"""Distance of a missed or invented region: the diagonal of BraTS's 240x240x155 mm, 373.13 mm, rounded up."""

Mask = NDArray[np.bool_]
Distances = NDArray[np.float64]


def region_scores(
    prediction: Mask, reference: Mask, spacing_mm: Sequence[float] | None, penalty_mm: float = PENALTY_MM
) -> dict[str, float]:
    """Every score of one region, for the price of one pair of surfaces.

    Parameters
    ----------
    prediction, reference : (d1, ..., dN) bool
        The two masks, on the same grid.
    spacing_mm : N floats, or None where the voxel size is unknown
        Distance between neighbouring voxel centres along each array axis, in mm.
    penalty_mm : float
        The distance that stands for a region which only one of the masks has.

    Returns
    -------
    dict
        ``dice`` in 0..1, ``hd95_mm`` and ``hd_mm`` in mm (NaN where the spacing is unknown). Empty rule: see above.

    Raises
    ------
    ValueError
        When a mask is not boolean, the shapes differ, or the spacing is not one positive number per axis.
    """
    prediction, reference, spacing = _cropped_pair(prediction, reference, spacing_mm)
    scores = {"dice": _dice(prediction, reference)}
    if spacing is None:
        return scores | {"hd95_mm": math.nan, "hd_mm": math.nan}
    directed = _empty_rule_mm(prediction, reference, penalty_mm) or _surface_distances(prediction, reference, spacing)
    return scores | {"hd95_mm": _larger_percentile(directed, 95.0), "hd_mm": _larger_percentile(directed, 100.0)}


def dice(prediction: Mask, reference: Mask) -> float:
    """Dice coefficient, ``2 |P and R| / (|P| + |R|)``: 0 (disjoint) to 1 (equal).

    Parameters
    ----------
    prediction, reference : (d1, ..., dN) bool
        The two masks, on the same grid. Both empty: 1. One empty: 0.

    Raises
    ------
    ValueError
        When a mask is not boolean or the shapes differ.
    """
    prediction, reference, _ = _cropped_pair(prediction, reference, None)
    return _dice(prediction, reference)


def overlap_scores(prediction: Mask, reference: Mask) -> dict[str, float]:
    """Every score that counts voxels, from one pass over the two masks.

    Parameters
    ----------
    prediction, reference : (d1, ..., dN) bool
        The two masks, on the same grid.

    Returns
    -------
    dict
        With tp, fp, fn, tn the numbers of voxels, each score in 0..1: ``dice`` 2tp / (2tp + fp + fn), ``sensitivity``
        tp / (tp + fn), ``specificity`` tn / (tn + fp), ``precision`` tp / (tp + fp), ``accuracy`` (tp + tn) / all,
        ``tversky`` tp / (tp + 0.3 fp + 0.7 fn) [3]_. Empty rule: a score whose denominator is 0 is 1 where the masks
        are equal, else 0.

    Raises
    ------
    ValueError
        When a mask is not boolean or the shapes differ.

    References
    ----------
    .. [3] Salehi, Erdogmus, Gholipour: Tversky loss function for image segmentation. MLMI 2017, arXiv:1706.05721.
    """
    voxels = np.size(prediction)
    prediction, reference, _ = _cropped_pair(prediction, reference, None)
    tp = int(np.count_nonzero(prediction & reference))
    fp = int(np.count_nonzero(prediction)) - tp
    fn = int(np.count_nonzero(reference)) - tp
    tn = voxels - tp - fp - fn
    equal = float(fp == fn == 0)

    def share(part: float, whole: float) -> float:
        return part / whole if whole else equal

    return {
        "dice": share(2 * tp, 2 * tp + fp + fn),
        "sensitivity": share(tp, tp + fn),
        "specificity": share(tn, tn + fp),
        "precision": share(tp, tp + fp),
        "accuracy": share(tp + tn, voxels),
        "tversky": share(tp, tp + 0.3 * fp + 0.7 * fn),
    }


def hd95_mm(
    prediction: Mask, reference: Mask, spacing_mm: Sequence[float] | None, penalty_mm: float = PENALTY_MM
) -> float:
    """95th percentile Hausdorff distance in mm: the larger of the two directed 95th percentiles of surface distances.

    Percentiles interpolate linearly (numpy's default, MONAI's too). Parameters, the empty rule and errors are those of
    :func:`region_scores`: both masks empty 0, one empty ``penalty_mm``, spacing unknown NaN.
    """
    return region_scores(prediction, reference, spacing_mm, penalty_mm)["hd95_mm"]


def hd_mm(
    prediction: Mask, reference: Mask, spacing_mm: Sequence[float] | None, penalty_mm: float = PENALTY_MM
) -> float:
    """Hausdorff distance in mm [2]_: the largest distance from a boundary voxel of one mask to the other's boundary.

    Parameters, the empty rule and errors are those of :func:`region_scores`: both masks empty 0, one empty
    ``penalty_mm``, spacing unknown NaN.
    """
    return region_scores(prediction, reference, spacing_mm, penalty_mm)["hd_mm"]


def surface_distances_mm(prediction: Mask, reference: Mask, spacing_mm: Sequence[float]) -> tuple[Distances, Distances]:
    """Distance from every boundary voxel of each mask to the other mask's boundary, in mm.

    Parameters
    ----------
    prediction, reference : (d1, ..., dN) bool
        The two masks, on the same grid.
    spacing_mm : N floats
        Distance between neighbouring voxel centres along each array axis, in mm.

    Returns
    -------
    (prediction_to_reference, reference_to_prediction) : float64 arrays
        One value per boundary voxel, in no promised order. A mask without voxels has no boundary: its
        own array has length 0, and the other's is all ``inf``.

    Raises
    ------
    ValueError
        When a mask is not boolean, the shapes differ, or the spacing is not one positive number per axis.
    """
    prediction, reference, spacing = _cropped_pair(prediction, reference, spacing_mm)
    if spacing is None:
        raise ValueError("surface distances in mm need the voxel size; region_scores() takes None for unknown")
    return _surface_distances(prediction, reference, spacing)


def boundary(mask: Mask) -> Mask:
    """The voxels of a mask that have a face neighbour outside it; beyond the image counts as outside.

    Parameters
    ----------
    mask : (d1, ..., dN) bool
        An empty mask gives an empty boundary.

    Returns
    -------
    (d1, ..., dN) bool
    """
    inside = mask.copy()
    for axis in range(mask.ndim):
        along, within = np.moveaxis(mask, axis, 0), np.moveaxis(inside, axis, 0)
        within[1:] &= along[:-1]
        within[:-1] &= along[1:]
        within[:1] = False
        within[-1:] = False
    # What is left in `inside` is the eroded mask, a part of the mask, so exclusive or is the difference.
    return mask ^ inside


def volume_ml(mask: Mask, voxel_volume_ml: float | None) -> float:
    """Volume of a mask in ml: number of voxels times the volume of one (``Grid.voxel_volume_ml``).

    An empty mask has 0 ml; where the voxel size is unknown (None) the volume is NaN.
    """
    return math.nan if voxel_volume_ml is None else float(np.count_nonzero(mask) * voxel_volume_ml)


def _dice(prediction: Mask, reference: Mask) -> float:
    total = int(np.count_nonzero(prediction)) + int(np.count_nonzero(reference))
    return 2.0 * int(np.count_nonzero(prediction & reference)) / total if total else 1.0


def _empty_rule_mm(prediction: Mask, reference: Mask, penalty_mm: float) -> tuple[Distances, Distances] | None:
    """The distances that the empty rule dictates; None where both masks have voxels."""
    n_empty = int(not prediction.any()) + int(not reference.any())
    if not n_empty:
        return None
    distance = np.array([0.0 if n_empty == 2 else float(penalty_mm)])
    return distance, distance


def _larger_percentile(directed: tuple[Distances, Distances], percentile: float) -> float:
    return float(max(np.percentile(distances, percentile) for distances in directed))


def _surface_distances(prediction: Mask, reference: Mask, spacing: NDArray[np.float64]) -> tuple[Distances, Distances]:
    surface_p, surface_r = boundary(prediction), boundary(reference)
    return _directed(surface_p, surface_r, spacing), _directed(surface_r, surface_p, spacing)


def _directed(source: Mask, target: Mask, spacing: NDArray[np.float64]) -> Distances:
    """Distances in mm from every voxel of ``source`` to the nearest of ``target``; ``inf`` where that has none."""
    # Voxels on both surfaces are at distance 0. A good prediction shares most of its surface, so it pays not to ask.
    apart = source & ~target
    distances = np.zeros(int(np.count_nonzero(source)))
    n_apart = int(np.count_nonzero(apart))
    if not n_apart:
        return distances
    if not target.any():
        return np.full_like(distances, np.inf)
    # No balancing and large leaves: the tree is asked once, so building it is a good part of the price.
    tree = cKDTree(np.argwhere(target) * spacing, leafsize=32, balanced_tree=False, compact_nodes=False)
    distances[:n_apart] = tree.query(np.argwhere(apart) * spacing)[0]
    return distances


def _check_pair(prediction: Mask, reference: Mask, spacing: NDArray[np.float64] | None) -> None:
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


def _cropped_pair(
    prediction: Mask, reference: Mask, spacing_mm: Sequence[float] | None
) -> tuple[Mask, Mask, NDArray[np.float64] | None]:
    """Both masks cut to the box around their union, axes of one voxel removed, and the spacing of the axes left.

    Cropping changes nothing: beyond the box there is no voxel of either mask, and beyond the image counts as that too.
    """
    prediction, reference = np.asarray(prediction), np.asarray(reference)
    spacing = None if spacing_mm is None else np.asarray(spacing_mm, dtype=np.float64)
    _check_pair(prediction, reference, spacing)
    # A slice stored as a volume of depth 1 is a 2D image: in 3D each of its voxels would be boundary.
    wide = [axis for axis in range(prediction.ndim) if prediction.shape[axis] != 1] or [0]
    # Slowest axis first: whole planes drop out early, and numpy walks memory in order whatever the file's layout.
    wide.sort(key=lambda axis: -abs(prediction.strides[axis]))
    order = wide + [axis for axis in range(prediction.ndim) if axis not in wide]
    prediction, reference = (
        np.transpose(mask, order).reshape([mask.shape[axis] for axis in wide]) for mask in (prediction, reference)
    )
    box = _union_box(prediction, reference)
    return prediction[box], reference[box], None if spacing is None else spacing[wide]


def _union_box(prediction: Mask, reference: Mask) -> tuple[slice, ...]:
    """The smallest box that holds all voxels of both masks; slices of length 0 when there are none."""
    box: tuple[slice, ...] = ()
    for axis in range(prediction.ndim):
        others = tuple(other for other in range(prediction.ndim) if other != axis)
        occupied = np.flatnonzero(prediction.any(axis=others) | reference.any(axis=others))
        found = slice(int(occupied[0]), int(occupied[-1]) + 1) if occupied.size else slice(0, 0)
        box += (found,)
        cut = (slice(None),) * axis + (found,)
        prediction, reference = prediction[cut], reference[cut]
    return box
