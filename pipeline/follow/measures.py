"""Measures of a patient's lesions at each visit, for categories of response.

Definitions that every number here rests on:

lesion
    A number that one lesion keeps over all visits of its patient, within a region.
region
    ``ET`` (enhancing), ``WT`` (T2/FLAIR), or ``NCE`` (non-enhancing tumour, where somebody has drawn it; vasogenic
    oedema is none).
merged, split
    A lesion into which others have run keeps one of their numbers and names the rest in ``merged``. A part that came
    off a lesion has a number of its own and names that lesion in ``split_from``. The sizes of all of them are added
    up, so that neither changes a sum.
measurable
    A test of shape, never of volume. 2D: both diameters at least 10 mm on at least two slices. RANO 2010 asks for
    twice the thickness of slices thicker than 5 mm. 3D: at least 10 mm in each of three orthogonal dimensions.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

MEASURABLE_MM = 10
"""Least diameter (2D) or extent (3D) of a measurable lesion, in mm."""
MEASURABLE_SLICES = 2
"""Least number of slices on which both diameters are long enough."""
THICK_MM = 5
"""RANO 2010 asks for more than 10 mm where slices are thicker than this."""
TIE = Fraction(1, 10**9)
"""Share by which a value may miss a bound and still meet it.

Ties: products and volumes are floats, so a bound that is exactly met in millimetres may be missed by some 1e-16 of it.
One voxel changes a lesion by more than a billionth, so no value but a tie lies that near.
"""


@dataclass(frozen=True)
class LesionMeasure:
    """Size of one lesion at one visit, measured on that visit's own grid."""

    lesion: int
    """Number of the lesion, the same at each visit."""
    region: str
    """``ET``, ``WT`` or ``NCE``."""
    longest_mm: float
    """Largest axial diameter (see `pipeline.score.diameters`)."""
    perpendicular_mm: float
    """Diameter across it in the same slice."""
    volume_ml: float
    """Voxels times their volume."""
    measurable: bool
    """Measurable in 2D (RANO 2.0, RANO-LGG)."""
    measurable_3d: bool
    """Measurable in 3D (RANO 2.0 by volume)."""
    measurable_2010: bool | None = None
    """Measurable in 2D by RANO 2010; None: slices are at most 5 mm thick, so as ``measurable``."""
    merged: tuple[int, ...] = ()
    """Numbers of the lesions that have run into this one."""
    split_from: int | None = None
    """Number of the lesion that this one came off."""

    @property
    def product_mm2(self) -> float:
        """Product of both diameters."""
        return self.longest_mm * self.perpendicular_mm


@dataclass(frozen=True)
class VisitMeasures:
    """Lesions of one patient at one visit."""

    label: str
    """Time point as the layout names it: ``000``, ``week-044-1``, ``2021-03-04``."""
    lesions: tuple[LesionMeasure, ...] = ()
    """All lesions of all regions that are measured; empty: none is left."""
    date: datetime.date | None = None
    """Day of the scan."""
    days: float | None = None
    """Days since the patient's first visit; computed from ``date`` where all visits have one."""
    order: int = 0
    """Place among the patient's visits, from 0."""
    regions: tuple[str, ...] = ("ET",)
    """Regions that were measured. A lesion of another region is not known to be gone."""
    evaluable: bool = True
    """False: the visit gets no category."""
    why_not: str = ""
    """Reason, where it is not evaluable: a missing modality, no mask."""
    flags: tuple[str, ...] = ()
    """Doubts that a reader should know of: another scanner, a mask at the edge."""


def at_least(value: float | Fraction, bound: float | Fraction) -> bool:
    """Tell whether a value reaches a bound; a tie reaches it. Neither is negative."""
    return Fraction(value) >= Fraction(bound) * (1 - TIE)


def at_most(value: float | Fraction, bound: float | Fraction) -> bool:
    """Tell whether a value stays within a bound; a tie stays. Neither is negative."""
    return Fraction(value) <= Fraction(bound) * (1 + TIE)


def is_measurable_2d(diameters_mm: Iterable[tuple[float, float]], *, slice_mm: float | None = None) -> bool:
    """Tell whether a lesion is measurable in 2D.

    Parameters
    ----------
    diameters_mm : pairs of float
        Largest diameter and perpendicular on each of the lesion's axial slices; none gives False.
    slice_mm : float, optional
        Distance of the slices, for RANO 2010: twice that distance is asked for where it is more than 5 mm.
    """
    least = Fraction(MEASURABLE_MM)
    if slice_mm is not None and not at_most(slice_mm, THICK_MM):
        least = max(least, 2 * Fraction(slice_mm))
    return sum(at_least(min(pair), least) for pair in diameters_mm) >= MEASURABLE_SLICES


def is_measurable_3d(extents_mm: Sequence[float]) -> bool:
    """Tell whether a lesion is measurable in 3D, by three orthogonal extents in mm."""
    return len(extents_mm) == 3 and all(at_least(extent, MEASURABLE_MM) for extent in extents_mm)
