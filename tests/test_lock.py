"""One run at a time on an output folder, and no lock outlives its owner."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from data.errors import UsageError
from pipeline.execute.lock import output_lock, remove_stale_files, remove_temporary_files
from pipeline.execute.lock_owner import LOCK_NAME

ROOT = Path(__file__).resolve().parent.parent
HOLD = "import sys, time; from pathlib import Path; from pipeline.execute.lock import output_lock\n"
HOLD += "with output_lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
STALE = ".report.csv.4711-0123abcd.tmp"


def hold(folder: Path) -> subprocess.Popen:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    return holder


@pytest.fixture(params=["kernel", "by name"])
def way(request, monkeypatch) -> str:
    """Both ways to lock: the kernel's, and that of file systems that cannot."""
    if request.param == "by name":

        def refuse(descriptor: int, how: int) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr("pipeline.execute.lock.fcntl.flock", refuse)
    return request.param


def test_the_second_run_is_refused_at_once_with_the_owner_and_the_fix(tmp_path):
    holder = hold(tmp_path / "out")
    try:
        start = time.monotonic()
        with pytest.raises(UsageError) as caught, output_lock(tmp_path / "out"):
            pass
        assert time.monotonic() - start < 1
    finally:
        holder.kill()
        holder.wait()
    said = str(caught.value)
    assert str(tmp_path / "out") in said and "choose another --output" in said and "\n" not in said
    assert f"process {holder.pid} on {socket.gethostname()}, since 20" in said


def test_a_lock_ends_with_a_killed_owner(tmp_path):
    holder = hold(tmp_path)
    holder.kill()
    holder.wait()
    assert (tmp_path / LOCK_NAME).exists()
    with output_lock(tmp_path):
        assert json.loads((tmp_path / LOCK_NAME).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_of_a_lock_and_of_the_folders_it_made(tmp_path, way):
    with output_lock(tmp_path / "a" / "b"):
        pass
    assert list(tmp_path.iterdir()) == []
    with output_lock(tmp_path / "a"):
        (tmp_path / "a" / "result").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["result"]


def test_the_same_thread_enters_again_and_another_does_not(tmp_path, way):
    refused = []

    def enter() -> None:
        try:
            with output_lock(tmp_path):
                pass
        except UsageError as error:
            refused.append(error)

    with output_lock(tmp_path), output_lock(Path(os.path.relpath(tmp_path))):
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
    assert len(refused) == 1
    enter()
    assert len(refused) == 1


def test_a_forked_child_does_not_keep_the_lock_alive_after_its_parent(tmp_path):
    # Each line in one write: those of two processes must not come between each other.
    code = HOLD.replace("print('held', flush=True)", "import os; os.fork(); os.write(1, b'%d held\\n' % os.getpid())")
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    # Both have said so: a child that has not run yet has not closed anything either.
    alive = {int(holder.stdout.readline().split()[0]) for _ in range(2)}
    (child,) = alive - {holder.pid}
    try:
        holder.kill()
        holder.wait()
        with output_lock(tmp_path):
            os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_spawned_worker_does_not_keep_the_lock_alive_after_its_parent(tmp_path):
    with output_lock(tmp_path):
        worker = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(30,))
        worker.start()
    try:  # the lock was given back while the worker, which was made within, lives
        with output_lock(tmp_path):
            assert worker.is_alive()
    finally:
        worker.kill()
        worker.join()


@pytest.mark.parametrize("in_the_way", ["file", "folder", "link"])
def test_what_cannot_be_locked_says_that_it_cannot_be_written(tmp_path, in_the_way):
    target = tmp_path / "target"
    if in_the_way == "file":
        (tmp_path / "out").write_text("")
    else:
        (tmp_path / "out").mkdir()
        if in_the_way == "folder":
            (tmp_path / "out" / LOCK_NAME).mkdir()
        else:
            target.write_text("kept")
            (tmp_path / "out" / LOCK_NAME).symlink_to(target)
    with pytest.raises(UsageError, match="out: cannot be written to"), output_lock(tmp_path / "out"):
        pass
    assert in_the_way != "link" or target.read_text() == "kept"


@pytest.mark.parametrize("limit", [0, 20])
def test_where_there_is_no_space_for_a_lock_nothing_is_left_of_it(tmp_path, way, limit):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(UsageError, match="cannot be written to"), output_lock(tmp_path / "out"):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [path.name for path in tmp_path.rglob("*") if path.name != LOCK_NAME or path.stat().st_size]


# ---- where the kernel cannot lock ----


def owner(**said) -> str:
    whole = {"pid": os.getpid(), "host": socket.gethostname(), "since": "2026-01-01T00:00:00Z", "started": "1"} | said
    return json.dumps(whole)


@pytest.mark.parametrize("way", ["by name"], indirect=True)
@pytest.mark.parametrize(
    "said",
    [owner(pid=2**22 - 1), owner(started="1"), "", "{", '{"pid": "x"}', "[]"],
    ids=["no such process", "another process of that number", "empty", "half", "nonsense", "a list"],
)
def test_a_dead_owners_file_is_taken_away(tmp_path, way, said):
    file = tmp_path / f"{LOCK_NAME}.owner"
    file.write_text(said)
    os.utime(file, (0, 0))
    with output_lock(tmp_path):
        assert json.loads(file.read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("way", ["by name"], indirect=True)
def test_an_owner_elsewhere_is_taken_for_alive_and_the_file_is_named(tmp_path, way):
    (tmp_path / f"{LOCK_NAME}.owner").write_text(owner(host="far-away"))
    with pytest.raises(UsageError) as caught, output_lock(tmp_path):
        pass
    assert "far-away" in str(caught.value) and f"remove {tmp_path / LOCK_NAME}.owner" in str(caught.value)
    assert (tmp_path / f"{LOCK_NAME}.owner").exists()


@pytest.mark.parametrize("way", ["by name"], indirect=True)
def test_a_file_that_is_only_just_being_made_is_somebodys(tmp_path, way):
    (tmp_path / f"{LOCK_NAME}.owner").write_text("")
    with pytest.raises(UsageError, match="has not said who it is"), output_lock(tmp_path):
        pass


# ---- what killed writers leave ----


def test_temporary_files_go_but_for_those_of_a_run_at_work_below(tmp_path):
    for name in ("case", "other", "dead"):
        (tmp_path / name).mkdir()
        (tmp_path / name / STALE).touch()
        (tmp_path / name / "mask.nii.gz").touch()
    (tmp_path / "not-ours").mkdir()
    (tmp_path / "not-ours" / STALE).touch()
    (tmp_path / "link").symlink_to("not-ours")
    (tmp_path / "dead" / LOCK_NAME).write_text(owner(pid=2**22 - 1))
    holder = hold(tmp_path / "other")
    try:
        remove_temporary_files(tmp_path, ["case", "other", "dead", "link", "missing"])
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert sorted(path.parent.name for path in tmp_path.glob(f"*/{STALE}")) == ["link", "not-ours", "other"]
    assert len(list(tmp_path.glob("*/mask.nii.gz"))) == 3


def test_of_a_shared_folder_only_old_ones_go(tmp_path):
    for name in ("old", "new"):
        (tmp_path / f".{name}{STALE}").touch()
    os.utime(tmp_path / f".old{STALE}", (0, 0))
    remove_stale_files(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f".new{STALE}"]
    remove_stale_files(tmp_path / "not there")
