"""Dask workers as jobs of SLURM (dask-jobqueue, extra ``cluster``), as the user's own Dask configuration describes them.

Cores, memory, queue, account and time limit of a job stand in ``~/.config/dask/jobqueue.yaml`` under ``jobqueue: slurm:``.
"""

from __future__ import annotations

import shutil
from typing import Any

from data.errors import UsageError

SLURM = "slurm"
CONFIGURATION = "~/.config/dask/jobqueue.yaml"


class SlurmJobs:
    """Up to ``most`` jobs: asked for as there is work for them, and ended all together.

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
                    f"--executor {spec}: Dask's configuration does not say how much a job is; set cores and memory under "
                    f"`jobqueue: {SLURM}:` in {CONFIGURATION}"
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
        """Enough jobs for so many calls; never fewer than before, because one of them may be at work."""
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
