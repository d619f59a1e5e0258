"""Two networks of a cascade, as one module.

Their weights are ``first.*`` and ``second.*`` of one file.
"""

from __future__ import annotations

import torch
from torch import nn


class Cascade(nn.Module):
    """Pair of networks, of which the first finds where the second works.

    They run on different grids, so that there is no ``forward`` of both: :class:`pipeline.predict.predictor.Predictor`
    runs them.
    """

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError(
            "the two networks of a cascade run on grids of their own; use pipeline.predict.predictor"
        )


def networks_of(network: nn.Module) -> list[nn.Module]:
    """List the networks of a model in the order in which they run.

    They are both of a cascade, else the one.
    """
    return [network.first, network.second] if isinstance(network, Cascade) else [network]
