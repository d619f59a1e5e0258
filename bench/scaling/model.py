"""Demands of patients on the machines, and the bounds that follow without simulation.

A patient's files are read from the storage, prepared on a core, put through the network on the card, finished on a core
(restore, scores, picture) and written to the storage. A worker is a card with its cores and has several patients on
their way, one in each part: a plan that no executor follows; `processes:N` on a card comes close.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Patient:
    """Demands of one patient.

    They are bytes of the storage, seconds of a core and of the card.
    """

    bytes_read: float
    prepare_s: float
    network_s: float
    finish_s: float
    bytes_written: float

    @property
    def cpu_s(self) -> float:
        return self.prepare_s + self.finish_s


@dataclass(frozen=True)
class Site:
    """Machines of a site.

    Parameters
    ----------
    gpus : int
        Workers, each with a card of its own.
    bandwidth : float
        Bytes a second of the storage that all share; ``math.inf`` costs no time.
    at_a_time : int
        Patients that a worker has on their way; with 1 nothing overlaps.
    lanes : int
        Patients that are prepared at a time in a worker, and as many that are finished.
    cpu_parts : int
        Patients for which a worker's cores suffice at a time, in preparation and finishing together.
    mtbf_s : float
        Mean time to failure of a worker that is up; exponential. ``math.inf``: never.
    restart_s : float
        From the failure until it takes patients again; also what each worker takes to start.
    """

    gpus: int
    bandwidth: float = math.inf
    at_a_time: int = 3
    lanes: int = 1
    cpu_parts: int = 2
    mtbf_s: float = math.inf
    restart_s: float = 0.0

    @property
    def availability(self) -> float:
        """Share of its time that a worker is up."""
        return 1.0 if math.isinf(self.mtbf_s) else self.mtbf_s / (self.mtbf_s + self.restart_s)


def demands(patients: Sequence[Patient], site: Site) -> dict[str, float]:
    """Return the seconds that the mean patient occupies each resource.

    All but the storage are the worker's own.

    Preparing and finishing are resources too: a patient holds its place there while its files are on the wire.
    """
    n = len(patients)
    read, written = (sum(getattr(p, what) for p in patients) / n for what in ("bytes_read", "bytes_written"))
    prepare, finish = (sum(getattr(p, what) for p in patients) / n for what in ("prepare_s", "finish_s"))
    return {
        "GPU": sum(p.network_s for p in patients) / n,
        "CPU, preparing": (prepare + read / site.bandwidth) / site.lanes,
        "CPU, finishing": (finish + written / site.bandwidth) / site.lanes,
        "CPU, cores": (prepare + finish) / site.cpu_parts,
        "storage": (read + written) / site.bandwidth,
    }


def bounds(patients: Sequence[Patient], site: Site) -> dict[str, float]:
    """Return the most patients a second of each resource.

    The least of them is the bottleneck's.

    Notes
    -----
    A resource that is occupied for D seconds by each patient completes at most 1 / D patients a second, and with N
    patients on their way, each of which takes R seconds without waiting, no more than N / R are completed: the
    utilisation law, Little's law and the asymptotic bounds of operational analysis [1]_. Failures lessen what a worker
    allows by the share of time that it is down; patients that are begun again are not in the bounds.

    References
    ----------
    .. [1] P. J. Denning and J. P. Buzen, "The operational analysis of queueing network models", ACM Computing Surveys
       10(3), 1978.
    """
    each = demands(patients, site)
    alone = each["storage"] + each["GPU"] + sum(p.cpu_s for p in patients) / len(patients)
    up = site.gpus * site.availability
    found = {name: (1.0 if name == "storage" else up) / d if d else math.inf for name, d in each.items()}
    return found | {"cases at a time": up * site.at_a_time / alone if alone else math.inf}


def bottleneck(allowed: Mapping[str, float]) -> str:
    """Return the resource that allows least."""
    return min(allowed, key=allowed.__getitem__)


def own_bound(allowed: Mapping[str, float]) -> float:
    """Return the bound of the workers where the storage costs nothing."""
    return min(rate for name, rate in allowed.items() if name != "storage")
