"""Extension of a run that is given more time or more epochs.

Decided here: the state from which it goes on, and its learning rate.

- ``constant_cooldown``: from the state before the cool-down, at the full rate, as if the run had been planned so long.
- Any other schedule that has come to its end, and a cool-down whose earlier state is gone: from the last state, with
  the schedule anew over what was added, warm-up first (a warm restart).
- A run that was not at its end goes on where it is, on the schedule of the new length.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import CheckpointError, UsageError
from pipeline.training.loop import is_over
from pipeline.training.progress.schedule import cools_down
from pipeline.training.progress.state import load_state
from pipeline.training.progress.trainee import Trainee

if TYPE_CHECKING:
    from pipeline.config import TrainingConfig

log = logging.getLogger(__name__)

STATE_NAME = "state.safetensors"
BEFORE_COOLDOWN = "state_before_cooldown.safetensors"
BUDGET = ("training.epochs", "training.stopping.minutes")
"""Keys of a recipe that may change when a run is resumed."""


def extend(trainee: Trainee, earlier: TrainingConfig, now: TrainingConfig, output: Path) -> bool:
    """Take ``trainee`` to the state from which a changed budget goes on.

    Return whether the budget changed.

    Parameters
    ----------
    trainee : Trainee
        As restored from the last state of the run in ``output``.
    earlier, now : TrainingConfig
        With the budget that the run had, and with the one that it is to have.

    Raises
    ------
    data.errors.UsageError
        More minutes are asked for, but no epoch is left to spend them on.
    """
    if (earlier.epochs, earlier.stopping.minutes) == (now.epochs, now.stopping.minutes):
        return False
    finished = is_over(trainee, earlier)
    if _cooled(trainee, earlier, len(trainee.records)):
        if (before := _before_cooldown(trainee, output)) is not None:
            restore(trainee, before, output / BEFORE_COOLDOWN)
            log.info("going on after epoch %d, before the cool-down", len(trainee.records))
        else:
            trainee.restart_schedule()
    elif finished:
        trainee.restart_schedule()
    if len(trainee.records) >= now.epochs and _longer(earlier.stopping.minutes, now.stopping.minutes):
        raise UsageError(
            f"{output}: its {now.epochs} epochs are over, so that --minutes {now.stopping.minutes} adds nothing; "
            "raise training.epochs in the recipe"
        )
    return True


def restore(trainee: Trainee, state: Any, path: Path) -> None:
    """Take the trainee to a state that was read from ``path``.

    Raises
    ------
    data.errors.CheckpointError
        It is of another form: a file that was sealed by hand may hold anything.
    """
    try:
        trainee.restore(state)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: cannot go on from it ({reason}); start again in another folder") from None


def enters_cooldown(trainee: Trainee, training: TrainingConfig) -> bool:
    """Tell whether the cool-down began in the last epoch."""
    count = len(trainee.records)
    return count > 1 and _cooled(trainee, training, count) and not _cooled(trainee, training, count - 1)


def _cooled(trainee: Trainee, training: TrainingConfig, count: int) -> bool:
    """Tell whether a step of the first ``count`` epochs was in the cool-down.

    By the clock it counts where it may have been.
    """
    if not count:
        return False
    record = trainee.records[count - 1]
    return cools_down(training.schedule, trainee.progress(training, record.step - 1, record.minutes))


def _longer(earlier: float | None, now: float | None) -> bool:
    return now is not None and (earlier is None or now > earlier)


def _before_cooldown(trainee: Trainee, output: Path) -> dict[str, Any] | None:
    """Return the trainee's state before its cool-down.

    None where there is none of this very run.
    """
    path = output / BEFORE_COOLDOWN
    if not path.is_file():
        return None
    before, own = load_state(path).get("trainee"), trainee.state()["records"]
    records = before.get("records") if isinstance(before, dict) else None
    return before if isinstance(records, list) and records == own[: len(records)] else None
