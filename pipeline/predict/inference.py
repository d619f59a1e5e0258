"""Inference of one model on one case.

A cascade has two networks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from torch import nn

from data.case import Case
from data.grid import Grid
from data.io.read import Volume, read_volumes
from networks import networks_of
from pipeline.checkpoint import Checkpoint
from pipeline.config import RunConfig
from pipeline.execute.stages import Stage
from pipeline.predict.cascade import blend_into, blend_weights, second_input, tumour_box
from pipeline.predict.device import free_card_bytes
from pipeline.predict.engines import Runner, prepare
from pipeline.predict.memory.forecast import ModelCost, gib, has_room, one_window_bytes
from pipeline.predict.memory.machine import available_bytes
from pipeline.predict.memory.network import activation_bytes_per_voxel
from pipeline.predict.passes import Pass
from pipeline.predict.uncertainty import MemberSpread
from pipeline.predict.windows import infer, sliding
from transforms.preprocess import grid_of, preprocess_chain, run_chain
from transforms.restore import resample_to

OnStage = Callable[[Stage, float], None]
"""Called with a stage of a case (a key of `Segmentation.seconds`) as it begins, and with the share, 0 to 1, of it that
is done."""


class Clock:
    """Seconds of each stage of a case, reported to a listener as it begins."""

    def __init__(self, on_stage: OnStage | None) -> None:
        self.seconds: dict[str, float] = {}
        self.on_stage = on_stage
        self._now: Stage | None = None

    @contextmanager
    def stage(self, name: Stage) -> Iterator[None]:
        if name != self._now:
            self._now = name
            self.share(0.0)
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def share(self, done: float) -> None:
        """Report the share of the present stage that is done."""
        if self.on_stage is not None and self._now is not None:
            self.on_stage(self._now, done)


@dataclass(frozen=True)
class ReadyNetwork:
    """Network of a model with its settings, engine, preprocessing, memory cost and mirroring."""

    config: RunConfig
    runner: Runner
    chain: Compose
    cost: ModelCost
    tta: bool


@dataclass(frozen=True)
class Work:
    """Conditions under which the networks of all models work on one case.

    Parameters
    ----------
    regions : tuple of str
        In the order of the answer.
    members : int
        Passes of all models together.
    spread : MemberSpread, optional
        Is shown every member; None where there is only one.
    release : bool
        Give the engine's memory back after each network. A single network uses again what it has, which is quicker and
        takes less.
    before_cpu : callable
        Called before a full card's work goes to the CPU; it may refuse by an exception.
    """

    device: torch.device
    clock: Clock
    regions: tuple[str, ...]
    members: int
    spread: MemberSpread | None
    release: bool
    before_cpu: Callable[[], object]

    def add_member(self, config: RunConfig, working: Grid, probability: torch.Tensor, each: Pass) -> None:
        """Add one pass to the spread.

        It is (regions of ``config``, d1, d2, d3) on ``working``; each model has the same weight, as in the mean.
        """
        assert self.spread is not None  # the caller has looked
        if config.regions != self.regions:
            probability = probability[[config.regions.index(region) for region in self.regions]]
        self.spread.add(probability, working, each.share)


def ready_networks(
    checkpoint: Checkpoint,
    settings: RunConfig,
    network: nn.Module,
    *,
    engine: str,
    device: torch.device,
    tta: bool,
    **reading: Any,
) -> tuple[ReadyNetwork, ...]:
    """Prepare the networks of one model, in the order in which they run.

    ``reading`` are options of :func:`transforms.preprocess.preprocess_chain` that no model has.
    """
    ready: list[ReadyNetwork] = []
    for config, plain in zip(settings.stages, networks_of(network), strict=True):
        first = ready[0].cost if ready else None
        cost = ModelCost(config, activation_bytes_per_voxel(plain, config), first)
        chain = preprocess_chain(config.modalities, **config.preprocess.model_dump(), **reading)
        runner = prepare(engine, plain, checkpoint, device, config)
        first_of = settings.first if config is not settings else None
        mirrored = tta or (first_of is not None and first_of.mirrored)
        ready.append(ReadyNetwork(config, runner, chain, cost, mirrored))
    return tuple(ready)


def preprocess(
    model: Sequence[ReadyNetwork], case: Case, volumes: dict[str, Volume], clock: Clock, max_voxels: int
) -> list[dict[str, Any]]:
    """Preprocess a case for each network; the files are read once for all."""
    present = [m for m in model[-1].config.modalities if m in case.images]
    with clock.stage(Stage.READ):
        sources = {m: case.images[m] for m in present if m not in volumes}
        read = {m: volumes.pop(m) for m in present if m in volumes}
        read |= read_volumes(sources, max_voxels=max_voxels)
    done = []
    for network in model:
        take = read.pop if network is model[-1] else read.__getitem__
        data: dict[str, Any] = {m: take(m) for m in network.config.modalities if m in read}
        # Step by step: within one call of the chain the images that were read would stay to its end.
        for step in network.chain.transforms:
            with clock.stage(Stage.PREPROCESS):
                data = run_chain(Compose([step]), data)
        done.append(data)
    return done


def infer_model(
    model: Sequence[ReadyNetwork], images: list[MetaTensor], work: Work
) -> tuple[torch.Tensor, Grid, list[str]]:
    """Run the networks of one model on a case's images.

    The images are taken out of the list.

    Returns the probabilities of its regions, the grid on which they lie, and remarks about memory.
    """
    if len(model) > 1:
        return _cascade(model, images, work)
    (network,), working = model, grid_of(images[0])
    watch = None if work.spread is None else partial(work.add_member, network.config, working)
    probabilities, remarks = _run(network, images.pop().as_tensor(), work, watch, work.clock.share)
    return probabilities, working, remarks


def _cascade(
    model: Sequence[ReadyNetwork], images: list[MetaTensor], work: Work
) -> tuple[torch.Tensor, Grid, list[str]]:
    """Run both networks of a cascade; see :mod:`pipeline.predict.cascade`.

    Returns the same as `infer_model`. A member is one pass of the second network, put into the same pass of the first.
    """
    (first, second), (small, image) = model, images
    settings, coarse, working = second.config.first, grid_of(small), grid_of(image)
    assert settings is not None  # there are two networks
    order = [first.config.regions.index(region) for region in second.config.regions]
    members: dict[Pass, torch.Tensor] = {}
    # What is shown is added up in place afterwards.
    keep = None if work.spread is None else (lambda shown, each: members.update({each: shown[order].cpu()}))
    found, remarks = _run(first, small.as_tensor(), work, keep, lambda share: work.clock.share(share / 2))
    found = found[order]
    base = resample_to(found, coarse, working)
    box = tumour_box(base, working.spacing_mm, settings, second.config.seen_axes)
    if box is None:
        for each, shown in members.items():
            work.add_member(second.config, coarse, shown, each)
        return found, coarse, remarks
    fed = base[[second.config.regions.index(region) for region in settings.regions]]
    weight = blend_weights(box, working.shape, working.spacing_mm, settings)
    watch = None
    if work.spread is not None:
        around = {(each.across, each.mirrored): shown for each, shown in members.items()}

        def watch(shown: torch.Tensor, each: Pass) -> None:
            same = around.get((each.across, each.mirrored))
            member = base.clone() if same is None else resample_to(same, coarse, working)
            work.add_member(second.config, working, blend_into(member, shown.cpu(), box, weight), each)

    seen = second_input(image.as_tensor(), fed, box)
    answer, more = _run(second, seen, work, watch, lambda share: work.clock.share((1 + share) / 2))
    return blend_into(base, answer, box, weight), working, [*remarks, *more]


def _run(
    network: ReadyNetwork,
    image: torch.Tensor,
    work: Work,
    watch: Callable[[torch.Tensor, Pass], None] | None,
    on_share: Callable[[float], None],
) -> tuple[torch.Tensor, list[str]]:
    """Run one network.

    Returns its probabilities (regions, d1, d2, d3), and remarks about memory.
    """
    windowed, slid = _fitting_window(network, tuple(image.shape[1:]), work)
    probabilities, fitted = infer(
        windowed,
        network.runner.network,
        image,
        work.device,
        tta=network.tta,
        watch=watch,
        before_cpu=work.before_cpu,
        on_share=on_share,
    )
    remarks = [*slid, *fitted, *network.runner.remarks()]
    if work.release:
        network.runner.release()
    return probabilities, remarks


def _fitting_window(network: ReadyNetwork, shape: tuple[int, ...], work: Work) -> tuple[RunConfig, tuple[str, ...]]:
    """Choose sliding windows where one that holds the image would not fit.

    Returns the network's configuration, and remarks.
    """
    config = network.config
    if not config.window.whole:
        return config, ()
    sides = (shape[0], shape[1], shape[2])
    needed = one_window_bytes(network.cost, sides, tta=network.tta, members=work.members)
    on_card = free_card_bytes(work.device)
    if has_room(needed) if on_card is None else needed <= on_card:
        return config, ()
    free = available_bytes() if on_card is None else on_card
    whole, side = ("x".join(map(str, each)) for each in (shape, config.window.size))
    return sliding(config), (
        f"one window of {whole} voxels takes about {gib(needed)}, and {gib(free or 0)} are free: "
        f"ran in sliding windows of {side}",
    )
