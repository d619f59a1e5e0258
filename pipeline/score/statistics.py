"""Spread of scores over patients, and paired differences between two systems.

Every function takes the rows of metrics.csv: one a case and region, a column a metric. A value that is not known (NaN)
is counted nowhere. A region that is empty on one side or both is no unknown value: the empty rule of
:mod:`pipeline.score.metrics` gave it a score, so it is in every mean, and the summary counts such patients beside it.

Intervals are of the mean over patients, 95 %, by the percentile bootstrap with a fixed seed, patients in the order of
their ids: the same scores give the same interval. Below six patients there is neither interval nor p. Differences are
paired, patient by patient, and rounded to 1e-9, so that what is equal on paper is a tie. p is Wilcoxon's signed-rank
test, two-sided, without the ties, and not corrected for the number of comparisons. The methods and their sources:
:mod:`pipeline.score.significance`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from data.labels import sort_regions
from pipeline.score import catalogue
from pipeline.score.quality import is_learnt_from
from pipeline.score.significance import LEAST_PATIENTS, bootstrap_interval, bootstrap_intervals, signed_rank_p

__all__ = ["bootstrap_interval", "compare", "compare_cases", "summarise_metrics"]

SUMMARY_COLUMNS = (
    *("region", "metric", "n", "mean", "sd", "median", "q1", "q3", "min", "max", "ci95_low", "ci95_high"),
    *("mean_reference_not_empty", "n_empty_reference", "n_empty_prediction", "n_failed", "n_learnt_from"),
)
COMPARISON_COLUMNS = (
    *("region", "metric", "system", "other", "n", "mean_system", "mean_other", "mean_difference"),
    *("ci95_low", "ci95_high", "median_difference", "p_wilcoxon", "wins", "losses", "ties"),
    *("n_only_system", "n_only_other"),
)
_COUNTS = ("n", "n_empty_reference", "n_empty_prediction", "n_failed", "n_learnt_from")
_TEXTS = ("case", "system", "region")
_DECIMALS = 9


def summarise_metrics(metrics: pd.DataFrame, report: pd.DataFrame) -> pd.DataFrame:
    """Summarise each region and metric: number of patients, spread, empty and failed ones.

    Parameters
    ----------
    metrics : DataFrame
        Rows of metrics.csv: case, region, and every other numeric column a metric, but for ``voxels_prediction`` and
        ``voxels_reference``, which tell the empties (or ``volume_ml_prediction`` and ``volume_ml_reference`` where the
        former are not known). With a column ``system``, each system by itself.
    report : DataFrame
        Rows of report.csv, one a patient (and system), with case and status.

    Returns
    -------
    DataFrame
        ``SUMMARY_COLUMNS``, after a column ``system`` where ``metrics`` has one. One row a region and metric, also
        where no patient has a value (n 0, NaN). sd of a sample (n - 1; NaN for one value); quartiles interpolated
        linearly; ``ci95_*`` see the module; ``mean_reference_not_empty`` over the patients whose reference has voxels
        of the region. ``n_empty_*`` count the region's patients, NA where nothing tells. ``n_failed``, the same for
        all rows of a system, counts the rows of ``report`` with status ``error`` or without a row in ``metrics``; NA
        where there is no status. ``n_learnt_from`` counts those scored patients whose flags say that the model has
        learnt from them; NA where there are no flags. No metrics give no rows.
    """
    by_system = "system" in metrics
    columns = [*(["system"] if by_system else []), *SUMMARY_COLUMNS]
    if "region" not in metrics:
        return pd.DataFrame(columns=columns)
    left_out = {*_TEXTS, *(metric.key for metric in catalogue.VOXELS)}
    names = [name for name in metrics if name not in left_out and pd.api.types.is_numeric_dtype(metrics[name].dtype)]
    ordered, parts = _by_case(metrics), []
    for system in _systems(metrics, report) if by_system else [None]:
        rows, patients = _of_system(ordered, system), _of_system(report, system)
        n_failed, n_learnt_from = _count_failed(rows, patients), _count_learnt_from(rows, patients)
        for region in sort_regions(metrics["region"]):
            part = _summarise_region(rows[rows["region"] == region], names)
            parts.append(part.assign(system=system, region=region, n_failed=n_failed, n_learnt_from=n_learnt_from))
    summary = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    return summary[columns].astype(dict.fromkeys(_COUNTS, "Int64"))


def compare(metrics_by_system: Mapping[str, pd.DataFrame], *, of: Sequence[str] | None = None) -> pd.DataFrame:
    """Compare the first system with each other one on the patients of both.

    Parameters
    ----------
    metrics_by_system : system -> DataFrame
        At least two; rows of metrics.csv, at most one a case and region.
    of : metrics
        Columns whose better end the catalogue knows (`pipeline.score.catalogue`), those of lesion-wise sets among them.
        Default: those that it shows in comparison.csv.

    Returns
    -------
    DataFrame
        ``COMPARISON_COLUMNS``, one row a region, metric and other system. Means, differences (system minus other, in
        the metric's unit) and the interval of the mean difference are over the ``n`` paired patients; NaN for none.
        ``p_wilcoxon``: see the module; 1 where all differences are zero; NaN, like the interval, below six. ``wins``
        counts patients for whom the first system is the better one; wins + losses + ties = n. ``n_only_*`` count
        patients with a value of one system alone: a system that fails on the hard ones looks better than it is.

    Raises
    ------
    ValueError
        For fewer than two systems, two rows of one case and region, or a metric of which neither end is better.
    """
    rows = []
    for region, metric, table in _tables(metrics_by_system, of):
        first, *others = table.columns
        for other in others:
            rows.append({"region": region, "metric": metric} | _compared(table[first], table[other], metric))
    return pd.DataFrame(rows, columns=list(COMPARISON_COLUMNS))


def compare_cases(metrics_by_system: Mapping[str, pd.DataFrame], *, of: Sequence[str] | None = None) -> pd.DataFrame:
    """List the comparison of :func:`compare` patient by patient.

    Parameters
    ----------
    metrics_by_system, of
        As for :func:`compare`, with its errors.

    Returns
    -------
    DataFrame
        Columns case, region, metric, one a system with its value, ``difference`` (the first minus the second system;
        with more than two, ``difference_<other>`` each) and ``better``: the system with the best value, ``tie`` where
        several share it, empty where a system has no value. One row a region, metric and case that any system has
        a value for.
    """
    others = list(metrics_by_system)[1:]
    differences = ["difference"] if len(others) == 1 else [f"difference_{other}" for other in others]
    # A list of lists: a system may bear the name of another column.
    rows: list[list[Any]] = []
    for region, metric, table in _tables(metrics_by_system, of):
        for case, values in zip(table.index, table.to_numpy(), strict=True):
            best = _best(values, list(table.columns), metric)
            rows.append([case, region, metric, *values, *np.round(values[0] - values[1:], _DECIMALS), best])
    return pd.DataFrame(rows, columns=["case", "region", "metric", *metrics_by_system, *differences, "better"])


# ---- the summary ----


def _summarise_region(rows: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    values = pd.DataFrame(rows[names].to_numpy(float, na_value=np.nan), columns=list(names))
    reference, prediction = _size(rows, "reference"), _size(rows, "prediction")
    enough = (values.notna().sum() >= LEAST_PATIENTS).to_numpy()
    intervals = np.full((len(names), 2), np.nan)
    intervals[enough] = bootstrap_intervals(values.to_numpy().T[enough])
    present = np.zeros(len(rows), bool) if reference is None else reference.to_numpy(float, na_value=np.nan) > 0
    summary = pd.DataFrame(
        {
            "n": values.count(), "mean": values.mean(), "sd": values.std(ddof=1), "median": values.median(),
            "q1": values.quantile(0.25), "q3": values.quantile(0.75), "min": values.min(), "max": values.max(),
            "ci95_low": intervals[:, 0], "ci95_high": intervals[:, 1],
            "mean_reference_not_empty": values[present].mean(),
            "n_empty_reference": pd.NA if reference is None else int((reference == 0).sum()),
            "n_empty_prediction": pd.NA if prediction is None else int((prediction == 0).sum()),
        },
        index=list(names),
    )  # fmt: skip
    return summary.rename_axis("metric").reset_index()


def _size(rows: pd.DataFrame, side: str) -> pd.Series | None:
    """Return the region's size on one side, in voxels or else in ml.

    None where neither is known.
    """
    for name in (f"voxels_{side}", f"volume_ml_{side}"):
        if name in rows and rows[name].notna().any():
            return rows[name]
    return None


def _count_failed(rows: pd.DataFrame, report: pd.DataFrame) -> Any:
    if "status" not in report:
        return pd.NA
    failed = report["status"] == "error"
    if "case" in report and "case" in rows:
        failed |= ~report["case"].isin(rows["case"])
    return int(failed.sum())


def _count_learnt_from(rows: pd.DataFrame, report: pd.DataFrame) -> Any:
    if not {"flags", "case"} <= set(report) or "case" not in rows:
        return pd.NA
    return int((report["flags"].map(is_learnt_from) & report["case"].isin(rows["case"])).sum())


def _systems(*frames: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(name for frame in reversed(frames) if "system" in frame for name in frame["system"]))


def _of_system(frame: pd.DataFrame, system: str | None) -> pd.DataFrame:
    return frame[frame["system"] == system] if system is not None and "system" in frame else frame


def _by_case(frame: pd.DataFrame) -> pd.DataFrame:
    """Sort rows by case id.

    The bootstrap depends on the order of the patients; the result should not depend on that of the table.
    """
    return frame.sort_values("case", key=lambda ids: ids.astype(str), kind="stable") if "case" in frame else frame


# ---- the comparison ----


def _tables(
    metrics_by_system: Mapping[str, pd.DataFrame], of: Sequence[str] | None
) -> list[tuple[str, str, pd.DataFrame]]:
    """Return region, metric and the values (cases, systems) behind each comparison.

    Only cases that any system has a value for are in.
    """
    if len(metrics_by_system) < 2:
        raise ValueError(f"a comparison needs two systems or more, not {list(metrics_by_system)}")
    of = [metric.key for metric in catalogue.shown_in(catalogue.Place.COMPARISON)] if of is None else of
    for metric in of:
        _sign(metric)
    frames = {name: frame for name, frame in metrics_by_system.items() if "region" in frame}
    regions = sort_regions(region for frame in frames.values() for region in frame["region"])
    metrics = [metric for metric in of if any(metric in frame for frame in frames.values())]
    tables = []
    for region in regions:
        for metric in metrics:
            columns = {name: _column(name, frames.get(name), region, metric) for name in metrics_by_system}
            cases = sorted({case for column in columns.values() for case in column.index})
            values = {name: column.reindex(cases).to_numpy(float) for name, column in columns.items()}
            tables.append((region, metric, pd.DataFrame(values, index=cases)))
    return tables


def _column(system: str, frame: pd.DataFrame | None, region: str, metric: str) -> pd.Series:
    """Return the known values of one metric, by case."""
    if frame is None or metric not in frame:
        return pd.Series(dtype=float)
    rows = frame[frame["region"] == region]
    twice = rows["case"][rows["case"].duplicated()]
    if len(twice):
        raise ValueError(f"{system}: case {twice.iloc[0]!r} has several rows of {region}; leave one")
    return pd.Series(
        pd.to_numeric(rows[metric]).to_numpy(float, na_value=np.nan), index=rows["case"].astype(str)
    ).dropna()


def _compared(system: pd.Series, other: pd.Series, metric: str) -> dict[str, Any]:
    both = (system.notna() & other.notna()).to_numpy()
    difference = np.round((system[both] - other[both]).to_numpy(), _DECIMALS)
    enough = len(difference) >= LEAST_PATIENTS
    low, high = bootstrap_interval(difference if enough else ())
    gain = _sign(metric) * difference
    return {
        "system": system.name, "other": other.name, "n": len(difference),
        "mean_system": system[both].mean(), "mean_other": other[both].mean(),
        "mean_difference": difference.mean() if len(difference) else math.nan, "ci95_low": low, "ci95_high": high,
        "median_difference": np.median(difference) if len(difference) else math.nan,
        "p_wilcoxon": signed_rank_p(difference) if enough else math.nan,
        "wins": int((gain > 0).sum()), "losses": int((gain < 0).sum()), "ties": int((gain == 0).sum()),
        "n_only_system": int((system.notna() & other.isna()).sum()),
        "n_only_other": int((other.notna() & system.isna()).sum()),
    }  # fmt: skip


def _best(values: np.ndarray, systems: Sequence[str], metric: str) -> str:
    if np.isnan(values).any():
        return ""
    gains = _sign(metric) * np.round(values - values[0], _DECIMALS)
    best = np.flatnonzero(gains == gains.max())
    return systems[best[0]] if len(best) == 1 else "tie"


def _sign(metric: str) -> int:
    """Return 1 where more of a metric is better, -1 where less is."""
    found = catalogue.find_metric(metric)
    if found is None or not found.better:
        known = ", ".join(m.key for m in (*catalogue.measured(), *catalogue.DETECTION) if m.better)
        raise ValueError(
            f"{metric!r} cannot be compared: which of its values is better is not known; give one of {known}"
        )
    return found.better
