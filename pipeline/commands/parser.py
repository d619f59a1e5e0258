"""Command of a command line, with its options."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Annotated, Any, Union, get_type_hints

import tyro

from data.errors import UsageError, did_you_mean
from pipeline.commands.demo import Demo
from pipeline.commands.evaluate import Evaluate
from pipeline.commands.follow import Follow
from pipeline.commands.inspect import Inspect
from pipeline.commands.models import Models, Recipes, Seal
from pipeline.commands.prepare import Prepare
from pipeline.commands.segment import Merge, Segment
from pipeline.commands.serve import Serve
from pipeline.commands.train import Train

PROGRAM = "run_pipeline.py"
COMMANDS: dict[str, type] = {
    "inspect": Inspect,
    "segment": Segment,
    "merge": Merge,
    "prepare": Prepare,
    "evaluate": Evaluate,
    "follow": Follow,
    "train": Train,
    "models": Models,
    "recipes": Recipes,
    "seal": Seal,
    "demo": Demo,
    "serve": Serve,
}
_SUBCOMMANDS = tuple(Annotated[each, tyro.conf.subcommand(name)] for name, each in COMMANDS.items())
Command: Any = Union[_SUBCOMMANDS]  # noqa: UP007
_INPUT = ("-i", "--input", "--manifest")


def parse(arguments: Sequence[str] | None = None) -> Any:
    """Return the command that a command line names.

    Raises :class:`data.errors.UsageError` with the name that was probably meant. Exits, as tyro does, with the help or
    where an argument is missing or none of its kind.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in COMMANDS:
        command = COMMANDS[given[0]]
        _check_options(given[1:], given[0], command)
        if takes_input(command):
            given[1:] = _with_input_first(given[1:])
    elif given and not given[0].startswith("-"):
        raise UsageError(f"no command {given[0]!r}{did_you_mean(given[0], COMMANDS)}; there are {', '.join(COMMANDS)}")
    return tyro.cli(
        Command,
        args=given,
        prog=PROGRAM,
        description="Brain tumour segmentation, from a folder of patients to masks and a report. "
        "--version prints the version.",
    )


def takes_input(command: type) -> bool:
    """Tell whether -i and --input stand for the command's positional."""
    return any(each.name == "input" for each in fields(command))


def option_names(command: type) -> Iterator[str]:
    """Yield the long options of a command, as they are typed."""
    yield "--help"
    if takes_input(command):
        yield "--input"
    if command is Segment:
        yield "--manifest"
    hints = get_type_hints(command, include_extras=True)
    for each in fields(command):
        marks = getattr(hints[each.name], "__metadata__", ())
        if tyro.conf.Positional in marks or tyro.conf.Suppress in marks:
            continue
        given = [mark.name for mark in marks if getattr(mark, "name", None)]
        name = (given[0] if given else each.name).replace("_", "-")
        yield f"--{name}"
        if each.default is True or each.default is False:
            yield f"--no-{name}"


def _check_options(arguments: Sequence[str], name: str, command: type) -> None:
    known = list(option_names(command))
    for argument in arguments:
        option = argument.partition("=")[0].replace("_", "-")
        if option.startswith("--") and option != "--" and option not in known:
            raise UsageError(
                f"{name} has no option {option}{did_you_mean(option, known)}; `{PROGRAM} {name} --help` lists all"
            )


def _with_input_first(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the folder of -i or --input in front."""
    rest, found = [], []
    waiting = iter(arguments)
    for argument in waiting:
        option, equals, value = argument.partition("=")
        if option not in _INPUT:
            rest.append(argument)
            continue
        value = value if equals else next(waiting, "")
        if not value:
            raise UsageError(f"{option}: give a folder behind it")
        found.append(value)
    return [*found, *rest]
