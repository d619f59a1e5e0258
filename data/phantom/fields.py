"""Random numbers and smooth random fields of phantom patients.

They are functions of the seed and of places in mm.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Axes = tuple[Array, Array, Array]
"""Millimetres of voxels from the middle of the head, along each array axis."""
Place = tuple[float, float, float]
"""A point in the head, millimetres from its middle."""


def stream(seed: int, purpose: str) -> np.random.Generator:
    """Give each purpose its own stream of random numbers.

    A change to one draw leaves all others of the seed as they were.
    """
    return np.random.default_rng([seed, *purpose.encode()])


def smooth_noise(axes: Axes, scale_mm: float, rng: np.random.Generator) -> Array:
    """Return a cubic B-spline field through random knots ``scale_mm`` apart.

    It has mean 0, variance 1 and the shape of the axes.

    It is a function of the place in mm, not of the voxels. Beyond 150 mm from the middle it stays what it is there.
    """
    reach = 150.0
    knots = int(np.ceil(2 * reach / scale_mm)) + 4
    field = rng.standard_normal((knots, knots, knots), dtype=np.float32) * np.float32(3.0**0.5)
    # Four weighted slabs a voxel, the first axis last: whole planes are added, and unlike a matrix product the
    # result does not depend on the number of threads.
    for k in (2, 1, 0):
        place = np.clip((axes[k] + reach) / scale_mm, 0, knots - 4 - 1e-3)
        first = np.floor(place).astype(int)
        t = place - first
        weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6
        along = [1, 1, 1]
        along[k] = -1
        slabs = (weights[m].astype(np.float32).reshape(along) * field.take(first + m, axis=k) for m in range(4))
        total = next(slabs)
        for slab in slabs:
            total += slab
        field = total
    return field


def sheets(axes: Axes, scale_mm: float, width: float, rng: np.random.Generator) -> Array:
    """Return thin curved sheets: 1 on the sheet, falling to 0.

    They lie where a smooth noise crosses zero.
    """
    return np.asarray(np.exp(-((smooth_noise(axes, scale_mm, rng) / np.float32(width)) ** 2)), dtype=np.float32)


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -30, 30))), dtype=np.float32)


def rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    (ca, cb, cc), (sa, sb, sc) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, ca, -sa], [0, sa, ca]])
    about_y = np.array([[cb, 0, sb], [0, 1, 0], [-sb, 0, cb]])
    about_z = np.array([[cc, -sc, 0], [sc, cc, 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x)


def window_around(axes: Axes, place_mm: Place, reach_mm: float) -> tuple[slice, slice, slice]:
    """Return the voxels within ``reach_mm`` of a place along each axis.

    Slices are empty where the axes do not go there.
    """
    sides = [np.searchsorted(axes[k], (place_mm[k] - reach_mm, place_mm[k] + reach_mm)).tolist() for k in range(3)]
    return slice(*sides[0]), slice(*sides[1]), slice(*sides[2])
