"""The report of an evaluation in a browser, opened as a file: whole at any width, light or dark, and copied from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from data.grid import Grid
from pipeline.report.head import Head
from pipeline.report.overview import Charts
from pipeline.report.page import write_page
from pipeline.report.viewer import View

SYSTEMS = ("attention-unet-of-a-rather-long-name", "unet-plus-plus")
CUT = """
() => [...document.querySelectorAll("body *")]
  .filter(e => e.getClientRects().length && !e.closest("pre, .aside, .canvas"))
  .filter(e => e.getBoundingClientRect().right > innerWidth + 1 || e.scrollWidth > e.clientWidth + 1
    && getComputedStyle(e).overflowX !== "visible")
  .map(e => e.outerHTML.slice(0, 80))
"""


@pytest.fixture(scope="module")
def report_page(tmp_path_factory) -> Path:
    """Two systems on seven patients, one of them in the viewer."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    rows = [(f"BraTS2021_0000{k}", system) for system in SYSTEMS for k in range(7)]
    measures = {"dice": 0.9, "hd95_mm": 374.0, "nsd": 0.8, "assd_mm": 12.3, "sensitivity": 0.5, "precision": 0.5}
    measures |= {"volume_ml_prediction": 123.4, "volume_ml_reference": 100.0, "volume_error_ml": -23.4}
    regions = ("WT", "TC", "ET")
    metrics = pd.DataFrame([{"case": c, "system": s, "region": r} | measures for c, s in rows for r in regions])
    spread = {"mean": 0.9, "median": 0.9, "q1": 0.1, "q3": 1, "ci95_low": 0.5, "ci95_high": 0.95, "n": 7}
    counts = {"n_empty_reference": 1, "n_empty_prediction": 2, "n_failed": 0, "n_learnt_from": 1}
    summary = [
        {"system": s, "region": r, "metric": m} | spread | counts for s in SYSTEMS for r in regions for m in measures
    ]
    paired = dict(zip(("system", "other"), SYSTEMS, strict=True)) | {"mean_system": 0.9, "mean_other": 0.8, "n": 7}
    paired |= {"mean_difference": 0.1, "median_difference": 0.1, "p_wilcoxon": 0.01, "wins": 6, "losses": 1, "ties": 0}
    paired |= {"ci95_low": -0.1, "ci95_high": 0.2}
    cube = np.zeros((24, 24, 24), bool)
    cube[8:16, 8:16, 8:16] = True
    views = [{"WT": np.roll(cube, shift, 0)} for shift in (0, 4)]
    view = View(None, views[0], Grid(cube.shape, np.eye(4)), {"WT": cube}, SYSTEMS[0], {SYSTEMS[1]: views[1]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.report.page.draw_charts", lambda *given: Charts())
        write_page(
            path, "Evaluation",
            report=pd.DataFrame([{"case": c, "system": s, "status": "warn", "reason": "why " * 30} for c, s in rows]),
            metrics=metrics, summary=pd.DataFrame(summary), lesions=pd.DataFrame(), pictures={},
            comparison=pd.DataFrame([paired | {"region": r, "metric": m} for r in regions for m in ("dice", "nsd")]),
            viewers={"BraTS2021_00000": view}, head=Head(1.8e9, "run " + "a/rather/long/path" * 12),
        )  # fmt: skip
    return path


def opened(browser: Any, path: Path, width: int, **more: Any) -> Any:
    page = browser.new_page(viewport={"width": width, "height": 800}, **more)
    page.goto(path.as_uri())
    return page


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_cut(browser, report_page, width):
    page = opened(browser, report_page, width)
    assert page.evaluate(CUT) == []
    page.close()


def test_a_dark_browser_gets_a_dark_page_and_paper_a_light_one(browser, report_page):
    page = opened(browser, report_page, 800, color_scheme="dark")
    ground = "() => getComputedStyle(document.body).backgroundColor"
    assert sum(map(int, page.evaluate(ground).strip("rgb()").split(","))) < 150
    page.emulate_media(media="print")
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    page.close()


def test_the_matrix_is_copied_from_a_page_that_is_a_file(browser, report_page):
    page = opened(browser, report_page, 1280)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    for name, beginning in (("Markdown", "| System | n |"), ("LaTeX", r"\begin{tabular}"), ("CSV", "System,n,")):
        page.get_by_role("button", name=f"Copy as {name}").click()
        page.get_by_text(f"Copied as {name}.").wait_for()
        copied = page.evaluate("() => navigator.clipboard.readText()")
        assert copied.startswith(beginning) and copied == page.locator(f"#copy-{name}").text_content()
    page.close()


def test_the_viewer_shows_each_system_and_the_reference(browser, report_page):
    page = opened(browser, report_page, 1280)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.get_by_role("button", name="Open the interactive view").click()
    page.wait_for_selector(".viewer[data-state]", timeout=60_000)
    if page.get_attribute(".viewer", "data-state") == "failed":
        pytest.skip("this browser has no WebGL 2")
    for name in (*SYSTEMS, "reference"):
        page.locator(".viewer").get_by_label(name).check()
    assert page.locator(".side").count() == 3 and problems == []
    page.close()
