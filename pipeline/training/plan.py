"""Plan of a run: the cases to learn from and those held back."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from data.case import Case, same_patients
from data.errors import UsageError
from data.find.discover import discover_cases
from data.io.equal_files import same_files, same_files_sentence
from data.same_patient import known_as, perhaps_one_of
from pipeline.checkpoint import open_checkpoint
from pipeline.config import RunConfig
from pipeline.options import TrainOptions
from pipeline.training.cached import TrainingCase, gather
from pipeline.training.cases import patient_cases
from pipeline.training.cube_validation import cubes_of
from pipeline.training.options import cache_of
from pipeline.training.sampling import PatchDataset
from pipeline.training.sources.cubes import LesionCube
from pipeline.training.sources.kinds import Source, source_of
from pipeline.training.sources.phantoms import drawn_phantoms
from pipeline.training.splits import (
    Split,
    described,
    fold_split,
    listed,
    match_split,
    read_split,
    refuse_shared_files,
)
from pipeline.training.validation import NO_AUGMENTATION

log = logging.getLogger(__name__)

Further = Sequence[tuple[Path, Source, list[str]]]
"""Folders to learn from beside the patients, with their kind and the names of their cases."""


def chosen_cases(
    patients: Path, options: TrainOptions, *, exclude: Path | None = None
) -> tuple[dict[str, Case], Split, Further, TrainOptions]:
    """Choose the cases of a run: all patients, their split, further cases.

    The options come back with ``leave_out`` by the patients' names.

    Raises :class:`data.errors.UsageError`.
    """
    cases = {case.case_id: case for case in discover_cases(patients, exclude=exclude)}
    equal = same_files(cases.values())
    for group in equal:
        log.warning("%s: %s; they stay on one side", group[0], same_files_sentence(group[0], group))
    same = [*equal, *same_patients(cases.values())]
    split = split_of(list(cases), replace(options, leave_out=of_patients(options.leave_out, cases)), same)
    log.info("%s", described(split, same))
    further = further_cases(options.extra, split.held_back, split.set_aside)
    names = [*cases, *(name for _, _, found in further for name in found)]
    _check_leave_out(options.leave_out, names)
    return cases, split, further, replace(options, leave_out=of_patients(options.leave_out, names))


def split_of(names: Sequence[str], options: TrainOptions, same: Sequence[Sequence[str]] = ()) -> Split:
    """Return the split that the options choose, of a file or a cross-validation.

    ``same`` are groups of cases of one patient under several names.
    """
    kept = [name for name in names if name not in options.leave_out]
    if options.split is not None:
        split = match_split(read_split(options.split), names, options.split)
        refuse_shared_files(split, same, options.split)
        parts = {part: tuple(name for name in ids if name in kept) for part, ids in vars(split).items()}
        return replace(split, **parts | {"set_aside": split.set_aside})
    if options.fold == "all":
        return Split(tuple(sorted(kept)), ())
    try:
        fold = int(options.fold)
    except ValueError:
        raise UsageError(f"--fold {options.fold}: a number from 0, or all") from None
    return fold_split(kept, options.folds, fold, same)


def further_cases(options: Sequence[str | Path], held_back: Iterable[str], set_aside: Sequence[str] = ()) -> Further:
    """List the cases of each further folder.

    No patient that is held back is among them. ``set_aside`` are those of them who should be found in a
    folder: a warning names the others.
    """
    held_back = tuple(held_back)
    patients = {known_as(name) for name in held_back}
    further, found_patients = [], set[str]()
    for option in options:
        folder, source = source_of(option)
        found = source.names(folder)
        found_patients |= {known_as(patient) for patient in found.values()}
        log.info("%s: %d cases of kind %s (FOLDER:kind chooses another)", folder, len(found), source.kind)
        kept = [
            name
            for name, patient in found.items()
            if known_as(patient) not in patients and not perhaps_one_of(name, held_back)
        ]
        if len(kept) < len(found):
            left = sorted(set(found) - set(kept))
            log.warning("%s: held back, not learnt from: %s", folder, listed(left))
        further.append((folder, source, kept))
    if absent := sorted(name for name in set_aside if known_as(name) not in found_patients) if options else []:
        log.warning("set aside, but in no further folder: %s; a misspelt name is learnt from", listed(absent))
    return further


def cube_folders(further: Further) -> list[Path]:
    """Return the folders of lesion cubes among those that are learnt from."""
    return [folder for folder, source, _ in further if source.kind == "cube"]


def lesions_aside(split: Split, folders: Iterable[Path]) -> list[LesionCube]:
    """Return the lesions of patients set aside, from folders of cubes.

    A patient set aside may have none: slices may be all that a further folder holds of him.
    """
    stored = {folder: of_patients(split.set_aside, [path.stem for path in folder.glob("*.npz")]) for folder in folders}
    return [cube for folder, names in stored.items() for cube in cubes_of(folder, names)]


def of_patients(wanted: Iterable[str], names: Iterable[str]) -> tuple[str, ...]:
    """Return the names that show one of the wanted patients, under any name."""
    patients = {known_as(name) for name in wanted}
    return tuple(name for name in names if known_as(name) in patients)


def _check_leave_out(leave_out: Sequence[str], names: Sequence[str]) -> None:
    if unknown := sorted(name for name in leave_out if not of_patients([name], names)):
        raise UsageError(f"--leave-out: no case {', '.join(unknown)}; `inspect` lists those that there are")


def patches_of(
    cases: Sequence[Case],
    further: Further,
    config: RunConfig,
    output: Path,
    options: TrainOptions,
) -> PatchDataset:
    """Prepare the patches of all cases that are learnt from."""
    cache, workers = cache_of(output, options), options.workers
    wanted = [(folder, source, wanted_names(names, options)) for folder, source, names in further]
    own, *others = gather(
        [
            partial(patient_cases, cases, config, cache, convention=options.convention, workers=workers),
            *(partial(source.cases, folder, config, cache, names=n, workers=workers) for folder, source, n in wanted),
        ]
    )
    extra: list[TrainingCase] = [case for found in others for case in found]
    cubes = [(folder, names) for folder, source, names in wanted if source.kind == "cube"]
    phantoms = drawn_phantoms(config, cubes, cache, workers=workers)
    log.info("learning from %d cases, %d further ones, %d synthetic ones", len(own), len(extra), len(phantoms))
    return PatchDataset(own, config, extra, phantoms)


def check_told(dataset: PatchDataset, config: RunConfig, init: str | None) -> None:
    """Refuse a region that no case tells.

    A warning is logged instead where the first weights know it, or where no case has it.

    Raises
    ------
    data.errors.UsageError
        Names the regions and the fix.
    """
    cases = [case for pool, _ in dataset.pools for case in pool]
    untold = [region for index, region in enumerate(config.regions) if not _any_tells(cases, region, index)]
    absent = [r for r in config.regions if r not in untold and not any(r in case.centres for case in cases)]
    if absent:
        log.warning(
            "no case has any %s, though the label convention tells it: the network learns that there is none, and a "
            "Dice "
            "of two empty masks is 1; where the labels do not mark it, name another convention with --convention",
            ", ".join(absent),
        )
    if not untold:
        return
    theirs = () if init is None or Path(init).suffix in (".pth", ".pt") else open_checkpoint(init).config.regions
    if unlearnt := [region for region in untold if region not in theirs]:
        listing = ", ".join(unlearnt)
        raise UsageError(
            f"no case tells {listing}, which the network would give at random; leave {listing} out of the recipe's "
            "regions (network.out_channels is their number), or add cases that tell them (--extra)"
        )
    log.warning("no case tells %s: only the weights of --init know them", ", ".join(untold))


def _any_tells(cases: Sequence[TrainingCase], region: str, index: int) -> bool:
    """Tell whether any voxel is known to be in the region or outside.

    The voxels are those of all cases.
    """
    if any(region in case.centres for case in cases):
        return True  # this reads no voxel
    return any(not np.isnan(case.voxels[case.n_images + index]).all() for case in cases)


def wanted_names(names: Sequence[str], options: TrainOptions) -> list[str]:
    """Return the further cases without those that are left out."""
    return [name for name in names if name not in options.leave_out]


def unchanged(cases: Sequence[TrainingCase], config: RunConfig) -> PatchDataset | None:
    """Return samples of the validation patients, drawn as in training without augmentation."""
    return PatchDataset(cases, config.model_copy(update={"augment": NO_AUGMENTATION})) if cases else None


def whole_patients(cases: Mapping[str, Case], split: Split, further: Further) -> list[Case]:
    """List the learnt cases that have image files, for their fingerprints."""
    whole = [cases[name] for name in split.train]
    for folder, source, names in further:
        found = source.whole(folder)
        whole += [found[name] for name in names if name in found]
    return whole


def names_by_kind(dataset: PatchDataset) -> dict[str, list[str]]:
    """List the names in a data set by kind: case ids of whole patients.

    For the other kinds they are names of patients.
    """
    names: dict[str, list[str]] = {}
    for pool, _ in dataset.pools:
        for case in pool:
            names.setdefault(case.kind, []).append(case.name if case.kind == "patient" else case.patient)
    return names
