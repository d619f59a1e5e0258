"""Volumes of DICOM files lie where their headers say, and are right or refused in one sentence."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")

from pydicom.uid import (  # noqa: E402
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from data.case import ImageSource  # noqa: E402
from data.errors import InputError  # noqa: E402
from data.io.read import read_header, read_volume  # noqa: E402
from tests.dicom_files import AXIAL, BIRTH, SAGITTAL, write_enhanced, write_series  # noqa: E402

VOXELS = np.random.default_rng(7).integers(0, 4000, (12, 20, 24))
"""(slices, rows, columns); each has its own size, so that no axis is taken for another."""


def source(paths) -> ImageSource:
    return ImageSource(tuple(paths), series="1.2.3")


def read(paths):
    return read_volume(source(paths), as_stored=True)


def refused(paths) -> str:
    with pytest.raises(InputError) as caught:
        read(paths)
    text = str(caught.value)
    assert "\n" not in text and "Zyxwiak" not in text and BIRTH not in text and "/" not in text.split(";")[0]
    return text


def lps_of(affine: np.ndarray, index) -> np.ndarray:
    """World position of a voxel in DICOM's LPS coordinates."""
    return (np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine @ [*index, 1.0])[:3]


# ------------------------------------------------------------------------------------------------------------ place


@pytest.mark.parametrize("seed", range(4))
def test_a_voxel_lies_where_dicom_puts_it(tmp_path, seed):
    """PS3.3, C.7.6.2.1.1: position + column * spacing[1] * row cosines + row * spacing[0] * column cosines."""
    turn = Rotation.random(random_state=seed).as_matrix()
    orientation, first = [*turn[:, 0], *turn[:, 1]], np.array([-90.5, -80.25, 60.125])
    paths = write_series(
        tmp_path, VOXELS, "t1", orientation=orientation, first=first, step=turn[:, 2] * 5.5, spacing=(0.8, 0.9, 5.0)
    )
    volume = read(paths)
    assert volume.array.shape == (24, 20, 12) and volume.array.dtype == np.uint16
    np.testing.assert_array_equal(volume.array.transpose(2, 1, 0), VOXELS)
    for column, row, picture in [(0, 0, 0), (23, 0, 0), (0, 19, 0), (5, 7, 11)]:
        place = first + column * 0.9 * turn[:, 0] + row * 0.8 * turn[:, 1] + picture * 5.5 * turn[:, 2]
        np.testing.assert_allclose(lps_of(volume.grid.affine, (column, row, picture)), place, atol=1e-4)


def test_slices_stored_from_the_head_down_are_turned_upwards(tmp_path):
    volume = read(write_series(tmp_path, VOXELS, "t1", step=(0, 0, -5.0)))
    np.testing.assert_array_equal(volume.array.transpose(2, 1, 0), VOXELS[::-1])
    np.testing.assert_allclose(lps_of(volume.grid.affine, (0, 0, 0)), [-90, -80, -60 - 55], atol=1e-6)


def test_an_enhanced_file_is_the_same_volume_as_its_slices(tmp_path):
    one = read([write_enhanced(tmp_path / "one", VOXELS, "t1", orientation=SAGITTAL, spacing=(0.9, 0.8, 1.2))])
    many = read(write_series(tmp_path / "many", VOXELS, "t1", orientation=SAGITTAL, spacing=(0.9, 0.8, 1.2)))
    np.testing.assert_array_equal(one.array, many.array)
    np.testing.assert_allclose(one.grid.affine, many.grid.affine, atol=1e-9)


def test_a_file_that_is_there_twice_counts_once(tmp_path):
    paths = write_series(tmp_path, VOXELS, "t1")
    copy = tmp_path / "copy"
    copy.write_bytes(paths[3].read_bytes())
    np.testing.assert_array_equal(read([*paths, copy]).array.transpose(2, 1, 0), VOXELS)


dcm2niix = Path(sys.executable).with_name("dcm2niix")


@pytest.mark.skipif(not dcm2niix.is_file(), reason="dcm2niix is not installed beside Python: pip install dcm2niix")
@pytest.mark.parametrize("way", ["axial", "sagittal", "oblique", "downwards", "enhanced", "far"])
def test_affines_agree_with_dcm2niix(tmp_path, way):
    import nibabel as nib

    turn = Rotation.from_euler("xyz", [12, -23, 31], degrees=True).as_matrix()
    how = {
        "axial": {},
        "sagittal": {"orientation": SAGITTAL, "spacing": (0.9, 0.8, 1.2)},
        "oblique": {"orientation": [*turn[:, 0], *turn[:, 1]], "spacing": (0.9, 0.8, 5.5)},
        "downwards": {"step": (0, 0, -5.5)},
        "enhanced": {"orientation": [*turn[:, 0], *turn[:, 1]], "spacing": (0.9, 0.8, 5.5)},
        "far": {"first": (-312.0625, 250.25, 911.5)},
    }[way]
    folder = tmp_path / "dicom"
    times = {"RepetitionTime": 600.0, "EchoTime": 10.0, "ScanningSequence": "SE"}
    if way == "enhanced":
        paths = [write_enhanced(folder / "one", VOXELS, "t1", **how)]
    else:
        paths = write_series(folder, VOXELS, "t1", **how, **times)
    command = [dcm2niix, "-z", "n", "-f", "x", "-o", tmp_path, folder]
    subprocess.run(command, check=True, capture_output=True)
    theirs = nib.load(tmp_path / "x.nii")
    ours = read(paths)
    # The same voxels, their axes in any order: compared where each voxel lies.
    turned = ours.grid.reoriented("".join(nib.aff2axcodes(theirs.affine)))
    assert turned.shape == theirs.shape
    np.testing.assert_allclose(turned.affine, theirs.affine, atol=1e-4)
    array = ours.grid.turn(ours.array, "".join(nib.aff2axcodes(theirs.affine)))
    np.testing.assert_array_equal(array, np.asarray(theirs.dataobj))


# ----------------------------------------------------------------------------------------------------------- pixels


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless, JPEGLSLossless, JPEGLosslessSV1, JPEG2000Lossless],
    ids=lambda syntax: syntax.name[:24],
)
def test_every_common_transfer_syntax_gives_the_same_voxels(tmp_path, syntax):
    volume = read(write_series(tmp_path, VOXELS, "t1", syntax=syntax))
    np.testing.assert_array_equal(volume.array.transpose(2, 1, 0), VOXELS)


@pytest.mark.parametrize("way", [(True, True), (False, True), (False, False)], ids=["implicit", "explicit", "big"])
def test_files_without_preamble_are_read_in_either_order_of_bytes(tmp_path, way):
    """As archives of the time before part 10 have them: no preamble, no transfer syntax."""
    from data.io.dicom.dataset import is_dicom

    implicit, little = way
    paths = write_series(tmp_path, VOXELS, "t1", syntax=ImplicitVRLittleEndian if little else ExplicitVRBigEndian)
    for path in paths:
        read_before = pydicom.dcmread(path)
        bare = pydicom.Dataset({element.tag: element for element in read_before})
        bare.save_as(path, implicit_vr=implicit, little_endian=little)
        assert is_dicom(path.read_bytes()[:200]) and path.read_bytes()[128:132] != b"DICM"
    np.testing.assert_array_equal(read(paths).array.transpose(2, 1, 0), VOXELS)


def test_zeros_behind_the_pixels_are_no_pixels_and_a_row_of_others_is_refused(tmp_path):
    paths = write_series(tmp_path, VOXELS, "t1")
    last = pydicom.dcmread(paths[3])
    last.PixelData = last.PixelData + bytes(2 * VOXELS.shape[2])
    last.save_as(paths[3])
    np.testing.assert_array_equal(read(paths).array.transpose(2, 1, 0), VOXELS)
    for path in paths:
        shorter = pydicom.dcmread(path)
        shorter.Rows = 19
        shorter.save_as(path)
    assert "holds 960 bytes of pixels where 912 are due" in refused(paths)


@pytest.mark.parametrize(
    ("keyword", "text"), [("RescaleSlope", "NaN"), ("RescaleSlope", "0"), ("RescaleIntercept", "inf")]
)
def test_a_scaling_that_is_no_number_or_0_is_refused(tmp_path, keyword, text):
    from tests.faults.examination import Examination

    paths = write_series(tmp_path / "t1c", VOXELS, "t1")
    Examination(tmp_path, "").text(paths[4:5], keyword, text)
    assert f"{keyword} is {'0' if text == '0' else 'no number'}" in refused(paths)


def test_signed_pixels_keep_their_sign(tmp_path):
    signed = VOXELS - 2000
    tags = {"PixelRepresentation": 1, "BitsStored": 16, "HighBit": 15}
    for syntax in (ExplicitVRBigEndian, JPEGLosslessSV1, RLELossless):
        volume = read(write_series(tmp_path / syntax[-2:], signed, "t1", syntax=syntax, **tags))
        np.testing.assert_array_equal(volume.array.transpose(2, 1, 0), signed)


def test_an_overlay_in_the_unused_bits_is_no_part_of_the_image(tmp_path):
    with_overlay = VOXELS | (VOXELS % 3 == 0) * 0x8000  # twelve bits are the image's
    np.testing.assert_array_equal(read(write_series(tmp_path, with_overlay, "t1")).array.transpose(2, 1, 0), VOXELS)


def test_slope_and_intercept_hold_for_each_slice(tmp_path):
    paths = write_series(tmp_path, VOXELS, "t1", RescaleSlope=2.5, RescaleIntercept=-7)
    first = pydicom.dcmread(paths[0])
    first.RescaleSlope = 5
    first.save_as(paths[0])
    volume = read_volume(source(paths))
    expected = VOXELS * 2.5 - 7
    expected[0] = VOXELS[0] * 5.0 - 7
    np.testing.assert_allclose(volume.array.transpose(2, 1, 0), expected, rtol=1e-6)


def test_lossy_pictures_are_read_with_a_warning(tmp_path):
    paths = write_series(tmp_path, VOXELS, "t1", syntax=JPEG2000Lossless)
    for path in paths:  # the same stream, which may be lossless under the other name too
        path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.4.90", b"1.2.840.10008.1.2.4.91"))
    [warning] = read(paths).header.warnings
    assert "loss" in warning


# ---------------------------------------------------------------------------------------------------------- refused


def test_a_missing_slice_is_said(tmp_path):
    paths = write_series(tmp_path, VOXELS, "t1")
    assert "1 of its slices are missing" in refused([*paths[:4], *paths[5:]])


def test_doubled_slices_are_said(tmp_path):
    paths = write_series(tmp_path, VOXELS, "t1")
    again = pydicom.dcmread(paths[3])
    again.SOPInstanceUID += ".1"
    again.save_as(tmp_path / "again")
    assert "1 of its 13 pictures lie where another lies" in refused([*paths, tmp_path / "again"])


def test_several_volumes_in_one_series_are_said(tmp_path):
    one = write_series(tmp_path / "1", VOXELS, "t1")
    two = write_series(tmp_path / "2", VOXELS, "t1")
    for path in two:
        dataset = pydicom.dcmread(path)
        dataset.SOPInstanceUID += ".1"
        dataset.save_as(path)
    assert "several volumes" in refused([*one, *two])


def test_slices_of_mixed_distances_are_said(tmp_path):
    paths = write_series(tmp_path, VOXELS, "t1")
    moved = pydicom.dcmread(paths[5])
    moved.ImagePositionPatient = [-90, -80, -60 + 5 * 5 + 1.7]
    moved.save_as(paths[5])
    assert "3.3 to 6.7 mm apart" in refused(paths)


def test_a_tilted_gantry_is_said(tmp_path):
    paths = write_series(tmp_path, VOXELS, "t1", step=(0, 5 * np.tan(np.radians(12)), 5.0))
    assert "12 degrees askew (gantry tilt)" in refused(paths)


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"PhotometricInterpretation": "MONOCHROME1"}, "inverted"),
        ({"BurnedInAnnotation": "YES"}, "burnt"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "in colour (RGB)"),
        ({"BitsAllocated": 12}, "bits"),
        ({"PixelSpacing": None}, "no place"),
        ({"ImageOrientationPatient": None}, "no place"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "no right angle"),
        ({"Rows": 0}, "declares"),
        ({"PixelSpacing": [1e-5, 1e-5]}, "measure"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_pictures_that_are_no_mr_volume_are_refused(tmp_path, tags, words):
    paths = write_series(tmp_path, VOXELS, "t1")
    for path in paths:
        dataset = pydicom.dcmread(path)
        for keyword, value in tags.items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)
        dataset.save_as(path)
    assert words in refused(paths)


def test_a_series_of_two_matrix_sizes_is_refused(tmp_path):
    one = write_series(tmp_path / "1", VOXELS[:5], "t1")
    two = write_series(tmp_path / "2", VOXELS[5:, :10], "t1", first=(-90, -80, -35))
    assert "24 x 10 and 24 x 20" in refused([*one, *two])


def test_pixels_cut_short_are_refused(tmp_path):
    paths = write_series(tmp_path, VOXELS, "t1")
    paths[2].write_bytes(paths[2].read_bytes()[:-100])
    assert refused(paths)


def test_pixels_of_a_kind_that_there_is_not_are_refused(tmp_path):
    paths = write_series(tmp_path, VOXELS, "t1")
    paths[2].write_bytes(paths[2].read_bytes().replace(b"\xe0\x7f\x10\x00OW", b"\xe0\x7f\x10\x00GW"))
    assert "no pixels" in refused(paths)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEGLosslessSV1, JPEG2000Lossless])
def test_a_damaged_compressed_picture_is_refused(tmp_path, syntax):
    paths = write_series(tmp_path, VOXELS, "t1", syntax=syntax)
    dataset = pydicom.dcmread(paths[2])
    [code] = pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1)
    dataset.PixelData = pydicom.encaps.encapsulate([code[: len(code) // 3]])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(paths[2])
    assert refused(paths)


def test_a_compressed_picture_of_another_size_than_its_header_is_refused_unread(tmp_path):
    paths = write_series(tmp_path, VOXELS, "t1", syntax=JPEG2000Lossless)
    for path in paths:
        content = path.read_bytes()
        at = content.index(b"\xff\x4f\xff\x51") + 8
        path.write_bytes(content[:at] + (60000).to_bytes(4, "big") * 2 + content[at + 8 :])
    assert "60000 x 60000" in refused(paths)


def test_a_deflated_file_is_refused_unpacked(tmp_path):
    paths = write_series(tmp_path, VOXELS, "t1", syntax=DeflatedExplicitVRLittleEndian)
    assert "deflated" in refused(paths)


@pytest.mark.parametrize("of", [ImplicitVRLittleEndian, RLELossless])
def test_a_header_of_four_gigabytes_is_refused_at_once(tmp_path, of):
    path = write_enhanced(tmp_path / "bomb", VOXELS, "t1")
    dataset = pydicom.dcmread(path)
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = 4096, 4096, 128
    dataset.PerFrameFunctionalGroupsSequence = [dataset.PerFrameFunctionalGroupsSequence[0]] * 128
    dataset.save_as(path)
    start = time.perf_counter()
    with pytest.raises(InputError, match="over the limit of 268435456"):
        read_header(source([path]))
    assert time.perf_counter() - start < 1


def test_an_element_that_claims_four_gigabytes_takes_no_memory(tmp_path):
    import tracemalloc

    paths = write_series(tmp_path, VOXELS, "t1")
    content = paths[0].read_bytes()
    at = content.index(b"\xe0\x7f\x10\x00OW") + 8
    paths[0].write_bytes(content[:at] + b"\xfe\xff\xff\xff" + content[at + 4 :])
    tracemalloc.start()
    with contextlib.suppress(InputError):
        read(paths)
    assert tracemalloc.get_traced_memory()[1] < 2**25
    tracemalloc.stop()


def test_a_name_never_stands_in_a_sentence(tmp_path):
    folder = tmp_path / "ZYXWIAK_QUIRINA_19570231"
    paths = write_series(folder, VOXELS, "T1 Zyxwiak 19570231", orientation=AXIAL, BurnedInAnnotation="YES")
    assert "T1 ... ..." in refused(paths)
    missing = folder / "not there"
    assert "QUIRINA" not in refused([missing])


def test_a_description_that_runs_into_the_name_by_a_damaged_length_is_not_shown(tmp_path):
    paths = write_series(tmp_path, VOXELS, "t1", BurnedInAnnotation="YES")
    for path in paths:
        content = path.read_bytes()
        at = content.index(b"\x08\x00\x3e\x10LO") + 6  # the length of SeriesDescription, which the name follows
        path.write_bytes(content[:at] + b"\x70\x00" + content[at + 2 :])
    assert refused(paths)


def test_damaged_files_are_read_or_refused_in_one_sentence_without_a_name(tmp_path):
    """Damage at random places: lengths, values, items and pixels; longer trials ended in a traceback three times."""
    random = np.random.default_rng(17)
    made = [write_series(tmp_path / "plain", VOXELS[:2], "t1"), [write_enhanced(tmp_path / "one", VOXELS[:2], "t1")]]
    made.append(write_series(tmp_path / "packed", VOXELS[:2], "t1", syntax=JPEGLSLossless))
    for attempt in range(150):
        paths = []
        for number, path in enumerate(made[attempt % 3]):
            content = bytearray(path.read_bytes())
            for at in random.integers(0, len(content), random.integers(1, 9)):
                content[at : at + random.integers(0, 3)] = random.bytes(random.integers(1, 4))
            paths.append(tmp_path / f"{attempt}-{number}")
            paths[-1].write_bytes(content)
        with contextlib.suppress(InputError):
            read(paths)
