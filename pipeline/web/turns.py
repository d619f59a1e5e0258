"""Fair order of jobs, and the time until each of them ends."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from itertools import zip_longest

from pipeline.web.store import CaseRecord, Store


class Turns:
    """Queue of jobs that takes one of each user in turn.

    Users come in the order of their first job.
    """

    def __init__(self) -> None:
        self._queues: dict[str, deque[str]] = {}
        self.changes = 0
        """Number of changes so far."""

    def add(self, owner: str, job: str) -> None:
        """Put a job at the end of its owner's line."""
        self.changes += 1
        self._queues.setdefault(owner, deque()).append(job)

    def remove(self, job: str) -> bool:
        """Take a job out, wherever it stands; False where it is not there."""
        for owner, jobs in list(self._queues.items()):
            if job in jobs:
                self.changes += 1
                jobs.remove(job)
                if not jobs:
                    del self._queues[owner]
                return True
        return False

    def take(self) -> str | None:
        """Take the next job; its owner goes to the end.

        None when nobody waits.
        """
        if not self._queues:
            return None
        self.changes += 1
        owner = next(iter(self._queues))
        jobs = self._queues.pop(owner)
        job = jobs.popleft()
        if jobs:
            self._queues[owner] = jobs
        return job

    def __iter__(self) -> Iterator[str]:
        """Yield the jobs in the order in which they will be taken.

        A job that comes later may change it.
        """
        for turn in zip_longest(*self._queues.values()):
            yield from (job for job in turn if job is not None)


class Line:
    """Lock for one at a time, given to the users in turn."""

    def __init__(self) -> None:
        self._turns = Turns()
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._taken = False

    @contextlib.asynccontextmanager
    async def turn(self, owner: str) -> AsyncIterator[None]:
        """Wait for a turn, and hold it within the block."""
        if self._taken:
            await self._wait(owner)
        self._taken = True
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, owner: str) -> None:
        ticket = secrets.token_hex(8)
        self._waiting[ticket] = asyncio.get_running_loop().create_future()
        self._turns.add(owner, ticket)
        try:
            await self._waiting[ticket]
        except asyncio.CancelledError:
            if not self._turns.remove(ticket):  # the turn was given to this task meanwhile
                self._pass_on()
            raise
        finally:
            del self._waiting[ticket]

    def _pass_on(self) -> None:
        ticket = self._turns.take()
        self._taken = ticket is not None
        if ticket is not None and not (waiting := self._waiting[ticket]).done():
            waiting.set_result(None)


class Forecast:
    """Place of each job in line, and the time until its mask is there."""

    def __init__(self, store: Store, turns: Turns) -> None:
        self.store, self.turns = store, turns
        self.running: str | None = None
        """Id of the running job."""
        self._reckoned: tuple[tuple[int, int], dict[str, tuple[int, float | None]]] = ((-1, -1), {})
        self._first: tuple[float, float] | None = None
        """Time of the running job's first report of progress (monotonic clock), and its share."""
        self._latest: float | None = None
        """Time of its last report of progress."""

    def begin(self, job: str) -> None:
        """Note that a job has left the line and runs."""
        self.running = job
        self._first = self._latest = None

    def report(self, share: float) -> None:
        """Note which share of the running job is done, 0 to 1.

        At 0 the model is loaded, whose time does not predict the rest.
        """
        if share > 0:
            now = time.monotonic()
            self._first, self._latest = self._first or (now, share), now

    def whole_seconds(self) -> float | None:
        """Return the seconds that the job took, now that it ends; None where it reported nothing before its end."""
        if self._first is None or self._first[1] >= 1:
            return None
        since, share = self._first
        return (time.monotonic() - since) / (1 - share)

    def position(self, record: CaseRecord) -> int | None:
        """Return the place of a case in line, 1 for the next.

        The running job counts as the first. None where the case does not wait.
        """
        if record.state != "queued":
            return None
        place = self._waiting().get(record.id)
        return None if place is None else place[0] + (self.running is not None)

    def seconds_left(self, record: CaseRecord) -> float | None:
        """Estimate the seconds until the mask is there, from the times of earlier runs.

        None where nothing is known.
        """
        if record.state == "running":
            return self._running_left(record)
        if record.state != "queued":
            return None
        _, wait = self._waiting().get(record.id, (0, None))
        current = self.store.get(self.running) if self.running else None
        left = 0.0 if current is None else self._running_left(current)
        return None if wait is None or left is None else wait + left

    def _waiting(self) -> dict[str, tuple[int, float | None]]:
        """Return the place and the waiting time of each job in line.

        The time is in seconds until the job ends, if the line began now; it is computed once for each change of the
        line.

        A session may have hundreds of jobs in it and ask for all of them.
        """
        state = (self.turns.changes, self.store.timed_runs)
        if self._reckoned[0] != state:
            line: dict[str, tuple[int, float | None]] = {}
            expected: dict[tuple[str | None, int], float | None] = {}
            wait: float | None = 0.0
            for place, job in enumerate(self.turns, 1):
                if (record := self.store.get(job)) is not None:
                    kind = record.model, record.voxels
                    if kind not in expected:
                        expected[kind] = self._expected(record)
                    own = expected[kind]
                    wait = None if wait is None or own is None else wait + own
                line[job] = place, wait
            self._reckoned = state, line
        return self._reckoned[1]

    def _expected(self, record: CaseRecord) -> float | None:
        return self.store.expected_seconds(record.model, record.voxels)

    def _running_left(self, record: CaseRecord) -> float | None:
        """Estimate the seconds that the running job still takes.

        It is the share of earlier runs' time that is left since the last report of progress, and never more than the
        job's own pace so far makes likely. Without earlier runs the pace alone counts.
        """
        pace = self._left_by_pace(record)
        expected = self._expected(record)
        if expected is None:
            return pace
        since = 0.0 if self._latest is None else time.monotonic() - self._latest
        left = max(expected * (1 - record.progress) - since, 0.0)
        return left if pace is None else min(left, pace)

    def _left_by_pace(self, record: CaseRecord) -> float | None:
        if self._first is None or record.progress <= self._first[1] + 0.1:
            return None
        since, share = self._first
        return (time.monotonic() - since) * (1 - record.progress) / (record.progress - share)
