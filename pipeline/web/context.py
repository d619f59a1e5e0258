"""State and checks that all routes share.

A case is found, begun and shown here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import Depends, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from data.find.naming import load_layouts
from data.regular_file import read_regular_file
from pipeline.checkpoint import Checkpoint, open_checkpoint, shipped_models
from pipeline.web import schema
from pipeline.web.guesses import Guesses
from pipeline.web.jobs import Jobs, new_case_id
from pipeline.web.sessions import Sessions
from pipeline.web.settings import Settings
from pipeline.web.store import CaseRecord, Store
from pipeline.web.workspace import DATABASE, open_workspace

log = logging.getLogger(__name__)

MAX_CASES, MAX_LISTENERS, MAX_UPLOADS = 200, 16, 8
"""Limits per session: cases, event streams at once, uploads at once."""
ALL_LISTENERS = 400
_SWEEP_S = 30.0
DISK_FULL = "the server's disk is nearly full; try again later, or remove cases"
NO_CASE = "there is no such case in this session; it may have been removed after its time"


class Context:
    """Settings, cases, jobs, models and limits that all routes share."""

    def __init__(self, settings: Settings, job_function: str, check_function: str) -> None:
        workspace = settings.workspace
        open_workspace(workspace)
        self.settings = settings
        self.store = Store(workspace / DATABASE)
        self.sessions = Sessions(
            self.store.secret,
            settings,
            self.store.sessions,
            keep=self.store.keep_session,
            holds=lambda owner: bool(self.store.of_owner(owner)),
        )
        self.guesses = Guesses(settings.token)
        self.checkpoints = {c.name: c for c in map(open_checkpoint, settings.models)} or {
            c.name: c for c in shipped_models()
        }
        paths = {name: str(checkpoint.path.resolve()) for name, checkpoint in self.checkpoints.items()}
        self.jobs = Jobs(settings, self.store, paths, job_function, check_function)
        self.models: list[dict[str, Any]] = [_model_info(c) for c in self.checkpoints.values()]
        self.text = schema.CaseTexts(self.jobs)
        self.listeners: Counter[str] = Counter()
        self.uploads: Counter[str] = Counter()
        self._promised = 0
        """Bytes that uploads under way may still write."""
        load_layouts()  # now, so that the first user does not wait for it

    def case(self, request: Request, case_id: str) -> CaseRecord:
        """Return a case of the session that asks.

        The case of another session gives the same 404 as one that does not exist.
        """
        record = self.store.get(case_id, request.state.owner)
        if record is None:
            raise HTTPException(404, NO_CASE)
        return record

    def reply(self, record: CaseRecord, status: int = 200) -> Response:
        """Return a case as a JSON reply."""
        return Response(self.text(record), status, media_type="application/json")

    def new_record(self, owner: str, name: str, **about: Any) -> CaseRecord:
        """Make the record of a new case."""
        now = time.time()
        # Without its session a case cannot be opened, so it ends with the session.
        expires = min(now + 3600 * self.settings.keep_hours, self.sessions.ends(owner))
        return CaseRecord(new_case_id(), owner, name[:200], "checking", now, expires, **about)

    async def admit(self, record: CaseRecord) -> CaseRecord:
        """Keep a new case, if its session still lasts and has room for it.

        Else its folder is removed.
        """
        try:
            if self.sessions.has_ended(record.owner):
                raise HTTPException(
                    401, "this session ended meanwhile; open the page again, and send the case once more"
                )
            self._count_cases(record.owner)
        except HTTPException:
            await asyncio.to_thread(self.jobs.folders.remove, record.id)
            raise
        return await self.jobs.admit(record)

    @contextlib.contextmanager
    def listening(self, owner: str) -> Iterator[None]:
        """Count one more event stream of this session until the block is left."""
        self.listeners[owner] += 1
        try:
            yield
        finally:
            self.listeners[owner] -= 1
            self.listeners += Counter()  # drop owners at zero

    def room_to_listen(self, owner: str) -> None:
        """Refuse an event stream that would be too many."""
        if self.listeners[owner] >= MAX_LISTENERS:
            raise HTTPException(429, f"this session has {MAX_LISTENERS} event streams; close some, or ask for the case")
        if self.listeners.total() >= ALL_LISTENERS:
            raise HTTPException(503, "too many listen; ask for the case instead")

    @contextlib.contextmanager
    def receiving(self, request: Request) -> Iterator[None]:
        """Count one more upload of this session until the block is left.

        Its room on the disk is kept for it.
        """
        owner, most = request.state.owner, self.settings.max_upload_bytes
        if self.uploads[owner] >= MAX_UPLOADS:
            raise HTTPException(429, f"this session has {MAX_UPLOADS} uploads under way; wait until one ends")
        announced = request.headers.get("content-length", "")
        room = min(int(announced), most) if announced.isascii() and announced.isdigit() else most
        self.room_on_disk(room)
        self.uploads[owner] += 1
        self._promised += room
        try:
            yield
        finally:
            self._promised -= room
            self.uploads[owner] -= 1
            self.uploads += Counter()  # drop owners at zero

    async def end_session(self, owner: str) -> None:
        """End a session and remove its cases, which no cookie opens any more."""
        self.sessions.end(owner)
        for record in self.store.of_owner(owner):
            await self.jobs.delete(record)

    async def end_old_sessions(self) -> None:
        """End expired sessions, in a loop that never returns."""
        while True:
            for owner in self.sessions.over():
                try:
                    await self.end_session(owner)
                except Exception:  # the next session must end all the same
                    log.exception("a session could not be ended")
            await asyncio.sleep(
                min(_SWEEP_S, self.settings.session_hours * 900, self.settings.idle_hours_or_keep * 900)
            )

    def room_for_one(self, owner: str) -> None:
        """Refuse a case that exceeds the session's number or the room on the disk."""
        self._count_cases(owner)
        self.room_on_disk()

    def _count_cases(self, owner: str) -> None:
        if len(self.store.of_owner(owner)) >= MAX_CASES:
            raise HTTPException(429, f"this session has {MAX_CASES} cases; remove some first")

    def room_on_disk(self, more: int = 0) -> None:
        """Refuse so many more bytes where the disk has no room for them.

        The room that uploads under way may still need counts as taken.
        """
        free = shutil.disk_usage(self.settings.workspace).free
        if free < 2 * self.settings.max_upload_bytes + self._promised + more:
            raise HTTPException(507, DISK_FULL)


LARGEST_CARD = 2**18
"""Limit in bytes on a model's card; a longer card is not shown."""


def _model_info(checkpoint: Checkpoint) -> dict[str, Any]:
    card = checkpoint.path.with_suffix(".md")
    listing = checkpoint.as_listing()
    about = {key: listing[key] for key in ("name", "modalities", "regions", "scores", "licence")}
    try:
        text = read_regular_file(card, LARGEST_CARD).decode("utf-8", "replace")
    except (OSError, ValueError):
        text = ""
    return about | {"trained_on": str(listing["trained_on"]), "card": text}


async def _context(request: Request) -> Context:
    """Return the context of the app that answers.

    The function is async, so that it runs in the event loop's thread.
    """
    context: Context = request.app.state.context
    return context


Shared = Annotated[Context, Depends(_context)]
"""Parameter of a route: the context."""


async def _own_case(request: Request, case_id: str, context: Shared) -> CaseRecord:
    """Return the case of the path, as :meth:`Context.case`."""
    return context.case(request, case_id)


OwnCase = Annotated[CaseRecord, Depends(_own_case)]
"""Parameter of a route: the case of its path, which belongs to the session that asks."""
