"""What a user may choose from: models, examples, earlier results."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from data.errors import SegmentationError
from pipeline.label_maps import find_label_maps
from pipeline.web import schema
from pipeline.web.context import Context
from pipeline.web.gallery import GALLERY, example_sources, find_example

log = logging.getLogger(__name__)


def add_lists(app: FastAPI, context: Context) -> None:
    earlier = _EarlierResults(context.settings.data)

    @app.get("/api/models", response_model=list[schema.ModelInfo], summary="The models that can be chosen")
    async def models() -> Response:
        return JSONResponse(context.models)

    @app.get("/api/gallery", response_model=list[schema.GalleryEntry], summary="Phantom patients to try")
    async def gallery() -> Response:
        return JSONResponse([{"id": e.id, "title": e.title, "text": e.text} for e in GALLERY])

    @app.post(
        "/api/gallery/{example_id}", status_code=201, response_model=schema.CaseInfo, summary="Make a phantom a case"
    )
    async def from_gallery(request: Request, example_id: str) -> Response:
        entry = find_example(example_id)
        if entry is None:
            raise HTTPException(404, f"the gallery has {', '.join(e.id for e in GALLERY)} and no other")
        about: dict[str, Any] = {
            "sources": example_sources(entry),
            "layout": "brats2023",
            "layout_reason": "an example of the gallery",
        }
        return await new_case(request, entry.title, "example", entry.id, conventions=("brats2023",), **about)

    @app.get("/api/results", response_model=list[schema.ResultEntry], summary="Finished patients of --data")
    async def results() -> Response:
        found = await asyncio.to_thread(earlier.listing)
        return JSONResponse([{"id": key, "title": title} for key, title in found.items()])

    @app.post(
        "/api/results/{result_id}", status_code=201, response_model=schema.CaseInfo, summary="Open a finished patient"
    )
    async def open_result(request: Request, result_id: str) -> Response:
        title = (await asyncio.to_thread(earlier.listing)).get(result_id)
        if title is None:
            raise HTTPException(404, "there is no such earlier result; look at the list again")
        return await new_case(request, title, "open", title, wait_s=60.0)

    async def new_case(
        request: Request, name: str, task: str, task_about: str, *, wait_s: float = 0.0, **about: Any
    ) -> Response:
        context.room_for_one(request.state.owner)
        record = context.new_record(request.state.owner, name, task=task, task_about=task_about, **about)
        await asyncio.to_thread(context.jobs.folders.make, record.id)
        record = await context.admit(record)
        settled = await context.jobs.settled(record.id, wait_s, lambda r: r.state != "checking")
        return context.reply(settled or record, 201)


class _EarlierResults:
    """The finished patients of a folder of `segment`, read again when its report.csv changes."""

    def __init__(self, root: Path | None) -> None:
        self.root, self._read, self._found = root, (0, 0), dict[str, str]()

    def listing(self) -> dict[str, str]:
        """Id -> case id; empty without a folder, or where nothing is finished."""
        if self.root is None:
            return {}
        try:
            state = os.stat(self.root / "report.csv")
            if self._read != (state.st_mtime_ns, state.st_size):
                found = [
                    item.case.case_id for item in find_label_maps(self.root) if item.case.reference and item.reported
                ]
                self._found = {hashlib.sha256(case.encode("utf-8", "replace")).hexdigest()[:32]: case for case in found}
                self._read = (state.st_mtime_ns, state.st_size)
        except (OSError, SegmentationError) as error:
            log.info("no earlier results: %s", error)
            return {}
        return self._found
