"""Pictures that no reader of slices should believe."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.case import ImageSource
from data.errors import InputError
from data.io.read import read_volume


def tiff(columns: int, rows: int, bands: int, bits: int, pixels: bytes) -> bytes:
    """A TIFF file by the letter of TIFF 6.0: one strip, little-endian, whatever its numbers mean."""
    colour = 2 if bands > 2 else 1
    values = {256: columns, 257: rows, 259: 1, 262: colour, 273: 300, 277: bands, 278: rows, 279: len(pixels)}
    entries = {tag: struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items()}
    entries[258] = struct.pack("<HHII", 258, 3, bands, 280 if bands > 2 else bits)
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries[tag] for tag in sorted(entries))
    return head.ljust(280, b"\0") + (struct.pack("<H", bits) * bands).ljust(20, b"\0") + pixels


def png(columns: int, rows: int, bits: int, kind: int) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, bits, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(999))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("rgb16.tif", tiff(4, 4, 3, 16, bytes(96)), "16 bits a colour; only 8.*grey slices"),
        ("rgba16.tif", tiff(4, 4, 4, 16, bytes(128)), "16 bits a colour"),
        ("rgb16.png", png(4, 4, 16, 2), "16 bits a colour; only 8.*grey slices"),
        ("rgb32.tif", tiff(4, 4, 3, 32, bytes(192)), "of a kind that is not known.*32"),
        ("none.tif", tiff(0, 0, 3, 8, b""), "declares 0 x 0 pixels"),
        ("flat.tif", tiff(4, 0, 1, 8, b""), "declares 4 x 0 pixels"),
        ("none.png", png(0, 4, 8, 0), "declares 0 x 4 pixels"),
        ("cut.tif", b"II*\0\x08\0\0\0\xff\xff", "TIFF header"),
    ],
)
def test_a_picture_that_cannot_be_read_whole_is_refused_in_words(
    name: str, content: bytes, words: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words) as caught, warnings.catch_warnings():
        warnings.simplefilter("error")
        read_volume(ImageSource((tmp_path / name,), 0))
    assert "object at" not in str(caught.value) and "<" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_the_grey_slices_of_16_bits_that_the_advice_names_keep_every_bit(suffix: str, tmp_path: Path) -> None:
    pixels = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000 + 3
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, {"tif": "TIFF", "png": "PNG"}[suffix])
    (tmp_path / f"flair_1.{suffix}").write_bytes(stream.getvalue())
    assert np.array_equal(read_volume(ImageSource((tmp_path / f"flair_1.{suffix}",))).array[..., 0], pixels)
    (tmp_path / "grey.tif").write_bytes(tiff(4, 3, 1, 16, pixels.astype("<u2").tobytes()))
    assert np.array_equal(read_volume(ImageSource((tmp_path / "grey.tif",))).array[..., 0], pixels)
