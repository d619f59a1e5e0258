"""Arrays kept on disk under a name that says how they were made.

Each is one ``.npy`` file, whole or not there.

A file is called NAME.KEY.npy, and KEY is a hash of everything that decides its content. So one folder serves every fold
and recipe, nothing in it is ever out of date, and two runs that write the same file write the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from data.errors import InputError, UsageError
from data.folder_names import folder_name
from data.io.stream import open_regular, plain, refuse
from data.io.write import atomic_write
from data.regular_file import open_regular_file

log = logging.getLogger(__name__)

LARGEST_ARRAY = 2**28
"""Bytes of an array in an .npz file: that of the cubes at hand with most lesions has 20 MB."""
LARGEST_FILE = 2**31
"""Bytes of a file to learn from: twice those of the largest image that is read."""
FORMAT = 2
"""Raise it whenever the same files and recipe are to give other arrays: older ones are then made anew."""


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, read in pieces.

    Raises
    ------
    data.errors.InputError
        It is no readable, regular file, it is empty, or larger than `LARGEST_FILE`.
    """
    digest = hashlib.sha256()
    with open_regular(path) as (file, size):
        if size > LARGEST_FILE:
            refuse(path, f"has {size} bytes, more than the {LARGEST_FILE} of any file to learn from", "leave it out")
        for piece in plain(file):
            digest.update(piece)
    return digest.hexdigest()


def array_path(cache: Path, name: str, made_from: Any) -> Path:
    """Return the path of a case's array.

    Parameters
    ----------
    cache : Path
    name : str
        The case id; made safe for a file system.
    made_from : JSON data
        All that decides the content: digests of files, the settings.
    """
    content = json.dumps([FORMAT, made_from], sort_keys=True)
    key = hashlib.blake2b(content.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    return Path(cache) / f"{folder_name(name)}.{key}.npy"


def key_of(path: Path) -> int:
    """Read the hash in a name made by `array_path`, as a number.

    It is a seed that only the content decides.
    """
    return int(path.name.split(".")[-2], 16)


def open_array(path: Path, dtype: DTypeLike, shape: tuple[int | None, ...]) -> NDArray[Any] | None:
    """Map an array from disk, read-only; None when it is not there, or damaged and has to be made again.

    Parameters
    ----------
    path : Path
    dtype, shape
        What it must be; None stands for any positive length. C order.

    Raises
    ------
    data.errors.UsageError
        The file is there and cannot be read.
    """
    try:
        with open_regular_file(path) as (file, size):
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError("of another format")
            found, fortran, kind = np.lib.format.read_array_header_1_0(file)
            fits = len(found) == len(shape) and all(
                n > 0 and n == (wanted or n) for n, wanted in zip(found, shape, strict=True)
            )
            start = file.tell()
            if not fits or fortran or kind != np.dtype(dtype) or size != start + math.prod(found) * kind.itemsize:
                raise ValueError("not a whole array of the kind that belongs here")
            return np.memmap(file, kind, "r", start, found)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); check it, or choose another cache") from None
    except Exception as error:  # numpy lets through whatever its parser of a damaged header comes upon
        log.warning("%s: damaged (%s), made again", path, str(error)[:200])
        return None


def read_npz(path: Path, names: Sequence[str], what: str) -> list[NDArray[Any]]:
    """Read arrays of an ``.npz`` file.

    None is larger than `LARGEST_ARRAY`, whatever the file declares; ``what`` they are is for the error.

    Raises
    ------
    data.errors.InputError
        It is no regular file, no such archive, lacks an array, or one is too large.
    """
    try:
        with open_regular_file(path) as (file, _), zipfile.ZipFile(file) as archive:
            return [_read_member(archive, name) for name in names]
    except Exception as error:  # numpy and zipfile let through whatever they come upon in a damaged file
        raise InputError(f"{path}: holds no {what} ({str(error)[:200]}); copy it again") from None


def _read_member(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    with archive.open(f"{name}.npy") as member:
        content = io.BytesIO(member.read(LARGEST_ARRAY + 1))
    size = len(content.getbuffer())
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, _, kind = read_header[np.lib.format.read_magic(content)](content)
    # numpy alone would take the memory that the header asks for before it finds that the bytes are not there.
    if kind.kind not in "biuf":
        raise ValueError(f"{name} is of {kind}, and not of numbers")
    if size > LARGEST_ARRAY or size != content.tell() + math.prod(shape) * kind.itemsize:
        raise ValueError(f"{name} has {size} bytes, and declares {shape} of {kind}; the most are {LARGEST_ARRAY}")
    content.seek(0)
    return np.load(content, allow_pickle=False)


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write an array, complete or not at all.

    The folder is made when it is not there.

    Raises
    ------
    data.errors.UsageError
        It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            np.save(file, np.ascontiguousarray(array), allow_pickle=False)
    except OSError as error:
        raise UsageError(
            f"{path.parent}: cannot be written to ({error.strerror or error}); free space, or choose another cache"
        ) from None
