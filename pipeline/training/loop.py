"""Learning of a recipe's weights, from the first step to the last."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from data.errors import TrainingError
from networks import build_network
from networks.losses import build_loss, supervised_loss
from pipeline.training.distributed import Process
from pipeline.training.precision import product_type
from pipeline.training.progress.history import EpochRecord
from pipeline.training.progress.schedule import rate_factor, stalled
from pipeline.training.sampling import PatchDataset

if TYPE_CHECKING:
    from pipeline.config import RunConfig, TrainingConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trainee:
    """State of a network that learns. :meth:`state` and :meth:`restore` are its whole memory.

    There is no random state among it: every epoch draws from seeds of its own, so that it can be repeated.
    """

    network: nn.Module
    average: AveragedModel
    """Of the weights and buffers of ``network``; its ``module`` is what is validated and kept."""
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    product_type: torch.dtype | None
    """Of the network's products (see :func:`pipeline.training.precision.product_type`)."""
    records: list[EpochRecord]
    """One for each epoch that is over."""
    origin: dict[str, float] = field(default_factory=lambda: {"step": 0, "minutes": 0.0})
    """Where the schedule began: at the start, or where a finished run was extended."""

    @classmethod
    def new(cls, config: RunConfig, device: torch.device, init: nn.Module | None = None) -> Trainee:
        """Start from the random weights of the recipe's seed, or from ``init``."""
        training = config.training
        torch.manual_seed(training.seed)
        network = build_network(config.network)
        if init is not None:
            network.load_state_dict(init.state_dict())
        # A fifth faster for Attention U-Net on a CPU.
        layout = torch.channels_last_3d if config.network.spatial_dims == 3 else torch.channels_last
        network = network.to(device, memory_format=layout)  # type: ignore[call-overload]
        average = AveragedModel(network, multi_avg_fn=_average_with_warm_up(training.ema_decay), use_buffers=True)
        optimiser = torch.optim.AdamW(
            network.parameters(),
            lr=training.learning_rate,
            weight_decay=training.weight_decay,
            fused=True if device.type == "cpu" else None,  # one loop over all weights, not one of Python's for each
        )
        chosen = product_type(training, device)
        scaler = torch.amp.GradScaler(enabled=chosen == torch.float16)
        return cls(network, average, optimiser, scaler, chosen, [])

    @property
    def step(self) -> int:
        """Optimiser steps up to the end of the last epoch."""
        return self.records[-1].step if self.records else 0

    def state(self) -> dict[str, Any]:
        """Return tensors, numbers and text, for :func:`pipeline.training.progress.state.save_state`."""
        parts = {name: getattr(self, name).state_dict() for name in _PARTS}
        return {**parts, "records": [asdict(record) for record in self.records], "origin": dict(self.origin)}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the state that :meth:`state` returned."""
        for name in _PARTS:
            if name != "scaler" or state[name]:  # a run that began without one may go on where one is needed
                getattr(self, name).load_state_dict(state[name])
        self.records[:] = _RECORDS.validate_python(state["records"])
        self.origin.update(_ORIGIN.validate_python(state.get("origin", {})))  # states of 0.5 have none

    def restart_schedule(self) -> None:
        """Begin the schedule anew at the last epoch's end.

        Warm-up, plateau and patience begin anew too.
        """
        if self.records:
            self.origin.update(step=self.step, minutes=self.records[-1].minutes)

    def progress(self, training: TrainingConfig, step: int, minutes: float) -> float:
        """Return the share of the schedule that is over.

        It is measured by the steps, or by the clock where that is ahead.
        """
        begun, total = self.origin["step"], training.epochs * training.steps_per_epoch
        share, limit = (step - begun) / max(total - begun, 1), training.stopping.minutes
        if limit is None:
            return share
        return max(share, (minutes - self.origin["minutes"]) / max(limit - self.origin["minutes"], 1e-9))

    def readings(self, *, validated: bool) -> list[float]:
        """Return the deciding scores since the schedule began; higher is better.

        It is the mean Dice of each validation; in a run without validation the negative loss.
        """
        own = [record for record in self.records if record.step > self.origin["step"]]
        if validated:
            return [record.mean_dice for record in own if record.mean_dice is not None]
        return [-record.loss for record in own]


_RECORDS, _ORIGIN = TypeAdapter(list[EpochRecord]), TypeAdapter(dict[str, int | float])
_PARTS = ("network", "average", "optimiser", "scaler")


def _average_with_warm_up(decay: float) -> Callable[..., None]:
    """Return the update of an exponential moving average with a warm-up.

    It follows quickly at first, so that the random start is soon forgotten.
    """

    @torch.no_grad()
    def update(averages: Sequence[torch.Tensor], current: Sequence[torch.Tensor], count: torch.Tensor) -> None:
        n = float(count)
        weight = 1 - min(decay, (1 + n) / (10 + n))
        for average, value in zip(averages, current, strict=True):
            if average.is_floating_point():
                average.lerp_(value, weight)
            else:  # counters of the normalisation
                average.copy_(value)

    return update


def train(
    trainee: Trainee,
    dataset: PatchDataset,
    config: RunConfig,
    process: Process,
    *,
    validate: Callable[[nn.Module], dict[str, Any]] | None = None,
    keep: Callable[[Trainee], None] = lambda _: None,
    on_step: Callable[[int, int, float], None] = lambda done, total, loss: None,
    workers: int = 0,
) -> None:
    """Train to the last epoch, or until the recipe's stopping rule.

    Parameters
    ----------
    trainee : Trainee
        New, or restored: it goes on after the last of its records.
    validate : callable, optional
        Called every few epochs and after the last one, with the averaged network in ``eval`` mode; gives further fields
        of the epoch's record.
    keep : callable
        Called after every epoch.
    on_step : callable
        Called after every step with the steps done, the steps of a whole run, and the loss.
    workers : int
        Processes that load and augment; the samples are the same for any number.

    Raises
    ------
    data.errors.TrainingError
        The loss is not finite; ``keep`` was not called for that epoch.
    """
    training, limit = config.training, config.training.stopping.minutes
    loss_function = build_loss(training.loss.name, training.loss.parameters)
    network = _distributed(trainee.network, process)
    total = training.epochs * training.steps_per_epoch
    start = time.monotonic() - 60 * (trainee.records[-1].minutes if trainee.records else 0)

    def minutes() -> float:
        return (time.monotonic() - start) / 60

    for epoch in range(len(trainee.records), training.epochs):
        if is_over(trainee, training):
            log.info("the run is over after %d epochs", epoch)
            break
        torch.manual_seed(_epoch_seed(training.seed, epoch, process.rank))
        network.train()
        losses: list[float] = []
        rate = 0.0
        readings = trainee.readings(validated=validate is not None)
        for batch in _batches(dataset, epoch, process, workers):
            step = trainee.step + len(losses)
            progress = trainee.progress(training, step, 0.0 if limit is None else minutes())
            if limit is not None:  # the clocks of the processes differ
                progress = process.from_leader(progress)
            since = step - int(trainee.origin["step"])
            rate = training.learning_rate * rate_factor(training.schedule, progress, since, readings)
            for group in trainee.optimiser.param_groups:
                group["lr"] = rate
            losses.append(_learn(trainee, network, batch, loss_function, process, training.gradient_clip))
            on_step(step + 1, total, losses[-1])
            if progress >= 1:  # out of time
                break
        loss = process.mean(sum(losses) / len(losses))
        if not math.isfinite(loss):
            raise TrainingError(
                f"epoch {epoch + 1}: the loss is {loss}; lower training.learning_rate ({training.learning_rate})"
            )
        now = process.from_leader(minutes())
        scores: dict[str, Any] = {}
        last = epoch + 1 == training.epochs or (limit is not None and now >= limit)
        if validate is not None and (last or _validation_is_due(trainee, training, epoch, now)):
            scores = validate(trainee.average.module.eval())
            now = process.from_leader(minutes())
        trainee.records.append(EpochRecord(epoch + 1, trainee.step + len(losses), now, rate, loss, **scores))
        log.info("%s", _sentence(trainee.records[-1]))
        keep(trainee)


def is_over(trainee: Trainee, training: TrainingConfig) -> bool:
    """Tell whether the run is at its end.

    The records alone decide it, so that all processes agree.
    """
    records, stopping = trainee.records, training.stopping
    if stalled(trainee.readings(validated=True), stopping.patience):
        log.info("no better score in %s validations", stopping.patience)
        return True
    if records and stopping.minutes is not None and records[-1].minutes >= stopping.minutes:
        return True
    return len(records) >= training.epochs


def _validation_is_due(trainee: Trainee, training: TrainingConfig, epoch: int, now: float) -> bool:
    """Tell whether an epoch that ends ``now`` is validated.

    ``now`` is in minutes since the run's start; the last epoch is always validated.
    """
    if training.validate_minutes is None:
        return (epoch + 1) % training.validate_every == 0
    earlier = [record.minutes for record in trainee.records if record.mean_dice is not None]
    return now - max(earlier, default=0.0) >= training.validate_minutes


def _epoch_seed(seed: int, epoch: int, rank: int) -> int:
    """Return the seed of the network's own random numbers (dropout).

    It differs between epochs and between processes.
    """
    return int(np.random.SeedSequence((seed, epoch, rank)).generate_state(1)[0])


def _distributed(network: nn.Module, process: Process) -> nn.Module:
    if process.world == 1:
        return network
    return DistributedDataParallel(network, device_ids=[process.device] if process.device.type == "cuda" else None)


def _batches(dataset: PatchDataset, epoch: int, process: Process, workers: int) -> Iterator[dict[str, torch.Tensor]]:
    """Yield one epoch's batches of this process.

    Every sample is numbered, and a step's samples are dealt to the processes.
    """
    dataset.epoch = epoch  # before the loader's processes start, which take a copy
    own = range(process.rank, len(dataset), process.world)
    loader = DataLoader(
        dataset,
        batch_size=dataset.batch // process.world,
        sampler=own,
        num_workers=workers,
        pin_memory=process.device.type == "cuda",
        prefetch_factor=4 if workers else None,
    )
    batches = iter(loader)
    while (batch := _next_on_one_thread(batches)) is not None:
        yield batch


def _next_on_one_thread(batches: Iterator[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor] | None:
    """Draw the next batch on one thread, as a loader's process does.

    A smoothing on several threads rounds differently.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return next(batches, None)
    finally:
        torch.set_num_threads(threads)


def _learn(
    trainee: Trainee,
    network: nn.Module,
    batch: dict[str, torch.Tensor],
    loss_function: Any,
    process: Process,
    gradient_clip: float,
) -> float:
    """Make one step of the optimiser; return the loss before it."""
    device = process.device
    image, target = (batch[key].to(device, non_blocking=True) for key in ("image", "regions"))
    known = ~target.isnan()
    with torch.autocast(device.type, dtype=trainee.product_type, enabled=trainee.product_type is not None):
        outputs = network(image)
    loss = supervised_loss(outputs, target, loss_function, known)
    trainee.optimiser.zero_grad(set_to_none=True)
    trainee.scaler.scale(loss).backward()
    trainee.scaler.unscale_(trainee.optimiser)
    nn.utils.clip_grad_norm_(trainee.network.parameters(), gradient_clip)
    trainee.scaler.step(trainee.optimiser)
    trainee.scaler.update()
    trainee.average.update_parameters(trainee.network)
    return loss.item()


def _sentence(record: EpochRecord) -> str:
    text = f"epoch {record.epoch}, step {record.step}, {record.minutes:.1f} min, loss {record.loss:.4f}"
    if record.mean_dice is None:
        return text
    text += ", Dice " + ", ".join(f"{region} {dice:.3f}" for region, dice in record.dice.items())
    return text if record.lesion_dice is None else f"{text}, lesions set aside {record.lesion_dice:.3f}"
