"""Watersheds: touching lesions parted by hand-worked geometry, and an unsure border moved onto the image's edge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage

from data.errors import UsageError
from data.find.discover import discover_cases
from data.grid import Grid
from networks import build_network
from pipeline.checkpoint import save_checkpoint
from pipeline.config import RunConfig, parse_config
from pipeline.predict.predictor import Predictor, region_masks
from transforms.borders import refine_by_watershed
from transforms.postprocess import label_components
from transforms.watershed import split_touching

ISO = (1.0, 1.0, 1.0)
MASKS = hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, max_side=6))
PROBABILITIES = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=3, max_side=6), elements=st.floats(0, 1, width=32)
)


def ball(shape: Sequence[int], centre: Sequence[float], radius: float) -> NDArray[np.bool_]:
    grid = np.indices(shape).reshape(len(shape), -1).T
    return (((grid - np.array(centre)) ** 2).sum(1) <= radius**2).reshape(shape)


def two_balls() -> NDArray[np.bool_]:
    """Radius 8, centres 12 apart along the first axis, the plane of symmetry at 18.

    From a centre the nearest voxel outside is (8, 1, 0) away: sqrt 65 = 8.062. From the middle of the neck, where
    y^2 + z^2 <= 64 - 36 = 28 is inside, it is (0, 5, 2) away: sqrt 29 = 5.385. So the summits rise by 2.677.
    """
    return ball((37, 21, 21), (12, 10, 10), 8) | ball((37, 21, 21), (24, 10, 10), 8)


def bridged(half_width: int) -> NDArray[np.bool_]:
    """Balls of radius 8 (height sqrt 65), centres 30 apart, joined by a cylinder along the first axis."""
    shape = (55, 21, 21)
    cylinder = ball((21, 21), (10, 10), half_width)[None] & np.isin(np.arange(55), range(12, 43))[:, None, None]
    return ball(shape, (12, 10, 10), 8) | ball(shape, (42, 10, 10), 8) | cylinder


def bar() -> NDArray[np.bool_]:
    mask = np.zeros((37, 15, 15), bool)
    mask[3:34, 2:13, 2:13] = True
    return mask


def same_away_from_the_lines(one: NDArray[np.int32], other: NDArray[np.int32], reach: int = 2) -> bool:
    """Whether two partitions pair off, leaving out voxels within ``reach`` of another lesion."""
    if one.max() != other.max():
        return False
    size = 2 * reach + 1
    high = ndimage.maximum_filter(one, size)
    low = ndimage.minimum_filter(np.where(one > 0, one, one.max() + 1), size)
    deep = (one > 0) & (high == low)
    pairs = set(zip(one[deep].tolist(), other[deep].tolist(), strict=True))
    return len({a for a, _ in pairs}) == len(pairs) == len({b for _, b in pairs})


def test_two_balls_with_a_narrow_neck_are_parted_at_their_plane_of_symmetry() -> None:
    mask = two_balls()
    labels = split_touching(mask, ISO)
    assert labels.max() == 2
    assert (labels[:18][mask[:18]] == labels[12, 10, 10]).all()
    assert (labels[19:][mask[19:]] == labels[24, 10, 10]).all()
    assert labels[12, 10, 10] != labels[24, 10, 10]


@pytest.mark.parametrize(("depth_mm", "lesions"), [(2.6, 2), (2.7, 1)])
def test_summits_part_when_they_rise_by_the_depth_above_the_neck(depth_mm: float, lesions: int) -> None:
    assert split_touching(two_balls(), ISO, depth_mm=depth_mm).max() == lesions


def test_a_rise_of_exactly_the_depth_counts() -> None:
    row = np.zeros((13, 9), bool)
    row[1:6, 2:7] = row[7:12, 2:7] = True  # squares of five: 3 mm from the centre to the outside
    row[6, 3:6] = True  # the neck, three wide: 2 mm
    assert split_touching(row, (1, 1), depth_mm=1.0, min_distance_mm=0).max() == 2
    assert split_touching(row, (1, 1), depth_mm=1.001, min_distance_mm=0).max() == 1


@pytest.mark.parametrize(
    "mask",
    [
        ball((23, 23, 23), (11, 11, 11), 9),
        ball((23, 23, 23), (11, 10.5, 11.3), 8.7),
        bar(),
        (((np.indices((45, 21, 15)).T - (22, 10, 7)) / (20, 8, 5)) ** 2).sum(-1).T <= 1,
    ],
    ids=["ball", "ball off the grid", "cuboid", "ellipsoid"],
)
def test_a_convex_lesion_stays_one(mask: NDArray[np.bool_]) -> None:
    assert (split_touching(mask, ISO) == mask).all()


@pytest.mark.parametrize(("half_width", "lesions"), [(7, 1), (5, 2)])
def test_balls_on_a_thick_bridge_stay_one_and_on_a_thin_one_do_not(half_width: int, lesions: int) -> None:
    # The height on the bridge is sqrt 50 = 7.07 or sqrt 26 = 5.10, so the balls rise by 0.99 mm or 2.96 mm.
    assert split_touching(bridged(half_width), ISO).max() == lesions


@pytest.mark.parametrize(("depth_mm", "lesions"), [(2.0, 1), (1.0, 2)])
def test_a_rim_of_uneven_thickness_stays_one_by_default(depth_mm: float, lesions: int) -> None:
    # A stretch of 7 voxels (4 mm to the outside) that thins to 5 (3 mm) in its middle: a dip of 1 mm.
    rim = np.zeros((41, 13), bool)
    rim[2:39, 3:10] = True
    rim[15:26, [3, 9]] = False
    assert split_touching(rim, (1, 1), depth_mm=depth_mm).max() == lesions


@pytest.mark.parametrize("seed", range(3))
def test_a_ragged_ball_stays_one(seed: int) -> None:
    grid = np.indices((36, 36, 36)) - 17.5
    ragged = ndimage.gaussian_filter(np.random.default_rng(seed).normal(0, 1, (36, 36, 36)), 1.5) * 10
    mask = np.sqrt((grid**2).sum(0)) + ragged < 12  # the radius wobbles by 0.8 mm (one standard deviation)
    components = label_components(mask)
    main = components == np.bincount(components[mask]).argmax()
    assert 5000 < main.sum() < 9000
    assert split_touching(main, ISO).max() == 1


def test_the_rule_is_in_mm_so_that_a_smaller_copy_is_not_parted() -> None:
    assert split_touching(two_balls(), (0.8, 0.8, 0.8)).max() == 2  # rise 2.14 mm
    assert split_touching(two_balls(), (0.7, 0.7, 0.7)).max() == 1  # rise 1.87 mm


def test_thick_slices_let_the_shape_in_the_plane_decide() -> None:
    shape = (37, 21)
    plane = ball(shape, (12, 10), 8) | ball(shape, (24, 10), 8)
    mask = np.zeros((*shape, 7), bool)
    mask[..., 2:5] = plane[..., None]
    # 1 mm slices: every place is 2 mm from the slices above and below. 10 mm: in the plane, summits sqrt 65 = 8.06,
    # neck 6.
    assert split_touching(mask, (1, 1, 1)).max() == 1
    assert split_touching(mask, (1, 1, 10)).max() == 2


def test_huge_anisotropy_parts_each_slice_as_a_picture_of_its_own() -> None:
    shape = (37, 21)
    plane = ball(shape, (12, 10), 8) | ball(shape, (24, 10), 8)
    mask = np.zeros((*shape, 5), bool)
    mask[..., 1:4] = plane[..., None]
    labels = split_touching(mask, (1, 1, 1e5))
    assert labels.max() == 2
    assert len({int(labels[12, 10, k]) for k in (1, 2, 3)}) == len({int(labels[24, 10, k]) for k in (1, 2, 3)}) == 1
    assert split_touching(mask, (1, 1, 1e-5)).max() == 1


def test_a_dip_in_the_probability_parts_a_bar_that_its_shape_does_not() -> None:
    probability = np.ones((37, 15, 15), np.float32)
    probability[16:21] = 0.6  # 6 mm * 0.6 = 3.6 mm in the middle: a dip of 2.4 mm
    assert split_touching(bar(), ISO).max() == 1
    labels = split_touching(bar(), ISO, probability)
    assert labels.max() == 2
    assert len(np.unique(labels[3:17, 2:13, 2:13])) == len(np.unique(labels[20:34, 2:13, 2:13])) == 1
    assert split_touching(bar(), ISO, probability, depth_mm=2.5).max() == 1


def test_ripples_finer_than_the_smoothing_part_nothing() -> None:
    # Planes of 1, 1, 0.7, 0.7: the height ripples by 6 mm * 0.3 = 1.8 mm. A Gaussian of 1 mm leaves
    # exp(-(2 pi / 4)^2 / 2) = 0.29 of a wave of 4 mm: 0.5 mm.
    probability = np.ones((37, 15, 15))
    probability[np.arange(37) % 4 >= 2] = 0.7
    assert split_touching(bar(), ISO, probability, depth_mm=1.0).max() == 1
    assert split_touching(bar(), ISO, probability, depth_mm=1.0, smoothing_mm=0).max() > 1


def test_a_probability_that_is_the_same_everywhere_only_scales_the_height() -> None:
    half = np.full((37, 21, 21), 0.5)
    assert split_touching(two_balls(), ISO, half, depth_mm=1.3).max() == 2  # rise 2.677 / 2 = 1.338
    assert split_touching(two_balls(), ISO, half, depth_mm=1.35).max() == 1


def test_summits_nearer_than_the_least_distance_are_one_lesion() -> None:
    assert split_touching(two_balls(), ISO, min_distance_mm=12.0).max() == 2
    assert split_touching(two_balls(), ISO, min_distance_mm=12.1).max() == 1


def test_a_closed_ring_of_thick_places_is_one_lesion_and_an_open_one_is_a_chain() -> None:
    shape = (41, 41)
    ring = ball(shape, (20, 20), 13) & ~ball(shape, (20, 20), 11)
    for turn in range(8):
        angle = 2 * math.pi * turn / 8
        ring |= ball(shape, (20 + 12 * math.cos(angle), 20 + 12 * math.sin(angle)), 4)
    assert split_touching(ring, (1, 1)).max() == 1
    necrotic = np.where(ring, 0.9, 0.0)
    assert split_touching(ring, (1, 1), necrotic).max() == 1
    ring[16:25, 27:] = False  # opens the ring and takes one of the eight
    assert split_touching(ring, (1, 1)).max() == 7


def test_lesions_are_numbered_by_size_and_equals_by_position() -> None:
    mask = np.zeros((12, 5, 5), bool)
    mask[1, 1, 1] = mask[3, 1, 1] = mask[5:7, 1, 1] = mask[9:12, 1, 1] = True
    labels = split_touching(mask, ISO)
    assert labels.dtype == np.int32
    assert labels[:, 1, 1].tolist() == [0, 3, 0, 4, 0, 2, 2, 0, 0, 1, 1, 1]


def test_voxels_that_meet_at_a_corner_are_one_lesion_and_across_a_gap_are_two() -> None:
    assert split_touching(np.eye(3, dtype=bool), (1, 1)).max() == 1
    corner = np.zeros((5, 5, 5), bool)
    corner[1, 1, 1] = corner[2, 2, 2] = True
    assert split_touching(corner, ISO).max() == 1
    corner[2, 2, 2], corner[3, 3, 3] = False, True
    assert split_touching(corner, ISO).max() == 2


def test_empty_full_and_single_voxel_masks_give_none_one_and_one() -> None:
    for shape in [(4, 5, 6), (4, 5), (4, 5, 1), (1, 1, 1), (1, 7, 1), (1, 1)]:
        full = np.ones(shape, bool)
        spacing = [1.0] * len(shape)
        assert not split_touching(~full, spacing).any()
        assert (split_touching(full, spacing) == 1).all()
        single = np.zeros(shape, bool)
        single[(0,) * len(shape)] = True
        assert (split_touching(single, spacing) == single).all()
    assert split_touching(np.zeros((0, 3, 3), bool), ISO).shape == (0, 3, 3)


def test_the_edge_of_the_array_is_not_background() -> None:
    # Seen through a window along the neck's axis, one ball is cut: it is still higher than the neck.
    assert split_touching(two_balls()[:25], ISO).max() == 2
    # Nothing but the plane is known of an object that reaches through all slices.
    plane = two_balls()[:, :, 10]
    through = np.repeat(plane[..., None], 3, axis=2)
    assert split_touching(through, ISO).max() == 2


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_gives_the_same_as_a_picture(axis: int) -> None:
    plane = two_balls()[:, :, 10]
    spacing = np.insert([1.0, 0.7], axis, 9.0)
    expected = split_touching(plane, (1.0, 0.7), depth_mm=1.0)
    assert expected.max() == 2
    assert (split_touching(np.expand_dims(plane, axis), spacing, depth_mm=1.0).squeeze(axis) == expected).all()


@given(MASKS, st.sampled_from([ISO, (1.0, 1.0, 5.0), (0.1, 30.0, 1.0)]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_each_voxel_of_the_mask_has_a_number_and_no_number_is_in_two_components(
    mask: NDArray[np.bool_], spacing: tuple[float, ...], unsure: bool
) -> None:
    probability = np.linspace(0, 1, mask.size).reshape(mask.shape) if unsure else None
    labels = split_touching(mask, spacing, probability, depth_mm=0.3, min_distance_mm=0)
    assert ((labels > 0) == mask).all()
    components = label_components(mask)
    assert len(set(zip(labels[mask].tolist(), components[mask].tolist(), strict=True))) == labels.max()
    sizes = np.bincount(labels[mask], minlength=2)[1:] if mask.any() else np.zeros(0)
    assert (sizes[: labels.max()] > 0).all() and (np.diff(sizes) <= 0).all()
    again = split_touching(mask.copy(order="F"), spacing, probability, depth_mm=0.3, min_distance_mm=0)
    assert (again == labels).all()


CENTRES = st.tuples(*[st.integers(6, 15)] * 3)


@given(
    st.lists(st.tuples(CENTRES, st.floats(2.5, 6)), min_size=2, max_size=4),
    st.sampled_from(list(permutations(range(3)))),
    st.sets(st.sampled_from(range(3))),
    st.sampled_from([ISO, (1.0, 1.3, 2.0)]),
)
@example([((7, 10, 10), 5), ((14, 10, 10), 5)], (2, 0, 1), {0}, ISO)
@settings(max_examples=25, deadline=None)
def test_a_mirrored_or_turned_mask_gives_the_same_lesions_but_for_ties_on_the_line(
    balls: list[tuple[tuple[int, int, int], float]],
    order: tuple[int, ...],
    mirrored: set[int],
    spacing: tuple[float, ...],
) -> None:
    mask = np.zeros((22, 22, 22), bool)
    for centre, radius in balls:
        mask |= ball(mask.shape, centre, radius)
    axes = tuple(sorted(mirrored))
    straight = split_touching(mask, spacing, depth_mm=0.6)
    turned = split_touching(np.flip(mask, axes).transpose(order), [spacing[a] for a in order], depth_mm=0.6)
    back = np.flip(turned.transpose(np.argsort(order)), axes)
    assert same_away_from_the_lines(straight, back)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": np.zeros((3, 3, 3))}, "threshold the probabilities"),
        ({"mask": np.zeros((3, 3, 3, 3), bool)}, "two or three axes"),
        ({"spacing_mm": (1, 1)}, "give 3 positive numbers"),
        ({"spacing_mm": (1, 1, math.nan)}, "spacing_mm"),
        ({"spacing_mm": (1, 0, 1)}, "spacing_mm"),
        ({"probability": np.full((3, 3, 3), math.nan)}, "NaN"),
        ({"probability": np.full((3, 3, 3), 3.0)}, "sigmoid"),
        ({"probability": np.zeros((3, 3, 4))}, "one grid"),
        ({"depth_mm": -1.0}, "depth_mm"),
        ({"min_distance_mm": math.inf}, "min_distance_mm"),
        ({"smoothing_mm": math.nan}, "smoothing_mm"),
    ],
)
def test_splitting_refuses_what_it_cannot_mean(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_touching(**{"mask": np.ones((3, 3, 3), bool), "spacing_mm": ISO} | change)


def ramp(shape: Sequence[int], middle: float, width: float = 3.0) -> NDArray[np.float64]:
    """A logistic probability along the first axis: within 0.2 and 0.8 up to 1.39 * width from the middle."""
    along = 1 / (1 + np.exp(-(np.arange(shape[0]) - middle) / width))
    return np.broadcast_to(along.reshape(-1, *[1] * (len(shape) - 1)), shape)


def step(shape: Sequence[int], first: int) -> NDArray[np.float32]:
    return np.broadcast_to(np.where(np.arange(shape[0]) < first, 20, 120).reshape(-1, *[1] * (len(shape) - 1)), shape)


@pytest.mark.parametrize("shape", [(40, 9, 8), (40, 9), (40, 9, 1), (40, 2, 3)])
@pytest.mark.parametrize("middle", [16.5, 22.5])
def test_an_offset_and_blurred_probability_is_moved_onto_the_step_in_the_image(
    shape: tuple[int, ...], middle: float
) -> None:
    refined = refine_by_watershed(ramp(shape, middle), step(shape, 20), [1.0] * len(shape))
    assert (refined == (step(shape, 20) > 50)).all()
    assert (ramp(shape, middle) >= 0.5)[:, 0].ravel().tolist() != refined[:, 0].ravel().tolist()


@pytest.mark.parametrize("spacing", [(2.0, 1.0, 1.0), (0.5, 1.0, 5.0), (1.0, 1.0, 500.0)])
def test_the_step_is_found_in_voxels_of_any_shape_and_in_any_contrast(spacing: tuple[float, ...]) -> None:
    image = step((40, 9, 8), 20)
    for contrast in (image, -image, image * 1e4 - 7, image / 1e4):
        assert (refine_by_watershed(ramp((40, 9, 8), 22.5), contrast, spacing) == (image > 50)).all()


def test_the_border_of_a_shifted_ball_is_put_back_in_a_noisy_image() -> None:
    truth = ball((44, 44, 44), (21, 21, 21), 11)
    image = truth * 100 + np.random.default_rng(0).normal(0, 8, truth.shape)
    shifted = ndimage.gaussian_filter(np.roll(truth, 1, axis=0).astype(np.float64), 2)

    def dice(mask: NDArray[np.bool_]) -> float:
        return 2 * (mask & truth).sum() / (mask.sum() + truth.sum())

    # A ball moved by 1 keeps 1 - 3 / (4 * 11) = 0.932 of its overlap; blurring also shrinks it a little.
    assert dice(shifted >= 0.5) < 0.95
    assert dice(refine_by_watershed(shifted, image, ISO)) > 0.98


def test_where_the_image_is_flat_the_threshold_stays() -> None:
    for middle in (16.3, 22.7):
        probability = ramp((40, 9, 8), middle)
        assert (refine_by_watershed(probability, np.full((40, 9, 8), 1e4), ISO) == (probability >= 0.5)).all()


def test_in_a_flat_image_the_border_stays_within_a_voxel_of_a_threshold_far_from_the_middle_of_the_band() -> None:
    along = np.interp(np.arange(40), [0, 5, 10, 35], [0, 0.2, 0.5, 0.8])
    probability = np.broadcast_to(along[:, None, None], (40, 5, 5))
    refined = refine_by_watershed(probability, np.zeros((40, 5, 5)), ISO)
    assert not refined[:10].any() and refined[11:].all()  # voxel 10, at 0.5, is the ridge; the middle would be 20


def test_a_probability_of_exactly_the_inside_limit_is_sure() -> None:
    probability = np.zeros((20, 5))
    probability[5:15] = 0.6
    probability[8:12] = 0.8  # the only sure tumour, so that without it the threshold, 5 to 15, would stay
    assert refine_by_watershed(probability, step((20, 5), 8), (1, 1))[:, 2].nonzero()[0].min() == 8


def test_where_nothing_is_sure_background_the_threshold_stays() -> None:
    probability = np.clip(ramp((40, 9, 8), 16.5), 0.3, 1)
    refined = refine_by_watershed(probability, step((40, 9, 8), 20), ISO)
    assert (refined == (probability >= 0.5)).all()


def test_an_edge_outside_the_unsure_band_moves_nothing_into_the_sure_parts() -> None:
    probability = ramp((40, 9, 8), 20.5)
    refined = refine_by_watershed(probability, step((40, 9, 8), 5), ISO)
    assert refined[probability >= 0.8].all()
    assert not refined[probability <= 0.2].any()


def test_without_sure_tumour_the_threshold_mask_comes_back() -> None:
    probability = ndimage.gaussian_filter(np.random.default_rng(1).uniform(0, 1, (12, 12, 12)), 1)
    assert probability.max() < 0.8 and (probability >= 0.5).any()
    image = np.random.default_rng(2).normal(0, 1, probability.shape)
    assert (refine_by_watershed(probability, image, ISO) == (probability >= 0.5)).all()


def test_a_lesion_without_sure_tumour_keeps_its_threshold_beside_one_with() -> None:
    probability = np.zeros((30, 9, 9))
    probability[2:5, 3:6, 3:6] = 0.3
    probability[3, 4, 4] = 0.6
    probability[12:28, 2:7, 2:7] = 0.4
    probability[18:22, 3:6, 3:6] = 0.9
    image = np.zeros((30, 9, 9))
    image[14:26, 2:7, 2:7] = 50
    refined = refine_by_watershed(probability, image, ISO, sigma_mm=0.5)
    assert np.argwhere(refined[:10]).tolist() == [[3, 4, 4]]
    assert np.flatnonzero(refined[:, 4, 4]).tolist() == [3, *range(14, 26)]


@given(PROBABILITIES, st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1.0]), st.sampled_from([1.0, 8.0]))
@settings(max_examples=60, deadline=None)
def test_the_result_lies_between_sure_tumour_and_not_sure_background(
    probability: NDArray[np.float32], seed: int, contrast: float, thickness: float
) -> None:
    image = contrast * np.random.default_rng(seed).normal(0, 1, probability.shape)
    spacing = [1.0] * (probability.ndim - 1) + [thickness]
    refined = refine_by_watershed(probability, image, spacing)
    assert refined.dtype == bool and refined.shape == probability.shape
    assert not ((probability >= 0.8) & ~refined).any()
    assert not ((probability <= 0.2) & refined).any()
    assert (refine_by_watershed(probability.copy(order="F"), image, spacing) == refined).all()


def test_all_sure_or_all_unsure_probabilities_need_no_flood() -> None:
    image = np.random.default_rng(0).normal(0, 1, (5, 6, 7))
    for value, expected in [(0.0, False), (1.0, True), (0.4, False), (0.6, True)]:
        assert (refine_by_watershed(np.full((5, 6, 7), value), image, ISO) == expected).all()
    single = np.zeros((5, 6, 7))
    single[0, 0, 0] = 1
    assert (refine_by_watershed(single, image, ISO) == (single > 0)).all()
    assert refine_by_watershed(np.zeros((0, 3)), np.zeros((0, 3)), (1, 1)).shape == (0, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.full((3, 3, 3), math.nan)}, "the image has voxels that are NaN"),
        ({"image": np.zeros((3, 3))}, "one grid"),
        ({"probability": np.full((3, 3, 3), math.inf)}, "the probability has voxels that are NaN or infinite"),
        ({"probability": np.full((3, 3, 3), -4.0)}, "sigmoid"),
        ({"spacing_mm": (1, 1, -1)}, "spacing_mm"),
        ({"inside": 0.5}, "outside < threshold < inside"),
        ({"outside": 0.6}, "outside < threshold < inside"),
        ({"sigma_mm": 0.0}, "sigma_mm is 0"),
    ],
)
def test_refining_refuses_what_it_cannot_mean(change: dict, message: str) -> None:
    sound = {"probability": np.zeros((3, 3, 3)), "image": np.zeros((3, 3, 3)), "spacing_mm": ISO}
    with pytest.raises(ValueError, match=message):
        refine_by_watershed(**sound | change)


# ------------------------------------------------------------------------------------------ as a step of the pipeline


def recipe(modalities: Sequence[str] = ("t1c", "flair"), **postprocess: object) -> RunConfig:
    network = {"architecture": "unet_plus_plus", "spatial_dims": 3, "out_channels": 2, "channels": [4, 8]}
    plain = {
        "name": "tiny",
        "modalities": list(modalities),
        "regions": ["WT", "TC"],
        "convention": "brats2023",
        "network": network | {"in_channels": len(modalities)},
        "preprocess": {"spacing_mm": [6.0, 6.0, 6.0]},
        "window": {"size": [16, 16, 16]},
        "postprocess": postprocess,
        "training": {"patch": [16, 16, 16]},
    }
    return parse_config(plain, "test")


def test_in_the_pipeline_the_whole_tumour_follows_flair_and_the_core_only_follows_it() -> None:
    shape = (40, 9, 8)
    probabilities = {"WT": ramp(shape, 16.5).astype(np.float32), "TC": ramp(shape, 18.5).astype(np.float32)}
    flair, on_edge = step(shape, 20), step(shape, 20) > 50  # probabilities rise towards larger indices
    grid = Grid(shape, np.eye(4))
    plain = region_masks(recipe(), probabilities, grid, flair)
    assert (plain["WT"] == (probabilities["WT"] >= 0.5)).all() and (plain["TC"] == (probabilities["TC"] >= 0.5)).all()
    drawn = region_masks(recipe(watershed=True), probabilities, grid, flair)
    assert (drawn["WT"] == on_edge).all()
    assert (drawn["TC"] == on_edge).all()  # its threshold, at 18.5, reaches beyond the whole tumour and is cut to it
    without = region_masks(recipe(watershed=True), probabilities, grid, None)
    assert (without["WT"] == plain["WT"]).all()


def test_in_the_pipeline_components_are_dropped_after_the_border_is_drawn() -> None:
    shape = (40, 9, 8)
    probability = {"WT": ramp(shape, 22.5).astype(np.float32)}
    # 17 planes of 72 voxels at the threshold, 20 on the edge: 1.3 ml lies between the two volumes.
    options = {"min_component_ml": {"WT": 1.3}}
    grid = Grid(shape, np.eye(4))
    assert not region_masks(recipe(**options), probability, grid, step(shape, 20))["WT"].any()
    assert region_masks(recipe(**options, watershed=True), probability, grid, step(shape, 20))["WT"].sum() == 20 * 72


def test_in_the_pipeline_an_unknown_voxel_size_makes_the_scale_one_voxel() -> None:
    shape = (40, 9, 8)
    probability = {"WT": ramp(shape, 16.5).astype(np.float32)}
    image = np.random.default_rng(4).normal(0, 1, shape) + step(shape, 20) / 100  # noise: the scale matters
    expected = refine_by_watershed(probability["WT"], image, ISO)
    assert (expected != refine_by_watershed(probability["WT"], image, (0.1, 0.1, 0.1))).any()
    unknown = Grid(shape, np.diag([0.1, 0.1, 0.1, 1]), spacing_known=False)
    assert (region_masks(recipe(watershed=True), probability, unknown, image)["WT"] == expected).all()


def test_a_threshold_outside_the_band_of_the_watershed_is_refused() -> None:
    assert recipe(threshold=0.9).postprocess.threshold == 0.9
    with pytest.raises(UsageError, match="watershed needs a threshold between 0.2 and 0.8, not 0.9"):
        recipe(threshold=0.9, watershed=True)


@pytest.mark.parametrize(("modalities", "warned"), [(("t1c", "flair"), 0), (("t1c",), 1)])
def test_the_predictor_refines_on_flair_and_says_so_where_there_is_none(
    tmp_path: Path, phantoms: Path, modalities: tuple[str, ...], warned: int
) -> None:
    config = recipe(modalities, watershed=True)
    torch.manual_seed(4)  # with which the band between sure and unsure is not empty
    network = build_network(config.network)
    for value in network.state_dict().values():
        if value.is_floating_point() and value.ndim > 1:
            value.normal_(0, 0.2)  # so that answers differ from voxel to voxel
    save_checkpoint(tmp_path / "tiny.safetensors", network, config, {})
    case = discover_cases(phantoms)[0]
    result = Predictor(tmp_path / "tiny.safetensors", "cpu")(case)
    assert sum("no FLAIR" in text for text in result.warnings) == warned
    thresholded = result.probabilities["WT"] >= 0.5
    if warned:
        assert (result.masks["WT"] == thresholded).all()
    else:
        flair = nib.load(case.images["flair"].paths[0]).get_fdata()
        refined = refine_by_watershed(result.probabilities["WT"], flair, (5.0, 5.0, 5.0))
        assert (refined != thresholded).any()
        assert (result.masks["WT"] == refined).all()
