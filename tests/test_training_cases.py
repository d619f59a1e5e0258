"""What is learnt from: the tensor that the predictor sees, and the share of each coarse voxel that a region fills."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

import data.phantom
from data.errors import InputError, UsageError
from data.find.discover import discover_cases
from data.phantom.patient import draw_patient
from pipeline.config import RunConfig, parse_config
from pipeline.training import cases as training_cases
from pipeline.training.cached import MAX_CENTRES
from pipeline.training.cases import patient_cases
from pipeline.training.sources.cubes import CUBE_SPACING_MM
from pipeline.training.sources.phantoms import phantom_cases, phantom_digests
from pipeline.training.sources.slice_files import slice_cases
from pipeline.training.sources.tumour_shapes import cube_shapes, shape_for
from tests.conftest import read_mask
from transforms.preprocess import preprocess_chain, run_chain

FIRST = "BraTS-GLI-90001-000"
LGG = "TCGA_CS_0001_19990101"
MODALITIES = ("t1", "t1c", "t2", "flair")
REGIONS = ("WT", "TC", "ET")


def recipe(
    spacing: float | None = 5.0,
    *,
    modalities=MODALITIES,
    regions=REGIONS,
    dims: int = 3,
    missing: float = 0.0,
    **training,
) -> RunConfig:
    return parse_config(
        {
            "name": "tiny",
            "modalities": modalities,
            "regions": regions,
            "convention": "brats2024-gli" if "RC" in regions else "brats2023",
            "network": {
                "architecture": "attention_unet",
                "spatial_dims": dims,
                "in_channels": len(modalities),
                "out_channels": len(regions),
                "channels": (4, 8),
            },
            "preprocess": {"spacing_mm": (spacing, spacing, None if dims == 2 else spacing)},
            "window": {"size": (16,) * dims},
            "augment": {"missing_modality": missing},
            "training": {"patch": (16,) * dims, **training},
        },
        "test",
    )


@pytest.fixture
def patient(phantoms, tmp_path) -> Path:
    """The folder of a data set with one phantom patient, whose files may be changed."""
    shutil.copytree(phantoms / FIRST, tmp_path / "set" / FIRST)
    return tmp_path / "set"


@pytest.fixture
def lgg_patient(tmp_path) -> Path:
    """A data set of one patient of three colour slices, 32 x 32, with a tumour of 4 x 6 pixels in the second."""
    folder = tmp_path / "kaggle_3m" / LGG
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in (1, 2, 3):
        pixels = np.zeros((32, 32, 3), np.uint8)
        pixels[4:28, 6:26] = generator.integers(1, 255, (24, 20, 3))
        mask = np.zeros((32, 32), np.uint8)
        if number == 2:
            mask[10:14, 10:16] = 255
        Image.fromarray(pixels).save(folder / f"{LGG}_{number}.tif")
        Image.fromarray(mask).save(folder / f"{LGG}_{number}_mask.tif")
    return tmp_path / "kaggle_3m"


def voxels_in(cache: Path) -> list[Path]:
    """The cached cases, without the labels that are kept to choose a convention."""
    return sorted(path for path in cache.iterdir() if ".labels" not in path.name)


# What a case is


def told(case):
    """For each region, whether it is known in all of the volume; it is nowhere if not."""
    unknown = np.isnan(case.voxels[case.n_images :]).reshape(len(case.voxels) - case.n_images, -1)
    assert (unknown.all(axis=1) | ~unknown.any(axis=1)).all()
    return tuple(bool(known) for known in ~unknown.any(axis=1))


def test_a_patient_is_learnt_from_as_the_predictor_sees_it(phantoms, tmp_path):
    config, case = recipe(), discover_cases(phantoms)[0]
    (learnt,) = patient_cases([case], config, tmp_path)
    seen = run_chain(preprocess_chain(MODALITIES, **config.preprocess.model_dump()), case.images)["image"].numpy()
    assert (learnt.name, learnt.kind, learnt.n_images, learnt.patient) == (
        FIRST,
        "patient",
        4,
        FIRST.rpartition("-")[0],
    )
    assert told(learnt) == (True,) * 3 and learnt.beyond_known and learnt.place is None
    assert learnt.voxels.dtype == np.float16 and learnt.voxels.shape == (7, *seen.shape[1:])
    np.testing.assert_allclose(learnt.voxels[:4].astype(np.float32), seen, atol=4e-3, rtol=1e-3)  # float16
    np.testing.assert_array_equal(learnt.voxels[:4] == 0, seen == 0)  # the background is 0 to the bit


def test_a_coarse_voxel_holds_the_share_that_a_region_fills(phantoms, tmp_path):
    (learnt,) = patient_cases([discover_cases(phantoms)[0]], recipe(spacing=10.0), tmp_path)
    truth = read_mask(phantoms / FIRST / f"{FIRST}-seg.nii.gz")
    shares = learnt.voxels[4].astype(np.float64)
    assert shares.sum() * 1.0 == pytest.approx((truth > 0).sum() * 0.125, rel=0.05)  # ml: voxels of 10 and of 5 mm
    assert shares.min() >= 0 and shares.max() <= 1
    assert len(np.unique(shares)) > 2  # shares, not yes or no


def test_voxels_are_mapped_from_the_cache_and_cannot_be_written_to(phantoms, tmp_path):
    (learnt,) = patient_cases(discover_cases(phantoms)[:1], recipe(), tmp_path)
    assert isinstance(learnt.voxels, np.memmap) and not learnt.voxels.flags.writeable
    assert learnt.voxels[..., 3].flags.c_contiguous  # a slice is one run of the file


def test_centres_are_different_voxels_in_which_the_region_is_present(phantoms, tmp_path):
    (learnt,) = patient_cases(discover_cases(phantoms)[:1], recipe(), tmp_path)
    present = {"brain": (learnt.voxels[:4] != 0).any(axis=0)}
    present |= {region: learnt.voxels[4 + index] > 0 for index, region in enumerate(REGIONS)}
    assert set(learnt.centres) == set(present)
    assert present["brain"].sum() > MAX_CENTRES > present["ET"].sum()
    for name, centres in learnt.centres.items():
        assert centres.dtype == np.int16
        assert len(centres) == len(np.unique(centres, axis=0)) == min(MAX_CENTRES, present[name].sum())
        assert present[name][tuple(centres.T)].all()
    middle = np.argwhere(present["brain"]).mean(axis=0)
    np.testing.assert_allclose(learnt.centres["brain"].mean(axis=0), middle, atol=1.0)  # from all of it, not a corner


def test_centres_depend_on_the_content_alone(phantoms, tmp_path):
    one, two = (patient_cases(discover_cases(phantoms), recipe(), tmp_path / cache) for cache in ("a", "b"))
    for first, second in zip(one, two, strict=True):
        for name in first.centres:
            np.testing.assert_array_equal(first.centres[name], second.centres[name])
    assert not np.array_equal(one[0].centres["brain"], one[1].centres["brain"])


def test_a_region_that_the_references_convention_lacks_is_not_known(lgg_patient, tmp_path):
    config = recipe(None, modalities=("t1", "t1c", "flair"), dims=2)
    (learnt,) = patient_cases(discover_cases(lgg_patient), config, tmp_path / "cache")
    assert told(learnt) == (True, False, False)
    assert learnt.voxels.shape[1:] in ((24, 20, 3), (20, 24, 3))  # cropped to what is not black
    assert learnt.voxels[3].sum() == 4 * 6 and np.isnan(learnt.voxels[4:]).all()
    assert set(learnt.centres) == {"brain", "WT"} and len(learnt.centres["WT"]) == 4 * 6
    assert set(learnt.centres["WT"][:, 2]) == {1}


def rewrite_labels(root: Path, mapping: dict[int, int]) -> None:
    """Give every reference of BraTS 2023 other label values."""
    for path in root.glob("*/*seg*"):
        image = nib.load(path)
        values = np.asarray(image.dataobj)
        changed = np.zeros_like(values)
        for old, new in mapping.items():
            changed[values == old] = new
        nib.save(nib.Nifti1Image(changed, image.affine, image.header), path)


def test_of_a_binary_mask_the_whole_tumour_is_known_and_core_and_enhancing_tumour_are_not(phantoms, patient, tmp_path):
    rewrite_labels(patient, {1: 1, 2: 1, 3: 1})
    cases, config, cache = discover_cases(patient), recipe(), tmp_path / "cache"
    (learnt,) = patient_cases(cases, config, cache, convention="whole-tumour")
    assert told(learnt) == (True, False, False) and np.isnan(learnt.voxels[5:]).all()
    (whole,) = (case for case in patient_cases(discover_cases(phantoms), config, cache) if case.name == FIRST)
    np.testing.assert_array_equal(learnt.voxels[4], whole.voxels[4])
    (core,) = patient_cases(cases, config, cache, convention="brats2024-men-rt")
    assert told(core) == (False, True, False)


def test_a_label_outside_the_convention_is_refused_by_name_and_never_learnt_as_background(patient, tmp_path):
    rewrite_labels(patient, {1: 1, 2: 2, 3: 4})
    cases = discover_cases(patient)
    for convention, label in (("brats2023", "4"), ("whole-tumour", "2, 4")):
        with pytest.raises(
            InputError, match=f"{FIRST}: its reference holds the label {label}, which {convention} does"
        ):
            patient_cases(cases, recipe(), tmp_path / "cache", convention=convention)
    (learnt,) = patient_cases(cases, recipe(), tmp_path / "cache", convention="brats2017")
    assert told(learnt) == (True, True, True)


def test_a_patient_whose_reference_tells_no_region_of_the_recipe_is_refused(lgg_patient, tmp_path):
    config = recipe(None, modalities=("flair",), regions=("ET",), dims=2)
    with pytest.raises(InputError, match=f"{LGG}: its labels .lgg. tell none of the recipe's regions .ET."):
        patient_cases(discover_cases(lgg_patient), config, tmp_path / "cache")


def test_a_missing_modality_is_zeros_where_the_recipe_trains_for_it_and_else_refused(patient, tmp_path):
    (patient / FIRST / f"{FIRST}-t2w.nii.gz").unlink()
    cases = discover_cases(patient)
    with pytest.raises(InputError, match=f"{FIRST}: no t2 image; .*--leave-out {FIRST}"):
        patient_cases(cases, recipe(), tmp_path / "cache")
    (learnt,) = patient_cases(cases, recipe(missing=0.25), tmp_path / "cache")
    assert [bool(channel.any()) for channel in learnt.voxels[:4]] == [True, True, False, True]
    with pytest.raises(InputError, match=f"{FIRST}: no t2 image"):  # though the cache has it
        patient_cases(cases, recipe(), tmp_path / "cache")


def test_a_patient_without_a_reference_is_refused_by_name(patient, phantoms, tmp_path):
    (patient / FIRST / f"{FIRST}-seg.nii.gz").unlink()
    cases = [discover_cases(phantoms)[1], *discover_cases(patient)]
    with pytest.raises(InputError, match=FIRST):
        patient_cases(cases, recipe(), tmp_path / "cache")


def test_a_damaged_image_is_an_error_that_names_the_patient(patient, tmp_path):
    path = patient / FIRST / f"{FIRST}-t1n.nii.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=f"{FIRST}.*ends too early"):
        patient_cases(discover_cases(patient), recipe(), tmp_path / "cache")
    assert not voxels_in(tmp_path / "cache")


def test_a_reference_that_lies_beside_the_images_is_refused(patient, tmp_path):
    path = patient / FIRST / f"{FIRST}-seg.nii.gz"
    image = nib.load(path)
    affine = image.affine.copy()
    affine[0, 3] += 1000.0
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), path)
    with pytest.raises(InputError, match=f"{FIRST}: its reference lies on another grid"):
        patient_cases(discover_cases(patient), recipe(), tmp_path / "cache")


def test_no_cases_make_no_cases(tmp_path):
    assert patient_cases([], recipe(), tmp_path) == [] and phantom_cases([], recipe(), tmp_path) == []


# The cache


def test_a_second_run_unpacks_nothing(phantoms, tmp_path, monkeypatch):
    cases = discover_cases(phantoms)
    first = patient_cases(cases, recipe(), tmp_path)

    def unpack(*_, **__):
        raise AssertionError("unpacked again")

    for name in ("run_chain", "preprocess_chain", "read_label_map", "resample_to"):
        monkeypatch.setattr(training_cases, name, unpack)
    with pytest.raises(AssertionError, match="unpacked again"):
        patient_cases(cases, recipe(), tmp_path / "other")
    second = patient_cases(cases, recipe(learning_rate=0.1), tmp_path)  # how it is trained changes no voxel
    for one, two in zip(first, second, strict=True):
        assert one.name == two.name and told(one) == told(two)
        np.testing.assert_array_equal(one.voxels, two.voxels)


def test_labels_that_were_read_to_choose_a_convention_are_not_read_again(phantoms, tmp_path, monkeypatch):
    cases = [replace(case, conventions=("brats2023", "brats2024-gli")) for case in discover_cases(phantoms)]
    (first, _) = patient_cases(cases, recipe(), tmp_path)
    monkeypatch.setattr(training_cases, "read_label_map", None)
    monkeypatch.setattr(training_cases, "read_label_values", None)
    (again, _) = patient_cases(cases, recipe(), tmp_path)
    np.testing.assert_array_equal(first.voxels, again.voxels)


def test_other_files_regions_or_preprocessing_never_get_an_older_array(patient, tmp_path):
    cache = tmp_path / "cache"
    configs = [recipe(), recipe(10.0), recipe(regions=("WT",)), recipe(modalities=("flair", "t1", "t1c", "t2"))]
    for number, config in enumerate(configs, start=1):
        patient_cases(discover_cases(patient), config, cache)
        assert len(voxels_in(cache)) == number
    path = patient / FIRST / f"{FIRST}-t1n.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[::-1].copy(), image.affine), path)
    patient_cases(discover_cases(patient), recipe(), cache)
    assert len(voxels_in(cache)) == len(configs) + 1


def test_the_same_labels_in_another_convention_are_another_array(phantoms, tmp_path):
    case = discover_cases(phantoms)[0]
    (one,) = patient_cases([replace(case, conventions=("brats2023",))], recipe(), tmp_path)
    (two,) = patient_cases([replace(case, conventions=("msd",))], recipe(), tmp_path)  # there 1 is oedema and 2 core
    assert not np.array_equal(one.voxels[5], two.voxels[5])


def test_voxels_that_lie_beside_their_mhd_header_count_as_its_content(patient, tmp_path):
    path = patient / FIRST / f"{FIRST}-t1n.nii.gz"
    image = sitk.ReadImage(str(path))
    path.unlink()
    for values in (image, image / 2):
        sitk.WriteImage(values, str(patient / FIRST / f"{FIRST}-t1n.mhd"))
        patient_cases(discover_cases(patient), recipe(), tmp_path / "cache")
    assert len(voxels_in(tmp_path / "cache")) == 2


def test_a_damaged_file_of_the_cache_is_made_again(phantoms, tmp_path):
    cases = discover_cases(phantoms)[:1]
    patient_cases(cases, recipe(), tmp_path)
    (path,) = voxels_in(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    patient_cases(cases, recipe(), tmp_path)
    assert path.read_bytes() == whole


def test_an_array_of_too_many_channels_is_no_cached_case(phantoms, tmp_path):
    cases = discover_cases(phantoms)[:1]
    (learnt,) = patient_cases(cases, recipe(), tmp_path)
    (path,) = voxels_in(tmp_path)
    np.save(path, np.zeros((4, 8, 4, 4), np.float16))
    (again,) = patient_cases(cases, recipe(), tmp_path)
    assert again.voxels.shape == learnt.voxels.shape


def test_a_case_whose_id_is_a_path_stays_in_the_cache_folder(phantoms, tmp_path):
    case = replace(discover_cases(phantoms)[0], case_id="../sub-01/ses-1")
    (learnt,) = patient_cases([case], recipe(), tmp_path / "cache")
    assert learnt.name == "../sub-01/ses-1"
    assert [path.name for path in tmp_path.iterdir()] == ["cache"] and len(voxels_in(tmp_path / "cache")) == 1


def test_a_worker_process_gives_the_same_bytes(phantoms, tmp_path, monkeypatch):
    cases = discover_cases(phantoms)
    here = patient_cases(cases, recipe(), tmp_path / "here")
    monkeypatch.setattr(training_cases, "run_chain", None)  # it cannot be done in this process
    there = patient_cases(cases, recipe(), tmp_path / "there", workers=1)
    assert [case.name for case in here] == [case.name for case in there]
    one, two = (voxels_in(tmp_path / where) for where in ("here", "there"))
    assert [path.name for path in one] == [path.name for path in two]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


# Phantoms and slices


def small_patient(seed, spacing_mm, **options):
    assert spacing_mm == 1.0
    return draw_patient(seed, 5.0, **options)


def test_a_phantom_is_learnt_from_as_if_it_had_been_written_and_read(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.training.sources.phantoms.draw_patient", small_patient)
    config = recipe(10.0, modalities=("flair", "t1c"), sampling={"phantom_contrast": "mri"})
    (drawn,) = phantom_cases([3], config, tmp_path / "a")
    folder = tmp_path / "set" / FIRST
    folder.mkdir(parents=True)
    phantom = draw_patient(3, 5.0, contrast="mri")
    arrays = {"t2f": phantom.images["flair"], "t1c": phantom.images["t1c"], "seg": phantom.label_map}
    for suffix, array in arrays.items():
        kind = np.uint8 if suffix == "seg" else np.int16
        nib.save(nib.Nifti1Image(array.astype(kind), phantom.grid.affine), folder / f"{FIRST}-{suffix}.nii.gz")
    (case,) = discover_cases(tmp_path / "set")
    (read,) = patient_cases([replace(case, conventions=("brats2023",))], config, tmp_path / "b")
    np.testing.assert_array_equal(drawn.voxels, read.voxels)


def test_a_synthetic_patient_has_the_shape_of_a_real_tumour_that_its_seed_draws(tmp_path, monkeypatch):
    names = ["a", "b", "c"]
    for number, name in enumerate(names):
        labels = np.zeros((128, 128, 128), np.uint8)
        side = 8 + 4 * number
        labels[50 : 50 + side, 50 : 50 + side, 50 : 50 + side] = 2
        labels[52:56, 52:56, 52:56] = 4
        np.savez_compressed(tmp_path / f"{name}.npz", volume_labels=labels)
    shapes = cube_shapes([(tmp_path, names)])
    drawn = [shape_for(seed, shapes).path.stem for seed in range(30)]
    assert set(drawn) == set(names) and drawn == [shape_for(seed, shapes).path.stem for seed in range(30)]
    codes, spacing = shapes[1].read()
    assert (codes == 2).sum() == 12**3 - 4**3 and (codes == 3).sum() == 4**3 and spacing == CUBE_SPACING_MM
    # At 1 mm a head takes seconds.
    monkeypatch.setattr(
        "pipeline.training.sources.phantoms.draw_patient",
        lambda seed, mm, **options: draw_patient(seed, 5.0, **options),
    )
    (real,) = phantom_cases([3], recipe(5.0), tmp_path / "cache", shape_of=lambda seed: shapes[1])
    (other,) = phantom_cases([3], recipe(5.0), tmp_path / "cache")
    # A cube of 12 voxels is 7.4 ml; it is scaled by .8 to 1.25 along each axis, and bent.
    millilitres = float(real.voxels[real.n_images].astype(float).sum()) * 5**3 / 1000
    assert 7.4 * 0.8**3 * 0.7 < millilitres < 7.4 * 1.25**3 * 1.3
    assert real.voxels[real.n_images].sum() != other.voxels[other.n_images].sum()  # and not taken from the cache


def test_real_shapes_without_cubes_or_in_a_damaged_file_are_refused_with_the_fix(tmp_path):
    with pytest.raises(UsageError, match=r"phantom_shapes is real, .*give one \(--extra\), or set it to drawn"):
        cube_shapes([(tmp_path, [])])
    (tmp_path / "a.npz").write_bytes(b"no zip")
    np.savez(tmp_path / "b.npz", volume_labels=np.zeros((4, 4, 4), np.uint8))
    np.savez(tmp_path / "c.npz", volume_labels=np.ones((2, 128, 128), np.uint8))  # of another grid
    np.savez(tmp_path / "d.npz", volume_labels=np.full((128, 128, 128), np.nan, np.float16))
    for name, message in (
        ("a", "holds no volume_labels"), ("b", "show no tumour; leave it out"),
        ("c", "show no tumour; leave it out"), ("d", "show no tumour; leave it out"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=f"{name}.npz: .*{message}"):
            cube_shapes([(tmp_path, [name])])[0].read()


def test_phantoms_have_the_contrast_and_lesions_of_the_recipe_and_the_cache_tells_them_apart(tmp_path, monkeypatch):
    asked = []

    def spy(seed, spacing_mm, *, contrast, lesions):
        asked.append((seed, contrast, lesions))
        return small_patient(seed, spacing_mm, contrast=contrast, lesions=lesions)

    monkeypatch.setattr("pipeline.training.sources.phantoms.draw_patient", spy)
    phantom_cases([4, 5], recipe(10.0), tmp_path)
    phantom_cases([4], recipe(10.0, sampling={"phantom_contrast": "random"}), tmp_path)
    phantom_cases([4, 5], recipe(10.0, sampling={"phantom_contrast": "mri", "phantom_lesions": (1, 2)}), tmp_path)
    # 5 with "random" is what "both" made of it.
    phantom_cases([5], recipe(10.0, sampling={"phantom_contrast": "random"}), tmp_path)
    assert asked == [
        (4, "mri", None), (5, "random", None), (4, "random", None), (4, "mri", (1, 2)), (5, "mri", (1, 2)),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="least and the most"):
        recipe(sampling={"phantom_lesions": (3, 2)})


def test_a_phantom_is_a_patient_with_everything_and_is_drawn_once(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.training.sources.phantoms.draw_patient", small_patient)
    config = recipe(regions=("WT", "TC", "ET", "RC"))
    first, second = phantom_cases([1, 2], config, tmp_path)
    assert (first.name, first.kind, second.name) == ("phantom-1", "phantom", "phantom-2")
    assert told(first) == (True, True, True, False)  # a phantom has had no surgery
    assert {"brain", "WT", "TC", "ET"} == set(first.centres)
    monkeypatch.setattr("pipeline.training.sources.phantoms.draw_patient", None)
    (again,) = phantom_cases([2], config, tmp_path)
    np.testing.assert_array_equal(again.voxels, second.voxels)
    assert not np.array_equal(first.voxels, second.voxels)


def write_slice(path: Path) -> None:
    """FLAIR, T1, T1c, T2 by their size, a brain of 40 x 80 pixels with its brightest corner at the left front (LPS)."""
    pixels = np.full((240, 240, 4), -0.5, dtype=np.float32)  # as published: z-scored, so the background is not 0
    pixels[100:140, 80:160] = [1.0, 2.0, 3.0, 4.0]
    pixels[100, 80] += [0.5, 1.0, 1.5, 2.0]
    mask = np.zeros((240, 240, 3))
    mask[100:110, 80:100, 1], mask[110:112, 80:82, 2] = 1, 1
    with h5py.File(path, "w") as file:
        file["image"], file["mask"] = pixels, mask


def test_a_slice_file_is_read_in_the_order_of_its_pictures_and_put_upright(tmp_path):
    write_slice(tmp_path / "volume_1_slice_2.h5")
    (learnt,) = slice_cases(tmp_path, recipe(1.0, dims=2), tmp_path / "cache")
    assert (learnt.name, learnt.kind, told(learnt)) == ("volume_1_slice_2", "slice", (True,) * 3)
    assert learnt.voxels.shape == (7, 40, 80, 1)
    # Rows grow to the left in the file and to the right in RAS; the corner comes to the far end of both axes.
    assert [np.unravel_index(image.argmax(), image.shape)[:2] for image in learnt.voxels[:4]] == [(39, 79)] * 4
    assert [int((region == 1).sum()) for region in learnt.voxels[4:]] == [10 * 20 + 2 * 2, 4, 4]
    assert len(learnt.centres["ET"]) == 4 and len(learnt.centres["brain"]) == 40 * 80


def test_the_modality_of_a_slice_is_found_by_its_name(tmp_path):
    path = tmp_path / "volume_1_slice_2.h5"
    write_slice(path)
    with h5py.File(path, "r+") as file:
        file["image"][120, 120, 1] = 50.0  # of T1 alone
    (learnt,) = slice_cases(tmp_path, recipe(1.0, modalities=("t2", "t1"), dims=2), tmp_path / "cache")
    # Row 120 is 20 of 40 from the brain's border, and turned round 19; so is column 120: 40 of 80, and 39.
    assert np.unravel_index(learnt.voxels[1].argmax(), (40, 80)) == (19, 39)
    assert np.unravel_index(learnt.voxels[0].argmax(), (40, 80)) == (39, 79)


def test_what_is_no_slice_is_refused_by_name(tmp_path):
    config = recipe(1.0, dims=2)
    with pytest.raises(UsageError, match="holds no .h5 slice"):
        slice_cases(tmp_path, config, tmp_path / "cache")
    path = tmp_path / "slice.h5"
    path.write_bytes(b"no HDF5")
    with pytest.raises(InputError, match=r"slice.h5: is no slice"):
        slice_cases(tmp_path, config, tmp_path / "cache")
    with h5py.File(path, "w") as file:
        file["image"], file["mask"] = np.zeros((240, 240, 4)), np.zeros((240, 240, 3))
    with pytest.raises(InputError, match=r"slice.h5: shows no brain"):
        slice_cases(tmp_path, config, tmp_path / "cache")
    with h5py.File(path, "w") as file:  # 2 kB that declare 160 GB
        file.create_dataset("image", (100_000, 100_000, 4), "f4", chunks=(100, 100, 4))
        file["mask"] = np.zeros((240, 240, 3))
    with pytest.raises(InputError, match=r"slice.h5: its image is \(100000, 100000, 4\)"):
        slice_cases(tmp_path, config, tmp_path / "cache")
    for image, why in (
        (h5py.SoftLink("/image"), "is no slice with image and mask"),
        (np.full((240, 240, 4), np.nan), "a value that is not finite"),
    ):
        with h5py.File(path, "w") as file:
            file["image"], file["mask"] = image, np.zeros((240, 240, 3))
        with pytest.raises(InputError, match=f"slice.h5: .*{why}"):
            slice_cases(tmp_path, config, tmp_path / "cache")
    with pytest.raises(UsageError, match="no pet"):
        slice_cases(tmp_path, recipe(1.0, modalities=("pet",), dims=2), tmp_path / "cache")


def test_written_phantoms_open_as_patients(phantoms):
    for case in discover_cases(phantoms):
        assert set(case.images) == set(MODALITIES)
        assert nib.load(case.images["t1"].paths[0]).shape == (40, 48, 32)


def test_a_phantom_in_the_cache_depends_on_every_module_that_draws_it():
    names = ["__init__", "anatomy", "contrast", "fields", "head", "patient", "shapes", "template", "tumour", "visits"]
    folder = Path(data.phantom.__file__).parent
    assert phantom_digests() == [hashlib.sha256((folder / f"{name}.py").read_bytes()).hexdigest() for name in names]


def test_a_package_without_the_modules_of_phantoms_is_an_error_not_an_empty_key(monkeypatch, tmp_path):
    monkeypatch.setattr(data.phantom, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(RuntimeError, match="not installed whole"):
        phantom_digests()
