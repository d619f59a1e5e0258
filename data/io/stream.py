"""Regular files and streams of voxels, none of which is trusted.

Every header is judged before a byte is allocated for it, and every stream is read to its end, so that a wrong CRC, a
missing tail or a header that does not fit its file is found.
"""

from __future__ import annotations

import errno
import math
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import DTypeLike, NDArray

from data.errors import InputError, Mend
from data.visible import is_visible

try:  # Intel's ISA-L takes two thirds of zlib's time, with the same checks; the voxels are the same without it
    from isal import isal_zlib
except ImportError:
    isal_zlib = None  # type: ignore[assignment]

MAX_PADDING = 15
"""Bytes that may follow the voxels (alignment to 16); more means that header and voxels are not of one image."""

INFLATER: Any = isal_zlib or zlib
"""The module that unpacks gzip streams, zlib or one with zlib's interface. Others go through zlib: ISA-L misses the end
of some zlib streams where it has to find out what they are."""

GZIP = 31
"""zlib's ``wbits`` of a gzip stream."""
_PACKED_PIECE, _PIECE = 2**18, 2**20
_MAX_DEFLATE_RATIO = 1032  # zlib, technical details: no deflate stream expands further
_PACKING_COST = 2**20
"""Bytes that a packed file may have beyond its voxels and a sixty-fourth of them: deflate stores what it cannot pack
with 5 bytes for 16 kB, and a file may come in members of 18 bytes each. What is larger holds something else."""
_EMPTY_MEMBERS = 1000
"""So many members in a row that hold nothing: each takes time and none gives a voxel."""


def refuse(path: Path, value: str, fix: str | Mend) -> NoReturn:
    """Raise the one-line `InputError` of a file: its fault, and the fix."""
    if isinstance(fix, Mend):
        raise InputError(f"{printable(path)}: {value}", fix)
    raise InputError(f"{printable(path)}: {value}; {fix}")


def printable(path: Path) -> str:
    """Return the path on one line.

    Characters that show nothing, or are none, are escaped.
    """
    return "".join(c if is_visible(c) else c.encode("unicode_escape", "backslashreplace").decode() for c in str(path))


@contextmanager
def open_regular(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """Open a file for reading and give it with its size in bytes; `InputError` for all that is no readable file.

    The kind is asked before opening: a fifo or a device could block for ever. Errors of the disk while it is open
    become `InputError` too.
    """
    with _open_checked(path) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                refuse(path, "is empty (0 bytes)", "copy it again from its source")
            yield file, size
        except OSError as error:
            _refuse_unreadable(path, error)


def _open_checked(path: Path) -> BinaryIO:
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            refuse(path, "is a folder, not a file", "name the image file itself")
        if not stat.S_ISREG(mode):
            refuse(path, "is a fifo, socket or device, not a regular file", "put a copy of the image in its place")
        # Should it be exchanged for a fifo just now, O_NONBLOCK keeps even that from blocking.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        _refuse_unreadable(path, error)
    return os.fdopen(descriptor, "rb")


def _refuse_unreadable(path: Path, error: OSError | ValueError) -> NoReturn:
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.ELOOP:
        refuse(path, "is a symbolic link that leads back to itself", "replace it by the file")
    if code == errno.ENOENT and os.path.islink(path):
        refuse(
            path, f"is a symbolic link to {printable(Path(os.readlink(path)))}, which does not exist", "fetch that file"
        )
    if code == errno.ENOENT:
        refuse(path, "does not exist", "check the name")
    reason = error.strerror if isinstance(error, OSError) else error
    refuse(path, f"cannot be read ({reason})", "check its permissions and the disk")


def describe_bytes(head: bytes) -> str:
    """Describe the first bytes of a file, for an error message."""
    kinds = {
        b"\x1f\x8b": "gzip",
        b"\x89PNG": "a PNG picture",
        b"II*\0": "TIFF",
        b"MM\0*": "TIFF",
        b"PK\3\4": "a zip archive",
    }
    kinds |= {
        b"\xff\xd8\xff": "a JPEG picture",
        b"ObjectType": "MetaImage",
        b"\x89HDF": "HDF5",
        b"version https://git-lfs": "a git-lfs pointer",
    }
    for magic, kind in kinds.items():
        if head.startswith(magic):
            return kind
    if head.lstrip()[:1] == b"<":
        return "HTML or XML"
    if head[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c", b"\x1c\x02\0\0", b"\0\0\x02\x1c"):
        return "uncompressed NIfTI"
    return f"bytes {head[:8]!r}"


def plain(file: BinaryIO) -> Iterator[bytes]:
    """Yield the rest of a file in pieces."""
    while piece := file.read(_PIECE):
        yield piece


def inflate(file: BinaryIO, path: Path, wbits: int, piece: int = _PIECE) -> Iterator[bytes]:
    """Unpack the rest of a file in pieces of at most ``piece`` bytes.

    All members are unpacked; CRC and length of each are checked.

    A truncated or damaged stream, or anything but zeros after it, is an `InputError`.
    """
    inflater = INFLATER if wbits == GZIP else zlib
    unpacker = inflater.decompressobj(wbits)
    empty = 0
    try:
        while packed := file.read(_PACKED_PIECE):
            while packed:
                if unpacker.eof:
                    packed = packed.lstrip(b"\0")  # padding, which gzip itself ignores
                    if not packed:
                        break
                    if wbits == GZIP and packed[:2] != b"\x1f\x8b"[: len(packed)]:  # ISA-L would wait for more of it
                        refuse(
                            path,
                            "its compressed stream is damaged (garbage behind it)",
                            "copy it again from its source",
                        )
                    unpacker = inflater.decompressobj(wbits)
                    if (empty := empty + 1) > _EMPTY_MEMBERS:
                        refuse(
                            path,
                            f"its compressed stream has more than {_EMPTY_MEMBERS} empty parts in a row",
                            "copy it again from its source",
                        )
                if unpacked := unpacker.decompress(packed, piece):
                    empty = 0
                    yield unpacked
                packed = unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail
    except inflater.error as error:
        refuse(path, f"its compressed stream is damaged ({error})", "copy it again from its source")
    if not unpacker.eof:
        refuse(path, "its compressed stream ends too early", "copy it again from its source")


@dataclass(frozen=True)
class StoredVoxels:
    """Place and packing of a file's voxels, first array axis fastest.

    ``wbits`` is zlib's, 0 when not packed.
    """

    path: Path
    shape: tuple[int, int, int]
    channels: int
    dtype: np.dtype
    start: int = 0  # byte of the file at which the (packed) stream begins
    skip: int = 0  # bytes of the unpacked stream before the first voxel
    wbits: int = 0
    slope: float = 1.0
    intercept: float = 0.0

    @property
    def volume_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def stream_bytes(self) -> int:
        return self.skip + self.volume_bytes * self.channels


def check_declared(stored: StoredVoxels, size: int, max_voxels: int) -> tuple[str, ...]:
    """Compare the declared voxels with the limit and the file's size.

    This comes before anything is allocated.

    Parameters
    ----------
    size : int
        Bytes of the file that holds the voxels.
    max_voxels : int
        Most voxels of up to 4 bytes; larger types count by their size.

    Returns
    -------
    tuple of str
        Warnings.
    """
    voxels = math.prod(stored.shape) * stored.channels
    if voxels * max(stored.dtype.itemsize, 4) > 4 * max_voxels:
        dims = " x ".join(map(str, (*stored.shape, stored.channels)))
        refuse(
            stored.path,
            f"declares {dims} voxels of {stored.dtype.itemsize} bytes, over the limit of {max_voxels} of 4",
            Mend.CHECK_HEADER,
        )
    available = size - stored.start
    if stored.wbits:
        if stored.stream_bytes > _MAX_DEFLATE_RATIO * available:
            refuse(
                stored.path,
                f"declares {stored.stream_bytes} bytes, more than its {available} compressed bytes can hold",
                "copy it again from its source",
            )
        if available > stored.stream_bytes + stored.stream_bytes // 64 + _PACKING_COST:
            refuse(
                stored.path,
                f"has {available} compressed bytes, more than the {stored.stream_bytes} bytes that its header declares "
                "can take",
                "its header is of another image, or something was written behind it: write it again",
            )
        return ()
    return _check_length(stored, available)


def _check_length(stored: StoredVoxels, length: int) -> tuple[str, ...]:
    surplus = length - stored.stream_bytes
    if surplus < 0:
        refuse(
            stored.path,
            f"{-surplus} of the {stored.stream_bytes} bytes that its header declares are missing",
            "copy it again from its source",
        )
    if surplus > MAX_PADDING:
        refuse(
            stored.path,
            f"holds more than the {stored.stream_bytes} bytes that its header declares",
            "its header is of another image: write it again",
        )
    return (f"{printable(stored.path)}: {surplus} bytes after the voxels were ignored",) if surplus else ()


def load_voxels(
    stored: StoredVoxels, channel: int = 0, dtype: DTypeLike | None = None
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Read one volume, and the stream to its end.

    Memory is that volume and a few pieces of 1 MiB.

    Parameters
    ----------
    dtype : optional
        What the voxels become on the way, so that a volume never lies in memory in both types; by default they stay as
        stored, in native byte order. What does not fit becomes infinite, for the caller to find.

    Returns
    -------
    array : (d1, d2, d3) of ``dtype``, Fortran order, writable
    warnings : tuple of str
    """
    voxels = np.empty(math.prod(stored.shape), stored.dtype.newbyteorder("=") if dtype is None else dtype)
    begin = stored.skip + channel * stored.volume_bytes
    end = begin + stored.volume_bytes
    position = filled = 0
    rest = b""  # the first bytes of a voxel whose others come with the next piece
    with open_regular(stored.path) as (file, _), np.errstate(all="ignore"):
        file.seek(stored.start)
        for piece in inflate(file, stored.path, stored.wbits) if stored.wbits else plain(file):
            first, last = max(begin - position, 0), min(end - position, len(piece))
            if first < last:
                part = rest + piece[first:last]
                whole = np.frombuffer(part, stored.dtype, len(part) // stored.dtype.itemsize)
                voxels[filled : filled + whole.size] = whole
                filled += whole.size
                rest = part[whole.nbytes :]
            position += len(piece)
            if position > stored.stream_bytes + MAX_PADDING:  # a stream may go on for gigabytes: do not follow it
                break
    warnings = _check_length(stored, position)
    return voxels.reshape(stored.shape, order="F"), warnings if stored.wbits else ()
