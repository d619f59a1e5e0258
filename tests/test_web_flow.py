"""The web app from upload to mask with a real model, and what can be done with the result."""

from __future__ import annotations

import csv
import io
import json
import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra `web` is not installed")

from pipeline.execute.stages import Stage
from pipeline.web import schema
from pipeline.web.compute.gallery import GALLERY
from pipeline.web.compute.perform import set_edits_aside
from pipeline.web.store import Store
from tests.conftest import read_mask
from tests.web_server import FAULTS, files_of, httpx, run, running, upload, wait_for

REAL = "pipeline.web.compute.perform:job_process"


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    from data.phantom.patient import write_phantom

    return write_phantom(tmp_path_factory.mktemp("web"), 1, shape=(20, 24, 16), spacing_mm=(10.0, 10.0, 10.0))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("workspace"), job_function=FAULTS) as server:
        yield server


def test_a_real_job_gives_the_mask_of_the_command_line_byte_for_byte(tmp_path, phantoms, tiny_model, monkeypatch):
    from data.find.discover import discover_cases
    from pipeline.options import SegmentOptions
    from pipeline.segment.run import segment_cases

    folder = next(path for path in sorted(phantoms.iterdir()) if path.is_dir())
    cases = [case for case in discover_cases(phantoms) if case.case_id == folder.name]
    segment_cases(cases, tmp_path / "expected", SegmentOptions(models=(str(tiny_model),), save_probabilities=True))
    seen: list[tuple[str, float]] = []
    show = Store.show
    monkeypatch.setattr(Store, "show", lambda self, r: (seen.append((r.stage, r.progress)), show(self, r)))
    with (
        running(tmp_path / "w", job_function=REAL, models=(str(tiny_model),), data=tmp_path / "expected") as server,
        server.client() as client,
    ):
        case = run(client, folder, "", "done", "failed", seconds=300)
        assert case["state"] == "done", case["error"]
        schema.CaseInfo.model_validate(case)
        # What the page was told meanwhile: every stage in its order, and never less done than before.
        stages = [stage for stage, _ in seen if stage]
        assert list(dict.fromkeys(stages)) == list(Stage)
        shares = [share for stage, share in seen if stage]
        assert shares == sorted(shares) and shares[0] < 0.1 and shares[-1] > 0.85
        result = case["result"]
        assert (case["name"], result["model"], result["convention"]) == (folder.name, "tiny", "brats2023")
        got = {file["name"]: client.get(file["url"]).content for file in result["files"]}
        assert all(len(got[file["name"]]) == file["bytes"] for file in result["files"])
        for path in (tmp_path / "expected" / folder.name).glob("*.nii.gz"):
            assert got[path.name] == path.read_bytes(), path.name
        for table in ("metrics.csv", "lesions.csv"):
            assert got[table] == (tmp_path / "expected" / table).read_bytes()
        assert str(tmp_path) not in got["report.csv"].decode() + got["report.html"].decode()
        with zipfile.ZipFile(io.BytesIO(got["everything.zip"])) as archive:
            assert {name: archive.read(name) for name in archive.namelist()} == {
                name: content for name, content in got.items() if name != "everything.zip"
            }
        row = next(csv.DictReader(io.StringIO(got["report.csv"].decode())))
        for region in result["regions"]:
            assert region["volume_ml"] == pytest.approx(float(row[f"volume_ml_{region['region']}"]))
            assert region["dice"] == pytest.approx(float(row[f"dice_{region['region']}"]), rel=1e-5)
        check_view(client, result, tmp_path, got[f"{folder.name}_seg.nii.gz"])
        check_centres(result, tmp_path)
        # The same patient, opened as an earlier result.
        (entry,) = client.get("/api/results").json()
        opened = client.post(f"/api/results/{entry['id']}").json()
        assert (entry["title"], opened["state"]) == (folder.name, "done"), opened["error"]
        assert opened["result"]["regions"] == result["regions"] and opened["result"]["lesions"] == result["lesions"]
        assert set(opened["result"]["view"]["background"]) == {"t1", "t1c", "t2", "flair"}
        assert client.get(opened["result"]["view"]["mask"]).content == got[f"{folder.name}_seg.nii.gz"]
        assert not opened["can_run"]
        check_earlier(client, opened["result"], result, tmp_path / "expected", folder.name)
        client.delete(f"/api/cases/{opened['id']}")
        assert (tmp_path / "expected" / "report.csv").is_file()  # what was opened stays


def check_centres(result, tmp_path):
    """Each lesion's voxel is one of its region, in the file of the mask."""
    labels = read_mask(tmp_path / "mask.nii.gz")
    assert result["lesions"]
    for lesion in result["lesions"]:
        value = str(labels[tuple(lesion["centre_voxel"])])
        assert lesion["region"] in result["labels"][value]["regions"]


def check_earlier(client, opened, fresh, run, case):
    """What the run's folder has beside the mask can be taken away, and the reference of then is shown."""
    got = {file["name"]: client.get(file["url"]).content for file in opened["files"]}
    for name in ("report.html", "report.csv", "metrics.csv", "lesions.csv"):
        assert got[name] == (run / name).read_bytes(), name
    assert got[f"{case}_preview.png"] == (run / case / f"{case}_preview.png").read_bytes()
    assert all("of that run" in file["what"] for file in opened["files"] if file["name"].startswith("report."))
    assert opened["has_reference"] and opened["regions"][0]["dice"] is not None
    shown, wanted = (client.get(result["view"]["reference"]).content for result in (opened, fresh))
    assert shown == wanted


def test_an_earlier_result_without_its_state_or_reference_shows_what_its_tables_say(
    tmp_path, patient, tiny_model, monkeypatch
):
    from data.find.discover import discover_cases
    from pipeline.options import SegmentOptions
    from pipeline.segment.run import segment_cases

    shutil.copytree(patient, tmp_path / "in" / patient.name)
    reference = tmp_path / "in" / patient.name / f"{patient.name}-seg.nii.gz"
    options = SegmentOptions(models=(str(tiny_model),), flat=True)
    report = segment_cases(discover_cases(tmp_path / "in"), tmp_path / "out", options)
    shutil.rmtree(tmp_path / "out" / ".state")
    reference.write_bytes(next(patient.glob("*-seg.nii.gz")).read_bytes() + b"\0")  # another file: not what was scored
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "out" / "lesions.csv").unlink()
    (tmp_path / "out" / "lesions.csv").symlink_to(tmp_path / "secret")
    monkeypatch.chdir(tmp_path)
    # As in `serve --data out`: a relative path, though the process works in the case's folder.
    with running(tmp_path / "w", data=Path("out")) as server, server.client() as client:
        (entry,) = client.get("/api/results").json()
        opened = client.post(f"/api/results/{entry['id']}").json()
        assert opened["state"] == "done", opened["error"]
        result = opened["result"]
        schema.CaseInfo.model_validate(opened)
        for region in result["regions"]:
            assert region["dice"] == pytest.approx(report.iloc[0][f"dice_{region['region']}"])
            assert region["hd95_mm"] == pytest.approx(report.iloc[0][f"hd95_mm_{region['region']}"], rel=1e-5)
        assert result["has_reference"] and result["view"]["reference"] is None
        names = {file["name"] for file in result["files"]}
        assert {f"{patient.name}_preview.png", "report.csv", "metrics.csv", "report.html"} <= names
        assert (result["files"][0]["name"], result["files"][0]["what"][:8]) == (f"{patient.name}.nii.gz", "the mask")
        assert "lesions.csv" not in names  # a link out of the results


def test_an_earlier_result_of_slices_is_shown_on_the_volumes_that_the_run_wrote(tmp_path, monkeypatch):
    from PIL import Image

    from data.find.discover import discover_cases
    from pipeline.options import SegmentOptions
    from pipeline.segment.run import segment_cases
    from pipeline.web.compute.perform import open_earlier

    name, drawn = "TCGA_CS_0001_19990101", np.zeros((32, 32), np.uint8)
    drawn[8:20, 8:20] = 255
    (tmp_path / "in" / name).mkdir(parents=True)
    (tmp_path / "case").mkdir()
    for number in (1, 2, 3):
        colours = np.random.default_rng(number).integers(1, 255, (32, 32, 3)).astype(np.uint8)
        Image.fromarray(colours).save(tmp_path / "in" / name / f"{name}_{number}.tif")
        Image.fromarray(drawn).save(tmp_path / "in" / name / f"{name}_{number}_mask.tif")
    segment_cases(discover_cases(tmp_path / "in"), tmp_path / "out", SegmentOptions(models=("lgg-attention-unet-2d",)))
    monkeypatch.chdir(tmp_path / "case")
    result = open_earlier({"data": str(tmp_path / "out"), "about": name, "max_voxels": 2**20})["result"]
    assert set(result["view"]["background"]) == {"t1", "t1c", "flair"}
    assert result["view"]["reference"] == "reference.nii.gz" and result["has_reference"]
    assert np.count_nonzero(read_mask(Path("view/reference.nii.gz"))) == 3 * 12 * 12


def test_a_lesion_has_a_voxel_of_its_own_to_look_at(tmp_path):
    """A ring, whose centroid lies in its hole; a cube, whose centroid is its middle; and a row of another table."""
    from data.grid import Grid
    from pipeline.score.lesions import lesion_table
    from pipeline.web.compute.view import lesion_centres

    mask = np.zeros((30, 20, 10), bool)
    mask[3:10, 3:10, 4] = True
    mask[5:8, 5:8, 4] = False  # 40 voxels around (6, 6, 4)
    mask[20:23, 10:13, 2:5] = True  # 27 voxels around (21, 11, 3)
    affine = np.diag([-1.0, -2.0, 3.0, 1.0])
    affine[:3, 3] = (10, 20, 30)
    for known in (True, False):
        grid = Grid(mask.shape, affine, spacing_known=known)
        rows = lesion_table(mask, None, grid)
        # 2 voxels off along the first axis are 2 mm, along the second 4 mm: the first of the two at 2 mm.
        assert lesion_centres(mask, grid, rows) == {1: (4, 6, 4), 2: (21, 11, 3)}
    assert lesion_centres(mask, grid, [rows[0] | {"voxels": 39}, rows[1] | {"lesion": 3}]) == {}
    moved = Grid(mask.shape, affine)
    assert lesion_centres(mask, moved, [rows[1] | {"centroid_x_mm": -10.0}]) == {}
    assert lesion_centres(~mask & mask, grid, rows) == {}


def check_view(client, result, tmp_path, mask):
    """All view files lie on one crop of the mask's grid, and say what the mask says."""
    import nibabel as nib

    (tmp_path / "mask.nii.gz").write_bytes(mask)
    labels, view = nib.load(tmp_path / "mask.nii.gz"), result["view"]
    packed = {**view["background"], "prediction": view["prediction"], "reference": view["reference"]}
    images = {}
    for name, url in packed.items():
        reply = client.get(url)
        assert "content-disposition" not in reply.headers
        (tmp_path / f"{name}.nii.gz").write_bytes(reply.content)
        images[name] = nib.load(tmp_path / f"{name}.nii.gz")
    assert len({(image.shape, image.affine.tobytes()) for image in images.values()}) == 1
    assert {image.get_data_dtype() for image in images.values()} == {np.dtype(np.uint8)}
    start = np.array(view["offset"])
    assert np.allclose(images["t1"].affine[:3, 3], labels.affine[:3, :3] @ start + labels.affine[:3, 3])
    box = tuple(slice(s, s + n) for s, n in zip(start, images["t1"].shape, strict=True))
    whole = np.asarray(labels.dataobj)
    assert np.count_nonzero(whole) == np.count_nonzero(whole[box])
    bits = np.asarray(images["prediction"].dataobj)
    for bit, region in enumerate(view["regions"]):
        wanted = [int(value) for value, label in result["labels"].items() if region in label["regions"]]
        assert np.array_equal(bits >> bit & 1, np.isin(whole[box], wanted))
    low, high = view["windows"]["t1"]
    shown = images["t1"].get_fdata()
    assert shown.min() == pytest.approx(low) and shown.max() == pytest.approx(high)


def test_an_edited_mask_is_kept_with_where_it_comes_from(server, patient, tmp_path):
    import nibabel as nib

    with server.client() as client:
        case = run(client, patient, "quick", "done")
        base = f"/api/cases/{case['id']}/edits"
        content = client.get(case["result"]["view"]["mask"]).content
        (tmp_path / "mask.nii.gz").write_bytes(content)
        image = nib.load(tmp_path / "mask.nii.gz")
        voxels = np.asarray(image.dataobj).copy()
        voxels[0, 0, :3] = 2
        nib.save(nib.Nifti1Image(voxels, image.affine), tmp_path / "edited.nii")
        reply = client.post(base, content=(tmp_path / "edited.nii").read_bytes())
        assert reply.status_code == 200, reply.text
        files = {file["name"]: file for file in reply.json()["result"]["files"]}
        (tmp_path / "back.nii.gz").write_bytes(client.get(files["edited-01.nii.gz"]["url"]).content)
        assert np.array_equal(read_mask(tmp_path / "back.nii.gz"), voxels)
        about = client.get(files["edited-01.json"]["url"]).json()
        assert (about["voxels_changed"], about["mask"]) == (3, "patient_seg.nii.gz")
        assert client.get(files["patient_seg.nii.gz"]["url"]).content == content  # the mask itself stays as it was
        with zipfile.ZipFile(io.BytesIO(client.get(files["everything.zip"]["url"]).content)) as archive:
            assert {"edited-01.nii.gz", "edited-01.json"} <= set(archive.namelist())
        # Four at once: each is kept under a number of its own.
        with ThreadPoolExecutor(4) as pool:
            cookies, edited = dict(client.cookies), (tmp_path / "edited.nii").read_bytes()
            replies = list(pool.map(lambda _: httpx.post(server.url + base, content=edited, cookies=cookies), range(4)))
        assert [reply.status_code for reply in replies] == [200] * 4
        names = [file["name"] for file in client.get(f"/api/cases/{case['id']}").json()["result"]["files"]]
        assert {f"edited-{number:02d}.{kind}" for number in range(1, 6) for kind in ("nii.gz", "json")} <= set(names)
        nib.save(nib.Nifti1Image(voxels[1:], image.affine), tmp_path / "smaller.nii.gz")
        nib.save(nib.Nifti1Image(voxels + 77, image.affine), tmp_path / "unknown.nii.gz")
        nib.save(nib.Nifti1Image(np.zeros((90, 90, 90), np.uint8), image.affine), tmp_path / "larger.nii.gz")
        for name, text in (
            ("smaller.nii.gz", "another grid"), ("unknown.nii.gz", "does not know"), ("larger.nii.gz", "over the limit")
        ):  # fmt: skip
            refused = client.post(base, content=(tmp_path / name).read_bytes())
            assert refused.status_code == 422 and text in refused.json()["error"], refused.text
            assert "--" not in refused.json()["error"]  # no option of the command line, which the page has not
        refused = client.post(base, content=b"\x1f\x8b no mask")
        assert refused.status_code == 422 and str(server.settings.workspace) not in refused.text
        folder = server.settings.workspace / "cases" / case["id"]
        assert not list(folder.glob("upload-*"))
        fresh = upload(client, patient)
        assert client.post(f"/api/cases/{fresh['id']}/edits", content=b"x").status_code == 409


def test_edits_of_a_mask_that_is_made_anew_are_kept_as_those_of_an_earlier_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "edits").mkdir()
    for round_ in (1, 2):
        for name in ("edited-01.nii.gz", "edited-01.json", "edited-02.nii.gz"):
            (tmp_path / "edits" / name).write_text(f"{name} {round_}")
        set_edits_aside()
    found = {path.name: path.read_text() for path in (tmp_path / "edits").iterdir()}
    assert len(found) == 6 and found["earlier-1-edited-02.nii.gz"] == "edited-02.nii.gz 1"
    assert found["earlier-2-edited-01.json"] == "edited-01.json 2"


def test_an_edit_of_a_mask_that_was_made_anew_meanwhile_is_not_put_beside_the_new_one(server, patient, monkeypatch):
    jobs = server.app.state.context.jobs
    ask = jobs.ask_checker

    async def run_meanwhile(record, about):
        answer = await ask(record, about)
        await jobs.run(jobs.store.get(record.id))
        return answer

    with server.client() as client:
        case = run(client, patient, "slow 0.5", "done")
        mask = client.get(case["result"]["view"]["mask"]).content
        monkeypatch.setattr(jobs, "ask_checker", run_meanwhile)
        reply = client.post(f"/api/cases/{case['id']}/edits", content=mask)
        assert reply.status_code == 409 and "run again meanwhile" in reply.json()["error"]
        assert wait_for(client, case["id"], "queued", "running", "done")["error"] is None
        wait_for(client, case["id"], "done")


def test_an_example_of_the_gallery_is_ready_to_run(server):
    with server.client() as client:
        listed = client.get("/api/gallery").json()
        assert [entry["id"] for entry in listed] == [entry.id for entry in GALLERY]
        reply = client.post("/api/gallery/glioma")
        assert reply.status_code == 201
        case = wait_for(client, reply.json()["id"], "ready", "failed")
        assert case["can_run"], case
        assert {file["role"] for file in case["files"]} == {"t1", "t1c", "t2", "flair", "reference"}
        assert client.post("/api/gallery/none").status_code == 404
        assert client.get("/api/results").json() == [] and client.post("/api/results/x").status_code == 404


def test_every_object_is_what_the_documentation_says(server, patient):
    with server.client() as client:
        case = run(client, patient, "quick", "done")
        schema.CaseInfo.model_validate(case)
        for item in client.get("/api/cases").json():
            schema.CaseInfo.model_validate(item)
        for item in client.get("/api/models").json():
            assert schema.ModelInfo.model_validate(item).card.startswith("#")
        described = client.get("/api/openapi.json").json()["components"]["schemas"]["CaseInfo"]["properties"]
        assert set(described) == set(case)
        assert json.loads(client.get(f"/api/cases/{case['id']}").text) == case
        assert files_of(patient)
