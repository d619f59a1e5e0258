"""One patient of an evaluation.

Two label maps become masks on one grid, scores and a picture; no error of one patient stops another.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.case import ImageSource
from data.errors import InputError, SegmentationError, explain
from data.folder_names import folder_name
from data.grid import Grid
from data.io.read import Volume, read_label_map
from data.labels import LabelConvention, Mask, count_labels
from pipeline.evaluate.grids import to_one_grid, with_header_of
from pipeline.evaluate.label_maps import LabelMap
from pipeline.evaluate.pairs import Pair, settle_conventions
from pipeline.report.preview import read_background
from pipeline.score.case import CaseScores, ScoreOptions, score_masks
from pipeline.score.lesions import sensitivity_by_size

log = logging.getLogger(__name__)

Row = dict[str, Any]


@dataclass(frozen=True)
class PairTask:
    """Work on one patient, as a worker needs it."""

    pair: Pair
    options: ScoreOptions
    resample: bool
    image: ImageSource | None = None
    """Whose header a prediction gets that has lost its own."""
    doubled: str = ""
    """Flag where other cases have the same files; of a reference without any label it is not said."""


@dataclass(frozen=True)
class Outcome:
    """Results of an evaluation for one patient: scalars and short texts."""

    row: Row
    """Of report.csv."""
    regions: list[Row] = field(default_factory=list)
    """Of metrics.csv, without case and system."""
    lesions: list[Row] = field(default_factory=list)
    """Of lesions.csv, likewise."""
    detection: list[Row] = field(default_factory=list)
    """Of :func:`pipeline.score.lesions.sensitivity_by_size`, for each region."""
    seconds: float = 0.0
    """What scoring took; not in the row, which is the same for the same files."""


@dataclass(frozen=True)
class PairMasks:
    """Two sides of one patient as masks on one grid.

    It is the reference's where that holds the prediction's.
    """

    prediction: dict[str, Mask]
    reference: dict[str, Mask]
    grid: Grid
    convention: LabelConvention
    """Of the prediction."""
    warnings: list[str]
    flags: list[str]


def score_pair(task: PairTask) -> Outcome:
    """Score one patient.

    No error of one patient may stop another.
    """
    start = time.perf_counter()
    row = _bare_row(task.pair)
    scores = CaseScores()
    try:
        read = read_pair(task)
        scores = score_masks(read.prediction, read.reference, read.grid, task.options)
        flags = [*scores.flags, *_quality_flags(read), *read.flags]
        row |= {
            "status": "warn" if read.warnings else "ok",
            "reason": "; ".join(dict.fromkeys(read.warnings)),
            "flags": "; ".join(dict.fromkeys(flags)),
            "convention": read.convention.name,
        }
        row |= scores.columns
    except Exception as error:
        log.debug("case %r", task.pair.case, exc_info=True)
        row = error_row(task, explain(error))
    if row["status"] == "error":
        scores = CaseScores()
    seconds = round(time.perf_counter() - start, 3)
    return Outcome(row, scores.regions, scores.lesions, _detection(scores), seconds)


def error_row(task: PairTask, reason: str) -> Row:
    """Return the row of a patient that has no scores."""
    return _bare_row(task.pair) | {"status": "error", "reason": reason}


def read_pair(task: PairTask) -> PairMasks:
    """Read both label maps of a patient and bring them to one grid.

    Raises
    ------
    data.errors.InputError
        A side is missing or not readable, its convention cannot be told, the reference holds a label outside it, or
        the grids differ and ``task.resample`` is not set.
    """
    pair = task.pair
    predicted, expected = (
        _require_one("prediction", pair.predictions, pair.roots[0]),
        _require_one("reference", pair.references, pair.roots[1]),
    )
    (prediction, given), reference = with_header_of(_label_map(predicted), task.image), _label_map(expected)
    counts, reference_counts = count_labels(prediction.array), count_labels(reference.array)
    (convention, reason), (reference_convention, reference_reason) = settle_conventions(
        pair, (counts.keys(), reference_counts.keys())
    )
    if strangers := reference_convention.unknown_labels(reference_counts):
        raise InputError(
            f"not scored: the reference holds {_counted(strangers, reference_counts)} outside "
            f"{reference_convention.name}; correct it, or name its convention with --reference-convention"
        )
    # What the choice of the prediction's convention warns of are strange labels: said below, with their counts.
    prediction_choice, reference_choice = pair.choices
    warnings = [
        *(prediction_choice.warnings if prediction_choice and pair.asked else ()),
        *predicted.case.warnings,
        *expected.case.warnings,
        *(reference_choice.warnings if reference_choice else ()),
    ]
    warnings += [*prediction.header.warnings, *reference.header.warnings]
    if strangers := convention.unknown_labels(counts):
        warnings.append(
            f"the prediction holds {_counted(strangers, counts)} outside {convention.name}, counted as background"
        )
    truth, masks, grid, moved = to_one_grid(
        (reference, reference_convention.region_masks(reference.array)),
        (prediction, convention.region_masks(prediction.array)),
        task.resample,
    )
    flags = [f"{r} is not scored: {name} has no such region" for r, name in _unshared(convention, reference_convention)]
    known = prediction.grid.spacing_known and reference.grid.spacing_known
    if not known:
        flags.append("the voxel size is unknown: no mm, no ml; voxels_<region> counts voxels")
    # A semicolon parts one flag from the next.
    read_as = f"prediction read as {convention.name} ({reason})"
    read_as += f", reference as {reference_convention.name} ({reference_reason})"
    doubled = [task.doubled] if task.doubled and any(reference_counts) else []
    flags += [flag.replace("; ", ", ") for flag in (*predicted.remarks, *doubled, read_as)]
    return PairMasks(masks, truth, Grid(grid.shape, grid.affine, known), convention, warnings + given + moved, flags)


def background_of(pair: Pair, grid: Grid) -> NDArray[np.float32] | None:
    """Return the image behind a patient's outlines, (d1, d2, d3) float32 on ``grid``.

    It is None where no image is known.
    """
    found = (read_background(item.images, grid) for item in (*pair.references, *pair.predictions))
    return next((image for image in found if image is not None), None)


def draw_pair(task: tuple[PairTask, Path]) -> bool:
    """Write a patient's picture, prediction and reference on three planes; False where that could not be done."""
    from pipeline.report.preview import write_preview

    work, path = task
    try:
        read = read_pair(work)
        background = background_of(work.pair, read.grid)
        write_preview(path, work.pair.case, background, read.prediction, read.grid, read.reference)
    except (SegmentationError, MemoryError) as error:
        log.warning("no picture of %s: %s", work.pair.case, error)
        return False
    except Exception:  # the scores are worth more than a picture of them
        log.warning("no picture of %s", work.pair.case, exc_info=True)
        return False
    return True


def _bare_row(pair: Pair) -> Row:
    mask = pair.predictions[0] if pair.predictions else None
    folder = mask.folder if mask else folder_name(pair.references[0].case.case_id)
    return {
        "case": pair.case, "folder": folder, "status": "ok", "reason": "", "flags": "",
        "model": mask.model if mask else "", "convention": "", "seconds": mask.seconds if mask else None,
    }  # fmt: skip


def _detection(scores: CaseScores) -> list[Row]:
    regions = [row["region"] for row in scores.regions if row["voxels_reference"] is not None]
    return [
        {"region": region} | row
        for region in regions
        for row in sensitivity_by_size([lesion for lesion in scores.lesions if lesion["region"] == region])
    ]


def _quality_flags(read: PairMasks) -> list[str]:
    from pipeline.score.quality import quality_flags

    # That a region is empty is said with its side by the scores' own flags.
    return [flag for flag in quality_flags(read.prediction, read.grid) if not flag.startswith("no ")]


def _require_one(name: str, items: Collection[LabelMap], root: Path) -> LabelMap:
    if not items:
        raise InputError(f"no {name} in {root} for this patient; add one, or leave the patient out on both sides")
    if len(items) > 1:
        raise InputError(
            f"{len(items)} {name}s in {root} bear this id: {', '.join(str(i.case.folder) for i in items)}; leave one"
        )
    (only,) = items
    if only.case.reference is None:
        raise InputError(
            f"no {name} in {root} for this patient ({only.missing or 'its folder holds no label map'}); add one"
        )
    return only


def _label_map(item: LabelMap) -> Volume:
    assert item.case.reference is not None  # see _require_one
    return read_label_map(item.case.reference)


def _counted(labels: Collection[float], counts: Mapping[float, int], most: int = 8) -> str:
    named = [f"label {label:g} ({counts[label]} voxels)" for label in list(labels)[:most]]
    if len(labels) > most:
        named.append(f"{len(labels) - most} more")
    return " and ".join([", ".join(named[:-1]), named[-1]] if len(named) > 1 else named)


def _unshared(one: LabelConvention, other: LabelConvention) -> list[tuple[str, str]]:
    """Return the regions that only one of two conventions has.

    Each comes with the name of the one that lacks it.
    """
    return [(r, other.name) for r in one.regions if r not in other.regions] + [
        (r, one.name) for r in other.regions if r not in one.regions
    ]
