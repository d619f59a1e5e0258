"""Cases on disk: their voxels made once, and mapped from the cache after that.

A case is decompressed and preprocessed once and then mapped from the cache (`pipeline.array_cache`): an epoch reads
only the pages of the patches it draws, and memory does not grow with the number of patients.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data.errors import InputError, UsageError
from pipeline.array_cache import key_of, open_array, write_array
from pipeline.config import RunConfig
from pipeline.execute.executors import make_executor

log = logging.getLogger(__name__)

_INFINITE = 0x7C00
"""The bits of float16 infinity."""
MAX_CENTRES = 4096
"""Most voxel positions that are kept of each region; more would not make the patches more various."""


@dataclass(frozen=True, eq=False)
class TrainingCase:
    """One patient, phantom or slice on the working grid.

    Parameters
    ----------
    name : str
        The case id.
    kind : str
        Of its source: "patient", "phantom", "slice", "cube"...
    voxels : (modalities + regions, d1, d2, d3) float16
        Read-only, mapped from the cache. First the images as the network sees them, then the share of each voxel that a
        region fills, in [0, 1]; NaN where that is not known. On disk the slices of the third axis follow each other, so
        that a slice or a patch is read from few pages.
    n_images : int
        How many of the first channels are images.
    centres : mapping of str to (n, 3) int16
        "brain" (any image is not 0) and each region (share above 0) to voxel positions, all or `MAX_CENTRES` drawn at
        random, the same for the same content. What fills no voxel is absent.
    patient : str
        The patient that it shows; cases of one patient never stand on two sides.
    beyond_known : bool
        Whether nothing is beyond the volume's faces, as around a brain. If not, the lesion may go on there.
    place : three floats, optional
        Where the volume's middle lies in the brain's box, from 0 to 1 along each axis. None: the volume is that box.
    apart : bool
        Whether the slices of the third axis are no neighbours, for their distance is not known.
    """

    name: str
    kind: str
    voxels: np.ndarray
    n_images: int
    centres: Mapping[str, np.ndarray]
    patient: str = ""
    beyond_known: bool = True
    place: tuple[float, float, float] | None = None
    apart: bool = False


@dataclass(frozen=True)
class Entry:
    """Case to be opened, with the function that makes its voxels.

    The function is called where the cache does not have them, and may go to a worker process.

    ``make`` gives images and region shares, (channels, d1, d2, d3) float32 each, NaN where a share is not known. The
    other fields are those of :class:`TrainingCase`.
    """

    name: str
    kind: str
    path: Path
    make: Callable[[], tuple[torch.Tensor, torch.Tensor]]
    patient: str = ""
    beyond_known: bool = True
    place: tuple[float, float, float] | None = None
    apart: bool = False


def naming_case(name: str, sentence: str) -> InputError:
    return InputError(sentence if name in sentence else f"{name}: {sentence}")


class FaultyCases(InputError):
    """Faults of several cases, found together; each names its case."""

    def __init__(self, sentences: Sequence[str]) -> None:
        self.sentences = tuple(dict.fromkeys(sentences))
        many = f"{len(self.sentences)} faults: " if len(self.sentences) > 1 else ""
        super().__init__(many + " | ".join(self.sentences))


def gather(steps: Iterable[Callable[[], Any]]) -> list[Any]:
    """Return the results of all steps, or raise their faults together.

    Raises
    ------
    FaultyCases
        A step raised :class:`data.errors.InputError`; the others were done all the same.
    """
    results: list[Any] = []
    sentences: list[str] = []
    for step in steps:
        try:
            results.append(step())
        except FaultyCases as error:
            sentences += error.sentences
        except InputError as error:
            sentences.append(str(error))
    if sentences:
        raise FaultyCases(sentences)
    return results


def _make(entry: Entry) -> None:
    """Make the voxels of a case and write them into the cache.

    The bytes do not depend on the process that makes them.
    """
    threads, start = torch.get_num_threads(), time.monotonic()
    torch.set_num_threads(1)  # a sum that is split among threads rounds differently
    try:
        image, shares = entry.make()
    except InputError as error:
        raise naming_case(entry.name, str(error)) from None
    finally:
        torch.set_num_threads(threads)
    voxels = torch.cat((image, shares.clamp(0, 1))).half().add_(0)  # + 0: no -0, which is no background to a bit test
    if not voxels[: len(image)].isfinite().all():
        raise InputError(f"{entry.name}: image values beyond 65504 do not fit float16; normalise them (preprocess)")
    write_array(entry.path, voxels.permute(3, 0, 1, 2).numpy())
    log.info("%s: preprocessed in %.1f s", entry.name, time.monotonic() - start)


def _make_all(entries: Sequence[Entry], workers: int) -> None:
    if workers <= 0 or len(entries) <= 1:
        gather(partial(_make, entry) for entry in entries)
        return
    executor, _ = make_executor(f"processes:{min(workers, len(entries))}", _start_worker)
    try:
        gather([executor.submit(_make, entry).result for entry in entries])
    except BrokenProcessPool:
        raise UsageError(
            "a worker process died while it preprocessed, probably for want of memory; use fewer workers"
        ) from None
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    torch.set_num_threads(1)


def cached_cases(entries: Sequence[Entry], config: RunConfig, workers: int) -> list[TrainingCase]:
    """Open the cases in the order of ``entries``, making those not in the cache."""
    channels = len(config.modalities) + len(config.regions)
    # One after another is looked at and closed again: a limit of open files does not limit the cases.
    waiting = {entry.path: entry for entry in entries if _open(entry.path, channels) is None}
    _make_all(list(waiting.values()), workers)
    return [_training_case(entry, config, channels) for entry in entries]


def _open(path: Path, channels: int) -> NDArray[Any] | None:
    return open_array(path, np.float16, (None, channels, None, None))


def _training_case(entry: Entry, config: RunConfig, channels: int) -> TrainingCase:
    stored = _open(entry.path, channels)
    if stored is None:
        raise UsageError(f"{entry.path}: vanished or was damaged while it was used; give the run a cache of its own")
    n_images = len(config.modalities)
    centres = _centres(stored, n_images, config.regions, key_of(entry.path))
    return TrainingCase(
        entry.name,
        entry.kind,
        stored.transpose(1, 2, 3, 0),
        n_images,
        centres,
        entry.patient,
        entry.beyond_known,
        entry.place,
        entry.apart,
    )


def _centres(stored: NDArray[Any], n_images: int, regions: Sequence[str], seed: int) -> dict[str, NDArray[np.int16]]:
    bits = stored.view(np.uint16)  # numpy compares float16 by way of float32, twenty times slower
    centres = {}
    for index, name in enumerate(("brain", *regions)):
        if name == "brain":
            present = (bits[:, :n_images] != 0).any(axis=1)
        else:
            share = bits[:, n_images + index - 1]
            present = (share != 0) & (share <= _INFINITE)  # NaN, which is not known, lies above
        places = np.flatnonzero(present)
        if len(places) > MAX_CENTRES:
            places = np.random.default_rng([seed, index]).choice(places, MAX_CENTRES, replace=False)
        if len(places):
            k, i, j = np.unravel_index(places, present.shape)
            centres[name] = np.stack((i, j, k), axis=1).astype(np.int16)
    return centres
