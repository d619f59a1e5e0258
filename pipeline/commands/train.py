"""Command `train`: a model from a recipe and patients."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from pipeline.commands.checks import check_device, check_models, check_recipe
from pipeline.commands.options import (
    Convention,
    Debug,
    Input,
    Layouts,
    LogFile,
    Output,
    Quiet,
    Recipe,
    command_line,
    options_of,
)
from pipeline.commands.terminal.console import OK, Console
from pipeline.commands.terminal.lines import training_lines
from pipeline.options import TrainOptions


@dataclass(frozen=True, kw_only=True)
class Train(TrainOptions):
    """Train a recipe on a folder of patients with references.

    Model, history and curves are written to a folder.
    """

    input: Input
    """A data set's folder; -i INPUT or --input INPUT is the same."""
    recipe: Recipe
    output: Output
    """Folder for model.safetensors, history.csv, curves.png and what --resume needs."""
    changes: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(name="set", metavar="KEY=VALUE")] = ()
    fold: str = "0"
    convention: Convention = None
    extra: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()
    command: Annotated[str, tyro.conf.Suppress] = ""
    on_step: Annotated[Any, tyro.conf.Suppress] = None
    layout: Layouts = ()
    quiet: Quiet = False
    log_file: LogFile = None
    debug: Debug = False

    def run(self, console: Console) -> int:
        check_recipe(self.recipe)
        check_device(self.device)
        check_models(name for name in (self.init, self.first) if name and not name.endswith((".pth", ".pt")))
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
            for line in training_lines(model):
                console.say(line)
        return OK
