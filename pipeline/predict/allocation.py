"""How the C library hands out memory, set once where torch's work begins.

glibc serves every block above 32 MiB by a mapping of its own and gives it back at once, so that a network's pass over
a volume asks the kernel for the same pages again and again, and each page is cleared and faulted in anew: a third of a
case's CPU time (DESIGN.md section 5). With :func:`tune_malloc` freed blocks stay with the process and are used again;
:func:`give_back` returns them when they are wanted elsewhere. No environment variable is read or set.
"""

from __future__ import annotations

import ctypes
import logging
from functools import lru_cache
from typing import Protocol
from weakref import WeakSet

log = logging.getLogger(__name__)

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
"""Numbers of glibc's ``malloc.h``: free bytes at the heap's end from which it shrinks; how many blocks are mappings; how
many heaps the threads share (heaps other than the first map their large blocks whatever is said)."""
NEVER = 2**31 - 1
"""The largest value that ``mallopt`` takes."""


def tune_malloc() -> bool:
    """Keep freed memory in the process for its next block; whether the C library is one that could be told so.

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
    """What keeps memory for its next use, and can do without."""

    def release(self) -> None:
        """Free what is kept; nothing where it is in use at this moment."""


_holders: WeakSet[Holder] = WeakSet()


def keep_track(holder: Holder) -> None:
    """Have :func:`give_back` ask ``holder`` too, as long as it lives."""
    _holders.add(holder)


def give_back() -> bool:
    """Return the memory that is free within this process to the machine; whether there was any to return.

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
