"""Executors: cases in this process, in several, or on a cluster.

"serial"       one case after another, here
"overlap"      here too, three cases on their way: while one is in one part the others are in others, see pipeline.execute.overlap
"processes:N"  N worker processes of this machine, each with its own copy of the model
"cuda:0,1"     a worker process for each of these cards
"dask:ADDRESS" the workers of a Dask cluster, see :mod:`pipeline.execute.cluster`
"dask:slurm:N" such workers as up to N jobs of SLURM, see :mod:`pipeline.execute.cluster`

:func:`run_tasks` is the loop over many of them.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection
from typing import Any, TypeVar

from data.errors import UsageError
from pipeline.execute.cluster import AT_A_TIME, SLURM, ClusterExecutor, WorkerLost
from pipeline.execute.interruption import check_stopped
from pipeline.execute.overlap import Gates

Task = TypeVar("Task")
Result = TypeVar("Result")

CARD = "cuda:{}"
LOG_FORMAT = "%(levelname)s %(name)s: %(message)s"
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


class OverlappingExecutor(ThreadPoolExecutor):
    """Up to three calls at a time, each in a thread; by :mod:`pipeline.execute.overlap` each is in another part of its way."""

    AT_A_TIME = 3

    def __init__(self) -> None:
        super().__init__(self.AT_A_TIME, "case")
        self.gates = Gates()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return super().submit(self._on_its_way, fn, *args, **kwargs)

    def _on_its_way(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        with self.gates.case():
            return fn(*args, **kwargs)


class WorkerPool(ProcessPoolExecutor):
    """Processes that end with this one, however it ends.

    A run that is stopped waits for none of them.
    """

    def __init__(
        self,
        workers: int,
        initializer: Callable[..., None],
        initargs: tuple[Any, ...],
        devices: Sequence[str] = (),
    ) -> None:
        # spawn: a forked copy of a process that has used OpenMP or CUDA hangs
        context = multiprocessing.get_context("spawn")
        level = logging.getLogger("pipeline").getEffectiveLevel()
        free = context.SimpleQueue() if devices else None
        for device in devices:
            free.put(device)  # type: ignore[union-attr]
        begin = (level, free, initializer, initargs)
        super().__init__(workers, mp_context=context, initializer=_begin_work, initargs=begin)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        with _ctrl_c_held():  # it may start a worker
            return super().submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if isinstance(sys.exc_info()[1], KeyboardInterrupt):  # on the way out of a run that is to stop
            self.end_workers()
        super().shutdown(wait, cancel_futures=cancel_futures)

    def end_workers(self) -> None:
        """Kill the workers in the middle of their work.

        Files that they were writing are left as temporary files.
        """
        for process in list((getattr(self, "_processes", None) or {}).values()):
            process.kill()


_own_device: str | None = None


def own_device() -> str | None:
    """Return the device of this worker process;

    None where all share one.
    """
    return _own_device


def _begin_work(level: int, devices: Any, initializer: Callable[..., None], initargs: tuple[Any, ...]) -> None:
    global _own_device
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()
    if devices is not None:
        _own_device = devices.get()
    logging.basicConfig(level=logging.WARNING, format=LOG_FORMAT)
    logging.getLogger("pipeline").setLevel(level)
    initializer(*initargs)


def _end_with_parent() -> None:
    """End this process with its parent.

    An orphan would go on writing into a folder that the next run uses.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


@contextmanager
def _ctrl_c_held() -> Iterator[None]:
    """Start processes in the block without Ctrl-C.

    A terminal sends it to all of them; the parent ends them instead.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Malformed(Exception):
    """Error in a spec.

    A class of its own, because an initializer may raise anything else.
    """


def _serial(argument: str, initializer: Callable[..., None], initargs: tuple[Any, ...]) -> tuple[Executor, int]:
    if argument:
        raise _Malformed
    initializer(*initargs)
    return SerialExecutor(), 1


def _overlap(argument: str, initializer: Callable[..., None], initargs: tuple[Any, ...]) -> tuple[Executor, int]:
    if argument:
        raise _Malformed
    initializer(*initargs)
    return OverlappingExecutor(), OverlappingExecutor.AT_A_TIME


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
    "overlap": _overlap,
    "processes": _processes,
    "cuda": _cards,
    "dask": _cluster,
}


CHOICES = (
    "choose serial, overlap, processes:N with N of at least 1, cuda:0,1,..., dask:tcp://HOST:PORT, or dask:slurm:N with N "
    "of at least 1"
)


def make_executor(spec: str, initializer: Callable[..., None], initargs: tuple[Any, ...] = ()) -> tuple[Executor, int]:
    """Make the executor of ``spec``, and count the cases it takes at once.

    Each worker runs ``initializer`` once.

    Each worker runs ``initializer`` once.

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
    """CPU threads of each process: those asked for, else a share of the CPUs; None: as the library that computes wants."""
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
    window: int | None = None,
) -> Generator[tuple[int, Result], None, None]:
    """Yield the results of many tasks with their indices, in order of completion.

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

    Notes
    -----
    Ended early, by an exception or by ``close()``, it kills its workers and waits for none of their tasks. A caller
    whose own loop may raise closes it (``contextlib.closing``), or they live as long as the exception's traceback.
    """
    waiting = list(enumerate(tasks))
    retried: set[int] = set()
    running: dict[Future[Result], tuple[int, Task]] = {}
    executor, workers = make_executor(spec, initializer, initargs)
    complete = False
    try:
        while waiting or running:
            check_stopped()
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
                except WorkerLost:
                    yield index, died(task)
                else:
                    yield index, result
            if broken:
                again = sorted((*broken, *running.values()), key=lambda item: item[0])
                waiting[:0] = [item for item in again if item[0] not in retried]
                retried.update(index for index, _ in again)
                running.clear()
                _end(executor)  # all of them: what one of them still did could meet the second try
                executor, workers = make_executor(spec, initializer, initargs)
        complete = True
    finally:
        if complete:
            executor.shutdown(wait=True)
        else:
            _end(executor)


def _end(executor: Executor) -> None:
    if isinstance(executor, WorkerPool):
        executor.end_workers()
    if isinstance(executor, OverlappingExecutor):
        executor.gates.stop()
    executor.shutdown(wait=True, cancel_futures=True)


def _submit(executor: Executor, function: Callable[[Task], Result], task: Task) -> Future[Result]:
    try:
        return executor.submit(function, task)
    except BrokenProcessPool as error:  # it broke between two tasks
        future: Future[Result] = Future()
        future.set_exception(error)
        return future
