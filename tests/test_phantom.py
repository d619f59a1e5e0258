"""Phantom patients: the same from the same seed, anatomically right, and readable by others."""

from __future__ import annotations

import hashlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from data import phantom_template
from data.case import ImageSource
from data.errors import UsageError
from data.grid import Grid
from data.io import read_header
from data.phantom import Phantom, make_phantom, make_phantom_slice, write_phantom
from data.phantom_anatomy import make_anatomy
from data.phantom_contrast import draw_contrast, render

SMALL = {"shape": (60, 60, 39), "spacing_mm": (4.0, 4.0, 4.0)}
MODALITIES = ["t1", "t1c", "t2", "flair"]
RIMMED = 0  # a seed with a closed rim


@pytest.fixture(scope="module")
def phantoms() -> list[Phantom]:
    return [make_phantom(seed, **SMALL) for seed in range(8)]


@pytest.fixture(scope="module")
def fine() -> Phantom:
    return make_phantom(RIMMED, shape=(120, 120, 78), spacing_mm=(2.0, 2.0, 2.0))


def brain_of(phantom: Phantom) -> np.ndarray:
    return phantom.images["t1"] > 0


def z_scores(phantom: Phantom, modality: str) -> np.ndarray:
    image = phantom.images[modality]
    inside = image[image > 0]
    return (image - inside.mean()) / inside.std()


def test_the_same_seed_gives_the_same_bits_and_another_seed_another_patient(phantoms: list[Phantom]) -> None:
    first, again, other = phantoms[3], make_phantom(3, **SMALL), phantoms[4]
    for name in MODALITIES:
        assert first.images[name].tobytes() == again.images[name].tobytes()
        assert first.images[name].tobytes() != other.images[name].tobytes()
    assert first.label_map.tobytes() == again.label_map.tobytes()
    assert first.label_map.tobytes() != other.label_map.tobytes()


def test_the_same_seed_at_another_spacing_is_the_same_patient(phantoms: list[Phantom], fine: Phantom) -> None:
    coarse = phantoms[RIMMED]
    for mask in (lambda p: brain_of(p), lambda p: p.label_map > 0):
        volumes = [mask(p).sum() * p.grid.voxel_volume_ml for p in (coarse, fine)]
        assert volumes[0] == pytest.approx(volumes[1], rel=0.05)
        middles = [(np.argwhere(mask(p)).mean(axis=0) + 0.5) * p.grid.spacing_mm for p in (coarse, fine)]
        np.testing.assert_allclose(middles[0], middles[1], atol=3.0)


def test_images_are_whole_numbers_that_an_int16_holds(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        assert list(phantom.images) == MODALITIES
        assert phantom.label_map.dtype == np.uint8
        for image in phantom.images.values():
            assert image.dtype == np.float32 and image.shape == SMALL["shape"]
            assert image.min() == 0 and image.max() < 2**15
            assert np.array_equal(image, np.rint(image))


def test_the_background_is_zero_and_the_brain_the_same_in_every_modality(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        brain = brain_of(phantom)
        assert all(np.array_equal(image > 0, brain) for image in phantom.images.values())
        assert not phantom.label_map[~brain].any()
        assert 1000 < brain.sum() * phantom.grid.voxel_volume_ml < 1900
        assert not brain[[0, -1]].any() and not brain[:, [0, -1]].any()


def test_volumes_are_those_of_real_tumours(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        voxel = phantom.grid.voxel_volume_ml
        assert 20 <= (phantom.label_map > 0).sum() * voxel <= 120
        assert 5 <= np.isin(phantom.label_map, (1, 3)).sum() * voxel <= 40
        assert set(np.unique(phantom.label_map)) <= {0, 1, 2, 3}


def test_the_core_lies_inside_the_oedema(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        core = np.isin(phantom.label_map, (1, 3))
        around = ndimage.binary_dilation(core) & ~core & brain_of(phantom)
        # Oedema leaves cortex and sulci out, so a core that touches them has gaps around it.
        assert (phantom.label_map[around] == 2).mean() > 0.35


def test_every_piece_of_oedema_touches_a_core(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        pieces, count = ndimage.label(phantom.label_map > 0)
        with_core = set(np.unique(pieces[np.isin(phantom.label_map, (1, 3))])) - {0}
        assert len(with_core) == count


def test_a_closed_rim_surrounds_the_necrosis_and_is_a_few_millimetres_thick(fine: Phantom) -> None:
    label_map = fine.label_map
    necrosis, rim = label_map == 1, label_map == 3
    assert necrosis.any()
    around = ndimage.binary_dilation(necrosis) & ~necrosis
    assert (label_map[around] == 3).mean() > 0.95
    depth_mm = ndimage.distance_transform_edt(necrosis | rim, sampling=2.0)
    assert 1.5 <= depth_mm[rim].max() <= 9.0
    assert depth_mm[rim].mean() < depth_mm[necrosis].mean()


def test_some_tumours_enhance_little() -> None:
    shares = []
    for seed in range(14):
        label_map = make_phantom(seed, shape=(40, 40, 26), spacing_mm=(6.0, 6.0, 6.0)).label_map
        shares.append((label_map == 3).sum() / np.isin(label_map, (1, 3)).sum())
    assert min(shares) < 0.15 and np.median(shares) > 0.3


def test_contrast_follows_tissue_in_every_modality(phantoms: list[Phantom]) -> None:
    for seed, phantom in enumerate(phantoms):
        anatomy = make_anatomy(seed, phantom.grid)
        pure = {name: fraction > 0.9 for name, fraction in anatomy.tissues.items()}
        mean = {
            (modality, tissue): image[anatomy.box][where & anatomy.brain].mean()
            for modality, image in phantom.images.items()
            for tissue, where in pure.items()
            if (where & anatomy.brain).sum() >= 10
        }
        assert mean["t1", "wm"] > mean["t1", "gm"] > mean["t1", "csf"]
        assert mean["t2", "csf"] > mean["t2", "gm"] > mean["t2", "wm"]
        assert mean["flair", "csf"] < min(mean["flair", "gm"], mean["flair", "wm"])
        for modality in ("t2", "flair"):
            assert mean[modality, "oedema"] > mean[modality, "wm"]
        assert mean["t1", "oedema"] < mean["t1", "wm"]


def test_the_rim_is_bright_on_t1c_alone(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        rim, necrosis = phantom.label_map == 3, phantom.label_map == 1
        if min(rim.sum(), necrosis.sum()) < 30:
            continue
        assert z_scores(phantom, "t1c")[rim].mean() > z_scores(phantom, "t1c")[necrosis].mean() + 1
        assert z_scores(phantom, "t1c")[rim].mean() > z_scores(phantom, "t1")[rim].mean() + 1


def test_a_flair_threshold_finds_most_of_the_tumour_but_not_all_as_in_real_patients(phantoms: list[Phantom]) -> None:
    dice = []
    for phantom in phantoms:
        bright, truth = z_scores(phantom, "flair") > 1, phantom.label_map > 0
        dice.append(2 * (bright & truth).sum() / (bright.sum() + truth.sum()))
    assert 0.4 < np.mean(dice) < 0.95


def test_the_contrast_can_be_replaced_without_touching_the_anatomy(phantoms: list[Phantom]) -> None:
    anatomy = make_anatomy(0, phantoms[0].grid)
    contrast = draw_contrast(0)
    negative = {
        name: {key: value if key in ("sd", "level") else -value for key, value in row.items()}
        for name, row in contrast.items()
    }
    wm, gm = (anatomy.tissues[name] > 0.9 for name in ("wm", "gm"))
    image = render(anatomy, negative, 0)["t1"]
    assert image[wm & anatomy.brain].mean() < image[gm & anatomy.brain].mean()
    total = sum(anatomy.tissues.values())
    np.testing.assert_allclose(total, 1.0, atol=1e-4)


def test_the_grid_is_that_of_brats() -> None:
    grid = make_phantom(0, shape=(24, 24, 16), spacing_mm=(10.0, 10.0, 10.0)).grid
    assert grid.orientation == "LPS"
    # BraTS: 240 voxels of 1 mm have the origin at (0, 239, 0); 24 of 10 mm have the last voxel's centre at 230 mm.
    np.testing.assert_array_equal(grid.affine, [[-10, 0, 0, 0], [0, -10, 0, 230], [0, 0, 10, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 80, 7), (33, 20, 41), (64, 64, 3), (300, 2, 2)])
def test_any_shape_gives_a_patient_of_that_shape(shape: tuple[int, int, int]) -> None:
    phantom = make_phantom(1, shape=shape, spacing_mm=(2.0, 3.0, 2.5))
    assert phantom.label_map.shape == phantom.grid.shape == shape
    assert phantom.grid.spacing_mm == pytest.approx((2.0, 3.0, 2.5))


@given(
    seed=st.integers(0, 2**40),
    shape=st.tuples(st.integers(14, 30), st.integers(16, 30), st.integers(12, 20)),
    spacing=st.tuples(*[st.floats(5.0, 10.0)] * 3),
)
@settings(max_examples=15, deadline=None)
def test_every_seed_has_a_tumour_inside_a_brain(
    seed: int, shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    phantom = make_phantom(seed, shape=shape, spacing_mm=spacing)
    brain = brain_of(phantom)
    assert np.isin(phantom.label_map, (1, 3)).any()
    assert not phantom.label_map[~brain].any()
    for image in phantom.images.values():
        assert np.isfinite(image).all() and image.min() >= 0 and np.array_equal(image > 0, brain)


@pytest.mark.parametrize("seed", range(6))
def test_a_slice_shows_a_tumour(seed: int) -> None:
    phantom = make_phantom_slice(seed, shape=(120, 120), spacing_mm=(2.0, 2.0))
    assert phantom.label_map.shape == (120, 120, 1)
    assert np.isin(phantom.label_map, (1, 3)).sum() * 4 > 200  # mm2
    assert (phantom.label_map == 2).any()
    brain = brain_of(phantom)
    assert all(np.array_equal(image > 0, brain) for image in phantom.images.values())
    assert 5_000 < brain.sum() * 4 < 30_000  # mm2
    again = make_phantom_slice(seed, shape=(120, 120), spacing_mm=(2.0, 2.0))
    assert np.array_equal(again.label_map, phantom.label_map)


def test_a_slice_has_the_grid_of_brats_by_default() -> None:
    phantom = make_phantom_slice(0)
    assert phantom.grid.shape == (240, 240, 1)
    assert phantom.grid.spacing_mm == (1.0, 1.0, 1.0)


def test_a_written_patient_opens_at_the_same_place_in_nibabel_and_simpleitk(tmp_path: Path) -> None:
    folder = write_phantom(tmp_path / "new", 7, shape=(30, 32, 20), spacing_mm=(7.0, 6.5, 8.0))
    assert folder == tmp_path / "new" / "BraTS-GLI-90007-000"
    phantom = make_phantom(7, shape=(30, 32, 20), spacing_mm=(7.0, 6.5, 8.0))
    arrays = {"t1n": "t1", "t1c": "t1c", "t2w": "t2", "t2f": "flair"}
    assert sorted(p.name for p in folder.iterdir()) == sorted(f"{folder.name}-{s}.nii.gz" for s in (*arrays, "seg"))
    for suffix in (*arrays, "seg"):
        path = folder / f"{folder.name}-{suffix}.nii.gz"
        by_nibabel, by_itk = nib.Nifti1Image.from_filename(path), SimpleITK.ReadImage(str(path))
        expected = phantom.label_map if suffix == "seg" else phantom.images[arrays[suffix]]
        assert by_nibabel.get_data_dtype() == (np.uint8 if suffix == "seg" else np.int16)
        assert (int(by_nibabel.header["sform_code"]), int(by_nibabel.header["qform_code"])) == (1, 1)
        assert by_nibabel.header.get_xyzt_units()[0] == "mm"
        assert np.array_equal(np.asarray(by_nibabel.dataobj), expected)
        assert np.array_equal(SimpleITK.GetArrayFromImage(by_itk).transpose(2, 1, 0), expected)
        assert Grid(by_nibabel.shape, by_nibabel.affine).matches(phantom.grid)
        for voxel in ((0, 0, 0), (29, 31, 19), (3, 17, 8)):
            in_lps = np.array(by_itk.TransformIndexToPhysicalPoint(voxel))
            np.testing.assert_allclose(in_lps * [-1, -1, 1], (by_nibabel.affine @ [*voxel, 1])[:3], atol=1e-3)


def test_a_written_patient_is_read_back_without_a_warning(tmp_path: Path) -> None:
    folder = write_phantom(tmp_path, 1, shape=(16, 18, 12), spacing_mm=(11.0, 12.0, 13.0))
    headers = [read_header(ImageSource((path,))) for path in folder.iterdir()]
    assert len(headers) == 5 and not any(header.warnings for header in headers)
    assert sorted(header.dtype for header in headers) == ["int16"] * 4 + ["uint8"]


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    digests = []
    for place in ("a", "b"):
        folder = write_phantom(tmp_path / place, 2, shape=(20, 20, 14), spacing_mm=(9.0, 9.0, 9.0), patient_name="Anna")
        assert folder.name == "Anna"
        digests.append({p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()})
    assert digests[0] == digests[1]


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="spacing_mm"):
        make_phantom(0, shape=(8, 8, 8), spacing_mm=(1.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="spacing_mm"):
        make_phantom(0, shape=(8, 8, 8), spacing_mm=(1.0, 1.0))
    with pytest.raises(ValueError, match="three axes"):
        make_phantom(0, shape=(8, 0, 8))
    with pytest.raises(ValueError):
        make_phantom(-1, shape=(8, 8, 8))


def test_a_missing_template_is_one_sentence_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phantom_template.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install nilearn"):
        phantom_template.template.__wrapped__()
