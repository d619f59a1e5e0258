"""Web app, put together from its routes and the layer that guards them.

Nothing is computed here.

Nothing in its routes waits for a disk or a processor: files are written in threads, images are read and masks made in
the processes of `pipeline.web.jobs`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import webbrowser
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.staticfiles import StaticFiles

from data.errors import SegmentationError, UsageError
from pipeline import __version__
from pipeline.web.compute.process import JobFailed
from pipeline.web.context import DISK_FULL, Context
from pipeline.web.intake.uploads import TooLarge, TooLargeReply
from pipeline.web.protocol import Connection
from pipeline.web.routes import cases, followups, incoming, lists, pages
from pipeline.web.routes.lists import EarlierResults
from pipeline.web.routes.pages import niivue_file
from pipeline.web.security import Guard
from pipeline.web.settings import Settings, check_settings

log = logging.getLogger(__name__)

_JOB, _CHECK = "pipeline.web.compute.perform:job_process", "pipeline.web.compute.perform:check_process"


def create_app(settings: Settings, *, job_function: str = _JOB, check_function: str = _CHECK) -> FastAPI:
    """Open the workspace and put the app together.

    Parameters
    ----------
    settings : Settings
    job_function, check_function : str
        ``module:name`` of what the two processes run; tests put faults there.

    Raises
    ------
    data.errors.UsageError, data.errors.CheckpointError
        It may not start like this.
    """
    check_settings(settings)
    context = Context(settings, job_function, check_function)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await context.jobs.start()
        ending = asyncio.create_task(context.end_old_sessions())
        yield
        ending.cancel()
        await context.jobs.stop()
        await context.store.close()

    app = FastAPI(
        title="Brain tumour segmentation",
        version=__version__,
        description="From a patient's MRI to a tumour mask. Research use only. A session's cookie is set by the first "
        "reply; a session sees its own cases alone.",
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
        servers=[{"url": settings.base[:-1]}] if settings.prefix else None,
    )
    app.state.context = context
    app.state.earlier = EarlierResults(settings.data, context.jobs)
    app.state.niivue = niivue_file()
    app.add_middleware(Guard, settings=settings, sessions=context.sessions, guesses=context.guesses)
    for kind in (HTTPException, RequestValidationError, SegmentationError, JobFailed, TooLarge, OSError):
        app.add_exception_handler(kind, _explain)
    for routes in (pages, lists, incoming, followups, cases):
        app.include_router(routes.router)
    app.mount("/static", StaticFiles(directory=pages.STATIC))
    return app


async def _explain(_: Request, error: Exception) -> Response:
    if isinstance(error, TooLarge):
        return TooLargeReply(str(error))
    if isinstance(error, HTTPException):
        return JSONResponse({"error": str(error.detail)}, error.status_code)
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        where = where.encode("ascii", "backslashreplace").decode()[:100]
        return JSONResponse({"error": f"{where or 'the request'}: {first['msg']}; see /api/openapi.json"}, 422)
    if isinstance(error, OSError):
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise error
        return JSONResponse({"error": DISK_FULL}, 507)
    return JSONResponse({"error": str(error)}, 422)


def uvicorn_options() -> dict[str, Any]:
    """Return uvicorn's options, without the address on which it listens."""
    return {
        "access_log": False,  # it would show the ids of cases to readers of the log
        "server_header": False,
        "proxy_headers": False,
        "timeout_keep_alive": 15,
        "timeout_graceful_shutdown": 3,
        "http": Connection,
        "ws": "none",
        "log_level": "warning",
        "use_colors": False if os.environ.get("NO_COLOR") else None,  # None: on a terminal
    }


def serve(settings: Settings) -> None:
    """Run the app until it is stopped.

    It logs the address of the page once it answers. Raises as :func:`create_app`; UsageError where it cannot listen.
    """
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.started:
                address = _address(settings, door.getsockname()[1])
                log.info("the page is at %s; Ctrl-C stops it", address)
                if settings.open and not await asyncio.to_thread(webbrowser.open, address):
                    log.warning("no browser could be started here; open the address yourself")

    app = create_app(settings)
    with _listen(settings) as door:
        Server(uvicorn.Config(app, **uvicorn_options())).run(sockets=[door])


def _listen(settings: Settings) -> socket.socket:
    """Return a socket that listens. Raises UsageError where the address or the port cannot be had."""
    host, family = settings.host.strip("[]"), socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        door = socket.create_server((host, settings.port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(f"--port {settings.port}: another program listens there; give another --port") from None
        if error.errno == errno.EACCES:
            raise UsageError(f"--port {settings.port}: needs rights that you lack; give one from 1024 on") from None
        raise UsageError(f"--host {settings.host}: not an address of this machine; give 127.0.0.1 or 0.0.0.0") from None
    # asyncio sets it for sockets that it opens itself; without it every answer takes 40 ms.
    door.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return door


def _address(settings: Settings, port: int) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = (settings.public_url or f"http://{host}:{port}").rstrip("/")
    return address + settings.base if settings.prefix else address


__all__ = ["Settings", "create_app", "niivue_file", "serve", "uvicorn_options"]
