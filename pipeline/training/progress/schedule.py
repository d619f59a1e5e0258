"""Learning rate and end of a run, as pure functions.

They depend on the progress and on the scores so far.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.config import ScheduleConfig


def rate_factor(schedule: ScheduleConfig, progress: float, step: int, scores: Sequence[float] = ()) -> float:
    """Return the factor of the recipe's learning rate.

    Parameters
    ----------
    progress : float in 0..1
        Share of the run that is over.
    step : int
        Optimiser steps so far; the first ``warmup_steps`` rise linearly.
    scores : sequence of float
        Readings of the score that plateau watches, oldest first; higher is better.
    """
    warm_up = min(1.0, (step + 1) / (schedule.warmup_steps + 1))
    if schedule.name == "cosine":  # Loshchilov & Hutter 2017, without restarts
        return warm_up * (schedule.last + (1 - schedule.last) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))
    if schedule.name == "polynomial":  # as nnU-Net: (1 - t / T) ** 0.9
        return warm_up * max(1.0 - progress, 0.0) ** schedule.power
    if schedule.name == "plateau":
        return warm_up * plateau_factor(scores, schedule.patience, schedule.factor, schedule.last)
    if schedule.name == "constant_cooldown" and cools_down(schedule, progress):  # 1 - sqrt, Hägele et al. 2024
        over = min((progress - 1) / schedule.cooldown + 1, 1.0)
        return warm_up * (schedule.last + (1 - schedule.last) * (1 - math.sqrt(over)))
    return warm_up


def cools_down(schedule: ScheduleConfig, progress: float) -> bool:
    """Tell whether a run is in its cool-down at the share ``progress``.

    Only ``constant_cooldown`` has one.
    """
    return schedule.name == "constant_cooldown" and progress > 1 - schedule.cooldown


def plateau_factor(scores: Sequence[float], patience: int, factor: float, last: float) -> float:
    """Return the factor of ``torch.optim.lr_scheduler.ReduceLROnPlateau`` after these readings.

    Recomputed from all readings, so that a resumed run needs nothing but its history: ``mode="max"``, ``threshold=0``,
    no cooldown. It is reduced by ``factor`` after more than ``patience`` readings in a row that are not better than the
    best, and does not fall below ``last``.
    """
    best, bad, reached = -math.inf, 0, 1.0
    for score in scores:
        best, bad = (score, 0) if score > best else (best, bad + 1)
        if bad > patience:
            reached, bad = max(reached * factor, last), 0
    return reached


def stalled(scores: Sequence[float], patience: int | None) -> bool:
    """Tell whether the best reading is ``patience`` or more readings ago.

    Never with ``None``.
    """
    if patience is None or not scores:
        return False
    return len(scores) - 1 - max(range(len(scores)), key=lambda i: scores[i]) >= patience
