"""Training on a card that is at hand for minutes, and reached only by copying small files there and back.

    python -m bench.card pack PATIENTS --recipe NAME|FILE --split FILE --cache FOLDER --output PARTS [--first MODEL]
    python -m bench.card train PARTS --output RUN [--minutes 8] [--resume] [--init MODEL] [--batch N]
    python -m bench.card join RUN/back --output RUN

`pack` prepares the cases that `train` would, and writes them as numbered parts. `train` learns from the parts, where there
are neither patients nor their libraries. It leaves `RUN/back`: files of at most 16 MiB, which `join` puts together again,
so that the run goes on in the next call (`train PARTS --resume`) or at home (`run_pipeline.py train ... --recipe
RUN/recipe.yaml --output RUN --resume`).
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from bench.parts import MIB, pack_voxels, read_content, read_index, unpack_voxels, write_parts
from data.case import Case
from data.errors import SegmentationError, UsageError
from data.find.discover import discover_cases
from data.io.write import write_bytes_atomically, write_text_atomically
from pipeline.array_cache import open_array, write_array
from pipeline.checkpoint import Checkpoint, open_checkpoint
from pipeline.config import RunConfig, load_recipe, parse_config
from pipeline.execute.lock import output_lock, remove_temporary_files
from pipeline.predict.machine_memory import tune_malloc
from pipeline.provenance import as_listing, entries_of, patient_entries
from pipeline.training.cases import Entry, TrainingCase, cached_cases, patient_cases
from pipeline.training.cube_validation import cube_files_of
from pipeline.training.distributed import joined
from pipeline.training.progress.extension import BEFORE_COOLDOWN, STATE_NAME
from pipeline.training.progress.history import EpochRecord
from pipeline.training.run import (
    KEPT,
    LAST_NAME,
    MODEL_NAME,
    Aside,
    TrainOptions,
    behind,
    check_told,
    checked,
    chosen_cases,
    cube_folders,
    drawn_phantoms,
    earlier_state,
    learn,
    lesions_aside,
    names_by_kind,
    run_identity,
    unchanged,
    wanted_names,
    whole_patients,
)
from pipeline.training.sampling import PatchDataset
from pipeline.training.sources.kinds import SOURCES
from pipeline.training.splits import Split
from pipeline.training.validation import references

log = logging.getLogger(__name__)

WHEELS = {
    "SimpleITK": "simpleitk",
    "annotated_types": "annotated-types",
    "cc3d": "connected-components-3d",
    "dateutil": "python-dateutil",
    "monai": "monai",
    "nibabel": "nibabel",
    "packaging": "packaging",
    "pandas": "pandas",
    "pydantic": "pydantic",
    "pydantic_core": "pydantic-core",
    "safetensors": "safetensors",
    "scipy": "scipy",
    "typing_inspection": "typing-inspection",
    "yaml": "pyyaml",
}
"""What `train` imports beside Python, torch and numpy: module -> wheel to bring along."""

AS_FILES = {"cube": ".npz"}
"""Kinds whose own files travel: on a fine grid their voxels take many times as much."""
BACK = "back"
BACK_BYTES = 16 * MIB
BROUGHT_BACK = (
    "recipe.yaml",
    "history.csv",
    "validation.csv",
    "validation_lesions.csv",
    MODEL_NAME,
    LAST_NAME,
    STATE_NAME,
    BEFORE_COOLDOWN,
    f"{KEPT}/epoch_*.safetensors",
)
PREFETCHED = 4
"""Batches that each loading process holds ready (pipeline.training.loop)."""


# Here


def pack(patients: Path, recipe: str, output: Path, options: TrainOptions, part_bytes: int, validation: bool) -> int:
    """Prepare the cases that `train` would learn from and write them into parts; returns how many parts.

    Parameters
    ----------
    options : TrainOptions
        ``cache`` must be given; for a cascade ``first``, too.
    validation : bool
        Whether the validation patients and the lesions that are set aside come along, so that the card's run is validated
        as it goes.

    Raises
    ------
    data.errors.SegmentationError
        As for :func:`pipeline.training.run.run_training`; or a cascade's first stage is not given.
    """
    assert options.cache is not None
    config, cache, workers = checked(load_recipe(recipe), recipe, options), options.cache, options.workers
    first = None
    if config.first is not None:
        if options.first is None:
            raise UsageError(f"recipe {recipe} is a cascade: train its first stage by itself, and give it as --first")
        first = open_checkpoint(options.first)
        config = behind(first, config)
    cases, split, further, options = chosen_cases(patients, options)
    prepare = partial(patient_cases, config=config, cache=cache, convention=options.convention, workers=workers)
    own = prepare([cases[name] for name in split.train])
    voxels = list(own)
    extra: list[dict[str, Any]] = []
    files: dict[str, Path] = {f"first/{first.path.name}": first.path} if first else {}
    for number, (folder, source, names) in enumerate(further, 1):
        wanted = wanted_names(names, options)
        if source.kind in AS_FILES:
            place = f"{source.kind}-{number}"
            files |= {f"{place}/{path.name}": path for path in _own_files(folder, source.kind, wanted)}
            extra.append({"kind": source.kind, "names": wanted, "folder": place})
        else:
            found = source.cases(folder, config, cache, names=wanted, workers=workers)
            extra.append({"cases": [_row(case) for case in found]})
            voxels += found
    held_back = [cases[name] for name in split.validation] if validation else []
    files |= {f"validation/{path}": patients / path for case in held_back for path in _paths(case, patients)}
    unaugmented = prepare(held_back)
    packed = {_file_name(case): case for case in (*voxels, *unaugmented)}  # a patient may be in two folders
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
        "own": [_row(case) for case in own],
        "extra": extra,
        "first": f"first/{first.path.name}" if first else None,
        "learnt_from": as_listing(patient_entries(whole, cache)),
        "validation": [_row(case) for case in unaugmented],
        "lesions": [f"lesions-{number}" for number, _ in enumerate(lesions, 1)],
    }

    def contents() -> Iterator[tuple[str, bytes]]:
        for name, case in packed.items():
            yield name, pack_voxels(case.voxels.transpose(3, 0, 1, 2))
        for name, path in files.items():
            yield name, path.read_bytes()

    return write_parts(output, contents(), part_bytes, about)


def _file_name(case: TrainingCase) -> str:
    return Path(str(getattr(case.voxels, "filename"))).name  # noqa: B009 - of a memmap, which numpy's types do not tell


def _row(case: TrainingCase) -> dict[str, Any]:
    fields = ("name", "kind", "patient", "beyond_known", "place", "apart")
    return {"file": _file_name(case)} | {name: getattr(case, name) for name in fields}


def _own_files(folder: Path, kind: str, names: Sequence[str]) -> list[Path]:
    return [folder / f"{name}{AS_FILES[kind]}" for name in names]


def _paths(case: Case, patients: Path) -> list[Path]:
    sources = [*case.images.values(), *([case.reference] if case.reference else [])]
    return [path.relative_to(patients) for path in dict.fromkeys(p for source in sources for p in source.paths)]


# On the card


class _TimeIsUp(Exception):
    """The end of a call; the last epoch was kept."""


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
    """Train on packed cases until the recipe or the call's time ends; returns how many files are to be brought back.

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
    config = parse_config(index["recipe"], str(parts / "index.json"))
    if total_minutes is not None:
        settings = config.model_dump()
        settings["training"]["stopping"]["minutes"] = total_minutes
        config = parse_config(settings, f"--total-minutes {total_minutes}")
    config = with_batch(config, batch or config.training.batch)
    tune_malloc()
    torch.set_float32_matmul_precision("high")  # TF32
    torch.backends.cudnn.benchmark = True  # every batch has the same shape
    with joined(device) as process, output_lock(output):
        remove_temporary_files(output)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        loaders = shared_memory_allows(max(cores - 2, 0) if workers is None else workers, config)
        options = TrainOptions(
            init=init,
            resume=resume,
            workers=loaders,
            licence=index["licence"],
            command=command,
        )
        split = Split(**{part: tuple(names) for part, names in index["split"].items()})
        identity = {"recipe": config.model_dump_json(), **index["identity"]}
        state = earlier_state(output, identity, options)
        dataset = PatchDataset(*unpack(parts, index, config, cache, max(cores - 1, 0)))
        if state is None:
            check_told(dataset, config, init)
        dataset.make_donors()
        learnt = set(names_by_kind(dataset).get("patient", ()))
        entries = [entry for entry in entries_of(index) or () if entry.name in learnt]
        aside = _aside(parts, index, config, split, cache)
        first = _first_stage(parts, index, cache)
        write_text_atomically(output / "recipe.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        log.info("unpacked after %.0f s; %d loading processes", time.monotonic() - start, loaders)
        try:
            clock = _clock(start, 60 * minutes)
            # matplotlib is not brought along
            learn(
                dataset,
                output,
                config,
                split,
                identity,
                state,
                entries,
                aside,
                process,
                options,
                first,
                curves=False,
                on_epoch=clock,
            )
        except _TimeIsUp:
            log.info("the call's %g minutes are over; go on with --resume", minutes)
        finally:
            count = _bring_back(output)
    return count


def with_batch(config: RunConfig, batch: int) -> RunConfig:
    """Give a recipe another batch, k times its own, and let the rest follow.

    The rate of AdamW grows with the square root of k [1]_. An epoch shows as many samples as before, in fewer steps; the
    average's decay per step is its k-th power [2]_, and the warm-up has the same number of samples.

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
    """Lower the number of loading processes to what the shared memory can hold of their batches."""
    training, network = config.training, config.network
    one = 4 * training.batch * (network.in_channels + network.out_channels) * math.prod(training.patch)
    free = shutil.disk_usage(folder).free if folder.is_dir() else None
    most = workers if free is None else int(free // ((PREFETCHED + 1) * one))
    if most < workers:
        log.warning("%s has room for the batches of %d loading processes, not %d; enlarge it", folder, most, workers)
    return min(workers, most)


def unpack(
    parts: Path, index: Mapping[str, Any], config: RunConfig, cache: Path, workers: int
) -> tuple[list[TrainingCase], RunConfig, list[TrainingCase], list[TrainingCase]]:
    """Fill the cache with the voxels of the parts and open them; returns the arguments of PatchDataset.

    What travels as files is prepared here, and phantoms are drawn here.
    """
    rows = [*index["own"], *(row for group in index["extra"] for row in group.get("cases", ())), *index["validation"]]
    channels = len(config.modalities) + len(config.regions)

    def write(row: Mapping[str, Any]) -> None:
        path = _within(cache, row["file"])
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


def _aside(parts: Path, index: Mapping[str, Any], config: RunConfig, split: Split, cache: Path) -> Aside:
    """What was packed to validate on; after :func:`unpack`."""
    if not index["validation"]:
        return Aside()
    folder = _files_below(parts, index, "validation", cache)
    cases = {case.case_id: case for case in discover_cases(folder)}
    named = [cases[row["name"]] for row in index["validation"]]
    held_back = references(named, config, index.get("convention"))  # parts of 0.5 have none
    lesions = lesions_aside(split, [_files_below(parts, index, name, cache) for name in index["lesions"]])
    return Aside(held_back, lesions, unchanged(_opened(index["validation"], config, cache), config))


def _first_stage(parts: Path, index: Mapping[str, Any], cache: Path) -> Checkpoint | None:
    """Of a cascade, the model that was packed."""
    if index["first"] is None:
        return None
    _files_below(parts, index, "first", cache)
    return open_checkpoint(_within(cache, index["first"]))


def _files_below(parts: Path, index: Mapping[str, Any], folder: str, cache: Path) -> Path:
    """Write the files of a folder among the parts into the cache; returns that folder."""
    for name in index["files"]:
        if name.startswith(f"{folder}/"):
            write_bytes_atomically(_within(cache, name), read_content(parts, index, name))
    return cache / folder


def _within(folder: Path, name: str) -> Path:
    """A path below a folder, which is made. Raises :class:`data.errors.UsageError` for one that is not below it."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"{name}: leads out of {folder}; pack the parts again")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _clock(start: float, seconds: float) -> Any:
    """What ends the call after the last epoch that fits."""
    times = [start]

    def after(record: EpochRecord) -> None:
        times.append(time.monotonic())
        # The first epoch's time holds the unpacking, so it decides only while it is alone.
        lasted = [b - a for a, b in zip(times, times[1:], strict=False)]
        if times[-1] + max(lasted[1:] or lasted) > start + seconds:
            raise _TimeIsUp

    return after


def _bring_back(output: Path) -> int:
    """Leave the run's files in pieces; returns how many files these are, 0 where no epoch was kept."""
    found = [path for pattern in BROUGHT_BACK for path in sorted(output.glob(pattern)) if path.is_file()]
    files = {path.relative_to(output).as_posix(): path for path in found}
    if STATE_NAME not in files:
        return 0
    same = {}
    if MODEL_NAME in files and files[LAST_NAME].read_bytes() == files[MODEL_NAME].read_bytes():
        same = {LAST_NAME: MODEL_NAME}
        del files[LAST_NAME]
    contents = ((name, path.read_bytes()) for name, path in files.items())
    return 1 + write_parts(output / BACK, contents, BACK_BYTES, {"same": same})


# Here again


def join(back: Path, output: Path) -> list[str]:
    """Put the files of a run together in ``output``; returns their names."""
    index = read_index(back)
    contents = {name: name for name in index["files"]} | index["same"]
    for name, content in contents.items():
        write_bytes_atomically(_within(output, name), read_content(back, index, content))
    return list(contents)


def main() -> None:
    wheels = "Wheels to bring along, where only torch and numpy are: " + ", ".join(sorted(WHEELS.values())) + "."
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, epilog=wheels, formatter_class=form)
    verbs = parser.add_subparsers(dest="verb", required=True)
    packing = verbs.add_parser("pack", help="prepare the cases and write them into parts")
    packing.add_argument("patients", type=Path)
    packing.add_argument("--recipe", required=True)
    packing.add_argument("--split", type=Path, required=True)
    packing.add_argument("--extra", nargs="*", default=[], metavar="FOLDER[:kind]")
    packing.add_argument("--convention", metavar="NAME", help="label convention of the references")
    packing.add_argument("--leave-out", nargs="*", default=[], metavar="CASE")
    packing.add_argument("--first", metavar="MODEL", help="of a cascade, its first stage")
    packing.add_argument("--cache", type=Path, required=True)
    packing.add_argument("--output", type=Path, required=True, metavar="PARTS")
    packing.add_argument("--part-mib", type=float, default=60, help="most MiB of a part")
    packing.add_argument("--with-validation", action="store_true", help="bring what is validated on along")
    packing.add_argument("--licence", default=TrainOptions.licence)
    packing.add_argument("--workers", type=int, default=0)
    training = verbs.add_parser("train", help="learn from the parts", epilog=wheels)
    training.add_argument("parts", type=Path)
    training.add_argument("--output", type=Path, required=True, metavar="RUN")
    training.add_argument("--minutes", type=float, default=8, help="of this call")
    training.add_argument("--total-minutes", type=float, help="of the run, for the schedule")
    training.add_argument("--batch", type=int, help="instead of the recipe's; the rate follows its square root")
    training.add_argument("--init", metavar="MODEL")
    training.add_argument("--resume", action="store_true")
    training.add_argument("--workers", type=int, help="processes that augment; default: all cores but two")
    training.add_argument("--device", default="auto")
    training.add_argument("--cache", type=Path, help="where the parts are unpacked; default: PARTS/unpacked")
    joining = verbs.add_parser("join", help="put together what came back")
    joining.add_argument("back", type=Path)
    joining.add_argument("--output", type=Path, required=True, metavar="RUN")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        print(_run(arguments))
    except SegmentationError as error:
        raise SystemExit(str(error)) from None


def _run(arguments: argparse.Namespace) -> str:
    given = vars(arguments)
    if given.pop("verb") == "join":
        return "\n".join(join(arguments.back, arguments.output))
    if "parts" in given:
        count = train_on_card(**given, command=shlex.join(["python", "-m", "bench.card", *sys.argv[1:]]))
        return f"{count} files to bring back: {arguments.output / BACK}"
    options = TrainOptions(
        split=arguments.split,
        extra=arguments.extra,
        convention=arguments.convention,
        leave_out=arguments.leave_out,
        cache=arguments.cache,
        first=arguments.first,
        workers=arguments.workers,
        licence=arguments.licence,
    )
    part_bytes = int(arguments.part_mib * MIB)
    if part_bytes < 1:
        raise UsageError(f"--part-mib {arguments.part_mib}: must be above 0")
    count = pack(arguments.patients, arguments.recipe, arguments.output, options, part_bytes, arguments.with_validation)
    return f"{count} parts: {arguments.output}"


if __name__ == "__main__":
    main()
