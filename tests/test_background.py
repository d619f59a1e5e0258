"""pipeline/report/preview.py: the image that outlines are drawn on lies as the mask does, and its lack is no error."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data.case import ImageSource
from data.grid import Grid
from pipeline.report.preview import read_background

AFFINE = np.diag([2.0, 1.5, 3.0, 1.0])
VOXELS = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)


def image(path: Path, codes: str = "RAS", origin: float = 0.0, value: float = 0.0) -> ImageSource:
    """VOXELS + value on AFFINE, stored in the order of axes that ``codes`` names."""
    affine = AFFINE.copy()
    affine[:3, 3] = origin
    stored = nib.Nifti1Image(VOXELS + value, affine)
    turn = nib.orientations.axcodes2ornt(tuple(codes))
    nib.save(stored.as_reoriented(turn), path)
    return ImageSource((path,))


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SAL"])
def test_an_image_in_another_order_of_axes_is_turned_to_the_grid(tmp_path, codes) -> None:
    got = read_background({"t1": image(tmp_path / "t1.nii.gz", codes)}, Grid((4, 5, 6), AFFINE))
    assert got is not None and got.dtype == np.float32
    np.testing.assert_array_equal(got, VOXELS)


def test_flair_comes_before_the_others(tmp_path) -> None:
    images = {"t1": image(tmp_path / "a.nii.gz"), "flair": image(tmp_path / "b.nii.gz", value=1000.0)}
    got = read_background(images, Grid((4, 5, 6), AFFINE))
    assert got is not None and got.min() == 1000.0


def test_an_image_elsewhere_or_unreadable_is_passed_over(tmp_path) -> None:
    grid = Grid((4, 5, 6), AFFINE)
    (tmp_path / "bad.nii.gz").write_bytes(b"no image")
    images = {"flair": ImageSource((tmp_path / "bad.nii.gz",)), "t1": image(tmp_path / "t1.nii.gz", origin=7.0)}
    assert read_background(images, grid) is None
    got = read_background(images | {"t2": image(tmp_path / "t2.nii.gz")}, grid)
    assert got is not None
    np.testing.assert_array_equal(got, VOXELS)
    assert read_background({}, grid) is None
