"""Fair order of jobs: one of each user after the other."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import AsyncIterator, Iterator
from itertools import zip_longest


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
