"""From probabilities to masks: thresholds, nesting, small components by volume, cavities."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage

from transforms.postprocess import (
    bounding_box,
    fill_cavities,
    label_components,
    largest_component,
    remove_small_components,
    to_masks,
    union_box,
)

PARENTS = {"WT": None, "TC": "WT", "ET": "TC"}
MASKS = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=3, max_side=7))


def row(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32).reshape(-1, 1, 1)


def test_a_voxel_at_the_threshold_belongs_to_the_region() -> None:
    masks = to_masks({"WT": row(0.49, 0.5, 0.51)}, {"WT": None}, 1.0)
    assert masks["WT"].ravel().tolist() == [False, True, True]
    masks = to_masks({"WT": row(0.49, 0.5, 0.75)}, {"WT": None}, 1.0, threshold=0.75)
    assert masks["WT"].ravel().tolist() == [False, False, True]


def test_a_drawn_mask_stands_in_for_the_threshold_and_is_cleaned_like_it() -> None:
    drawn = {"WT": row(1, 0, 0, 1, 1) > 0}
    before = drawn["WT"].copy()
    probabilities = {"WT": row(0, 1, 1, 1, 1), "TC": row(1, 1, 0, 1, 0)}
    masks = to_masks(probabilities, PARENTS, 1.0, min_component_ml={"WT": 2.0}, drawn=drawn)
    assert masks["WT"].ravel().tolist() == [False, False, False, True, True]
    assert masks["TC"].ravel().tolist() == [False, False, False, True, False]  # its threshold, cut to the drawn WT
    assert np.array_equal(drawn["WT"], before)


def test_regions_are_cut_to_the_one_around_them_all_the_way_down() -> None:
    probabilities = {"WT": row(1, 1, 0, 1), "TC": row(1, 0, 1, 1), "ET": row(1, 1, 1, 0)}
    nested = to_masks(probabilities, PARENTS, 1.0)
    assert nested["TC"].ravel().tolist() == [True, False, False, True]
    assert nested["ET"].ravel().tolist() == [True, False, False, False]  # the second is in WT but not in TC
    free = to_masks(probabilities, PARENTS, 1.0, nest=False)
    assert free["ET"].ravel().tolist() == [True, True, True, False]


def test_a_region_whose_parent_the_model_does_not_give_is_left_whole() -> None:
    assert to_masks({"ET": row(1, 1)}, PARENTS, 1.0)["ET"].all()


def test_the_smallest_component_is_exact_at_its_volume() -> None:
    # Components of 3 and 4 voxels of 0.25 ml: 1 ml is four of them.
    probability = row(1, 1, 1, 0, 1, 1, 1, 1)
    kept = to_masks({"WT": probability}, {"WT": None}, 0.25, min_component_ml={"WT": 1.0})["WT"]
    assert kept.ravel().tolist() == [False] * 4 + [True] * 4
    kept = to_masks({"WT": probability}, {"WT": None}, 0.25, min_component_ml={"WT": 0.75})["WT"]
    assert kept.sum() == 7


@pytest.mark.parametrize(("voxels", "voxel_ml"), [(7, 0.00225), (11, 0.00225), (25, 0.00225), (500, 0.001)])
def test_a_component_of_exactly_the_volume_stays_though_the_quotient_is_rounded_up(
    voxels: int, voxel_ml: float
) -> None:
    volume = round(voxels * voxel_ml, 6)  # 0.01575 / 0.00225 is 7.000000000000001
    masks = {n: np.ones((n, 1, 1), np.float32) for n in (voxels, voxels - 1)}
    assert to_masks({"WT": masks[voxels]}, {}, voxel_ml, min_component_ml={"WT": volume})["WT"].all()
    assert not to_masks({"WT": masks[voxels - 1]}, {}, voxel_ml, min_component_ml={"WT": volume})["WT"].any()


def test_only_named_regions_lose_components_and_inner_ones_go_with_the_outer() -> None:
    probabilities = {"WT": row(1, 0, 1, 1), "TC": row(1, 0, 1, 0)}
    masks = to_masks(probabilities, PARENTS, 1.0, min_component_ml={"WT": 2.0})
    assert masks["WT"].ravel().tolist() == [False, False, True, True]
    assert masks["TC"].ravel().tolist() == [False, False, True, False]  # of 1 ml, but no TC was named
    masks = to_masks(probabilities, PARENTS, 1.0, min_component_ml={"TC": 2.0})
    assert masks["WT"].sum() == 3 and not masks["TC"].any()


def test_with_unknown_spacing_no_component_is_removed() -> None:
    masks = to_masks({"WT": row(1, 0, 1)}, {}, math.nan, min_component_ml={"WT": 1e9})
    assert masks["WT"].sum() == 2


def test_voxels_that_touch_at_a_corner_are_one_component() -> None:
    mask = np.zeros((4, 4, 4), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[2, 2, 2] = True  # 26 neighbours, not 6 or 18
    mask[3, 0, 0] = True
    kept = remove_small_components(mask, 3)
    assert kept.sum() == 3 and not kept[3, 0, 0]
    flat = np.eye(3, dtype=bool)
    assert np.array_equal(remove_small_components(flat, 3), flat)
    assert not remove_small_components(flat, 4).any()


@settings(max_examples=80, deadline=None)
@given(MASKS, st.integers(0, 6))
def test_components_are_those_of_scipy(mask: NDArray[np.bool_], smallest: int) -> None:
    labels, n = ndimage.label(mask, np.ones((3,) * mask.ndim))
    expected = np.zeros_like(mask)
    for number in range(1, n + 1):
        if (labels == number).sum() >= smallest:
            expected |= labels == number
    before = mask.copy()
    assert np.array_equal(remove_small_components(mask, smallest), expected)
    assert np.array_equal(mask, before)


def test_a_closed_cavity_is_filled_and_an_open_one_is_not() -> None:
    shell = np.zeros((7, 7, 7), bool)
    shell[1:6, 1:6, 1:6] = True
    full = shell.copy()
    shell[2:5, 2:5, 2:5] = False
    assert np.array_equal(fill_cavities(shell), full)
    shell[1, 3, 3] = False  # a door
    assert np.array_equal(fill_cavities(shell), shell)
    probability = {"WT": full.astype(np.float32)}
    probability["WT"][3, 3, 3] = 0
    assert not to_masks(probability, {}, 1.0)["WT"][3, 3, 3]
    assert to_masks(probability, {}, 1.0, fill_holes=True)["WT"][3, 3, 3]


@settings(max_examples=60, deadline=None)
@given(MASKS)
def test_cavities_are_those_of_the_whole_array(mask: NDArray[np.bool_]) -> None:
    assert np.array_equal(fill_cavities(mask), ndimage.binary_fill_holes(mask))


@settings(max_examples=60, deadline=None)
@given(MASKS, st.integers(0, 2))
def test_the_bounding_box_is_the_smallest_that_loses_nothing(mask: NDArray[np.bool_], margin: int) -> None:
    box = bounding_box(mask, margin)
    assert mask[box].sum() == mask.sum()
    if not mask.any():
        assert not mask[box].size
        return
    for axis, (side, hits) in enumerate(zip(box, np.nonzero(mask), strict=True)):
        assert side.start == max(hits.min() - margin, 0), axis
        assert min(side.stop, mask.shape[axis]) == min(hits.max() + 1 + margin, mask.shape[axis])


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(bool, (2, 3, 5, 4)), st.integers(0, 2))
def test_the_box_around_two_masks_is_that_of_both_together(masks: NDArray[np.bool_], margin: int) -> None:
    together = np.zeros((3, 5, 4), bool)
    box = union_box([bounding_box(mask) for mask in masks], together.shape, margin)
    together[bounding_box(masks[0] | masks[1], margin)] = True
    shown = np.zeros_like(together)
    shown[box] = True
    assert np.array_equal(shown, together)


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.float32, (3, 6, 6, 4), elements=st.sampled_from([0.0, 0.25, 0.5, 1.0])), st.booleans())
def test_whatever_the_options_nested_regions_stay_nested(values: NDArray[np.float32], fill: bool) -> None:
    probabilities = dict(zip(("WT", "TC", "ET"), values, strict=True))
    masks = to_masks(probabilities, PARENTS, 0.5, min_component_ml={"WT": 3, "TC": 2, "ET": 1}, fill_holes=fill)
    assert not (masks["TC"] & ~masks["WT"]).any() and not (masks["ET"] & ~masks["TC"]).any()


def test_nothing_stays_nothing() -> None:
    empty = np.zeros((3, 4, 5), np.float32)
    masks = to_masks({"WT": empty, "TC": empty}, PARENTS, 1.0, min_component_ml={"WT": 1.0, "TC": 1.0}, fill_holes=True)
    assert all(m.shape == (3, 4, 5) and m.dtype == bool and not m.any() for m in masks.values())


def test_the_largest_component_is_the_one_of_most_voxels():
    mask = np.zeros((9, 4, 1), dtype=bool)
    mask[0, 0] = mask[3:6, 1] = mask[8, 3] = True
    expected = np.zeros_like(mask)
    expected[3:6, 1] = True
    assert np.array_equal(largest_component(mask), expected)
    assert not largest_component(np.zeros((3, 3, 3), dtype=bool)).any()


def test_components_are_numbered_across_corners_but_not_across_gaps():
    mask = np.array([[[True, False, True, False]], [[False, True, False, False]]])
    assert label_components(mask).max() == 1
    assert label_components(np.array([[[True, False, True]]])).tolist() == [[[1, 0, 2]]]


def test_components_below_a_share_of_the_largest_go_and_the_largest_always_stays():
    mask = np.zeros((30, 3, 3), dtype=bool)
    mask[0:10, 1, 1] = mask[15:20, 1, 1] = mask[25:29, 1, 1] = True  # 10, 5 and 4 voxels
    kept = remove_small_components(mask, 0, 0.5)
    assert kept[0:10, 1, 1].all() and kept[15:20, 1, 1].all() and kept.sum() == 15
    assert remove_small_components(mask, 0, 1.0).sum() == 10
    probabilities = {"WT": mask.astype(np.float32)}
    masks = to_masks(
        probabilities, PARENTS, float("nan"), min_component_ml={"WT": 1.0}, min_component_share={"WT": 0.5}
    )
    assert masks["WT"].sum() == 15  # the share needs no voxel size, the volume does


def test_a_component_of_the_smallest_size_stays_whatever_the_header_rounds():
    # Eight voxels of 0.125 ml are 1 ml; a header in metres, float32, makes each a ten-millionth smaller.
    mask = np.zeros((6, 6, 6), bool)
    mask[1:3, 1:3, 1:3] = True
    rounded = float(np.float32(0.005)) * 1000
    for voxel_ml in (0.125, rounded**3 / 1000 * (1 - 2e-7)):
        assert remove_small_components(mask, 1.0 / voxel_ml).sum() == 8
    assert not remove_small_components(mask, 8.001).any()
