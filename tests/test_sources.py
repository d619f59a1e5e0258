"""Kinds of folders to learn from: what each makes of its files, and where it knows a region."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import nibabel as nib
import numpy as np
import pytest
import scipy.ndimage as ndi
from PIL import Image

from data.errors import InputError, UsageError
from pipeline.config import ExtraKind, RunConfig, parse_config
from pipeline.options import TrainOptions
from pipeline.training import plan
from pipeline.training.sources.cubes import BRAIN_BOX_LPS, CUBE_SPACING_MM, cube_cases, place_in_brain, read_cubes
from pipeline.training.sources.heads import HEAD_PIXEL_MM, head_cases
from pipeline.training.sources.kinds import SOURCES, source_of
from pipeline.training.sources.lesion_slices import lesion_cases, lesion_names
from pipeline.training.sources.silver import silver_cases
from pipeline.training.sources.t1c_slices import t1c_cases
from pipeline.training.sources.tumour_free import tumour_free_cases

MODALITIES = ("t1", "t1c", "t2", "flair")


def recipe(spacing: Any = (2.0, 2.0, 2.0), orientation: str = "RAS", **changes: Any) -> RunConfig:
    modalities = changes.pop("modalities", MODALITIES)
    dims, missing = changes.pop("dims", 3), changes.pop("missing", 0.25)
    settings = {
        "name": "tiny",
        "modalities": list(modalities),
        "regions": ["WT", "TC", "ET", "RC"],
        "convention": "brats2024-gli",
        "network": {
            "architecture": "attention_unet",
            "spatial_dims": dims,
            "in_channels": len(modalities),
            "out_channels": 4,
            "channels": [4, 8],
        },
        "preprocess": {"spacing_mm": list(spacing), "orientation": orientation, **changes},
        "augment": {"missing_modality": missing},
        "window": {"size": [16] * dims},
        "training": {"patch": [16] * dims},
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
        ({"labels": np.full((1, 32, 32, 32), 7, np.uint8)}, "labels that brats2017 does not know: 7"),
        ({"starts": np.zeros((0, 3))}, "holds no lesion"),
        ({"images": np.full((1, 4, 32, 32, 32), "1")}, "images is of <U1, and not of numbers"),
        ({"labels": np.full((1, 32, 32, 32), b"1")}, "labels is of .S1, and not of numbers"),
        ({"images": np.ones((1, 4, 32, 32, 32), np.complex64)}, "images is of complex64, and not of numbers"),
        # It shows brain in the 20 x 32 x 32 voxels from (6, 0, 0) of a grid of 128^3.
        ({"starts": np.array([[103, 40, 60]])}, r"lesion 1 starts at \[103, 40, 60\].*correct starts, or leave it out"),
        ({"starts": np.array([[48, 97, 60]])}, r"lesion 1 starts at \[48, 97, 60\]"),
        ({"starts": np.array([[48, 40, -1]])}, r"lesion 1 starts at \[48, 40, -1\]"),
        ({"starts": np.array([[48, 32767, 60]], np.int16)}, r"lesion 1 starts at \[48, 32767, 60\]"),
    ],
)
def test_a_file_that_is_no_cube_is_refused_with_its_name(tmp_path, arrays, message):
    write_cube(tmp_path / "broken.npz", **arrays)
    with pytest.raises(InputError, match=f"broken.npz: .*{message}"):
        read_cubes(tmp_path / "broken.npz")
    (tmp_path / "broken.npz").write_bytes(b"no zip")
    with pytest.raises(InputError, match=r"broken.npz: holds no lesion cubes"):
        read_cubes(tmp_path / "broken.npz")


@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], lambda content: content.replace(
    content[len(content) // 3 :][:40], b"x" * 40)], ids=["cut off", "written over"])  # fmt: skip
def test_a_damaged_cube_file_is_refused_with_its_name(tmp_path, damage):
    write_cube(tmp_path / "broken.npz")
    (tmp_path / "broken.npz").write_bytes(damage((tmp_path / "broken.npz").read_bytes()))
    with pytest.raises(InputError, match=r"broken.npz: holds no lesion cubes"):
        read_cubes(tmp_path / "broken.npz")


@pytest.mark.parametrize("starts", [(-6, 0, 0), (102, 96, 96)])
def test_a_cube_that_is_padded_beyond_the_grid_is_read(tmp_path, starts):
    write_cube(tmp_path / "a.npz", starts=(starts,))
    assert len(read_cubes(tmp_path / "a.npz")) == 1


def test_cubes_without_a_voxel_of_a_lesion_are_learnt_from_and_named(tmp_path, caplog):
    labels = np.zeros((2, 32, 32, 32), np.uint8)
    labels[0, 16, 16, 16] = 4
    write_cube(tmp_path / "p.npz", starts=((0, 0, 0), (64, 64, 64)), labels=labels)
    write_cube(tmp_path / "q.npz")
    cases = cube_cases(tmp_path, recipe(), tmp_path / "cache")
    assert [case.name for case in cases] == ["p", "p#2", "q"] and "WT" not in cases[1].centres
    assert "no voxel of a lesion in 1 of 3 cubes (p#2)" in caplog.text
    caplog.clear()
    cube_cases(tmp_path, recipe(), tmp_path / "cache", names=["q"])
    assert not caplog.text


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


def test_a_folder_of_patients_may_name_their_label_convention_and_no_other_kind_may(tmp_path):
    path, source = source_of(f"{tmp_path}:patient:msd")
    assert (path, source.kind, source.convention) == (tmp_path, "patient", "msd")
    assert SOURCES["patient"].convention is None
    with pytest.raises(UsageError, match=r":patient:mds: there is no label convention 'mds': choose among .*msd"):
        source_of(f"{tmp_path}:patient:mds")
    with pytest.raises(UsageError, match=r":cube:msd: the labels of a cube are known; leave :msd out"):
        source_of(f"{tmp_path}:cube:msd")


def test_a_folder_whose_name_holds_a_colon_is_found(tmp_path):
    folder = tmp_path / "scans:2020"
    folder.mkdir()
    assert source_of(folder)[0] == folder


def test_every_kind_says_what_it_holds_and_goes_by_its_own_name():
    assert all(kind == source.kind and source.help for kind, source in SOURCES.items())
    assert list(SOURCES)[-1] == "patient"  # which recognises anything


# Slices as pictures.


def write_t1c_slice(folder: Path, patient: str = "BraTS20_Training_002") -> None:
    """A brain of 112 rows and 168 columns, 100 with a stripe of 200, and a tumour of 28 x 56 pixels."""
    pixels, mask = np.zeros((224, 224), np.uint8), np.zeros((224, 224), np.uint8)
    pixels[56:168, 28:196] = 100
    pixels[56:70, 28:196] = 200
    mask[70:98, 28:84] = 255
    for name, array in ((f"img/{patient}.png", pixels), (f"labelcol/{patient}_seg.png", mask)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(folder / name)


def write_lesion_slice(folder: Path, stem: str = "BCBM-9-0_mask_R-frontal", value: int = 250) -> None:
    """A brain of 200 x 200 pixels, 90 and 110 in turn, and a lesion of 20 x 20 pixels in its middle."""
    pixels, mask = np.zeros((512, 512), np.uint8), np.zeros((512, 512), np.uint8)
    pixels[100:300, 100:300] = 90
    pixels[100:300:2, 100:300] = 110
    pixels[190:210, 190:210] = value
    mask[190:210, 190:210] = 255
    for name, array in ((f"img/{stem}_img.png", pixels), (f"labelcol/{stem}_mask.png", mask)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(folder / name)


def test_a_t1c_slice_keeps_its_size_its_orientation_and_tells_the_whole_tumour_alone(tmp_path):
    write_t1c_slice(tmp_path)
    (case,) = t1c_cases(tmp_path, recipe((None,) * 3, dims=2), tmp_path / "cache")
    assert (case.name, case.patient) == ("BraTS20_Training_002", "BraTS20_Training_002")
    assert case.voxels.shape == (8, 112, 168, 1)
    # Rows to the left and columns to the posterior: in RAS both run the other way, so the tumour's corner is far from
    # 0.
    tumour = case.voxels[4, ..., 0]
    assert tumour.sum() == 28 * 56 and (tumour[70:98, 112:168] == 1).all()
    assert not case.voxels[[0, 2, 3]].any() and np.isnan(case.voxels[5:]).all()
    # z-scores of an eighth at 200 and the rest at 100: mean 112.5, deviation 100 * sqrt(1/8 * 7/8).
    assert case.voxels[1, 0, 0, 0] == pytest.approx(-12.5 / 33.07, abs=1e-3)
    assert case.voxels[1, 111, 0, 0] == pytest.approx(87.5 / 33.07, abs=2e-3)
    (coarse,) = t1c_cases(tmp_path, recipe(dims=2), tmp_path / "cache")
    assert np.nansum(coarse.voxels[4].astype(float)) * 4 == pytest.approx(28 * 56 * (240 / 224) ** 2, rel=0.02)


def test_a_lesion_slice_tells_its_lesion_and_what_is_near_and_that_what_is_not_bright_is_no_core(tmp_path):
    write_lesion_slice(tmp_path / "Train_Folder")
    picture = tmp_path / "Train_Folder/img/BCBM-9-0_mask_R-frontal_img.png"
    pixels = np.array(Image.open(picture))
    pixels[240:270, 190:210] = 250  # another one, as bright, 15 mm off
    pixels[250:256, 196:204] = 60  # its dead middle
    pixels[100:140, 100:300] = 40  # and, 25 mm off, what is dark
    Image.fromarray(pixels).save(picture)
    (case,) = lesion_cases(tmp_path, recipe((None,) * 3, dims=2), tmp_path / "cache")
    assert (case.name, case.patient, case.beyond_known) == ("BCBM-9-0_mask_R-frontal", "BCBM-9", False)
    whole, core, enhancing, cavity = case.voxels[4:, ..., 0]
    lesion = np.zeros((200, 200), bool)
    lesion[90:110, 90:110] = True
    np.testing.assert_array_equal(whole == 1, lesion)
    assert np.isnan(whole[~lesion]).all() and np.isnan(cavity).all()
    # 5 mm are 10 pixels of .5 mm: up to row 119 at the lesion's side, and no farther.
    assert (core[lesion] == 1).all() and np.isnan(enhancing[lesion]).all()
    other = np.zeros((200, 200), bool)
    other[30:60, 90:110] = True  # rows run the other way in RAS
    assert np.isnan(core[other]).all() and np.isnan(enhancing[other]).all()
    assert (core[165:] == 0).all() and (enhancing[165:] == 0).all()
    near = ndi.binary_dilation(lesion, iterations=10) & ~lesion  # 5 mm are 10 pixels of .5 mm
    assert (core[near] == 0).all() and (enhancing[near] == 0).all()


@pytest.mark.parametrize(
    "stem",
    ["P-0_mask_Lens_L", "P-0_mask_OpticChiasm", "P-0_mask_lt-opt-nrv", "P-0_mask_Brain_stem", "P-0_mask_L-cavity",
     "P-1_mask_rt-frontal-margin", "P-2_mask_Plan1_TgtC_180Gy80"],
)  # fmt: skip
def test_a_mask_of_an_organ_a_target_or_what_surgery_left_is_no_lesion(tmp_path, stem):
    write_lesion_slice(tmp_path)
    write_lesion_slice(tmp_path, stem)
    write_lesion_slice(tmp_path, "P-3_mask_Rbrainstem")
    assert lesion_names(tmp_path) == {"BCBM-9-0_mask_R-frontal": "BCBM-9", "P-3_mask_Rbrainstem": "P"}


def test_a_mask_of_what_does_not_stand_out_or_lies_outside_the_brain_is_no_lesion(tmp_path):
    write_lesion_slice(tmp_path)
    write_lesion_slice(tmp_path, "P-0_mask_L-frontal", value=105)
    write_lesion_slice(tmp_path, "P-0_mask_R-frontal")
    outside = np.zeros((512, 512), np.uint8)
    outside[95:105, 200:210] = 255  # half of it
    Image.fromarray(outside).save(tmp_path / "labelcol" / "P-0_mask_R-frontal_mask.png")
    assert list(lesion_names(tmp_path)) == ["BCBM-9-0_mask_R-frontal"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dims": 3}, "teach a 3D network nothing"),
        ({"dims": 2, "modalities": ("flair", "t1")}, "are t1c, which the recipe does not see"),
        ({"dims": 2, "missing": 0.0}, "have no t1, t2, flair; train without them, or for missing modalities"),
        ({"dims": 2, "normalise": "all"}, "normalise: all; set it to nonzero"),
    ],
)
def test_a_recipe_that_pictures_cannot_serve_is_refused_with_the_fix(tmp_path, changes, message):
    write_t1c_slice(tmp_path)
    for cases in (t1c_cases, lesion_cases):
        with pytest.raises(UsageError, match=message):
            cases(tmp_path, recipe(**changes), tmp_path / "cache")


def test_a_picture_of_another_size_or_without_its_mask_is_refused_with_its_name(tmp_path):
    write_t1c_slice(tmp_path)
    (mask,) = tmp_path.glob("labelcol/*.png")
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(mask)
    with pytest.raises(InputError, match=r"_seg.png: has 8 x 8 pixels, not 224 x 224"):
        t1c_cases(tmp_path, recipe(dims=2), tmp_path / "cache")
    write_lesion_slice(tmp_path / "lesions")
    next(tmp_path.glob("lesions/labelcol/*.png")).unlink()
    with pytest.raises(InputError, match=r"_mask.png: is not there"):
        lesion_names(tmp_path / "lesions")


# Heads with skull.

FRONT_LEFT = (slice(70, 90), slice(140, 160))
"""Of a picture of a head: rows run to the posterior, columns to the left."""


def head_picture() -> np.ndarray:
    """Air, scalp, skull, brain, and a ventricle, in discs of radius 90, 80, 72 and 8 pixels about (128, 128)."""
    rows, columns = np.mgrid[:256, :256]
    radius = np.hypot(rows - 128, columns - 128)
    picture = np.select([radius < 8, radius < 72, radius < 80, radius < 90], [10, 100, 4, 200], 1)
    return np.repeat(picture[..., None], 3, axis=2).astype(np.uint8)


def write_heads(folder: Path, patient: str = "TCGA_DU_0001_19990101", copies: bool = False) -> None:
    """Six slices: a tumour on T1, FLAIR and T1c of 60, 150 and 90 at the front left, brighter with each slice; the last
    is air."""
    (folder / patient).mkdir(parents=True)
    for number in range(1, 7):
        picture, mask = head_picture(), np.zeros((256, 256), np.uint8)
        picture[FRONT_LEFT] = np.array([60, 150, 90]) + number
        mask[FRONT_LEFT] = 255
        if number == 6:
            picture[:], mask[:] = 1, 0
        if copies:
            picture[..., 2] = picture[..., 1]
        Image.fromarray(picture).save(folder / patient / f"{patient}_{number}.tif")
        Image.fromarray(mask).save(folder / patient / f"{patient}_{number}_mask.tif")


def test_a_head_becomes_a_brain_that_stands_upright_with_its_whole_tumour_known(tmp_path):
    write_heads(tmp_path)
    (case,) = head_cases(tmp_path, recipe((None,) * 3, dims=2), tmp_path / "cache")
    assert (case.name, case.patient, case.apart) == ("TCGA_DU_0001_19990101", "TCGA_DU_0001", True)
    t1, t1c, t2, flair, whole, *others = case.voxels[..., :].astype(float)
    side, front, n = t1.shape
    assert n == 5  # that of air shows no brain
    assert 143 <= side <= 160 and 143 <= front <= 160  # twice 72 pixels, and at most the skull, twice 80
    assert not t2.any() and np.isnan(others).all() and not np.isnan(whole).any()
    # To the right and to the front: 58 to 38 pixels before the middle, 12 to 32 to the left of it.
    places = np.argwhere(whole[..., 0] == 1)
    assert len(places) == 400
    np.testing.assert_allclose(places.mean(axis=0) - (np.array([side, front]) - 1) / 2, [-21.5, 48.5], atol=1.5)
    assert (flair[places[:, 0], places[:, 1], 0] > 1).all() and (t1[places[:, 0], places[:, 1], 0] < 0).all()
    for image in (t1, t1c, flair):  # over all slices together, not each by itself
        assert abs(image[image != 0].mean()) < 0.01 and image[image != 0].std() == pytest.approx(1, abs=0.01)
    means = [flair[..., k][whole[..., k] == 1].mean() for k in range(n)]
    assert means == sorted(means) and means[0] < means[-1]


def test_a_heads_tumour_keeps_its_area_at_another_spacing(tmp_path):
    write_heads(tmp_path)
    (case,) = head_cases(tmp_path, recipe((2.0, 2.0, 2.0), dims=2), tmp_path / "cache")
    area = case.voxels[4].astype(float).sum(axis=(0, 1)) * 4
    np.testing.assert_allclose(area, 400 * HEAD_PIXEL_MM**2, rtol=0.02)


def test_what_a_head_has_as_a_copy_of_flair_is_missing(tmp_path):
    write_heads(tmp_path, copies=True)
    (case,) = head_cases(tmp_path, recipe(dims=2), tmp_path / "cache")
    assert [bool(image.any()) for image in case.voxels[:4]] == [True, False, False, True]


def test_slices_without_a_brain_are_refused_with_their_folder(tmp_path):
    write_heads(tmp_path)
    for number in range(1, 7):
        name = tmp_path / "TCGA_DU_0001_19990101" / f"TCGA_DU_0001_19990101_{number}.tif"
        flat = np.broadcast_to(np.arange(100, 356)[:, None, None] // 2, (256, 256, 3))  # no edge
        Image.fromarray(flat.astype(np.uint8)).save(name)
    with pytest.raises(InputError, match="TCGA_DU_0001_19990101: no slice shows a brain .*; leave the patient out"):
        head_cases(tmp_path, recipe(dims=2), tmp_path / "cache")


def test_a_head_whose_site_may_hold_a_patient_who_is_held_back_is_not_learnt_from(tmp_path, caplog):
    for patient in ("TCGA_CS_4941_19960909", "TCGA_CS_4942_19970222", "TCGA_DU_0001_19990101"):
        write_heads(tmp_path, patient)
    # BraTS2021_01478 is BraTS20_Training_273, of site CS.
    ((_, source, kept),) = plan.further_cases([f"{tmp_path}:head"], ["BraTS2021_01478"])
    assert (source.kind, kept) == ("head", ["TCGA_DU_0001_19990101"])
    assert "held back, not learnt from: TCGA_CS_4941_19960909, TCGA_CS_4942_19970222" in caplog.text
    ((_, _, kept),) = plan.further_cases([f"{tmp_path}:head"], ["BraTS20_Training_305"])
    assert kept == ["TCGA_CS_4941_19960909", "TCGA_CS_4942_19970222"]


# Volumes.


def write_volume(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([-1.0, -1.0, 1.0, 1.0])), path)


def head(value: int) -> np.ndarray:
    brain = np.zeros((20, 20, 20), np.int16)
    brain[2:18, 2:18, 2:18] = value
    brain[2:10, 2:18, 2:18] += 50
    return brain


def write_silver(folder: Path, patient: str = "TCGA-DU-7294", tokens: Any = ("t1", "t1c", "t2", "fla")) -> None:
    """Five masks of oedema with an enhancing block; in one of them it is necrotic, and in another there is none."""
    for token in tokens:
        write_volume(folder / patient / "raw_bet" / f"x_{token}_bet.nii.gz", head(100))
    for number in range(5):
        labels = np.zeros((20, 20, 20), np.uint8)
        labels[6:12, 6:12, 6:12] = 2
        labels[8:10, 8:10, 8:10] = {0: 1, 1: 2}.get(number, 4)
        write_volume(folder / patient / "segmentation" / f"team{number}-20.nii.gz", labels)
    write_volume(folder / patient / "fusion" / "mav.nii.gz", labels)


def write_tumour_free(folder: Path) -> None:
    for token in ("T1", "T1POST", "T2", "FLAIR"):
        stem = f"{token}_N4_noneck_reduced_winsor_regtoFLAIR_brain_N4_regtoMNI"
        write_volume(folder / "patient07" / f"{stem}.nii.gz", head(200))
    lesions = np.zeros((20, 20, 20), np.uint8)
    lesions[9, 9, 9] = 1
    name = "GOLD_STANDARD_N4_noneck_reduced_winsor_regtoFLAIR_regtoMNI.nii.gz"
    write_volume(folder / "patient07" / name, lesions)


def test_silver_shares_are_the_means_of_the_masks(tmp_path):
    write_silver(tmp_path)
    (case,) = silver_cases(tmp_path, recipe((1.0, 1.0, 1.0)), tmp_path / "cache")
    assert (case.name, case.patient) == ("TCGA-DU-7294", "BraTS20_Training_295")
    assert case.voxels.shape == (8, 16, 16, 16)  # cropped to the brain, LPS to RAS
    block = (slice(None), slice(8, 10), slice(8, 10), slice(6, 8))
    np.testing.assert_allclose(case.voxels[4:7].astype(float).sum(axis=(1, 2, 3)), [216, 8 * 0.8, 8 * 0.6], rtol=1e-3)
    np.testing.assert_allclose(case.voxels[block][5:7], [np.full((2, 2, 2), 0.8), np.full((2, 2, 2), 0.6)], rtol=1e-3)
    assert not np.isnan(case.voxels[4:7]).any() and np.isnan(case.voxels[7]).all()


def test_a_silver_patient_who_lacks_what_the_recipe_needs_is_refused_with_the_fix(tmp_path):
    write_silver(tmp_path, tokens=("t1", "t1c", "fla"))
    with pytest.raises(InputError, match="TCGA-DU-7294: no t2 image; add it"):
        silver_cases(tmp_path, recipe(missing=0.0), tmp_path / "cache")
    for mask in tmp_path.glob("*/segmentation/*"):
        mask.unlink()
    with pytest.raises(InputError, match=r"holds no segmentation/\*.nii.gz; leave the patient out"):
        silver_cases(tmp_path, recipe(), tmp_path / "cache")


def test_in_a_tumour_free_patient_every_region_is_known_and_empty_and_other_lesions_are_not_read(tmp_path):
    write_tumour_free(tmp_path)
    (case,) = tumour_free_cases(tmp_path, recipe((1.0, 1.0, 1.0)), tmp_path / "cache")
    assert case.voxels[:4].any(axis=(1, 2, 3)).all() and not case.voxels[4:].any()
    assert list(case.centres) == ["brain"]
    assert source_of(tmp_path)[1].kind == "patient"  # that there is no tumour is for the user to say
    assert source_of(f"{tmp_path}:tumour-free")[1].kind == "tumour-free"


# What holds for every kind.


def write_patient(folder: Path) -> None:
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[8:12, 8:12, 8:12] = 3
    labels[6:8, 6:8, 6:8] = 2
    labels[9, 9, 9] = 1
    for token in ("t1n", "t1c", "t2w", "t2f"):
        write_volume(folder / "BraTS-GLI-00009-000" / f"BraTS-GLI-00009-000-{token}.nii.gz", head(100))
    write_volume(folder / "BraTS-GLI-00009-000" / "BraTS-GLI-00009-000-seg.nii.gz", labels)


def write_slice(folder: Path) -> None:
    h5py = pytest.importorskip("h5py")
    folder.mkdir(parents=True)
    pixels, mask = np.full((240, 240, 4), -1.0, np.float32), np.zeros((240, 240, 3), np.uint8)
    pixels[60:180, 60:180] = 1.0
    pixels[60:120, 60:180] = 2.0
    mask[80:100, 80:100, 1] = 1
    with h5py.File(folder / "volume_1_slice_70.h5", "w") as file:
        file["image"], file["mask"] = pixels, mask


def write_cube_folder(folder: Path) -> None:
    folder.mkdir(parents=True)
    write_cube(folder / "BraTS20_Training_001.npz")


WRITERS = {
    "cube": write_cube_folder,
    "slice": write_slice,
    "t1c-slice": write_t1c_slice,
    "lesion-slice": write_lesion_slice,
    "silver": write_silver,
    "tumour-free": write_tumour_free,
    "head": write_heads,
    "patient": write_patient,
}
UNTOLD = {"t1c-slice": [5, 6, 7], "head": [5, 6, 7], "tumour-free": []}
"""Channels of the shares that a kind does not tell anywhere; of the others it is the cavity alone."""


@pytest.mark.parametrize("kind", SOURCES)
def test_every_kind_keeps_what_a_source_promises(tmp_path, kind):
    folder, cache, source = tmp_path / "folder", tmp_path / "cache", SOURCES[kind]
    WRITERS[kind](folder)
    config = recipe(dims=2 if kind.endswith(("slice", "head")) else 3)
    names = dict(source.names(folder))
    assert names and all(isinstance(patient, str) and patient for patient in names.values())
    if kind not in ("tumour-free", "head"):
        assert source_of(folder)[1] is source
    cases = source.cases(folder, config, cache, names=list(names))
    assert [(case.name, case.patient, case.kind) for case in cases] == [(n, p, kind) for n, p in names.items()]
    for case in cases:
        images, shares = case.voxels[: case.n_images], case.voxels[case.n_images :]
        assert case.voxels.dtype == np.float16 and (len(images), len(shares)) == (4, 4)
        assert np.isfinite(images).all() and images.any()
        background = ~images.any(axis=0)
        assert abs(float(images[1][~background].astype(float).mean())) < 0.2 or kind == "cube"
        known = ~np.isnan(shares)
        assert ((shares[known] >= 0) & (shares[known] <= 1)).all()
        untold = [index for index in range(4, 8) if np.isnan(case.voxels[index]).all()]
        assert untold == UNTOLD.get(kind, [7])
        with pytest.raises(ValueError, match="read-only"):
            case.voxels[0, 0, 0, 0] = 1
    assert source.cases(folder, config, cache, names=[]) == []
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}
    again = source.cases(folder, config, cache, names=list(names))
    assert before == {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}
    np.testing.assert_array_equal(again[0].voxels, cases[0].voxels)


@pytest.mark.parametrize("kind", SOURCES)
def test_an_empty_folder_is_refused_by_every_kind_in_a_sentence_with_the_fix(tmp_path, kind):
    config = recipe(dims=2 if kind.endswith(("slice", "head")) else 3)
    with pytest.raises(UsageError, match=r"holds no .*; give"):
        SOURCES[kind].cases(tmp_path, config, tmp_path / "cache", names=["a"])


def test_synthetic_patients_take_real_shapes_of_those_alone_who_may_be_learnt_from(tmp_path, monkeypatch):
    names = [f"BraTS20_Training_00{number}" for number in (1, 2, 3)]
    for name in names:
        write_cube(tmp_path / f"{name}.npz")
    sampling = {"phantom_share": 0.5, "phantoms": 40, "phantom_shapes": "real", "extra_share": 0.5}
    config = recipe()
    settings = config.model_dump(mode="json")
    settings["training"]["sampling"] |= sampling
    taken: list[str] = []

    def spy(seeds: Any, *_: Any, shape_of: Any, **__: Any) -> list[Any]:
        taken.extend(shape_of(seed).path.stem for seed in seeds)
        return []

    monkeypatch.setattr("pipeline.training.sources.phantoms.phantom_cases", spy)
    options = TrainOptions(cache=tmp_path / "cache", leave_out=names[1:2])
    held_back = [(tmp_path, SOURCES["cube"], names[:2])]  # the third is validated on
    plan.patches_of([], held_back, parse_config(settings, "test"), tmp_path, options)
    assert len(taken) == 40 and set(taken) == {names[0]}
    with pytest.raises(UsageError, match="phantom_shapes is real"):
        plan.patches_of([], [], parse_config(settings, "test"), tmp_path, options)


def test_a_recipe_can_weigh_every_kind_of_folder_and_no_other():
    assert set(get_args(ExtraKind)) == set(SOURCES)
