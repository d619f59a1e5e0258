"""Fingerprint of an image: a short text that tells patients apart.

It stays alike however the image is stored.

The brain's box is cut into 8 x 8 x 8 blocks, and a bit says whether a block is brighter than its neighbourhood. So the
text depends neither on number type and scale nor on file format and names, and little on the voxel size. Two texts are
compared by the share of bits that differ, over all orders and directions of the axes, for headers can be wrong.

Notes
-----
Blocks, threshold and `SAME` were chosen by measurement on 133 patients: one image stored in other ways against all
other patients (``python -m bench.sets.fingerprints DATA``, table in bench/FINGERPRINTS.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import permutations, product
from typing import Any

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

from data.grid import Grid

BLOCKS = 8
"""Along each axis; 512 bits, 128 characters an image."""
SAME = 0.055
"""Share of differing bits up to which two images are the same one."""
_DARK = 0.02
"""What lies less than this share of the range above the darkest tissue is taken for air."""
_FEW = 0.01
"""A plane with a smaller share of foreground than this lies outside the brain's box."""
_INSIDE = 0.25
"""Share of a block that must be foreground for it to be compared."""


def fingerprint(array: NDArray[Any], grid: Grid | None = None) -> str:
    """Describe an image by 128 hexadecimal digits.

    An image without any contrast gives the empty text.

    Parameters
    ----------
    array : (d1, d2, d3)
        Numbers of any type; the background is the value that most of the eight corners have.
    grid : Grid, optional
        Where the voxels lie: the axes are brought into the order and directions R, A, S.
    """
    if grid is not None:
        array = grid.turn(array, "RAS")
    shown = _foreground(array)
    box = _box(shown)
    if box is None:
        return ""
    inside = shown[box].astype(np.float32)
    values = np.where(shown[box], array[box], 0).astype(np.float32)
    count = _sums(inside)
    share = count / (inside.size / BLOCKS**3)
    compared = share > _INSIDE
    if not compared.any():
        return ""
    means = np.where(compared, _sums(values) / np.maximum(count, 1e-6), 0)
    around, blocks = (ndi.uniform_filter(each, 3, mode="constant") for each in (means, compared.astype(np.float64)))
    # More than rounding leaves of two equal numbers, so that even blocks are not bright by chance.
    bright = compared & (means - around / np.maximum(blocks, 1e-6) > 1e-6 * np.abs(means).max())
    return np.packbits(bright.ravel()).tobytes().hex() if bright.any() else ""


def distance(one: str, other: str) -> float:
    """Compute the share of bits in which two fingerprints differ.

    The order and directions of the axes are those that suit best.

    Returns
    -------
    float in [0, 1]
        1.0 where a text is empty or of another length, so that it is like no other.
    """
    if len(one) != len(other) or len(one) != BLOCKS**3 // 4:
        return 1.0
    try:
        first, second = _bits(one), _bits(other)
    except ValueError:  # from a file that says something else
        return 1.0
    return float((first != second[_turns()]).mean(axis=1).min())


def distances(one: Mapping[str, str], other: Mapping[str, str]) -> float:
    """Take the mean :func:`distance` over the modalities that both have.

    It is 1.0 where there is none.
    """
    both = [modality for modality in one if modality in other]
    return float(np.mean([distance(one[modality], other[modality]) for modality in both])) if both else 1.0


def _foreground(array: NDArray[Any]) -> NDArray[np.bool_]:
    corners = array[np.ix_((0, -1), (0, -1), (0, -1))]
    values, counts = np.unique(corners, return_counts=True)
    background = values[counts.argmax()]
    # Read at every fourth voxel or so: for two percentiles that is enough.
    some = array[tuple(slice(None, None, max(1, n // 64)) for n in array.shape)]
    some = some[some != background]
    if not some.size:
        return np.zeros(array.shape, bool)
    dark, bright = np.percentile(some.astype(np.float64), (0.5, 99))
    return np.asarray((array != background) & (array > dark + _DARK * (bright - dark)))


def _box(shown: NDArray[np.bool_]) -> tuple[slice, slice, slice] | None:
    sides = []
    for axis in range(3):
        others = tuple({0, 1, 2} - {axis})
        planes = np.flatnonzero(shown.mean(axis=others) > _FEW)
        if not planes.size:
            return None
        sides.append(slice(int(planes[0]), int(planes[-1]) + 1))
    return (sides[0], sides[1], sides[2])


def _sums(array: NDArray[np.float32]) -> NDArray[np.float64]:
    """Sum over each of the blocks.

    A voxel on a border counts in both for the part that lies there.
    """
    sums = array.astype(np.float64) if array.size < 2**16 else array
    for axis, n in enumerate(array.shape):
        sums = np.moveaxis(np.tensordot(_shares(n).astype(sums.dtype), sums, axes=(1, axis)), 0, axis)
    return np.asarray(sums, np.float64)


@lru_cache(maxsize=64)
def _shares(n: int) -> NDArray[np.float64]:
    """Compute how much of voxel k lies in block b, (BLOCKS, n)."""
    edges = np.arange(BLOCKS + 1) * n / BLOCKS
    voxels = np.arange(n)
    overlap = np.minimum(edges[1:, None], voxels + 1) - np.maximum(edges[:-1, None], voxels)
    return np.clip(overlap, 0, None)


def _bits(text: str) -> NDArray[np.uint8]:
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))


@lru_cache(maxsize=1)
def _turns() -> NDArray[np.intp]:
    """List where each bit comes from in each of the 48 turns, (48, bits).

    A turn is an order and directions of the axes.
    """
    places = np.arange(BLOCKS**3).reshape((BLOCKS,) * 3)
    turned = [
        places.transpose(order)[tuple(slice(None, None, step) for step in steps)].ravel()
        for order in permutations(range(3))
        for steps in product((1, -1), repeat=3)
    ]
    return np.array(turned)
