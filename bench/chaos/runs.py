"""Runs to be disturbed: forked from this process, or real command lines.

The processes that they have started are found here, too.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import run_pipeline

ROOT = Path(__file__).resolve().parents[2]
FORK = multiprocessing.get_context("fork")


def segment_arguments(work: Path, output: Path, model: str = "new", executor: str = "serial") -> list[str]:
    arguments = ["segment", work / "patients", "-o", output, "--model", work / f"{model}.safetensors", "--quiet"]
    return [*map(str, arguments), "--threads", "1", "--executor", executor]


def train_arguments(work: Path, output: Path) -> list[str]:
    arguments = ["train", work / "patients", "--recipe", work / "recipe.yaml", "-o", output, "--resume", "--quiet"]
    return [*map(str, arguments), "--device", "cpu", "--folds", "3", "--cache", str(work / "cache")]


def _child(arguments: Sequence[str], file_limit: int | None = None) -> None:
    with open(os.devnull, "w") as nowhere:
        for stream in (1, 2):
            os.dup2(nowhere.fileno(), stream)
    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    os._exit(run_pipeline.main(list(arguments)))


def forked(arguments: Sequence[str], file_limit: int | None = None) -> Any:
    """Fork a run."""
    process = FORK.Process(target=_child, args=(arguments, file_limit))
    process.start()
    return process


def real(arguments: Sequence[str]) -> subprocess.Popen:
    def as_from_a_shell() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)

    return subprocess.Popen(
        [sys.executable, "run_pipeline.py", *arguments], cwd=ROOT, preexec_fn=as_from_a_shell,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def completed(arguments: Sequence[str], file_limit: int | None = None) -> tuple[int, float]:
    """Exit status and seconds of an undisturbed forked run."""
    start = time.monotonic()
    process = forked(arguments, file_limit)
    process.join()
    return process.exitcode, time.monotonic() - start


def kill_forked(arguments: Sequence[str], after_s: float) -> bool:
    """Kill a forked run and tell whether it was at work."""
    process = forked(arguments)
    process.join(after_s)
    alive = process.is_alive()
    process.kill()
    process.join()
    return alive


def descendants(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):  # it has just ended
        for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in map(int, tasks.read_text().split()):
                found += [child, *descendants(child)]
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
