"""Where the cases are worked on: in this process, or in several.

"serial"       one case after another, here
"processes:N"  N worker processes of this machine, each with its own copy of the model

:func:`run_tasks` is the loop over many of them.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from data.errors import UsageError

Task = TypeVar("Task")
Result = TypeVar("Result")

WORKER_DIED = "the worker process died, probably for want of memory; free some, or use fewer processes"


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


def available_cpus() -> int:
    """CPUs that this process may use, at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spec_for(n_tasks: int, workers: int | None) -> str:
    """The spec for a number of workers; None is one for each CPU, but no more than a quarter of the tasks.

    One worker, or one task, is this process.
    """
    if workers is None:
        workers = min(available_cpus(), n_tasks // 4)  # starting a process takes as long as some patients
    workers = min(workers, n_tasks)
    return "serial" if workers <= 1 else f"processes:{workers}"


def no_preparation() -> None:
    """The initializer of workers that import what they need with their first task."""


def run_tasks(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    spec: str,
    died: Callable[[Task], Result],
    *,
    initializer: Callable[..., None] = no_preparation,
    initargs: tuple[Any, ...] = (),
    window: int | None = None,
) -> Iterator[tuple[int, Result]]:
    """Results of many tasks with their indices, in order of completion.

    Parameters
    ----------
    function : callable
        Never raises: what goes wrong with a task is its result. For processes it and the tasks can be pickled.
    spec : str
        See :func:`make_executor`.
    died : callable
        The result of a task whose worker died twice. One death costs every running task a second try, one at a
        time, so that the next death has one name.
    window : int, optional
        No task is begun that is this far ahead of the oldest unfinished one: bounds what a caller holds who wants
        results in order.

    Raises
    ------
    data.errors.UsageError
        The spec is unknown.
    """
    waiting = list(enumerate(tasks))
    retried: set[int] = set()
    running: dict[Future[Result], tuple[int, Task]] = {}
    executor, workers = make_executor(spec, initializer, initargs)
    try:
        while waiting or running:
            oldest = min(index for index, _ in (*waiting[:1], *running.values()))
            while waiting and len(running) < workers:
                begun = [index for index, _ in running.values()]
                if running and not retried.isdisjoint((waiting[0][0], *begun)):
                    break  # a second try is alone, so that nobody else's death is taken for its own
                if window is not None and waiting[0][0] >= oldest + window:
                    break
                index, task = waiting.pop(0)
                running[_submit(executor, function, task)] = (index, task)
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            broken = []
            for future in done:
                index, task = running.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool:
                    if index in retried:
                        yield index, died(task)
                    broken.append((index, task))
                else:
                    yield index, result
            if broken:
                again = sorted((*broken, *running.values()), key=lambda item: item[0])
                waiting[:0] = [item for item in again if item[0] not in retried]
                retried.update(index for index, _ in again)
                running.clear()
                executor.shutdown(wait=False, cancel_futures=True)
                executor, workers = make_executor(spec, initializer, initargs)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _submit(executor: Executor, function: Callable[[Task], Result], task: Task) -> Future[Result]:
    try:
        return executor.submit(function, task)
    except BrokenProcessPool as error:  # it broke between two tasks
        future: Future[Result] = Future()
        future.set_exception(error)
        return future
