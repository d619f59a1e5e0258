"""Results that an earlier run left below a folder.

They are no input, whatever they look like.

A mask of ours bears its patient's name. Taken for a reference it would be scored against itself, with a Dice of 1.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from data.case import MODALITIES
from data.io.suffixes import VOLUME_SUFFIXES, split_suffix
from data.output_names import EXPORTS, GRIDS, KIND_FOLDERS, MASK, RESULT, RUN_RECORD, STATE_FOLDER, TRANSFORM
from data.regular_file import LARGEST_RECORD, read_json_object, read_regular_file

_MOVES = tuple(f"_{TRANSFORM}_{grid}.txt" for grid in GRIDS)
_MOST_INPUTS = 10_000
"""Files of a case: four images of 2500 slices each."""


@dataclass(frozen=True)
class EarlierRun:
    """Folder into which a run has written.

    Parameters
    ----------
    folder : str
    cases : frozenset of str
        What the run calls its patients' folders; empty where it was stopped before the first was done.
    inputs : mapping of str to tuple of str
        The files that a case was made from, as far as run.json tells; whatever it says.
    """

    folder: str
    cases: frozenset[str]
    inputs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def wrote(self, path: str) -> bool:
        """Tell whether a file is a result of the run.

        An image from which it read is none, whatever it is called.
        """
        parent, name = os.path.split(path)
        where = os.path.relpath(parent, self.folder)
        for end in EXPORTS.values():
            case = name.removesuffix(f"_{end}")
            if case != name and case in self.cases and where in (case, *KIND_FOLDERS):
                return True
        stem, extension = split_suffix(name)
        if name.endswith(_MOVES):
            stem = name.removesuffix(".txt")
        elif extension not in VOLUME_SUFFIXES and not name.endswith("_preview.png"):
            return False
        if where == os.curdir:
            return stem in self.cases
        for case, what in _readings(stem):
            # A run that was stopped may have written a mask of which it says nothing yet.
            if (case in self.cases and where in (case, *KIND_FOLDERS)) or (case == where and what == MASK):
                return what not in MODALITIES or not _is_among(path, self._inputs_of(case))
        return False

    def _inputs_of(self, case: str) -> tuple[str, ...]:
        if case in self.inputs:
            return self.inputs[case]
        state = _read_object(os.path.join(self.folder, STATE_FOLDER, f"{case}.json"))
        return _named(state.get("inputs"))


def read_earlier_run(folder: str) -> EarlierRun | None:
    """Return the run that wrote its output into a folder.

    Such a folder keeps state files of ours, or our run.json; None for any other folder.
    """
    states = _state_files(os.path.join(folder, STATE_FOLDER))
    record = _read_object(os.path.join(folder, RUN_RECORD))
    listed = record.get("cases")
    if not (isinstance(listed, dict) and {"command", "options", "models", "versions"} <= record.keys()):
        listed = None
    if listed is None and not any(b'"mask_sha256"' in _read(path) for path in states):
        return None
    cases = {os.path.basename(path).removesuffix(".json") for path in states}
    inputs = {}
    for about in (listed or {}).values():
        if isinstance(about, dict) and isinstance(name := about.get("folder"), str):
            cases.add(name)
            if about.get("inputs"):
                inputs[name] = _named(about["inputs"])
    return EarlierRun(folder, frozenset(cases), inputs)


def _readings(stem: str) -> Iterator[tuple[str, str]]:
    """Return the ways to read a result's name.

    Each is the name of a case and what the file shows of it.
    """
    for at in (found.start() for found in re.finditer("_", stem)):
        if RESULT.fullmatch(stem, at + 1):
            yield stem[:at], stem[at + 1 :]


def _state_files(folder: str) -> list[str]:
    if not os.path.isdir(folder) or os.path.islink(folder):
        return []
    try:
        with os.scandir(folder) as scan:
            return sorted(item.path for item in scan if item.name.endswith(".json"))
    except OSError:
        return []


def _read(path: str) -> bytes:
    """Read a regular file of bounded size.

    A pipe or a link gives nothing.
    """
    try:
        return b"" if os.path.islink(path) else read_regular_file(path, LARGEST_RECORD)
    except (OSError, ValueError):
        return b""


def _read_object(path: str) -> dict[str, Any]:
    return {} if os.path.islink(path) else read_json_object(path)


def _named(inputs: Any) -> tuple[str, ...]:
    return tuple(islice(inputs, _MOST_INPUTS)) if isinstance(inputs, dict) else ()


def _is_among(path: str, inputs: tuple[str, ...]) -> bool:
    """Tell whether a file is one of those named.

    Any of these may be no path at all.

    The system is asked of each once: to resolve links in a name of a million steps takes hours.
    """
    try:
        own = os.stat(path)
    except OSError:
        return False
    for name in inputs:
        with suppress(OSError, ValueError):  # too long, a null byte, a lone surrogate
            if os.path.samestat(own, os.stat(name)):
                return True
    return False
