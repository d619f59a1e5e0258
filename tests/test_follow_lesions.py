"""Lesions over time: which are the same, worked by hand on cubes of 1 mm."""

from __future__ import annotations

import datetime

import numpy as np
import pytest

from data.grid import Grid
from pipeline.follow.components import find_components
from pipeline.follow.lesions import follow_lesions, visit_measures

SHAPE = (40, 30, 24)
GRID = Grid(SHAPE, np.diag([1.0, 1.0, 1.0, 1.0]))
Box = tuple[int, int, int, int, int, int]


def drawn(*boxes: Box) -> np.ndarray:
    """Return a mask of boxes, each from its first to its last voxel along x, y and z."""
    mask = np.zeros(SHAPE, bool)
    for x0, x1, y0, y1, z0, z1 in boxes:
        mask[x0 : x1 + 1, y0 : y1 + 1, z0 : z1 + 1] = True
    return mask


def cube(x: int, y: int = 5, z: int = 5, side: int = 5) -> Box:
    return (x, x + side - 1, y, y + side - 1, z, z + side - 1)


def follow(*visits: list[Box] | None):
    parts = (None if v is None else find_components(drawn(*v), GRID, np.eye(4), GRID) for v in visits)
    return follow_lesions(list(parts))


def events(visit) -> dict[int, str]:
    return {each.lesion: each.event for each in visit.lesions}


def at(visit, lesion: int):
    return next(each for each in visit.lesions if each.lesion == lesion)


def test_lesions_that_stay_keep_their_numbers_though_their_order_by_size_changes():
    first, second = follow([cube(2, side=6), cube(20, side=5)], [cube(2, side=4), cube(20, side=7)])
    assert events(first) == {1: "first", 2: "first"} and events(second) == {1: "same", 2: "same"}
    assert [round(at(second, n).component.volume_ml * 1000) for n in (1, 2)] == [64, 343]


def test_what_comes_goes_and_comes_back_is_told_so():
    seen = follow([cube(2)], [cube(2), cube(20)], [cube(20)], [cube(2), cube(20)])
    assert events(seen[1]) == {1: "same", 2: "new"}
    assert seen[2].gone == (1,) and events(seen[2]) == {2: "same"}
    assert events(seen[3]) == {1: "returned", 2: "same"} and seen[3].gone == ()


def test_a_lesion_that_splits_keeps_its_number_in_the_larger_part():
    bar = (2, 20, 5, 9, 5, 9)
    _, split, later = follow([bar], [(2, 9, 5, 9, 5, 9), (13, 20, 5, 8, 5, 9)], [(2, 9, 5, 9, 5, 9), cube(14)])
    assert events(split) == {1: "same", 2: "split"}
    assert at(split, 1).component.volume_ml == pytest.approx(0.200) and at(split, 2).split_from == 1
    assert events(later) == {1: "same", 2: "same"} and at(later, 2).split_from == 1  # where it came from is kept


def test_a_lesion_that_merges_is_named_by_the_one_it_is_part_of_as_long_as_it_is():
    two = [(2, 9, 5, 9, 5, 9), cube(13)]
    seen = follow(two, [(2, 17, 5, 9, 5, 9)], [(2, 18, 5, 9, 5, 9)], two, [cube(13)])
    assert seen[1].merged == {2: 1} and seen[1].gone == () and at(seen[1], 1).merged == (2,)
    assert events(seen[2]) == {1: "same"} and at(seen[2], 1).merged == (2,)
    assert events(seen[3]) == {1: "same", 2: "split"} and at(seen[3], 1).merged == ()  # its old number, not a third
    assert seen[4].gone == (1,) and events(seen[4]) == {2: "same"}


def test_what_has_merged_goes_on_with_the_lesion_into_which_that_one_merges():
    seen = follow([cube(2, side=7), cube(11), cube(18, side=3)],
                  [cube(2, side=7), (11, 20, 5, 9, 5, 9)], [cube(2, side=7), (9, 20, 5, 9, 5, 9)])  # fmt: skip
    assert at(seen[1], 2).merged == (3,)
    assert at(seen[2], 1).merged == (2, 3) and seen[2].merged == {2: 1}


def test_pairs_are_chosen_so_that_all_of_them_together_share_the_most():
    # Lesion 1 shares 6 x 25 voxels with P and 4 x 25 with Q, lesion 2 has 5 x 25 in P alone: 1-Q and 2-P share 225, 1-P
    # only 150, though it is the largest pair.
    before = [(2, 14, 5, 9, 5, 9), (16, 20, 5, 9, 5, 9)]
    now = [(9, 22, 5, 9, 5, 9), (2, 5, 5, 9, 5, 9)]
    _, second = follow(before, now)
    assert at(second, 2).component.volume_ml == pytest.approx(14 * 25 / 1000)
    assert at(second, 1).component.volume_ml == pytest.approx(4 * 25 / 1000)


def test_a_new_lesion_beside_one_that_stays_is_no_part_of_it_though_it_covers_its_rim():
    # One layer of five lies in the old one: 20 % of it.
    _, second = follow([(2, 11, 5, 9, 5, 9)], [(2, 9, 5, 9, 5, 9), (11, 15, 5, 9, 5, 9)])
    assert events(second) == {1: "same", 2: "new"} and at(second, 2).split_from is None


def test_a_small_lesion_that_is_shifted_out_of_its_outline_is_the_same():
    # Nearest middles 2 mm apart, with 1 + sqrt 3 = 2.7 mm allowed.
    _, near = follow([cube(5, side=2)], [cube(8, side=2)])
    assert events(near) == {1: "same"}
    _, far = follow([cube(5, side=2)], [cube(9, side=2)])
    assert events(far) == {2: "new"} and far.gone == (1,)


def test_a_small_neighbour_of_a_large_lesion_is_another():
    large = (2, 11, 2, 11, 2, 11)  # its diameter is 14 mm
    _, second = follow([large], [cube(13, side=2)])
    assert events(second) == {2: "new"} and second.gone == (1,)
    _, other = follow([cube(13, side=2)], [large])
    assert events(other) == {2: "new"} and other.gone == (1,)
    _, beside = follow([large], [large, cube(13, side=2)])
    assert events(beside) == {1: "same", 2: "new"}


def test_a_quarter_of_a_lesion_within_the_old_one_makes_it_a_part_of_it():
    # One layer of four: exactly a quarter.
    _, second = follow([(2, 11, 5, 9, 5, 9)], [(2, 9, 5, 9, 5, 9), (11, 14, 5, 9, 5, 9)])
    assert events(second) == {1: "same", 2: "split"}


def test_what_lies_in_two_lesions_alike_split_off_the_first():
    _, second = follow([(2, 11, 5, 9, 5, 9), (13, 21, 5, 9, 5, 9)],
                       [(2, 8, 5, 9, 5, 9), (10, 14, 5, 9, 5, 9), (16, 21, 5, 9, 5, 9)])  # fmt: skip
    assert events(second) == {1: "same", 2: "same", 3: "split"} and at(second, 3).split_from == 1


def test_a_part_that_goes_and_comes_back_is_still_that_lesions_part():
    two = [(2, 9, 5, 9, 5, 9), (13, 20, 5, 8, 5, 9)]
    seen = follow([(2, 20, 5, 9, 5, 9)], two, two[:1], two)
    assert events(seen[3]) == {1: "same", 2: "returned"} and at(seen[3], 2).split_from == 1


def test_the_number_of_a_lesion_that_is_gone_is_given_to_no_other():
    seen = follow([cube(2, side=6), cube(20)], [cube(2, side=6)], [cube(2, side=6), cube(30, y=15)])
    assert events(seen[2]) == {1: "same", 3: "new"}


def test_a_small_lesion_that_stays_is_not_its_small_neighbour_too():
    _, second = follow([cube(5, side=2)], [cube(5, side=2), cube(8, side=2)])
    assert events(second) == {1: "same", 2: "new"}


def test_of_two_small_ones_within_reach_the_nearer_is_the_same():
    _, second = follow([cube(10, side=1)], [(12, 13, 5, 5, 5, 5), cube(9, side=1)])
    assert {e.lesion: (e.event, e.component.centre_mm[0]) for e in second.lesions} == {1: ("same", 9), 2: ("new", 12.5)}


@pytest.mark.parametrize("coarse_first", [True, False])
def test_small_lesions_may_miss_each_other_by_a_diagonal_of_the_coarser_visit(coarse_first):
    thick = Grid((40, 30, 6), np.diag([1.0, 1.0, 4.0, 1.0]))  # 1 mm and a diagonal of 4.24 mm
    mask = np.zeros(thick.shape, bool)
    mask[5, 5, 1] = True
    coarse = find_components(mask, thick, np.eye(4), GRID)
    visits = [coarse, find_components(drawn((9, 9, 5, 5, 4, 4)), GRID, np.eye(4), GRID)]
    second = follow_lesions(visits if coarse_first else visits[::-1])[1]
    assert second is not None and events(second) == {1: "same"}


def test_a_visit_that_was_not_measured_changes_nothing():
    seen = follow([cube(2)], None, [cube(2)], [], [cube(2)])
    assert seen[1] is None and events(seen[2]) == {1: "same"}
    assert seen[3].lesions == () and seen[3].gone == (1,) and events(seen[4]) == {1: "returned"}
    late = follow(None, [cube(2)])
    assert events(late[1]) == {1: "first"}


def test_numbers_do_not_depend_on_the_order_of_the_axes_or_of_the_components():
    boxes = ([cube(2), cube(20), cube(30, side=4)], [cube(20), cube(3), cube(30, 15)], [cube(2), cube(30, 16, side=5)])
    turned = Grid((24, 40, 30), np.array([[0, -1, 0, 39], [0, 0, -1, 29], [-1, 0, 0, 23], [0, 0, 0, 1.0]]))
    plain, other = [], []
    for visit in boxes:
        mask = drawn(*visit)
        plain.append(find_components(mask, GRID, np.eye(4), GRID))
        other.append(find_components(mask[::-1, ::-1, ::-1].transpose(2, 0, 1), turned, np.eye(4), turned))

    def told(visits):
        return [[(e.lesion, e.event, e.component.centre_mm) for e in v.lesions] + [v.gone] for v in visits]

    assert told(follow_lesions(plain)) == told(follow_lesions(other))


def test_a_lesion_is_measured_where_it_was_drawn_and_compared_where_the_baseline_has_it():
    # The visit's voxels are 2 mm thick, and the head lies 10 mm further to the right.
    thick = Grid((40, 30, 12), np.diag([1.0, 1.0, 2.0, 1.0]))
    mask = np.zeros(thick.shape, bool)
    mask[15:20, 5:9, 3:5] = True  # 5 x 4 x 4 mm
    moved = np.eye(4)
    moved[0, 3] = 10
    there = find_components(mask, thick, moved, GRID)
    assert there.found[0].volume_ml == pytest.approx(0.08)
    assert there.found[0].longest_mm == pytest.approx(np.hypot(5, 4))
    # Voxels of 2 mm have their middles at z = 6 and 8 mm, and reach from 5 to 9 mm.
    assert np.argwhere(there.laid).min(axis=0).tolist()[:2] == [5, 5]
    assert np.argwhere(there.laid).max(axis=0).tolist()[:2] == [9, 8]
    assert there.found[0].laid_ml == pytest.approx(np.count_nonzero(there.laid) / 1000)  # on voxels of 1 mm
    before = find_components(drawn((5, 9, 5, 8, 5, 8)), GRID, np.eye(4), GRID)
    assert events(follow_lesions([before, there])[1]) == {1: "same"}


def test_a_lesion_smaller_than_the_baselines_voxels_is_not_lost():
    coarse = Grid((10, 8, 6), np.diag([4.0, 4.0, 4.0, 1.0]))
    speck = find_components(drawn((9, 9, 9, 9, 9, 9)), GRID, np.eye(4), coarse)
    assert np.argwhere(speck.laid).tolist() == [[2, 2, 2]]
    both = find_components(drawn((4, 8, 4, 8, 4, 8), (10, 10, 8, 8, 8, 8)), GRID, np.eye(4), coarse)
    assert both.laid[2, 2, 2] == both.labels[8, 8, 8], "a place that another lesion has is not taken from it"
    for x in (-40.0, 40.0):  # beyond the baseline's image, on either side
        moved = np.eye(4)
        moved[0, 3] = x
        away = find_components(drawn((9, 9, 9, 9, 9, 9)), GRID, moved, coarse)
        assert not away.laid.any() and away.found[0].laid_ml == 0


def test_a_lesion_that_lies_at_middles_of_the_baselines_voxels_has_those_alone():
    double = Grid((20, 15, 12), np.diag([2.0, 2.0, 2.0, 1.0]))
    laid = find_components(drawn((5, 8, 6, 8, 6, 8)), GRID, np.eye(4), double).laid
    assert np.argwhere(laid).tolist() == [[x, y, z] for x in (3, 4) for y in (3, 4) for z in (3, 4)]


def test_a_lesion_at_the_edge_of_the_image_is_laid_whole():
    edge = find_components(drawn((0, 3, 0, 3, 0, 3), (36, 39, 26, 29, 20, 23)), GRID, np.eye(4), GRID)
    assert np.array_equal(edge.laid, edge.labels)


def test_no_lesion_at_any_visit_is_no_error():
    assert [visit.lesions for visit in follow([], [])] == [(), ()]


def test_a_lesion_of_ten_millimetres_is_measurable_and_one_of_nine_is_not():
    # Boxes: both diameters of a square of 10 mm are its diagonals.
    ten, nine = (2, 11, 2, 11, 2, 11), (20, 28, 2, 7, 2, 11)
    visit = follow([ten, nine])[0]
    measures = visit_measures("week-004", {"ET": visit}, date=datetime.date(2025, 3, 2), days=28.0, order=1)
    large, small = measures.lesions
    assert (large.measurable, large.measurable_3d, large.measurable_2010) == (True, True, None)
    assert large.longest_mm == pytest.approx(np.sqrt(200)) and large.perpendicular_mm == pytest.approx(np.sqrt(200))
    # 9 x 6: the diagonal is 10.8 mm, across it less than 10.
    assert (small.measurable, small.measurable_3d) == (False, False)
    assert (measures.label, measures.days, measures.order, measures.regions) == ("week-004", 28.0, 1, ("ET",))


def test_a_square_with_diagonals_of_ten_millimetres_is_measurable():
    side = 10 / (7 * np.sqrt(2))
    grid = Grid(SHAPE, np.diag([side, side, 1.0, 1.0]))
    assert find_components(drawn((2, 8, 2, 8, 2, 8)), grid, np.eye(4), grid).found[0].measurable


def test_measures_of_a_visit_have_all_that_a_category_is_computed_from():
    two = [(2, 18, 2, 18, 5, 6), (22, 30, 2, 10, 5, 6)]  # flat: two slices
    seen = follow(two, [(2, 30, 2, 10, 5, 6)], two)
    day = datetime.date(2025, 3, 2)
    first, merged, split = (visit_measures("v", {"ET": visit}, date=day, flags=("x",)) for visit in seen)
    assert (merged.date, merged.flags, merged.lesions[0].merged) == (day, ("x",), (2,))
    assert [each.split_from for each in split.lesions] == [None, 1]
    assert (first.lesions[0].measurable, first.lesions[0].measurable_3d) == (True, False)


def test_one_slice_of_a_flat_lesion_is_not_measurable_and_thick_slices_ask_for_twice_their_thickness():
    flat = find_components(drawn((2, 20, 2, 20, 5, 5)), GRID, np.eye(4), GRID).found[0]
    assert (flat.measurable, flat.measurable_3d) == (False, False)
    thick = Grid((40, 30, 4), np.diag([1.0, 1.0, 6.0, 1.0]))
    mask = np.zeros(thick.shape, bool)
    mask[2:10, 2:10, :2] = True  # diameters of 11.3 mm on two slices, 12 mm high
    found = find_components(mask, thick, np.eye(4), thick).found[0]
    assert (found.measurable, found.measurable_3d, found.measurable_2010) == (True, True, False)


def test_a_mask_of_another_shape_or_without_a_voxel_size_is_refused():
    with pytest.raises(ValueError, match="resample it"):
        find_components(np.zeros((3, 3, 3), bool), GRID, np.eye(4), GRID)
    with pytest.raises(ValueError, match="voxel size"):
        find_components(drawn(), Grid(SHAPE, np.eye(4), spacing_known=False), np.eye(4), GRID)
