"""First weights of a network: a model of ours, or torchvision's VGG-19."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data.errors import UsageError
from data.regular_file import open_regular_file
from networks import ARCHITECTURES, build_network, networks_of
from networks.vgg19_unet import VGG19UNet, load_vgg19_bn
from pipeline.checkpoint import open_checkpoint
from pipeline.config import RunConfig

log = logging.getLogger(__name__)


def initial_network(source: str, config: RunConfig) -> nn.Module:
    """Return the recipe's network with the weights that ``source`` has for it.

    Parameters
    ----------
    source : str
        A shipped model's name or a .safetensors file of ours: weights of the same name and shape are taken, and the
        others stay random and are logged. Filters of the first convolution go by modality and neighbouring slice, and
        those of the heads by region, so that a model of other modalities or regions can be gone on from; of a cascade
        it is the second network. Or a .pth
        file with torchvision's ``vgg19_bn`` state dict, for the encoder of ``vgg19_unet``.

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
            with open_regular_file(source):  # a fifo is not waited for
                load_vgg19_bn(network, Path(source))
        except OSError as error:
            raise UsageError(f"--init {source}: not readable ({error.strerror or error}); check the path") from None
        except ValueError as error:
            place = "" if source in str(error) else f"{source}: "
            raise UsageError(f"--init {place}{error}") from None
        return network
    model = open_checkpoint(source)
    own = network.state_dict()
    given = _by_name(networks_of(model.build())[-1].state_dict(), model.config, own, config)
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
    new = set(_inputs(config)) - set(_inputs(model.config)), set(config.regions) - set(model.config.regions)
    if names := sorted({modality for modality, _ in new[0]} | new[1]):
        log.warning("--init %s: it has not all filters of %s, and those start at random", source, ", ".join(names))
    network.load_state_dict(own | fitting)
    return network


def _by_name(
    given: dict[str, torch.Tensor], theirs: RunConfig, own: dict[str, torch.Tensor], config: RunConfig
) -> dict[str, torch.Tensor]:
    """Put input channels and head rows of ``given`` where ``config`` has them.

    The new ones are ``own``.
    """
    rows, architecture = _pairs(theirs.regions, config.regions), ARCHITECTURES[config.network.architecture]
    moved = dict(given)
    for name in given.keys() & own.keys():
        if name.startswith(architecture.heads) and given[name].shape[1:] == own[name].shape[1:]:
            moved[name] = own[name].clone()
            for old, new in rows:
                moved[name][new] = given[name][old]
    first = architecture.first_tensor
    if (
        first in given
        and given[first].shape[:1] + given[first].shape[2:] == own[first].shape[:1] + own[first].shape[2:]
    ):
        moved[first] = own[first].clone()
        for old, new in _pairs(_inputs(theirs), _inputs(config)):
            moved[first][:, new] = given[first][:, old]
    return moved


def _inputs(config: RunConfig) -> list[tuple[str, int]]:
    """Return image and offset of the slice of every input channel.

    See transforms.planes.slices_as_channels.
    """
    context, step = config.window.context, config.window.context_step
    return [(image, offset * step) for image in config.inputs for offset in range(-context, context + 1)]


def _pairs(theirs: Sequence[Any], own: Sequence[Any]) -> list[tuple[int, int]]:
    return [(theirs.index(name), own.index(name)) for name in own if name in theirs]
