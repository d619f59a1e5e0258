"""Options that several commands share, each with its help."""

from __future__ import annotations

import shlex
import sys
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import tyro

Quiet = Annotated[bool, tyro.conf.arg(help="Print nothing but errors.")]
Debug = Annotated[bool, tyro.conf.arg(help="Show the traceback of an error.")]
Layouts = Annotated[
    tuple[Path, ...],
    tyro.conf.arg(
        help="YAML files that say how the files of your own data are named, in the form of the shipped layouts."
    ),
]
Interactive = Annotated[
    tuple[str, ...], tyro.conf.arg(help="Cases that the page shows in a 3D viewer; each adds megabytes.")
]


def options_of(command: Any, options: type) -> dict[str, Any]:
    """Return the values of the options that a command has inherited."""
    return {each.name: getattr(command, each.name) for each in fields(options)}


def command_line() -> str:
    """Return the command line of this process, for records."""
    return "python run_pipeline.py " + shlex.join(sys.argv[1:])
