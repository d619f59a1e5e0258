"""pipeline/score/tables.py: cells that are exact and that no spreadsheet runs, columns in order, the summary of a wide
table."""

from __future__ import annotations

import ast
import csv
import io
import math
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.score.tables import REPORT_COLUMNS, csv_line, report_frame, text_cell, write_table

ROOT = Path(__file__).resolve().parent.parent


def test_no_source_writes_a_table_but_through_the_writer_that_defuses_cells():
    """Text that csv or pandas wrote would be whatever a file was called.

    Developers' tables (bench) are no exception.
    """
    sources = [
        p
        for folder in ("data", "transforms", "networks", "pipeline", "bench", "tools")
        for p in (ROOT / folder).rglob("*.py")
    ]
    writers = {"writer", "DictWriter", "to_csv", "to_excel", "to_html", "to_markdown", "to_latex", "savetxt"}
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno} {name}"
        for path in (*sources, ROOT / "run_pipeline.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (name := node.attr if isinstance(node, ast.Attribute) else getattr(node, "name", "")) in writers
        and not (name == "writer" and not (isinstance(node, ast.alias) or ast.unparse(node) == "csv.writer"))
    ]
    assert len(sources) > 150 and found == []


# ---- cells ----


@pytest.mark.parametrize(
    "text",
    [
        *("=1+1", "+1", "-1", "@SUM(A1)"),
        *("\t1", "\tplain", "\rplain", "\nplain", "\0plain"),
        *(" =1", "\N{NO-BREAK SPACE}=1", "\N{IDEOGRAPHIC SPACE}+1", "  @A1", "\x1b=1"),
        *("\N{ZERO WIDTH SPACE}=1", "\N{ZERO WIDTH NO-BREAK SPACE}=1", "\N{RIGHT-TO-LEFT MARK}-1"),
        *("＝1+1", "＋1", "－1", "＠SUM(A1)", " ＝1", "﹦1", '"=1"'),
        *("\u115f=1", "\u1160+1", "\u3164=1", "\uffa0@A1", "\u2800=1", "\u2800 \u3164-1", "\U0001d159=1"),
        *("\u0301=1", "\u20dd=1", "\u0903=1", "\ufe0f=1", "\u034f＝1", "\u180e=1", "\ue000=1", "\u0378=1"),
        *("\u2075\u207c".replace("\u2075", ""), "\u2a75"),
    ],
)
def test_a_cell_that_a_spreadsheet_would_run_gets_an_apostrophe(text):
    assert text_cell(text) == f"'{text}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "BraTS-GLI-00001-000",
        "a=1",
        "1-2",
        "Zürich 患者",
        "'=1",
        '"a"',
        "two\nlines",
        " a",
        "\u3164a=1",
        "e\u0301=1",
        "한=1",
        "(−3)",
        "e@mail",
    ],
)
def test_a_cell_that_no_spreadsheet_runs_stays_as_it_is(text):
    assert text_cell(text) == text


def test_a_formula_is_defused_too_where_a_cell_starts_if_semicolons_separate():
    assert text_cell("x;=1") == "x;'=1" and text_cell('x; "=1;-2') == "x;' \"=1;'-2"
    assert text_cell("x\n@A1\r\n+1") == "x\n'@A1\r\n'+1" and text_cell("\t=1") == "'\t'=1"
    assert text_cell("WT is empty; dice=0; a, -1") == "WT is empty; dice=0; a, -1"


PIECES = st.lists(st.sampled_from([*"=+-@;,\t\r\n\"' a1", "\u200b", "＝"]), max_size=8).map("".join)


@given(PIECES)
def test_defusing_twice_is_defusing_once_and_adds_apostrophes_alone(text):
    cell = text_cell(text)
    assert text_cell(cell) == cell and cell.replace("'", "") == text.replace("'", "")


@given(st.lists(PIECES, min_size=1, max_size=4), st.sampled_from(",;\t"))
def test_no_spreadsheet_finds_a_formula_whichever_separator_it_takes(texts, separator):
    for row in csv.reader(io.StringIO(csv_line(texts), newline=""), delimiter=separator):
        for cell in row:
            shown = "".join(c for c in cell if unicodedata.category(c) not in ("Cc", "Cf")).strip()
            assert unicodedata.normalize("NFKC", shown[:1]) not in ("=", "+", "-", "@")


@given(
    st.lists(st.one_of(PIECES, st.text(st.characters(exclude_categories=["Cs"]), max_size=6)), min_size=2, max_size=4)
)
def test_every_line_reads_back_as_the_cells_that_it_was_made_of(texts):
    read = list(csv.reader(io.StringIO(csv_line(texts), newline="")))
    assert read == [[text_cell(text) for text in texts]]


def test_a_text_with_another_separator_is_held_by_quotes():
    assert csv_line(["x;y", "a\tb", 'say "x"', "plain"]) == '"x;y","a\tb","say ""x""",plain\n'


def test_names_of_columns_are_defused_too(tmp_path):
    write_table(tmp_path / "t.csv", pd.DataFrame({"case": ["a"], "=cmd|' /c calc'!A1": [1], "difference_a,b": [2]}))
    assert (tmp_path / "t.csv").read_text() == "case,'=cmd|' /c calc'!A1,\"difference_a,b\"\na,1,2\n"


def test_numbers_and_unknown_values_are_not_text_and_a_line_is_a_row_of_the_table(tmp_path):
    values = ["-", -1.5, np.float64(0.1) + 0.2, np.int64(-3), True, None, math.nan, pd.NA]
    assert csv_line(values) == "'-,-1.5,0.3,-3,True,,,\n"
    frame = pd.DataFrame([[values[0], values[1]], ["b", 2.0]], columns=["t", "x"])
    write_table(tmp_path / "t.csv", frame)
    rows = [list(frame), *frame.to_numpy().tolist()]
    assert (tmp_path / "t.csv").read_text() == "".join(csv_line(row) for row in rows)


# ---- report.csv ----


def test_the_columns_of_a_report_keep_their_order_with_the_newer_measures_among_them():
    measures = ("nsd", "hd_mm", "reference_volume_ml", "dice", "reference_voxels", "volume_ml", "hd95_mm", "voxels")
    row = {"extra": 1, **{f"{measure}_{region}": 1 for measure in measures for region in ("ET", "WT")}}
    assert list(report_frame([{"case": "a"}, row])) == [
        *("case", "folder", "status", "reason", "flags", "model", "convention", "seconds"),
        *("volume_ml_WT", "volume_ml_ET", "reference_volume_ml_WT", "reference_volume_ml_ET", "dice_WT", "dice_ET"),
        *("hd95_mm_WT", "hd95_mm_ET", "hd_mm_WT", "hd_mm_ET", "nsd_WT", "nsd_ET"),
        *("voxels_WT", "voxels_ET", "reference_voxels_WT", "reference_voxels_ET", "extra"),
    ]


def test_the_system_stands_after_the_case():
    frame = report_frame([{"case": "a", "status": "ok", "dice_WT": 1.0, "system": "x"}])
    assert list(frame)[:3] == ["case", "system", "folder"]
    assert "system" not in report_frame([]) and list(report_frame([])) == list(REPORT_COLUMNS)
