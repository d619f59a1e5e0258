"""Volumes kept as one TIFF or PNG picture a slice.

They are read by pillow, which refuses a picture that is cut short.
"""

from __future__ import annotations

import math
import struct
import warnings as python_warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data.case import MAX_VOXELS
from data.errors import Mend
from data.grid import Grid
from data.io.header import ImageHeader, pick_channel
from data.io.stream import describe_bytes, open_regular, refuse

if TYPE_CHECKING:
    from PIL.Image import Image

    from data.case import ImageSource

SLICE_AFFINE = np.array([[0.0, -1.0, 0.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
"""Slices stacked as (rows, columns, slices): rows run to the posterior, columns to the left, slices to the superior,
one nominal mm apart. A viewer in the radiological convention then shows them as a picture viewer does."""

_MAX_PICTURE_RATIO = 4096  # of pixels to bytes of the file: LZW and deflate stay below
_WIDTH, _HEIGHT, _BITS = 256, 257, 258  # tags of TIFF
_GREY_INSTEAD = (
    "only 8 of them would be read: write each modality as grey slices of its own (flair_1.png, t1_1.png), or as NIfTI"
)
_PICTURE_MODES = {
    "1": "u1",
    "L": "u1",
    "LA": "u1",
    "RGB": "u1",
    "RGBA": "u1",
    "I;16": "u2",
    "I;16L": "u2",
    "I;16B": "u2",
    "I": "i4",
    "F": "f4",
}


def read_slice_headers(source: ImageSource, max_voxels: int) -> ImageHeader:
    """Read one header for all slices of a volume, which must be alike."""
    kinds = []
    for path in map(Path, source.paths):
        with open_regular(path) as (file, size), _picture(path, file, size) as picture:  # type: ignore[attr-defined]
            kinds.append((picture.mode, picture.size))
        if kinds[-1] != kinds[0]:
            refuse(
                path,
                f"is a slice of (mode, size) {kinds[-1]} among slices of {kinds[0]}",
                "slices of one volume are alike: remove or correct it",
            )
    first, (mode, (columns, rows)) = Path(source.paths[0]), kinds[0]
    if mode not in _PICTURE_MODES:
        refuse(first, f"its pixels are of mode {mode}", "convert the slices to grey or RGB pictures without a palette")
    bands = {"LA": 2, "RGB": 3, "RGBA": 4}.get(mode, 1)
    if rows * columns * bands * len(kinds) > max_voxels:
        refuse(
            first,
            f"declares {rows} x {columns} x {len(kinds)} pixels of {bands} bands, over the limit of {max_voxels}",
            Mend.CHECK_SLICES,
        )
    pick_channel(source, first, bands, "colour bands")
    grid = Grid((rows, columns, len(kinds)), SLICE_AFFINE, spacing_known=False)
    return ImageHeader(
        path=first,
        grid=grid,
        dtype=np.dtype(_PICTURE_MODES[mode]).name,
        channels=bands,
        sform_code=1,
        qform_code=1,
        qform=None,
        xyzt_units=0,
    )


def read_slices(source: ImageSource, header: ImageHeader) -> NDArray[np.generic]:
    """Voxels (rows, columns, slices) of one band, in the type of the pictures."""
    volume = np.empty(header.grid.shape, header.dtype, order="F")
    for index, path in enumerate(map(Path, source.paths)):
        with open_regular(path) as (file, size), _picture(path, file, size) as picture:  # type: ignore[attr-defined]
            try:
                pixels = np.asarray(picture)
                volume[:, :, index] = pixels[..., source.channel or 0] if header.channels > 1 else pixels
            except Exception as error:  # pillow's decoders raise whatever they meet
                refuse(path, f"its picture is damaged ({error})", "copy it again from its source")
    return volume


def _picture(path: Path, file, size: int) -> Image:
    """Open a TIFF or PNG file lazily, its kind checked against its name."""
    from PIL import Image  # here, for `--help` and NIfTI do without

    if size > MAX_VOXELS:
        refuse(path, f"has {size} bytes", f"a slice has at most {MAX_VOXELS}: check the file")
    head = file.read(33)
    kind, magics = (
        ("PNG", (b"\x89PNG\r\n\x1a\n",)) if path.name.lower().endswith(".png") else ("TIFF", (b"II*\0", b"MM\0*"))
    )
    if not head.startswith(magics):
        refuse(path, f"is not {kind} but holds {describe_bytes(head)}", "export the slice again")
    file.seek(0)
    if kind == "PNG":
        _check_png(path, file.read(size))
        file.seek(0)
    try:
        with python_warnings.catch_warnings():
            python_warnings.simplefilter("ignore")
            picture = Image.open(file, formats=(kind,))
            is_only = _is_only_picture(picture)
    except Exception as error:  # pillow's parsers raise whatever they meet
        refuse(path, f"its {kind} header {_unreadable(file, kind, error)}", "copy or export the slice again")
    if kind == "TIFF":
        _check_depth(path, picture)
    if math.prod(picture.size) > _MAX_PICTURE_RATIO * size:
        refuse(
            path, f"declares {picture.size} pixels, which its {size} bytes cannot hold", "copy it again from its source"
        )
    if not is_only:
        refuse(path, "holds more than one picture", "write one slice a file")
    return picture


def _unreadable(file, kind: str, error: Exception) -> str:
    """Return the reason why pillow makes no picture of a file.

    Its own words may be no more than the repr of a Python object.
    """
    from PIL import TiffImagePlugin, UnidentifiedImageError

    if not isinstance(error, UnidentifiedImageError):
        return f"cannot be read ({error})"
    file.seek(0)
    if kind == "PNG":
        size: tuple[Any, Any] = struct.unpack(">II", file.read(24)[16:].ljust(8, b"\0"))
        bits: Any = None
    else:
        try:
            with python_warnings.catch_warnings():
                python_warnings.simplefilter("ignore")
                tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
                file.seek(tags.next)
                tags.load(file)
            size, bits = (tags.get(_WIDTH), tags.get(_HEIGHT)), tags.get(_BITS)
        except Exception:  # of a directory that is damaged
            return "is damaged"
    if not all(size):
        return f"declares {size[0] or 0} x {size[1] or 0} pixels"
    return f"is damaged, or of a kind that is not known (bits a colour: {str(bits)[:40]})"


def _check_depth(path: Path, picture: Image) -> None:
    """Refuse colours of more than 8 bits.

    Pillow keeps their high byte and says nothing.
    """
    bits = max(picture.tag_v2.get(_BITS, (1,)))  # type: ignore[attr-defined]
    if bits > 8 and _PICTURE_MODES.get(picture.mode, "u1") == "u1":
        refuse(path, f"has {bits} bits a colour", _GREY_INSTEAD)


def _is_only_picture(picture: Image) -> bool:
    """Tell whether no second picture follows.

    Pillow's own count, ``n_frames``, takes minutes for a hostile chain of them.
    """
    try:
        picture.seek(1)
    except EOFError:
        picture.seek(0)
        return True
    return False


def _check_png(path: Path, content: bytes) -> None:
    """Check the CRC of every chunk, and refuse 16-bit colours.

    Pillow does not check that of pixels, and cuts such colours.
    """
    if content[24:25] == b"\x10" and content[25:26] not in (b"\0",):
        refuse(path, "has 16 bits a colour", _GREY_INSTEAD)
    at = 8
    while at + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, at)
        end = at + 12 + length
        if end > len(content) or struct.unpack_from(">I", content, end - 4)[0] != zlib.crc32(content[at + 4 : end - 4]):
            break
        if content[at + 4 : at + 8] == b"IEND":
            return
        at = end
    refuse(path, f"its PNG stream is damaged at byte {at}", "copy it again from its source")
