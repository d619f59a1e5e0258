"""The page, the way in, and the files that they load."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path
from urllib.parse import parse_qs

from fastapi import FastAPI, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from data.errors import UsageError
from pipeline.web.context import Context
from pipeline.web.security import same_secret, session_cookie

_HERE = Path(__file__).resolve().parent
_NIIVUE = "_assets/js/niivue.umd.js"


def niivue_file() -> Path:
    """NiiVue in nilearn's wheel, found without importing nilearn. Raises UsageError where it is not there."""
    spec = importlib.util.find_spec("nilearn")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / _NIIVUE).is_file():
            return path
    raise UsageError("the viewer needs NiiVue, which this nilearn does not carry; install nilearn 0.14.1")


def add_pages(app: FastAPI, context: Context) -> None:
    niivue = niivue_file()

    def page(name: str) -> HTMLResponse:
        return HTMLResponse((_HERE / "templates" / name).read_text(encoding="utf-8"))

    @app.get("/", include_in_schema=False)
    def index() -> Response:
        return page("index.html")

    @app.get("/login", include_in_schema=False)
    def login() -> Response:
        return page("login.html")

    @app.post("/login", include_in_schema=False)
    async def sign_in(request: Request) -> Response:
        fields = parse_qs((await request.body()).decode("utf-8", "replace"))
        if not same_secret(fields.get("token", [""])[0].strip(), context.settings.token or ""):
            await asyncio.sleep(0.5)
            return RedirectResponse("/login?wrong", 303)
        reply = RedirectResponse("/", 303)
        reply.headers["set-cookie"] = session_cookie(context.sessions.new())
        return reply

    @app.get("/healthz", include_in_schema=False)
    async def health() -> Response:
        return JSONResponse({"status": "ok"})

    @app.get("/static/niivue.umd.js", include_in_schema=False)
    async def viewer() -> Response:
        return FileResponse(niivue, media_type="text/javascript")

    app.mount("/static", StaticFiles(directory=_HERE / "static"))
