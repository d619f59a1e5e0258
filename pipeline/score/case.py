"""One patient's masks to scores: rows of report.csv, metrics.csv and lesions.csv.

All programs that score masks use it. A region is scored where prediction and reference both have it. The definition of
a number, also for empty masks and unknown spacing, stands in :mod:`pipeline.score.metrics`,
:mod:`pipeline.score.lesionwise` and :mod:`pipeline.score.lesions`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data.errors import UsageError
from data.grid import Grid
from data.labels import Mask
from pipeline.score import catalogue
from pipeline.score.lesions import detection_scores, lesion_table
from pipeline.score.lesionwise import LESIONWISE, lesionwise_sets
from pipeline.score.metrics import PENALTY_MM, region_scores, volume_ml

__all__ = ["CaseScores", "ScoreOptions", "metric_columns", "score_case", "score_flags", "score_masks"]


@dataclass(frozen=True)
class ScoreOptions:
    """Measures to compute for every patient and region.

    Raises
    ------
    data.errors.UsageError
        A name is unknown, or the tolerance is not a positive number.
    """

    metrics: tuple[str, ...] = ("standard",)
    """"standard" (always there, named or not) and names of :data:`pipeline.score.lesionwise.LESIONWISE`."""
    tolerance_mm: float = 1.0
    """Of the normalised surface Dice (``nsd``)."""
    split_lesions: bool = False
    """Touching lesions are told apart by watershed before they are listed and counted."""

    def __post_init__(self) -> None:
        known = ("standard", *LESIONWISE)
        if unknown := [name for name in self.metrics if name not in known]:
            raise UsageError(f"--metrics {' '.join(map(repr, unknown))}: choose among {', '.join(known)}")
        if not (math.isfinite(self.tolerance_mm) and self.tolerance_mm > 0):
            raise UsageError(f"--tolerance-mm {self.tolerance_mm:g}: give a positive number of millimetres, such as 1")

    @property
    def lesionwise(self) -> tuple[str, ...]:
        """Lesion-wise sets asked for, each once, in the order asked."""
        return tuple(dict.fromkeys(name for name in self.metrics if name != "standard"))


@dataclass(frozen=True)
class CaseScores:
    """Scores of one patient's masks, as scalars alone."""

    columns: dict[str, float] = field(default_factory=dict)
    """Columns of report.csv: volumes and voxels of every predicted region, scores of those that were scored."""
    regions: list[dict[str, Any]] = field(default_factory=list)
    """Rows of metrics.csv without the case: a row a region."""
    lesions: list[dict[str, Any]] = field(default_factory=list)
    """Rows of lesions.csv without the case: a row a lesion, of either side."""
    flags: list[str] = field(default_factory=list)
    """Sentences that a reader of the scores needs."""


def metric_columns(options: ScoreOptions) -> tuple[str, ...]:
    """Return the columns of metrics.csv, which do not depend on the patients."""
    metrics = [
        *catalogue.measured(),
        *(metric for name in options.lesionwise for metric in catalogue.lesionwise(name)),
        *catalogue.DETECTION,
        *catalogue.VOXELS,
    ]
    return ("case", "region", *(metric.key for metric in metrics))


def score_masks(
    prediction: Mapping[str, Mask],
    reference: Mapping[str, Mask] | None,
    grid: Grid,
    options: ScoreOptions | None = None,
) -> CaseScores:
    """Measure one patient's masks: volumes, lesions and, with a reference, scores.

    Parameters
    ----------
    prediction, reference : region -> (d1, d2, d3) bool
        Masks on ``grid``. Without a reference (None) there are volumes and the prediction's lesions, and every score
        is NaN. With one, a region that only one side has gets no row of metrics.csv.
    grid : Grid
        Gives the spacing; mm and ml are NaN where it is not known, and what else rests on them (nsd, and the
        lesion-wise sets whose rules are in mm3).
    options : ScoreOptions, optional
        The default is the standard set.

    Returns
    -------
    CaseScores
        No regions give empty ones. Empty masks are scored by the empty rule of :mod:`pipeline.score.metrics`, and
        flagged.

    Raises
    ------
    ValueError
        When masks are not boolean or not of one shape.
    """
    options = options or ScoreOptions()
    if reference is None:
        rows = [_volumes_alone(region, mask, grid) for region, mask in prediction.items()]
    else:
        rows = _standard_rows(prediction, reference, grid, options.tolerance_mm, PENALTY_MM)
    truth = reference or {}
    by_region = {row["region"]: row for row in rows}
    lesions: list[dict[str, Any]] = []
    for region, mask in prediction.items():
        found = lesion_table(mask, truth.get(region), grid, split=options.split_lesions)
        lesions += [{"region": region} | row for row in found]
        if region in by_region:
            by_region[region] |= _lesionwise_columns(mask, truth.get(region), grid, region, options)
            by_region[region] |= _detection_columns(found, region in truth)
    columns = {f"volume_ml_{region}": _volume_ml(mask, grid) for region, mask in prediction.items()}
    columns |= _report_columns(rows if reference is not None else [])
    columns |= {f"voxels_{region}": int(np.count_nonzero(mask)) for region, mask in prediction.items()}
    order = metric_columns(options)[1:]
    regions = [{name: row[name] for name in order} for row in rows]
    return CaseScores(columns, regions, lesions, score_flags(columns))


def score_case(
    prediction: Mapping[str, Mask], reference: Mapping[str, Mask], grid: Grid, penalty_mm: float = PENALTY_MM
) -> dict[str, float]:
    """Return one patient's scores as columns of report.csv, without lesions.

    Parameters
    ----------
    prediction, reference : region -> (d1, d2, d3) bool
        Masks on ``grid``. Regions that only one side has are not scored.
    grid : Grid
        Gives the spacing; distances are NaN where it is not known.
    penalty_mm : float
        The distance that stands for a region which only one side has voxels of: the empty rule of
        :mod:`pipeline.score.metrics`.

    Returns
    -------
    dict
        ``<measure>_<region>`` for the measures of report.csv (`catalogue.Place.REPORT`): volumes, ``dice``,
        ``hd95_mm``, ``hd_mm``, ``nsd`` (at 1 mm), and the numbers of voxels, ``voxels`` of the prediction and
        ``reference_voxels``, from which the summary counts the empties.

    Raises
    ------
    ValueError
        When masks are not boolean or not of one shape.
    """
    return _report_columns(_standard_rows(prediction, reference, grid, 1.0, penalty_mm))


def score_flags(columns: Mapping[str, float]) -> list[str]:
    """Return remarks on the regions that the empty rule decided.

    A reader of the scores needs them.
    """
    flags = []
    for region in (name.removeprefix("reference_voxels_") for name in columns if name.startswith("reference_voxels_")):
        empty = [
            side
            for side, count in (("prediction", "voxels"), ("reference", "reference_voxels"))
            if not columns[f"{count}_{region}"]
        ]
        if empty:
            flags.append(f"{region} is empty in the {' and the '.join(empty)}")
    return flags


def _standard_rows(
    prediction: Mapping[str, Mask], reference: Mapping[str, Mask], grid: Grid, tolerance_mm: float, penalty_mm: float
) -> list[dict[str, Any]]:
    rows = []
    for region in (region for region in reference if region in prediction):
        own, other = prediction[region], reference[region]
        scores = region_scores(
            own, other, _spacing_mm(grid),
            # Exact for sheared grids too, which the product of the spacings is not.
            voxel_volume_ml=grid.voxel_volume_ml, tolerance_mm=tolerance_mm, penalty_mm=penalty_mm,
        )  # fmt: skip
        rows.append({"region": region} | scores | _voxel_columns(own, other))
    return rows


def _volumes_alone(region: str, mask: Mask, grid: Grid) -> dict[str, Any]:
    row: dict[str, Any] = {"region": region} | {metric.key: math.nan for metric in catalogue.measured()}
    return row | {"volume_ml_prediction": _volume_ml(mask, grid)} | _voxel_columns(mask, None)


def _spacing_mm(grid: Grid) -> tuple[float, float, float] | None:
    return grid.spacing_mm if grid.spacing_known else None


def _volume_ml(mask: Mask, grid: Grid) -> float:
    return volume_ml(mask, grid.voxel_volume_ml if grid.spacing_known else None)


def _voxel_columns(prediction: Mask, reference: Mask | None) -> dict[str, int | None]:
    return {
        "voxels_prediction": int(np.count_nonzero(prediction)),
        "voxels_reference": None if reference is None else int(np.count_nonzero(reference)),
    }


def _report_columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Turn rows of metrics.csv into columns of report.csv."""
    return {
        f"{catalogue.report_name(metric)}_{row['region']}": row[metric.key]
        for row in rows
        for metric in catalogue.shown_in(catalogue.Place.REPORT)
        if metric.key in row
    }


def _lesionwise_columns(
    prediction: Mask, reference: Mask | None, grid: Grid, region: str, options: ScoreOptions
) -> dict[str, Any]:
    sets = {name: LESIONWISE[name] for name in options.lesionwise}
    scored: Mapping[str, Mapping[str, Any]] = {}
    if reference is not None and sets:
        scored = lesionwise_sets(prediction, reference, _spacing_mm(grid), sets, region)
    return {
        column.key: scored[name][metric.key] if name in scored else None
        for name in sets
        for column, metric in zip(catalogue.lesionwise(name), catalogue.LESIONWISE, strict=True)
    }


def _detection_columns(found: Sequence[Mapping[str, Any]], referenced: bool) -> dict[str, Any]:
    known = detection_scores(found).items()
    return {name: value if referenced or name.endswith("_prediction") else None for name, value in known}
