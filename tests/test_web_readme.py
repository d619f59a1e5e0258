"""The API examples of docs/web.md, run as they stand there against a real server."""

from __future__ import annotations

import configparser
import contextlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra `web` is not installed")

from tests.web_server import httpx, running

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "web.md").read_text(encoding="utf-8")


def test_the_curl_examples_of_the_page_bring_back_a_mask(tmp_path, phantoms, tiny_model):
    if shutil.which("curl") is None or shutil.which("bash") is None:
        pytest.skip("curl or bash is not there")
    (example,) = re.findall(r"```bash\n(.*?)```", PAGE, re.S)
    folder = next(path for path in sorted(phantoms.iterdir()) if path.is_dir())
    function = "pipeline.web.compute.perform:job_process"
    with running(tmp_path / "w", job_function=function, models=(str(tiny_model),)) as server:
        script = example.replace("http://127.0.0.1:8000", server.url).replace("@PATIENT", f"@{folder / folder.name}")
        done = subprocess.run(["bash", "-ec", script], cwd=tmp_path, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert '"state": "done"' in done.stdout or '"state":"done"' in done.stdout
    with zipfile.ZipFile(tmp_path / "result.zip") as archive:
        assert f"{folder.name}_seg.nii.gz" in archive.namelist()


def serving(tmp_path, *options):
    import run_pipeline

    return run_pipeline.main(["serve", "--workspace", str(tmp_path / "w"), *options])


def test_a_port_that_is_taken_or_none_is_said_and_nothing_starts(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert serving(tmp_path, "--port", str(port)) == 2
    assert f"--port {port}: another program listens there" in capsys.readouterr().err
    for port in ("99999", "-1"):
        assert serving(tmp_path, "--port", port) == 2
        assert f"--port {port}: give a number from 1 to 65535" in capsys.readouterr().err


def test_an_address_of_another_machine_is_said(tmp_path, capsys):
    (tmp_path / "token").write_text("correct horse battery")
    options = ("--token-file", str(tmp_path / "token"), "--port", "0")
    for host in ("192.0.2.1", "no.such.name.invalid"):  # RFC 5737, RFC 6761
        assert serving(tmp_path, "--host", host, *options) == 2
        assert f"--host {host}: not an address of this machine" in capsys.readouterr().err


def test_systemd_starts_the_page_as_the_example_says(tmp_path):
    """The line of ExecStart, with the folders of this test; systemd stops a service with SIGTERM."""
    (unit,) = re.findall(r"```ini\n(.*?)```", PAGE, re.S)
    about = configparser.ConfigParser(strict=False, interpolation=None)
    about.optionxform = str
    about.read_string(unit)
    service = about["Service"]
    assert service["StateDirectory"] == "tumour" and service["NoNewPrivileges"] == "yes"
    (tmp_path / "token").write_text("correct horse battery")
    line = service["ExecStart"].replace("\\\n", " ")
    for old, new in (
        (f"{service['WorkingDirectory']}/.venv/bin/python", sys.executable), ("/etc/tumour.token", tmp_path / "token"),
        ("/var/lib/tumour", tmp_path / "state"),
    ):  # fmt: skip
        assert old in line
        line = line.replace(old, str(new))
    with subprocess.Popen([*shlex.split(line), "--port", "0"], cwd=ROOT, stderr=subprocess.PIPE, text=True) as server:
        watchdog = threading.Timer(120, server.kill)
        watchdog.start()
        said = next(text for text in server.stderr if "the page is at" in text)
        server.terminate()
        assert server.wait(60) in (0, 143, -signal.SIGTERM)
        watchdog.cancel()
    assert "https://scans.example.org;" in said and (tmp_path / "state").is_dir()


def test_open_shows_the_page_in_the_browser_of_this_machine(tmp_path, monkeypatch):
    from pipeline.web.app import serve
    from pipeline.web.settings import Settings

    seen = []

    def browse(address):
        seen.append((address, httpx.get(f"{address}healthz").status_code))
        signal.raise_signal(signal.SIGINT)
        return True

    monkeypatch.setattr("webbrowser.open", browse)
    # Imported by another test of this process, dask-jobqueue ends the process on SIGINT instead.
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        serve(Settings(workspace=tmp_path / "w", port=0, open=True, root_path="/tumour"))
    ((address, status),) = seen
    assert re.fullmatch(r"http://127\.0\.0\.1:[1-9][0-9]*/tumour/", address) and status == 200


def test_serve_says_where_the_page_is(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "run_pipeline.py", "serve", "--port", str(port), "--workspace", str(tmp_path / "w")]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as server:
        watchdog = threading.Timer(120, server.kill)
        watchdog.start()
        try:
            assert any(f"the page is at http://127.0.0.1:{port};" in line for line in server.stderr)
            assert httpx.get(f"http://127.0.0.1:{port}").status_code == 200
        finally:
            watchdog.cancel()
            server.terminate()
