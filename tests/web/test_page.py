"""For everyone: no serious finding of axe-core, by keyboard alone, on a phone and on a desk, light and dark."""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import pytest

from tests.web.conftest import wait_for_viewer

AXE = Path(os.environ.get("AXE") or Path(__file__).parent / ".axe" / "package" / "axe.min.js")


def serious_findings(page) -> list[str]:
    if not AXE.is_file():
        pytest.skip("axe-core is not there; `make test-web` fetches it, or name axe.min.js in AXE")
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("async () => (await axe.run({resultTypes: ['violations']})).violations")
    return [
        f"{rule['id']}: {rule['help']}: {node['html']} {node['failureSummary']}"
        for rule in found
        if rule["impact"] in ("serious", "critical", "moderate")
        for node in rule["nodes"]
    ]


@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing_serious_from_the_empty_page_to_the_result(open_page, done, patient_files, dark):
    page = open_page(dark=dark).page
    page.wait_for_selector(".gallery .card")
    assert serious_findings(page) == []
    page.set_input_files("#choose-files", patient_files[:1])
    page.wait_for_selector(".files")
    assert serious_findings(page) == []
    result = open_page(f"/#/case/{done.case['id']}", cookies=done.cookies, dark=dark).page
    wait_for_viewer(result)
    result.keyboard.press("?")
    assert serious_findings(result) == []
    result.keyboard.press("Escape")
    assert serious_findings(result) == []


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1440, 900)])
def test_nothing_sticks_out_at_the_side_and_research_use_is_always_seen(open_page, done, width, height):
    start = open_page(width=width, height=height).page
    start.wait_for_selector(".gallery .card")
    result = open_page(f"/#/case/{done.case['id']}", cookies=done.cookies, width=width, height=height).page
    wait_for_viewer(result)
    for page in (start, result):
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        box = page.locator(".research-only").bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= height
    canvas = result.locator(".stage canvas").first.bounding_box()
    assert canvas["width"] >= min(width - 40, 600) and canvas["height"] >= 300


def test_the_keyboard_alone_opens_a_result(open_page):
    page = open_page().page
    page.wait_for_selector(".results .card")
    seen = []
    for _ in range(20):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.textContent.trim()"))
        if page.evaluate("!!document.activeElement.closest('.results .card')"):
            break
    assert seen[0].startswith("Skip") and "Choose files…" in seen
    page.keyboard.press("Enter")
    wait_for_viewer(page)
    assert page.evaluate("document.activeElement.tagName") == "H1"  # a screen reader begins at the result


def test_a_wrong_token_is_said_on_the_login_page(open_page):
    page = open_page("/login?wrong").page
    assert "token" in page.inner_text("#problem")
    assert page.get_by_label("Token").is_visible()


def test_signing_out_asks_and_then_leaves_nothing_of_the_session(open_page, server, patient_files):
    page = open_page().page
    page.set_input_files("#choose-files", patient_files[:1])
    page.wait_for_selector(".files")
    old = {cookie["name"]: cookie["value"] for cookie in page.context.cookies()}
    page.click("#sign-out")
    page.click("dialog button:has-text('Keep')")
    page.wait_for_selector("dialog", state="detached")
    assert len(httpx.get(f"{server}/api/cases", cookies=old).json()) == 1
    page.click("#sign-out")
    page.click("dialog .danger")
    page.wait_for_selector(".gallery .card")
    assert page.locator("#patients li").count() == 0
    assert httpx.get(f"{server}/api/cases", cookies=old).json() == []
