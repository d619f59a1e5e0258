"""Interruption:

SIGINT and SIGTERM as one exception. Every block that cleans up does so; a second signal changes nothing.

Light on purpose: the command line imports it first, so that a signal is understood while the rest is imported.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE_S = 8.0
"""A stopping run that has not ended by then is ended: somewhere a long calculation does not look up."""


class Interrupted(KeyboardInterrupt):
    """Request to stop the process.

    A KeyboardInterrupt, so that no ``except Exception`` takes it for a failure. A KeyboardInterrupt, so that no
    ``except Exception`` takes it for a failure.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum

    @property
    def exit_status(self) -> int:
        """Exit status as shells count: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.signum


def sentence(stopped: KeyboardInterrupt) -> str:
    """Return one line that tells a user why the run stopped."""
    name = signal.Signals(stopped.signum).name if isinstance(stopped, Interrupted) else "SIGINT"
    way = f"go on with: {_line_that_goes_on}" if _line_that_goes_on else "run it again to go on"
    return f"run_pipeline.py: stopped by {name}; what is finished is kept, {way}"


def go_on_with(line: str) -> None:
    """Name the command line that goes on, for :func:`sentence`; empty: the same one."""
    global _line_that_goes_on
    _line_that_goes_on = line


def leave_at_once() -> None:
    """End the process at a signal with one line and its status.

    It holds until :func:`stoppable`: nothing is written yet.
    """
    for number in _heeded():
        signal.signal(number, _leave)


def check_stopped() -> None:
    """Raise :class:`Interrupted` again where a library swallowed the first one."""
    if _current is not None and _current.signum:
        raise Interrupted(_current.signum)


@contextmanager
def stoppable(patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Raise :class:`Interrupted` in the main thread at the first SIGINT or SIGTERM.

    Later ones within the block do nothing.

    A block that has not ended ``patience_s`` seconds after the signal is ended with its children and the exit status of
    the signal; what was being written then is a temporary file, which the next run removes. A signal that the process
    was started to ignore (nohup, a shell's background job) stays ignored. Outside the main thread nothing is changed.
    """
    global _current
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stop = _Stop(patience_s)
    earlier = {number: signal.getsignal(number) for number in _heeded()}
    hook, sys.unraisablehook = sys.unraisablehook, stop.unraisable
    before, _current = _current, stop
    try:
        for number in earlier:
            signal.signal(number, stop.handle)
        yield
    finally:
        for number, handler in earlier.items():
            # The process ends now: whoever asks again is no reason to leave with another status.
            ending = stop.signum and handler is _leave
            signal.signal(number, signal.SIG_IGN if ending else signal.SIG_DFL if handler is None else handler)
        sys.unraisablehook, _current = hook, before
        stop.close()


class _Stop:
    """State of one :func:`stoppable` block.

    Its watching thread is there from the start and is told through a pipe: a handler that took any lock could meet the
    very code that it interrupted. Its watching thread is there from the start and is told through a pipe: a handler
    that took any lock could meet the very code that it interrupted.
    """

    def __init__(self, patience_s: float) -> None:
        self.pid, self.thread, self.signum, self.patience_s = os.getpid(), threading.get_ident(), 0, patience_s
        self.swallowed = False
        self.over = threading.Event()
        self.reading, self.writing = os.pipe()
        threading.Thread(target=self._watch, name="stop", daemon=True).start()

    def handle(self, signum: int, _frame: Any) -> None:
        if os.getpid() != self.pid:  # a forked loader of samples, which leaves it to the process that started it
            raise KeyboardInterrupt
        if self.signum and not self.swallowed:
            return
        if not self.signum:
            self.signum = signum
            os.write(self.writing, b"s")
        self.swallowed = False
        raise Interrupted(self.signum)

    def unraisable(self, what: Any) -> None:
        """Raise an interruption again that a finaliser swallowed."""
        if isinstance(what.exc_value, Interrupted):
            self.swallowed = True
            os.write(self.writing, b"r")
        else:
            sys.__unraisablehook__(what)

    def close(self) -> None:
        self.over.set()
        os.close(self.writing)

    def _watch(self) -> None:
        deadline: float | None = None
        while (byte := _read_byte(self.reading, deadline)) not in (b"", None):
            if byte == b"s":
                deadline = time.monotonic() + self.patience_s
            elif not self.over.wait(0.02):
                signal.pthread_kill(self.thread, self.signum)
        os.close(self.reading)
        if byte is None and not self.over.is_set():
            _end(self.signum)


def _read_byte(descriptor: int, deadline: float | None) -> bytes | None:
    """Read a byte: empty when the other end is closed, None at the deadline."""
    import select

    timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
    ready, _, _ = select.select([descriptor], [], [], timeout)
    return os.read(descriptor, 1) if ready else None


def _end(signum: int) -> None:
    for child in multiprocessing.active_children():
        child.kill()
    with suppress(OSError):
        os.write(2, f"{sentence(Interrupted(signum))}\n".encode())
    os._exit(128 + signum)


def _leave(signum: int, _frame: Any) -> None:
    _end(signum)


def _heeded() -> list[signal.Signals]:
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


_current: _Stop | None = None
_line_that_goes_on = ""
