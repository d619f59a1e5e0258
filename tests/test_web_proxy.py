"""The web app behind a proxy that ends TLS, as docs/web.md advises, and behind a path.

The proxy is a small one, with a certificate made for the test, and nginx with the examples of the page.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra `web` is not installed")
pytest.importorskip("httpx", reason="the extra `web` is not installed")

import httpx

from data.errors import UsageError
from pipeline.web.app import create_app
from pipeline.web.security import host_allowed
from pipeline.web.settings import Settings, check_settings
from tests.web_server import files_of, running, upload

TOKEN = "correct horse battery"
NAME = "scans.example.org"
DOCS = Path(__file__).resolve().parent.parent / "docs" / "web.md"
VISITOR = "198.51.100.7"


class Proxy:
    """Ends TLS on ``port`` and passes on to ``target``, with the visitor's address in the head of each request."""

    def __init__(self, certificate: Path) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate, certificate.with_name("key.pem"))
        self.target, self.address = 0, VISITOR
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        start = asyncio.start_server(self.serve, "127.0.0.1", 0, ssl=self.context)
        self.server = asyncio.run_coroutine_threadsafe(start, self.loop).result(10)
        self.port = self.server.sockets[0].getsockname()[1]

    async def serve(self, visitor: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            line, _, rest = (await visitor.readuntil(b"\r\n\r\n")).partition(b"\r\n")
            back, server = await asyncio.open_connection("127.0.0.1", self.target)
            # One request a connection, so that each has the line; the last one counts, as of nginx and Caddy.
            own = f"X-Forwarded-For: {self.address}\r\nConnection: close\r\n\r\n".encode()
            server.write(line + b"\r\n" + rest.removesuffix(b"\r\n") + own)
            sending = asyncio.ensure_future(self.pass_on(visitor, server))
            await self.pass_on(back, answer)
            sending.cancel()
            server.close()
        answer.close()

    async def pass_on(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while piece := await source.read(65536):
            target.write(piece)
            await target.drain()


class _ToProxy(httpx.HTTPTransport):
    """What a resolver does: the name leads to the proxy of the test."""

    def handle_request(self, request):
        at, extensions = request.url.copy_with(host="127.0.0.1"), request.extensions | {"sni_hostname": NAME}
        there = httpx.Request(request.method, at, headers=request.headers, stream=request.stream, extensions=extensions)
        return super().handle_request(there)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate of the proxy, is not there")
    path = tmp_path_factory.mktemp("tls") / "proxy.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={NAME}",
         "-addext", f"subjectAltName=DNS:{NAME}", "-keyout", path.with_name("key.pem"), "-out", path],
        check=True, capture_output=True,
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def behind(tmp_path_factory, certificate):
    """A server, and the proxy before it."""
    proxy = Proxy(certificate)
    url = f"https://{NAME}:{proxy.port}"
    with running(tmp_path_factory.mktemp("w") / "w", token=TOKEN, public_url=url) as server:
        proxy.target = server.port
        yield server, proxy


@pytest.fixture
def browser(behind, certificate):
    """As a browser: its own Origin, the cookies of TLS over TLS alone."""
    _, proxy = behind
    trusting = ssl.create_default_context(cafile=str(certificate))
    url = f"https://{NAME}:{proxy.port}"
    own = {"origin": url, "sec-fetch-site": "same-origin"}
    with httpx.Client(base_url=url, transport=_ToProxy(verify=trusting), headers=own, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    from data.phantom.patient import write_phantom

    return write_phantom(tmp_path_factory.mktemp("web"), 1, shape=(20, 24, 16), spacing_mm=(10.0, 10.0, 10.0))


def test_a_patient_goes_through_the_proxy_from_sign_in_to_sign_out(behind, browser, patient):
    server, _ = behind
    assert browser.get("/").headers["location"] == "login"
    signed_in = browser.post("/login", data={"token": TOKEN})
    assert (signed_in.status_code, signed_in.headers["location"]) == (303, "./")
    cookie = signed_in.headers["set-cookie"]
    form = r"__Host-brain_session_[0-9a-f]{8}=[0-9a-f]{32}\.[0-9a-f]{64}; Path=/; HttpOnly; SameSite=Strict; Secure"
    assert re.fullmatch(form, cookie)
    case = upload(browser, patient)
    assert case["state"] == "ready"
    assert browser.patch(f"/api/cases/{case['id']}", json={"name": "new"}).json()["name"] == "new"
    assert browser.post("/api/sign-out").status_code == 204 and not browser.cookies
    assert browser.get("/api/cases").status_code == 401
    assert not (server.workspace_cases / case["id"]).exists()


@pytest.mark.parametrize("origin", ["http", "other port", "other name", "direct", "null"])
def test_pages_from_elsewhere_are_refused_through_the_proxy(behind, browser, origin):
    server, proxy = behind
    foreign = {
        "http": f"http://{NAME}:{proxy.port}", "other port": f"https://{NAME}", "other name": "https://evil.example",
        "direct": server.url, "null": "null",
    }  # fmt: skip
    reply = browser.post("/login", data={"token": TOKEN}, headers={"origin": foreign[origin]})
    assert reply.status_code == 403 and not browser.cookies


def test_a_page_that_goes_round_the_proxy_is_refused_and_a_program_is_not(behind):
    """The cookie is for TLS alone; on the machine itself the token as a header is enough."""
    server, _ = behind
    with server.client() as client:
        own = {"origin": server.url, "sec-fetch-site": "same-origin"}
        assert client.post("/login", data={"token": TOKEN}, headers=own).status_code == 403
        assert client.get("/api/cases", headers={"authorization": f"Bearer {TOKEN}"}).json() == []


def test_what_a_visitor_says_of_another_host_changes_nothing(browser):
    for lie in ("x-forwarded-host", "forwarded", "x-original-url", "x-rewrite-url"):
        reply = browser.get("/", headers={lie: "host=evil.example"})
        assert (reply.status_code, reply.headers["location"]) == (303, "login")
    assert browser.get("/healthz", headers={"host": "evil.example"}).status_code == 421


def test_each_visitor_of_the_proxy_has_tries_of_its_own_whatever_it_writes(behind, browser):
    _, proxy = behind
    proxy.address = "203.0.113.5"
    try:
        for number in range(10):
            lie = {"x-forwarded-for": f"10.0.0.{number}", "authorization": "Bearer wrong horse battery"}
            assert browser.get("/api/cases", headers=lie).status_code == 401
        lie["x-forwarded-for"] = "10.0.0.99"
        assert browser.get("/api/cases", headers=lie).status_code == 429
        proxy.address = "203.0.113.6"
        assert browser.get("/api/cases", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    finally:
        proxy.address = VISITOR


def test_a_public_url_needs_a_token_though_the_server_listens_on_loopback(tmp_path):
    with pytest.raises(UsageError, match="--token-file"):
        create_app(Settings(workspace=tmp_path, public_url="https://scans.example"))


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://scans.example", "scans.example"), ("https://Scans.Example/", "scans.example"),
        ("https://scans.example:443", "scans.example"), ("https://scans.example:8443", "scans.example:8443"),
        ("https://[2001:db8::1]:8443", "[2001:db8::1]:8443"),
        ("https://xn--bcher-kva.example", "xn--bcher-kva.example"),
    ],
)  # fmt: skip
def test_a_public_url_is_what_browsers_send(tmp_path, url, host):
    settings = Settings(workspace=tmp_path, token=TOKEN, public_url=url)
    check_settings(settings)
    assert settings.public_host == host and host_allowed(host.upper(), settings)
    assert host_allowed(host.removesuffix(":8443"), settings)  # as some proxies pass it on
    assert not host_allowed("x" + host, settings)


@pytest.mark.parametrize(
    "url",
    ["http://scans.example", "scans.example", "https://scans.example/brain", "https://a@scans.example", "https://",
     "https://bücher.example", "https://scans.example:0", "https://scans.example:99999", "https://scans.example?x",
     "https://scans.example\n", "https://*.example", ""],
)  # fmt: skip
def test_a_public_url_that_no_browser_would_send_is_refused(tmp_path, url):
    with pytest.raises(UsageError, match="--public-url"):
        check_settings(Settings(workspace=tmp_path, token=TOKEN, public_url=url))


# Behind a path


@pytest.fixture(scope="module")
def tumour(tmp_path_factory):
    """A server that knows that it is shown below /tumour."""
    with running(tmp_path_factory.mktemp("w") / "w", token=TOKEN, root_path="/tumour/") as server:
        yield server


@pytest.mark.parametrize("start", ["/", "/tumour/"], ids=["taken away", "passed on"])
def test_the_server_answers_alike_whether_the_proxy_takes_the_path_away_or_not(tumour, start):
    with tumour.client() as client:
        reply = client.get(start)
        assert (reply.status_code, reply.headers["location"]) == (303, "login")
        assert client.get(f"{start}api/cases").status_code == 401
        assert client.get(f"{start}static/page.css").headers["content-type"].startswith("text/css")
        assert client.get(f"{start}healthz").json() == {"status": "ok"}
        reply = client.post(f"{start}login", data={"token": TOKEN})
        assert (reply.status_code, reply.headers["location"]) == (303, "./")
        assert "; Path=/tumour/; HttpOnly; SameSite=Strict" in reply.headers["set-cookie"]
    with tumour.client(headers={"authorization": f"Bearer {TOKEN}"}) as program:
        assert program.get(f"{start}api/openapi.json").json()["servers"] == [{"url": "/tumour"}]


def test_the_path_without_its_slash_leads_to_the_page_and_one_that_begins_alike_is_another(tumour):
    with tumour.client(headers={"authorization": f"Bearer {TOKEN}"}) as program:
        reply = program.get("/tumour")
        assert (reply.status_code, reply.headers["location"]) == (303, "./tumour/")
        assert program.get("/tumours/").status_code == program.get("/tumour/tumour/").status_code == 404


def test_behind_tls_and_a_path_the_cookie_is_secure_and_leaves_the_hosts_other_pages_alone(tmp_path):
    url = "https://scans.example"
    with (
        running(tmp_path / "w", token=TOKEN, public_url=url, root_path="/user/me%40site") as server,
        server.client(headers={"origin": url, "host": "scans.example"}) as client,
    ):
        cookie = client.post("/user/me%40site/login", data={"token": TOKEN}).headers["set-cookie"]
    # RFC 6265bis 4.1.3: __Host- demands the path /, __Secure- demands Secure alone.
    form = r"__Secure-brain_session_[0-9a-f]{8}=[0-9a-f.]{97}; Path=/user/me%40site/; HttpOnly; SameSite=Strict; Secure"
    assert re.fullmatch(form, cookie)


@pytest.mark.parametrize(
    "path",
    [
        "tumour",
        "//evil.example",
        "/a//b",
        "/a/../b",
        "/%2e%2e",
        "/a;b",
        "/a b",
        "/a\n",
        "/a?b",
        "/ä",
        "/api",
        "/static/x",
    ],
)
def test_a_root_path_that_no_proxy_would_show_or_that_hides_the_pages_own_is_refused(tmp_path, path):
    with pytest.raises(UsageError, match="--root-path"):
        check_settings(Settings(workspace=tmp_path, root_path=path))


def test_a_path_in_the_public_url_is_sent_to_its_own_option(tmp_path):
    with pytest.raises(UsageError, match="--root-path"):
        check_settings(Settings(workspace=tmp_path, token=TOKEN, public_url="https://scans.example/brain"))


@contextlib.contextmanager
def _nginx(folder: Path, certificate: Path, port: int, *, below: str) -> Iterator[int]:
    """Port of nginx with the page's own example, before the server at ``port``; ``below``: with the one of the path."""
    whole, one_path = re.findall(r"```nginx\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.S)
    if below:
        whole = re.sub(r"    location / \{.*?\n    \}\n", lambda _: one_path, whole, count=1, flags=re.S)
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        own = free.getsockname()[1]
    for old, new in (
        ("listen 443", f"listen 127.0.0.1:{own}"), ("127.0.0.1:8000", f"127.0.0.1:{port}"),
        ("/etc/ssl/scans.pem", certificate), ("/etc/ssl/scans.key", certificate.with_name("key.pem")),
    ):  # fmt: skip
        assert old in whole
        whole = whole.replace(old, str(new))
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {folder / kind};\n" for kind in kinds)
    config = folder / "nginx.conf"
    about = f"daemon off; pid {folder}/pid; error_log {folder}/error.log;\nevents {{}}\n"
    config.write_text(f"{about}http {{\naccess_log off;\n{temporary}{whole}}}\n")
    with subprocess.Popen(["nginx", "-p", folder, "-e", folder / "error.log", "-c", config]) as nginx:
        try:
            yield own
        finally:
            nginx.terminate()


@pytest.mark.parametrize("below", ["", "/tumour"])
def test_nginx_as_the_page_advises_passes_on_a_patient(tmp_path, certificate, patient, below, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/sbin", prepend=":")
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not there")
    settings = {"token": TOKEN, "public_url": f"https://{NAME}", "root_path": below}
    with running(tmp_path / "w", **settings) as server, _nginx(tmp_path, certificate, server.port, below=below) as port:
        own = {"origin": f"https://{NAME}", "sec-fetch-site": "same-origin", "host": NAME}
        transport = _ToProxy(verify=ssl.create_default_context(cafile=str(certificate)))
        url = f"https://{NAME}:{port}{below}"
        with httpx.Client(base_url=url, transport=transport, headers=own, timeout=60) as client:
            for _ in range(100):
                with contextlib.suppress(httpx.ConnectError):
                    assert client.get("/healthz").status_code == 200
                    break
                time.sleep(0.1)
            assert client.post("/login", data={"token": TOKEN}).headers["location"] == "./"
            case = client.post("/api/cases", files=files_of(patient)).json()
            assert len(case["files"]) == 5 and client.get("/api/cases").json()[0]["id"] == case["id"]
            with client.stream("GET", f"/api/cases/{case['id']}/events") as events:
                assert next(events.iter_lines()).startswith("data: {")
            wrong = {"authorization": "Bearer wrong horse battery"}
            assert [client.get("/api/cases", headers=wrong | {"cookie": ""}).status_code for _ in range(11)][-1] == 429


def test_serve_takes_the_public_url_and_the_ages(tmp_path, monkeypatch):
    import run_pipeline

    seen = []
    monkeypatch.setattr("pipeline.web.app.serve", seen.append)
    options = ["--public-url", "https://scans.example", "--session-hours", "12", "--idle-hours", "0.5"]
    options += ["--root-path", "/tumour"]
    assert run_pipeline.main(["serve", "--workspace", str(tmp_path), *options]) == 0
    (settings,) = seen
    assert settings.root_path == "/tumour"
    assert (settings.public_url, settings.session_hours, settings.idle_hours) == ("https://scans.example", 12.0, 0.5)
