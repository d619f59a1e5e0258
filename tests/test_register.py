"""Rigid registration: known moves are found, and a move says how far it goes."""

import math

import numpy as np
import pytest
import SimpleITK as sitk

from data.errors import InputError
from data.grid import Grid
from data.phantom.patient import draw_patient
from transforms.registration.move import Move, read_move, write_move
from transforms.registration.register import overlap, picture, register, register_head, small_move


def turn(axis: int, degrees: float) -> np.ndarray:
    """Return the right-handed turn about x, y or z as a 4x4 matrix."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    a, b = [(1, 2), (2, 0), (0, 1)][axis]
    matrix = np.eye(4)
    matrix[a, a], matrix[a, b], matrix[b, a], matrix[b, b] = c, -s, s, c
    return matrix


def shift(*mm: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = mm
    return matrix


def about(middle_mm: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return shift(*middle_mm) @ matrix @ shift(*-middle_mm)


@pytest.fixture(scope="module")
def patient():
    return draw_patient(3, 2.5, contrast="mri")


@pytest.fixture(scope="module")
def fixed(patient):
    return picture(patient.images["t1c"], patient.grid)


def farthest_mm(patient, found: np.ndarray, truth: np.ndarray) -> float:
    """Largest distance within the brain between two places of one voxel."""
    voxels = np.argwhere(patient.images["t1c"] > 0)[::50]
    places = np.c_[voxels @ patient.grid.affine[:3, :3].T + patient.grid.affine[:3, 3], np.ones(len(voxels))]
    return float(np.linalg.norm(places @ (found - truth).T, axis=1).max())


def middle(patient) -> np.ndarray:
    return patient.grid.corners_mm().mean(axis=0)


@pytest.mark.parametrize(
    "truth",
    [np.eye(4), shift(0, 0, 14) @ turn(0, 8), shift(9, -12, 10) @ turn(2, 12) @ turn(1, 6), turn(2, 90), turn(0, 180)],
    ids=["none", "nod", "far", "quarter-turn", "upside-down"],
)
def test_an_image_that_was_moved_is_laid_back_within_a_millimetre(patient, fixed, truth):
    truth = about(middle(patient), truth)
    elsewhere = Grid(patient.grid.shape, truth @ patient.grid.affine)
    move = register(fixed, picture(patient.images["flair"], elsewhere))
    assert farthest_mm(patient, move.matrix, truth) < 1.0
    assert np.abs(move.lay(elsewhere).corners_mm() - patient.grid.corners_mm()).max() < 2.0


def test_an_image_beyond_the_other_is_found_by_its_middle(patient, fixed):
    truth = shift(400, 0, 300)
    move = register(fixed, picture(patient.images["t2"], Grid(patient.grid.shape, truth @ patient.grid.affine)))
    assert farthest_mm(patient, move.matrix, truth) < 1.0
    assert move.moved_mm == pytest.approx(500, abs=1)


def test_thick_slices_and_another_order_of_axes_are_no_hindrance(patient, fixed):
    thick = patient.images["flair"][:, ::-1, ::2].transpose(2, 0, 1)
    affine = patient.grid.affine @ np.array(
        [[0, 1, 0, 0], [0, 0, -1, patient.grid.shape[1] - 1], [2, 0, 0, 0], [0, 0, 0, 1.0]]
    )
    truth = about(middle(patient), shift(5, 6, 7) @ turn(1, 7))
    move = register(fixed, picture(thick, Grid(thick.shape, truth @ affine)))
    assert farthest_mm(patient, move.matrix, truth) < 1.5


def test_the_same_images_give_the_same_move_to_the_bit(patient, fixed):
    elsewhere = Grid(patient.grid.shape, shift(3, 4, 5) @ patient.grid.affine)
    moves = [register(fixed, picture(patient.images["t1"], elsewhere)).matrix for _ in range(2)]
    assert np.array_equal(*moves)


def test_a_move_says_how_far_the_middle_goes_and_how_much_it_turns():
    at = np.array([10.0, -20.0, 30.0])
    move = Move(about(at, shift(3, 4, 0) @ turn(2, 30)), at, 1.0)
    assert (move.moved_mm, move.degrees) == (pytest.approx(5), pytest.approx(30))
    assert Move(turn(0, 180), np.zeros(3), 1.0).degrees == pytest.approx(180)
    assert Move(np.eye(4), at, 1.0).degrees == 0


def test_a_written_move_takes_the_same_places_to_the_same_places_in_itk(tmp_path):
    move = Move(shift(3, 4, 5) @ turn(1, 20), np.array([1.0, 2, 3]), 1.0)
    write_move(tmp_path / "p_xfm_flair.txt", move)
    x, y, z = 11.0, -7.0, 5.0
    there = move.matrix @ [x, y, z, 1]
    lps = sitk.ReadTransform(str(tmp_path / "p_xfm_flair.txt")).TransformPoint((-x, -y, z))
    assert lps == pytest.approx((-there[0], -there[1], there[2]), abs=1e-6)
    read = read_move(tmp_path / "p_xfm_flair.txt")
    assert np.abs(read.matrix - move.matrix).max() < 1e-9
    assert (read.moved_mm, read.degrees) == (pytest.approx(move.moved_mm), pytest.approx(20))
    (tmp_path / "p_xfm_t2.txt").write_text("no transform")
    with pytest.raises(InputError, match="p_xfm_t2.txt: is no rigid ITK transform"):
        read_move(tmp_path / "p_xfm_t2.txt")


def test_what_is_left_out_on_either_side_has_no_say():
    rng = np.random.default_rng(0)
    grid = Grid((24, 24, 24), np.diag([4.0, 4.0, 4.0, 1.0]))
    image = rng.uniform(1, 2, grid.shape)
    block = (slice(8, 17),) * 3
    other = image.copy()
    other[block] = image[block][::-1]  # other values at each place, and the same ones in all
    out = np.zeros(grid.shape, bool)
    out[block] = True

    def information(fixed, moving):
        return small_move(fixed, moving)[1]

    whole = [picture(each, grid) for each in (image, other)]
    masked = [picture(each, grid, leave_out=out) for each in (image, other)]
    here = information(masked[0], whole[0])
    assert information(masked[0], whole[1]) == pytest.approx(here, abs=1e-9)
    assert information(whole[0], masked[0]) == pytest.approx(information(whole[0], masked[1]), abs=1e-9)
    assert abs(information(whole[0], whole[1]) - information(whole[0], whole[0])) > 0.01


def test_content_that_overlaps_by_half_has_a_dice_of_a_half():
    grid = Grid((24, 24, 24), np.diag([4.0, 4.0, 4.0, 1.0]))
    block = np.zeros(grid.shape)
    block[6:14, 6:14, 6:14] = 1
    block[0, 0, 0] = 1.0  # so that the block is no image of one value
    one = picture(block, grid)
    assert overlap(one, one, Move(np.eye(4), np.zeros(3), 0.0)) == 1
    assert overlap(one, one, Move(shift(16, 0, 0), np.zeros(3), 0.0)) == pytest.approx(0.5, abs=0.01)
    assert overlap(one, one, Move(shift(400, 0, 0), np.zeros(3), 0.0)) == 0


def test_another_head_of_another_size_is_laid_on_the_first_one(patient):
    coarse = picture(patient.images["t1c"], patient.grid, [4.0])
    stretch = about(middle(patient), shift(6, -9, 12) @ turn(0, 5) @ np.diag([1.1, 0.9, 1.05, 1]))
    larger = Grid(patient.grid.shape, stretch @ patient.grid.affine)
    move = register_head(coarse, picture(patient.images["t1c"], larger, [4.0]))
    assert farthest_mm(patient, move.matrix, stretch) < 2.0
    assert move.stretches == pytest.approx((0.9, 1.05, 1.1), abs=0.03) and move.overlap > 0.97


def test_a_written_affine_move_is_one_in_itk_too(tmp_path):
    move = Move(shift(3, 4, 5) @ np.diag([1.1, 0.9, 1, 1]), np.array([1.0, 2, 3]), 1.0)
    write_move(tmp_path / "p_xfm_mni.txt", move)
    there = sitk.ReadTransform(str(tmp_path / "p_xfm_mni.txt")).TransformPoint((-10.0, 20.0, 30.0))
    assert there == pytest.approx((-14.0, 14.0, 35.0), abs=1e-6)  # (10, -20, 30) goes to (11 + 3, -18 + 4, 30 + 5)


def test_a_mirrored_move_has_negative_stretches():
    assert Move(np.diag([-1.0, 2, 1, 1]), np.zeros(3), 1.0).stretches == (-1, -1, -2)


def test_an_image_of_nothing_is_left_where_it_is(patient, fixed):
    empty = np.zeros(patient.grid.shape, np.int16)
    assert np.isfinite(register(fixed, picture(empty, patient.grid)).matrix).all()
