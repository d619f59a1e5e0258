"""data/find/dataset_json.py: labels that agree with a known convention, say one of their own, or name no tissue."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.find.dataset_json import DatasetJson, parse_dataset_json
from data.find.discover import discover_cases
from data.find.recognise import choose_conventions
from data.labels import load_convention

CHANNELS = {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}


def parsed(labels: dict[str, Any]) -> DatasetJson:
    return parse_dataset_json("dataset.json", json.dumps({"channel_names": CHANNELS, "labels": labels}).encode())


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"background": 0}, ()),
        ({"background": 0, "edema": 1, "necrosis": 2, "enhancing tumor": 3}, ("msd", "nnunet-brats")),
        ({"background": 0, "NCR": 1, "peritumoral_edema": 2, "GD-enhancing tumor": 4}, ("brats2012", "brats2017")),
        (
            {"0": "background", "1": "NETC", "2": "surrounding non-enhancing FLAIR hyperintensity", "3": "ET"},
            ("brats2023", "brats2024-gli"),
        ),
        ({"background": 0, "whole tumor": 1}, ("whole-tumour",)),
        ({"background": 0, "tumor": 255}, ("lgg",)),
    ],
)
def test_labels_that_agree_with_shipped_conventions_are_those(labels, expected):
    assert parsed(labels).conventions == expected


@pytest.mark.parametrize(
    ("labels", "regions"),
    [
        # nnU-Net issue 3042: the usual tissues by other numbers
        (
            {"background": 0, "enhancing tumor": 1, "oedema": 2, "necrosis": 3},
            {"WT": {1, 2, 3}, "TC": {1, 3}, "ET": {1}},
        ),
        ({"background": 0, "edema": 2, "tumor core": 5, "ET": 9}, {"WT": {2, 5, 9}, "TC": {5, 9}, "ET": {9}}),
        (
            {"bg": 0, "whole tumor": [1, 2, 3], "tumor core": [1, 2], "ET": 1},
            {"WT": {1, 2, 3}, "TC": {1, 2}, "ET": {1}},
        ),
        # no oedema is marked: the whole tumour is not told, and a mask of the core is none of it
        ({"background": 0, "necrosis": 1, "enhancing": 2}, {"TC": {1, 2}, "ET": {2}}),
        ({"background": 0, "enhancing": 1}, {"ET": {1}}),
        # no core is marked
        ({"background": 0, "edema": 1, "enhancing": 2}, {"WT": {1, 2}, "ET": {2}}),
        # what "tumor" is beside oedema, core or all of it, its name does not tell
        ({"background": 0, "edema": 1, "tumor": 2, "ventricles": 3}, {"WT": {1, 2}}),
        # a label without a tissue is no label of a convention that gives it one
        (
            {"0": "background", "1": "NETC", "2": "SNFH", "3": "ET", "4": "haemorrhage"},
            {"WT": {1, 2, 3}, "TC": {1, 3}, "ET": {3}},
        ),
    ],
)
def test_labels_that_contradict_every_convention_say_their_own(labels, regions):
    found = parsed(labels)
    (spelling, *others) = found.conventions
    assert {region: set(values) for region, values in load_convention(spelling).regions.items()} == regions
    assert not found.note and (not others or "haemorrhage" in labels.values())


def test_labels_that_name_no_tissue_are_the_whole_tumour_alone_and_the_file_says_so():
    found = parsed({"background": 0, "class a": 1, "class b": 2, "ignore": 3})
    (spelling,) = found.conventions
    assert load_convention(spelling).regions == {"WT": frozenset({1, 2})}
    assert "'class a'" in found.note and "whole tumour" in found.note


def test_labels_that_no_convention_can_hold_are_said_and_not_used():
    found = parsed({"background": 0, "edema": 1, "tumor": 999})
    assert found.conventions == () and "were not used" in found.note


def test_hundreds_of_labels_are_still_one_spelling_of_bounded_length():
    labels = {f"edema number {n} with a long name": n for n in range(1, 60)}
    (spelling,) = parsed({"background": 0, **labels, "enhancing": 60}).conventions
    assert len(spelling) <= 1000 and load_convention(spelling).regions["ET"] == {60}


def test_a_set_with_numbers_of_its_own_is_read_and_written_by_them(tmp_path: Path):
    for name in (*(f"imagesTr/c_{n:04d}.nii.gz" for n in range(4)), "labelsTr/c.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    labels = {"background": 0, "enhancing tumor": 1, "oedema": 2, "necrosis": 3}
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": CHANNELS, "labels": labels}))
    (case,) = discover_cases(tmp_path)
    choice = choose_conventions([case], fallback="brats2023")[case.case_id]
    assert choice.name == case.conventions[0] and not choice.error
    masks = load_convention(choice.name).region_masks(np.array([[[0, 1, 2, 3]]]))
    assert {region: mask.astype(int).ravel().tolist() for region, mask in masks.items()} == {
        "WT": [0, 1, 1, 1],
        "TC": [0, 1, 0, 1],
        "ET": [0, 1, 0, 0],
    }
    assert load_convention(choice.name).to_label_map(masks).ravel().tolist() == [0, 1, 2, 3]
