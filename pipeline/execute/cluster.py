"""Cases on the workers of a Dask cluster (extra ``cluster``).

The other machines see the same files under the same paths.

Each worker process has one case at a time, whatever number of threads it has: those are for the network. So it is
decided here who gets the next one: Dask would hand a worker as many as it has threads, and of those none to a worker
that comes later. A lost worker's case goes to another, until it has lost :data:`TRIES` of them. Dask's messages can run
code: its ports belong behind a firewall, or TLS on them.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future
from dataclasses import dataclass
from typing import Any

from data.errors import UsageError

log = logging.getLogger(__name__)

AT_A_TIME = 1024
"""Cases that wait here or are on a worker: enough for its workers, also for those that come during the run."""
CONNECT_S = 20
LOOK_S = 1.0
"""So often it is looked for new workers, and for lost ones."""
TRIES = 3
"""A case that was on so many lost workers is given up."""

_one_at_a_time = threading.Lock()
_begun = threading.Event()


class WorkerLost(Exception):
    """Failure of a call that was given up: every worker that tried it died."""


@dataclass
class _Call:
    result: Future[Any]
    work: tuple[Any, ...]
    worker: str = ""
    lost: int = 0


class ClusterExecutor(Executor):
    """Calls on a cluster's workers, one at a time in each process.

    Parameters
    ----------
    where : str
        ``tcp://HOST:PORT`` or ``tls://HOST:PORT`` of the scheduler; ``slurm`` or ``slurm:N``: up to N jobs of its own,
        1 if not said, see :class:`pipeline.execute.cluster.SlurmJobs`.
    initializer, initargs
        Run once in each worker, before its first call.

    Raises
    ------
    data.errors.UsageError
        Dask is not installed, nobody answers at the address, or SLURM takes no job.
    """

    def __init__(self, where: str, initializer: Callable[..., None], initargs: tuple[Any, ...]) -> None:
        try:
            from distributed import Client
        except ImportError:
            raise UsageError(f"--executor dask:{where}: Dask is not installed; install the extra `cluster`") from None
        kind, _, number = where.partition(":")
        self._jobs = SlurmJobs(f"dask:{where}", int(number or 1)) if kind == SLURM else None
        try:
            self.client = Client(self._jobs.cluster if self._jobs else where, timeout=CONNECT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            text = " ".join(str(error).split())
            raise UsageError(
                f"--executor dask:{where}: no scheduler answers ({text}); start one with `dask scheduler`"
            ) from None
        self._before = (initializer, initargs)
        self._waiting: deque[_Call] = deque()
        self._sent: dict[Any, _Call] = {}
        self._changed, self._closing = threading.Event(), False
        self._sender = threading.Thread(target=self._send_all, name="send-cases", daemon=True)
        self._sender.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        result: Future[Any] = Future()
        result.set_running_or_notify_cancel()
        self._waiting.append(_Call(result, (self._before, fn, args, kwargs)))
        self._changed.set()
        return result

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the executor and its jobs.

        A call that a worker is computing cannot be ended from here; its case finds its folder gone when it wants to
        write.
        """
        self._closing = True
        self._changed.set()
        self._sender.join(CONNECT_S)
        if cancel_futures and self._sent:
            self.client.cancel(list(self._sent), force=True)
        self.client.close()
        if self._jobs is not None:
            self._jobs.close()

    # ---- who gets the next case ----

    def _send_all(self) -> None:
        while not self._closing:
            try:
                if self._jobs is not None:
                    self._jobs.ask_for(len(self._waiting) + len(self._sent))
                self._send()
            except Exception:  # the scheduler may be busy, or gone
                log.debug("the cluster does not answer", exc_info=True)
            if self.client.status == "closed":
                self._give_up()
            self._changed.wait(LOOK_S)
            self._changed.clear()

    def _send(self) -> None:
        if not (self._waiting or self._sent):
            return
        workers = dict.fromkeys(self.client.processing())
        for there, call in list(self._sent.items()):
            if call.worker not in workers and self._sent.pop(there, None) is not None:
                self._take_back(there, call)
        taken = {call.worker for call in list(self._sent.values())}
        for worker in workers:
            if worker not in taken and self._waiting:
                call = self._waiting.popleft()
                call.worker = worker
                try:
                    there = self.client.submit(_call, *call.work, pure=False, workers=[worker])
                except Exception as error:
                    call.result.set_exception(error)
                    continue
                self._sent[there] = call
                there.add_done_callback(self._settle)

    def _take_back(self, there: Any, call: _Call) -> None:
        self.client.cancel([there], force=True)
        call.lost += 1
        log.warning("worker %s was lost with a case in hand", call.worker)
        if call.lost < TRIES:
            self._waiting.appendleft(call)
        else:
            call.result.set_exception(WorkerLost(f"{call.lost} workers that tried it were lost"))

    def _settle(self, there: Any) -> None:
        error: BaseException | None
        try:
            error = WorkerLost("the cluster was lost") if there.cancelled() else there.exception()
            value = None if error else there.result()
        except (Exception, CancelledError, asyncio.CancelledError) as caught:  # its worker is lost with the result
            error = caught
        if (call := self._sent.pop(there, None)) is None:  # it was taken back
            return
        if error is None:
            call.result.set_result(value)
        else:
            killed = type(error).__name__ == "KilledWorker"  # the scheduler's own limit, where that is lower
            call.result.set_exception(WorkerLost(str(error)) if killed else error)
        self._changed.set()

    def _give_up(self) -> None:
        while self._waiting:
            self._waiting.popleft().result.set_exception(WorkerLost("the cluster was lost"))


def _call(
    before: tuple[Callable[..., None], tuple[Any, ...]], fn: Callable[..., Any], args: Any, kwargs: dict[str, Any]
) -> Any:
    with _one_at_a_time:  # another run may use the same worker
        if not _begun.is_set():
            initializer, initargs = before
            initializer(*initargs)
            _begun.set()
        return fn(*args, **kwargs)


def own_share() -> tuple[int, int]:
    """Return this Dask worker's threads, and how many such workers its machine holds.

    The memory of the machine sets that number.

    Dask tells the libraries to use one thread, and ends a worker that takes more than its part of the memory.
    """
    from distributed import get_worker
    from distributed.system import MEMORY_LIMIT

    worker = get_worker()
    limit = worker.memory_manager.memory_limit
    return worker.state.nthreads, max(1, round(MEMORY_LIMIT / limit)) if limit else 1


SLURM = "slurm"
CONFIGURATION = "~/.config/dask/jobqueue.yaml"


class SlurmJobs:
    """Up to ``most`` jobs, asked for as needed and ended all together.

    A job has one worker process, unless ``jobqueue.slurm.processes`` says more: Dask's own default, several that share
    its memory, would be several copies of the model. A job that ends by itself (its time limit) is asked for again.

    Parameters
    ----------
    spec : str
        As the user gave it, for the sentences.
    most : int
        At least 1.

    Raises
    ------
    data.errors.UsageError
        dask-jobqueue, ``sbatch`` or the configuration is missing, or SLURM refuses the first job.
    """

    def __init__(self, spec: str, most: int) -> None:
        try:
            import dask
            from dask_jobqueue import SLURMCluster
        except ImportError:
            raise UsageError(
                f"--executor {spec}: dask-jobqueue is not installed; install the extra `cluster`"
            ) from None
        if shutil.which("sbatch") is None:
            raise UsageError(
                f"--executor {spec}: there is no `sbatch` here; start on a machine that submits SLURM jobs"
            )
        for name in ("cores", "memory"):
            if dask.config.get(f"jobqueue.{SLURM}.{name}", None) is None:
                raise UsageError(
                    f"--executor {spec}: Dask's configuration does not say how much a job is; set cores and memory "
                    f"under `jobqueue: {SLURM}:` in {CONFIGURATION}"
                )
        self.most, self.asked = most, 1
        self.processes = int(dask.config.get(f"jobqueue.{SLURM}.processes", None) or 1)
        # Its web page answers to this machine alone, unless the configuration says otherwise.
        options = {"dashboard_address": "127.0.0.1:0"} | dict(
            dask.config.get(f"jobqueue.{SLURM}.scheduler-options", {}) or {}
        )
        try:
            self.cluster = SLURMCluster(processes=self.processes, scheduler_options=options)
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            raise UsageError(f"--executor {spec}: {_line(error)}; mend {CONFIGURATION}") from None
        try:
            self.cluster.worker_spec.update(self.cluster.new_worker_spec())
            self.cluster.sync(_started, self.cluster)
        except (OSError, RuntimeError, ValueError) as error:  # a later one that is refused is not missed
            self.close()
            raise UsageError(
                f"--executor {spec}: SLURM took no job ({_line(error)}); mend {CONFIGURATION}, try with `sbatch`"
            ) from None

    def ask_for(self, calls: int) -> None:
        """Ask for enough jobs for so many calls.

        Never for fewer than before, because one of them may be at work.
        """
        self.asked = max(self.asked, min(self.most, -(-calls // self.processes)))
        self.cluster.scale(jobs=self.asked)

    def close(self) -> None:
        """End all jobs, those too that still wait for their turn."""
        from distributed.core import Status

        for job in self.cluster.workers.values():  # dask-jobqueue 0.9 forgets to, and Dask closes with no open job
            job.status = Status.closing
        try:
            self.cluster.close()
        except AssertionError:  # one that began at this moment; it has been ended, and Dask would wait for it at exit
            self.cluster.status = Status.closed


async def _started(cluster: Any) -> None:
    await cluster


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
