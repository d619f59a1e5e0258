"""pipeline/score/metrics.py against hand-worked geometry, MONAI, brute force, and properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from scipy.spatial.distance import cdist

from pipeline.score import metrics
from pipeline.score.catalogue import measured

STANDARD = tuple(metric.key for metric in measured())
SURFACE = ("hd_mm", "hd95_mm", "assd_mm", "nsd")
VOLUME = ("volume_ml_prediction", "volume_ml_reference", "volume_error_ml", "volume_error_percent")
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


def only(scores: dict[str, float], *names: str) -> dict[str, float]:
    return {name: scores[name] for name in names}


# ---- hand-worked geometry ----


def test_one_call_gives_every_standard_score_in_the_order_of_the_table():
    assert tuple(metrics.region_scores(blobs(1), blobs(2), ISOTROPIC)) == STANDARD
    assert tuple(metrics.region_scores(blobs(1), blobs(2), None)) == STANDARD


def test_a_cube_shifted_by_two_voxels_has_hd_of_two_voxels_in_mm_along_that_axis():
    reference = box((5, 5, 5), (10, 10, 10))
    for axis, expected in enumerate((1.0, 2.5, 6.0)):
        scores = metrics.region_scores(np.roll(reference, 2, axis), reference, ANISOTROPIC)
        assert scores["dice"] == pytest.approx(0.8)  # 2 * 800 / 2000
        assert scores["iou"] == pytest.approx(800 / 1200)
        assert scores["hd_mm"] == pytest.approx(expected)


def test_a_cube_shifted_by_one_voxel_shares_324_of_its_488_boundary_voxels():
    reference = box((5, 5, 5), (10, 10, 10))
    prediction = np.roll(reference, 1, 0)
    # A slice of the shell has 36 voxels. In the 9 slices that both cubes have, one has its shell on the other's face or
    # on its shell: 9 x 36 shared. Any other boundary voxel is one voxel away from the other boundary.
    assert metrics.nsd(prediction, reference, (2.0, 1.0, 1.0), 0.0) == pytest.approx(324 / 488)
    assert metrics.nsd(prediction, reference, (2.0, 1.0, 1.0), 2.0) == 1.0
    # 488 - 324 = 164 on either side: the outermost face, 100, and the 64 of the other face that lie inside the shell.
    assert metrics.assd_mm(prediction, reference, (1.0, 1.0, 1.0)) == pytest.approx(164 / 488)


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


def test_average_and_nsd_pool_the_voxels_of_both_boundaries():
    # Distances 0 and 10 there, 0 back: mean 10/3 (the mean of the two directed means would be 2.5).
    pair, one = box((0, 0, 0), (1, 1, 1)) | box((10, 0, 0), (1, 1, 1)), box((0, 0, 0), (1, 1, 1))
    assert metrics.assd_mm(pair, one, ISOTROPIC) == pytest.approx(10 / 3)
    assert metrics.nsd(pair, one, ISOTROPIC) == pytest.approx(2 / 3)
    assert metrics.nsd(pair, one, ISOTROPIC, 9.99) == pytest.approx(2 / 3)
    assert metrics.nsd(pair, one, ISOTROPIC, 10.0) == 1.0


def test_a_spacing_that_float32_has_rounded_up_keeps_the_voxel_next_door_within_the_tolerance():
    one, next_door = box((3, 3, 3), (1, 1, 1)), box((4, 3, 3), (1, 1, 1))
    assert metrics.nsd(one, next_door, (1.0000001, 1.0, 1.0), 1.0) == 1.0
    assert metrics.nsd(one, next_door, (1.001, 1.0, 1.0), 1.0) == 0.0


@pytest.mark.parametrize("spacing", [ISOTROPIC, ANISOTROPIC, (1.0, 1.0, 7.0)])
def test_a_voxel_is_as_far_as_its_offset_says_near_by_and_far_off(spacing):
    reference = box((0, 0, 0), (1, 1, 1), (9, 9, 9))
    for offset in np.argwhere(np.ones((9, 9, 9), bool))[::5]:
        prediction = box(tuple(offset), (1, 1, 1), (9, 9, 9))
        assert metrics.hd_mm(prediction, reference, spacing) == pytest.approx(np.linalg.norm(offset * spacing))


def test_the_end_of_a_row_is_not_beside_the_start_of_the_next():
    end, start = box((0, 9), (1, 1), (2, 10)), box((1, 0), (1, 1), (2, 10))
    assert metrics.hd_mm(end, start, (1.0, 1.0)) == pytest.approx(math.hypot(1, 9))
    assert metrics.boundary(np.array([[0, 1, 1], [1, 1, 0]], bool)).sum() == 4


def test_the_larger_direction_counts_and_both_are_given():
    prediction, reference = box((3, 3, 3), (1, 1, 1)), box((3, 3, 3), (1, 1, 1)) | box((3, 3, 9), (1, 1, 1))
    there, back = metrics.surface_distances_mm(prediction, reference, (1, 1, 2))
    assert there.tolist() == [0.0] and sorted(back) == [0.0, 12.0]
    assert metrics.hd_mm(prediction, reference, (1, 1, 2)) == metrics.hd_mm(reference, prediction, (1, 1, 2)) == 12.0


def test_voxels_at_the_image_border_are_boundary():
    full = np.ones((4, 4, 4), bool)
    assert metrics.boundary(full).sum() == 64 - 8
    assert not metrics.boundary(np.zeros((4, 4, 4), bool)).any()
    fortran = np.asfortranarray(blobs(5))
    eroded = ndimage.binary_erosion(fortran, border_value=0)
    assert np.array_equal(metrics.boundary(fortran), fortran & ~eroded)


def test_a_case_of_the_brats_script_has_its_dice():
    # DOMAIN.md, worked case A: the whole-volume Dice of the official script.
    shape = (64, 64, 64)
    reference = box((5, 5, 5), (10, 10, 10), shape) | box((40, 40, 40), (8, 8, 8), shape)
    prediction = box((6, 5, 5), (10, 10, 10), shape) | box((50, 10, 10), (6, 6, 6), shape)
    assert metrics.dice(prediction, reference) == pytest.approx(0.659824, abs=1e-6)


def test_a_slice_stored_as_a_volume_scores_like_the_slice_and_has_a_volume():
    prediction, reference = blobs(1, (40, 40)), blobs(2, (40, 40))
    flat = metrics.region_scores(prediction, reference, (0.7, 1.5))
    millilitres = VOLUME[:3]
    assert all(math.isnan(flat[name]) for name in millilitres)
    for axis, spacing in ((0, (5.0, 0.7, 1.5)), (2, (0.7, 1.5, 5.0))):
        stored = metrics.region_scores(np.expand_dims(prediction, axis), np.expand_dims(reference, axis), spacing)
        assert stored["volume_ml_reference"] == pytest.approx(reference.sum() * 0.00525)
        same = [name for name in STANDARD if name not in millilitres]
        assert only(stored, *same) == pytest.approx(only(flat, *same))


def test_volume_is_voxels_times_voxel_volume_and_unknown_without_one():
    assert metrics.volume_ml(box((0, 0, 0), (10, 10, 10)), 0.002) == pytest.approx(2.0)
    assert metrics.volume_ml(np.zeros((3, 3), bool), 0.002) == 0.0
    assert math.isnan(metrics.volume_ml(np.ones((3, 3), bool), None))


def test_the_volume_error_has_the_sign_of_prediction_minus_reference():
    # A voxel of 0.5 x 1.25 x 3 mm is 1.875 mm3: 1000 and 512 of them are 1.875 and 0.96 ml.
    large, small = box((2, 2, 2), (10, 10, 10)), box((9, 9, 9), (8, 8, 8))
    scores = metrics.region_scores(small, large, ANISOTROPIC)
    assert [scores[name] for name in VOLUME] == pytest.approx([0.96, 1.875, -0.915, -48.8])
    scores = metrics.region_scores(large, small, ANISOTROPIC)
    assert [scores[name] for name in VOLUME] == pytest.approx([1.875, 0.96, 0.915, 95.3125])


# ---- the empty rule, and what is refused ----


PERFECT = {"dice": 1.0, "iou": 1.0, "hd_mm": 0.0, "hd95_mm": 0.0, "assd_mm": 0.0, "nsd": 1.0, "tversky": 1.0}
WORST = {"dice": 0.0, "iou": 0.0, "hd_mm": 374.0, "hd95_mm": 374.0, "assd_mm": 374.0, "nsd": 0.0, "tversky": 0.0}


@pytest.mark.parametrize("shape", [(6, 6, 6), (6, 6), (6, 6, 1), (1, 1, 1)])
def test_empty_rule(shape):
    empty, full = np.zeros(shape, bool), np.ones(shape, bool)
    spacing = (2.0,) * len(shape)
    assert only(metrics.region_scores(empty, empty, spacing), *PERFECT) == PERFECT
    assert only(metrics.region_scores(full, full, spacing), *PERFECT) == PERFECT
    for prediction, reference in ((empty, full), (full, empty)):
        assert only(metrics.region_scores(prediction, reference, spacing), *WORST) == WORST
        for distance in (metrics.hd_mm, metrics.hd95_mm, metrics.assd_mm):
            assert distance(prediction, reference, spacing, penalty_mm=337.0) == 337.0
        assert metrics.nsd(prediction, reference, spacing, 1000.0) == 0.0


def test_only_the_percentage_of_a_volume_that_is_not_there_has_no_value():
    empty, one = np.zeros((4, 4, 4), bool), box((1, 1, 1), (1, 1, 1), (4, 4, 4))
    for prediction, reference, error_ml, percent in (
        (empty, empty, 0.0, 0.0),
        (empty, one, -0.001, -100.0),
        (one, empty, 0.001, math.nan),
    ):
        scores = metrics.region_scores(prediction, reference, ISOTROPIC)
        assert scores["volume_error_ml"] == pytest.approx(error_ml)
        assert scores["volume_error_percent"] == pytest.approx(percent, nan_ok=True)
        assert not any(math.isnan(scores[name]) for name in STANDARD[:-1])


def test_surface_distances_of_an_empty_mask_are_none_and_infinite():
    there, back = metrics.surface_distances_mm(np.zeros((5, 5), bool), box((1, 1), (2, 2), (5, 5)), (1, 1))
    assert there.size == 0 and np.isinf(back).all() and back.size == 4
    both = metrics.surface_distances_mm(np.zeros((5, 5), bool), np.zeros((5, 5), bool), (1, 1))
    assert [d.size for d in both] == [0, 0]


def test_unknown_spacing_gives_no_millimetres_millilitres_or_nsd_empty_or_not():
    mask = box((1, 1, 1), (3, 3, 3), (6, 6, 6))
    larger = box((1, 1, 1), (3, 3, 4), (6, 6, 6))
    unknown = {*SURFACE, *VOLUME[:3]}
    for reference in (mask, larger, np.zeros_like(mask)):
        scores, known = metrics.region_scores(mask, reference, None), metrics.region_scores(mask, reference, ISOTROPIC)
        assert all(math.isnan(scores[name]) for name in unknown)
        rest = [name for name in STANDARD if name not in unknown]
        assert only(scores, *rest) == pytest.approx(only(known, *rest), nan_ok=True)
    assert math.isnan(metrics.nsd(mask, mask, None)) and math.isnan(metrics.assd_mm(mask, mask, None))
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
    for tolerance in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="tolerance_mm"):
            metrics.nsd(mask, mask, ISOTROPIC, tolerance)


# ---- oracles ----


@pytest.mark.parametrize("spacing", [ISOTROPIC, ANISOTROPIC])
@pytest.mark.parametrize("seed", range(4))
def test_equals_monai(seed, spacing):
    import monai.metrics as monai_metrics
    import torch

    prediction, reference = blobs(seed), blobs(seed + 100, threshold=0.3)
    pair = [torch.from_numpy(m)[None, None].float() for m in (prediction, reference)]
    scores = metrics.region_scores(prediction, reference, spacing)
    options = {"include_background": True, "spacing": spacing}
    oracle = {
        "hd95_mm": monai_metrics.compute_hausdorff_distance(*pair, percentile=95, **options),
        "hd_mm": monai_metrics.compute_hausdorff_distance(*pair, **options),
        "assd_mm": monai_metrics.compute_average_surface_distance(*pair, symmetric=True, **options),
        "nsd": monai_metrics.compute_surface_dice(*pair, [1.0], **options),
        "dice": monai_metrics.compute_dice(*pair, include_background=True),
        "iou": monai_metrics.compute_iou(*pair, include_background=True),
    }
    for name, value in oracle.items():
        assert scores[name] == pytest.approx(float(value), rel=1e-6, abs=1e-6)  # MONAI computes in float32
    for tolerance in (0.0, 0.5, 2.5, 6.0):
        theirs = monai_metrics.compute_surface_dice(*pair, [tolerance], **options)
        assert metrics.nsd(prediction, reference, spacing, tolerance) == pytest.approx(float(theirs), abs=1e-6)


@pytest.mark.parametrize("spacing", [ISOTROPIC, ANISOTROPIC])
def test_equals_simpleitk(spacing):
    import SimpleITK as sitk

    prediction, reference = blobs(3), blobs(33)
    images = [sitk.GetImageFromArray(np.pad(mask, 1).astype(np.uint8)) for mask in (prediction, reference)]
    for image in images:
        image.SetSpacing(spacing[::-1])  # SimpleITK counts the axes from the other end
    scores = metrics.region_scores(prediction, reference, spacing)

    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(images[1], images[0])  # source, target: its false negatives are relative to the second
    assert scores["dice"] == pytest.approx(overlap.GetDiceCoefficient())
    assert scores["iou"] == pytest.approx(overlap.GetJaccardCoefficient())
    overlap.Execute(images[0], images[1])
    assert scores["sensitivity"] == pytest.approx(1 - overlap.GetFalseNegativeError())

    # ITK's filter takes all voxels of a mask, so it is given the contours; the margin makes the image border one.
    contours = [sitk.BinaryContour(image, fullyConnected=False) for image in images]
    hausdorff = sitk.HausdorffDistanceImageFilter()
    hausdorff.Execute(*contours)
    assert scores["hd_mm"] == pytest.approx(hausdorff.GetHausdorffDistance(), rel=1e-6)

    maps = [sitk.Abs(sitk.SignedMaurerDistanceMap(c, squaredDistance=False, useImageSpacing=True)) for c in contours]
    there, back = (
        sitk.GetArrayFromImage(distance)[sitk.GetArrayFromImage(contour) > 0]
        for distance, contour in zip(maps[::-1], contours, strict=True)
    )
    assert scores["hd95_mm"] == pytest.approx(max(np.percentile(d, 95) for d in (there, back)), rel=1e-6)
    assert scores["assd_mm"] == pytest.approx(np.concatenate([there, back]).mean(), rel=1e-6)


@pytest.mark.parametrize(("shape", "spacing"), [((20, 18, 16), ANISOTROPIC), ((40, 30), (0.8, 2.0))])
def test_equals_brute_force_over_all_pairs_of_boundary_voxels(shape, spacing):
    prediction, reference = blobs(7, shape), blobs(8, shape)
    expected = brute_force(prediction, reference, spacing)
    for got, want in zip(metrics.surface_distances_mm(prediction, reference, spacing), expected, strict=True):
        np.testing.assert_allclose(np.sort(got), np.sort(want), rtol=1e-12)
    want95 = max(np.percentile(d, 95) for d in expected)
    assert metrics.hd95_mm(prediction, reference, spacing) == pytest.approx(want95, rel=1e-12)
    pooled = np.concatenate(expected)
    assert metrics.assd_mm(prediction, reference, spacing) == pytest.approx(pooled.mean(), rel=1e-12)
    assert metrics.nsd(prediction, reference, spacing, 1.7) == pytest.approx((pooled <= 1.7).mean(), rel=1e-12)


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
def test_scores_do_not_depend_on_flips_axis_order_memory_order_or_empty_margin(pair):
    prediction, reference, spacing = pair
    found = metrics.region_scores(prediction, reference, spacing)
    scores = pytest.approx(found, nan_ok=True)
    assert metrics.region_scores(np.flip(prediction), np.flip(reference), spacing) == scores
    assert metrics.region_scores(prediction.T, reference.T, spacing[::-1]) == scores
    for layout in ((np.asfortranarray, np.asarray), (np.asarray, np.asfortranarray)):
        masks = [order(mask) for order, mask in zip(layout, (prediction, reference), strict=True)]
        assert metrics.region_scores(*masks, spacing) == scores
    if min(prediction.shape) > 1:  # a margin around a single slice would make a volume of it
        padded = metrics.region_scores(np.pad(prediction, 2), np.pad(reference, 2), spacing)
        rest = [name for name in STANDARD if name not in ("specificity", "accuracy")]  # these count background
        assert only(padded, *rest) == pytest.approx(only(found, *rest), nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(pairs())
def test_prediction_and_reference_may_change_places(pair):
    prediction, reference, spacing = pair
    scores = metrics.region_scores(prediction, reference, spacing)
    swapped = metrics.region_scores(reference, prediction, spacing)
    symmetric = ("dice", "iou", "accuracy", *SURFACE)
    assert only(swapped, *symmetric) == pytest.approx(only(scores, *symmetric))
    assert swapped["volume_error_ml"] == pytest.approx(-scores["volume_error_ml"], nan_ok=True)
    if prediction.any() == reference.any():
        assert swapped["sensitivity"] == pytest.approx(scores["precision"])


@settings(max_examples=60, deadline=None)
@given(pairs(), st.sampled_from([0.25, 2.0, 3.7]))
def test_distances_scale_with_the_spacing_and_shares_do_not(pair, factor):
    prediction, reference, spacing = pair
    before = metrics.region_scores(prediction, reference, spacing)
    after = metrics.region_scores(
        prediction,
        reference,
        [factor * s for s in spacing],
        penalty_mm=factor * metrics.PENALTY_MM,
        tolerance_mm=factor,
    )
    power = {"hd_mm": 1, "hd95_mm": 1, "assd_mm": 1, **dict.fromkeys(VOLUME[:3], 3)}
    for name in STANDARD:
        assert after[name] == pytest.approx(factor ** power.get(name, 0) * before[name], nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(pairs())
def test_scores_stay_within_their_bounds(pair):
    prediction, reference, spacing = pair
    scores = metrics.region_scores(prediction, reference, spacing)
    shares = ("dice", "iou", "sensitivity", "specificity", "precision", "accuracy", "tversky", "nsd")
    assert all(0.0 <= scores[name] <= 1.0 for name in shares)
    assert 0.0 <= scores["hd95_mm"] <= scores["hd_mm"] and 0.0 <= scores["assd_mm"] <= scores["hd_mm"]
    assert scores["iou"] == pytest.approx(scores["dice"] / (2 - scores["dice"]))
    equal = np.array_equal(prediction, reference)
    assert (scores["dice"] == 1.0) == (scores["iou"] == 1.0) == equal
    assert not equal or scores["hd_mm"] == scores["volume_error_percent"] == 0.0


@settings(max_examples=60, deadline=None)
@given(pairs(), st.lists(st.floats(0, 30), min_size=2, max_size=2))
def test_nsd_rises_with_the_tolerance_and_is_one_at_the_hausdorff_distance(pair, tolerances):
    prediction, reference, spacing = pair
    low, high = (metrics.nsd(prediction, reference, spacing, tolerance) for tolerance in sorted(tolerances))
    assert low <= high
    if prediction.any() == reference.any():
        assert metrics.nsd(prediction, reference, spacing, metrics.hd_mm(prediction, reference, spacing)) == 1.0


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.uint8, (4, 3, 5), elements=st.integers(0, 2)), st.floats(1e-4, 10))
def test_volumes_of_parts_add_up_to_the_volume_of_the_whole(labels, voxel_ml):
    parts = [metrics.volume_ml(labels == label, voxel_ml) for label in (1, 2)]
    assert sum(parts) == pytest.approx(metrics.volume_ml(labels > 0, voxel_ml))
    spacing = (voxel_ml, 20.0, 50.0)  # mm, the product is voxel_ml again
    scores = metrics.region_scores(labels == 1, labels == 2, spacing)
    assert [scores["volume_ml_prediction"], scores["volume_ml_reference"]] == pytest.approx(parts)
    assert scores["volume_error_ml"] == pytest.approx(parts[0] - parts[1], abs=1e-9)


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
        "iou": 3 / 6,
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
