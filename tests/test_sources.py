"""Kinds of folders to learn from: what each makes of its files, and where it knows a region."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.errors import InputError, UsageError
from pipeline.config import RunConfig, parse_config
from pipeline.training.sources import SOURCES, source_of
from pipeline.training.sources.cubes import BRAIN_BOX_LPS, CUBE_SPACING_MM, cube_cases, place_in_brain, read_cubes

MODALITIES = ("t1", "t1c", "t2", "flair")


def recipe(spacing: Any = (2.0, 2.0, 2.0), orientation: str = "RAS", **changes: Any) -> RunConfig:
    modalities = changes.pop("modalities", MODALITIES)
    settings = {
        "name": "tiny",
        "modalities": list(modalities),
        "regions": ["WT", "TC", "ET", "RC"],
        "convention": "brats2024-gli",
        "network": {
            "architecture": "attention_unet",
            "spatial_dims": 3,
            "in_channels": len(modalities),
            "out_channels": 4,
            "channels": [4, 8],
        },
        "preprocess": {"spacing_mm": list(spacing), "orientation": orientation, **changes},
        "window": {"size": [16] * 3},
        "training": {"patch": [16] * 3},
    }
    return parse_config(settings, "test")


def write_cube(path: Path, starts: Any = ((48, 40, 60),), **arrays: Any) -> None:
    """One lesion: brain in the 20 x 32 x 32 voxels from (6, 0, 0), each image its number; ED with an ET voxel block."""
    images, labels = np.zeros((len(starts), 4, 32, 32, 32), np.float16), np.zeros((len(starts), 32, 32, 32), np.uint8)
    images[:, :, 6:26] = np.arange(1, 5).reshape(1, 4, 1, 1, 1)
    labels[:, 10:20, 8:24, 8:24] = 2
    labels[:, 12:16, 12:16, 12:16] = 4
    labels[:, 16:18, 12:16, 12:16] = 1
    content = {"images": images, "labels": labels, "starts": np.array(starts, np.int16)} | arrays
    np.savez_compressed(path, **content)


def told(case: Any, region: int) -> np.ndarray:
    return ~np.isnan(case.voxels[case.n_images + region])


def test_a_cube_keeps_its_images_its_volumes_and_its_channel_order_on_the_working_grid(tmp_path):
    write_cube(tmp_path / "BraTS20_Training_001.npz")
    (case,) = cube_cases(tmp_path, recipe((None, None, None)), tmp_path / "cache")
    assert (case.name, case.kind, case.patient) == ("BraTS20_Training_001", "cube", "BraTS20_Training_001")
    assert case.voxels.shape == (8, 32, 32, 32) and not case.beyond_known
    # LPS to RAS: the first two axes run the other way.
    np.testing.assert_array_equal(case.voxels[:4, 31 - 8, 31 - 5, 5], [1, 2, 3, 4])
    np.testing.assert_array_equal(np.nan_to_num(case.voxels[4:7]).sum(axis=(1, 2, 3)), [10 * 16 * 16, 6 * 16, 4 * 16])
    (flair,) = cube_cases(tmp_path, recipe((None,) * 3, modalities=("flair",)), tmp_path / "cache")
    assert flair.voxels[0].max() == 4


def test_a_region_keeps_its_volume_when_a_cube_is_resampled(tmp_path):
    write_cube(tmp_path / "a.npz")
    (case,) = cube_cases(tmp_path, recipe((1.0, 1.0, 1.0)), tmp_path / "cache")
    volume = np.prod(CUBE_SPACING_MM) * np.array([10 * 16 * 16, 6 * 16, 4 * 16])
    np.testing.assert_allclose(np.nansum(case.voxels[4:7].astype(np.float32), axis=(1, 2, 3)), volume, rtol=0.02)


def test_nothing_is_known_where_a_cube_was_padded_and_of_a_region_that_its_labels_lack(tmp_path):
    write_cube(tmp_path / "a.npz")
    (case,) = cube_cases(tmp_path, recipe((None, None, None)), tmp_path / "cache")
    known = told(case, 0)
    assert known[6:26].all() and not known[:6].any() and not known[26:].any()
    assert not told(case, 3).any()
    assert not case.voxels[:4][:, ~known].any()


def test_each_lesion_of_a_patient_is_a_case_of_its_own_and_the_patient_is_one(tmp_path):
    write_cube(tmp_path / "p.npz", starts=((0, 0, 0), (64, 64, 64)))
    write_cube(tmp_path / "q.npz")
    cases = cube_cases(tmp_path, recipe(), tmp_path / "cache")
    assert [(case.name, case.patient) for case in cases] == [("p", "p"), ("p#2", "p"), ("q", "q")]
    assert [case.name for case in cube_cases(tmp_path, recipe(), tmp_path / "cache", names=["q"])] == ["q"]


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "SAR"])
def test_a_cubes_place_is_that_of_its_middle_in_the_brains_box(tmp_path, orientation):
    (left, front, low), (right, back, high) = BRAIN_BOX_LPS
    # The middle of the cube, voxel 15.5, lies a quarter of the box from its first voxel in LPS.
    wanted = np.array([left + (right - left) / 4, front + (back - front) / 4, low + (high - low) / 4])
    starts = wanted / CUBE_SPACING_MM - 15.5
    write_cube(tmp_path / "a.npz", starts=[np.round(starts)])
    grid = read_cubes(tmp_path / "a.npz")[0].grid
    share = {"L": 0.25, "P": 0.25, "S": 0.25, "R": 0.75, "A": 0.75, "I": 0.75}
    np.testing.assert_allclose(place_in_brain(grid, orientation), [share[axis] for axis in orientation], atol=0.01)


def test_a_cubes_place_is_where_its_patients_tumour_stands(tmp_path):
    """The first voxel of the 128^3 grid is the volume's first: 0, 239 mm to the front, 0, in RAS."""
    write_cube(tmp_path / "a.npz", starts=((0, 0, 0),))
    affine = read_cubes(tmp_path / "a.npz")[0].grid.affine
    np.testing.assert_allclose(affine @ [0, 0, 0, 1], [0, 239, 0, 1])
    np.testing.assert_allclose(affine @ [127, 127, 127, 1], [-239, 0, 154, 1])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": np.zeros((1, 31, 32, 32), np.uint8)}, "do not fit each other"),
        ({"images": np.zeros((1, 4, 32, 32, 32), np.float16)}, "shows no brain"),
        ({"images": np.full((1, 4, 32, 32, 32), np.nan, np.float16)}, "not finite"),
        ({"images": np.zeros((1, 3, 32, 32, 32), np.float16)}, "do not fit each other"),
    ],
)
def test_a_file_that_is_no_cube_is_refused_with_its_name(tmp_path, arrays, message):
    write_cube(tmp_path / "broken.npz", **arrays)
    with pytest.raises(InputError, match=f"broken.npz: .*{message}"):
        read_cubes(tmp_path / "broken.npz")
    (tmp_path / "broken.npz").write_bytes(b"no zip")
    with pytest.raises(InputError, match=r"broken.npz: holds no lesion cubes"):
        read_cubes(tmp_path / "broken.npz")


def test_a_recipe_that_cubes_cannot_serve_is_refused_with_the_fix(tmp_path):
    write_cube(tmp_path / "a.npz")
    with pytest.raises(UsageError, match="the cubes have no t1_dual; train without them"):
        cube_cases(tmp_path, recipe(modalities=("t1_dual",)), tmp_path / "cache")
    with pytest.raises(UsageError, match="normalise: all; set it to nonzero"):
        cube_cases(tmp_path, recipe(normalise="all"), tmp_path / "cache")


def test_a_folder_is_of_the_kind_that_its_files_tell_unless_a_kind_is_given(tmp_path):
    (tmp_path / "patients").mkdir()
    write_cube(tmp_path / "a.npz")
    assert source_of(tmp_path)[1].kind == "cube"
    assert source_of(str(tmp_path / "patients"))[1].kind == "patient"
    assert source_of(f"{tmp_path / 'patients'}:slice") == (tmp_path / "patients", SOURCES["slice"])
    with pytest.raises(UsageError, match="no kind 'cubes'; choose one of: .*cube.*patient"):
        source_of(f"{tmp_path}:cubes")
    with pytest.raises(UsageError, match="no such folder"):
        source_of(tmp_path / "absent")


def test_a_folder_whose_name_holds_a_colon_is_found(tmp_path):
    folder = tmp_path / "scans:2020"
    folder.mkdir()
    assert source_of(folder)[0] == folder


def test_every_kind_says_what_it_holds_and_goes_by_its_own_name():
    assert all(kind == source.kind and source.help for kind, source in SOURCES.items())
    assert list(SOURCES)[-1] == "patient"  # which recognises anything
