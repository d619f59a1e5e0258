"""Scores of a predicted mask beside a reference mask: overlap, surface distances, volume.

Pure functions on boolean masks. They take any number of axes (2D slices, 3D volumes); axes of one voxel do not count.

Definitions that every number here rests on:

boundary voxel
    A voxel of the mask that has a face neighbour outside the mask; outside the image counts as outside the mask. This
    is the mask without its erosion by the cross-shaped neighbourhood, which is also what MONAI does [1]_.
surface distance
    From the centre of a boundary voxel of one mask to the nearest centre of a boundary voxel of the other, in mm.
    Other definitions (DeepMind's, weighted by area, is in :mod:`pipeline.score.surface_elements`; MedPy's 95th
    percentile is that of both directions pooled) give other numbers.
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
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from data.labels import Mask
from pipeline.score import catalogue
from pipeline.score.compared import PENALTY_MM, TOLERANCE_MM, compare_region
from pipeline.score.surfaces import boundary, surface_distances_mm

__all__ = [
    "PENALTY_MM",
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


def region_scores(
    prediction: Mask,
    reference: Mask,
    spacing_mm: Sequence[float] | None,
    penalty_mm: float = PENALTY_MM,
    *,
    tolerance_mm: float = TOLERANCE_MM,
    voxel_volume_ml: float | None = None,
) -> dict[str, float]:
    """Compute every score of one region from one pair of surfaces.

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
    voxel_volume_ml : float, optional
        Volume of a voxel where its edges are not at right angles (``Grid.voxel_volume_ml``). Default: the product of
        the three spacings. Without spacing it is not heeded.

    Returns
    -------
    dict
        The keys of :func:`pipeline.score.catalogue.measured` in that order: those of :func:`overlap_scores`; those of
        the functions ``hd_mm``, ``hd95_mm``, ``assd_mm`` and ``nsd``; then, with V the volumes in ml,
        ``volume_ml_prediction`` and ``volume_ml_reference``, ``volume_error_ml`` V_prediction - V_reference, and
        ``volume_error_percent`` 100 times that over V_reference, both with their sign. Images of fewer than three axes
        have no ml (NaN) unless ``voxel_volume_ml`` is given; the error in percent needs no voxel size.

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
    voxel_ml = math.nan
    if spacing_mm is not None and voxel_volume_ml is not None:
        voxel_ml = voxel_volume_ml
    elif spacing_mm is not None and len(spacing_mm) == 3:
        voxel_ml = math.prod(float(length) for length in spacing_mm) / 1000.0
    region = compare_region(
        prediction, reference, spacing_mm, voxel_ml=voxel_ml, penalty_mm=penalty_mm, tolerance_mm=tolerance_mm
    )
    return {metric.key: metric.measure(region) for metric in catalogue.measured() if metric.measure}


def dice(prediction: Mask, reference: Mask) -> float:
    """Return the Dice coefficient, ``2 |P and R| / (|P| + |R|)``: 0 (disjoint) to 1 (equal).

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
    """Compute every score that counts voxels, from one pass over the two masks.

    Parameters
    ----------
    prediction, reference : (d1, ..., dN) bool
        The two masks, on the same grid.

    Returns
    -------
    dict
        With tp, fp, fn, tn the numbers of voxels, each score in 0..1: ``dice`` 2tp / (2tp + fp + fn), ``iou``
        tp / (tp + fp + fn), ``sensitivity`` tp / (tp + fn), ``specificity`` tn / (tn + fp), ``precision``
        tp / (tp + fp), ``accuracy`` (tp + tn) / all, ``tversky`` tp / (tp + 0.3 fp + 0.7 fn). Empty rule: a score
        whose denominator is 0 is 1 where the masks are equal, else 0. So both empty gives 1 everywhere; one empty
        gives 0 but for ``specificity`` and ``accuracy``, which count what both left out.

    Raises
    ------
    ValueError
        When a mask is not boolean or the shapes differ.
    """
    region = compare_region(prediction, reference, None)
    return {metric.key: metric.measure(region) for metric in catalogue.OVERLAP if metric.measure}


def hd_mm(
    prediction: Mask, reference: Mask, spacing_mm: Sequence[float] | None, penalty_mm: float = PENALTY_MM
) -> float:
    """Return the Hausdorff distance in mm.

    It is the largest distance from a boundary voxel of one mask to the other's boundary.

    Parameters, the empty rule and errors are those of :func:`region_scores`: both masks empty 0, one empty
    ``penalty_mm``, spacing unknown NaN.
    """
    return region_scores(prediction, reference, spacing_mm, penalty_mm)["hd_mm"]


def hd95_mm(
    prediction: Mask, reference: Mask, spacing_mm: Sequence[float] | None, penalty_mm: float = PENALTY_MM
) -> float:
    """Return the 95th percentile Hausdorff distance in mm.

    It is the larger of the two directed 95th percentiles of surface distances.

    Percentiles interpolate linearly (numpy's default, MONAI's too). Parameters, the empty rule and errors are those of
    :func:`region_scores`: both masks empty 0, one empty ``penalty_mm``, spacing unknown NaN.
    """
    return region_scores(prediction, reference, spacing_mm, penalty_mm)["hd95_mm"]


def assd_mm(
    prediction: Mask, reference: Mask, spacing_mm: Sequence[float] | None, penalty_mm: float = PENALTY_MM
) -> float:
    """Return the average symmetric surface distance in mm.

    It is the mean of the surface distances of both boundaries together.

    The longer boundary weighs more, as in MONAI's ``SurfaceDistanceMetric(symmetric=True)``; MedPy's ``assd`` is the
    mean of the two directed means. Parameters, the empty rule and errors are those of :func:`region_scores`: both masks
    empty 0, one empty ``penalty_mm``, spacing unknown NaN.
    """
    return region_scores(prediction, reference, spacing_mm, penalty_mm)["assd_mm"]


def nsd(
    prediction: Mask, reference: Mask, spacing_mm: Sequence[float] | None, tolerance_mm: float = TOLERANCE_MM
) -> float:
    """Return the normalised surface Dice, 0..1.

    It is the share of both boundaries within ``tolerance_mm`` of the other boundary.

    It counts boundary voxels, as MONAI's ``SurfaceDiceMetric(use_subvoxels=False)``; DeepMind's counts areas. A
    distance equal to the tolerance counts as within it. Both masks empty: 1. One empty: 0. Spacing unknown: NaN. The
    other parameters and errors are those of :func:`region_scores`.
    """
    return region_scores(prediction, reference, spacing_mm, tolerance_mm=tolerance_mm)["nsd"]


def volume_ml(mask: Mask, voxel_volume_ml: float | None) -> float:
    """Return the volume of a mask in ml.

    It is the number of voxels times the volume of one (``Grid.voxel_volume_ml``). An empty mask has 0 ml; where the
    voxel size is unknown (None) the volume is NaN.
    """
    return math.nan if voxel_volume_ml is None else float(int(np.count_nonzero(mask)) * voxel_volume_ml)
