"""Command `train`: a model from a recipe and patients."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from pipeline.commands.console import OK, Console
from pipeline.commands.options import Debug, Layouts, Quiet, command_line, options_of
from pipeline.options import TrainOptions


@dataclass(frozen=True, kw_only=True)
class Train(TrainOptions):
    """Train a recipe on a folder of patients with references.

    Model, history and curves are written to a folder.
    """

    input: tyro.conf.Positional[Path]
    """A data set's folder."""
    recipe: str
    """A shipped recipe's name, or a YAML file: what is computed."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder for model.safetensors, history.csv, curves.png and what --resume needs."""
    fold: str = "0"
    extra: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()
    command: Annotated[str, tyro.conf.Suppress] = ""
    on_step: Annotated[Any, tyro.conf.Suppress] = None
    layout: Layouts = ()
    quiet: Quiet = False
    debug: Debug = False

    def run(self, console: Console) -> int:
        from pipeline.execute.lock import output_lock

        leads = os.environ.get("RANK", "0") == "0"  # torchrun's numbering of its processes
        with output_lock(self.output) if leads else nullcontext():  # before torch, whose import takes seconds
            return self._train(leads, console)

    def _train(self, leads: bool, console: Console) -> int:
        from pipeline.training.run import run_training

        if leads and not self.quiet:
            console.show_log()
        with console.steps(self.quiet or not leads) as bar:
            options = TrainOptions(**options_of(self, TrainOptions) | {"command": command_line(), "on_step": bar})
            model = run_training(self.input, self.recipe, self.output, options)
        if leads and not self.quiet:
            console.say(f"model: {model}")
        return OK
