"""Where a network's first weights come from: a model of ours, or torchvision's VGG-19."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import nn

from data.errors import UsageError
from networks import build_network
from networks.vgg19_unet import VGG19UNet, load_vgg19_bn
from pipeline.checkpoint import open_checkpoint
from pipeline.config import RunConfig

log = logging.getLogger(__name__)


def initial_network(source: str, config: RunConfig) -> nn.Module:
    """The recipe's network with the weights that ``source`` has for it.

    Parameters
    ----------
    source : str
        A shipped model's name or a .safetensors file of ours: weights of the same name and shape are taken, and the
        others stay random and are logged, so that a model of other regions or modalities can be gone on from. Or a
        .pth file with torchvision's ``vgg19_bn`` state dict, for the encoder of ``vgg19_unet``.

    Raises
    ------
    data.errors.UsageError
        No convolution in it fits, or the .pth file is not readable or not for this recipe.
    data.errors.CheckpointError
        There is no such model, or it cannot be read.
    """
    network = build_network(config.network)
    if Path(source).suffix in (".pth", ".pt"):
        if not isinstance(network, VGG19UNet):
            raise UsageError(
                f"--init {source}: torchvision's weights are for vgg19_unet, not {config.network.architecture}; "
                "take a recipe of vgg19_unet, or a model of ours"
            )
        try:
            load_vgg19_bn(network, Path(source))
        except ValueError as error:
            raise UsageError(f"--init {error}") from None
        return network
    model = open_checkpoint(source)
    given, own = model.build().state_dict(), network.state_dict()
    fitting = {name: w for name, w in given.items() if name in own and own[name].shape == w.shape}
    if not any(w.ndim > 1 for w in fitting.values()):  # step counts and a head's biases fit whatever the widths are
        theirs, wanted = (
            f"{n.architecture}, spatial_dims {n.spatial_dims}, channels {n.channels}"
            for n in (model.config.network, config.network)
        )
        raise UsageError(
            f"--init {source}: none of its convolutions fits the recipe: it is {theirs}, and the recipe says {wanted}; "
            "make them agree, or leave --init out"
        )
    if unfit := sorted(set(own) - set(fitting)):
        log.warning(
            "--init %s: %d of %d tensors do not fit and stay random, first %s", source, len(unfit), len(own), unfit[0]
        )
    network.load_state_dict(own | fitting)
    return network
