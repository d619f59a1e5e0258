"""Uploads, streamed to the disk under a limit.

Names are kept as texts; files get names of our own.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from data.errors import InputError
from pipeline.web.names import Received, clean_name

MAX_FILES = 4096
"""Limit on the files of one upload. Stacks of slices have most, a few hundred."""
PIECE_BYTES = 2**20
"""Bytes of an upload that are in memory at a time."""
STALLED_S = 60.0
"""An upload without a byte for so long is given up."""
SLOWEST_BYTES_A_SECOND = 16 * 2**10
"""An upload that is slower than this after the first minute is given up."""
_LONGEST_FIELD, _MAX_FIELDS = 1024, 16


class TooLarge(Exception):
    """Refusal of an upload beyond the limit; its text is for the user."""


@dataclass
class _Form:
    """State of one form while it comes in.

    The parser calls it, in a thread.
    """

    folder: Path
    files: list[Received] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)
    complete: bool = False
    parts: int = 0
    header: list[bytes] = field(default_factory=lambda: [b"", b""])
    disposition: bytes = b""
    target: BinaryIO | None = None
    text: bytearray | None = None
    key: str = ""

    def part_begin(self) -> None:
        self.parts += 1
        if self.parts > MAX_FILES + _MAX_FIELDS:
            raise InputError(
                f"the upload's form has more than {MAX_FILES + _MAX_FIELDS} parts; drop one patient at a time"
            )
        self.disposition = b""
        self.target, self.text, self.key = None, None, ""
        self.header = [b"", b""]

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self.header[0] += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self.header[1] += data[start:end]

    def header_end(self) -> None:
        if self.header[0].lower() == b"content-disposition":
            self.disposition = self.header[1]
        self.header = [b"", b""]

    def headers_finished(self) -> None:
        _, options = parse_options_header(self.disposition)
        self.key = _decoded(options.get(b"name", b""))
        if b"filename" not in options:
            self.text = bytearray()
            return
        if len(self.files) >= MAX_FILES:
            raise InputError(f"the upload holds more than {MAX_FILES} files; drop one patient at a time")
        path = self.folder / f"part-{len(self.files)}"
        self.files.append(Received(clean_name(_decoded(options[b"filename"])), path))
        self.target = path.open("xb")

    def part_data(self, data: bytes, start: int, end: int) -> None:
        if self.target is not None:
            self.target.write(memoryview(data)[start:end])
        elif self.text is not None:
            if len(self.text) + end - start > _LONGEST_FIELD:
                raise InputError(
                    f"the field {self.key[:50]!r} of the form is longer than {_LONGEST_FIELD} bytes; shorten it"
                )
            self.text += data[start:end]

    def part_end(self) -> None:
        if self.target is not None:
            self.target.close()
            self.target = None
        elif self.text is not None and len(self.fields) < _MAX_FIELDS:
            self.fields[self.key[:50]] = _decoded(bytes(self.text))

    def end(self) -> None:
        self.complete = True

    def close(self) -> None:
        if self.target is not None:
            self.target.close()


async def receive_form(request: Request, folder: Path, limit: int) -> tuple[list[Received], dict[str, str]]:
    """Stream a multipart form into ``folder`` (there, empty).

    Returns
    -------
    files, fields
        Files in the order in which they came, without those that a form sends for an empty choice.

    Raises
    ------
    TooLarge
        As soon as more than ``limit`` bytes were announced or have come.
    InputError
        It is no such form, is damaged, or was broken off. What came until then is for the caller to remove.
    """
    _check_announced(request, limit)
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 0 < len(boundary) <= 256:
        raise InputError("the request is no multipart form; send the patient's files as fields called files")
    form = _Form(folder)
    calls: dict[str, Callable[..., None]] = {
        f"on_{name}": getattr(form, name)
        for name in ("part_begin", "part_data", "part_end", "header_field", "header_value", "header_end")
    }
    calls |= {"on_headers_finished": form.headers_finished, "on_end": form.end}
    parser = MultipartParser(boundary, calls)  # type: ignore[arg-type]
    try:
        async for piece in pieces(request, limit):
            await asyncio.to_thread(parser.write, piece)
    except FormParserError as error:
        raise InputError(f"the upload's form is damaged ({str(error)[:100]}); send it again") from None
    finally:
        form.close()
    if not form.complete:
        raise InputError("the upload ends before its form does; send it again")
    files = [item for item in form.files if item.name or item.path.stat().st_size]
    return [item for item in files if not item.name.rpartition("/")[2].startswith(".")], form.fields


async def receive_file(request: Request, path: Path, limit: int) -> None:
    """Stream the body of a request into a new file. Raises as :func:`receive_form`."""
    with path.open("xb") as file:
        async for piece in pieces(request, limit):
            await asyncio.to_thread(file.write, piece)


async def pieces(request: Request, limit: int) -> AsyncIterator[bytes]:
    """Yield the body of a request in pieces of about a megabyte, counted."""
    _check_announced(request, limit)
    taken, waiting = 0, bytearray()
    begun = time.monotonic()
    stream = request.stream().__aiter__()
    while True:
        behind_s = time.monotonic() - begun - taken / SLOWEST_BYTES_A_SECOND
        try:
            piece = await asyncio.wait_for(anext(stream), max(STALLED_S - max(behind_s, 0.0), 0.0))
        except StopAsyncIteration:
            break
        except ClientDisconnect:
            raise InputError("the upload was broken off; send it again") from None
        except TimeoutError:
            least = f"{SLOWEST_BYTES_A_SECOND // 2**10} kB a second"
            raise InputError(f"the upload stopped or came slower than {least}; send it again") from None
        taken += len(piece)
        if taken > limit:
            raise TooLarge(_too_large(limit))
        waiting += piece
        if len(waiting) >= PIECE_BYTES:
            yield bytes(waiting)
            waiting.clear()
    if waiting:
        yield bytes(waiting)


def _check_announced(request: Request, limit: int) -> None:
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and int(announced) > limit:
        raise TooLarge(_too_large(limit))


def _too_large(limit: int) -> str:
    most = f"{limit / 2**20:g} MB"
    return f"the upload is larger than {most}, the most that this server takes; send fewer files, or packed ones"


class TooLargeReply(Response):
    """Reply 413, sent at once and whole.

    Afterwards the rest of the upload is read and thrown away for a while, so that the browser sees the reply.

    A connection that is closed with unread bytes in it is reset, and a browser then shows no answer at all.
    """

    PATIENCE_S = 2.0

    def __init__(self, sentence: str) -> None:
        super().__init__(json.dumps({"error": sentence}), 413, {"connection": "close"}, "application/json")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 413, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        try:
            async with asyncio.timeout(self.PATIENCE_S):
                while _more(await receive()):
                    pass
        except TimeoutError:
            pass
        await send({"type": "http.response.body", "body": b""})


def _more(message: Message) -> bool:
    return message["type"] == "http.request" and bool(message.get("more_body"))


def _decoded(raw: bytes) -> str:
    # Browsers send UTF-8; other clients may send latin-1.
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")
