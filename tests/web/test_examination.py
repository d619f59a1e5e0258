"""A DICOM examination from the drop to the result: series chosen among, images prepared, and what of it is shown."""

from __future__ import annotations

import pytest

pytest.importorskip("highdicom", reason="the extra dicom is not installed")

from tests.dicom_files import export_patient
from tests.web.conftest import wait_for_viewer
from tests.web.test_viewer import TOOLS


@pytest.fixture(scope="module")
def examination(tmp_path_factory, patient_files):
    """The phantom as a scanner exports it; it lay 12 mm further to the left when T2 was made."""
    return export_patient(patient_files[0].parent, tmp_path_factory.mktemp("dicom"), moved_mm={"t2": 12.0})


def test_an_examination_is_chosen_among_prepared_and_taken_away_in_every_format(open_page, examination):
    page = open_page().page
    page.set_input_files("#choose-folder", examination)
    page.wait_for_selector(".files")
    assert page.inner_text(".files thead th >> nth=0") == "Series"
    rows = page.locator(".files tbody tr")
    assert rows.count() == 4 and page.locator(".reasons").count() == 4
    said = page.inner_text("main")
    assert "Zyxwiak" not in said and "Quirina" not in said
    roles = rows.locator("select")
    assert roles.evaluate_all("all => all.map(select => select.value)") == ["t1", "t1c", "t2", "flair"]
    roles.nth(0).select_option("")
    page.wait_for_selector(".missing:has-text('T1')")
    page.wait_for_selector("tr.aside .reasons:has-text('by hand')")
    page.locator(".files tbody tr select").nth(0).select_option("t1")
    page.wait_for_selector(".missing", state="detached")
    assert page.is_checked("#prepare")
    page.click("#run:enabled")
    wait_for_viewer(page)
    moved = page.locator(".preparation tr[data-modality=t2] td").all_inner_texts()
    assert abs(float(moved[0]) - 12) < 2 and float(moved[1]) < 2
    assert "T2 moved by" in page.inner_text("section[aria-label=Quality]")
    page.click(".downloads summary")
    names = page.locator(".downloads a").evaluate_all("all => all.map(link => link.download)")
    for end in ("_seg.nii.gz", "_seg.seg.nrrd", "_seg.dcm", "_rtstruct.dcm", "_sr.dcm", "_report.pdf", "_xfm_t2.txt"):
        assert sum(name.endswith(end) for name in names) == 1, end


def test_the_outline_of_the_brain_is_a_line_of_its_own(open_page, done):
    case = done.case | {"result": dict(done.case["result"])}
    case["result"]["view"] = case["result"]["view"] | {"brain": 0}
    moves = {"flair": {"mm": 14.2, "degrees": 8}}
    case["result"]["preparation"] = {"reference": "t1c", "moves": moves, "stripped": True}
    page = open_page(cookies=done.cookies).page
    page.route(f"**/api/cases/{case['id']}", lambda route: route.fulfill(json=case))
    page.goto(f"/#/case/{case['id']}")
    wait_for_viewer(page)
    page.evaluate(TOOLS)
    assert "14.2" in page.inner_text(".preparation") and "skull was removed" in page.inner_text(".preparation")
    page.get_by_label("Overlay", exact=True).uncheck()
    page.evaluate("look.pixels([])")
    assert page.evaluate("look.lines()")
    page.get_by_label("Outline of the brain").uncheck()
    page.evaluate("look.pixels([])")
    assert not page.evaluate("look.lines()")
