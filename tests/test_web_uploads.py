"""What comes in: streamed under a limit, unpacked under limits, recognised by the rules for folders, or refused."""

from __future__ import annotations

import dataclasses
import io
import re
import socket
import stat
import struct
import time
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra `web` is not installed")

from data.errors import InputError
from pipeline.execute.own_folder import MARK
from pipeline.web.compute.advice import for_page
from pipeline.web.compute.checks import case_of
from pipeline.web.compute.results import _what_is
from pipeline.web.intake.files import _unpacked
from pipeline.web.intake.unpack import MAX_ENTRIES, unpack_zip
from pipeline.web.names import Received, clean_name, quoted
from tests.web_server import running, upload, wait_for

LIMIT = 2 * 2**20
MODALITIES = ("t1", "t1c", "t2", "flair")
UNKNOWN_SPACING = (
    "the slices carry no voxel size and no orientation: volumes are in voxels, and left and right are as the slices lie"
)


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    from data.phantom.patient import write_phantom

    return write_phantom(tmp_path_factory.mktemp("web"), 1, shape=(20, 24, 16), spacing_mm=(10.0, 10.0, 10.0))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("workspace"), max_upload_mb=LIMIT / 2**20) as server:
        yield server


@pytest.fixture
def client(server):
    with server.client() as client:
        client.server = server
        yield client


def send(client, *files):
    """Upload files, (name, content) each; the case once it was looked at, or the refusal."""
    reply = client.post("/api/cases", files=[("files", (name, content)) for name, content in files])
    if reply.status_code != 201:
        assert set(reply.json()) == {"error"}
        return reply.status_code, reply.json()["error"]
    return 201, wait_for(client, reply.json()["id"], "ready", "failed")


def roles_of(case):
    return {file["role"]: file["name"] for file in case["files"]}


def zip_of(entries, **options):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return packed.getvalue()


# What is recognised


def test_four_files_and_their_reference(client, patient):
    case = upload(client, patient)
    assert set(roles_of(case)) == {*MODALITIES, "reference"}
    assert (case["can_run"], case["problems"], case["missing"]) == (True, [], [])
    assert case["name"] == "BraTS-GLI-90001-000"
    assert case["files"][0]["shape"] == [20, 24, 16] and case["files"][0]["orientation"] == "LPS"


def test_a_brats_folder_as_a_browser_sends_it(client, patient):
    files = [(f"BraTS2021_00001/BraTS2021_00001_{new}.nii.gz", (patient / f"{patient.name}-{old}.nii.gz").read_bytes())
             for new, old in (("t1", "t1n"), ("t1ce", "t1c"), ("t2", "t2w"), ("flair", "t2f"))]  # fmt: skip
    _, case = send(client, *files)
    assert roles_of(case)["t1c"] == "BraTS2021_00001/BraTS2021_00001_t1ce.nii.gz"
    assert (case["name"], case["can_run"]) == ("BraTS2021_00001", True)


def test_one_zip(client, patient):
    packed = zip_of([(f"{patient.name}/{path.name}", path.read_bytes()) for path in patient.iterdir()])
    _, case = send(client, ("patients of today.zip", packed))
    assert set(roles_of(case)) == {*MODALITIES, "reference"} and case["can_run"]
    assert case["name"] == patient.name


def test_one_file_alone_whose_name_says_nothing_is_asked_for(client, patient):
    _, case = send(client, ("scan.nii.gz", (patient / f"{patient.name}-t2f.nii.gz").read_bytes()))
    assert roles_of(case) == {None: "scan.nii.gz"} and not case["can_run"]
    assert case["name"] == "scan"
    (problem,) = case["problems"]
    assert "say what each file shows" in problem and case["warnings"] == []
    assert case["files"][0]["shape"] == [20, 24, 16]
    reply = client.patch(f"/api/cases/{case['id']}", json={"roles": {"1": "flair"}})
    case = wait_for(client, reply.json()["id"], "ready")
    assert roles_of(case) == {"flair": "scan.nii.gz"} and case["files"][0]["detected_role"] is None
    # A shipped model was trained for missing modalities: it can do with this one, and what it lacks is said.
    assert case["can_run"] and case["missing"] == ["t1", "t1c", "t2"]
    (warning,) = [text for text in case["warnings"] if "no t1, t1c, t2 image" in text]
    assert warning.startswith("no t1, t1c, t2 image: ") and "takes zeros in their place" in warning


def test_no_sentence_names_an_option_or_a_folder_that_the_user_has_not(client, patient):
    images = {name: (patient / f"{patient.name}-{name}.nii.gz").read_bytes() for name in ("t2f", "t1n", "t2w", "seg")}
    _, case = send(client, ("x_flair.nii.gz", images["t2f"]), ("x_t1.nii.gz", images["t1n"]),
                   ("y_t2.nii.gz", images["t2w"]),
                   ("x_seg.nii.gz", images["seg"]))  # fmt: skip
    sentences = [*case["problems"], *case["warnings"]]
    other = "the upload holds another patient's file: y_t2.nii.gz; it is not used unless you say what it shows"
    assert other in sentences
    assert [text for text in sentences if "--" in text or "patient:" in text or "folder" in text] == []
    # The labels of a reference whose names say nothing fit several conventions alike.
    (undecided,) = case["problems"]
    assert undecided.endswith("alike; choose “Not used” for it, or name the files as their data set does")
    reference = next(file["id"] for file in case["files"] if file["role"] == "reference")
    client.patch(f"/api/cases/{case['id']}", json={"roles": {reference: None}})
    assert wait_for(client, case["id"], "ready")["can_run"]


@pytest.mark.parametrize(
    ("sentence", "page"),
    [
        ("patient: no t1 image, and m needs t1, t2; add the file, choose --missing skip, or name another model",
         "no t1 image, and m needs t1, t2; add the file, or choose another model"),
        ("patient: no t1 image, and m needs t1, t2; add the file, choose --missing zero or skip, or name another model",
         "no t1 image, and m needs t1, t2; add the file, or choose another model"),
        ("x.nii holds the label 7, which c does not know, so that it is not scored; name its convention with "
         "--convention",
         "x.nii holds the label 7, which c does not know, so that it is not scored; correct its labels"),
        ("x.nii: the reference has label values that no convention admitted here knows: 7; it will not be scored, "
         "name its convention with --convention",
         "x.nii: the reference has label values that no convention admitted here knows: 7; it will not be scored, "
         "correct its labels"),
        ("the convention lgg has none of the regions TC of m; choose another with --convention",
         "the convention lgg has none of the regions TC of m; choose another model"),
        ("the files of patient bear different patients' names (a_t1.nii, b_t2.nii); keep one patient's files in a "
         "folder, or name them: `segment FOLDER --t1 FILE --t1c FILE --t2 FILE`",
         "the files of patient bear different patients' names (a_t1.nii, b_t2.nii); check that they are one patient's"),
        ("the folder patient holds another patient's file: a_1.tif, a_2.tif; move it to that patient's folder",
         "the folder patient holds another patient's file: a_1.tif, a_2.tif; it is not used unless you say what it "
         "shows"),
        ("x.nii: declares 9 x 9 x 9 voxels of 8 bytes, over the limit of 4 of 4; check the header, or raise "
         "--max-voxels of `segment`",
         "x.nii: declares 9 x 9 x 9 voxels of 8 bytes, over the limit of 4 of 4; check the header"),
        ("P1: not enough memory for this case; free some", "P1: not enough memory for this case; free some"),
    ],
)  # fmt: skip
def test_advice_is_what_a_page_can_do(sentence, page):
    assert for_page(sentence) == page
    assert for_page(f"one; {sentence}") == f"one; {page}"


def test_names_that_leave_the_convention_open_get_the_models_own_where_nothing_is_compared(client, patient):
    """Those of BraTS-PED admit two conventions that differ, and neither is that of a model for LGG."""
    files = [
        (f"BraTS-PED-00001-000-{name}.nii.gz", (patient / f"{patient.name}-{name}.nii.gz").read_bytes())
        for name in ("t1n", "t1c", "t2w", "t2f")
    ]
    _, case = send(client, *files)
    model = next(name for name in case["models"] if name.startswith("lgg-"))
    client.patch(f"/api/cases/{case['id']}", json={"model": model})
    case = wait_for(client, case["id"], "ready")
    assert (case["model"], case["can_run"]) == (model, True)
    record = client.server.app.state.context.store.get(case["id"])
    assert record.conventions == ("brats2023", "brats2024-ped") and record.convention == "lgg"
    assert case_of(dataclasses.asdict(record)).conventions == ()  # so that the run settles it likewise


def test_an_lgg_slice_stack(client, tmp_path):
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(1)
    files = []
    for number in range(1, 5):
        for mask in ("", "_mask"):
            picture = io.BytesIO()
            shape = (24, 24) if mask else (24, 24, 3)
            pixels = rng.integers(0, 2, shape) * 255 if mask else rng.integers(1, 255, shape)
            Image.fromarray(pixels.astype(np.uint8)).save(picture, "TIFF")
            files.append((f"TCGA_CS_0001_19990101/TCGA_CS_0001_19990101_{number}{mask}.tif", picture.getvalue()))
    _, case = send(client, *files)
    assert case["state"] == "ready" and set(roles_of(case)) == {"t1", "t1c", "flair", "reference"}, case
    assert roles_of(case)["t1c"] == "TCGA_CS_0001_19990101/TCGA_CS_0001_19990101_1.tif and 3 more slices, band 3"
    assert case["files"][0]["shape"] == [24, 24, 4] and case["files"][0]["spacing_mm"] is None
    assert case["model"].startswith("lgg-") and case["can_run"]
    assert case["warnings"].count(UNKNOWN_SPACING) == 1
    client.post(f"/api/cases/{case['id']}/run")
    result = wait_for(client, case["id"], "done", "failed")["result"]
    assert result["flags"] == ["the voxel size is unknown: no mm, no ml"]  # nothing of columns, which the page has not
    assert result["lesions"] and all(lesion["centroid_mm"] == [None] * 3 for lesion in result["lesions"])
    assert all(len(lesion["centre_voxel"]) == 3 for lesion in result["lesions"])


def test_volumes_of_slices_are_called_by_what_they_show():
    shown = [_what_is(f"TCGA_CS_0001_19990101_{role}.nii.gz", False) for role in ("t1", "t1c", "flair", "seg")]
    assert shown[:3] == [f"{name} image, its slices as one volume" for name in ("T1", "T1c", "FLAIR")]
    assert shown[3].startswith("the mask")


def test_images_that_carry_a_voxel_size_are_not_warned_of(client, patient):
    assert not [text for text in upload(client, patient)["warnings"] if "voxel size" in text]


def test_roles_can_be_changed_and_go_to_one_file_at_a_time(client, patient):
    case = upload(client, patient)
    ids = {file["role"]: file["id"] for file in case["files"]}
    base = f"/api/cases/{case['id']}"
    client.patch(base, json={"roles": {ids["t1"]: "t2"}})
    case = wait_for(client, case["id"], "ready")
    assert {file["id"]: file["role"] for file in case["files"]}[ids["t2"]] is None
    assert case["missing"] == ["t1"]
    client.patch(base, json={"roles": {ids["t1"]: "t1", ids["t2"]: "t2"}})
    case = wait_for(client, case["id"], "ready")
    assert case["can_run"] and case["missing"] == []
    for roles, text in (({"99": "t1"}, "no file"), ({ids["t1"]: "t2", ids["t2"]: "t2"}, "cannot both be t2")):
        reply = client.patch(base, json={"roles": roles})
        assert reply.status_code == 422 and text in reply.json()["error"]
    assert client.patch(base, json={"roles": {ids["t1"]: "ct"}}).status_code == 422
    assert client.patch(base, json={"model": "../../etc"}).status_code == 422
    assert client.patch(base, json={"owner": "me"}).status_code == 422


def test_broken_images_are_named_by_the_names_they_came_with(client, patient):
    good = [(path.name, path.read_bytes()) for path in sorted(patient.iterdir())]
    whole = dict(good)[f"{patient.name}-t1c.nii.gz"]
    broken = [(name, content[: len(content) // 2] if "t1c" in name else content) for name, content in good]
    assert whole
    _, case = send(client, *broken)
    assert not case["can_run"]
    (problem,) = case["problems"]
    assert problem.startswith(f"{patient.name}-t1c.nii.gz: ") and "f000" not in problem
    assert next(file for file in case["files"] if file["role"] == "t1c")["problem"] == problem
    assert client.post(f"/api/cases/{case['id']}/run").status_code == 409


# What is refused


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ([], "holds no file"),
        ([("notes.txt", b"x")], "no image among notes.txt"),
        ([("IM0001.dcm", b"x"), ("IM0002.dcm", b"x")], "drop DICOM, NIfTI"),
        ([("x.tar.gz", b"x")], "only .zip is unpacked"),
        ([("x_t1.mhd", b"x")], "save it as .mha"),
        ([("a/a_t1.nii", b"x"), ("a/a_t2.nii", b"x"), ("b/b_t1.nii", b"x"), ("b/b_t2.nii", b"x")],
         "holds 2 patients (a, b)"),
        ([("x.zip", b"PK\x03\x04 no zip")], "is no zip file"),
        ([("x.zip", zip_of([]))], "holds no file"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_with_a_sentence(client, server, files, text):
    before = set((server.settings.workspace / "cases").iterdir())
    if files:
        status, sentence = send(client, *files)
    else:
        reply = client.post("/api/cases", data={"name": "x"}, files={"other": ("", b"")})
        status, sentence = reply.status_code, reply.json()["error"]
    assert status == 422 and text in sentence, sentence
    assert "/" not in sentence.replace(".nii, .nii.gz", "")
    assert set((server.settings.workspace / "cases").iterdir()) == before  # nothing is left of it


@pytest.mark.parametrize(
    "body",
    [b"", b"--b\r\n", b"no form", b"--b\r\nContent-Disposition: form-data; name=files; filename=x_t1.nii\r\n\r\nabc"],
)
def test_a_form_that_is_damaged_or_broken_off_is_refused(client, body):
    reply = client.post("/api/cases", content=body, headers={"content-type": "multipart/form-data; boundary=b"})
    assert reply.status_code == 422 and reply.json()["error"]
    for kind in ("text/plain", "multipart/form-data", "multipart/form-data; boundary=" + "b" * 300):
        assert client.post("/api/cases", content=body, headers={"content-type": kind}).status_code == 422


def test_an_upload_over_the_limit_is_refused_before_it_is_sent(server):
    head = (
        "POST /api/cases HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        f"Content-Length: {LIMIT + 1}\r\n\r\n"
    )
    assert b" 413 " in first_answer(server, [head.encode()])


@pytest.mark.parametrize("chunked", [True, False])
def test_an_upload_over_the_limit_is_refused_as_soon_as_it_passes_it(server, chunked):
    """Without a Content-Length there is nothing to go by but what has come; the answer comes before the sender ends."""
    head = b"POST /api/cases HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    begin = b'--b\r\nContent-Disposition: form-data; name="files"; filename="x_t1.nii"\r\n\r\n'
    piece = b"x" * 2**16

    def pieces():
        yield head + (b"Transfer-Encoding: chunked\r\n\r\n" if chunked else f"Content-Length: {LIMIT}\r\n\r\n".encode())
        for part in (begin, *[piece] * (LIMIT // len(piece) + 1)):
            yield b"%x\r\n%s\r\n" % (len(part), part) if chunked else part

    answer = first_answer(server, pieces())
    if chunked:
        assert b" 413 " in answer and b"larger than 2 MB" in answer
    else:  # a sender that sends more than it said: what is beyond is no part of the request
        assert b" 4" in answer[:14]
    left = list((server.settings.workspace / "cases").rglob("part-*"))
    assert left == []


def first_answer(server, pieces):
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
        except OSError:  # it does not listen any more
            pass
        connection.settimeout(10)
        answer = b""
        while piece := connection.recv(4096):  # the head and the body may come apart
            answer += piece
            head = re.search(rb"(?s)content-length: (\d+)\r\n.*?\r\n\r\n", answer)
            if head and len(answer) >= head.end() + int(head[1]):
                break
        return answer


def test_an_upload_is_never_in_memory(tmp_path, monkeypatch):
    """Pieces of a megabyte go to the disk; a form of many of them takes no more."""
    import tracemalloc

    with running(tmp_path, max_upload_mb=64) as server, server.client() as client:
        body = tmp_path / "body"
        begin = b'--b\r\nContent-Disposition: form-data; name="files"; filename="x_t1.nii"\r\n\r\n'
        with body.open("wb") as file:
            file.write(begin)
            for _ in range(48):
                file.write(b"\1" * 2**20)
            file.write(b"\r\n--b--\r\n")
        tracemalloc.start()
        with body.open("rb") as file:
            reply = client.post("/api/cases", content=file, headers={"content-type": "multipart/form-data; boundary=b"})
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert reply.status_code == 201
        assert peak < 12 * 2**20
        stored = tmp_path / "cases" / reply.json()["id"] / "files" / "f0001.nii"
        assert stored.stat().st_size == 48 * 2**20


def test_a_sender_that_stops_is_given_up(server, monkeypatch):
    monkeypatch.setattr("pipeline.web.intake.uploads.STALLED_S", 0.3)
    head = (
        b"POST /api/cases HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        b"Content-Length: 9999\r\n\r\n--b\r\n"
    )
    start = time.monotonic()
    assert b" 422 " in first_answer(server, [head])
    assert time.monotonic() - start < 5


def test_a_sender_of_a_byte_now_and_then_is_given_up(server, monkeypatch):
    monkeypatch.setattr("pipeline.web.intake.uploads.STALLED_S", 0.6)
    monkeypatch.setattr("pipeline.web.security.BODY_SECONDS", 0.6)
    host = b"HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    form = (
        b"POST /api/cases "
        + host
        + b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 9999\r\n\r\n--b\r\n"
    )
    text = b"POST /login " + host + b"Content-Type: application/json\r\nContent-Length: 9999\r\n\r\n"
    for head, status, said in ((form, b" 422 ", b"slower than 16 kB a second"), (text, b" 408 ", b"within 0.6 s")):
        start = time.monotonic()
        answer = dripped(server, head)
        assert status in answer and said in answer, answer
        assert time.monotonic() - start < 4  # a byte every 0.1 s of 9999: 1000 s, were it not for the limit


def dripped(server, head):
    """The answer to a request whose body comes a byte at a time, for at most 8 s."""
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.settimeout(0.1)
        connection.sendall(head)
        answer, end = b"", time.monotonic() + 8
        while b"}" not in answer and time.monotonic() < end:
            try:
                answer += connection.recv(4096)
            except TimeoutError:
                connection.sendall(b"x")
        return answer


# Names


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("../../etc/passwd", "etc/passwd"), ("/etc/x_t1.nii", "etc/x_t1.nii"), ("C:\\scans\\x.nii", "C:/scans/x.nii"),
        ("a\0b\nc", "a_b_c"), ("..", ""), ("./x", "x"), ("", ""), ("\ud800", "_"),
        ("<img src=x>.nii", "<img src=x>.nii"),
        ("a" * 5000 + "_t1.nii", "a" * 193 + "_t1.nii"),
        ("/".join("abcdefghijklmnopqrstuvwxyz"), "k/l/m/n/o/p/q/r/s/t/u/v/w/x/y/z"),
    ],
)  # fmt: skip
def test_a_name_from_outside_is_a_text(name, cleaned):
    assert clean_name(name) == cleaned


def test_a_name_that_reads_like_a_sentence_of_ours_does_not_speak_for_us(client, patient):
    """Quotes stand around it, on one line and in one direction, wherever a sentence names it."""
    image = (patient / f"{patient.name}-t1n.nii.gz").read_bytes()
    lie = "x: checked and complete; patient: the mask is right"
    _, case = send(
        client,
        (f"{lie}_t1.nii.gz", image[: len(image) // 2]),
        ("fine; and deleted\n”. All is well.txt", b"x"),
        ("\u202egnorw.txt", b"x"),
        ("plain.txt", b"x"),
    )
    (problem,) = case["problems"]
    assert problem.startswith(f"“{lie}_t1.nii.gz”: ")
    notes = client.server.app.state.context.store.get(case["id"]).notes
    assert 'not used: “fine; and deleted_". All is well.txt”, _gnorw.txt, plain.txt' in notes
    assert send(client, ("all is well: go on.tar.gz", b""))[1].startswith("“all is well: go on.tar.gz”: only .zip")


def test_names_from_outside_never_become_paths(client, server, patient, tmp_path):
    content = (patient / f"{patient.name}-t1n.nii.gz").read_bytes()
    names = ["../../../../evil_t1.nii.gz", "/tmp/evil_t2.nii.gz", "..\\..\\evil_flair.nii.gz", '<b>"&_t1c.nii.gz']
    _, case = send(client, *[(name, content) for name in names])
    folder = server.settings.workspace / "cases" / case["id"]
    files = sorted(p.name for p in folder.rglob("*") if p.is_file())
    assert files == [MARK, *(f"f000{n}.nii.gz" for n in (1, 2, 3, 4))]
    assert {"t1", "t2", "flair"} <= set(roles_of(case))
    # Only what this upload made: other tests of the same process have folders of such names beside the workspace.
    assert [path for path in server.settings.workspace.rglob("*") if "evil" in path.name] == []
    assert not [path for folder in server.settings.workspace.parents for path in folder.glob("evil_*")]
    assert not Path("/tmp/evil_t2.nii.gz").exists()
    assert not case["can_run"] or any("same image" in text for text in case["warnings"])


# Zips that mean harm


def refusal(content, tmp_path, max_bytes=2**26):
    (tmp_path / "x.zip").write_bytes(content)
    target = tmp_path / "out"
    target.mkdir(exist_ok=True)
    with pytest.raises(InputError) as refused:
        unpack_zip(tmp_path / "x.zip", "x.zip", target, max_bytes=max_bytes)
    assert str(refused.value).startswith("x.zip: ") and str(tmp_path) not in str(refused.value)
    assert {p.name for p in tmp_path.iterdir()} <= {"x.zip", "out"}
    return str(refused.value)


@pytest.mark.parametrize(
    "name",
    [
        "../evil.nii",
        "a/../../evil.nii",
        "/evil.nii",
        "C:/evil.nii",
        "C:evil.nii",
        "..\\evil.nii",
        "a\\..\\..\\b.nii",
        "\\\\x\\y.nii",
        "//x/y.nii",
    ],
)
def test_a_zip_whose_names_lead_out_of_it_is_refused(tmp_path, name):
    assert "lead out of its folder" in refusal(zip_of([("t1.nii", b"x"), (name, b"x")]), tmp_path)


def test_a_zip_of_windows_has_folders_too(tmp_path):
    (tmp_path / "x.zip").write_bytes(zip_of([("P1\\", b""), ("P1\\t1.nii", b"x"), ("P1\\.hidden\\t2.nii", b"x")]))
    (tmp_path / "out").mkdir()
    unpacked = unpack_zip(tmp_path / "x.zip", "x.zip", tmp_path / "out", max_bytes=2**20)
    assert [member.name for member in unpacked] == ["P1/t1.nii"]


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_a_zip_with_a_link_or_a_device_is_refused(tmp_path, mode):
    entry = zipfile.ZipInfo("t1.nii")
    entry.external_attr = (mode | 0o777) << 16
    assert "link or a device" in refusal(zip_of([(entry, b"/etc/passwd")]), tmp_path)


def test_a_zip_in_a_zip_is_refused_whatever_it_is_called(tmp_path):
    inner = zip_of([("t1.nii", b"x")])
    assert "another archive" in refusal(zip_of([("inner.ZIP", inner)]), tmp_path)
    assert "another archive" in refusal(zip_of([("a/inner.tar.gz", b"x")]), tmp_path)
    assert "another zip" in refusal(zip_of([("t1.nii", inner)]), tmp_path)


def test_a_refused_name_in_a_zip_stands_in_quotes_and_nothing_in_it_is_unseen(tmp_path):
    sentence = refusal(zip_of([("../x\u3164; all is well\n.nii", b"x")]), tmp_path)
    assert sentence.startswith("x.zip: holds the name “../x_; all is well_.nii”, which would lead out of its folder")


def test_an_encrypted_zip_is_refused(tmp_path):
    content = bytearray(zip_of([("t1.nii", b"x")]))
    content[content.index(b"PK\x01\x02") + 8] |= 1
    assert "encrypted" in refusal(bytes(content), tmp_path)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    bomb = zip_of([("t1.nii", b"\0" * (80 * 2**20))])
    assert len(bomb) < 2**17
    assert "times its size" in refusal(bomb, tmp_path, max_bytes=2**30)
    assert "would unpack to 83886080 bytes" in refusal(bomb, tmp_path)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_that_is_larger_than_it_says_stops_at_what_it_says(tmp_path):
    content = bytearray(zip_of([("t1.nii", b"\0" * 2**22)]))
    for mark, at in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        start = content.index(mark) + at
        content[start : start + 4] = struct.pack("<I", 1000)
    refusal(bytes(content), tmp_path)
    assert sum(p.stat().st_size for p in (tmp_path / "out").iterdir()) <= 2**20


def test_a_zip_of_too_many_files_is_refused(tmp_path):
    many = zip_of([(f"{n}.nii", b"") for n in range(MAX_ENTRIES + 1)])
    assert f"holds {MAX_ENTRIES + 1} files" in refusal(many, tmp_path)


def zip_with_a_long_comment(n, comment=65535):
    """A zip of n nameless entries: how many there are stands in its 64-bit record alone, which the comment hides from
    who reads the last 65557 bytes."""
    directory = struct.pack("<4s4B4HL2L5H2L", b"PK\x01\x02", 20, 3, 20, 0, 0, 0, 0, 33, *[0] * 10) * n
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, n, n, len(directory), 0)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, len(directory), 1)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, 46, 0, comment)
    return directory + record + locator + end + b"c" * comment


@pytest.mark.parametrize("comment", [0, 1, 65535])
def test_a_directory_that_would_fill_the_memory_is_refused_before_it_is_read(tmp_path, comment):
    import tracemalloc

    packed = zip_with_a_long_comment(10**5, comment)  # 4.6 MB: some 50 MB as Python objects
    tracemalloc.start()
    try:
        assert "more files than 4096" in refusal(packed, tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 12 * 2**20
    finally:
        tracemalloc.stop()


def test_a_zip_that_says_its_size_in_64_bits_is_read_like_any_other(tmp_path):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive, archive.open("t1.nii", "w", force_zip64=True) as file:
        file.write(b"x" * 100)
    (tmp_path / "x.zip").write_bytes(packed.getvalue())
    (member,) = unpack_zip(tmp_path / "x.zip", "x.zip", tmp_path, max_bytes=1000)
    assert member.path.read_bytes() == b"x" * 100


def test_the_servers_own_process_opens_nothing_that_is_sent(client, patient, monkeypatch):
    """Zips, headers and voxels are read in the process whose memory and time are bounded."""

    def opened(*_, **__):
        raise AssertionError("read in the server's process")

    picture = bytes.fromhex("89504e470d0a1a0a") + b"no picture"
    image = (patient / f"{patient.name}-t1n.nii.gz").read_bytes()
    packed = zip_of([("x_t1.nii.gz", image)])
    for opener in ("nibabel.load", "zipfile.ZipFile", "data.io.read.read_header", "PIL.Image.open"):
        monkeypatch.setattr(opener, opened)
    _, case = send(client, ("scan.png", picture), ("scan.nii.gz", image), ("x.zip", packed))
    assert [file["name"] for file in case["files"]] == ["x_t1.nii.gz", "scan.png", "scan.nii.gz"]
    assert case["files"][2]["shape"] == [20, 24, 16] and case["files"][1]["problem"]


def test_the_servers_own_process_does_not_read_earlier_results_either(tmp_path, monkeypatch):
    """Tables of 100,000 patients took it 400 MB and held up everybody for seconds."""

    def opened(*_, **__):
        raise AssertionError("read in the server's process")

    mask = tmp_path / "out" / "p1" / "p1_seg.nii.gz"
    mask.parent.mkdir(parents=True)
    mask.write_bytes(b"no image, and nobody asks for one")
    header = "case,folder,status,reason,flags,model,convention,seconds\n"
    report = tmp_path / "out" / "report.csv"
    report.write_text(header + "p\u202e1,p1,ok,,,m,brats2023,1.0\n", encoding="utf-8")
    for reader in ("read_columns", "read_json_object"):
        monkeypatch.setattr(f"pipeline.evaluate.label_maps.{reader}", opened)
    with running(tmp_path / "w", data=tmp_path / "out") as server, server.client() as client:
        (entry,) = client.get("/api/results").json()
        assert entry["title"] == "p_1"  # as every name: on one line, in one direction
        assert client.post("/api/results/x").status_code == 404
        report.write_text(header, encoding="utf-8")
        assert client.get("/api/results").json() == []
        report.unlink()
        assert client.get("/api/results").json() == []


def test_all_zips_of_an_upload_together_hold_no_more_files_than_one_may(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.web.intake.files.MAX_ENTRIES", 5)
    received = [Received("x.nii", tmp_path / "x.nii")]
    for number in range(3):
        received.append(Received(f"{number}.zip", tmp_path / f"{number}.zip"))
        received[-1].path.write_bytes(zip_of([(f"{number}a.nii", b""), (f"{number}b.nii", b"")]))
    files, _ = _unpacked(received[:-1], 1000)  # one and twice two
    assert len(files) == 5
    for item in received[1:3]:
        item.path.write_bytes(received[3].path.read_bytes())
    for path in tmp_path.glob("zip-*"):
        path.unlink()
    with pytest.raises(InputError, match="holds 2 files, and 4096 of one upload are the most"):
        _unpacked(received, 1000)


def test_a_form_of_parts_without_number_is_refused(client):
    reply = client.post(
        "/api/cases", content=b"--b\r\n\r\n\r\n" * 5000 + b"--b--\r\n",
        headers={"content-type": "multipart/form-data; boundary=b"},
    )  # fmt: skip
    assert reply.status_code == 422 and "has more than 4112 parts" in reply.json()["error"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("t1\u3164is\u3164fine", "t1_is_fine"),  # Hangul fillers are letters
        ("\u2800\uffa0\u115f", "___"),
        ("a\u202eb\u2066c\u200bd", "a_b_c_d"),
        ("x❞: is fine; ＂y„", '“x": is fine; "y"”'),
    ],
)
def test_a_name_neither_passes_for_blanks_nor_ends_its_quotation(name, shown):
    assert quoted(clean_name(name)) == shown


# Names and turns


def test_names_of_thousands_of_folders_cost_no_time(client):
    """Half a megabyte of names that lay 15,000 folders deep on the disk once."""
    files = [("/".join(f"{n}_{depth}" for depth in range(15)) + "/x_t1.png", b"x") for n in range(1000)]
    start = time.monotonic()
    status, sentence = send(client, *files)
    assert (status, sentence) == (
        422, "the upload has more than 1000 folders; drop one patient's folder at a time"
    )  # fmt: skip
    assert time.monotonic() - start < 10  # parsing a form of a thousand files is most of it


def test_no_folder_is_made_for_a_name(client, server, patient, monkeypatch):
    made = []
    mkdir = Path.mkdir
    monkeypatch.setattr(Path, "mkdir", lambda path, *a, **k: (made.append(path.name), mkdir(path, *a, **k))[1])
    name = f"{patient.name}-t1n.nii.gz"
    _, case = send(client, (f"study/{patient.name}/{name}", (patient / name).read_bytes()))
    assert roles_of(case) == {"t1": f"study/{patient.name}/{name}"} and case["name"] == patient.name
    folder = server.settings.workspace / "cases" / case["id"]
    assert sorted(path.name for path in folder.rglob("*")) == [MARK, "edits", "f0001.nii.gz", "files"]
    assert set(made) <= {"incoming", "files", "edits", case["id"]}


def test_a_file_that_comes_twice_is_used_once_and_two_of_one_name_are_refused_in_plain_words(client, patient):
    t1, t2 = ((patient / f"{patient.name}-{name}.nii.gz").read_bytes() for name in ("t1n", "t2w"))
    _, case = send(client, ("x_t1.nii.gz", t1), ("x_t1.nii.gz", t1), ("x_t2.nii.gz", t2))
    assert roles_of(case) == {"t1": "x_t1.nii.gz", "t2": "x_t2.nii.gz"} and case["can_run"]
    assert send(client, ("x_t1.nii.gz", t1), ("x_t1.nii.gz", t2)) == (
        422,
        "two different files are called x_t1.nii.gz; rename one of them, or drop the folders that they lie in",
    )
    # In folders of their own they are two files; what nobody uses may be there as often as it likes.
    _, case = send(client, ("a/scan.nii.gz", t1), ("b/scan.nii.gz", t2), ("notes.txt", b"1"), ("notes.txt", b"2"))
    assert [file["name"] for file in case["files"]] == ["a/scan.nii.gz", "b/scan.nii.gz"]


def test_files_that_lie_over_each_other_are_refused(tmp_path):
    """One packed stream under many names: a bomb without a nested zip."""
    content = bytearray(zip_of([("a.nii", b"x" * 1000), ("b.nii", b"x" * 1000)]))
    first = content.index(b"PK\x01\x02")
    second = content.index(b"PK\x01\x02", first + 4)
    content[second + 42 : second + 46] = bytes(4)
    assert refusal(bytes(content), tmp_path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_whose_memory_the_file_decides_are_refused(tmp_path, method):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        archive.writestr("t1.nii", b"x" * 100)
    assert f"method {method}" in refusal(packed.getvalue(), tmp_path)


def test_random_damage_gives_a_sentence_or_files_never_a_crash(tmp_path):
    import random

    rng = random.Random(1)
    whole = zip_of([("a/t1.nii", bytes(range(256)) * 20), ("a/t2.nii", b"x" * 500)])
    target = tmp_path / "x.zip"
    for number in range(300):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        target.write_bytes(bytes(content[: rng.randrange(len(content))] if number % 3 == 0 else content))
        out = tmp_path / f"out-{number}"
        out.mkdir()
        try:
            for member in unpack_zip(target, "x.zip", out, max_bytes=2**20):
                assert member.path.parent == out
        except InputError:
            pass


def test_an_upload_of_many_small_files_is_one_patient_or_refused(client):
    names = [(f"f{n}_t1.txt", b"") for n in range(50)]
    assert send(client, *names)[0] == 422
