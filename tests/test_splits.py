"""Splits: by patient, deterministic, and nothing in one that is not in the data or that stands in two lists."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import UsageError
from data.same_patient import SAME_PATIENT, known_as, patient_id, perhaps_one_of
from data.strict_yaml import read_strict_yaml
from pipeline.training.splits import Split, fold_split, match_split, read_split
from tests.conftest import SHARED


@pytest.mark.parametrize(
    ("case_id", "patient"),
    [
        ("BraTS-GLI-00009-000", "BraTS-GLI-00009"),
        ("BraTS-GLI-00009-001", "BraTS-GLI-00009"),
        ("BraTS-MET-00123-000", "BraTS-MET-00123"),
        ("BraTS-MEN-RT-0001-1", "BraTS-MEN-RT-0001"),
        ("BraTS2021_00495", "BraTS2021_00495"),
        ("BraTS20_Training_001", "BraTS20_Training_001"),
        ("Brats18_2013_2_1", "Brats18_2013_2"),
        ("BraTS19_TCIA10_103_1", "BraTS19_TCIA10_103"),
        ("brats_tcia_pat105_0119", "brats_tcia_pat105"),
        ("brats_2013_pat0001_1", "brats_2013_pat0001"),
        ("FeTS2022_00000", "FeTS2022_00000"),
        ("BRATS_001", "BRATS_001"),
        ("UPENN-GBM-00001_11", "UPENN-GBM-00001"),
        ("UCSF-PDGM-0431_FU001d_nifti", "UCSF-PDGM-0431"),
        ("UCSF-PDGM-0431_nifti", "UCSF-PDGM-0431"),
        ("TCGA_CS_4941_19960909", "TCGA_CS_4941"),
        ("sub-01/ses-2", "sub-01"),
        ("site A/sub-01\\ses-2", "site A/sub-01"),
        ("PatientID_0003/Timepoint_1", "PatientID_0003"),
        ("Patient-001/week-044", "Patient-001"),  # LUMIERE
        ("data/Patient-001/week-000-2", "data/Patient-001"),
        ("site/Patient-001/first/scan", "site/Patient-001"),
        ("P1/2019-01-31", "P1"),
        ("P1/20190131/ses-1", "P1"),
        ("baseline/P1", "P1"),
        ("RHUH-0001/2", "RHUH-0001"),
        ("UCSD-PTGBM-0002/scan2", "UCSD-PTGBM-0002"),
        ("P1_week-044", "P1"),
        ("100101_time1", "100101"),  # UCSF-ALPTDG
        ("sub-01_ses-1", "sub-01"),
        ("smith_20190131", "smith"),
        ("PatientID_0003_Timepoint_1", "PatientID_0003"),
        ("smith_preop", "smith"),
        ("week-044", "."),
        ("copy/BraTS-GLI-00009-001", "BraTS-GLI-00009"),
        ("HGG/P1", "HGG/P1"),
        ("site/12", "site/12"),
        ("Dataset137/1", "Dataset137/1"),
        ("smith_2", "smith_2"),
        ("P1/left", "P1/left"),
        ("smith 2", "smith 2"),
        ("", ""),
    ],
)
def test_the_patient_is_the_case_without_its_time_point(case_id, patient):
    assert patient_id(case_id) == patient


@pytest.mark.parametrize(
    ("case_id", "patient"),
    [
        ("BraTS2021_01476", "BraTS20_Training_271"),
        ("volume_271_slice_80", "BraTS20_Training_271"),
        ("volume_5_slice_12", "BraTS20_Training_005"),
        ("BraTS20_Training_271", "BraTS20_Training_271"),
        ("BraTS20_Training_271/lesion 1", "BraTS20_Training_271"),
        ("brats_2013_pat0001_1", "BraTS20_Training_130"),
        ("HGG/brats_2013_pat0001_1", "BraTS20_Training_130"),
        ("HGG/BraTS2021_01476", "BraTS20_Training_271"),
        ("TCGA_CS_4942_19970222", "BraTS20_Training_271"),
        ("TCGA-FG-6692", "BraTS20_Training_320"),
        ("TCGA_FG_6692_20020606", "BraTS20_Training_320"),
        ("TCGA_FG_6691_20020405", "TCGA_FG_6691"),
        ("BraTS-GLI-00009-001", "BraTS-GLI-00009"),
        ("smith 2", "smith 2"),
    ],
)
def test_a_patient_has_one_name_across_sets(case_id, patient):
    assert known_as(case_id) == patient


def test_no_name_stands_for_two_patients():
    content = read_strict_yaml(SAME_PATIENT)
    names = [name for line in content["same"] for name in line]
    assert len(names) == len(set(names)) > 30
    assert all(len(line) > 1 for line in content["same"])


# Folds


def test_two_names_of_a_patient_stay_together_and_move_no_other():
    ids = ["BraTS2021_01475", "BraTS2021_01476", "BraTS2021_01477", "BraTS2021_01479"]
    assert fold_split(ids, 2, 0) == Split(
        ("BraTS2021_01476", "BraTS2021_01479"), ("BraTS2021_01475", "BraTS2021_01477")
    )
    more = [*ids, "BraTS20_Training_271"]  # 01476
    train = ("BraTS2021_01476", "BraTS2021_01479", "BraTS20_Training_271")
    assert fold_split(more, 2, 0) == Split(train, ("BraTS2021_01475", "BraTS2021_01477"))


def test_patients_are_sorted_and_dealt_round_robin():
    ids = ["e", "a", "d", "b", "c"]
    assert fold_split(ids, 2, 0) == Split(("b", "d"), ("a", "c", "e"))
    assert fold_split(ids, 2, 1) == Split(("a", "c", "e"), ("b", "d"))
    assert fold_split(ids, 3, 2) == Split(("a", "b", "d", "e"), ("c",))


def test_time_points_of_a_patient_stay_together():
    ids = [f"BraTS-GLI-0000{patient}-00{time}" for patient in (1, 2) for time in (0, 1, 2)]
    assert fold_split(ids, 2, 0) == Split(tuple(ids[3:]), tuple(ids[:3]))


cases = st.lists(
    st.builds("BraTS-GLI-{:05d}-{:03d}".format, st.integers(0, 30), st.integers(0, 3)) | st.text(max_size=3),
    unique_by=lambda case_id: case_id,
    max_size=20,
)


@settings(max_examples=50, deadline=None)
@given(cases, st.integers(2, 6), st.randoms(use_true_random=False))
def test_every_patient_is_held_back_exactly_once_and_never_learnt_from_meanwhile(ids, folds, random):
    patients = {patient_id(case_id) for case_id in ids}
    if folds > len(patients):
        with pytest.raises(UsageError, match=f"only {len(patients)} patients"):
            fold_split(ids, folds, 0)
        return
    held_back = []
    shuffled = random.sample(ids, len(ids))
    for fold in range(folds):
        split = fold_split(ids, folds, fold)
        assert split == fold_split(shuffled, folds, fold)
        train, validation = ({patient_id(i) for i in part} for part in (split.train, split.validation))
        assert train and validation and not train & validation
        assert sorted(split.train + split.validation) == sorted(ids)
        held_back += sorted(validation)
        assert len(validation) in (len(patients) // folds, -(-len(patients) // folds))
    assert sorted(held_back) == sorted(patients)


@pytest.mark.parametrize(
    ("folds", "fold", "sentence"),
    [
        (4, 0, "--folds 4: there are only 3 patients"),
        (1, 0, "--folds 1: .* at least 2"),
        (0, 0, "--folds 0: .* at least 2"),
        (3, 3, "--fold 3: with --folds 3 the folds are 0 to 2"),
        (3, -1, "--fold -1: with --folds 3 the folds are 0 to 2"),
    ],
)
def test_folds_that_cannot_be_are_refused(folds, fold, sentence):
    with pytest.raises(UsageError, match=sentence):
        fold_split(["a", "b", "c"], folds, fold)


# Files


def written(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "split.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_split_is_read_as_it_stands(tmp_path):
    path = written(tmp_path, {"data": "ours", "rule": "drawn", "train": ["b", "a"], "validation": [], "test": ["c"]})
    assert read_split(path) == Split(("b", "a"), (), ("c",))
    assert read_split(written(tmp_path, {"train": ["a"], "validation": ["b"]})) == Split(("a",), ("b",), ())


def test_the_published_split_of_the_lgg_set_is_read():
    path = SHARED / "lgg_split.json"
    if not path.is_file():
        pytest.skip(f"the split is not there: {path}")
    split = read_split(path)
    assert [len(part) for part in (split.train, split.validation, split.test)] == [77, 11, 22]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"train": ["P1", "P2"], "validation": ["P2"]}, "P2 is in train and in validation"),
        ({"train": ["P1"], "validation": ["P2"], "test": ["P1"]}, "P1 is in train and in test"),
        (
            {"train": ["BraTS-GLI-00009-000"], "validation": [], "test": ["BraTS-GLI-00009-001"]},
            "BraTS-GLI-00009 is in train and in test",
        ),
        (
            {"train": ["BraTS2021_01476"], "validation": [], "test": ["BraTS20_Training_271"]},
            "BraTS20_Training_271 is in train and in test",
        ),
        ({"train": ["P1"], "validation": [], "set_aside": ["P1"]}, "P1 is in train and in set_aside"),
        ({"train": ["P1", "P1"], "validation": []}, "train names P1 twice"),
        ({"train": ["P1"]}, "has the keys train and validation"),
        ({"train": [], "validation": ["P1"]}, "train is empty"),
        ({"train": ["P1"], "validation": [], "val": []}, "unknown key val;"),
        ({"train": "P1", "validation": []}, "train must be a list of case ids"),
        ({"train": ["P1"], "validation": [2]}, "validation must be a list of case ids"),
        ({"train": ["P1"], "validation": [""]}, "validation must be a list of case ids"),
        (["P1"], "has the keys train and validation"),
        ('{"train": ["P1"], "train": ["P2"], "validation": []}', "the key train is said twice"),
        ('{"train": ["P1"', "is not a valid JSON file"),
        ("[" * 100_000, "is not a valid JSON file"),
    ],
)
def test_a_split_that_is_not_sound_is_refused_with_file_and_patient(tmp_path, content, sentence):
    with pytest.raises(UsageError, match=sentence) as caught:
        read_split(written(tmp_path, content))
    assert "split.json" in str(caught.value)


def test_a_split_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"none.json: cannot be read"):
        read_split(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b'{"train": ["M\xfcller"], "validation": []}')
    with pytest.raises(UsageError, match=r"latin.json: is not a valid JSON file"):
        read_split(tmp_path / "latin.json")


def test_a_case_that_a_split_names_must_be_there():
    split = Split(("a", "b"), ("c",), ("d",))
    with pytest.raises(UsageError, match="s.json: no case b, d in the data"):
        match_split(split, ["a", "c"], "s.json")


def test_a_case_that_a_split_does_not_name_is_left_out_and_logged(caplog):
    split = Split(("a",), ("b",))
    with caplog.at_level(logging.WARNING):
        assert match_split(split, iter("dabc"), "s.json") == split
    assert caplog.messages == ["s.json: does not name c, d; left out"]
    caplog.clear()
    match_split(split, "ab", "s.json")
    assert not caplog.messages


def test_what_is_set_aside_need_not_be_there_but_is_held_back():
    split = Split(("a",), ("b",), (), ("c",))
    assert match_split(split, "ab", "s.json") == split
    assert split.held_back == ("b", "c")


def test_a_split_without_anything_set_aside_is_written_as_before(tmp_path):
    assert Split(("a",), ("b",)).as_lists() == {"train": ("a",), "validation": ("b",), "test": ()}
    lists = {"train": ["a"], "validation": ["b"], "test": [], "set_aside": ["c"]}
    assert read_split(written(tmp_path, lists)).as_lists() == {name: tuple(ids) for name, ids in lists.items()}


def test_a_patient_of_a_site_that_two_sets_share_may_be_any_of_the_other_sets_patients_there():
    assert perhaps_one_of("TCGA_CS_4941_19960909", ["BraTS2021_01479"])  # BraTS20_Training_274
    assert perhaps_one_of("volume_274_slice_80", ["TCGA_CS_4941_19960909"])
    assert not perhaps_one_of("TCGA_CS_4941_19960909", ["TCGA_CS_4943_20000902", "BraTS20_Training_281"])
    assert perhaps_one_of("TCGA_HT_7473_19970826", ["BraTS20_Training_335"])
    assert not perhaps_one_of("TCGA_HT_7473_19970826", ["BraTS20_Training_336", "BraTS20_Training_270"])
    assert not perhaps_one_of("TCGA_HT_7473_19970826", [])
