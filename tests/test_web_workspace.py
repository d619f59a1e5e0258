"""What a server removes from its workspace: what it made there, and nothing of anybody else's."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import sqlite3
import time

import pytest

pytest.importorskip("fastapi", reason="the extra `web` is not installed")

from data.errors import UsageError
from pipeline.execute.own_folder import MARK
from pipeline.web.app import create_app
from pipeline.web.settings import Settings
from pipeline.web.store import Store
from pipeline.web.workspace import CaseFolders
from tests.web_server import files_of, run, running, upload, wait_for

ID = "0123456789abcdef" * 2


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    from data.phantom.patient import write_phantom

    return write_phantom(tmp_path_factory.mktemp("web"), 1, shape=(20, 24, 16), spacing_mm=(10.0, 10.0, 10.0))


def study(folder):
    """Somebody's patients, in folders of every kind of name."""
    files = [folder / name / "scan.nii.gz" for name in ("patient 1", ID, "f" * 32)]
    for path in files:
        path.parent.mkdir(parents=True)
        path.write_text("a patient's")
    return files


def started(workspace):
    """Start and stop a server."""
    with running(workspace):
        pass


@pytest.mark.parametrize("linked", [False, True])
def test_a_study_that_has_a_folder_of_cases_keeps_every_file(tmp_path, linked):
    workspace = tmp_path / "study"
    workspace.mkdir()
    files = study(tmp_path / "elsewhere" if linked else workspace / "cases")
    if linked:
        (workspace / "cases").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=r"study/cases: .*choose another --workspace"):
        create_app(Settings(workspace=workspace))
    assert [path.read_text() for path in files] == ["a patient's"] * 3
    assert [path.name for path in workspace.iterdir()] == ["cases"]  # nothing was put there either


def test_folders_that_come_into_a_workspace_later_stay(tmp_path):
    started(tmp_path)
    files = study(tmp_path / "cases")
    (tmp_path / "cases" / ("e" * 32)).symlink_to(files[0].parent)
    (tmp_path / "cases" / "notes.txt").write_text("kept")
    started(tmp_path)
    assert [path.read_text() for path in files] == ["a patient's"] * 3
    assert (tmp_path / "cases" / "notes.txt").exists() and (tmp_path / "cases" / ("e" * 32)).is_symlink()


def test_a_folder_of_cases_that_became_a_link_is_refused(tmp_path):
    started(tmp_path / "web")
    (tmp_path / "web" / "cases").rmdir()
    files = study(tmp_path / "elsewhere")
    (tmp_path / "web" / "cases").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="is a symbolic link"):
        create_app(Settings(workspace=tmp_path / "web"))
    assert all(path.exists() for path in files)


def test_a_case_that_a_kill_broke_off_goes_but_not_one_of_another_server(tmp_path):
    ours, other = tmp_path / "ours", tmp_path / "other"
    for workspace in (ours, other):
        with running(workspace) as server:
            server.app.state.context.jobs.folders.make(ID)
    # A back-up of the other server's case, put among ours under its own name and another.
    shutil.copytree(other / "cases" / ID, ours / "cases" / ("a" * 32))
    (ours / "cases" / ID).rename(ours / "cases" / ("b" * 32))  # nor is ours what somebody called otherwise
    shutil.copytree(other / "cases" / ID, ours / "cases" / ID)
    started(ours)
    assert {path.name for path in (ours / "cases").iterdir()} == {ID, "a" * 32, "b" * 32}
    started(other)
    assert list((other / "cases").iterdir()) == []


def test_a_case_of_an_older_version_is_removed_when_its_time_comes(tmp_path, patient):
    with running(tmp_path) as server, server.client() as client:
        case = upload(client, patient)
        cookies = dict(client.cookies)
    (tmp_path / "cases" / case["id"] / MARK).unlink()  # as versions without marks left it
    with running(tmp_path) as server, server.client(cookies=cookies) as client:
        assert client.delete(f"/api/cases/{case['id']}").status_code == 204
    assert list((tmp_path / "cases").iterdir()) == []


def test_a_case_whose_folder_became_a_link_is_neither_run_nor_removed_there(tmp_path, patient):
    with running(tmp_path / "web") as server, server.client() as client:
        case = run(client, patient, "quick", "done")
        folder = tmp_path / "web" / "cases" / case["id"]
        folder.rename(tmp_path / "aside")
        victim = tmp_path / "victim"
        for name in ("output", "view", "input"):
            (victim / name).mkdir(parents=True)
            (victim / name / "scan.nii.gz").write_text("a patient's")
        folder.symlink_to(victim)
        client.post(f"/api/cases/{case['id']}/run")
        failed = wait_for(client, case["id"], "failed", "done")
        assert "not where the server put them" in failed["error"]
        assert client.delete(f"/api/cases/{case['id']}").status_code == 204
    assert len(list(victim.rglob("scan.nii.gz"))) == 3 and folder.is_symlink()


def test_a_record_never_names_a_folder_elsewhere(tmp_path):
    folders = CaseFolders(tmp_path / "cases", "w")
    victim = tmp_path / "victim"
    victim.mkdir()
    for case_id in ("../victim", str(victim), "", ".", "..", ID + "/../../victim"):
        (victim / MARK).write_text(f"w {case_id}\n")
        assert not folders.is_ours(case_id)
        folders.remove(case_id)
    assert (victim / MARK).exists()


@pytest.mark.parametrize("kind", ["another program's", "link"])
def test_another_programs_data_base_is_not_written_to(tmp_path, kind):
    path = tmp_path / "elsewhere.sqlite3" if kind == "link" else tmp_path / "web" / "web.sqlite3"
    (tmp_path / "web").mkdir(mode=0o700)
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE cases (id INTEGER, patient TEXT)")
    connection.close()
    if kind == "link":
        (tmp_path / "web" / "web.sqlite3").symlink_to(path)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="choose another --workspace"):
        create_app(Settings(workspace=tmp_path / "web"))
    assert path.read_bytes() == before


def test_modes_of_a_folder_that_is_there_stay_and_one_that_others_may_write_in_is_refused(tmp_path):
    open_to_read, open_to_write = tmp_path / "read", tmp_path / "write"
    for folder, mode in ((open_to_read, 0o755), (open_to_write, 0o1777)):
        folder.mkdir()
        folder.chmod(mode)
    started(open_to_read)
    assert open_to_read.stat().st_mode & 0o7777 == 0o755
    assert {oct(path.stat().st_mode & 0o077) for path in open_to_read.iterdir()} == {"0o0"}
    with pytest.raises(UsageError, match="others may write in it"):
        create_app(Settings(workspace=open_to_write))
    assert open_to_write.stat().st_mode & 0o7777 == 0o1777 and list(open_to_write.iterdir()) == []


@pytest.mark.parametrize("name", ["cases", "web.sqlite3"])
def test_what_lies_in_a_workspace_is_refused_where_others_may_write_in_it(tmp_path, name):
    started(tmp_path / "w")
    path = tmp_path / "w" / name
    path.chmod(path.stat().st_mode | 0o020)
    with pytest.raises(UsageError, match=f"{name}: others may write in it.*chmod go-w"):
        create_app(Settings(workspace=tmp_path / "w"))
    assert path.stat().st_mode & 0o020


def test_a_workspace_of_another_user_is_refused(tmp_path, monkeypatch):
    (tmp_path / "w").mkdir(0o755)
    if os.getuid() == 0:
        os.chown(tmp_path / "w", 1, -1)
    else:
        own = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: own + 1)
    with pytest.raises(UsageError, match="belongs to another user"):
        create_app(Settings(workspace=tmp_path / "w"))
    assert list((tmp_path / "w").iterdir()) == []


def test_a_workspace_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for workspace in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match="cannot be used .*choose another --workspace"):
            create_app(Settings(workspace=workspace))


# ---- an edited mask ----


def uploads(server, case):
    return sorted(path.name for path in server.app.state.context.jobs.folder(case["id"]).glob("upload-*"))


@pytest.mark.parametrize("wish", ["die", "hang"])
def test_an_edit_whose_process_ends_leaves_no_upload(tmp_path, patient, monkeypatch, wish):
    with running(tmp_path) as server, server.client() as client:
        case = run(client, patient, "quick", "done")
        monkeypatch.setattr("pipeline.web.jobs.CHECK_SECONDS", 3.0)
        server.app.state.context.jobs.checker.function = "tests.web_faults:job"
        end_checker(server)
        record = server.app.state.context.store.get(case["id"])
        server.app.state.context.store.records[case["id"]] = dataclasses.replace(record, name=wish)
        reply = client.post(f"/api/cases/{case['id']}/edits", content=b"\0" * 10_000)
        assert reply.status_code == 422 and reply.json()["error"]
        assert uploads(server, case) == []


def end_checker(server):
    """End the checker, so that the next request starts one with its new function."""
    os.kill(server.app.state.context.jobs.checker.pid, 9)
    time.sleep(0.2)


def test_an_edit_is_refused_where_the_disk_has_no_room(tmp_path, patient, monkeypatch):
    with running(tmp_path) as server, server.client() as client:
        case = run(client, patient, "quick", "done")
        full = shutil.disk_usage(tmp_path)._replace(free=2**20)
        monkeypatch.setattr("pipeline.web.context.shutil.disk_usage", lambda _: full)
        reply = client.post(f"/api/cases/{case['id']}/edits", content=b"\0" * 10_000)
        assert reply.status_code == 507 and "disk is nearly full" in reply.json()["error"]
        assert uploads(server, case) == []


def test_a_disk_that_fills_meanwhile_is_told_and_keeps_nothing_of_the_upload(tmp_path, patient, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with running(tmp_path) as server, server.client() as client:
        monkeypatch.setattr("pipeline.web.intake.uploads._Form.part_data", full)
        reply = client.post("/api/cases", files=files_of(patient))
        assert reply.status_code == 507 and "disk is nearly full" in reply.json()["error"]
        assert list(server.workspace_cases.iterdir()) == []


def test_what_a_killed_server_was_taking_in_is_gone_after_the_next_start(tmp_path, patient):
    with running(tmp_path) as server, server.client() as client:
        case = run(client, patient, "quick", "done")
        folder = server.app.state.context.jobs.folder(case["id"])
    left = [folder / f"upload-{ID}", folder / f"upload-{ID}.nii.gz", folder / ".everything.zip.1-01234567.tmp"]
    left.append(folder / "edits" / ".edited-01.nii.gz.1-01234567.tmp")
    kept = [folder / "upload-notes.txt", folder / "everything.zip"]
    for path in (*left, *kept):
        path.write_text("x")
    with running(tmp_path):
        pass
    assert [path for path in left if path.exists()] == []
    assert all(path.exists() for path in kept)


def test_a_store_of_an_older_version_opens(tmp_path):
    """Its tables were made one by one; their names are all that tells it."""
    with sqlite3.connect(tmp_path / "x.sqlite3") as connection:
        connection.execute("CREATE TABLE cases (id TEXT PRIMARY KEY, document TEXT NOT NULL)")
        connection.execute("CREATE TABLE timings (model TEXT, voxels INTEGER, seconds REAL)")
        connection.execute("CREATE TABLE secrets (secret BLOB NOT NULL)")
        connection.execute("INSERT INTO secrets VALUES (?)", (b"s" * 32,))
    connection.close()
    assert Store(tmp_path / "x.sqlite3").secret == b"s" * 32
