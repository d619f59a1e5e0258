"""Routes of uploads: a patient's images, and an edited mask."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from pipeline.web import schema
from pipeline.web.context import NO_CASE, Context, OwnCase, Shared
from pipeline.web.intake.uploads import receive_file, receive_form
from pipeline.web.jobs import new_case_id
from pipeline.web.names import one_line
from pipeline.web.store import CaseRecord, sources_from
from pipeline.web.visits.marked import day_in, is_followup

router = APIRouter()
_FORM = {
    "type": "object",
    "required": ["files"],
    "properties": {
        "files": {"type": "array", "items": {"type": "string", "format": "binary"}},
        "name": {"type": "string", "description": "What to call the patient."},
    },
}
_UPLOAD = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}}
_MASK = {"requestBody": {"required": True, "content": {"application/octet-stream": {}}}}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    413: {"model": schema.Problem, "description": "Larger than the server takes."},
    422: {"model": schema.Problem, "description": "Nothing in it can be used."},
    429: {"model": schema.Problem, "description": "Too many cases."},
    507: {"model": schema.Problem, "description": "No room on the server's disk."},
}


@router.post(
    "/api/cases",
    status_code=201,
    response_model=schema.CaseInfo,
    responses=_REFUSALS,
    openapi_extra=_UPLOAD,
    summary="Upload one patient: images, a DICOM examination, slices, or a .zip of them",
)
async def create(request: Request, context: Shared) -> Response:
    context.room_for_one(request.state.owner)
    record = context.new_record(request.state.owner, "patient")
    folder = await asyncio.to_thread(context.jobs.folders.make, record.id)
    try:
        fields, found = await _receive(request, context, record, folder / "incoming")
    except BaseException:
        await asyncio.to_thread(context.jobs.folders.remove, record.id)
        raise
    name = (one_line(fields.get("name", "")) or found["name"])[:200]
    record = replace(
        record,
        name=name,
        date=found["date"] or day_in(name),
        sources=sources_from(found["sources"]),
        layout=found["layout"],
        layout_reason=found["layout_reason"],
        conventions=tuple(found["conventions"]),
        notes=tuple(found["notes"]),
        ties=tuple((role, sentence) for role, sentence in found["ties"]),
    )
    return context.reply(await context.admit(record), 201)


async def _receive(
    request: Request, context: Context, record: CaseRecord, incoming: Path
) -> tuple[dict[str, str], dict[str, Any]]:
    """Stream the form to ``incoming`` and have it recognised.

    Returns its fields, and the parts of the record that were found.
    """
    await asyncio.to_thread(incoming.mkdir)
    with context.receiving(request):
        received, fields = await receive_form(request, incoming, context.settings.max_upload_bytes)
    files = [{"name": item.name, "path": f"{incoming.name}/{item.path.name}"} for item in received]
    about = {"do": "take", "received": files, "max_unpacked": context.settings.max_unpacked_bytes}
    found: dict[str, Any] = await context.jobs.ask_checker(record, about)
    await asyncio.to_thread(shutil.rmtree, incoming, True)
    return fields, found


@router.post(
    "/api/cases/{case_id}/edits",
    response_model=schema.CaseInfo,
    responses={413: _REFUSALS[413], 422: _REFUSALS[422]},
    openapi_extra=_MASK,
    summary="Keep an edited mask beside the mask",
)
async def edit(request: Request, context: Shared, record: OwnCase) -> Response:
    if is_followup(record):
        raise HTTPException(409, "this is a follow-up, which has no mask of its own; edit that of a visit")
    if record.state != "done" or record.result is None:
        raise HTTPException(409, f"the case is {record.state}; only a finished mask can be edited")
    folder = context.jobs.folder(record.id)
    try:
        with context.receiving(request):
            path = await _take_body(request, folder, context.settings.max_upload_bytes)
    except FileNotFoundError:  # the case was removed meanwhile, by its user or with the session
        raise HTTPException(404, NO_CASE) from None
    mask = next(iter(record.downloads.values()))["path"]
    about = {"do": "edit", "mask": mask, "upload": path}
    about |= {"convention": record.result["convention"], "model": record.result["model"]}
    try:
        answer = await context.jobs.ask_checker(record, about)
    finally:  # the checking process removes the file, unless it dies or is stopped
        await asyncio.to_thread((folder / path).unlink, missing_ok=True)
    now = context.store.get(record.id)
    if now is None or now.result is not record.result:
        raise HTTPException(409, "the case was run again meanwhile; edit the mask that it has then")
    return context.reply(await context.store.put(replace(now, downloads=answer["downloads"])))


async def _take_body(request: Request, folder: Path, limit: int) -> str:
    """Save the body as a file; return its name within ``folder``.

    The name's ending says whether it is packed.
    """
    name = f"upload-{new_case_id()}"
    path = folder / name
    try:
        await receive_file(request, path, limit)
        with path.open("rb") as file:
            final = name + (".nii.gz" if file.read(2) == b"\x1f\x8b" else ".nii")
        path.rename(folder / final)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return final
