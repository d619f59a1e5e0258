"""The compact matrix of means: what is best is marked, and its copies are what paper and spreadsheet take."""

from __future__ import annotations

import csv
import io
from html import unescape

import pandas as pd

from pipeline.report.matrix import Matrix, score_matrix


def summary(*rows: tuple, **more) -> pd.DataFrame:
    """Rows of summary.csv: system, region, metric, mean, n."""
    names = ("system", "region", "metric", "mean", "n")
    return pd.DataFrame([dict(zip(names, row, strict=True)) | more for row in rows])


def two_systems(n_second: int = 7) -> pd.DataFrame:
    return summary(
        ("a_1", "ET", "dice", 0.7, 7), ("a_1", "ET", "hd95_mm", 12.345, 7), ("a_1", "WT", "dice", 0.91234, 7),
        ("b & c|d", "WT", "dice", 0.9121, n_second), ("b & c|d", "ET", "dice", 0.8, n_second),
        ("b & c|d", "ET", "hd95_mm", 374.0, n_second), ("a_1", "WT", "nsd", 0.5, 7),
    )  # fmt: skip


def matrix_of(frame: pd.DataFrame) -> Matrix:
    matrix = score_matrix(frame)
    assert matrix is not None
    return matrix


def copy_of(frame: pd.DataFrame, name: str) -> str:
    return unescape(str(matrix_of(frame).copies()[name]))


def test_a_row_is_a_system_and_regions_come_in_their_usual_order():
    matrix = matrix_of(two_systems())
    assert matrix.headings == ["System", "n", "WT Dice", "WT HD95 (mm)", "ET Dice", "ET HD95 (mm)"]
    assert [(row.system, row.n, [cell.text for cell in row.cells]) for row in matrix.rows] == [
        ("a_1", "7", ["0.912", "", "0.700", "12.3"]),
        ("b & c|d", "7", ["0.912", "", "0.800", "374.0"]),
    ]


def test_the_best_of_a_column_is_marked_by_its_own_better_end_and_equals_are_alike():
    matrix = matrix_of(two_systems())
    # .91234 and .9121 are both shown as .912; a distance is better when it is low.
    assert [[cell.best for cell in row.cells] for row in matrix.rows] == [
        [True, False, False, True], [True, False, True, False],
    ]  # fmt: skip


def test_one_system_alone_is_not_the_best():
    matrix = matrix_of(summary(("only", "WT", "dice", 0.9, 3)))
    assert not matrix.rows[0].cells[0].best and matrix.notes == []


def test_without_a_score_there_is_no_matrix():
    assert score_matrix(pd.DataFrame()) is None
    assert score_matrix(summary(("a", "WT", "volume_ml_prediction", 3.0, 3), ("a", "WT", "dice", None, 0))) is None


def test_systems_with_other_patients_are_said_to_be_so():
    assert not any("different patients" in note for note in matrix_of(two_systems()).notes)
    assert any("different patients" in note for note in matrix_of(two_systems(6)).notes)


def test_patients_whom_the_model_has_learnt_from_are_counted_under_the_matrix():
    frame = summary(("a", "WT", "dice", 0.9, 7), n_learnt_from=2)
    (note,) = matrix_of(frame).notes
    assert note.startswith("The model of a has learnt from 2 patients among these 7")
    assert matrix_of(summary(("a", "WT", "dice", 0.9, 7), n_learnt_from=0)).notes == []


def test_the_markdown_has_a_rule_and_no_bar_of_a_name_ends_a_cell():
    assert copy_of(two_systems(), "Markdown").splitlines() == [
        "| System | n | WT Dice | WT HD95 (mm) | ET Dice | ET HD95 (mm) |",
        "|---|---:|---:|---:|---:|---:|",
        "| a_1 | 7 | **0.912** |  | 0.700 | **12.3** |",
        "| b & c\\|d | 7 | **0.912** |  | **0.800** | 374.0 |",
    ]


def test_the_latex_is_a_tabular_with_as_many_cells_in_each_row_as_columns():
    lines = copy_of(two_systems(), "LaTeX").splitlines()
    assert lines[0] == r"\begin{tabular}{lrrrrr}" and lines[-1] == r"\end{tabular}"
    assert r"a\_1 & 7 & \textbf{0.912} &  & 0.700 & \textbf{12.3} \\" in lines
    assert r"b \& c|d & 7 & \textbf{0.912} &  & \textbf{0.800} & 374.0 \\" in lines
    assert r" &  & \multicolumn{2}{c}{WT} & \multicolumn{2}{c}{ET} \\" in lines
    assert r"System & n & Dice & HD95 (mm) & Dice & HD95 (mm) \\" in lines


def test_the_csv_has_the_numbers_and_reads_back():
    frame = two_systems()
    frame.loc[0, "mean"] = 2 / 3
    head, first, second = csv.reader(io.StringIO(copy_of(frame, "CSV")))
    assert head == ["System", "n", "WT Dice", "WT HD95 (mm)", "ET Dice", "ET HD95 (mm)"]
    assert first == ["a_1", "7", "0.91234", "", "0.666667", "12.345"] and second[0] == "b & c|d"


def test_no_copy_of_a_hostile_name_opens_an_element_or_a_formula():
    frame = summary(("<b>=1+1", "WT", "dice", 0.9, 3), ("=1+1", "WT", "dice", 0.8, 3))
    copies = matrix_of(frame).copies()
    assert all("<b>" not in str(text) for text in copies.values())
    assert "\n'=1+1," in unescape(str(copies["CSV"]))
