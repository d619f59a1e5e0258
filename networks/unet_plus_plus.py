"""UNet++ [1]_: nested U-Nets of every depth that share one encoder.

The deeper ones can be cut off.

References
----------
.. [1] Z. Zhou et al., "UNet++: A Nested U-Net Architecture for Medical Image Segmentation", DLMIA 2018,
       arXiv:1807.10165.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers.factories import Conv
from monai.networks.nets.basic_unet import Down, TwoConv, UpCat
from torch import nn

from networks.layers import ACTIVATIONS, NORMS, PaddedNetwork, check_widths


class UNetPlusPlus(PaddedNetwork):
    """UNet++ in 2D or 3D on the blocks of MONAI's ``BasicUNetPlusPlus``.

    Max pooling leads down, transposed convolutions up.

    Node ``(i, j)`` lies at resolution ``i`` and is the ``j``-th in its row; ``(0, j)`` is the output of the nested
    U-Net of depth ``j``.

    Parameters
    ----------
    channels : sequence of int
        Feature maps at each resolution, finest first: five widths are the paper's four nested U-Nets.
    head_channels : int, optional
        Feature maps of the deepest output node ``(0, depth)``; ``None``: ``channels[0]``. (MONAI's sixth number.)
    deep_supervision : bool
        In training, give the logits of every depth, the deepest first.

    Attributes
    ----------
    level : int
        Which nested U-Net answers, 1 to ``len(channels) - 1``. See :meth:`prune`.
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
        head_channels: int | None = None,
    ) -> None:
        check_widths(channels, norm, activation)
        if head_channels is not None and head_channels < 1:
            raise ValueError(f"head_channels is at least 1, not {head_channels}")
        super().__init__(spatial_dims, in_channels, len(channels) - 1, deep_supervision)
        depth = len(channels) - 1
        self.level = depth
        options = (ACTIVATIONS[activation], NORMS[norm], True, dropout)

        self.nodes = nn.ModuleDict({"0_0": TwoConv(spatial_dims, in_channels, channels[0], *options)})
        for i in range(1, depth + 1):
            self.nodes[f"{i}_0"] = Down(spatial_dims, channels[i - 1], channels[i], *options)
        for j in range(1, depth + 1):
            for i in range(depth + 1 - j):
                width = (head_channels or channels[0]) if (i, j) == (0, depth) else channels[i]
                self.nodes[f"{i}_{j}"] = UpCat(
                    spatial_dims, channels[i + 1], channels[i] * j, width, *options, halves=i > 0
                )
        # A head that no loss reaches would ship as random numbers: without deep supervision only the deepest exists.
        self.heads = nn.ModuleDict()
        for j in range(1, depth + 1):
            if j == depth or deep_supervision:
                width = (head_channels or channels[0]) if j == depth else channels[0]
                self.heads[str(j)] = Conv["conv", spatial_dims](width, out_channels, kernel_size=1)

    def prune(self, level: int) -> UNetPlusPlus:
        """Cut off all that lies deeper than the nested U-Net of ``level``.

        This cannot be undone; the network is then faster, and usually a little worse.

        Raises
        ------
        ValueError
            If there is no trained output at that level (the text lists the levels that there are).
        """
        if str(level) not in self.heads:
            raise ValueError(f"no output at level {level}; this network has levels {', '.join(self.heads)}")
        for name in [n for n in self.nodes if sum(map(int, n.split("_"))) > level]:
            del self.nodes[name]
        for name in [n for n in self.heads if int(n) > level]:
            del self.heads[name]
        self.level = level
        return self

    def outputs(self, x: torch.Tensor, every_level: bool) -> list[torch.Tensor]:
        rows = [[self.nodes["0_0"](x)]]
        for diagonal in range(1, self.level + 1):
            rows.append([self.nodes[f"{diagonal}_0"](rows[diagonal - 1][0])])
            for j in range(1, diagonal + 1):
                i = diagonal - j
                rows[i].append(self.nodes[f"{i}_{j}"](rows[i + 1][j - 1], torch.cat(rows[i], dim=1)))
        levels = range(self.level, 0, -1) if every_level else [self.level]
        return [self.heads[str(j)](rows[0][j]) for j in levels if str(j) in self.heads]
