"""Life of the cases: checked, computed in turn, cancelled, resumed after a restart, removed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pipeline.web.compute.process import ComputingProcess, JobFailed
from pipeline.web.settings import Settings
from pipeline.web.store import FINISHED, CaseRecord, Store
from pipeline.web.turns import Forecast, Line, Turns
from pipeline.web.visits.marked import is_followup, visits_of
from pipeline.web.workspace import CaseFolders

log = logging.getLogger(__name__)

MAX_VOXELS = 2**27
"""Limit on one file, 512 x 512 x 512."""
CHECK_SECONDS = 120.0
_CHECK_MEMORY_BYTES = 4 * 2**30
_SWEEP_S = 30.0
_INTERRUPTED = "the server was stopped while this ran; run it again"


class Jobs:
    """Two lines of work of a server: checks of cases, and masks."""

    def __init__(
        self, settings: Settings, store: Store, models: dict[str, str], job_function: str, check_function: str
    ):
        self.settings, self.store, self.models = settings, store, models
        memory = settings.job_memory_bytes
        self.computer = ComputingProcess(job_function, memory)
        self.checker = ComputingProcess(check_function, min(memory, _CHECK_MEMORY_BYTES) if memory else None)
        self.folders = CaseFolders(settings.workspace / "cases", store.workspace_id)
        self.turns = Turns()
        self.forecast = Forecast(store, self.turns)
        self._wake = asyncio.Event()
        self._checks, self._to_check = Turns(), asyncio.Event()
        self._line = Line()
        self._current: asyncio.Task[Any] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._warm = False

    def folder(self, case_id: str) -> Path:
        """Return the folder of a case's files."""
        return self.folders.path(case_id)

    # Start and end

    async def start(self) -> None:
        """Take up the cases of an earlier server, and begin."""
        for record in sorted(self.store.records.values(), key=lambda r: r.queued_at or 0):
            if record.state == "running":
                await self.store.change(record.id, state="interrupted", error=_INTERRUPTED, stage=None, progress=0.0)
            elif record.state == "queued":
                self.turns.add(record.owner, record.id)
            elif record.state == "checking":
                self._have_checked(record)
        await asyncio.to_thread(self.folders.tidy, frozenset(self.store.records))
        if any(self.turns):
            self._wake.set()
        self._tasks = [
            asyncio.create_task(self._for_ever(loop)) for loop in (self._check_loop, self._job_loop, self._sweep_loop)
        ]

    async def stop(self) -> None:
        """End the processes. What ran is marked at the next start."""
        for task in (*self._tasks, self._current):
            if task is not None:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.computer.stop()
        await self.checker.stop()

    async def _for_ever(self, loop: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            try:
                await loop()
            except Exception:  # a fault in one case must not end the line for all
                log.exception("%s failed; it goes on", loop.__name__)
                await asyncio.sleep(0.1)

    # Requests of users

    async def admit(self, record: CaseRecord) -> CaseRecord:
        """Keep a new case and have it looked at."""
        if is_followup(record):
            return await self.run(record)
        record = await self.store.put(record)
        self._have_checked(record)
        if record.task != "open" and not self._warm:
            self._warm = True  # importing torch takes seconds, in which the user looks at the assignment
            asyncio.get_running_loop().create_task(self._warm_up())
        return record

    async def recheck(self, record: CaseRecord) -> CaseRecord:
        """Look at a case again after a change."""
        record = await self.store.put(replace(record, state="checking", check=record.check + 1, error=None))
        self._have_checked(record)
        return record

    async def run(self, record: CaseRecord) -> CaseRecord:
        """Put a case in line; its earlier result is given up."""
        record = replace(
            record, state="queued", queued_at=time.time(), error=None, result=None, downloads={},
            stage=None, progress=0.0,
        )  # fmt: skip
        # In line before the disk writes, so that a cancellation meanwhile finds it there.
        self.turns.add(record.owner, record.id)
        self._wake.set()
        self._tell_waiting()
        await self.store.put(record)
        return self.store.get(record.id) or record

    async def cancel(self, record: CaseRecord) -> CaseRecord:
        """Take a case out of the line, or stop its process."""
        if self.turns.remove(record.id):
            record = await self.store.put(replace(record, state="cancelled", queued_at=None))
            self._tell_waiting()
        elif self.forecast.running == record.id and self._current is not None:
            self._current.cancel()
            await self.settled(record.id, 12.0, lambda r: r.state not in ("queued", "running"))
            record = self.store.get(record.id) or record
        return record

    async def delete(self, record: CaseRecord) -> None:
        """Forget a case and its files, in every state."""
        await self.cancel(record)
        await self.store.delete(record.id)
        await asyncio.to_thread(self.folders.remove, record.id)

    async def settled(self, case_id: str, seconds: float, done: Callable[[CaseRecord], bool]) -> CaseRecord | None:
        """Wait until ``done`` is true of the record, or so many seconds.

        Returns the record as it then is. None once it is deleted.
        """
        with contextlib.suppress(TimeoutError), self.store.listen(case_id) as changed:
            async with asyncio.timeout(seconds):
                while (record := self.store.get(case_id)) is not None and not done(record):
                    await changed.wait()
                    changed.clear()
        return self.store.get(case_id)

    async def ask_checker(self, record: CaseRecord, request: dict[str, Any]) -> Any:
        """Ask the checking process one request about a case, in its owner's turn.

        Raises JobFailed.
        """
        async with self._line.turn(record.owner):
            about = {"folder": await self._own_folder(record), "max_voxels": MAX_VOXELS, "case": asdict(record)}
            return await self.checker.ask(about | request, CHECK_SECONDS)

    async def earlier_results(self, owner: str) -> dict[str, str]:
        """Id -> case id of the finished patients of ``--data``, in a user's turn. Raises JobFailed."""
        async with self._line.turn(owner):
            about = {"do": "list", "folder": str(self.settings.workspace), "data": self._data()}
            return dict(await self.checker.ask(about, CHECK_SECONDS))

    def _data(self) -> str:
        """Return the absolute folder of earlier results.

        The processes work in other folders, where a relative path would lead nowhere.
        """
        return str(self.settings.data.resolve()) if self.settings.data else ""

    def _have_checked(self, record: CaseRecord) -> None:
        self._checks.add(record.owner, record.id)
        self._to_check.set()

    async def _own_folder(self, record: CaseRecord) -> str:
        """Return the folder in which a process may work on a case.

        Raises JobFailed where that is not ours.
        """
        if not await asyncio.to_thread(self.folders.is_ours, record.id):
            raise JobFailed("the case's files are not where the server put them; upload it again")
        return str(self.folder(record.id))

    def _tell_waiting(self) -> None:
        for job in self.turns:
            self.store.notify(job)

    # The lines of work

    async def _warm_up(self) -> None:
        with contextlib.suppress(JobFailed):
            await self.computer.ask({"do": "warm", "folder": str(self.settings.workspace)}, CHECK_SECONDS)

    async def _check_loop(self) -> None:
        case_id = self._checks.take()
        if case_id is None:
            self._to_check.clear()
            await self._to_check.wait()
            return
        record = self.store.get(case_id)
        if record is None or record.state != "checking":
            return
        request = {"do": record.task, "about": record.task_about, "data": self._data()}
        try:
            answer = await self.ask_checker(record, request | {"models": list(self.models.values())})
            changes = _opened(answer) if record.task == "open" else _looked_at(record, answer)
        except Exception as error:
            changes = {"state": "failed", "error": _sentence(error), "can_run": False}
        now = self.store.get(case_id)
        if now is not None and now.check == record.check:
            # An example is made once; the next look at it is a check.
            await self.store.change(case_id, **changes | {"task": "check"})

    async def _job_loop(self) -> None:
        case_id = self.turns.take()
        if case_id is None:
            self._wake.clear()
            await self._wake.wait()
            return
        record = self.store.get(case_id)
        if record is None or record.state != "queued":
            return
        self.forecast.begin(case_id)
        try:
            # Set at once, so that a cancellation finds a task to stop.
            self._current = asyncio.create_task(self._compute(record))
            changes = await asyncio.shield(asyncio.gather(self._current, return_exceptions=True))
            await self._conclude(case_id, changes[0])
        finally:
            self.forecast.running, self._current = None, None
            self._tell_waiting()

    async def _compute(self, record: CaseRecord) -> dict[str, Any]:
        def on_stage(stage: str, share: float) -> None:
            now = self.store.get(record.id)
            self.forecast.report(share)
            if now is not None:
                self.store.show(replace(now, stage=stage, progress=min(max(share, now.progress), 1.0)))

        record = await self.store.put(replace(record, state="running", started_at=time.time(), progress=0.0))
        self._tell_waiting()
        request = {"folder": await self._own_folder(record), "max_voxels": MAX_VOXELS, "case": asdict(record)}
        if is_followup(record):
            visits = visits_of(record, self.store)
            folders = [await self._own_folder(visit) for visit in visits]
            request |= {"do": "follow", "visits": [asdict(visit) for visit in visits], "folders": folders}
        else:
            request |= {"do": "segment", "model": self.models.get(record.model or "", "")}
        answer = await self.computer.ask(request, self.settings.job_seconds, on_stage)
        if (whole := self.forecast.whole_seconds()) is not None:
            await self.store.add_timing(str(record.model), record.voxels, whole)
        return _done(answer)

    async def _conclude(self, case_id: str, outcome: Any) -> None:
        ended = {"stage": None, "queued_at": None, "started_at": None, "progress": 0.0}
        if isinstance(outcome, asyncio.CancelledError):
            changes: dict[str, Any] = {"state": "cancelled"}
        elif isinstance(outcome, BaseException):
            changes = {"state": "failed", "error": _sentence(outcome)}
        else:
            changes = outcome
        now = self.store.get(case_id)
        if now is not None and now.started_at is not None:
            # Without id and name: the log's readers need not be the case's.
            seconds, waiting = time.time() - now.started_at, len(list(self.turns))
            log.info("a case is %s after %.1f s (%s); %d wait", changes["state"], seconds, now.model, waiting)
        await self.store.change(case_id, **ended | changes)

    async def _sweep_loop(self) -> None:
        now = time.time()
        for record in list(self.store.records.values()):
            if record.expires < now and record.state != "running":
                await self.delete(record)
        await asyncio.sleep(min(_SWEEP_S, self.settings.keep_hours * 3600 / 4))


def _looked_at(record: CaseRecord, answer: dict[str, Any]) -> dict[str, Any]:
    known = {item["id"]: item for item in answer["sources"]}
    sources = tuple(
        replace(
            source,
            shape=_tuple(known[source.id]["shape"]),
            spacing_mm=_tuple(known[source.id]["spacing_mm"]),
            orientation=known[source.id]["orientation"],
            problem=known[source.id]["problem"],
        )
        for source in record.sources
    )
    plain = {key: answer[key] for key in ("can_run", "model", "convention", "voxels", "unready")}
    several = {key: tuple(answer[key]) for key in ("missing", "problems", "warnings", "models")}
    return {"state": "ready", "sources": sources} | plain | several


def _tuple(values: list[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)


def _done(answer: dict[str, Any]) -> dict[str, Any]:
    return {
        "state": "done",
        "result": answer["result"],
        "downloads": answer["downloads"],
        "progress": 1.0,
        "error": None,
    }


def _opened(answer: dict[str, Any]) -> dict[str, Any]:
    return _done(answer) | {"model": answer["result"]["model"], "can_run": False}


def new_case_id() -> str:
    """128 random bits as 32 hexadecimal digits."""
    return secrets.token_hex(16)


def is_finished(record: CaseRecord) -> bool:
    """Nothing more happens to the case unless the user asks."""
    return record.state in FINISHED or record.state == "ready"


def _sentence(error: BaseException) -> str:
    """Return the sentence of a failed case. The log alone shows an unexpected error."""
    if isinstance(error, JobFailed):
        return str(error)
    log.error("a case failed", exc_info=error)
    return "something went wrong in the server; its log says what"
