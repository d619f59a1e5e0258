"""Scores of many patients as tables: metrics.csv, lesions.csv, detection.csv. The columns are there whatever the rows hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from typing import Any

import pandas as pd

from data.io.read import atomic_write
from data.labels import REGIONS
from pipeline.score.lesions import sensitivity_by_size
from pipeline.score.tables import csv_line

LESION_COLUMNS = (
    "case", "region", "side", "lesion", "voxels", "volume_ml", "centroid_x_mm", "centroid_y_mm", "centroid_z_mm",
    "diameter_mm", "perpendicular_mm", "bidimensional_mm2", "slice", "matches", "detected",
)  # fmt: skip
DETECTION_COLUMNS = ("region", "size_class", "n", "found", "sensitivity")
Row = Mapping[str, Any]
_TEXTS = ("system", "case", "region", "side", "matches", "size_class")


def metrics_frame(rows: Sequence[Row], columns: Sequence[str]) -> pd.DataFrame:
    """metrics.csv: one row a case and region.

    Parameters
    ----------
    rows : mappings from column to value
        ``CaseScores.regions`` with their case.
    columns : sequence of str
        :func:`pipeline.score.case.metric_columns`, and ``system`` where several are compared.
    """
    return _frame(rows, columns)


def lesions_frame(rows: Sequence[Row], columns: Sequence[str] = LESION_COLUMNS) -> pd.DataFrame:
    """lesions.csv: one row a lesion of either side; ``rows`` are ``CaseScores.lesions`` with their case."""
    return _frame(rows, columns)


def detection_frame(lesions: Iterable[Row]) -> pd.DataFrame:
    """detection.csv: how many reference lesions of each region and size were found, over all cases.

    Parameters
    ----------
    lesions : mappings
        Rows of lesions.csv; those without a reference count nowhere.
    """
    by_region: dict[str, list[Row]] = {}
    for row in lesions:
        if row["side"] == "reference":
            by_region.setdefault(row["region"], []).append(row)
    return pooled_detection(
        {"region": region} | row for region, rows in by_region.items() for row in sensitivity_by_size(rows)
    )


def pooled_detection(rows: Iterable[Row]) -> pd.DataFrame:
    """detection.csv from rows of :func:`pipeline.score.lesions.sensitivity_by_size` with their region, one set a patient."""
    counts: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        total = counts.setdefault((row["region"], row["size_class"]), [0, 0])
        total[0] += row["n"]
        total[1] += row["found"]
    place = {region: number for number, region in enumerate(REGIONS)}
    ordered = sorted(counts.items(), key=lambda item: place.get(item[0][0], len(place)))
    table = [(*key, n, found, found / n if n else math.nan) for key, (n, found) in ordered]
    return pd.DataFrame(table, columns=list(DETECTION_COLUMNS))


@contextmanager
def lesion_file(path: Path, columns: Sequence[str] = LESION_COLUMNS) -> Iterator[Callable[[Iterable[Row]], None]]:
    """Write lesions.csv patient by patient: a noisy prediction may hold a hundred thousand, which nobody need keep.

    Yields
    ------
    callable
        Writes rows. The file is there when the block is left, or not at all where that is by an exception.
    """
    with atomic_write(path) as file:
        file.write(_line(columns))

        def write(rows: Iterable[Row]) -> None:
            file.writelines(_line(row[name] for name in columns) for row in rows)

        yield write


def read_lesions(path: Path, cases: Iterable[str], largest: int = 100) -> pd.DataFrame:
    """The rows of some cases of lesions.csv: of each region and side no more than the ``largest`` lesions."""
    wanted, numbers = set(cases), dict.fromkeys(LESION_COLUMNS[3:-2], "")
    columns = list(pd.read_csv(path, nrows=0).columns)
    parts: list[Row] = []
    with pd.read_csv(
        path, dtype=dict.fromkeys(_TEXTS, str), keep_default_na=False, na_values={"detected": ""} | numbers,
        chunksize=10_000,
    ) as chunks:  # fmt: skip
        for chunk in chunks:
            part = chunk[chunk["case"].isin(wanted) & (chunk["lesion"] <= largest)]
            parts += part.astype(object).to_dict("records")
    return lesions_frame(parts, columns)


def _line(row: Iterable[Any]) -> bytes:
    return csv_line(row).encode()


def _frame(rows: Sequence[Row], columns: Sequence[str]) -> pd.DataFrame:
    """Columns that hold whole numbers, and blanks, are Int64, so that 3 is written as 3."""
    values = {name: [_known(row.get(name)) for row in rows] for name in columns}
    return pd.DataFrame({name: pd.Series(column, dtype=_dtype(name, column)) for name, column in values.items()})


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _dtype(name: str, column: Sequence[Any]) -> str:
    present = [value for value in column if value is not None]
    if name in _TEXTS:
        return "object"
    if present and all(isinstance(value, bool) for value in present):
        return "boolean"
    if present and all(isinstance(value, Integral) for value in present):
        return "Int64"
    return "float64"
