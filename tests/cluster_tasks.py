"""What test_cluster.py has done on workers: in a module of its own, whose import takes them no time."""

from __future__ import annotations

import os
import time
from pathlib import Path


def die_once(where: tuple[int, str]) -> int:
    number, folder = where
    time.sleep(0.1)
    mark = Path(folder, "died")
    if number == 3 and not mark.exists():
        mark.touch()
        os._exit(1)
    return number


def die_always(where: tuple[int, str]) -> int:
    if where[0] == 1:
        os._exit(1)
    return where[0]


def fail(number: int) -> int:
    raise ZeroDivisionError("no")


def process(seconds: float) -> tuple[int, float, float]:
    """The process, and from when to when this ran there."""
    begun = time.time()
    time.sleep(seconds)
    return os.getpid(), begun, time.time()
