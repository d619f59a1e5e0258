"""Parts that the architectures share.

They are the names of normalisations and activations, and padding to a size that halves evenly.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

NORMS: dict[str, str | tuple[str, dict[str, object]]] = {
    "batch": "batch",
    "instance": ("instance", {"affine": True}),
    "group": ("group", {"num_groups": 4}),
}
"""Our names for MONAI's normalisations; every one has a learned scale and shift."""

ACTIVATIONS: dict[str, str | tuple[str, dict[str, object]]] = {
    "relu": ("relu", {"inplace": True}),
    "leaky_relu": ("leakyrelu", {"negative_slope": 0.1, "inplace": True}),
    "prelu": "prelu",
}
"""Our names for MONAI's activations."""


MAX_RESOLUTIONS = 8
"""Inputs are padded to a multiple of two to the power of one less: a list without end would decide our memory."""


def check_widths(channels: Sequence[int], norm: str, activation: str) -> None:
    """Raise ``ValueError`` with the fix where these options cannot build a network."""
    if not 2 <= len(channels) <= MAX_RESOLUTIONS or min(channels) < 1:
        raise ValueError(
            f"channels needs 2 to {MAX_RESOLUTIONS} positive widths, finest resolution first, not {tuple(channels)}"
        )
    if norm not in NORMS:
        raise ValueError(f"unknown norm {norm!r}; known: {', '.join(NORMS)}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"unknown activation {activation!r}; known: {', '.join(ACTIVATIONS)}")
    if norm == "group" and any(width % 4 for width in channels):
        raise ValueError(f"norm 'group' has 4 groups: every width must be a multiple of 4, not {tuple(channels)}")


class PaddedNetwork(nn.Module):
    """Network that halves its input ``halvings`` times and takes any size.

    Zeros are added at the far end, and cropped off again.

    Zero is what the background is after normalisation. Subclasses implement :meth:`outputs` on sizes that halve evenly.
    """

    def __init__(self, spatial_dims: int, in_channels: int, halvings: int, deep_supervision: bool) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.multiple = 2**halvings
        self.deep_supervision = deep_supervision

    def outputs(self, x: torch.Tensor, every_level: bool) -> list[torch.Tensor]:
        """Logits of ``x``'s size, the final output first; only that one unless ``every_level``."""
        raise NotImplementedError  # abstract: each architecture gives its own

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        if x.ndim != self.spatial_dims + 2 or x.shape[1] != self.in_channels:
            dims = ", ".join(f"dim_{i + 1}" for i in range(self.spatial_dims))
            raise ValueError(f"expected (batch, {self.in_channels}, {dims}), got {tuple(x.shape)}")
        padding = self.padding(x.shape[2:])
        padded = F.pad(x, padding) if any(padding) else x
        inside = (slice(None), slice(None), *(slice(n) for n in x.shape[2:]))
        every_level = self.training and self.deep_supervision
        logits = [y[inside] if any(padding) else y for y in self.outputs(padded, every_level)]
        return logits if every_level else logits[0]

    def padding(self, size: Sequence[int]) -> list[int]:
        """Count the zeros that :meth:`forward` puts at each end of each dimension.

        The near end comes before the far one, the last dimension first.
        """
        far = [-n % self.multiple for n in size]
        if all(n + f == self.multiple for n, f in zip(size, far, strict=True)):
            far[-1] += self.multiple  # one voxel left at the coarsest level has no variance to be normalised by
        return [p for f in reversed(far) for p in (0, f)]
