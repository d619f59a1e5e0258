"""Attention U-Net [1]_: gates weight the skip connections of a U-Net.

The coarser level controls the gates.

References
----------
.. [1] O. Oktay et al., "Attention U-Net: Learning Where to Look for the Pancreas", MIDL 2018, arXiv:1804.03999.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.networks.blocks import Convolution
from monai.networks.layers.factories import Conv
from monai.networks.layers.utils import get_norm_layer
from torch import nn

from networks.layers import ACTIVATIONS, NORMS, PaddedNetwork, check_widths


class AttentionGate(nn.Module):
    """Additive attention: a weight in (0, 1) for each voxel of the skip.

    It is computed from the skip and the gating signal.

    Parameters
    ----------
    channels : int
        Feature maps of the skip and of the gating signal, which have the same size here (the gate comes after
        upsampling).
    """

    def __init__(self, spatial_dims: int, channels: int, norm: str) -> None:
        super().__init__()
        inner = max(channels // 2 // 4 * 4, 4) if norm == "group" else max(channels // 2, 1)  # 4 groups
        # One map cannot be normalised by instance or group without losing what separates two patients, so psi keeps
        # batch statistics.
        self.gate = self._project(spatial_dims, channels, inner, norm)
        self.skip = self._project(spatial_dims, channels, inner, norm)
        self.psi = nn.Sequential(self._project(spatial_dims, inner, 1, "batch"), nn.Sigmoid())

    @staticmethod
    def _project(spatial_dims: int, in_channels: int, out_channels: int, norm: str) -> nn.Sequential:
        return nn.Sequential(
            Convolution(spatial_dims, in_channels, out_channels, kernel_size=1, padding=0, conv_only=True),
            get_norm_layer(NORMS[norm], spatial_dims, out_channels),
        )

    def forward(self, gating: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return skip * self.psi(F.relu(self.gate(gating) + self.skip(skip)))


class AttentionUNet(PaddedNetwork):
    """Attention U-Net in 2D or 3D, the variant of MONAI's ``AttentionUnet``.

    Strided convolutions lead down, transposed ones up.

    Parameters
    ----------
    channels : sequence of int
        Feature maps at each resolution, finest first.
    norm, activation : str
        Keys of :data:`networks.layers.NORMS` and :data:`networks.layers.ACTIVATIONS`.
    merge_norm, merge_activation : str, optional
        Of the convolution after each concatenation; ``None``: the same. (MONAI's network has "instance" and "prelu"
        there, "batch" and "relu" elsewhere.)
    deep_supervision : bool
        In training, also give logits from each coarser decoder level, upsampled linearly to the input's size.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int],
        norm: str = "batch",
        activation: str = "relu",
        dropout: float = 0.0,
        deep_supervision: bool = False,
        *,
        merge_norm: str | None = None,
        merge_activation: str | None = None,
    ) -> None:
        merge_norm, merge_activation = merge_norm or norm, merge_activation or activation
        check_widths(channels, norm, activation)
        check_widths(channels, merge_norm, merge_activation)
        super().__init__(spatial_dims, in_channels, len(channels) - 1, deep_supervision)
        self.interpolation = "bilinear" if spatial_dims == 2 else "trilinear"

        def convolution(
            n_in: int, n_out: int, merging: bool = False, strides: int = 1, up: bool = False
        ) -> Convolution:
            chosen_norm, chosen_act = (merge_norm, merge_activation) if merging else (norm, activation)
            return Convolution(
                spatial_dims,
                n_in,
                n_out,
                strides=strides,
                act=ACTIVATIONS[chosen_act],
                norm=NORMS[chosen_norm],
                dropout=dropout,
                is_transposed=up,
            )

        def encoder(n_in: int, n_out: int, strides: int) -> nn.Sequential:
            return nn.Sequential(convolution(n_in, n_out, strides=strides), convolution(n_out, n_out))

        widths = [in_channels, *channels]
        pairs = list(zip(channels[:-1], channels[1:], strict=True))
        self.encoders = nn.ModuleList(
            encoder(a, b, 1 if i == 0 else 2) for i, (a, b) in enumerate(zip(widths[:-1], widths[1:], strict=True))
        )
        self.upsamplers = nn.ModuleList(convolution(coarse, fine, strides=2, up=True) for fine, coarse in pairs)
        self.gates = nn.ModuleList(AttentionGate(spatial_dims, fine, norm) for fine, _ in pairs)
        self.mergers = nn.ModuleList(convolution(2 * fine, fine, merging=True) for fine, _ in pairs)
        # Heads for the coarser outputs exist only where they are trained.
        n_heads = len(pairs) if deep_supervision else 1
        self.heads = nn.ModuleList(
            Conv["conv", spatial_dims](fine, out_channels, kernel_size=1) for fine in channels[:n_heads]
        )

    def outputs(self, x: torch.Tensor, every_level: bool) -> list[torch.Tensor]:
        size = x.shape[2:]
        features = []
        for encode in self.encoders:
            x = encode(x)
            features.append(x)
        logits: list[torch.Tensor] = []
        for level in reversed(range(len(self.mergers))):
            gating = self.upsamplers[level](x)
            x = self.mergers[level](torch.cat((self.gates[level](gating, features[level]), gating), dim=1))
            if level == 0 or every_level:
                y = self.heads[level](x)
                logits.append(
                    y if level == 0 else F.interpolate(y, size=size, mode=self.interpolation, align_corners=False)
                )
        return logits[::-1]
