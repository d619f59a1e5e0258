"""The web app behind a proxy that ends TLS, as docs/web.md advises.

The proxy is a small one, with a certificate made for the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import ssl
import subprocess
import threading
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra `web` is not installed")
pytest.importorskip("httpx", reason="the extra `web` is not installed")

import httpx

from data.errors import UsageError
from pipeline.web.app import create_app
from pipeline.web.security import host_allowed
from pipeline.web.settings import Settings, check_settings
from tests.web_server import running, upload

TOKEN = "correct horse battery"
NAME = "scans.example"
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


def test_serve_takes_the_public_url_and_the_ages(tmp_path, monkeypatch):
    import run_pipeline

    seen = []
    monkeypatch.setattr("pipeline.web.app.serve", seen.append)
    options = ["--public-url", "https://scans.example", "--session-hours", "12", "--idle-hours", "0.5"]
    assert run_pipeline.main(["serve", "--workspace", str(tmp_path), *options]) == 0
    (settings,) = seen
    assert (settings.public_url, settings.session_hours, settings.idle_hours) == ("https://scans.example", 12.0, 0.5)
