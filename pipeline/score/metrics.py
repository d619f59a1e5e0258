"""How well a predicted mask covers a reference mask: overlap, surface distances in mm, volume in ml.

Pure functions on boolean masks. They take any number of axes (2D slices, 3D volumes); axes of one voxel do not count.

Definitions that every number here rests on:

boundary voxel
    A voxel of the mask that has a face neighbour outside the mask; outside the image counts as outside the mask. This
    is the mask without its erosion by the cross-shaped neighbourhood, which is also what MONAI does [1]_.
surface distance
    From the centre of a boundary voxel of one mask to the nearest centre of a boundary voxel of the other, in mm.
    Other definitions (DeepMind's, weighted by area, is in :mod:`pipeline.score.surface_elements`; MedPy's 95th percentile is
    that of both directions pooled) give other numbers.
empty rule
    Per region: both masks empty is a perfect score (overlap and NSD 1, distances and volume errors 0); one of them
    empty is the worst (overlap and NSD 0, distances ``penalty_mm``). No score is NaN because a mask is empty. The one
    exception is ``volume_error_percent`` of a prediction where the reference has nothing: it has no value.
unknown spacing
    ``spacing_mm=None`` says that nobody knows the size of a voxel: whatever is in mm or ml is NaN then, empty or not.
    So is the NSD, whose tolerance is in mm.

References
----------
.. [1] MONAI, ``monai.metrics.utils.get_mask_edges`` and ``monai.metrics.compute_hausdorff_distance``, version 1.6.1.
.. [2] Huttenlocher, Klanderman, Rucklidge: Comparing images using the Hausdorff distance. IEEE PAMI 15(9), 1993.
.. [3] Salehi, Erdogmus, Gholipour: Tversky loss function for image segmentation. MLMI 2017, arXiv:1706.05721.
.. [4] Nikolov et al.: Clinically applicable segmentation of head and neck anatomy. JMIR 23(7), 2021, arXiv:1809.04430.
.. [5] Heimann et al.: Comparison and evaluation of methods for liver segmentation. IEEE TMI 28(8), 2009.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pipeline.score.surfaces import (
    Distances,
    MaskPair,
    boundary,
    directed_distances_mm,
    mask_pair,
    surface_distances_mm,
)
from pipeline.score.surfaces import Mask as Mask

__all__ = [
    "PENALTY_MM",
    "STANDARD",
    "Mask",
    "assd_mm",
    "boundary",
    "dice",
    "hd95_mm",
    "hd_mm",
    "nsd",
    "overlap_scores",
    "region_scores",
    "surface_distances_mm",
    "volume_ml",
]

STANDARD = (
    *("dice", "iou", "sensitivity", "specificity", "precision", "accuracy", "tversky"),
    *("hd_mm", "hd95_mm", "assd_mm", "nsd"),
    *("volume_ml_prediction", "volume_ml_reference", "volume_error_ml", "volume_error_percent"),
)
"""The keys of :func:`region_scores`, in its order."""

PENALTY_MM = 374.0
"""Distance of a missed or invented region: the diagonal of BraTS's 240x240x155 mm, 373.13 mm, rounded up."""

TOLERANCE_MM = 1.0
"""Distance up to which a boundary voxel counts as found, where the caller names no other."""


def region_scores(
    prediction: Mask,
    reference: Mask,
    spacing_mm: Sequence[float] | None,
    penalty_mm: float = PENALTY_MM,
    *,
    tolerance_mm: float = TOLERANCE_MM,
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
    tolerance_mm : float
        The distance up to which a boundary voxel counts as found, for ``nsd``.

    Returns
    -------
    dict
        The keys of ``STANDARD`` in that order: those of :func:`overlap_scores`; those of the functions ``hd_mm``,
        ``hd95_mm``, ``assd_mm`` and ``nsd``; then, with V the volumes in ml, ``volume_ml_prediction`` and
        ``volume_ml_reference``, ``volume_error_ml`` V_prediction - V_reference, and ``volume_error_percent`` 100 times
        that over V_reference, both with their sign. A voxel's volume is the product of the three spacings, so images of
        fewer than three axes have no ml (NaN); the error in percent needs no voxel size.

        Both masks empty: overlap scores and ``nsd`` 1, distances, volumes and volume errors 0. One empty: as
        :func:`overlap_scores` says, ``nsd`` 0, distances ``penalty_mm``; ``volume_error_percent`` is -100 where only
        the prediction is empty and NaN where only the reference is, as nothing cannot be exceeded by a percentage.
        Unknown spacing: NaN for whatever is in mm or ml, and for ``nsd``, empty or not.

    Raises
    ------
    ValueError
        When a mask is not boolean, the shapes differ, the spacing is not one positive number per axis, or the
        tolerance is not a number of at least 0.
    """
    if not (math.isfinite(tolerance_mm) and tolerance_mm >= 0):
        raise ValueError(f"tolerance_mm is a number of at least 0, not {tolerance_mm}")
    pair = mask_pair(prediction, reference, spacing_mm)
    tp, fp, fn, tn = _counts(pair, np.size(prediction))
    scores = _overlap_scores(tp, fp, fn, tn) | _surface_scores(pair, tp + fp, tp + fn, penalty_mm, tolerance_mm)
    known = spacing_mm is not None and len(spacing_mm) == 3
    voxel_ml = math.prod(float(length) for length in spacing_mm) / 1000.0 if spacing_mm is not None and known else None
    scores["volume_ml_prediction"] = _volume_ml(tp + fp, voxel_ml)
    scores["volume_ml_reference"] = _volume_ml(tp + fn, voxel_ml)
    scores["volume_error_ml"] = _volume_ml(fp - fn, voxel_ml)
    scores["volume_error_percent"] = 100.0 * (fp - fn) / (tp + fn) if tp + fn else (math.nan if fp else 0.0)
    return scores


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
    return overlap_scores(prediction, reference)["dice"]


def overlap_scores(prediction: Mask, reference: Mask) -> dict[str, float]:
    """Every score that counts voxels, from one pass over the two masks.

    Parameters
    ----------
    prediction, reference : (d1, ..., dN) bool
        The two masks, on the same grid.

    Returns
    -------
    dict
        With tp, fp, fn, tn the numbers of voxels, each score in 0..1: ``dice`` 2tp / (2tp + fp + fn), ``iou``
        tp / (tp + fp + fn), ``sensitivity`` tp / (tp + fn), ``specificity`` tn / (tn + fp), ``precision``
        tp / (tp + fp), ``accuracy`` (tp + tn) / all, ``tversky`` tp / (tp + 0.3 fp + 0.7 fn) [3]_. Empty rule: a score
        whose denominator is 0 is 1 where the masks are equal, else 0. So both empty gives 1 everywhere; one empty
        gives 0 but for ``specificity`` and ``accuracy``, which count what both left out.

    Raises
    ------
    ValueError
        When a mask is not boolean or the shapes differ.
    """
    return _overlap_scores(*_counts(mask_pair(prediction, reference, None), np.size(prediction)))


def hd_mm(
    prediction: Mask, reference: Mask, spacing_mm: Sequence[float] | None, penalty_mm: float = PENALTY_MM
) -> float:
    """Hausdorff distance in mm [2]_: the largest distance from a boundary voxel of one mask to the other's boundary.

    Parameters, the empty rule and errors are those of :func:`region_scores`: both masks empty 0, one empty
    ``penalty_mm``, spacing unknown NaN.
    """
    return region_scores(prediction, reference, spacing_mm, penalty_mm)["hd_mm"]


def hd95_mm(
    prediction: Mask, reference: Mask, spacing_mm: Sequence[float] | None, penalty_mm: float = PENALTY_MM
) -> float:
    """95th percentile Hausdorff distance in mm: the larger of the two directed 95th percentiles of surface distances.

    Percentiles interpolate linearly (numpy's default, MONAI's too). Parameters, the empty rule and errors are those of
    :func:`region_scores`: both masks empty 0, one empty ``penalty_mm``, spacing unknown NaN.
    """
    return region_scores(prediction, reference, spacing_mm, penalty_mm)["hd95_mm"]


def assd_mm(
    prediction: Mask, reference: Mask, spacing_mm: Sequence[float] | None, penalty_mm: float = PENALTY_MM
) -> float:
    """Average symmetric surface distance in mm [5]_: the mean of the surface distances of both boundaries together.

    The longer boundary weighs more, as in MONAI's ``SurfaceDistanceMetric(symmetric=True)``; MedPy's ``assd`` is the
    mean of the two directed means. Parameters, the empty rule and errors are those of :func:`region_scores`: both masks
    empty 0, one empty ``penalty_mm``, spacing unknown NaN.
    """
    return region_scores(prediction, reference, spacing_mm, penalty_mm)["assd_mm"]


def nsd(
    prediction: Mask, reference: Mask, spacing_mm: Sequence[float] | None, tolerance_mm: float = TOLERANCE_MM
) -> float:
    """Normalised surface Dice [4]_, 0..1: the share of both boundaries within ``tolerance_mm`` of the other boundary.

    It counts boundary voxels, as MONAI's ``SurfaceDiceMetric(use_subvoxels=False)``; DeepMind's counts areas. A distance
    equal to the tolerance counts as within it. Both masks empty: 1. One empty: 0. Spacing unknown: NaN. The other
    parameters and errors are those of :func:`region_scores`.
    """
    return region_scores(prediction, reference, spacing_mm, tolerance_mm=tolerance_mm)["nsd"]


def volume_ml(mask: Mask, voxel_volume_ml: float | None) -> float:
    """Volume of a mask in ml: number of voxels times the volume of one (``Grid.voxel_volume_ml``).

    An empty mask has 0 ml; where the voxel size is unknown (None) the volume is NaN.
    """
    return _volume_ml(int(np.count_nonzero(mask)), voxel_volume_ml)


def _volume_ml(voxels: int, voxel_volume_ml: float | None) -> float:
    return math.nan if voxel_volume_ml is None else float(voxels * voxel_volume_ml)


def _counts(pair: MaskPair, voxels: int) -> tuple[int, int, int, int]:
    """Numbers of voxels (tp, fp, fn, tn) of a pair cut from an image of ``voxels``."""
    tp = int(np.count_nonzero(pair.prediction & pair.reference))
    fp = int(np.count_nonzero(pair.prediction)) - tp
    fn = int(np.count_nonzero(pair.reference)) - tp
    return tp, fp, fn, voxels - tp - fp - fn


def _overlap_scores(tp: int, fp: int, fn: int, tn: int) -> dict[str, float]:
    equal = float(fp == fn == 0)

    def share(part: float, whole: float) -> float:
        return part / whole if whole else equal

    return {
        "dice": share(2 * tp, 2 * tp + fp + fn),
        "iou": share(tp, tp + fp + fn),
        "sensitivity": share(tp, tp + fn),
        "specificity": share(tn, tn + fp),
        "precision": share(tp, tp + fp),
        "accuracy": share(tp + tn, tp + fp + fn + tn),
        "tversky": share(tp, tp + 0.3 * fp + 0.7 * fn),
    }


def _surface_scores(
    pair: MaskPair, voxels_prediction: int, voxels_reference: int, penalty_mm: float, tolerance_mm: float
) -> dict[str, float]:
    """The scores that rest on surface distances; the empty rule and the unknown spacing decide before them."""
    if pair.spacing_mm is None:
        return dict.fromkeys(("hd_mm", "hd95_mm", "assd_mm", "nsd"), math.nan)
    if not (voxels_prediction and voxels_reference):
        equal = voxels_prediction == voxels_reference
        distance = 0.0 if equal else float(penalty_mm)
        return {"hd_mm": distance, "hd95_mm": distance, "assd_mm": distance, "nsd": float(equal)}
    directed = directed_distances_mm(pair)
    n = sum(distances.size for distances in directed)
    # A spacing read from a header as float32 may miss 1 mm by 1e-7: a voxel next door is still 1 mm away.
    within = [int(np.searchsorted(distances, tolerance_mm * (1 + 1e-6), side="right")) for distances in directed]
    return {
        "hd_mm": float(max(distances[-1] for distances in directed)),
        "hd95_mm": max(_percentile(distances, 0.95) for distances in directed),
        "assd_mm": float(sum(distances.sum() for distances in directed)) / n,
        "nsd": sum(within) / n,
    }


def _percentile(ascending: Distances, share: float) -> float:
    """numpy's linear percentile of values that are sorted already, which spares the sorting."""
    position = share * (ascending.size - 1)
    below = math.floor(position)
    low, high = ascending[below], ascending[min(below + 1, ascending.size - 1)]
    return float(low + (high - low) * (position - below))
