"""pipeline/evaluate/pairs.py: which convention each side of an evaluation is read in, for a folder as a whole."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from pipeline.evaluate.run import evaluate
from tests.test_evaluate import label_map, nested, reference, save

CASES = [f"BraTS2021_0000{number}" for number in (1, 2, 3)]


@pytest.fixture(autouse=True)
def _no_page(monkeypatch) -> None:
    monkeypatch.setattr("pipeline.evaluate.run.draw_worst", lambda *given: {})
    monkeypatch.setattr("pipeline.evaluate.run.write_evaluation_page", lambda *given: None)


@pytest.fixture
def folders(tmp_path):
    return tmp_path / "p", tmp_path / "r", tmp_path / "out"


def nnunet_against_brats(folders, without_enhancing: int = 1) -> None:
    """Truth 1 NCR, 2 ED, 4 ET; predictions 2 NCR, 1 ED, 3 ET; one patient has no ET on either side."""
    for index, case in enumerate(CASES):
        n = 2 if index == without_enhancing else 3
        reference(folders[1], case, label_map(labels=(2, 1, 4)[:n]))
        save(folders[0] / f"{case}.nii.gz", label_map(labels=(1, 2, 3)[:n]))


def test_a_prediction_whose_own_labels_would_fit_goes_with_its_siblings(folders):
    nnunet_against_brats(folders)
    report = evaluate(*folders)
    assert report["status"].tolist() == ["error"] * 3
    assert "its folder's labels {1, 2, 3} do not fit brats2017" in report["reason"][1]
    report = evaluate(*folders, convention="nnunet-brats")
    assert report["status"].tolist() == ["ok"] * 3, report["reason"].tolist()
    assert report["dice_TC"].tolist() == [1.0] * 3 and report["dice_WT"].tolist() == [1.0] * 3


def test_a_stray_label_of_one_patient_changes_nothing_for_its_siblings(folders):
    for index, case in enumerate(CASES):
        reference(folders[1], case, label_map())
        predicted = label_map()
        predicted[0, 0, 0] = 3 if index == 0 else 0
        save(folders[0] / f"{case}.nii.gz", predicted)
    report = evaluate(*folders)
    assert report["status"].tolist() == ["warn", "ok", "ok"] and "label 3 (1 voxels)" in report["reason"][0]
    assert report["convention"].tolist() == ["brats2017"] * 3 and report["dice_WT"].tolist() == [1.0] * 3


def test_the_option_of_predictions_leaves_references_to_their_names(folders):
    """Read as nnU-Net's, label 4 would be a cavity and every enhancing tumour a false one."""
    nnunet_against_brats(folders)
    report = evaluate(*folders, convention="nnunet-brats")
    assert report["dice_ET"].tolist() == [1.0] * 3 and report["hd95_mm_ET"].tolist() == [0.0] * 3
    assert all("reference as brats2017" in flags for flags in report["flags"])


def test_a_convention_against_names_is_taken_with_a_warning(folders, caplog):
    nnunet_against_brats(folders)
    with caplog.at_level(logging.WARNING):
        report = evaluate(*folders, convention="nnunet-brats", reference_convention="nnunet-brats")
    assert report["status"].tolist() == ["warn"] * 3
    assert "--reference-convention nnunet-brats was taken, though the file naming" in report["reason"][0]
    assert "brats2017" in report["reason"][0]
    assert "no reference has any ET, though predictions do" in caplog.text
    assert "no prediction has any RC, though references do" in caplog.text


def test_a_convention_against_the_report_beside_the_masks_is_taken_with_a_warning(folders):
    reference(folders[1], CASES[0], label_map())
    nested(folders[0], CASES[0], label_map())
    (folders[0] / "report.csv").write_text(f"case,folder,convention\n{CASES[0]},{CASES[0]},brats2017\n")
    row = evaluate(*folders, convention="brats2012").iloc[0]
    assert row["status"] == "warn" and "its report.csv says brats2017" in row["reason"] and row["dice_WT"] == 1.0


def test_masks_of_tissues_are_scored_as_the_whole_tumour_against_binary_ones(folders):
    """Whatever 1 and 2 are, together with 3 they are the whole tumour."""
    for case in ("a", "b"):
        save(folders[0] / f"{case}.nii.gz", label_map(labels=(2, 1, 3)))
        save(folders[1] / f"{case}.nii.gz", (label_map() > 0).astype(np.uint8))
    report = evaluate(*folders, reference_convention="whole-tumour")
    assert report["status"].tolist() == ["ok"] * 2 and report["dice_WT"].tolist() == [1.0] * 2
    assert "dice_TC" not in report
