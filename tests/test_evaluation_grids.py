"""pipeline/evaluate/grids.py: two sides stored on different grids, with numbers worked by hand."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data.errors import UsageError
from data.grid import Grid
from pipeline.evaluate.grids import has_lost_header
from pipeline.evaluate.run import evaluate

SHAPE = (20, 16, 12)
PLACE = np.array([[-2.0, 0, 0, 30], [0, -2, 0, 40], [0, 0, 2, -10], [0, 0, 0, 1]])  # LPS, 2 mm


@pytest.fixture
def folders(tmp_path, monkeypatch) -> tuple[Path, Path, Path]:
    monkeypatch.setattr("pipeline.evaluate.run.draw_worst", lambda *given: {})
    monkeypatch.setattr("pipeline.evaluate.run.write_evaluation_page", lambda *given: None)
    return tmp_path / "p", tmp_path / "r", tmp_path / "out"


def save(path: Path, array: np.ndarray, affine: np.ndarray = PLACE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array.astype(np.uint8), affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def only_row(folders, **options) -> dict:
    return evaluate(*folders, convention="brats2023", **options).iloc[0].to_dict()


def labels() -> np.ndarray:
    """64 voxels of oedema with 8 of enhancing tumour in them."""
    array = np.zeros(SHAPE, np.uint8)
    array[8:12, 6:10, 4:8] = 2
    array[9:11, 7:9, 5:7] = 3
    return array


def cropped(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The box of the 64 voxels alone, with the affine of its own first voxel."""
    affine = PLACE.copy()
    affine[:3, 3] = nib.affines.apply_affine(PLACE, (8, 6, 4))
    return array[8:12, 6:10, 4:8], affine


def test_a_reference_stored_only_as_large_as_its_segments_counts_what_lies_outside_it(folders):
    predicted = labels()
    predicted[0:4, 0:4, 0:4] = 2  # 64 voxels of nothing
    save(folders[0] / "a.nii.gz", predicted)
    save(folders[1] / "a.nii.gz", *cropped(labels()))
    assert only_row(folders)["status"] == "error"
    row = only_row(folders, resample=True)
    assert row["dice_WT"] == pytest.approx(2 * 64 / (128 + 64)) and row["dice_ET"] == 1.0
    assert row["voxels_WT"] == 128 and row["status"] == "warn"
    assert "the reference is stored for 4x4x4 voxels of 20x16x12; outside that box" in row["reason"]
    assert "resampled" not in row["reason"]  # one lattice: no voxel was interpolated


def test_a_prediction_stored_only_as_large_as_its_segments_is_missed_tumour_outside_it(folders):
    expected = labels()
    expected[0:4, 0:4, 0:4] = 2
    save(folders[0] / "a.nii.gz", *cropped(labels()))
    save(folders[1] / "a.nii.gz", expected)
    row = only_row(folders, resample=True)
    assert row["dice_WT"] == pytest.approx(2 * 64 / (128 + 64)) and row["voxels_WT"] == 64
    assert "the prediction is stored for 4x4x4 voxels of 20x16x12" in row["reason"]


def test_boxes_that_each_reach_beyond_the_other_are_compared_over_both(folders):
    array = labels()
    save(folders[0] / "a.nii.gz", array[:10])  # half of the tumour's planes
    affine = PLACE.copy()
    affine[:3, 3] = nib.affines.apply_affine(PLACE, (4, 0, 0))
    save(folders[1] / "a.nii.gz", array[4:], affine)
    row = only_row(folders, resample=True)
    assert row["voxels_WT"] == 32 and row["dice_WT"] == pytest.approx(2 * 32 / (32 + 64))


def test_a_prediction_on_another_lattice_keeps_what_it_marks_outside_the_references_box(folders):
    predicted = np.zeros((10, 8, 6), np.uint8)  # voxels of 4 mm over the same head
    predicted[4:6, 3:5, 2:4] = 2  # the 64 voxels of 2 mm
    predicted[0:2, 0:2, 0:2] = 2  # and 64 of nothing
    affine = PLACE @ np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = nib.affines.apply_affine(PLACE, (0.5, 0.5, 0.5))
    save(folders[0] / "a.nii.gz", predicted, affine)
    save(folders[1] / "a.nii.gz", *cropped(labels()))
    row = only_row(folders, resample=True)
    # Interpolated to half the spacing a cube of 4^3 loses its eight corners (.42); in the corner of the image it has
    # neighbours on three sides alone, so that one corner falls.
    assert row["voxels_WT"] == 56 + 63 and row["dice_WT"] == pytest.approx(2 * 56 / (119 + 64))
    assert "resampled" in row["reason"] and "outside that box" in row["reason"]


@pytest.mark.parametrize("side", ["prediction", "reference"])
@pytest.mark.parametrize("stored", ["as it is", "reversed"])
@pytest.mark.parametrize("resample", [False, True])
def test_a_lost_header_is_said_and_nothing_is_scored(folders, side, stored, resample):
    array = labels() if stored == "as it is" else labels().transpose()
    lost, whole = (folders[0], folders[1]) if side == "prediction" else (folders[1], folders[0])
    save(lost / "a.nii.gz", array, np.eye(4))
    save(whole / "a.nii.gz", labels())
    row = only_row(folders, resample=resample)
    assert row["status"] == "error" and "looks lost" in row["reason"]
    assert ("--like IMAGES" in row["reason"]) == (side == "prediction") and "--resample" not in row["reason"]


@pytest.mark.parametrize("stored", ["as it is", "reversed"])
def test_a_lost_header_is_taken_from_the_images_where_they_are_named(folders, stored, tmp_path):
    save(tmp_path / "images" / "a" / "a_flair.nii.gz", np.ones(SHAPE))
    save(folders[0] / "a.nii.gz", labels() if stored == "as it is" else labels().transpose(), np.diag([-1.0, -1, 1, 1]))
    save(folders[1] / "a.nii.gz", labels())
    row = only_row(folders, like=tmp_path / "images")
    assert row["status"] == "warn" and row["dice_WT"] == row["dice_ET"] == 1.0
    assert row["volume_ml_WT"] == pytest.approx(64 * 0.008) and "a_flair.nii.gz was taken (--like)" in row["reason"]


def test_a_header_that_is_not_lost_is_never_replaced(folders, tmp_path):
    save(tmp_path / "images" / "a" / "a_flair.nii.gz", np.ones(SHAPE), np.diag([3.0, 3, 3, 1]))
    for folder in folders[:2]:
        save(folder / "a.nii.gz", labels())
    row = only_row(folders, like=tmp_path / "images")
    assert row["status"] == "ok" and row["dice_WT"] == 1.0


def test_a_folder_of_no_images_is_refused(folders):
    for folder in folders[:2]:
        save(folder / "a.nii.gz", labels())
    with pytest.raises(UsageError):
        only_row(folders, like=folders[1])


def test_grids_that_hardly_overlap_are_never_scored(folders):
    affine = PLACE.copy()
    affine[0, 3] -= 30  # 15 of 20 voxels to the left: a quarter is shared
    save(folders[0] / "a.nii.gz", labels(), affine)
    save(folders[1] / "a.nii.gz", labels())
    for resample in (False, True):
        row = only_row(folders, resample=resample)
        assert row["status"] == "error" and "only 25 %" in row["reason"] and "--resample" not in row["reason"]


def test_the_identity_but_for_signs_is_a_lost_header():
    assert has_lost_header(Grid(SHAPE, np.eye(4))) and has_lost_header(Grid(SHAPE, np.diag([-1.0, -1, 1, 1])))
    moved = np.eye(4)
    moved[2, 3] = 5
    assert not has_lost_header(Grid(SHAPE, moved)) and not has_lost_header(Grid(SHAPE, PLACE))
