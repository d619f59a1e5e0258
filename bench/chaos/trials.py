"""Runs killed, filled, collided and stopped at random moments, and a count of losses.

The command is ``python -m bench.chaos WORKFOLDER``. ``python -m bench.chaos WORKFOLDER``.

Most runs are children that are forked from this process, which has imported everything, so that a run takes a second
instead of six. They call ``run_pipeline.main``; what they skip is Python's start and the imports, which write nothing.
``--real`` of the kills, and every one of the signals, are of real command lines, half of those with ``processes:2``.

Every trial begins with the complete result of an older model in the folder. After each kill every file that bears its
final name must be whole and the old run's or the new one's; a run to the end must then give what an undisturbed one
gives, without doing a finished case again. Wrong things are counted and said; the exit status is 1 where there is one.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import yaml

import run_pipeline
from bench.chaos.files import (
    Found,
    broken_files,
    broken_training,
    contents,
    differences,
    leftovers,
    other_training,
)
from bench.chaos.runs import (
    ROOT,
    completed,
    descendants,
    is_alive,
    kill_forked,
    real,
    segment_arguments,
    train_arguments,
)
from data.phantom.patient import write_phantom
from pipeline.execute.lock_owner import LOCK_NAME
from tests.conftest import make_model

SEEDS = (1, 2, 3)
MOST_WRONG = 100
"""Then it is no accident."""


# ---- the trials ----


class Segmentation:
    """Results of an undisturbed run of the old and of the new model.

    It also holds the seconds of the new one.
    """

    def __init__(self, work: Path) -> None:
        self.work = work
        for model in ("old", "new"):
            status, self.seconds = completed(segment_arguments(work, work / model, model))
            assert status == 0, f"the undisturbed run gives {status}"
        self.old, self.new = contents(work / "old"), contents(work / "new")
        self.keys = {name: json.loads(text)["key"] for name, text in self.new.items() if name.startswith(".state/")}

    def fresh(self) -> Path:
        """Make a folder with the old model's result."""
        shutil.rmtree(self.work / "trial", ignore_errors=True)
        return Path(shutil.copytree(self.work / "old", self.work / "trial"))

    def finished(self, output: Path) -> dict[Path, int]:
        """Return the masks finished by the new model, with their time of change."""
        masks = {}
        for name, key in self.keys.items():
            state, folder = output / name, Path(name).stem
            mask = output / folder / f"{folder}_seg.nii.gz"
            if state.is_file() and json.loads(state.read_text())["key"] == key:
                masks[mask] = mask.stat().st_mtime_ns
        return masks

    def after_kill(self, output: Path) -> Found:
        return broken_files(contents(output), (self.old, self.new))

    def to_the_end(self, output: Path) -> Found:
        done = self.finished(output)
        status, _ = completed(segment_arguments(self.work, output))
        again = [f"done again: {mask}" for mask, at in done.items() if mask.stat().st_mtime_ns != at]
        wrong = [] if status == 0 else [f"exit status {status} of the run to the end"]
        return wrong + again + leftovers(output) + differences(contents(output), self.new)


def kill_segmentation(runs: Segmentation, kills: int, real_kills: int, rng: random.Random) -> dict[str, Any]:
    wrong: Found = []
    met = finished_trials = 0
    longest_orphan = 0.0
    output = runs.fresh()
    while met < kills and len(wrong) < MOST_WRONG:
        is_real = met < real_kills
        if is_real:
            alive, outlived = _kill_real(runs, output, "processes:2" if met % 2 else "serial", rng)
            longest_orphan = max(longest_orphan, outlived)
        else:
            alive = kill_forked(segment_arguments(runs.work, output), rng.uniform(0, runs.seconds))
        met += alive
        print(f"segment: {met} kills, {len(wrong)} wrong", end="\r", file=sys.stderr)
        wrong += runs.after_kill(output)
        if not alive or rng.random() < 0.2 or met == kills:  # the others go on where the killed one was
            wrong += runs.to_the_end(output)
            finished_trials += 1
            output = runs.fresh()
    said = {"kills": met, "of real command lines": real_kills, "runs to the end compared": finished_trials}
    return said | {"longest life of an orphan, s": round(longest_orphan, 2), "wrong": wrong}


def _kill_real(runs: Segmentation, output: Path, executor: str, rng: random.Random) -> tuple[bool, float]:
    """Kill a command once it has begun to write.

    Return whether that met a run at work, and the seconds that its workers outlived it.
    """
    process = real(segment_arguments(runs.work, output, executor=executor))
    while process.poll() is None and not (output / ".state" / "staging").exists():
        time.sleep(0.005)
    with suppress(subprocess.TimeoutExpired):
        process.wait(rng.uniform(0, runs.seconds if executor == "serial" else 3 * runs.seconds))
    alive, children = process.poll() is None, descendants(process.pid)
    process.kill()
    process.communicate()
    killed = time.monotonic()
    while any(map(is_alive, children)):
        time.sleep(0.005)
    return alive, time.monotonic() - killed


def fill_the_disk(runs: Segmentation) -> dict[str, Any]:
    """Limits of a file's size, and a small tmpfs where one may be mounted."""
    wrong: Found = []
    statuses: dict[int, int] = {}
    for limit in (0, 100, 1000, 3000, 10_000, 30_000, 100_000):
        output = runs.fresh()
        status, _ = completed(segment_arguments(runs.work, output), limit)
        statuses[limit] = status
        wrong += [f"{limit} bytes: {text}" for text in (*runs.after_kill(output), *leftovers(output))]
        wrong += [] if status in (0, 1, 2) else [f"{limit} bytes: exit status {status}"]
        wrong += runs.to_the_end(output)
    return {"exit status by limit in bytes": statuses, **_small_tmpfs(runs, wrong), "wrong": wrong}


def _small_tmpfs(runs: Segmentation, wrong: Found) -> dict[str, Any]:
    place = runs.work / "tmpfs"
    place.mkdir(exist_ok=True)
    needed = sum(map(len, runs.old.values())) // 1024
    mount = ["mount", "-t", "tmpfs", "-o", f"size={needed + 96}k", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True).returncode:
        return {"tmpfs": "may not be mounted here"}
    try:
        output = Path(shutil.copytree(runs.work / "old", place / "trial"))
        with open(place / "filler", "wb") as filler:
            filler.write(b"x" * max(0, shutil.disk_usage(place).free - 20_000))
        status, _ = completed(segment_arguments(runs.work, output))
        wrong += [f"tmpfs: {text}" for text in (*runs.after_kill(output), *leftovers(output))]
        (place / "filler").unlink()
        subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
        wrong += [f"tmpfs: {text}" for text in runs.to_the_end(output)]
        return {"tmpfs": f"full: exit status {status}; with space again: finished"}
    finally:
        subprocess.run(["umount", str(place)], check=False)


def collide(runs: Segmentation) -> dict[str, Any]:
    """Start two real command lines on one folder."""
    output = runs.fresh()
    first = real(segment_arguments(runs.work, output))
    while first.poll() is None and not (output / LOCK_NAME).exists():
        time.sleep(0.005)
    start = time.monotonic()
    second = real(segment_arguments(runs.work, output))
    said = second.communicate()[1]
    seconds = round(time.monotonic() - start, 2)
    first.wait()
    wrong = [] if second.returncode == 2 and f"process {first.pid}" in said else [f"the second run: {said}"]
    return {"refused after, s (with Python's start)": seconds, "wrong": wrong + runs.to_the_end(output)}


def stop(runs: Segmentation, signals: int, rng: random.Random) -> dict[str, Any]:
    """Send SIGINT and SIGTERM to real command lines at random moments.

    The moments begin with their first import.
    """
    wrong: Found = []
    slowest = 0.0
    for number in range(signals):
        signum = (signal.SIGINT, signal.SIGTERM)[number % 2]
        output = runs.fresh()
        trains = number % 3 == 2
        folder = runs.work / "stopped" if trains else output
        shutil.rmtree(runs.work / "stopped", ignore_errors=True)
        executor = ("serial", "processes:2")[number % 3 % 2]
        process = real(
            train_arguments(runs.work, folder) if trains else segment_arguments(runs.work, folder, executor=executor)
        )
        time.sleep(rng.uniform(0.3, 12))
        done, asked = process.poll() is not None, time.monotonic()
        process.send_signal(signum)
        said = process.communicate()[1]
        slowest = max(slowest, time.monotonic() - asked)
        if not done and (process.returncode != 128 + signum or said.count("\n") != 1 or "Traceback" in said):
            wrong.append(f"{signum.name}: exit status {process.returncode}, {said!r}")
        if folder.exists():
            wrong += leftovers(folder)
        if not trains:
            wrong += runs.after_kill(output)
    return {"signals": signals, "slowest end, s": round(slowest, 2), "wrong": wrong}


def kill_training(work: Path, kills: int, rng: random.Random) -> dict[str, Any]:
    undisturbed, output = work / "trained", work / "training"
    completed(train_arguments(work, undisturbed))  # fills the cache
    shutil.rmtree(undisturbed)
    status, seconds = completed(train_arguments(work, undisturbed))
    assert status == 0, f"the undisturbed training gives {status}"
    wrong: Found = []
    met = ended = 0
    shutil.rmtree(output, ignore_errors=True)
    while met < kills and len(wrong) < MOST_WRONG:
        alive = kill_forked(train_arguments(work, output), rng.uniform(0, seconds))
        met += alive
        print(f"train: {met} kills, {len(wrong)} wrong", end="\r", file=sys.stderr)
        wrong += broken_training(output) if output.exists() else []
        if not alive or rng.random() < 0.2 or met == kills:
            completed(train_arguments(work, output))
            ended += 1
            wrong += leftovers(output) + other_training(output, undisturbed)
            shutil.rmtree(output)
    return {"kills": met, "runs to the end compared": ended, "wrong": wrong}


# ---- together ----


def prepare(work: Path) -> None:
    """Make three small phantoms, two models of random weights, and a small recipe demo."""
    shutil.rmtree(work, ignore_errors=True)
    for seed in SEEDS:
        write_phantom(work / "patients", seed, shape=(30, 30, 20), spacing_mm=(8.0, 8.0, 8.0))
    for model, seed in (("old", 4), ("new", 3)):
        make_model(work / f"{model}.safetensors", seed=seed, spacing_mm=8.0)
    recipe = yaml.safe_load((ROOT / "pipeline" / "recipes" / "demo.yaml").read_text())
    recipe["preprocess"]["spacing_mm"] = [8.0] * 3
    recipe["network"]["channels"], recipe["window"]["size"] = [4, 8], [16, 16]
    recipe["training"] |= {"patch": [16, 16], "batch": 2, "epochs": 6, "steps_per_epoch": 3}
    (work / "recipe.yaml").write_text(yaml.safe_dump(recipe))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, nargs="?", default=Path("out"), help="its folder chaos is emptied first")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--train-kills", type=int, default=50)
    parser.add_argument("--real", type=int, default=10)
    parser.add_argument("--signals", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, work = random.Random(options.seed), options.work.resolve() / "chaos"
    torch.set_num_threads(1)  # a forked child of a process that has computed on several threads hangs
    prepare(work)
    for arguments in (segment_arguments(work, work / "warm"), train_arguments(work, work / "warm-too")):
        run_pipeline.main(arguments)  # imports whatever a run imports, before anything is forked
    runs = Segmentation(work)
    trials: dict[str, Callable[[], dict[str, Any]]] = {
        "kill -9, segment": lambda: kill_segmentation(runs, options.kills, options.real, rng),
        "kill -9, train": lambda: kill_training(work, options.train_kills, rng),
        "disk full": lambda: fill_the_disk(runs),
        "two runs at once": lambda: collide(runs),
        "SIGINT, SIGTERM": lambda: stop(runs, options.signals, rng),
    }
    failed = False
    for name, trial in trials.items():
        start = time.monotonic()
        said = trial()
        wrong = said.pop("wrong")
        failed |= bool(wrong)
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in said.items()), end="")
        print(f", wrong {len(wrong)} ({time.monotonic() - start:.0f} s)", flush=True)
        for text in wrong[:20]:
            print(f"    {text}")
    return int(failed)
