"""Advice in sentences: no command is told to take an option that it lacks."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import tyro

from data.errors import COMMAND_LINE
from pipeline.commands.parser import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*[a-z0-9]")
READERS = ("inspect", "segment", "evaluate", "train")
"""Commands that read patients' files, and so may say any sentence of data/."""
SPEAKERS = {
    "data": READERS,
    "data/find/dicom": ("inspect", "segment"),
    "data/find/visits/dates.py": ("follow", "evaluate"),
    "pipeline/commands/segment.py": ("segment",),
    "pipeline/evaluate": ("evaluate",),
    "pipeline/execute/executors.py": ("segment",),
    "pipeline/execute/cluster.py": ("segment",),
    "pipeline/follow": ("follow",),
    "pipeline/inspect.py": ("segment",),  # it says beforehand what that command would
    "pipeline/predict": ("segment",),
    "pipeline/predict/device.py": ("segment", "train"),
    "pipeline/segment": ("segment",),
    "pipeline/segment/merge.py": ("merge",),
    "pipeline/segment/output.py": ("segment", "merge", "demo"),
    "pipeline/training": ("train",),
    "pipeline/web": ("serve",),
}
"""Commands that may say a sentence of a folder or file; the longest path that fits decides."""
OTHERS = {"--version", "--input", "--manifest", "--no"}
"""Said before a command is chosen; the line to an option that parser.py itself reads or composes."""


def parser_options() -> dict[str, set[str]]:
    """Options of each command, as its parser has them."""
    options = {}
    for name, command in COMMANDS.items():
        actions = tyro.extras.get_parser(command)._actions
        options[name] = {option for action in actions for option in action.option_strings}
    return options


@pytest.fixture(scope="module")
def options() -> dict[str, set[str]]:
    return parser_options()


def sentences(path: Path) -> Iterator[str]:
    """Texts of a source that are no docstrings; the parts of an f-string joined."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings, parts = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            docstrings.add(id(node.value))
        if isinstance(node, ast.JoinedStr):
            parts |= {id(value) for value in node.values}
            yield "".join(str(v.value) if isinstance(v, ast.Constant) else "X" for v in node.values)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings | parts:
            yield node.value


def speakers_of(path: Path) -> tuple[str, ...]:
    name = path.relative_to(ROOT).as_posix()
    fitting = [place for place in SPEAKERS if name == place or name.startswith(f"{place}/")]
    return SPEAKERS[max(fitting, key=len)] if fitting else tuple(COMMANDS)


def lacking(text: str, speakers: tuple[str, ...], options: dict[str, set[str]], every: bool) -> list[str]:
    """Options of a text that its speakers lack; of `segment --x` and "--x of `segment`" that command is asked alone."""
    told = "|".join(COMMANDS)
    named = [(name, option) for name, rest in re.findall(rf"`(?:run_pipeline\.py )?({told})\b([^`]*)`", text)
             for option in OPTION.findall(rest)]  # fmt: skip
    named += [(name, option) for option, name in re.findall(rf"({OPTION.pattern}) of `({told})`", text)]
    others = [o for o in OPTION.findall(text) if o not in OTHERS and o not in {option for _, option in named}]
    ask = all if every else any
    return [option for name, option in named if option not in options[name]] + [
        option for option in others if not ask(option in options[name] for name in speakers)
    ]


SOURCES = [path for wing in ("data", "transforms", "networks", "pipeline") for path in (ROOT / wing).rglob("*.py")]


@pytest.mark.parametrize("path", sorted(SOURCES), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_sentence_names_an_option_that_its_command_lacks(path, options):
    if path.name == "errors.py" and path.parent.name == "data":
        return  # below, by fix
    speakers, every = speakers_of(path), path.is_relative_to(ROOT / "data")
    assert [(text, missing) for text in sentences(path) if (missing := lacking(text, speakers, options, every))] == []


@pytest.mark.parametrize("mend", COMMAND_LINE, ids=lambda mend: mend.name)
def test_no_fix_names_an_option_that_its_command_lacks(mend, options):
    of_segment = ("ADD_IMAGE", "ADD_IMAGE_OR_TAKE_ZEROS", "WRITE_ANOTHER_CONVENTION", "PREPARE", "STRIP")
    speakers = ("segment",) if mend.name in of_segment else READERS
    assert lacking(COMMAND_LINE[mend], speakers, options, every=True) == []


def test_an_option_that_is_not_there_is_found(options):
    assert lacking("choose another with --conventions", ("segment",), options, every=True) == ["--conventions"]
    assert lacking("raise --max-voxels", ("segment", "evaluate"), options, every=True) == ["--max-voxels"]
    assert lacking("raise --max-voxels of `segment`", ("evaluate",), options, every=True) == []
