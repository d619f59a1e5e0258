"""Folders that the program made, each with a mark.

No other folder is ever removed with its content.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from data.errors import UsageError
from data.regular_file import open_regular_file
from pipeline.execute.lock_owner import LOCKS

MARK = ".made-by-brain-tumour-segmentation"
"""A file with one line: what the folder is for."""
RESULTS = "results, which the next run may replace or remove"
"""What an output folder is for."""
_LONGEST = 200
_MOUNTS = Path("/proc/self/mountinfo")


def make_own_folder(folder: Path, made_for: str, mode: int = 0o777) -> None:
    """Make a folder, its parents there, and put the mark into it.

    Parameters
    ----------
    folder : Path
    made_for : str
        One line of at most 200 bytes, which `is_own_folder` asks for again.
    mode : int
        As of :func:`os.mkdir`.

    Raises
    ------
    OSError
        It is there already, under a link too, or cannot be written to.
    """
    folder.mkdir(mode)
    put_mark(folder, made_for)


def put_mark(folder: Path, made_for: str) -> None:
    """Say that a folder, which has no mark yet, is ours. Raises OSError."""
    with (folder / MARK).open("xb") as file:
        file.write(made_for.encode() + b"\n")


def is_own_folder(folder: Path, made_for: str) -> bool:
    """Check for a folder, no link, with our mark ``made_for`` in it.

    The mark is a regular file.
    """
    return _is_folder(folder) and _marked(folder / MARK) == made_for.encode() + b"\n"


def remove_own_folder(folder: Path, made_for: str) -> bool:
    """Remove a folder that `make_own_folder` made, with all its content.

    Links in it go; the files that they lead to stay.

    Returns
    -------
    bool
        False where something is left: it is not ours, another file system is mounted below it, or it cannot be
        removed. The mark goes last, so that what a kill leaves is still ours.
    """
    if not is_own_folder(folder, made_for) or _holds_mount(folder):
        return False
    with contextlib.suppress(OSError):
        for entry in [entry for entry in os.scandir(folder) if entry.name != MARK]:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
        (folder / MARK).unlink()
        folder.rmdir()
    return not os.path.lexists(folder)


@contextlib.contextmanager
def own_output(
    output: Path, names: Iterable[Path], folders: Iterable[Path] = (), *, earlier: bool = False
) -> Iterator[None]:
    """Mark an output folder as ours for the block and after it.

    A folder with foreign files in our way is refused.

    Parameters
    ----------
    output : Path
        There; for who holds its lock.
    names : iterable of Path
        All that the run may write or remove in it, also below folders. Asked for only where the mark is not there.
    folders : iterable of Path
        Folders below ``output`` in which it writes or removes; none may be a link.
    earlier : bool
        It is known for the output of a version that left no mark.

    Raises
    ------
    UsageError
        A folder is a link; without a mark, one of the names is there; or the mark cannot be written.
    """
    for folder in folders:
        if folder.is_symlink():
            raise UsageError(f"{folder}: is a symbolic link, and what is written stays in --output; remove the link")
    new = not is_own_folder(output.resolve(), RESULTS)
    if new and not earlier and (there := next(filter(os.path.lexists, names), None)) is not None:
        raise UsageError(
            f"{there}: is there already, and nothing says that a run of this program wrote it, which would replace or "
            "remove it; move it away, or choose another --output"
        )
    try:
        before = set(os.listdir(output))
        if new:
            put_mark(output, RESULTS)
    except OSError as error:
        raise UsageError(f"{output}: cannot be written to ({error.strerror}); choose another --output") from None
    try:
        yield
    finally:
        if new and set(os.listdir(output)) - {MARK, *LOCKS} == before - {*LOCKS}:  # nothing came of it
            (output / MARK).unlink()


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def _marked(path: Path) -> bytes:
    try:
        with open_regular_file(path, _LONGEST + 1, follow=False) as (file, size):
            return file.read(size)
    except (OSError, ValueError):
        return b""


def _holds_mount(folder: Path) -> bool:
    """Check whether a file system is mounted on the folder or below.

    Only where the system (Linux) says so.
    """
    top = os.path.realpath(folder)
    try:
        lines = _MOUNTS.read_bytes().splitlines()
    except OSError:
        return False
    places = (re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), line.split()[4]) for line in lines)
    return any(place == os.fsencode(top) or place.startswith(os.fsencode(top) + b"/") for place in places)
