"""A server with a tiny model, a phantom patient, and Chromium without a graphics card.

What every test asserts without asking for it, when its pages close: nothing was asked of another machine, the console
holds no error, and the content policy was never broken.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from data.find.discover import discover_cases
from data.phantom.patient import write_phantom
from tests.conftest import make_model

pytest.importorskip("fastapi", reason="the web tests need the extra `web`: pip install '.[web]'")
pytest.importorskip("uvicorn", reason="the web tests need the extra `web`: pip install '.[web]'")
httpx = pytest.importorskip("httpx", reason="the web tests need httpx: pip install httpx")
sync_api = pytest.importorskip("playwright.sync_api", reason="the web tests need Playwright: pip install playwright")

ROOT = Path(__file__).resolve().parents[2]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
]
SLOW_MS = 600_000
"""A software renderer on a busy machine: long enough never to be the reason for a failure."""
SHAPE, SPACING_MM = (80, 80, 52), (3.0, 3.0, 3.0)
_SERVE = """
import json, sys
from pathlib import Path
from pipeline.web.app import Settings, serve
if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    workspace, data = Path(given["workspace"]), Path(given["data"])
    serve(Settings(workspace=workspace, models=(given["model"],), data=data, port=given["port"]))
"""


def find_chromium() -> str | None:
    """``CHROMIUM``, or a browser where Debian and others put it."""
    given = os.environ.get("CHROMIUM")
    names = [given] if given else ["chromium", "chromium-browser", "google-chrome", "/usr/lib/chromium/chromium"]
    return next((path for path in map(shutil.which, names) if path), None)


@dataclass
class Watched:
    """A page and what went wrong in it. Console errors that hold one of ``expected`` are a part of the test."""

    page: Any
    problems: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def patient_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four images and the reference of a phantom patient."""
    folder = write_phantom(tmp_path_factory.mktemp("patients"), 1, shape=SHAPE, spacing_mm=SPACING_MM)
    return sorted(folder.glob("*.nii.gz"))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, patient_files: list[Path]) -> Iterator[str]:
    """Address of a server with the model ``tiny`` and one earlier result."""
    from pipeline.options import SegmentOptions
    from pipeline.segment.run import segment_cases

    folder = tmp_path_factory.mktemp("server")
    model = make_model(folder / "tiny.safetensors", missing_modalities=True)
    earlier = folder / "earlier"
    segment_cases(discover_cases(patient_files[0].parents[1]), earlier, SegmentOptions(models=(str(model),)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = folder / "serve.py"
    script.write_text(_SERVE)
    told = {"workspace": str(folder / "workspace"), "model": str(model), "data": str(earlier), "port": port}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(script), json.dumps(told)],
            env={**os.environ, "PYTHONPATH": path},
            stdout=log,
            stderr=log,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(lambda: httpx.get(f"{address}/healthz").status_code == 200, process, folder / "server.log")
        yield address
    finally:
        process.terminate()
        process.wait(timeout=60)


def _wait_for(is_ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, f"the server ended: {log.read_text()[-2000:]}"
        try:
            if is_ready():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"the server does not answer: {log.read_text()[-2000:]}")


@dataclass(frozen=True)
class Done:
    """A finished case: its JSON, and the cookies of the session that it belongs to."""

    case: dict[str, Any]
    client: Any
    cookies: list[dict[str, str]]

    def bytes_of(self, url: str) -> bytes:
        """One of the case's files."""
        return bytes(self.client.get(url).raise_for_status().content)


@pytest.fixture(scope="session")
def done(server: str, patient_files: list[Path]) -> Iterator[Done]:
    """The phantom patient with its reference, uploaded and segmented through the API."""
    with httpx.Client(base_url=server, timeout=120) as client:
        client.get("/")
        sent = [("files", (path.name, path.read_bytes())) for path in patient_files]
        case = client.post("/api/cases", files=sent).raise_for_status().json()
        client.post(f"/api/cases/{case['id']}/run", json={}).raise_for_status()
        until = time.monotonic() + SLOW_MS / 1000
        while case["state"] not in ("done", "failed"):
            assert time.monotonic() < until, case
            time.sleep(0.5)
            case = client.get(f"/api/cases/{case['id']}").json()
        assert case["state"] == "done", case["error"]
        yield Done(
            case, client, [{"name": name, "value": value, "url": server} for name, value in client.cookies.items()]
        )


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium with a software renderer."""
    path = find_chromium()
    if path is None:
        pytest.skip("no Chromium was found; install it (apt-get install chromium) or name it in CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def open_page(browser: Any, server: str) -> Iterator[Callable[..., Watched]]:
    """Opens pages of a new session each; ``cookies`` joins an older one."""
    opened: list[Watched] = []
    contexts = []

    def open_one(
        path: str = "/", *, width: int = 1440, height: int = 900, cookies: Any = (), dark: bool = False
    ) -> Watched:
        context = browser.new_context(
            base_url=server, viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
        )
        context.set_default_timeout(SLOW_MS)
        context.add_cookies(list(cookies))
        contexts.append(context)
        watched = Watched(context.new_page())
        _watch(watched, server)
        opened.append(watched)
        watched.page.goto(path)
        return watched

    yield open_one
    for context in contexts:
        context.close()
    assert [problem for watched in opened for problem in watched.problems] == []


def _watch(watched: Watched, server: str) -> None:
    page = watched.page

    def of_console(message: Any) -> None:
        if message.type == "error" and not any(part in message.text for part in watched.expected):
            watched.problems.append(f"console: {message.text}")

    def of_request(request: Any) -> None:
        if not request.url.startswith((server, "data:", "blob:")):
            watched.problems.append(f"asked of another machine: {request.url}")

    page.on("console", of_console)
    page.on("request", of_request)
    page.on("pageerror", lambda error: watched.problems.append(f"script: {error}"))
    page.expose_function("policyBroken", lambda what: watched.problems.append(f"policy: {what}"))
    page.add_init_script(
        "addEventListener('securitypolicyviolation', e => policyBroken(e.violatedDirective + ' ' + e.blockedURI))"
    )


@pytest.fixture
def viewer(open_page: Callable[..., Watched], done: Done) -> Any:
    """The finished case's page, with its pictures drawn."""
    page = open_page(f"/#/case/{done.case['id']}", cookies=done.cookies).page
    wait_for_viewer(page)
    return page


def wait_for_viewer(page: Any) -> None:
    """Until the pictures are there; a viewer that has given up fails."""
    page.wait_for_selector(".viewer[data-state]")
    assert page.get_attribute(".viewer", "data-state") == "ready", page.inner_text(".viewer")
