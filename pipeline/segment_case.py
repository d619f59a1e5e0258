"""One case: from its files to its mask, its picture and its row in the report, whatever happens."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import nibabel as nib

from data.case import Case
from data.errors import InputError, SegmentationError
from data.grid import Grid
from data.io import (
    read_label_map,
    read_volume,
    write_image,
    write_label_map,
    write_probability,
    write_text_atomically,
)
from data.labels import count_labels, load_convention
from pipeline.case_task import (
    CaseTask,
    Row,
    finished_row,
    identity,
    remove_results,
    sha256_of,
    state_path,
    task_path,
)
from pipeline.checkpoint import choose_model, open_checkpoint

log = logging.getLogger(__name__)


@lru_cache(maxsize=2)
def _predictor(models: tuple[str, ...], device: str, tta: bool, zero_missing: bool, max_voxels: int) -> Any:
    from pipeline.predictor import Predictor

    return Predictor(models, device, tta=tta, zero_missing=zero_missing, max_voxels=max_voxels)


def error_row(task: CaseTask, reason: str) -> Row:
    return {"case": task.case.case_id, "folder": task.folder, "status": "error", "reason": reason}


def segment_one(task: CaseTask) -> Row:
    """The row of one case, whatever happens; an input error leaves no mask behind, not even an older one."""
    start = time.perf_counter()
    try:
        return _segment(task, start)
    except SegmentationError as error:
        remove_results(task)
        row = error_row(task, str(error))
    except OSError as error:
        row = error_row(
            task,
            f"{task.folder}: could not be read or written ({error.strerror or error}); check space and permissions",
        )
    except MemoryError:
        row = error_row(task, f"{task.folder}: not enough memory for this case; free some, or use fewer processes")
    except Exception as error:
        log.debug("unexpected error in case %r", task.case.case_id, exc_info=True)
        remove_results(task)
        row = error_row(
            task,
            f"{task.folder}: unexpected {type(error).__name__}: {' '.join(str(error).split())[:300]}; please report it",
        )
    row["reason"] = " ".join(row["reason"].split())
    row["seconds"] = round(time.perf_counter() - start, 3)
    return row


def _segment(task: CaseTask, start: float) -> Row:
    case, options = task.case, task.options
    row: Row = {"case": case.case_id, "folder": task.folder, "status": "ok", "reason": "", "flags": ""}
    if case.problems:
        raise InputError("; ".join(case.problems))
    models = tuple(open_checkpoint(m) for m in options.models) or (choose_model(case),)
    missing = [m for m in dict.fromkeys(m for c in models for m in c.settings["modalities"]) if m not in case.images]
    if missing and options.missing == "skip":
        remove_results(task)
        seconds = round(time.perf_counter() - start, 3)
        return row | {
            "status": "warn",
            "reason": f"no {', '.join(missing)} image; skipped, no mask was made",
            "seconds": seconds,
        }
    if task.convention.error:
        raise InputError(task.convention.error)
    key, inputs = identity(task, models)
    if not options.overwrite and (finished := finished_row(task, key)) is not None:
        return finished
    predictor = _predictor(
        tuple(str(c.path) for c in models), options.device, options.tta, options.missing == "zero", options.max_voxels
    )
    result = predictor(case, task.convention.name)
    warnings = [*case.warnings, *task.convention.warnings, *result.warnings]

    stages = dict(result.seconds)
    with _stage(stages, "write"):
        write_label_map(task_path(task, "seg"), result.label_map, result.native)
        if options.save_probabilities:
            for region, probability in result.probabilities.items():
                write_probability(task_path(task, f"prob_{region}"), probability, result.native)
        if not result.native.grid.spacing_known:
            _write_slices_as_volumes(task)
    # With other options or another model before: what this run did not write is not its result.
    remove_results(
        task,
        keep={
            "seg",
            "preview",
            *(f"prob_{r}" for r in result.probabilities if options.save_probabilities),
            *(case.images if not result.native.grid.spacing_known else ()),
        },
    )
    grid = result.native.grid
    with _stage(stages, "metrics"):
        row |= _volumes(result.masks, grid)
        scores, flags = _scores(case, task.convention.name, result, options.max_voxels, warnings)
        row |= scores
    with _stage(stages, "preview"):
        from pipeline.report import write_preview

        write_preview(task_path(task, "preview"), case.case_id, result.background, result.masks, grid)
    row |= {
        "status": "warn" if warnings else "ok",
        "reason": " ".join("; ".join(dict.fromkeys(warnings)).split()),
        "flags": "; ".join([*_result_flags(result.masks, grid), *flags]),
        "model": predictor.name,
        "convention": result.convention,
        "seconds": round(time.perf_counter() - start, 3),
    }
    state = {"key": key, "row": row, "inputs": inputs, "stages": stages, "convention_reason": task.convention.reason}
    state["models"] = {str(c.path): c.sha256 for c in models}
    state["mask_sha256"] = sha256_of(task_path(task, "seg"))
    write_text_atomically(state_path(task), json.dumps(state))
    return row


@contextmanager
def _stage(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add the wall-clock time of the block to ``seconds[name]``."""
    start = time.perf_counter()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start


def _write_slices_as_volumes(task: CaseTask) -> None:
    """Slices are one volume: written beside the mask, so that a viewer opens both."""
    for modality, source in task.case.images.items():
        volume = read_volume(source, max_voxels=task.options.max_voxels)
        write_image(task_path(task, modality), volume.array, volume.header)


def _volumes(masks: Mapping[str, Any], grid: Grid) -> Row:
    row: Row = {}
    for region, mask in masks.items():
        row[f"voxels_{region}"] = int(mask.sum())
        row[f"volume_ml_{region}"] = (
            row[f"voxels_{region}"] * grid.voxel_volume_ml if grid.spacing_known else float("nan")
        )
    return row


def _result_flags(masks: Mapping[str, Any], grid: Grid) -> list[str]:
    """Remarks on the result that a reader should see; they never change the status."""
    outermost, whole = next(iter(masks.items()))
    unknown = [] if grid.spacing_known else ["the voxel size is unknown: no mm, no ml; voxels_<region> counts voxels"]
    if not whole.any():
        return ["no tumour found", *unknown]
    flags = [f"no {region} found" for region, mask in masks.items() if not mask.any()]
    faces = [whole.take(end, axis) for axis in range(3) if grid.shape[axis] > 1 for end in (0, -1)]
    if any(face.any() for face in faces):
        flags.append(f"{outermost} touches the edge of the image")
    return flags + unknown


def _scores(
    case: Case, convention: str | None, result: Any, max_voxels: int, warnings: list[str]
) -> tuple[Row, list[str]]:
    """Scores against the case's own reference; why there are none goes to ``warnings``."""
    from pipeline.evaluate import score_case, score_flags

    if case.reference is None:
        return {}, []
    try:
        reference = read_label_map(case.reference, max_voxels=max_voxels)
    except InputError as error:
        warnings.append(f"not scored: {error}")
        return {}, []
    labels, name = load_convention(convention or result.convention), reference.header.path.name
    unknown = labels.unknown_labels(count_labels(reference.array))
    native = result.native.grid
    if unknown:
        listed = ", ".join(map(str, unknown))
        warnings.append(
            f"not scored: {name} holds the label {listed}, which {labels.name} does not know; name its convention with --convention"
        )
        return {}, []
    aligned = reference.grid.reoriented(native.orientation)
    if not aligned.matches(native):
        warnings.append(
            f"not scored: {name} lies on another grid ({reference.grid.described()}) than the images "
            f"({native.described()}); resample it onto theirs"
        )
        return {}, []
    array = nib.orientations.apply_orientation(reference.array, reference.grid.orientation_to(native.orientation))
    truth = labels.region_masks(array)
    shared = [region for region in result.masks if region in truth]
    scores = score_case({r: result.masks[r] for r in shared}, {r: truth[r] for r in shared}, native)
    return dict(scores), list(score_flags(scores))
