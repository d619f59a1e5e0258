"""MetaImage (``.mha``, ``.mhd``): its header checked, its LPS world turned into RAS+.

It is decoded here and not by SimpleITK 2.5, which gives wrong voxels without a word where the checksum of a compressed
stream is wrong; the tests hold its geometry against SimpleITK's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.grid import Grid
from data.io.header import LENGTHS_MM, ImageHeader, check_affine, itk_header, millimetres, number
from data.io.stream import StoredVoxels, check_declared, describe_bytes, open_regular, printable, refuse

_META_DTYPES = {
    "CHAR": "i1",
    "UCHAR": "u1",
    "SHORT": "i2",
    "USHORT": "u2",
    "INT": "i4",
    "UINT": "u4",
    "LONG": "i4",
    "ULONG": "u4",
}
_META_DTYPES |= {"LONG_LONG": "i8", "ULONG_LONG": "u8", "FLOAT": "f4", "DOUBLE": "f8"}
_META_HEADER_BYTES = 2**16
_TRUTHS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


def read_metaimage(path: Path, max_voxels: int) -> tuple[ImageHeader, StoredVoxels]:
    """Read and check the header of a ``.mha`` or ``.mhd`` file.

    Its world is LPS.
    """
    with open_regular(path) as (file, size):
        head = file.read(_META_HEADER_BYTES)
    found = re.search(rb"^ElementDataFile[ \t]*=[ \t]*([^\r\n]*?)[ \t]*\r?(?:\n|\Z)", head, re.MULTILINE)
    if found is None:
        refuse(
            path,
            f"is not MetaImage but holds {describe_bytes(head)} (no ElementDataFile line)",
            "export the image again",
        )
    fields = _fields(path, head[: found.start()].decode("latin-1"))
    voxels_path, start = path, found.end()
    if (data_file := found[1].decode("utf-8", "surrogateescape")) != "LOCAL":
        voxels_path, start = _beside(path, data_file, size), 0
        with open_regular(voxels_path) as (_, size):
            pass
    stored, ndim = _meta_voxels(path, voxels_path, fields, start)
    notes = (*_linked_away(path, voxels_path), *check_declared(stored, size, max_voxels))
    affine, spacing_known = _meta_affine(path, fields, ndim)
    check_affine(path, affine)

    def warn(text: str) -> None:
        nonlocal notes
        notes += (f"{printable(path)}: {text}",)

    affine[:3] *= millimetres(path, _unit(fields, warn), affine, warn)
    if not spacing_known:
        warn("it gives no voxel size (ElementSpacing), so lengths and volumes are unknown")
    return itk_header(path, stored, Grid(stored.shape, affine, spacing_known), notes), stored


def _beside(path: Path, data_file: str, size: int) -> Path:
    """Return the file beside a header that holds its voxels.

    The header has ``size`` bytes; any other place is refused.
    """
    if (
        not data_file
        or Path(data_file).name != data_file
        or "\\" in data_file
        or data_file.upper().startswith("LIST")
        or "%" in data_file
    ):
        refuse(
            path,
            f"keeps its voxels in {data_file!r}",
            "only one file in the same folder is read: write the image as one .mha file",
        )
    if size > _META_HEADER_BYTES:  # whoever takes its digest would read on for hours
        refuse(path, f"has {size} bytes and no voxels", f"a header has at most {_META_HEADER_BYTES}: write it again")
    return path.parent / data_file


def _fields(path: Path, text: str) -> dict[str, str]:
    """Return the keys of a header, in lower case, and their values.

    A key that is there twice says two things.
    """
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, is_one, value = line.partition("=")
        key = key.strip()
        if is_one and key.lower() in fields and key.lower() != "comment":
            refuse(
                path,
                f"its header gives {key[:40]} twice ({fields[key.lower()][:40]!r} and {value.strip()[:40]!r})",
                "remove one of the two lines, or export the image again",
            )
        if is_one:
            fields[key.lower()] = value.strip()
    return fields


def _truth(path: Path, fields: dict[str, str], names: tuple[str, ...], default: bool) -> bool:
    """Return the truth that the first of ``names`` states.

    It is read as ITK's own reader does: by its first letter, or 1 and 0.
    """
    stated = {name: fields[name] for name in names if name in fields}
    for name, text in stated.items():
        if text.lower() not in _TRUTHS:
            refuse(path, f"its {name} is {text[:40]!r}", "write True or False, or export the image again")
    truths = {_TRUTHS[text.lower()] for text in stated.values()}
    if len(truths) > 1:
        contrary = " and ".join(f"{name} {text}" for name, text in stated.items())
        refuse(path, f"its header contradicts itself: {contrary}", "export the image again")
    return truths.pop() if truths else default


def _unit(fields: dict[str, str], warn: Callable[[str], None]) -> tuple[str, float]:
    """Return the header's unit of length and its size in mm.

    Without a word on it, or with ``?``, it is mm.
    """
    unit = fields.get("distanceunits", "mm")
    if unit not in ("", "?") and unit.lower() not in LENGTHS_MM:
        warn(f"its DistanceUnits are {unit[:40]!r}; they were read as mm")
    return unit[:40], LENGTHS_MM.get(unit.lower(), 1.0)


def _linked_away(path: Path, voxels_path: Path) -> tuple[str, ...]:
    """Warn of voxels beside a header that link into another folder.

    No list of the folder tells of it.
    """
    real = os.path.realpath(voxels_path)
    if voxels_path == path or os.path.dirname(real) == os.path.realpath(path.parent):
        return ()
    return (
        f"{printable(path)}: its voxels, {voxels_path.name}, are a link to {printable(Path(real))}; it was followed",
    )


def _numbers(path: Path, fields: dict[str, str], names: tuple[str, ...], default: list[float]) -> NDArray[np.float64]:
    """Return the numbers of the first of ``names`` in a MetaImage header.

    They are finite, as many as ``default`` has.
    """
    text = next((fields[name] for name in names if name in fields), None)
    if text is None:
        return np.array(default)
    words = text.split()
    values = np.array([number(word) for word in words])
    if len(values) != len(default) or not np.isfinite(values).all():
        refuse(path, f"its {names[0]} is {text[:80]!r}, not {len(default)} numbers", "export the image again")
    return values


def _meta_voxels(path: Path, voxels_path: Path, fields: dict[str, str], start: int) -> tuple[StoredVoxels, int]:
    """Return shape, type and packing that a MetaImage header declares.

    Each is refused where it cannot be.
    """
    ndim = fields.get("ndims", "")
    dims = _numbers(path, fields, ("dimsize",), [0.0] * int(ndim)) if ndim in ("2", "3", "4") else np.array([0.0])
    if not ((dims >= 1) & (dims == np.floor(dims)) & (dims < 2**31)).all():
        refuse(
            path,
            f"declares the dimensions {fields.get('dimsize', '')[:80]!r} (NDims {ndim!r})",
            "a volume has 2 to 4 axes of at least one voxel: export the image again",
        )
    element = fields.get("elementtype", "")
    code = _META_DTYPES.get(element.upper().removeprefix("MET_"))
    if code is None or fields.get("elementnumberofchannels", "1") != "1":
        refuse(
            path,
            f"its voxels are {element!r} with {fields.get('elementnumberofchannels', '1')} channels",
            "convert them to integers or floats, one number a voxel",
        )
    if not _truth(path, fields, ("binarydata",), True) or fields.get("headersize", "0") != "0":
        refuse(
            path,
            "its voxels are text or follow a foreign header (BinaryData, HeaderSize)",
            "write the image as a plain .mha file",
        )
    big = _truth(path, fields, ("binarydatabyteordermsb", "elementbyteordermsb"), False)
    packed = _truth(path, fields, ("compresseddata",), False)
    sizes = [int(n) for n in dims] + [1, 1]
    dtype = np.dtype(code).newbyteorder(">" if big else "<")
    # 47: zlib or gzip, as the stream itself says
    return StoredVoxels(
        voxels_path, (sizes[0], sizes[1], sizes[2]), sizes[3], dtype, start, 0, 47 if packed else 0
    ), len(dims)


def _meta_affine(path: Path, fields: dict[str, str], ndim: int) -> tuple[NDArray[np.float64], bool]:
    """Return the RAS+ affine of a MetaImage header, spacing known or not.

    Row i of TransformMatrix is the direction of axis i.
    """
    eye = np.eye(ndim)
    matrix = _numbers(path, fields, ("transformmatrix", "rotation", "orientation"), eye.ravel().tolist()).reshape(
        ndim, ndim
    )
    spacing = _numbers(path, fields, ("elementspacing", "elementsize"), [1.0] * ndim)
    offset = _numbers(path, fields, ("offset", "position", "origin"), [0.0] * ndim)
    if not (spacing > 0).all():
        refuse(path, f"its ElementSpacing is {spacing.tolist()}", "a voxel has a length: correct the voxel size")
    used = min(ndim, 3)
    affine = np.eye(4)
    affine[:used, :used] = matrix[:used, :used].T * spacing[:used]
    affine[:used, 3] = offset[:used]
    affine[:2] *= -1  # MetaImage is LPS
    return affine, any(name in fields for name in ("elementspacing", "elementsize"))
