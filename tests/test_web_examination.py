"""A DICOM examination in the web app: taken under the limits of any upload, chosen among, run, and no name told."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra `web` is not installed")
pytest.importorskip("highdicom", reason="the extra dicom is not installed")

import nibabel as nib
import numpy as np

from data.case import ImageSource, Series
from data.errors import InputError
from data.grid import Grid
from data.output_names import EXPORTS
from pipeline.web import schema
from pipeline.web.compute import checks
from pipeline.web.compute.results import Outcome, describe
from pipeline.web.intake import examination as intake
from pipeline.web.intake.files import take_in
from pipeline.web.names import Received
from tests.dicom_files import WORDS, Made, export_patient, write_enhanced, write_study
from tests.web_server import running, wait_for
from transforms.registration.move import Move, write_move

REAL = "pipeline.web.compute.perform:job_process"


@pytest.fixture(scope="module")
def examination(tmp_path_factory, phantoms) -> Path:
    return export_patient(sorted(path for path in phantoms.iterdir() if path.is_dir())[0], tmp_path_factory.mktemp("d"))


@pytest.fixture(scope="module")
def server(tmp_path_factory, tiny_model):
    with running(tmp_path_factory.mktemp("workspace"), job_function=REAL, models=(str(tiny_model),)) as server:
        yield server


def sent(folder: Path) -> list[tuple[str, tuple[str, bytes]]]:
    """A folder as a browser sends it: each name with the folders that the file lies in."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [("files", (str(path.relative_to(folder)), path.read_bytes())) for path in files]


def zipped(folder: Path) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for _, (name, content) in sent(folder):
            archive.writestr(name, content)
    return packed.getvalue()


def take(folder: Path, tmp_path: Path):
    """Take a folder in as the checking process does."""
    (tmp_path / "kept").mkdir()
    received = []
    for number, (_, (name, content)) in enumerate(sent(folder)):
        path = tmp_path / f"part-{number}"
        path.write_bytes(content)
        received.append(Received(name, path))
    return take_in(received, tmp_path / "kept", max_unpacked=2**30, max_voxels=2**27)


def test_an_examination_goes_from_a_folder_to_every_format_and_no_name_is_told(server, examination, caplog):
    caplog.set_level("DEBUG", "pipeline")
    told = []
    with server.client() as client:
        reply = client.post("/api/cases", files=sent(examination))
        assert reply.status_code == 201, reply.text
        case = wait_for(client, reply.json()["id"], "ready", "failed")
        schema.CaseInfo.model_validate(case)
        told.append(reply.text + str(case))
        assert case["state"] == "ready" and case["can_run"], case
        roles = {file["role"]: file for file in case["files"]}
        assert set(roles) == {"t1", "t1c", "t2", "flair"} and case["prepare"] == "auto"
        assert "t1_se_tra_KM" in roles["t1c"]["name"] and roles["t1c"]["reasons"]
        client.post(f"/api/cases/{case['id']}/run")
        case = wait_for(client, case["id"], "done", "failed", seconds=400)
        assert case["state"] == "done", case["error"]
        schema.CaseInfo.model_validate(case)
        told.append(str(case))
        result = case["result"]
        names = [file["name"] for file in result["files"]]
        for end in EXPORTS.values():
            assert any(name.endswith(f"_{end}") for name in names), end
        assert result["left_out"] == [] and result["preparation"] is None
        assert set(result["view"]["background"]) == {"t1", "t1c", "t2", "flair"}
        for file in result["files"]:
            content = client.get(file["url"]).content
            assert len(content) == file["bytes"] and file["what"]
            if not file["name"].endswith((".dcm", ".gz", ".png", ".zip")):
                told.append(file["name"] + content.decode("latin-1"))
        folder = server.workspace_cases / case["id"]
        told += [str(path.relative_to(folder)) for path in folder.rglob("*")]
    for word in WORDS:
        assert word.lower() not in "".join([*told, caplog.text]).lower(), word


def test_the_choice_is_changed_as_with_series_and_a_series_is_no_reference(server, examination):
    with server.client() as client:
        case = client.post("/api/cases", files=[("files", ("ZYXWIAK.zip", zipped(examination)))]).json()
        case = wait_for(client, case["id"], "ready", "failed")
        ids = {file["role"]: file["id"] for file in case["files"]}
        change = f"/api/cases/{case['id']}"
        case = client.patch(change, json={"roles": {ids["t1"]: "t1c", ids["t1c"]: "t1"}}).json()
        case = wait_for(client, case["id"], "ready", "failed")
        changed = {file["role"]: file["id"] for file in case["files"]}
        assert (changed["t1c"], changed["t1"]) == (ids["t1"], ids["t1c"]) and case["can_run"]
        refused = client.patch(change, json={"roles": {ids["t1"]: "reference"}})
        assert refused.status_code == 422 and "NIfTI" in refused.json()["error"]
        assert client.patch(change, json={"prepare": "always"}).status_code == 422
        case = client.patch(change, json={"prepare": "off"}).json()
        assert wait_for(client, case["id"], "ready", "failed")["prepare"] == "off"


def test_a_tie_is_a_problem_until_a_series_is_chosen(tmp_path):
    series = [Made("t1_km", "t1se"), Made("t1_km wdh", "t1se"), Made("t2", "t2"), Made("flair", "flair")]
    write_study(tmp_path / "in", "two t1c", "siemens", [*series, Made("t1", "t1se"), Made("localizer", "loc")])
    found = take(tmp_path / "in", tmp_path)
    [(role, sentence)] = found.ties
    assert role == "t1c" and "t1_km wdh" in sentence and sentence.endswith("choose one in the list")
    assert "--series" not in str(found)
    aside = next(source for source in found.sources if "localizer" in source.name)
    assert aside.role is None and aside.reasons


def test_names_beside_dicom_are_counted_and_not_said(tmp_path):
    write_study(tmp_path / "in", "s", "siemens", [Made("t2", "t2"), Made("flair", "flair")])
    for name in ("Zyxwiak.txt", "Zyxwiak.png", "Zyxwiak.jpg"):
        (tmp_path / "in" / name).write_bytes(b"x")
    (tmp_path / "in" / "Zyxwiak1").write_bytes(b"\0" * 128 + b"DICM" + b"\2\0")
    found = take(tmp_path / "in", tmp_path)
    assert any(note.startswith("1 of ") and "DICOM files cannot be read (" in note for note in found.notes)
    assert "3 files beside the DICOM files are not used" in found.notes and "Zyxwiak" not in str(found)
    assert {path.suffix for path in (tmp_path / "kept").iterdir()} == {".dcm"}


def test_of_more_series_than_a_page_shows_those_with_a_role_come_first_and_the_rest_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(intake, "MOST_SERIES", 3)
    series = [Made("localizer", "loc"), Made("localizer 2", "loc"), Made("t2", "t2"), Made("flair", "flair")]
    write_study(tmp_path / "in", "s", "siemens", series)
    found = take(tmp_path / "in", tmp_path)
    assert [source.role for source in found.sources] == [None, "t2", "flair"]
    assert "1 further series are not shown" in found.notes and found.layout_reason == "a DICOM examination of 4 series"


def test_a_series_is_called_by_its_number_words_and_pictures():
    files = ImageSource((Path("f0001.dcm"), Path("f0002.dcm")))
    line = Series(uid="1.2", number=7, description="t2\ntse", role="t2", pictures=2, reasons=("words\r",))
    source = intake._source("3", line, files, False)
    assert (source.name, source.role, source.series) == ("Series 7: t2_tse (2 pictures)", "t2", "1.2")
    assert source.reasons == ("words_",)
    line = Series(uid="1.2", number=None, description="", role="", pictures=1, reasons=())
    source = intake._source("3", line, files, True)
    assert (source.name, source.role) == ("Series without a number: no description (1 picture), part 3", None)


def test_two_examinations_and_damaged_ones_are_refused_without_a_name(tmp_path):
    for name in ("Zyxwiak-1", "Zyxwiak-2"):
        write_study(tmp_path / "in" / name, name, "ge", [Made("t2", "t2")])
    with pytest.raises(InputError, match=r"^the upload holds 2 DICOM examinations; drop one at a time$"):
        take(tmp_path / "in", tmp_path)
    (tmp_path / "b" / "in").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "b" / "in" / f"Zyxwiak{number}").write_bytes(b"\0" * 128 + b"DICM" + b"\2\0")
    with pytest.raises(InputError, match="^3 of 3 DICOM files cannot be read") as refused:
        take(tmp_path / "b" / "in", tmp_path / "b")
    assert "Zyxwiak" not in str(refused.value)


def test_a_header_of_4_gigabytes_is_refused_at_once(server, tmp_path):
    path = write_enhanced(tmp_path / "IM1", np.zeros((5, 8, 8), int), "t2_tse", timing=(7000.0, 100.0, None))
    content = path.read_bytes()
    assert content.count(b"\x28\x00\x10\x00US\x02\x00\x08\x00") == 1
    for keyword in (b"\x10", b"\x11"):  # rows and columns: 5 pictures of 65535 x 65535
        element = b"\x28\x00" + keyword + b"\x00US\x02\x00"
        content = content.replace(element + b"\x08\x00", element + b"\xff\xff")
    with server.client() as client:
        case = client.post("/api/cases", files=[("files", ("IM1", content))]).json()
        case = wait_for(client, case["id"], "ready", "failed")
        assert not case["can_run"]
        ident = case["files"][0]["id"]
        client.patch(f"/api/cases/{case['id']}", json={"roles": {ident: "t2"}})
        case = wait_for(client, case["id"], "ready", "failed")
        assert not case["can_run"] and "voxels" in " ".join(case["problems"])


def test_a_zip_of_dicom_is_unpacked_under_the_limits_of_every_zip(server):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("../IM1", b"\0" * 128 + b"DICM")
    with server.client() as client:
        refused = client.post("/api/cases", files=[("files", ("study.zip", packed.getvalue()))])
        assert refused.status_code == 422 and "lead out of its folder" in refused.json()["error"]


def test_without_the_reader_the_page_says_so(tmp_path, monkeypatch):
    write_study(tmp_path / "in", "s", "siemens", [Made("t2", "t2")])
    monkeypatch.setattr(intake, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="the extra `dicom` is not installed"):
        take(tmp_path / "in", tmp_path)


def test_the_result_shows_images_where_they_were_laid_and_the_brain_as_a_bit(tmp_path):
    grid = Grid((8, 8, 8), np.diag([3.0, 3.0, 3.0, 1.0]))
    arrays = {name: np.zeros(grid.shape, np.int16) for name in ("t1c", "t2")}
    arrays["t1c"][1:7, 1:7, 1:7], arrays["t2"][5, 4, 4] = 100, 1000
    for name, array in arrays.items():
        nib.save(nib.Nifti1Image(array, grid.affine), tmp_path / f"{name}.nii.gz")
    labels, brain = np.zeros(grid.shape, np.uint8), np.zeros(grid.shape, np.uint8)
    labels[4, 4, 4], brain[2:6, 2:6, 2:6] = 1, 1
    nib.save(nib.Nifti1Image(labels, grid.affine), tmp_path / "P1_seg.nii.gz")
    nib.save(nib.Nifti1Image(brain, grid.affine), tmp_path / "P1_brain.nii.gz")
    by_3_mm = np.eye(4)
    by_3_mm[0, 3] = 3.0  # what the T1c shows at x, the T2 has at x + 3
    write_move(tmp_path / "P1_xfm_t2.txt", Move(by_3_mm, np.array([12.0, 12.0, 12.0]), 1.0))
    images = {name: ImageSource((tmp_path / f"{name}.nii.gz",)) for name in arrays}
    row = {"convention": "brats2023", "prepared": "registered+stripped"}
    result = describe(Outcome(tmp_path / "P1_seg.nii.gz", row, [], [], images, None), tmp_path / "view", 2**20)
    expected = {"reference": "t1c", "moves": {"t2": {"mm": 3.0, "degrees": 0.0}}, "stripped": True}
    assert result["preparation"] == expected and result["view"]["brain"] == 7
    start = np.array(result["view"]["offset"])
    packed = np.asarray(nib.load(tmp_path / "view" / "prediction.nii.gz").dataobj)
    assert (np.argwhere(packed >> 7) + start).tolist() == np.argwhere(brain).tolist()
    shown = nib.load(tmp_path / "view" / "t2.nii.gz").get_fdata()
    assert (np.argwhere(shown > 500) + start).tolist() == [[4, 4, 4]]


def test_a_head_is_offered_to_be_prepared_and_is_a_problem_where_it_cannot_be(monkeypatch):
    said, problems = checks._head("auto")
    assert "skull" in said and problems == []
    assert "switch on “Prepare the images where they need it”" in checks._head("off")[1][0]
    monkeypatch.setattr("transforms.skull.is_installed", lambda: False)
    said, problems = checks._head("auto")
    assert said == "" and "the extra `raw` is not installed" in problems[0]
