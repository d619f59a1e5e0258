"""Learning of a recipe's weights, from the first step to the last."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from data.errors import TrainingError
from networks.losses import build_loss, supervised_loss
from pipeline.training.distributed import Process
from pipeline.training.progress.history import EpochRecord
from pipeline.training.progress.schedule import rate_factor, stalled
from pipeline.training.progress.trainee import Trainee
from pipeline.training.sampling import PatchDataset

if TYPE_CHECKING:
    from pipeline.config import RunConfig, TrainingConfig

log = logging.getLogger(__name__)


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
        Called every few epochs and after the last one, with the averaged network in ``eval`` mode; gives further
        fields of the epoch's record.
    keep, on_step : callable
        ``keep`` is called after every epoch, ``on_step`` after every step: steps done, steps of a whole run, loss.
    workers : int
        Processes that load and augment; the samples are the same for any number.

    Raises :class:`data.errors.TrainingError`: the loss is not finite; ``keep`` was not called for that epoch.
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
            rate = _set_rate(trainee, training, progress, step, readings)
            losses.append(_learn(trainee, network, batch, loss_function, process, training.gradient_clip))
            on_step(step + 1, total, losses[-1])
            if progress >= 1:  # out of time
                break
        loss = _finite_mean(losses, process, training, epoch)
        now, scores = _validated(trainee, training, process, validate, epoch, minutes)
        trainee.records.append(EpochRecord(epoch + 1, trainee.step + len(losses), now, rate, loss, **scores))
        log.info("%s", _sentence(trainee, training))
        keep(trainee)


def _set_rate(
    trainee: Trainee, training: TrainingConfig, progress: float, step: int, readings: Sequence[float]
) -> float:
    """Set the learning rate of a step and return it."""
    since = step - int(trainee.origin["step"])
    rate = training.learning_rate * rate_factor(training.schedule, progress, since, readings)
    for group in trainee.optimiser.param_groups:
        group["lr"] = rate
    return rate


def _finite_mean(losses: Sequence[float], process: Process, training: TrainingConfig, epoch: int) -> float:
    """Return the mean loss of an epoch over all processes.

    One that is not finite is refused.
    """
    loss = process.mean(sum(losses) / len(losses))
    if not math.isfinite(loss):
        raise TrainingError(
            f"epoch {epoch + 1}: the loss is {loss}; lower training.learning_rate ({training.learning_rate})"
        )
    return loss


def _validated(
    trainee: Trainee,
    training: TrainingConfig,
    process: Process,
    validate: Callable[[nn.Module], dict[str, Any]] | None,
    epoch: int,
    minutes: Callable[[], float],
) -> tuple[float, dict[str, Any]]:
    """Validate where it is due; return minutes and scores.

    The minutes are since the run's start; the scores are empty where no validation is due.
    """
    now, limit = process.from_leader(minutes()), training.stopping.minutes
    last = epoch + 1 == training.epochs or (limit is not None and now >= limit)
    if validate is None or not (last or _validation_is_due(trainee, training, epoch, now)):
        return now, {}
    scores = validate(trainee.average.module.eval())
    return process.from_leader(minutes()), scores


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


def _sentence(trainee: Trainee, training: TrainingConfig) -> str:
    """Word the last epoch, with the minutes that are left. The run may stop sooner."""
    record = trainee.records[-1]
    text = f"epoch {record.epoch} of {training.epochs}, step {record.step}, {record.minutes:.1f} min"
    done, taken = trainee.progress(training, record.step, record.minutes), record.minutes - trainee.origin["minutes"]
    if 0 < done < 1:
        text += f", about {taken * (1 - done) / done:.1f} min left"
    text += f", loss {record.loss:.4f}"
    if record.mean_dice is None:
        return text
    text += ", Dice " + ", ".join(f"{region} {dice:.3f}" for region, dice in record.dice.items())
    return text if record.lesion_dice is None else f"{text}, lesions set aside {record.lesion_dice:.3f}"
