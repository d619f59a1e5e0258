"""Box around the voxels of an image that are not 0."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Box = tuple[slice, slice, slice]


def nonzero_box(array: NDArray[Any]) -> Box | None:
    """Return the smallest box that holds every voxel other than 0.

    Parameters
    ----------
    array : (d1, d2, d3)
        Of bool, integers or floats, in any memory order; both zeros of floats are 0, and NaN is not.

    Returns
    -------
    (slice, slice, slice) or None
        None where there is no such voxel, and for an array without voxels.

    Notes
    -----
    The planes are joined into one by "or" of their bits, which gives two axes; along the third, the slowest in memory,
    planes are looked at from both ends only. So no mask is made.
    """
    if not array.size:
        return None
    order = np.argsort([-abs(step) for step in array.strides], kind="stable")
    planes = array.transpose(order)
    if array.dtype.kind == "f":
        planes = planes.view(f"u{array.itemsize}")
    joined = _unsigned(np.bitwise_or.reduce(planes, axis=0), array.dtype)
    rows, columns = (np.flatnonzero(joined.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return None
    first = next(k for k in range(len(planes)) if _unsigned(planes[k], array.dtype).any())
    last = next(k for k in reversed(range(len(planes))) if _unsigned(planes[k], array.dtype).any())
    sides = {0: (first, last), 1: (rows[0], rows[-1]), 2: (columns[0], columns[-1])}
    at = {int(axis): sides[place] for place, axis in enumerate(order)}
    return tuple(slice(int(at[axis][0]), int(at[axis][1]) + 1) for axis in range(3))  # type: ignore[return-value]


def _unsigned(bits: NDArray[Any], dtype: np.dtype) -> NDArray[Any]:
    """Return the bits without the sign of a float.

    The sign is all that -0 has.
    """
    return bits & bits.dtype.type(2 ** (8 * bits.itemsize - 1) - 1) if dtype.kind == "f" else bits
