"""Who may ask, and what every answer carries: Host, Origin, token, session cookie, headers, size of a request.

One layer of plain ASGI around the app, so that no route can forget it, and no answer (a crash's neither) lacks it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import json
import logging
import re
import secrets
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.web.settings import Settings

log = logging.getLogger(__name__)

COOKIE = "brain_session"
MAX_JSON_BYTES = 64 * 2**10
"""Of a request that is no upload."""
_OPEN_PATHS = ("/healthz", "/login", "/static/")
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")

CONTENT_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'wasm-unsafe-eval'",  # NiiVue unpacks with WebAssembly
        "img-src 'self' data: blob:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-security-policy", CONTENT_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), usb=(), payment=()"),
)


class Sessions:
    """Cookies that only this server can have made: ``<id>.<HMAC of the id>``; nothing is kept for them.

    The key depends on the token: with another token (or none) all older sessions end.
    """

    def __init__(self, secret: bytes, token: str | None) -> None:
        self._key = hashlib.sha256(secret + (token or "").encode()).digest()

    def new(self) -> str:
        """A cookie's value for a visitor without one."""
        session = secrets.token_hex(16)
        return f"{session}.{self._mac(session)}"

    def owner(self, cookie: str | None) -> str | None:
        """What cases of this cookie's session are filed under; None for a cookie that we did not make."""
        session, _, mac = (cookie or "").partition(".")
        if not session or not hmac.compare_digest(mac.encode(), self._mac(session).encode()):
            return None
        return hashlib.sha256(session.encode()).hexdigest()[:32]

    def _mac(self, session: str) -> str:
        return hmac.new(self._key, session.encode(), hashlib.sha256).hexdigest()


def same_secret(given: str, expected: str) -> bool:
    """Compare in a time that tells nothing."""
    return hmac.compare_digest(given.encode(), expected.encode())


def host_allowed(header: str, settings: Settings) -> bool:
    """Whether this ``Host`` may be asked for.

    A page that makes its own name point here (DNS rebinding) sends that name; an address or localhost it cannot send.
    """
    found = _HOST.fullmatch(header)
    if found is None:
        return False
    name = found["name"].lower().rstrip(".")
    if name == "localhost" or name == settings.host.lower() or name in {h.lower() for h in settings.allowed_hosts}:
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def origin_allowed(origin: str | None, site: str | None, scheme: str, host: str) -> bool:
    """Whether the page that asks is ours: its ``Origin`` is this server, or no browser sent it at all."""
    if origin is not None:
        return origin == f"{scheme}://{host}"
    return site in (None, "same-origin", "none")


class Guard:
    """The layer: refuses, or passes on with ``scope["state"]["owner"]`` set."""

    def __init__(self, app: ASGIApp, settings: Settings, sessions: Sessions) -> None:
        self.app, self.settings, self.sessions = app, settings, sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return None  # there are no web sockets here
        reply = _Reply(send, no_store=not scope["path"].startswith("/static/"))
        headers = _headers(scope)
        if refusal := self._refusal(scope, headers):
            return await reply.error(*refusal)
        owner = self.sessions.owner(_cookie(headers.get("cookie", "")))
        if self.settings.token is not None and owner is None and not self._knows_token(scope, headers):
            if headers.get("authorization"):
                await asyncio.sleep(0.5)  # who tries tokens gets two a second
            if scope["path"] == "/":
                return await reply.redirect("/login")
            return await reply.error(
                401, "this server needs its token: sign in at /login, or send it as a bearer token"
            )
        if owner is None:
            cookie = self.sessions.new()
            owner = self.sessions.owner(cookie)
            if scope["path"] == "/" or (scope["method"] == "POST" and scope["path"] != "/login"):
                reply.cookie = cookie
        scope.setdefault("state", {})["owner"] = owner
        limited = _limited(receive) if not _is_upload(scope) else receive
        try:
            await self.app(scope, limited, reply)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            if not reply.started:
                await reply.error(500, "something went wrong in the server; its log says what")
        return None

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if not host_allowed(host, self.settings):
            return (
                421,
                f"this server is not called {_printable(host)}; open it by its IP address, or start it with "
                "--allowed-host and this name",
            )
        reads = scope["method"] in ("GET", "HEAD") and not scope["path"].startswith("/api/")
        if not reads and not origin_allowed(
            headers.get("origin"), headers.get("sec-fetch-site"), scope.get("scheme", "http"), host
        ):
            return 403, "the request comes from a page of another site; open this server's own page"
        return None

    def _knows_token(self, scope: Scope, headers: dict[str, str]) -> bool:
        if scope["path"].startswith(_OPEN_PATHS):
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and same_secret(given.strip(), self.settings.token or "")


class _Reply:
    """``send`` with the headers of every answer, and the cookie of a new session where there is one."""

    def __init__(self, send: Send, *, no_store: bool) -> None:
        self._send, self._no_store = send, no_store
        self.cookie: str | None = None
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            own = [(k, v) for k, v in message.get("headers", ()) if k.lower() != b"server"]
            named = {k.lower() for k, _ in own}
            own += [(k, v) for k, v in HEADERS if k not in named]
            if b"cache-control" not in named:
                own.append((b"cache-control", b"no-store" if self._no_store else b"no-cache"))
            if self.cookie is not None and message["status"] < 400:
                own.append((b"set-cookie", session_cookie(self.cookie).encode()))
            message = {**message, "headers": own}
        await self._send(message)

    async def error(self, status: int, sentence: str) -> None:
        body = json.dumps({"error": sentence}).encode()
        await self._whole(status, [(b"content-type", b"application/json")], body)

    async def redirect(self, to: str) -> None:
        await self._whole(303, [(b"location", to.encode())], b"")

    async def _whole(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        length = (b"content-length", str(len(body)).encode())
        await self({"type": "http.response.start", "status": status, "headers": [*headers, length]})
        await self({"type": "http.response.body", "body": body})


def session_cookie(value: str) -> str:
    """The ``Set-Cookie`` header of a session: for this browser session, hidden from scripts and other sites."""
    return f"{COOKIE}={value}; Path=/; HttpOnly; SameSite=Strict"


def _headers(scope: Scope) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        # Two Host or Origin headers could be read in two ways; joined they are neither.
        found[key] = f"{found[key]}; {text}" if key in found else text
    return found


def _cookie(header: str) -> str | None:
    try:
        morsel = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return None
    return morsel.value if morsel else None


def _printable(text: str) -> str:
    return repr("".join(c if c.isprintable() else "?" for c in text)[:100])


def _is_upload(scope: Scope) -> bool:
    return scope["method"] == "POST" and (scope["path"] == "/api/cases" or scope["path"].endswith("/edits"))


def _limited(receive: Receive) -> Any:
    taken = 0

    async def count() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > MAX_JSON_BYTES:
            raise HTTPException(413, f"the request is larger than {MAX_JSON_BYTES} bytes; only uploads may be")
        return message

    return count
