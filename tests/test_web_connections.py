"""What the web app's connections may do: how long they keep silent, how many there are, what cannot be read."""

from __future__ import annotations

import contextlib
import re
import socket
import time

import pytest

pytest.importorskip("fastapi", reason="the extra `web` is not installed")

from pipeline.web import protocol, security
from pipeline.web.security import HEADERS, MAX_HEADER_BYTES
from tests.web_server import running

TOKEN = "correct horse battery"
HOST = b"Host: 127.0.0.1\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("w") / "w", token=TOKEN) as server:
        yield server


def say(server, data, seconds=5.0):
    """What comes back on a connection until it is closed or silent for so long."""
    with socket.create_connection(("127.0.0.1", server.port), 5) as connection:
        connection.settimeout(seconds)
        connection.sendall(data)
        answer = b""
        try:
            while piece := connection.recv(65536):
                answer += piece
        except TimeoutError:
            answer += b"<open>"
        return answer


UNREADABLE = {
    "bytes": b"\x00\x01\x02\r\n\r\n",
    "blank before the colon": b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
    "two lengths": b"POST /login HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a signed length": b"POST /login HTTP/1.1\r\n" + HOST + b"Content-Length: +1\r\n\r\na",
    "an endless length": b"POST /login HTTP/1.1\r\n" + HOST + b"Content-Length: " + b"9" * 40 + b"\r\n\r\na",
    "an unknown coding": b"POST /login HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "two codings": b"POST /login HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "a chunk that is no number": b"POST /login HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n",
    "NUL in a header": b"GET / HTTP/1.1\r\n" + HOST + b"X: a\x00b\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "a head that does not end": b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 20_000,
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_what_cannot_be_read_is_answered_as_everything_else_and_the_connection_ends(server, what):
    answer = say(server, UNREADABLE[what] + b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ") and answer.count(b"HTTP/1.1 ") == 2  # one answer; its sentence names it
    for name, value in (*HEADERS, (b"cache-control", b"no-store"), (b"connection", b"close")):
        assert b"\r\n" + name + b": " + value in head, name
    assert re.fullmatch(rb'\{"error": "[^"]+"\}', body) and b"application/json" in head


def test_a_length_told_in_two_ways_is_refused_and_what_follows_is_no_request(server):
    """A proxy that goes by the length would send on what we took for the next request, or the other way round."""
    hidden = b"0\r\n\r\nGET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
    for both in (
        b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n" % len(hidden),
        b"Transfer-Encoding: chunked\r\nContent-Length: %d\r\n" % len(hidden),
    ):
        answer = say(server, b"POST /login HTTP/1.1\r\n" + HOST + both + b"\r\n" + hidden)
        assert (
            answer.startswith(b"HTTP/1.1 400 ") and answer.count(b"HTTP/1.1 ") == 1 and not answer.endswith(b"<open>")
        )


@pytest.mark.parametrize(
    "head", [b"X: " + b"a" * MAX_HEADER_BYTES + b"\r\n", b"".join(b"X%d: y\r\n" % n for n in range(101))]
)
def test_a_head_that_is_too_large_is_refused(server, head):
    answer = say(server, b"GET /healthz HTTP/1.1\r\n" + HOST + head + b"\r\n")
    assert answer.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 ")) and not answer.endswith(b"<open>")


@pytest.mark.parametrize("method", ["TRACE", "OPTIONS", "PROPFIND", "CONNECT"])
def test_other_methods_do_nothing_and_echo_nothing(server, method):
    request = f"{method} /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Secret: abc\r\nConnection: close\r\n\r\n".encode()
    answer = say(server, request)
    assert answer.startswith(b"HTTP/1.1 405 ") and b"abc" not in answer
    assert b"access-control" not in answer.lower()


def test_a_web_socket_is_an_ordinary_request(server):
    upgrade = (
        b"Connection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAA\r\n"
    )
    answer = say(server, b"GET /api/cases HTTP/1.1\r\n" + HOST + upgrade + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 401 ") and b"content-security-policy" in answer


def test_a_body_that_goes_wrong_half_way_leaves_no_traceback(server, caplog):
    broken = b"POST /login HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\nzz\r\n"
    assert say(server, broken).startswith(b"HTTP/1.1 400 ")
    time.sleep(0.3)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


# Silence


def held(server, data, drip=b"", most=12.0):
    """Seconds until the server closes a connection that says this, and then this every .2 s."""
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port), 5) as connection:
        connection.sendall(data)
        connection.settimeout(0.2)
        while time.monotonic() - begun < most:
            try:
                if not connection.recv(65536):
                    break
            except TimeoutError:
                try:
                    connection.sendall(drip)
                except OSError:
                    break
            except OSError:
                break
    return time.monotonic() - begun


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(protocol, "HEADER_SECONDS", 1.0)
    monkeypatch.setattr(protocol, "REST_SECONDS", 0.5)
    monkeypatch.setattr(security, "BODY_SECONDS", 1.0)


@pytest.mark.parametrize(
    ("data", "drip"),
    [
        (b"", b""),
        (b"GET / HTTP/1.1\r\n" + HOST, b"X: y\r\n"),
        (b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n", b"G"),
        (b"POST /login HTTP/1.1\r\n" + HOST + b"Content-Length: 100\r\n\r\n", b""),
        (b"POST /login HTTP/1.1\r\n" + HOST + b"Content-Length: 10000\r\n\r\n", b"a"),
        (b"POST /api/cases HTTP/1.1\r\n" + HOST + b"Content-Length: 10000\r\n\r\n", b"a"),  # refused: no token
        (b"POST /api/cases HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
    ],
    ids=[
        "nothing",
        "a slow head",
        "a slow second head",
        "no body",
        "a slow body",
        "a slow refused body",
        "slow chunks",
    ],
)
def test_who_keeps_a_connection_waiting_loses_it(server, hasty, data, drip):
    assert held(server, data, drip) < 6


def test_who_asks_within_the_time_keeps_the_connection(server, hasty):
    with socket.create_connection(("127.0.0.1", server.port), 5) as connection:
        for _ in range(4):
            time.sleep(0.7)
            connection.sendall(b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n")
            answer = b""
            while not answer.endswith(b'{"status":"ok"}') and (
                piece := connection.recv(65536)
            ):  # head and body may part
                answer += piece
            assert answer.startswith(b"HTTP/1.1 200 ")


def test_who_does_not_read_an_answer_loses_it(server, monkeypatch):
    monkeypatch.setattr(protocol, "UNREAD_SECONDS", 1.0)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        for _ in range(8):  # some megabytes in all
            connection.sendall(b"GET /static/niivue.umd.js HTTP/1.1\r\n" + HOST + b"\r\n")
        connections, deadline = server.server.server_state.connections, time.monotonic() + 10
        while not any(one.flow.write_paused for one in list(connections)) and time.monotonic() < deadline:
            time.sleep(0.01)  # it is there, and its answers wait
        assert connections
        while connections and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not connections


SLOW_BODY = b"POST /login HTTP/1.1\r\n" + HOST + b"Content-Length: 100\r\n\r\n"
UPLOAD = (
    b"POST /api/cases HTTP/1.1\r\n" + HOST + b"Authorization: Bearer " + TOKEN.encode() + b"\r\n"
    b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 100\r\n\r\n"
)  # fmt: skip


@pytest.mark.parametrize("said", [b"", b"GET / HT", SLOW_BODY], ids=["nothing", "half a head", "half a request"])
def test_connections_of_strangers_keep_nobody_out(server, monkeypatch, said):
    monkeypatch.setattr(protocol, "MAX_CONNECTIONS", 20)
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            with contextlib.suppress(ConnectionError):
                stranger = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 5))
                stranger.sendall(said)
        for _ in range(5):
            asked = say(server, b"GET /healthz HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
            assert asked.startswith(b"HTTP/1.1 200 ")
        assert len(server.server.server_state.connections) <= 20


def test_where_all_connections_work_for_those_who_were_let_in_a_new_one_is_told_so(server, monkeypatch):
    monkeypatch.setattr(protocol, "MAX_CONNECTIONS", 3)
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 5)).sendall(UPLOAD)
        time.sleep(0.5)
        answer = say(server, b"")
    assert answer.startswith(b"HTTP/1.1 503 ") and b"content-security-policy" in answer and b"too many" in answer
