"""What no single voxel tells: one image under two names, a head with its skull, a box that holds no brain."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from data.find.discover import discover_cases
from data.grid import Grid
from data.io.header import ImageHeader
from data.io.read import read_volume
from data.phantom.patient import draw_patient, make_phantom
from data.plausibility import expects_brain_alone, impression, patient_doubts
from data.references import reference_doubts
from pipeline.inspect import inspect_cases
from tests.conftest import make_phantom_slice
from transforms.preprocess import preprocess_chain, run_chain

RNG = np.random.default_rng(0)
SHAPE = (60, 70, 60)  # voxels of 3 mm: 180 x 210 x 180 mm


def header(name: str, grid: Grid) -> ImageHeader:
    return ImageHeader(
        path=Path(f"{name}.nii.gz"),
        grid=grid,
        dtype="int16",
        channels=1,
        sform_code=1,
        qform_code=1,
        qform=None,
        xyzt_units=2,
    )


def grid_of(shape: tuple[int, ...] = SHAPE, mm: float = 3.0, spacing_known: bool = True) -> Grid:
    return Grid(shape, np.diag([-mm, -mm, mm, 1.0]), spacing_known)  # type: ignore[arg-type]


def ellipsoid(semi_axes_mm: tuple[float, ...], shape: tuple[int, ...] = SHAPE, mm: float = 3.0) -> np.ndarray:
    """1 in an ellipsoid around the middle: volume 4 pi / 3 abc, pi / 6 of its box."""
    axes = np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * mm for n in shape], indexing="ij")
    return sum((x / semi) ** 2 for x, semi in zip(axes, semi_axes_mm, strict=True)) <= 1


BRAIN = ellipsoid((66, 84, 66))  # 1533 ml, as the real patients here


def texture(inside: np.ndarray, seed: int = 0) -> np.ndarray:
    return np.where(inside, np.random.default_rng(seed).integers(1, 1000, inside.shape), 0).astype(np.float32)


def doubts_of(*arrays: np.ndarray, grid: Grid | None = None, skull_stripped: bool = True) -> list[str]:
    grids = grid or grid_of(arrays[0].shape)
    named = zip(("t1", "t1c", "t2", "flair"), arrays, strict=False)
    return patient_doubts({name: (array, header(name, grids)) for name, array in named}, skull_stripped=skull_stripped)


# -------------------------------------------------------------------------------- one image under two names


def test_different_images_of_a_brain_give_no_doubt() -> None:
    assert doubts_of(*(texture(BRAIN, seed) for seed in range(4))) == []
    assert patient_doubts({}, skull_stripped=True) == []


@pytest.mark.parametrize("stripped", [True, False])
def test_equal_voxels_are_told_once_with_both_names(stripped) -> None:
    t1, t2 = texture(BRAIN), texture(BRAIN, 1)
    (sentence,) = doubts_of(t1, t2, t1.copy(), skull_stripped=stripped)
    assert "t1 (t1.nii.gz) and t2 (t2.nii.gz) show the same image" in sentence and "t1c" not in sentence


def test_three_equal_images_are_one_sentence() -> None:
    (sentence,) = doubts_of(*[texture(BRAIN)] * 3)
    assert all(f"{name}.nii.gz" in sentence for name in ("t1", "t1c", "t2"))


@pytest.mark.parametrize(
    "stored",
    [
        lambda a: 3.7 * a,
        lambda a: np.where(a != 0, 0.01 * a + 5, 0),
        lambda a: np.round(a / a.max() * 127),  # int8 with a slope
        lambda a: a.astype(np.float16),
    ],
)
def test_scaling_and_rounding_do_not_hide_that_an_image_is_there_twice(stored) -> None:
    (sentence,) = doubts_of(texture(BRAIN), stored(texture(BRAIN)).astype(np.float32))
    assert "same image" in sentence


def test_another_storage_order_does_not_hide_it_either() -> None:
    t1, grid = texture(BRAIN), grid_of()
    turned = grid.reoriented("ASR")
    other = nib.orientations.apply_orientation(t1, grid.orientation_to("ASR")).astype(np.float32)
    images = {"t1": (t1, header("t1", grid)), "flair": (other, header("flair", turned))}
    (sentence,) = patient_doubts(images, skull_stripped=True)
    assert "t1.nii.gz" in sentence and "flair.nii.gz" in sentence


def test_images_that_are_only_alike_are_not_taken_for_one() -> None:
    t1 = texture(BRAIN)
    alike = np.where(BRAIN, t1 + RNG.normal(0, 60, t1.shape), 0).astype(np.float32)  # correlation 0.98
    assert doubts_of(t1, alike) == []


def test_two_masks_or_a_few_voxels_are_one_image_only_where_they_are_equal() -> None:
    few = np.zeros(SHAPE, np.float32)
    few[30, 30, 30:34] = [1, 2, 3, 4]
    # Four points on a line prove nothing; nor does what has one value inside.
    assert not any("same image" in text for text in doubts_of(few, 2 * few))
    assert any("same image" in text for text in doubts_of(few, few.copy()))
    masks = doubts_of(BRAIN.astype(np.float32), np.where(ellipsoid((60, 80, 60)), 1, 0).astype(np.float32))
    assert len(masks) == 2 and all("as in a mask" in text for text in masks)  # each, and not as one image


@pytest.mark.parametrize(
    ("part", "word"), [(0.2, ""), (0.45, ""), (0.55, "no brain mask"), (1.0, "no brain mask"), (0.0, "")]
)
def test_a_reference_that_marks_more_than_half_of_the_brain_is_doubted(part: float, word: str) -> None:
    voxels = np.argwhere(BRAIN)
    whole = np.zeros_like(BRAIN)
    whole[tuple(voxels[: int(part * len(voxels))].T)] = True
    found = reference_doubts("seg.nii.gz", whole, BRAIN)
    assert len(found) == bool(word) and all(word in text and "seg.nii.gz" in text for text in found)


def test_a_reference_of_which_a_tenth_lies_in_the_air_is_doubted() -> None:
    shown = np.ones((10, 10, 40), bool)
    shown[..., 20:] = False
    whole = np.zeros_like(shown)
    whole[0, :, 11:20] = True
    for columns, doubted in ((1, False), (2, True)):  # 10 of 100 voxels, 20 of 110
        whole[0, :, 20 : 20 + columns] = True
        found = reference_doubts("seg.nii.gz", whole, shown)
        assert bool(found) is doubted and all("where the image is 0" in text for text in found)


def test_an_image_whose_values_are_negative_or_one_value_is_doubted_and_a_z_scored_one_is_not() -> None:
    image = texture(BRAIN)
    centred = np.where(BRAIN, image - image[BRAIN].mean(), 0).astype(np.float32)
    assert doubts_of(centred) == []
    assert "negative" in doubts_of(-np.abs(image))[0]
    nearly = BRAIN.astype(np.float32)
    nearly[tuple(np.argwhere(BRAIN)[:20].T)] = 5
    assert "as in a mask" in doubts_of(nearly)[0]


def test_images_of_other_shapes_are_not_compared() -> None:
    images = {
        "t1": (texture(BRAIN), header("t1", grid_of())),
        "t2": (texture(BRAIN)[:-1], header("t2", grid_of((59, 70, 60)))),
    }
    assert patient_doubts(images, skull_stripped=True) == []


def test_images_that_lie_apart_on_one_grid_are_told() -> None:
    shape = (120, 70, 60)
    brain = ellipsoid((60, 84, 66), shape)
    left, right = np.roll(brain, -25, axis=0), np.roll(brain, 25, axis=0)  # 150 mm apart, each 120 mm wide
    (sentence,) = doubts_of(texture(left), texture(right, 1))
    assert "t1c.nii.gz and t1.nii.gz" in sentence and "0 %" in sentence


# -------------------------------------------------------------------------------- what is no brain


def test_air_that_is_not_zero_is_a_head_with_its_skull_and_only_where_a_brain_is_expected() -> None:
    head = np.where(BRAIN, texture(BRAIN), RNG.integers(1, 20, SHAPE)).astype(np.float32)
    other = np.where(BRAIN, texture(BRAIN, 1), RNG.integers(1, 20, SHAPE)).astype(np.float32)
    unknown = grid_of(spacing_known=False)  # the share of blank voxels needs no voxel size
    for grid in (grid_of(), unknown):
        (sentence,) = doubts_of(head, other, grid=grid)
        assert "t1.nii.gz (and t1c.nii.gz)" in sentence and "skull-stripped" in sentence
        assert "0 % of its voxels are 0" in sentence and "100 %" in sentence
        assert doubts_of(head, other, grid=grid, skull_stripped=False) == []


def test_only_the_modality_that_has_its_skull_is_named() -> None:
    noisy = np.where(BRAIN, texture(BRAIN, 1), 7).astype(np.float32)
    (sentence,) = doubts_of(texture(BRAIN), noisy)
    assert sentence.startswith("t1c.nii.gz: ")


def test_a_head_whose_air_is_zero_is_too_large_for_a_brain() -> None:
    head = ellipsoid((85, 104, 88))  # 4 pi / 3 abc = 3258 ml
    (sentence,) = doubts_of(texture(head))
    assert "too large" in sentence
    volume = float(sentence.split("other than 0 are ")[1].split(" ml")[0])
    assert volume == pytest.approx(4 / 3 * np.pi * 85 * 104 * 88 / 1000, rel=0.02)


@pytest.mark.parametrize(("mm", "words"), [(6.0, "too large"), (1.5, "too small")])
def test_a_wrong_voxel_size_is_told_by_the_size_of_the_brain(mm, words) -> None:
    (sentence,) = doubts_of(texture(BRAIN), grid=grid_of(mm=mm))
    assert words in sentence and "voxel size" in sentence
    assert doubts_of(texture(BRAIN), grid=grid_of(mm=mm, spacing_known=False)) == []


def test_voxels_left_over_far_from_the_brain_are_told_by_their_box() -> None:
    shape = (100, 100, 100)
    stray = texture(ellipsoid((66, 84, 66), shape))
    stray[0, 0, 0] = stray[-1, -1, -1] = 5  # 1533 ml in a box of 27000
    (sentence,) = doubts_of(stray)
    assert "fill only 5.7 %" in sentence


def test_a_flat_slab_of_a_brain_is_told_though_its_volume_is_not_too_small() -> None:
    slab = texture(BRAIN)
    slab[:, :, :21], slab[:, :, 39:] = 0, 0  # 54 mm of a brain 132 mm high, about 800 ml
    (sentence,) = doubts_of(slab)
    assert "flatter than 60 mm" in sentence and "54 mm" in sentence


def test_an_image_that_lacks_half_of_the_brain_that_the_others_show_is_told() -> None:
    half = texture(BRAIN, 1)
    half[:, :, 30:] = 0
    (sentence,) = doubts_of(texture(BRAIN), half, texture(BRAIN, 2))
    assert sentence.startswith("t1c.nii.gz is 0 where t1.nii.gz is not: it covers only 50 %")
    assert doubts_of(texture(BRAIN), half, skull_stripped=False) == []


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SAL"])
@pytest.mark.parametrize("thickness", [1, 2])
def test_a_scan_of_a_part_of_the_brain_is_told_on_a_grid_of_its_own(codes, thickness) -> None:
    """Slices up to the middle of an ellipsoid show half of it, whatever their thickness and order of axes."""
    whole, part = texture(BRAIN), texture(BRAIN, 1)[:, :, :30:thickness]
    grid = grid_of()
    thicker = grid.affine @ np.diag([1.0, 1.0, thickness, 1.0])
    slab = Grid(part.shape, thicker)
    images = {
        "t1": (whole, header("t1", grid)),
        "flair": (slab.turn(part, codes), header("flair", slab.reoriented(codes))),
    }
    (sentence,) = patient_doubts(images, skull_stripped=True)
    share = int(re.search("covers only ([0-9]+) %", sentence)[1])
    assert sentence.startswith("flair.nii.gz is 0 where t1.nii.gz is not") and abs(share - 50) <= 2


def test_a_scan_of_thick_slices_that_shows_the_whole_brain_is_no_doubt() -> None:
    whole, thick = texture(BRAIN), texture(BRAIN, 1)[:, :, ::4]
    slab = Grid(thick.shape, grid_of().affine @ np.diag([1.0, 1.0, 4, 1.0]))
    images = {"t1": (whole, header("t1", grid_of())), "flair": (thick, header("flair", slab))}
    assert patient_doubts(images, skull_stripped=True) == []


def test_one_slice_has_no_volume() -> None:
    disc = ellipsoid((66, 84, 66))[:, :, 30:31]  # pi / 4 of its box
    assert doubts_of(texture(disc), grid=grid_of((60, 70, 1))) == []
    (sentence,) = doubts_of(texture(np.ones_like(disc)), grid=grid_of((60, 70, 1)))
    assert "skull" in sentence


def test_a_needle_of_voxels_is_no_slice() -> None:
    (sentence,) = doubts_of(RNG.integers(1, 99, (1, 24, 1)).astype(np.float32), grid=grid_of((1, 24, 1), 10.0))
    assert "too small" in sentence and "10 x 240 x 10 mm" in sentence


def test_the_box_and_count_of_an_impression_are_those_of_its_voxels() -> None:
    array = np.zeros((9, 8, 7), np.float32)
    array[2:5, 1, 3:7], array[4, 6, 3] = 1, -1
    seen = impression(array, header("x", grid_of((9, 8, 7))))
    assert (seen.count, seen.box) == (13, (3, 6, 4)) and seen.filled == 13 / 72
    empty = impression(0 * array, header("x", grid_of((9, 8, 7))))
    assert (empty.count, empty.box, empty.filled) == (0, (0, 0, 0), 0.0)


def test_zero_means_outside_the_brain_only_for_models_that_crop_by_it_and_do_not_blank_the_air() -> None:
    assert expects_brain_alone("nonzero", False)
    assert not expects_brain_alone("nonzero", True) and not expects_brain_alone("none", False)


# -------------------------------------------------------------------------------- phantoms and real patients


def test_phantoms_give_no_doubt() -> None:
    phantoms = [make_phantom(seed, shape=(40, 48, 32), spacing_mm=(5.0,) * 3) for seed in range(3)]
    contrasts: Any = ("mri", "random")
    phantoms += [draw_patient(seed, 4.0, contrast=contrast) for seed in (4, 5) for contrast in contrasts]
    phantoms += [make_phantom_slice(6, shape=(60, 60), spacing_mm=(4.0, 4.0))]
    for phantom in phantoms:
        images = {name: (image, header(name, phantom.grid)) for name, image in phantom.images.items()}
        assert patient_doubts(images, skull_stripped=True) == []


def test_real_brains_give_no_doubt_and_cost_a_twentieth_of_a_second_each(real_patients) -> None:
    for case in discover_cases(real_patients):
        volumes = {name: read_volume(source) for name, source in case.images.items()}
        images = {name: (volume.array, volume.header) for name, volume in volumes.items()}
        begin = time.process_time()
        assert patient_doubts(images, skull_stripped=True) == []  # type: ignore[arg-type]
        assert time.process_time() - begin < 0.05 * len(images)


def test_a_real_head_with_its_skull_is_told_from_a_brain(real_slices) -> None:
    (case,) = discover_cases(real_slices)
    volumes = {name: read_volume(source) for name, source in case.images.items()}
    images = {name: (volume.array, volume.header) for name, volume in volumes.items()}
    (sentence,) = patient_doubts(images, skull_stripped=True)  # type: ignore[arg-type]
    assert "as in a head with its skull" in sentence
    assert patient_doubts(images, skull_stripped=False) == []  # type: ignore[arg-type]


# -------------------------------------------------------------------------------- where the sentences go


@pytest.fixture
def doubled(phantoms, tmp_path) -> Path:
    """A patient whose T2 is a copy of its T1."""
    patient = sorted(phantoms.iterdir())[0]
    copy = tmp_path / "in" / patient.name
    shutil.copytree(patient, copy)
    shutil.copy(copy / f"{patient.name}-t1n.nii.gz", copy / f"{patient.name}-t2w.nii.gz")
    return copy


def test_the_chain_warns_as_inspect_does_and_the_image_is_made_all_the_same(doubled) -> None:
    (case,) = discover_cases(doubled.parent)
    prepared = run_chain(preprocess_chain(("t1", "t1c", "t2", "flair"), spacing_mm=(5.0,) * 3), case.images)
    (sentence,) = prepared["warnings"]
    assert "same image" in sentence and prepared["image"].shape[0] == 4
    (row,) = inspect_cases(doubled.parent, full=True)
    assert (row["status"], row["warnings"], row["problems"]) == ("warn", [sentence], [])


def test_strict_makes_every_warning_a_problem(doubled) -> None:
    (row,) = inspect_cases(doubled.parent, full=True, strict=True)
    assert row["status"] == "error" and row["warnings"] == [] and "same image" in row["problems"][0]
    json.dumps(row)


def test_a_patient_without_doubts_is_fine_under_strict_too(phantoms) -> None:
    assert {row["status"] for row in inspect_cases(phantoms, full=True, strict=True)} == {"ok"}


def test_the_limit_of_voxels_holds_for_headers_and_for_voxels(phantoms) -> None:
    for full in (False, True):
        row = inspect_cases(phantoms, full=full, max_voxels=1000)[0]
        assert row["status"] == "error" and "over the limit of 1000" in row["problems"][0]


def test_inspect_says_which_image_the_model_will_miss(doubled) -> None:
    (doubled / f"{doubled.name}-t2w.nii.gz").unlink()
    (row,) = inspect_cases(doubled.parent)
    assert row["status"] == "warn" and "no t2 image" in row["warnings"][0] and row["missing"] == ["t2"]


def test_inspect_misses_no_image_that_the_model_does_not_need(tmp_path) -> None:
    """The model of LGG slices reads T1, FLAIR and T1c, the bands of its pictures."""
    bands = np.random.default_rng(0).integers(1, 255, (64, 64, 3), dtype=np.uint8)
    for number in (1, 2):
        Image.fromarray(bands).save(tmp_path / f"TCGA_CS_4941_19960909_{number}.tif")
    (row,) = inspect_cases(tmp_path)
    assert row["missing"] == [] and not any("t2" in text for text in row["warnings"])


def test_inspect_names_labels_that_a_chosen_convention_does_not_know(doubled) -> None:
    path = next(doubled.glob("*-seg.nii.gz"))
    image = nib.load(path)
    label_map = np.asarray(image.dataobj).copy()  # type: ignore[attr-defined]
    label_map[20, 20, 15] = 9
    written: Any = nib.Nifti1Image(label_map, image.affine, image.header)
    path.write_bytes(gzip.compress(written.to_bytes()))
    (row,) = inspect_cases(doubled.parent, full=True, convention="brats2023")
    assert any("holds the label 9, which brats2023 does not know" in text for text in row["warnings"])
