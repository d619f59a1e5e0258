"""Atomic writer.

A file is there complete or not at all, and the same content always gives the same bytes.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from data.io.header import SPACING_UNKNOWN, ImageHeader

_GZIP_LEVEL = 1
"""Level 1 packs a mask of 240x240x155 into 40 kB in 25 ms; level 4 takes twice the time to save 30 kB."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_TEMPORARY = re.compile(r"\..+\.\d+-[0-9a-f]{8}\.tmp", re.DOTALL)


def is_temporary_name(name: str) -> bool:
    """Tell whether a name is one under which `atomic_write` works.

    A file of such a name found with no writer alive is stale, and may go.
    """
    return _TEMPORARY.fullmatch(name) is not None


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Write a file under a temporary name, then rename it.

    It gets its own name only when all of it is on the disk.

    Parameters
    ----------
    path : Path
        The final name, in a folder that exists. What it held before stays until the new content is complete.

    Yields
    ------
    binary file
        Leaving the block by any exception removes it and leaves ``path`` as it was.

    Raises
    ------
    OSError
        Disk full, no permission, file-size limit...: for the caller to report.
    """
    path = Path(path)
    # The process is in the name so that stale files can be told; the rest keeps two threads on one name apart.
    stem = os.fsdecode(os.fsencode(path.name)[:200])
    temporary = path.with_name(f".{stem}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        try:
            os.replace(temporary, path)
        except OSError as error:
            if error.errno is not None:  # it would name the temporary file
                error.filename, error.filename2 = str(path), None
            raise
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a renaming last.

    Some network file systems and Windows cannot, and the content is safe without.
    """
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Write a whole file, or nothing."""
    with atomic_write(path) as file:
        file.write(content)


def write_text_atomically(path: Path, content: str) -> None:
    """Write a whole text file as UTF-8, line ends as given.

    Undecodable bytes of file names become U+FFFD.
    """
    write_bytes_atomically(path, _SURROGATE.sub("\ufffd", content).encode())


def write_label_map(path: Path, array: NDArray[np.uint8], like: ImageHeader) -> None:
    """Write a label map, (d1, d2, d3) uint8, on the grid of ``like``.

    Shape, sform, qform, their codes and the units are those of ``like``.

    Raises
    ------
    ValueError
        Another dtype or shape: a mistake of the program, not of a file.
    OSError
        It could not be written; nothing is left behind.
    """
    _write_nifti(path, array, like, (np.uint8,))


def write_probability(path: Path, array: NDArray[np.float32], like: ImageHeader) -> None:
    """Write a probability map, (d1, d2, d3) float32; else as `write_label_map`."""
    _write_nifti(path, array, like, (np.float32,))


def write_image(path: Path, array: NDArray[np.generic], like: ImageHeader) -> None:
    """Write an image, (d1, d2, d3) of uint8, int16 or float32; else as `write_label_map`."""
    _write_nifti(path, array, like, (np.uint8, np.int16, np.float32))


def _write_nifti(path: Path, array: NDArray[np.generic], like: ImageHeader, dtypes: tuple[type, ...]) -> None:
    if array.dtype.newbyteorder("=") not in [np.dtype(allowed) for allowed in dtypes]:
        raise ValueError(
            f"{path}: voxels are {array.dtype}, but must be {' or '.join(np.dtype(d).name for d in dtypes)}"
        )
    if array.shape != like.grid.shape:
        raise ValueError(f"{path}: the shape is {array.shape}, but the grid of {like.path} has {like.grid.shape}")
    if not Path(path).name.endswith(".nii.gz"):
        raise ValueError(f"{path}: the name must end in .nii.gz")
    header = _header_like(array.dtype.newbyteorder("<"), like)
    packer = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, 31)  # zlib's own gzip header has time 0 and no name
    with atomic_write(path) as file:
        file.write(packer.compress(header.binaryblock + bytes(4)))
        file.write(packer.compress(array.astype(header.get_data_dtype(), order="F", copy=False).T.data))
        file.write(packer.flush())


def _header_like(dtype: np.dtype, like: ImageHeader) -> nib.Nifti1Header:
    """Return a NIfTI header of ``dtype`` that places voxels as ``like`` does.

    NIfTI-2 only where an axis is too long.
    """
    shape = like.grid.shape[: like.ndim]
    kind = nib.Nifti1Header if max(shape) < 2**15 else nib.Nifti2Header
    header = kind(endianness="<")
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    if like.placement:
        for name, value in like.placement.items():
            header[name] = value
        header["pixdim"][4:] = 1
    else:
        header.set_sform(like.grid.affine, like.sform_code)
        header.set_qform(like.grid.affine if like.qform is None else like.qform, like.qform_code, strip_shears=True)
        header["xyzt_units"] = like.xyzt_units
    header["vox_offset"] = 352 if kind is nib.Nifti1Header else 544
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["descrip"] = b"" if like.grid.spacing_known else SPACING_UNKNOWN
    return header
