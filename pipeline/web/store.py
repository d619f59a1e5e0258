"""Records of the cases, in memory and in SQLite.

Memory answers every question; SQLite keeps them for the next start.

All of it is asked and changed in the event loop's thread; SQLite is written in a thread of its own, in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from data.errors import UsageError

FINISHED = frozenset({"done", "failed", "cancelled", "interrupted"})
_REMEMBERED_RUNS = 50
_TABLES = {"cases", "timings", "secrets"}
_LATER_TABLES = {"sessions"}
"""Tables that the data base of an older version lacks."""


@dataclass(frozen=True)
class Source:
    """One image of a case.

    Parameters
    ----------
    id, name : str
        Its number within the case, and what the user calls it.
    files : tuple of str
        Names in the case's folder of files: one, or the slices of a volume in order.
    channel : int, optional
        As `data.find.discover.ImageSource`.
    detected_role, role : str, optional
        A modality or "reference": by its name, and as the user says.
    shape, spacing_mm, orientation, problem
        Once it was looked at; None where it could not be read or is not known.
    series : str
        SeriesInstanceUID where it is DICOM; else ``""``.
    reasons : tuple of str
        Why a DICOM series was taken for its role, or left aside.
    """

    id: str
    name: str
    files: tuple[str, ...]
    channel: int | None
    detected_role: str | None
    role: str | None
    shape: tuple[int, ...] | None = None
    spacing_mm: tuple[float, ...] | None = None
    orientation: str | None = None
    problem: str | None = None
    series: str = ""
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class CaseRecord:
    """Everything that the server knows of one case.

    Times are in seconds since 1970. See the API's schema for the rest.

    ``ties`` are (modality, sentence) of those for which a user must choose the series; ``prepare`` is as that of
    `SegmentOptions`, and ``unready`` says what of the images will be prepared.

    ``date`` is the day of the scan, ``2021-03-04``, empty where nothing tells it.

    ``check`` counts the changes that a check must see: the answer to an older one is dropped. ``downloads`` maps the
    name in a URL to a file of the case's folder (path, bytes, what): what is not in it cannot be asked for.
    """

    id: str
    owner: str
    name: str
    state: str
    created: float
    expires: float
    task: str = "check"
    task_about: str = ""
    check: int = 0
    sources: tuple[Source, ...] = ()
    layout: str = ""
    layout_reason: str = ""
    conventions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    ties: tuple[tuple[str, str], ...] = ()
    prepare: str = "auto"
    date: str = ""
    unready: str = ""
    missing: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    can_run: bool = False
    model: str | None = None
    wanted_model: str | None = None
    models: tuple[str, ...] = ()
    convention: str | None = None
    voxels: int = 0
    queued_at: float | None = None
    started_at: float | None = None
    stage: str | None = None
    progress: float = 0.0
    error: str | None = None
    result: dict[str, Any] | None = None
    downloads: dict[str, dict[str, Any]] = field(default_factory=dict)


def record_from(document: dict[str, Any]) -> CaseRecord:
    """Make a record from its JSON."""
    sources = sources_from(document.pop("sources"))
    return CaseRecord(sources=sources, **_tuples(document))


def sources_from(documents: Sequence[dict[str, Any]]) -> tuple[Source, ...]:
    """Make a record's sources from their JSON."""
    return tuple(Source(**_tuples(document)) for document in documents)


def _tuples(document: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in document.items()}


class Store:
    """Cases of one workspace.

    One server at a time may have it open.
    """

    def __init__(self, path: Path) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._listeners: dict[str, set[asyncio.Event]] = {}
        self._timings: dict[str, list[tuple[int, float]]] = {}
        self.timed_runs = 0
        """Number of runs timed since the start."""
        self._by_owner: dict[str, dict[str, None]] = {}
        self.records: dict[str, CaseRecord] = {}
        self._connection = self._thread.submit(_open, path).result()
        self.secret, documents, timings, self.sessions = self._thread.submit(_load, self._connection).result()
        for document in documents:
            record = record_from(json.loads(document))
            self.records[record.id] = record
            self._by_owner.setdefault(record.owner, {})[record.id] = None
        for model, voxels, seconds in timings:
            self._timings.setdefault(model, []).append((voxels, seconds))

    @property
    def workspace_id(self) -> str:
        """Identity of the data base, 32 hex digits.

        No other data base has it, and it tells nothing of the secret.
        """
        return hashlib.sha256(b"workspace" + self.secret).hexdigest()[:32]

    def get(self, case_id: str, owner: str | None = None) -> CaseRecord | None:
        """Return a case of this owner;

        None for ``owner`` means any.
        """
        record = self.records.get(case_id)
        return record if record is not None and owner in (None, record.owner) else None

    def of_owner(self, owner: str) -> list[CaseRecord]:
        """Return the cases of one owner, the newest first."""
        return [self.records[case_id] for case_id in reversed(self._by_owner.get(owner, {}))]

    async def put(self, record: CaseRecord) -> CaseRecord:
        """Keep a record in memory, tell its listeners, and write it.

        The disk has it when this returns.
        """
        self.show(record)
        document = json.dumps(asdict(record), allow_nan=False)
        await asyncio.get_running_loop().run_in_executor(self._thread, self._write, record.id, document)
        return record

    async def change(self, case_id: str, **changes: Any) -> CaseRecord | None:
        """Change some of a record; None where the case is not there any more."""
        record = self.records.get(case_id)
        return None if record is None else await self.put(replace(record, **changes))

    def show(self, record: CaseRecord) -> None:
        """Keep a record in memory alone: progress, which no restart needs."""
        self.records[record.id] = record
        self._by_owner.setdefault(record.owner, {})[record.id] = None
        self.notify(record.id)

    async def delete(self, case_id: str) -> None:
        """Forget a case."""
        record = self.records.pop(case_id, None)
        if record is not None:
            self._by_owner.get(record.owner, {}).pop(case_id, None)
        self.notify(case_id)
        await asyncio.get_running_loop().run_in_executor(self._thread, self._write, case_id, None)

    def keep_session(self, owner: str, times: tuple[float, float] | None) -> None:
        """Write when a session began and was last used, in a while; None: that it has ended."""
        self._thread.submit(self._write_session, owner, times)

    # Listeners

    def notify(self, case_id: str) -> None:
        """Wake the listeners of a case."""
        for event in self._listeners.get(case_id, ()):
            event.set()

    @contextlib.contextmanager
    def listen(self, case_id: str) -> Iterator[asyncio.Event]:
        """Yield an event that every change of a case sets."""
        event = asyncio.Event()
        events = self._listeners.setdefault(case_id, set())
        events.add(event)
        try:
            yield event
        finally:
            events.discard(event)
            if not events:
                self._listeners.pop(case_id, None)

    # Times of runs

    async def add_timing(self, model: str, voxels: int, seconds: float) -> None:
        """Remember how long a run took."""
        self.timed_runs += 1
        runs = self._timings.setdefault(model, [])
        runs.append((voxels, seconds))
        del runs[:-_REMEMBERED_RUNS]
        await asyncio.get_running_loop().run_in_executor(self._thread, self._write_timing, model, voxels, seconds)

    def expected_seconds(self, model: str | None, voxels: int) -> float | None:
        """Estimate the seconds of a run of so many voxels from earlier runs.

        It is the median of the runs nearest in size. None before the first run.
        """
        runs = self._timings.get(model or "", [])
        if not runs:
            return None
        # Runs of nearly the same size have nearly the same fixed cost.
        near = sorted(runs, key=lambda run: abs(run[0] - voxels))[:9]
        return median(seconds * (max(voxels, 1) / max(known, 1)) ** 0.8 for known, seconds in near)

    async def close(self) -> None:
        """Write the pending changes and close the file."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown()

    def _write(self, case_id: str, document: str | None) -> None:
        with self._connection:
            if document is None:
                self._connection.execute("DELETE FROM cases WHERE id = ?", (case_id,))
            else:
                self._connection.execute(
                    "INSERT INTO cases VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET document = excluded.document",
                    (case_id, document),
                )

    def _write_timing(self, model: str, voxels: int, seconds: float) -> None:
        with self._connection:
            self._connection.execute("INSERT INTO timings VALUES (?, ?, ?)", (model, voxels, seconds))

    def _write_session(self, owner: str, times: tuple[float, float] | None) -> None:
        with self._connection:
            self._connection.execute("DELETE FROM sessions WHERE owner = ?", (owner,))
            if times is not None:
                self._connection.execute("INSERT INTO sessions VALUES (?, ?, ?)", (owner, *times))


def _open(path: Path) -> sqlite3.Connection:
    try:
        with contextlib.suppress(FileExistsError):  # sqlite gives its journals the mode of this file
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        connection = sqlite3.connect(path, timeout=1.0)
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # a second server on this workspace is refused
        _require_ours(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        with connection:
            connection.execute("BEGIN IMMEDIATE")  # all tables or none: their names identify a data base of this server
            connection.execute("CREATE TABLE IF NOT EXISTS cases (id TEXT PRIMARY KEY, document TEXT NOT NULL)")
            connection.execute("CREATE TABLE IF NOT EXISTS timings (model TEXT, voxels INTEGER, seconds REAL)")
            connection.execute("CREATE TABLE IF NOT EXISTS sessions (owner TEXT PRIMARY KEY, born REAL, seen REAL)")
            connection.execute("CREATE TABLE IF NOT EXISTS secrets (secret BLOB NOT NULL)")
            if connection.execute("SELECT count(*) FROM secrets").fetchone()[0] == 0:
                connection.execute("INSERT INTO secrets VALUES (?)", (secrets.token_bytes(32),))
    except (sqlite3.Error, OSError) as error:
        raise UsageError(
            f"{path}: cannot be used ({error}); is another server running on this workspace? choose another --workspace"
        ) from None
    return connection


_Sessions = dict[str, tuple[float, float]]


def _require_ours(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse another program's data base before anything is written to it."""
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if tables and tables - _LATER_TABLES != _TABLES:
        connection.close()
        raise UsageError(f"{path}: is a data base of another program; choose another --workspace")


def _load(connection: sqlite3.Connection) -> tuple[bytes, list[str], list[tuple[str, int, float]], _Sessions]:
    secret = connection.execute("SELECT secret FROM secrets").fetchone()[0]
    documents = [row[0] for row in connection.execute("SELECT document FROM cases ORDER BY rowid")]
    query = "SELECT model, voxels, seconds FROM timings ORDER BY rowid DESC LIMIT 500"
    timings = connection.execute(query).fetchall()[::-1]
    sessions = {owner: (born, seen) for owner, born, seen in connection.execute("SELECT * FROM sessions")}
    return secret, documents, timings, sessions
