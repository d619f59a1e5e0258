"""Options of a training run, and the recipe checked with them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.errors import UsageError
from data.labels import LabelConvention, load_convention
from networks.losses import build_loss
from pipeline.checkpoint import Checkpoint
from pipeline.config import RunConfig, parse_config
from pipeline.training.distributed import Process

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainOptions:
    """Options of a training run: place and conduct. The recipe decides the computation."""

    device: str = "auto"
    split: Path | None = None
    """File with the lists train, validation and test, instead of folds."""
    folds: int = 5
    """Parts of a cross-validation by patient."""
    fold: int | str = 0
    """The part that is validated on; "all" learns from every patient and validates on none."""
    extra: Sequence[str | Path] = ()
    """Further folders to learn from, FOLDER or FOLDER:KIND (see pipeline.training.sources.kinds).

    A patient that is held back is left out of them.
    """
    leave_out: Sequence[str] = ()
    """Cases that are neither learnt from nor validated on."""
    convention: str | None = None
    """Label convention of the references, and of the model's masks where it has all of the recipe's regions.

    None: each reference's own, and the recipe's for the masks.
    """
    cache: Path | None = None
    """Folder of preprocessed cases, to be shared between runs; None: OUTPUT/cache."""
    first: str | None = None
    """Model for the first stage of a cascade, which is then not trained."""
    init: str | None = None
    """Model with the first weights, of a cascade those of the second stage."""
    resume: bool = False
    minutes: float | None = None
    """Of each stage, instead of the recipe's."""
    workers: int = 0
    """Processes that load and augment."""
    licence: str = "as its training data"
    command: str = ""
    on_step: Callable[[int, int, float], None] = field(default=lambda done, total, loss: None)
    """See :func:`pipeline.training.loop.train`."""


def behind(first: Checkpoint, config: RunConfig) -> RunConfig:
    """Return the second stage's settings behind that very first-stage model.

    The settings of the first stage become part of them.
    """
    settings = config.model_dump()
    settings["first"]["recipe"] = first.config.model_dump()
    return parse_config(settings, f"{config.name} behind {first.path}")


def checked(config: RunConfig, recipe: str, options: TrainOptions) -> RunConfig:
    """Return the recipe with the options' minutes and convention.

    Faults that would stop the loop are found at once.
    """
    settings = config.model_dump()
    for stage in (settings, *([settings["first"]["recipe"]] if config.first else [])):
        if options.minutes is not None:
            stage["training"]["stopping"]["minutes"] = options.minutes
        if options.convention is not None:
            stage["convention"] = _written_convention(stage, load_convention(options.convention))
    config = parse_config(settings, f"--minutes {options.minutes}")
    if options.first is not None and config.first is None:
        raise UsageError(
            f"--first {options.first}: the recipe {recipe} is no cascade; leave it out, or name one that is"
        )
    try:
        build_loss(config.training.loss.name, config.training.loss.parameters)
    except ValueError as error:
        raise UsageError(f"recipe {recipe}: training.loss: {error}") from None
    return config


def _written_convention(recipe: Mapping[str, Any], convention: LabelConvention) -> str:
    """Return the convention that a model trained on ``convention`` writes.

    It is the same one, if the recipe's regions allow that.
    """
    told = [region for region in recipe["regions"] if region in convention.regions]
    lacking = [region for region in recipe["regions"] if region not in told]
    if not told:
        raise UsageError(
            f"--convention {convention.name}: tells none of the regions of the recipe {recipe['name']} "
            f"({', '.join(lacking)}); name another, or take a recipe with {' or '.join(convention.regions)}"
        )
    if not lacking:
        return convention.spelling
    log.warning(
        "--convention %s: does not tell %s: unknown in the references, and the model writes %s",
        convention.name,
        ", ".join(lacking),
        recipe["convention"],
    )
    return str(recipe["convention"])


def check_batch(config: RunConfig, process: Process) -> None:
    """Refuse a batch that cannot be dealt evenly to the processes. Raises :class:`data.errors.UsageError`."""
    if config.training.batch % process.world:
        raise UsageError(
            f"training.batch {config.training.batch} cannot be dealt to {process.world} processes; choose a multiple"
        )


def cache_of(output: Path, options: TrainOptions) -> Path:
    """Return the folder of preprocessed cases."""
    return options.cache or output / "cache"
