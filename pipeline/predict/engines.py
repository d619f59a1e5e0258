"""Engines that run a model's network.

They are PyTorch, and OpenVINO where it is installed and pays.

``auto`` decides by the model alone: with the same packages the same model always runs on the same engine, whatever else
is in the run, so that the same input gives the same bytes. Every engine computes in float32 and is held to the same
masks (Dice >= 0.999 with torch's on real patients); the sums are added up in another order, so bytes may differ
between engines.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from data.errors import UsageError
from networks import ARCHITECTURES, Cascade, PaddedNetwork, UNetPlusPlus, networks_of
from pipeline.checkpoint import Checkpoint
from pipeline.config import RunConfig

log = logging.getLogger(__name__)

BRAIN_MM3 = 144.0 * 176.0 * 144.0
"""The box of a head without its skull, by which a model's work on a patient is estimated before there is one."""
BOX_MM3 = 96.0**3
"""The box of a tumour of 7 cm with a margin, by which the work of a cascade's second stage is estimated."""
PAYS_FROM = 3e9
"""Multiplications a patient from which OpenVINO pays: in a run of eight it saves more than it takes to start."""


@dataclass(frozen=True)
class Runner:
    """Network ready to run.

    Parameters
    ----------
    network : nn.Module
        Windows (batch, channels, dim_1, ..., dim_N) float32 in, logits out.
    engine : str
        A key of :data:`ENGINES`.
    remark : str
        Why it is not the engine that was chosen; empty where it is.
    """

    network: nn.Module
    engine: str
    remark: str = ""

    def remarks(self) -> tuple[str, ...]:
        """List the remarks about the engine now.

        One that failed while it ran is among them.
        """
        failure = getattr(self.network, "failure", "")
        return tuple(r for r in (self.remark, failure and _instead(failure)) if r)

    @property
    def running(self) -> str:
        """Engine that runs now; one that failed has been replaced."""
        return "torch" if getattr(self.network, "failure", "") else self.engine

    def release(self) -> None:
        """Give back the memory that the engine keeps from one pass to the next."""
        if callable(release := getattr(self.network, "release", None)):
            release()


def with_torch(network: nn.Module, checkpoint: Checkpoint, config: RunConfig | None = None) -> Runner:
    """PyTorch, in the memory format that was measured to be faster for this architecture."""
    settings = (config or checkpoint.config).network
    if settings.spatial_dims in ARCHITECTURES[settings.architecture].channels_last:
        two = settings.spatial_dims == 2
        arranged: Any = {"memory_format": torch.channels_last if two else torch.channels_last_3d}
        network.to(**arranged)  # which takes it, but does not declare so
    return Runner(network, "torch")


def with_openvino(network: nn.Module, checkpoint: Checkpoint, config: RunConfig | None = None) -> Runner:
    """OpenVINO; PyTorch, with a remark, where anything about it fails."""
    try:
        from pipeline.predict.openvino import OpenVINONetwork, reason
    except ImportError as error:  # pragma: no cover - a damaged installation
        return Runner(network, "torch", _instead(str(error)))
    assert isinstance(network, PaddedNetwork)
    identity = {"model": checkpoint.sha256, "level": str(getattr(network, "level", ""))}
    if config is not None and config.first is None and checkpoint.config.first is not None:
        identity["stage"] = "first"  # two networks of one file
    try:
        return Runner(OpenVINONetwork(network, identity), "openvino")
    except Exception as error:
        log.debug("openvino cannot be used", exc_info=True)
        return Runner(with_torch(network, checkpoint, config).network, "torch", _instead(reason(error)))


ENGINES: dict[str, Callable[..., Runner]] = {"torch": with_torch, "openvino": with_openvino}
"""``(network in eval mode on the CPU, its checkpoint, the network's stage of its settings) -> Runner``."""


def choose_engine(name: str, network: nn.Module, config: RunConfig, device: torch.device) -> str:
    """Return a key of :data:`ENGINES` for ``auto`` or for one of the keys.

    Raises
    ------
    data.errors.UsageError
        There is no such engine, it is not installed, or it does not run on ``device``.
    """
    if name not in ("auto", *ENGINES):
        raise UsageError(f"--engine {name}: no such engine; choose auto, {', '.join(ENGINES)}")
    if name == "torch" or (name == "auto" and device.type != "cpu"):
        return "torch"
    from pipeline.predict.openvino import installed

    if name == "openvino":
        if device.type != "cpu":
            raise UsageError(f"--engine openvino runs on the CPU, not on {device}; add --device cpu, or leave it out")
        if not installed():
            raise UsageError(
                "--engine openvino: OpenVINO is not installed; choose auto or torch, or install the extra `cpu`"
            )
        return name
    return "openvino" if installed() and multiplications(network, config) >= PAYS_FROM else "torch"


def prepare(
    name: str, network: nn.Module, checkpoint: Checkpoint, device: torch.device, config: RunConfig | None = None
) -> Runner:
    """Return the runner of one network.

    ``config`` holds the settings of the network (by default the model's). Errors: :func:`choose_engine`.
    """
    config = config or checkpoint.config
    return ENGINES[choose_engine(name, network, config, device)](network, checkpoint, config)


def prune(network: nn.Module, level: int | None, name: str) -> nn.Module:
    """Cut a UNet++ to one of its levels;

    None leaves it whole. In a cascade every network that is a UNet++ is cut.

    Raises
    ------
    data.errors.UsageError
        Another architecture, or a level that the file has no trained output for.
    """
    if level is None:
        return network
    if isinstance(network, Cascade) and any(isinstance(stage, UNetPlusPlus) for stage in networks_of(network)):
        cut = (prune(n, level, name) if isinstance(n, UNetPlusPlus) else n for n in networks_of(network))
        return Cascade(*cut)
    if not isinstance(network, UNetPlusPlus):
        raise UsageError(f"--level {level}: {name} is no UNet++, the one that has levels; leave it out")
    try:
        return network.prune(level)
    except ValueError as error:
        raise UsageError(f"--level {level}: {name} has {error}") from None


def multiplications(network: nn.Module, config: RunConfig) -> float:
    """Count the multiplications of the convolutions for one brain of usual size.

    No mirrorings are counted; the count is infinite where it is not known.

    The second stage of a cascade: for one box of usual size.

    Counted in a pass over the smallest input that the network does not pad.
    """
    from pipeline.predict.memory.network import LARGEST_PROBE

    dims = config.network.spatial_dims
    sides = (2 ** (len(config.network.channels) - 1),) * (dims - 1) + (2 ** len(config.network.channels),)
    if math.prod(sides) > LARGEST_PROBE:
        return math.inf
    total = 0

    def count(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        # Each voxel of the output, of a transposed one each voxel of the input, takes every weight once.
        total += module.weight.numel() * (inputs[0] if module.transposed else output)[0, 0].numel()

    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.modules.conv._ConvNd)]
    handles = [m.register_forward_hook(count) for m in convolutions]
    try:
        with torch.no_grad():
            network(torch.zeros(1, config.network.in_channels, *sides))
    finally:
        for handle in handles:
            handle.remove()
    spacing_mm3 = math.prod(s or 1.0 for s in config.preprocess.spacing_mm)
    seen_mm3 = len(config.slice_axes) * (BRAIN_MM3 if config.first is None else BOX_MM3)
    return total / math.prod(sides) * seen_mm3 / spacing_mm3


def _instead(why: str) -> str:
    return f"openvino could not be used ({why}): ran with torch"
