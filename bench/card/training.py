"""Training on the card, from packed cases, until the call's time ends."""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from bench.card.back import bring_back
from bench.card.parts import read_index
from bench.card.unpacking import packed_aside, packed_first_stage, unpack
from data.io.write import write_text_atomically
from pipeline.config import RunConfig, parse_config
from pipeline.execute.lock import output_lock, remove_temporary_files
from pipeline.options import TrainOptions
from pipeline.predict.memory.machine import tune_malloc
from pipeline.provenance import entries_of
from pipeline.training.distributed import joined
from pipeline.training.plan import (
    check_told,
    names_by_kind,
)
from pipeline.training.progress.history import EpochRecord
from pipeline.training.progress.identity import earlier_state
from pipeline.training.run import learn
from pipeline.training.sampling import PatchDataset
from pipeline.training.splits import Split

log = logging.getLogger(__name__)


PREFETCHED = 4
"""Batches that each loading process holds ready (pipeline.training.loop)."""


class _TimeIsUp(Exception):
    """End of a call; the last epoch was kept."""


def train_on_card(
    parts: Path,
    output: Path,
    *,
    minutes: float,
    total_minutes: float | None = None,
    batch: int | None = None,
    init: str | None = None,
    resume: bool = False,
    workers: int | None = None,
    device: str = "auto",
    cache: Path | None = None,
    command: str = "",
) -> int:
    """Train on packed cases until the recipe or the call's time ends.

    Return the number of files to be brought back.

    Parameters
    ----------
    minutes : float
        Of this call, unpacking included. It ends with the last epoch that fits; at least one is trained.
    total_minutes : float, optional
        Of the whole run, over all calls: the schedule follows it, as for ``train --minutes``.
    batch : int, optional
        See :func:`with_batch`.
    workers : int, optional
        Processes that load and augment; by default all cores but two, as far as the shared memory goes.
    cache : Path, optional
        Where the parts are unpacked; by default within ``parts``.

    Raises
    ------
    data.errors.SegmentationError
        A part is missing or damaged, or as for :func:`pipeline.training.run.run_training`.
    """
    start, cache = time.monotonic(), cache or parts / "unpacked"
    index = read_index(parts)
    config = _recipe(index, parts, total_minutes, batch)
    tune_malloc()
    torch.set_float32_matmul_precision("high")  # TF32
    torch.backends.cudnn.benchmark = True  # every batch has the same shape
    with joined(device) as process, output_lock(output):
        remove_temporary_files(output)
        loaders = shared_memory_allows(max(_cores() - 2, 0) if workers is None else workers, config)
        options = TrainOptions(init=init, resume=resume, workers=loaders, licence=index["licence"], command=command)
        prepared = _prepared(parts, index, config, cache, output, options)
        log.info("unpacked after %.0f s; %d loading processes", time.monotonic() - start, loaders)
        try:
            # matplotlib is not brought along
            clock = _clock(start, 60 * minutes)
            learn(**prepared, process=process, options=options, curves=False, on_epoch=clock)
        except _TimeIsUp:
            log.info("the call's %g minutes are over; go on with --resume", minutes)
        finally:
            count = bring_back(output)
    return count


def _recipe(index: Mapping[str, Any], parts: Path, total_minutes: float | None, batch: int | None) -> RunConfig:
    config = parse_config(index["recipe"], str(parts / "index.json"))
    if total_minutes is not None:
        settings = config.model_dump()
        settings["training"]["stopping"]["minutes"] = total_minutes
        config = parse_config(settings, f"--total-minutes {total_minutes}")
    return with_batch(config, batch or config.training.batch)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _prepared(
    parts: Path, index: Mapping[str, Any], config: RunConfig, cache: Path, output: Path, options: TrainOptions
) -> dict[str, Any]:
    """Unpack the parts and return the arguments of :func:`pipeline.training.run.learn` that they give."""
    split = Split(**{part: tuple(names) for part, names in index["split"].items()})
    identity = {"recipe": config.model_dump_json(), **index["identity"]}
    state = earlier_state(output, identity, options)
    dataset = PatchDataset(*unpack(parts, index, config, cache, max(_cores() - 1, 0)))
    if state is None:
        check_told(dataset, config, options.init)
    dataset.make_donors()
    learnt = set(names_by_kind(dataset).get("patient", ()))
    aside = packed_aside(parts, index, config, split, cache)
    first = packed_first_stage(parts, index, cache)
    write_text_atomically(output / "recipe.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    return {
        "dataset": dataset,
        "output": output,
        "config": config,
        "split": split,
        "identity": identity,
        "state": state,
        "entries": [entry for entry in entries_of(index) or () if entry.name in learnt],
        "aside": aside,
        "first": first,
    }


def with_batch(config: RunConfig, batch: int) -> RunConfig:
    """Give a recipe another batch, k times its own, and let the rest follow.

    The rate of AdamW grows with the square root of k [1]_. An epoch shows as many samples as before, in fewer steps;
    the average's decay per step is its k-th power [2]_, and the warm-up has the same number of samples.

    References
    ----------
    .. [1] Malladi et al., On the SDEs and Scaling Rules for Adaptive Gradient Algorithms, NeurIPS 2022.
    .. [2] Busbridge et al., How to Scale Your EMA, NeurIPS 2023.
    """
    if batch == config.training.batch:
        return config
    settings = config.model_dump()
    training, k = settings["training"], batch / config.training.batch
    training["batch"] = batch
    if k > 0:
        training["learning_rate"] *= math.sqrt(k)
        training["steps_per_epoch"] = max(round(training["steps_per_epoch"] / k), 1)
        training["ema_decay"] **= k
        training["schedule"]["warmup_steps"] = round(training["schedule"]["warmup_steps"] / k)
    return parse_config(settings, f"--batch {batch}")


def shared_memory_allows(workers: int, config: RunConfig, folder: Path = Path("/dev/shm")) -> int:
    """Lower the number of loading processes to the shared memory's room.

    They keep batches there.
    """
    training, network = config.training, config.network
    one = 4 * training.batch * (network.in_channels + network.out_channels) * math.prod(training.patch)
    free = shutil.disk_usage(folder).free if folder.is_dir() else None
    most = workers if free is None else int(free // ((PREFETCHED + 1) * one))
    if most < workers:
        log.warning("%s has room for the batches of %d loading processes, not %d; enlarge it", folder, most, workers)
    return min(workers, most)


def _clock(start: float, seconds: float) -> Any:
    """Return the function that ends the call after the last epoch that fits."""
    times = [start]

    def after(record: EpochRecord) -> None:
        times.append(time.monotonic())
        # The first epoch's time holds the unpacking, so it decides only while it is alone.
        lasted = [b - a for a, b in zip(times, times[1:], strict=False)]
        if times[-1] + max(lasted[1:] or lasted) > start + seconds:
            raise _TimeIsUp

    return after
