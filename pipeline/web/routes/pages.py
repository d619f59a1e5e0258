"""Page, sign-in, and the files that they load."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from urllib.parse import parse_qs

from fastapi import FastAPI, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from data.errors import UsageError
from pipeline.web.context import Context
from pipeline.web.guesses import TooManyGuesses

_HERE = Path(__file__).resolve().parent.parent  # the folder web/
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
        try:
            if not context.guesses.is_right(fields.get("token", [""])[0].strip(), request.state.visitor):
                return RedirectResponse("/login?wrong", 303)
        except TooManyGuesses:
            return RedirectResponse("/login?wait", 303)
        # Always a new session: another page may have set the old cookie.
        cookie = context.sessions.new()
        context.sessions.begin(cookie)
        return RedirectResponse("/", 303, {"set-cookie": context.sessions.header(cookie)})

    @app.post("/api/sign-out", status_code=204, summary="End this session and remove its cases")
    async def sign_out(request: Request) -> Response:
        await context.end_session(request.state.owner)
        return Response(status_code=204, headers={"set-cookie": context.sessions.farewell()})

    @app.get("/healthz", include_in_schema=False)
    async def health() -> Response:
        return JSONResponse({"status": "ok"})

    @app.get("/static/niivue.umd.js", include_in_schema=False)
    async def viewer() -> Response:
        return FileResponse(niivue, media_type="text/javascript")

    app.mount("/static", StaticFiles(directory=_HERE / "static"))
