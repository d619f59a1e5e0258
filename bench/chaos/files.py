"""Files that a disturbed run has left.

They are whole files of the old or the new run, half ones, and strays.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

from data.io.write import is_temporary_name
from pipeline.execute.lock_owner import LOCK_NAME
from pipeline.training.progress.state import load_state
from pipeline.training.run import STATE_NAME

Files = dict[str, bytes]
Found = list[str]


def contents(output: Path) -> Files:
    """Read every file by its path.

    Temporary ones, staging and the lock belong to no result.
    """
    return {
        path.relative_to(output).as_posix(): path.read_bytes()
        for path in sorted(output.rglob("*"))
        if path.is_file() and not _is_working_file(path, output)
    }


def _is_working_file(path: Path, output: Path) -> bool:
    return (
        is_temporary_name(path.name)
        or path.name == LOCK_NAME
        or ".state/staging" in path.relative_to(output).as_posix()
    )


def leftovers(output: Path) -> Found:
    return [f"left behind: {path}" for path in output.rglob("*") if _is_working_file(path, output)]


def broken_files(found: Files, known: Sequence[Files]) -> Found:
    """Files under their final names that are half, or neither run's."""
    wrong = []
    for name, content in found.items():
        try:
            if name.endswith((".nii.gz", ".png", ".ctbl")) or name.startswith("labels"):
                assert any(content == one.get(name) for one in known), "neither the old run's nor the new one's"
            elif name.endswith(".csv"):
                rows = list(csv.reader(content.decode().splitlines(keepends=True), strict=True))
                assert content.endswith(b"\n") and len({len(row) for row in rows}) == 1, "half a table"
            elif name.endswith(".json"):
                json.loads(content)
            elif name.endswith(".html"):
                assert content.rstrip().endswith(b"</html>"), "half a page"
        except (AssertionError, ValueError, csv.Error) as error:
            wrong.append(f"{name}: {error}")
    return wrong


def without_times(files: Files) -> dict[str, Any]:
    """Return the parts that must be the same in two runs.

    They are all but wall-clock times and the place of the run.
    """
    same: dict[str, Any] = {}
    for name, content in files.items():
        if name.endswith(".csv"):
            rows = list(csv.DictReader(content.decode().splitlines(keepends=True)))
            same[name] = [{k: v for k, v in row.items() if k not in ("seconds", "minutes")} for row in rows]
        elif not name.endswith((".json", ".html")):
            same[name] = content
    return same


def differences(one: Files, other: Files) -> Found:
    ours, theirs = without_times(one), without_times(other)
    return [f"{name}: not as undisturbed" for name in {*ours, *theirs} if ours.get(name) != theirs.get(name)]


def broken_training(output: Path) -> Found:
    found = contents(output)
    wrong = broken_files({name: text for name, text in found.items() if name.endswith((".csv", ".json"))}, ())
    for name in found:
        try:
            if name == STATE_NAME:
                load_state(output / name)
            elif name.endswith(".safetensors"):
                load_file(output / name)
            elif name.endswith(".npy"):
                np.load(output / name, allow_pickle=False)
        except Exception as error:  # whatever a damaged file raises
            wrong.append(f"{name}: {error}")
    wrong += [f"{name}: half" for name in found if name.endswith(".png") and b"IEND" not in found[name][-12:]]
    return wrong


def other_training(output: Path, undisturbed: Path) -> Found:
    """History and weights; a model's card names the folder in its command."""
    ours, theirs = contents(output), contents(undisturbed)
    tables = [name for name in theirs if name.endswith(".csv")]
    wrong = differences({n: ours.get(n, b"") for n in tables}, {n: theirs[n] for n in tables})
    for name in ("model.safetensors", "last.safetensors"):
        one, other = load_file(output / name), load_file(undisturbed / name)
        if one.keys() != other.keys() or any(one[k].numpy().tobytes() != other[k].numpy().tobytes() for k in one):
            wrong.append(f"{name}: other weights")
    return wrong
