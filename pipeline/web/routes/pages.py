"""Page, sign-in, and the files that they load."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response

from data.errors import UsageError
from pipeline.web.context import Shared
from pipeline.web.guesses import TooManyGuesses

router = APIRouter()
_HERE = Path(__file__).resolve().parent.parent  # the folder web/
STATIC = _HERE / "static"
_CURVE = _HERE.parent / "report" / "curve.css"
_NIIVUE = "_assets/js/niivue.umd.js"


def niivue_file() -> Path:
    """NiiVue in nilearn's wheel, found without importing nilearn. Raises UsageError where it is not there."""
    spec = importlib.util.find_spec("nilearn")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / _NIIVUE).is_file():
            return path
    raise UsageError("the viewer needs NiiVue, which this nilearn does not carry; install nilearn 0.14.1")


@router.get("/", include_in_schema=False)
def index() -> Response:
    return _page("index.html")


@router.get("/login", include_in_schema=False)
def login() -> Response:
    return _page("login.html")


@router.post("/login", include_in_schema=False)
async def sign_in(request: Request, context: Shared) -> Response:
    fields = parse_qs((await request.body()).decode("utf-8", "replace"))
    try:
        if not context.guesses.is_right(fields.get("token", [""])[0].strip(), request.state.visitor):
            return RedirectResponse("login?wrong", 303)
    except TooManyGuesses:
        return RedirectResponse("login?wait", 303)
    # Always a new session: another page may have set the old cookie.
    cookie = context.sessions.new()
    context.sessions.begin(cookie)
    return RedirectResponse("./", 303, {"set-cookie": context.sessions.header(cookie)})


@router.post("/api/sign-out", status_code=204, summary="End this session and remove its cases")
async def sign_out(request: Request, context: Shared) -> Response:
    await context.end_session(request.state.owner)
    return Response(status_code=204, headers={"set-cookie": context.sessions.farewell()})


@router.get("/healthz", include_in_schema=False)
async def health() -> Response:
    return JSONResponse({"status": "ok"})


@router.get("/static/curve.css", include_in_schema=False)
async def curve_style() -> Response:
    return FileResponse(_CURVE, media_type="text/css")


@router.get("/static/niivue.umd.js", include_in_schema=False)
async def viewer(request: Request) -> Response:
    return FileResponse(request.app.state.niivue, media_type="text/javascript")


def _page(name: str) -> HTMLResponse:
    return HTMLResponse((_HERE / "templates" / name).read_text(encoding="utf-8"))
