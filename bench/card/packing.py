"""Packing of the cases that `train` would learn from, into numbered parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.card.parts import pack_voxels, write_parts
from data.case import Case
from data.errors import UsageError
from pipeline.checkpoint import Checkpoint, open_checkpoint
from pipeline.config import RunConfig, load_recipe
from pipeline.options import TrainOptions
from pipeline.provenance import as_listing, patient_entries
from pipeline.training.cached import TrainingCase
from pipeline.training.cases import patient_cases
from pipeline.training.cube_validation import cube_files_of
from pipeline.training.options import behind, checked
from pipeline.training.plan import (
    Further,
    chosen_cases,
    cube_folders,
    wanted_names,
    whole_patients,
)
from pipeline.training.progress.identity import run_identity

AS_FILES = {"cube": ".npz"}
"""Kinds whose own files travel: on a fine grid their voxels take many times as much."""


def pack(patients: Path, recipe: str, output: Path, options: TrainOptions, part_bytes: int, validation: bool) -> int:
    """Pack the cases that `train` would learn from; return the number of parts.

    Parameters
    ----------
    options : TrainOptions
        ``cache`` must be given; for a cascade ``first``, too.
    validation : bool
        Whether the validation patients and the lesions that are set aside come along, so that the card's run is
        validated as it goes.

    Raises
    ------
    data.errors.SegmentationError
        As for :func:`pipeline.training.run.run_training`; or a cascade's first stage is not given.
    """
    assert options.cache is not None
    config, cache, workers = checked(load_recipe(recipe), recipe, options), options.cache, options.workers
    first = _given_first_stage(config, recipe, options)
    config = config if first is None else behind(first, config)
    cases, split, further, options = chosen_cases(patients, options)
    prepare = partial(patient_cases, config=config, cache=cache, convention=options.convention, workers=workers)
    own = prepare([cases[name] for name in split.train])
    voxels = list(own)
    extra, files, found = _further(further, config, options)
    voxels += found
    files = ({f"first/{first.path.name}": first.path} if first else {}) | files
    held_back = [cases[name] for name in split.validation] if validation else []
    files |= {f"validation/{path}": patients / path for case in held_back for path in _paths(case, patients)}
    unaugmented = prepare(held_back)
    packed = {file_name(case): case for case in (*voxels, *unaugmented)}  # a patient may be in two folders
    lesions = cube_folders(further) if held_back and split.set_aside else []
    for number, folder in enumerate(lesions, 1):
        files |= {f"lesions-{number}/{path.name}": path for path in cube_files_of(folder, split.set_aside)}
    identity = run_identity(config, split, further, options, first)
    learnt = {case.name for case in voxels if case.kind == "patient"}
    whole = [case for case in whole_patients(cases, split, further) if case.case_id in learnt]
    about = {
        "recipe": config.model_dump(mode="json"),
        "split": split.as_lists(),
        "identity": {part: value for part, value in identity.items() if part != "recipe"},
        "licence": options.licence,
        "convention": options.convention,
        "own": [row_of(case) for case in own],
        "extra": extra,
        "first": f"first/{first.path.name}" if first else None,
        "learnt_from": as_listing(patient_entries(whole, cache)),
        "validation": [row_of(case) for case in unaugmented],
        "lesions": [f"lesions-{number}" for number, _ in enumerate(lesions, 1)],
    }

    def contents() -> Iterator[tuple[str, bytes]]:
        for name, case in packed.items():
            yield name, pack_voxels(case.voxels.transpose(3, 0, 1, 2))
        for name, path in files.items():
            yield name, path.read_bytes()

    return write_parts(output, contents(), part_bytes, about)


def _given_first_stage(config: RunConfig, recipe: str, options: TrainOptions) -> Checkpoint | None:
    if config.first is None:
        return None
    if options.first is None:
        raise UsageError(f"recipe {recipe} is a cascade: train its first stage by itself, and give it as --first")
    return open_checkpoint(options.first)


def _further(
    further: Further, config: RunConfig, options: TrainOptions
) -> tuple[list[dict[str, Any]], dict[str, Path], list[TrainingCase]]:
    """Return index rows, files to bring along, and prepared cases of further folders."""
    assert options.cache is not None
    extra: list[dict[str, Any]] = []
    files: dict[str, Path] = {}
    voxels: list[TrainingCase] = []
    for number, (folder, source, names) in enumerate(further, 1):
        wanted = wanted_names(names, options)
        if source.kind in AS_FILES:
            place = f"{source.kind}-{number}"
            files |= {f"{place}/{path.name}": path for path in _own_files(folder, source.kind, wanted)}
            extra.append({"kind": source.kind, "names": wanted, "folder": place})
        else:
            found = source.cases(folder, config, options.cache, names=wanted, workers=options.workers)
            extra.append({"cases": [row_of(case) for case in found]})
            voxels += found
    return extra, files, voxels


def file_name(case: TrainingCase) -> str:
    return Path(str(getattr(case.voxels, "filename"))).name  # noqa: B009 - of a memmap, which numpy's types do not tell


def row_of(case: TrainingCase) -> dict[str, Any]:
    fields = ("name", "kind", "patient", "beyond_known", "place", "apart")
    return {"file": file_name(case)} | {name: getattr(case, name) for name in fields}


def _own_files(folder: Path, kind: str, names: Sequence[str]) -> list[Path]:
    return [folder / f"{name}{AS_FILES[kind]}" for name in names]


def _paths(case: Case, patients: Path) -> list[Path]:
    sources = [*case.images.values(), *([case.reference] if case.reference else [])]
    return [path.relative_to(patients) for path in dict.fromkeys(p for source in sources for p in source.paths)]
