"""Networks in plain PyTorch on MONAI's blocks, in 2D or 3D by ``spatial_dims``.

Every architecture in :data:`ARCHITECTURES` keeps one contract:

- ``network(x)`` takes ``(batch, in_channels, dim_1, ..., dim_N)`` float, of any spatial size: it is padded and cropped
  inside.
- In ``eval`` mode it gives logits ``(batch, out_channels, dim_1, ..., dim_N)``.
- In ``train`` mode with ``deep_supervision`` it gives a list of such logits, the final output first, all of the input's
  size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from networks.attention_unet import AttentionUNet
from networks.cascade import Cascade, stages_of
from networks.layers import PaddedNetwork, check_widths
from networks.unet_plus_plus import UNetPlusPlus
from networks.vgg19_unet import VGG19_WIDTHS, VGG19UNet, load_vgg19_bn

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "attention_unet": AttentionUNet,
    "unet_plus_plus": UNetPlusPlus,
    "vgg19_unet": VGG19UNet,
}

SPATIAL_DIMS: dict[str, tuple[int, ...]] = {"attention_unet": (2, 3), "unet_plus_plus": (2, 3), "vgg19_unet": (2,)}
"""The ``spatial_dims`` that each architecture can have."""

RESOLUTIONS: dict[str, int] = {"vgg19_unet": len(VGG19_WIDTHS)}
"""The length of ``channels`` where the architecture fixes it."""

CHANNELS_LAST: frozenset[tuple[str, int]] = frozenset({("attention_unet", 2), ("unet_plus_plus", 2), ("vgg19_unet", 2)})
"""Architecture and ``spatial_dims`` that run faster on a CPU with the channels as the innermost axis, as measured by
``python -m bench.timings.engines``; sums are then made in another order."""


@dataclass(frozen=True)
class NetworkConfig:
    """Settings that decide the shape of a network's weights and its function.

    Raises
    ------
    ValueError
        A value that no network can be built from; the text names it and lists what there is.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}  # read by pipeline.config: no unknown keys

    architecture: str
    """A key of :data:`ARCHITECTURES`."""
    spatial_dims: Literal[2, 3]
    """2: slices, 3: volumes. :data:`SPATIAL_DIMS` says which architecture has which."""
    in_channels: int
    """Number of input images (modalities)."""
    out_channels: int
    """Number of outputs (regions), one logit each."""
    channels: tuple[int, ...]
    """Feature maps at each resolution, finest first (vgg19_unet: five); its length less one counts the halvings."""
    norm: Literal["batch", "instance", "group"] = "batch"
    """Batch statistics are fixed after training, so the output does not depend on the window's size."""
    activation: Literal["relu", "leaky_relu", "prelu"] = "relu"
    """The non-linearity after each normalisation."""
    dropout: float = 0.0
    """Probability that a feature is dropped in training."""
    deep_supervision: bool = False
    """Give the loss an output at every decoder level."""

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise ValueError(f"unknown architecture {self.architecture!r}; known: {', '.join(ARCHITECTURES)}")
        if self.spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims is 2 or 3, not {self.spatial_dims!r}")
        if self.spatial_dims not in SPATIAL_DIMS[self.architecture]:
            able = " or ".join(name for name, dims in SPATIAL_DIMS.items() if self.spatial_dims in dims)
            only = ", ".join(map(str, SPATIAL_DIMS[self.architecture]))
            raise ValueError(
                f"architecture {self.architecture} has no spatial_dims {self.spatial_dims}: "
                f"set spatial_dims to {only}, or architecture to {able}"
            )
        if self.in_channels < 1 or self.out_channels < 1:
            raise ValueError(
                f"in_channels and out_channels are at least 1, not {self.in_channels} and {self.out_channels}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is a probability below 1, not {self.dropout}")
        needed = RESOLUTIONS.get(self.architecture, len(self.channels))
        if len(self.channels) != needed:
            raise ValueError(
                f"architecture {self.architecture} needs {needed} channels, finest resolution first, "
                f"not {tuple(self.channels)}"
            )
        check_widths(self.channels, self.norm, self.activation)


def build_network(config: NetworkConfig) -> nn.Module:
    """Build the network that ``config`` describes, with random weights."""
    return ARCHITECTURES[config.architecture](
        spatial_dims=config.spatial_dims,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        channels=tuple(config.channels),
        norm=config.norm,
        activation=config.activation,
        dropout=config.dropout,
        deep_supervision=config.deep_supervision,
    )


__all__ = [
    "ARCHITECTURES",
    "CHANNELS_LAST",
    "RESOLUTIONS",
    "SPATIAL_DIMS",
    "AttentionUNet",
    "Cascade",
    "NetworkConfig",
    "PaddedNetwork",
    "UNetPlusPlus",
    "VGG19UNet",
    "build_network",
    "load_vgg19_bn",
    "stages_of",
]
