"""Zip as the input of a command, unpacked while it runs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.errors import InputError, UsageError

MAX_BYTES, MAX_FILES = 2**34, 2**16
"""Most bytes and files that a zip may unpack to."""


@contextmanager
def unpacked(given: Path) -> Iterator[Path]:
    """Yield the folder that a command works on.

    Parameters
    ----------
    given : Path
        A folder, which is yielded as it is, or a zip, which is unpacked into a temporary folder.

    Raises
    ------
    UsageError
        The zip is damaged, encrypted, too large, or would write elsewhere.
    """
    if not (given.suffix.lower() == ".zip" and given.is_file()):
        yield given
        return
    from pipeline.web.intake.unpack import unpack_zip

    with tempfile.TemporaryDirectory(prefix="examination-") as name:
        folder = Path(name)
        try:
            members = unpack_zip(given, given.name, folder, max_bytes=MAX_BYTES, most=MAX_FILES)
            for member in members:
                place = folder / "files" / member.name
                place.parent.mkdir(parents=True, exist_ok=True)
                member.path.rename(place)
        except (InputError, OSError) as error:
            raise UsageError(f"{given}: cannot be unpacked ({error}); unpack it, and give the folder") from None
        if not members:
            raise UsageError(f"{given}: holds no files; pack the examination again")
        yield folder / "files"
