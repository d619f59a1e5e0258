"""Lock of an output folder: one run at a time.

It ends with its owner, however that dies.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from data.errors import UsageError
from data.io.write import is_temporary_name
from pipeline.execute.lock_owner import (
    LOCK_NAME,
    acquire_by_name,
    describe,
    may_live,
    named_lock,
    read_owner,
    refusal,
)

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_BEGINS = b'{"pid": '
_CANNOT_LOCK = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}
_STALE_S = 3600.0
"""A file takes seconds to write."""
_held: dict[str, tuple[int, int]] = {}
"""Path of each lock file of this process -> thread, descriptor (-1: it is no kernel's lock)."""


@contextlib.contextmanager
def output_lock(folder: Path) -> Iterator[None]:
    """Keep every other run out of ``folder`` within the block.

    The same thread may enter again.

    Parameters
    ----------
    folder : Path
        Made if missing, with its parents; removed again where the block leaves it empty.

    Raises
    ------
    data.errors.UsageError
        Another run is at work there, or the folder cannot be written to. At once: nobody waits.

    Notes
    -----
    The kernel holds the lock (``flock``) and frees it with the process. The file system of some network drives cannot;
    there the file itself is the lock, and its owner is looked up by process number and start time. An owner on another
    machine is then taken for alive, because nobody can tell, and the text says which file to remove.
    """
    folder = Path(folder)
    path = folder.resolve() / LOCK_NAME
    if _held.get(str(path), (0, 0))[0] == threading.get_ident():
        yield
        return
    made = _missing(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(folder, path)
    except OSError as error:
        _remove_empty(made)
        in_the_way = isinstance(error, FileExistsError | NotADirectoryError)
        why = "a file is in its place" if in_the_way else error.strerror or error
        what = "choose" if in_the_way else "free space, mend its permissions, or choose"
        raise UsageError(f"{folder}: cannot be written to ({why}); {what} another --output") from None
    _held[str(path)] = (threading.get_ident(), descriptor)
    try:
        yield
    finally:
        if _held.pop(str(path), None) is not None:  # it is None in a forked child, whose lock this is not
            _release(path, descriptor)
            _remove_empty(made)


def remove_temporary_files(folder: Path, below: Iterable[str] = ()) -> None:
    """Remove the temporary files of killed writers in a folder and those below it.

    Only for the holder of the lock of ``folder``; ``below`` names the folders.

    Nowhere else, for an output folder may hold what is not ours. A folder below that is a link, or in which another run
    is at work, is left alone.
    """
    places = [Path(folder) / name for name in dict.fromkeys(below)]
    places = [place for place in places if not place.is_symlink() and not _is_held(place / LOCK_NAME)]
    for place in (Path(folder), *places):
        with contextlib.suppress(OSError):  # most are not there
            for entry in [entry for entry in os.scandir(place) if is_temporary_name(entry.name)]:
                with contextlib.suppress(OSError):
                    os.unlink(entry)


def remove_stale_files(shared: Path) -> None:
    """Remove temporary files of killed writers directly in a shared folder.

    Only those that were not touched for an hour: several runs share it.
    """
    with contextlib.suppress(OSError):
        for path in shared.iterdir():
            if is_temporary_name(path.name) and time.time() - path.stat().st_mtime > _STALE_S:
                path.unlink(missing_ok=True)


def _acquire(folder: Path, path: Path) -> int:
    """Lock the file and return its descriptor.

    It is -1 for a lock without the kernel's help.
    """
    while fcntl is not None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        with contextlib.ExitStack() as closing:
            closing.callback(os.close, descriptor)
            locked = _lock(descriptor)
            if locked is False:
                raise UsageError(refusal(folder, read_owner(path)))
            if locked is None:
                break
            if _is_same_file(descriptor, path):  # else its owner has just removed it
                if not _is_lock(descriptor):
                    raise UsageError(
                        f"{path}: is in the way, and no run of this program wrote it; move it away, or choose another "
                        "--output"
                    )
                describe(descriptor, path)
                closing.pop_all()
                return descriptor
    with contextlib.suppress(OSError):  # made to find that out
        path.unlink()
    acquire_by_name(folder, named_lock(path))
    return -1


def _release(path: Path, descriptor: int) -> None:
    with contextlib.suppress(OSError):  # before it is freed, so that nobody else's is removed
        (named_lock(path) if descriptor < 0 else path).unlink()
    if descriptor >= 0:
        os.close(descriptor)


def _lock(descriptor: int) -> bool | None:
    """True: it is ours; False: it is another's; None: this file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _CANNOT_LOCK:
            raise
        return None
    return True


def _is_lock(descriptor: int) -> bool:
    """Check that a file describes an owner, or breaks off before.

    A file of another program is not to be emptied.
    """
    said = os.pread(descriptor, len(_BEGINS), 0) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b"a device"
    return _BEGINS.startswith(said)


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _is_held(path: Path) -> bool:
    """Check whether some run holds the folder of this lock file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return False
    try:
        locked = None if fcntl is None else _lock(descriptor)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return may_live(named_lock(path)) if locked is None else not locked


def _missing(folder: Path) -> list[Path]:
    """Return the folders that are yet to be made, the innermost first."""
    return [place for place in (folder, *folder.parents) if not os.path.lexists(place)]


def _remove_empty(folders: list[Path]) -> None:
    with contextlib.suppress(OSError):  # the first one that is not empty ends it
        for place in folders:
            place.rmdir()


def _forget_in_child() -> None:
    """Close the locks in a forked child.

    A loader of samples would keep the kernel's lock alive after its parent.
    """
    for _, descriptor in _held.values():
        if descriptor >= 0:
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
