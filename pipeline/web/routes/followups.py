"""Route of a follow-up: finished cases as visits of one patient."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from pipeline.follow.criteria import criterion_named
from pipeline.web import schema
from pipeline.web.context import Shared
from pipeline.web.names import one_line
from pipeline.web.store import CaseRecord
from pipeline.web.visits.marked import TASK, about, is_finished_case, mark_visits, patient_of
from pipeline.web.visits.objects import Marks

router = APIRouter()
_REFUSALS: dict[int | str, dict[str, Any]] = {
    404: {"model": schema.Problem, "description": "A case is not in this session."},
    409: {"model": schema.Problem, "description": "A case is not finished."},
    422: {"model": schema.Problem, "description": "The visits cannot be compared."},
    429: {"model": schema.Problem, "description": "Too many cases."},
    507: {"model": schema.Problem, "description": "No room on the server's disk."},
}


@router.post(
    "/api/followups",
    status_code=201,
    response_model=schema.CaseInfo,
    responses=_REFUSALS,
    summary="Compare finished cases as visits of one patient",
)
async def follow(request: Request, marks: Marks, context: Shared) -> Response:
    owner = request.state.owner
    context.room_for_one(owner)
    criterion_named(marks.criterion)
    cases = [context.case(request, mark.case) for mark in marks.visits]
    _require_visits(cases)
    visits = mark_visits(cases, [mark.date for mark in marks.visits])
    name = one_line(marks.name) or patient_of(cases)
    record = context.new_record(
        owner, name, task=TASK, task_about=about(visits, marks.criterion), can_run=True, model="", voxels=len(visits)
    )
    await asyncio.to_thread(context.jobs.folders.make, record.id)
    return context.reply(await context.admit(record), 201)


def _require_visits(cases: list[CaseRecord]) -> None:
    if len({case.id for case in cases}) < len(cases):
        raise HTTPException(422, "one case cannot be two visits; name each once")
    for case in cases:
        if not is_finished_case(case):
            raise HTTPException(409, f"{case.name}: has no finished mask; a visit needs one")
        if case.result is not None and not case.result["spacing_known"]:
            raise HTTPException(
                422, f"{case.name}: its files do not say how large a voxel is, so it cannot be compared"
            )
