"""Who may ask the web app, what it never tells, and what every answer carries."""

from __future__ import annotations

import dataclasses
import re
import secrets
import socket
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra `web` is not installed")

from data.errors import UsageError
from pipeline.web.app import create_app, niivue_file
from pipeline.web.security import CONTENT_POLICY, HEADERS, host_allowed, origin_allowed
from pipeline.web.settings import Settings, check_settings, is_loopback
from tests.web_server import run, running, upload

TOKEN = "correct horse battery"


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    from data.phantom.patient import write_phantom

    return write_phantom(tmp_path_factory.mktemp("web"), 1, shape=(20, 24, 16), spacing_mm=(10.0, 10.0, 10.0))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("workspace"), max_upload_mb=4) as server:
        yield server


@pytest.fixture(scope="module")
def owned(server, patient):
    """A finished case, and the client of its session."""
    with server.client() as client:
        yield run(client, patient, "quick", "done"), client


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    with running(tmp_path_factory.mktemp("locked"), token=TOKEN) as server:
        yield server


# Where it listens


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.org", ""])
def test_it_refuses_to_start_for_others_without_a_token(tmp_path, host):
    with pytest.raises(UsageError, match="--token-file"):
        create_app(Settings(workspace=tmp_path, host=host))
    check_settings(Settings(workspace=tmp_path, host=host, token=TOKEN))


def test_loopback_is_127_and_its_kin():
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost")))


def test_a_token_that_can_be_guessed_is_refused(tmp_path):
    with pytest.raises(UsageError, match="15 characters"):
        check_settings(Settings(workspace=tmp_path, token="x" * 15))


# Host and Origin


@pytest.mark.parametrize("host", ["127.0.0.1:9", "localhost", "LOCALHOST:8000", "[::1]:8000", "192.168.1.7:8000"])
def test_addresses_and_localhost_are_good_hosts(tmp_path, host):
    assert host_allowed(host, Settings(workspace=tmp_path))


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8000", "", "127.0.0.1@evil.example", "a b",
     "127.0.0.1:8000; evil.example", "localhost:99999999", "[::1", "0x7f.1"],
)  # fmt: skip
def test_a_name_that_was_made_to_point_here_is_refused(tmp_path, host):
    assert not host_allowed(host, Settings(workspace=tmp_path))


def test_a_rebound_page_gets_nothing(server):
    with server.client() as client:
        for path in ("/", "/api/cases", "/static/niivue.umd.js", "/healthz"):
            reply = client.get(path, headers={"host": f"evil.example:{server.port}"})
            assert reply.status_code == 421 and "set-cookie" not in reply.headers


def test_a_name_that_serve_was_told_is_a_good_host(tmp_path, monkeypatch):
    """The way that the refusal names: --allowed-host."""
    import run_pipeline

    seen = []
    monkeypatch.setattr("pipeline.web.app.serve", seen.append)
    names = ["--allowed-host", "scans.example", "b.example"]
    assert run_pipeline.main(["serve", "--workspace", str(tmp_path), *names, "--port", "1"]) == 0
    (settings,) = seen
    assert settings.allowed_hosts == ("scans.example", "b.example")
    assert host_allowed("Scans.example:8000", settings) and not host_allowed("evil.example", settings)
    with running(tmp_path, allowed_hosts=("scans.example",)) as server, server.client() as client:
        assert client.get("/healthz", headers={"host": "scans.example"}).status_code == 200
        refused = client.get("/healthz", headers={"host": "other.example"})
        assert refused.status_code == 421 and "--allowed-host" in refused.json()["error"]


def test_a_request_without_a_host_or_with_two_is_refused(server):
    for heads in (b"", b"Host: 127.0.0.1\r\nHost: evil.example\r\n"):
        with socket.create_connection(("127.0.0.1", server.port), 5) as connection:
            connection.sendall(b"GET /api/cases HTTP/1.0\r\n" + heads + b"\r\n")
            assert re.match(rb"HTTP/1.1 4(00|21) ", connection.recv(200))


@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE", "PUT", "GET"])
@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost"])
def test_another_sites_page_is_refused(server, owned, method, origin):
    case, client = owned
    paths = {"POST": "/api/cases", "GET": f"/api/cases/{case['id']}"}
    reply = client.request(method, paths.get(method, f"/api/cases/{case['id']}"), headers={"origin": origin})
    assert reply.status_code == 403 and "another site" in reply.json()["error"]


def test_our_own_page_is_not_refused(server, owned):
    case, client = owned
    own = {"origin": server.url, "sec-fetch-site": "same-origin"}
    assert client.patch(f"/api/cases/{case['id']}", json={"name": "new"}, headers=own).status_code == 200
    assert not origin_allowed(None, "cross-site", "http", "127.0.0.1") and origin_allowed(None, None, "http", "x")
    cross = client.post("/api/gallery/glioma", headers={"sec-fetch-site": "cross-site"})
    assert cross.status_code == 403


# Sessions


def test_the_cookie_is_hidden_from_scripts_and_other_sites(server):
    with server.client() as client:
        header = client.get("/healthz").headers.get("set-cookie", "")
        assert header == ""
        header = client.post("/api/gallery/none").headers.get("set-cookie", "")
        assert header == ""  # a refusal makes no session
        header = client.post("/api/cases", files=[("files", ("x_t1.nii", b"x"))]).headers["set-cookie"]
    assert re.fullmatch(
        r"brain_session_[0-9a-f]{8}=[0-9a-f]{32}\.[0-9a-f]{64}; Path=/; HttpOnly; SameSite=Strict", header
    )


def test_one_session_never_reads_anothers_case_in_a_thousand_tries(server, owned, patient):
    case, owner = owned
    known = case["id"]
    own_paths = [file["url"].partition(known)[2] for file in case["result"]["files"]]
    own_paths += ["/files/view/t1.nii.gz", "/files/view/mask.nii.gz", "", "/events"]
    absent = None
    with server.client() as stranger:
        assert upload(stranger, patient)["state"] == "ready"  # with a session of its own
        for number in range(1000):
            flipped = f"{int(known, 16) ^ (1 << number % 128):032x}"
            guess = (secrets.token_hex(16), flipped, known)[number % 3]
            reply = stranger.get(f"/api/cases/{guess}{own_paths[number // 3 % len(own_paths)]}")
            assert reply.status_code == 404
            seen = (reply.json(), sorted(set(reply.headers) - {"date"}), reply.headers["content-length"])
            absent = absent or seen
            assert seen == absent  # the same answer, whether the case exists or not
        name = server.app.state.context.sessions.cookie
        for forged in ("", f"{name}={known}", f"{name}={'0' * 32}.{'0' * 64}"):
            assert stranger.get(f"/api/cases/{known}", headers={"cookie": forged}).status_code == 404
    assert owner.get(f"/api/cases/{known}").status_code == 200


def test_another_session_can_change_nothing_either(server, owned):
    case, owner = owned
    base = f"/api/cases/{case['id']}"
    with server.client() as stranger:
        replies = [
            stranger.patch(base, json={"name": "mine"}), stranger.post(f"{base}/run"), stranger.post(f"{base}/cancel"),
            stranger.post(f"{base}/edits", content=b"x"), stranger.delete(base),
        ]  # fmt: skip
        assert {reply.status_code for reply in replies} == {404}
        assert stranger.get("/api/cases").json() == []
    assert owner.get(base).json()["state"] == "done"


def test_ids_are_128_random_bits(owned):
    assert re.fullmatch("[0-9a-f]{32}", owned[0]["id"])


# The token


def test_without_the_token_there_is_nothing_but_the_way_in(locked):
    with locked.client() as client:
        for path in ("/api/cases", "/api/models", "/api/gallery", "/api/openapi.json", "/api/cases/x/files/y"):
            reply = client.get(path)
            assert reply.status_code == 401 and "token" in reply.json()["error"]
        assert client.post("/api/cases", files=[("files", ("x_t1.nii", b"x"))]).status_code == 401
        assert (client.get("/").status_code, client.get("/").headers["location"]) == (303, "login")
        assert client.get("/healthz").status_code == 200
        assert client.get("/static/niivue.umd.js").status_code == 200


def test_the_token_opens_by_form_and_by_header(locked):
    with locked.client() as client:
        wrong = client.post("/login", data={"token": "wrong horse battery"})
        assert (wrong.status_code, wrong.headers["location"]) == (303, "login?wrong") and not client.cookies
        assert client.get("/api/cases", headers={"authorization": "Bearer wrong horse battery"}).status_code == 401
        right = client.post("/login", data={"token": TOKEN})
        assert (right.status_code, right.headers["location"]) == (303, "./")
        assert client.get("/api/cases").json() == []
    with locked.client(headers={"authorization": f"Bearer {TOKEN}"}) as program:
        reply = program.post("/api/cases", files=[("files", ("x_t1.nii", b"x"))])
        assert reply.status_code == 201
        assert program.get(f"/api/cases/{reply.json()['id']}").status_code == 200  # by the cookie that came with it


# What every answer carries


def test_every_answer_carries_the_headers(server, owned, monkeypatch):
    case, client = owned
    (server.app.state.context.models).append(object())  # what cannot be JSON: the route fails
    requests = {
        200: client.get("/api/cases"), 404: client.get("/api/cases/x"), 405: client.put("/api/cases"),
        500: client.get("/api/models"), 403: client.get("/api/cases", headers={"origin": "null"}),
        421: client.get("/api/cases", headers={"host": "evil.example"}), 422: client.post("/api/cases", content=b"x"),
        413: client.post("/api/cases", content=b"x" * (5 * 2**20)),
        201: client.post("/api/cases", files=[("files", ("x_t1.nii", b"x"))]),
    }  # fmt: skip
    server.app.state.context.models.pop()
    for status, reply in requests.items():
        assert reply.status_code == status
        for name, value in HEADERS:
            assert reply.headers[name.decode()] == value.decode(), status
        assert reply.headers["cache-control"] == "no-store"
        assert "server" not in reply.headers
        assert status < 400 or set(reply.json()) == {"error"}
    assert "Error" not in requests[500].text and "/" not in requests[500].json()["error"]


def test_the_policy_lets_nothing_in_from_elsewhere():
    rules = dict(rule.split(" ", 1) for rule in CONTENT_POLICY.split("; "))
    assert rules["default-src"] == "'self'" and rules["frame-ancestors"] == rules["object-src"] == "'none'"
    assert rules["script-src"] == "'self' 'wasm-unsafe-eval'"
    assert not re.search(r"unsafe-inline|'unsafe-eval'|https?:|\*", CONTENT_POLICY)
    assert dict(HEADERS)[b"x-content-type-options"] == b"nosniff"
    assert dict(HEADERS)[b"referrer-policy"] == b"same-origin"


def test_a_file_is_read_in_parts_looked_at_by_its_head_and_not_sent_twice(owned):
    case, client = owned
    url = case["result"]["files"][0]["url"]
    whole = client.get(url)
    part = client.get(url, headers={"range": "bytes=2-5"})
    assert (part.status_code, part.content) == (206, whole.content[2:6])
    assert part.headers["content-range"] == f"bytes 2-5/{len(whole.content)}"
    assert client.get(url, headers={"range": f"bytes={len(whole.content)}-"}).status_code == 416
    head = client.head(url)
    assert (head.status_code, head.content) == (200, b"")
    assert all(head.headers[name] == whole.headers[name] for name in ("etag", "content-length", "cache-control"))
    again = client.get(url, headers={"if-none-match": whole.headers["etag"]})
    assert (again.status_code, again.content, again.headers["cache-control"]) == (304, b"", "no-store")
    for name, value in HEADERS:
        assert (
            part.headers[name.decode()] == head.headers[name.decode()] == again.headers[name.decode()] == value.decode()
        )


@pytest.mark.parametrize("path", ["/", "/login", "/healthz", "/static/page.css", "/api/cases", "/api/cases/none"])
def test_the_head_of_an_address_is_that_of_its_answer_without_the_body(owned, path):
    _, client = owned
    head, answer = client.head(path), client.get(path)
    assert (head.status_code, head.content) == (answer.status_code, b"")
    assert head.headers["content-length"] == str(len(answer.content))


def test_a_head_opens_no_more_than_its_answer_and_follows_no_case(owned, locked, server):
    case, client = owned
    assert client.head(f"/api/cases/{case['id']}/events").status_code == 405
    url = case["result"]["files"][0]["url"]
    with server.client() as other, locked.client() as stranger:
        assert other.head(url).status_code == 404
        assert stranger.head(url).status_code == 401
        assert other.head("/api/cases", headers={"origin": "https://evil.example"}).status_code == 403


def test_downloads_are_attachments_that_no_browser_opens(owned):
    case, client = owned
    for file in case["result"]["files"]:
        reply = client.get(file["url"])
        assert reply.headers["content-disposition"].startswith("attachment; filename")
        assert reply.headers["content-type"] in ("application/gzip", "application/octet-stream")
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert (reply.headers["cache-control"], len(reply.content)) == ("no-store", file["bytes"])


@pytest.mark.parametrize(
    "name",
    ["../../../etc/passwd", "..%2f..%2fweb.sqlite3", "%2e%2e/web.sqlite3", "files/f0001.nii.gz", "output/report.csv",
     "view/../../files/f0001.nii.gz", "/etc/passwd", "view/", "view/nothing.nii.gz", "", ".", "report.csv%00",
     "x" * 5000,
     "output/.state/quick.json", "incoming"],
)  # fmt: skip
def test_only_files_of_the_result_can_be_asked_for(owned, name):
    case, client = owned
    assert client.get(f"/api/cases/{case['id']}/files/{name}").status_code in (404, 400)


@pytest.mark.parametrize("path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static/"])
def test_static_files_are_those_of_their_folder_alone(server, path):
    with socket.create_connection(("127.0.0.1", server.port), 5) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        assert b" 404 " in connection.recv(100)


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[]", b'{"model": "x"}', b"a=1"])
def test_a_request_to_run_that_cannot_be_read_costs_no_result(owned, body):
    case, client = owned
    at = f"/api/cases/{case['id']}"
    reply = client.post(f"{at}/run", content=body, headers={"content-type": "application/json"})
    assert reply.status_code in (400, 422) and reply.json()["error"]
    after = client.get(at).json()
    assert (after["state"], after["result"]) == ("done", case["result"])


def test_a_request_that_is_no_upload_is_small(owned):
    case, client = owned
    reply = client.patch(f"/api/cases/{case['id']}", json={"name": "x" * 70_000})
    assert reply.status_code == 413 and "65536 bytes" in reply.json()["error"]


def test_half_a_character_in_a_name_breaks_nothing(owned):
    case, client = owned
    for body in (
        b'{"name": "\\ud800"}',
        b'{"name": " <img>\\u0000\\n "}',
        b'{"roles": {"\\ud800": "t1"}}',
        b'{"\\ud800": 1}',
        b"{",
        b"[]",
    ):
        reply = client.patch(f"/api/cases/{case['id']}", content=body, headers={"content-type": "application/json"})
        assert reply.status_code in (200, 409, 422), reply.text
    assert client.get(f"/api/cases/{case['id']}").json()["name"] == "<img>__"


def test_the_workspace_is_its_owners_alone(tmp_path):
    workspace = tmp_path / "deep" / "workspace"
    with running(workspace) as server, server.client() as client:
        assert client.post("/api/cases", files=[("files", ("x_t1.nii", b"x"))]).status_code == 201
        made = [workspace, workspace / "cases", *(workspace / "cases").iterdir(), *workspace.glob("web.sqlite3*")]
        assert len(made) >= 4
        assert {oct(path.stat().st_mode & 0o077) for path in made} == {"0o0"}


def test_niivue_comes_from_nilearns_wheel_in_the_version_that_was_tested(server):
    text = niivue_file().read_text(encoding="utf-8")
    assert "0.68.1" in text
    with server.client() as client:
        reply = client.get("/static/niivue.umd.js")
    assert reply.text == text and "javascript" in reply.headers["content-type"]


def test_no_documentation_page_loads_anything_from_elsewhere(server):
    with server.client() as client:
        assert {client.get(path).status_code for path in ("/docs", "/redoc", "/api/docs")} == {404}
        described = client.get("/api/openapi.json").json()
    operations = [item for path in described["paths"].values() for item in path.values()]
    assert len(operations) > 12 and all(item["summary"] for item in operations)


def test_settings_are_checked(tmp_path):
    good = Settings(workspace=tmp_path)
    for changes, text in (({"data": tmp_path / "no"}, "not a folder"), ({"keep_hours": 0.0}, "above 0")):
        with pytest.raises(UsageError, match=text):
            check_settings(dataclasses.replace(good, **changes))


def test_the_pages_name_no_address_from_the_root_so_that_a_proxy_may_put_them_behind_a_path() -> None:
    web = Path(__file__).resolve().parent.parent / "pipeline/web"
    pages = [*(web / "templates").glob("*.html"), *(web / "static").glob("*.js")]
    absolute = re.compile(r"""(?:src|href|action)="/|["'`]/(?:api|static|login)\b""")
    assert len(pages) > 10
    assert [page.name for page in pages if absolute.search(page.read_text())] == []
