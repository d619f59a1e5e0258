"""One training run on several processes, as torchrun starts them.

In a single process everything here does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from pipeline.predict.device import choose_device

PATIENCE = timedelta(hours=6)
"""How long a process waits for its peers; the leading one may preprocess a whole data set meanwhile."""


@dataclass(frozen=True)
class Process:
    """Running process among its peers.

    rank : 0 is the one that writes files; world : how many there are; device : of this one.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def share(self, items: list[Any]) -> list[Any]:
        """Return the part of a list that this process works on."""
        return items[self.rank :: self.world]

    def gathered(self, items: list[Any]) -> list[Any]:
        """Put the parts of all processes back into the order of the list.

        The order is the one in which :meth:`share` dealt them.
        """
        if self.world == 1:
            return items
        parts: list[Any] = [None] * self.world
        dist.all_gather_object(parts, items)
        return [parts[i % self.world][i // self.world] for i in range(sum(map(len, parts)))]

    def from_leader(self, value: Any) -> Any:
        """Return the value of the leading process."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """Run the block in the leading process, then in the others.

        The others find on disk the files that the leader has written.
        """
        if not self.leads:
            self.from_leader(None)
        yield
        if self.leads:
            self.from_leader(None)

    def mean(self, value: float) -> float:
        """Return the mean of the values of all processes, with equal weights."""
        if self.world == 1:
            return value
        total = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return float(total) / self.world


@contextmanager
def joined(device: str) -> Iterator[Process]:
    """Join the process group that torchrun describes in the environment: NCCL on CUDA, gloo on the CPU.

    Raises :class:`data.errors.UsageError` for a device that is not there.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Process(0, 1, choose_device(device))
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    chosen = choose_device(device)
    if chosen.type == "cuda":
        chosen = choose_device(f"cuda:{local}")
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Process(dist.get_rank(), world, chosen)
    finally:
        dist.destroy_process_group()
