"""The page of a finished case: what waits, what is said when something is not known, and what is asked before it is
lost."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from tests.web.conftest import wait_for_viewer
from tests.web.test_viewer import TOOLS, decode


@pytest.fixture
def altered(open_page, done):
    """Opens the finished case as if the server had told it with a change."""

    def open_one(change, **size):
        case = copy.deepcopy(done.case)
        change(case)
        page = open_page(cookies=done.cookies, **size).page
        page.route(f"**/api/cases/{case['id']}", lambda route: route.fulfill(json=case))
        page.goto(f"/#/case/{case['id']}")
        wait_for_viewer(page)
        page.evaluate(TOOLS)
        return page, case["result"]

    return open_one


def voxel_of(done, region: str) -> tuple[list[int], list[float]]:
    """A voxel of the mask's array that lies in a region: its indices and its place in mm."""
    view = done.case["result"]["view"]
    image = decode(done.bytes_of(view["prediction"]))
    found = np.argwhere((np.asarray(image.dataobj).astype(int) >> view["regions"].index(region)) & 1)
    voxel = found[len(found) // 3]
    mask = decode(done.bytes_of(view["mask"]))
    indices = voxel + view["offset"]
    return [int(i) for i in indices], [float(v) for v in (mask.affine @ [*indices, 1])[:3]]


def unsized(case) -> None:
    """As of a stack of slices, whose files do not say how large a voxel is."""
    result = case["result"]
    result["spacing_known"] = False
    for row in result["regions"]:
        row |= {"volume_ml": None, "largest_diameter_mm": None}
    for lesion in result["lesions"]:
        lesion |= {"volume_ml": None, "diameter_mm": None, "perpendicular_mm": None, "centroid_mm": [None] * 3}


def draw(page) -> None:
    """A stroke to the right of the crosshair in the axial plane."""
    x, y = page.evaluate("look.at(look.place())")
    box = page.locator(".stage canvas").first.bounding_box()
    page.mouse.move(box["x"] + x, box["y"] + y)
    page.mouse.down()
    page.mouse.move(box["x"] + x + 10, box["y"] + y, steps=3)
    page.mouse.up()


def test_controls_that_are_used_while_the_pictures_load_do_nothing_and_show_nothing_wrong(open_page, done):
    page = open_page(cookies=done.cookies).page
    held = []
    page.route("**/view/prediction.nii.gz", lambda route: held.append(route))
    page.goto(f"/#/case/{done.case['id']}")
    while not held:
        page.wait_for_timeout(100)
    page.evaluate(
        """() => { for (const control of document.querySelectorAll('.result input, .result button:not(#again)'))
        if (control.checkVisibility()) control.click(); }"""
    )
    page.keyboard.press("d")
    held[0].continue_()
    wait_for_viewer(page)
    assert page.evaluate("import('/static/viewer.js').then(({current}) => current.scene.state.layout)") == "four"
    assert page.locator(".segmented:visible input:checked").evaluate_all("all => all.map(input => input.value)") == [
        *("four", "t1c", "crosshair", "fill", "prediction")
    ]
    assert page.locator(".regions input:not(:checked)").count() == 0
    assert page.locator(".result fieldset:disabled").count() == 0


def test_a_result_that_is_asked_for_while_the_page_begins_is_built_once(open_page, done):
    page = open_page(cookies=done.cookies).page
    held, fetched = [], []
    page.route("**/api/cases", lambda route: held.append(route))
    page.on("request", lambda request: fetched.append(request.url))
    page.reload()
    while not held:
        page.wait_for_timeout(100)
    page.evaluate(f"location.hash = '#/case/{done.case['id']}'")
    page.wait_for_timeout(1000)
    held[0].continue_()
    wait_for_viewer(page)
    page.wait_for_timeout(1000)
    assert len([url for url in fetched if url.endswith("/view/prediction.nii.gz")]) == 1


def test_a_patient_that_arrives_after_another_page_was_asked_for_is_not_shown(open_page, done):
    page = open_page(cookies=done.cookies).page
    page.wait_for_selector(".dropzone")
    held = []
    page.route(f"**/api/cases/{done.case['id']}", lambda route: held.append(route))
    page.evaluate(f"location.hash = '#/case/{done.case['id']}'")
    while not held:
        page.wait_for_timeout(50)
    page.click("#new")
    with page.expect_response(f"**/api/cases/{done.case['id']}"):
        held[0].continue_()
    page.wait_for_timeout(300)
    assert page.locator(".dropzone").count() == 1 and page.locator("article.case").count() == 0


def test_a_lesion_is_looked_at_in_a_voxel_of_it_else_at_its_centroid_else_not_at_all(altered, done):
    voxel, mm = voxel_of(done, "ET")

    def change(case):
        first, second, third = case["result"]["lesions"][:3]
        first["centre_voxel"] = voxel
        second["centre_voxel"] = None
        third |= {"centre_voxel": None, "centroid_mm": [None] * 3}

    page, result = altered(change)
    page.locator(".lesions button").first.click()
    assert np.abs(np.array(page.evaluate("look.place()")) - mm).max() < 0.05
    assert "Enhancing tumour" in page.inner_text(".readout .inside")
    page.keyboard.press("n")
    assert np.abs(np.array(page.evaluate("look.place()")) - result["lesions"][1]["centroid_mm"]).max() < 0.05
    assert page.locator(".lesions tbody tr").nth(2).locator("button").count() == 0
    page.keyboard.press("n")  # the third has no place, so the next is the fourth, or the first again
    assert page.locator(".lesions tbody tr").nth(2).get_attribute("data-current") is None


def test_without_a_voxel_size_there_are_voxels_and_no_millimetres(altered, done):
    voxel, _ = voxel_of(done, "WT")

    def change(case):
        unsized(case)
        case["result"]["lesions"][0]["centre_voxel"] = voxel

    page, result = altered(change)
    assert page.locator(".plane-labels span").count() == 1  # the other planes are strips
    page.locator(".lesions button").first.click()
    said = page.inner_text(".readout .place")
    assert said.split() == ["voxel", *(part for pair in zip("ijk", map(str, voxel), strict=True) for part in pair)]
    assert f" k {voxel[2]}" in page.inner_text(".plane-labels")
    assert "assumed" in page.inner_text(".convention")
    whole = result["regions"][0]
    assert str(whole["voxels"]) in page.inner_text(f"tr[data-region={whole['region']}]")
    assert f"{whole['voxels']} voxels" in page.inner_text(".case-head .state")
    assert "mm" not in page.inner_text(".side .panel:has(.regions)") + page.inner_text(".side .panel:has(.lesions)")


def test_what_is_drawn_is_not_lost_without_a_question(open_page, done, patient_files):
    page = open_page(f"/#/case/{done.case['id']}", cookies=done.cookies).page
    wait_for_viewer(page)
    page.evaluate(TOOLS)
    page.click("#edit")
    page.wait_for_selector(".edit-tools")
    page.get_by_label("Eraser").check()
    draw(page)
    page.click("#new")
    page.click("dialog button:has-text('Keep')")
    page.wait_for_url(f"**/#/case/{done.case['id']}")  # the page goes back after the click, not within it
    assert page.is_visible(".edit-tools")
    transfer = page.evaluate_handle(
        "() => { const t = new DataTransfer(); t.items.add(new File(['x'], 'bert-t1.nii.gz')); return t; }"
    )
    page.dispatch_event("header.top", "drop", {"dataTransfer": transfer})
    page.click("dialog button:has-text('Keep')")
    page.fill(".case-name", "Anna")
    page.press(".case-name", "Enter")
    page.wait_for_selector("#patients .name:has-text('Anna')")
    assert page.is_visible(".edit-tools")
    asked = []

    def stay(dialog):
        asked.append(dialog.type)
        dialog.dismiss()

    page.on("dialog", stay)
    page.evaluate("location.reload()")
    while not asked:
        page.wait_for_timeout(100)
    assert asked == ["beforeunload"] and page.is_visible(".edit-tools")
    page.click("#new")
    page.click("dialog .danger")
    page.wait_for_selector(".dropzone")
    page.go_back()
    wait_for_viewer(page)
    page.click("#edit")
    page.wait_for_selector(".edit-tools")
    page.click("#new")  # nothing is drawn, so nothing is asked
    page.wait_for_selector(".dropzone")


def test_a_saved_edit_is_named_and_the_next_one_goes_on_from_it(open_page):
    page = open_page().page
    page.click(".results .card")  # a case of its own: the one that all tests share stays without edits
    wait_for_viewer(page)
    page.evaluate(TOOLS)
    view = page.evaluate("async () => (await (await fetch('/api/cases')).json())[0].result.view")
    prediction = decode(page.request.get(view["prediction"]).body())
    corner = [float(v) for v in (prediction.affine @ [5, 5, prediction.shape[2] // 2, 1])[:3]]
    saved = []
    for pen, place in (("Eraser", page.evaluate("look.place()")), ("NETC", corner)):
        page.click("#edit")
        page.wait_for_selector(".edit-tools")
        if saved:
            assert f"Going on from {saved[-1]['name']}" in page.inner_text(".edit-from")
        page.evaluate("mm => look.jump(mm)", place)
        page.locator(".pens label", has_text=pen).click()
        draw(page)
        with page.expect_response(lambda answer: answer.url.endswith("/edits")) as waiting:
            page.click("#edit-save")
        page.wait_for_selector(".edit-said:visible")
        edits = [f for f in waiting.value.json()["result"]["files"] if f["what"] == "mask with changes by hand"]
        assert len(edits) == len(saved) + 1
        saved.append(max(edits, key=lambda file: file["name"]))
        assert f"Saved as {saved[-1]['name']}," in page.inner_text(".edit-said")
        assert page.is_visible(f".downloads a[href='{saved[-1]['url'].removeprefix('/')}']")
    urls = [view["mask"], *(file["url"] for file in saved)]
    before, *after = (np.asarray(decode(page.request.get(url).body()).dataobj) for url in urls)
    changed = [mask != before for mask in after]
    assert 0 < changed[0].sum() < changed[1].sum() and not (changed[0] & ~changed[1]).any()
    page.click("#edit")
    page.click(".edit-from button")
    page.wait_for_selector(".edit-from", state="hidden")


def test_scores_are_shown_without_a_reference_and_the_badge_counts_whole_tumours(altered):
    def change(case):
        case["result"]["has_reference"] = False
        case["result"]["view"]["reference"] = None

    page, result = altered(change)
    assert "Dice" in page.inner_text(".regions thead")
    whole = result["regions"][0]
    assert f"{whole['dice']:.3f}" in page.inner_text(f"tr[data-region={whole['region']}]")
    assert page.inner_text(".panel:has(.lesions) h2 small") == f"Whole tumour: {whole['lesions']}"


def test_both_sides_have_a_legend(viewer):
    assert not viewer.is_visible(".legend")
    viewer.locator("label", has_text="Both").click()
    assert viewer.inner_text(".legend") == "Filled: prediction, dashed: reference"
    viewer.locator("label", has_text="Outline").click()
    assert viewer.inner_text(".legend") == "Solid: prediction, dashed: reference"
    viewer.keyboard.press("r")
    assert not viewer.is_visible(".legend")


def test_a_finished_case_runs_again_with_other_settings(open_page, patient_files):
    page = open_page().page
    page.set_input_files("#choose-files", patient_files)
    page.click("#run:enabled")
    wait_for_viewer(page)
    page.click("#again")
    page.click("#back")
    wait_for_viewer(page)
    page.click("#again")
    t2 = next(path.name for path in patient_files if "t2w" in path.name)
    page.get_by_label(f"Role of {t2}").select_option("")
    page.wait_for_selector(".missing:has-text('T2')")
    page.reload()
    page.click("#back")  # until the run begins, the result is there
    wait_for_viewer(page)
    assert page.locator("#edit").count() == 0
    page.click("#again")
    page.click("#run:enabled")
    page.wait_for_selector(".working")
    wait_for_viewer(page)
    assert page.locator(".toolbar label", has=page.get_by_text("T2", exact=True)).count() == 0


CARD = (
    "# tiny\n\n| system | patient | dice_WT | dice_TC | dice_ET | hd95_mm_WT | hd95_mm_TC | hd95_mm_ET |\n"
    "|---|---|---|---|---|---|---|---|\n"
)


def test_a_number_of_a_model_card_stays_in_one_piece(open_page, done):
    page = open_page(cookies=done.cookies).page
    model = page.evaluate("async () => (await (await fetch('/api/models')).json())[0]")
    model["card"] = CARD + "| out of fold | BraTS-GLI-00009-000 | 0.933 | 0.902 | 0.903 | 104.0 | 12.6 | 2.0 |\n"
    page.route("**/api/models", lambda route: route.fulfill(json=[model]))
    page.goto(f"/?#/case/{done.case['id']}")
    wait_for_viewer(page)
    page.click(".card-box summary")
    heights = page.locator(".card-text td").evaluate_all(
        """cells => cells.filter(cell => /^[0-9.]+$/.test(cell.textContent)).map(cell => {
        const range = document.createRange(); range.selectNodeContents(cell);
        return range.getClientRects().length; })"""
    )
    assert heights == [1] * 6


def test_on_a_phone_the_scores_are_seen_and_the_patient_is_found_in_the_strip(open_page, done):
    page = open_page(cookies=done.cookies, width=390, height=844).page
    others = [done.case | {"id": f"{n:032x}", "created": done.case["created"] + n} for n in range(1, 9)]
    page.route("**/api/cases", lambda route: route.fulfill(json=[*others, done.case]))
    page.goto(f"/?#/case/{done.case['id']}")
    wait_for_viewer(page)
    for part in ("#patients a[aria-current]", ".regions thead th >> nth=-1"):
        box = page.locator(part).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390, part


def test_on_a_phone_a_file_name_is_broken_only_where_it_must_be(open_page, patient_files):
    page = open_page(width=390, height=844).page
    page.set_input_files("#choose-files", patient_files)
    page.wait_for_selector(".files")
    for row in page.locator(".files tbody tr").all():
        assert row.bounding_box()["height"] < 110
        select = row.locator("select").bounding_box()
        assert select["x"] + select["width"] <= 390


def test_an_earlier_result_says_that_it_is_being_opened(open_page):
    page = open_page().page
    held = []
    page.route("**/api/results/*", lambda route: held.append(route))
    page.click(".results .card")
    page.wait_for_selector(".results .card:has-text('Opening…')")
    while not held:
        page.wait_for_timeout(100)
    held[0].continue_()
    wait_for_viewer(page)


def test_a_file_without_a_role_is_asked_for(open_page, patient_files):
    page = open_page().page
    content = patient_files[0].read_bytes()
    page.set_input_files(
        "#choose-files", [{"name": "scan.nii.gz", "mimeType": "application/octet-stream", "buffer": content}]
    )
    page.wait_for_selector(".files")
    assert page.get_by_label("Role of scan.nii.gz").input_value() == ""
    assert "Choose what the file shows first." in page.inner_text(".run")
