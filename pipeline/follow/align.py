"""Alignment of a patient's visits to the baseline.

Brains are registered rigidly by mutual information; the tumours of both visits, which change, have no say. Nothing is
resampled: a move is a matrix, and what is measured is measured on each visit's own grid.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.case import GRID_ORDER
from data.grid import Grid
from data.labels import Mask
from transforms.registration.move import Move, write_move
from transforms.registration.register import Picture, overlap, picture, register

LEAST_INFORMATION = 0.75
"""Mutual information in nats below which a registration is doubtful. Visits of one phantom patient had .94 or more, two
visits of real heads 1.27 or more, one real brain moved and imaged otherwise 1.15 or more; brains of two real patients,
laid on each other as well as they go, .68 at most."""
LEAST_OVERLAP = 0.9
"""Dice of both brains below which a registration is doubtful: .97 or more for one head. Two heads have up to .95, so
that this finds a part that was not imaged or stripped, not another head."""


@dataclass(frozen=True, eq=False)
class Aligned:
    """Place of one visit at the baseline.

    Parameters
    ----------
    transform : Move
        From places at the baseline to places at the visit.
    overlap : float
        Dice of both brains, 0 to 1.
    doubt : str
        Why the registration may be wrong, in words; empty where there is no reason.
    """

    transform: Move
    overlap: float
    doubt: str = ""

    @property
    def is_doubtful(self) -> bool:
        """True where a reader must look before the comparison is believed."""
        return bool(self.doubt)


def look_at(image: NDArray[Any], grid: Grid, tumour: Mask | None = None) -> Picture:
    """Reduce a visit's image for `align`.

    Parameters
    ----------
    image : (d1, d2, d3)
        Skull-stripped: 0 outside the brain.
    tumour : (d1, d2, d3) bool, optional
        All that changes: tumour, oedema, cavity. It and a few mm around it are left out of the metric.
    """
    return picture(image, grid, leave_out=tumour if tumour is not None and tumour.any() else None)


def align(baseline: Picture, visit: Picture) -> Aligned:
    """Register a visit to the baseline, both as `look_at` gives them.

    The same pictures give the same move. A doubt is said, not raised: the measures of a visit on its own grid do not
    depend on it.
    """
    found = register(baseline, visit)
    shared = overlap(baseline, visit, found)
    doubts = []
    if not found.information >= LEAST_INFORMATION:  # NaN too
        doubts.append(f"mutual information {found.information:.2f}, at least {LEAST_INFORMATION} expected")
    if not shared >= LEAST_OVERLAP:
        doubts.append(f"brains overlap with Dice {shared:.2f}, at least {LEAST_OVERLAP} expected")
    return Aligned(found, shared, "; ".join(doubts))


def stay(baseline: Picture) -> Aligned:
    """Return the baseline's own place: no move."""
    middle = np.array([-1.0, -1.0, 1.0]) * baseline.centre_mm
    return Aligned(Move(np.eye(4), middle, float("inf")), 1.0)


def choose_images(baseline: Collection[str], visit: Collection[str]) -> tuple[str, str]:
    """Return the modality of each side that is registered.

    It is the first of `data.case.GRID_ORDER` that both have; where they share none, each one's own first.

    Raises
    ------
    ValueError
        One side has no image.
    """
    if not baseline or not visit:
        raise ValueError("a visit without images cannot be aligned: leave it out")
    order = [*GRID_ORDER, *sorted({*baseline, *visit} - set(GRID_ORDER))]
    both = next((name for name in order if name in baseline and name in visit), None)
    if both is not None:
        return both, both
    return next(n for n in order if n in baseline), next(n for n in order if n in visit)


def write_aligned(folder: Path, name: str, aligned: Aligned) -> Path:
    """Write a visit's move as ``<name>_xfm_baseline.txt``, an ITK transform; return the file.

    It takes places at the baseline to places at the visit, as a resampling of the visit onto the baseline asks for.
    """
    path = folder / f"{name}_xfm_baseline.txt"
    write_move(path, aligned.transform)
    return path
