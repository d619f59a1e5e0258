"""Commands `models` and `seal`: the model files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import tyro

from data.errors import SegmentationError, explain
from pipeline.commands.options import Debug
from pipeline.commands.terminal.console import OK, SOME_FAILED, Console
from pipeline.commands.terminal.lines import model_lines


@dataclass(frozen=True, kw_only=True)
class Models:
    """List the models that come with the pipeline."""

    json: bool = False
    """Print JSON for programs."""
    debug: Debug = False

    def run(self, console: Console) -> int:
        from pipeline.checkpoint import shipped_models
        from pipeline.default_model import default_uses

        defaults = default_uses()
        listing = [m.as_listing() | {"default_for": defaults.get(m.name, [])} for m in shipped_models()]
        if self.json:
            console.raw(json.dumps(listing, indent=1))
            return OK
        for model in listing:
            for line in model_lines(model):
                console.say(line)
        return OK


@dataclass(frozen=True, kw_only=True)
class Seal:
    """Bring model files of the first format forward to the present one.

    They held no SHA-256 of themselves.

    Tensors, settings and card stay. Only for files whose source you trust: earlier damage is sealed with the rest.
    """

    files: tyro.conf.Positional[list[Path]]
    """Model files; each is replaced."""
    debug: Debug = False

    def run(self, console: Console) -> int:
        from pipeline.checkpoint import bring_forward

        status = OK
        for path in self.files:
            try:
                console.say(f"{bring_forward(path)}  {path.name}")  # as sha256sum prints it
            except (SegmentationError, OSError) as error:
                status = SOME_FAILED
                console.complain(f"run_pipeline.py: {explain(error)}")
        return status
