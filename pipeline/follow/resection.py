"""Extent of resection: the words of RANO resect with the ml, no letters.

Residual volumes of a scan within 72 hours of surgery, newly diagnosed glioblastoma [1]_:

supramaximal
    No enhancing and at most 5 ml of non-enhancing tumour left.
maximal
    Complete: no enhancing tumour left; near total: at most 1 ml.
submaximal
    Subtotal: at most 5 ml of enhancing tumour left; partial: more.
biopsy
    No tumour removed: not seen in volumes, must be given.

"None left" needs a floor for stray voxels: :data:`FLOOR_ML`, ours. Only the abstract of the paper was read.

References
----------
.. [1] Karschnia et al., Neuro-Oncology 2023, doi 10.1093/neuonc/noac193.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from pipeline.follow.measures import at_most

DOI = "10.1093/neuonc/noac193"
"""Paper of the classes."""
FLOOR_ML = 0.175
"""Enhancing volume up to which none counts as left: stray voxels (ours to choose; one trial took this value)."""
NEAR_TOTAL_ML, SUBTOTAL_ML, SUPRAMAXIMAL_ML = 1, 5, 5
"""Most ml left: enhancing (near total, subtotal), non-enhancing (supramaximal)."""
SCAN_HOURS = 72
"""The classes are about a scan within so many hours of surgery."""


@dataclass(frozen=True)
class Resection:
    """Extent of a resection."""

    words: str
    """``supramaximal``, ``maximal, complete``, ``maximal, near total``, ``submaximal, subtotal``,
    ``submaximal, partial`` or ``biopsy``."""
    reason: str
    """In words, with the ml, the floor and the doi."""
    enhancing_ml: float
    """Residual."""
    non_enhancing_ml: float | None
    """Residual; None: not measured."""
    cavity_ml: float | None
    """Resection cavity; None: no such label."""
    removed_percent: float | None
    """Share of the enhancing volume before surgery that is gone; None: unknown, or none was there."""


def classify_resection(
    enhancing_ml: float,
    *,
    non_enhancing_ml: float | None = None,
    cavity_ml: float | None = None,
    enhancing_before_ml: float | None = None,
    biopsy: bool = False,
    hours: float | None = None,
    floor_ml: float = FLOOR_ML,
) -> Resection:
    """Return the class of a resection in words.

    Parameters
    ----------
    enhancing_ml, non_enhancing_ml : float
        Residual volumes. Non-enhancing tumour, not oedema; None: not measured, so that no resection is supramaximal.
    cavity_ml : float, optional
        Told beside the class; it decides nothing.
    enhancing_before_ml : float, optional
        On the scan before surgery, for the share that is gone.
    biopsy : bool
        No tumour was removed.
    hours : float, optional
        From surgery to the scan; more than 72 are said.
    floor_ml : float
        See `FLOOR_ML`.

    Raises
    ------
    ValueError
        A volume is negative or not finite.
    """
    volumes = (enhancing_ml, non_enhancing_ml, cavity_ml, enhancing_before_ml, floor_ml)
    for volume in volumes:
        if volume is not None and not (math.isfinite(volume) and volume >= 0):
            raise ValueError(f"a volume of {volume} ml; give finite ones of at least 0")
    words = "biopsy" if biopsy else _class(enhancing_ml, non_enhancing_ml, floor_ml)
    removed = None
    if enhancing_before_ml:
        removed = 100 * (enhancing_before_ml - enhancing_ml) / enhancing_before_ml
    parts = [f"enhancing tumour left {enhancing_ml:.2f} ml"]
    if removed is not None:
        parts.append(f"{removed:.1f} % of {enhancing_before_ml:.2f} ml removed")
    if enhancing_ml > 0 and at_most(enhancing_ml, floor_ml):
        parts.append(f"up to {floor_ml:g} ml count as none")
    left = "not measured" if non_enhancing_ml is None else f"{non_enhancing_ml:.2f} ml"
    parts.append(f"non-enhancing tumour left {left}")
    parts += [] if cavity_ml is None else [f"cavity {cavity_ml:.2f} ml"]
    if hours is not None and not at_most(hours, SCAN_HOURS):
        parts.append(f"scan {hours:g} hours after surgery, the classes ask for at most {SCAN_HOURS}")
    parts.append(f"doi {DOI}")
    return Resection(words, "; ".join(parts), enhancing_ml, non_enhancing_ml, cavity_ml, removed)


def _class(enhancing_ml: float, non_enhancing_ml: float | None, floor_ml: float) -> str:
    if at_most(enhancing_ml, Fraction(floor_ml)):
        supramaximal = non_enhancing_ml is not None and at_most(non_enhancing_ml, SUPRAMAXIMAL_ML)
        return "supramaximal" if supramaximal else "maximal, complete"
    if at_most(enhancing_ml, NEAR_TOTAL_ML):
        return "maximal, near total"
    return "submaximal, subtotal" if at_most(enhancing_ml, SUBTOTAL_ML) else "submaximal, partial"
