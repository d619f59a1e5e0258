"""Options that several commands share, each with its help."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import tyro

from pipeline.recipe_file import RECIPES, recipe_names

_MODELS_HINT, _CONVENTIONS_HINT = (
    f"(shipped: {', '.join(sorted(path.stem for path in folder.glob(pattern)))})"
    for folder, pattern in (
        (RECIPES.parent / "models", "*.safetensors"),
        (RECIPES.parents[1] / "data" / "conventions", "*.yaml"),
    )
)


Input = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="INPUT")]
"""Folder that is read; `parser.py` lets it be given as -i or --input, too."""
Output = Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="OUTPUT")]
Quiet = Annotated[bool, tyro.conf.arg(help="Print nothing but errors.")]
Debug = Annotated[bool, tyro.conf.arg(help="Show the traceback of an error.")]
LogFile = Annotated[
    Path | None,
    tyro.conf.arg(metavar="FILE", help="Also write the log to this file, with times; it is added to."),
]
Layouts = Annotated[
    tuple[Path, ...],
    tyro.conf.arg(
        help="YAML files that say how the files of your own data are named, in the form of the shipped layouts."
    ),
]
Interactive = Annotated[
    tuple[str, ...], tyro.conf.arg(help="Cases that the page shows in a 3D viewer; each adds megabytes.")
]
Models = Annotated[
    tuple[str, ...],
    tyro.conf.arg(name="model", metavar="[MODEL ...]", help_behavior_hint=_MODELS_HINT),
]
ServedModels = Annotated[
    tuple[str, ...],
    tyro.conf.arg(name="model", metavar="[MODEL ...]", help_behavior_hint=_MODELS_HINT),
]
Convention = Annotated[str | None, tyro.conf.arg(metavar="NAME|FILE", help_behavior_hint=_CONVENTIONS_HINT)]
Recipe = Annotated[
    str,
    tyro.conf.arg(
        metavar="NAME|FILE",
        help="A shipped recipe's name, or a YAML file: what is computed. `recipes` describes them. Shipped: "
        f"{', '.join(recipe_names())}.",
    ),
]

Series = Annotated[
    tuple[str, ...],
    tyro.conf.arg(
        metavar="[MODALITY=UID ...]",
        help="Of DICOM: the SeriesInstanceUID to take for a modality; `inspect` lists them.",
    ),
]
KeepIdentity = Annotated[bool, tyro.conf.arg(help="Of DICOM: call cases by PatientID, not by its hash.")]
CaseName = Annotated[
    str | None,
    tyro.conf.arg(metavar="NAME", help="Name of the case: of a single DICOM study, or of images named by hand."),
]
ByHand = Annotated[
    Path | None,
    tyro.conf.arg(metavar="FILE", help="Image of one patient, named by hand; INPUT is then the patient's folder."),
]


def dicom_options(series: Sequence[str], keep_identity: bool, case: str | None) -> Any:
    """Return the choices about DICOM examinations, for `data.find.discover`."""
    from data.find.dicom.examinations import DicomOptions, parse_series

    return DicomOptions(parse_series(series), keep_identity, case)


def options_of(command: Any, options: type) -> dict[str, Any]:
    """Return the values of the options that a command has inherited."""
    return {each.name: getattr(command, each.name) for each in fields(options)}


def command_line(hidden: Path | None = None) -> str:
    """Return the command line of this process, for records.

    A ``hidden`` path is not told: that of a DICOM examination may bear a patient's name.
    """
    words = sys.argv[1:] if hidden is None else [word.replace(str(hidden), "EXAMINATIONS") for word in sys.argv[1:]]
    return "python run_pipeline.py " + shlex.join(words)


def line_that_goes_on(command: Any) -> str:
    """Return the command line that goes on where this one was stopped.

    It is empty where there is none.
    """
    if not hasattr(command, "resume") and not hasattr(command, "overwrite"):
        return ""
    name, rest = sys.argv[0], list(sys.argv[1:])
    if hasattr(command, "resume"):
        rest += [] if "--resume" in rest else ["--resume"]
    else:  # what is finished is kept, unless it is to be done again
        rest = [argument for argument in rest if argument != "--overwrite"]
    program = [sys.executable, name] if name.endswith(".py") else [name]
    if Path(name).parts[-2:] == ("pipeline", "__main__.py"):
        program = [sys.executable, "-m", "pipeline"]
    return shlex.join([*program, *rest])
