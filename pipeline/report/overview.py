"""Parts of the page on all patients: summary, comparison, lesions found by size, charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from data.labels import sort_regions
from pipeline.report.charts import bland_altman_chart, distribution_chart
from pipeline.report.texts import Table, as_number, count, interval, make_table, metric_name, number, p_value
from pipeline.score.catalogue import Metric, Place, find_metric, shown_in
from pipeline.score.compared import PENALTY_MM
from pipeline.score.lesions import SMALL_ML
from pipeline.score.significance import LEAST_PATIENTS

Row = dict[Any, Any]


def records(frame: pd.DataFrame | None) -> list[Row]:
    """Return the rows of a table as dictionaries; None and a table without rows give none."""
    return [] if frame is None else frame.to_dict("records")


def summary_table(summary: pd.DataFrame, tolerance_mm: float | None = None) -> Table | None:
    """Make the table of means; None where summary.csv has no row that the page shows."""
    shown = _summarised(summary)
    order = sort_regions(str(row.get("region")) for _, row in shown)
    shown.sort(key=lambda item: (order.index(str(item[1].get("region"))), item[0].shown_in[Place.SUMMARY]))
    cells = [
        [row.get("region"), metric_name(metric.key, tolerance_mm), row.get("system")]
        + [
            number(row.get("mean"), metric.key, signed=metric.signed),
            interval(row.get("ci95_low"), row.get("ci95_high"), metric.key, signed=metric.signed),
            number(row.get("median"), metric.key, signed=metric.signed),
            interval(row.get("q1"), row.get("q3"), metric.key, signed=metric.signed),
        ]
        + [count(row.get(name)) for name in ("n", "n_empty_reference", "n_empty_prediction", "n_failed")]
        + [count(row.get("n_learnt_from")) if as_number(row.get("n_learnt_from")) > 0 else ""]
        for metric, row in shown
    ]
    head = ["Region", "Metric", "System", "Mean", "95 % interval", "Median", "Quartiles", "n", "Empty reference"]
    head += ["Empty prediction", "Failed", "Learnt from"]
    return make_table(head, cells, label="Summary by region and metric", text_columns=3)


def has_scores(summary: pd.DataFrame) -> bool:
    """Tell whether the summary shows a score, and not volumes alone.

    The empty rule applies to scores.
    """
    return any(metric.better for metric, _ in _summarised(summary))


def _summarised(summary: pd.DataFrame) -> list[tuple[Metric, Row]]:
    found = [(find_metric(str(row.get("metric"))), row) for row in records(summary)]
    return [(metric, row) for metric, row in found if metric is not None and Place.SUMMARY in metric.shown_in]


def comparison_table(comparison: pd.DataFrame | None, tolerance_mm: float | None = None) -> Table | None:
    """Make the table of the first system against each other one; None where nothing is compared."""
    cells = []
    for row in records(comparison):
        metric = str(row.get("metric"))
        won = [count(row.get(name)) for name in ("wins", "losses", "ties")]
        cells.append(
            [row.get("region"), metric_name(metric, tolerance_mm), row.get("system"), row.get("other")]
            + [count(row.get("n"))]
            + [number(row.get(name), metric) for name in ("mean_system", "mean_other")]
            + [number(row.get("mean_difference"), metric, signed=True)]
            + [interval(row.get("ci95_low"), row.get("ci95_high"), metric, signed=True)]
            + [p_value(row.get("p_wilcoxon")), " / ".join(won) if all(won) else ""]
            + [number(row.get("median_difference"), metric, signed=True)]
        )
    head = ["Region", "Metric", "System", "Against", "n", "Mean", "Mean (other)", "Mean difference"]
    head += ["95 % interval", "p (Wilcoxon)", "Won / lost / tied", "Median difference"]
    return make_table(head, cells, label="Comparison of systems", text_columns=4)


def detection_table(detection: pd.DataFrame | None) -> Table | None:
    """Make the table of reference lesions found, by size; None where there is no such table."""
    cells = [
        [row.get("region"), row.get("size_class"), row.get("system")]
        + [count(row.get("n")), count(row.get("found")), number(row.get("sensitivity"))]
        for row in records(detection)
        if as_number(row.get("n")) != 0  # a size that no lesion has says nothing
    ]
    head = ["Region", "Size of the lesion (ml)", "System", "Lesions", "Found", "Sensitivity"]
    return make_table(head, cells, label="Lesions found, by size", text_columns=3)


@dataclass(frozen=True)
class Charts:
    """Charts of a page as SVG elements."""

    spread: Sequence[str] = ()
    """Of each metric."""
    agreement: Sequence[str] = ()
    """Of the volumes of each region (and system)."""
    wide: bool = False
    """Whether a chart of the spread shows several systems."""


def draw_charts(metrics: pd.DataFrame, tolerance_mm: float | None = None) -> Charts:
    """Draw every chart that has enough patients: :data:`pipeline.report.charts.LEAST_POINTS`."""
    shown = [metric.key for metric in shown_in(Place.CHARTS)]
    spread = [distribution_chart(metrics, key, metric_name(key, tolerance_mm)) for key in shown]
    agreement: list[str | None] = []
    if "region" in metrics:
        regions = sort_regions(metrics["region"].dropna().astype(str))
        systems = list(dict.fromkeys(metrics["system"].astype(str))) if "system" in metrics else [None]
        agreement = [bland_altman_chart(metrics, region, system) for system in systems for region in regions]
    return Charts(
        spread=[chart for chart in spread if chart is not None],
        agreement=[chart for chart in agreement if chart is not None],
        wide="system" in metrics,
    )


def definitions(tolerance_mm: float) -> dict[str, str]:
    """Return the definition of each score of the page, by its heading."""
    return {
        "Dice": "2 TP / (2 TP + FP + FN), in voxels of the region.",
        "HD95 (mm)": "The larger of the two directed 95th percentiles of the distances from each boundary voxel of one "
        "mask to the nearest boundary voxel of the other, between voxel centres. A boundary voxel has a face neighbour "
        "outside its mask.",
        f"NSD ({tolerance_mm:g} mm)": "Normalised surface Dice: the share of the boundary voxels of both masks that "
        f"lie within {tolerance_mm:g} mm of the other boundary.",
        "Empty masks": "Both empty: Dice and NSD 1, distances 0. One empty: Dice and NSD 0, distances "
        f"{PENALTY_MM:g} mm. No patient is left out of a mean for an empty mask.",
        "Lesion": "Voxels of a region that touch by face, edge or corner. It is found when the other mask has one "
        f"of its voxels. Lesions below {SMALL_ML:g} ml are counted apart: they are in no number of lesions found, "
        "missed or false.",
        "Interval and p": f"Bootstrap over patients (95 %, of the mean), and the Wilcoxon signed-rank test. Below "
        f"{LEAST_PATIENTS} patients neither is given.",
    }
