"""Growth of a region between two visits: gained, kept and lost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.grid import Grid
from data.io.header import ImageHeader
from data.io.read import write_label_map
from data.labels import Mask
from pipeline.follow.components import lay_box
from transforms.postprocess import bounding_box

KEPT, GAINED, LOST = 1, 2, 3
GROWTH_LABELS: Mapping[int, str] = {0: "neither", KEPT: "kept", GAINED: "gained", LOST: "lost"}
"""Labels of a growth map: in both visits, in the later alone, in the earlier alone."""
GROWTH_COLOURS: Mapping[int, str] = {KEPT: "#F0E442", GAINED: "#D55E00", LOST: "#56B4E9"}
"""Yellow, vermilion, sky blue: told apart with any colour vision (Okabe & Ito, 2008)."""


def lay_mask(mask: Mask, grid: Grid, matrix: NDArray[np.float64], baseline: Grid) -> Mask:
    """Lay a visit's mask on the baseline's grid.

    It is interpolated linearly and cut at a half; on the same voxels it is the same.

    Parameters
    ----------
    mask : (d1, d2, d3) bool
        On ``grid``; an empty one stays empty.
    matrix : (4, 4) float64
        Takes a place at the baseline to the visit, mm (`transforms.registration.move.Move`).
    """
    box = bounding_box(mask)
    corner = np.array([cut.start for cut in box])
    to_voxels = np.linalg.solve(grid.affine, matrix)
    return lay_box(mask[box].astype(np.float32), corner, to_voxels, baseline, order=1) >= 0.5 - 1e-6


def growth_map(before: Mask, after: Mask) -> NDArray[np.uint8]:
    """Return where a region was kept, gained and lost.

    Parameters
    ----------
    before, after : (b1, b2, b3) bool
        Masks of two visits on one grid.

    Returns
    -------
    (b1, b2, b3) uint8
        Labels of `GROWTH_LABELS`.
    """
    if before.shape != after.shape:
        raise ValueError(f"the masks are {before.shape} and {after.shape}; lay both on the baseline's grid first")
    return np.select([before & after, after, before], [KEPT, GAINED, LOST], 0).astype(np.uint8)


def growth_ml(growth: NDArray[np.uint8], grid: Grid) -> dict[str, float]:
    """Return the volumes of ``kept``, ``gained`` and ``lost`` on the baseline's grid."""
    counts = np.bincount(growth.ravel(order="K"), minlength=len(GROWTH_LABELS))
    return {GROWTH_LABELS[label]: float(counts[label]) * grid.voxel_volume_ml for label in (KEPT, GAINED, LOST)}


def write_growth_map(path: Path, growth: NDArray[np.uint8], like: ImageHeader) -> None:
    """Write a growth map as NIfTI, on the grid of the baseline's header ``like``.

    Labels: 1 kept, 2 gained, 3 lost, 0 neither.
    """
    write_label_map(path, growth, like)
