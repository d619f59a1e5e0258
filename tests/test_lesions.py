"""Lesions: diameters by hand-worked geometry and brute force over corners, places by the affine, matches by count."""

from __future__ import annotations

import math
import time
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from data.grid import Grid
from pipeline.score.diameters import axial_diameters, slice_axis
from pipeline.score.lesions import SIZE_CLASSES_ML, detection_scores, find_lesions, lesion_table, sensitivity_by_size

EVERYWHERE = np.ones((3, 3, 3), bool)
MASKS = hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, max_side=6))
SPACINGS = st.tuples(*[st.sampled_from([0.5, 0.9375, 1.0, 1.2, 5.0])] * 3)


def boxes(shape: tuple[int, int, int], *corner_and_size: tuple[tuple[int, ...], tuple[int, ...]]) -> NDArray[np.bool_]:
    mask = np.zeros(shape, bool)
    for corner, size in corner_and_size:
        mask[tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True))] = True
    return mask


def scaled(*spacing: float) -> NDArray[np.float64]:
    return np.diag([*spacing, 1.0])


def grid_of(mask: NDArray[np.bool_], affine: NDArray[np.float64] | None = None, known: bool = True) -> Grid:
    return Grid(mask.shape, np.eye(4) if affine is None else affine, known)


def turned(degrees: float, axis: int) -> NDArray[np.float64]:
    one, other = (a for a in range(3) if a != axis)
    matrix, angle = np.eye(4), math.radians(degrees)
    matrix[one, one] = matrix[other, other] = math.cos(angle)
    matrix[one, other], matrix[other, one] = -math.sin(angle), math.sin(angle)
    return matrix


def corners_by_slice(mask: NDArray[np.bool_], affine: NDArray[np.float64], axis: int) -> dict[int, NDArray[np.float64]]:
    """World places of all four corners of every voxel of a slice, by brute force."""
    result = {}
    everything = np.argwhere(mask)
    offsets = np.array([np.insert(pair, axis, 0.0) for pair in product((-0.5, 0.5), repeat=2)])
    for index in np.unique(everything[:, axis]).tolist():
        voxels = everything[everything[:, axis] == index]
        places = (voxels[:, None] + offsets).reshape(-1, 3)
        result[index] = places @ affine[:3, :3].T + affine[:3, 3]
    return result


def chord_by_sweep(points: NDArray[np.float64], direction: NDArray[np.float64]) -> float:
    """Longest chord of the points' hull at a right angle to the direction, from half-planes and many positions."""
    hull = ConvexHull(points)
    unit = direction / np.linalg.norm(direction)
    along = points[hull.vertices] @ unit
    positions = np.union1d(np.linspace(along.min(), along.max(), 51), along)
    # Inside is a x + b y + c <= 0 for every edge: along the chord, rate * length + rest <= 0.
    rate = hull.equations[:, :2] @ np.array([-unit[1], unit[0]])
    rest = np.outer(hull.equations[:, :2] @ unit, positions) + hull.equations[:, 2:]
    ahead, behind = rate > 1e-12, rate < -1e-12
    high = (-rest[ahead] / rate[ahead, None]).min(axis=0)
    low = (-rest[behind] / rate[behind, None]).max(axis=0)
    return float((high - low).max())


# --- diameters


def test_a_box_of_30_by_40_mm_is_50_mm_long_and_three_quarters_of_that_across() -> None:
    # Across the diagonal (40, 30) / 50 a chord from long side to long side is 30 / cos = 30 / 0.8.
    size = axial_diameters(boxes((60, 60, 9), ((5, 8, 2), (40, 30, 4))), np.eye(4))
    assert (size.diameter_mm, size.perpendicular_mm, size.slice) == pytest.approx((50.0, 37.5, 2))


def test_the_same_box_in_voxels_of_any_size_has_the_same_diameters() -> None:
    size = axial_diameters(boxes((60, 60, 9), ((5, 8, 2), (20, 6, 4))), scaled(2, 5, 3))
    assert (size.diameter_mm, size.perpendicular_mm) == pytest.approx((50.0, 37.5))


def test_a_single_voxel_is_as_large_as_its_diagonals() -> None:
    mask = boxes((3, 3, 3), ((1, 1, 1), (1, 1, 1)))
    size = axial_diameters(mask, np.eye(4))
    assert (size.diameter_mm, size.perpendicular_mm, size.slice) == pytest.approx((math.sqrt(2), math.sqrt(2), 1))
    size = axial_diameters(mask, scaled(3, 4, 7))
    assert (size.diameter_mm, size.perpendicular_mm) == pytest.approx((5.0, 3.75))  # 3 / 0.8


@pytest.mark.parametrize("radius", [3, 10, 25])
def test_a_digital_disc_is_as_wide_as_the_disc_but_for_a_voxels_diagonal(radius: int) -> None:
    disc = (np.indices((61, 61)) - 30) ** 2
    size = axial_diameters((disc.sum(0) <= radius**2)[..., None], np.eye(4))
    assert 2 * radius + 1 <= size.diameter_mm <= 2 * radius + math.sqrt(2)
    assert 2 * radius - 1 <= size.perpendicular_mm <= size.diameter_mm


def test_an_l_is_measured_from_tip_to_tip_and_across_its_hull() -> None:
    # Arms of 6 x 1 and 1 x 6 that share a corner. Tips: (6, 0) or (6, 1) to (0, 6) or (1, 6); the longest are (6, 0)
    # to (0, 6), sqrt 72, and the hull is (0,0) (6,0) (6,1) (1,6) (0,6). At a right angle, along (1, 1): from the
    # corner (0, 0) to the edge x + y = 7, 7 / sqrt 2.
    mask = boxes((9, 9, 1), ((1, 1, 0), (6, 1, 1)), ((1, 1, 0), (1, 6, 1)))
    size = axial_diameters(mask, np.eye(4))
    assert (size.diameter_mm, size.perpendicular_mm) == pytest.approx((math.sqrt(72), 7 / math.sqrt(2)))


def test_the_longest_slice_counts_and_not_the_longest_extent_in_the_body() -> None:
    # 30 voxels along the body's axis do not count; slice 20 is 8 x 6 (10 mm; 6 / 0.8 = 7.5 mm).
    mask = boxes((20, 20, 40), ((5, 5, 3), (2, 2, 30)), ((4, 4, 20), (8, 6, 1)))
    size = axial_diameters(mask, np.eye(4))
    assert (size.diameter_mm, size.perpendicular_mm, size.slice) == pytest.approx((10.0, 7.5, 20))


@pytest.mark.parametrize("block", [1, 2**15])
def test_a_thin_slice_among_many_wide_discs_is_not_overlooked(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.score.diameters.BLOCK", block)
    # The box around a disc of radius 25 has a diagonal of 72, the disc a diameter of 51.4 (two of its corners); the
    # line is 60 x 1, hypot 60.008, and a chord across it is 1 / cos long: 1 / (60 / 60.008).
    disc = (np.indices((70, 70)) - 35) ** 2
    mask = np.repeat((disc.sum(0) <= 25**2)[..., None], 40, axis=2)
    mask[..., 30] = boxes((70, 70, 1), ((5, 35, 0), (60, 1, 1)))[..., 0]
    size = axial_diameters(mask, np.eye(4))
    length = math.hypot(60, 1)
    assert (size.diameter_mm, size.perpendicular_mm, size.slice) == pytest.approx((length, length / 60, 30))


def test_of_two_equal_diameters_the_one_with_the_longer_perpendicular_counts() -> None:
    # Slice 1: a staircase near the diagonal of 6 x 8; slice 3: the whole of 6 x 8.
    mask = boxes((8, 10, 5), ((1, 1, 3), (6, 8, 1)), ((1, 1, 1), (1, 1, 1)), ((6, 8, 1), (1, 1, 1)))
    size = axial_diameters(mask, np.eye(4))
    assert (size.diameter_mm, size.perpendicular_mm, size.slice) == pytest.approx((10.0, 7.5, 3))


def test_an_empty_lesion_has_no_diameter() -> None:
    with pytest.raises(ValueError, match="empty lesion"):
        axial_diameters(np.zeros((3, 3, 3), bool), np.eye(4))


@pytest.mark.parametrize("degrees", [-40, 10, 44])
@pytest.mark.parametrize("axis", range(3))
def test_the_slice_axis_of_an_oblique_scan_is_the_one_nearest_to_the_bodys(degrees: float, axis: int) -> None:
    for order in permutations(range(3)):
        affine = turned(degrees, axis) @ np.eye(4)[:, [*order, 3]]
        assert slice_axis(affine) == order.index(2)


@settings(max_examples=40, deadline=None)
@given(MASKS.filter(np.any), SPACINGS, st.sampled_from([0.0, 10.0, -30.0]), st.sampled_from([0.0, 0.2]))
def test_diameters_equal_brute_force_over_all_corners_of_all_voxels(mask, spacing, degrees, shear) -> None:
    affine = turned(degrees, 0) @ scaled(*spacing)
    affine[0, 1] += shear
    axis = slice_axis(affine)
    size = axial_diameters(mask, affine)
    by_slice = corners_by_slice(mask, affine, axis)
    lengths = {index: pdist(corners).max() for index, corners in by_slice.items()}
    assert size.diameter_mm == pytest.approx(max(lengths.values()))
    assert lengths[size.slice] == pytest.approx(size.diameter_mm)

    across = {}  # of every slice and pair of corners that is as long
    for index, corners in by_slice.items():
        if lengths[index] < size.diameter_mm * (1 - 1e-9):
            continue
        frame = np.linalg.svd(corners - corners.mean(0), full_matrices=False)[2][:2]  # any basis of the plane
        flat = np.unique(((corners - corners.mean(0)) @ frame.T).round(9), axis=0)
        one, other = np.triu_indices(len(flat), 1)
        apart = flat[one] - flat[other]
        ends = np.linalg.norm(apart, axis=1) >= lengths[index] * (1 - 1e-8)
        across[index] = max(chord_by_sweep(flat, direction) for direction in apart[ends])
    assert size.perpendicular_mm == pytest.approx(max(across.values()), rel=1e-6)
    assert across[size.slice] == pytest.approx(size.perpendicular_mm, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(MASKS.filter(np.any), SPACINGS, st.permutations(range(3)), st.lists(st.booleans(), min_size=3, max_size=3))
def test_the_order_and_direction_of_the_arrays_axes_change_no_number(mask, spacing, order, flips) -> None:
    image = nib.Nifti1Image(mask.astype(np.uint8), scaled(*spacing))
    stored = image.as_reoriented(np.column_stack([order, np.where(flips, -1, 1)]))
    other = np.asarray(stored.dataobj) > 0
    grid, same = grid_of(mask, image.affine), grid_of(other, stored.affine)

    def numbers(rows: list[dict]) -> list[list[float]]:
        names = ("voxels", "volume_ml", "diameter_mm", "perpendicular_mm", "bidimensional_mm2")
        places = ("centroid_x_mm", "centroid_y_mm", "centroid_z_mm")
        # Lesions of one size are numbered by where they lie in the array, so the order is not compared.
        return sorted([round(float(row[name]), 6) + 0.0 for name in names + places] for row in rows)

    np.testing.assert_allclose(
        numbers(lesion_table(mask, None, grid)), numbers(lesion_table(other, None, same)), atol=1e-5
    )


@settings(max_examples=30, deadline=None)
@given(MASKS.filter(np.any), st.integers(2, 3))
def test_cutting_voxels_into_smaller_ones_changes_no_diameter(mask, factor) -> None:
    fine = mask.repeat(factor, 0).repeat(factor, 1).repeat(factor, 2)
    coarse_size, fine_size = axial_diameters(mask, np.eye(4)), axial_diameters(fine, scaled(*[1 / factor] * 3))
    assert fine_size.diameter_mm == pytest.approx(coarse_size.diameter_mm)
    assert fine_size.perpendicular_mm == pytest.approx(coarse_size.perpendicular_mm)
    assert fine_size.slice == coarse_size.slice * factor


@settings(max_examples=30, deadline=None)
@given(MASKS.filter(np.any), SPACINGS, st.floats(0.1, 10))
def test_diameters_scale_with_the_spacing_and_the_perpendicular_is_never_longer(mask, spacing, factor) -> None:
    one, other = axial_diameters(mask, scaled(*spacing)), axial_diameters(mask, scaled(*np.multiply(spacing, factor)))
    assert other.diameter_mm == pytest.approx(one.diameter_mm * factor)
    assert other.perpendicular_mm == pytest.approx(one.perpendicular_mm * factor)
    assert 0 < one.perpendicular_mm <= one.diameter_mm


# --- finding


def test_lesions_are_numbered_by_size_and_equals_by_position() -> None:
    mask = boxes((20, 20, 20), ((0, 0, 0), (2, 2, 2)), ((10, 0, 0), (3, 3, 3)), ((0, 0, 10), (2, 2, 2)))
    for array in (mask, np.asfortranarray(mask)):
        labels, n = find_lesions(array, (1, 1, 1))
        assert (n, labels.dtype, labels.shape) == (3, np.int32, mask.shape)
        assert (labels[10, 0, 0], labels[0, 0, 0], labels[0, 0, 10]) == (1, 2, 3)
        assert ((labels > 0) == mask).all()


def test_voxels_that_meet_at_a_corner_are_one_lesion_and_across_a_gap_are_two() -> None:
    assert find_lesions(boxes((4, 4, 4), ((0, 0, 0), (1, 1, 1)), ((1, 1, 1), (1, 1, 1))), (1, 1, 1))[1] == 1
    assert find_lesions(boxes((4, 4, 4), ((0, 0, 0), (1, 1, 1)), ((2, 1, 1), (1, 1, 1))), (1, 1, 1))[1] == 2


@settings(max_examples=50, deadline=None)
@given(MASKS)
def test_lesions_are_scipys_components_in_their_order(mask) -> None:
    labels, n = find_lesions(mask, (1, 1, 1))
    theirs, count = ndimage.label(mask, EVERYWHERE)  # numbered by position in C order
    assert n == count
    sizes = ndimage.sum_labels(mask, theirs, range(1, count + 1))
    for number, old in enumerate(sorted(range(1, count + 1), key=lambda old: -sizes[old - 1]), start=1):
        np.testing.assert_array_equal(labels == number, theirs == old)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5, 1), (4, 5)])
def test_an_empty_mask_has_no_lesions(shape: tuple[int, ...], split: bool) -> None:
    labels, n = find_lesions(np.zeros(shape, bool), (1.0,) * len(shape), split=split)
    assert (n, labels.any(), labels.shape) == (0, False, shape)


def test_touching_lesions_are_one_unless_they_are_asked_to_be_split() -> None:
    near = [((np.indices((37, 21, 21)).T - (x, 10, 10)) ** 2).sum(-1).T <= 64 for x in (12, 24)]
    mask = near[0] | near[1]
    grid = grid_of(mask)
    assert [row["voxels"] for row in lesion_table(mask, None, grid)] == [mask.sum()]
    parts = lesion_table(mask, None, grid, split=True)
    # Their plane of symmetry is at 18, so each has its own ball's centre within the part that the plane cuts off.
    assert sum(row["voxels"] for row in parts) == mask.sum()
    assert sorted(round(row["centroid_x_mm"]) for row in parts) == [12, 24]


def test_a_flat_lesion_is_split_as_in_the_whole_image_and_not_as_if_it_went_on_beyond_its_box() -> None:
    # Two overlapping discs, three voxels thick: nowhere is the background more than 2 mm away, so no neck shows.
    discs = [((np.indices((37, 21)).T - (x, 10)) ** 2).sum(-1).T <= 64 for x in (12, 24)]
    mask = np.zeros((37, 21, 9), bool)
    mask[..., 3:6] = (discs[0] | discs[1])[..., None]
    assert len(lesion_table(mask, None, grid_of(mask), split=True)) == 1
    picture = mask[..., 4:5]
    assert len(lesion_table(picture, None, grid_of(picture), split=True)) == 2


# --- the table


def test_a_lesion_lies_where_the_affine_says() -> None:
    # The array runs to the left, to the back and to the head, as files of BraTS do; two voxels around (1.5, 2, 3).
    affine = np.array([[-2.0, 0, 0, 100], [0, -1, 0, 50], [0, 0, 3, -20], [0, 0, 0, 1]])
    mask = boxes((5, 6, 7), ((1, 2, 3), (2, 1, 1)))
    (row,) = lesion_table(mask, None, grid_of(mask, affine))
    assert (row["centroid_x_mm"], row["centroid_y_mm"], row["centroid_z_mm"]) == pytest.approx((97.0, 48.0, -11.0))
    assert (row["side"], row["lesion"], row["voxels"], row["slice"]) == ("prediction", 1, 2, 3)
    assert row["volume_ml"] == pytest.approx(0.012)
    assert row["diameter_mm"] == pytest.approx(math.hypot(4, 1))
    assert row["bidimensional_mm2"] == pytest.approx(row["diameter_mm"] * row["perpendicular_mm"])
    assert (row["matches"], row["detected"]) == ("", None)


def test_the_slice_is_counted_along_the_bodys_axis_whichever_axis_of_the_array_that_is() -> None:
    mask = boxes((9, 8, 7), ((6, 2, 3), (1, 2, 2)))
    sagittal = np.array([[0, 0, 1.0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])  # array axis 1 runs to the head
    assert lesion_table(mask, None, grid_of(mask, sagittal))[0]["slice"] == 2


@settings(max_examples=40, deadline=None)
@given(MASKS, st.booleans())
def test_centroids_are_scipys_centres_of_mass_through_the_affine(mask, split) -> None:
    affine = turned(20, 1) @ scaled(1, 2, 3)
    affine[:3, 3] = (5, -7, 11)
    labels, n = find_lesions(mask, (1, 2, 3), split=split)
    centres = nib.affines.apply_affine(affine, ndimage.center_of_mass(mask, labels, range(1, n + 1))) if n else []
    rows = lesion_table(mask, None, grid_of(mask, affine), split=split)
    places = [[row[f"centroid_{axis}_mm"] for axis in "xyz"] for row in rows]
    np.testing.assert_allclose(places, centres, atol=1e-9)
    assert [row["lesion"] for row in rows] == list(range(1, n + 1))


def test_two_predicted_lesions_may_match_one_and_one_may_match_two() -> None:
    shape = (40, 20, 20)
    reference = boxes(shape, ((0, 0, 0), (12, 3, 3)), ((20, 0, 0), (3, 3, 3)), ((25, 0, 0), (2, 2, 2)))
    prediction = boxes(shape, ((0, 0, 0), (4, 3, 3)), ((6, 0, 0), (3, 3, 3)), ((21, 0, 0), (5, 1, 1)))
    rows = lesion_table(prediction, reference, grid_of(reference))
    assert [(row["side"], row["lesion"], row["voxels"], row["matches"], row["detected"]) for row in rows] == [
        ("prediction", 1, 36, "1", True),
        ("prediction", 2, 27, "1", True),
        ("prediction", 3, 5, "2 3", True),
        ("reference", 1, 108, "1 2", True),
        ("reference", 2, 27, "3", True),
        ("reference", 3, 8, "3", True),
    ]


def test_lesions_that_only_touch_the_other_side_are_not_matched() -> None:
    shape = (10, 10, 10)
    prediction, reference = boxes(shape, ((0, 0, 0), (3, 3, 3))), boxes(shape, ((3, 0, 0), (3, 3, 3)))
    rows = lesion_table(prediction, reference, grid_of(reference))
    assert [(row["matches"], row["detected"]) for row in rows] == [("", False), ("", False)]


@pytest.mark.parametrize("split", [False, True])
def test_empty_masks_have_no_rows_and_one_empty_mask_finds_nothing(split: bool) -> None:
    empty, mask = np.zeros((8, 8, 8), bool), boxes((8, 8, 8), ((1, 1, 1), (2, 2, 2)))
    grid = grid_of(mask)
    assert lesion_table(empty, empty, grid, split=split) == []
    assert lesion_table(empty, None, grid, split=split) == []
    assert [(r["side"], r["detected"]) for r in lesion_table(empty, mask, grid, split=split)] == [("reference", False)]
    assert [(r["side"], r["detected"]) for r in lesion_table(mask, empty, grid, split=split)] == [("prediction", False)]


def test_without_a_spacing_there_are_voxels_and_slices_but_no_mm() -> None:
    mask = boxes((8, 9, 5), ((1, 1, 1), (1, 1, 1)), ((2, 2, 3), (4, 3, 1)))
    rows = lesion_table(mask, mask, grid_of(mask, known=False))
    assert [(row["voxels"], row["slice"], row["matches"]) for row in rows] == [(12, 3, "1"), (1, 1, "2")] * 2
    for row in rows:
        for name, value in row.items():
            if "_m" in name:
                assert math.isnan(value), name
    assert all(entry["n"] == 0 for entry in sensitivity_by_size(rows))


def test_masks_of_the_wrong_kind_or_shape_are_refused() -> None:
    mask = np.zeros((4, 4, 4), bool)
    with pytest.raises(ValueError, match="boolean, not uint8"):
        find_lesions(mask.astype(np.uint8), (1, 1, 1))
    with pytest.raises(ValueError, match="boolean, not float64"):
        lesion_table(mask, mask.astype(float), grid_of(mask))
    with pytest.raises(ValueError, match=r"the reference is \(4, 4, 3\), the grid \(4, 4, 4\)"):
        lesion_table(mask, mask[..., :3], grid_of(mask))


# --- detection


SMALL_COUNTS = tuple(f"small_lesions_{name}" for name in ("prediction", "reference", "fp", "fn"))


def row(side: str, volume_ml: float, detected: bool | None) -> dict:
    return {"side": side, "volume_ml": volume_ml, "detected": detected}


def test_found_missed_and_invented_lesions_are_counted() -> None:
    rows = [row("prediction", 1, True), row("prediction", 1, False), row("prediction", 1, False)]
    rows += [row("reference", 1, True), row("reference", 1, True), row("reference", 1, False)]
    assert detection_scores(rows) == pytest.approx(
        {
            "lesions_prediction": 3,
            "lesions_reference": 3,
            "lesions_tp": 2,
            "lesions_fp": 2,
            "lesions_fn": 1,
            "lesions_f1": 4 / 7,  # 2 * 2 / (2 * 2 + 2 + 1)
        }
        | dict.fromkeys(SMALL_COUNTS, 0)
    )


def test_lesions_below_a_twentieth_of_a_millilitre_are_counted_apart() -> None:
    rows = [row("prediction", 1, True), row("prediction", 0.049, False), row("prediction", 0.05, False)]
    rows += [row("prediction", 0.01, True), row("reference", 0.05, False), row("reference", 1, True)]
    rows += [row("reference", 0.0499, False), row("reference", 0.001, False), row("reference", 0.02, True)]
    scores = detection_scores(rows)
    assert [scores[f"lesions_{name}"] for name in ("prediction", "reference", "tp", "fp", "fn")] == [2, 2, 1, 1, 1]
    assert scores["lesions_f1"] == 0.5  # 2 * 1 / (2 * 1 + 1 + 1)
    assert [scores[name] for name in SMALL_COUNTS] == [2, 3, 1, 2]


def test_a_large_lesion_that_shares_a_voxel_with_a_speck_alone_is_found() -> None:
    large, speck = boxes((20, 8, 8), ((1, 1, 1), (4, 4, 4))), boxes((20, 8, 8), ((4, 4, 4), (1, 1, 1)))
    scores = detection_scores(lesion_table(speck, large, grid_of(large)))  # 64 voxels of 1 mm, and one of them
    assert [scores[f"lesions_{name}"] for name in ("prediction", "reference", "tp", "fn")] == [0, 1, 1, 0]
    assert [scores[name] for name in SMALL_COUNTS] == [1, 0, 0, 0]


def test_a_lesion_of_unknown_volume_is_not_small() -> None:
    scores = detection_scores([row("prediction", math.nan, True), row("reference", math.nan, True)])
    assert scores["lesions_tp"] == 1 and scores["small_lesions_reference"] == 0


def test_two_empty_masks_agree_and_one_empty_mask_does_not() -> None:
    assert detection_scores([])["lesions_f1"] == 1.0
    assert detection_scores([row("reference", 1, False)])["lesions_f1"] == 0.0
    assert detection_scores([row("prediction", 1, False)])["lesions_f1"] == 0.0


def test_without_a_reference_only_the_prediction_is_counted() -> None:
    scores = detection_scores([row("prediction", 1, None)] * 2 + [row("prediction", 0.04, None)])
    assert scores.pop("lesions_prediction") == 2 and scores.pop("small_lesions_prediction") == 1
    assert len(scores) == 8 and all(math.isnan(value) for value in scores.values())


def test_sensitivity_is_given_for_each_class_of_size_and_its_lower_end_belongs_to_it() -> None:
    sizes = [(0.049, True), (0.05, False), (0.1, True), (0.99, False), (1.0, True), (10.0, True), (500.0, True)]
    rows = [row("reference", *size) for size in sizes] + [row("prediction", 5.0, False)]
    table = sensitivity_by_size(rows)
    assert [(entry["size_class"], entry["n"], entry["found"]) for entry in table] == [
        ("below 0.05 ml", 1, 1),
        ("0.05 to 0.1 ml", 1, 0),
        ("0.1 to 1 ml", 2, 1),
        ("1 to 10 ml", 1, 1),
        ("10 ml and more", 2, 2),
    ]
    assert [entry["sensitivity"] for entry in table] == [1.0, 0.0, 0.5, 1.0, 1.0]
    assert all(math.isnan(entry["sensitivity"]) for entry in sensitivity_by_size([]))
    assert len(table) == len(SIZE_CLASSES_ML)


# --- real patients


def test_the_lesions_of_a_real_patient_add_up_and_have_plausible_sizes_in_any_orientation(real_patients: Path) -> None:
    image = nib.load(real_patients / "BraTS2021_00495" / "BraTS2021_00495_seg.nii.gz")
    mask = np.asarray(image.dataobj) > 0
    began = time.process_time()
    rows = lesion_table(mask, mask, grid_of(mask, image.affine))
    seconds = time.process_time() - began
    assert seconds < 2  # 0.03 s was measured
    ours = [row for row in rows if row["side"] == "reference"]
    assert sum(row["voxels"] for row in ours) == mask.sum()
    largest = ours[0]
    # Two crossing diameters at a right angle span d p / 2 of the hull, and no shape has more area than a disc.
    lesion = find_lesions(mask, (1, 1, 1))[0] == 1
    corners = corners_by_slice(lesion, np.eye(4), 2)[largest["slice"]][:, :2]
    assert largest["diameter_mm"] == pytest.approx(pdist(corners[ConvexHull(corners).vertices]).max())
    assert largest["bidimensional_mm2"] / 2 <= ConvexHull(corners).volume
    assert lesion[..., largest["slice"]].sum() <= math.pi / 4 * largest["diameter_mm"] ** 2
    turned_image = nib.as_closest_canonical(image)
    turned_mask = np.asarray(turned_image.dataobj) > 0
    again = lesion_table(turned_mask, None, grid_of(turned_mask, turned_image.affine))
    for name in ("voxels", "diameter_mm", "perpendicular_mm", "centroid_x_mm", "centroid_z_mm", "slice"):
        assert again[0][name] == pytest.approx(largest[name])


def test_thousands_of_specks_cost_neither_a_table_of_each_with_each_nor_a_measurement_each(monkeypatch):
    """A mask that is noise: 12,167 single voxels of 1 mm, of which each is its own match."""
    import tracemalloc

    import pipeline.score.lesions

    mask = np.zeros((70, 70, 70), bool)
    mask[1::3, 1::3, 1::3] = True
    measured = []
    measure = pipeline.score.lesions.axial_diameters
    monkeypatch.setattr(
        pipeline.score.lesions, "axial_diameters", lambda *a, **k: (measured.append(1), measure(*a, **k))[1]
    )  # fmt: skip
    tracemalloc.start()
    try:
        rows = lesion_table(mask, mask, Grid(mask.shape, np.eye(4)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(rows) == 2 * 23**3 and all(row["matches"] == str(row["lesion"]) for row in rows)
    assert {row["diameter_mm"] for row in rows} == {math.sqrt(2)}
    assert {row["slice"] for row in rows} == set(range(1, 70, 3))  # each in its own place all the same
    assert len(measured) <= 2  # once a side
    assert peak < 120 * 2**20  # 148 MB were the table alone
