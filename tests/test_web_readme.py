"""The API examples of README, run as they stand there against a real server."""

from __future__ import annotations

import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra `web` is not installed")

from tests.web_server import running

README = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_curl_examples_of_the_readme_bring_back_a_mask(tmp_path, phantoms, tiny_model):
    if shutil.which("curl") is None or shutil.which("bash") is None:
        pytest.skip("curl or bash is not there")
    (example,) = re.findall(r"```bash\n(.*?)```", README, re.S)
    folder = next(path for path in sorted(phantoms.iterdir()) if path.is_dir())
    function = "pipeline.web.perform:job_process"
    with running(tmp_path / "w", job_function=function, models=(str(tiny_model),)) as server:
        script = example.replace("http://127.0.0.1:8000", server.url).replace("@PATIENT", f"@{folder / folder.name}")
        done = subprocess.run(["bash", "-ec", script], cwd=tmp_path, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert '"state": "done"' in done.stdout or '"state":"done"' in done.stdout
    with zipfile.ZipFile(tmp_path / "result.zip") as archive:
        assert f"{folder.name}_seg.nii.gz" in archive.namelist()
