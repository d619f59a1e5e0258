"""State of a network that learns: weights, optimiser, records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from pydantic import TypeAdapter
from torch import nn
from torch.optim.swa_utils import AveragedModel

from networks import build_network
from pipeline.training.precision import product_type
from pipeline.training.progress.history import EpochRecord

if TYPE_CHECKING:
    from pipeline.config import RunConfig, TrainingConfig


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
