"""pipeline/score/statistics.py and pipeline/score/significance.py: worked numbers, numpy and enumeration as oracles,
symmetries."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import norm, rankdata

from pipeline.score.significance import bootstrap_intervals, signed_rank_p
from pipeline.score.statistics import (
    COMPARISON_COLUMNS,
    SUMMARY_COLUMNS,
    bootstrap_interval,
    compare,
    compare_cases,
    summarise_metrics,
)

SCORES = st.floats(0, 1, allow_nan=False).map(lambda value: round(value, 3))


def region_rows(values: dict[str, float], region: str = "WT", metric: str = "dice") -> pd.DataFrame:
    """Rows of metrics.csv of one region and metric, from case -> value."""
    return pd.DataFrame({"case": list(values), "region": region, metric: np.array(list(values.values()), float)})


def report_of(**statuses: str) -> pd.DataFrame:
    return pd.DataFrame({"case": list(statuses), "status": list(statuses.values())})


def one(frame: pd.DataFrame) -> dict:
    assert len(frame) == 1
    return frame.iloc[0].to_dict()


# ---- the interval of a mean ----


def test_the_interval_of_two_values_is_the_two_values_for_a_quarter_of_the_draws_takes_either_twice():
    assert bootstrap_interval([0.0, 1.0]) == (0.0, 1.0)


@pytest.mark.parametrize("values", [[0.1], [0.1] * 7, [374.0, 374.0]])
def test_one_value_or_equal_values_are_their_own_interval_to_the_last_bit(values):
    assert bootstrap_interval(values) == (values[0], values[0])


@pytest.mark.parametrize("values", [[], [math.nan], [math.nan, math.nan]])
def test_no_known_value_has_no_interval(values):
    assert all(math.isnan(end) for end in bootstrap_interval(values))


def test_unknown_values_are_left_out_of_the_interval():
    assert bootstrap_interval([0.2, math.nan, 0.9, 0.4]) == bootstrap_interval([0.2, 0.9, 0.4])


def test_the_interval_is_that_of_means_drawn_one_by_one():
    values = np.random.default_rng(5).gamma(2.0, 3.0, 40)
    rng = np.random.default_rng(17)
    means = [rng.choice(values, len(values)).mean() for _ in range(10_000)]
    assert bootstrap_interval(values) == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.12)
    assert bootstrap_interval(values, confidence=0.5) == pytest.approx(np.percentile(means, [25, 75]), abs=0.06)


def test_the_interval_of_many_values_is_nearly_the_textbook_one_of_a_normal_mean():
    values = np.random.default_rng(2).normal(10, 2, 400)
    half = 1.96 * values.std(ddof=1) / 20
    low, high = bootstrap_interval(values)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_the_same_values_give_the_same_interval_and_another_seed_another():
    values = np.random.default_rng(0).random(12)
    assert bootstrap_interval(values) == bootstrap_interval(iter(values))
    assert bootstrap_interval(values) != bootstrap_interval(values, seed=1)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=15), st.floats(-50, 50))
def test_the_interval_of_symmetric_values_holds_their_mean(half, middle):
    low, high = bootstrap_interval([middle + x for x in half] + [middle - x for x in half])
    assert low - 1e-9 <= middle <= high + 1e-9


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=15), st.floats(-50, 50), st.floats(0.1, 10))
def test_the_interval_moves_scales_and_turns_with_the_values_and_stays_within_them(values, shift, factor):
    values = np.array(values)
    low, high = bootstrap_interval(values)
    assert values.min() - 1e-9 <= low <= high <= values.max() + 1e-9
    assert bootstrap_interval(factor * values + shift) == pytest.approx((factor * low + shift, factor * high + shift))
    assert bootstrap_interval(-values) == pytest.approx((-high, -low))


def test_many_metrics_at_once_have_the_intervals_that_they_have_alone():
    table = np.random.default_rng(3).random((5, 30))
    table[1, 4] = table[2, 4] = table[3, 7:] = np.nan
    table[3, :7] = 0.5
    table[4] = np.nan
    for row, interval in zip(table, bootstrap_intervals(table), strict=True):
        assert tuple(interval) == pytest.approx(bootstrap_interval(row), rel=1e-12, nan_ok=True)
    assert bootstrap_intervals(np.zeros((3, 0))).shape == (3, 2) and bootstrap_intervals(np.zeros((0, 3))).shape == (
        0,
        2,
    )


# ---- the summary ----


def worked() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Five scored patients, of whom the third misses the region, the fourth invents it, the fifth is empty on both."""
    metrics = pd.DataFrame(
        {
            "case": list("abcde"),
            "region": "ET",
            "dice": [1.0, 0.75, 0.0, 0.0, 1.0],
            "hd95_mm": [0.0, 1.0, 374.0, 374.0, math.nan],
            "tp": [1, 1, 0, 0, 0],
            "voxels_prediction": [64, 64, 0, 64, 0],
            "voxels_reference": [64, 64, 64, 0, 0],
        }
    )
    return metrics, report_of(a="ok", b="warn", c="ok", d="ok", e="ok", f="error", g="ok")


def test_a_worked_summary():
    summary = summarise_metrics(*worked())
    assert list(summary) == list(SUMMARY_COLUMNS)
    assert summary[["region", "metric"]].to_numpy().tolist() == [["ET", "dice"], ["ET", "hd95_mm"], ["ET", "tp"]]
    dice, hd95, _ = summary.to_dict("records")
    # Deviations from .55: .45, .2, -.55, -.55, .45; their squares sum to 1.05.
    assert dice["mean"] == pytest.approx(0.55) and dice["sd"] == pytest.approx(math.sqrt(1.05 / 4))
    assert [dice[name] for name in ("n", "min", "q1", "median", "q3", "max")] == [5, 0, 0, 0.75, 1, 1]
    assert dice["mean_reference_not_empty"] == pytest.approx(1.75 / 3)
    assert (hd95["n"], hd95["mean"], hd95["median"]) == (4, 187.25, 187.5)
    assert (hd95["q1"], hd95["q3"]) == (0.75, 374)
    assert hd95["mean_reference_not_empty"] == 125
    assert summary["n_empty_reference"].tolist() == [2] * 3 and summary["n_empty_prediction"].tolist() == [2] * 3


def test_patients_with_an_error_or_without_any_score_are_counted_as_failed():
    summary = summarise_metrics(*worked())
    assert summary["n_failed"].tolist() == [2] * 3  # f has an error, g no row
    assert summarise_metrics(worked()[0], pd.DataFrame({"case": ["a"]}))["n_failed"].isna().all()


def test_the_intervals_of_the_summary_are_those_of_the_values_in_the_order_of_the_cases():
    values = np.random.default_rng(8).gamma(1, 5, (6, 2))
    rows = region_rows({f"{number}": value for number, value in enumerate(values[:, 0])}).assign(nsd=values[:, 1])
    summary = summarise_metrics(rows, pd.DataFrame()).set_index("metric")
    for name, column in (("dice", 0), ("nsd", 1)):
        ends = summary.loc[name, ["ci95_low", "ci95_high"]].tolist()
        assert ends == pytest.approx(bootstrap_interval(values[:, column]), rel=1e-12)


def test_below_six_patients_there_is_no_interval_and_no_p():
    gains = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.15, "e": 0.25, "f": 0.05}
    for n, known in ((5, False), (6, True)):
        first, other = (region_rows({case: value + gain for case, gain in list(gains.items())[:n]})
                        for value, gain in ((0.5, 0), (0.4, 0)))  # fmt: skip
        summary, compared = one(summarise_metrics(first, pd.DataFrame())), one(compare({"x": first, "y": other}))
        for row in (summary, compared):
            assert math.isnan(row["ci95_low"]) is math.isnan(row["ci95_high"]) is not known, n
        assert (summary["n"], compared["n"], compared["wins"]) == (n, n, n)
        if known:
            assert compared["p_wilcoxon"] == pytest.approx(2 / 2**6)  # all of six pairs to one side
        else:
            assert math.isnan(compared["p_wilcoxon"])


def test_the_patients_whom_a_model_has_learnt_from_are_counted_beside_their_mean():
    seen = "no ET found; the model m has learnt from this patient (by name, b), so that its Dice says nothing"
    rows = region_rows({"a": 0.5, "b": 1.0, "c": 0.9})
    report = report_of(a="ok", b="ok", c="ok", d="error").assign(flags=["", seen, math.nan, seen])
    assert one(summarise_metrics(rows, report))["n_learnt_from"] == 1  # d is in no mean
    assert pd.isna(one(summarise_metrics(rows, report.drop(columns="flags")))["n_learnt_from"])


def test_the_order_of_the_rows_does_not_change_the_summary():
    values = np.random.default_rng(6).gamma(1, 5, 8)
    rows = region_rows({f"{number}": value for number, value in enumerate(values)})
    assert bootstrap_interval(values) != bootstrap_interval(values[::-1])
    pd.testing.assert_frame_equal(
        summarise_metrics(rows[::-1], pd.DataFrame()), summarise_metrics(rows, pd.DataFrame())
    )


def test_empties_are_told_by_ml_where_no_voxels_are_and_unknown_where_nothing_tells():
    rows = region_rows({"a": 1.0, "b": 0.5}).assign(volume_ml_reference=[0.0, 3.0], voxels_reference=math.nan)
    summary = summarise_metrics(rows, report_of(a="ok", b="ok")).set_index("metric")
    assert summary["n_empty_reference"].tolist() == [1, 1] and summary["n_empty_prediction"].isna().all()
    assert summary.loc["dice", "mean_reference_not_empty"] == 0.5
    unknown = one(summarise_metrics(rows[["case", "region", "dice"]], report_of(a="ok", b="ok")))
    assert pd.isna(unknown["n_empty_reference"]) and math.isnan(unknown["mean_reference_not_empty"])


def test_a_metric_that_no_patient_has_is_a_row_without_numbers_and_one_value_has_no_sd():
    rows = region_rows({"a": 0.5}).assign(nsd=math.nan)
    dice, nsd = summarise_metrics(rows, report_of(a="ok")).to_dict("records")
    assert dice["n"] == 1 and math.isnan(dice["sd"]) and dice["mean"] == 0.5
    assert nsd["n"] == 0 and all(math.isnan(nsd[name]) for name in ("mean", "median", "q1", "max", "ci95_low"))


def test_regions_come_in_their_usual_order_and_nothing_scored_gives_no_rows():
    rows = pd.concat([region_rows({"a": 1.0}, region) for region in ("ET", "other", "WT")])
    assert summarise_metrics(rows, report_of(a="ok"))["region"].tolist() == ["WT", "ET", "other"]
    for empty in (pd.DataFrame(), rows.iloc[:0]):
        summary = summarise_metrics(empty, report_of(a="error"))
        assert summary.empty and list(summary) == list(SUMMARY_COLUMNS)


def test_each_system_is_summarised_by_itself_even_one_that_scored_nobody():
    rows = pd.concat(
        [
            region_rows({"a": 1.0, "b": 0.5}).assign(system="first"),
            region_rows({"a": 0.2}).assign(system="second"),
        ]
    )
    report = pd.concat(
        [
            report_of(a="ok", b="ok").assign(system="first"),
            report_of(a="ok", b="error").assign(system="second"),
            report_of(a="error", b="error").assign(system="third"),
        ]
    )
    summary = summarise_metrics(rows, report)
    assert list(summary)[:3] == ["system", "region", "metric"]
    assert summary[["system", "n", "n_failed"]].to_numpy().tolist() == [
        ["first", 2, 0],
        ["second", 1, 1],
        ["third", 0, 2],
    ]
    assert summary["mean"].tolist()[:2] == [0.75, 0.2] and math.isnan(summary["mean"].iloc[2])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.one_of(st.just(math.nan), st.floats(-1e3, 1e3)), min_size=1, max_size=20))
def test_the_summary_agrees_with_numpy_on_the_known_values(values):
    known = np.array([value for value in values if not math.isnan(value)])
    row = one(summarise_metrics(region_rows({f"{i:02}": v for i, v in enumerate(values)}), pd.DataFrame()))
    assert row["n"] == len(known)
    assume(len(known) > 1)
    expected = [known.mean(), known.std(ddof=1), *np.percentile(known, [0, 25, 50, 75, 100])]
    found = [row[name] for name in ("mean", "sd", "min", "q1", "median", "q3", "max")]
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_five_hundred_patients_with_three_regions_and_twenty_metrics_take_less_than_two_seconds():
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(rng.random((1500, 20))).rename(columns=lambda number: f"metric_{number}")
    rows.insert(0, "case", np.repeat([f"{i:03}" for i in range(500)], 3))
    rows.insert(1, "region", ["WT", "TC", "ET"] * 500)
    rows.loc[rng.random(1500) < 0.2, "metric_3"] = np.nan
    summarise_metrics(rows[:9], pd.DataFrame())  # imports
    start = time.process_time()
    assert len(summarise_metrics(rows, pd.DataFrame())) == 60
    assert time.process_time() - start < 2


# ---- Wilcoxon's test ----


def enumerated_p(difference: np.ndarray) -> float:
    """The definition: over all signs of the ranks, twice the share with as small a sum or a smaller one."""
    difference = difference[difference != 0]
    ranks = rankdata(np.abs(difference))
    smaller = min(ranks[difference > 0].sum(), ranks[difference < 0].sum())
    sums = [ranks[list(signs)].sum() for signs in itertools.product([False, True], repeat=len(ranks))]
    return min(1.0, 2 * np.mean(np.array(sums) <= smaller + 1e-9))


@pytest.mark.parametrize(
    ("difference", "p"),
    [
        ([0.1], 1.0),  # 2 / 2
        ([1, 2, 3, 4, 5], 2 / 32),  # of the 32 ways only one has as small a sum, 0
        ([1, 1, 1, 1], 2 / 16),
        ([0, 0, 1, 1, 1, 1], 2 / 16),  # zeros are left out
        ([-1, 2, 3], 4 / 8),  # sums 0 and 1
        ([-1, 1, 3], 6 / 8),  # ranks 1.5, 1.5, 3: sums 0, 1.5, 1.5
        ([0, 0, 0], 1.0),
    ],
)
def test_worked_p_values(difference, p):
    assert signed_rank_p(np.array(difference, float)) == pytest.approx(p, rel=1e-12)


def test_no_patient_has_no_p():
    assert math.isnan(signed_rank_p(np.zeros(0)))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_p_of_tied_and_untied_differences_is_that_of_all_signs_tried(difference):
    assume(any(difference))
    assert signed_rank_p(np.array(difference, float)) == pytest.approx(enumerated_p(np.array(difference, float)))


@pytest.mark.parametrize("n", [30, 50, 51, 200])
def test_p_of_many_tied_differences_is_near_the_normal_approximation_by_hand(n):
    difference = np.round(np.random.default_rng(n).normal(0.6, 3, n))
    difference = np.where(difference == 0, 1, difference)
    ranks = rankdata(np.abs(difference))
    # Each rank is added or not: the mean of the sum is half of all, its variance a quarter of the squares.
    z = (ranks[difference > 0].sum() - ranks.sum() / 2) / math.sqrt((ranks**2).sum() / 4)
    assert signed_rank_p(difference) == pytest.approx(2 * norm.sf(abs(z)), abs=1e-12 if n > 50 else 0.02)


# ---- two systems on the same patients ----


def test_a_worked_comparison():
    own, same = {"a": 0.9, "b": 0.8, "c": 0.5, "d": 0.4}, {"e": 0.6, "f": 0.7}
    first = region_rows(own | same | {"only first": 0.1, "neither": math.nan})
    other = region_rows({"b": 0.6, "a": 0.8, "c": 0.5, "d": 0.7, "neither": math.nan, "x": 1.0, "y": 1.0} | same)
    row = one(compare({"first": first, "other": other}))
    assert list(row) == list(COMPARISON_COLUMNS)
    assert [row[name] for name in ("region", "metric", "system", "other")] == ["WT", "dice", "first", "other"]
    # Differences .1, .2, 0, -.3, 0, 0: mean 0, median 0; ranks 1, 2 and -3 of those that differ: every sum is as far.
    assert row["n"] == 6 and row["mean_system"] == pytest.approx(0.65) and row["mean_other"] == pytest.approx(0.65)
    assert row["mean_difference"] == pytest.approx(0) and row["median_difference"] == pytest.approx(0)
    assert row["p_wilcoxon"] == 1 and (row["wins"], row["losses"], row["ties"]) == (2, 1, 3)
    assert (row["n_only_system"], row["n_only_other"]) == (1, 2)
    assert (row["ci95_low"], row["ci95_high"]) == pytest.approx(bootstrap_interval([0.1, 0.2, 0, -0.3, 0, 0]))


def test_a_smaller_distance_wins_and_the_difference_keeps_its_sign():
    frames = {
        name: region_rows({"a": value}, metric="brats2023_gli_hd95_mm") for name, value in {"x": 2.0, "y": 5.0}.items()
    }
    row = one(compare(frames, of=["brats2023_gli_hd95_mm"]))
    assert (row["mean_difference"], row["wins"], row["losses"]) == (-3.0, 1, 0)
    assert one(compare_cases(frames, of=["brats2023_gli_hd95_mm"]))["better"] == "x"


def test_what_is_equal_on_paper_is_a_tie_whatever_the_last_bits():
    frames = {"x": region_rows({"a": 0.1 + 0.2}), "y": region_rows({"a": 0.3})}
    row = one(compare(frames))
    assert row["ties"] == 1 and row["mean_difference"] == 0
    assert one(compare_cases(frames))["better"] == "tie"
    # -.1 and .1 differ in the last bit; as equal ranks, 1.5 each, they give 6 ways of 8.
    same = dict.fromkeys("def", 0.5)
    frames = {
        name: region_rows(dict(zip("abc", values, strict=True)) | same)
        for name, values in (("x", (0.2, 0.1, 0.3)), ("y", (0.3, 0.0, 0.0)))
    }
    assert one(compare(frames))["p_wilcoxon"] == 0.75


def test_systems_without_a_common_patient_have_no_difference():
    row = one(compare({"x": region_rows({"a": 1.0}), "y": region_rows({"b": 1.0})}))
    assert row["n"] == row["wins"] == row["losses"] == row["ties"] == 0
    assert (row["n_only_system"], row["n_only_other"]) == (1, 1)
    for name in ("mean_system", "mean_difference", "median_difference", "ci95_low", "p_wilcoxon"):
        assert math.isnan(row[name])


def test_the_first_of_three_systems_is_compared_with_each_other_per_region_and_metric():
    def rows(value: float) -> pd.DataFrame:
        both = [region_rows({"a": value}, region) for region in ("ET", "WT")]
        return pd.concat(both).assign(nsd=value)

    frames = {"x": rows(0.5), "y": rows(0.4), "z": rows(0.5).drop(columns="nsd")}
    found = compare(frames)
    assert found[["region", "metric", "other", "n"]].to_numpy().tolist() == [
        [region, metric, other, int(metric == "dice" or other == "y")]
        for region in ("WT", "ET")
        for metric in ("dice", "nsd")
        for other in ("y", "z")
    ]
    cases = compare_cases(frames)
    assert list(cases) == ["case", "region", "metric", "x", "y", "z", "difference_y", "difference_z", "better"]
    assert cases["better"].tolist() == ["tie", "", "tie", ""]  # x and z share the best; z has no nsd
    assert cases["difference_y"].tolist() == [0.1] * 4


def test_a_system_that_scored_nobody_is_compared_without_a_patient():
    row = one(compare({"x": region_rows({"a": 1.0}), "y": pd.DataFrame()}))
    assert (row["n"], row["n_only_system"]) == (0, 1)
    assert compare({"x": pd.DataFrame(), "y": pd.DataFrame()}).empty
    assert compare_cases({"x": pd.DataFrame(), "y": pd.DataFrame()}).empty


def test_a_system_may_bear_the_name_of_another_column():
    cases = compare_cases({"case": region_rows({"a": 0.5}), "better": region_rows({"a": 0.4})})
    assert cases.to_numpy().tolist() == [["a", "WT", "dice", 0.5, 0.4, 0.1, "case"]]


def test_what_cannot_be_compared_is_refused_with_the_reason():
    rows = region_rows({"a": 1.0})
    with pytest.raises(ValueError, match="two systems"):
        compare({"x": rows})
    with pytest.raises(ValueError, match="volume_error_ml.*dice"):
        compare({"x": rows, "y": rows}, of=["volume_error_ml"])
    with pytest.raises(ValueError, match="y: case 'a'.*WT"):
        compare_cases({"x": rows, "y": pd.concat([rows, rows])})


CASES = st.dictionaries(st.sampled_from("abcdefghijkl"), st.one_of(SCORES, st.just(math.nan)), max_size=12)


@settings(max_examples=25, deadline=None)
@given(CASES, CASES, st.sampled_from(["dice", "hd95_mm"]))
def test_swapping_the_systems_turns_every_sign_and_nothing_else(x, y, metric):
    frames = {"x": region_rows(x, metric=metric), "y": region_rows(y, metric=metric)}
    assume(x or y)
    row, back = one(compare(frames)), one(compare(dict(reversed(frames.items()))))
    same = {"n": "n", "mean_system": "mean_other", "wins": "losses", "ties": "ties", "p_wilcoxon": "p_wilcoxon"}
    for name, swapped in (same | {"n_only_system": "n_only_other"}).items():
        assert row[name] == pytest.approx(back[swapped], nan_ok=True)
    for name, swapped in (
        ("mean_difference", "mean_difference"),
        ("median_difference", "median_difference"),
        ("ci95_low", "ci95_high"),
    ):
        assert row[name] == pytest.approx(-back[swapped], abs=1e-12, nan_ok=True)


@settings(max_examples=25, deadline=None)
@given(CASES, CASES)
def test_every_patient_is_counted_once_and_unknown_values_never(x, y):
    assume(x or y)
    frames = {"x": region_rows(x), "y": region_rows(y)}
    row, cases = one(compare(frames)), compare_cases(frames)
    known = [{case for case, value in side.items() if not math.isnan(value)} for side in (x, y)]
    assert row["n"] == len(known[0] & known[1]) == row["wins"] + row["losses"] + row["ties"]
    assert (row["n_only_system"], row["n_only_other"]) == (len(known[0] - known[1]), len(known[1] - known[0]))
    assert cases["case"].tolist() == sorted(known[0] | known[1])
    counts = cases["better"].value_counts()
    assert [counts.get(name, 0) for name in ("x", "y", "tie")] == [row["wins"], row["losses"], row["ties"]]
    assert cases["difference"].mean() == pytest.approx(row["mean_difference"], nan_ok=True)


@settings(max_examples=10, deadline=None)
@given(CASES, CASES, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_nothing(x, y, random):
    assume(x or y)
    shuffled = [dict(random.sample(list(side.items()), len(side))) for side in (x, y)]
    frames = {"x": region_rows(x), "y": region_rows(y)}
    others = {"x": region_rows(shuffled[0]), "y": region_rows(shuffled[1])}
    pd.testing.assert_frame_equal(compare(frames), compare(others))
    pd.testing.assert_frame_equal(compare_cases(frames), compare_cases(others))
