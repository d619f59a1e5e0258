"""A run talks to nobody and writes nowhere but its output folder: Python's own audit events, of every process of the
run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

ROOT = Path(__file__).resolve().parent.parent
# Python imports a module of this name at the start of every process, so the workers are watched as well.
WATCH = """
import json, os, sys
LOG = os.open(os.environ["WATCH_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
PATHS = {"os.mkdir": 1, "os.rename": 2, "os.remove": 1, "os.rmdir": 1, "os.symlink": 2, "os.link": 2, "os.truncate": 1}

def note(kind, value):
    text = value.decode() if isinstance(value, bytes) else os.fspath(value)
    os.write(LOG, (json.dumps([kind, text]) + "\\n").encode())

def watch(event, details):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.bind"):
        # A path is a socket between processes of this machine; urllib3 binds to ::1 to see if it can.
        address = details[1]
        if isinstance(address, tuple) and (event, address[0]) != ("socket.bind", "::1"):
            note("socket", f"{event} {address[0]}")
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "urllib.Request"):
        note("socket", f"{event} {details[0]}")
    elif event in ("subprocess.Popen", "os.system", "os.posix_spawn", "os.exec"):
        note("program", str(details[0]))
    elif event == "open" and isinstance(details[0], (str, bytes)):
        if details[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            note("write", details[0])
    elif event in PATHS:
        for path in details[: PATHS[event]]:
            if isinstance(path, (str, bytes)):
                note("write", os.path.abspath(path))

sys.addaudithook(watch)
"""


def watched(folder: Path, code: str, *arguments: str) -> list[tuple[str, str]]:
    """What a program did, as (kind, what): sockets, programs started, paths written."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(WATCH)
    (folder / "tmp").mkdir(exist_ok=True)
    log = folder / "log"
    environment = {
        **os.environ,
        "PYTHONPATH": f"{folder}:{ROOT}",
        "WATCH_LOG": str(log),
        "TMPDIR": str(folder / "tmp"),
        "MPLCONFIGDIR": matplotlib.get_cachedir(),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [(kind, what) for kind, what in map(json.loads, log.read_text().splitlines())] if log.exists() else []


@pytest.fixture(scope="module")
def a_run(tmp_path_factory, phantoms, tiny_model) -> tuple[Path, list[tuple[str, str]]]:
    """inspect, segment in a worker process, evaluate: the output folder, and what was seen."""
    folder = tmp_path_factory.mktemp("offline")
    code = (
        "import sys, run_pipeline as r\n"
        "patients, model, out = sys.argv[1:]\n"
        "assert r.main(['inspect', patients, '--full']) == 0\n"
        "assert r.main(['segment', patients, '--output', out + '/masks', '--model', model,"
        " '--executor', 'processes:1', '--threads', '1', '--quiet']) == 0\n"
        "assert r.main(['evaluate', out + '/masks', patients, '--output', out + '/scores', '--quiet']) == 0\n"
    )
    out = folder / "out"
    seen = watched(
        folder / "watch", f"if __name__ == '__main__':\n    exec({code!r})", str(phantoms), str(tiny_model), str(out)
    )
    return folder, seen


def test_inspect_segment_and_evaluate_open_no_socket_and_look_up_no_name(a_run):
    _, seen = a_run
    assert [what for kind, what in seen if kind == "socket"] == []


def test_a_run_starts_no_program_but_those_that_tell_matplotlib_the_fonts_and_run_json_the_machine(a_run):
    _, seen = a_run
    programs = {Path(what).name for kind, what in seen if kind == "program"}
    assert programs <= {"fc-list", "uname", "lsb_release", Path(sys.executable).name}


def test_a_run_writes_nowhere_but_into_its_output_folder_and_folders_for_temporary_files_and_fonts(a_run):
    folder, seen = a_run
    written = {Path(what) for kind, what in seen if kind == "write"} - {Path(os.devnull)}
    allowed = (folder / "out", folder / "watch", Path(matplotlib.get_cachedir()), Path("/dev/shm"))
    assert any(path.is_relative_to(folder / "out") for path in written)
    assert [path for path in written if not any(path.is_relative_to(root) for root in allowed)] == []


def test_the_watch_would_see_a_socket_a_look_up_a_program_and_a_file_also_in_a_worker(tmp_path):
    code = (
        "import socket, subprocess, sys, multiprocessing as m\n"
        "def speak(): socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))\n"
        "def child(path): speak(); open(path, 'w').close()\n"
        "speak(); subprocess.run(['true'])\n"
        "try: socket.getaddrinfo('localhost.invalid', 80)\n"
        "except OSError: pass\n"
        "worker = m.get_context('fork').Process(target=child, args=(sys.argv[1],)); worker.start(); worker.join()\n"
    )
    seen = watched(tmp_path / "watch", code, str(tmp_path / "elsewhere"))
    assert seen.count(("socket", "socket.sendto 127.0.0.1")) == 2
    assert ("socket", "socket.getaddrinfo localhost.invalid") in seen
    assert ("program", "true") in seen and ("write", str(tmp_path / "elsewhere")) in seen
