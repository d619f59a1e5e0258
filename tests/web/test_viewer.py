"""The pictures: what is drawn is what the server wrote, at its place, in its colour."""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np
import pytest

from pipeline.report.colours import REGION_COLOURS, rgb

TOOLS = """
async () => {
  const {current} = await import('/static/viewer.js');
  const scenes = await import('/static/scene.js');
  const {nv} = current.scene;
  globalThis.look = {
    viewer: () => current,
    place: () => current.place.mm,
    jump: mm => scenes.jump(current.scene, mm),
    at: mm => Array.from(nv.frac2canvasPos(nv.mm2frac(mm))),
    // Drawn and read in one task: the browser keeps no drawing after it.
    pixels: points => {
      nv.drawScene();
      const {gl} = nv, one = new Uint8Array(4);
      return points.map(([x, y]) => {
        gl.readPixels(Math.round(x), gl.canvas.height - 1 - Math.round(y), 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, one);
        return Array.from(one.slice(0, 3));
      });
    },
    lines: () => {
      const canvas = document.querySelector('.lines');
      return canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some(value => value > 0);
    },
  };
}
"""


def decode(content: bytes) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)


@pytest.fixture
def look(viewer):
    viewer.evaluate(TOOLS)
    return viewer


@pytest.fixture(scope="session")
def bits(done):
    """The prediction as the server packs it: the image, its voxels, and which of them have only neighbours of their own
    value."""
    view = done.case["result"]["view"]
    image = decode(done.bytes_of(view["prediction"]))
    values = np.asarray(image.dataobj).astype(np.uint8)
    return image, values, surrounded(values)


def surrounded(values: np.ndarray) -> np.ndarray:
    """Voxels whose six neighbours have their own value; none at the border."""
    alike = np.ones(values.shape, bool)
    for axis in range(3):
        for shift in (-1, 1):
            alike &= values == np.roll(values, shift, axis)
    alike[[0, -1]] = alike[:, [0, -1]] = alike[:, :, [0, -1]] = False
    return alike


def place_of(bits, regions: list[str], names: set[str]) -> list[float]:
    """Millimetres of the middle one of the voxels that lie in just these regions, well inside."""
    image, values, alike = bits
    wanted = sum(1 << bit for bit, region in enumerate(regions) if region in names)
    found = np.argwhere(alike & (values == wanted))
    if not len(found):
        pytest.skip(f"the tiny model marks no solid part of {sorted(names)}")
    middle = found[np.abs(found - np.median(found, axis=0)).sum(axis=1).argmin()]
    return [float(v) for v in (image.affine @ [*middle, 1])[:3]]


def pixel_at(page, mm: list[float]) -> np.ndarray:
    """The pixel of a place, with the crosshair on it (which leaves its middle open)."""
    page.evaluate("mm => look.jump(mm)", mm)
    return np.array(page.evaluate("mm => look.pixels([look.at(mm)])[0]", mm))


def full_opacity(page) -> None:
    page.locator(".slider input").fill("100")


def near(pixel: np.ndarray, region: str) -> bool:
    return bool(np.abs(pixel - np.array(rgb(REGION_COLOURS[region]))).max() <= 14)


def is_grey(pixel: np.ndarray) -> bool:
    return int(pixel.max()) - int(pixel.min()) <= 6


def test_a_region_has_its_colour_at_its_place_until_it_is_hidden(look, done, bits):
    regions = done.case["result"]["view"]["regions"]
    full_opacity(look)
    mm = place_of(bits, regions, set(regions))
    assert near(pixel_at(look, mm), "ET")
    look.get_by_label("Show Enhancing tumour").uncheck()
    assert near(pixel_at(look, mm), "TC")
    look.get_by_label("Show Tumour core").uncheck()
    assert near(pixel_at(look, mm), "WT")
    look.get_by_label("Show Whole tumour").uncheck()
    assert is_grey(pixel_at(look, mm))


def test_what_lies_in_no_region_is_grey_and_the_patients_left_is_on_the_right(look, done, bits):
    image, values, alike = bits
    full_opacity(look)
    assert near(pixel_at(look, place_of(bits, done.case["result"]["view"]["regions"], {"WT"})), "WT")
    assert is_grey(pixel_at(look, place_of(bits, [], set())))
    mm = np.array(place_of(bits, [], set()))
    columns = [look.evaluate("mm => look.at(mm)[0]", [*(mm + [x, 0, 0])]) for x in (-12.0, 12.0)]
    assert columns[0] > columns[1]  # RAS+: the smaller x is the patient's left
    assert look.is_visible("text=Radiological convention")


def test_the_background_changes_to_the_chosen_modality_with_its_own_intensities(look, done, bits):
    mm = place_of(bits, [], set())
    view = done.case["result"]["view"]
    look.get_by_label("Overlay").uncheck()
    seen = {}
    for modality, name in (("t1", "T1"), ("t2", "T2"), ("flair", "FLAIR")):
        look.locator(".toolbar label", has=look.get_by_text(name, exact=True)).click()
        look.wait_for_selector(f"#announce:has-text('{name} shown')", state="attached")
        seen[modality] = int(pixel_at(look, mm)[0])
        image = decode(done.bytes_of(view["background"][modality]))
        value = float(image.get_fdata()[tuple(np.rint(np.linalg.inv(image.affine) @ [*mm, 1])[:3].astype(int))])
        said = look.inner_text(".readout .value")
        assert said.startswith(name)
        low, high = view["windows"][modality]
        assert abs(float(said.split()[-1].replace("−", "-")) - value) <= (high - low) / 255
    assert len(set(seen.values())) > 1


def test_the_window_fields_decide_what_is_black_and_what_is_white(look, bits):
    mm = place_of(bits, [], set())
    look.get_by_label("Overlay").uncheck()
    pixel_at(look, mm)
    value = float(look.inner_text(".readout .value").split()[-1].replace("−", "-"))
    for shift, shown in ((-1000, 255), (1000, 0)):
        look.get_by_label("Width", exact=True).fill("10")
        look.get_by_label("Level", exact=True).fill(str(value + shift))
        look.get_by_label("Level", exact=True).press("Enter")
        assert abs(int(pixel_at(look, mm)[0]) - shown) <= 3
    before = pixel_at(look, mm)
    look.get_by_label("Reset the window").click()
    assert (pixel_at(look, mm) != before).any()


def test_dragging_with_the_right_button_changes_the_window(look):
    before = look.input_value(".window input >> nth=1")
    box = look.locator(".stage canvas").first.bounding_box()
    look.mouse.move(box["x"] + 100, box["y"] + 100)
    look.mouse.down(button="right")
    look.mouse.move(box["x"] + 160, box["y"] + 100, steps=2)
    look.mouse.up(button="right")
    assert float(look.input_value(".window input >> nth=1")) > float(before)


def test_a_lesion_of_the_table_is_jumped_to_by_mouse_and_by_key(look, done):
    result = done.case["result"]
    affine = decode(done.bytes_of(result["view"]["mask"])).affine
    places = [(affine @ [*lesion["centre_voxel"], 1])[:3] for lesion in result["lesions"][:2]]
    look.locator(".lesions button").nth(1).click()
    assert np.abs(np.array(look.evaluate("look.place()")) - places[1]).max() < 0.05
    look.keyboard.press("p")
    assert np.abs(np.array(look.evaluate("look.place()")) - places[0]).max() < 0.05
    assert "x " in look.inner_text(".readout .place")


def test_lines_take_the_place_of_the_filled_area(look, done, bits):
    mm = place_of(bits, done.case["result"]["view"]["regions"], {"WT"})
    full_opacity(look)
    assert near(pixel_at(look, mm), "WT") and not look.evaluate("look.lines()")
    look.locator("label", has_text="Outline").click()
    assert is_grey(pixel_at(look, mm)) and look.evaluate("look.lines()")


def test_the_reference_is_shown_instead_and_beside_the_prediction(look, done):
    view = done.case["result"]["view"]
    image = decode(done.bytes_of(view["reference"]))
    values = np.asarray(image.dataobj).astype(np.uint8)
    full_opacity(look)
    look.locator("label", has_text="Reference").click()
    assert near(pixel_at(look, place_of((image, values, surrounded(values)), view["regions"], {"WT"})), "WT")
    assert not look.evaluate("look.lines()")
    look.locator("label", has_text="Both").click()
    look.evaluate("look.pixels([])")
    assert look.evaluate("look.lines()")
    assert "Dice" in look.inner_text(".regions thead")


def test_keys_alone_reach_everything_and_question_mark_lists_them(look):
    look.keyboard.press("?")
    listed = look.inner_text("dialog")
    assert "Next lesion" in listed and look.evaluate("document.activeElement.textContent") == "Close"
    look.keyboard.press("Escape")
    look.wait_for_selector("dialog", state="detached")
    look.keyboard.press("a")
    assert look.locator(".plane-labels span").count() == 1
    look.keyboard.press("f")
    assert look.locator(".plane-labels span").count() == 4
    look.keyboard.press("1")
    assert not look.get_by_label("Show Whole tumour").is_checked()
    look.keyboard.press("o")
    assert not look.get_by_label("Overlay").is_checked()
    look.focus(".stage canvas >> nth=0")
    before = np.array(look.evaluate("look.place()"))
    look.keyboard.press("PageUp")
    look.keyboard.press("ArrowLeft")
    moved = np.array(look.evaluate("look.place()")) - before
    assert moved[0] > 0 and moved[2] > 0  # up, and to the picture's left, which is the patient's right


def test_a_correction_is_saved_as_a_new_file_and_the_mask_stays_as_it_was(look, done):
    view = done.case["result"]["view"]
    mask = done.bytes_of(view["mask"])
    look.click("#edit")
    look.wait_for_selector(".edit-tools")
    look.get_by_label("Eraser").check()
    corner = look.evaluate("look.place()")
    x, y = look.evaluate("mm => look.at(mm)", corner)
    box = look.locator(".stage canvas").first.bounding_box()
    look.mouse.move(box["x"] + x, box["y"] + y)
    look.mouse.down()
    look.mouse.move(box["x"] + x + 12, box["y"] + y, steps=3)
    look.mouse.up()
    with look.expect_response(lambda answer: answer.url.endswith("/edits")) as waiting:
        look.click("#edit-save")
    assert waiting.value.ok, waiting.value.text()
    look.wait_for_selector(".edit-tools", state="hidden")
    case = waiting.value.json()
    known = {file["name"] for file in done.case["result"]["files"]}
    new = [file for file in case["result"]["files"] if file["name"] not in known and ".nii" in file["name"]]
    assert len(new) == 1 and done.bytes_of(view["mask"]) == mask
    before, after = decode(mask), decode(done.bytes_of(new[0]["url"]))
    changed = np.asarray(before.dataobj) != np.asarray(after.dataobj)
    assert np.array_equal(before.affine, after.affine) and 0 < changed.sum() < 200
    assert not np.asarray(after.dataobj)[changed].any()
    middle = (after.affine @ [*np.argwhere(changed).mean(axis=0), 1])[:3]
    assert np.abs(middle - corner).max() < 25
