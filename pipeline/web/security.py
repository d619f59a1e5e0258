"""Guard of every request, and the headers of every answer.

It checks Host, Origin, token, session cookie, headers, size of a request.

One layer of plain ASGI around the app, so that it holds for every route and every answer, that of a crash too.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import re
from collections.abc import Iterable

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from data.visible import visible
from pipeline.web.guesses import Guesses, TooManyGuesses, Visitor, address_of
from pipeline.web.sessions import Sessions
from pipeline.web.settings import Settings

log = logging.getLogger(__name__)

MAX_JSON_BYTES, BODY_SECONDS = 64 * 2**10, 30.0
"""Limits on the body of a request that is no upload."""
MAX_REQUESTS = 64
"""Largest number per session at once, event streams included, so that one session cannot take all connections."""
MAX_HEADER_BYTES, MAX_HEADER_LINES = 32 * 2**10, 100
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
    # Under no-referrer browsers send the form of the token with "Origin: null", which is refused.
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), usb=(), payment=()"),
)


def host_allowed(header: str, settings: Settings) -> bool:
    """Return whether a browser may ask for this ``Host``.

    A page that makes its own name point here (DNS rebinding) sends that name; an address or localhost it cannot send.
    """
    found = _HOST.fullmatch(header)
    if found is None:
        return False
    name = found["name"].lower().rstrip(".")
    public = _HOST.fullmatch(settings.public_host or "")
    if public is not None and name == public["name"]:  # with any port that a proxy leaves in it
        return True
    if name == "localhost" or name == settings.host.lower() or name in {h.lower() for h in settings.allowed_hosts}:
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def origin_allowed(origin: str | None, site: str | None, scheme: str, host: str) -> bool:
    """Return whether the request comes from our own page.

    Its ``Origin`` is then this server, or no browser sent it at all.
    """
    if origin is not None:
        return origin == f"{scheme}://{host}"
    return site in (None, "same-origin", "none")


class Guard:
    """Layer around the app that refuses a request or passes it on.

    It passes it on with ``owner``, ``visitor`` and ``let_in`` in ``scope["state"]``.
    """

    def __init__(self, app: ASGIApp, settings: Settings, sessions: Sessions, guesses: Guesses) -> None:
        self.app, self.settings, self.sessions, self.guesses = app, settings, sessions, guesses
        self._public = settings.public_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return None  # there are no web sockets here
        scope = {**scope, "path": _below(scope["path"], self.settings.prefix)}
        reply = _Reply(send, self.sessions, no_store=not scope["path"].startswith("/static/"))
        headers = _headers(scope)
        if refusal := self._refusal(scope, headers):
            return await reply.error(*refusal)
        if not scope["path"]:
            return await reply.redirect(f"./{self.settings.base.split('/')[-2]}/")
        cookie = self.sessions.from_header(headers.get("cookie", ""))
        visitor, owner = self._visitor(scope, headers, cookie), self.sessions.owner(cookie)
        let_in = owner is not None
        if owner is None and not scope["path"].startswith(_OPEN_PATHS):
            try:
                let_in = self.guesses.is_right(_bearer(headers), visitor)
            except TooManyGuesses as many:
                return await reply.error(429, str(many), [(b"retry-after", str(many.seconds).encode())])
            if not let_in:
                if scope["path"] == "/":
                    return await reply.redirect("login")
                return await reply.error(
                    401, "this server needs its token: sign in on its page, or send it as a bearer token"
                )
        if owner is None:
            cookie = self.sessions.new()
            owner = self.sessions.signed(cookie)
            if scope["path"] == "/" or (scope["method"] == "POST" and scope["path"] not in ("/login", "/api/sign-out")):
                reply.cookie = cookie
        if self.sessions.under_way(owner or "") >= MAX_REQUESTS:
            return await reply.error(429, f"this session has {MAX_REQUESTS} requests under way; wait until some end")
        if scope["method"] == "HEAD" and not scope["path"].endswith("/events"):
            scope["method"] = "GET"  # the server leaves the body away
        scope.setdefault("state", {}).update(owner=owner, visitor=visitor, let_in=let_in)
        limited = _limited(receive) if not _is_upload(scope) else receive
        try:
            with self.sessions.in_use(owner or ""):
                await self.app(scope, limited, reply)
        except ClientDisconnect:
            pass  # no visitor waits for the answer
        except Exception:
            log.exception("%s %s failed", scope["method"], _printable(scope["path"]))
            if not reply.started:
                await reply.error(500, "something went wrong in the server; its log says what")
        return None

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        if len(scope["headers"]) > MAX_HEADER_LINES or _size(scope) > MAX_HEADER_BYTES:
            return 431, f"the request's head has over {MAX_HEADER_LINES} lines or {MAX_HEADER_BYTES} bytes; send less"
        if "transfer-encoding" in headers and "content-length" in headers:
            # A proxy may heed one and we the other: a part of the body would then be read as a second request.
            return 400, "the request tells its length in two ways; send Content-Length or Transfer-Encoding"
        host = headers.get("host", "")
        if not host_allowed(host, self.settings):
            return (
                421,
                f"this server is not called {_printable(host)}; open it by its IP address, or start it with "
                "--allowed-host and this name",
            )
        reads = scope["method"] in ("GET", "HEAD") and not scope["path"].startswith("/api/")
        scheme, host = (scope.get("scheme", "http"), host) if self._public is None else ("https", self._public)
        if not reads and not origin_allowed(headers.get("origin"), headers.get("sec-fetch-site"), scheme, host):
            return 403, "the request comes from a page of another site; open this server's own page"
        return None

    def _visitor(self, scope: Scope, headers: dict[str, str], cookie: str | None) -> Visitor:
        peer, forwarded = (scope.get("client") or ("",))[0], headers.get("x-forwarded-for", "")
        address = address_of(peer, forwarded, behind_proxy=self._public is not None)
        return Visitor(address, self.sessions.signed(cookie))


class _Reply:
    """Function ``send`` that adds the headers of every answer.

    It adds the cookie of a new session where there is one.
    """

    def __init__(self, send: Send, sessions: Sessions, *, no_store: bool) -> None:
        self._send, self._sessions, self._no_store = send, sessions, no_store
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
                self._sessions.begin(self.cookie)
                own.append((b"set-cookie", self._sessions.header(self.cookie).encode()))
            message = {**message, "headers": own}
        await self._send(message)

    async def error(self, status: int, sentence: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        body = json.dumps({"error": sentence}).encode()
        # Such a request may be read in two ways, so nothing after it is read.
        closing = [(b"connection", b"close")] if status in (400, 431) else []
        await self._whole(status, [(b"content-type", b"application/json"), *closing, *headers], body)

    async def redirect(self, to: str) -> None:
        await self._whole(303, [(b"location", to.encode())], b"")

    async def _whole(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        length = (b"content-length", str(len(body)).encode())
        await self({"type": "http.response.start", "status": status, "headers": [*headers, length]})
        await self({"type": "http.response.body", "body": body})


def _below(path: str, prefix: str) -> str:
    """Return a request's path without the root path, which some proxies take away themselves."""
    return path[len(prefix) :] if path == prefix or path.startswith(prefix + "/") else path


def _headers(scope: Scope) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        # Two Host or Origin headers could be read in two ways; joined they are neither.
        found[key] = f"{found[key]}; {text}" if key in found else text
    return found


def _bearer(headers: dict[str, str]) -> str:
    scheme, _, given = headers.get("authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else ""


def _size(scope: Scope) -> int:
    target = len(scope.get("raw_path") or b"") + len(scope.get("query_string", b""))
    return target + sum(len(name) + len(value) for name, value in scope["headers"])


def _printable(text: str) -> str:
    return repr(visible(text, "?")[:100])


def _is_upload(scope: Scope) -> bool:
    return scope["method"] == "POST" and (scope["path"] == "/api/cases" or scope["path"].endswith("/edits"))


def _limited(receive: Receive) -> Receive:
    """Return a ``receive`` that refuses long and slow bodies.

    Messages after the body (that the visitor has gone) may take their time.
    """
    taken, end, whole = 0, asyncio.get_running_loop().time() + BODY_SECONDS, False

    async def count() -> Message:
        nonlocal taken, whole
        if whole:
            return await receive()
        try:
            async with asyncio.timeout_at(end):
                message = await receive()
        except TimeoutError:
            raise HTTPException(408, f"the request did not come within {BODY_SECONDS:g} s; send it again") from None
        whole = not message.get("more_body", False)
        taken += len(message.get("body", b""))
        if taken > MAX_JSON_BYTES:
            raise HTTPException(413, f"the request is larger than {MAX_JSON_BYTES} bytes; only uploads may be")
        return message

    return count
