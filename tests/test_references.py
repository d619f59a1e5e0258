"""References brought onto the grid of their images, and why one cannot be."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data.case import ImageSource
from data.grid import Grid
from data.io.read import Volume, read_label_map
from data.io.suffixes import split_suffix
from data.labels import load_convention, sort_regions
from data.references import other_grid, read_reference, strange_labels, voxels_on

BRATS = load_convention("brats2023")
RAS = np.diag([10.0, 10.0, 10.0, 1.0])


def saved(path: Path, labels: np.ndarray, affine: np.ndarray = RAS) -> ImageSource:
    nib.save(nib.Nifti1Image(labels.astype(np.uint8), affine), path)
    return ImageSource((path,))


@pytest.fixture
def labels() -> np.ndarray:
    array = np.zeros((3, 4, 5))
    array[0, 1, 2], array[2, 3, 4], array[1, 0, 0] = 1, 2, 3
    return array


def test_a_reference_stored_along_other_axes_gives_masks_on_the_images_grid(labels, tmp_path):
    turned = nib.Nifti1Image(labels.astype(np.uint8), RAS).as_reoriented(np.array([[1, -1], [2, 1], [0, -1]]))
    nib.save(turned, tmp_path / "seg.nii.gz")
    found = read_reference(ImageSource((tmp_path / "seg.nii.gz",)), Grid((3, 4, 5), RAS), BRATS)
    assert not found.doubt and list(found.masks) == ["WT", "TC", "ET"]
    assert np.array_equal(found.masks["WT"], labels > 0)
    assert np.array_equal(found.masks["TC"], (labels == 1) | (labels == 3))
    assert np.array_equal(found.masks["ET"], labels == 3)


def test_only_the_regions_that_are_wanted_are_given(labels, tmp_path):
    found = read_reference(saved(tmp_path / "seg.nii", labels), Grid((3, 4, 5), RAS), BRATS, ["ET"])
    assert list(found.masks) == ["ET"]


def test_a_reference_on_another_grid_is_doubted_and_not_unpacked(labels, tmp_path):
    source = saved(tmp_path / "seg.nii", labels)
    path = source.paths[0]
    path.write_bytes(path.read_bytes()[:360])  # what is missing would be an error of its own
    nib.save(nib.Nifti1Image(labels.astype(np.uint8), np.diag([20.0, 10.0, 10.0, 1.0])), path)
    found = read_reference(source, Grid((3, 4, 5), RAS), BRATS)
    assert not found.masks and found.doubt.startswith("seg.nii lies on another grid (3x4x5 voxels of 20x10x10 mm")
    assert "than the images (3x4x5 voxels of 10x10x10 mm" in found.doubt and found.doubt.endswith("onto theirs")


def test_a_label_that_the_convention_lacks_is_doubted_by_its_number(labels, tmp_path):
    labels[0, 0, 0] = 7
    found = read_reference(saved(tmp_path / "seg.nii", labels), Grid((3, 4, 5), RAS), BRATS)
    assert not found.masks
    assert found.doubt == (
        "seg.nii holds the label 7, which brats2023 does not know; name its convention with --convention"
    )
    assert strange_labels([0, 7, 9, 1], BRATS) == "holds the label 7, 9, which brats2023 does not know"
    assert strange_labels([0, 1], BRATS) == strange_labels([], BRATS) == ""


def test_a_damaged_reference_is_doubted_by_its_name(labels, tmp_path):
    source = saved(tmp_path / "seg.nii", labels)
    source.paths[0].write_bytes(source.paths[0].read_bytes()[:-10])
    found = read_reference(source, Grid((3, 4, 5), RAS), BRATS)
    assert not found.masks and "seg.nii" in found.doubt


def test_voxels_of_a_grid_without_size_are_compared_by_their_number_alone(labels, tmp_path):
    volume: Volume = read_label_map(saved(tmp_path / "seg.nii", labels))
    elsewhere = np.diag([3.0, 3.0, 3.0, 1.0])
    assert voxels_on(volume, Grid((3, 4, 5), elsewhere)) is None
    assert np.array_equal(voxels_on(volume, Grid((3, 4, 5), elsewhere, False)), labels)
    assert voxels_on(volume, Grid((3, 4, 6), elsewhere, False)) is None
    assert other_grid(volume.header, volume.grid) == ""


def test_an_array_is_turned_as_its_grid_is():
    array = np.arange(60).reshape(3, 4, 5)
    grid = Grid((3, 4, 5), RAS)
    assert np.array_equal(grid.turn(array, "LPS"), array[::-1, ::-1])
    assert np.array_equal(grid.turn(array, "SRA"), np.moveaxis(array, 2, 0))
    assert np.shares_memory(grid.turn(array, "SRA"), array)
    assert grid.holds_voxels_of(grid.reoriented("SPL")) and not grid.holds_voxels_of(Grid((3, 4, 6), RAS))


def test_regions_come_in_their_order_and_strangers_behind():
    assert sort_regions(["ET", "x", "WT", "ET", "a"]) == ["WT", "ET", "x", "a"]
    assert sort_regions([]) == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.b.NII.GZ", ("a.b", ".nii.gz")),
        ("a.nii", ("a", ".nii")),
        ("a.Mha", ("a", ".mha")),
        ("a.tiff", ("a", ".tiff")),
        ("a.gz", ("a.gz", "")),
        ("", ("", "")),
    ],
)
def test_a_name_is_split_before_the_suffix_of_an_image(name, expected):
    assert split_suffix(name) == expected
