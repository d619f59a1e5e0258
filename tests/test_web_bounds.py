"""What docs/web.md says of bounds: its numbers are the code's, and those of one session hold."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra `web` is not installed")

from pipeline.web import context, guesses, jobs, protocol, security, sessions
from pipeline.web.intake import files as intake
from pipeline.web.intake import uploads
from pipeline.web.settings import Settings
from pipeline.web.visits import marked
from tests.web_server import running, wait_for

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "web.md").read_text(encoding="utf-8")
UNITS = {"m": 2**20, "MB": 10**6, "MiB": 2**20}
"""Of nginx (core module, client_max_body_size: k and m are binary) and of Caddy (go-humanize: MB is decimal)."""


def test_the_table_of_bounds_tells_the_numbers_of_the_code():
    told = {
        row[0]: [int(number) for number in re.findall(r"[0-9]+", row[1])]
        for row in re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", PAGE.partition("| what | bound |")[2], re.M)
    }
    assert told == {
        "connections": [protocol.MAX_CONNECTIONS, 503],
        "head of a request": [protocol.HEADER_SECONDS, security.MAX_HEADER_BYTES / 2**10, security.MAX_HEADER_LINES],
        "body of a request that is no upload": [security.BODY_SECONDS, security.MAX_JSON_BYTES / 2**10],
        "rest of a body that was answered already": [protocol.REST_SECONDS],
        "an upload, DICOM too": [uploads.MAX_FILES, intake.MAX_FOLDERS, uploads.SLOWEST_BYTES_A_SECOND / 2**10],
        "unpacking and recognising it": [jobs.CHECK_SECONDS, jobs._CHECK_MEMORY_BYTES / 2**30],
        "an answer that is not read": [protocol.UNREAD_SECONDS],
        "requests at once": [security.MAX_REQUESTS],
        "uploads at once": [context.MAX_UPLOADS],
        "event streams": [context.MAX_LISTENERS, context.ALL_LISTENERS],
        "visits of a follow-up": [2, marked.MOST_VISITS],
        "cases": [context.MAX_CASES],
        "sessions": [sessions.MAX_SESSIONS],
    }
    assert uploads.STALLED_S == 60 and "a minute of silence" in PAGE
    assert Settings(Path()).session_hours == 168 and "(168: a week)" in PAGE
    assert f"A line has {guesses.LINE_TRIES} tries and gets one back every {guesses.LINE_SECONDS:g} seconds" in PAGE
    assert f"share {guesses.ALL_TRIES} more, one back a second" in PAGE and guesses.ALL_SECONDS == 1


@pytest.mark.parametrize("setting", ["client_max_body_size", "max_size"])
def test_each_proxys_limit_is_above_that_of_the_app(setting):
    """Else an upload that the app takes ends with an error of the proxy."""
    number, unit = re.search(rf"{setting} ([0-9]+)([A-Za-z]+)", PAGE).groups()
    assert int(number) * UNITS[unit] > Settings(Path()).max_upload_bytes


def form(name):
    yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="' + name + b'_t1.nii"\r\n\r\nx\r\n'
    yield b"--x--\r\n"


FORM = {"content-type": "multipart/form-data; boundary=x"}


def test_one_session_has_200_cases_and_not_one_more(tmp_path, monkeypatch):
    monkeypatch.setattr(context, "MAX_CASES", 2)
    with running(tmp_path / "w") as server, server.client() as client, server.client() as other:
        client.get("/")
        first = client.post("/api/gallery/glioma")
        assert first.status_code == client.post("/api/cases", content=form(b"a"), headers=FORM).status_code == 201
        for path in ("/api/cases", "/api/gallery/glioma"):
            refused = client.post(path, content=form(b"b"), headers=FORM)
            assert refused.status_code == 429 and "this session has 2 cases; remove some" in refused.json()["error"]
        assert (
            other.post("/api/cases", content=form(b"c"), headers=FORM).status_code == 201
        )  # another session has its own
        client.delete(f"/api/cases/{first.json()['id']}")
        assert client.post("/api/cases", content=form(b"b"), headers=FORM).status_code == 201


def test_uploads_that_come_at_once_make_no_case_too_many(tmp_path, monkeypatch):
    monkeypatch.setattr(context, "MAX_CASES", 2)
    together = threading.Barrier(4)

    def waiting(name):
        yield next(parts := form(name))
        together.wait(20)  # all of them were let in before any is whole
        yield from parts

    with running(tmp_path / "w") as server, server.client() as client, ThreadPoolExecutor(4) as pool:
        client.get("/")

        def send(name):
            with server.client(cookies=dict(client.cookies)) as one:
                return one.post("/api/cases", content=waiting(name), headers=FORM).status_code

        assert sorted(pool.map(send, (b"a", b"b", b"c", b"d"))) == [201, 201, 429, 429]
        assert len(client.get("/api/cases").json()) == 2
        assert len(list(server.workspace_cases.iterdir())) == 2  # nothing is left of the others


def test_all_sessions_together_have_400_event_streams(tmp_path):
    with running(tmp_path / "w") as server, server.client() as client:
        client.get("/")
        case = client.post("/api/cases", content=form(b"a"), headers=FORM).json()
        wait_for(client, case["id"], "ready")
        listeners = server.app.state.context.listeners
        for others, status in ((400, 503), (399, 200)):
            listeners["others"] = others
            with client.stream("GET", f"/api/cases/{case['id']}/events") as stream:
                assert stream.status_code == status


def test_an_upload_of_too_many_files_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "MAX_FILES", 3)
    with running(tmp_path / "w") as server, server.client() as client:
        names = [("files", (f"{number}_t1.nii", b"x")) for number in range(4)]
        refused = client.post("/api/cases", files=names)
        assert refused.status_code == 422 and "more than 3 files" in refused.json()["error"]
        assert list(server.workspace_cases.iterdir()) == []
