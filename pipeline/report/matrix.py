"""Matrix of mean scores, systems by regions, and its copies as text.

The copies are Markdown, LaTeX and CSV; the last has six digits of each number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup, escape

from data.labels import sort_regions
from pipeline.report.texts import as_number, count, number, plain
from pipeline.score.catalogue import Metric, Place, shown_in
from pipeline.score.tables import csv_line

_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


@dataclass(frozen=True)
class Cell:
    """Mean of a system, as a number and as text."""

    value: float
    text: str
    best: bool
    label: str
    """Its column's heading, for a narrow page."""


@dataclass(frozen=True)
class MatrixRow:
    """Means of one system."""

    system: str
    n: str
    """How many patients; a range where regions differ."""
    cells: Sequence[Cell]


@dataclass(frozen=True)
class Matrix:
    """Means of all systems, by region."""

    regions: Sequence[str]
    measures: Sequence[str]
    """Headings of the columns under each region."""
    rows: Sequence[MatrixRow]
    notes: Sequence[str]
    """Sentences under the table."""

    @property
    def headings(self) -> list[str]:
        """Headings of all columns, each on one line."""
        return ["System", "n", *(f"{region} {measure}" for region in self.regions for measure in self.measures)]

    def copies(self) -> dict[str, Markup]:
        """Return the table as text by format, escaped for the page."""
        made = {"Markdown": _markdown(self), "LaTeX": _latex(self), "CSV": _csv(self)}
        return {name: escape(text) for name, text in made.items()}


def score_matrix(summary: pd.DataFrame) -> Matrix | None:
    """Make the matrix from the rows of summary.csv; None where no score is known.

    The best mean of several systems is marked, and each one that is shown alike.
    """
    metrics = [metric for metric in shown_in(Place.TERMINAL) if metric.better]
    rows = summary.to_dict("records")
    found: dict[tuple[str, str, str], Mapping[Any, Any]] = {
        (plain(row.get("system")), plain(row.get("region")), str(row.get("metric"))): row
        for row in rows
        if as_number(row.get("mean")) == as_number(row.get("mean"))
    }
    metrics = [metric for metric in metrics if any(key == metric.key for _, _, key in found)]
    regions = sort_regions(region for _, region, key in found if key in {metric.key for metric in metrics})
    if not regions:
        return None
    systems = list(dict.fromkeys(plain(row.get("system")) for row in rows))
    best = {(region, m.key): _best(found, systems, region, m) for region in regions for m in metrics}
    shown = []
    for system in systems:
        cells = []
        for region in regions:
            for metric in metrics:
                value = as_number(found.get((system, region, metric.key), {}).get("mean"))
                text = number(value, metric.key)
                is_best = bool(text) and len(systems) > 1 and text == best[region, metric.key]
                cells.append(Cell(value, text, is_best, f"{region} {metric.title}"))
        shown.append(MatrixRow(system, _patients(found, system), cells))
    return Matrix(regions, [metric.title for metric in metrics], shown, _notes(found, shown))


def _best(found: Mapping[Any, Mapping[Any, Any]], systems: Sequence[str], region: str, metric: Metric) -> str:
    values = [as_number(found[s, region, metric.key]["mean"]) for s in systems if (s, region, metric.key) in found]
    return number((max if metric.better > 0 else min)(values), metric.key) if values else ""


def _patients(found: Mapping[tuple[str, str, str], Mapping[Any, Any]], system: str) -> str:
    numbers = [as_number(row.get("n")) for (own, _, key), row in found.items() if own == system and key == "dice"]
    ends = [text for end in (min, max) if (text := count(end(numbers, default=None)))]
    return "\N{EN DASH}".join(dict.fromkeys(ends))


def _notes(found: Mapping[tuple[str, str, str], Mapping[Any, Any]], rows: Sequence[MatrixRow]) -> list[str]:
    notes = []
    if len(rows) > 1:
        notes.append("Bold: the best mean of a column.")
        if len({row.n for row in rows}) > 1:
            notes.append("The systems have scores of different patients; the comparison pairs those that both have.")
    for row in rows:
        known = [as_number(each.get("n_learnt_from")) for (own, _, _), each in found.items() if own == row.system]
        if seen := int(max((value for value in known if value == value), default=0)):
            of = f"of {row.system} " if row.system else ""
            patients = "1 patient" if seen == 1 else f"{seen} patients"
            notes.append(
                f"The model {of}has learnt from {patients} among these {row.n}: the means include them and are too "
                "good to speak for new patients."
            )
    return notes


def _markdown(matrix: Matrix) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"

    rows = [[row.system, row.n, *(f"**{c.text}**" if c.best else c.text for c in row.cells)] for row in matrix.rows]
    rule = "|---" + "|---:" * (len(matrix.headings) - 1) + "|\n"
    return line(matrix.headings) + rule + "".join(map(line, rows))


def _latex(matrix: Matrix) -> str:
    def escaped(text: str) -> str:
        return "".join(_LATEX.get(c, c) for c in text).replace("\N{EN DASH}", "--").replace("\N{MINUS SIGN}", "$-$")

    wide = len(matrix.measures)
    regions = "".join(rf" & \multicolumn{{{wide}}}{{c}}{{{escaped(region)}}}" for region in matrix.regions)
    measures = "".join(f" & {escaped(measure)}" for _ in matrix.regions for measure in matrix.measures)
    lines = [rf"\begin{{tabular}}{{l{'r' * (len(matrix.headings) - 1)}}}", r"\hline", rf" & {regions} \\"]
    lines += [rf"System & n{measures} \\", r"\hline"]
    for row in matrix.rows:
        cells = [rf"\textbf{{{escaped(c.text)}}}" if c.best else escaped(c.text) for c in row.cells]
        lines.append(" & ".join([escaped(row.system), escaped(row.n), *cells]) + r" \\")
    return "\n".join([*lines, r"\hline", r"\end{tabular}"]) + "\n"


def _csv(matrix: Matrix) -> str:
    rows: list[list[Any]] = [matrix.headings]
    rows += [[row.system, row.n, *(float(f"{cell.value:.6g}") for cell in row.cells)] for row in matrix.rows]
    return "".join(map(csv_line, rows))
