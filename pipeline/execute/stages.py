"""Stages of a case, and the listener that is told of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum


class Stage(StrEnum):
    """Stage of a case, in order.

    So run.json, the state files and the web app name it.
    """

    READ = "read"
    PREPARE = "prepare"
    PREPROCESS = "preprocess"
    NETWORK = "network"
    RESTORE = "restore"
    METRICS = "metrics"
    WRITE = "write"
    PREVIEW = "preview"


BEGINS = dict(zip(Stage, (0.0, 0.05, 0.06, 0.15, 0.8, 0.87, 0.9, 0.92), strict=True))
"""Share of a case that is done when a stage begins: rounded from cases on a CPU."""

Listener = Callable[[Stage, float], None]
"""Called with a stage and the share, 0 to 1, of the whole case that is done."""


class _Progress:
    """Progress of one case after another in one thread."""

    def __init__(self, listener: Listener) -> None:
        self.listener, self.share = listener, 0.0

    def enter(self, stage: Stage, done: float) -> None:
        ends = [*list(BEGINS.values())[1:], 1.0][list(BEGINS).index(stage)]
        # Several models go through the first stages again, and nobody wants to see that go backwards.
        self.share = max(self.share, BEGINS[stage] + done * (ends - BEGINS[stage]))
        self.listener(stage, self.share)


_progress: ContextVar[_Progress | None] = ContextVar("progress", default=None)


@contextmanager
def listening(listener: Listener | None) -> Iterator[None]:
    """Tell ``listener`` of every stage of this thread's cases within the block."""
    token = _progress.set(_Progress(listener) if listener else None)
    try:
        yield
    finally:
        _progress.reset(token)


def begin() -> None:
    """Begin a case in this thread at the share 0 and the stage READ."""
    if (progress := _progress.get()) is not None:
        progress.share = 0.0
    enter(Stage.READ)


def enter(stage: Stage, done: float = 0.0) -> None:
    """Tell the listener the stage of this thread's case.

    ``done`` is the share of the stage, 0 to 1.
    """
    if (progress := _progress.get()) is not None:
        progress.enter(stage, done)
