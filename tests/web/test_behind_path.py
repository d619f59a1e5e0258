"""The page behind a path, in Chromium: from the token to the downloaded mask through a proxy that owns all else."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import threading
from collections.abc import Iterator

import nibabel as nib
import pytest

from tests.conftest import make_model
from tests.web.conftest import SLOW_MS, Watched, _watch, wait_for_viewer
from tests.web_server import running

TOKEN, PREFIX = "correct horse battery", "/user/me@site/proxy/8000"


class PathProxy:
    """Shows what listens on ``target`` below ``PREFIX``; every other address is a 404 of its own."""

    def __init__(self, target: int, *, takes_away: bool) -> None:
        self.target, self.takes_away = target, takes_away
        self.strays: list[str] = []
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        start = asyncio.start_server(self.serve, "127.0.0.1", 0)
        server = asyncio.run_coroutine_threadsafe(start, self.loop).result(10)
        self.host = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def serve(self, visitor: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            line, _, rest = (await visitor.readuntil(b"\r\n\r\n")).partition(b"\r\n")
            method, address, version = line.decode().split()
            if not address.startswith(f"{PREFIX}/"):
                self.strays.append(address)
                answer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            else:
                address = address.removeprefix(PREFIX) if self.takes_away else address
                back, server = await asyncio.open_connection("127.0.0.1", self.target)
                head = f"{method} {address} {version}\r\nConnection: close\r\n".encode()
                lines = (part for part in rest.split(b"\r\n") if not part.lower().startswith(b"connection:"))
                server.write(head + b"\r\n".join(lines))
                sending = asyncio.ensure_future(self.pass_on(visitor, server))
                await self.pass_on(back, answer)
                sending.cancel()
                server.close()
        answer.close()

    async def pass_on(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while piece := await source.read(65536):
            target.write(piece)
            await target.drain()


@pytest.fixture(scope="module", params=["taken away", "passed on"])
def proxy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PathProxy]:
    """As jupyter-server-proxy, of which the server knows nothing; and one that leaves the path, with --root-path."""
    folder, takes_away = tmp_path_factory.mktemp("path"), request.param == "taken away"
    model = make_model(folder / "tiny.safetensors", missing_modalities=True)
    about = {"token": TOKEN, "models": (str(model),), "root_path": "" if takes_away else PREFIX}
    with running(folder / "w", job_function="pipeline.web.compute.perform:job_process", **about) as server:
        yield PathProxy(server.port, takes_away=takes_away)


@pytest.fixture
def page(browser, proxy) -> Iterator[Watched]:
    context = browser.new_context(base_url=f"{proxy.host}{PREFIX}/", accept_downloads=True)
    context.set_default_timeout(SLOW_MS)
    watched = Watched(context.new_page())
    _watch(watched, f"{proxy.host}{PREFIX}/")
    yield watched
    context.close()
    assert watched.problems == [] and proxy.strays == []


def test_a_patient_goes_from_the_token_to_the_mask_behind_a_path(page, proxy, patient_files, tmp_path):
    page = page.page
    page.goto("./")
    assert page.url == f"{proxy.host}{PREFIX}/login"
    page.fill("#token", "wrong horse battery")
    page.click("button[type=submit]")
    page.wait_for_selector("#problem:not([hidden])")
    page.fill("#token", TOKEN)
    page.click("button[type=submit]")
    page.wait_for_selector(".gallery .card")
    assert page.url == f"{proxy.host}{PREFIX}/"
    (cookie,) = page.context.cookies()
    assert cookie["path"] == ("/" if proxy.takes_away else f"{PREFIX}/")
    page.set_input_files("#choose-files", patient_files)
    page.click("#run")
    wait_for_viewer(page)
    with page.expect_download() as waiting:
        page.click("a[download$='_seg.nii.gz']")
    saved = tmp_path / "mask.nii.gz"
    waiting.value.save_as(saved)
    assert nib.Nifti1Image.from_bytes(gzip.decompress(saved.read_bytes())).shape == nib.load(patient_files[0]).shape
    page.reload()
    wait_for_viewer(page)
    page.click("#sign-out")
    page.click("dialog button:has-text('Sign out')")
    page.wait_for_url(f"{proxy.host}{PREFIX}/login")
