"""Command `train`: from folders of patients to a model file.

It also leaves the history and the curves, and can be resumed at any moment.

It also leaves the history and the curves, and can be resumed at any moment.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from data.case import Case
from data.errors import UsageError
from data.find.discover import discover_cases
from data.io.write import write_bytes_atomically, write_text_atomically
from data.labels import LabelConvention, load_convention
from data.same_patient import known_as, perhaps_one_of
from networks import Cascade
from networks.losses import build_loss
from pipeline.checkpoint import Checkpoint, open_checkpoint, save_checkpoint
from pipeline.config import RunConfig, load_recipe, parse_config
from pipeline.execute.lock import output_lock, remove_stale_files, remove_temporary_files
from pipeline.execute.own_folder import own_output
from pipeline.predict.machine_memory import tune_malloc
from pipeline.provenance import Learnt, as_listing, part_entries, patient_entries, with_earlier, with_parent
from pipeline.score.tables import read_columns, write_table
from pipeline.soup import flat_settings, soup_network
from pipeline.training.cases import TrainingCase, patient_cases, phantom_cases
from pipeline.training.cube_validation import cubes_of, validate_cubes
from pipeline.training.distributed import Process, joined
from pipeline.training.initial import initial_network
from pipeline.training.loop import Trainee, train
from pipeline.training.progress.extension import BEFORE_COOLDOWN, BUDGET, STATE_NAME, enters_cooldown, extend, restore
from pipeline.training.progress.history import EpochRecord, best_epoch, open_tensorboard, plot_curves, write_history
from pipeline.training.progress.state import load_state, save_state
from pipeline.training.sampling import PatchDataset
from pipeline.training.sources.cubes import LesionCube
from pipeline.training.sources.kinds import Source, source_of
from pipeline.training.sources.tumour_shapes import cube_shapes, shape_for
from pipeline.training.splits import Split, fold_split, listed, match_split, read_split
from pipeline.training.validation import NO_AUGMENTATION, Reference, mean_scores, references, validate, validation_loss

log = logging.getLogger(__name__)

FIRST_PHANTOM = 1000
"""Seed of the first synthetic patient that is learnt from; those of the demo and the benchmarks lie below."""

LAST_NAME = "last.safetensors"
MODEL_NAME = "model.safetensors"
LESION_TABLE = "validation_lesions.csv"
LABELS = "label convention"
"""Of the references, as the user gave it: part of what a run is."""
RECOGNISED = "recognised"
KEPT = "kept"
"""Folder of the latest validated checkpoints, for `training.soup`."""
_EPOCH_FILE = re.compile(r"epoch_\d{6,}\.safetensors")

Further = Sequence[tuple[Path, Source, list[str]]]
"""Folders to learn from beside the patients, with their kind and the names of their cases."""


@dataclass(frozen=True)
class TrainOptions:
    """Options of a training run that do not change the recipe.

    The recipe says the computation.

    split : file with the lists train, validation, test; instead of folds. folds, fold : one part of a cross-validation
    by patient is validated on; fold "all" learns from every patient and validates on none. extra : further folders to
    learn from, FOLDER or FOLDER:KIND (see pipeline.training.sources.kinds); a patient that is held back is left out of them. leave_out : cases
    that are neither learnt from nor validated on. convention : label convention of the references, and the one that the
    model writes where it has all of the recipe's regions; without it each reference's own, and the recipe's. cache : folder of preprocessed cases, to be shared between runs;
    OUTPUT/cache by default. first : of a cascade, a model for the first stage, which is then not trained. init : first
    weights, of a cascade the second stage's. minutes : instead of the recipe's, of each stage. workers : processes that load and augment. on_step :
    see :func:`pipeline.training.loop.train`.
    """

    device: str = "auto"
    split: Path | None = None
    folds: int = 5
    fold: int | str = 0
    extra: Sequence[str | Path] = ()
    leave_out: Sequence[str] = ()
    convention: str | None = None
    cache: Path | None = None
    first: str | None = None
    init: str | None = None
    resume: bool = False
    minutes: float | None = None
    workers: int = 0
    licence: str = "as its training data"
    command: str = ""
    on_step: Callable[[int, int, float], None] = field(default=lambda done, total, loss: None)


def run_training(patients: Path, recipe: str, output: Path, options: TrainOptions) -> Path:
    """Train a recipe and leave its model in ``output``; returns the model file.

    The folder then holds ``model.safetensors`` (the best on the validation patients; without them the last),
    ``validation.csv`` and ``validation_lesions.csv`` (its scores, per patient and per lesion that is set aside),
    ``last.safetensors``, ``history.csv``, ``curves.png``, ``split.json``,
    ``state.safetensors`` (for --resume), ``state_before_cooldown.safetensors`` (to extend a run whose rate has a cool-down),
    ``kept/`` (with `training.soup`) and ``tensorboard/`` where that is installed. The processes of a distributed run share
    it. Of a cascade the first stage is trained first, in ``first/``, with the same split; its model goes into the
    cascade's.

    Raises
    ------
    data.errors.UsageError
        An option or the recipe cannot be, or another run is at work in ``output``.
    data.errors.InputError, data.errors.CheckpointError, data.errors.TrainingError
    OSError
        The disk is full or the like; ``state.safetensors`` is that of the last epoch that was kept.
    """
    config = checked(load_recipe(recipe), recipe, options)
    if output.resolve() == patients.resolve():
        raise UsageError(f"--output {output} is the input folder; choose another, so that models and images stay apart")
    tune_malloc()
    with joined(options.device) as process:
        _check_batch(config, process)
        cases, split, further, options = chosen_cases(patients, options, exclude=output)
        with own_training(output, options) if process.leads else nullcontext():
            if config.first is None:
                return _run_in(output, cases, split, further, config, process, options)
            first = _first_stage(output, cases, split, further, config.first.recipe, process, options)
            return _run_in(output, cases, split, further, behind(first, config), process, options, first)


@contextmanager
def own_training(output: Path, options: TrainOptions) -> Iterator[None]:
    """Lock an output folder and claim the files that a run replaces.

    See :func:`pipeline.execute.own_folder.own_output`.
    """
    written = (MODEL_NAME, LAST_NAME, "validation.csv", LESION_TABLE, "history.csv", "curves.png", "split.json",
               STATE_NAME, BEFORE_COOLDOWN, KEPT)  # fmt: skip
    folders = [output / name for name in (KEPT, "tensorboard", "first")]
    # Its arrays bear a hash of their content, so that nobody else's has such a name.
    folders += [output / "cache"] if options.cache is None else []
    with output_lock(output):
        earlier = any((place / STATE_NAME).is_file() for place in (output, output / "first"))
        with own_output(output, [output / name for name in written], folders, earlier=earlier):
            yield


def _first_stage(
    output: Path,
    cases: Mapping[str, Case],
    split: Split,
    further: Further,
    recipe: RunConfig,
    process: Process,
    options: TrainOptions,
) -> Checkpoint:
    """Return the model of a cascade's first stage.

    It is trained in a folder of its own, or it is the one that was named.
    """
    if options.first is not None:
        model = open_checkpoint(options.first)
        if seen := set(split.validation) - set(model.card.get("held_out", [])):
            log.warning(
                "--first %s: its card does not hold back %d of the %d validation patients; scores there may be too good",
                options.first,
                len(seen),
                len(split.validation),
            )
        return model
    folder = output / "first"
    log.info("first stage: %s, in %s", recipe.name, folder)
    own = replace(options, cache=_cache(output, options), init=None)
    with own_training(folder, own) if process.leads else nullcontext():
        path = _run_in(folder, cases, split, further, recipe, process, own)
    with process.leader_first():  # who has written it
        return open_checkpoint(path)


def behind(first: Checkpoint, config: RunConfig) -> RunConfig:
    """Return the second stage's settings behind that very first-stage model.

    The settings of the first stage become part of them.
    """
    settings = config.model_dump()
    settings["first"]["recipe"] = first.config.model_dump()
    return parse_config(settings, f"{config.name} behind {first.path}")


def _run_in(
    output: Path,
    cases: Mapping[str, Case],
    split: Split,
    further: Further,
    config: RunConfig,
    process: Process,
    options: TrainOptions,
    first: Checkpoint | None = None,
) -> Path:
    """Train in a folder that no other run writes into.

    ``first`` is the first stage, where this is the second one of a cascade.
    """
    validated = [cases[name] for name in split.validation]
    held_back = references(validated, config, options.convention)
    lesions = lesions_aside(split, cube_folders(further)) if held_back else []
    identity = run_identity(config, split, further, options, first)
    state = earlier_state(output, identity, options)
    with process.leader_first():
        _prepare(output, split, options, process)
        dataset = _dataset([cases[name] for name in split.train], further, config, output, options)
        if state is None:
            check_told(dataset, config, options.init)
        whole, learnt = whole_patients(cases, split, further), set(names_by_kind(dataset).get("patient", ()))
        entries = patient_entries([case for case in whole if case.case_id in learnt], _cache(output, options))
        opened = patient_cases(
            validated, config, _cache(output, options), convention=options.convention, workers=options.workers
        )
    aside = Aside(held_back, lesions, unchanged(opened, config))
    return learn(dataset, output, config, split, identity, state, entries, aside, process, options, first)


@dataclass(frozen=True)
class Aside:
    """Cases that a run is validated on; nothing by default."""

    patients: Sequence[Reference] = ()
    lesions: Sequence[LesionCube] = ()
    """Set aside, to validate on beside the patients."""
    unchanged: PatchDataset | None = None
    """Of the patients, for the validation loss."""


def learn(
    dataset: PatchDataset,
    output: Path,
    config: RunConfig,
    split: Split,
    identity: Mapping[str, str],
    state: Mapping[str, Any] | None,
    entries: Sequence[Learnt],
    aside: Aside,
    process: Process,
    options: TrainOptions,
    first: Checkpoint | None = None,
    *,
    curves: bool = True,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
) -> Path:
    """Train on prepared cases and keep every epoch; return the model file.

    It begins at the beginning or goes on from ``state``.

    Parameters
    ----------
    identity, state
        See :func:`run_identity` and :func:`earlier_state`.
    entries : sequence of Learnt
        Of the whole patients in ``dataset``, for the card.
    first : Checkpoint, optional
        Of a cascade, whose second stage this is.
    curves : bool
        Whether they are drawn, which takes matplotlib.
    on_epoch : callable
        Called after an epoch is kept.
    """
    with process.leader_first():
        card = _card(dataset, split, options) | _provenance(
            dataset, entries, output, options, earlier=state is not None
        )
    torch.manual_seed(config.training.seed)  # for the weights that --init does not give
    init = None if options.init is None or state else initial_network(options.init, config)
    trainee = Trainee.new(config, process.device, init)
    to_beat = None
    if state:
        restore(trainee, state.get("trainee"), output / STATE_NAME)
        to_beat = state.get("score to beat")
        if not (to_beat is None or isinstance(to_beat, int | float)):
            raise UsageError(f"{output / STATE_NAME}: its score to beat is no number; choose another folder")
        if extend(trainee, _recipe_of(state, output).training, config.training, output):
            to_beat = _score_of(output, config, with_lesions=bool(aside.lesions))
    tensorboard = open_tensorboard(output / "tensorboard")
    network = None
    if first is not None:
        card["trained_on"] += f"; first stage: {first.card.get('trained_on', 'unknown')}"
        card = with_parent(card, first)
        network = first.build()
    run = _Run(output, config, identity, aside, process, card, tensorboard, curves, on_epoch, network, to_beat)
    train(
        trainee,
        dataset,
        config,
        process,
        validate=run.validate if aside.patients else None,
        keep=run.keep,
        on_step=options.on_step,
        workers=options.workers,
    )
    run.try_soup(trainee)
    return run.model


def checked(config: RunConfig, recipe: str, options: TrainOptions) -> RunConfig:
    """Return the recipe with the options' minutes and convention.

    Faults that would stop the loop are found at once.
    """
    settings = config.model_dump()
    for stage in (settings, *([settings["first"]["recipe"]] if config.first else [])):
        if options.minutes is not None:
            stage["training"]["stopping"]["minutes"] = options.minutes
        if options.convention is not None:
            stage["convention"] = _written_convention(stage, load_convention(options.convention))
    config = parse_config(settings, f"--minutes {options.minutes}")
    if options.first is not None and config.first is None:
        raise UsageError(
            f"--first {options.first}: the recipe {recipe} is no cascade; leave it out, or name one that is"
        )
    try:
        build_loss(config.training.loss.name, config.training.loss.parameters)
    except ValueError as error:
        raise UsageError(f"recipe {recipe}: training.loss: {error}") from None
    return config


def _written_convention(recipe: Mapping[str, Any], convention: LabelConvention) -> str:
    """Return the convention that a model trained on ``convention`` writes.

    It is the same one, if the recipe's regions allow that.
    """
    told = [region for region in recipe["regions"] if region in convention.regions]
    lacking = [region for region in recipe["regions"] if region not in told]
    if not told:
        raise UsageError(
            f"--convention {convention.name}: tells none of the regions of the recipe {recipe['name']} "
            f"({', '.join(lacking)}); name another, or take a recipe with {' or '.join(convention.regions)}"
        )
    if not lacking:
        return convention.name
    log.warning(
        "--convention %s: does not tell %s: unknown in the references, and the model writes %s",
        convention.name,
        ", ".join(lacking),
        recipe["convention"],
    )
    return str(recipe["convention"])


def _check_batch(config: RunConfig, process: Process) -> None:
    if config.training.batch % process.world:
        raise UsageError(
            f"training.batch {config.training.batch} cannot be dealt to {process.world} processes; choose a multiple"
        )


# Who is learnt from


def chosen_cases(
    patients: Path, options: TrainOptions, *, exclude: Path | None = None
) -> tuple[dict[str, Case], Split, Further, TrainOptions]:
    """Choose the cases of a run: all patients, their split, further cases.

    The options come back with ``leave_out`` by the patients' names.

    Raises :class:`data.errors.UsageError`.
    """
    cases = {case.case_id: case for case in discover_cases(patients, exclude=exclude)}
    split = _split(list(cases), replace(options, leave_out=_of_patients(options.leave_out, cases)))
    further = _further(options.extra, split.held_back)
    names = [*cases, *(name for _, _, found in further for name in found)]
    _check_leave_out(options.leave_out, names)
    return cases, split, further, replace(options, leave_out=_of_patients(options.leave_out, names))


def _split(names: Sequence[str], options: TrainOptions) -> Split:
    kept = [name for name in names if name not in options.leave_out]
    if options.split is not None:
        split = match_split(read_split(options.split), names, options.split)
        parts = {part: tuple(name for name in ids if name in kept) for part, ids in vars(split).items()}
        return replace(split, **parts | {"set_aside": split.set_aside})
    if options.fold == "all":
        return Split(tuple(sorted(kept)), ())
    try:
        fold = int(options.fold)
    except ValueError:
        raise UsageError(f"--fold {options.fold}: a number from 0, or all") from None
    return fold_split(kept, options.folds, fold)


def _further(options: Sequence[str | Path], held_back: Iterable[str]) -> Further:
    """List the cases of each further folder.

    No patient that is held back is among them.
    """
    held_back = tuple(held_back)
    patients = {known_as(name) for name in held_back}
    further = []
    for option in options:
        folder, source = source_of(option)
        found = source.names(folder)
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
    return further


def cube_folders(further: Further) -> list[Path]:
    """Return the folders of lesion cubes among those that are learnt from."""
    return [folder for folder, source, _ in further if source.kind == "cube"]


def lesions_aside(split: Split, folders: Iterable[Path]) -> list[LesionCube]:
    """Return the lesions of patients set aside, from folders of cubes."""
    return [cube for folder in folders for cube in cubes_of(folder, split.set_aside)] if split.set_aside else []


def _of_patients(wanted: Iterable[str], names: Iterable[str]) -> tuple[str, ...]:
    """Return the names that show one of the wanted patients, under any name."""
    patients = {known_as(name) for name in wanted}
    return tuple(name for name in names if known_as(name) in patients)


def _check_leave_out(leave_out: Sequence[str], names: Sequence[str]) -> None:
    if unknown := sorted(name for name in leave_out if not _of_patients([name], names)):
        raise UsageError(f"--leave-out: no case {', '.join(unknown)}; `inspect` lists those that there are")


def _dataset(
    cases: Sequence[Case],
    further: Further,
    config: RunConfig,
    output: Path,
    options: TrainOptions,
) -> PatchDataset:
    cache, workers = _cache(output, options), options.workers
    extra: list[TrainingCase] = []
    cubes: list[tuple[Path, Sequence[str]]] = []
    for folder, source, names in further:
        wanted = wanted_names(names, options)
        extra += source.cases(folder, config, cache, names=wanted, workers=workers)
        if source.kind == "cube":
            cubes.append((folder, wanted))
    phantoms = drawn_phantoms(config, cubes, cache, workers=workers)
    own = patient_cases(cases, config, cache, convention=options.convention, workers=workers)
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
            "no case has any %s, though the label convention tells it: the network learns that there is none, and a Dice "
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


def drawn_phantoms(
    config: RunConfig, cubes: Sequence[tuple[Path, Sequence[str]]], cache: Path, *, workers: int = 0
) -> list[TrainingCase]:
    """Prepare the recipe's number of synthetic patients.

    Parameters
    ----------
    cubes : sequence of (Path, names)
        Folders of lesion cubes and the patients that are learnt from, for real shapes; the order matters.
    """
    sampling = config.training.sampling
    count = sampling.phantoms if sampling.phantom_share > 0 else 0
    shape_of = None
    if count and sampling.phantom_shapes == "real":
        shape_of = partial(shape_for, shapes=cube_shapes(cubes))
    seeds = range(FIRST_PHANTOM, FIRST_PHANTOM + count)
    return phantom_cases(seeds, config, cache, workers=workers, shape_of=shape_of)


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


# What a run is, and where it was


def run_identity(
    config: RunConfig, split: Split, further: Further, options: TrainOptions, first: Checkpoint | None = None
) -> dict[str, str]:
    """Return the settings that must be the same for a run to go on."""
    names = sorted(name for _, _, found in further for name in found if name not in options.leave_out)
    digest = hashlib.sha256(json.dumps(names).encode("utf-8", "surrogateescape")).hexdigest()
    theirs = [f"{folder.name} {source.convention}" for folder, source, _ in further if source.convention]
    return {
        "recipe": config.model_dump_json(),
        "split": json.dumps(split.as_lists()),
        LABELS: ", ".join([options.convention or RECOGNISED, *theirs]),
        "list of further cases": digest,
    } | ({"first stage": first.sha256} if first else {})


def earlier_state(output: Path, identity: Mapping[str, str], options: TrainOptions) -> dict[str, Any] | None:
    """Return the state to go on from, None without one.

    The state of another run is refused.
    """
    path = output / STATE_NAME
    if (output / "state.pt").is_file() and not path.is_file():
        raise UsageError(f"{output} holds a training run of an earlier version; choose another folder")
    if not path.is_file():
        if options.resume:
            log.info("%s: no state to go on from; starting at the beginning", output)
        return None
    if not options.resume:
        raise UsageError(f"{output} holds a training run; go on with --resume, or choose another folder")
    state = load_state(path)
    theirs, ours = (run.get(LABELS, RECOGNISED) for run in (state, identity))  # states of 0.5 have none
    if theirs != ours:  # before the recipe, whose own convention follows it
        raise UsageError(
            f"{output}: its run has another {LABELS} ({theirs} there, {ours} here); resume with the same --convention "
            "and --extra, or choose another folder"
        )
    _require_same_recipe(_recipe_of(state, output), parse_config(json.loads(identity["recipe"]), "recipe"), output)
    for part, value in ((part, value) for part, value in identity.items() if part != LABELS):
        if part != "recipe" and state.get(part) != value:
            raise UsageError(
                f"{output}: its run has another {part}; resume with the same one, or choose another folder"
            )
    return state


def _recipe_of(state: Mapping[str, Any], output: Path) -> RunConfig:
    """Return the recipe that a state was trained with.

    Keys that its version did not have are at their defaults.
    """
    try:
        return parse_config(json.loads(state["recipe"]), str(output / STATE_NAME))
    except (KeyError, TypeError, ValueError):
        raise UsageError(f"{output / STATE_NAME}: holds no recipe; choose another folder") from None


def _require_same_recipe(theirs: RunConfig, ours: RunConfig, output: Path) -> None:
    """Refuse a recipe that differs in anything but the budget.

    The result would not be one run.
    """
    before, now = (flat_settings(config.model_dump(mode="json")) for config in (theirs, ours))
    for key in sorted(before.keys() | now.keys()):
        if key not in BUDGET and before.get(key) != now.get(key):
            raise UsageError(
                f"{output}: its run has another recipe ({key} is {before.get(key)!r} there, {now.get(key)!r} here); "
                f"resume with the same one (only {' and '.join(BUDGET)} may change), or choose another folder"
            )


def _score_of(output: Path, config: RunConfig, *, with_lesions: bool) -> float | None:
    """Return the score by which the model in ``output`` was chosen.

    None where there is no model or it was not validated.
    """
    model, table = output / MODEL_NAME, output / LESION_TABLE
    if not model.is_file():
        return None
    scores = [score for name, score in open_checkpoint(model).card.get("scores", {}).items() if "dice_" in name]
    if not scores:
        return None
    deciding = [float(np.mean(scores))]
    if with_lesions and table.is_file():
        deciding.append(_lesion_score(table, config.regions))
    return float(np.mean(deciding))


def _lesion_score(table: Path, regions: Sequence[str]) -> float:
    """Return the mean Dice of the lesions in a table of the run.

    Raises :class:`data.errors.UsageError`.
    """
    try:
        names = [f"dice_{region}" for region in regions]
        rows: list[dict[str, float | str]] = [
            {name: cell for name, cell in row.items() if cell}  # blank where a region is not told
            for row in read_columns(table, (), names)
        ]
        scores = list(mean_scores(rows, "dice", regions).values())
        score = float(np.mean(scores)) if scores else math.nan
        if not 0 <= score <= 1:
            raise ValueError("no mean Dice can be taken of it")
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{table}: not readable ({' '.join(str(error).split())[:100]}); remove it") from None
    return score


def _prepare(output: Path, split: Split, options: TrainOptions, process: Process) -> None:
    if not process.leads:
        return
    remove_temporary_files(output)
    remove_stale_files(_cache(output, options))
    try:
        write_text_atomically(output / "split.json", json.dumps(split.as_lists(), indent=1) + "\n")
    except OSError as error:
        raise UsageError(f"{output}: cannot be written to ({error.strerror}); choose another --output") from None


def _cache(output: Path, options: TrainOptions) -> Path:
    return options.cache or output / "cache"


def _card(dataset: PatchDataset, split: Split, options: TrainOptions) -> dict[str, Any]:
    kinds = Counter(case.kind for pool, _ in dataset.pools for case in pool)
    return {
        "trained_on": ", ".join(f"{count} {kind}{'s' if count > 1 else ''}" for kind, count in kinds.items()),
        "held_out": [*split.held_back],
        "scores": {},
        "licence": options.licence,
        "date": date.today().isoformat(),
        "command": options.command,
    }


def _provenance(
    dataset: PatchDataset, entries: Sequence[Learnt], output: Path, options: TrainOptions, earlier: bool
) -> dict[str, Any]:
    """Return the card's ``learnt_from`` and ``parents``.

    A run that goes on (``earlier``) keeps those of its last model.
    """
    names = {kind: names for kind, names in names_by_kind(dataset).items() if kind not in ("patient", "phantom")}
    about: dict[str, Any] = {"learnt_from": as_listing([*entries, *part_entries(names)])}
    if options.init is not None:
        weights = Path(options.init)
        about = with_parent(about, weights if weights.suffix in (".pth", ".pt") else open_checkpoint(options.init))
    last = output / LAST_NAME
    return with_earlier(about, open_checkpoint(last).card) if earlier and last.is_file() else about


@dataclass(frozen=True)
class _Run:
    """Files and scores of a run, written while the loop runs."""

    output: Path
    config: RunConfig
    identity: Mapping[str, str]
    aside: Aside
    process: Process
    card: Mapping[str, Any]
    tensorboard: Callable[[EpochRecord], None]
    curves: bool
    on_epoch: Callable[[EpochRecord], None]
    first: nn.Module | None = None
    """Of a cascade, whose second network is learning."""
    to_beat: float | None = None
    """Mean Dice of the model that an extended run began with."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Of the last validation."""
    lesion_rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def model(self) -> Path:
        return self.output / MODEL_NAME

    @property
    def last(self) -> Path:
        return self.output / LAST_NAME

    def _save(self, path: Path, network: nn.Module, card: Mapping[str, Any]) -> None:
        save_checkpoint(path, network if self.first is None else Cascade(self.first, network), self.config, card)

    def validate(self, network: nn.Module) -> dict[str, Any]:
        """Score the file that a user would get, float16 weights and all."""
        with self.process.leader_first():  # nobody reads before it is there
            if self.process.leads:
                self._save(self.last, network, self.card)
        self.rows[:] = validate(self.last, self.aside.patients, self.process)
        self.lesion_rows[:] = validate_cubes(self.last, self.aside.lesions, self.process) if self.aside.lesions else []
        means = self._means(self.rows, self.lesion_rows)
        if self.aside.unchanged is not None:
            means["val_loss"] = validation_loss(network, self.aside.unchanged, self.config, self.process.device)
        return means

    def _means(self, rows: Sequence[dict[str, Any]], lesion_rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        dice, tversky, accuracy = (
            mean_scores(rows, name, self.config.regions) for name in ("dice", "tversky", "accuracy")
        )
        deciding, lesion_dice = [float(np.mean(list(dice.values())))], None
        if lesion_rows:
            lesion_dice = float(np.mean(list(mean_scores(lesion_rows, "dice", self.config.regions).values())))
            deciding.append(lesion_dice)
        return {
            "dice": dice,
            "lesion_dice": lesion_dice,
            "mean_dice": float(np.mean(deciding)),
            "tversky_index": float(np.mean(list(tversky.values()))),
            "pixel_accuracy": float(np.mean(list(accuracy.values()))),
        }

    def keep(self, trainee: Trainee) -> None:
        """Write the epoch so that a kill loses this one at most.

        The state goes last.
        """
        if not self.process.leads:
            return
        record, network = trainee.records[-1], trainee.average.module.eval()
        card = {**self.card, "scores": {f"dice_{region}": value for region, value in record.dice.items()}}
        self._save(self.last, network, card)
        if not self.aside.patients or self._is_best(trainee.records):
            self._save(self.model, network, card)
            if self.rows:
                write_table(self.output / "validation.csv", pd.DataFrame(self.rows))
            if self.lesion_rows:
                write_table(self.output / LESION_TABLE, pd.DataFrame(self.lesion_rows))
        write_history(trainee.records, self.output / "history.csv")
        if self.curves and (not self.aside.patients or record.mean_dice is not None):
            plot_curves(trainee.records, self.output / "curves.png", self.config.name)
        if self.config.training.soup and record.mean_dice is not None:
            self._keep_for_soup(trainee, card)
        self.tensorboard(record)
        if enters_cooldown(trainee, self.config.training) and (self.output / STATE_NAME).is_file():
            # That of the epoch before, whose rate was still the full one.
            write_bytes_atomically(self.output / BEFORE_COOLDOWN, (self.output / STATE_NAME).read_bytes())
        state = {**self.identity, "score to beat": self.to_beat, "trainee": trainee.state()}
        save_state(self.output / STATE_NAME, state)
        self.on_epoch(record)

    def _is_best(self, records: Sequence[EpochRecord]) -> bool:
        score = records[-1].mean_dice
        best = records[-1].epoch == best_epoch(records)
        return best and (self.to_beat is None or (score is not None and score > self.to_beat))

    def _kept(self, epoch: int) -> Path:
        return self.output / KEPT / f"epoch_{epoch:06d}.safetensors"

    def _soup_epochs(self, records: Sequence[EpochRecord]) -> list[int]:
        return [record.epoch for record in records if record.mean_dice is not None][-self.config.training.soup :]

    def _keep_for_soup(self, trainee: Trainee, card: Mapping[str, Any]) -> None:
        (self.output / KEPT).mkdir(exist_ok=True)
        remove_temporary_files(self.output / KEPT)
        self._save(self._kept(trainee.records[-1].epoch), trainee.average.module, card)
        wanted = {self._kept(epoch) for epoch in self._soup_epochs(trainee.records)}
        for path in set((self.output / KEPT).iterdir()) - wanted:
            if _EPOCH_FILE.fullmatch(path.name):  # and no copy that somebody made of one
                path.unlink()

    def try_soup(self, trainee: Trainee) -> None:
        """Make the average of the latest validated epochs the model, where it wins.

        It must score better than the best epoch of the run.
        """
        if not self.config.training.soup or not self.aside.patients:
            return
        found = [path for epoch in self._soup_epochs(trainee.records) if (path := self._kept(epoch)).is_file()]
        paths = self.process.from_leader(found)  # who writes them
        if len(paths) < 2:
            return
        parents = [open_checkpoint(path) for path in paths]
        card = {**self.card, "soup": [{"name": parent.name, "sha256": parent.sha256} for parent in parents]}
        is_there = self.process.from_leader(self.model.is_file() and open_checkpoint(self.model).card.get("soup"))
        if is_there == card["soup"]:
            return  # the run was at its end before
        network, soup = soup_network(parents), self.output / KEPT / "soup.safetensors"
        with self.process.leader_first():
            if self.process.leads:
                save_checkpoint(soup, network, self.config, card)
        rows = validate(soup, self.aside.patients, self.process)
        lesion_rows = validate_cubes(soup, self.aside.lesions, self.process) if self.aside.lesions else []
        means = self._means(rows, lesion_rows)
        singles = [*(record.mean_dice for record in trainee.records), self.to_beat]
        best = max((score for score in singles if score is not None and np.isfinite(score)), default=-np.inf)
        log.info("average of %d epochs: Dice %.4f; best single one: %.4f", len(paths), means["mean_dice"], best)
        if means["mean_dice"] > best and self.process.leads:
            scores = {f"dice_{region}": value for region, value in means["dice"].items()}
            save_checkpoint(self.model, network, self.config, {**card, "scores": scores})
            write_table(self.output / "validation.csv", pd.DataFrame(rows))
            if lesion_rows:
                write_table(self.output / LESION_TABLE, pd.DataFrame(lesion_rows))
