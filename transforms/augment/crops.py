"""Crops of volumes about a voxel, for patches of 2D and of 3D networks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from transforms.planes import turning, turning_back


def crop_around(
    voxels: np.ndarray,
    centre: Sequence[int] | np.ndarray,
    patch: Sequence[int],
    crop: Sequence[int],
    beyond: np.ndarray | None = None,
) -> np.ndarray:
    """Cut ``crop`` voxels out of (channels, *spatial), zeros beyond the volume.

    The patch in the middle of the crop is around ``centre``, but moved inwards where it would leave the volume; along
    an axis that is shorter than the patch, the volume's middle is the crop's.

    Parameters
    ----------
    voxels : (channels, *spatial) array
    centre : (dims,) int
        May lie outside the volume.
    patch, crop : (dims,) int
        In voxels; no axis of the patch is longer than the crop's.
    beyond : (channels,) array, optional
        What each channel is beyond the volume, instead of zero.

    Returns
    -------
    (channels, *crop) float32
        Voxel ``patch // 2`` of the patch is ``centre``, where that need not be moved.
    """
    result = np.zeros((len(voxels), *crop), np.float32)
    if beyond is not None:
        result[:] = np.reshape(beyond, (-1, *(1,) * len(crop)))
    source, target = [slice(None)], [slice(None)]
    firsts = crop_start(centre, patch, crop, voxels.shape[1:])
    for first, outer, size in zip(firsts, crop, voxels.shape[1:], strict=True):
        start, stop = max(first, 0), min(first + outer, size)
        source.append(slice(start, stop))
        target.append(slice(start - first, stop - first))
    result[tuple(target)] = voxels[tuple(source)]
    return result


def crop_start(
    centre: Sequence[int] | np.ndarray, patch: Sequence[int], crop: Sequence[int], shape: Sequence[int]
) -> list[int]:
    """Return the voxel at which the crop of :func:`crop_around` begins.

    One number for each axis; it may be negative.
    """
    firsts = []
    for middle, inner, outer, size in zip(centre, patch, crop, shape, strict=True):
        first = (size - inner) // 2 if size <= inner else int(np.clip(middle - inner // 2, 0, size - inner))
        firsts.append(first - (outer - inner) // 2)
    return firsts


def crop_volume(
    voxels: np.ndarray, centre: np.ndarray, patch: Sequence[int], crop: Sequence[int], beyond: np.ndarray
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Cut the crop of :func:`crop_around` and tell the voxels in it along each axis."""
    firsts = crop_start(centre, patch, crop, voxels.shape[1:])
    positions = [np.arange(first, first + n) for first, n in zip(firsts, crop, strict=True)]
    return crop_around(voxels, centre, patch, crop, beyond), positions


def crop_slices(
    voxels: np.ndarray,
    centre: np.ndarray,
    across: int,
    offsets: range,
    patch: Sequence[int],
    crop: Sequence[int],
    beyond: np.ndarray,
    *,
    neighbours: bool = True,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Cut slices across an axis about a voxel and tell the voxels in them.

    Across the slices nothing moves: they are the neighbours of the chosen one, the last slice repeated beyond the ends.

    Parameters
    ----------
    voxels : (channels, d1, d2, d3) array
    centre : (3,) int
    across : int
        The axis across which the slices lie.
    offsets : range
        Of the slices, from the chosen one.
    patch, crop : two int
        In voxels of a slice, as for :func:`crop_around`, with ``beyond``.
    neighbours : bool
        If not, the chosen slice takes the place of its neighbours, as in a volume of one slice.

    Returns
    -------
    (channels, c1, c2, c3) float32 and the three axes' voxels, both in the axes of ``voxels``
    """
    turned, middle = transposed(voxels, turning(across)), centre[list(turning(across))]
    shape = turned.shape[1:]
    first, last = (0, shape[2] - 1) if neighbours else (int(middle[2]),) * 2
    near = np.array([min(max(int(middle[2]) + k, first), last) for k in offsets])
    # One crop of all of them, for they lie side by side in memory.
    pace = offsets.step if (np.diff(near) == offsets.step).all() else 1
    slab = np.moveaxis(turned[..., near[0] : near[-1] + 1 : pace], -1, 1)
    depth = slab.shape[1]
    cut = crop_around(slab, (depth // 2, *middle[:2]), (depth, *patch), (depth, *crop), beyond)
    cut = cut if depth == len(near) else cut[:, near - near[0]]
    firsts = crop_start(middle[:2], patch, crop, shape[:2])
    positions = [*(np.arange(begin, begin + n) for begin, n in zip(firsts, crop, strict=True)), near]
    back = turning_back(across)
    return transposed(np.moveaxis(cut, 1, -1), back), [positions[axis] for axis in back]


def transposed(voxels: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """Return (channels, d1, d2, d3) with its last three axes in ``order``."""
    return voxels.transpose(0, *(1 + axis for axis in order))
