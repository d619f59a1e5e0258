"""pipeline/score/surface_elements.py against worked geometry, DeepMind's published numbers, MONAI, and properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from scipy.spatial.distance import cdist

from pipeline.score import surface_elements as se

ANISOTROPIC = (0.5, 1.25, 3.0)


def box(corner: tuple[int, ...], size: tuple[int, ...], shape: tuple[int, ...] = (20, 20, 20)) -> np.ndarray:
    """A filled box of ``size`` voxels whose lowest voxel is ``corner``."""
    mask = np.zeros(shape, bool)
    mask[tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True))] = True
    return mask


def blobs(seed: int, shape: tuple[int, ...], threshold: float = 0.15) -> np.ndarray:
    """Smooth random shapes of several components, some of them at the image border."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.5)
    return noise > threshold * np.abs(noise).max()


def total_area(mask: np.ndarray, spacing: tuple[float, ...]) -> float:
    return float(se.weighted_surface_distances(mask, mask, spacing)[0].area.sum())


def monai_elements(mask: np.ndarray, spacing: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Centres in mm and areas of a mask's surface elements, as MONAI finds them."""
    import torch
    from monai.metrics.utils import get_mask_edges

    framed = torch.from_numpy(np.pad(mask, 1))
    edges, _, areas, _ = (np.asarray(a) for a in get_mask_edges(framed, framed, crop=False, spacing=spacing))
    return np.argwhere(edges) * np.asarray(spacing), areas[edges].astype(float)


def percentile_by_definition(distances: np.ndarray, areas: np.ndarray, percent: float) -> float:
    """The smallest distance at or below which lies the share of the area, by trying each."""
    for distance in np.unique(distances):
        if areas[distances <= distance].sum() >= percent / 100 * areas.sum() * (1 - 1e-12):
            return float(distance)
    raise AssertionError("some distance has all the area below")


# ---- hand-worked geometry ----


def test_the_surface_of_one_voxel_is_the_octahedron_between_its_face_centres():
    a, b, c = ANISOTROPIC
    # Eight triangles with corners at a/2, b/2 and c/2 on the axes, one in each cell around the voxel.
    triangle = math.sqrt((a * b) ** 2 + (b * c) ** 2 + (a * c) ** 2) / 8
    one = se.weighted_surface_distances(box((3, 3, 3), (1, 1, 1)), box((3, 3, 3), (1, 1, 1)), ANISOTROPIC)[0]
    assert one.area == pytest.approx([triangle] * 8) and not one.distance_mm.any()


def test_the_surface_of_a_box_has_flat_faces_chamfered_edges_and_cut_corners():
    a, b, c = ANISOTROPIC
    p, q, r = 4, 5, 6  # voxels along each axis: one cell fewer is flat
    faces = 2 * ((p - 1) * (q - 1) * a * b + (q - 1) * (r - 1) * b * c + (p - 1) * (r - 1) * a * c)
    edges = 4 * (
        (p - 1) * a * math.hypot(b, c) / 2 + (q - 1) * b * math.hypot(a, c) / 2 + (r - 1) * c * math.hypot(a, b) / 2
    )
    corners = math.sqrt((a * b) ** 2 + (b * c) ** 2 + (a * c) ** 2)
    assert total_area(box((3, 3, 3), (p, q, r)), ANISOTROPIC) == pytest.approx(faces + edges + corners)


def test_the_contour_of_a_rectangle_has_straight_sides_and_cut_corners():
    mask = box((2, 3), (4, 6), (12, 12))
    assert total_area(mask, (2.0, 0.5)) == pytest.approx(2 * 3 * 2.0 + 2 * 5 * 0.5 + 4 * math.hypot(1.0, 0.25))


def test_a_mask_at_the_image_border_has_a_surface_there():
    assert total_area(np.ones((5, 5, 5), bool), ANISOTROPIC) == pytest.approx(
        total_area(box((3, 3, 3), (5, 5, 5)), ANISOTROPIC)
    )


def test_the_percentile_is_that_of_area_without_interpolation():
    # Area 19 at distance 0 and area 1 at 7: just 95 % is within 0. A hair less than 95 % is not.
    def hd95(near: float) -> float:
        one = se.WeightedDistances(np.array([7.0, 0.0]), np.array([1.0, near]))
        return se.robust_hausdorff_mm((one, se.WeightedDistances(np.zeros(3), np.ones(3))), 95)

    assert hd95(19.1) == 0.0
    assert hd95(18.9) == 7.0


def test_the_larger_direction_counts():
    small, large = box((5, 5, 5), (4, 4, 4)), box((5, 5, 5), (4, 4, 4)) | box((5, 5, 15), (4, 4, 2))
    there, back = se.weighted_surface_distances(small, large, (1, 1, 1))
    assert (
        not there.distance_mm.any() and back.distance_mm.max() == 8.0
    )  # cell 9 is the small one's last, 17 the far end
    assert se.area_weighted_hd95_mm(small, large, (1, 1, 1)) == se.area_weighted_hd95_mm(large, small, (1, 1, 1)) == 8.0


def test_a_flat_slab_and_a_far_voxel_differ_by_weight_from_counting_elements():
    # 100 flat cells per side of 1 mm2 against the 8 small triangles (1.73 mm2) of one voxel: under 5 % of the area.
    slab = box((5, 4, 4), (1, 10, 10))
    spotted = slab | box((17, 8, 8), (1, 1, 1))
    assert se.area_weighted_hd95_mm(spotted, slab, (1, 1, 1)) == 0.0
    assert se.robust_hausdorff_mm(se.weighted_surface_distances(spotted, slab, (1, 1, 1)), 100) == 12.0


# ---- DeepMind's own published expectations (surface_distance_test.py) ----


def test_two_voxels_two_mm_apart_are_deepminds():
    prediction, reference = box((10, 12, 14), (1, 1, 1)), box((10, 12, 16), (1, 1, 1))
    for one in se.weighted_surface_distances(prediction, reference, (3, 2, 1)):
        assert np.average(one.distance_mm, weights=one.area) == pytest.approx(1.5)
    assert se.area_weighted_hd95_mm(prediction, reference, (3, 2, 1)) == 2.0


def test_two_pixels_two_mm_apart_are_deepminds():
    for one in se.weighted_surface_distances(box((5, 7), (1, 1), (12, 12)), box((5, 9), (1, 1), (12, 12)), (2.0, 1.0)):
        assert sorted(one.distance_mm) == [1, 1, 2, 2]
        assert one.area == pytest.approx([0.5 * math.sqrt(5)] * 4)


def test_two_halves_of_an_image_shifted_by_a_voxel_are_deepminds():
    reference, prediction = np.zeros((100, 100, 100), bool), np.zeros((100, 100, 100), bool)
    reference[:50], prediction[:51] = True, True
    to_reference, to_prediction = se.weighted_surface_distances(prediction, reference, (2, 1, 1))
    for one, average, within_1mm in ((to_prediction, 0.322, 0.842), (to_reference, 0.339, 0.830)):
        assert np.average(one.distance_mm, weights=one.area) == pytest.approx(average, abs=5e-4)
        assert one.area[one.distance_mm <= 1].sum() / one.area.sum() == pytest.approx(within_1mm, abs=5e-4)
    assert se.area_weighted_hd95_mm(prediction, reference, (2, 1, 1)) == 2.0


# ---- the empty rule, thin arrays, and what is refused ----


@pytest.mark.parametrize("shape", [(6, 6, 6), (6, 6), (6, 6, 1), (1, 6, 1), (1, 1, 1), (1, 1)])
def test_empty_rule(shape):
    empty, full, spacing = np.zeros(shape, bool), np.ones(shape, bool), (2.0,) * len(shape)
    assert se.area_weighted_hd95_mm(empty, empty, spacing, 337.0) == 0.0
    assert se.area_weighted_hd95_mm(empty, full, spacing, 337.0) == 337.0
    assert se.area_weighted_hd95_mm(full, empty, spacing) == 374.0
    assert se.area_weighted_hd95_mm(full, full, spacing) == 0.0
    assert math.isnan(se.area_weighted_hd95_mm(full, empty, None))


def test_distances_to_a_mask_without_voxels_are_infinite_and_from_it_there_are_none():
    there, back = se.weighted_surface_distances(np.zeros((5, 5), bool), box((1, 1), (2, 2), (5, 5)), (1, 1))
    assert there.distance_mm.size == there.area.size == 0
    assert np.isinf(back.distance_mm).all() and back.area.sum() > 0


def test_a_slice_stored_as_a_volume_scores_like_the_slice():
    prediction, reference = blobs(1, (40, 40)), blobs(2, (40, 40))
    flat = se.area_weighted_hd95_mm(prediction, reference, (0.7, 1.5))
    for axis, spacing in ((0, (5.0, 0.7, 1.5)), (2, (0.7, 1.5, 5.0))):
        stored = np.expand_dims(prediction, axis), np.expand_dims(reference, axis)
        assert se.area_weighted_hd95_mm(*stored, spacing) == flat


def test_masks_that_cannot_be_compared_are_refused_with_what_they_are():
    mask = np.zeros((4, 4, 4), bool)
    with pytest.raises(ValueError, match="uint8"):
        se.area_weighted_hd95_mm(mask.astype(np.uint8), mask, (1, 1, 1))
    with pytest.raises(ValueError, match=r"\(4, 4, 4\) and \(4, 4, 3\)"):
        se.area_weighted_hd95_mm(mask, mask[..., :3], (1, 1, 1))
    with pytest.raises(ValueError, match=r"2D or 3D masks, not of shape \(4,\)"):
        se.area_weighted_hd95_mm(mask[0, 0], mask[0, 0], (1,))
    for spacing in ((1, 1), (1, 1, 0), (1, 1, math.nan), (1, 1, -1)):
        with pytest.raises(ValueError, match="3 positive numbers"):
            se.area_weighted_hd95_mm(mask, mask, spacing)


# ---- oracles ----


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((14, 13, 12), (1.0, 1.0, 1.0)),
        ((14, 13, 12), ANISOTROPIC),
        ((9, 8, 30), (4.0, 0.3, 1.0)),
        ((30, 25), (0.8, 2.0)),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_areas_distances_and_hd95_are_those_of_monais_elements_and_all_pairs(seed, shape, spacing):
    prediction, reference = blobs(seed, shape), blobs(seed + 50, shape, threshold=0.4)
    (points_p, areas_p), (points_r, areas_r) = (monai_elements(mask, spacing) for mask in (prediction, reference))
    pairs = cdist(points_p, points_r)
    expected = ((pairs.min(axis=1), areas_p), (pairs.min(axis=0), areas_r))
    for got, (distances, areas) in zip(
        se.weighted_surface_distances(prediction, reference, spacing), expected, strict=True
    ):
        order, want_order = np.lexsort((got.area, got.distance_mm.round(9))), np.lexsort((areas, distances.round(9)))
        np.testing.assert_allclose(got.distance_mm[order], distances[want_order], rtol=1e-9)
        np.testing.assert_allclose(got.area[order], areas[want_order], rtol=1e-6)
    hd95 = max(percentile_by_definition(d.round(9), a, 95) for d, a in expected)
    assert se.area_weighted_hd95_mm(prediction, reference, spacing) == pytest.approx(hd95, abs=1e-8)


def test_far_surfaces_are_measured_as_exactly_as_near_ones():
    # Beyond the neighbourhood that is looked through first, where the tree takes over, in each direction.
    reference = box((2, 2, 2), (1, 1, 1), (40, 40, 40))
    for step in ((0, 0, 4), (3, 3, 3), (0, 20, 0), (15, 16, 17)):
        prediction = box(tuple(2 + n for n in step), (1, 1, 1), (40, 40, 40))
        corners = np.array(list(np.ndindex(2, 2, 2)), float)
        pairs = cdist((corners + step) * ANISOTROPIC, corners * ANISOTROPIC)
        for one in se.weighted_surface_distances(prediction, reference, ANISOTROPIC):
            np.testing.assert_allclose(np.sort(one.distance_mm), np.sort(pairs.min(axis=1)), rtol=1e-12)


# ---- properties ----


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=3, min_side=2, max_side=7))
    masks = [draw(hnp.arrays(bool, shape, elements=st.booleans())) for _ in range(2)]
    spacing = draw(st.tuples(*[st.sampled_from([0.5, 1.0, 1.3, 4.0])] * len(shape)))
    return masks[0], masks[1], spacing


@settings(max_examples=60, deadline=None)
@given(pairs())
def test_the_distance_does_not_depend_on_direction_flips_axis_order_or_empty_margin(pair):
    prediction, reference, spacing = pair
    distance = pytest.approx(se.area_weighted_hd95_mm(prediction, reference, spacing))
    assert se.area_weighted_hd95_mm(reference, prediction, spacing) == distance
    assert se.area_weighted_hd95_mm(np.flip(prediction), np.flip(reference), spacing) == distance
    assert se.area_weighted_hd95_mm(np.flip(prediction, 0), np.flip(reference, 0), spacing) == distance
    assert se.area_weighted_hd95_mm(prediction.T, reference.T, spacing[::-1]) == distance
    assert se.area_weighted_hd95_mm(np.pad(prediction, 2), np.pad(reference, 2), spacing) == distance


@settings(max_examples=40, deadline=None)
@given(pairs(), st.sampled_from([0.25, 2.0]))
def test_the_distance_scales_with_the_spacing(pair, factor):
    prediction, reference, spacing = pair
    before = se.area_weighted_hd95_mm(prediction, reference, spacing)
    after = se.area_weighted_hd95_mm(prediction, reference, [factor * s for s in spacing], factor * 374.0)
    assert after == pytest.approx(factor * before)


@settings(max_examples=40, deadline=None)
@given(pairs())
def test_the_box_around_masks_holds_all_their_voxels_and_has_one_on_every_side(pair):
    prediction, reference, _ = pair
    found = se.union_box(prediction, reference)
    either = prediction | reference
    assert found == se.union_box(np.asfortranarray(prediction), reference) == se.union_box(either)
    assert either[found].sum() == either.sum()
    where = np.argwhere(either)
    for axis, cut in enumerate(found):
        assert (cut.start, cut.stop) == ((where[:, axis].min(), where[:, axis].max() + 1) if where.size else (0, 0))
