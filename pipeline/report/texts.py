"""Texts, numbers and tables as the page shows them; the templates escape them.

Each number is in its unit's precision, and nothing is shown that is not known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from data.visible import visible
from pipeline.score.catalogue import find_metric


def plain(value: Any) -> str:
    """Return a value as text of one line.

    An unknown value gives an empty text. A character that shows nothing becomes U+FFFD.
    """
    return visible(" ".join(str(value).split())) if is_known(value) else ""


def is_known(value: Any) -> bool:
    """Tell a value from None, NaN, NA and NaT.

    An empty cell of a table reads back as one of them.
    """
    return value is not None and not (pd.api.types.is_scalar(value) and pd.isna(value))


def as_number(value: Any) -> float:
    """Return a cell as a number; NaN for anything else."""
    try:
        return float(value) if is_known(value) else math.nan
    except (TypeError, ValueError):
        return math.nan


def metric_name(column: str, tolerance_mm: float | None = None) -> str:
    """Return the heading of a column of metrics.csv, with its unit.

    The normalised surface Dice has its tolerance in it, where that is given.
    """
    metric = find_metric(column)
    title = metric.title if metric is not None else column.replace("_", " ").capitalize()
    return f"{title} ({tolerance_mm:g} mm)" if column == "nsd" and tolerance_mm is not None else title


def number(value: Any, metric: str = "", *, signed: bool = False) -> str:
    """Format a number in the precision of its metric.

    Scores have 3 decimals; mm, ml and percent 1 (2 below 10); counts none.

    Parameters
    ----------
    value : number or anything
        What is no number, NaN among it, gives an empty text.
    metric : str
        A column of metrics.csv.
    signed : bool
        Show the sign of what is above 0 too.
    """
    known, found = as_number(value), find_metric(metric)
    if math.isnan(known):
        return ""
    if math.isinf(known):
        text = "\N{INFINITY}" if known > 0 else "-\N{INFINITY}"
    elif found is not None and found.is_count and float(known).is_integer():
        text = f"{known:,.0f}"
    elif found is not None and found.unit:
        text = f"{known:,.2f}" if abs(known) < 10 else f"{known:,.1f}"
    else:
        text = f"{known:.3f}"
    if text.startswith("-") and not text.strip("-0.,"):
        text = text[1:]  # -0.00
    plus = "+" if signed and known > 0 and text.strip("0.,") else ""
    return plus + text.replace("-", "\N{MINUS SIGN}")


def count(value: Any) -> str:
    """Format a whole number; an empty text where it is not known."""
    known = as_number(value)
    return f"{known:,.0f}" if math.isfinite(known) else ""


def p_value(value: Any) -> str:
    """Format a p in three decimals; ``< 0.001`` below that."""
    known = as_number(value)
    return "" if math.isnan(known) else "< 0.001" if known < 0.001 else f"{known:.3f}"


def seconds(value: Any) -> str:
    """Format a time, such as ``0.8 s``, ``42 s`` or ``3 min 5 s``."""
    known = as_number(value)
    if not math.isfinite(known):
        return ""
    if known < 10:
        return f"{known:.1f} s"
    whole = round(known)
    return f"{whole} s" if whole < 120 else f"{whole // 60} min {whole % 60} s"


def interval(low: Any, high: Any, metric: str, *, signed: bool = False) -> str:
    """Format ``low to high``; an empty text unless both are known."""
    ends = [number(end, metric, signed=signed) for end in (low, high)]
    return " to ".join(ends) if all(ends) else ""


@dataclass(frozen=True)
class Table:
    """Table of the page, as texts. The first column names a region."""

    label: str
    """Name for a screen reader."""
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int
    """So many columns on the left hold text; the others hold numbers, and are set to the right."""


def make_table(
    headings: Sequence[str], rows: Sequence[Sequence[Any]], *, label: str, text_columns: int = 1
) -> Table | None:
    """Make a table without the columns in which no row has anything.

    Parameters
    ----------
    headings : sequence of str
    rows : sequence of rows
        Cells are texts, or values that become one by :func:`plain`. The first one, a region, is always kept.
    label, text_columns
        As in :class:`Table`; ``text_columns`` counts before columns are left out.

    Returns
    -------
    Table or None
        None where there is no row.
    """
    if not rows:
        return None
    texts = [[plain(cell) for cell in row] for row in rows]
    kept = [i for i in range(len(headings)) if i == 0 or any(row[i] for row in texts)]
    return Table(
        label=label,
        headings=[headings[i] for i in kept],
        rows=[[row[i] for i in kept] for row in texts],
        text_columns=sum(i < text_columns for i in kept),
    )
