"""pipeline/metrics.py against hand-worked geometry, MONAI, brute force, and properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from scipy.spatial.distance import cdist

from pipeline import metrics

ISOTROPIC = (1.0, 1.0, 1.0)
ANISOTROPIC = (0.5, 1.25, 3.0)


def box(corner: tuple[int, ...], size: tuple[int, ...], shape: tuple[int, ...] = (24, 24, 24)) -> np.ndarray:
    """A filled box of ``size`` voxels whose lowest voxel is ``corner``."""
    mask = np.zeros(shape, bool)
    mask[tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True))] = True
    return mask


def blobs(seed: int, shape: tuple[int, ...] = (30, 28, 26), threshold: float = 0.15) -> np.ndarray:
    """Smooth random shapes of several components, some of them at the image border."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2.0)
    return noise > threshold * np.abs(noise).max()


def brute_force(
    prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """All pairwise distances between boundary voxels, found by scipy's erosion with nothing beyond the border."""
    points = [
        np.argwhere(m & ~ndimage.binary_erosion(m, border_value=0)) * np.asarray(spacing)
        for m in (prediction, reference)
    ]
    distances = cdist(*points)
    return distances.min(axis=1), distances.min(axis=0)


# ---- hand-worked geometry ----


def test_a_cube_shifted_by_two_voxels_has_hd_of_two_voxels_in_mm_along_that_axis():
    reference = box((5, 5, 5), (10, 10, 10))
    for axis, expected in enumerate((1.0, 2.5, 6.0)):
        scores = metrics.region_scores(np.roll(reference, 2, axis), reference, ANISOTROPIC)
        assert scores["dice"] == pytest.approx(0.8)  # 2 * 800 / 2000
        assert scores["hd_mm"] == pytest.approx(expected)


def test_hd95_of_a_small_spur_leaves_the_spur_out_and_hd_does_not():
    reference = box((5, 5, 5), (10, 10, 10))
    prediction = reference | box((15, 9, 9), (4, 1, 1))
    # 488 boundary voxels of the cube and 4 of the spur (and one less below it): fewer than 5 % are off.
    assert metrics.hd_mm(prediction, reference, ISOTROPIC) == 4.0
    assert metrics.hd95_mm(prediction, reference, ISOTROPIC) == 0.0


def test_two_single_voxels_are_as_far_apart_as_their_centres():
    one, other = box((2, 3, 4), (1, 1, 1)), box((5, 7, 4), (1, 1, 1))
    assert metrics.hd_mm(one, other, ISOTROPIC) == 5.0
    assert metrics.hd95_mm(one, other, (2.0, 1.0, 9.0)) == pytest.approx(math.hypot(6, 4))
    assert metrics.dice(one, other) == 0.0


def test_percentile_interpolates_linearly_between_two_distances():
    # From the pair of voxels to the single one: distances 0 and 10; 95th percentile 9.5. The other direction: 0.
    pair = box((0, 0, 0), (1, 1, 1)) | box((10, 0, 0), (1, 1, 1))
    assert metrics.hd95_mm(pair, box((0, 0, 0), (1, 1, 1)), ISOTROPIC) == pytest.approx(9.5)


def test_the_larger_direction_counts_and_both_are_given():
    prediction, reference = box((3, 3, 3), (1, 1, 1)), box((3, 3, 3), (1, 1, 1)) | box((3, 3, 9), (1, 1, 1))
    there, back = metrics.surface_distances_mm(prediction, reference, (1, 1, 2))
    assert there.tolist() == [0.0] and sorted(back) == [0.0, 12.0]
    assert metrics.hd_mm(prediction, reference, (1, 1, 2)) == metrics.hd_mm(reference, prediction, (1, 1, 2)) == 12.0


def test_voxels_at_the_image_border_are_boundary():
    full = np.ones((4, 4, 4), bool)
    assert metrics.boundary(full).sum() == 64 - 8
    assert not metrics.boundary(np.zeros((4, 4, 4), bool)).any()


def test_a_case_of_the_brats_script_has_its_dice():
    # DOMAIN.md, worked case A: the whole-volume Dice of the official script.
    shape = (64, 64, 64)
    reference = box((5, 5, 5), (10, 10, 10), shape) | box((40, 40, 40), (8, 8, 8), shape)
    prediction = box((6, 5, 5), (10, 10, 10), shape) | box((50, 10, 10), (6, 6, 6), shape)
    assert metrics.dice(prediction, reference) == pytest.approx(0.659824, abs=1e-6)


def test_a_slice_stored_as_a_volume_scores_like_the_slice():
    prediction, reference = blobs(1, (40, 40)), blobs(2, (40, 40))
    flat = metrics.region_scores(prediction, reference, (0.7, 1.5))
    for axis, spacing in ((0, (5.0, 0.7, 1.5)), (2, (0.7, 1.5, 5.0))):
        stored = metrics.region_scores(np.expand_dims(prediction, axis), np.expand_dims(reference, axis), spacing)
        assert stored == pytest.approx(flat)


def test_volume_is_voxels_times_voxel_volume_and_unknown_without_one():
    assert metrics.volume_ml(box((0, 0, 0), (10, 10, 10)), 0.002) == pytest.approx(2.0)
    assert metrics.volume_ml(np.zeros((3, 3), bool), 0.002) == 0.0
    assert math.isnan(metrics.volume_ml(np.ones((3, 3), bool), None))


# ---- the empty rule, and what is refused ----


@pytest.mark.parametrize("shape", [(6, 6, 6), (6, 6), (6, 6, 1), (1, 1, 1)])
def test_empty_rule(shape):
    empty, full = np.zeros(shape, bool), np.ones(shape, bool)
    spacing = (2.0,) * len(shape)
    assert metrics.region_scores(empty, empty, spacing) == {"dice": 1.0, "hd95_mm": 0.0, "hd_mm": 0.0}
    for prediction, reference in ((empty, full), (full, empty)):
        assert metrics.region_scores(prediction, reference, spacing) == {"dice": 0.0, "hd95_mm": 374.0, "hd_mm": 374.0}
        assert metrics.hd95_mm(prediction, reference, spacing, penalty_mm=337.0) == 337.0
    assert metrics.region_scores(full, full, spacing) == {"dice": 1.0, "hd95_mm": 0.0, "hd_mm": 0.0}


def test_surface_distances_of_an_empty_mask_are_none_and_infinite():
    there, back = metrics.surface_distances_mm(np.zeros((5, 5), bool), box((1, 1), (2, 2), (5, 5)), (1, 1))
    assert there.size == 0 and np.isinf(back).all() and back.size == 4
    both = metrics.surface_distances_mm(np.zeros((5, 5), bool), np.zeros((5, 5), bool), (1, 1))
    assert [d.size for d in both] == [0, 0]


def test_unknown_spacing_gives_dice_and_no_millimetres_empty_or_not():
    mask = box((1, 1, 1), (3, 3, 3), (6, 6, 6))
    for reference in (mask, np.zeros_like(mask)):
        scores = metrics.region_scores(mask, reference, None)
        assert (
            scores["dice"] == float(reference.any()) and math.isnan(scores["hd95_mm"]) and math.isnan(scores["hd_mm"])
        )
    with pytest.raises(ValueError, match="voxel size"):
        metrics.surface_distances_mm(mask, mask, None)


def test_masks_that_cannot_be_compared_are_refused_with_what_they_are():
    mask = np.zeros((4, 4, 4), bool)
    with pytest.raises(ValueError, match="uint8"):
        metrics.dice(mask.astype(np.uint8), mask)
    with pytest.raises(ValueError, match=r"\(4, 4, 4\) and \(4, 4, 3\)"):
        metrics.dice(mask, mask[..., :3])
    for spacing in ((1, 1), (1, 1, 0), (1, 1, math.nan), (1, 1, -1)):
        with pytest.raises(ValueError, match="3 positive numbers"):
            metrics.hd95_mm(mask, mask, spacing)


# ---- oracles ----


@pytest.mark.parametrize("spacing", [ISOTROPIC, ANISOTROPIC])
@pytest.mark.parametrize("seed", range(4))
def test_equals_monai(seed, spacing):
    import monai.metrics as monai_metrics
    import torch

    prediction, reference = blobs(seed), blobs(seed + 100, threshold=0.3)
    pair = [torch.from_numpy(m)[None, None].float() for m in (prediction, reference)]
    scores = metrics.region_scores(prediction, reference, spacing)
    for name, percentile in (("hd95_mm", 95), ("hd_mm", None)):
        oracle = monai_metrics.compute_hausdorff_distance(
            *pair, include_background=True, percentile=percentile, spacing=spacing
        )
        assert scores[name] == pytest.approx(float(oracle), rel=1e-6, abs=1e-6)  # MONAI computes in float32
    assert scores["dice"] == pytest.approx(float(monai_metrics.compute_dice(*pair, include_background=True)), abs=1e-6)


@pytest.mark.parametrize(("shape", "spacing"), [((20, 18, 16), ANISOTROPIC), ((40, 30), (0.8, 2.0))])
def test_equals_brute_force_over_all_pairs_of_boundary_voxels(shape, spacing):
    prediction, reference = blobs(7, shape), blobs(8, shape)
    expected = brute_force(prediction, reference, spacing)
    for got, want in zip(metrics.surface_distances_mm(prediction, reference, spacing), expected, strict=True):
        np.testing.assert_allclose(np.sort(got), np.sort(want), rtol=1e-12)
    want95 = max(np.percentile(d, 95) for d in expected)
    assert metrics.hd95_mm(prediction, reference, spacing) == pytest.approx(want95, rel=1e-12)


# ---- properties ----

shapes = hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=7)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    shape = draw(shapes)
    masks = [draw(hnp.arrays(bool, shape, elements=st.booleans())) for _ in range(2)]
    spacing = draw(st.tuples(*[st.sampled_from([0.5, 1.0, 1.3, 4.0])] * len(shape)))
    return masks[0], masks[1], spacing


@settings(max_examples=60, deadline=None)
@given(pairs())
def test_scores_do_not_depend_on_direction_flips_axis_order_or_empty_margin(pair):
    prediction, reference, spacing = pair
    scores = pytest.approx(metrics.region_scores(prediction, reference, spacing))
    assert metrics.region_scores(reference, prediction, spacing) == scores
    assert metrics.region_scores(np.flip(prediction), np.flip(reference), spacing) == scores
    assert metrics.region_scores(prediction.T, reference.T, spacing[::-1]) == scores
    assert metrics.region_scores(np.asfortranarray(prediction), reference, spacing) == scores
    if min(prediction.shape) > 1:  # a margin around a single slice would make a volume of it
        assert metrics.region_scores(np.pad(prediction, 2), np.pad(reference, 2), spacing) == scores


@settings(max_examples=60, deadline=None)
@given(pairs(), st.sampled_from([0.25, 2.0, 3.7]))
def test_distances_scale_with_the_spacing_and_dice_does_not(pair, factor):
    prediction, reference, spacing = pair
    before = metrics.region_scores(prediction, reference, spacing)
    after = metrics.region_scores(
        prediction, reference, [factor * s for s in spacing], penalty_mm=factor * metrics.PENALTY_MM
    )
    assert after["dice"] == before["dice"]
    for name in ("hd95_mm", "hd_mm"):
        assert after[name] == pytest.approx(factor * before[name])


@settings(max_examples=60, deadline=None)
@given(pairs())
def test_scores_stay_within_their_bounds(pair):
    prediction, reference, spacing = pair
    scores = metrics.region_scores(prediction, reference, spacing)
    assert 0.0 <= scores["dice"] <= 1.0
    assert 0.0 <= scores["hd95_mm"] <= scores["hd_mm"]
    assert (scores["dice"] == 1.0) == np.array_equal(prediction, reference)


def test_the_masks_are_left_as_they_were():
    prediction, reference = blobs(1), blobs(2)
    before = prediction.copy(), reference.copy()
    metrics.region_scores(prediction, reference, ISOTROPIC)
    assert np.array_equal(prediction, before[0]) and np.array_equal(reference, before[1])


# ---- every score that counts voxels ----


def test_the_counting_scores_of_ten_voxels_by_hand():
    # 3 hits, 1 invented, 2 missed, 4 rightly left out.
    prediction = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], bool)
    reference = np.array([1, 1, 1, 0, 1, 1, 0, 0, 0, 0], bool)
    expected = {
        "dice": 6 / 9,
        "sensitivity": 3 / 5,
        "specificity": 4 / 5,
        "precision": 3 / 4,
        "accuracy": 7 / 10,
        "tversky": 3 / (3 + 0.3 * 1 + 0.7 * 2),
    }
    assert metrics.overlap_scores(prediction, reference) == pytest.approx(expected)


def test_a_counting_score_without_a_denominator_is_one_for_equal_masks_and_else_zero():
    empty, full, one = np.zeros(4, bool), np.ones(4, bool), np.array([1, 0, 0, 0], bool)
    assert set(metrics.overlap_scores(empty, empty).values()) == {1.0}
    assert set(metrics.overlap_scores(full, full).values()) == {1.0}  # nothing to leave out: specificity 1
    missed = metrics.overlap_scores(empty, one)
    assert missed["precision"] == missed["sensitivity"] == missed["dice"] == missed["tversky"] == 0.0
    assert (missed["specificity"], missed["accuracy"]) == (1.0, 0.75)
    invented = metrics.overlap_scores(one, empty)
    assert invented["precision"] == invented["sensitivity"] == invented["dice"] == invented["tversky"] == 0.0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_counting_scores_are_those_of_monais_confusion_matrix(seed):
    import torch
    from monai.metrics.confusion_matrix import compute_confusion_matrix_metric, get_confusion_matrix

    prediction, reference = blobs(seed), blobs(seed + 10)
    tensors = [torch.as_tensor(mask)[None, None].float() for mask in (prediction, reference)]
    matrix = get_confusion_matrix(*tensors).double()
    names = {"dice": "f1 score", "sensitivity": "sensitivity", "specificity": "specificity", "precision": "precision"}
    ours = metrics.overlap_scores(prediction, reference)
    for name, theirs in (names | {"accuracy": "accuracy"}).items():
        assert ours[name] == pytest.approx(compute_confusion_matrix_metric(theirs, matrix).item(), abs=1e-6)


def test_masks_of_other_shapes_or_kinds_have_no_counting_scores():
    with pytest.raises(ValueError):
        metrics.overlap_scores(np.zeros(3, bool), np.zeros(4, bool))
    with pytest.raises(ValueError):
        metrics.overlap_scores(np.zeros(3), np.zeros(3))
