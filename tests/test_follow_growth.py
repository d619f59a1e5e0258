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
    KEPT,
    LOST,
    growth_map,
    growth_ml,
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


def test_the_map_is_written_on_the_baselines_grid(tmp_path: Path):
    like = ImageHeader(
        path=tmp_path, grid=GRID, dtype="int16", channels=1, sform_code=1, qform_code=1, qform=None, xyzt_units=2
    )
    growth = growth_map(cube(5), cube(6))
    write_growth_map(tmp_path / "growth.nii.gz", growth, like)
    image = nib.load(tmp_path / "growth.nii.gz")
    assert np.array_equal(np.asarray(image.dataobj), growth) and image.get_data_dtype() == np.uint8
    assert np.allclose(image.affine, GRID.affine)
