"""Growth of a region between two visits: gained, kept and lost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.grid import Grid
from data.io.header import ImageHeader
from data.io.read import write_label_map
from data.labels import Mask
from pipeline.follow.components import lay_box
from pipeline.report.colours import rgb
from transforms.postprocess import bounding_box

KEPT, GAINED, LOST = 1, 2, 3
GROWTH_LABELS: Mapping[int, str] = {0: "neither", KEPT: "kept", GAINED: "gained", LOST: "lost"}
"""Labels of a growth map: in both visits, in the later alone, in the earlier alone."""
GROWTH_COLOURS: Mapping[int, str] = {KEPT: "#F0E442", GAINED: "#D55E00", LOST: "#56B4E9"}
"""Yellow, vermilion, sky blue: told apart with any colour vision (Okabe & Ito, 2008)."""
COVER = 0.55
"""Of the image's grey that a colour covers in a picture."""


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


def growth_picture(image: NDArray[Any], growth: NDArray[np.uint8], grid: Grid) -> tuple[NDArray[np.uint8], int]:
    """Draw the axial plane with the most change, in colours over the baseline's image.

    Parameters
    ----------
    image : (b1, b2, b3)
        Of the baseline, on ``grid``; 0 is taken for outside.
    growth : (b1, b2, b3) uint8
        As `growth_map` gives it. Without any change the plane with the most of the region is drawn, and the middle
        one where there is none.

    Returns
    -------
    picture : (rows, columns, 3) uint8
        The patient's front is up and the left on the right, as a radiologist looks at it; a pixel is a voxel.
    level : int
        Index of the plane from below, from 0.
    """
    seen, turned = grid.turn(image, "LPS"), grid.turn(growth, "LPS")
    changed, any_of_it = (turned >= GAINED).sum(axis=(0, 1)), (turned > 0).sum(axis=(0, 1))
    weights = changed if changed.any() else any_of_it
    level = int(weights.argmax()) if weights.any() else turned.shape[2] // 2
    plane, labels = seen[:, :, level].T.astype(np.float64), turned[:, :, level].T
    inside = image[image != 0]
    low, high = np.percentile(inside, [1, 99.5]) if inside.size else (0.0, 1.0)
    grey = 255 * np.clip((plane - low) / max(float(high - low), 1e-6), 0, 1) * (plane != 0)
    picture = np.repeat(grey[:, :, None], 3, axis=2)
    for label, colour in GROWTH_COLOURS.items():
        at = labels == label
        picture[at] = (1 - COVER) * picture[at] + COVER * np.array(rgb(colour))
    return np.rint(picture).astype(np.uint8), level
