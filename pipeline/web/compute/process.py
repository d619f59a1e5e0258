"""Server side of a computing process: start, ask, watch time and memory, stop.

The server goes on, however the process ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[3]
WORKER = "pipeline.web.compute.worker"
_LONGEST_ANSWER = 32 * 2**20
_WATCH_S = 0.25
_START_S = 120.0
"""Limit on the start of a process, whose imports take long on a busy machine."""


class JobFailed(Exception):
    """Failure of a request; its text is the sentence for the user."""


class ComputingProcess:
    """One process of `pipeline.web.compute.worker`, started when it is needed and again after it died.

    Parameters
    ----------
    function : str
        ``module:name`` of what it runs.
    memory_bytes : int, optional
        More, and it is stopped. Allocations fail at the same limit.
    """

    def __init__(self, function: str, memory_bytes: int | None) -> None:
        self.function, self.memory_bytes = function, memory_bytes
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._too_much_memory = False

    @property
    def pid(self) -> int | None:
        """Process id of the running process, or None."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def ask(
        self, request: dict[str, Any], seconds: float, on_stage: Callable[[str, float], None] | None = None
    ) -> Any:
        """Return the answer to one request; requests wait for each other.

        Raises
        ------
        JobFailed
            It failed, took longer than ``seconds``, took too much memory, or its process died. Left by cancellation,
            the process is killed too.
        """
        async with self._turn:
            fresh = self.pid is None
            process = await self._started()
            watch = asyncio.create_task(self._watch_memory(process))
            answered = False
            try:
                if fresh:
                    async with asyncio.timeout(_START_S):
                        await _message(process)
                async with asyncio.timeout(seconds):
                    answer = await self._exchange(process, request, on_stage)
                    answered = True
            except TimeoutError:
                raise JobFailed(
                    f"took longer than {_minutes(seconds)} and was stopped; try fewer or smaller images"
                ) from None
            except asyncio.LimitOverrunError:
                raise JobFailed(
                    f"more than {_LONGEST_ANSWER // 2**20} MB of text would have to be said of it; try fewer images, "
                    "and shorter names"
                ) from None
            except (OSError, ValueError, asyncio.IncompleteReadError):
                raise JobFailed(await self._why_dead(process)) from None
            finally:
                watch.cancel()
                if not answered:
                    await self._kill()
        if "failed" in answer:
            raise JobFailed(str(answer["failed"]))
        return answer["done"]

    async def stop(self) -> None:
        """End the process, if it runs."""
        await self._kill()

    async def _started(self) -> asyncio.subprocess.Process:
        if self._process is not None and self._process.returncode is None:
            return self._process
        await self._kill()  # one that died between two requests
        paths = [str(ROOT), *(path for path in sys.path if path)]
        self._too_much_memory = False
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", WORKER, self.function, str(self.memory_bytes or 0)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            limit=_LONGEST_ANSWER,
            start_new_session=True,  # Ctrl-C reaches the server alone, which then ends this process in order
        )
        return self._process

    async def _exchange(
        self,
        process: asyncio.subprocess.Process,
        request: dict[str, Any],
        on_stage: Callable[[str, float], None] | None,
    ) -> dict[str, Any]:
        assert process.stdin is not None
        process.stdin.write(json.dumps(request).encode() + b"\n")
        await process.stdin.drain()
        while True:
            message = await _message(process)
            if "stage" not in message:
                return message
            if on_stage is not None:
                on_stage(str(message["stage"]), float(message["share"]))

    async def _why_dead(self, process: asyncio.subprocess.Process) -> str:
        if self._too_much_memory:
            limit = (self.memory_bytes or 0) / 2**30
            return f"took more than {limit:.3g} GiB of memory and was stopped; try smaller images"
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), 2)
        code = process.returncode
        how = f"with exit status {code}"
        if code is None:
            how = "without an answer"
        elif code < 0:
            with contextlib.suppress(ValueError):
                how = f"by signal {signal.Signals(-code).name}"
        hint = ", probably for want of memory" if code == -9 else ""
        again = "run it again, and tell the person who runs the server if it ends again"
        return f"the process that computes it ended {how}{hint}; {again}"

    async def _watch_memory(self, process: asyncio.subprocess.Process) -> None:
        while self.memory_bytes and process.returncode is None:
            if resident_bytes(process.pid) > self.memory_bytes:
                self._too_much_memory = True
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                return
            await asyncio.sleep(_WATCH_S)

    async def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                if hasattr(os, "killpg"):
                    os.killpg(process.pid, signal.SIGKILL)  # and the processes that it started
                else:
                    process.kill()
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(10):
                await process.wait()
                # Read both pipes to their end: the event loop may be closed next.
                assert process.stdin is not None and process.stdout is not None
                process.stdin.close()
                await process.stdin.wait_closed()
                await process.stdout.read()


async def _message(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdout is not None
    return dict(json.loads(await process.stdout.readuntil(b"\n")))


def resident_bytes(pid: int) -> int:
    """Memory of a process; 0 where the system does not say."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.3g} minutes" if seconds >= 60 else f"{seconds:.3g} seconds"
