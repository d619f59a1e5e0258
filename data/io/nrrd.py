"""NRRD (``.nrrd``, ``.seg.nrrd`` of 3D Slicer): its header checked, its world turned into RAS+.

A segmentation of 3D Slicer names its segments in the header, and mostly stores no more than the box around them. It is
decoded here for the reason of `data.io.metaimage`; the tests hold its geometry against SimpleITK's.

References
----------
.. [1] NRRD file format definition, https://teem.sourceforge.net/nrrd/format.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from data.grid import Grid
from data.io.header import LENGTHS_MM, ImageHeader, check_affine, itk_header, millimetres, number
from data.io.stream import GZIP, StoredVoxels, check_declared, describe_bytes, open_regular, printable, refuse
from data.io.suffixes import SEGMENTATION_SUFFIX

_HEADER_BYTES = 2**20
_MOST_SEGMENTS = 1000
_DTYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_ENCODINGS = {"raw": 0, "gzip": GZIP, "gz": GZIP}
_SPACES = {"left-posterior-superior": "LPS", "left-anterior-superior": "LAS", "right-anterior-superior": "RAS"}
_SEGMENT = re.compile(r"Segment([0-9]{1,4})_(ID|Name|LabelValue)")
_EXPORT = "export the image again"
_AS_LABEL_MAP = "in 3D Slicer, export the segmentation to a labelmap and save that as NIfTI"


def read_nrrd(path: Path, max_voxels: int) -> tuple[ImageHeader, StoredVoxels]:
    """Read and check the header of a ``.nrrd`` file.

    Its voxels follow it in the same file.
    """
    with open_regular(path) as (file, size):
        head = file.read(_HEADER_BYTES)
    end = re.search(rb"\r?\n\r?\n", head)
    if not head.startswith(b"NRRD000"):
        refuse(path, f"is not NRRD but holds {describe_bytes(head)}", _EXPORT)
    if end is None:
        refuse(path, f"its header has no end within {_HEADER_BYTES} bytes", _EXPORT)
    fields, keys = _fields(path, head[: end.start()].decode("utf-8", "replace"))
    segments, notes = _segments(path, keys)
    is_segmentation = bool(segments) or path.name.lower().endswith(SEGMENTATION_SUFFIX)
    vectors, extra = _axes(path, fields)
    stored = _voxels(path, fields, end.end(), extra, is_segmentation)
    notes += list(check_declared(stored, size, max_voxels))

    def warn(text: str) -> None:
        notes.append(f"{printable(path)}: {text}")

    affine, spacing_known = _affine(path, fields, vectors)
    check_affine(path, affine)
    if vectors is None or _space(fields) is None:
        warn("it does not say where left and right are; its axes were read as LPS, as ITK programs do")
    affine[:3] *= millimetres(path, _unit(path, fields), affine, warn)
    if not spacing_known:
        warn("it gives no voxel size (space directions), so lengths and volumes are unknown")
    header = itk_header(path, stored, Grid(stored.shape, affine, spacing_known), notes)
    return replace(header, segments=segments, is_segmentation=is_segmentation), stored


def _fields(path: Path, text: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return a header's fields, by their names in small letters, and its keys.

    A field that is there twice says two things.
    """
    fields: dict[str, str] = {}
    keys: dict[str, str] = {}
    for line in text.splitlines()[1:]:
        if line.startswith("#"):
            continue
        key, is_key, value = line.partition(":=")
        name, is_field, content = line.partition(": ")
        if is_key and not (is_field and len(name) < len(key)):
            keys[key.strip()] = value.strip()
        elif is_field and name.lower().strip() in fields:
            refuse(path, f"its header gives {name[:40]!r} twice", f"remove one of the two lines, or {_EXPORT}")
        elif is_field:
            fields[name.lower().strip()] = content.strip()
    for elsewhere in ("data file", "datafile"):
        if elsewhere in fields:
            refuse(path, f"keeps its voxels in {fields[elsewhere][:80]!r}", "write the image as one .nrrd file")
    for skip in ("line skip", "lineskip", "byte skip", "byteskip"):
        if fields.get(skip, "0") != "0":
            refuse(path, f"its voxels follow a foreign header ({skip} {fields[skip][:40]})", _EXPORT)
    return fields, keys


def _segments(path: Path, keys: Mapping[str, str]) -> tuple[dict[int, str], list[str]]:
    """Return the name of each label that a segmentation's header gives, and warnings.

    Two segments of one label are no names: the warning says so.
    """
    found: dict[str, dict[str, str]] = {}
    for key, value in keys.items():
        if match := _SEGMENT.fullmatch(key):
            found.setdefault(match[1], {})[match[2]] = value
    named: dict[int, str] = {}
    if len(found) > _MOST_SEGMENTS:
        return {}, [f"{printable(path)}: it names more than {_MOST_SEGMENTS} segments; their names were not used"]
    for segment in found.values():
        text = segment.get("LabelValue", "1" if len(found) == 1 else "")
        label = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0
        name = segment.get("Name") or segment.get("ID", "")
        if label in named or not label:
            why = f"gives the label {label} twice" if label else f"gives {name[:30]!r} the label {text[:20]!r}"
            return {}, [f"{printable(path)}: its header {why}; the names of its segments were not used"]
        named[label] = name[:80]
    return named, []


def _axes(path: Path, fields: Mapping[str, str]) -> tuple[list[str] | None, int | None]:
    """Return the vectors of the axes in space, and the index of another axis.

    Vectors are None where the header has none.
    """
    vectors = None
    if (text := fields.get("space directions")) is not None:
        vectors = re.findall(r"none|\([^()]*\)", text)
    dimension = fields.get("dimension", "")
    if dimension not in ("2", "3", "4") or (vectors is not None and len(vectors) != int(dimension)):
        refuse(path, f"it declares {dimension[:20]!r} axes and the directions {(text or '')[:80]!r}", _EXPORT)
    outside = [] if vectors is None else [n for n, vector in enumerate(vectors) if vector == "none"]
    if vectors is None and dimension == "4":
        first = fields.get("kinds", "").split()[:1]
        outside = [0] if first and first[0].lower() not in ("domain", "space") else [3]
    if len(outside) > 1 or int(dimension) - len(outside) not in (2, 3):
        refuse(path, f"{int(dimension) - len(outside)} of its {dimension} axes lie in space", _EXPORT)
    return vectors and [vector for vector in vectors if vector != "none"], outside[0] if outside else None


def _voxels(
    path: Path, fields: Mapping[str, str], start: int, extra: int | None, is_segmentation: bool
) -> StoredVoxels:
    """Return shape, type and packing that the header declares.

    Each is refused where it cannot be.
    """
    words = fields.get("sizes", "").split()
    sizes = [int(word) if re.fullmatch("[0-9]{1,9}", word) else 0 for word in words]
    if len(sizes) != int(fields["dimension"]) or min(sizes) < 1:
        refuse(
            path, f"declares the sizes {fields.get('sizes', '')[:80]!r}", f"an axis has one voxel or more: {_EXPORT}"
        )
    channels = 1 if extra is None else sizes.pop(extra)
    if channels > 1 and extra != len(sizes):
        _refuse_layers(path, channels, is_segmentation)
    stated = fields.get("type", "").lower()
    code = next((code for code, names in _DTYPES.items() if stated in names), None)
    if code is None:
        refuse(path, f"its voxels are of the type {stated[:40]!r}", "convert them to integers or floats")
    wbits = _ENCODINGS.get(fields.get("encoding", "").lower())
    if wbits is None:
        encoding = fields.get("encoding", "")[:40]
        refuse(path, f"its voxels are stored as {encoding!r}", "save it as NRRD with gzip or without compression")
    endian = fields.get("endian", "little" if code[1] == "1" else "").lower()
    if endian not in ("little", "big"):
        refuse(path, f"its byte order (endian) is {endian[:40]!r}", f"write little or big, or {_EXPORT}")
    dtype = np.dtype(code).newbyteorder(">" if endian == "big" else "<")
    shape = (sizes[0], sizes[1], sizes[2] if len(sizes) > 2 else 1)
    return StoredVoxels(path, shape, channels, dtype, start, 0, wbits)


def _refuse_layers(path: Path, channels: int, is_segmentation: bool) -> NoReturn:
    if is_segmentation:
        refuse(path, f"holds {channels} layers of segments that overlap, not one label a voxel", _AS_LABEL_MAP)
    refuse(path, f"holds {channels} numbers a voxel", "write each into a file of its own")


def _space(fields: Mapping[str, str]) -> str | None:
    """Return the letters of the world's axes, None where they are not told."""
    text = fields.get("space", "").lower().removesuffix("-time")
    letters = _SPACES.get(text, text.upper())
    return letters if letters in _SPACES.values() else None


def _unit(path: Path, fields: Mapping[str, str]) -> tuple[str, float]:
    units = set(re.findall(r'"([^"]*)"', fields.get("space units", ""))) - {"", "???"}
    if len(units) > 1 or any(unit.lower() not in LENGTHS_MM for unit in units):
        refuse(path, f"its space units are {fields['space units'][:40]}", "write them in mm, or export it again")
    unit = next(iter(units), "mm")
    return unit, LENGTHS_MM[unit.lower()]


def _affine(path: Path, fields: Mapping[str, str], vectors: list[str] | None) -> tuple[NDArray[np.float64], bool]:
    """Return the RAS+ affine of the axes in space, voxel size known or not."""
    affine = np.eye(4)
    known = True
    if vectors is not None:
        columns = [_vector(path, vector) for vector in vectors]
        origin = fields.get("space origin")
        affine[:3, : len(columns)] = np.array(columns).T
        affine[:3, 3] = _vector(path, origin) if origin else 0.0
        if len(columns) == 2:  # of a slice: at right angles to its own two
            affine[:3, 2] = np.cross(affine[:3, 0], affine[:3, 1])
            affine[:3, 2] /= np.sqrt((affine[:3, 2] ** 2).sum()) or 1.0
    else:
        spacings = [number(word) for word in fields.get("spacings", "").split()]
        spacings = [each for each in spacings if np.isfinite(each)][:3]
        known = len(spacings) > 1
        if known and min(spacings) <= 0:
            refuse(path, f"its spacings are {spacings}", "a voxel has a length: correct the voxel size")
        affine[range(len(spacings)), range(len(spacings))] = spacings
    flips = {"L": 0, "P": 1}
    for letter in _space(fields) or "LPS":
        if letter in flips:
            affine[flips[letter]] *= -1
    return affine, known


def _vector(path: Path, text: str) -> NDArray[np.float64]:
    values = np.array([number(word) for word in text.strip("() \t").split(",")])
    if values.size not in (2, 3) or not np.isfinite(values).all():
        refuse(path, f"its directions or its origin hold {text[:80]!r}, not three numbers", _EXPORT)
    return np.append(values, 0.0)[:3]
