"""From files to the network's tensor: geometry, normalisation, and sentences about what is wrong with a patient."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    ConcatItemsd,
    CropForegroundd,
    EnsureChannelFirstd,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
)
from nibabel.processing import resample_from_to

from data.case import ImageSource
from data.errors import InputError
from data.find.discover import discover_cases
from data.grid import Grid
from data.io.read import read_volumes
from data.phantom.patient import write_phantom
from transforms.filters import BiasCorrectd, BlankAird, Denoised, NormalizeNonzerod
from transforms.preprocess import LoadVolumesd, grid_of, preprocess_chain, run_chain

MODALITIES = ("t1", "t1c", "t2", "flair")
SMALL: dict[str, Any] = {"shape": (40, 40, 26), "spacing_mm": (6.0, 6.0, 6.0)}
ANISOTROPIC: dict[str, Any] = {"shape": (48, 40, 16), "spacing_mm": (5.0, 6.0, 10.0)}
SUFFIX = {"t1": "t1n", "t1c": "t1c", "t2": "t2w", "flair": "t2f"}


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantom(tmp_path_factory.mktemp("phantom"), 1, **SMALL)


@pytest.fixture(scope="module")
def anisotropic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantom(tmp_path_factory.mktemp("anisotropic"), 2, **ANISOTROPIC)


def images_of(folder: Path) -> Mapping[str, ImageSource]:
    (case,) = discover_cases(folder)
    return case.images


def file_of(folder: Path, modality: str) -> Path:
    return images_of(folder)[modality].paths[0]


def prepare(folder: Path, modalities: tuple[str, ...] = MODALITIES, **options: Any) -> dict[str, Any]:
    return run_chain(
        preprocess_chain(modalities, **options), {m: s for m, s in images_of(folder).items() if m in modalities}
    )


def rewritten(folder: Path, to: Path, change: Any) -> Path:
    """A copy of a patient with every image changed: ``change(modality, nibabel image) -> image``."""
    to = to / folder.name
    to.mkdir(parents=True)
    for modality in MODALITIES:
        path = file_of(folder, modality)
        nib.save(change(modality, nib.load(path)), to / path.name)
    return to


# ------------------------------------------------------------------------------------------------ the whole chain


def test_each_modality_is_z_scored_over_its_non_zero_voxels_and_the_background_stays_zero(patient: Path) -> None:
    image = prepare(patient, spacing_mm=(None, None, None), crop="none")["image"]
    assert image.shape == (4, 40, 40, 26) and image.dtype == torch.float32
    for channel, modality in zip(image.numpy(), MODALITIES, strict=True):
        stored = np.asarray(nib.load(file_of(patient, modality)).dataobj, dtype=np.float64)
        turned = np.asarray(
            nib.as_closest_canonical(nib.Nifti1Image(stored, nib.load(file_of(patient, modality)).affine)).dataobj
        )
        inside = turned != 0
        expected = np.where(inside, (turned - turned[inside].mean()) / turned[inside].std(), 0)
        np.testing.assert_allclose(channel, expected, atol=1e-4)
        assert not channel[~inside].any()


def test_z_scores_over_all_voxels_or_raw_values_on_request(patient: Path) -> None:
    options: dict[str, Any] = {"spacing_mm": (None, None, None), "crop": "none", "orientation": "LPS"}
    stored = np.asarray(nib.load(file_of(patient, "t2")).dataobj, dtype=np.float64)
    raw = prepare(patient, ("t2",), normalise="none", **options)["image"][0].numpy()
    lps = stored if nib.aff2axcodes(nib.load(file_of(patient, "t2")).affine) == ("L", "P", "S") else None
    assert lps is not None, "phantoms lie in LPS, as BraTS does"
    assert np.array_equal(raw, stored)
    scored = prepare(patient, ("t2",), normalise="all", **options)["image"][0].numpy()
    np.testing.assert_allclose(scored, (stored - stored.mean()) / stored.std(), atol=1e-4)


def test_channels_come_in_the_models_order(patient: Path) -> None:
    options: dict[str, Any] = {"normalise": "none", "spacing_mm": (None, None, None)}
    forward = prepare(patient, MODALITIES, **options)["image"]
    backward = prepare(patient, MODALITIES[::-1], **options)["image"]
    assert torch.equal(forward.as_tensor(), backward.as_tensor().flip(0))
    assert not torch.equal(forward[0].as_tensor(), forward[1].as_tensor())


def test_the_crop_is_the_box_of_what_any_modality_shows(patient: Path) -> None:
    result = prepare(patient, spacing_mm=(None, None, None), normalise="none")
    image, native = result["image"], result["native"].grid
    for axis in range(1, 4):
        hits = image.as_tensor().movedim(axis, 0).flatten(1).any(dim=1)
        assert hits[0] and hits[-1]
    whole = prepare(patient, spacing_mm=(None, None, None), normalise="none", crop="none")["image"]
    assert (image != 0).sum() == (whole != 0).sum()
    assert whole.shape[1:] == native.reoriented("RAS").shape


@pytest.mark.parametrize("codes", ["RAS", "LAS", "RPI", "SPR", "ILA", "AIL"])
def test_the_same_patient_stored_in_any_orientation_gives_the_same_tensor(
    anisotropic: Path, tmp_path: Path, codes: str
) -> None:
    def turn(modality: str, image: nib.Nifti1Image) -> nib.Nifti1Image:
        # Some modalities only, so that one patient mixes orientations too.
        if codes == "AIL" and modality in ("t1", "flair"):
            return image
        start = nib.orientations.io_orientation(image.affine)
        return image.as_reoriented(nib.orientations.ornt_transform(start, nib.orientations.axcodes2ornt(codes)))

    expected = prepare(anisotropic, spacing_mm=(4.0, 4.0, 4.0))
    result = prepare(rewritten(anisotropic, tmp_path, turn), spacing_mm=(4.0, 4.0, 4.0))
    assert torch.equal(result["image"].as_tensor(), expected["image"].as_tensor())
    assert grid_of(result["image"]).matches(grid_of(expected["image"]))
    assert len(result["warnings"]) == (2 if codes == "AIL" else 0)


def test_each_of_the_48_orientations_gives_the_same_tensor_in_the_same_place(anisotropic: Path, tmp_path: Path) -> None:
    expected = prepare(anisotropic, ("t1c",), spacing_mm=(None, None, None))["image"]
    image = nib.load(file_of(anisotropic, "t1c"))
    for axes, flips in product(permutations(range(3)), product((1, -1), repeat=3)):
        path = tmp_path / "x_t1c.nii"
        nib.save(image.as_reoriented(np.array(list(zip(axes, flips, strict=True)))), path)
        chain = preprocess_chain(("t1c",), spacing_mm=(None, None, None))
        result = run_chain(chain, {"t1c": ImageSource((path,))})["image"]
        assert torch.equal(result.as_tensor(), expected.as_tensor()), (axes, flips)
        assert grid_of(result).matches(grid_of(expected)), (axes, flips)


def test_the_working_grid_lies_where_simpleitk_says_the_voxels_are(anisotropic: Path) -> None:
    result = prepare(anisotropic, ("t1c",), spacing_mm=(4.0, 3.0, 5.0), normalise="none")
    image, grid = result["image"], grid_of(result["image"])
    np.testing.assert_allclose(grid.spacing_mm, (4.0, 3.0, 5.0))
    assert grid.orientation == "RAS"
    assert result["native"].grid.spacing_mm == pytest.approx((5.0, 6.0, 10.0))
    # ITK's own linear interpolation, at the world coordinates of our voxels (finer spacings only: no averaging).
    source = sitk.ReadImage(str(file_of(anisotropic, "t1c")), sitk.sitkFloat32)
    rng = np.random.default_rng(0)
    compared = 0
    for index in rng.integers(3, np.array(grid.shape) - 3, size=(60, 3)):
        ras = (grid.affine @ [*index, 1.0])[:3]
        at = source.TransformPhysicalPointToContinuousIndex((-ras[0], -ras[1], ras[2]))
        corners = np.floor(at).astype(int)
        assert all(0 <= c < n - 1 for c, n in zip(corners, source.GetSize(), strict=True))
        value = source.EvaluateAtContinuousIndex(at, sitk.sitkLinear)
        assert float(image[(0, *index)]) == pytest.approx(value, abs=0.05)
        compared += value != 0
    assert compared > 30


@pytest.mark.parametrize("codes", ["RAS", "LPS", "ASL"])
def test_at_the_files_own_spacing_the_tensor_is_what_monais_chain_makes(anisotropic: Path, codes: str) -> None:
    monai = Compose(
        [
            LoadImaged(MODALITIES),
            EnsureChannelFirstd(MODALITIES),
            ConcatItemsd(MODALITIES, "image"),
            CropForegroundd("image", source_key="image", select_fn=lambda x: x != 0),
            Orientationd("image", axcodes=codes, labels=None),
            NormalizeIntensityd("image", nonzero=True, channel_wise=True),
        ]
    )
    expected = monai({m: str(file_of(anisotropic, m)) for m in MODALITIES})["image"]
    image = prepare(anisotropic, spacing_mm=(None, None, None), orientation=codes)["image"]
    assert image.is_contiguous() and image.dtype == torch.float32
    np.testing.assert_allclose(image.numpy(), expected.numpy(), atol=1e-6)
    np.testing.assert_allclose(image.affine.numpy(), expected.affine.numpy(), atol=1e-4)


def test_what_was_read_before_gives_the_same_as_its_files(patient: Path) -> None:
    volumes = read_volumes(images_of(patient))
    before = {name: volume.array.copy() for name, volume in volumes.items()}
    chain, expected = preprocess_chain(MODALITIES), prepare(patient)
    for some in (volumes, {**images_of(patient), "t2": volumes["t2"]}):
        result = run_chain(chain, some)
        assert torch.equal(result["image"].as_tensor(), expected["image"].as_tensor())
        assert np.array_equal(result["background"], expected["background"])
        assert result["native"].path == expected["native"].path and result["warnings"] == expected["warnings"]
    assert all(np.array_equal(volumes[name].array, array) for name, array in before.items())


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i4", "i8", "f4", "f8", "scaled"])
def test_the_files_type_changes_nothing_also_where_a_grid_differs_or_an_image_is_missing(
    patient: Path, tmp_path: Path, dtype: str
) -> None:
    def stored(to: Path, kind: str) -> dict[str, Any]:
        def change(modality: str, image: nib.Nifti1Image) -> nib.Nifti1Image:
            voxels = np.round(np.asarray(image.dataobj) / 4)  # fits a byte, nearly: phantoms reach some 1000
            affine = image.affine + (np.eye(4, k=3) * (3.0 if modality == "t2" else 0.0))
            dtype = np.dtype("i2" if kind == "scaled" else kind)
            # A scaling that is none to the voxels, but takes the reader's other way: 2 times a half.
            other = nib.Nifti1Image(
                (np.minimum(voxels, 255) * (2 if kind == "scaled" else 1)).astype(dtype), affine, dtype=dtype
            )
            if kind == "scaled":
                other.header.set_slope_inter(0.5, 0.0)
            return other

        return prepare(without_t1(rewritten(patient, to, change)), zero_missing=True)

    def without_t1(folder: Path) -> Path:
        file_of(folder, "t1").unlink()
        return folder

    expected, result = stored(tmp_path / "a", "i2"), stored(tmp_path / "b", dtype)
    assert torch.equal(result["image"].as_tensor(), expected["image"].as_tensor())
    assert result["background"].dtype == np.float32
    assert np.array_equal(result["background"], expected["background"])
    assert not result["image"][0].any() and len(result["warnings"]) == 2


def test_z_scores_are_monais_for_offsets_constants_and_nothing() -> None:
    rng = np.random.default_rng(0)
    inside = rng.random((40, 50, 30)) < 0.4
    channels = [rng.normal(1e4, 1, inside.shape), rng.normal(0, 1e-6, inside.shape), np.full(inside.shape, 7.0)]
    image = np.stack([*(np.where(inside, c, 0) for c in channels), np.zeros(inside.shape)]).astype(np.float32)
    oracle = [c[c != 0].astype(np.float64) for c in image]
    result = NormalizeNonzerod("image")({"image": MetaTensor(torch.as_tensor(image.copy()))})["image"].numpy()
    assert not np.signbit(result[:, ~inside]).any() and not result[:, ~inside].any()
    for channel, values in zip(result[:3], oracle[:3], strict=True):
        deviation = values.std() or 1.0
        # 1e4 is 1e-3 of a float32 step away from its neighbours: the mean is rounded to one of them.
        np.testing.assert_allclose(channel[inside], (values - values.mean()) / deviation, atol=1e-3, rtol=1e-6)
    monai = NormalizeIntensityd("image", nonzero=True, channel_wise=True)({"image": torch.as_tensor(image)})["image"]
    np.testing.assert_allclose(result[1:], monai.numpy()[1:], atol=2e-6, rtol=2e-6)


def test_single_modalities_do_not_stay_in_memory_beside_their_stack(patient: Path) -> None:
    result = prepare(patient)
    assert {"image", "native", "background", "warnings"} <= set(result) and not set(MODALITIES) & set(result)


def test_the_background_for_pictures_is_flair_on_the_native_grid_or_else_the_reference(patient: Path) -> None:
    flair = np.asarray(nib.load(file_of(patient, "flair")).dataobj)
    assert np.array_equal(prepare(patient)["background"], flair)
    t1c = np.asarray(nib.load(file_of(patient, "t1c")).dataobj)
    assert np.array_equal(prepare(patient, ("t1", "t1c"))["background"], t1c)


# ---------------------------------------------------------------------------------------------------- other grids


def test_a_modality_on_another_grid_is_resampled_onto_the_reference_with_a_sentence(
    patient: Path, tmp_path: Path
) -> None:
    def finer(modality: str, image: nib.Nifti1Image) -> nib.Nifti1Image:
        if modality != "t2":
            return image
        return resample_from_to(image, ((60, 60, 39), image.affine @ np.diag([2 / 3] * 3 + [1])), order=1)

    copy = rewritten(patient, tmp_path, finer)
    options: dict[str, Any] = {"spacing_mm": (None, None, None), "crop": "none", "normalise": "none"}
    result, expected = prepare(copy, **options), prepare(patient, **options)
    (sentence,) = result["warnings"]
    assert sentence == (
        f"{file_of(patient, 't2').name}: its grid (60x60x39 voxels of 4x4x4 mm, LPS, first voxel at "
        f"(0, 234, 0) mm) is not that of {file_of(patient, 't1c').name} "
        "(40x40x26 voxels of 6x6x6 mm, LPS, first voxel at (0, 234, 0) mm); resampled onto it"
    )
    assert result["native"].path.name == file_of(patient, "t1c").name
    moved, straight = result["image"].numpy(), expected["image"].numpy()
    assert np.array_equal(moved[[0, 1, 3]], straight[[0, 1, 3]])
    assert np.corrcoef(moved[2].ravel(), straight[2].ravel())[0, 1] > 0.9


def test_images_that_hardly_overlap_are_refused(patient: Path, tmp_path: Path) -> None:
    def away(modality: str, image: nib.Nifti1Image) -> nib.Nifti1Image:
        shifted = image.affine.copy()
        shifted[0, 3] += 500.0 if modality == "flair" else 0.0
        return nib.Nifti1Image(np.asarray(image.dataobj), shifted)

    copy = rewritten(patient, tmp_path, away)
    with pytest.raises(InputError) as caught:
        prepare(copy)
    assert str(caught.value) == (
        f"{file_of(copy, 'flair').name}: only 0 % of this flair image lies on the grid of the t1c image "
        f"{file_of(copy, 't1c').name}; register the images to each other"
    )


def test_a_single_slice_among_volumes_is_refused_for_it_shows_too_little(patient: Path, tmp_path: Path) -> None:
    def cut(modality: str, image: nib.Nifti1Image) -> nib.Nifti1Image:
        return image.slicer[:, :, 12:13] if modality == "t2" else image

    copy = rewritten(patient, tmp_path, cut)
    with pytest.raises(InputError, match=r"t2w.*this t2 image covers only \d % of what the t1c image .* shows"):
        prepare(copy)


@pytest.mark.parametrize("odd", ["t2", "t1c"])  # t1c gives the grid
def test_a_refusal_names_what_is_doubtful_about_either_header(patient: Path, tmp_path: Path, odd: str) -> None:
    copy = rewritten(patient, tmp_path, lambda modality, image: image)
    path = file_of(copy, odd)
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[252:256] = bytes(4)  # neither sform nor qform
    path.write_bytes(gzip.compress(content))
    with pytest.raises(InputError, match=f"{SUFFIX[odd]}.nii.gz: it has neither sform nor qform.*register"):
        prepare(copy)


def test_a_difference_below_a_thousandth_of_a_millimetre_is_none(patient: Path, tmp_path: Path) -> None:
    def nudge(modality: str, image: nib.Nifti1Image) -> nib.Nifti1Image:
        shifted = image.affine.copy()
        shifted[0, 3] += 0.0005 if modality == "flair" else 0.0
        return nib.Nifti1Image(np.asarray(image.dataobj), shifted)

    result = prepare(rewritten(patient, tmp_path, nudge))
    assert result["warnings"] == ()
    assert torch.equal(result["image"].as_tensor(), prepare(patient)["image"].as_tensor())


# ---------------------------------------------------------------------------------------------- missing and broken


def without(folder: Path, to: Path, *modalities: str) -> Path:
    copy = rewritten(folder, to, lambda modality, image: image)
    for modality in modalities:
        file_of(copy, modality).unlink()
    return copy


def test_a_missing_modality_is_refused_by_name_or_zeroed_with_a_warning(patient: Path, tmp_path: Path) -> None:
    copy = without(patient, tmp_path, "t2")
    with pytest.raises(InputError) as caught:
        prepare(copy)
    assert str(caught.value) == f"{patient.name}: no t2 image; add it, or choose --missing skip or zero"
    result, expected = prepare(copy, zero_missing=True), prepare(patient)["image"].as_tensor()
    assert result["warnings"] == ("t2 is missing and was replaced by zeros",)
    assert not result["image"][2].any()
    assert torch.equal(result["image"].as_tensor()[[0, 1, 3]], expected[[0, 1, 3]])


def test_without_the_contrast_image_the_next_reference_gives_the_grid(patient: Path, tmp_path: Path) -> None:
    result = prepare(without(patient, tmp_path, "t1c"), zero_missing=True)
    assert result["native"].path.name.endswith("t2f.nii.gz")


def test_a_patient_with_none_of_the_models_images_is_refused_even_if_zeros_are_allowed(patient: Path) -> None:
    with pytest.raises(InputError, match="none of the images t1, t2 is there"):
        run_chain(preprocess_chain(("t1", "t2"), zero_missing=True), {})


def corrupt(path: Path) -> None:
    content = bytearray(gzip.decompress(path.read_bytes()))
    packed = bytearray(gzip.compress(bytes(content)))
    packed[-6] ^= 0xFF  # the checksum at the end
    path.write_bytes(bytes(packed))


def test_a_broken_file_gives_the_readers_own_sentence_through_monais_wrapping(patient: Path, tmp_path: Path) -> None:
    copy = without(patient, tmp_path)
    path = file_of(copy, "flair")
    corrupt(path)
    with pytest.raises(InputError) as caught:
        prepare(copy)
    assert path.name in str(caught.value) and "\n" not in str(caught.value)
    assert type(caught.value) is InputError
    with pytest.raises(InputError) as direct:
        LoadVolumesd("flair")({"flair": ImageSource((path,))})
    assert str(caught.value) == str(direct.value)


def test_other_errors_come_through_as_they_are() -> None:
    def fail(data: Any) -> Any:
        raise ZeroDivisionError("bug")

    with pytest.raises(RuntimeError) as caught:
        run_chain(Compose([fail]), {"a": 1})
    assert isinstance(caught.value.__cause__, ZeroDivisionError)

    def out_of_memory(data: Any) -> Any:
        raise MemoryError

    with pytest.raises(MemoryError):
        run_chain(Compose([out_of_memory]), {"a": 1})


def test_a_volume_that_declares_too_much_is_refused_from_its_header(patient: Path) -> None:
    with pytest.raises(InputError, match=r"41600|40000"):
        prepare(patient, max_voxels=40_000)


def test_a_voxel_size_that_would_fill_the_memory_is_refused(patient: Path, tmp_path: Path) -> None:
    def giant(modality: str, image: nib.Nifti1Image) -> nib.Nifti1Image:
        return nib.Nifti1Image(np.asarray(image.dataobj), image.affine @ np.diag([15.0, 15.0, 15.0, 1.0]))

    copy = rewritten(patient, tmp_path, giant)  # 90 mm: a head of three metres
    with pytest.raises(InputError) as caught:
        prepare(copy)
    assert str(caught.value).startswith(f"{file_of(copy, 't1c').name}: voxels of 90x90x90 mm would become ")
    assert str(caught.value).endswith("correct the voxel size in the file's header")


# ------------------------------------------------------------------------------------------------------- filters


def ellipsoid(shape: tuple[int, int, int]) -> np.ndarray:
    x = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    return (x**2).sum(axis=0) < 0.9


def filtered(transform: Any, array: np.ndarray, affine: np.ndarray | None = None) -> np.ndarray:
    affine = np.diag([2.0, 2.0, 3.0, 1.0]) if affine is None else affine
    image = MetaTensor(torch.as_tensor(array, dtype=torch.float32)[None], affine=torch.as_tensor(affine))
    result = transform({"t1": image})["t1"]
    assert np.array_equal(result.affine.numpy(), affine)
    assert result.dtype == torch.float32
    return result[0].numpy()


def test_bias_correction_takes_most_of_a_known_ramp_away() -> None:
    shape, rng = (36, 32, 24), np.random.default_rng(0)
    inside = ellipsoid(shape)
    tissue = np.where(np.indices(shape)[2] % 8 < 4, 100.0, 160.0) + rng.normal(0, 2, shape)
    ramp = np.linspace(0.7, 1.3, shape[0])[:, None, None]
    corrected = filtered(BiasCorrectd(("t1",)), np.where(inside, tissue * ramp, 0))
    assert not corrected[~inside].any()

    def slope(image: np.ndarray) -> float:
        """Change of the mean ratio to the true tissue from end to end, relative."""
        ratio = image[inside] / tissue[inside]
        return abs(float(np.polyfit(np.linspace(-1, 1, shape[0])[np.nonzero(inside)[0]], ratio / ratio.mean(), 1)[0]))

    before = slope(tissue * ramp)
    assert before == pytest.approx(0.3, abs=0.02)
    assert slope(corrected) < 0.25 * before


def test_denoising_takes_noise_away_and_keeps_an_edge() -> None:
    shape, rng = (30, 28, 20), np.random.default_rng(1)
    inside = np.zeros(shape, bool)
    inside[2:-2, 2:-2, 2:-2] = True
    truth = np.where(np.indices(shape)[0] < 15, 100.0, 300.0)
    noisy = truth + rng.normal(0, 12, shape)
    cleaned = filtered(Denoised(("t1",)), np.where(inside, noisy, 0))
    assert not cleaned[~inside].any()
    core = (slice(5, -5),) * 3
    left, right = cleaned[5:13, 5:-5, 5:-5], cleaned[17:-5, 5:-5, 5:-5]
    assert left.std() < 0.6 * noisy[5:13, 5:-5, 5:-5].std() and right.std() < 0.6 * noisy[17:-5, 5:-5, 5:-5].std()
    jump = cleaned[15][core[1:]].mean() - cleaned[14][core[1:]].mean()
    assert jump > 0.75 * 200


@pytest.mark.parametrize("filter_", [BiasCorrectd, Denoised])
def test_the_filters_take_a_single_slice(filter_: Any) -> None:
    rng = np.random.default_rng(2)
    array = np.where(ellipsoid((32, 32, 3))[:, :, 1:2], 100 + rng.normal(0, 3, (32, 32, 1)), 0)
    result = filtered(filter_(("t1",)), array)
    assert result.shape == (32, 32, 1) and np.isfinite(result).all() and result.any()


def test_filters_run_only_where_the_model_asks(patient: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [type(step).__name__ for step in preprocess_chain(MODALITIES).transforms]
    assert "BiasCorrectd" not in names and "Denoised" not in names
    names = [type(s).__name__ for s in preprocess_chain(MODALITIES, bias_correction=True, denoise=True).transforms]
    assert names.index("BiasCorrectd") < names.index("Denoised") < names.index("AlignToReferenced")
    plain = prepare(patient, ("t1",))["image"]
    smooth = prepare(patient, ("t1",), denoise=True)["image"]
    assert smooth.shape == plain.shape and not torch.equal(smooth.as_tensor(), plain.as_tensor())


def test_a_channel_first_metatensor_knows_its_grid() -> None:
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    grid = grid_of(MetaTensor(torch.zeros(4, 5, 6, 7), affine=torch.as_tensor(affine)))
    assert grid.matches(Grid((5, 6, 7), affine))


# ---------------------------------------------------------------------------------------------------- blank air


def ball(shape: tuple[int, int, int], centre: tuple[float, float, float], radius: float) -> np.ndarray:
    index = np.indices(shape).reshape(3, -1).T
    return (np.linalg.norm(index - centre, axis=1) <= radius).reshape(shape)


def head_in_air() -> tuple[np.ndarray, np.ndarray]:
    """A head of 100 with a dark cavity, in air of 1 to 5; a bright speck of air lies apart. Returns image and head."""
    shape = (30, 30, 20)
    head, cavity = ball(shape, (14, 14, 10), 10), ball(shape, (14, 14, 10), 3)
    image = np.random.default_rng(0).uniform(1, 5, shape)
    image[head], image[cavity] = 100, 2
    image[1:3, 1:3, 1:3] = 90
    return image.astype(np.float32), head


def blanked(*channels: np.ndarray) -> np.ndarray:
    image = MetaTensor(torch.as_tensor(np.stack(channels)), affine=torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0])))
    result = BlankAird("image")({"image": image})["image"]
    assert torch.equal(result.affine, image.affine) and result.dtype == image.dtype
    return result.as_tensor().numpy()


def test_air_is_blanked_and_a_dark_ventricle_in_the_head_stays() -> None:
    image, head = head_in_air()
    (result,) = blanked(image)
    assert np.array_equal(result, np.where(head, image, 0))


def test_the_head_is_what_any_channel_shows_and_is_the_same_for_all() -> None:
    image, head = head_in_air()
    lower = image.copy()
    lower[..., :10] = 3  # this modality sees the upper half only
    first, second, third = blanked(lower, image, np.zeros_like(image))
    assert np.array_equal(first, np.where(head, lower, 0))
    assert np.array_equal(second, np.where(head, image, 0))
    assert not third.any()


def test_brightness_is_judged_in_each_channel_for_itself() -> None:
    image, head = head_in_air()
    faint, _ = blanked(image / 1000, image * 0 + 0.5 * head.astype(np.float32))
    assert np.array_equal(faint, np.where(head, image / 1000, 0))


def test_an_image_without_anything_stays_as_it_is() -> None:
    assert not blanked(np.zeros((5, 6, 7), np.float32)).any()


def test_a_single_slice_has_its_air_blanked_too() -> None:
    image, head = head_in_air()
    (result,) = blanked(image[..., 10:11])
    assert np.array_equal(result, np.where(head, image, 0)[..., 10:11])


@pytest.mark.parametrize("codes", ["LPS", "AIL"])
def test_the_chain_blanks_the_air_before_it_crops_and_normalises_whatever_the_files_orientation(
    tmp_path: Path, codes: str
) -> None:
    image, head = head_in_air()
    ras = nib.Nifti1Image(image, np.diag([1.0, 1.0, 1.0, 1.0]))
    start = nib.orientations.io_orientation(ras.affine)
    turned = ras.as_reoriented(nib.orientations.ornt_transform(start, nib.orientations.axcodes2ornt(codes)))
    nib.save(turned, tmp_path / "t1.nii.gz")
    source = {"t1": ImageSource((tmp_path / "t1.nii.gz",))}
    result = run_chain(preprocess_chain(("t1",), blank_air=True), source)["image"][0].numpy()
    box = tuple(slice(at.min(), at.max() + 1) for at in np.nonzero(head))
    inside = image[head]
    expected = np.where(head, (image - inside.mean()) / inside.std(), 0)[box]
    np.testing.assert_allclose(result, expected, atol=1e-4)
    without = run_chain(preprocess_chain(("t1",)), source)["image"]
    assert without.shape[1:] == image.shape  # air is not 0, so nothing is cropped
