"""Web app under load: users upload at once and ask for their progress.

The answers a second are counted.

    python -m bench.timings.web_load [--users N] [--minutes M] [--model FILE]

Starts a server of its own on a free port in a scratch folder; every user uploads one phantom patient (40 x 48 x 32),
runs it and asks for its case four times a second, and for its list, until it is done. Then one finished case is asked
for as fast as four connections can. Prints one line of JSON a part. Users share the machine with the server, so the
figures are lower bounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from data.phantom.patient import write_phantom

ROOT = Path(__file__).resolve().parents[2]
_SERVE = (
    "import sys; from pathlib import Path; from pipeline.web.app import Settings, serve; "
    "serve(Settings(workspace=Path(sys.argv[1]), port=int(sys.argv[2]), models=tuple(sys.argv[3:])))"
)
SHAPE, SPACING_MM = (40, 48, 32), (5.0, 5.0, 5.0)
RATE_SECONDS, CONNECTIONS = 5.0, 4


async def one_user(url: str, files: list[tuple[str, bytes]], end: float) -> dict[str, Any]:
    """Run one user's upload, run and questions.

    Returned are the seconds of each request, and the end.
    """
    seconds: dict[str, list[float]] = {"upload": [], "other": []}

    async def ask(kind: str, method: str, path: str, **options: Any) -> Any:
        start = time.perf_counter()
        reply = await client.request(method, path, **options)
        seconds[kind].append(time.perf_counter() - start)
        reply.raise_for_status()
        return reply.json()

    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        form = [("files", item) for item in files]
        case = await ask("upload", "POST", "/api/cases", files=form)
        place = f"/api/cases/{case['id']}"
        while case["state"] == "checking" and time.monotonic() < end:
            await asyncio.sleep(0.25)
            case = await ask("other", "GET", place)
        case = await ask("other", "POST", f"{place}/run")
        while case["state"] in ("queued", "running") and time.monotonic() < end:
            await asyncio.sleep(0.25)
            case = await ask("other", "GET", place)
            await ask("other", "GET", "/api/cases")
        return {"state": case["state"], "error": case["error"], "place": place, "cookies": client.cookies, **seconds}


async def rate(url: str, place: str, cookies: httpx.Cookies) -> dict[str, float]:
    """Return the answers a second about one finished case.

    Plain connections stay open.
    """
    cookie = "; ".join(f"{key}={value}" for key, value in cookies.items())
    host, port = url.removeprefix("http://").split(":")
    request = f"GET {place} HTTP/1.1\r\nHost: {host}:{port}\r\nCookie: {cookie}\r\n\r\n".encode()
    times: list[float] = []

    async def client() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        while time.perf_counter() < end:
            start = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
            times.append(time.perf_counter() - start)
        writer.close()

    begin = time.perf_counter()
    end = begin + RATE_SECONDS
    await asyncio.gather(*(client() for _ in range(CONNECTIONS)))
    spent = time.perf_counter() - begin
    return {
        "per_second": round(len(times) / spent),
        "median_ms": _ms(statistics.median(times)),
        "worst_ms": _ms(max(times)),
    }


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 1)


async def load(url: str, users: int, minutes: float, scratch: Path) -> list[dict[str, Any]]:
    """Return the figures of both parts."""
    patients = [write_phantom(scratch / "patients", seed, shape=SHAPE, spacing_mm=SPACING_MM) for seed in range(1, 4)]
    files = [[(path.name, path.read_bytes()) for path in sorted(patient.iterdir())] for patient in patients]
    end = time.monotonic() + 60 * minutes
    start = time.perf_counter()
    ended = await asyncio.gather(
        *(one_user(url, files[n % len(files)], end) for n in range(users)), return_exceptions=True
    )
    spent = time.perf_counter() - start
    good = [user for user in ended if isinstance(user, dict)]
    others = sorted(t for user in good for t in user["other"])
    uploads = [t for user in good for t in user["upload"]]
    figures = {
        "users": users,
        "done": sum(user["state"] == "done" for user in good),
        "lost": [str(user) for user in ended if not isinstance(user, dict)]
        + [user["error"] or user["state"] for user in good if user["state"] != "done"],
        "seconds": round(spent, 1),
        "requests": len(others),
        "median_ms": _ms(statistics.median(others)),
        "p99_ms": _ms(others[int(0.99 * len(others))]),
        "worst_ms": _ms(others[-1]),
        "over_1_s": sum(t > 1 for t in others),
        "worst_upload_ms": _ms(max(uploads)),
        "load_average": round(os.getloadavg()[0], 1),
    }
    parts: list[dict[str, Any]] = [figures]
    done = next((user for user in good if user["state"] == "done"), None)
    if done is not None:
        parts.append({"status requests": await rate(url, done["place"], done["cookies"])})
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--model", nargs="*", default=[])
    arguments = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-c", _SERVE, str(Path(scratch) / "workspace"), str(port), *arguments.model]
        server = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
        )
        try:
            while True:
                try:
                    httpx.get(f"{url}/healthz").raise_for_status()
                    break
                except httpx.HTTPError:
                    if server.poll() is not None:
                        raise SystemExit("the server did not start") from None
                    time.sleep(0.2)
            for part in asyncio.run(load(url, arguments.users, arguments.minutes, Path(scratch))):
                sys.stdout.write(json.dumps(part) + "\n")
        finally:
            server.terminate()
            server.wait(20)


if __name__ == "__main__":
    main()
