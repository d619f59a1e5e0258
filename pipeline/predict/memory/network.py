"""Memory that one pass of a network takes, counted in a small pass."""

from __future__ import annotations

import copy
import math
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # torch takes seconds to import
    import torch
    from torch import nn

    from pipeline.config import RunConfig

LARGEST_PROBE = 2**17
"""Most voxels of the pass in which activations are counted: a model file's list of widths must not decide our
memory."""


def activation_bytes_per_voxel(network: nn.Module, config: RunConfig) -> float:
    """Count the most bytes alive at once in a forward pass.

    The result is for each voxel (2D: pixel) of a window, without the weights.

    Counted in a pass over the smallest input that the network does not pad, since everything in it grows with the
    number of voxels. Convolutions on the CPU take copies of input and output beside, in blocks of 16 channels.
    """
    import torch

    halved = 2 ** (len(config.network.channels) - 1)
    shape = (halved,) * (config.network.spatial_dims - 1) + (2 * halved,)
    device: Any = next(network.parameters(), torch.empty(0)).device
    if math.prod(shape) > LARGEST_PROBE:
        device = torch.device("meta")  # shapes without memory, at the price of an import that takes seconds
        network = copy.deepcopy(network).to(device)
    counter = _live_bytes()
    with torch.no_grad(), counter:
        network(torch.zeros(1, config.network.in_channels, *shape, device=device))
    return counter.peak / math.prod(shape)


def _live_bytes() -> Any:
    import torch
    from torch.overrides import TorchFunctionMode

    class LiveBytes(TorchFunctionMode):
        """Sum of the results of all operations while they are alive.

        A dispatch mode would count the same, but it imports sympy, which takes two seconds.
        """

        def __init__(self) -> None:
            super().__init__()
            self.live = self.peak = 0
            self.known: set[int] = set()

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            before = self.live
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else (out,):
                if isinstance(tensor, torch.Tensor):
                    self._watch(tensor.untyped_storage())
            scratch = _blocked(args[0]) + _blocked(out) if getattr(func, "__name__", "").startswith("conv") else 0
            self.peak = max(self.peak, self.live, before + scratch)
            return out

        def _watch(self, storage: Any) -> None:
            key, size = storage._cdata, storage.nbytes()
            if key in self.known:
                return
            self.known.add(key)
            self.live += size
            weakref.finalize(storage, self._forget, key, size)

        def _forget(self, key: int, size: int) -> None:
            self.known.discard(key)
            self.live -= size

    def _blocked(tensor: torch.Tensor) -> int:
        channels = -(-tensor.shape[1] // 16) * 16
        return tensor.element_size() * len(tensor) * channels * math.prod(tensor.shape[2:])

    return LiveBytes()
