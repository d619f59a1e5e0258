"""How far members agree: hand-worked examples, numpy on the stacked members, and the benchmark that judges it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.uncertainty import (
    area_under_curve,
    fold_models,
    neighbourhood,
    reference_masks,
    score_uncertainty,
    summarise_uncertainty,
)
from data.errors import UsageError
from data.find.discover import discover_cases
from data.grid import Grid
from data.io.read import ImageHeader, read_header
from pipeline.predict.predictor import Segmentation
from pipeline.predict.uncertainty import MemberSpread
from pipeline.training.splits import fold_split


def grid_of(shape: tuple[int, ...], spacing_mm: float = 1.0) -> Grid:
    return Grid(shape, np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0]))


def spread_of(members: np.ndarray, weights: list[float] | None = None, threshold: float = 0.5) -> MemberSpread:
    """Of members (members, regions, d1, d2, d3), all on one grid."""
    spread = MemberSpread(threshold)
    for number, member in enumerate(members):
        weight = weights[number] if weights else 1.0
        spread.add(torch.as_tensor(member, dtype=torch.float32), grid_of(member.shape[1:]), weight)
    return spread


def line(*values: float) -> list:
    """One region of a row of voxels."""
    return [[[[value] for value in values]]]


def test_the_deviation_of_two_members_is_half_of_what_lies_between_them():
    spread = spread_of(np.array([line(0.2, 0.5, 1.0), line(0.8, 0.5, 0.0)]))
    np.testing.assert_allclose(spread.standard_deviation().flatten(), [0.3, 0.0, 0.5], atol=1e-7)


def test_the_disagreement_of_two_members_is_what_one_works_out_by_hand():
    # Their mean is .9 .55 .1 .1: a mask of two voxels, which the first member has too (Dice 1) and the second has one
    # of (Dice 2 * 1 / (1 + 2)), so 1 - (1 + 2/3) / 2.
    spread = spread_of(np.array([line(0.9, 0.9, 0.1, 0.1), line(0.9, 0.2, 0.1, 0.1)]))
    assert spread.disagreement() == [pytest.approx(1 / 6)]


def test_a_member_alone_with_a_lesion_disagrees_wholly_with_the_empty_mask_of_the_mean():
    # Means .3 and .1: no voxel. The members without one agree (Dice 1), the other one has Dice 0.
    spread = spread_of(np.array([line(0.7, 0.1), line(0.1, 0.1), line(0.1, 0.1)]))
    assert spread.disagreement() == [pytest.approx(1 / 3)]


def test_the_threshold_decides_what_a_mask_is_and_belongs_to_it():
    members = np.array([line(0.5, 0.25), line(0.5, 0.25)])
    assert spread_of(members, threshold=0.5).disagreement() == [0.0]
    members[1, 0, 0, 1, 0] = (
        0.0  # means .5 and .125: with .25 the first member has both voxels, Dice 2/3, the second one, 1
    )
    assert spread_of(members, threshold=0.25).disagreement() == [pytest.approx(1 / 6)]


def test_equal_members_have_exactly_no_spread():
    member = np.random.default_rng(0).random((2, 5, 4, 3))
    spread = spread_of(np.stack([member] * 7), [1 / 3] * 7)
    assert not spread.standard_deviation().any() and spread.disagreement() == [0.0, 0.0]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 19), st.integers(0, 2**31), st.booleans())
def test_one_member_at_a_time_is_the_same_as_all_stacked(n_members: int, seed: int, weighted: bool):
    rng = np.random.default_rng(seed)
    members = rng.random((n_members, 2, 4, 3, 2)).astype(np.float32)
    weights = list(rng.uniform(0.1, 2, n_members)) if weighted else [1.0] * n_members
    spread = spread_of(members, weights)
    exact = members.astype(np.float64)
    mean = np.average(exact, axis=0, weights=weights)
    deviation = np.sqrt(np.average((exact - mean) ** 2, axis=0, weights=weights))
    np.testing.assert_allclose(spread.mean, mean, atol=1e-6)
    np.testing.assert_allclose(spread.standard_deviation(), deviation, atol=1e-6)
    for region, disagreement in enumerate(spread.disagreement()):
        of_mean = spread.mean[region].numpy() >= 0.5
        masks = [member[region] >= 0.5 for member in members]
        dices = [2 * (m & of_mean).sum() / (m.sum() + of_mean.sum()) if (m | of_mean).any() else 1.0 for m in masks]
        assert disagreement == pytest.approx(1 - np.average(dices, weights=weights), abs=1e-12)


def test_no_digits_are_lost_where_all_members_are_certain():
    members = (1 - np.random.default_rng(1).uniform(0, 2e-4, (8, 1, 6, 6, 6))).astype(np.float32)
    deviation = members.astype(np.float64).std(axis=0)
    np.testing.assert_allclose(spread_of(members).standard_deviation(), deviation, rtol=2e-3)  # sum of squares: 1


def test_a_member_is_left_as_it_is():
    first, second = torch.rand(1, 3, 3, 3), torch.rand(1, 3, 3, 3)
    kept = first.clone(), second.clone()
    spread = MemberSpread()
    for member in (first, second, first):
        spread.add(member, grid_of((3, 3, 3)))
    assert torch.equal(first, kept[0]) and torch.equal(second, kept[1])


def test_a_member_on_another_grid_is_brought_onto_the_first_ones():
    spread = MemberSpread()
    coarse = grid_of((4, 4, 4), 2.0)
    fine = Grid((8, 8, 8), np.array([[1, 0, 0, -0.5], [0, 1, 0, -0.5], [0, 0, 1, -0.5], [0, 0, 0, 1]], float))
    spread.add(torch.full((1, 4, 4, 4), 0.2), coarse)
    spread.add(torch.full((1, 8, 8, 8), 0.8), fine)
    np.testing.assert_allclose(spread.standard_deviation(), np.full((1, 4, 4, 4), 0.3), atol=1e-6)
    # Below the threshold on one side, above it on the other, a mean of .5 that rounding may put on either.
    assert spread.disagreement() == [pytest.approx(0.5)]


def test_no_members_have_no_regions():
    assert MemberSpread().disagreement() == []


# ---------------------------------------------------------------------------------------------------- the benchmark


@pytest.mark.parametrize(
    ("scores", "positive", "area"),
    [
        ([0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1], 1.0),
        ([0.4, 0.3, 0.2, 0.1], [0, 0, 1, 1], 0.0),
        ([0.1, 0.3, 0.2, 0.4], [0, 0, 1, 1], 0.75),  # one of four pairs is in the wrong order
        ([0.5, 0.5, 0.5], [0, 1, 1], 0.5),
        ([0.1, 0.2], [1, 1], np.nan),
        ([0.1, 0.2], [0, 0], np.nan),
        ([], [], np.nan),
    ],
)
def test_the_area_counts_the_pairs_in_the_right_order_and_half_the_ties(scores, positive, area):
    assert area_under_curve(np.array(scores), np.array(positive, bool)) == pytest.approx(area, nan_ok=True)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 40))
def test_the_area_is_that_of_all_pairs_compared(seed: int, n: int):
    rng = np.random.default_rng(seed)
    scores, positive = rng.integers(0, 6, n).astype(np.float32), rng.random(n) < 0.5
    positive[:2] = (True, False)
    ahead = scores[positive][:, None] - scores[~positive][None, :]
    assert area_under_curve(scores, positive) == pytest.approx(((ahead > 0) + 0.5 * (ahead == 0)).mean())


def test_the_neighbourhood_is_what_lies_within_ten_millimetres_whatever_the_spacing():
    grid = Grid((9, 24, 12), np.diag([4.0, 1.0, 3.0, 1.0]))
    mask = np.zeros(grid.shape, bool)
    mask[4, 11:13, 6] = mask[0, 0, 0] = True
    points = np.stack(np.indices(grid.shape), -1) * np.array(grid.spacing_mm)
    distances = np.linalg.norm(points[..., None, :] - points[mask], axis=-1).min(axis=-1)
    assert np.array_equal(neighbourhood(mask, grid), distances <= 10)
    assert not neighbourhood(np.zeros(grid.shape, bool), grid).any()


@pytest.fixture(scope="module")
def header(phantoms: Path) -> ImageHeader:
    return read_header(discover_cases(phantoms)[0].images["flair"])


def made_up(header: ImageHeader, uncertainty: np.ndarray | None, mask: np.ndarray) -> Segmentation:
    shape = header.grid.shape
    return Segmentation(
        label_map=mask.astype(np.uint8),
        masks={"WT": mask},
        probabilities={"WT": mask.astype(np.float32)},
        native=header,
        background=np.ones(shape, np.float32),
        convention="brats2023",
        warnings=(),
        seconds={},
        uncertainty=None if uncertainty is None else {"WT": uncertainty},
        disagreement=None if uncertainty is None else {"WT": 0.25},
    )


def test_a_map_that_is_uncertain_where_the_mask_is_wrong_is_above_chance(header: ImageHeader):
    shape = header.grid.shape
    mask, truth = np.zeros(shape, bool), np.zeros(shape, bool)
    mask[10:20, 10:20, 10:20] = truth[10:20, 10:20, 10:15] = True  # 500 voxels too many
    uncertainty = np.zeros(shape, np.float32)
    uncertainty[10:20, 10:20, 14:20] = 0.4  # on them, and on one layer of 100 that is right
    (row,) = score_uncertainty(made_up(header, uncertainty, mask), {"WT": truth})
    right = mask.size - 500
    assert row["auc_brain"] == pytest.approx((right - 100 + 0.5 * 100) / right)
    assert 0.5 < row["auc_near"] < row["auc_brain"]
    assert row["dice"] == pytest.approx(2 * 500 / 1500) and row["disagreement"] == 0.25
    (row,) = score_uncertainty(made_up(header, 0.5 - uncertainty, mask), {"WT": truth})
    assert row["auc_near"] < 0.5


def test_one_member_alone_cannot_be_judged(header: ImageHeader):
    mask = np.zeros(header.grid.shape, bool)
    with pytest.raises(UsageError, match="--tta"):
        score_uncertainty(made_up(header, None, mask), {"WT": mask})


def test_the_summary_leaves_out_areas_that_there_are_none_of_and_ranks_disagreement_against_dice():
    rows = [("a", 0.9, 0.3, 0.5), ("b", 0.7, 0.2, 0.6), ("c", np.nan, 0.0, 1.0)]
    table = pd.DataFrame(
        [
            {"case": c, "region": "WT", "auc_near": a, "auc_brain": a, "disagreement": d, "dice": s}
            for c, a, d, s in rows
        ]
    )
    (line,) = summarise_uncertainty(table).to_dict("records")
    assert (line["patients"], line["with_auc"]) == (3, 2)
    assert line["auc_near"] == pytest.approx(0.8) and line["auc_near_min"] == 0.7
    assert line["spearman"] == pytest.approx(-1)
    (line,) = summarise_uncertainty(table[:2]).to_dict("records")
    assert np.isnan(line["spearman"])


def test_a_reference_is_read_in_the_convention_that_its_patient_speaks_for(phantoms: Path, header: ImageHeader):
    case = discover_cases(phantoms)[0]
    masks = reference_masks(case, header.grid)
    assert list(masks) == ["WT", "TC", "ET"] and masks["WT"].sum() > masks["ET"].sum() > 0
    with pytest.raises(UsageError, match="another grid"):
        reference_masks(case, grid_of((2, 2, 2)))


def test_each_patient_gets_the_models_of_the_fold_that_it_was_held_back_from(phantoms: Path, tmp_path: Path):
    cases = discover_cases(phantoms)
    for run in ("a", "b"):
        for fold in range(2):
            (tmp_path / run / f"fold-{fold}").mkdir(parents=True)
            (tmp_path / run / f"fold-{fold}" / "last.safetensors").touch()
    parts = list(fold_models(cases, [tmp_path / "a", tmp_path / "b"]))
    assert [models for models, _ in parts] == [
        [str(tmp_path / run / f"fold-{fold}" / "last.safetensors") for run in "ab"] for fold in range(2)
    ]
    assert sorted(case.case_id for _, own in parts for case in own) == [case.case_id for case in cases]
    for fold, (_, own) in enumerate(parts):
        assert not {case.case_id for case in own} & set(fold_split([c.case_id for c in cases], 2, fold).train)
    with pytest.raises(UsageError, match="fold-0"):
        list(fold_models(cases, [tmp_path]))
