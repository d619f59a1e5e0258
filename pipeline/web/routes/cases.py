"""Routes of a case: look, change, run, cancel, listen, download, remove."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from data.find.naming import REFERENCE
from pipeline.web import schema
from pipeline.web.context import NO_CASE, Context, OwnCase, Shared
from pipeline.web.jobs import is_finished
from pipeline.web.names import one_line
from pipeline.web.store import CaseRecord
from pipeline.web.visits.marked import is_followup

_HEARTBEAT_S, _TICK_S = 15.0, 1.0


router = APIRouter()
_MISSING: dict[int | str, dict[str, Any]] = {404: {"model": schema.Problem, "description": "Not in this session."}}
_WRONG: dict[int | str, dict[str, Any]] = _MISSING | {409: {"model": schema.Problem, "description": "Not now."}}


@router.get("/api/cases", response_model=list[schema.CaseInfo], summary="This session's cases, the newest first")
async def cases(request: Request, context: Shared) -> Response:
    records = context.store.of_owner(request.state.owner)
    return Response(b"[" + b",".join(map(context.text, records)) + b"]", media_type="application/json")


@router.get("/api/cases/{case_id}", response_model=schema.CaseInfo, responses=_MISSING, summary="One case")
async def case(context: Shared, record: OwnCase) -> Response:
    return context.reply(record)


@router.patch(
    "/api/cases/{case_id}", response_model=schema.CaseInfo, responses=_WRONG, summary="Say what its files show"
)
async def change(request: Request, case_id: str, changes: schema.Changes, context: Shared) -> Response:
    # Found here and not as OwnCase, so that a body that cannot be read is refused first.
    record = context.case(request, case_id)
    if record.state in ("queued", "running"):
        raise HTTPException(409, f"the case is {record.state}; cancel it before you change it")
    if changes.name is not None:
        record = replace(record, name=one_line(changes.name) or record.name)
    if changes.model is not None and changes.model not in context.checkpoints:
        raise HTTPException(422, f"there is no model {changes.model!r}; choose among {', '.join(context.checkpoints)}")
    if not changes.roles and changes.model is None and changes.prepare is None:
        return context.reply(await context.store.put(record))
    if not record.sources:
        kind = "a follow-up" if is_followup(record) else "an earlier result"
        raise HTTPException(409, f"this is {kind}, whose images are assigned for good")
    record = _with_roles(record, dict(changes.roles))
    wanted = changes.model or record.wanted_model
    prepare = changes.prepare or record.prepare
    record = await context.jobs.recheck(replace(record, wanted_model=wanted, prepare=prepare))
    settled = await context.jobs.settled(case_id, 0.8, lambda r: r.state != "checking")
    return context.reply(settled or record)


@router.post(
    "/api/cases/{case_id}/run",
    status_code=202,
    response_model=schema.CaseInfo,
    responses=_WRONG,
    summary="Make its mask",
)
async def run(request: Request, case_id: str, context: Shared, nothing: schema.Nothing | None = None) -> Response:
    context.case(request, case_id)
    record = await context.jobs.settled(case_id, 30.0, lambda r: r.state != "checking")
    if record is None:
        raise HTTPException(404, NO_CASE)
    if record.state in ("queued", "running"):
        return context.reply(record, 202)
    if not record.can_run or record.state == "checking":
        why = "; ".join(record.problems) or record.error or "it is still being looked at"
        raise HTTPException(409, f"the case cannot run: {why}")
    return context.reply(await context.jobs.run(record), 202)


@router.post("/api/cases/{case_id}/cancel", response_model=schema.CaseInfo, responses=_MISSING, summary="Stop it")
async def cancel(context: Shared, record: OwnCase) -> Response:
    return context.reply(await context.jobs.cancel(record))


@router.delete("/api/cases/{case_id}", status_code=204, responses=_MISSING, summary="Remove it and its files")
async def delete(context: Shared, record: OwnCase) -> Response:
    await context.jobs.delete(record)
    return Response(status_code=204)


@router.get(
    "/api/cases/{case_id}/events",
    responses=_MISSING | {200: {"content": {"text/event-stream": {}}, "description": "One case object an event."}},
    response_class=StreamingResponse,
    summary="Every change of a case, as server-sent events, until nothing more happens",
)
async def events(context: Shared, record: OwnCase) -> Response:
    context.room_to_listen(record.owner)
    return _EventStream(context, record)


@router.get(
    "/api/cases/{case_id}/files/{name:path}",
    response_class=FileResponse,
    responses={404: {"model": schema.Problem, "description": "No such file."}},
    summary="A file of a result",
)
async def file(request: Request, name: str, context: Shared, record: OwnCase) -> Response:
    below = schema.served_path(record, name)
    path = context.jobs.folder(record.id) / below if below is not None else None
    if path is None or not await asyncio.to_thread(path.is_file):
        raise HTTPException(404, "the case has no such file; its result lists those that there are")
    kind = "application/gzip" if path.suffix == ".gz" else "application/octet-stream"
    about = await asyncio.to_thread(path.stat)
    shown = name.startswith("view/")
    reply = FileResponse(path, media_type=kind, filename=None if shown else name, stat_result=about)
    if reply.headers["etag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers={"etag": reply.headers["etag"]})
    return reply


def _with_roles(record: CaseRecord, roles: dict[str, Any]) -> CaseRecord:
    """Return the record with the roles that the user chose.

    A role that another file had goes to the one that is named.
    """
    known = {source.id for source in record.sources}
    if unknown := sorted(set(roles) - known):
        raise HTTPException(422, f"the case has no file {unknown[0]!r}; its files are {', '.join(sorted(known))}")
    if any(source.series and roles.get(source.id) == REFERENCE for source in record.sources):
        raise HTTPException(422, "a DICOM series is no reference mask; give the mask as NIfTI")
    given = [role for role in roles.values() if role is not None]
    if len(set(given)) < len(given):
        twice = next(role for role in given if given.count(role) > 1)
        raise HTTPException(422, f"two files cannot both be {twice}; choose one of them")
    sources = tuple(
        replace(source, role=roles.get(source.id, None if source.role in given else source.role))
        for source in record.sources
    )
    return replace(record, sources=sources)


class _EventStream(StreamingResponse):
    """Stream of a case's events, counted from the start.

    A generator that never begins would never end either, so it cannot count itself.
    """

    def __init__(self, context: Context, record: CaseRecord) -> None:
        super().__init__(_events(context, record.id), media_type="text/event-stream")
        self._counted = context.listening(record.owner)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._counted:
            await super().__call__(scope, receive, send)


async def _events(context: Context, case_id: str) -> AsyncIterator[str]:
    last, silent = "", 0.0
    with context.store.listen(case_id) as changed:
        while (record := context.store.get(case_id)) is not None:
            changed.clear()
            text = context.text(record).decode()
            if text != last:
                yield f"data: {text}\n\n"
                last, silent = text, 0.0
            elif silent >= _HEARTBEAT_S:
                yield ": still here\n\n"
                silent = 0.0
            if is_finished(record):
                return
            await asyncio.sleep(0.05)  # changes within this time are sent as one event
            # The time that is left changes without a change of the record.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), _TICK_S)
            silent += _TICK_S
