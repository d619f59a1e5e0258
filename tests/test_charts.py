"""Charts: the figures that they show, and SVG that a page can hold."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from pipeline.report.charts import agreement, bland_altman_chart, distribution_chart
from pipeline.report.colours import REGION_COLOURS

METRICS = pd.DataFrame(
    [
        {"case": f"c{i}", "region": region, "dice": 0.5 + 0.1 * i, "hd95_mm": float("nan"), "nsd": 1.0}
        | {"volume_ml_prediction": 10.0 + i, "volume_ml_reference": 8.0 + 2 * i}
        for i in range(4)
        for region in ("ET", "WT")
    ]
)


def texts(svg: str) -> list[str]:
    return [element.text for element in ElementTree.fromstring(svg).iter("text") if element.text]


def test_limits_of_agreement_are_the_mean_difference_and_196_sample_deviations():
    # differences 1, 2, 3: mean 2, sd 1
    found = agreement(np.array([11.0, 22.0, 33.0]), np.array([10.0, 20.0, 30.0]))
    assert (found.n, found.mean) == (3, 2.0)
    assert (found.low, found.high) == pytest.approx((0.04, 3.96))


def test_a_pair_with_an_unknown_volume_is_left_out_and_one_pair_has_no_limits():
    found = agreement(np.array([5.0, float("nan")]), np.array([4.0, 4.0]))
    assert (found.n, found.mean) == (1, 1.0) and math.isnan(found.low)
    assert agreement(np.array([]), np.array([])).n == 0


def test_the_bland_altman_chart_writes_its_three_lines_as_numbers_and_below_six_patients_the_mean_alone():
    # prediction - reference: 2, 1, 0, -1: mean .5, sample sd sqrt(5 / 3) = 1.291, limits -2.03 and 3.03
    shown = texts(bland_altman_chart(METRICS, "WT"))
    assert "+0.5" in shown and not {"+3.0", "\N{MINUS SIGN}2.0"} & set(shown)
    assert "WT (n = 4)" in shown
    # the same twice: sample sd sqrt(10 / 7) = 1.195, limits -1.84 and 2.84
    shown = texts(bland_altman_chart(pd.concat([METRICS, METRICS]), "WT"))
    assert {"+0.5", "+2.8", "\N{MINUS SIGN}1.8"} <= set(shown)


@pytest.mark.parametrize(
    "draw", [lambda: distribution_chart(METRICS, "dice", "Dice"), lambda: bland_altman_chart(METRICS, "ET")]
)
def test_a_chart_is_well_formed_names_no_address_and_comes_out_the_same_again(draw):
    svg = draw()
    ElementTree.fromstring(svg)
    assert "http" not in svg and "<metadata" not in svg and "date" not in svg
    assert draw() == svg
    assert REGION_COLOURS["ET"].lower() in svg.lower()


def test_ids_of_two_charts_never_meet_and_every_reference_leads_somewhere():
    charts = [distribution_chart(METRICS, "dice", "Dice"), distribution_chart(METRICS, "nsd", "NSD")]
    charts += [bland_altman_chart(METRICS, region) for region in ("WT", "ET")]
    ids = [set(re.findall(r'\sid="([^"]+)"', svg)) for svg in charts]
    assert sum(map(len, ids)) == len(set.union(*ids))
    for svg, own in zip(charts, ids, strict=True):
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg)) <= own


def test_a_metric_without_a_value_has_no_chart():
    assert distribution_chart(METRICS, "hd95_mm", "HD95") is None
    assert distribution_chart(METRICS, "missing", "x") is None
    assert distribution_chart(pd.DataFrame(), "dice", "x") is None
    assert bland_altman_chart(METRICS, "TC") is None
    assert bland_altman_chart(METRICS.drop(columns="volume_ml_reference"), "WT") is None


def test_fewer_than_three_patients_have_no_chart_for_two_points_are_no_distribution():
    def of(n):
        return METRICS[METRICS["case"].isin([f"c{i}" for i in range(n)])]

    assert distribution_chart(of(2), "dice", "Dice") is None and bland_altman_chart(of(2), "WT") is None
    assert distribution_chart(of(3), "dice", "Dice") is not None and bland_altman_chart(of(3), "WT") is not None


def test_a_region_that_few_patients_have_is_drawn_beside_one_that_many_have():
    few = METRICS[(METRICS["region"] == "WT") | (METRICS["case"] == "c0")]
    points = [
        g
        for g in ElementTree.fromstring(distribution_chart(few, "dice", "Dice")).iter("g")
        if "PathCollection" in g.get("id", "")
    ]
    assert [len(list(group.iter("use"))) for group in points] == [4, 1]


def test_regions_stand_in_their_usual_order_and_every_patient_is_a_point():
    svg = distribution_chart(METRICS, "dice", "Dice")
    assert [text for text in texts(svg) if text in ("WT", "ET")] == ["WT", "ET"]
    points = [group for group in ElementTree.fromstring(svg).iter("g") if "PathCollection" in group.get("id", "")]
    assert [len(list(group.iter("use"))) for group in points] == [4, 4]


def test_systems_are_told_apart_by_a_legend():
    both = pd.concat([METRICS.assign(system="a & <b>"), METRICS.assign(system="$x$")])
    shown = texts(distribution_chart(both, "dice", "Dice"))
    assert "a & <b>" in shown and "$x$" in shown
    assert bland_altman_chart(both, "WT") is None and bland_altman_chart(both, "WT", "$x$") is not None


def test_equal_volumes_give_a_calm_chart_and_not_one_of_rounding_errors():
    same = METRICS.assign(volume_ml_prediction=METRICS["volume_ml_reference"] + 1e-14)
    shown = texts(bland_altman_chart(same, "WT"))
    assert not any("e" in text and text[0].isdigit() for text in shown)
