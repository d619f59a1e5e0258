"""Fingerprints: alike however an image is stored, apart for other images, and robust against texts that are none."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from bench.sets.fingerprints import stored_otherwise
from data.grid import Grid
from data.phantom.patient import draw_patient
from pipeline.fingerprint import SAME, distance, distances, fingerprint


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.asarray(draw_patient(1, 2.0, contrast="mri").images["flair"], np.float32)


def test_an_image_stored_otherwise_is_the_same_one(image):
    own = fingerprint(image)
    ways = dict(stored_otherwise(image))
    assert len(own) == 128 and len(ways) == 10
    ways.pop("half the resolution")  # is not promised
    assert {how: round(distance(own, fingerprint(other)), 2) for how, other in ways.items()} == pytest.approx(
        dict.fromkeys(ways, 0), abs=SAME
    )


def test_another_image_is_another_one(image):
    other = draw_patient(2, 2.0, contrast="mri").images["flair"]
    assert distance(fingerprint(image), fingerprint(other)) > SAME


def test_axes_that_the_header_names_are_put_in_order(image):
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    turned = nib.Nifti1Image(image, affine).as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))
    same = fingerprint(np.asarray(turned.dataobj), Grid(turned.shape, turned.affine))
    assert same == fingerprint(image, Grid(image.shape, affine))


def test_bits_are_the_blocks_brighter_than_their_neighbourhood():
    image = np.ones((16, 16, 16), np.float32)
    image[0, 0, 0] = image[-1, -1, -1] = 0  # two of eight corners; the others' value, 1, is the background
    image[4:12, 4:12, 4:12] = 3
    image[6:8, 6:8, 6:8] = 5
    image[4:6, 4:6, 4:8] = 2  # the darkest, taken for air: not compared
    # The box is 8 voxels a side, so one voxel a block; blocks 2, 3 of each axis are bright, all others dark.
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(fingerprint(image)), np.uint8)).reshape(8, 8, 8)
    assert np.argwhere(bits).tolist() == [[i, j, k] for i in (2, 3) for j in (2, 3) for k in (2, 3)]


def test_an_even_image_has_no_fingerprint_and_is_like_no_other():
    assert fingerprint(np.zeros((9, 9, 9))) == fingerprint(np.full((9, 9, 9), 7, np.uint8)) == ""
    assert distance("", "") == 1.0


@pytest.mark.parametrize("text", ["", "00", "zz" * 64, "0" * 127])
def test_a_text_that_is_no_fingerprint_is_like_no_other(image, text):
    assert distance(fingerprint(image), text) == 1.0 == distance(text, fingerprint(image))


def test_images_that_only_one_has_are_not_compared():
    zeros, ones, half = "00" * 64, "ff" * 64, "f0" * 64
    assert distances({"flair": zeros, "t1": ones}, {"flair": ones, "t2": ones}) == 1.0
    assert distances({"flair": zeros, "t1": half}, {"flair": zeros, "t1": zeros}) == 0.25  # (0 + 1/2) / 2
    assert distances({"flair": zeros}, {"t1": zeros}) == 1.0


def test_a_single_slice_has_a_fingerprint(image):
    assert len(fingerprint(image[:, :, 40:41])) == 128
