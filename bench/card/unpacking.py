"""Unpacking of the parts: cases, files and the models among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.card.parts import read_content, unpack_voxels
from data.errors import UsageError
from data.find.discover import discover_cases
from data.io.write import write_bytes_atomically
from pipeline.array_cache import open_array, write_array
from pipeline.checkpoint import Checkpoint, open_checkpoint
from pipeline.config import RunConfig
from pipeline.training.cached import Entry, TrainingCase, cached_cases
from pipeline.training.plan import (
    lesions_aside,
    unchanged,
)
from pipeline.training.progress.files import Aside
from pipeline.training.sources.kinds import SOURCES
from pipeline.training.sources.phantoms import drawn_phantoms
from pipeline.training.splits import Split
from pipeline.training.validation import references


def unpack(
    parts: Path, index: Mapping[str, Any], config: RunConfig, cache: Path, workers: int
) -> tuple[list[TrainingCase], RunConfig, list[TrainingCase], list[TrainingCase]]:
    """Fill the cache with the voxels of the parts and open them.

    Return the arguments of PatchDataset.

    What travels as files is prepared here, and phantoms are drawn here.
    """
    rows = [*index["own"], *(row for group in index["extra"] for row in group.get("cases", ())), *index["validation"]]
    channels = len(config.modalities) + len(config.regions)

    def write(row: Mapping[str, Any]) -> None:
        path = within(cache, row["file"])
        if open_array(path, "float16", (None, channels, None, None)) is None:
            write_array(path, unpack_voxels(read_content(parts, index, row["file"])))

    with ThreadPoolExecutor(max(workers, 1)) as threads:
        list(threads.map(write, {row["file"]: row for row in rows}.values()))
    own = _opened(index["own"], config, cache)
    extra: list[TrainingCase] = []
    cubes: list[tuple[Path, Sequence[str]]] = []
    for group in index["extra"]:
        if "cases" in group:
            extra += _opened(group["cases"], config, cache)
            continue
        kind, names = group["kind"], group["names"]
        folder = _files_below(parts, index, group["folder"], cache)
        if names:
            extra += SOURCES[kind].cases(folder, config, cache, names=names, workers=workers)
        if kind == "cube":
            cubes.append((folder, names))
    return own, config, extra, drawn_phantoms(config, cubes, cache, workers=workers)


def _opened(rows: Sequence[Mapping[str, Any]], config: RunConfig, cache: Path) -> list[TrainingCase]:
    def entry(row: Mapping[str, Any]) -> Entry:
        place = None if row["place"] is None else tuple(row["place"])
        make = partial(_gone, cache)
        path, apart = cache / row["file"], row.get("apart", False)
        return Entry(row["name"], row["kind"], path, make, row["patient"], row["beyond_known"], place, apart)

    return cached_cases([entry(row) for row in rows], config, 0)


def _gone(cache: Path) -> tuple[torch.Tensor, torch.Tensor]:
    raise UsageError(f"{cache}: changed while it was used; give the run a cache of its own")


def packed_aside(parts: Path, index: Mapping[str, Any], config: RunConfig, split: Split, cache: Path) -> Aside:
    """Return the packed validation cases; call it after :func:`unpack`."""
    if not index["validation"]:
        return Aside()
    folder = _files_below(parts, index, "validation", cache)
    cases = {case.case_id: case for case in discover_cases(folder)}
    named = [cases[row["name"]] for row in index["validation"]]
    held_back = references(named, config, index.get("convention"))  # parts of 0.5 have none
    lesions = lesions_aside(split, [_files_below(parts, index, name, cache) for name in index["lesions"]])
    return Aside(held_back, lesions, unchanged(_opened(index["validation"], config, cache), config))


def packed_first_stage(parts: Path, index: Mapping[str, Any], cache: Path) -> Checkpoint | None:
    """Return the packed first stage of a cascade."""
    if index["first"] is None:
        return None
    _files_below(parts, index, "first", cache)
    return open_checkpoint(within(cache, index["first"]))


def _files_below(parts: Path, index: Mapping[str, Any], folder: str, cache: Path) -> Path:
    """Write the files of a folder among the parts into the cache.

    Return that folder.
    """
    for name in index["files"]:
        if name.startswith(f"{folder}/"):
            write_bytes_atomically(within(cache, name), read_content(parts, index, name))
    return cache / folder


def within(folder: Path, name: str) -> Path:
    """Return a path below a folder, which is made.

    Raises :class:`data.errors.UsageError` for one that is not below it.
    """
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"{name}: leads out of {folder}; pack the parts again")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
