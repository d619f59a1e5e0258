"""Untrusted zip files, unpacked under limits or refused.

The whole directory is checked before a byte is unpacked.

Runs in the checking process alone, whose memory is limited: the server's own memory must not depend on an upload.
"""

from __future__ import annotations

import io
import re
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from data.errors import InputError
from pipeline.web.names import one_line, quoted

MAX_ENTRIES = 4096
MAX_RATIO = 100
"""Largest ratio of all files together to the zip.

MRI packs 2 to 10 times; a label map packs 300 times, but is a small part.
"""
_FREE_BYTES = 64 * 2**20
"""Bytes that may be unpacked at any ratio, for a zip of label maps alone."""
_MAX_DIRECTORY_BYTES = 2 * 2**20
_PIECE = 2**20
_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".7z", ".rar", ".bz2", ".xz", ".zst", ".jar")
_DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True)
class Member:
    """One file of a zip: its name there, and where it was unpacked to."""

    name: str
    path: Path


def is_archive(name: str) -> bool:
    """Return True for a name that ends as packed files do.

    Names in .nii.gz and .gz give False: the image reader unpacks or refuses those.
    """
    return name.lower().endswith(_ARCHIVES)


def unpack_zip(
    packed: Path, shown: str, folder: Path, *, max_bytes: int, first: int = 0, most: int = MAX_ENTRIES
) -> list[Member]:
    """Unpack the files of a zip into ``folder`` under names of our own (``zip-<number>``).

    Parameters
    ----------
    shown : str
        What the user calls it, for sentences.
    max_bytes : int
        Of all files together.
    first : int
        Number of the first file.
    most : int
        So many files it may hold: with several zips, what the others leave.

    Returns
    -------
    list of Member
        Folders, hidden files and those of macOS are left out. Empty for an empty zip.

    Raises
    ------
    InputError
        It is no zip, is damaged or encrypted, or holds a link, another zip, a name that leads out of it, too many
        files or too much. What was unpacked until then is for the caller to remove.
    """
    try:
        with _Bounded(packed, shown) as file, zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            _check_entries(entries, shown, packed.stat().st_size, max_bytes, most)
            wanted = [entry for entry in entries if not _path(entry).endswith("/") and not _hidden(_path(entry))]
            return [
                Member(_path(entry), _unpack(archive, entry, shown, folder / f"zip-{first + number}"))
                for number, entry in enumerate(wanted)
            ]
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, struct.error, ValueError, OverflowError):
        raise InputError(f"{quoted(shown)}: is no zip file, or a damaged one; pack it again") from None


def _refuse(shown: str, why: str, fix: str = "pack the patient's images alone, or drop them as they are") -> InputError:
    return InputError(f"{quoted(shown)}: {why}; {fix}")


class _Bounded(io.BufferedReader):
    """Zip file of which no read exceeds the size that a directory may have.

    `zipfile` reads a directory whole, and of the several records that say how large it is (at the end, before a
    comment, in 64 bits) it decides itself which one counts. Here its decision is judged, whichever that is.
    """

    def __init__(self, path: Path, shown: str) -> None:
        super().__init__(io.FileIO(path))
        self._shown = shown

    def read(self, size: int | None = -1) -> bytes:
        """Read as from any file.

        Raises InputError for more than a directory may have.
        """
        most = _MAX_DIRECTORY_BYTES
        piece = super().read(most + 1 if size is None or size < 0 else min(size, most + 1))
        if len(piece) > most or (size is not None and size > most):
            raise _refuse(self._shown, f"lists more files than {MAX_ENTRIES}, or names too long to be any")
        return piece


def _check_entries(entries: list[zipfile.ZipInfo], shown: str, packed_bytes: int, max_bytes: int, most: int) -> None:
    if len(entries) > most:
        raise _refuse(shown, f"holds {len(entries)} files, and {MAX_ENTRIES} of one upload are the most")
    for entry in entries:
        _check_entry(entry, shown)
    total = sum(entry.file_size for entry in entries)
    if total > max_bytes:
        raise _refuse(shown, f"would unpack to {total} bytes, and {max_bytes} are the most")
    if total > max(_FREE_BYTES, MAX_RATIO * packed_bytes):
        raise _refuse(shown, f"would unpack to {total / max(packed_bytes, 1):.0f} times its size, as no image does")
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.header_offset < end:  # one packed stream, used under several names
            raise _refuse(shown, "holds files that lie over each other")
        end = entry.header_offset + 30 + entry.compress_size


def _check_entry(entry: zipfile.ZipInfo, shown: str) -> None:
    name = entry.filename
    said = _said(entry)
    mode = entry.external_attr >> 16
    parts = re.split(r"[/\\]", entry.orig_filename)
    if entry.flag_bits & 0x41:
        raise _refuse(shown, "is encrypted", "unpack it, or pack it without a password")
    if ".." in parts or parts[0] == "" or _DRIVE.match(name) or "\0" in entry.orig_filename:
        raise _refuse(shown, f"holds the name {said}, which would lead out of its folder")
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _refuse(shown, f"holds {said}, which is a link or a device and no file")
    if is_archive(name):
        raise _refuse(shown, f"holds another archive, {said}")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _refuse(
            shown, f"holds {said} packed by method {entry.compress_type}", "pack it by deflate, the usual method"
        )


def _path(entry: zipfile.ZipInfo) -> str:
    """Return an entry's path with slashes.

    Some programs of Windows write backslashes, against the format.
    """
    return entry.filename.replace("\\", "/")


def _said(entry: zipfile.ZipInfo) -> str:
    return quoted(one_line(entry.filename[:100]))


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _unpack(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, shown: str, target: Path) -> Path:
    written = 0
    with archive.open(entry) as source, target.open("xb") as file:
        while piece := source.read(_PIECE):
            if written == 0 and piece.startswith(b"PK\x03\x04"):
                raise _refuse(shown, f"holds another zip, {_said(entry)}")
            written += len(piece)
            if written > entry.file_size:  # zipfile stops there too, but this check does not depend on it
                raise _refuse(shown, f"holds {_said(entry)}, which is larger than it says")
            file.write(piece)
    if written != entry.file_size:
        raise zipfile.BadZipFile
    return target
