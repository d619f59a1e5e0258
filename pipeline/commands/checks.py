"""Checks of arguments that need none of the packages that take seconds to import."""

from __future__ import annotations

import re
from collections.abc import Iterable

from data.errors import UsageError


def check_recipe(name_or_path: str) -> None:
    """Refuse a recipe that is not there. Raises :class:`data.errors.UsageError`."""
    from pipeline.recipe_file import read_recipe

    read_recipe(name_or_path)


def check_models(names: Iterable[str]) -> None:
    """Refuse models that are not there or damaged. Raises :class:`data.errors.CheckpointError`."""
    from pipeline.checkpoint import open_checkpoint

    for name in names:
        open_checkpoint(name)


def check_device(name: str) -> None:
    """Refuse a name of no device; whether the machine has it is seen later."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", name):
        raise UsageError(f"--device {name}: not a device; choose auto, cpu, cuda or cuda:N")


def check_executor(spec: str) -> None:
    """Refuse a name of no executor; its number or address is seen later."""
    from pipeline.execute.executors import CHOICES, EXECUTORS, GONE

    name = spec.partition(":")[0]
    if name == "overlap":
        raise UsageError(f"--executor {spec}: {GONE}")
    if name not in EXECUTORS:
        raise UsageError(f"--executor {spec}: {CHOICES}")
