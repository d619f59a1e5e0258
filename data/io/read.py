"""Checked reader of image files, the one place where they are opened.

Each format is decoded in a module of its own (`data.io.nifti`, `data.io.metaimage`, `data.io.nrrd`,
`data.io.slices`); whatever the format, a `Volume` has passed the same checks (`data.io.values`), and everything
that was repaired stands in its header's warnings. The writer is `data.io.write`, re-exported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data.case import MAX_VOXELS
from data.errors import InputError
from data.grid import Grid
from data.io.header import ImageHeader, pick_channel
from data.io.metaimage import read_metaimage
from data.io.nifti import read_nifti
from data.io.nrrd import read_nrrd
from data.io.outside import is_unfinished, with_background
from data.io.slices import SLICE_AFFINE, read_slice_headers, read_slices
from data.io.stream import StoredVoxels, load_voxels, refuse
from data.io.suffixes import NIFTI_SUFFIXES, NRRD_SUFFIX, SLICE_SUFFIXES, SUFFIXES
from data.io.values import LABEL_ROUNDING, check_finite, check_voxels, exactly, whole_labels
from data.io.write import (
    atomic_write,
    is_temporary_name,
    write_bytes_atomically,
    write_image,
    write_label_map,
    write_probability,
    write_text_atomically,
)

if TYPE_CHECKING:
    from data.case import ImageSource
    from data.io.dicom.geometry import Stack

__all__ = [
    "MAX_VOXELS",
    "SLICE_AFFINE",
    "ImageHeader",
    "Volume",
    "atomic_write",
    "is_temporary_name",
    "read_header",
    "read_label_map",
    "read_volume",
    "read_volumes",
    "write_bytes_atomically",
    "write_image",
    "write_label_map",
    "write_probability",
    "write_text_atomically",
]


@dataclass(frozen=True, eq=False)
class Volume:
    """Checked voxels and their header.

    Parameters
    ----------
    array : (d1, d2, d3)
        Of an image float32 with the file's scaling applied, or integers as stored (`read_volumes`); of a label map
        int16, or int32 where a label needs it.
        Writable, Fortran order (the first axis is contiguous), as the files are.
    header : ImageHeader
    """

    array: NDArray[np.generic]
    header: ImageHeader

    @property
    def grid(self) -> Grid:
        """Grid on which the voxels lie."""
        return self.header.grid


def read_header(source: ImageSource, *, max_voxels: int = MAX_VOXELS) -> ImageHeader:
    """Read and check the header of an image; no voxel is unpacked.

    Parameters
    ----------
    source : ImageSource
        One file, or the slices of one volume in order.
    max_voxels : int
        Most voxels of up to 4 bytes that the file may declare.

    Returns
    -------
    ImageHeader

    Raises
    ------
    InputError
        The file cannot be an image: one sentence with file, value and fix.
    """
    return _read_header(source, max_voxels)[0]


def read_volume(source: ImageSource, *, max_voxels: int = MAX_VOXELS, as_stored: bool = False) -> Volume:
    """Read one image volume, its stream to the end, and check every voxel.

    Parameters
    ----------
    source : ImageSource
        One file, or the slices of one volume in order; ``channel`` picks a volume of a 4D file or a colour band.
    max_voxels : int
        As in `read_header`. Memory is the volume that is returned, never more than the header declares.
    as_stored : bool
        Leave integers of up to 4 bytes that the file does not scale as they are: half the memory, and no work on voxels
        that are cropped away.

    Returns
    -------
    Volume
        float32, but for ``as_stored``. Scaling is done in float32 throughout: values that differ by less than 1e-7 of
        their size may merge.

    Raises
    ------
    InputError
        Also for NaN or infinite voxels, and for an image that is all zero or constant.
    """
    volume = _read_unchecked(source, max_voxels, as_stored=as_stored)
    check_voxels(volume.header.path, volume.array)
    return volume


def _read_unchecked(source: ImageSource, max_voxels: int, *, as_stored: bool) -> Volume:
    header, array, slope, intercept = _read_stored(source, max_voxels, _kept_integers if as_stored else _as_float32)
    with np.errstate(all="ignore"):  # an overflow to inf is counted below
        if (slope, intercept) != (1.0, 0.0):
            array *= np.float32(slope)
            array += np.float32(intercept)
    return Volume(array, header)


def _read_for_a_patient(source: ImageSource, max_voxels: int) -> Volume:
    """Read an image and check it, unless it has NaN.

    The patient's other images tell whether these matter.
    """
    volume = _read_unchecked(source, max_voxels, as_stored=True)
    if not is_unfinished(volume):
        check_voxels(volume.header.path, volume.array)
    return volume


def read_volumes(sources: Mapping[str, ImageSource], *, max_voxels: int = MAX_VOXELS) -> dict[str, Volume]:
    """Read a patient's images side by side, as `read_volume` with ``as_stored`` reads each.

    Parameters
    ----------
    sources : mapping of modality to ImageSource
        Read in threads, as many as there are cores at hand: unpacking leaves Python's lock to others.

    Returns
    -------
    dict of modality to Volume
        In the order of ``sources``; empty for none. NaN outside the brain in all images are 0, with a warning.

    Raises
    ------
    InputError
        Of the first image in that order that cannot be used, whichever was found first.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(max(1, min(cores, len(sources))), "read") as threads:
        futures = {name: threads.submit(_read_for_a_patient, source, max_voxels) for name, source in sources.items()}
        try:
            volumes = with_background({name: future.result() for name, future in futures.items()})
            for volume in filter(is_unfinished, volumes.values()):
                check_voxels(volume.header.path, volume.array)
            return volumes
        finally:
            threads.shutdown(wait=True, cancel_futures=True)


def read_label_map(source: ImageSource, *, max_voxels: int = MAX_VOXELS) -> Volume:
    """Read a label map: whole numbers from 0 on.

    They may be stored in any way (float64 and scaled ones too).

    Returns
    -------
    Volume
        int16, or int32 where a label is above 32767. An empty reference (all zero) is valid; so is what float32
        arithmetic leaves of a whole number (:data:`LABEL_ROUNDING`).

    Raises
    ------
    InputError
        As `read_volume`, and for labels that are fractional, negative, not finite or above 2^31 - 1.
    """
    header, array, slope, intercept = _read_stored(source, max_voxels, lambda dtype, scaled: dtype)
    with np.errstate(all="ignore"):
        ends = float(array.min()), float(array.max())
        check_finite(header.path, array, *ends)
        low, high = sorted(end * slope + intercept for end in ends)
        if low < -LABEL_ROUNDING or high > np.iinfo(np.int32).max:
            refuse(
                header.path,
                f"holds the label {exactly(low if low < -LABEL_ROUNDING else high)}",
                "a label is a whole number from 0 to 2147483647: correct the label map",
            )
        kind = np.int16 if round(high) <= np.iinfo(np.int16).max else np.int32
        if array.dtype.kind in "iu" and (slope, intercept) == (1.0, 0.0):
            return Volume(array.astype(kind, order="F", copy=False), header)
        labels = whole_labels(header.path, array, slope, intercept, kind)
    return Volume(labels, header)


def _read_header(source: ImageSource, max_voxels: int) -> tuple[ImageHeader, StoredVoxels | Stack | None]:
    """Return the checked header and the place of the voxels (None: in slices)."""
    if not source.paths:
        raise InputError("an image without files; name at least one")
    if source.series:
        from data.io.dicom.volume import read_dicom_stack  # NIfTI does without

        return read_dicom_stack(source, max_voxels)
    path = Path(source.paths[0])
    name = path.name.lower()
    if not name.endswith(SUFFIXES):
        refuse(path, f"its name ends in none of {', '.join(SUFFIXES)}", "convert the image to NIfTI")
    if name.endswith(SLICE_SUFFIXES):
        return read_slice_headers(source, max_voxels), None
    if len(source.paths) > 1:
        refuse(
            path,
            f"is one of {len(source.paths)} files of one volume",
            f"only slices ({', '.join(SLICE_SUFFIXES)}) are stacked: name one file",
        )
    with np.errstate(all="ignore"):  # hostile values overflow before they are refused
        header, stored = _reader(name)(path, max_voxels)
    pick_channel(source, path, header.channels, "volumes")
    return header, stored


def _reader(name: str) -> Callable[[Path, int], tuple[ImageHeader, StoredVoxels]]:
    """Return the reader of a format by the end of a file's name."""
    if name.endswith(NIFTI_SUFFIXES):
        return read_nifti
    return read_nrrd if name.endswith(NRRD_SUFFIX) else read_metaimage


def _as_float32(dtype: np.dtype, scaled: bool) -> np.dtype:
    return np.dtype(np.float32)


def _kept_integers(dtype: np.dtype, scaled: bool) -> np.dtype:
    return dtype if dtype.kind in "iu" and dtype.itemsize <= 4 and not scaled else np.dtype(np.float32)


def _read_stored(
    source: ImageSource, max_voxels: int, type_for: Callable[[np.dtype, bool], np.dtype]
) -> tuple[ImageHeader, NDArray[Any], float, float]:
    """Header, voxels without their scaling, slope, intercept; ``type_for(stored type, is scaled)`` is the voxels'
    type."""
    header, stored = _read_header(source, max_voxels)
    if stored is None:
        pixels = read_slices(source, header)
        dtype = type_for(pixels.dtype.newbyteorder("="), False)
        return header, pixels.astype(dtype, order="F", copy=False), 1.0, 0.0
    if not isinstance(stored, StoredVoxels):
        from data.io.dicom.volume import read_dicom_voxels

        return header, read_dicom_voxels(stored, type_for), 1.0, 0.0
    scaled = (stored.slope, stored.intercept) != (1.0, 0.0)
    array, doubts = load_voxels(stored, source.channel or 0, type_for(stored.dtype.newbyteorder("="), scaled))
    if doubts:
        header = replace(header, warnings=(*header.warnings, *doubts))
    return header, array, stored.slope, stored.intercept
