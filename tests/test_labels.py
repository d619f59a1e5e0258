"""Label conventions: both directions agree, and a lossy one is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import ConventionError
from data.labels import CONVENTIONS, load_convention, parse_convention

# DOMAIN table, copied by hand: labels of WT, TC, ET, RC.
TABLE = {
    "brats2012": {"WT": {1, 2, 3, 4}, "TC": {1, 3, 4}, "ET": {4}},
    "brats2017": {"WT": {1, 2, 4}, "TC": {1, 4}, "ET": {4}},
    "brats2023": {"WT": {1, 2, 3}, "TC": {1, 3}, "ET": {3}},
    "brats2024-gli": {"WT": {1, 2, 3}, "TC": {1, 3}, "ET": {3}, "RC": {4}},
    "brats2024-ped": {"WT": {1, 2, 3, 4}, "TC": {1, 2, 3}, "ET": {1}},
    "brats2024-men-rt": {"TC": {1}},
    "msd": {"WT": {1, 2, 3}, "TC": {2, 3}, "ET": {3}},
    "nnunet-brats": {"WT": {1, 2, 3}, "TC": {2, 3}, "ET": {3}, "RC": {4}},
    "lgg": {"WT": {255}},
    "whole-tumour": {"WT": {1}},
}
MERGED = {"brats2012": {3: 1}, "brats2024-ped": {3: 2}}  # NET -> NCR, CC -> NETC: no region tells them apart


def test_the_shipped_conventions_are_those_of_the_field() -> None:
    assert {
        name: {region: set(values) for region, values in load_convention(name).regions.items()} for name in CONVENTIONS
    } == TABLE


@pytest.mark.parametrize("name", CONVENTIONS)
@given(data=st.data())
def test_nested_region_masks_survive_the_way_through_a_label_map(name: str, data: st.DataObject) -> None:
    convention = load_convention(name)
    shape = data.draw(st.sampled_from([(0, 2, 2), (1, 1, 1), (2, 3, 4)]))
    bits = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    masks: dict[str, Any] = {}
    for (
        region,
        labels,
    ) in convention.regions.items():  # nest by the sets of the table, independently of the code under test
        mask = bits.random(shape) < 0.6
        for other, done in masks.items():
            mask &= done if labels < convention.regions[other] else ~done
        masks[region] = mask
    label_map = convention.to_label_map(masks)
    assert label_map.dtype == np.uint8
    back = convention.region_masks(label_map)
    assert list(back) == list(masks)
    for region in masks:
        np.testing.assert_array_equal(back[region], masks[region])


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float64])
@pytest.mark.parametrize("name", CONVENTIONS)
def test_every_label_comes_back_but_for_the_documented_merges(name: str, dtype: type) -> None:
    convention = load_convention(name)
    values: Any = np.array([0, *convention.labels], dtype=dtype)
    expected = [MERGED.get(name, {}).get(int(value), int(value)) for value in values]
    assert convention.to_label_map(convention.region_masks(values)).tolist() == expected


def test_values_outside_the_convention_lie_in_no_region() -> None:
    masks = load_convention("brats2017").region_masks(np.array([3, -1, 1.5, np.nan, 260, 4]))
    assert masks["WT"].tolist() == [False] * 5 + [True]


def test_unknown_labels_are_named_fractions_negatives_and_nan_included() -> None:
    assert load_convention("brats2017").unknown_labels([0, 1, 2.0, 4, 3.0, -1, 1.5, 3]) == (-1, 1.5, 3)
    assert np.isnan(load_convention("lgg").unknown_labels([255, float("nan")])[0])
    assert load_convention("lgg").unknown_labels([]) == ()


def test_regions_that_the_convention_lacks_are_left_out_and_missing_ones_are_not_painted() -> None:
    masks = {"WT": np.array([True, True]), "ET": np.array([True, False])}
    assert load_convention("lgg").to_label_map(masks).tolist() == [255, 255]
    assert load_convention("brats2017").to_label_map({"WT": masks["WT"]}).tolist() == [2, 2]
    assert load_convention("lgg").to_label_map({"ET": masks["ET"]}).tolist() == [0, 0]


def test_tumour_wins_over_a_cavity_where_both_were_claimed() -> None:
    yes = np.array([True])
    assert load_convention("brats2024-gli").to_label_map({"WT": yes, "TC": yes, "RC": yes}).tolist() == [1]


def test_wrong_requests_are_refused_with_the_choices() -> None:
    with pytest.raises(ConventionError, match="brats2017"):
        load_convention("brats1999")
    with pytest.raises(ConventionError, match="choose among WT"):
        load_convention("lgg").region_masks(np.zeros(1), ["ET"])
    with pytest.raises(ConventionError, match="no region mask"):
        load_convention("lgg").to_label_map({})
    with pytest.raises(ValueError, match="one shape"):
        load_convention("brats2017").to_label_map({"WT": np.zeros(1, bool), "TC": np.zeros(2, bool)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"regions": {"WT": [1, 2], "TC": [1, 2]}}, "lossy"),
        ({"regions": {"WT": [1, 2], "TC": [1], "ET": [2]}}, "ET .* must lie in TC"),
        ({"labels": {1: "a", 2: "b", 3: "c"}, "regions": {"WT": [1, 2], "TC": [2, 3]}}, "nested or disjoint"),
        ({"labels": {1: "a", 2: "b", 3: "c"}, "regions": {"WT": [1, 2, 3], "TC": [1]}}, "written_as"),
        ({"written_as": {"WT": 1}}, "lossy"),
        ({"written_as": [1]}, "written_as"),
        ({"regions": {"WT": [1, 2], "XX": [1]}}, "XX"),
        ({"regions": {"WT": [1, 5]}}, "5"),
        ({"regions": {"WT": [1]}}, r"\[2\]"),
        ({"regions": {}}, "regions must map"),
        ({"labels": {0: "background"}}, "0"),
        ({"labels": {256: "x"}}, "256"),
        ({"labels": {True: "x"}}, "True"),
        ({"labels": []}, "labels must map"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_convention_that_loses_information_or_is_misspelt_is_refused(change: dict[str, Any], message: str) -> None:
    good = {"name": "x", "source": "test", "labels": {1: "core", 2: "edema"}, "regions": {"WT": [1, 2], "TC": [1]}}
    assert parse_convention(good, "x.yaml").written_as == {"WT": 2, "TC": 1}
    with pytest.raises(ConventionError, match=message) as caught:
        parse_convention({**good, **change}, "x.yaml")
    assert "x.yaml" in str(caught.value) and "\n" not in str(caught.value)
