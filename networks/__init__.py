"""Networks in plain PyTorch on MONAI's blocks, in 2D or 3D by ``spatial_dims``.

To add one: a module with the network, and an entry in :data:`ARCHITECTURES`. Every network there keeps one contract,
which the tests check for each entry:

- it is a :class:`networks.layers.PaddedNetwork` that halves its input ``len(channels) - 1`` times.
- ``network(x)`` takes ``(batch, in_channels, dim_1, ..., dim_N)`` float, of any spatial size: it is padded and cropped
  inside.
- In ``eval`` mode it gives logits ``(batch, out_channels, dim_1, ..., dim_N)``.
- In ``train`` mode with ``deep_supervision`` it gives a list of such logits, the final output first, all of the input's
  size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch

from networks.architecture import Architecture
from networks.attention_unet import AttentionUNet
from networks.cascade import Cascade, networks_of
from networks.layers import PaddedNetwork, check_widths
from networks.unet_plus_plus import UNetPlusPlus
from networks.vgg19_unet import VGG19_WIDTHS, VGG19UNet, load_vgg19_bn

ARCHITECTURES: dict[str, Architecture] = {
    "attention_unet": Architecture(
        AttentionUNet, first_tensor="encoders.0.0.conv.weight", heads="heads.", channels_last=(2,)
    ),
    "unet_plus_plus": Architecture(
        UNetPlusPlus, first_tensor="nodes.0_0.conv_0.conv.weight", heads="heads.", channels_last=(2,)
    ),
    "vgg19_unet": Architecture(
        VGG19UNet,
        first_tensor="encoders.0.0.conv.weight",
        heads="heads.",
        spatial_dims=(2,),
        resolutions=len(VGG19_WIDTHS),
        channels_last=(2,),
    ),
}


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
    """2: slices, 3: volumes; vgg19_unet is for slices alone."""
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
    options: Mapping[str, Any] = field(default_factory=dict)
    """Settings of this architecture alone, by name (:attr:`networks.architecture.Architecture.options`)."""

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise ValueError(f"unknown architecture {self.architecture!r}; known: {', '.join(ARCHITECTURES)}")
        if self.spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims is 2 or 3, not {self.spatial_dims!r}")
        architecture = ARCHITECTURES[self.architecture]
        if self.spatial_dims not in architecture.spatial_dims:
            able = " or ".join(name for name, each in ARCHITECTURES.items() if self.spatial_dims in each.spatial_dims)
            only = ", ".join(map(str, architecture.spatial_dims))
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
        needed = architecture.resolutions or len(self.channels)
        if len(self.channels) != needed:
            raise ValueError(
                f"architecture {self.architecture} needs {needed} channels, finest resolution first, "
                f"not {tuple(self.channels)}"
            )
        check_widths(self.channels, self.norm, self.activation)
        if self.options:
            self._check_options()

    def _check_options(self) -> None:
        try:
            ARCHITECTURES[self.architecture].check_options(self.options)
            with torch.device("meta"):  # shapes without memory
                build_network(self)
        except (RuntimeError, OverflowError, ValueError) as error:  # of sizes beyond any integer torch raises others
            raise ValueError(f"architecture {self.architecture}: {str(error)[:200]}") from None


def build_network(config: NetworkConfig) -> PaddedNetwork:
    """Build the network that ``config`` describes, with random weights."""
    return ARCHITECTURES[config.architecture].build(
        spatial_dims=config.spatial_dims,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        channels=tuple(config.channels),
        norm=config.norm,
        activation=config.activation,
        dropout=config.dropout,
        deep_supervision=config.deep_supervision,
        **config.options,
    )


__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "AttentionUNet",
    "Cascade",
    "NetworkConfig",
    "PaddedNetwork",
    "UNetPlusPlus",
    "VGG19UNet",
    "build_network",
    "load_vgg19_bn",
    "networks_of",
]
