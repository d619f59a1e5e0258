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

from data.case import ImageSource
from data.errors import UsageError
from data.grid import Grid
from data.io.read import read_header
from data.phantom import template as phantom_template
from data.phantom.anatomy import TISSUES, make_anatomy
from data.phantom.contrast import (
    SHOWN_ON,
    RandomContrast,
    contrast_to_noise,
    draw_contrast,
    draw_random_contrast,
    is_visible,
    render,
    render_random,
)
from data.phantom.fields import Axes
from data.phantom.patient import Phantom, draw_patient, make_phantom, write_phantom
from data.phantom.shapes import place_tumour
from tests.conftest import make_phantom_slice

SMALL = {"shape": (60, 60, 39), "spacing_mm": (4.0, 4.0, 4.0)}
MODALITIES = ["t1", "t1c", "t2", "flair"]
RIMMED = 0  # a seed with a closed rim


@pytest.fixture(scope="module")
def phantoms() -> list[Phantom]:
    return [make_phantom(seed, **SMALL) for seed in range(5)]


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
    for seed in range(10):
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


@pytest.mark.parametrize("shape", [(1, 1, 1), (33, 20, 41), (64, 64, 3), (300, 2, 2)])
def test_any_shape_gives_a_patient_of_that_shape(shape: tuple[int, int, int]) -> None:
    phantom = make_phantom(1, shape=shape, spacing_mm=(2.0, 3.0, 2.5))
    assert phantom.label_map.shape == phantom.grid.shape == shape
    assert phantom.grid.spacing_mm == pytest.approx((2.0, 3.0, 2.5))


@given(
    seed=st.integers(0, 2**40),
    shape=st.tuples(st.integers(14, 30), st.integers(16, 30), st.integers(12, 20)),
    spacing=st.tuples(*[st.floats(5.0, 10.0)] * 3),
)
@settings(max_examples=6, deadline=None)
def test_every_seed_has_a_tumour_inside_a_brain(
    seed: int, shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    phantom = make_phantom(seed, shape=shape, spacing_mm=spacing)
    brain = brain_of(phantom)
    assert np.isin(phantom.label_map, (1, 3)).any()
    assert not phantom.label_map[~brain].any()
    for image in phantom.images.values():
        assert np.isfinite(image).all() and image.min() >= 0 and np.array_equal(image > 0, brain)


@pytest.mark.parametrize("seed", range(3))
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


# Random contrast.


def flat_contrast(**means: float) -> RandomContrast:
    """Every tissue at 0.5 of full scale but those named; standard deviation 0.05 throughout."""
    return RandomContrast(
        means={tissue: means.get(tissue, 0.5) for tissue in TISSUES}, sds=dict.fromkeys(TISSUES, 0.05), level=1000.0
    )


def test_the_contrast_to_noise_ratio_is_that_of_its_definition() -> None:
    # (0.7 - 0.5) / 0.05 = 4; with standard deviations 0.03 and 0.04 of 0.2 apart: 0.2 / sqrt((0.0009 + 0.0016) / 2).
    contrast = flat_contrast(oedema=0.7)
    assert contrast_to_noise(contrast, "oedema", "wm") == pytest.approx(4.0)
    uneven = RandomContrast(contrast.means, contrast.sds | {"oedema": 0.03, "wm": 0.04})
    assert contrast_to_noise(uneven, "wm", "oedema") == pytest.approx(0.2 / 0.035355, rel=1e-4)


def test_a_tumour_is_visible_only_on_the_modalities_that_show_it() -> None:
    plain = flat_contrast()
    shown = {
        "t1": flat_contrast(necrosis=0.1),
        "t1c": flat_contrast(rim=0.9),
        "t2": flat_contrast(oedema=0.9),
        "flair": plain,
    }
    assert is_visible(shown)
    for modality in ("t1", "t1c", "t2"):
        assert not is_visible(shown | {modality: plain})
    # A rim that is bright on T1 alone, or oedema that is bright on T1c alone, is not what a reader draws.
    assert not is_visible(shown | {"t1c": plain, "t1": flat_contrast(necrosis=0.1, rim=0.9)})
    assert not is_visible(shown | {"t2": plain, "t1c": flat_contrast(rim=0.9, oedema=0.1)})
    # Oedema like grey matter is not seen, however far from white matter it is.
    assert not is_visible(shown | {"t2": flat_contrast(oedema=0.9, gm=0.9)})
    # Rim and necrosis apart from the brain, but alike everywhere: their border cannot be drawn.
    assert not is_visible(shown | {"t1": plain, "t1c": flat_contrast(rim=0.9, necrosis=0.9)})


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_drawn_shows_the_tumour_and_lies_in_the_published_ranges(seed: int) -> None:
    contrasts = draw_random_contrast(seed)
    assert list(contrasts) == MODALITIES
    for tissue, modalities in SHOWN_ON.items():
        apart = [
            min(
                abs(c.means[tissue] - c.means[other]) / np.sqrt((c.sds[tissue] ** 2 + c.sds[other] ** 2) / 2)
                for other in ("gm", "wm")
            )
            for c in (contrasts[m] for m in modalities)
        ]
        assert max(apart) >= 2
    for contrast in contrasts.values():
        assert all(25 / 255 < mean < 230 / 255 for mean in contrast.means.values())
        assert all(5 / 255 < sd < 26 / 255 for sd in contrast.sds.values())
    assert draw_random_contrast(seed) == contrasts != draw_random_contrast(seed + 1)


def test_a_random_contrast_leaves_truth_and_brain_as_they_are(phantoms: list[Phantom]) -> None:
    for seed in range(2):
        drawn = make_phantom(seed, contrast="random", **SMALL)
        assert np.array_equal(drawn.label_map, phantoms[seed].label_map)
        for image in drawn.images.values():
            assert np.array_equal(image > 0, brain_of(phantoms[seed]))
            assert image.dtype == np.float32 and image.max() < 2**15 and np.array_equal(image, np.rint(image))
        again = make_phantom(seed, contrast="random", **SMALL)
        assert all(np.array_equal(again.images[m], drawn.images[m]) for m in MODALITIES)


def test_random_contrasts_have_no_order_of_tissues() -> None:
    drawn = [draw_random_contrast(seed)["t1"].means for seed in range(40)]
    brighter = sum(means["wm"] > means["gm"] for means in drawn)
    assert 8 <= brighter <= 32  # a fair coin leaves this range with a chance of 1 in 10,000


def test_a_tissue_has_the_mean_and_deviation_of_its_gaussian(phantoms: list[Phantom]) -> None:
    anatomy = make_anatomy(0, phantoms[0].grid)
    contrast = flat_contrast(wm=0.8)
    for gamma, level in ((1.0, 0.8), (2.0, 0.64)):
        table = RandomContrast(contrast.means, contrast.sds, gamma=gamma, resolution_mm=(1.0, 1.0, 1.0))
        image = render_random(anatomy, {"t1": table}, 5)["t1"]
        inside = image[(anatomy.tissues["wm"] > 0.98) & anatomy.brain]
        assert inside.mean() == pytest.approx(1000 * level, rel=0.04)
        # The derivative of x ** gamma carries the deviation: gamma * 0.8 ** (gamma - 1) * 0.05.
        assert inside.std() == pytest.approx(1000 * gamma * 0.8 ** (gamma - 1) * 0.05, rel=0.2)


def test_a_coarse_resolution_blurs_along_its_own_axis_only() -> None:
    anatomy = make_anatomy(0, make_phantom(0, shape=(40, 48, 40), spacing_mm=(4.0, 4.0, 4.0)).grid)
    table = RandomContrast(dict.fromkeys(TISSUES, 0.5), dict.fromkeys(TISSUES, 0.05), resolution_mm=(4.0, 4.0, 16.0))
    image = render_random(anatomy, {"t1": table}, 3)["t1"]
    deep = ndimage.binary_erosion(anatomy.brain, iterations=3)

    def roughness(axis: int) -> float:
        both = deep & np.roll(deep, -1, axis)
        return float(np.abs(np.roll(image, -1, axis) - image)[both].mean())

    assert roughness(2) < 0.6 * min(roughness(0), roughness(1))


def test_every_tumour_tissue_stands_out_on_the_images_themselves() -> None:
    for seed in range(3):
        phantom = make_phantom(seed, contrast="random", **SMALL)
        brain = brain_of(phantom) & (phantom.label_map == 0)
        for tissue, label in (("oedema", 2), ("necrosis", 1), ("rim", 3)):
            here = phantom.label_map == label
            if here.sum() < 40:
                continue
            # Some modality in which the tissue's mean is far from the typical voxel of the brain around the tumour.
            near = brain & ndimage.binary_dilation(phantom.label_map > 0, iterations=3)
            away = [
                abs(np.median(phantom.images[m][here]) - np.median(phantom.images[m][near]))
                / phantom.images[m][near].std()
                for m in MODALITIES
            ]
            assert max(away) > 0.7, (seed, tissue)


# Real shapes.


def empty_head(spacing_mm: float = 1.5) -> tuple[Axes, dict[str, np.ndarray]]:
    """A cube of 120 mm that is all brain, deep and dry."""
    axis = np.arange(-60, 60, spacing_mm, dtype=np.float32)
    shape = (axis.size,) * 3
    return (axis, axis, axis), {
        "brain": np.ones(shape, dtype=bool),
        "csf": np.zeros(shape, dtype=np.float32),
        "depth": np.full(shape, 40.0, dtype=np.float32),
    }


def onion(spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Ellipsoids of half axes 18, 14, 12 mm: necrosis to 0.45 of them, a rim to 0.65, oedema to 1."""
    places = [np.arange(-21, 21.1, step) for step in spacing_mm]
    x, y, z = np.meshgrid(*places, indexing="ij")
    far = np.sqrt((x / 18) ** 2 + (y / 14) ** 2 + (z / 12) ** 2)
    return np.select([far < 0.45, far < 0.65, far < 1], [1, 3, 2], 0).astype(np.uint8)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.0, 3.0)])
def test_real_shapes_keep_their_volumes_on_average_when_they_are_not_scaled(
    spacing: tuple[float, float, float],
) -> None:
    axes, head = empty_head(2.0)
    labels = onion(spacing)
    seeds = [place_tumour(s, labels, spacing, axes, (3.0, -5.0, 2.0), scale=(1.0, 1.0), **head) for s in range(16)]
    for codes in ((1, 2, 3), (1, 3), (3,)):
        real_mm3 = np.isin(labels, codes).sum() * np.prod(spacing)
        ratios = [np.isin(placed, codes).sum() * 8 / real_mm3 for placed in seeds]
        # Bending swells one tumour and shrinks another, but favours neither.
        assert np.mean(ratios) == pytest.approx(1.0, abs=0.08)
        assert min(ratios) > 0.6 and max(ratios) < 1.6
    for placed in seeds:
        middle_mm = np.argwhere(placed).mean(axis=0) * 2 - 60
        # Bending shifts it by about 2 mm a standard deviation.
        np.testing.assert_allclose(middle_mm, (3.0, -5.0, 2.0), atol=8.0)


def test_a_real_shape_is_scaled_within_the_range_and_differs_from_seed_to_seed() -> None:
    axes, head = empty_head()
    labels = onion((1.0, 1.0, 1.0))
    placed = [place_tumour(seed, labels, (1.0, 1.0, 1.0), axes, (0.0, 0.0, 0.0), **head) for seed in range(8)]
    ratios = [np.count_nonzero(p) * 1.5**3 / np.count_nonzero(labels) for p in placed]
    assert 0.8**3 * 0.85 < min(ratios) < 0.9 and 1.1 < max(ratios) < 1.25**3 * 1.15
    assert not np.array_equal(placed[0], placed[1])


def test_a_real_shape_stays_out_of_background_and_ventricles_and_its_oedema_out_of_sulci() -> None:
    axes, head = empty_head()
    arguments = (0, onion((1.0, 1.0, 1.0)), (1.0, 1.0, 1.0), axes, (0.0, 0.0, 0.0))
    free = place_tumour(*arguments, **head)
    head["brain"][:40] = False
    head["csf"][:, :40] = 1
    sulcus = place_tumour(*arguments, **(head | {"depth": np.full_like(head["depth"], 5.0)}))
    ventricle = place_tumour(*arguments, **head)
    corner = (slice(40, None), slice(0, 40))
    assert (free[corner] > 0).any() and not sulcus[:40].any() and not ventricle[:40].any()
    assert not ventricle[:, :40].any()
    np.testing.assert_array_equal(sulcus[corner], np.where(free[corner] == 2, 0, free[corner]))
    np.testing.assert_array_equal(ventricle[40:, 40:], free[40:, 40:])


def test_a_patient_with_a_real_shape_has_it_inside_the_brain_at_about_its_size() -> None:
    labels = np.pad(onion((2.0, 2.0, 2.0)), 6)
    whole_ml = np.count_nonzero(labels) * 0.008
    for seed in range(2):
        phantom = make_phantom(seed, tumour_labels=labels, tumour_spacing_mm=(2.0, 2.0, 2.0), **SMALL)
        assert not phantom.label_map[~brain_of(phantom)].any()
        placed_ml = np.count_nonzero(phantom.label_map) * phantom.grid.voxel_volume_ml
        assert 0.8**3 * 0.6 * whole_ml < placed_ml < 1.25**3 * 1.2 * whole_ml
        assert set(np.unique(phantom.label_map)) == {0, 1, 2, 3}


def test_a_shape_of_oedema_alone_stays_oedema_alone() -> None:
    labels = (onion((2.0, 2.0, 2.0)) > 0) * 2
    phantom = make_phantom(0, tumour_labels=labels, tumour_spacing_mm=(2.0, 2.0, 2.0), **SMALL)
    assert set(np.unique(phantom.label_map)) == {0, 2}


# Small lesions and healthy heads.


@pytest.mark.parametrize("count", [1, 12])
def test_as_many_lesions_are_there_as_were_asked_for_each_of_the_size_of_a_metastasis(count: int) -> None:
    phantom = draw_patient(count, 3.0, contrast="mri", lesions=(count, count))
    cores = np.isin(phantom.label_map, (1, 3))
    pieces, found = ndimage.label(cores, np.ones((3, 3, 3)))
    assert found == count
    assert ndimage.label(phantom.label_map > 0)[1] <= count  # oedema of neighbours may flow together
    diameters_mm = np.cbrt(np.bincount(pieces.ravel())[1:] * 27.0 * 6 / np.pi)
    assert diameters_mm.min() >= 2.0 and diameters_mm.max() <= 18.0
    assert not phantom.label_map[~brain_of(phantom)].any()


def test_the_number_of_lesions_lies_in_the_range_and_varies() -> None:
    counts = [
        ndimage.label(
            np.isin(draw_patient(s, 5.0, contrast="mri", lesions=(0, 4)).label_map, (1, 3)), np.ones((3, 3, 3))
        )[1]
        for s in range(5)
    ]
    assert 0 <= min(counts) < max(counts) <= 4


def test_only_larger_lesions_are_necrotic_in_the_middle() -> None:
    label_map = draw_patient(3, 3.0, contrast="mri", lesions=(25, 25)).label_map
    pieces, _ = ndimage.label(np.isin(label_map, (1, 3)), np.ones((3, 3, 3)))
    necrotic = np.unique(pieces[label_map == 1])
    assert necrotic.size and np.bincount(pieces.ravel())[necrotic].min() * 27 > 4 / 3 * np.pi * 3.2**3


def test_a_healthy_head_has_an_empty_mask_and_a_whole_brain() -> None:
    for contrast in ("mri", "random"):
        phantom = make_phantom(2, lesions=(0, 0), contrast=contrast, **SMALL)
        assert not phantom.label_map.any()
        assert 1000 < brain_of(phantom).sum() * phantom.grid.voxel_volume_ml < 1900


def test_a_drawn_patient_fills_its_grid_without_being_cut() -> None:
    for spacing_mm, steps in ((4.0, (4.0, 4.0, 4.0)), ((5.0, 4.0, 6.0), (5.0, 4.0, 6.0))):
        phantom = draw_patient(1, spacing_mm)
        assert phantom.grid.spacing_mm == pytest.approx(steps)
        brain = brain_of(phantom)
        for axis in range(3):
            assert not np.take(brain, [0, -1], axis).any()
        full = brain_of(make_phantom(1, shape=(60, 64, 60), spacing_mm=steps))
        pieces, _ = ndimage.label(full)
        assert brain.sum() == pytest.approx(np.bincount(pieces.ravel())[1:].max(), rel=0.01)


def test_the_brain_of_a_drawn_patient_is_one_piece_and_nothing_lies_in_the_air_around_it() -> None:
    # Of these seeds, 20 has 17 ml of islands in the air when they are left, 6 a chunk that hangs on the forehead.
    for seed in (6, 20):
        brain = brain_of(draw_patient(seed, 4.0))
        pieces, _ = ndimage.label(brain)
        assert np.bincount(pieces.ravel())[1:].max() > 0.998 * brain.sum()
        # A head is as smooth as a ball: an opening by 12 mm takes little off.
        smooth = ndimage.binary_opening(brain, iterations=3)
        assert smooth.sum() > 0.95 * brain.sum()


def test_options_that_make_no_sense_are_refused() -> None:
    tiny = {"shape": (8, 8, 8), "spacing_mm": (20.0, 20.0, 20.0)}
    labels = onion((3.0, 3.0, 3.0))
    with pytest.raises(ValueError, match="contrast"):
        make_phantom(0, contrast="ct", **tiny)
    with pytest.raises(ValueError, match="least"):
        make_phantom(0, lesions=(3, 2), **tiny)
    with pytest.raises(ValueError, match="either"):
        make_phantom(0, lesions=(1, 2), tumour_labels=labels, **tiny)
    with pytest.raises(ValueError, match=r"\[4\]"):
        make_phantom(0, tumour_labels=np.where(labels == 3, 4, labels), **tiny)
    with pytest.raises(ValueError, match="no tumour"):
        make_phantom(0, tumour_labels=labels * 0, **tiny)
    with pytest.raises(ValueError, match="three axes"):
        make_phantom(0, tumour_labels=labels[0], **tiny)
    with pytest.raises(ValueError, match="tumour_spacing_mm"):
        make_phantom(0, tumour_labels=labels, tumour_spacing_mm=(1.0, 1.0, 0.0), **tiny)
    with pytest.raises(ValueError, match="spacing_mm"):
        draw_patient(0, -2.0)
