"""MetaImage headers as other programs write them: truths of one letter, units, and lines that say two things."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest

from data.case import ImageSource
from data.errors import InputError
from data.io.read import read_volume

VOXELS = np.arange(24, dtype=np.int16).reshape(2, 3, 4) * 300 + 1
HEAD = "NDims = 3\nElementSpacing = 2 3 4\nOffset = 10 20 30\nElementType = MET_SHORT\n"


def image(folder: Path, lines: str, voxels: bytes, dims: str = "2 3 4") -> ImageSource:
    (folder / "x.mha").write_bytes(f"{HEAD}DimSize = {dims}\n{lines}ElementDataFile = LOCAL\n".encode() + voxels)
    return ImageSource((folder / "x.mha",))


@pytest.mark.parametrize("key", ["BinaryDataByteOrderMSB", "ElementByteOrderMSB"])
@pytest.mark.parametrize(
    ("said", "order"),
    [
        ("True", ">"),
        ("TRUE", ">"),
        ("T", ">"),
        ("t", ">"),
        ("1", ">"),
        ("False", "<"),
        ("F", "<"),
        ("f", "<"),
        ("0", "<"),
    ],
)
def test_the_byte_order_is_as_the_header_says_in_any_spelling(key: str, said: str, order: str, tmp_path: Path) -> None:
    source = image(tmp_path, f"{key} = {said}\n", VOXELS.astype(f"{order}i2").tobytes(order="F"))
    assert np.array_equal(read_volume(source).array, VOXELS)


@pytest.mark.parametrize("said", ["True", "T", "1"])
def test_packed_voxels_are_unpacked_in_any_spelling(said: str, tmp_path: Path) -> None:
    packed = zlib.compress(VOXELS.astype("<i2").tobytes(order="F"))
    assert np.array_equal(read_volume(image(tmp_path, f"CompressedData = {said}\n", packed)).array, VOXELS)


@pytest.mark.parametrize(
    ("lines", "dims", "words"),
    [
        ("BinaryDataByteOrderMSB = yes\n", "2 3 4", "binarydatabyteordermsb is 'yes'; write True or False"),
        ("CompressedData = 2\n", "2 3 4", "compresseddata is '2'"),
        ("BinaryData = \n", "2 3 4", "binarydata is ''"),
        ("BinaryDataByteOrderMSB = T\nElementByteOrderMSB = F\n", "2 3 4", "contradicts itself"),
        ("DimSize = 4 3 2\n", "2 3 4", "gives DimSize twice .'2 3 4' and '4 3 2'"),
        ("elementspacing = 2 3 4\n", "2 3 4", "twice"),
        ("", "0_2 3 4", "0_2 3 4"),
        ("", "２ 3 4", "not 3 numbers"),
        ("Position = 1e999 0 0\n", "2 3 4", None),
    ],
)
def test_a_header_that_says_two_things_or_none_is_refused(
    lines: str, dims: str, words: str | None, tmp_path: Path
) -> None:
    source = image(tmp_path, lines, VOXELS.astype("<i2").tobytes(order="F"), dims)
    if words is None:  # Offset comes first, and is whole
        assert np.array_equal(read_volume(source).array, VOXELS)
        return
    with pytest.raises(InputError, match=words):
        read_volume(source)


@pytest.mark.parametrize(
    ("unit", "spacing_mm", "said"),
    [
        ("mm", (2, 3, 4), None),
        ("MM", (2, 3, 4), None),
        ("?", (2, 3, 4), None),
        ("cm", (20, 30, 40), "its units are cm; they were converted to mm"),
        ("um", (2, 3, 4), "read as mm"),  # voxels of 2 microns are no head's
        ("parsec", (2, 3, 4), "'parsec'; they were read as mm"),
    ],
)
def test_units_are_converted_or_doubted_as_those_of_nifti(
    unit: str, spacing_mm: tuple[float, ...], said: str | None, tmp_path: Path
) -> None:
    volume = read_volume(image(tmp_path, f"DistanceUnits = {unit}\n", VOXELS.astype("<i2").tobytes(order="F")))
    assert volume.grid.spacing_mm == pytest.approx(spacing_mm)
    factor = spacing_mm[0] / 2
    np.testing.assert_allclose(volume.grid.affine[:3, 3], np.array([-10, -20, 30]) * factor)
    assert (said is None) == (not volume.header.warnings)
    assert said is None or said in volume.header.warnings[0]
