"""Command in a process of its own: wall and CPU seconds, peak memory.

The peak that Linux reports of a process starts at that of the process which started it, so whoever calls this keeps
light: neither torch nor monai.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
STARTED = "BENCH_STARTED"
"""Environment variable of the process: `time.monotonic()`, one clock for all processes, when it was started."""
TUNED_MALLOC = {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=4294967295"}
"""The environment that keeps freed memory in the process instead of giving every page back and faulting it in again."""


@dataclass(frozen=True)
class Usage:
    """Wall and CPU seconds and memory of one process.

    Attributes
    ----------
    wall, cpu : float
        Seconds from its start to its end; user and system time of all its threads, and of processes that it waited for.
    peak_gib : float
        Largest resident set of it or of one process that it waited for (not their sum).
    result : dict
        What it wrote to its result file; empty where it has none.
    """

    wall: float
    cpu: float
    peak_gib: float
    result: dict[str, Any] = field(default_factory=dict)


class CommandFailed(Exception):
    """Failure of a process, with the last of its output."""


def run_in_own_process(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Usage:
    """Run a command in the project's folder and wait for it.

    Parameters
    ----------
    command : sequence of str
        ``{result}`` in it stands for the path of a file that it may write as JSON.
    environment : mapping, optional
        Variables beside those of this process.

    Raises
    ------
    CommandFailed
        The command ended with another status than 0.
    """
    with tempfile.TemporaryDirectory() as folder, open(Path(folder) / "output", "w+b") as output:
        result = Path(folder) / "result.json"
        line = [part.replace("{result}", str(result)) for part in command]
        start = time.monotonic()
        with _ended_with_this() as children:
            process = subprocess.Popen(
                line,
                cwd=ROOT,
                env={**os.environ, **(environment or {}), STARTED: repr(start)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            children.append(process)
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - start
        if process.returncode:
            output.seek(0)
            said = output.read().decode(errors="replace")[-1500:]
            raise CommandFailed(f"{' '.join(line)} ended with {process.returncode}: {said}")
        found = json.loads(result.read_text()) if result.is_file() else {}
    peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)  # bytes there, KiB elsewhere
    return Usage(wall, used.ru_utime + used.ru_stime, peak / 2**30, found)


@contextmanager
def _ended_with_this() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Stop the processes in the list and their children at the block's end.

    Those that have ended are left.
    """
    children: list[subprocess.Popen[bytes]] = []
    try:
        yield children
    except BaseException:
        for child in children:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        raise


def since_start() -> float:
    """Return wall seconds since :func:`run_in_own_process` started this process.

    It is 0.0 in a process that it has not started.
    """
    return time.monotonic() - float(os.environ.get(STARTED, time.monotonic()))
