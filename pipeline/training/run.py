"""Command `train`: from folders of patients to a model file.

It also leaves the history and the curves, and can be resumed at any moment.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch

from data.case import Case
from data.errors import UsageError
from data.io.write import write_text_atomically
from pipeline.checkpoint import Checkpoint, open_checkpoint
from pipeline.config import RunConfig, load_recipe
from pipeline.execute.lock import output_lock, remove_stale_files, remove_temporary_files
from pipeline.execute.own_folder import own_output
from pipeline.options import TrainOptions
from pipeline.predict.memory.machine import tune_malloc
from pipeline.provenance import Learnt, as_listing, part_entries, patient_entries, with_earlier, with_parent
from pipeline.training.cached import gather
from pipeline.training.cases import patient_cases
from pipeline.training.distributed import Process, joined
from pipeline.training.initial import initial_network
from pipeline.training.loop import train
from pipeline.training.options import behind, cache_of, check_batch, checked
from pipeline.training.plan import (
    Further,
    check_told,
    chosen_cases,
    cube_folders,
    lesions_aside,
    names_by_kind,
    patches_of,
    unchanged,
    whole_patients,
)
from pipeline.training.progress.extension import BEFORE_COOLDOWN, STATE_NAME, extend, restore
from pipeline.training.progress.files import KEPT, LAST_NAME, LESION_TABLE, MODEL_NAME, Aside, RunFiles
from pipeline.training.progress.history import EpochRecord, open_tensorboard
from pipeline.training.progress.identity import earlier_state, recipe_of, run_identity, score_of
from pipeline.training.progress.trainee import Trainee
from pipeline.training.sampling import PatchDataset
from pipeline.training.splits import Split
from pipeline.training.validation import references

log = logging.getLogger(__name__)


def run_training(patients: Path, recipe: str, output: Path, options: TrainOptions) -> Path:
    """Train a recipe and leave its model in ``output``; returns the model file.

    The folder then holds ``model.safetensors`` (the best on the validation patients; without them the last),
    ``validation.csv`` and ``validation_lesions.csv`` (its scores, per patient and per lesion that is set aside),
    ``last.safetensors``, ``history.csv``, ``curves.png``, ``split.json``,
    ``state.safetensors`` (for --resume), ``state_before_cooldown.safetensors`` (to extend a run whose rate has a
    cool-down), ``kept/`` (with `training.soup`) and ``tensorboard/`` where that is installed. The processes of a
    distributed run share it. Of a cascade the first stage is trained first, in ``first/``, with the same split; its
    model goes into the cascade's.

    Raises
    ------
    data.errors.UsageError
        An option or the recipe cannot be, or another run is at work in ``output``.
    data.errors.InputError, data.errors.CheckpointError, data.errors.TrainingError
    OSError
        The disk is full or the like; ``state.safetensors`` is that of the last epoch that was kept.
    """
    config = checked(load_recipe(recipe, options.changes), recipe, options)
    if output.resolve() == patients.resolve():
        raise UsageError(f"--output {output} is the input folder; choose another, so that models and images stay apart")
    tune_malloc()
    with joined(options.device) as process:
        check_batch(config, process)
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
    # Its arrays bear a hash of their content: no other file has such a name.
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
                "--first %s: its card does not hold back %d of the %d validation patients; scores there may be too "
                "good",
                options.first,
                len(seen),
                len(split.validation),
            )
        return model
    folder = output / "first"
    log.info("first stage: %s, in %s", recipe.name, folder)
    own = replace(options, cache=cache_of(output, options), init=None)
    with own_training(folder, own) if process.leads else nullcontext():
        path = _run_in(folder, cases, split, further, recipe, process, own)
    with process.leader_first():  # who has written it
        return open_checkpoint(path)


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
    lesions = lesions_aside(split, cube_folders(further)) if validated else []
    identity = run_identity(config, split, further, options, first)
    state = earlier_state(output, identity, options)
    with process.leader_first():
        _prepare(output, split, options, process)
        learnt_from, cache, named = [cases[name] for name in split.train], cache_of(output, options), options.convention
        dataset, opened, held_back = gather(  # all faults together, before the first step
            [
                partial(patches_of, learnt_from, further, config, output, options),
                partial(patient_cases, validated, config, cache, convention=named, workers=options.workers),
                partial(references, validated, config, named),
            ]
        )
        if state is None:
            check_told(dataset, config, options.init)
        whole, learnt = whole_patients(cases, split, further), set(names_by_kind(dataset).get("patient", ()))
        entries = patient_entries([case for case in whole if case.case_id in learnt], cache)
    aside = Aside(held_back, lesions, unchanged(opened, config))
    return learn(dataset, output, config, split, identity, state, entries, aside, process, options, first)


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
    trainee, to_beat = _begun(output, config, state, aside, process, options)
    tensorboard = open_tensorboard(output / "tensorboard")
    network = None
    if first is not None:
        card["trained_on"] += f"; first stage: {first.card.get('trained_on', 'unknown')}"
        card = with_parent(card, first)
        network = first.build()
    run = RunFiles(output, config, identity, aside, process, card, tensorboard, curves, on_epoch, network, to_beat)
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


def _begun(
    output: Path,
    config: RunConfig,
    state: Mapping[str, Any] | None,
    aside: Aside,
    process: Process,
    options: TrainOptions,
) -> tuple[Trainee, float | None]:
    """Begin a run or go on from ``state``; return trainee and score to beat."""
    torch.manual_seed(config.training.seed)  # for the weights that --init does not give
    init = None if options.init is None or state else initial_network(options.init, config)
    trainee = Trainee.new(config, process.device, init)
    if not state:
        return trainee, None
    restore(trainee, state.get("trainee"), output / STATE_NAME)
    to_beat = state.get("score to beat")
    if not (to_beat is None or isinstance(to_beat, int | float)):
        raise UsageError(f"{output / STATE_NAME}: its score to beat is no number; choose another folder")
    if extend(trainee, recipe_of(state, output).training, config.training, output):
        to_beat = score_of(output, config, with_lesions=bool(aside.lesions))
    return trainee, to_beat


def _prepare(output: Path, split: Split, options: TrainOptions, process: Process) -> None:
    if not process.leads:
        return
    remove_temporary_files(output)
    remove_stale_files(cache_of(output, options))
    try:
        write_text_atomically(output / "split.json", json.dumps(split.as_lists(), indent=1) + "\n")
    except OSError as error:
        raise UsageError(f"{output}: cannot be written to ({error.strerror}); choose another --output") from None


def _card(dataset: PatchDataset, split: Split, options: TrainOptions) -> dict[str, Any]:
    kinds = Counter(case.kind for pool, _ in dataset.pools for case in pool)
    return {
        "trained_on": ", ".join(f"{count} {kind}{'s' if count > 1 else ''}" for kind, count in kinds.items()),
        "held_out": [*split.held_back],
        "scores": {},
        "licence": options.licence,
        "date": date.today().isoformat(),
        "command": options.command,
    } | ({"set": [*options.changes]} if options.changes else {})


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
