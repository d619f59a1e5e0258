"""A real server of the web app in a thread, for tests that speak HTTP to it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

uvicorn = pytest.importorskip("uvicorn", reason="the extra `web` is not installed")
httpx = pytest.importorskip("httpx", reason="the extra `web` is not installed")
pytest.importorskip("fastapi", reason="the extra `web` is not installed")
pytest.importorskip("python_multipart", reason="the extra `web` is not installed")

from pipeline.web.app import create_app, uvicorn_options  # noqa: E402
from pipeline.web.settings import Settings  # noqa: E402

FAULTS = "tests.web_faults:job"


class Server:
    """One running server: ``url``, ``app``, ``workspace``, and clients that are sessions of their own."""

    def __init__(self, settings: Settings, **functions: str) -> None:
        self.settings = settings
        self.app = create_app(settings, **functions)
        self.socket = socket.create_server((settings.host, 0))
        # asyncio sets it for sockets that it opens itself, as in `serve`; without it every answer takes 40 ms.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(self.app, **uvicorn_options() | {"timeout_graceful_shutdown": 1})
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)

    @property
    def workspace_cases(self) -> Path:
        """Where the folders of cases lie."""
        return self.settings.workspace / "cases"

    def start(self) -> Server:
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive()
            time.sleep(0.01)
        return self

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)
        self.socket.close()

    def client(self, **options: Any) -> Any:
        """A visitor with cookies of its own."""
        return httpx.Client(base_url=self.url, timeout=60, **options)


@contextmanager
def running(workspace: Path, *, job_function: str = FAULTS, **settings: Any) -> Iterator[Server]:
    server = Server(Settings(workspace=workspace, **settings), job_function=job_function).start()
    try:
        yield server
    finally:
        server.stop()


def files_of(folder: Path) -> list[tuple[str, tuple[str, bytes]]]:
    """A folder as the form fields of an upload."""
    return [("files", (path.name, path.read_bytes())) for path in sorted(folder.iterdir())]


def wait_for(client: Any, case_id: str, *states: str, seconds: float = 120) -> dict[str, Any]:
    """The case once it is in one of these states."""
    end = time.monotonic() + seconds
    while True:
        case = client.get(f"/api/cases/{case_id}").json()
        if case["state"] in states:
            return case
        assert time.monotonic() < end, case
        time.sleep(0.03)


def upload(client: Any, folder: Path, name: str = "") -> dict[str, Any]:
    """Upload a patient's folder and wait until it was looked at."""
    reply = client.post("/api/cases", files=files_of(folder), data={"name": name})
    assert reply.status_code == 201, reply.text
    return wait_for(client, reply.json()["id"], "ready", "failed")


def run(client: Any, folder: Path, name: str, *states: str, seconds: float = 120) -> dict[str, Any]:
    """Upload and run a patient; the case once it is in one of these states."""
    case = upload(client, folder, name)
    reply = client.post(f"/api/cases/{case['id']}/run")
    assert reply.status_code == 202, reply.text
    return wait_for(client, case["id"], *states, seconds=seconds)
