"""Remarks on a result, each from masks whose volume and place are known."""

from __future__ import annotations

import numpy as np
import pytest

from data.grid import Grid
from pipeline.score.quality import USUAL_DISAGREEMENT, USUAL_WHOLE_TUMOUR_ML, quality_flags


def grid_of(shape=(20, 20, 20), spacing_mm=5.0, known=True) -> Grid:
    return Grid(shape, np.diag([spacing_mm] * 3 + [1.0]), known)


def block(shape=(20, 20, 20), start=(5, 5, 5), size=(4, 4, 4)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = True
    return mask


def test_an_ordinary_result_has_no_remark():
    masks = {"WT": block(), "TC": block(size=(3, 3, 3)), "ET": block(size=(2, 2, 2))}  # WT of 64 / 8 = 8 ml
    assert quality_flags(masks, grid_of(), {"WT": 0.0, "TC": USUAL_DISAGREEMENT, "ET": 0.03}) == []


def test_an_empty_inner_region_is_named():
    masks = {"WT": block(), "TC": block(), "ET": np.zeros((20, 20, 20), bool)}
    assert quality_flags(masks, grid_of()) == ["no ET found"]


def test_no_tumour_at_all_is_one_remark():
    empty = np.zeros((20, 20, 20), bool)
    assert quality_flags({"WT": empty, "TC": empty, "ET": empty}, grid_of()) == ["no tumour found"]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("start", [0, 16])
def test_a_lesion_at_either_end_of_any_axis_touches_the_edge(axis, start):
    place = [8, 8, 8]
    place[axis] = start
    assert quality_flags({"WT": block(start=place)}, grid_of()) == ["WT touches the edge of the image"]
    place[axis] = {0: 1, 16: 15}[start]
    assert quality_flags({"WT": block(start=place)}, grid_of()) == []


def test_a_single_slice_has_no_edge_across_it():
    shape = (20, 20, 1)
    mask = block(shape, (5, 5, 0), (9, 9, 1))
    assert quality_flags({"WT": mask}, grid_of(shape)) == []


@pytest.mark.parametrize(
    ("spacing_mm", "size", "flags"),
    [
        (1.0, (5, 10, 10), []),  # 0.5 ml
        (1.0, (5, 10, 9), ["WT of 0.450 ml is unusually small (usual 0.5 to 400 ml)"]),
        (10.0, (3, 10, 13), []),  # 390 ml
        (10.0, (5, 9, 9), ["WT of 405 ml is unusually large (usual 0.5 to 400 ml)"]),
    ],
)
def test_a_whole_tumour_of_unusual_volume_is_named_with_its_volume(spacing_mm, size, flags):
    assert USUAL_WHOLE_TUMOUR_ML == (0.5, 400.0)
    assert quality_flags({"WT": block(size=size)}, grid_of(spacing_mm=spacing_mm)) == flags


def test_only_the_whole_tumour_is_weighed():
    assert quality_flags({"TC": block(size=(1, 1, 1))}, grid_of(spacing_mm=1.0)) == []


def test_where_the_voxel_size_is_unknown_the_remark_says_that_and_nothing_about_a_volume():
    said = "the voxel size is unknown: no mm, no ml; voxels_<region> counts voxels"
    for mask in (block(size=(1, 1, 1)), block(size=(9, 9, 9))):
        assert quality_flags({"WT": mask}, grid_of(spacing_mm=1.0, known=False)) == [said]
    assert quality_flags({"WT": np.zeros((20, 20, 20), bool)}, grid_of(known=False)) == ["no tumour found", said]


def test_a_region_on_which_the_members_disagree_is_named_with_the_number():
    masks = {"WT": block(), "TC": block()}
    flags = quality_flags(masks, grid_of(), {"WT": 0.02, "TC": 0.25})
    assert len(flags) == 1 and flags[0].startswith("TC: ") and "0.25" in flags[0]
    assert quality_flags(masks, grid_of(), {"WT": USUAL_DISAGREEMENT + 1e-9, "TC": 0.0})
