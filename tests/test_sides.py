"""The fixed sides: a rule without a choice, and no patient on two of them under any name."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pandas as pd
import pytest

from bench import sides
from bench.sets.catalogue import cases_in, patients_of
from bench.sets.mask_search import Volumes, at_places, nearest_slices, nearest_volumes
from bench.sets.shared_patients import COLUMNS, summary, two_sides, unnamed
from bench.sides import SET_ASIDE, TEST, VALIDATION, fixed_sides
from data.same_patient import known_as
from pipeline.training.splits import Split, read_split

PATIENTS = [*TEST, *VALIDATION, "BraTS2021_01477", "P1"]
CUBES = [f"BraTS20_Training_{number:03d}" for number in range(200, 300)]


def test_nobody_who_is_learnt_from_as_a_whole_is_set_aside_and_nobody_is_on_two_sides():
    split = fixed_sides(PATIENTS, ["brats_2013_pat0001_1"], [*CUBES, "BraTS20_Training_130"])
    assert (split.test, split.validation, split.train) == (TEST, VALIDATION, ("BraTS2021_01477", "P1"))
    aside = set(split.set_aside)
    assert len(aside) == SET_ASIDE == 60
    # the test and validation patients, 01477 and pat0001 under their BraTS 2020 names
    assert not aside & {f"BraTS20_Training_{n}" for n in (271, 272, 273, 274, 276, 277, 280, 130)}


def test_the_order_is_that_of_the_names_digests():
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in CUBES}
    others = [n for n in sorted(CUBES, key=digests.__getitem__) if n[-3:] not in ("271", "274", "277", "280")]
    assert fixed_sides(["P1", "P2", "P3"], [], CUBES).set_aside == tuple(sorted(others[:60]))


def test_of_the_patients_with_metastases_every_fourth_by_name_is_set_aside():
    aside = fixed_sides(PATIENTS, [], CUBES, ["M7", "M2", "M1", "M4", "M3", "M5", "M6", "M7"]).set_aside
    assert [name for name in aside if name.startswith("M")] == ["M3", "M7"]


def test_the_command_writes_a_split_that_training_reads(tmp_path, monkeypatch, capsys):
    for name in ("BraTS2021_01476", "BraTS2021_01478", "P1", "P2"):
        (tmp_path / "brats" / name).mkdir(parents=True)
    for folder, names in (
        ("brats2020_cubes", [f"{n}.npz" for n in CUBES]),
        ("brats2020_slices", ["volume_271_slice_8.h5"]),
    ):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).touch()
    monkeypatch.setattr("sys.argv", ["sides", str(tmp_path), "--output", str(tmp_path / "s.json")])
    sides.main()
    split = read_split(tmp_path / "s.json")
    assert split.test == ("BraTS2021_01476",) and len(split.set_aside) == 60 and split.train == ("P1", "P2")
    assert "brats2020_slices: 1 cases, 1 held back, 0 patients" in capsys.readouterr().out
    assert list(json.loads((tmp_path / "s.json").read_text())) == [
        "data",
        "rule",
        "train",
        "validation",
        "test",
        "set_aside",
    ]


def test_too_few_cubes_are_refused(tmp_path, monkeypatch):
    (tmp_path / "brats" / "P1").mkdir(parents=True)
    monkeypatch.setattr("sys.argv", ["sides", str(tmp_path), "--output", str(tmp_path / "s.json")])
    with pytest.raises(SystemExit):
        sides.main()
    assert not (tmp_path / "s.json").exists()


# Who shares whom


def test_cases_are_called_as_the_pipeline_calls_them(tmp_path):
    for path in (
        "brats/BraTS2021_01476/a.nii.gz",
        "brats2020_slices/volume_271_slice_8.h5",
        "brats2020_slices/volume_271_slice_9.h5",
        "bcbm_t1c_slices/Test_Folder/img/BCBM-RadioGenomics-101-0_mask_R-frontal_img.png",
        "lgg/kaggle_3m/README.md",
        "lgg/kaggle_3m/TCGA_CS_4942_19970222/x.tif",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    found = cases_in(tmp_path)
    assert {name: list(cases) for name, cases in found.items()} == {
        "brats": ["BraTS2021_01476"],
        "brats2020_slices": ["volume_271_slice_8", "volume_271_slice_9"],
        "lgg": ["TCGA_CS_4942_19970222"],
        "bcbm_t1c_slices": ["BCBM-RadioGenomics-101"],
    }
    assert patients_of(found["brats2020_slices"]) == {"BraTS20_Training_271": list(found["brats2020_slices"])}


def blob(*start: int, shape: tuple[int, ...] = (128, 128, 128)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(first, first + 20) for first in start)] = True
    return mask


def test_a_mask_finds_its_own_volume_and_the_dice_of_the_others():
    volumes = Volumes.of({"a": blob(10, 10, 10), "b": blob(20, 10, 10), "c": blob(90, 90, 90)})
    assert nearest_volumes(blob(10, 10, 10), volumes) == [(1.0, "a"), (0.5, "b"), (0.0, "c")]  # half of 20 is shared
    plane = blob(10, 10, shape=(128, 128))
    assert nearest_slices(plane, volumes) == [(1.0, "a"), (0.5, "b"), (0.0, "c")]
    assert nearest_slices(np.zeros((128, 128), bool), volumes) == []


def test_a_plane_is_read_at_the_places_of_the_cubes():
    mask = np.zeros((240, 240), bool)
    mask[239, 0] = mask[0, 239] = True  # both ends are among the 128 places
    assert np.argwhere(at_places(mask)).tolist() == [[0, 127], [127, 0]]
    assert at_places(np.ones((240, 240, 155), bool)).shape == (128, 128, 128)


def test_a_patient_on_two_sides_is_named_whatever_shows_it():
    split = Split(("BraTS2021_01477",), ("BraTS2021_01483",), ("BraTS2021_01476",), ("BraTS20_Training_009",))
    rows = [
        ["name", "brats", "BraTS2021_01476", "brats2020_cubes", "BraTS20_Training_271", 1.0],  # both are test
        ["mask", "brats2020_slices", "volume_7_slice_5", "brats2020_cubes", "BraTS20_Training_009", 0.99],
        ["fingerprint", "brats", "BraTS2021_01477", "lgg", "TCGA_XX_1", 0.01],  # lgg is not learnt from with these
        ["fingerprint", "brats", "BraTS2021_01477", "brats", "BraTS2021_01483", 0.01],
    ]
    table = pd.DataFrame(rows, columns=COLUMNS)
    assert two_sides(table, split) == [
        "volume_7_slice_5 (train) is BraTS20_Training_009 (set_aside), by mask 0.990",
        "BraTS2021_01477 (train) is BraTS2021_01483 (validation), by fingerprint 0.010",
    ]
    assert len(unnamed(table)) == 3 and known_as("BraTS2021_01476") == "BraTS20_Training_271"
    counts = summary(table)
    assert counts.loc[counts["other_set"] == "lgg", "fingerprint"].tolist() == [1]
    assert counts.loc[counts["other_set"] == "brats2020_slices", "set"].tolist() == ["brats2020_cubes"]
