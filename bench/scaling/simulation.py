"""Patients on several GPU workers that share one storage: a discrete-event simulation.

The machines are those of :mod:`bench.scaling.model`. A worker that fails loses the patients on its way, which go back
to the front of the queue, and another one takes its place after a while.

Simplifications: the storage serves whole patients one after another (first come, first served), a transfer that was
asked for is served also when its worker has failed meanwhile, and driving the card takes no core.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush

from bench.scaling.model import Patient, Site, bounds, own_bound


@dataclass(frozen=True)
class Simulated:
    """Outcome of a simulation.

    The seconds of cards and cores are sums over all workers.

    ``finished`` holds for each patient how often it was finished (once, or the simulation is wrong); ``lost_gpu_s`` and
    ``lost_cpu_s`` are the part of the busy time that went into patients whose worker failed.
    """

    seconds: float
    finished: Sequence[int]
    gpu_s: float
    cpu_s: float
    storage_s: float
    lost_gpu_s: float
    lost_cpu_s: float
    failures: int
    begun_again: int

    @property
    def per_hour(self) -> float:
        return 3600 * sum(self.finished) / self.seconds

    @property
    def lost_share(self) -> float:
        """Share of the seconds of cards and cores that was lost."""
        spent = self.gpu_s + self.cpu_s
        return (self.lost_gpu_s + self.lost_cpu_s) / spent if spent else 0.0


def simulate(patients: Sequence[Patient], site: Site, seed: int = 0) -> Simulated:
    """Simulate all patients through the machines, in their order.

    Raises
    ------
    ValueError
        A patient takes longer than the mean time to failure, so that it might never be done.
    """
    longest = max(p.cpu_s + p.network_s + (p.bytes_read + p.bytes_written) / site.bandwidth for p in patients)
    if longest > site.mtbf_s:
        raise ValueError(
            f"a patient takes {longest:g} s and a worker fails every {site.mtbf_s:g} s: it would hardly ever be done"
        )
    return _Simulation(patients, site, seed).run()


@dataclass(frozen=True)
class Point:
    """Result for one number of GPUs: simulation, bounds and money.

    The bounds are in patients a second.
    """

    site: Site
    simulated: Simulated
    bounds: Mapping[str, float]
    cost: float

    def busy(self) -> dict[str, float]:
        """Shares of the whole time, failures included: the utilisations."""
        run, site = self.simulated, self.site
        return {
            "GPU": run.gpu_s / (run.seconds * site.gpus),
            "CPU": run.cpu_s / (run.seconds * site.gpus * site.cpu_parts),
            "storage": run.storage_s / run.seconds,
        }


def scale(patients: Sequence[Patient], site: Site, gpus: Sequence[int], hourly: float, seed: int) -> list[Point]:
    """Simulate each number of GPUs.

    ``hourly`` is the price of a GPU with its cores for an hour.
    """
    points = []
    for number in gpus:
        one = replace(site, gpus=number)
        run = simulate(patients, one, seed)
        points.append(Point(one, run, bounds(patients, one), run.seconds / 3600 * number * hourly))
    return points


def efficiencies(points: Sequence[Point]) -> list[float]:
    """Return the share of perfect scaling.

    It is patients an hour for each GPU, against those of the first point.
    """
    first = points[0].simulated.per_hour / points[0].site.gpus
    return [point.simulated.per_hour / point.site.gpus / first for point in points]


def saturating_gpus(point: Point) -> float:
    """GPUs from which on the storage alone limits, by the bounds."""
    return point.bounds["storage"] / (own_bound(point.bounds) / point.site.gpus)


@dataclass
class _Attempt:
    """Patient on its way, with its costs so far.

    It also holds the time since when it is on a core (True) or the card (False).
    """

    gpu_s: float = 0.0
    cpu_s: float = 0.0
    serving: tuple[float, bool] | None = None


@dataclass(eq=False)
class _Worker:
    cores: int
    up: bool = False
    lost: bool = False
    """It has failed, what was to happen to it does not, and another one has come in its place."""
    attempts: dict[int, _Attempt] = field(default_factory=dict)
    preparing: int = 0
    finishing: int = 0
    on_card: bool = False
    for_core: deque[tuple[int, float, Callable[[_Worker, int], None]]] = field(default_factory=deque)
    for_card: deque[int] = field(default_factory=deque)
    for_finish: deque[int] = field(default_factory=deque)


class _Simulation:
    """State of the simulation.

    For each kind of event a method takes the worker and the patient's number.
    """

    def __init__(self, patients: Sequence[Patient], site: Site, seed: int) -> None:
        self.patients, self.site, self.random = patients, site, random.Random(seed)
        self.now = self.storage_free = self.storage_s = 0.0
        self.gpu_s = self.cpu_s = self.lost_gpu_s = self.lost_cpu_s = 0.0
        self.failures = self.begun_again = self.numbered = 0
        self.left, self.finished = len(patients), [0] * len(patients)
        self.queue = deque(range(len(patients)))
        self.workers = [_Worker(site.cpu_parts) for _ in range(site.gpus)]
        self.events: list[tuple[float, int, _Worker, Callable[[_Worker, int], None], int]] = []

    def run(self) -> Simulated:
        for worker in self.workers:
            self._at(self.site.restart_s, worker, self._up)
        while self.left:
            time, _, worker, event, number = heappop(self.events)
            if not worker.lost:
                self.now = time
                event(worker, number)
        return Simulated(
            self.now,
            self.finished,
            self.gpu_s,
            self.cpu_s,
            self.storage_s,
            self.lost_gpu_s,
            self.lost_cpu_s,
            self.failures,
            self.begun_again,
        )

    def _at(self, time: float, worker: _Worker, event: Callable[[_Worker, int], None], number: int = -1) -> None:
        self.numbered += 1  # of two events at the same time the older one comes first
        heappush(self.events, (time, self.numbered, worker, event, number))

    def _up(self, worker: _Worker, _: int) -> None:
        worker.up = True
        if not math.isinf(self.site.mtbf_s):
            self._at(self.now + self.random.expovariate(1 / self.site.mtbf_s), worker, self._fail)
        self._begin(worker)

    def _begin(self, worker: _Worker) -> None:
        site = self.site
        while worker.up and self.queue and worker.preparing < site.lanes and len(worker.attempts) < site.at_a_time:
            number = self.queue.popleft()
            worker.attempts[number] = _Attempt()
            worker.preparing += 1
            self._transfer(worker, number, self.patients[number].bytes_read, self._read)

    def _transfer(self, worker: _Worker, number: int, size: float, then: Callable[[_Worker, int], None]) -> None:
        seconds = size / self.site.bandwidth
        self.storage_free = max(self.now, self.storage_free) + seconds
        self.storage_s += seconds
        self._at(self.storage_free, worker, then, number)

    def _read(self, worker: _Worker, number: int) -> None:
        self._on_core(worker, number, self.patients[number].prepare_s, self._prepared)

    def _on_core(self, worker: _Worker, number: int, seconds: float, then: Callable[[_Worker, int], None]) -> None:
        if not worker.cores:
            worker.for_core.append((number, seconds, then))
            return
        worker.cores -= 1
        worker.attempts[number].serving = (self.now, True)
        self._at(self.now + seconds, worker, then, number)

    def _served(self, attempt: _Attempt) -> None:
        """End an attempt's service, or look at it when its worker fails.

        It leaves its core or the card.
        """
        if attempt.serving is None:
            return
        since, on_core = attempt.serving
        attempt.serving, seconds = None, self.now - since
        if on_core:
            attempt.cpu_s += seconds
            self.cpu_s += seconds
        else:
            attempt.gpu_s += seconds
            self.gpu_s += seconds

    def _leave_core(self, worker: _Worker, number: int) -> None:
        self._served(worker.attempts[number])
        worker.cores += 1
        if worker.for_core:
            self._on_core(worker, *worker.for_core.popleft())

    def _prepared(self, worker: _Worker, number: int) -> None:
        self._leave_core(worker, number)
        worker.preparing -= 1
        worker.for_card.append(number)
        self._next_on_card(worker)
        self._begin(worker)

    def _next_on_card(self, worker: _Worker) -> None:
        if worker.for_card and not worker.on_card:
            number = worker.for_card.popleft()
            worker.on_card = True
            worker.attempts[number].serving = (self.now, False)
            self._at(self.now + self.patients[number].network_s, worker, self._through_network, number)

    def _through_network(self, worker: _Worker, number: int) -> None:
        self._served(worker.attempts[number])
        worker.on_card = False
        worker.for_finish.append(number)
        self._next_on_card(worker)
        self._next_to_finish(worker)

    def _next_to_finish(self, worker: _Worker) -> None:
        if worker.for_finish and worker.finishing < self.site.lanes:
            number = worker.for_finish.popleft()
            worker.finishing += 1
            self._on_core(worker, number, self.patients[number].finish_s, self._finished)

    def _finished(self, worker: _Worker, number: int) -> None:
        self._leave_core(worker, number)
        self._transfer(worker, number, self.patients[number].bytes_written, self._written)

    def _written(self, worker: _Worker, number: int) -> None:
        del worker.attempts[number]
        worker.finishing -= 1
        self.finished[number] += 1
        self.left -= 1
        self._next_to_finish(worker)
        self._begin(worker)

    def _fail(self, worker: _Worker, _: int) -> None:
        self.failures += 1
        for attempt in worker.attempts.values():
            self._served(attempt)
            self.lost_gpu_s += attempt.gpu_s
            self.lost_cpu_s += attempt.cpu_s
        self.begun_again += len(worker.attempts)
        self.queue.extendleft(reversed(worker.attempts))
        index = self.workers.index(worker)
        worker.up, worker.lost = False, True
        self.workers[index] = again = _Worker(self.site.cpu_parts)
        self._at(self.now + self.site.restart_s, again, self._up)
        for other in self.workers:  # at the end of the run they had nothing left to do
            self._begin(other)
