"""The tables that a run writes: one row a patient (report.csv), one row a region and metric (summary.csv).

A table is read by people in a spreadsheet, by programs, and by the next run. So a text cell holds exactly what it
should (a newline stays inside the quotes), except for what would harm a reader: see :func:`text_cell`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from data.io import write_bytes_atomically
from data.labels import REGIONS

REPORT_COLUMNS = ("case", "folder", "status", "reason", "flags", "model", "convention", "seconds")
"""What every row of report.csv has; ``<measure>_<region>`` columns follow."""
METRICS = ("volume_ml", "dice", "hd95_mm", "hd_mm")
"""The measures that are summarised, in the order of their columns."""
COUNTS = ("voxels", "reference_voxels")
"""Voxels of the prediction and of the reference: the size where no voxel size is known, and what tells the empties."""
_STATISTICS = ("mean", "sd", "median", "min", "max")


def text_cell(text: str) -> str:
    """A text as a table holds it: whole, but for bytes that were no UTF-8 and for what a spreadsheet would run.

    Bytes of a file name that cannot be decoded (Python keeps them as surrogates) become U+FFFD; a leading ``=``, ``+``,
    ``-``, ``@``, tab or carriage return gets a ``'`` before it. An empty text stays empty; twice is as once.
    """
    try:
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    except UnicodeEncodeError:  # a lone surrogate that stands for no byte
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Write a table as CSV (UTF-8, comma, ``\\n``), whole or not at all.

    Parameters
    ----------
    path : Path
        Its folder exists. An older table of that name is replaced.
    frame : DataFrame
        Text cells go through :func:`text_cell`; numbers are written so that they read back exactly; None, NaN and NA
        are empty cells. A table without rows is its header alone.

    Raises
    ------
    OSError
        Disk full, no permission: for the caller to report.
    """
    # pandas leaves a lone carriage return without quotes, and then one row reads back as two.
    rows: Iterable[Sequence[Any]] = [list(frame.columns), *frame.astype(object).itertuples(index=False, name=None)]
    lines = [",".join(_csv_cell(value) for value in row) for row in rows]
    write_bytes_atomically(path, ("\n".join(lines) + "\n").encode("utf-8"))


def report_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows of report.csv with their columns in order: the fixed ones, then each measure for each region, then the rest.

    Parameters
    ----------
    rows : mappings from column to value
        A row needs no column; what it lacks is empty. No rows give a table of the fixed columns alone.
    """
    present = dict.fromkeys(column for row in rows for column in row)
    regions = _regions(present)
    measured = [f"{measure}_{region}" for measure in (*METRICS, *COUNTS) for region in regions]
    ordered = [*REPORT_COLUMNS, *(column for column in measured if column in present)]
    ordered += [column for column in present if column not in ordered]
    frame = pd.DataFrame([dict(row) for row in rows], columns=ordered)
    for column in (f"{count}_{region}" for count in COUNTS for region in regions):
        if column in frame:
            frame[column] = pd.to_numeric(frame[column]).astype("Int64")
    return frame


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Per region and metric: how many patients, and how the values are spread over them.

    Parameters
    ----------
    rows : DataFrame
        One row a patient, as in report.csv, with columns ``volume_ml_<region>``, ``dice_<region>``,
        ``hd95_mm_<region>``, ``hd_mm_<region>`` (any of them) and, for the empties, ``voxels_<region>`` and
        ``reference_voxels_<region>``.

    Returns
    -------
    DataFrame
        Columns region, metric, n, mean, sd (of a sample, n - 1; empty for one value), median, min, max,
        n_empty_reference, n_empty_prediction. Nothing is left out for being empty: the empty rule of
        :mod:`pipeline.metrics` gave those patients a value. ``n`` counts the known values: an error row has
        none, and where the voxel size is unknown there are none in mm or ml. The empties count the region's scored
        patients, and are NA where the table does not tell. No rows give no rows.
    """
    summary: list[dict[str, Any]] = []
    for region in _regions(rows.columns):
        empties = _count_empties(rows, region)
        for metric in METRICS:
            if f"{metric}_{region}" not in rows:
                continue
            values = pd.to_numeric(rows[f"{metric}_{region}"]).dropna().astype(float)
            spread = (values.mean(), values.std(ddof=1), values.median(), values.min(), values.max())
            summary.append(
                {"region": region, "metric": metric, "n": len(values)}
                | dict(zip(_STATISTICS, spread, strict=True))
                | empties
            )
    columns = ["region", "metric", "n", *_STATISTICS, "n_empty_reference", "n_empty_prediction"]
    frame = pd.DataFrame(summary, columns=columns)
    return frame.astype({"n": "Int64", "n_empty_reference": "Int64", "n_empty_prediction": "Int64"})


def _count_empties(rows: pd.DataFrame, region: str) -> dict[str, Any]:
    counts: dict[str, Any] = {"n_empty_reference": pd.NA, "n_empty_prediction": pd.NA}
    if f"volume_ml_{region}" in rows:
        counts["n_empty_prediction"] = int((pd.to_numeric(rows[f"volume_ml_{region}"]) == 0).sum())
    for side, column in (
        ("n_empty_prediction", f"voxels_{region}"),
        ("n_empty_reference", f"reference_voxels_{region}"),
    ):
        if column in rows and rows[column].notna().any():
            counts[side] = int((pd.to_numeric(rows[column]) == 0).sum())
    return counts


def _regions(columns: Iterable[str]) -> list[str]:
    """The regions that columns named ``<measure>_<region>`` speak of: the usual ones first, in their order."""
    found = dict.fromkeys(
        column.removeprefix(f"{measure}_")
        for column in columns
        for measure in (*METRICS, *COUNTS)
        if column.startswith(f"{measure}_")
    )
    return [region for region in REGIONS if region in found] + [region for region in found if region not in REGIONS]


def _csv_cell(value: Any) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return ""
    # numpy's scalars would be written as "np.float64(1.0)" by repr; item() gives Python's own, whose repr is exact.
    value = value.item() if hasattr(value, "item") else value
    text = text_cell(value) if isinstance(value, str) else repr(value) if isinstance(value, float) else str(value)
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\r\n') else text
