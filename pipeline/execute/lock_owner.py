"""Owner of a lock, and locks by name for file systems without the kernel's."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data.errors import UsageError
from data.regular_file import read_json

LOCK_NAME = ".lock"
"""In the output folder, while a run is at work there: who it is. One found without a living owner means nothing."""
LOCKS = (LOCK_NAME, f"{LOCK_NAME}.owner")
_HALF_MADE_S = 10.0
"""A lock file that is still empty after so long was left by a process that died while it made it."""


@dataclass(frozen=True)
class Owner:
    """Owner of a lock, as the lock file describes it.

    pid, host : of the process. since : UTC, ISO 8601. started : what tells it from a later process of the same number,
    empty where the system does not say.
    """

    pid: int
    host: str
    since: str
    started: str = ""

    def described(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


def _own_description() -> bytes:
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    own = Owner(os.getpid(), socket.gethostname(), since, _started(os.getpid()))
    return (json.dumps(asdict(own)) + "\n").encode()


def describe(descriptor: int, path: Path) -> None:
    """Write our description into our lock file.

    Where there is no space for it the file is removed, and the run cannot start.
    """
    try:
        os.ftruncate(descriptor, 0)
        text = _own_description()
        while text:
            text = text[os.write(descriptor, text) :]
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()
        raise


def read_owner(path: Path) -> Owner | None:
    """Read the owner of a lock file; None where the file holds no sensible description."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        said: Any = read_json(path, 4096)
        pid, texts = said["pid"], [said[key] for key in ("host", "since", "started")]
        if type(pid) is int and 0 < pid < 2**31 and all(isinstance(t, str) and t.isprintable() for t in texts):
            return Owner(pid, *texts)
    return None


def refusal(folder: Path, owner: Owner | None) -> str:
    """Return the sentence for a user; ``owner`` is None where none is described."""
    who = "a process that has not said who it is" if owner is None else owner.described()
    return f"{folder}: another run is at work there ({who}); wait for it, stop it, or choose another --output"


def named_lock(path: Path) -> Path:
    """Return the file that serves as the lock without the kernel's help."""
    return path.with_name(f"{LOCK_NAME}.owner")


def acquire_by_name(folder: Path, path: Path) -> None:
    """Take the lock by making its file.

    The file of a dead owner is removed first.
    """
    for _ in range(5):  # two who take the same dead owner's away meet again
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            try:
                describe(descriptor, path)
            finally:
                os.close(descriptor)
            return
        if may_live(path):
            break
        _take_away(path)
    owner = read_owner(path)
    sentence = refusal(folder, owner)
    if owner is not None and owner.host != socket.gethostname():
        sentence += f"; if that process is gone, which cannot be told from {socket.gethostname()}, remove {path}"
    raise UsageError(sentence)


def may_live(path: Path) -> bool:
    """Check whether the owner of a lock file may be at work.

    An owner on another machine is taken for alive, and so is one that has not finished describing itself.
    """
    owner = read_owner(path)
    if owner is None:
        with contextlib.suppress(FileNotFoundError):
            return time.time() - path.stat().st_mtime < _HALF_MADE_S
        return False
    if owner.host != socket.gethostname():
        return True
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's, but it is there
        pass
    return owner.started == _started(owner.pid)


def _take_away(path: Path) -> None:
    """Remove the file of a dead owner.

    A file that took its place meanwhile is put back.
    """
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, aside)
        if may_live(aside):
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
        os.unlink(aside)


def _started(pid: int) -> str:
    """Return the start time of a process in ticks since the last boot.

    Empty where the kernel does not say.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
