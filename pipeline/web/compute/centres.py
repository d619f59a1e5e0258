"""Where to look at a lesion: a voxel of its own near its centroid, which may lie outside of a ring or a crescent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray

from data.grid import Grid
from pipeline.score.lesions import find_lesions
from transforms.postprocess import bounding_box

_NEAR_MM = 0.01
"""Two centroids so near to each other are one: the mask's file holds its grid in single precision."""


def lesion_centres(
    mask: NDArray[np.bool_], grid: Grid, rows: Sequence[Mapping[str, Any]]
) -> dict[int, tuple[int, int, int]]:
    """The voxel of each lesion of one region's mask that is nearest to its centroid.

    Parameters
    ----------
    mask : (d1, d2, d3) bool
        Of one region, on ``grid``.
    rows : sequence of mappings
        As of :func:`pipeline.score.lesions.lesion_table`: ``lesion``, ``voxels`` and ``centroid_x_mm`` and so on.

    Returns
    -------
    dict
        Number of the lesion -> index of the voxel in ``mask``; of equally near voxels the first in C order. A row
        with which the component of its number does not agree (lesions that were cut apart, another mask) is left out.
    """
    if not rows or not mask.any():
        return {}
    box = bounding_box(mask)
    corner = np.array([cut.start for cut in box])
    labels, n = find_lesions(mask[box], grid.spacing_mm)
    boxes = cc3d.statistics(labels)["bounding_boxes"]
    found = {}
    for row in rows:
        number = int(row["lesion"])
        if not 1 <= number <= n:
            continue
        part = boxes[number]
        voxels = np.argwhere(labels[part] == number) + corner + [cut.start for cut in part]
        centroid = voxels.mean(axis=0)
        if _agrees(row, len(voxels), grid.affine[:3, :3] @ centroid + grid.affine[:3, 3]):
            apart_mm = np.linalg.norm((voxels - centroid) @ grid.affine[:3, :3].T, axis=1)
            # To a millionth: rounding must not choose among voxels that are equally near.
            i, j, k = voxels[np.round(apart_mm, 6).argmin()].tolist()
            found[number] = (i, j, k)
    return found


def _agrees(row: Mapping[str, Any], voxels: int, centroid_mm: NDArray[np.float64]) -> bool:
    said = np.array([float(row.get(f"centroid_{axis}_mm", np.nan)) for axis in "xyz"])
    return row.get("voxels") == voxels and bool((np.isnan(said) | (np.abs(said - centroid_mm) < _NEAR_MM)).all())
