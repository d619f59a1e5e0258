"""Sessions of browsers: their cookies, how long they last, and how they end.

A cookie is ``<id>.<HMAC of the id>``; what is kept of it is a digest, when it began and when it was last used.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping

from pipeline.web.settings import Settings

MAX_SESSIONS = 10_000
"""Largest number of sessions. Beyond it, those that hold no case and were unused longest are ended."""
_WRITTEN_EVERY_S = 60.0
_AT_ONCE = 100

Times = tuple[float, float]
"""Beginning and last use of a session, seconds since 1970."""


class Sessions:
    """Sessions of one workspace.

    Parameters
    ----------
    secret : bytes
        The workspace's. The key depends on the token too: with another token (or none) all older sessions end.
    settings : Settings
    known : owner -> Times
        Sessions of an earlier server on this workspace.
    keep : callable
        Writes the times of an owner; None: forget it.
    holds : callable
        Whether an owner has cases.
    now : callable
        Seconds since 1970.
    """

    def __init__(
        self,
        secret: bytes,
        settings: Settings,
        known: Mapping[str, Times] | None = None,
        keep: Callable[[str, Times | None], None] = lambda owner, times: None,
        holds: Callable[[str], bool] = lambda owner: False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._key = hashlib.sha256(secret + (settings.token or "").encode()).digest()
        self._keep, self._holds, self._now = keep, holds, now
        self._age_s, self._idle_s = 3600 * settings.session_hours, 3600 * settings.idle_hours_or_keep
        self._times = dict(known or {})
        self._requests: Counter[str] = Counter()
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._written = {owner: seen for owner, (_, seen) in self._times.items()}
        self._secure = settings.public_url is not None
        # Cookies ignore ports, so two servers on one machine need different names.
        name = "brain_session_" + hashlib.sha256(b"cookie name" + secret).hexdigest()[:8]
        self._path = settings.base
        # Browsers take __Host- for a whole host alone.
        prefix = "__Host-" if self._path == "/" else "__Secure-"
        self.cookie = prefix + name if self._secure else name

    def new(self) -> str:
        """Return a cookie's value for a visitor without one.

        It opens nothing before :meth:`begin`.
        """
        session = secrets.token_hex(16)
        return f"{session}.{self._mac(session)}"

    def begin(self, cookie: str) -> None:
        """Begin the session of a new cookie."""
        if len(self._times) >= MAX_SESSIONS:
            empty = sorted((seen, owner) for owner, (_, seen) in self._times.items() if not self._holds(owner))
            for _, owner in empty[:_AT_ONCE]:
                self.end(owner)
        self._use(self.signed(cookie) or "", self._now())

    def owner(self, cookie: str | None) -> str | None:
        """Return the owner under which this cookie's cases are filed.

        None where we did not make it or it has ended.
        """
        owner = self.signed(cookie)
        if owner is None or owner not in self._times or self._is_over(owner):
            return None
        self._use(owner, self._times[owner][0])
        return owner

    def signed(self, cookie: str | None) -> str | None:
        """Return the owner as :meth:`owner`, also of a session that has ended.

        The browser of such a session once knew the token.
        """
        session, _, mac = (cookie or "").partition(".")
        if not session or not hmac.compare_digest(mac.encode(), self._mac(session).encode()):
            return None
        return hashlib.sha256(session.encode()).hexdigest()[:32]

    def ends(self, owner: str) -> float:
        """Return the latest end of a session, in seconds since 1970.

        For a session that has not begun it is the end of one that begins now.
        """
        return self._times.get(owner, (self._now(), 0.0))[0] + self._age_s

    def end(self, owner: str) -> None:
        """End a session; its cookie opens nothing any more. Nothing happens where there is none."""
        if self._times.pop(owner, None) is not None:
            self._written.pop(owner, None)
            self._keep(owner, None)
            self._ended[owner] = None
            if len(self._ended) > MAX_SESSIONS:
                self._ended.popitem(last=False)

    def has_ended(self, owner: str) -> bool:
        """Return whether the session ended while this server ran.

        One of its requests may still be under way.
        """
        return owner in self._ended

    def over(self) -> list[str]:
        """Return the owners of expired sessions."""
        return [owner for owner in self._times if self._is_over(owner)]

    def under_way(self, owner: str) -> int:
        """Count the requests of this session that are being answered."""
        return self._requests[owner]

    @contextlib.contextmanager
    def in_use(self, owner: str) -> Iterator[None]:
        """Keep a session from being idle until the block is left.

        Uploads and event streams take long.
        """
        self._requests[owner] += 1
        try:
            yield
        finally:
            self._requests[owner] -= 1
            if not self._requests[owner]:
                del self._requests[owner]
            if owner in self._times:
                self._use(owner, self._times[owner][0])

    def from_header(self, header: str) -> str | None:
        """Return the value of our cookie in a ``Cookie`` header.

        None where it is not there.

        Another server on the same host can add cookies of the same name. What we did not make is passed over; of two
        that we made nobody knows which is this browser's, so neither counts.
        """
        pairs = (pair.strip().partition("=") for pair in header.split(";"))
        ours = {value for name, _, value in pairs if name == self.cookie and self.signed(value)}
        return ours.pop() if len(ours) == 1 else None

    def header(self, value: str) -> str:
        """Return the ``Set-Cookie`` header of a session.

        The cookie lasts for this browser session, hidden from scripts and other sites.
        """
        secure = "; Secure" if self._secure else ""
        return f"{self.cookie}={value}; Path={self._path}; HttpOnly; SameSite=Strict{secure}"

    def farewell(self) -> str:
        """Return the ``Set-Cookie`` header that removes the cookie from the browser."""
        return self.header("") + "; Max-Age=0"

    def _is_over(self, owner: str) -> bool:
        (born, seen), now = self._times[owner], self._now()
        return now >= born + self._age_s or (now >= seen + self._idle_s and owner not in self._requests)

    def _use(self, owner: str, born: float) -> None:
        now = self._now()
        self._times[owner] = (born, now)
        if now >= self._written.get(owner, 0.0) + min(_WRITTEN_EVERY_S, self._idle_s / 10):
            self._written[owner] = now
            self._keep(owner, (born, now))

    def _mac(self, session: str) -> str:
        return hmac.new(self._key, session.encode(), hashlib.sha256).hexdigest()
