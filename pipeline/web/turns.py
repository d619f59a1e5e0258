"""Whose turn it is: one job of each user after the other, so that nobody waits for another's ten."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import zip_longest


class Turns:
    """A queue of jobs that goes round the users in the order in which they came."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[str]] = {}

    def add(self, owner: str, job: str) -> None:
        """Put a job at the end of its owner's line."""
        self._queues.setdefault(owner, deque()).append(job)

    def remove(self, job: str) -> bool:
        """Take a job out, wherever it stands; False where it is not there."""
        for owner, jobs in list(self._queues.items()):
            if job in jobs:
                jobs.remove(job)
                if not jobs:
                    del self._queues[owner]
                return True
        return False

    def take(self) -> str | None:
        """The next job; its owner goes to the end. None when nobody waits."""
        if not self._queues:
            return None
        owner = next(iter(self._queues))
        jobs = self._queues.pop(owner)
        job = jobs.popleft()
        if jobs:
            self._queues[owner] = jobs
        return job

    def __iter__(self) -> Iterator[str]:
        """Jobs in the order in which they will be taken, if nobody comes."""
        for turn in zip_longest(*self._queues.values()):
            yield from (job for job in turn if job is not None)
