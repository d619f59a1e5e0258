"""One region of a prediction beside its reference, as a metric's formula sees it.

The definitions of boundary, distance, empty rule and unknown spacing stand in :mod:`pipeline.score.metrics`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline.score.surfaces import Distances, Mask, MaskPair, directed_distances_mm, mask_pair

PENALTY_MM = 374.0
"""Distance of a missed or invented region: the diagonal of BraTS's 240x240x155 mm, 373.13 mm, rounded up."""

TOLERANCE_MM = 1.0
"""Distance up to which a boundary voxel counts as found, where the caller names no other."""


@dataclass(frozen=True)
class ComparedRegion:
    """Voxel counts, surfaces and voxel size of one compared region."""

    pair: MaskPair
    """Both masks, cut to the box around their union."""
    tp: int
    """Voxels of both masks."""
    fp: int
    """Voxels of the prediction alone."""
    fn: int
    """Voxels of the reference alone."""
    tn: int
    """Voxels of neither."""
    voxel_ml: float
    """Volume of a voxel; NaN where it is unknown."""
    penalty_mm: float
    """Distance of a region that only one of the masks has."""
    tolerance_mm: float
    """Distance up to which a boundary voxel counts as found."""

    @property
    def prediction_ml(self) -> float:
        """Volume of the prediction; NaN where the voxel size is unknown."""
        return float((self.tp + self.fp) * self.voxel_ml)

    @property
    def reference_ml(self) -> float:
        """Volume of the reference; NaN where the voxel size is unknown."""
        return float((self.tp + self.fn) * self.voxel_ml)

    @cached_property
    def distances_mm(self) -> tuple[Distances, Distances]:
        """Surface distances of both directions, ascending: computed once for all formulas.

        Raises
        ------
        ValueError
            When the voxel size is unknown.
        """
        return directed_distances_mm(self.pair)

    def share(self, part: float, whole: float) -> float:
        """Return ``part / whole``; without a whole 1 for equal masks and 0 for others."""
        return part / whole if whole else float(self.fp == self.fn == 0)

    def from_surfaces(
        self, formula: Callable[[tuple[Distances, Distances]], float], *, best: float, worst: float
    ) -> float:
        """Apply a formula to the surface distances, under the empty rule.

        Parameters
        ----------
        formula : callable
            Takes ``distances_mm``; is asked where both masks have voxels and the spacing is known.
        best, worst : float
            The score of two empty masks, and of one empty mask.

        Returns
        -------
        float
            NaN where the spacing is unknown, empty or not.
        """
        if self.pair.spacing_mm is None:
            return math.nan
        if self.tp + self.fp and self.tp + self.fn:
            return float(formula(self.distances_mm))
        return best if self.fp == self.fn else worst


def compare_region(
    prediction: Mask,
    reference: Mask,
    spacing_mm: Sequence[float] | None,
    *,
    voxel_ml: float = math.nan,
    penalty_mm: float = PENALTY_MM,
    tolerance_mm: float = TOLERANCE_MM,
) -> ComparedRegion:
    """Check two masks of one region and count their voxels.

    Parameters
    ----------
    prediction, reference : (d1, ..., dN) bool
        The two masks, on the same grid.
    spacing_mm : N floats, or None where the voxel size is unknown
        Distance between neighbouring voxel centres along each array axis, in mm.
    voxel_ml, penalty_mm, tolerance_mm : float
        As in :class:`ComparedRegion`.

    Raises
    ------
    ValueError
        When a mask is not boolean, the shapes differ, the spacing is not one positive number per axis, or the
        tolerance is not a number of at least 0.
    """
    if not (math.isfinite(tolerance_mm) and tolerance_mm >= 0):
        raise ValueError(f"tolerance_mm is a number of at least 0, not {tolerance_mm}")
    pair = mask_pair(prediction, reference, spacing_mm)
    tp = int(np.count_nonzero(pair.prediction & pair.reference))
    fp = int(np.count_nonzero(pair.prediction)) - tp
    fn = int(np.count_nonzero(pair.reference)) - tp
    tn = int(np.size(prediction)) - tp - fp - fn
    return ComparedRegion(
        pair=pair, tp=tp, fp=fp, fn=fn, tn=tn, voxel_ml=voxel_ml, penalty_mm=penalty_mm, tolerance_mm=tolerance_mm
    )
