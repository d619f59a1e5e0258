"""Command of a command line, with its options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from pipeline.commands.demo import Demo
from pipeline.commands.evaluate import Evaluate
from pipeline.commands.inspect import Inspect
from pipeline.commands.models import Models, Seal
from pipeline.commands.segment import Merge, Segment
from pipeline.commands.serve import Serve
from pipeline.commands.train import Train

Command = (
    Annotated[Inspect, tyro.conf.subcommand("inspect")]
    | Annotated[Segment, tyro.conf.subcommand("segment")]
    | Annotated[Merge, tyro.conf.subcommand("merge")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Models, tyro.conf.subcommand("models")]
    | Annotated[Seal, tyro.conf.subcommand("seal")]
    | Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Serve, tyro.conf.subcommand("serve")]
)

PROGRAM = "run_pipeline.py"


def parse(arguments: Sequence[str] | None) -> Any:
    """Return the command that a command line names. Exits, as tyro does, where it is none."""
    return tyro.cli(
        Command,
        args=arguments,
        prog=PROGRAM,
        description="Brain tumour segmentation, from a folder of patients to masks and a report. "
        "--version prints the version.",
    )
