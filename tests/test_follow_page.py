"""Pages of a follow-up, their curves and pictures."""

from __future__ import annotations

import html
import io
import re

import numpy as np
import pytest

from data.grid import Grid
from pipeline.follow.show.curves import Bound, Curve, draw_curve
from pipeline.follow.show.page import PatientListed, PatientShown, write_overview, write_patient_page
from pipeline.follow.show.planes import COLOURS_BY_NAME, cut, filled, outlined, plane_grid
from pipeline.report.colours import rgb

SENTENCE = "Computed from masks by a research tool; no diagnosis."


def row(label: str, day: float, category: str, product: float | None, **more: object) -> dict:
    return {
        "patient": "P", "case": label, "timepoint": label, "date": None, "days": day, "volume_ml_ET": 2.0,
        "sum_of_products_mm2": product, "category_rano2": category, "confirmed_rano2": "",
        "reason_rano2": f"why {category}", "flags": "",
    } | more  # fmt: skip


@pytest.fixture
def shown() -> PatientShown:
    rows = [
        row("<i>0", 0, "BASELINE", 400.0),
        row("1", 60, "PD", 600.0, confirmed_rano2="yes", flags="other scanner: X"),
    ]
    response = {"criterion": "rano2", "best_response": "PD", "progression_timepoint": "1", "days_to_progression": 60.0}
    return PatientShown("<b>P</b>", rows, responses=[response], criteria=["rano2"], facts={"Baseline": "assumed"})


def test_a_patients_page_says_categories_reasons_flags_and_that_it_is_no_diagnosis(shown, tmp_path):
    write_patient_page(tmp_path / "p.html", shown)
    page = (tmp_path / "p.html").read_text()
    assert "class=g" not in page  # that rule stands between regions, and rows are visits here
    for text in ("why PD", "confirmed", "other scanner: X", "60 days", "Baseline", "day 60", SENTENCE):
        assert text in page
    assert "&lt;b&gt;P&lt;/b&gt;" in page and "<b>P</b>" not in page and "<i>0" not in page


def test_pages_run_no_script_and_ask_nothing_of_a_server(shown, tmp_path):
    write_patient_page(tmp_path / "p.html", shown)
    listed = PatientListed("P", "P", shown.timepoints, (), page="P/followup.html")
    write_overview(tmp_path / "all.html", [listed], ["rano2"], {})
    for name in ("p.html", "all.html"):
        page = html.unescape((tmp_path / name).read_text())
        assert "default-src 'none'" in page and "<script" not in page and "prefers-color-scheme:dark" in page
        assert not re.search(r"""(src|href)=["'](?!data:|#|\.\./followup\.html|P/)""", page) and "@media print" in page
        assert SENTENCE in page


def test_the_overview_lists_progression_first_and_every_patient_once(tmp_path):
    def listed(name: str, *categories: str, error: str = "") -> PatientListed:
        rows = [row(str(n), 30.0 * n, category, 100.0 + n) for n, category in enumerate(categories)]
        return PatientListed(name, name, rows, (), page="" if error else f"{name}/followup.html", error=error)

    patients = [listed("A", "BASELINE", "SD"), listed("B", "BASELINE", "PD"), listed("C", "NE", error="no mask at all")]
    write_overview(tmp_path / "all.html", patients, ["rano2"], {})
    page = (tmp_path / "all.html").read_text()
    assert [page.index(f'class="name" href="{name}/followup.html">{name}<') for name in "BA"] == sorted(
        page.index(f'class="name" href="{name}/followup.html">{name}<') for name in "BA"
    )
    assert "no mask at all" in page and 'href="C/' not in page
    counted = re.findall(r"<li><b>(\d+)</b>([a-z ]+)</li>", page)
    assert counted == [("3", "patients"), ("5", "visits"), ("1", "with progression"), ("1", "visits not evaluable")]


# ---- curves ----


def drawn(values: list[float | None], days: list[float | None], **more: object):
    labels = [str(n) for n in range(len(values))]
    return draw_curve(Curve("Targets", "mm²", "#D55E00", days, labels, values, **more))  # type: ignore[arg-type]


def test_points_lie_in_proportion_to_time_and_value():
    curve = drawn([100.0, 50.0, 200.0], [0.0, 30.0, 90.0])
    (x0, y0), (x1, y1), (x2, y2) = ((float(p.x), float(p.y)) for p in curve.points)
    assert (x1 - x0) / (x2 - x0) == pytest.approx(1 / 3, abs=0.01)
    assert (y0 - y2) / (y1 - y2) == pytest.approx(100 / 150, abs=0.01)
    assert curve.axis == "days since the first visit"


def test_the_band_is_as_wide_as_the_repeatability():
    curve = drawn([100.0, 100.0], [0.0, 10.0], repeatability=0.1)
    scale = (curve.bottom - curve.top) / float(curve.rows[-1].text)
    heights = sorted({float(pair.split()[1]) for pair in re.split("[ML]", curve.band.rstrip("Z")) if pair})
    assert heights[-1] - heights[0] == pytest.approx(20 * scale, abs=0.2)


def test_a_bound_is_a_line_at_its_value_with_its_name():
    curve = drawn([100.0, 130.0], [0.0, 10.0], bounds=[Bound("PD", [None, 125.0])])
    (step,) = curve.steps
    level = curve.bottom - (curve.bottom - curve.top) * 125 / float(curve.rows[-1].text)
    assert step.name == "PD" and float(step.y) == pytest.approx(level, abs=0.2)


def test_a_visit_without_a_value_is_marked_and_no_point():
    curve = drawn([100.0, None, 90.0], [0.0, 10.0, 20.0])
    assert [gap.text for gap in curve.missing] == ["1"] and len(curve.points) == 2


@pytest.mark.parametrize("days", [[None, None], [0.0, None], [5.0, 5.0]])
def test_visits_without_days_stand_at_equal_distances_and_it_is_said(days):
    assert "not to scale" in drawn([1.0, 2.0], days).axis


def test_nothing_known_draws_nothing_and_zero_alone_does():
    assert drawn([None, None], [0.0, 1.0]) is None
    assert [level.text for level in drawn([0.0, 0.0], [0.0, 1.0]).rows] == ["0", "1"]


# ---- planes ----


def _pixels(png: bytes) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), int)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "ASR"])
def test_a_plane_shows_the_patients_left_on_the_right_whatever_the_order_of_the_axes(codes):
    head = np.zeros((20, 30, 10), np.float32)
    head[2:5, 3:6, 7] = 100  # to the left of the patient, and behind
    grid = Grid(head.shape, np.diag([2.0, 2.0, 3.0, 1.0]))
    there, array = grid.reoriented(codes), grid.turn(head, codes)
    plane = plane_grid(there, [(0, 19), (0, 29), (0, 9)], "axial", 7)
    shown = cut(array, there, plane)
    down, across = np.argwhere(shown > 50).mean(axis=0) / shown.shape
    assert across > 0.7 and down > 0.7
    assert shown.shape[0] / shown.shape[1] == pytest.approx(30 / 20, rel=0.02)


def test_an_outline_lies_where_half_of_a_pixel_is_in_the_region():
    mask = np.zeros((60, 60), np.float32)
    mask[20:40, 10:30] = 1
    coloured = _pixels(outlined(None, (0.0, 1.0), {"ET": mask}))
    marked = np.argwhere(np.abs(coloured - rgb("#D55E00")).sum(axis=2) < 60)
    assert marked.min(axis=0) == pytest.approx([20, 10], abs=1.5) and marked.max(axis=0) == pytest.approx(
        [39, 29], abs=1.5
    )


def test_growth_is_shown_in_the_colours_of_its_legend():
    parts = {name: np.zeros((20, 30), np.float32) for name in COLOURS_BY_NAME}
    for place, part in enumerate(parts.values()):
        part[:, 10 * place : 10 * place + 10] = 1
    shown = _pixels(filled(None, (0.0, 1.0), parts))
    for place, colour in enumerate(COLOURS_BY_NAME.values()):
        assert np.abs(shown[10, 10 * place + 5] - (0.4 * 40 + 0.6 * np.array(rgb(colour)))).max() < 8
