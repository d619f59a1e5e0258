"""Lists to choose from: models, examples, earlier results."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from pipeline.web import schema
from pipeline.web.compute.gallery import GALLERY, example_sources, find_example
from pipeline.web.compute.process import JobFailed
from pipeline.web.context import Context, Shared
from pipeline.web.jobs import Jobs
from pipeline.web.names import one_line

log = logging.getLogger(__name__)


class EarlierResults:
    """Finished patients of a `segment` run's folder.

    The checker reads them again when its report.csv changes.
    """

    def __init__(self, root: Path | None, jobs: Jobs) -> None:
        self.root, self.jobs, self._read, self._found = root, jobs, (0, 0), dict[str, str]()
        self._reading = asyncio.Lock()

    async def listing(self, owner: str) -> dict[str, str]:
        """Return id -> case id.

        Empty without a folder, where nothing is finished, or where it cannot be read.
        """
        if self.root is None:
            return {}
        async with self._reading:
            try:
                state = await asyncio.to_thread(os.stat, self.root / "report.csv")
                if self._read != (state.st_mtime_ns, state.st_size):
                    self._found, self._read = {}, (state.st_mtime_ns, state.st_size)
                    self._found = await self.jobs.earlier_results(owner)
            except (OSError, JobFailed) as error:
                log.warning("no earlier results: %s", error)
                return {}
            return self._found


async def _earlier(request: Request) -> EarlierResults:
    """Return the earlier results of the app that answers."""
    earlier: EarlierResults = request.app.state.earlier
    return earlier


_Earlier = Annotated[EarlierResults, Depends(_earlier)]


router = APIRouter()


@router.get("/api/models", response_model=list[schema.ModelInfo], summary="The models that can be chosen")
async def models(context: Shared) -> Response:
    return JSONResponse(context.models)


@router.get("/api/gallery", response_model=list[schema.GalleryEntry], summary="Phantom patients to try")
async def gallery() -> Response:
    return JSONResponse([{"id": e.id, "title": e.title, "text": e.text} for e in GALLERY])


@router.post(
    "/api/gallery/{example_id}", status_code=201, response_model=schema.CaseInfo, summary="Make a phantom a case"
)
async def from_gallery(request: Request, example_id: str, context: Shared) -> Response:
    entry = find_example(example_id)
    if entry is None:
        raise HTTPException(404, f"the gallery has {', '.join(e.id for e in GALLERY)} and no other")
    about: dict[str, Any] = {
        "sources": example_sources(entry),
        "layout": "brats2023",
        "layout_reason": "an example of the gallery",
    }
    return await _new_case(context, request, entry.title, "example", entry.id, conventions=("brats2023",), **about)


@router.get("/api/results", response_model=list[schema.ResultEntry], summary="Finished patients of --data")
async def results(request: Request, earlier: _Earlier) -> Response:
    found = await earlier.listing(request.state.owner)
    return JSONResponse([{"id": key, "title": one_line(title)} for key, title in found.items()])


@router.post(
    "/api/results/{result_id}", status_code=201, response_model=schema.CaseInfo, summary="Open a finished patient"
)
async def open_result(request: Request, result_id: str, context: Shared, earlier: _Earlier) -> Response:
    title = (await earlier.listing(request.state.owner)).get(result_id)
    if title is None:
        raise HTTPException(404, "there is no such earlier result; look at the list again")
    return await _new_case(context, request, one_line(title), "open", title, wait_s=60.0)


async def _new_case(
    context: Context, request: Request, name: str, task: str, task_about: str, *, wait_s: float = 0.0, **about: Any
) -> Response:
    context.room_for_one(request.state.owner)
    record = context.new_record(request.state.owner, name, task=task, task_about=task_about, **about)
    await asyncio.to_thread(context.jobs.folders.make, record.id)
    record = await context.admit(record)
    settled = await context.jobs.settled(record.id, wait_s, lambda r: r.state != "checking")
    return context.reply(settled or record, 201)
