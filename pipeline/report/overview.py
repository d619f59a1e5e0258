"""The parts of the page that speak of all patients: summary, comparison, lesions found by size, charts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from data.labels import sort_regions
from pipeline.report.charts import bland_altman_chart, distribution_chart
from pipeline.report.markup import count, escape, interval, metric_name, number, p_value, region_label, table
from pipeline.score.catalogue import Metric, Place, find_metric, shown_in

Row = dict[Any, Any]


def records(frame: pd.DataFrame | None) -> list[Row]:
    """The rows of a table as dictionaries; None and a table without rows give none."""
    return [] if frame is None else frame.to_dict("records")


def summary_section(summary: pd.DataFrame) -> str:
    """The table of means; empty where summary.csv has no row that the page shows."""
    shown = [(known, row) for row in records(summary) if (known := _summarised(row.get("metric")))]
    order = sort_regions(str(row.get("region")) for _, row in shown)
    shown.sort(key=lambda item: (order.index(str(item[1].get("region"))), item[0].shown_in[Place.SUMMARY]))
    cells = []
    for known, row in shown:
        metric, signed = known.key, known.signed
        spread = {name: number(row.get(name), metric, signed=signed) for name in ("mean", "sd", "median", "q1", "q3")}
        ends = interval(row.get("ci95_low"), row.get("ci95_high"), metric, signed=signed)
        quartiles = interval(row.get("q1"), row.get("q3"), metric, signed=signed)
        counts = [count(row.get(name)) for name in ("n", "n_empty_reference", "n_empty_prediction", "n_failed")]
        name = escape(known.title)
        cells.append(
            [region_label(row.get("region")), name, escape(row.get("system"))]
            + [spread["mean"], ends, spread["median"], quartiles, *counts]
        )
    head = ["Region", "Metric", "System", "Mean", "95 % interval", "Median", "Quartiles", "n", "Empty reference"]
    shown_table = table(
        [*head, "Empty prediction", "Failed"], cells, label="Summary by region and metric", text_columns=3
    )
    note = (
        '<p class="note">Nothing is left out of a mean for being empty: where both masks are empty Dice and NSD are 1 and '
        "distances 0; where one is, Dice and NSD are 0 and distances the penalty. The interval is of the mean "
        "(bootstrap over patients).</p>"
        if any(known.better for known, _ in shown)
        else ""
    )
    return f'<section><h2 id="summary">Summary</h2>{shown_table}{note}</section>' if cells else ""


def _summarised(column: Any) -> Metric | None:
    metric = find_metric(str(column))
    return metric if metric is not None and Place.SUMMARY in metric.shown_in else None


def comparison_section(comparison: pd.DataFrame | None) -> str:
    """The first system against each other one, on the patients that both have; empty where nothing is compared."""
    cells = []
    for row in records(comparison):
        metric = str(row.get("metric"))
        won = [count(row.get(name)) for name in ("wins", "losses", "ties")]
        cells.append(
            [region_label(row.get("region")), escape(metric_name(metric))]
            + [escape(row.get(name)) for name in ("system", "other")]
            + [count(row.get("n"))]
            + [number(row.get(name), metric) for name in ("mean_system", "mean_other")]
            + [number(row.get("mean_difference"), metric, signed=True)]
            + [interval(row.get("ci95_low"), row.get("ci95_high"), metric, signed=True)]
            + [p_value(row.get("p_wilcoxon")), " / ".join(won) if all(won) else ""]
            + [number(row.get("median_difference"), metric, signed=True)]
        )
    head = ["Region", "Metric", "System", "Against", "n", "Mean", "Mean (other)", "Mean difference"]
    head += ["95 % interval", "p (Wilcoxon)", "Won / lost / tied", "Median difference"]
    shown = table(head, cells, label="Comparison of systems", text_columns=4)
    note = (
        '<p class="note">Paired by patient: the difference is system \N{MINUS SIGN} other. Dice and NSD are better when '
        "higher, distances when lower. p is of the Wilcoxon signed-rank test, not corrected for several comparisons.</p>"
    )
    return f'<section><h2 id="comparison">Comparison</h2>{shown}{note}</section>' if cells else ""


def detection_section(detection: pd.DataFrame | None) -> str:
    """How many reference lesions of each size were found; empty where there is no such table."""
    cells = [
        [region_label(row.get("region")), escape(row.get("size_class"))]
        + [escape(row.get("system")), count(row.get("n")), count(row.get("found")), number(row.get("sensitivity"))]
        for row in records(detection)
    ]
    head = ["Region", "Size of the lesion (ml)", "System", "Lesions", "Found", "Sensitivity"]
    shown = table(head, cells, label="Lesions found, by size", text_columns=3)
    return f'<section><h2 id="detection">Lesions found, by size</h2>{shown}</section>' if cells else ""


def charts_section(metrics: pd.DataFrame) -> Iterator[str]:
    """Every chart that has enough patients to show: see :data:`pipeline.report.charts.LEAST_PATIENTS`."""
    spread = [distribution_chart(metrics, metric.key, metric.title) for metric in shown_in(Place.CHARTS)]
    shown = [chart for chart in spread if chart is not None]
    wide = " wide" if "system" in metrics else ""
    if shown:
        yield f'<section><h2 id="charts">Scores of every patient</h2><div class="charts{wide}">'
        yield from (f"<figure>{chart}</figure>" for chart in shown)
        yield (
            '</div><p class="note">A point is a patient. A box spans the quartiles, its line is the median, its whiskers '
            "reach the last value within 1.5 times the box.</p></section>"
        )
    if "region" not in metrics:
        return
    regions = sort_regions(metrics["region"].dropna().astype(str))
    systems = list(dict.fromkeys(metrics["system"].astype(str))) if "system" in metrics else [None]
    pairs = [bland_altman_chart(metrics, region, system) for system in systems for region in regions]
    shown = [chart for chart in pairs if chart is not None]
    if shown:
        yield '<section><h2 id="volumes">Volumes: prediction against reference</h2><div class="charts">'
        yield from (f"<figure>{chart}</figure>" for chart in shown)
        yield (
            '</div><p class="note">Bland-Altman charts: the solid line is the mean difference, the dashed lines are '
            "1.96 standard deviations above and below it (the 95 % limits of agreement).</p></section>"
        )
