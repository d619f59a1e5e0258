"""The API examples of docs/web.md, run as they stand there against a real server."""

from __future__ import annotations

import re
import shutil
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
