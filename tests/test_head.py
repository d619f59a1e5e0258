"""Synthetic heads: the layers lie where they should, and the brain stays as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.grid import Grid
from data.phantom.head import NOISE, Head, Layers, add_head, draw_layers
from data.phantom.patient import Phantom, draw_patient
from data.plausibility import impression, shows_head

LAYERS = Layers(csf_mm=6, skull_mm=9, scalp_mm=6)


def ball(mm: int = 1) -> tuple[np.ndarray, Grid]:
    """Return a brain of value 1000 within 60 mm of the origin, and its grid of 2 x 2 x 1 mm (RAS) or so many times."""
    affine = np.diag([2.0 * mm, 2.0 * mm, mm, 1.0])
    affine[:3, 3] = -64
    x, y, z = np.ogrid[-64 : 64 : 2 * mm, -64 : 64 : 2 * mm, -64:64:mm]
    image = 1000 * (x**2 + y**2 + z**2 <= 60**2).astype(np.int16)
    return image, Grid(image.shape, affine)


@pytest.fixture(scope="module")
def head() -> Head:
    image, grid = ball()
    return add_head({"t1": image, "t2": image}, grid, 1, LAYERS)


def at(head: Head, modality: str, *mm: float) -> float:
    """Return the mean value of three voxels side by side."""
    i, j, k = np.rint(np.linalg.solve(head.grid.affine, [*mm, 1])[:3]).astype(int)
    return float(head.images[modality][i - 1 : i + 2, j, k].mean())


def test_from_the_brain_upwards_follow_fluid_bone_marrow_bone_fat_and_air(head: Head) -> None:
    # The ball's top is at 60 mm: fluid to 66, a skull of three times 3 mm to 75, fat to 81. Parts of the brain's 1000.
    for top, t1, t2 in ((63, 350, 2300), (68, 120, 120), (71, 1100, 900), (74, 120, 120), (78, 1900, 1500)):
        assert at(head, "t1", 0, 0, top) == pytest.approx(t1, rel=0.35, abs=220), top
        assert at(head, "t2", 0, 0, top) == pytest.approx(t2, rel=0.35, abs=220), top
    assert head.images["t1"][:6, :6, -1].max() < 200


def test_the_two_eyes_are_balls_under_the_brain_in_fat(head: Head) -> None:
    # The front is at 60 mm, so y is 48. From 15 to 49 mm aside and from 31 to 65 in front the brain goes down to
    # z = -48, for (16, 32, -48) has a distance of 59.9. The orbit of 17 mm begins 3 mm below.
    for side in (-32, 32):
        assert at(head, "t2", side, 48, -68) > 1800 and at(head, "t1", side, 48, -68) < 600
        assert at(head, "t2", side, 48, -68 - 10) > 1800
        assert at(head, "t1", side, 48, -68 + 15) > 1200


def test_in_the_middle_of_the_neck_the_cord_lies_in_fluid(head: Head) -> None:
    assert at(head, "t2", 0, 0, -106) < 1400
    assert at(head, "t2", 0, 8, -106) > 1500
    assert at(head, "t2", 0, 12, -106) < 1400


def test_the_brain_is_kept_to_the_bit_where_it_was_in_any_order_of_axes(head: Head) -> None:
    image, grid = ball(2)
    values = np.where(image > 0, np.arange(image.size).reshape(image.shape) % 1999 + 1, 0)
    turned = grid.reoriented("SLP")
    made = add_head({"flair": grid.turn(values, "SLP")}, turned, 1, LAYERS)
    assert made.grid.orientation == "SLP"
    upright, place = made.grid.turn(made.images["flair"], "RAS"), made.grid.reoriented("RAS")
    assert made.brain.sum() == np.count_nonzero(image)
    start = np.rint(np.linalg.solve(place.affine, grid.affine)[:3, 3]).astype(int)
    voxels = np.argwhere(image > 0)
    assert np.array_equal(upright[tuple((voxels + start).T)], values[tuple(voxels.T)])
    assert made.grid.turn(made.brain, "RAS")[tuple((voxels + start).T)].all()


def test_air_is_the_noise_of_a_magnitude_image(head: Head) -> None:
    # Rayleigh: the mean is the deviation times the root of half pi. The head's room is a box, its corners are air.
    corner = head.images["t1"][:8, :8, -20:]
    assert corner.mean() == pytest.approx(NOISE * 1000 * np.sqrt(np.pi / 2), rel=0.05)
    assert np.count_nonzero(corner) > 0.99 * corner.size


def test_a_head_is_seen_to_be_one_and_its_brain_is_not() -> None:
    patient = draw_patient(5, 5.0, contrast="mri")
    made = add_head({"t1": patient.images["t1"]}, patient.grid, 5)
    header = Phantom({}, patient.label_map, made.grid).header(Path("t1.nii.gz"))
    assert shows_head(impression(made.images["t1"], header))
    assert not shows_head(impression(patient.images["t1"], patient.header(Path("t1.nii.gz"))))


def test_a_seed_draws_one_head() -> None:
    image, grid = ball(3)
    ones = [add_head({"t1": image}, grid, seed) for seed in (3, 3, 4)]
    assert np.array_equal(ones[0].images["t1"], ones[1].images["t1"])
    assert not np.array_equal(ones[0].images["t1"], ones[2].images["t1"])
    assert draw_layers(3) != draw_layers(4)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"images": {}}, "a head needs the images of a brain"),
        ({"images": {"adc": np.ones((4, 4, 4))}}, "no head has a modality 'adc': name one of t1, t1c, t2, flair"),
        ({"images": {"t1": np.ones((4, 4, 5))}}, r"t1 has shape \(4, 4, 5\), the grid \(4, 4, 4\)"),
        ({"images": {"t1": np.zeros((4, 4, 4))}}, "the images hold no brain: they are 0 everywhere"),
        ({"grid": Grid((4, 4, 4), np.array([[1, -1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))}, "turned"),
    ],
    ids=["none", "modality", "shape", "empty", "turned"],
)
def test_no_head_is_drawn_around_what_is_no_brain(change: dict, sentence: str) -> None:
    given = {"images": {"t1": np.ones((4, 4, 4))}, "grid": Grid((4, 4, 4), np.eye(4))} | change
    with pytest.raises(ValueError, match=sentence):
        add_head(**given, seed=1)
