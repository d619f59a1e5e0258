"""Voxels outside the brain that some programs leave without a number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from data.io.read import Volume


def is_unfinished(volume: Volume) -> bool:
    """Tell whether an image has a NaN, and nothing infinite beside it."""
    array = volume.array
    return array.dtype.kind == "f" and bool(np.isnan(array.min())) and not np.isinf(array).any()


def with_background(volumes: Mapping[str, Volume]) -> dict[str, Volume]:
    """Set NaN to 0 where no image shows anything.

    A warning says so.

    NaN are background where they reach from every corner inwards without a hole in the brain, and where each image has
    NaN or 0 there. All other images come back as they are, for whoever checks them.

    Parameters
    ----------
    volumes : mapping of modality to Volume
        Arrays, (d1, d2, d3); those with NaN are changed in place.
    """
    arrays = [volume.array for volume in volumes.values()]
    unfinished = {name for name, volume in volumes.items() if is_unfinished(volume)}
    if not unfinished or len({array.shape for array in arrays}) > 1:
        return dict(volumes)
    nowhere = np.logical_or.reduce([np.isnan(volumes[name].array) for name in unfinished])
    if not _is_outside(nowhere) or any((np.nan_to_num(array[nowhere]) != 0).any() for array in arrays):
        return dict(volumes)
    found = dict(volumes)
    for name in unfinished:
        volume = volumes[name]
        count = int(np.isnan(volume.array).sum())
        volume.array[nowhere] = 0
        note = f"{volume.header.path.name}: {count} voxels outside the brain are NaN, in no image a number; taken for 0"
        found[name] = replace(volume, header=replace(volume.header, warnings=(*volume.header.warnings, note)))
    return found


def _is_outside(nowhere: NDArray[np.bool_]) -> bool:
    from scipy.ndimage import binary_fill_holes  # wanted for such files alone

    corners = nowhere[np.ix_((0, -1), (0, -1), (0, -1))]
    return bool(corners.all() and not (binary_fill_holes(~nowhere) & nowhere).any())
