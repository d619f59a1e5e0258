"""From dropped files to a result: roles, problems, progress, cancel, reload, two users."""

from __future__ import annotations

import re
from pathlib import Path

from tests.web.conftest import wait_for_viewer

ROLES = {"t1n": "t1", "t1c": "t1c", "t2w": "t2", "t2f": "flair", "seg": "reference"}


def choose(page, files) -> None:
    page.set_input_files("#choose-files", files)


def blob(name: str, content: bytes = b"nothing") -> dict:
    return {"name": name, "mimeType": "application/octet-stream", "buffer": content}


def test_a_patient_goes_from_files_to_a_result_and_its_mask_is_the_servers_byte_for_byte(open_page, patient_files):
    page = open_page().page
    choose(page, patient_files)
    page.wait_for_selector(".files")
    for path in patient_files:
        role = ROLES[path.name.removesuffix(".nii.gz").rsplit("-", 1)[1]]
        assert page.get_by_label(f"Role of {path.name}").input_value() == role
    page.click("#run:enabled")
    page.wait_for_selector(".working progress")
    page.reload()  # the job goes on without us, and we find it again
    wait_for_viewer(page)
    assert "is there" in page.inner_text("#announce")
    case = page.evaluate("async () => (await (await fetch('/api/cases')).json())[0]")
    for row in case["result"]["regions"]:
        said = page.inner_text(f"tr[data-region={row['region']}]")
        assert f"{row['volume_ml']:.{2 if row['volume_ml'] < 10 else 1}f}" in said and f"{row['dice']:.3f}" in said
    page.click(".downloads summary")
    for file in case["result"]["files"]:
        page.wait_for_timeout(700)  # Chromium holds back the eleventh download of a quick row
        with page.expect_download() as waiting:
            page.click(f".downloads a[href='{file['url'].removeprefix('/')}']")
        got = Path(waiting.value.path()).read_bytes()
        served = page.request.get(file["url"])
        assert got == served.body() and len(got) == file["bytes"]
        assert "attachment" in served.headers["content-disposition"]


def test_a_role_can_be_changed_and_the_missing_modality_is_named(open_page, patient_files):
    page = open_page().page
    choose(page, [path for path in patient_files if "seg" not in path.name])
    page.wait_for_selector(".files")
    t2 = next(path.name for path in patient_files if "t2w" in path.name)
    page.get_by_label(f"Role of {t2}").focus()
    page.get_by_label(f"Role of {t2}").select_option("")
    page.wait_for_selector(".missing:has-text('T2')")
    assert page.evaluate("document.activeElement.ariaLabel") == f"Role of {t2}"
    page.get_by_label(f"Role of {t2}").select_option("t2")
    page.wait_for_selector(".missing", state="detached")


def test_a_broken_file_is_refused_with_its_sentence_before_anything_runs(open_page, patient_files):
    page = open_page().page
    broken = patient_files[0].read_bytes()[:2000]
    choose(page, [blob("anna-t1.nii.gz", broken)])
    page.wait_for_selector(".message.problem, .file-problem")
    assert page.is_disabled("#run")
    case = page.evaluate("async () => (await (await fetch('/api/cases')).json())[0]")
    sentence = (case["problems"] + [file["problem"] for file in case["files"] if file["problem"]])[0]
    assert sentence in page.inner_text("main")


def test_what_is_no_image_at_all_is_refused_and_the_page_stays_usable(open_page):
    watched = open_page()
    watched.expected = ["422"]
    choose(watched.page, [blob("letter.docx")])
    watched.page.wait_for_selector("#notice p, .message.problem, .file-problem")
    watched.page.click("#new")
    watched.page.wait_for_selector(".dropzone")


def test_a_file_name_is_shown_as_text_and_never_becomes_html(open_page, patient_files):
    page = open_page().page
    name = "<img src=x onerror=alert(1)>-t1.nii.gz"
    choose(page, [blob(name, patient_files[0].read_bytes())])
    page.wait_for_selector(".files")
    assert page.locator("img[src=x]").count() == 0
    assert "<img" in page.inner_text(".files")


def test_files_can_be_dropped_anywhere(open_page, patient_files):
    page = open_page().page
    content = list(patient_files[0].read_bytes())
    transfer = page.evaluate_handle(
        """content => { const t = new DataTransfer();
        t.items.add(new File([new Uint8Array(content)], 'bert-t1.nii.gz')); return t; }""",
        content,
    )
    page.dispatch_event("header.top", "dragenter", {"dataTransfer": transfer})
    assert page.is_visible("#veil")
    page.dispatch_event("header.top", "drop", {"dataTransfer": transfer})
    assert not page.is_visible("#veil")
    page.wait_for_selector(".files:has-text('bert-t1.nii.gz')")


def test_two_users_work_side_by_side_and_one_can_cancel(open_page, patient_files):
    watched = [open_page(), open_page()]
    for each in watched:
        choose(each.page, patient_files)
    for each in watched:
        each.page.click("#run:enabled")
    first, second = (each.page for each in watched)
    second.click("#cancel")
    second.wait_for_selector(".case-head .state:has-text('cancelled'), .viewer")
    wait_for_viewer(first)
    ids = [re.findall(r"[0-9a-f]{32}", page.url)[0] for page in (first, second)]
    assert ids[0] != ids[1]
    watched[1].expected = ["404"]
    second.goto(f"/#/case/{ids[0]}")
    second.wait_for_selector("#notice p")
    assert second.locator(".viewer").count() == 0


def test_an_example_is_one_click_away_and_can_be_deleted(open_page):
    page = open_page().page
    page.locator(".gallery .card").first.click()
    page.wait_for_selector("#run:enabled")
    assert page.locator(".files tbody tr").count() >= 4
    page.click("#delete")
    page.click("dialog .danger")
    page.wait_for_selector(".dropzone")
    assert page.evaluate("async () => (await (await fetch('/api/cases')).json()).length") == 0


def test_an_earlier_result_can_be_opened(open_page):
    page = open_page().page
    page.click(".results .card")
    wait_for_viewer(page)
    assert page.locator(".regions tbody tr").count() == 3
