"""Where a case is on its way: said to who listens, and with one case at a time in each part of the way.

Reading and scoring leave most of a machine idle, the network does not. So several cases are on the way at once, each
in a thread of its own (:class:`pipeline.execute.executors.OverlappingExecutor`), and :class:`Gates` lets one of them into each
part. A network on a card leaves the CPU to the others: one case is in the network while another is prepared and a third
is measured. A network on the CPU fills it: nobody works beside it, and between two networks the next case is prepared,
the last one measured and the one before written, side by side. A case gives its place up before it asks for the next
one, so that none waits for another that waits for it.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str, float], None]
"""Called with a stage and the share, 0 to 1, of the whole case that is done."""

BEGINS = {
    "reading": 0.0,
    "preprocessing": 0.05,
    "network": 0.15,
    "restoring": 0.8,
    "scoring": 0.87,
    "writing": 0.9,
}
"""The stages in order, each with the share of a case that is done when it begins: rounded from cases on a CPU."""
PART = {"reading": "prepare", "preprocessing": "prepare", "restoring": "measure", "scoring": "measure"}
"""Of the stages; ``network`` and ``writing`` are parts of their own."""


class Stopped(BaseException):
    """The run is to stop. No Exception, so that no ``except Exception`` takes it for a failure of the case."""


class Way:
    """The way of one case after another in one thread."""

    def __init__(self, listener: Listener) -> None:
        self.listener, self.share = listener, 0.0

    def enter(self, stage: str, done: float) -> None:
        ends = [*list(BEGINS.values())[1:], 1.0][list(BEGINS).index(stage)]
        # Several models go through the first stages again, and nobody wants to see that go backwards.
        self.share = max(self.share, BEGINS[stage] + done * (ends - BEGINS[stage]))
        self.listener(stage, self.share)


_way: ContextVar[Way | None] = ContextVar("way", default=None)
_gates: ContextVar[Gates | None] = ContextVar("gates", default=None)


@contextmanager
def listening(listener: Listener | None) -> Iterator[None]:
    """Within the block ``listener`` is told of every stage of the cases of this thread."""
    token = _way.set(Way(listener) if listener else None)
    try:
        yield
    finally:
        _way.reset(token)


def begin() -> None:
    """A case begins in this thread: it is being read."""
    if (way := _way.get()) is not None:
        way.share = 0.0
    enter("reading")


def enter(stage: str, done: float = 0.0, *, alone: bool = False) -> None:
    """This thread's case is at ``stage`` and has done so much of it; waits where another one is in that part.

    ``alone``: it takes the whole machine, so that it waits for all others to leave their parts, and they for it.

    Raises
    ------
    Stopped
    """
    if (gates := _gates.get()) is not None:
        gates.enter(PART.get(stage, stage), alone=alone)
    if (way := _way.get()) is not None:
        way.enter(stage, done)


def reserve(needed: Callable[[], int], has_room: Callable[[int], bool]) -> None:
    """Wait until this thread's case, of ``needed()`` bytes, has room beside those on their way, or none is.

    What a case alone may take is judged elsewhere: here only that it disturbs no other. Raises :class:`Stopped`.
    """
    if (gates := _gates.get()) is not None:
        gates.reserve(needed(), has_room)


class Gates:
    """One case, which is one thread, at a time in each part of the way, and no more cases than there is memory for."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside: dict[str, int] = {}
        self._alone: int | None = None
        self._want_alone: set[int] = set()
        self._reserved: dict[int, int] = {}
        self._cases: set[int] = set()
        self._stopped = False

    @contextmanager
    def case(self) -> Iterator[None]:
        """This thread's case is on its way within the block."""
        me, token = threading.get_ident(), _gates.set(self)
        try:
            with self._changed:
                self._require_going()
                self._cases.add(me)
            yield
        finally:
            with self._changed:
                self._cases.discard(me)
                self._want_alone.discard(me)
                self._leave(me)
                self._reserved.pop(me, None)
                self._changed.notify_all()
            _gates.reset(token)

    def enter(self, part: str, *, alone: bool = False) -> None:
        """Leave the part where this thread's case is, and wait until ``part`` is free, or ``alone`` until all are.

        Who wants to be alone comes before those that do not, or it might wait for ever.
        """
        me = threading.get_ident()
        with self._changed:
            if self._inside.get(part) != me:
                self._leave(me)
                if alone:
                    self._want_alone.add(me)
                    self._changed.wait_for(lambda: self._stopped or not self._inside)
                    self._want_alone.discard(me)
                    self._alone = me
                else:
                    self._changed.wait_for(lambda: self._stopped or self._has_place(part))
                self._inside.setdefault(part, me)
            self._require_going()

    def _has_place(self, part: str) -> bool:
        return part not in self._inside and self._alone is None and not self._want_alone

    def reserve(self, needed: int, has_room: Callable[[int], bool]) -> None:
        """Leave the part, wait for memory, and enter ``prepare`` again.

        What the others have taken of their share by now is counted twice, so that the answer is on the safe side.
        """
        me = threading.get_ident()
        with self._changed:
            self._leave(me)
            self._reserved.pop(me, None)
            self._changed.wait_for(
                lambda: self._stopped or not self._reserved or has_room(needed + sum(self._reserved.values()))
            )
            self._require_going()
            self._reserved[me] = needed
        self.enter("prepare")

    def stop(self) -> None:
        """End all cases: those that wait at once, those that compute between two steps of the interpreter."""
        with self._changed:
            self._stopped = True
            for thread in self._cases:
                # As a signal does in the main thread; under the lock, so that no thread gets it outside of its case.
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(Stopped))
            self._changed.notify_all()

    def _leave(self, me: int) -> None:
        for part in [part for part, thread in self._inside.items() if thread == me]:
            del self._inside[part]
            self._alone = None if self._alone == me else self._alone
            self._changed.notify_all()

    def _require_going(self) -> None:
        if self._stopped:
            raise Stopped
