"""Executors: cases in this process, in several, or on a cluster.

"serial"       one case after another, here
"processes:N"  N worker processes of this machine, each with its own copy of the model
"cuda:0,1"     a worker process for each of these cards
"dask:ADDRESS" the workers of a Dask cluster, see :mod:`pipeline.execute.cluster`
"dask:slurm:N" such workers as up to N jobs of SLURM, see :mod:`pipeline.execute.cluster`

:func:`run_tasks` is the loop over many of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any, TypeVar

from data.errors import UsageError
from pipeline.execute.cluster import AT_A_TIME, SLURM, ClusterExecutor, WorkerLost
from pipeline.execute.interruption import check_stopped
from pipeline.execute.processes import WorkerPool

Task = TypeVar("Task")
Result = TypeVar("Result")

CARD = "cuda:{}"
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
    """Error in a spec.

    A class of its own, because an initializer may raise anything else.
    """


def _serial(argument: str, initializer: Callable[..., None], initargs: tuple[Any, ...]) -> tuple[Executor, int]:
    if argument:
        raise _Malformed
    initializer(*initargs)
    return SerialExecutor(), 1


def _processes(argument: str, initializer: Callable[..., None], initargs: tuple[Any, ...]) -> tuple[Executor, int]:
    if not (argument.isascii() and argument.isdigit() and int(argument)):
        raise _Malformed
    workers = int(argument)
    return WorkerPool(workers, initializer, initargs), workers


def _cards(argument: str, initializer: Callable[..., None], initargs: tuple[Any, ...]) -> tuple[Executor, int]:
    devices = _devices(argument)
    return WorkerPool(len(devices), initializer, initargs, devices), len(devices)


def _devices(argument: str) -> list[str]:
    numbers = argument.split(",")
    if not all(n.isascii() and n.isdigit() for n in numbers) or len({int(n) for n in numbers}) < len(numbers):
        raise _Malformed
    return [CARD.format(int(number)) for number in numbers]


def _cluster(argument: str, initializer: Callable[..., None], initargs: tuple[Any, ...]) -> tuple[Executor, int]:
    # Dask would look for a host that cannot be for half a minute.
    address = r"(tcp|tls)://(\[[0-9a-fA-F:.]+\]|[^\s/:\[\]]+):[0-9]{1,5}"
    if not re.fullmatch(f"{address}|{SLURM}(:0*[1-9][0-9]*)?", argument):
        raise _Malformed
    return ClusterExecutor(argument, initializer, initargs), AT_A_TIME


EXECUTORS: dict[str, Callable[[str, Callable[..., None], tuple[Any, ...]], tuple[Executor, int]]] = {
    "serial": _serial,
    "processes": _processes,
    "cuda": _cards,
    "dask": _cluster,
}


CHOICES = (
    "choose serial, processes:N with N of at least 1, cuda:0,1,..., dask:tcp://HOST:PORT, or dask:slurm:N with N "
    "of at least 1"
)
GONE = (
    "is no more: three cases at once saved an eighth of the time at most, and cost some with larger networks; use "
    "serial, or processes:2, also on one card"
)
"""Of the executor "overlap"."""


def make_executor(spec: str, initializer: Callable[..., None], initargs: tuple[Any, ...] = ()) -> tuple[Executor, int]:
    """Make the executor of ``spec``, and count the cases it takes at once.

    Each worker runs ``initializer`` once.

    Raises
    ------
    data.errors.UsageError
        The spec is unknown or its number is not positive.
    """
    name, _, argument = spec.partition(":")
    if name == "overlap":
        raise UsageError(f"--executor {spec}: {GONE}")
    try:
        if name not in EXECUTORS:
            raise _Malformed
        return EXECUTORS[name](argument, initializer, initargs)
    except _Malformed:
        raise UsageError(f"--executor {spec}: {CHOICES}") from None


def available_cpus() -> int:
    """CPUs that this process may use, at least 1."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers_of(spec: str) -> int:
    """Count the processes of a spec that :func:`make_executor` takes."""
    kind, _, argument = spec.partition(":")
    return int(argument) if kind == "processes" else len(devices_of(spec)) or 1


def devices_of(spec: str) -> list[str]:
    """Return the device of each worker of ``cuda:0,1``; none for other specs.

    A malformed spec has none either.
    """
    kind, _, argument = spec.partition(":")
    try:
        return _devices(argument) if kind == "cuda" else []
    except _Malformed:
        return []


def is_elsewhere(spec: str) -> bool:
    """Check whether the cases are computed by other machines.

    Their devices and processors are not this one's.
    """
    return spec.partition(":")[0] == "dask"


def threads_of_each(threads: int | None, spec: str) -> int | None:
    """CPU threads of each process: those asked for, else a share of the CPUs; None: as the library wants."""
    workers = workers_of(spec)
    return threads or (max(1, available_cpus() // workers) if workers > 1 else None)


def spec_for(n_tasks: int, workers: int | None) -> str:
    """Return the spec for a number of workers.

    None is one worker for each CPU, but no more than a quarter of the tasks. None is one for each CPU, but no more than
    a quarter of the tasks.

    One worker, or one task, is this process.
    """
    if workers is None:
        workers = min(available_cpus(), n_tasks // 4)  # starting a process takes as long as some patients
    workers = min(workers, n_tasks)
    return "serial" if workers <= 1 else f"processes:{workers}"


def no_preparation() -> None:
    """Prepare nothing: such workers import all they need with their first task."""


def run_tasks(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    spec: str,
    died: Callable[[Task], Result],
    *,
    initializer: Callable[..., None] = no_preparation,
    initargs: tuple[Any, ...] = (),
    ahead: int | None = None,
) -> Generator[tuple[int, Result], None, None]:
    """Yield the results of many tasks with their indices, in order of completion.

    Parameters
    ----------
    function : callable
        Never raises: what goes wrong with a task is its result. For processes it and the tasks can be pickled.
    spec : str
        See :func:`make_executor`.
    died : callable
        The result of a task that was lost with its worker twice. One death costs every running task a second try,
        one at a time, so that the next death has one name.
    ahead : int, optional
        No task is begun that is this far ahead of the oldest unfinished one: bounds what a caller holds who wants
        results in order.

    Raises
    ------
    data.errors.UsageError
        The spec is unknown.

    Notes
    -----
    Ended early, by an exception or by ``close()``, it kills its workers and waits for none of their tasks. A caller
    whose own loop may raise closes it (``contextlib.closing``), or they live as long as the exception's traceback.
    """
    queue = _Queue(list(enumerate(tasks)))
    executor, workers = make_executor(spec, initializer, initargs)
    complete = False
    try:
        while queue.waiting or queue.running:
            check_stopped()
            while queue.may_begin(workers, ahead):
                index, task = queue.waiting.pop(0)
                queue.running[_submit(executor, function, task)] = (index, task)
            done, _ = wait(queue.running, return_when=FIRST_COMPLETED)
            broken: list[tuple[int, Task]] = []
            yield from _results(queue, done, died, broken)
            if broken:
                queue.put_back(broken)
                _end(executor)  # all of them: what one of them still did could meet the second try
                executor, workers = make_executor(spec, initializer, initargs)
        complete = True
    finally:
        if complete:
            executor.shutdown(wait=True)
        else:
            _end(executor)


def _results(
    queue: _Queue, done: Iterable[Future[Result]], died: Callable[[Task], Result], broken: list[tuple[int, Task]]
) -> Iterator[tuple[int, Result]]:
    """Yield the results of finished tasks.

    The tasks of a broken pool are added to ``broken``.
    """
    for future in done:
        index, task = queue.running.pop(future)
        try:
            result = future.result()
        except BrokenProcessPool:
            if index in queue.retried:
                yield index, died(task)
            broken.append((index, task))
        except WorkerLost:
            yield index, died(task)
        else:
            yield index, result


@dataclass
class _Queue:
    """Tasks of :func:`run_tasks` with their indices: waiting, in order, running, retried."""

    waiting: list[tuple[int, Any]]
    running: dict[Future[Any], tuple[int, Any]] = field(default_factory=dict)
    retried: set[int] = field(default_factory=set)

    def may_begin(self, workers: int, ahead: int | None) -> bool:
        """Check whether the next task may begin now."""
        if not self.waiting or len(self.running) >= workers:
            return False
        first, begun = self.waiting[0][0], [index for index, _ in self.running.values()]
        if begun and not self.retried.isdisjoint((first, *begun)):
            return False  # a second try is alone, so that nobody else's death is taken for its own
        return ahead is None or first < min([first, *begun]) + ahead

    def put_back(self, broken: Sequence[tuple[int, Any]]) -> None:
        """Let the tasks that ran when a worker died wait for a second try.

        Those that had it already are done.
        """
        again = sorted((*broken, *self.running.values()), key=lambda item: item[0])
        self.waiting[:0] = [item for item in again if item[0] not in self.retried]
        self.retried.update(index for index, _ in again)
        self.running.clear()


def _end(executor: Executor) -> None:
    if isinstance(executor, WorkerPool):
        executor.end_workers()
    executor.shutdown(wait=True, cancel_futures=True)


def _submit(executor: Executor, function: Callable[[Task], Result], task: Task) -> Future[Result]:
    try:
        return executor.submit(function, task)
    except BrokenProcessPool as error:  # it broke between two tasks
        future: Future[Result] = Future()
        future.set_exception(error)
        return future
