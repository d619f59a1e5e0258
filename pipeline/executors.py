"""Where the cases are worked on: in this process, or in several.

"serial"       one case after another, here
"processes:N"  N worker processes of this machine, each with its own copy of the model
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from typing import Any

from data.errors import UsageError


class SerialExecutor(Executor):
    """Runs every call at once, in the caller's thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class _Malformed(Exception):
    """What stands in the spec cannot be; its own class, because an initializer may raise anything else."""


def _serial(argument: str, initializer: Callable[..., None], initargs: tuple[Any, ...]) -> tuple[Executor, int]:
    if argument:
        raise _Malformed
    initializer(*initargs)
    return SerialExecutor(), 1


def _processes(argument: str, initializer: Callable[..., None], initargs: tuple[Any, ...]) -> tuple[Executor, int]:
    if not (argument.isascii() and argument.isdigit() and int(argument)):
        raise _Malformed
    workers = int(argument)
    # spawn: a forked copy of a process that has used OpenMP or CUDA hangs
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=initializer, initargs=initargs), workers


EXECUTORS: dict[str, Callable[[str, Callable[..., None], tuple[Any, ...]], tuple[Executor, int]]] = {
    "serial": _serial,
    "processes": _processes,
}


def make_executor(spec: str, initializer: Callable[..., None], initargs: tuple[Any, ...] = ()) -> tuple[Executor, int]:
    """The executor that ``spec`` names, and how many cases it takes at a time; each worker runs ``initializer`` once.

    Raises
    ------
    data.errors.UsageError
        The spec is unknown or its number is not positive.
    """
    name, _, argument = spec.partition(":")
    try:
        if name not in EXECUTORS:
            raise _Malformed
        return EXECUTORS[name](argument, initializer, initargs)
    except _Malformed:
        raise UsageError(f"--executor {spec}: choose serial or processes:N with N of at least 1") from None
