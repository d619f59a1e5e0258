"""Worker processes of this machine: they end with this one."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import connection
from typing import Any

LOG_FORMAT = "%(levelname)s %(name)s: %(message)s"


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
