"""Connections of the server: their number, their silence, and answers outside the app.

uvicorn's own protocol on h11 has no limit for a header that comes slowly, and answers what h11 cannot read by itself.
"""

from __future__ import annotations

import asyncio
import json
import time
from http import HTTPStatus

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from pipeline.web.security import HEADERS

MAX_CONNECTIONS = 600
"""Largest number at once, below the 1024 open files that a process may have by default."""
HEADER_SECONDS = 20.0
"""Limit on the head of a request, from the connection's start or the last answer on."""
REST_SECONDS = 5.0
"""Limit on the rest of a request that is answered already."""
UNREAD_SECONDS = 60.0
"""Limit on the time for which an answer stays unread."""


class Connection(H11Protocol):
    """One connection, within the limits of this module.

    Where there are too many, the oldest one goes of those that wait for the head of a request or work for a visitor who
    was not let in: neither silence nor slowness of strangers keeps anybody out. Where all work for those who were, the
    new one is refused.
    """

    _silence: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    waiting_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.waiting_since = time.monotonic()
        if len(self.connections) > MAX_CONNECTIONS and not self._make_room():
            return self._answer(503, "the server has too many visitors; try again in a minute")
        return self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._silence, self._unread):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.waiting_since = time.monotonic()
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Answer a request that h11 cannot read, in the app's form.

        That is a sentence, and the headers of every answer.
        """
        self._answer(400, "this is no HTTP/1.1 request that can be read, or its head is too large")

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: uvicorn would have one install web sockets, which nothing here uses."""

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()

    @property
    def waits(self) -> bool:
        """True while the head of a request is to come."""
        return self.conn.their_state is h11.IDLE

    @property
    def is_expendable(self) -> bool:
        """True where its end costs no signed-in visitor anything."""
        return self.waits or not self.scope["state"].get("let_in")

    def _make_room(self) -> bool:
        others = [other for other in self.connections if isinstance(other, Connection) and other is not self]
        going = [other for other in others if other.is_expendable]
        oldest = min(going, key=lambda other: other.waiting_since, default=None)
        if oldest is not None:
            self.connections.discard(oldest)
            oldest.transport.abort()
        return oldest is not None

    def _watch(self) -> None:
        """Have the time run where something is to come, and only there."""
        answered = self.cycle is not None and self.cycle.response_complete
        rest = answered and self.conn.their_state is h11.SEND_BODY
        if not (self.waits or rest):
            if self._silence is not None:
                self._silence.cancel()
            self._silence = None
        elif self._silence is None and not self.transport.is_closing():
            self._silence = self.loop.call_later(REST_SECONDS if rest else HEADER_SECONDS, self.transport.close)

    def _answer(self, status: int, sentence: str) -> None:
        if self.cycle is not None:
            self.cycle.disconnected = True  # an answer of the app to a broken request would come too late
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps({"error": sentence}).encode()
            own = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            own += [(b"connection", b"close"), (b"cache-control", b"no-store")]
            reason = HTTPStatus(status).phrase.encode()
            head = h11.Response(status_code=status, headers=[*own, *HEADERS], reason=reason)
            for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
