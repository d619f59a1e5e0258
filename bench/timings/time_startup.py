"""Times of a call around the network.

They are --help, models, inspect of many patients, and one cold segment by its parts.

    python -m bench.timings.time_startup FOLDER [--patients N] [--runs N] [--tree PATH] [--segment PATIENTS]

FOLDER is for scratch; a thousand small phantoms are laid out in it twice (copies of ten): ``named`` as BraTS 2021 names
its files, which tells the label convention, and ``masks`` as BraTS 2023, where every mask is read for it. With
``--tree`` another checkout of the project is timed in turn with this one. CPU seconds are what to read on a shared
machine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.speed.own_process import ROOT, Usage, run_in_own_process
from data.phantom.patient import write_phantom

NAMES_2021 = {"t1n": "t1", "t1c": "t1ce", "t2w": "t2", "t2f": "flair", "seg": "seg"}
PHANTOMS = 10
MOMENTS = (
    *("python", "import torch", "imported torch", "first image opened", "import monai", "images are read"),
    *("imported monai", "network running", "end"),
)
"""Of bench.speed.traced_start, in the order in which a reader expects them."""


def lay_out(folder: Path, patients: int) -> dict[str, Path]:
    """Make two data sets of so many patients, by name.

    Every file is a hard link to one of ten phantoms'.
    """
    for seed in range(1, PHANTOMS + 1):
        write_phantom(folder / "phantoms", seed, shape=(24, 24, 16), spacing_mm=(8.0, 8.0, 8.0))
    sources = sorted(path for path in (folder / "phantoms").iterdir() if path.is_dir())
    sets = {"named": folder / "named", "masks": folder / "masks"}
    for number in range(patients):
        source = sources[number % len(sources)]
        for what, root in sets.items():
            name = f"BraTS2021_{50000 + number}" if what == "named" else f"BraTS-GLI-{50000 + number}-000"
            (root / name).mkdir(parents=True)
            for path in source.glob("*.nii.gz"):
                role = path.name.removesuffix(".nii.gz").rpartition("-")[2]
                tail = f"_{NAMES_2021[role]}" if what == "named" else f"-{role}"
                os.link(path, root / name / f"{name}{tail}.nii.gz")
    return sets


def timed(tree: Path, arguments: Sequence[str]) -> Usage:
    """Time one call of a tree's command line, in a process of its own."""
    return run_in_own_process([sys.executable, str(tree / "run_pipeline.py"), *arguments], {"PYTHONPATH": str(tree)})


def rows_of_calls(trees: dict[str, Path], calls: dict[str, list[str]], runs: int) -> list[str]:
    """Write a line of Markdown for each call and tree.

    It has the median of the runs, which the trees take in turn.
    """
    lines = ["| call | tree | wall s | CPU s |", "|---|---|---|---|"]
    for what, arguments in calls.items():
        found: dict[str, list[Usage]] = {name: [] for name in trees}
        for _ in range(runs):
            for name, tree in trees.items():
                found[name].append(timed(tree, arguments))
        for name, used in found.items():
            wall, cpu = (statistics.median(getattr(u, key) for u in used) for key in ("wall", "cpu"))
            lines.append(f"| {what} | {name} | {wall:.2f} | {cpu:.2f} |")
    return lines


def rows_of_start(patients: Path, output: Path, runs: int) -> list[str]:
    """Write a line of Markdown for each moment of a cold `segment`.

    It is of the first patient of a folder.
    """
    first = sorted(path for path in patients.iterdir() if path.is_dir())[0]
    command = [sys.executable, "-m", "bench.speed.traced_start", "{result}", str(patients), "segment", str(patients)]
    command += ["--cases", first.name, "--output", str(output), "--overwrite", "--quiet"]
    used = [run_in_own_process(command) for _ in range(runs)]
    shutil.rmtree(output, ignore_errors=True)
    lines = ["| moment of a cold `segment` | wall s since the call |", "|---|---|"]
    for moment in MOMENTS:
        if all(moment in run.result for run in used):
            lines.append(f"| {moment} | {statistics.median(run.result[moment] for run in used):.2f} |")
    return [*lines, "", f"CPU of the whole call: {statistics.median(run.cpu for run in used):.2f} s."]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.timings.time_startup", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="for scratch; `startup` in it is replaced")
    parser.add_argument("--patients", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--tree", type=Path, help="another checkout, timed in turn with this one")
    parser.add_argument("--segment", type=Path, help="a folder of patients; the first is segmented, cold")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve() / "startup"
    shutil.rmtree(folder, ignore_errors=True)
    sets = lay_out(folder, arguments.patients)
    trees = {"this": ROOT} | ({"other": arguments.tree.resolve()} if arguments.tree else {})
    calls = {"--help": ["--help"], "models": ["models"]}
    calls |= {f"inspect, {arguments.patients} patients, {what}": ["inspect", str(root)] for what, root in sets.items()}
    lines = rows_of_calls(trees, calls, arguments.runs)
    if arguments.segment:
        lines += ["", *rows_of_start(arguments.segment.resolve(), folder / "out", arguments.runs)]
    sys.stdout.write("\n".join(lines) + "\n")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
