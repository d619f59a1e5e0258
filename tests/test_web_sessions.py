"""How sessions of the web app begin, last and end, and how often a token can be guessed."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import socket
import time

import pytest

pytest.importorskip("fastapi", reason="the extra `web` is not installed")

from pipeline.web.guesses import Guesses, TooManyGuesses, Visitor, address_of
from pipeline.web.sessions import MAX_SESSIONS, Sessions
from pipeline.web.settings import Settings
from tests.web_server import files_of, run, running, upload, wait_for

TOKEN = "correct horse battery"
HOUR = 3600.0


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    from data.phantom.patient import write_phantom

    return write_phantom(tmp_path_factory.mktemp("web"), 1, shape=(20, 24, 16), spacing_mm=(10.0, 10.0, 10.0))


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def sessions_of(tmp_path, clock, secret=b"secret", known=None, keep=lambda owner, times: None, **settings):
    return Sessions(secret, Settings(workspace=tmp_path, **settings), known, keep, now=clock)


def begun(sessions):
    cookie = sessions.new()
    sessions.begin(cookie)
    return cookie


# The cookie


def test_a_session_that_we_did_not_make_is_none(tmp_path):
    sessions = sessions_of(tmp_path, Clock())
    cookie = begun(sessions)
    owner = sessions.owner(cookie)
    assert owner and sessions.owner(cookie) == owner
    assert sessions.owner(sessions.new()) is None  # made, but never begun
    session, mac = cookie.split(".")
    for forged in (None, "", session, f"{session}.", f"{session}.{'0' * 64}", f"{'0' * 32}.{mac}", f"{cookie}0", "é.ü"):
        assert sessions.owner(forged) is None
    known = {owner: (1_000_000.0, 1_000_000.0)}
    assert sessions_of(tmp_path, Clock(), known=known).owner(cookie) == owner  # after a restart
    # As soon as a token is asked for, older sessions end.
    assert sessions_of(tmp_path, Clock(), known=known, token=TOKEN).owner(cookie) is None
    assert sessions_of(tmp_path, Clock(), b"other", known=known).owner(cookie) is None
    assert owner not in cookie  # what cases are filed under is not what opens them


def test_two_servers_on_one_machine_keep_both_their_sessions_in_one_browser(tmp_path, patient):
    """A browser sends the cookies of 127.0.0.1 to every port of it."""
    with running(tmp_path / "a") as first, running(tmp_path / "b") as second, first.client() as browser:
        case = upload(browser, patient)
        other = browser.post(f"{second.url}/api/cases", files=[("files", ("x_t1.nii", b"x"))])
        assert other.status_code == 201 and len(browser.cookies) == 2
        assert browser.get(f"/api/cases/{case['id']}").status_code == 200
        assert [c["id"] for c in browser.get(f"{second.url}/api/cases").json()] == [other.json()["id"]]


def test_the_cookies_name_stays_with_the_workspace(tmp_path):
    names = [sessions_of(tmp_path, Clock(), secret).cookie for secret in (b"one", b"one", b"two")]
    assert names[0] == names[1] != names[2] and re.fullmatch("brain_session_[0-9a-f]{8}", names[0])


def test_behind_tls_the_cookie_is_secure_and_of_this_host_alone(tmp_path):
    sessions = sessions_of(tmp_path, Clock(), token=TOKEN, public_url="https://scans.example")
    header = sessions.header("x")
    # What browsers demand of the prefix: Secure, Path=/, no Domain (RFC 6265bis 4.1.3.2).
    assert header.startswith("__Host-brain_session_") and "; Secure" in header and "; Path=/;" in header
    assert "domain" not in header.lower()
    assert sessions.farewell().startswith(f"{sessions.cookie}=; ") and "Max-Age=0" in sessions.farewell()


def test_cookies_that_another_server_of_this_host_adds_shut_nobody_out_and_bring_nobody_elsewhere(tmp_path):
    sessions = sessions_of(tmp_path, Clock())
    own, planted, name = begun(sessions), begun(sessions), sessions.cookie
    for header in (f"{name}={own}", f"a=b; {name}={own}; {name}=x", f"{name}=x; {name}={own}", f"bad[=1; {name}={own}"):
        assert sessions.from_header(header) == own
    assert sessions.from_header(f"{name}={own}; {name}={own}") == own
    for header in ("", f"{name}", f"{name}={own}x", f"x{name}={own}", f"{name}={own}; {name}={planted}"):
        assert sessions.from_header(header) is None


# How long it lasts


def test_a_session_ends_after_its_time_and_after_a_time_without_a_request(tmp_path):
    clock = Clock()
    sessions = sessions_of(tmp_path, clock, session_hours=10.0, idle_hours=2.0)
    cookie = begun(sessions)
    for _ in range(5):
        clock.now += 1.9 * HOUR
        assert sessions.owner(cookie)  # 9.5 h, never 2 h idle
    clock.now += 0.6 * HOUR
    assert sessions.owner(cookie) is None and sessions.over() == [sessions.signed(cookie)]
    idle = begun(sessions)
    clock.now += 2.0 * HOUR
    assert sessions.owner(idle) is None


def test_a_session_is_not_idle_while_it_uploads_or_watches(tmp_path):
    clock = Clock()
    sessions = sessions_of(tmp_path, clock, session_hours=10.0, idle_hours=1.0)
    cookie = begun(sessions)
    with sessions.in_use(sessions.owner(cookie)):
        clock.now += 3 * HOUR
        assert sessions.over() == []
    clock.now += 0.9 * HOUR
    assert sessions.owner(cookie)  # the hour begins with the end of the request
    with sessions.in_use(sessions.owner(cookie)):
        clock.now += 7 * HOUR
        assert sessions.owner(cookie) is None  # its whole time is over all the same
    assert sessions.owner(cookie) is None and len(sessions._requests) == 0


def test_without_idle_hours_a_session_outlasts_its_last_case(tmp_path):
    clock = Clock()
    sessions = sessions_of(tmp_path, clock, keep_hours=24.0)
    cookie = begun(sessions)
    clock.now += 23.9 * HOUR
    assert sessions.owner(cookie)
    clock.now += 24 * HOUR
    assert sessions.owner(cookie) is None


def test_another_token_ends_all_sessions_and_their_cases_go_after_the_idle_time(tmp_path):
    clock, kept = Clock(), {}
    first = sessions_of(tmp_path, clock, keep=kept.__setitem__, token=TOKEN)
    cookie = begun(first)
    owner = first.owner(cookie)
    again = sessions_of(tmp_path, clock, known=kept, token=TOKEN)
    assert again.owner(cookie) == owner
    other = sessions_of(tmp_path, clock, known=kept, token="another " + TOKEN, idle_hours=2.0)
    assert other.owner(cookie) is None and other.over() == []
    clock.now += 2.0 * HOUR
    assert other.owner(cookie) is None and other.over() == [owner]  # what is over is ended with its cases


def test_what_is_kept_of_a_session_goes_on_after_a_restart(tmp_path):
    clock, kept = Clock(), {}
    sessions = sessions_of(tmp_path, clock, keep=kept.__setitem__, idle_hours=2.0)
    cookie = begun(sessions)
    owner = sessions.owner(cookie)
    clock.now += HOUR
    sessions.owner(cookie)
    assert kept == {owner: (1_000_000.0, 1_000_000.0 + HOUR)}
    sessions.end(owner)
    assert kept == {owner: None}


def test_a_flood_of_new_sessions_ends_none_that_holds_a_case(tmp_path):
    clock = Clock()
    sessions = Sessions(b"s", Settings(workspace=tmp_path), holds=lambda owner: owner == held, now=clock)
    held = None
    cookie = begun(sessions)
    held = sessions.owner(cookie)
    for _ in range(MAX_SESSIONS + 500):
        clock.now += 0.01
        begun(sessions)
    assert sessions.owner(cookie) == held
    assert len(sessions.over()) == 0 and len(sessions._times) <= MAX_SESSIONS


def test_a_session_that_is_over_takes_its_cases_along(tmp_path, patient):
    with running(tmp_path / "w", session_hours=6 / 3600) as server, server.client() as client:
        client.get("/")
        case = client.post("/api/cases", files=files_of(patient)).json()
        folder = server.workspace_cases / case["id"]
        assert folder.is_dir() and case["expires"] <= case["created"] + 6
        end = time.monotonic() + 60
        while folder.exists() and time.monotonic() < end:
            time.sleep(0.2)
        assert not folder.exists() and client.get(f"/api/cases/{case['id']}").status_code == 404
        assert client.get("/api/cases").json() == []


# Signing out


def test_signing_out_ends_the_session_on_the_server_and_removes_its_cases(tmp_path, patient):
    with running(tmp_path / "w", token=TOKEN) as server, server.client() as browser:
        browser.post("/login", data={"token": TOKEN})
        case = upload(browser, patient)
        stolen = dict(browser.cookies)
        left = browser.post("/api/sign-out")
        assert (
            left.status_code == 204 and not browser.cookies and left.headers["set-cookie"].count("brain_session") == 1
        )
        assert browser.get("/api/cases").status_code == 401
        assert not (server.workspace_cases / case["id"]).exists()
        with server.client(cookies=stolen) as thief:
            assert thief.get(f"/api/cases/{case['id']}").status_code == 401
    with running(tmp_path / "w", token=TOKEN) as again, again.client(cookies=stolen) as thief:
        assert thief.get("/api/cases").status_code == 401  # after a restart too


def test_another_sites_page_signs_nobody_out(tmp_path):
    with running(tmp_path / "w") as server, server.client() as browser:
        browser.get("/")
        assert browser.post("/api/sign-out", headers={"origin": "https://evil.example"}).status_code == 403
        assert browser.post("/api/sign-out", headers={"sec-fetch-site": "same-site"}).status_code == 403
        assert len(browser.cookies) == 1 and not server.app.state.context.sessions.has_ended("")
        assert server.app.state.context.sessions.owner(next(iter(browser.cookies.values())))


def test_who_never_came_in_can_sign_out_and_gets_no_session_by_it(tmp_path):
    with running(tmp_path / "w") as server, server.client() as browser:
        reply = browser.post("/api/sign-out")
        assert reply.status_code == 204 and not browser.cookies
        assert not server.app.state.context.store.sessions


def test_an_upload_that_outlasts_its_session_leaves_nothing(tmp_path, patient):
    """The browser signs out in another tab while the files are on their way."""
    with running(tmp_path / "w") as server, server.client() as browser:
        browser.get("/")

        def slow():
            for path in sorted(patient.iterdir()):
                yield f'--x\r\nContent-Disposition: form-data; name="files"; filename="{path.name}"\r\n\r\n'.encode()
                yield path.read_bytes() + b"\r\n"
                while not any(server.workspace_cases.iterdir()):
                    time.sleep(0.01)  # else the upload would come after the sign-out
                if not signed_out:
                    signed_out.append(browser.post("/api/sign-out").status_code)
            yield b"--x--\r\n"

        signed_out, cookies = [], dict(browser.cookies)
        with server.client(cookies=cookies) as other:
            reply = other.post(
                "/api/cases", content=slow(), headers={"content-type": "multipart/form-data; boundary=x"}
            )
        assert signed_out == [204] and reply.status_code == 401 and "ended meanwhile" in reply.json()["error"]
        assert list(server.workspace_cases.iterdir()) == []


def test_an_example_whose_session_ends_while_its_folder_is_made_leaves_nothing(tmp_path):
    with running(tmp_path / "w") as server, server.client() as browser:
        browser.get("/")
        context = server.app.state.context
        make, (owner,) = context.jobs.folders.make, context.sessions._times

        def signed_out_meanwhile(case_id):
            folder = make(case_id)
            context.sessions.end(owner)
            return folder

        context.jobs.folders.make = signed_out_meanwhile
        example = browser.get("/api/gallery").json()[0]["id"]
        reply = browser.post(f"/api/gallery/{example}")
        assert reply.status_code == 401 and "ended meanwhile" in reply.json()["error"]
        assert list(server.workspace_cases.iterdir()) == [] and not context.store.records


def test_an_edit_that_outlasts_its_session_leaves_nothing(tmp_path, patient):
    with running(tmp_path / "w") as server, server.client() as browser:
        case = run(browser, patient, "quick", "done")

        def slow():
            yield b"\0" * 2**20
            yield b"\0" * 2**20
            if not signed_out:
                signed_out.append(browser.post("/api/sign-out").status_code)

        signed_out, cookies = [], dict(browser.cookies)
        with server.client(cookies=cookies) as other:
            reply = other.post(f"/api/cases/{case['id']}/edits", content=slow())
        assert signed_out == [204] and reply.status_code == 404 and "no such case" in reply.json()["error"]
        assert list(server.workspace_cases.iterdir()) == []


# Requests and uploads at once


@contextlib.contextmanager
def upload_under_way(server, client, announced):
    """An upload of a session that has begun and does not go on."""
    cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    head = f"POST /api/cases HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: {cookie}\r\nContent-Length: {announced}\r\n"
    before = server.app.state.context.uploads.total()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(f"{head}Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n".encode())
        end = time.monotonic() + 20
        while server.app.state.context.uploads.total() == before:
            assert time.monotonic() < end
            time.sleep(0.02)
        yield


def test_one_session_cannot_take_the_connections_of_all(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.web.security.MAX_REQUESTS", 3)
    monkeypatch.setattr("pipeline.web.context.MAX_UPLOADS", 2)
    with running(tmp_path) as server, server.client() as greedy, server.client() as other:
        greedy.get("/"), other.get("/")
        with upload_under_way(server, greedy, 5000), upload_under_way(server, greedy, 5000):
            third = greedy.post("/api/cases", files=[("files", ("x.nii", b"x"))])
            assert third.status_code == 429 and "2 uploads under way" in third.json()["error"]
            assert greedy.get("/api/cases").status_code == 200
            monkeypatch.setattr("pipeline.web.security.MAX_REQUESTS", 2)
            refused = greedy.get("/api/cases")
            assert refused.status_code == 429 and "2 requests under way" in refused.json()["error"]
            assert other.get("/api/cases").status_code == 200
        end = time.monotonic() + 20
        while greedy.get("/api/cases").status_code != 200:  # those that are gone count no more
            assert time.monotonic() < end
            time.sleep(0.05)
        assert not server.app.state.context.uploads


def test_the_room_that_one_upload_was_promised_is_not_anothers(tmp_path, monkeypatch):
    """Hundreds that begin together would each find the disk empty."""
    free = shutil.disk_usage(tmp_path)._replace(free=2 * 100_000 + 50_000)
    monkeypatch.setattr("pipeline.web.context.shutil.disk_usage", lambda _: free)
    image = [("files", ("x.nii", b"x" * 20_000))]
    with (
        running(tmp_path / "w", max_upload_mb=100_000 / 2**20) as server,
        server.client() as one,
        server.client() as other,
    ):
        one.get("/"), other.get("/")
        with upload_under_way(server, one, 40_000):
            refused = other.post("/api/cases", files=image)
            assert refused.status_code == 507 and "nearly full" in refused.json()["error"]
        end = time.monotonic() + 20
        while server.app.state.context.uploads:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert other.post("/api/cases", files=image).status_code == 201


# Event streams


def test_one_session_cannot_take_the_event_streams_of_all(tmp_path, patient):
    with running(tmp_path / "w") as server, server.client() as greedy, server.client() as other:
        case, own = upload(greedy, patient, "hang"), upload(other, patient, "hang")
        for client, item in ((greedy, case), (other, own)):
            assert client.post(f"/api/cases/{item['id']}/run").status_code == 202
        wait_for(greedy, case["id"], "running", "queued")
        with contextlib.ExitStack() as streams:
            statuses = []
            for _ in range(20):
                with_headers = {"cookie": "; ".join(f"{k}={v}" for k, v in greedy.cookies.items())}
                client = streams.enter_context(server.client(headers=with_headers))
                statuses.append(
                    streams.enter_context(client.stream("GET", f"/api/cases/{case['id']}/events")).status_code
                )
            assert statuses == [200] * 16 + [429] * 4
            assert streams.enter_context(other.stream("GET", f"/api/cases/{own['id']}/events")).status_code == 200
        deadline = time.monotonic() + 10
        while server.app.state.context.listeners.total() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not server.app.state.context.listeners  # who has gone is counted no more
        for client, item in ((greedy, case), (other, own)):
            client.delete(f"/api/cases/{item['id']}")


# Guesses of the token


def tried(guesses, given, visitor):
    try:
        return guesses.is_right(given, visitor)
    except TooManyGuesses as many:
        return many.seconds


def test_an_address_has_ten_wrong_tries_and_then_one_in_six_seconds():
    clock = Clock()
    guesses, visitor = Guesses(TOKEN, clock), Visitor("10.0.0.1")
    assert [tried(guesses, "wrong", visitor) for _ in range(10)] == [False] * 10
    assert tried(guesses, "wrong", visitor) == 6 and tried(guesses, TOKEN, visitor) == 6  # it is not looked at
    clock.now += 6.0
    assert tried(guesses, TOKEN, visitor) is True
    clock.now += 60.0
    assert [tried(guesses, "wrong", visitor) for _ in range(11)] == [False] * 10 + [6]


def test_the_right_token_costs_nothing_and_neither_does_none():
    guesses = Guesses(TOKEN, Clock())
    assert all(tried(guesses, TOKEN, Visitor("10.0.0.1")) is True for _ in range(500))
    assert all(tried(guesses, "", Visitor("10.0.0.2")) is False for _ in range(500))
    assert tried(Guesses(None, Clock()), "", Visitor("10.0.0.2")) is True


def test_many_addresses_together_have_a_hundred_tries_and_then_one_a_second():
    clock = Clock()
    guesses = Guesses(TOKEN, clock)
    assert tried(guesses, TOKEN, Visitor("10.9.9.9")) is True
    looked_at = sum(tried(guesses, "wrong", Visitor(f"10.0.{n // 250}.{n % 250}")) is False for n in range(1000))
    assert looked_at == 100
    assert tried(guesses, TOKEN, Visitor("10.8.8.8")) == 1  # never let in: it has to wait
    # Whom nobody's guesses keep out: an address that was let in, and a browser that had a session, anywhere.
    assert tried(guesses, TOKEN, Visitor("10.9.9.9")) is True
    assert tried(guesses, TOKEN, Visitor("10.0.0.1", "browser")) is True


def test_a_browser_that_had_a_session_gets_in_beside_a_guesser_of_its_own_address():
    guesses = Guesses(TOKEN, Clock())
    assert [tried(guesses, "wrong", Visitor("10.0.0.1")) for _ in range(10)] == [False] * 10
    assert tried(guesses, TOKEN, Visitor("10.0.0.1", "browser")) is True
    # It has no more tries than others, though.
    assert [tried(guesses, "wrong", Visitor("10.0.0.1", "browser")) for _ in range(11)] == [False] * 10 + [6]


@pytest.mark.parametrize(
    ("peer", "forwarded", "behind_proxy", "address"),
    [
        ("192.0.2.1", "", False, "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "", False, "2001:db8:1:2::"),
        ("::ffff:192.0.2.1", "", False, "192.0.2.1"),
        ("192.0.2.1", "198.51.100.7", False, "192.0.2.1"),  # anybody can write that
        ("127.0.0.1", "198.51.100.7", False, "127.0.0.1"),
        ("127.0.0.1", "198.51.100.7", True, "198.51.100.7"),
        ("127.0.0.1", "10.6.6.6, 198.51.100.7", True, "198.51.100.7"),  # the first is what the visitor wrote
        ("127.0.0.1", "10.6.6.6; 198.51.100.7", True, "198.51.100.7"),  # two lines of one header
        ("192.0.2.1", "198.51.100.7", True, "192.0.2.1"),
        ("127.0.0.1", "<script>", True, "127.0.0.1"),
        ("", "", False, ""),
    ],
)
def test_whose_tries_are_counted(peer, forwarded, behind_proxy, address):
    assert address_of(peer, forwarded, behind_proxy=behind_proxy) == address


def test_guesses_on_many_connections_are_refused_and_a_session_is_not(tmp_path):
    with running(tmp_path / "w", token=TOKEN) as server, server.client() as browser:
        browser.post("/login", data={"token": TOKEN})

        async def guess() -> list[int]:
            import httpx

            async with httpx.AsyncClient(base_url=server.url) as client:

                async def one(n: int) -> int:
                    header = {"authorization": f"Bearer wrong number {n:04d} of many"}
                    return (await client.get("/api/cases", headers=header)).status_code

                return list(await asyncio.gather(*map(one, range(60))))

        statuses = asyncio.run(guess())
        assert set(statuses) == {401, 429} and 10 <= statuses.count(401) <= 12
        with server.client() as stranger:
            assert stranger.post("/login", data={"token": TOKEN}).headers["location"] == "login?wait"
            waiting = stranger.get("/api/cases", headers={"authorization": f"Bearer {TOKEN}"})
            assert waiting.status_code == 429 and 1 <= int(waiting.headers["retry-after"]) <= 6
        assert browser.get("/api/cases").status_code == 200
        assert browser.post("/login", data={"token": TOKEN}).headers["location"] == "./"


def test_a_token_with_odd_bytes_is_wrong_and_nothing_else(tmp_path):
    with running(tmp_path / "w", token=TOKEN) as server:
        for raw in (b"Bearer \xff\xfe", b"Bearer", b"\xff", b"Basic dG9rZW4="):
            with socket.create_connection(("127.0.0.1", server.port), 5) as connection:
                connection.sendall(b"GET /api/cases HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: " + raw + b"\r\n\r\n")
                assert connection.recv(100).startswith(b"HTTP/1.1 401 ")
