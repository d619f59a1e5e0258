"""Comparison of predictions with references over time: changes and categories.

Both sides of a patient are followed alike, each with its own masks. What is compared:

error of the change
    A visit's volume less that of the first visit, of the prediction, less the same of the reference, in ml.
agreement
    Visits of which both sides have one of CR, PR, MR, SD and PD: how many have the same, and Cohen's kappa [1]_.
    Baselines and visits that are not evaluable on a side are not among them, and are counted.

References
----------
.. [1] Cohen: A coefficient of agreement for nominal scales. Educ Psychol Meas 20(1), 1960.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.case import Case
from data.labels import sort_regions
from pipeline.evaluate.visits import VisitMask, masks_of_cases, visits_of_masks
from pipeline.follow.criteria import CATEGORIES, CRITERIA
from pipeline.follow.patients.sources import Visit, visits_by_patient
from pipeline.follow.patients.task import PatientTask, Row
from pipeline.follow.patients.work import timepoints_of
from pipeline.follow.run import FollowOptions, tasks_of
from pipeline.follow.show.tables import frame_of
from pipeline.report.charts import agreement
from pipeline.score.tables import write_table

OVER_TIME, OVER_TIME_CATEGORIES, OVER_TIME_SUMMARY = (
    "over_time.csv",
    "over_time_categories.csv",
    "over_time_summary.csv",
)
JUDGED = tuple(name for name in CATEGORIES if name not in ("BASELINE", "NE"))
CHANGE_COLUMNS = (
    "patient", "case", "timepoint", "date", "days", "region", "volume_ml_reference", "volume_ml_prediction",
    "change_ml_reference", "change_ml_prediction", "error_of_change_ml",
)  # fmt: skip
SUMMARY_COLUMNS = (
    "measure", "n", "mean_error_ml", "mean_absolute_error_ml", "limit_low_ml", "limit_high_ml", "agreement", "kappa",
    "n_not_compared",
)  # fmt: skip


def compare_over_time(
    predictions: Path,
    references: Path,
    output: Path,
    options: FollowOptions | None = None,
    *,
    conventions: tuple[str | None, str | None] = (None, None),
    with_dates: Callable[[Sequence[Case]], list[Case]] = list,
    progress: Callable[[Row], None] | None = None,
) -> pd.DataFrame:
    """Follow both sides of every patient, and write three tables into ``output``.

    Parameters
    ----------
    predictions, references : Path
        Folders of masks; images of the references, where they are there, register the visits.
    output : Path
        There. Gets over_time.csv (a row a visit and region), over_time_categories.csv (how often which category of
        the reference met which one of the prediction) and over_time_summary.csv.
    conventions : (str or None, str or None)
        Of predictions and of references.
    with_dates : callable
        Gives cases their dates.
    progress : callable, optional
        Called with a row for each patient.

    Returns
    -------
    DataFrame
        The rows of over_time_summary.csv.
    """
    options = options or FollowOptions()
    truth = visits_of_masks(references)
    cases = with_dates([mask.case for mask in truth])
    truth = [replace(mask, case=case) for mask, case in zip(truth, cases, strict=True)]
    found = list(masks_of_cases(cases, predictions).values())
    sides = [_tasks(masks, name, options, output) for masks, name in ((found, conventions[0]), (truth, conventions[1]))]
    rows: list[tuple[Row, Row]] = []
    for task, reference in zip(*sides, strict=True):
        measured, expected = timepoints_of(task), {row["case"]: row for row in timepoints_of(reference)}
        rows += [(row, expected[row["case"]]) for row in measured if row["case"] in expected]
        if progress is not None:
            progress({"case": task.patient, "status": "ok", "reason": "", "seconds": 0.0})
    changes = list(change_rows(rows))
    counts = {name: confusion(rows, name) for name in options.criteria}
    write_table(output / OVER_TIME, frame_of(changes, CHANGE_COLUMNS))
    table = [
        {"criterion": name, "reference": expected, "prediction": got, "n": counts[name][expected, got]}
        for name in options.criteria
        for expected in JUDGED
        for got in JUDGED
    ]
    write_table(output / OVER_TIME_CATEGORIES, pd.DataFrame(table))
    summary = frame_of([*_errors(changes), *_agreements(rows, counts)], SUMMARY_COLUMNS)
    write_table(output / OVER_TIME_SUMMARY, summary)
    return summary


def _tasks(
    masks: Sequence[VisitMask], convention: str | None, options: FollowOptions, output: Path
) -> list[PatientTask]:
    visits: Mapping[str, Sequence[Visit]] = visits_by_patient(masks, convention, options.segment.max_voxels)
    return tasks_of(visits, output, options)


def change_rows(rows: Sequence[tuple[Row, Row]]) -> Iterator[Row]:
    """Yield a row for each visit and region that both sides have measured.

    ``rows`` are pairs of rows of timepoints.csv: of the prediction and of the reference. A change is that from the
    first visit of the patient that both sides have.
    """
    firsts: dict[tuple[str, str], tuple[float, float]] = {}
    start = "volume_ml_"
    for got, expected in rows:
        regions = sort_regions(name.removeprefix(start) for name in got if name.startswith(start) and name in expected)
        for region in regions:
            pair = (got[f"{start}{region}"], expected[f"{start}{region}"])
            if None in pair:
                continue
            is_first = (got["patient"], region) not in firsts
            then = firsts.setdefault((got["patient"], region), pair)
            row = {name: got[name] for name in ("patient", "case", "timepoint", "date", "days")}
            row |= {"region": region, "volume_ml_prediction": pair[0], "volume_ml_reference": pair[1]}
            if not is_first:
                change, true = pair[0] - then[0], pair[1] - then[1]
                row |= {"change_ml_prediction": change, "change_ml_reference": true}
                row["error_of_change_ml"] = change - true
            yield row


def confusion(rows: Sequence[tuple[Row, Row]], criterion: str) -> Counter[tuple[str, str]]:
    """Count the visits by category of reference and prediction.

    Only those of `JUDGED` count.
    """
    column = f"category_{CRITERIA[criterion].column}"
    pairs = ((expected.get(column), got.get(column)) for got, expected in rows)
    return Counter((str(expected), str(got)) for expected, got in pairs if expected in JUDGED and got in JUDGED)


def kappa(counts: Mapping[tuple[str, str], int]) -> float | None:
    """Return Cohen's kappa of a confusion table.

    None where the table is empty, or chance alone agrees wholly.
    """
    total = sum(counts.values())
    if not total:
        return None
    observed = sum(n for (a, b), n in counts.items() if a == b) / total
    names = {name for pair in counts for name in pair}
    chance = sum(
        sum(n for (a, _), n in counts.items() if a == name) * sum(n for (_, b), n in counts.items() if b == name)
        for name in names
    ) / (total * total)
    return None if math.isclose(chance, 1.0) else (observed - chance) / (1 - chance)


def _errors(changes: Sequence[Row]) -> Iterator[Row]:
    for region in sort_regions(row["region"] for row in changes):
        own = [row for row in changes if row["region"] == region and "error_of_change_ml" in row]
        got, true = (np.array([row[name] for row in own], float) for name in _CHANGES)
        found = agreement(got, true)
        yield {
            "measure": f"change_ml_{region}", "n": found.n, "mean_error_ml": found.mean,
            "mean_absolute_error_ml": float(np.abs(got - true).mean()) if own else None,
            "limit_low_ml": found.low, "limit_high_ml": found.high,
        }  # fmt: skip


_CHANGES = ("change_ml_prediction", "change_ml_reference")


def _agreements(rows: Sequence[tuple[Row, Row]], counts: Mapping[str, Counter[tuple[str, str]]]) -> Iterator[Row]:
    for name, table in counts.items():
        total = sum(table.values())
        same: Any = sum(n for (a, b), n in table.items() if a == b)
        yield {
            "measure": f"category_{CRITERIA[name].column}", "n": total,
            "agreement": same / total if total else None, "kappa": kappa(table), "n_not_compared": len(rows) - total,
        }  # fmt: skip
