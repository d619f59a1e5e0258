"""Recipe of a training run, checked with the options of the command line."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.errors import UsageError
from data.labels import LabelConvention, load_convention
from networks.losses import build_loss
from pipeline.checkpoint import Checkpoint
from pipeline.config import RunConfig, parse_config
from pipeline.options import TrainOptions
from pipeline.training.distributed import Process

log = logging.getLogger(__name__)


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
