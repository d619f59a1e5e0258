"""Resampling from one grid to another.

It is the only place where voxels are resampled, towards the network and on the way back.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage

from data.grid import TOLERANCE_MM, Grid

Padding = list[tuple[int, int]]
"""How many target voxels lie outside the source before and after those inside, for each of the three axes."""

_BAND = (8, 32)  # target voxels along the first two axes that are computed together: the best of 4 to 64, measured


def resample_to(image: torch.Tensor, source: Grid, target: Grid) -> torch.Tensor:
    """Interpolate ``image`` linearly onto another grid; zero where the target lies outside the source.

    Where the axes of both grids are parallel, in any order and direction, this is one small matrix for each axis: a
    triangle filter, as wide as the coarser of the two spacings, so that going to a coarser grid averages and does not
    alias. An axis whose voxels coincide is only sliced, flipped and padded, so a round trip without interpolation is
    exact to the bit.

    Parameters
    ----------
    image : (channels, d1, d2, d3) float tensor
        On ``source``. Probabilities stay within [0, 1].
    source, target : Grid

    Returns
    -------
    (channels, *target.shape) tensor of the same dtype and device.

    Notes
    -----
    Grids that are rotated against each other go through :func:`scipy.ndimage.affine_transform` (order 1, no averaging).
    """
    box, padding = _resample_inside(image, source, target)
    around = [n for sides in reversed(padding) for n in sides]
    return F.pad(box, around) if any(around) else box.contiguous()


def _resample_inside(image: torch.Tensor, source: Grid, target: Grid) -> tuple[torch.Tensor, Padding]:
    """Resample onto the target voxels that lie inside the source only.

    Memory orders are free; else as `resample_to`.
    """
    if tuple(image.shape[1:]) != source.shape:
        raise ValueError(f"image of shape {tuple(image.shape[1:])} does not lie on a grid of shape {source.shape}")
    matrix, offset, axes = _from_target(source, target)
    if axes is None:
        return _resample_rotated(image, matrix, offset, target.shape), [(0, 0)] * 3
    tolerance = TOLERANCE_MM / np.array(source.spacing_mm)
    padding: Padding = []
    for axis in range(3):
        step, n_target = float(matrix[axis, axes[axis]]), target.shape[axes[axis]]
        image, around = _resample_axis(image, axis, step, float(offset[axis]), n_target, float(tolerance[axis]))
        padding.append(around)
    order = [int(np.flatnonzero(axes == axis)[0]) for axis in range(3)]
    return image.permute(0, *(1 + axis for axis in order)), [padding[axis] for axis in order]


def _from_target(
    source: Grid, target: Grid
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.intp] | None]:
    """Return matrix and offset from target to source voxels.

    For each source axis the target axis that runs along it comes with them; None where the grids are not parallel.
    """
    # Rounded, so that the same patient stored flipped or permuted gives the same weights to the bit.
    to_source = np.round(np.linalg.solve(source.affine, target.affine), 9)
    matrix, offset = to_source[:3, :3], to_source[:3, 3]
    axes = np.abs(matrix).argmax(axis=1)
    rest = matrix.copy()
    rest[range(3), axes] = 0
    drift = np.abs(rest * np.array(target.shape)) * np.array(source.spacing_mm)[:, None]
    is_parallel = sorted(axes) == [0, 1, 2] and drift.max() <= TOLERANCE_MM
    return matrix, offset, axes if is_parallel else None


def average_to(image: torch.Tensor, source: Grid, target: Grid) -> torch.Tensor:
    """Interpolate as `resample_to`, and average on turned grids too.

    The values are taken at steps of the source's smallest spacing along the target's axes, and averaged by the triangle
    that `resample_to` uses on parallel grids: a mask of thick slices then has the same size on either.
    """
    finest = min(source.spacing_mm)
    if _from_target(source, target)[2] is not None or max(target.spacing_mm) <= finest:
        return resample_to(image, source, target)
    first = np.eye(4)
    first[:3, 3] = -1  # a voxel more on each side, which the triangle of the outermost ones reaches
    n1, n2, n3 = (n + 2 for n in target.shape)
    around = Grid((n1, n2, n3), target.affine @ first, target.spacing_known)
    fine = grid_at_spacing(around, tuple(min(mm, finest) for mm in target.spacing_mm))
    return resample_to(resample_to(image, source, fine), fine, target)


def _resample_axis(
    image: torch.Tensor, axis: int, step: float, offset: float, n_target: int, tolerance: float
) -> tuple[torch.Tensor, tuple[int, int]]:
    """Map one array axis onto the target voxels inside the source.

    The numbers of voxels outside before and after them come with it.
    """
    dim, n_source = axis + 1, image.shape[axis + 1]
    whole_step, whole_offset = round(step), round(offset)
    exact = (
        abs(whole_step) == 1
        and abs(step - whole_step) * n_target < tolerance
        and abs(offset - whole_offset) < tolerance
    )
    first_centre, pace = (whole_offset, whole_step) if exact else (offset, step)
    centres = first_centre + pace * np.arange(n_target, dtype=np.float64)
    inside = np.flatnonzero((centres > -0.5 - 1e-6) & (centres < n_source - 0.5 + 1e-6))
    if not inside.size:
        return image.narrow(dim, 0, 0), (0, n_target)
    first, last = int(inside[0]), int(inside[-1])
    around = (first, n_target - 1 - last)
    if exact:
        low = int(min(centres[first], centres[last]))
        image = image.narrow(dim, low, len(inside))
        return (image.flip(dim) if whole_step < 0 else image), around
    weights = axis_weights(n_source, centres[first : last + 1], step)
    return _weighted(image, axis, torch.as_tensor(weights, dtype=image.dtype, device=image.device)), around


def _weighted(image: torch.Tensor, axis: int, weights: torch.Tensor) -> torch.Tensor:
    """Multiply a matrix with an image along one axis.

    Weights (n_target, n_source); the result is contiguous.

    A row has weights for a few neighbours only, so a few rows at a time are taken with the columns that they need.
    Along the last axis, whose voxels lie side by side, that gains nothing.
    """
    before, after = image.shape[: axis + 1], image.shape[axis + 2 :]
    if axis == 2:
        return image @ weights.T
    # The first axis sees the other two as one, and the second sees channels and first axis as one.
    source = image.reshape(before.numel(), image.shape[axis + 1], -1)
    result = source.new_empty((len(source), len(weights), source.shape[2]))
    used = weights != 0
    for start in range(0, len(weights), _BAND[axis]):
        columns = torch.nonzero(used[start : start + _BAND[axis]].any(dim=0)).ravel()
        low, high = int(columns[0]), int(columns[-1]) + 1
        band = weights[start : start + _BAND[axis], low:high]
        torch.matmul(band, source[:, low:high], out=result[:, start : start + len(band)])
    return result.reshape(*before, len(weights), *after)


def axis_weights(n_source: int, centres: NDArray[np.float64], step: float) -> NDArray[np.float64]:
    """Return linear interpolation along one axis as a matrix, (len(centres), n_source).

    ``centres`` are the target voxels in source indices, all within the source's outer voxel faces, ``step`` their
    distance. Each row is a triangle of half-width ``max(1, |step|)``, normalised to sum 1: at the border the outermost
    voxel is repeated half a voxel outwards.
    """
    width = max(1.0, abs(step))
    weights = np.clip(1.0 - np.abs(np.arange(n_source)[None, :] - centres[:, None]) / width, 0.0, None)
    return weights / weights.sum(axis=1, keepdims=True)


def _resample_rotated(
    image: torch.Tensor, matrix: NDArray[np.float64], offset: NDArray[np.float64], shape: tuple[int, ...]
) -> torch.Tensor:
    planes = [
        ndimage.affine_transform(plane.cpu().numpy(), matrix, offset, output_shape=shape, order=1) for plane in image
    ]
    return torch.as_tensor(np.stack(planes), device=image.device)


def grid_at_spacing(grid: Grid, spacing_mm: tuple[float | None, ...]) -> Grid:
    """Return the grid of voxels of ``spacing_mm`` over the same box, centred.

    ``None`` keeps the spacing of that axis; the grid is not smaller than the box.
    """
    wanted = [own if new is None else float(new) for own, new in zip(grid.spacing_mm, spacing_mm, strict=True)]
    # Stored affines are float32: a spacing that differs in the seventh digit is the same spacing.
    wanted = [
        own if abs(own - new) * n < TOLERANCE_MM else new
        for own, new, n in zip(grid.spacing_mm, wanted, grid.shape, strict=True)
    ]
    steps = np.array([new / own for own, new in zip(grid.spacing_mm, wanted, strict=True)])
    shape = tuple(max(1, int(np.ceil(n / step - 1e-4))) for n, step in zip(grid.shape, steps, strict=True))
    start = [(n - 1) / 2 - step * (m - 1) / 2 for n, m, step in zip(grid.shape, shape, steps, strict=True)]
    to_source = np.diag([*steps, 1.0])
    to_source[:3, 3] = start
    return Grid(shape, grid.affine @ to_source, grid.spacing_known)  # type: ignore[arg-type]


def restore(image: torch.Tensor, working: Grid, native: Grid) -> torch.Tensor:
    """Bring (channels, *working.shape) back to the case's own grid.

    It is zero outside the box that was cropped.

    The interpolation runs on the native voxels put into the working axes' order and direction, and only then are axes
    permuted and flipped: a patient stored in another orientation gets the same values to the bit. Only the box is
    computed and moved; the zeros around it are memory that is not touched. The first axis is the fastest in memory, as
    in NIfTI files: what is compared with a file's voxels or written to one then goes through both in one order.
    """
    along = native.reoriented(working.orientation)
    # numpy's zeros are pages that the system has not given yet, torch's are written.
    result = np.zeros((len(image), *native.shape[::-1]), image[:0].cpu().numpy().dtype).transpose(0, 3, 2, 1)
    for volume, channel in zip(result, image, strict=True):  # one at a time: the box takes memory once
        box, padding = _resample_inside(channel[None], working, along)
        inside = tuple(slice(before, n - behind) for (before, behind), n in zip(padding, along.shape, strict=True))
        seen_along = native.turn(volume, working.orientation)  # a view, permuted and flipped
        copy_planes(box[0].cpu().numpy(), seen_along[inside])
    return torch.from_numpy(result).to(image.device)


def copy_planes(source: NDArray[np.generic], target: NDArray[np.generic]) -> None:
    """Copy a source into a target of the same three axes.

    Both may have any memory order and number type.

    Plane by plane along an axis that is the fastest of neither, so that what is read and written stays in the cache: a
    third of the time of ``target[:] = source`` where the orders differ.
    """
    fastest = {int(np.argmin(np.abs(array.strides))) for array in (source, target)}
    axis = min({0, 1, 2} - fastest)
    for plane, values in zip(np.moveaxis(target, axis, 0), np.moveaxis(source, axis, 0), strict=True):
        np.copyto(plane, values, casting="unsafe")
