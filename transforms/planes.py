"""Directions of slices: volumes turned before and after a network of slices.

The slices lie across the third axis of the turned volume.

A network of slices knows only volumes whose slices lie across the third axis. For another direction the volume is
turned before it and its answer back after it. The axes of a slice keep their order: of a volume in RAS, axial slices
are right-left by posterior-anterior, coronal ones right-left by inferior-superior, sagittal ones posterior-anterior by
inferior-superior.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch takes seconds to import
    import torch

import torch

ACROSS = {"axial": "SI", "coronal": "AP", "sagittal": "RL"}
"""The letters of the axis across which the slices of a plane lie."""


def slice_axis(plane: str, orientation: str) -> int:
    """Return the axis, 0 to 2, across which slices of a plane lie.

    The plane is a key of `ACROSS`, the orientation such as ``"RAS"``.
    """
    return next(axis for axis, letter in enumerate(orientation) if letter in ACROSS[plane])


def turning(across: int) -> tuple[int, int, int]:
    """Return a volume's axes in the order of the turned one.

    They are the two of a slice, then ``across``.
    """
    first, second = (axis for axis in range(3) if axis != across)
    return (first, second, across)


def turning_back(across: int) -> tuple[int, int, int]:
    """Return the axes of the turned volume in the original order."""
    order = turning(across)
    return (order.index(0), order.index(1), order.index(2))


def turned(volume: torch.Tensor, across: int) -> torch.Tensor:
    """Put the slices across an axis across the last one.

    Parameters
    ----------
    volume : (..., d1, d2, d3) tensor
    across : int
        0, 1 or 2.

    Returns
    -------
    (..., size of one axis, of the next, of ``across``) tensor
        For 2 the volume itself, else a contiguous copy.
    """
    return _arranged(volume, turning(across))


def turned_back(volume: torch.Tensor, across: int) -> torch.Tensor:
    """Return the (..., d1, d2, d3) tensor that :func:`turned` was given.

    As there it is the same memory or a contiguous copy.
    """
    return _arranged(volume, turning_back(across))


def _arranged(volume: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
    if tuple(order) == (0, 1, 2):
        return volume
    before = volume.ndim - 3
    return volume.permute(*range(before), *(before + axis for axis in order)).contiguous()


def axes_of(shape: Sequence[int], slice_axes: Sequence[int]) -> tuple[int, ...]:
    """Return the axes across which a volume is seen in slices.

    The volume is (d1, d2, d3). ``slice_axes``, but a single slice has only its own.
    """
    return (2,) if shape[2] == 1 else tuple(slice_axes)


def slices_as_channels(volume: torch.Tensor, context: int, step: int = 1) -> torch.Tensor:
    """Give every slice its neighbours as channels.

    Parameters
    ----------
    volume : (batch, modalities, d1, d2, d3) tensor
    context : int
        Neighbours on each side; beyond the ends the last slice is repeated.
    step : int
        Slices from one neighbour to the next.

    Returns
    -------
    (batch, modalities * (2 * context + 1), d1, d2, d3) tensor
        The slices of one modality stay together, in ascending order.
    """
    if context == 0:
        return volume
    depth = volume.shape[-1]
    at = torch.arange(depth, device=volume.device)
    offsets = range(-context * step, context * step + 1, step)
    shifted = [volume[..., (at + k).clamp(0, depth - 1)] for k in offsets]
    return torch.stack(shifted, dim=2).flatten(1, 2)
