"""Readiness of a patient's images for a model of skull-stripped, registered brains.

Images that one brain mask has cut out lie on each other: their voxels other than 0 are the same, and nothing more is
looked at. Else a search over small rigid moves tells whether another position would be clearly better.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.case import GRID_ORDER
from data.grid import Grid
from data.io.header import ImageHeader
from data.plausibility import impression, shows_head
from transforms.registration.move import Move
from transforms.registration.register import COARSE_MM, picture, small_move

SAME_BRAIN = 0.99
"""Dice of the voxels other than 0 from which two images were cut out by one mask: 1 in real BraTS patients, .97 at most
where one is moved by 3 mm."""
MOST_MM, MOST_DEGREES = 3.0, 2.0
"""Of a move that is still none: real BraTS patients, registered by their makers, seem moved by up to 1.8 mm."""
BETTER = 1.08
"""Times the mutual information where the images are, at least, for another position to be the right one."""
FEWEST_SLICES = 8
"""Along each axis; fewer tell no position."""


@dataclass(frozen=True, eq=False)
class Readiness:
    """Doubts about a patient's images that forbid a mask.

    Parameters
    ----------
    reference : str
        Modality that the others are compared with.
    heads : tuple of str
        Modalities that show a head with its skull.
    moved : dict of modality to Move
        Those that lie elsewhere than the reference, and where it lies in them, roughly. Empty where there are heads,
        which are not looked at further.
    """

    reference: str = ""
    heads: tuple[str, ...] = ()
    moved: dict[str, Move] = field(default_factory=dict)

    @property
    def is_ready(self) -> bool:
        """True where the images can be segmented as they are."""
        return not self.heads and not self.moved


def examine(images: Mapping[str, tuple[NDArray[Any], ImageHeader]], reference: str | None = None) -> Readiness:
    """Tell whether a patient's images are skull-stripped and registered.

    Parameters
    ----------
    images : mapping of modality to (array, header)
        Each (d1, d2, d3) integers or floats on the grid of its own header.
    reference : str, optional
        By default the first of `data.case.GRID_ORDER` that is there.

    Returns
    -------
    Readiness
        Images without a known voxel size, or of fewer than eight slices, are not looked at.
    """
    told = {name: image for name, image in images.items() if can_tell(image[1].grid)}
    chosen = reference or next((name for name in (*GRID_ORDER, *told) if name in told), "")
    heads = tuple(name for name, image in told.items() if shows_head(impression(*image)))
    if heads or chosen not in told:  # heads are registered anyway, and more exactly
        return Readiness(chosen, heads)
    fixed, fixed_header = told.pop(chosen)
    apart = {
        name: image
        for name, image in told.items()
        if not _cut_out_alike(fixed, fixed_header.grid, image[0], image[1].grid)
    }
    if not apart:
        return Readiness(chosen)
    seen = picture(fixed, fixed_header.grid, [COARSE_MM])
    moved = {}
    for name, (array, header) in apart.items():
        move, here = small_move(seen, picture(array, header.grid, [COARSE_MM]))
        if (move.moved_mm > MOST_MM or move.degrees > MOST_DEGREES) and move.information > BETTER * here:
            moved[name] = move
    return Readiness(chosen, (), moved)


def can_tell(grid: Grid) -> bool:
    """Tell whether images on a grid tell their position."""
    return grid.spacing_known and min(grid.shape) >= FEWEST_SLICES


def _cut_out_alike(one: NDArray[Any], grid: Grid, other: NDArray[Any], other_grid: Grid) -> bool:
    if not grid.holds_voxels_of(other_grid):
        return False
    shown, also = one != 0, other_grid.turn(other, grid.orientation) != 0
    total = int(np.count_nonzero(shown)) + int(np.count_nonzero(also))
    return total == 0 or 2 * int(np.count_nonzero(shown & also)) >= SAME_BRAIN * total
