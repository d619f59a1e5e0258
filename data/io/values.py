"""Checks of stored values: finite, representable in float32, whole where they are labels."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.io.stream import refuse

LABEL_ROUNDING = 1e-5
"""A label may be so far from a whole number, times the label between 1 and 1000: what float32 arithmetic leaves of
it."""
_PIECE_VOXELS = 2**20
INTENSITIES = (1e-15, 1e15)
"""Where the largest value of an image may lie: the squares of all voxels must add up in float32 to neither 0 nor
inf."""


def check_voxels(path: Path, array: NDArray[Any]) -> None:
    """Refuse an image, (d1, d2, d3), with unusable voxels.

    These are NaN or infinite ones, one value only, or values beyond `INTENSITIES`.
    """
    low, high = float(np.float32(array.min())), float(np.float32(array.max()))  # as they will be seen
    check_finite(path, array, low, high)
    if low == high:
        refuse(
            path,
            "all its voxels are zero" if low == 0 else f"all its voxels have the one value {low:g}",
            "export the image again",
        )
    largest = max(abs(low), abs(high))
    if not INTENSITIES[0] <= largest <= INTENSITIES[1]:
        refuse(
            path,
            f"its values reach {largest:.3g}, outside {INTENSITIES[0]:g} to {INTENSITIES[1]:g}",
            "correct the scaling (slope) in its header, or scale the image",
        )


def whole_labels(path: Path, array: NDArray[Any], slope: float, intercept: float, kind: type) -> NDArray[Any]:
    """Return stored values as whole labels of type ``kind``.

    It goes piece by piece: float64 of all would take eight bytes a voxel.
    """
    labels: NDArray[Any] = np.empty(array.shape, kind, order="F")
    stored, target = array.ravel(order="F"), labels.ravel(order="F")  # views: readers give Fortran order
    wrong, example = 0, 0.0
    for start in range(0, stored.size, _PIECE_VOXELS):
        values = stored[start : start + _PIECE_VOXELS].astype(np.float64) * slope + intercept
        whole = np.rint(values)
        odd = np.abs(values - whole) > LABEL_ROUNDING * np.clip(whole, 1, 1000)
        if odd.any():
            example = example if wrong else float(values[odd][0])
            wrong += int(np.count_nonzero(odd))
        target[start : start + _PIECE_VOXELS] = whole
    if wrong:
        refuse(
            path,
            f"holds {wrong} labels that are no whole numbers, such as {exactly(example)}",
            "resample label maps with nearest neighbour",
        )
    return labels


def exactly(value: float) -> str:
    """Return a number with the digits that matter, and no more.

    They tell it from its neighbours' rounding.
    """
    return f"{value:.9g}"


def check_finite(path: Path, array: NDArray[np.generic], low: float, high: float) -> None:
    """Refuse an array with NaN or infinite values; ``low`` and ``high`` are its minimum and maximum.

    Raises :class:`data.errors.InputError`.
    """
    # Minimum and maximum carry a NaN or an infinity to the surface, so that the count is made only where there is one.
    if not (math.isfinite(low) and math.isfinite(high)):
        count = array.size - int(np.count_nonzero(np.isfinite(array)))
        refuse(
            path,
            f"{count} of its voxels are NaN or infinite",
            "export the image again, or set them to 0 if you know why they are there",
        )
