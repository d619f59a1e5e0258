"""Growth between two visits: gained, kept and lost, worked by hand on cubes."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data.grid import Grid
from data.io.header import ImageHeader
from pipeline.follow.growth import (
    GAINED,
    GROWTH_COLOURS,
    KEPT,
    LOST,
    growth_map,
    growth_ml,
    growth_picture,
    lay_mask,
    write_growth_map,
)

GRID = Grid((20, 16, 12), np.diag([2.0, 1.0, 1.0, 1.0]))


def cube(x: int, side: int = 4) -> np.ndarray:
    mask = np.zeros(GRID.shape, bool)
    mask[x : x + side, 5:9, 4:7] = True
    return mask


def test_a_cube_that_moves_by_one_voxel_loses_a_face_and_gains_one():
    growth = growth_map(cube(5), cube(6))
    assert growth.dtype == np.uint8
    assert (growth[5, 5, 4], growth[6, 5, 4], growth[9, 5, 4], growth[0, 0, 0]) == (LOST, KEPT, GAINED, 0)
    # A face has 4 x 3 voxels of 2 mm3.
    assert growth_ml(growth, GRID) == pytest.approx({"kept": 0.072, "gained": 0.024, "lost": 0.024})


def test_masks_of_two_grids_are_not_compared():
    with pytest.raises(ValueError, match="lay both"):
        growth_map(cube(5), cube(5)[1:])


def test_a_mask_on_the_baselines_own_voxels_is_laid_as_it_is_also_at_the_edge():
    for mask in (cube(0), cube(16), cube(7), np.zeros(GRID.shape, bool), np.ones(GRID.shape, bool)):
        assert np.array_equal(lay_mask(mask, GRID, np.eye(4), GRID), mask)


def test_a_head_that_lay_elsewhere_is_laid_back():
    moved = np.eye(4)
    moved[:3, 3] = [6, 0, -1]  # three voxels to the right and one down
    assert np.array_equal(lay_mask(np.roll(cube(5), (3, -1), (0, 2)), GRID, moved, GRID), cube(5))
    away = np.eye(4)
    away[0, 3] = 500
    assert not lay_mask(cube(5), GRID, away, GRID).any()


def test_a_finer_mask_keeps_its_volume_on_the_baselines_grid():
    fine = Grid((80, 32, 24), np.array([[0.5, 0, 0, -0.75], [0, 0.5, 0, -0.25], [0, 0, 0.5, -0.25], [0, 0, 0, 1.0]]))
    mask = cube(5).repeat(4, 0).repeat(2, 1).repeat(2, 2)
    assert np.array_equal(lay_mask(mask, fine, np.eye(4), GRID), cube(5))


def test_a_mask_between_voxels_goes_where_half_of_its_weight_is():
    # At .4 of a voxel further a place has .6 of its voxel and .4 of the next one along each axis: what lies at the end
    # of two axes has .36, of one .6, and what lies before the cube has .4 at most.
    there = np.eye(4)
    there[:3, 3] = [0.8, 0.4, 0.4]
    expected = cube(5)
    ends = (np.arange(20) == 8)[:, None, None].astype(int) + (np.arange(16) == 8)[:, None] + (np.arange(12) == 6)
    assert np.array_equal(lay_mask(cube(5), GRID, there, GRID), expected & (ends < 2))


def test_the_picture_is_the_plane_with_the_most_change_as_a_radiologist_looks_at_it():
    growth = np.zeros(GRID.shape, np.uint8)
    growth[2, 3, 8] = GAINED
    growth[2:9, 3:9, 4] = KEPT
    image = np.full(GRID.shape, 100.0, np.float32)
    image[0, 0, 0] = 0
    picture, level = growth_picture(image, growth, GRID)
    assert picture.shape == (16, 20, 3) and picture.dtype == np.uint8 and level == 8
    # RAS voxels: x = 2 lies to the left of the patient, which is on the right; y = 3 near the back, which is down.
    coloured = np.argwhere(picture[:, :, 0] != picture[:, :, 2])
    assert coloured.tolist() == [[15 - 3, 19 - 2]]
    red, _, blue = picture[12, 17].astype(int)
    assert red > blue and GROWTH_COLOURS[GAINED] == "#D55E00"


def test_loss_alone_is_a_change():
    growth = np.zeros(GRID.shape, np.uint8)
    growth[2, 3, 8] = LOST
    growth[2:9, 3:9, 4] = KEPT
    assert growth_picture(np.ones(GRID.shape), growth, GRID)[1] == 8


@pytest.mark.parametrize(
    ("values", "greys"),
    [((0, 100, 200, 300), (0, 0, 128, 255)), ((0, -100, 0, 100), (0, 0, 0, 255))],  # 0 is air, whatever is darker
)
def test_grey_goes_from_the_darkest_to_the_brightest_of_the_brain_and_a_colour_covers_55_hundredths(values, greys):
    image = np.repeat(np.array(values, float), 5)[:, None, None] * np.ones(GRID.shape)
    growth = np.zeros(GRID.shape, np.uint8)
    growth[19, 0, 3] = GAINED
    picture, level = growth_picture(image, growth, GRID)
    assert level == 3 and picture[0, ::-5, 0].tolist() == list(greys)  # the patient's left, x = 19, is on the right
    # 45 hundredths of 255 and 55 of (213, 94, 0), in the last row: y = 0 is the back.
    assert picture[15, 0].tolist() == [round(0.45 * 255 + 0.55 * each) for each in (213, 94, 0)]


def test_without_change_the_plane_with_the_most_of_the_region_is_shown_and_without_any_the_middle():
    image = np.ones(GRID.shape, np.float32)
    kept = growth_map(cube(5), cube(5))
    assert growth_picture(image, kept, GRID)[1] == 4
    assert growth_picture(image, np.zeros_like(kept), GRID)[1] == 6
    assert not growth_picture(np.zeros(GRID.shape), np.zeros_like(kept), GRID)[0].any()


def test_the_map_is_written_on_the_baselines_grid(tmp_path: Path):
    like = ImageHeader(
        path=tmp_path, grid=GRID, dtype="int16", channels=1, sform_code=1, qform_code=1, qform=None, xyzt_units=2
    )
    growth = growth_map(cube(5), cube(6))
    write_growth_map(tmp_path / "growth.nii.gz", growth, like)
    image = nib.load(tmp_path / "growth.nii.gz")
    assert np.array_equal(np.asarray(image.dataobj), growth) and image.get_data_dtype() == np.uint8
    assert np.allclose(image.affine, GRID.affine)
