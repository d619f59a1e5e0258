"""The page: one file that asks nothing of anyone, says what is known, and shows the worst first."""

from __future__ import annotations

import re
from configparser import ConfigParser
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from jinja2 import UndefinedError

from data.grid import Grid
from pipeline import __version__
from pipeline.report.colours import REGION_COLOURS
from pipeline.report.head import Head
from pipeline.report.overview import Charts
from pipeline.report.page import UNFOLDED, write_page
from pipeline.report.preview import write_preview
from pipeline.report.rendering import render, render_in_pieces
from pipeline.report.texts import interval, metric_name, number, p_value, seconds
from pipeline.report.viewer import View

NOTHING = pd.DataFrame()
HOSTILE = "<script>alert(1)</script>\"'&\u202e"
_VOID = {"meta", "img", "input", "br", "path", "use"}


class Reader(HTMLParser):
    """Elements, attributes, text; complains about an element that is not closed where it should be."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in _VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data.strip())

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [a for name, a in self.elements if name == tag and wanted.items() <= a.items()]

    @property
    def text(self) -> str:
        return "\n".join(text for text in self.texts if text)


def write(path, **tables) -> tuple[str, Reader]:
    frames = dict.fromkeys(("report", "metrics", "summary", "lesions"), NOTHING) | {"pictures": {}} | tables
    write_page(path / "report.html", frames.pop("title", "A run"), **frames)
    page = (path / "report.html").read_text(encoding="utf-8")
    return page, Reader(page)


def run(n: int, **more) -> dict[str, pd.DataFrame]:
    """n patients, the k-th with a Dice of 1 - k / n in both regions."""
    cases = [f"case{k:03d}" for k in range(n)]
    report = pd.DataFrame([{"case": c, "status": "ok", "reason": "", "flags": float("nan")} for c in cases])
    metrics = pd.DataFrame(
        [
            {"case": c, "region": r, "dice": 1 - k / n, "hd95_mm": float(k), "nsd": float("nan")}
            | {"volume_ml_prediction": 10.0 + k, "volume_ml_reference": 12.0}
            for k, c in enumerate(cases)
            for r in ("WT", "ET")
        ]
    )
    return {"report": report, "metrics": metrics} | more


@pytest.fixture
def picture(tmp_path):
    write_preview(tmp_path / "p.png", "x", np.ones((9, 9, 9), np.float32), {}, Grid((9, 9, 9), np.eye(4)))
    return tmp_path / "p.png"


@pytest.fixture
def quick(monkeypatch):
    """No charts, which take most of the time, for tests that speak of something else."""
    monkeypatch.setattr("pipeline.report.page.draw_charts", lambda *given: Charts())


def headings(reader: Reader) -> list[str]:
    return [t for t in reader.texts if re.fullmatch(r"case\d{3}", t)]


def test_the_page_loads_nothing_and_says_so_in_its_policy(tmp_path, picture):
    page, reader = write(tmp_path, **run(5), summary=NOTHING, pictures={"case001": picture})
    (policy,) = reader.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none';") and "script-src" not in policy["content"]
    assert "http:" not in page and "https:" not in page and "//" not in re.sub(r"base64,[^']*?\"", "", page)
    assert not reader.all("script") and not reader.all("link") and not reader.all("iframe")
    for _, attributes in reader.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("data:image/png;base64,", "#"))


def test_every_link_leads_to_a_section_of_the_page(tmp_path):
    _, reader = write(tmp_path, **run(40))
    ids = [attributes["id"] for _, attributes in reader.elements if attributes.get("id")]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in reader.all("a")} <= set(ids)


def test_hostile_texts_are_shown_as_texts_wherever_they_stand(tmp_path):
    row = {"case": HOSTILE, "status": HOSTILE, "reason": HOSTILE, "flags": HOSTILE, "model": HOSTILE, "folder": HOSTILE}
    metrics = pd.DataFrame([{"case": HOSTILE, "region": HOSTILE, "system": HOSTILE, "dice": 0.5, "nsd": 1.0}])
    summary = pd.DataFrame([{"region": HOSTILE, "metric": "dice", "system": HOSTILE, "mean": 0.5}])
    comparison = pd.DataFrame([{"region": HOSTILE, "metric": HOSTILE, "system": HOSTILE, "other": HOSTILE, "n": 1}])
    lesions = pd.DataFrame([{"case": HOSTILE, "region": HOSTILE, "side": HOSTILE, "lesion": 1, "matches": HOSTILE}])
    detection = pd.DataFrame([{"region": HOSTILE, "size_class": HOSTILE, "n": 1}])
    details = {HOSTILE: {"missing": [HOSTILE], "stages": {HOSTILE: 1.0}}}
    page, reader = write(
        tmp_path,
        title=HOSTILE,
        report=pd.DataFrame([row]),
        metrics=metrics,
        summary=summary,
        comparison=comparison,
        lesions=lesions,
        detection=detection,
        details=details,
    )
    assert len(reader.all("script")) == 1 and page.count("<script") == 1 and "\u202e" not in page
    assert reader.text.count("<script>alert(1)</script>\"'&") >= 10


def test_a_name_that_is_no_unicode_is_written_all_the_same(tmp_path):
    _, reader = write(tmp_path, report=pd.DataFrame([{"case": "a\udcff", "status": "ok"}]))
    assert "a\N{REPLACEMENT CHARACTER}" in reader.text


def test_the_page_is_whole_without_any_table(tmp_path):
    _, reader = write(tmp_path)
    assert reader.texts.count("0") == 4  # patients, ok, warn, error
    assert "research use only" in reader.text


@pytest.mark.parametrize("gone", ["status", "flags", "reason", "dice", "region", "volume_ml_reference", "case"])
def test_a_table_that_lacks_a_column_still_gives_a_page(gone, tmp_path):
    tables = {name: frame.drop(columns=gone, errors="ignore") for name, frame in run(5).items()}
    _, reader = write(tmp_path, **tables)
    assert not re.search(r"\bnan\b|\bNone\b|<NA>|\bNaT\b", reader.text, re.IGNORECASE)


@pytest.mark.usefixtures("quick")
def test_what_is_not_known_is_not_shown(tmp_path):
    report = pd.DataFrame(
        [
            {"case": "a", "status": "ok", "reason": None, "flags": np.nan, "seconds": np.nan, "dice_WT": np.nan}
            | {"voxels_WT": 5, "model": pd.NA}
        ]
    )
    metrics = pd.DataFrame(
        [{"case": "a", "region": "WT", "dice": 0.5, "hd95_mm": np.nan, "volume_ml_prediction": np.nan}]
    )
    summary = pd.DataFrame([{"region": "WT", "metric": "dice", "n": 1, "mean": 0.5, "sd": np.nan, "ci95_low": np.nan}])
    lesions = pd.DataFrame([{"case": "a", "region": "WT", "side": "prediction", "lesion": 1, "diameter_mm": np.nan}])
    page, reader = write(tmp_path, report=report, metrics=metrics, summary=summary, lesions=lesions)
    assert not re.search(r"\bnan\b|\bNone\b|<NA>|\bNaT\b", reader.text, re.IGNORECASE)
    assert "HD95" not in reader.text.split("Patients")[-1] and "Time" not in reader.text and "0.500" in reader.text
    assert "Predicted voxels" in reader.text  # the size, where no voxel size is known


@pytest.mark.usefixtures("quick")
def test_a_report_alone_gives_the_scores_of_each_region(tmp_path):
    row = {
        "case": "a",
        "status": "ok",
        "dice_ET": 0.25,
        "dice_WT": 0.75,
        "volume_ml_WT": 12.5,
        "reference_volume_ml_WT": 10.0,
    }
    _, reader = write(tmp_path, report=pd.DataFrame([row]))
    shown = reader.text
    assert shown.index("0.750") < shown.index("0.250") and "12.5" in shown and "10.0" in shown and "0.500" in shown


@pytest.mark.usefixtures("quick")
def test_failures_come_first_and_then_the_lowest_mean_dice(tmp_path):
    tables = run(3)
    failed = pd.DataFrame([{"case": "case999", "status": "error", "reason": "no file"}])
    _, reader = write(tmp_path, **tables | {"report": pd.concat([tables["report"], failed])})
    assert headings(reader)[-4:] == ["case999", "case002", "case001", "case000"]


@pytest.mark.usefixtures("quick")
def test_without_a_reference_errors_come_first_then_warnings_then_names(tmp_path):
    states = {"case001": "ok", "case000": "ok", "case004": "warn", "case003": "error"}
    report = pd.DataFrame([{"case": case, "status": status} for case, status in states.items()])
    _, reader = write(tmp_path, report=report)
    assert headings(reader)[-4:] == ["case003", "case004", "case000", "case001"]


@pytest.mark.usefixtures("quick")
def test_every_patient_has_a_section_and_only_the_first_are_open(tmp_path):
    _, reader = write(tmp_path, **run(UNFOLDED + 7))
    assert len(reader.all("section", **{"class": "patient"})) == UNFOLDED
    assert len(reader.all("details", **{"class": "patient"})) == 7


@pytest.mark.usefixtures("quick")
def test_pictures_are_embedded_and_the_worst_are_shown_small_above(tmp_path, picture):
    tables = run(5)
    page, reader = write(tmp_path, **tables, pictures=dict.fromkeys(tables["report"]["case"], picture))
    assert len(reader.all("img")) == 10
    assert page.count("data:image/png;base64,iVBOR") == 10
    assert page.index("case004, small") < page.index("case000, small") < page.index('<h2 id="patients">')
    _, reader = write(tmp_path, **tables, pictures={"case001": tmp_path / "missing.png"})
    assert not reader.all("img")


def test_flags_reason_missing_time_and_model_are_told(tmp_path):
    row = {"case": "a", "status": "warn", "reason": "why", "flags": "no ET found; WT touches the edge", "seconds": 75.2}
    details = {"a": {"missing": ["t1", "t2"], "stages": {"read": 1.25, "network": 61.0}}}
    _, reader = write(
        tmp_path, report=pd.DataFrame([row | {"model": "net", "convention": "brats2023"}]), details=details
    )
    for text in (
        "why",
        "no ET found",
        "WT touches the edge",
        "t1, t2",
        "75 s (read 1.2 s, network 61 s)",
        "net",
        "brats2023",
    ):
        assert text in reader.texts, text
    assert "! warn" in reader.texts


@pytest.mark.usefixtures("quick")
def test_more_than_twenty_lesions_are_counted_and_not_listed(tmp_path):
    rows = [
        {
            "case": "a",
            "region": "ET",
            "side": "reference",
            "lesion": k,
            "volume_ml": 1.0,
            "matches": "1 3",
            "detected": k > 1,
        }
        for k in range(1, 24)
    ]
    _, reader = write(tmp_path, lesions=pd.DataFrame(rows))
    assert sum(text.startswith("reference ") for text in reader.texts) == 20
    assert "and 3 more in lesions.csv" in reader.texts
    assert "missed" in reader.texts and "prediction 1, 3" in reader.texts


@pytest.mark.usefixtures("quick")
def test_lesions_below_a_twentieth_of_a_millilitre_are_counted_apart_and_not_listed(tmp_path):
    rows = [
        {"case": "a", "region": "ET", "side": "reference", "lesion": k, "volume_ml": volume, "detected": True}
        for k, volume in enumerate((3.0, 0.05, 0.049, 0.01, 0.002), 1)
    ]
    _, reader = write(tmp_path, lesions=pd.DataFrame(rows))
    assert [text for text in reader.texts if text.startswith("reference ")] == ["reference 1", "reference 2"]
    assert "Lesions (2)" in reader.texts and "Counted apart: 3 below 0.05 ml, in lesions.csv." in reader.texts
    _, reader = write(tmp_path, lesions=pd.DataFrame(rows[2:]))
    assert "Lesions (0)" in reader.texts and "reference 3" not in reader.texts


@pytest.mark.usefixtures("quick")
def test_the_head_tells_date_command_folders_models_and_version(tmp_path):
    head = Head(1.8e9, "run a b", {"Predictions": "a", "References": "b"}, ["net"], 2.5)
    _, reader = write(tmp_path, **run(2), head=head)
    shown = reader.text
    for text in ("2027-01-15 08:00 UTC", "run a b", "Predictions\na", "References\nb", "Model\nnet", __version__):
        assert text in shown, text
    assert "NSD (2.5 mm)" not in shown  # no patient has one here


@pytest.mark.usefixtures("quick")
def test_a_call_from_python_has_no_date_and_the_same_page_at_any_time(tmp_path):
    pages = [write(tmp_path, **run(2), head=Head(started, "", {}, ["net"]))[0] for started in (1.0, 1.8e9)]
    assert pages[0] == pages[1] and "UTC" not in pages[0]


@pytest.mark.usefixtures("quick")
def test_definitions_stand_on_the_page_and_the_tolerance_in_every_heading_of_the_nsd(tmp_path):
    tables = run(2)
    tables["metrics"]["nsd"] = 0.5
    summary = pd.DataFrame([{"region": "WT", "metric": name, "mean": 0.5, "n": 2} for name in ("dice", "nsd")])
    comparison = pd.DataFrame([{"region": "WT", "metric": "nsd", "system": "a", "other": "b", "n": 2}])
    _, reader = write(tmp_path, **tables, summary=summary, comparison=comparison, head=Head(tolerance_mm=0.5))
    assert reader.texts.count("NSD (0.5 mm)") == 5 and "NSD" not in reader.texts  # two patients, three tables
    shown = reader.text
    assert "within 0.5 mm of the other boundary" in shown and "between voxel centres" in shown
    assert "374 mm" in shown and "0.05 ml" in shown and "Below 6 patients" in shown


@pytest.mark.usefixtures("quick")
def test_only_a_row_that_is_not_ok_has_a_coloured_reason_and_flags_are_plain(tmp_path):
    rows = [{"case": s, "status": s, "reason": "why", "flags": "ET is empty"} for s in ("ok", "warn", "error")]
    page, reader = write(tmp_path, report=pd.DataFrame(rows))
    assert [a["class"] for a in reader.all("p") if (a.get("class") or "").startswith("reason")] == [
        "reason error", "reason warn", "reason ok",
    ]  # fmt: skip
    rules = dict(re.findall(r"^(\.flags li|\.reason\.\w+)\{(.*)", page, re.MULTILINE))
    assert "doubt" not in rules[".flags li"] and "doubt" in rules[".reason.warn"] and ".reason.ok" not in rules


@pytest.mark.usefixtures("quick")
def test_a_patient_whom_the_model_has_learnt_from_bears_a_badge(tmp_path):
    seen = "the model m has learnt from this patient (by name, b), so that its Dice says nothing"
    rows = [{"case": "a", "status": "ok", "flags": ""}, {"case": "b", "status": "ok", "flags": f"x; {seen}"}]
    _, reader = write(tmp_path, report=pd.DataFrame(rows))
    assert reader.texts.count("learnt from") == 1 and seen in reader.texts


@pytest.mark.usefixtures("quick")
def test_a_remark_names_its_system_unless_it_holds_for_all(tmp_path):
    rows = [{"case": "a", "status": "ok", "system": s, "flags": f"same; {s} alone"} for s in ("one", "two")]
    _, reader = write(tmp_path, report=pd.DataFrame(rows))
    assert {"same", "one: one alone", "two: two alone"} <= set(reader.texts)
    _, reader = write(tmp_path, report=pd.DataFrame(rows[:1]))
    assert {"same", "one alone"} <= set(reader.texts)  # one system needs no name in a patient's section


def test_systems_stand_side_by_side(tmp_path, picture):
    tables = run(2)
    both = {name: pd.concat([f.assign(system="one"), f.assign(system="two")]) for name, f in tables.items()}
    comparison = pd.DataFrame(
        [
            {"region": "WT", "metric": "dice", "system": "one", "other": "two", "n": 9, "mean_system": 0.9}
            | {"mean_other": 0.8, "mean_difference": 0.1, "ci95_low": -0.05, "ci95_high": 0.25, "p_wilcoxon": 0.00004}
            | {"wins": 6, "losses": 2, "ties": 1}
        ]
    )
    pictures = {"case000": {"one": picture, "two": picture}}
    _, reader = write(tmp_path, **both, comparison=comparison, pictures=pictures)
    assert len(reader.all("section", **{"class": "patient"})) == 2
    assert len(reader.all("img")) == 2
    for text in ("+0.100", "\N{MINUS SIGN}0.050 to +0.250", "< 0.001", "6 / 2 / 1"):
        assert text in reader.texts, text


@pytest.mark.usefixtures("quick")
def test_the_viewer_comes_only_where_it_is_asked_for_and_niivue_only_once(tmp_path):
    view = View(None, {"WT": np.ones((4, 4, 4), bool)}, Grid((4, 4, 4), np.eye(4)))
    page, reader = write(tmp_path, **run(3), viewers={"case001": view, "case002": view, "stranger": view})
    (policy,) = reader.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert "sha256-" in policy["content"] and "script-src 'unsafe-inline'" not in policy["content"]
    assert len(reader.all("div", **{"class": "viewer"})) == 2
    assert len([a for a in reader.all("script") if "type" not in a]) == 2
    assert len(page) < 4_000_000


def test_a_region_has_the_same_colour_in_tables_and_charts(tmp_path):
    page, _ = write(tmp_path, **run(3))
    for region in ("WT", "ET"):
        assert f'style="background:{REGION_COLOURS[region]}"' in page
        assert f"fill: {REGION_COLOURS[region].lower()}" in page


def test_the_same_tables_give_the_same_bytes(tmp_path):
    assert write(tmp_path, **run(4))[0] == write(tmp_path, **run(4))[0]


@pytest.mark.parametrize(
    ("value", "metric", "shown"),
    [
        (0.91249, "dice", "0.912"),
        (3.14159, "hd95_mm", "3.14"),
        (41.06, "hd95_mm", "41.1"),
        (-0.004, "volume_error_ml", "0.00"),
        (1234.5, "volume_ml_prediction", "1,234.5"),
        (7.0, "lesions_tp", "7"),
        (-12.3, "volume_error_percent", "\N{MINUS SIGN}12.3"),
        (float("nan"), "dice", ""),
        ("x", "dice", ""),
        (None, "dice", ""),
    ],
)
def test_numbers_are_in_the_precision_of_their_unit(value, metric, shown):
    assert number(value, metric) == shown


def test_intervals_times_and_p_values_are_short():
    assert interval(0.1, float("nan"), "dice") == ""
    assert interval(-1.0, 2.0, "volume_error_ml", signed=True) == "\N{MINUS SIGN}1.00 to +2.00"
    assert [seconds(s) for s in (0.25, 42.4, 185.0, float("nan"))] == ["0.2 s", "42 s", "3 min 5 s", ""]
    assert [p_value(p) for p in (0.0001, 0.04, float("nan"))] == ["< 0.001", "0.040", ""]
    assert metric_name("brats2024_gli_hd95_mm") == "brats2024-gli HD95 (mm)"


# ---- templates ----

REPORT = Path(__file__).resolve().parent.parent / "pipeline" / "report"


def test_templates_let_through_unescaped_only_what_the_program_itself_made():
    trusted = {
        found
        for path in REPORT.glob("templates/*")
        for found in re.findall(r"{{([^{}]*)\|\s*safe", path.read_text("utf-8"))
    }
    assert {name.strip() for name in trusted} == {"style", "chart", "script", "picture.base64", "entry.viewer()"}
    assert all("autoescape" not in path.read_text("utf-8") for path in REPORT.glob("templates/*"))


def test_a_template_that_asks_for_a_value_it_was_not_given_is_an_error_and_no_gap():
    with pytest.raises(UndefinedError, match="policy"):
        render("page.html", summary=None, comparison=None, detection=None, charts=Charts(), worst=[], patients=[])


def test_a_page_with_pictures_is_never_whole_in_memory(tmp_path, picture):
    tables = run(UNFOLDED)
    pictures = dict.fromkeys(tables["report"]["case"], picture)
    longest = max(map(len, render_in_pieces_of(tmp_path, tables, pictures)))
    assert longest < (tmp_path / "report.html").stat().st_size / 4


def render_in_pieces_of(path, tables, pictures) -> list[str]:
    """The pieces that a page was written in."""
    pieces: list[str] = []

    def listened(template: str, **context):
        for piece in render_in_pieces(template, **context):
            pieces.append(piece)
            yield piece

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.report.page.render_in_pieces", listened)
        patch.setattr("pipeline.report.page.draw_charts", lambda *given: Charts())
        write(path, **tables, pictures=pictures)
    return pieces


def test_every_template_style_sheet_and_script_is_in_the_wheel():
    config = ConfigParser()
    config.read(REPORT.parent.parent / "setup.cfg")
    patterns = [pattern.strip() for pattern in config["options.package_data"]["pipeline.report"].split(",")]
    files = [
        path.relative_to(REPORT) for path in REPORT.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")
    ]
    assert len(files) >= 6
    assert [str(path) for path in files if not any(path.match(pattern) for pattern in patterns)] == []
