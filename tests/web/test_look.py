"""How the page of a result looks: the picture within the window, strokes where they were drawn, nothing green."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from tests.web.conftest import wait_for_viewer
from tests.web.test_viewer import TOOLS

PLACES = """indices => {
  const {nv} = look.viewer().scene, [, nx, ny] = nv.back.dimsRAS;
  const at = voxel => Array.from(nv.frac2canvasPos(nv.mm2frac(nv.vox2mm(voxel, nv.back.matRAS))));
  const voxel = i => [i % nx, Math.floor(i / nx) % ny, Math.floor(i / nx / ny)];
  return indices.map(i => at(voxel(i)));
}"""
SIZES = [(1280, 720), (1440, 900), (390, 844)]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_stroke_lands_where_it_was_drawn_though_the_picture_had_no_focus(open_page, done, width, height):
    page = open_page(f"/#/case/{done.case['id']}", cookies=done.cookies, width=width, height=height).page
    wait_for_viewer(page)
    page.evaluate(TOOLS)
    page.click("#edit")
    page.wait_for_selector(".edit-tools")
    page.locator(".pens label", has_text="NETC").click()
    page.evaluate("document.querySelector('.stage').scrollIntoView({block: 'center'})")
    page.evaluate(
        "scrollBy(0, document.querySelector('.stage canvas').getBoundingClientRect().bottom - innerHeight - 60)"
    )
    before = page.evaluate("scrollY")
    x, y = page.evaluate("look.at(look.place())")
    box = page.locator(".stage canvas").first.bounding_box()
    count = "[...look.viewer().scene.nv.drawBitmap]"
    empty = np.array(page.evaluate(count))
    page.mouse.move(box["x"] + x, box["y"] + y)
    page.mouse.down()
    page.mouse.move(box["x"] + x + 8, box["y"] + y, steps=4)
    page.mouse.up()
    assert page.evaluate("scrollY") == before
    changed = np.flatnonzero(np.array(page.evaluate(count)) != empty)
    drawn = np.array(page.evaluate(PLACES, changed.tolist()))
    # The pen is one voxel wide: its middle is at most half a voxel's diagonal beside the pointer, and a pixel.
    half = (
        abs(page.evaluate("look.at(look.place().map((mm, i) => (i ? mm : mm + 3)))[0] - look.at(look.place())[0]")) / 2
    )
    off = np.hypot(*(drawn - [x, y]).T).min(), np.hypot(*(drawn - [x + 8, y]).T).min()
    assert max(off) <= half * 2**0.5 + 1


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_picture_and_its_tools_fit_into_the_window(open_page, done, width, height):
    page = open_page(f"/#/case/{done.case['id']}", cookies=done.cookies, width=width, height=height).page
    wait_for_viewer(page)
    stage = page.locator(".stage-box").bounding_box()
    assert stage["y"] >= 0 and stage["y"] + stage["height"] <= height
    assert stage["y"] <= 0.35 * height  # the picture, and not the page's controls, is seen first
    if width > 1180:
        viewer = page.locator(".viewer").bounding_box()
        assert viewer["y"] + viewer["height"] <= height
        places = [page.locator(place).first for place in ("#edit", ".window", ".viewer .toolbar")]
        rows = {round(place.bounding_box()["y"]) for place in places}
        assert len(rows) <= 3


@pytest.mark.parametrize("dark", [False, True])
def test_nothing_found_is_grey_and_says_what_was_looked_for(open_page, done, dark):
    case = copy.deepcopy(done.case)
    case["result"] |= {"status": "ok", "reason": "", "flags": []}
    page = open_page(cookies=done.cookies, dark=dark).page
    page.route(f"**/api/cases/{case['id']}", lambda route: route.fulfill(json=case))
    page.goto(f"/#/case/{case['id']}")
    wait_for_viewer(page)
    said = page.locator("section[aria-label=Quality]")
    text = said.inner_text()
    assert "passed" not in text and "tumour at the edge of the image" in text and "look at every slice" in text
    for style in ("backgroundColor", "borderTopColor", "color"):
        shown = said.evaluate("(box, style) => getComputedStyle(box)[style]", style)
        red, green, blue = (int(part) for part in shown.removeprefix("rgb(").removesuffix(")").split(", "))
        assert green <= max(red, blue)


def test_the_mask_and_all_in_one_are_offered_and_each_other_file_is_folded_away(viewer, done):
    names = [file["name"] for file in done.case["result"]["files"]]
    shown = viewer.locator(".downloads a:visible").evaluate_all("all => all.map(a => a.download)")
    assert shown == [names[0], "everything.zip"]
    viewer.click(".downloads summary")
    assert viewer.locator(".downloads a:visible").count() == len(names)
