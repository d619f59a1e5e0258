"""NIfTI-1 and 2: the header checked, and the declared voxels.

nibabel supplies the layout of the header; its array proxy is not used, for it allocates what a header asks for.
"""

from __future__ import annotations

import math
from pathlib import Path

import nibabel as nib
import numpy as np

from data.case import MAX_VOXELS
from data.io.header import ImageHeader
from data.io.placement import place
from data.io.stream import (
    GZIP,
    StoredVoxels,
    check_declared,
    describe_bytes,
    inflate,
    open_regular,
    plain,
    printable,
    refuse,
)

_NIFTI_DTYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_REFUSED_DTYPES = {
    1: "binary",
    32: "complex64",
    128: "RGB",
    1536: "float128",
    1792: "complex128",
    2048: "complex256",
    2304: "RGBA",
}


def read_nifti(path: Path, max_voxels: int) -> tuple[ImageHeader, StoredVoxels]:
    """Read and check the header of a ``.nii`` or ``.nii.gz`` file.

    It may be NIfTI-1 or 2; no voxel is unpacked.
    """
    packed = path.name.lower().endswith(".gz")
    head = b""
    with open_regular(path) as (file, size):
        magic = file.read(64)
        if packed != magic.startswith(b"\x1f\x8b"):
            refuse(
                path,
                f"holds {describe_bytes(magic)}",
                "fetch the file itself with git lfs pull"
                if magic.startswith(b"version https://git-lfs")
                else "rename it to end in .nii if it is uncompressed NIfTI, else copy it again"
                if packed
                else "rename it to end in .nii.gz if it is gzip, else copy it again",
            )
        if packed and magic[3:4] > b"\x1f":  # bits that gzip reserves: zlib refuses them, ISA-L does not
            refuse(path, "its compressed stream is damaged (unknown flags)", "copy it again from its source")
        file.seek(0)
        for piece in inflate(file, path, GZIP, 4096) if packed else plain(file):
            head += piece
            if len(head) >= 540:
                break
    record = _nifti_record(path, head)
    stored, ndim, doubts = _nifti_voxels(path, record, GZIP if packed else 0)
    doubts += check_declared(stored, size, max_voxels)
    header = place(path, record, stored, ndim, doubts)
    return header, stored


def _nifti_record(path: Path, head: bytes) -> np.void:
    """Return the header as a numpy record of either version and byte order.

    They are told by its size field and its magic.
    """
    versions = ((348, b"n+1\0", 344, nib.nifti1.header_dtype), (540, b"n+2\0", 4, nib.nifti2.header_dtype))
    for length, magic, at, layout in versions:
        for order in "<>":
            if (
                head[:4] == np.array(length, f"{order}i4").tobytes()
                and head[at : at + 4] == magic
                and len(head) >= length
            ):
                return np.frombuffer(head, layout.newbyteorder(order), 1)[0]  # type: ignore[arg-type,return-value]
    if head[344:348] == b"ni1\0":
        refuse(path, "is the header of a .hdr/.img pair", "write the pair as one .nii file")
    content = describe_bytes(head)
    refuse(
        path,
        f"is not NIfTI, though its first four bytes are (magic {head[344:348]!r})"
        if "NIfTI" in content
        else f"is not NIfTI but holds {content} (magic {head[344:348]!r})",
        "export the image as NIfTI again",
    )


def _nifti_voxels(path: Path, record: np.void, wbits: int) -> tuple[StoredVoxels, int, tuple[str, ...]]:
    """Return shape, type, offset and scaling that a NIfTI header declares.

    Each is refused where it cannot be.
    """
    rewrite = "its header is damaged: export the image again"
    dims = [int(n) for n in record["dim"]]
    ndim = dims[0]
    if not 2 <= ndim <= 7 or min(dims[1 : ndim + 1]) < 1 or max(dims[5 : ndim + 1], default=1) > 1:
        refuse(
            path,
            f"its header declares the dimensions {dims}",
            "a volume has 2 to 4 axes of at least one voxel: export the image again",
        )
    sizes = [*dims[1 : ndim + 1], 1, 1]
    code = int(record["datatype"])
    if code not in _NIFTI_DTYPES:
        refuse(
            path,
            f"its voxels are {_REFUSED_DTYPES.get(code, 'of an unknown type')} (datatype {code})",
            "convert them to integers or floats, one number a voxel",
        )
    dtype = np.dtype(record.dtype["sizeof_hdr"].byteorder + _NIFTI_DTYPES[code])
    doubts: tuple[str, ...] = ()
    if int(record["bitpix"]) != 8 * dtype.itemsize:
        doubts += (
            f"{printable(path)}: bitpix is {int(record['bitpix'])}; {8 * dtype.itemsize} of datatype {code} was used",
        )
    offset, least = float(record["vox_offset"]), 352 if int(record["sizeof_hdr"]) == 348 else 544
    if not (math.isfinite(offset) and offset == int(offset) and least <= offset <= MAX_VOXELS):
        refuse(path, f"its voxels are said to begin at byte {offset:g}, but the first possible is {least}", rewrite)
    slope, intercept = float(record["scl_slope"]), float(record["scl_inter"])
    if slope == 0:  # the standard's way to say: not scaled
        slope, intercept = 1.0, 0.0
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        refuse(path, f"its scaling is slope {slope:g}, intercept {intercept:g}", rewrite)
    shape = (sizes[0], sizes[1], sizes[2])
    return StoredVoxels(path, shape, sizes[3], dtype, 0, int(offset), wbits, slope, intercept), min(ndim, 3), doubts
