"""Pixels of DICOM files.

Plain ones are taken as they are. Compressed ones are decoded by GDCM from a file of our own that holds nothing else:
no other element of a foreign header reaches it.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import InputError
from data.io.dicom.dataset import open_dataset, pydicom_or_refuse
from data.io.dicom.record import Record
from data.io.stream import refuse

PLAIN = {
    "1.2.840.10008.1.2": "<",
    "1.2.840.10008.1.2.1": "<",
    "1.2.840.10008.1.2.2": ">",
}
"""Transfer syntaxes of plain pixels, and their order of bytes."""
COMPRESSED = {
    "1.2.840.10008.1.2.5": "RLE",
    "1.2.840.10008.1.2.4.50": "JPEG, lossy",
    "1.2.840.10008.1.2.4.51": "JPEG, lossy",
    "1.2.840.10008.1.2.4.57": "JPEG lossless",
    "1.2.840.10008.1.2.4.70": "JPEG lossless",
    "1.2.840.10008.1.2.4.80": "JPEG-LS",
    "1.2.840.10008.1.2.4.81": "JPEG-LS, lossy",
    "1.2.840.10008.1.2.4.90": "JPEG 2000",
    "1.2.840.10008.1.2.4.91": "JPEG 2000, lossy",
}
_COPY = "copy it again from its source"
_SOF = re.compile(rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf\xf7]..(.)(..)(..)", re.DOTALL)
_SIZ = re.compile(rb"\xff\x4f\xff\x51..(..)(....)(....)(....)(....)", re.DOTALL)


def is_lossy(syntax: str) -> bool:
    """Tell whether a transfer syntax loses detail."""
    return "lossy" in COMPRESSED.get(syntax, "")


def check_syntax(record: Record) -> None:
    """Refuse a transfer syntax that is not read. Raises InputError."""
    if record.syntax and record.syntax not in PLAIN and record.syntax not in COMPRESSED:
        name = record.syntax[:64]
        refuse(Path(record.shown), f"its transfer syntax {name} is not read", "export it uncompressed")


def read_frames(record: Record) -> Iterator[NDArray[Any]]:
    """Yield the pictures of a file in the order of its frames.

    They have (rows, columns) pixels and are integers as stored, cut to the bits that are the image's: overlays may lie
    in the others.

    Raises
    ------
    data.errors.InputError
        The pixels are missing, cut short, damaged, or of a kind that is not read.
    """
    check_syntax(record)
    dataset = open_dataset(record.path, record.shown, (), pixels=True)
    try:
        content = dataset.get("PixelData")
    except Exception:  # an element of a kind that there is not
        content = None
    if not isinstance(content, bytes) or not content:
        refuse(Path(record.shown), "a file of it has no pixels", _COPY)
    frames = _decoded(record, content) if record.syntax in COMPRESSED else _plain(record, content)
    for frame in frames:
        yield _own_bits(frame, record)


def _plain(record: Record, content: bytes) -> Iterator[NDArray[Any]]:
    dtype = np.dtype(f"{PLAIN.get(record.syntax, '<')}{'i' if record.signed else 'u'}{record.bits[0] // 8}")
    size = record.rows * record.columns * dtype.itemsize
    due = size * record.n_frames
    # Some writers fill up with zeros; more than a row is another picture than the header's.
    if not due <= len(content) <= due + record.columns * dtype.itemsize or any(content[due:]):
        refuse(Path(record.shown), f"a file of it holds {len(content)} bytes of pixels where {due} are due", _COPY)
    for index in range(record.n_frames):
        values = np.frombuffer(content, dtype, record.rows * record.columns, index * size)
        yield values.reshape(record.rows, record.columns).astype(dtype.newbyteorder("="))


def _decoded(record: Record, content: bytes) -> Iterator[NDArray[Any]]:
    pydicom = pydicom_or_refuse()
    shown, count = Path(record.shown), 0
    damaged = f"its {COMPRESSED[record.syntax]} stream is damaged"
    try:
        for code in pydicom.encaps.generate_frames(content, number_of_frames=record.n_frames):
            if count == record.n_frames:
                break
            _check_size(record, code)
            count += 1
            yield _by_gdcm(record, code)
    except InputError:
        raise
    except Exception as error:  # pydicom and GDCM raise whatever they meet
        refuse(shown, f"{damaged} ({type(error).__name__})", _COPY)
    if count < record.n_frames:
        refuse(shown, f"a file of it holds {count} pictures where {record.n_frames} are due", _COPY)


def _check_size(record: Record, code: bytes) -> None:
    """Refuse a compressed picture of another size than its header's.

    Nothing is made of it before.
    """
    if (found := _SIZ.match(code)) is not None:
        right, below, left, above = (int.from_bytes(part, "big") for part in found.groups()[1:])
        size = (below - above, right - left)
    elif code[:2] == b"\xff\xd8" and (found := _SOF.search(code)) is not None:
        size = (int.from_bytes(found[2], "big"), int.from_bytes(found[3], "big"))
    elif record.syntax == "1.2.840.10008.1.2.5":
        return
    else:
        refuse(Path(record.shown), "a picture of it is no JPEG stream", _COPY)
    if size != (record.rows, record.columns):
        differing = f"a compressed picture of it has {size[1]} x {size[0]} pixels, not {record.columns} x {record.rows}"
        refuse(Path(record.shown), differing, _COPY)


def _by_gdcm(record: Record, code: bytes) -> NDArray[Any]:
    import SimpleITK as sitk

    pydicom = pydicom_or_refuse()
    clean = pydicom.dataset.Dataset()
    clean.SOPClassUID, clean.SOPInstanceUID = pydicom.uid.SecondaryCaptureImageStorage, "2.25.1"
    clean.Rows, clean.Columns, clean.SamplesPerPixel = record.rows, record.columns, 1
    clean.PhotometricInterpretation = "MONOCHROME2"
    clean.BitsAllocated, clean.BitsStored, clean.HighBit = record.bits
    clean.PixelRepresentation = int(record.signed)
    clean.PixelData = pydicom.encaps.encapsulate([code])
    clean["PixelData"].VR, clean["PixelData"].is_undefined_length = "OB", True
    clean.file_meta = pydicom.dataset.FileMetaDataset()
    clean.file_meta.TransferSyntaxUID = record.syntax
    with tempfile.NamedTemporaryFile(suffix=".dcm") as file:
        clean.save_as(file, enforce_file_format=True)
        file.flush()
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(file.name)
        pixels = sitk.GetArrayFromImage(reader.Execute())
    if pixels.size != record.rows * record.columns or pixels.dtype.kind not in "iu":
        refuse(Path(record.shown), f"a picture of it decodes to {pixels.shape} {pixels.dtype}", _COPY)
    return np.asarray(pixels.reshape(record.rows, record.columns))


def _own_bits(frame: NDArray[Any], record: Record) -> NDArray[Any]:
    """Return pixels without the bits above and below the image's own."""
    allocated, stored, high = record.bits
    if stored == allocated:
        return frame
    kind = np.dtype(f"{'i' if record.signed else 'u'}{allocated // 8}")
    values = frame.astype(kind, copy=False)
    # Up and down again: the shift back fills with zeros, or with the sign of a signed number.
    return (values << (allocated - 1 - high)) >> (allocated - stored)
