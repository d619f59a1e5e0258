"""One case: from its files to its mask, its picture and its row in the report, whatever happens."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from data.case import Case
from data.errors import InputError, SegmentationError
from data.io import (
    read_label_map,
    read_volume,
    write_image,
    write_label_map,
    write_probability,
)
from data.labels import count_labels, load_convention
from pipeline.case_task import (
    CaseTask,
    Row,
    finished_row,
    identity,
    remove_results,
    sha256_of,
    task_path,
    write_state,
)
from pipeline.checkpoint import choose_model, open_checkpoint
from pipeline.quality import quality_flags
from pipeline.scoring import score_masks

if TYPE_CHECKING:  # it imports torch, which takes seconds
    from pipeline.predictor import Segmentation

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
        _write_images(task, result)
    grid = result.native.grid
    with _stage(stages, "metrics"):
        truth = _reference_masks(case, task.convention.name, result, options.max_voxels, warnings)
        scores = score_masks(result.masks, truth, grid)
        row |= scores.columns
        row |= {f"disagreement_{region}": value for region, value in (result.disagreement or {}).items()}
    with _stage(stages, "preview"):
        from pipeline.preview import write_preview

        picture = task_path(task, "preview")
        write_preview(picture, case.case_id, result.background, result.masks, grid, reference_masks=truth)
    remarks = [*quality_flags(result.masks, grid, result.disagreement), *scores.flags]
    row |= {
        "status": "warn" if warnings else "ok",
        "reason": " ".join("; ".join(dict.fromkeys(warnings)).split()),
        "flags": "; ".join(dict.fromkeys(remarks)),
        "model": predictor.name,
        "convention": result.convention,
        "seconds": round(time.perf_counter() - start, 3),
    }
    write_state(
        task,
        {
            "key": key,
            "row": row,
            "regions": scores.regions,
            "lesions": scores.lesions,
            "missing": missing,
            "inputs": inputs,
            "stages": stages,
            "convention_reason": task.convention.reason,
            "models": {str(c.path): c.sha256 for c in models},
            "mask_sha256": sha256_of(task_path(task, "seg")),
        },
    )
    return row


def _write_images(task: CaseTask, result: Segmentation) -> None:
    """The mask and the maps that go with it; of an earlier run's, with other options or another model, none stays."""
    # In steps of 1/256, which is finer than it is sure: as they are the maps would take 12 MB each.
    deviations = (result.uncertainty or {}).items()
    maps = {f"uncertainty_{region}": (np.round(256 * v) / 256).astype(np.float32) for region, v in deviations}
    if task.options.save_probabilities:
        maps |= {f"prob_{region}": values for region, values in result.probabilities.items()}
    write_label_map(task_path(task, "seg"), result.label_map, result.native)
    for what, values in maps.items():
        write_probability(task_path(task, what), values, result.native)
    slices = () if result.native.grid.spacing_known else tuple(task.case.images)
    if slices:
        _write_slices_as_volumes(task)
    remove_results(task, keep={"seg", "preview", *maps, *slices})


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


def _reference_masks(
    case: Case, convention: str | None, result: Segmentation, max_voxels: int, warnings: list[str]
) -> dict[str, NDArray[np.bool_]] | None:
    """The case's own reference on the result's grid; why there is none to score against goes to ``warnings``."""
    if case.reference is None:
        return None
    try:
        reference = read_label_map(case.reference, max_voxels=max_voxels)
    except InputError as error:
        warnings.append(f"not scored: {error}")
        return None
    labels, name = load_convention(convention or result.convention), reference.header.path.name
    unknown = labels.unknown_labels(count_labels(reference.array))
    native = result.native.grid
    if unknown:
        listed = ", ".join(map(str, unknown))
        warnings.append(
            f"not scored: {name} holds the label {listed}, which {labels.name} does not know; name its convention with --convention"
        )
        return None
    aligned = reference.grid.reoriented(native.orientation)
    if not aligned.matches(native):
        warnings.append(
            f"not scored: {name} lies on another grid ({reference.grid.described()}) than the images "
            f"({native.described()}); resample it onto theirs"
        )
        return None
    array = nib.orientations.apply_orientation(reference.array, reference.grid.orientation_to(native.orientation))
    truth = labels.region_masks(array)
    return {region: truth[region] for region in result.masks if region in truth}
