"""Memory that this process may still take.

The limits are those of the machine, of its control groups, of the process itself, and of its share among several
workers.
"""

from __future__ import annotations

import ctypes
import logging
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Protocol
from weakref import WeakSet

_workers = 1
_share_at_start: int | None = None


def set_workers(count: int) -> None:
    """Tell this process that it is one of ``count`` working at once.

    It may then take its share of the memory only.

    To be called once, by the initializer of a worker, while its siblings are idle too.
    """
    global _workers, _share_at_start
    _workers, machine = max(1, count), machine_bytes()
    _share_at_start = None if machine is None else machine // _workers


def workers() -> int:
    """Return how many processes work at the same time.

    It is 1 unless :func:`set_workers` was called.
    """
    return _workers


def available_bytes() -> int | None:
    """Return the bytes that this process may still take without being killed.

    The result is None where nothing can be known.

    The least of the machine's free memory, what is left in its control groups, and its own limits (``ulimit -v``).
    Of several workers (:func:`set_workers`) each has its part of what was free when they began, or of what is free
    now, whichever is more, but never more than there is.
    """
    shared, own = machine_bytes(), limit_bytes()
    if shared is not None and _workers > 1:
        shared = max(shared // _workers, min(shared, _share_at_start or 0))
    return min((n for n in (shared, own) if n is not None), default=None)


def machine_bytes(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the bytes that all processes together may still take.

    These are MemAvailable, and the limits of control groups (v1, v2) less their use.
    """
    left = [kibibytes * 1024 for kibibytes in _numbers(proc / "meminfo", r"MemAvailable:\s+(\d+) kB")]
    for number, controllers, path in _memberships(proc / "self" / "cgroup"):
        if number == "0" and not controllers:
            tree, most, used, cache = cgroups, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            tree, most, used = cgroups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = "total_inactive_file"
        else:
            continue
        # A limit of any group above holds too. In a container the path may be the host's: then only the root is there.
        folder = Path(os.path.normpath("/" + path))
        for group in (folder, *folder.parents):
            place = tree / str(group).lstrip("/")
            limit, use = _numbers(place / most, r"^(\d+)"), _numbers(place / used, r"^(\d+)")
            if limit and use:
                reclaimable = sum(_numbers(place / "memory.stat", rf"^{cache} (\d+)"))
                left.append(max(0, limit[0] - max(0, use[0] - reclaimable)))
    return min(left, default=None)


def limit_bytes(statm: Path = Path("/proc/self/statm")) -> int | None:
    """Return the rest of this process's own limit on its address space.

    The result is None where it has no limit.
    """
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = _numbers(statm, r"^(\d+)")
    if limit == resource.RLIM_INFINITY or not pages:
        return None
    return max(0, limit - pages[0] * resource.getpagesize())


def _numbers(path: Path, pattern: str) -> list[int]:
    try:
        return [int(number) for number in re.findall(pattern, path.read_text(), re.MULTILINE)]
    except OSError:
        return []


def _memberships(path: Path) -> list[tuple[str, str, str]]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return []
    return [
        (n, controllers, where)
        for n, controllers, where in (line.split(":", 2) for line in lines if line.count(":") > 1)
    ]


log = logging.getLogger(__name__)

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
"""Numbers of glibc's ``malloc.h``: free bytes at the heap's end from which it shrinks; how many blocks are mappings;
how many heaps the threads share (heaps other than the first map their large blocks whatever is said)."""
NEVER = 2**31 - 1
"""The largest value that ``mallopt`` takes."""


def tune_malloc() -> bool:
    """Keep freed memory in the process for its next block.

    Returns whether the C library is one that takes this setting.

    Of glibc alone; elsewhere (musl, macOS, Windows) nothing is done. May be called again.
    """
    libc = _glibc()
    if libc is None:
        return False
    wanted = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: NEVER, M_ARENA_MAX: 1}
    kept = [libc.mallopt(ctypes.c_int(name), value) for name, value in wanted.items()]
    if not all(kept):
        log.debug("mallopt refused: %s", kept)
    return all(kept)


class Holder(Protocol):
    """Object that keeps memory for its next use and can do without it."""

    def release(self) -> None:
        """Free the memory that is kept; do nothing while it is in use."""


_holders: WeakSet[Holder] = WeakSet()


def keep_track(holder: Holder) -> None:
    """Have :func:`give_back` ask ``holder`` too, as long as it lives."""
    _holders.add(holder)


def give_back() -> bool:
    """Return the memory that is free within this process to the machine.

    The result says whether there was any to return.

    What engines keep from one case to the next goes as well.
    """
    for holder in list(_holders):
        holder.release()
    libc = _glibc()
    return libc is not None and bool(libc.malloc_trim(ctypes.c_size_t(0)))


@lru_cache(maxsize=1)
def _glibc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL(None)
        _ = libc.gnu_get_libc_version, libc.mallopt, libc.malloc_trim
    except (OSError, TypeError, AttributeError):  # TypeError: Windows has no library of the process itself
        return None
    return libc
