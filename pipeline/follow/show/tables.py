"""Tables of a follow-up: timepoints.csv, lesions_over_time.csv, response.csv."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from data.labels import sort_regions
from data.output_names import LESIONS_OVER_TIME, RESPONSE, TIMEPOINTS
from pipeline.follow.criteria import CATEGORIES, CRITERIA
from pipeline.follow.patients.rows import SUMS
from pipeline.score.tables import write_table

LESION_COLUMNS = (
    "patient", "case", "timepoint", "date", "days", "region", "lesion", "event", "target", "measurable",
    "measurable_3d", "volume_ml", "diameter_mm", "perpendicular_mm", "product_mm2", "slice", "centre_x_mm",
    "centre_y_mm", "centre_z_mm", "merged", "split_from",
)  # fmt: skip
RESPONSE_COLUMNS = (
    "patient", "criterion", "status", "reason", "visits", "days", "baseline", "baseline_reason", "best_response",
    "best_response_confirmed", "best_response_unconfirmed", "progression_timepoint", "progression_date",
    "days_to_progression", *(f"n_{name}" for name in CATEGORIES), "notes",
)  # fmt: skip
_WHOLE = frozenset(
    {"n", "n_not_compared", "lesion", "slice", "visits", "split_from", *(f"n_{name}" for name in CATEGORIES)}
)

Row = dict[str, Any]


def write_tables(
    output: Path, timepoints: Sequence[Row], lesions: Sequence[Row], responses: Sequence[Row], criteria: Sequence[str]
) -> None:
    """Write the three tables, each whole or not at all. Raises OSError."""
    write_table(output / TIMEPOINTS, frame_of(timepoints, timepoint_columns(timepoints, criteria)))
    write_table(output / LESIONS_OVER_TIME, frame_of(lesions, LESION_COLUMNS))
    write_table(output / RESPONSE, frame_of(responses, RESPONSE_COLUMNS))


def timepoint_columns(rows: Sequence[Row], criteria: Sequence[str]) -> list[str]:
    """Return the columns of timepoints.csv for the regions of its rows."""
    start = "volume_ml_"
    regions = sort_regions(name.removeprefix(start) for row in rows for name in row if name.startswith(start))
    volumes = [f"{start}{region}" for region in regions]
    columns = ["patient", "case", "timepoint", "date", "days", *volumes, *SUMS]
    for kind in ("baseline", "nadir"):
        columns += [f"change_from_{kind}_percent_{measure}" for measure in (*volumes, *SUMS)]
    columns += [f"{name}_{region}" for name in ("growth_ml_per_month", "doubling_days") for region in regions]
    judged = ("category", "confirmed", "preliminary", "reason")
    columns += [f"{name}_{CRITERIA[criterion].column}" for criterion in criteria for name in judged]
    return [*columns, "resection", "flags"]


def frame_of(rows: Sequence[Row], columns: Sequence[str]) -> pd.DataFrame:
    """Make a table of rows that may lack columns.

    Whole numbers stay whole beside blanks.
    """
    made = {name: pd.Series([row.get(name) for row in rows], dtype=_dtype(name)) for name in columns}
    return pd.DataFrame(made, columns=list(columns))


def _dtype(name: str) -> str:
    return "Int64" if name in _WHOLE else "object"
