"""pipeline/score/lesionwise.py against the official scripts' worked cases, hand-worked boxes, a slow rewriting and
properties."""

from __future__ import annotations

import dataclasses
import math
import time
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from data.errors import InputError
from pipeline.score.lesionwise import LESIONWISE, LesionwiseRules, lesionwise_scores, lesionwise_sets
from pipeline.score.surface_elements import area_weighted_hd95_mm
from transforms.postprocess import dilate_18

MM = (1.0, 1.0, 1.0)
EMPTY = np.zeros((64, 64, 64), bool)


def box(corner: tuple[int, ...], size: int | tuple[int, ...], shape: tuple[int, ...] = (64, 64, 64)) -> np.ndarray:
    """A filled box of ``size`` voxels whose lowest voxel is ``corner``."""
    mask = np.zeros(shape, bool)
    sizes = (size,) * len(corner) if isinstance(size, int) else size
    mask[tuple(slice(c, c + s) for c, s in zip(corner, sizes, strict=True))] = True
    return mask


def scores(prediction: np.ndarray, reference: np.ndarray, name: str, region: str = "WT", spacing=MM) -> dict:
    return lesionwise_scores(prediction, reference, spacing, LESIONWISE[name], region)


# ---- the worked cases of the official scripts: every label is 3, so each region is the whole mask ----

A = box((6, 5, 5), 10) | box((50, 10, 10), 6), box((5, 5, 5), 10) | box((40, 40, 40), 8)
E = box((10, 10, 10), 10), box((10, 10, 10), 10) | box((50, 50, 50), 3)
G = box((10, 10, 10), 8), box((10, 10, 10), 8) | box((22, 10, 10), 8)
GLIOMA_2023 = ("brats2023-gli", "brats2023-ssa", "brats2023-ped")


@pytest.mark.parametrize("region", ["WT", "TC", "ET"])
@pytest.mark.parametrize("name", GLIOMA_2023)
def test_case_a_one_lesion_shifted_one_missed_and_one_invented(name, region):
    expected = {
        "dice": 0.3,
        "hd95_mm": 249.6667,
        "whole_dice": 0.659824,
        "whole_hd95_mm": 43.920383,
        "sensitivity": 0.595238,
    }
    got = scores(*A, name, region)
    assert {key: got[key] for key in expected} == pytest.approx(expected, abs=1e-4)
    assert (got["tp"], got["fp"], got["fn"]) == (1, 1, 1)


@pytest.mark.parametrize("name", LESIONWISE)
def test_case_b_nothing_to_find_and_nothing_found_is_perfect(name):
    got = scores(EMPTY, EMPTY, name)
    assert (got["dice"], got["hd95_mm"], got["whole_dice"], got["whole_hd95_mm"]) == (1, 0, 1, 0)
    assert (got["tp"], got["fp"], got["fn"], got["sensitivity"], got["specificity"]) == (0, 0, 0, 1, 1)


@pytest.mark.parametrize("name", [name for name in LESIONWISE if name != "brats2024-gli"])
def test_case_c_an_invented_lesion_costs_everything(name):
    got = scores(box((10, 10, 10), 6), EMPTY, name)
    assert (got["dice"], got["hd95_mm"], got["whole_dice"], got["whole_hd95_mm"]) == (0, 374, 0, 374)
    assert (got["tp"], got["fp"], got["fn"], got["sensitivity"]) == (0, 1, 0, 0)
    assert got["specificity"] == pytest.approx(1 - 6**3 / 64**3)


@pytest.mark.parametrize(
    ("name", "dice", "hd95", "fn"),
    [(name, 1.0, 0.0, 0) for name in GLIOMA_2023]
    + [("brats2023-met", 0.5, 187.0, 1), ("brats2024-gli", 0.5, 168.5, 1)],
)
def test_case_e_a_small_lesion_missed_counts_where_the_challenge_counts_it(name, dice, hd95, fn):
    got = scores(*E, name)
    assert (got["dice"], got["hd95_mm"]) == pytest.approx((dice, hd95), abs=1e-4)
    assert (got["tp"], got["fp"], got["fn"]) == (1, 0, fn)
    assert (got["whole_dice"], got["whole_hd95_mm"]) == pytest.approx((0.98668, 53.712196), abs=1e-4)


@pytest.mark.parametrize(
    ("name", "dice", "hd95"), [(name, 0.666667, 12.0) for name in GLIOMA_2023] + [("brats2023-met", 0.5, 187.0)]
)
def test_case_g_near_lesions_are_one_lesion_where_the_challenge_dilates_far_enough(name, dice, hd95):
    got = scores(*G, name)
    assert (got["dice"], got["hd95_mm"]) == pytest.approx((dice, hd95), abs=1e-4)


# ---- the rules, one at a time ----


def test_the_challenges_have_their_rules():
    by_name = {
        name: (rules.dilation_iterations, rules.dropped_reference_mm3, rules.penalty_mm)
        for name, rules in LESIONWISE.items()
    }
    assert by_name == {
        "brats2023-gli": (3, 50, 374),
        "brats2023-ssa": (3, 50, 374),
        "brats2023-ped": (3, 50, 374),
        "brats2023-men": (1, 50, 374),
        "brats2023-met": (1, 2, 374),
        "brats2024-gli": (3, 0, 337),
    }
    assert [name for name, rules in LESIONWISE.items() if rules.merge_predictions] == ["brats2024-gli"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        LESIONWISE["brats2023-met"].penalty_mm = 0  # type: ignore[misc]


@pytest.mark.parametrize("gap", [6, 7])
def test_three_dilations_join_pieces_with_six_voxels_between_and_not_seven(gap):
    # Each piece grows by three voxels; the grown pieces then touch face to face.
    reference = box((5, 5, 5), 8) | box((13 + gap, 5, 5), 8)
    got = scores(box((5, 5, 5), 8), reference, "brats2023-gli")
    assert (got["tp"], got["fn"]) == ((1, 0) if gap == 6 else (1, 1))
    assert got["dice"] == pytest.approx(2 / 3 if gap == 6 else 1 / 2)


def test_dilation_grows_over_faces_and_edges_but_not_over_corners():
    # With one dilation a predicted voxel must lie at a face or an edge of the lesion; across its corner is too far.
    reference = box((10, 10, 10), 4)
    touching_edge, touching_corner = box((14, 14, 10), 4), box((14, 14, 14), 4)
    assert scores(touching_edge, reference, "brats2023-met")["tp"] == 1
    assert scores(touching_corner, reference, "brats2023-met")["tp"] == 0


@pytest.mark.parametrize(("region", "iterations", "name"), [("WT", 3, "brats2023-gli"), ("WT", 1, "brats2023-men")])
def test_a_prediction_that_only_touches_the_dilated_lesion_is_a_match_with_dice_zero(region, iterations, name):
    reference = box((10, 10, 10), 5)
    near, far = box((14 + iterations, 10, 10), 5), box((15 + iterations, 10, 10), 5)
    got = scores(near, reference, name, region)
    assert (got["tp"], got["fp"], got["fn"], got["dice"]) == (1, 0, 0, 0.0)
    assert got["hd95_mm"] == 4.0 + iterations
    got = scores(far, reference, name, region)
    assert (got["tp"], got["fp"], got["fn"], got["dice"], got["hd95_mm"]) == (0, 1, 1, 0.0, 374.0)


def test_one_prediction_may_match_two_lesions_and_is_scored_whole_against_each():
    first, second = box((10, 10, 10), 5), box((40, 10, 10), 5)
    bar = box((10, 10, 10), (35, 5, 5))
    got = scores(bar, first | second, "brats2023-gli")
    assert (got["tp"], got["fp"], got["fn"]) == (2, 0, 0)
    assert got["dice"] == pytest.approx(2 * 125 / (125 + 875))
    assert got["hd95_mm"] == area_weighted_hd95_mm(bar, first, MM)


def test_all_predicted_pieces_on_a_lesion_are_scored_together():
    reference = box((10, 10, 10), (12, 5, 5))
    pieces = box((10, 10, 10), (5, 5, 5)) | box((17, 10, 10), (5, 5, 5))
    got = scores(pieces, reference, "brats2023-gli")
    assert (got["tp"], got["fp"]) == (1, 0)
    assert got["dice"] == pytest.approx(2 * 250 / (300 + 250))


@pytest.mark.parametrize(("size", "counts"), [((5, 5, 2), False), ((17, 3, 1), True)])
def test_a_reference_lesion_of_just_fifty_mm3_is_dropped_and_one_of_fifty_one_counts(size, counts):
    got = scores(box((40, 40, 40), 6), box((10, 10, 10), size) | box((40, 40, 40), 6), "brats2023-men")
    assert got["fn"] == int(counts) and got["dice"] == pytest.approx(1 / 2 if counts else 1)


def test_the_limit_is_in_mm3_and_rounding_of_the_affine_does_not_shift_it():
    lesion = box((10, 10, 10), (5, 5, 2))  # 50 voxels
    assert scores(EMPTY, lesion, "brats2023-gli", spacing=(1.0000001, 1, 1))["fn"] == 0
    assert scores(EMPTY, lesion, "brats2023-gli", spacing=(1.01, 1, 1))["fn"] == 1
    assert scores(EMPTY, lesion, "brats2023-met", spacing=(0.2, 0.4, 0.4))["fn"] == 0  # 1.6 mm3


def test_a_found_lesion_that_is_dropped_is_no_hit_and_its_prediction_no_invention():
    small = box((10, 10, 10), 3)
    got = scores(small, small, "brats2023-gli")
    assert (got["tp"], got["fp"], got["fn"], got["dice"], got["hd95_mm"]) == (0, 0, 0, 1.0, 0.0)
    assert got["whole_dice"] == 1.0


def test_an_invented_voxel_is_a_false_positive_in_2023_and_removed_in_2024():
    lesion = box((10, 10, 10), 8)
    speck = lesion | box((50, 50, 50), 1)
    assert scores(speck, lesion, "brats2023-gli")["fp"] == 1
    got = scores(speck, lesion, "brats2024-gli")
    assert (got["fp"], got["dice"], got["whole_dice"], got["whole_hd95_mm"]) == (0, 1.0, 1.0, 0.0)


@pytest.mark.parametrize(("region", "limit"), [("WT", 20), ("TC", 20), ("RC", 20), ("ET", 10)])
def test_2024_removes_predictions_of_just_the_limit_and_keeps_one_voxel_more(region, limit):
    lesion = box((40, 40, 40), 6)
    for voxels, fp in ((limit, 0), (limit + 1, 1)):
        got = scores(lesion | box((5, 5, 5), (voxels, 1, 1)), lesion, "brats2024-gli", region)
        assert (got["fp"], got["dice"]) == (fp, 1 / (1 + fp))


def test_2024_counts_near_predicted_pieces_as_one_before_it_removes_small_ones():
    lesion = box((40, 40, 40), 6)
    specks = box((5, 5, 5), (12, 1, 1)) | box((5, 10, 5), (12, 1, 1))  # four voxels between: one component of 24
    assert scores(lesion | specks, lesion, "brats2024-gli")["fp"] == 1
    assert scores(lesion | specks, lesion, "brats2023-gli")["fp"] == 2
    apart = box((5, 5, 5), (12, 1, 1)) | box((5, 15, 5), (12, 1, 1))
    assert scores(lesion | apart, lesion, "brats2024-gli")["fp"] == 0


def test_2024_matches_a_far_piece_through_its_near_neighbour():
    lesion = box((10, 10, 10), 5)
    near, far = (
        box((10, 10, 10), 5),
        box((20, 10, 10), 5),
    )  # five voxels between the pieces, the far one not on the lesion
    assert scores(near | far, lesion, "brats2023-gli")["fp"] == 1
    got = scores(near | far, lesion, "brats2024-gli")
    assert (got["fp"], got["dice"]) == (0, pytest.approx(2 * 125 / 375))


def test_2024_drops_no_reference_lesion_and_its_penalty_is_337():
    got = scores(EMPTY, box((10, 10, 10), 1), "brats2024-gli")
    assert (got["fn"], got["dice"], got["hd95_mm"], got["whole_hd95_mm"]) == (1, 0.0, 337.0, 337.0)
    got = scores(box((10, 10, 10), 2), EMPTY, "brats2024-gli")  # 8 voxels: removed, nothing is left on either side
    assert (got["dice"], got["hd95_mm"], got["whole_dice"], got["whole_hd95_mm"]) == (1.0, 0.0, 1.0, 0.0)


# ---- unknown spacing, thin arrays, and what is refused ----


def test_unknown_spacing_gives_what_needs_no_millimetres():
    got = scores(*A, "brats2024-gli", spacing=None)
    assert got["dice"] == pytest.approx(0.3) and got["whole_dice"] == pytest.approx(0.659824, abs=1e-6)
    assert (got["tp"], got["fp"], got["fn"]) == (1, 1, 1)
    assert math.isnan(got["hd95_mm"]) and math.isnan(got["whole_hd95_mm"])
    got = scores(*A, "brats2023-gli", spacing=None)  # which lesions have more than 50 mm3 nobody knows
    assert all(math.isnan(got[key]) for key in ("dice", "hd95_mm", "tp", "fn", "whole_hd95_mm"))
    assert got["fp"] == 1 and got["whole_dice"] == pytest.approx(0.659824, abs=1e-6)
    assert math.isnan(scores(EMPTY, EMPTY, "brats2024-gli", spacing=None)["hd95_mm"])


@pytest.mark.parametrize("name", ["brats2023-gli", "brats2023-met", "brats2024-gli"])
def test_a_slice_stored_as_a_volume_scores_like_the_slice(name):
    reference = box((5, 5), 10, (64, 64)) | box((40, 40), 8, (64, 64))
    prediction = box((6, 5), 10, (64, 64)) | box((20, 50), 6, (64, 64))
    flat = scores(prediction, reference, name, spacing=(1.0, 1.0))
    assert (flat["tp"], flat["fp"], flat["fn"]) == (1, 1, 1)
    for axis in range(3):
        stored = np.expand_dims(prediction, axis), np.expand_dims(reference, axis)
        assert scores(*stored, name) == flat


def test_the_thickness_of_a_stored_slice_is_part_of_a_lesions_volume():
    lesion = box((5, 5), (6, 5), (20, 20))[..., None]
    assert scores(np.zeros_like(lesion), lesion, "brats2023-gli", spacing=(1, 1, 1))["fn"] == 0  # 30 mm3
    assert scores(np.zeros_like(lesion), lesion, "brats2023-gli", spacing=(1, 1, 5))["fn"] == 1


def test_a_flat_lesion_in_a_volume_has_a_surface_on_both_sides():
    # Not a slice: HD95 must be that of the whole-volume function, which knows that the image goes on.
    reference, prediction = box((10, 10, 10), (10, 10, 1)), box((11, 10, 10), (10, 10, 1))
    other = box((40, 40, 40), 6)
    got = scores(prediction | other, reference | other, "brats2023-met")
    assert got["hd95_mm"] == pytest.approx(area_weighted_hd95_mm(prediction, reference, MM) / 2)


def test_masks_that_cannot_be_compared_are_refused_with_what_they_are():
    mask = np.zeros((4, 4, 4), bool)
    with pytest.raises(ValueError, match="uint8"):
        scores(mask.astype(np.uint8), mask, "brats2023-gli")
    with pytest.raises(ValueError, match=r"\(4, 4, 4\) and \(4, 4, 3\)"):
        scores(mask, mask[..., :3], "brats2023-gli")
    with pytest.raises(ValueError, match="3 positive numbers"):
        scores(mask, mask, "brats2023-gli", spacing=(1, 1))


# ---- oracles ----


def slow_scores(prediction, reference, spacing, rules: LesionwiseRules, region: str) -> dict[str, float]:
    """The definition, written again from its text, voxel by voxel over whole arrays."""
    struct, everywhere = ndimage.generate_binary_structure(3, 2), np.ones((3, 3, 3))
    n_dilations = rules.dilation_iterations

    def merged(mask):
        return np.where(
            mask, ndimage.label(ndimage.binary_dilation(mask, struct, iterations=n_dilations), everywhere)[0], 0
        )

    if rules.merge_predictions:
        predicted, limit = merged(prediction), 10 if region == "ET" else 20
        for number in np.unique(predicted[predicted > 0]):
            if (predicted == number).sum() <= limit:
                predicted[predicted == number] = 0
    else:
        predicted = ndimage.label(prediction, everywhere)[0]
    lesions = merged(reference)
    touched, found, dices, distances, missed = set(), 0, [], [], 0
    for number in np.unique(lesions[lesions > 0]):
        lesion = lesions == number
        grown = ndimage.binary_dilation(lesion, struct, iterations=n_dilations)
        matched = set(np.unique(predicted[grown])) - {0}
        touched |= matched
        if lesion.sum() * np.prod(spacing) <= rules.dropped_reference_mm3:
            continue
        union = np.isin(predicted, list(matched)) & (predicted > 0)
        found, missed = found + bool(matched), missed + (not matched)
        dices.append(2 * (union & lesion).sum() / (union.sum() + lesion.sum()))
        distances.append(area_weighted_hd95_mm(union, lesion, spacing, rules.penalty_mm))
    invented = len(set(np.unique(predicted)) - {0} - touched)
    total, kept = len(dices) + invented, predicted > 0
    return {
        "dice": sum(dices) / total if total else 1.0,
        "hd95_mm": (sum(distances) + invented * rules.penalty_mm) / total if total else 0.0,
        "tp": found,
        "fp": invented,
        "fn": missed,
        "whole_hd95_mm": area_weighted_hd95_mm(kept, reference, spacing, rules.penalty_mm),
    }


def specks(seed: int, shape: tuple[int, ...], threshold: float, sigma: float = 1.0) -> np.ndarray:
    """Many small lesions, some at the border."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), sigma)
    return noise > threshold * noise.std()


@pytest.mark.parametrize("name", ["brats2023-gli", "brats2023-men", "brats2023-met", "brats2024-gli"])
@pytest.mark.parametrize(("seed", "region", "spacing"), [(0, "WT", MM), (1, "ET", (0.7, 1.0, 2.5)), (2, "ET", MM)])
def test_many_small_lesions_score_as_in_the_definition_written_again(seed, region, spacing, name):
    reference = specks(seed, (36, 34, 32), 2.3, 1.5)
    # Half of the lesions are found, a voxel off, and others invented.
    prediction = np.roll(reference, 1, 0) & (np.arange(34) < 17)[:, None] | specks(seed + 9, (36, 34, 32), 2.6)
    got = lesionwise_scores(prediction, reference, spacing, LESIONWISE[name], region)
    expected = slow_scores(prediction, reference, spacing, LESIONWISE[name], region)
    assert min(expected["tp"], expected["fp"] + expected["fn"]) > 0
    assert {key: got[key] for key in expected} == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("order", [sorted(LESIONWISE), sorted(LESIONWISE, reverse=True)], ids=["up", "down"])
def test_sets_that_are_scored_together_score_as_each_alone(order):
    reference = specks(3, (36, 34, 32), 2.3, 1.5)
    prediction = np.roll(reference, 1, 0) & (np.arange(34) < 17)[:, None] | specks(12, (36, 34, 32), 2.6)
    together = lesionwise_sets(prediction, reference, MM, {name: LESIONWISE[name] for name in order}, "WT")
    assert list(together) == order
    for name in order:
        expected = slow_scores(prediction, reference, MM, LESIONWISE[name], "WT")
        assert {key: together[name][key] for key in expected} == pytest.approx(expected, rel=1e-9), name
    # The rules of 2024 remove specks first, so these two compare other masks, and one has another penalty.
    assert together["brats2024-gli"]["whole_dice"] != together["brats2023-gli"]["whole_dice"]
    alone = lesionwise_sets(EMPTY, box((5, 5, 5), 9), MM, {name: LESIONWISE[name] for name in order}, "WT")
    assert {name: got["whole_hd95_mm"] for name, got in alone.items()} == {
        name: 337.0 if name == "brats2024-gli" else 374.0 for name in order
    }


@pytest.mark.parametrize("name", ["brats2023-gli", "brats2023-met", "brats2024-gli"])
def test_a_real_patient_shifted_by_two_voxels_scores_as_in_the_definition_written_again(real_patients, name):
    import nibabel

    labels = np.asarray(nibabel.load(next(real_patients.glob("*01481/*seg.nii.gz"))).dataobj)
    reference = labels == 4
    prediction = np.roll(reference, 2, 0)
    where = np.argwhere(reference)
    cut = tuple(slice(low - 8, high + 8) for low, high in zip(where.min(0), where.max(0), strict=True))
    got = lesionwise_scores(prediction, reference, MM, LESIONWISE[name], "ET")
    expected = slow_scores(prediction[cut], reference[cut], MM, LESIONWISE[name], "ET")
    assert {key: got[key] for key in expected} == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("shape", [(20, 18, 16), (30, 25), (5, 1, 7)])
@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_dilation_is_scipys(shape, iterations):
    mask = np.random.default_rng(4).random(shape) > 0.97
    struct = ndimage.generate_binary_structure(len(shape), 2)
    expected = ndimage.binary_dilation(mask, struct, iterations=iterations) if iterations else mask
    assert np.array_equal(dilate_18(mask, iterations), expected)


# ---- properties ----

names = st.sampled_from(sorted(LESIONWISE))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    shape = draw(st.tuples(*[st.integers(6, 16)] * 3))
    masks = [specks(draw(st.integers(0, 10_000)), shape, draw(st.sampled_from([1.5, 2.2]))) for _ in range(2)]
    return masks[0], masks[1], draw(st.tuples(*[st.sampled_from([0.5, 1.0, 2.5])] * 3))


@settings(max_examples=25, deadline=None)
@given(pairs(), names)
def test_scores_do_not_depend_on_flips_axis_order_or_memory_layout(pair, name):
    prediction, reference, spacing = pair
    expected = pytest.approx(scores(prediction, reference, name, spacing=spacing))
    assert scores(np.flip(prediction), np.flip(reference), name, spacing=spacing) == expected
    assert scores(np.flip(prediction, 1), np.flip(reference, 1), name, spacing=spacing) == expected
    assert scores(prediction.T, reference.T, name, spacing=spacing[::-1]) == expected
    assert scores(np.asfortranarray(prediction), reference, name, spacing=spacing) == expected


@settings(max_examples=20, deadline=None)
@given(pairs(), names)
def test_an_empty_margin_changes_nothing_but_the_specificity(pair, name):
    prediction, reference, spacing = pair
    before = scores(prediction, reference, name, spacing=spacing)
    after = scores(np.pad(prediction, 5), np.pad(reference, 5), name, spacing=spacing)
    assert after | {"specificity": 0} == pytest.approx(before | {"specificity": 0})


@settings(max_examples=20, deadline=None)
@given(pairs(), names.filter(lambda name: name != "brats2024-gli"))
def test_a_perfect_prediction_misses_and_invents_nothing(pair, name):
    reference, spacing = pair[0], (3.0, 3.0, 3.0)
    got = scores(reference, reference, name, spacing=spacing)
    assert (got["fp"], got["fn"], got["whole_dice"], got["whole_hd95_mm"]) == (0, 0, 1.0, 0.0)
    if ndimage.label(dilate_18(reference, 3), np.ones((3, 3, 3)))[1] <= 1:
        assert (got["dice"], got["hd95_mm"]) == (1.0, 0.0)


@pytest.mark.parametrize("name", LESIONWISE)
def test_far_lesions_found_exactly_score_one_and_zero(name):
    reference = box((5, 5, 5), 6) | box((30, 30, 30), 8) | box((50, 5, 50), (4, 9, 5))
    got = scores(reference, reference, name)
    assert (got["dice"], got["hd95_mm"], got["tp"]) == (1.0, 0.0, 3)
    assert got["sensitivity"] == got["specificity"] == 1.0


@settings(max_examples=25, deadline=None)
@given(pairs(), names)
def test_one_more_far_false_positive_lowers_dice_by_n_over_n_plus_one_and_adds_one_penalty(pair, name):
    prediction, reference = (np.pad(mask, (0, 16)) for mask in pair[:2])
    spacing, region = pair[2], "WT"
    before = scores(prediction, reference, name, region, spacing)
    invented = prediction.copy()
    invented[-4:, -4:, -4:] = True
    after = scores(invented, reference, name, region, spacing)
    n, penalty = before["tp"] + before["fp"] + before["fn"], LESIONWISE[name].penalty_mm
    assert (after["tp"], after["fp"], after["fn"]) == (before["tp"], before["fp"] + 1, before["fn"])
    assert after["dice"] == pytest.approx(before["dice"] * n / (n + 1))
    assert after["hd95_mm"] == pytest.approx((before["hd95_mm"] * n + penalty) / (n + 1))
    assert after["sensitivity"] == before["sensitivity"] or not reference.any()


@settings(max_examples=20, deadline=None)
@given(pairs(), names)
def test_scores_stay_within_their_bounds_and_leave_the_masks_as_they_were(pair, name):
    prediction, reference, spacing = pair
    before = prediction.copy(), reference.copy()
    got = scores(prediction, reference, name, spacing=spacing)
    for key in ("dice", "whole_dice", "sensitivity", "specificity"):
        assert 0.0 <= got[key] <= 1.0
    assert 0.0 <= got["hd95_mm"] <= LESIONWISE[name].penalty_mm
    assert np.array_equal(prediction, before[0]) and np.array_equal(reference, before[1])


def test_lesions_without_number_within_one_predicted_piece_are_refused_before_hours_of_work():
    """8,000 lesions in a mask that is everything would each be compared in the whole volume."""
    reference = np.zeros((100, 100, 100), bool)
    for first, second, third in product((1, 2), repeat=3):
        reference[first::5, second::5, third::5] = True  # 20 ** 3 cubes of 8 mm3
    start = time.process_time()
    with pytest.raises(InputError, match=r"8000 reference lesions touch .* leave the lesion-wise metrics out"):
        lesionwise_scores(np.ones_like(reference), reference, (1.0, 1.0, 1.0), LESIONWISE["brats2023-met"], "WT")
    assert time.process_time() - start < 60
