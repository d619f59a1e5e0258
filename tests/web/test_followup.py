"""Finished cases as visits of one patient: who may mark them, what is computed, what the page shows."""

from __future__ import annotations

import csv
import gzip
import io
import json
import secrets
import shutil
import zipfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from data.phantom.shapes import rotation
from pipeline.follow.show.page import RESEARCH
from pipeline.follow.show.planes import COLOURS_BY_NAME
from pipeline.report.colours import rgb
from tests.test_follow_run import CENTRE_MM, SPACING_MM, expected_ml, write_visit
from tests.web_server import run, running, wait_for

RADII_MM = (11.0, 16.0)
"""Of the one lesion, at two visits."""
NAMES = ("P1_2021-01-01", "P1_2021-04-01")


def _move() -> np.ndarray:
    """Take a place at the first visit to the second one: a turn by 6 degrees and a shift, in mm."""
    move = np.eye(4)
    move[:3, :3] = rotation((0.0, 0.0, np.radians(6)))
    move[:3, 3] = (9.0, -7.0, 5.0)
    return move


@pytest.fixture(scope="module")
def visits(tmp_path_factory) -> list[Path]:
    """Return folders of two visits with a ball that grows, the second head turned and shifted."""
    root = tmp_path_factory.mktemp("visits")
    folders = []
    for number, radius in enumerate(RADII_MM):
        case = f"BraTS-GLI-00001-00{number}"
        write_visit(root / "images", root / "masks", case, radius)
        folder = root / "images" / case
        shutil.copy(root / "masks" / f"{case}.nii.gz", folder / f"{case}-seg.nii.gz")
        for path in sorted(folder.iterdir()) if number else []:
            image = nib.load(path)
            content = np.asarray(image.dataobj)
            nib.save(nib.Nifti1Image(content, _move() @ image.affine), path)
        folders.append(folder)
    return folders


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """The server in this process, whose masks are the references."""
    with running(tmp_path_factory.mktemp("workspace")) as app:
        yield app


@pytest.fixture(scope="module")
def server(app) -> str:
    """Address for `open_page`."""
    return app.url


@pytest.fixture(scope="module")
def owned(app, visits):
    """Two finished cases, and the client of their session."""
    with app.client() as client:
        yield (
            [run(client, folder, name, "done", seconds=900) for folder, name in zip(visits, NAMES, strict=True)],
            client,
        )


@pytest.fixture(scope="module")
def followed(owned):
    """The finished follow-up of the two, whose order is that of their dates."""
    cases, client = owned
    reply = client.post("/api/followups", json=marked(*reversed(cases)))
    assert reply.status_code == 201, reply.text
    return wait_for(client, reply.json()["id"], "done", "failed", seconds=900)


def marked(*cases: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"visits": [{"case": case["id"]} for case in cases], **more}


def test_visits_stand_in_the_order_of_their_dates_with_the_volumes_of_their_masks(followed, owned):
    assert followed["state"] == "done", followed["error"]
    told = followed["followup"]
    assert [visit["case"] for visit in told["visits"]] == [case["id"] for case in owned[0]]
    assert [visit["date"] for visit in followed["visits"]] == ["2021-01-01", "2021-04-01"]
    for visit, radius in zip(told["visits"], RADII_MM, strict=True):
        assert visit["volumes_ml"]["ET"] == pytest.approx(expected_ml(radius), rel=1e-5)
    assert [visit["category"] for visit in told["visits"]] == ["BASELINE", "PD"]
    assert "bound 25 %" in told["visits"][1]["reason"] and told["research"] == RESEARCH
    assert (followed["name"], followed["result"]) == ("P1", None)


def test_the_matrix_is_the_move_within_a_voxel(followed):
    matrix = np.array(followed["followup"]["visits"][1]["matrix"])
    places = np.array([[-64.0, -60.0, 44.0, 1], [-90.0, -90.0, 70.0, 1], [-30.0, -40.0, 20.0, 1]])
    apart_mm = np.linalg.norm((places @ (matrix - _move()).T)[:, :3], axis=1)
    assert apart_mm.max() < max(SPACING_MM)


def test_growth_is_gained_around_what_was_kept_and_nothing_is_lost(followed, owned):
    _, client = owned
    view = followed["followup"]["visits"][1]["view"]
    image = nib.Nifti1Image.from_bytes(_unpacked(client.get(view["prediction"]).content))
    values, bits = np.asarray(image.dataobj).astype(int), view["growth"]["bits"]
    ml = {name: (values >> bit & 1).sum() * np.prod(SPACING_MM) / 1000 for name, bit in bits.items()}
    small, large = map(expected_ml, RADII_MM)
    assert ml["kept"] == pytest.approx(small, rel=0.1) and ml["kept"] + ml["gained"] == pytest.approx(large, rel=1e-5)
    assert ml["lost"] < 0.1 * small
    assert followed["followup"]["visits"][0]["view"]["growth"] is None
    own = client.get(owned[0][1]["result"]["view"]["prediction"]).content
    assert np.asarray(nib.Nifti1Image.from_bytes(_unpacked(own)).dataobj).max() < 8  # the case's own file has no growth


def _unpacked(content: bytes) -> bytes:
    return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content


def test_what_can_be_taken_away_is_what_follow_writes(followed, owned):
    _, client = owned
    files = {file["name"]: file for file in followed["followup"]["files"]}
    assert set(files) >= {"timepoints.csv", "followup.html", "P1_growth.nii.gz", "everything.zip"}
    for file in files.values():
        reply = client.get(file["url"])
        assert reply.headers["content-disposition"].startswith("attachment") and len(reply.content) == file["bytes"]
        assert client.head(file["url"]).headers["content-length"] == str(file["bytes"])
    rows = list(csv.DictReader(io.StringIO(client.get(files["timepoints.csv"]["url"]).content.decode("utf-8-sig"))))
    assert [row["category_rano2"] for row in rows] == ["BASELINE", "PD"]
    page = client.get(files["followup.html"]["url"]).text
    assert RESEARCH in page
    packed = zipfile.ZipFile(io.BytesIO(client.get(files["everything.zip"]["url"]).content)).namelist()
    assert {"followup.html", "P1/followup.html"} <= set(packed)
    assert not [name for name in packed if name.startswith(".")]


# Who may


def test_another_session_can_neither_mark_nor_read_nor_change(app, followed, owned):
    cases, _ = owned
    base = f"/api/cases/{followed['id']}"
    urls = [base, f"{base}/events", followed["followup"]["visits"][1]["view"]["prediction"]]
    urls += [file["url"] for file in followed["followup"]["files"]]
    with app.client() as stranger:
        absent = stranger.get(f"/api/cases/{secrets.token_hex(16)}").json()
        replies = [stranger.post("/api/followups", json=marked(*cases)), *map(stranger.get, urls)]
        replies += [stranger.post(f"{base}/run"), stranger.post(f"{base}/cancel"), stranger.delete(base)]
        assert {reply.status_code for reply in replies} == {404}
        assert all(reply.json() == absent for reply in replies)
        assert stranger.get("/api/cases").json() == []


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
def test_another_sites_page_starts_no_follow_up(owned, origin):
    cases, client = owned
    reply = client.post("/api/followups", json=marked(*cases), headers={"origin": origin})
    assert reply.status_code == 403 and "another site" in reply.json()["error"]
    assert client.head("/api/followups").status_code == client.get("/api/followups").status_code == 405


def test_what_cannot_be_compared_is_refused_in_a_sentence(owned, followed):
    cases, client = owned
    one, two = cases
    before = len(client.get("/api/cases").json())
    asked = {
        404: [marked(one, {"id": "0" * 32})],
        409: [marked(one, followed)],
        422: [
            marked(one), marked(one, one), marked(*[one] * 21), marked(one, {"id": "../x"}), {}, [],
            marked(one, two, criterion="rano3"), marked(one, two, name="x" * 201), marked(one, two, path="/etc"),
            {"visits": [{"case": one["id"], "date": "2021-02-30"}, {"case": two["id"]}]},
        ],
    }  # fmt: skip
    for status, bodies in asked.items():
        for body in bodies:
            reply = client.post("/api/followups", json=body)
            assert (reply.status_code, set(reply.json())) == (status, {"error"}), body
    half = client.post("/api/followups", content=b'{"name": "\\ud800"}', headers={"content-type": "application/json"})
    assert half.status_code == 422
    assert len(client.get("/api/cases").json()) == before


@pytest.mark.parametrize(
    "name",
    ["input/0/visit_seg.nii.gz", "output/timepoints.csv", "view/0/../../input/0/visit_seg.nii.gz", "view/2/t1c.nii.gz",
     "view/t1c.nii.gz", "view/mask.nii.gz", "view/0/", "../x", "output/.state/P1.json", "P1/followup.html"],
)  # fmt: skip
def test_only_what_a_follow_up_lists_can_be_asked_for(followed, owned, name):
    assert owned[1].get(f"/api/cases/{followed['id']}/files/{name}").status_code == 404


def test_a_follow_up_has_no_mask_to_edit_and_no_images_to_assign(followed, owned):
    _, client = owned
    at = f"/api/cases/{followed['id']}"
    assert client.post(f"{at}/edits", content=b"x").status_code == 409
    assert "follow-up" in client.patch(at, json={"prepare": "off"}).json()["error"]
    assert client.patch(at, json={"name": "P1"}).json()["followup"] == followed["followup"]


def test_a_follow_up_is_cancelled_and_computed_again_unless_a_visit_is_gone(owned, visits):
    _, client = owned
    pair = [run(client, folder, name, "done", seconds=900) for folder, name in zip(visits, ("a", "b"), strict=True)]
    begun = client.post("/api/followups", json=marked(*pair, name="hang P1")).json()
    at = f"/api/cases/{begun['id']}"
    assert begun["state"] in ("queued", "running") and [visit["label"] for visit in begun["visits"]] == ["a", "b"]
    wait_for(client, begun["id"], "running", seconds=900)
    assert client.post(f"{at}/cancel").json()["state"] == "cancelled"
    client.delete(f"/api/cases/{pair[0]['id']}")
    assert client.post(f"{at}/run").status_code == 202
    assert "the visit a was removed" in wait_for(client, begun["id"], "failed", "done", seconds=900)["error"]


# The page

PIXEL = """
async ([number, mm]) => {
  const {current} = await import('/static/followup_page.js');
  const scenes = await import('/static/scene.js');
  const {scene} = current.views[number], {nv} = scene, one = new Uint8Array(4);
  scenes.jump(scene, mm);
  scene.state.opacity = 1;
  scenes.redraw(scene);
  nv.drawScene();
  const [x, y] = Array.from(nv.frac2canvasPos(nv.mm2frac(mm, 0, true)));
  const {gl} = nv;
  gl.readPixels(Math.round(x), gl.canvas.height - 1 - Math.round(y), 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, one);
  return Array.from(one.slice(0, 3));
}
"""
JUMP = """
async ([from, to, mm]) => {
  const {current} = await import('/static/followup_page.js');
  const scenes = await import('/static/scene.js');
  scenes.jump(current.views[from].scene, mm);
  const {nv} = current.views[to].scene;
  return Array.from(nv.frac2mm(nv.scene.crosshairPos, 0, true)).slice(0, 3);
}
"""


def test_visits_are_marked_and_stand_side_by_side_with_one_crosshair_curve_and_growth(open_page, followed, owned):
    cases, client = owned
    cookies = [{"name": name, "value": value, "url": str(client.base_url)} for name, value in client.cookies.items()]
    page = open_page("/#/compare", cookies=cookies).page
    asked: list[Any] = []

    def answer(route: Any) -> None:
        asked.append(route.request.post_data_json)
        route.fulfill(status=201, content_type="application/json", body=json.dumps(followed))

    page.route("**/api/followups", answer)
    for name in NAMES:
        page.get_by_role("checkbox", name=name).check()
    page.click("#follow")
    page.wait_for_selector(".followup[data-state]")
    assert asked[0]["visits"] == [
        {"case": case["id"], "date": day} for case, day in zip(cases, ("2021-01-01", "2021-04-01"), strict=True)
    ]
    assert page.get_attribute(".followup", "data-state") == "ready"
    assert page.inner_text(".no-diagnosis") == RESEARCH

    first = page.locator(".curves svg.curve").first
    assert first.bounding_box()["width"] > 200
    assert [first.locator(part).count() for part in ("path.line", "path.band", "circle")] == [1, 1, 2]
    assert first.locator("path.bound").count() >= 2
    assert "bound 25 %" in page.inner_text(".categories li:last-child")

    centre = np.array([-CENTRE_MM[0], -CENTRE_MM[1], CENTRE_MM[2], 1.0])
    for place in (centre, centre + [25, -20, 12, 0]):
        there = np.array(page.evaluate(JUMP, [0, 1, place[:3].tolist()]))
        assert np.linalg.norm(there - (_move() @ place)[:3]) < max(SPACING_MM)
        back = np.array(page.evaluate(JUMP, [1, 0, (_move() @ place)[:3].tolist()]))
        assert np.linalg.norm(back - place[:3]) < max(SPACING_MM)

    page.get_by_role("radio", name="Growth").check()
    beside = centre + [0, 13.5, 0, 0]
    for place, name in ((centre, "kept"), (beside, "gained")):
        pixel = np.array(page.evaluate(PIXEL, [1, (_move() @ place)[:3].tolist()]))
        wanted = np.array(rgb(COLOURS_BY_NAME[name]))
        assert np.abs(pixel - wanted).max() < 40, (name, pixel, wanted)
