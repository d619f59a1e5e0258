"""Arrays kept on disk under a name that says what they were made from: one ``.npy`` file each, whole or not there.

A file is called NAME.KEY.npy, and KEY is a hash of everything that decides its content. So one folder serves every fold
and recipe, nothing in it is ever out of date, and two runs that write the same file write the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from data.case import folder_name
from data.errors import UsageError
from data.stream import open_regular, plain
from data.write import atomic_write

log = logging.getLogger(__name__)

FORMAT = 2
"""Raise it whenever the same files and recipe are to give other arrays: older ones are then made anew."""


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, read in pieces.

    Raises
    ------
    data.errors.InputError
        It is no readable, regular file, or it is empty.
    """
    digest = hashlib.sha256()
    with open_regular(path) as (file, _):
        for piece in plain(file):
            digest.update(piece)
    return digest.hexdigest()


def array_path(cache: Path, name: str, made_from: Any) -> Path:
    """Where the array of a case is kept.

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
    """The hash in a name made by `array_path`, as a number: a seed that only the content decides."""
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
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); check it, or choose another cache") from None
    except Exception as error:  # numpy lets through whatever its parser of a damaged header comes upon
        log.warning("%s: damaged (%s), made again", path, error)
        return None
    if (
        isinstance(array, np.memmap)
        and array.dtype == np.dtype(dtype)
        and array.flags.c_contiguous
        and len(array.shape) == len(shape)
        and all(n > 0 and n == (wanted or n) for n, wanted in zip(array.shape, shape, strict=True))
        and path.stat().st_size == array.offset + array.nbytes
    ):
        return array
    log.warning("%s: damaged (not a whole array of the kind that belongs here), made again", path)
    return None


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write an array, complete or not at all; the folder is made when it is not there.

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
