"""Grids: exact reorientation, tolerance, spacing and volume."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.grid import TOLERANCE_MM, Grid

ORIENTATIONS = [
    "".join(letters) for axes in itertools.permutations(["RL", "AP", "SI"]) for letters in itertools.product(*axes)
]
OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.2, -0.1, 0.3) @ np.diag([0.9, 1.1, 3.0]), [-80.0, 95.5, -60.0]
)


def world(grid: Grid, index: tuple[int, ...]) -> np.ndarray:
    return grid.affine @ [*index, 1.0]


def test_there_are_48_orientations() -> None:
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize("codes", ORIENTATIONS)
@pytest.mark.parametrize("affine", [np.diag([-1.0, -1.0, 1.0, 1.0]), OBLIQUE], ids=["LPS", "oblique"])
def test_reorienting_moves_no_voxel_in_the_patient(codes: str, affine: np.ndarray) -> None:
    grid = Grid((3, 4, 5), affine)
    array = np.arange(60).reshape(grid.shape)
    moved = grid.reoriented(codes)
    moved_array = nib.orientations.apply_orientation(array, grid.orientation_to(codes))
    assert moved.orientation == codes
    assert moved_array.shape == moved.shape
    for index in np.ndindex(*moved.shape):
        origin = np.unravel_index(int(moved_array[index]), grid.shape)
        np.testing.assert_allclose(world(moved, index), world(grid, tuple(map(int, origin))), atol=1e-9)


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_reorienting_there_and_back_gives_the_same_bits_for_whole_millimetres(codes: str) -> None:
    grid = Grid((240, 240, 155), [[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]])
    back = grid.reoriented(codes).reoriented(grid.orientation)
    assert back.shape == grid.shape
    assert np.array_equal(back.affine, grid.affine)


def test_reorienting_keeps_that_the_spacing_is_unknown() -> None:
    assert not Grid((2, 2, 2), np.eye(4), spacing_known=False).reoriented("LPS").spacing_known


def test_spacing_and_volume_by_hand() -> None:
    # Columns (3, 4, 0), (0, 0, 2), (4, -3, 0): lengths 5, 2, 5 and right angles, so a voxel has 50 mm3.
    affine = np.array([[3.0, 0, 4, 0], [4, 0, -3, 0], [0, 2, 0, 0], [0, 0, 0, 1]])
    grid = Grid((1, 1, 1), affine)
    assert grid.spacing_mm == (5.0, 2.0, 5.0)
    assert grid.voxel_volume_ml == pytest.approx(0.05)


def test_volume_of_a_sheared_voxel_is_that_of_its_box_not_of_its_edges() -> None:
    affine = np.eye(4)
    affine[0, 1] = 1.0  # the second edge is sqrt(2) long, the volume stays 1 mm3
    assert Grid((1, 1, 1), affine).voxel_volume_ml == pytest.approx(0.001)


def test_grids_match_within_the_tolerance_at_their_corners() -> None:
    grid = Grid((101, 101, 101), np.eye(4))
    for shift, same in ((0.9 * TOLERANCE_MM, True), (1.1 * TOLERANCE_MM, False)):
        affine = np.eye(4)
        affine[1, 3] = shift
        assert grid.matches(Grid(grid.shape, affine)) is same
    # A spacing of 1.0001 is 0.01 mm off at the far corner.
    assert not grid.matches(Grid(grid.shape, np.diag([1.0001, 1, 1, 1])))
    assert grid.matches(Grid(grid.shape, np.diag([1.0001, 1, 1, 1])), tolerance_mm=0.011)


def test_grids_of_other_shape_do_not_match() -> None:
    assert not Grid((2, 3, 4), np.eye(4)).matches(Grid((2, 3, 5), np.eye(4)))


def test_grids_of_one_voxel_match_only_with_the_same_direction() -> None:
    assert not Grid((1, 1, 1), np.eye(4)).matches(Grid((1, 1, 1), np.diag([-1.0, 1, 1, 1])))


def test_corners_are_world_coordinates_of_corner_voxel_centres() -> None:
    corners = Grid((3, 1, 2), np.diag([2.0, 1, 10, 1])).corners_mm()
    assert {tuple(c) for c in corners} == {(0, 0, 0), (4, 0, 0), (0, 0, 10), (4, 0, 10)}


@pytest.mark.parametrize(
    ("shape", "affine"),
    [
        ((2, 2), np.eye(4)),
        ((2, 0, 2), np.eye(4)),
        ((2, 2, 2), np.eye(3)),
        ((2, 2, 2), np.diag([1.0, 0, 1, 1])),
        ((2, 2, 2), np.diag([1.0, np.nan, 1, 1])),
    ],
)
def test_what_is_no_grid_is_refused(shape: tuple[int, ...], affine: np.ndarray) -> None:
    with pytest.raises(ValueError):
        Grid(shape, affine)  # type: ignore[arg-type]


def test_the_affine_cannot_be_changed_from_outside() -> None:
    affine = np.eye(4)
    grid = Grid((2, 2, 2), affine)
    affine[0, 0] = 7
    assert grid.affine[0, 0] == 1
    with pytest.raises(ValueError):
        grid.affine[0, 0] = 7


@settings(max_examples=50, deadline=None)
@given(
    st.tuples(*[st.floats(-3, 3)] * 3),
    st.tuples(*[st.floats(0.3, 6)] * 3),
    st.sampled_from(ORIENTATIONS),
)
def test_reorienting_keeps_spacing_as_a_set_volume_and_corners(angles, spacing, codes) -> None:
    affine = nib.affines.from_matvec(nib.eulerangles.euler2mat(*angles) @ np.diag(spacing), [1.0, 2.0, 3.0])
    grid = Grid((2, 3, 4), affine)
    moved = grid.reoriented(codes)
    assert sorted(moved.spacing_mm) == pytest.approx(sorted(grid.spacing_mm))
    assert moved.voxel_volume_ml == pytest.approx(grid.voxel_volume_ml)
    by_position = [sorted(map(tuple, g.corners_mm().round(6) + 0.0)) for g in (grid, moved)]
    assert np.allclose(np.sort(by_position[0], axis=0), np.sort(by_position[1], axis=0), atol=1e-5)
