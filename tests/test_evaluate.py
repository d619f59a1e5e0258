"""pipeline/evaluate/run.py and pipeline/score/tables.py on small synthetic folders."""

from __future__ import annotations

import csv
import json
import math
import os
import time
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy.stats import wilcoxon

from data.errors import ConventionError, UsageError
from data.grid import Grid
from pipeline.evaluate.pairs import system_names
from pipeline.evaluate.run import evaluate
from pipeline.score.case import ScoreOptions, metric_columns, score_masks
from pipeline.score.statistics import summarise_metrics
from pipeline.score.tables import metrics_frame, report_frame, text_cell, write_table
from tests.test_scoring import masks

SHAPE = (16, 16, 12)


def label_map(shift: int = 0, labels: tuple[int, ...] = (2, 1, 4)) -> np.ndarray:
    """Nested cubes, from outermost to innermost label: 8^3, 6^3 and 2^3 voxels wide, moved along the first axis."""
    array = np.zeros(SHAPE, np.uint8)
    for label, low, high in zip(labels, (4, 5, 7), (12, 11, 9), strict=False):
        array[low + shift : high + shift, low:high, low - 2 : high - 2] = label
    return array


def save(path: Path, array: np.ndarray, spacing: tuple[float, ...] = (1, 1, 1), origin: float = 0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = origin
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return path


def reference(root: Path, case: str, array: np.ndarray, **place) -> Path:
    """A patient of BraTS 2021, whose naming says brats2017: the mask and an image beside it."""
    for modality in ("t1", "t1ce", "t2", "flair"):
        save(
            root / case / f"{case}_{modality}.nii.gz",
            np.arange(array.size, dtype=np.int16).reshape(array.shape),
            **place,
        )
    return save(root / case / f"{case}_seg.nii.gz", array, **place)


def nested(root: Path, case: str, array: np.ndarray, **place) -> Path:
    return save(root / case / f"{case}_seg.nii.gz", array, **place)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path, Path]:
    return tmp_path / "predictions", tmp_path / "references", tmp_path / "out"


@pytest.fixture(autouse=True)
def _no_page(request, monkeypatch) -> None:
    """Pictures and page take ten times as long as scores; the tests that are about them ask for the fixture `page`."""
    if "page" not in request.fixturenames:
        monkeypatch.setattr("pipeline.evaluate.run.draw_worst", lambda *given: {})
        monkeypatch.setattr("pipeline.evaluate.run.write_evaluation_page", lambda *given: None)


@pytest.fixture
def page() -> None:
    """The page and its pictures are made."""


def only_row(folders, **options) -> dict:
    report = evaluate(*folders, **options)
    assert len(report) == 1
    return report.iloc[0].to_dict()


# ---- matching, tables ----


@pytest.mark.parametrize("layout", ["nested", "flat"])
def test_two_folders_are_matched_by_case_id_and_scored(folders, layout):
    predictions, references, output = folders
    for number in (1, 2):
        case = f"BraTS2021_0000{number}"
        reference(references, case, label_map())
        flat = layout == "flat"
        save(
            predictions / f"{case}.nii.gz" if flat else predictions / case / f"{case}_seg.nii.gz", label_map(number - 1)
        )
    report = evaluate(predictions, references, output)
    assert report["case"].tolist() == ["BraTS2021_00001", "BraTS2021_00002"]
    assert report["status"].tolist() == ["ok", "ok"], report["reason"].tolist()
    assert report["convention"].tolist() == ["brats2017"] * 2
    assert report["dice_WT"].tolist() == [1.0, pytest.approx(7 / 8)]  # cubes of 8 voxels, shifted by one
    assert report["dice_ET"].tolist() == [1.0, pytest.approx(1 / 2)]
    assert report["hd95_mm_TC"].tolist() == [0.0, 1.0]
    assert report["volume_ml_WT"].tolist() == [pytest.approx(0.512)] * 2
    rows = read_csv(output / "report.csv")
    assert list(rows[0])[:12] == [
        *("case", "system", "folder", "status", "reason", "flags", "model", "convention", "seconds"),
        *("volume_ml_WT", "volume_ml_TC", "volume_ml_ET"),
    ]
    assert [float(row["dice_WT"]) for row in rows] == report["dice_WT"].tolist()
    summary = {(row["region"], row["metric"]): row for row in read_csv(output / "summary.csv")}
    assert float(summary["WT", "dice"]["mean"]) == pytest.approx(15 / 16) and summary["WT", "dice"]["n"] == "2"
    assert [r for r, m in summary if m == "hd95_mm"] == ["WT", "TC", "ET"]


def test_distances_are_in_mm_of_the_files_spacing(folders):
    predictions, references, _ = folders
    reference(references, "BraTS2021_00001", label_map(), spacing=(2.5, 1, 1))
    nested(predictions, "BraTS2021_00001", label_map(1), spacing=(2.5, 1, 1))
    row = only_row(folders)
    assert row["hd_mm_WT"] == pytest.approx(2.5) and row["volume_ml_WT"] == pytest.approx(1.28)


def test_patients_missing_on_one_side_are_error_rows_that_say_which(folders):
    predictions, references, output = folders
    for case in ("BraTS2021_00001", "BraTS2021_00002"):
        reference(references, case, label_map())
    for case in ("BraTS2021_00002", "BraTS2021_00003"):
        nested(predictions, case, label_map())
    report = evaluate(*folders).set_index("case")
    assert report["status"].to_dict() == {
        "BraTS2021_00001": "error",
        "BraTS2021_00002": "ok",
        "BraTS2021_00003": "error",
    }
    assert "no prediction" in report.loc["BraTS2021_00001", "reason"]
    assert "no reference" in report.loc["BraTS2021_00003", "reason"]
    assert {row["n"] for row in read_csv(output / "summary.csv")} == {"1"}


def test_a_damaged_file_costs_its_own_row_and_no_other(folders):
    predictions, references, _ = folders
    for case in ("BraTS2021_00001", "BraTS2021_00002"):
        reference(references, case, label_map())
        path = nested(predictions, case, label_map())
    path.write_bytes(path.read_bytes()[:60])
    report = evaluate(*folders).set_index("case")
    assert report["status"].tolist() == ["ok", "error"]
    assert path.name in report.loc["BraTS2021_00002", "reason"]


def test_different_grids_are_an_error_row_that_names_both(folders):
    predictions, references, _ = folders
    reference(references, "BraTS2021_00001", label_map())
    nested(predictions, "BraTS2021_00001", label_map()[..., :-1], spacing=(1, 1, 2))
    row = only_row(folders)
    assert row["status"] == "error"
    assert "16x16x11 voxels of 1x1x2 mm" in row["reason"] and "16x16x12 voxels of 1x1x1 mm" in row["reason"]


def test_the_same_voxels_at_another_place_are_a_different_grid(folders):
    predictions, references, _ = folders
    reference(references, "BraTS2021_00001", label_map())
    nested(predictions, "BraTS2021_00001", label_map(), origin=7.0)
    row = only_row(folders)
    assert row["status"] == "error" and "(7, 7, 7)" in row["reason"] and "(0, 0, 0)" in row["reason"]


# ---- conventions ----


def test_a_label_outside_the_convention_is_background_in_a_prediction_and_warns_with_its_count(folders):
    predictions, references, _ = folders
    reference(references, "BraTS2021_00001", label_map())
    stray = label_map()
    stray[0, 0, :5] = 9
    nested(predictions, "BraTS2021_00001", stray)
    row = only_row(folders)
    assert row["status"] == "warn" and "label 9 (5 voxels)" in row["reason"] and "brats2017" in row["reason"]
    assert row["dice_WT"] == 1.0 and row["voxels_WT"] == 512


def test_a_reference_with_a_label_outside_its_convention_is_not_scored_and_says_why(folders):
    predictions, references, _ = folders
    stray = label_map()
    stray[0, 0, :5] = 9
    reference(references, "BraTS2021_00001", stray)
    nested(predictions, "BraTS2021_00001", label_map())
    row = only_row(folders, convention="brats2017")
    assert row["status"] == "error" and "reference" in row["reason"] and "label 9 (5 voxels)" in row["reason"]
    assert "dice_WT" not in row or math.isnan(row["dice_WT"])


def test_sides_in_different_conventions_are_compared_by_region(folders):
    predictions, references, _ = folders
    reference(references, "BraTS2021_00001", label_map(labels=(2, 1, 4)))
    # The predictions' own record says another convention: the same tissues, other numbers.
    nested(predictions, "BraTS2021_00001", label_map(labels=(1, 2, 3)))
    (predictions / "report.csv").write_text("case,folder,convention\nBraTS2021_00001,BraTS2021_00001,msd\n")
    row = only_row(folders)
    assert row["status"] == "ok" and row["convention"] == "msd"
    assert [row[f"dice_{r}"] for r in ("WT", "TC", "ET")] == [1.0, 1.0, 1.0]
    assert "prediction read as msd" in row["flags"] and "reference as brats2017" in row["flags"]


def test_an_unnamed_prediction_takes_its_references_convention_where_its_labels_fit(folders):
    predictions, references, _ = folders
    reference(references, "BraTS2021_00001", label_map(labels=(2, 1, 4)))
    save(predictions / "BraTS2021_00001.nii.gz", label_map(labels=(2, 1)))
    row = only_row(folders)
    assert (
        row["status"] == "ok"
        and row["convention"] == "brats2017"
        and row["dice_ET"] == 0.0
        and row["hd95_mm_ET"] == 374.0
    )
    assert "ET is empty in the prediction" in row["flags"]


def test_an_ambiguous_prediction_that_contradicts_its_reference_is_refused_not_guessed(folders):
    predictions, references, _ = folders
    reference(references, "BraTS2021_00001", label_map(labels=(2, 1, 4)))
    save(predictions / "BraTS2021_00001.nii.gz", label_map(labels=(2, 1, 3)))
    row = only_row(folders)
    assert row["status"] == "error" and "--convention" in row["reason"] and "{1, 2, 3}" in row["reason"]


def test_convention_overrides_both_sides(folders):
    predictions, references, _ = folders
    for root in (predictions, references):
        save(root / "a.nii.gz", label_map(labels=(1, 2, 3)))
    assert only_row(folders)["status"] == "error"  # 1 and 2 could be swapped
    row = only_row(folders, convention="msd")
    assert row["status"] == "ok" and row["voxels_TC"] == 216
    assert only_row(folders, convention="brats2023")["voxels_TC"] == 512 - 216 + 8
    with pytest.raises(ConventionError, match="brats1999"):
        evaluate(*folders, convention="brats1999")


def test_regions_of_one_convention_alone_are_not_scored_and_said(folders):
    predictions, references, _ = folders
    reference(references, "BraTS2021_00001", label_map())
    nested(predictions, "BraTS2021_00001", label_map(labels=(2, 1, 3)))
    (predictions / "report.csv").write_text("case,folder,convention\nBraTS2021_00001,BraTS2021_00001,brats2024-gli\n")
    row = only_row(folders)
    assert row["dice_WT"] == 1.0 and row["volume_ml_RC"] == 0.0 and "dice_RC" not in row
    assert "RC is not scored: brats2017" in row["flags"]


def test_flat_label_maps_that_bear_the_names_of_4d_images_are_label_maps_in_that_sets_convention(folders):
    predictions, references, _ = folders
    for root in (predictions, references):
        for number in (1, 2):
            save(root / f"BRATS_00{number}.nii.gz", label_map(labels=(1, 2, 3)))
    report = evaluate(*folders)
    assert report["case"].tolist() == ["BRATS_001", "BRATS_002"]
    assert report["status"].tolist() == ["ok", "ok"] and report["convention"].tolist() == ["msd", "msd"]


def test_a_naming_that_admits_two_conventions_takes_the_one_of_the_reference(folders):
    predictions, references, _ = folders
    case = "BraTS-GLI-00001-000"
    cavity = label_map(labels=(2, 1, 3))
    cavity[0, 0, 0] = 4
    for root, array in ((references, cavity), (predictions, label_map(labels=(2, 1, 3)))):
        save(root / case / f"{case}-seg.nii.gz", array)
    row = only_row(folders)
    assert row["convention"] == "brats2024-gli" and row["dice_RC"] == 0.0 and row["dice_WT"] == 1.0


def test_a_reference_without_tumour_is_scored_in_the_predictions_convention(folders):
    predictions, references, _ = folders
    save(references / "p1.nii.gz", np.zeros(SHAPE, np.uint8))
    nested(predictions, "p1", label_map())
    row = only_row(folders)
    assert row["status"] == "ok" and row["convention"] == "brats2017"
    assert row["dice_WT"] == 0.0 and row["hd95_mm_WT"] == 374.0 and "WT is empty in the reference" in row["flags"]


# ---- what a segmentation run left beside its masks ----


def test_report_of_the_run_maps_folders_to_cases_and_tells_what_failed(folders):
    predictions, references, _ = folders
    # Folder names that need a safe form; the reference side knows the true ones.
    strange = ["=cmd", "two\nlines"]
    for case in (*strange, "BraTS2021_00009"):
        reference(references, case, label_map())
    nested(predictions, "safe-1", label_map())
    save(predictions / "safe-2.nii.gz", label_map())  # as --flat writes it
    frame = pd.DataFrame(
        {
            "case": [*strange, "BraTS2021_00009"],
            "folder": ["safe-1", "safe-2", "BraTS2021_00009"],
            "reason": ["", "", "t2.nii.gz is cut short"],
            "model": ["m", "m", ""],
            "convention": ["brats2017", "brats2017", ""],
        }
    )
    write_table(predictions / "report.csv", frame)
    report = evaluate(*folders, convention="brats2017").set_index("folder")
    assert report["status"].to_dict() == {"safe-1": "ok", "safe-2": "ok", "BraTS2021_00009": "error"}, report[
        "reason"
    ].tolist()
    assert report["case"].to_dict() == {"safe-1": "'=cmd", "safe-2": "two\nlines", "BraTS2021_00009": "BraTS2021_00009"}
    assert "t2.nii.gz is cut short" in report.loc["BraTS2021_00009", "reason"]
    assert report.loc["safe-1", "model"] == "m"


def test_masks_that_the_report_does_not_name_are_patients_and_those_of_failed_rows_are_not(folders):
    predictions, references, _ = folders
    for case in ("BraTS2021_00001", "BraTS2021_00002", "BraTS2021_000011"):
        reference(references, case, label_map())
        nested(predictions, case, label_map())
    save(predictions / "BraTS2021_00001_prob_WT.nii.gz", label_map())
    (predictions / "report.csv").write_text(
        "case,folder,status,reason,convention\n"
        "BraTS2021_00001,BraTS2021_00001,ok,,brats2017\n"
        "BraTS2021_00002,BraTS2021_00002,error,t1 is cut short,\n"
    )
    report = evaluate(*folders).set_index("case")
    assert report["status"].to_dict() == {"BraTS2021_00001": "ok", "BraTS2021_00002": "error", "BraTS2021_000011": "ok"}
    assert "t1 is cut short" in report.loc["BraTS2021_00002", "reason"]


def test_report_cannot_lead_out_of_its_folder(folders, tmp_path):
    predictions, references, _ = folders
    reference(references, "BraTS2021_00001", label_map())
    save(tmp_path / "elsewhere_seg.nii.gz", label_map())
    nested(predictions, "BraTS2021_00002", label_map())
    (predictions / "report.csv").write_text(
        "case,folder,convention\nBraTS2021_00001,../elsewhere,brats2017\nBraTS2021_00002,BraTS2021_00002,brats2017\n"
    )
    report = evaluate(*folders).set_index("case")
    assert (
        report.loc["BraTS2021_00001", "status"] == "error"
        and "no prediction" in report.loc["BraTS2021_00001", "reason"]
    )


@pytest.mark.parametrize("folder", ["f" * 400, "a\0b"])
def test_a_name_in_a_report_that_no_file_can_have_costs_that_patient_alone(folders, folder):
    predictions, references, _ = folders
    for case in ("BraTS2021_00001", "BraTS2021_00002"):
        reference(references, case, label_map())
    nested(predictions, "BraTS2021_00002", label_map())
    (predictions / "report.csv").write_text(
        f"case,folder,convention\nBraTS2021_00001,{folder},brats2017\nBraTS2021_00002,BraTS2021_00002,brats2017\n"
    )
    report = evaluate(*folders).set_index("case")
    assert report["status"].to_dict() == {"BraTS2021_00001": "error", "BraTS2021_00002": "ok"}


@pytest.mark.parametrize("wrong", ["missing", "empty", "output is input"])
def test_folders_that_cannot_be_evaluated_stop_it(folders, wrong):
    predictions, references, output = folders
    reference(references, "BraTS2021_00001", label_map())
    if wrong == "empty":
        predictions.mkdir()
    elif wrong == "output is input":
        nested(predictions, "BraTS2021_00001", label_map())
        output = predictions
    with pytest.raises(UsageError, match="predictions"):
        evaluate(predictions, references, output)


# ---- the tables ----

BOX_LENGTH = 8


def box_map(shift: int = 0) -> np.ndarray:
    """One box of enhancing tumour (BraTS 2021), 8 x 4 x 4 voxels, moved along its length."""
    array = np.zeros((24, 10, 10), np.uint8)
    array[4 + shift : 4 + shift + BOX_LENGTH, 3:7, 3:7] = 4
    return array


def boxes(*places: tuple[tuple[int, int, int], int]) -> np.ndarray:
    array = np.zeros((64, 64, 64), np.uint8)
    for corner, size in places:
        array[tuple(slice(start, start + size) for start in corner)] = 3
    return array


METRICS_COLUMNS = (
    "case,system,region,dice,iou,sensitivity,specificity,precision,accuracy,tversky,hd_mm,hd95_mm,assd_mm,nsd,"
    "volume_ml_prediction,volume_ml_reference,volume_error_ml,volume_error_percent"
)
SET_KEYS = ("dice", "hd95_mm", "whole_dice", "whole_hd95_mm", "tp", "fp", "fn")


def test_the_columns_of_every_table_are_those_promised(folders):
    predictions, references, output = folders
    reference(references, "BraTS2021_00001", label_map())
    nested(predictions, "BraTS2021_00001", label_map(1))
    evaluate(*folders, options=ScoreOptions(("standard", "brats2023-gli", "brats2024-gli")))
    header = (output / "metrics.csv").read_text().splitlines()[0]
    sets = ",".join(f"{name}_{key}" for name in ("brats2023_gli", "brats2024_gli") for key in SET_KEYS)
    assert header.startswith(f"{METRICS_COLUMNS},{sets},lesions_prediction,")
    assert header.endswith(
        ",lesions_f1,small_lesions_prediction,small_lesions_reference,small_lesions_fp,small_lesions_fn,"
        "voxels_prediction,voxels_reference"
    )
    assert [row["region"] for row in read_csv(output / "metrics.csv")] == ["WT", "TC", "ET"]
    assert list(read_csv(output / "detection.csv")[0]) == [
        "system",
        "region",
        "size_class",
        "n",
        "found",
        "sensitivity",
    ]
    lesions = ["case", "system", "region", "side", "lesion", "voxels", "volume_ml"]
    assert list(read_csv(output / "lesions.csv")[0])[:7] == lesions
    assert {"case", "nsd_WT", "reference_volume_ml_WT"} <= set(read_csv(output / "report.csv")[0])


def test_two_boxes_worked_by_hand_come_out_of_the_files(folders):
    """Case A of DOMAIN.md: one of two lesions found, one invented; numbers of the official scripts."""
    predictions, references, output = folders
    truth = boxes(((5, 5, 5), 10), ((40, 40, 40), 8))
    save(references / "BraTS-GLI-00001-000" / "BraTS-GLI-00001-000-seg.nii.gz", truth)
    save(predictions / "BraTS-GLI-00001-000.nii.gz", boxes(((6, 5, 5), 10), ((50, 10, 10), 6)))
    evaluate(*folders, convention="brats2023", options=ScoreOptions(("brats2023-gli",)))
    rows = {row["region"]: row for row in read_csv(output / "metrics.csv")}
    assert list(rows) == ["WT", "TC", "ET"]
    for row in rows.values():
        assert float(row["dice"]) == pytest.approx(2 * 900 / (1000 + 216 + 1000 + 512), abs=1e-6)
        assert float(row["brats2023_gli_dice"]) == pytest.approx(0.3, abs=1e-4)
        assert float(row["brats2023_gli_hd95_mm"]) == pytest.approx(249.667, abs=1e-4)
        assert float(row["brats2023_gli_whole_dice"]) == pytest.approx(0.659824, abs=1e-6)
        assert float(row["brats2023_gli_whole_hd95_mm"]) == pytest.approx(43.920383, abs=1e-4)
        assert [row[f"brats2023_gli_{key}"] for key in ("tp", "fp", "fn")] == ["1", "1", "1"]
        assert (row["lesions_tp"], row["lesions_fp"], row["lesions_fn"], row["lesions_f1"]) == ("1", "1", "1", "0.5")
        assert float(row["volume_ml_prediction"]) == pytest.approx(1.216)
        assert float(row["volume_error_ml"]) == pytest.approx(1.216 - 1.512)
        assert float(row["volume_error_percent"]) == pytest.approx(100 * (1216 - 1512) / 1512, rel=1e-5)
        assert (row["voxels_prediction"], row["voxels_reference"]) == ("1216", "1512")
    found = {(row["region"], row["size_class"]): (row["n"], row["found"]) for row in read_csv(output / "detection.csv")}
    assert found["ET", "0.1 to 1 ml"] == ("1", "0") and found["ET", "1 to 10 ml"] == ("1", "1")
    lesions = [row for row in read_csv(output / "lesions.csv") if row["region"] == "ET"]
    assert [(row["side"], row["lesion"], row["voxels"], row["matches"], row["detected"]) for row in lesions] == [
        ("prediction", "1", "1000", "1", "True"), ("prediction", "2", "216", "", "False"),
        ("reference", "1", "1000", "1", "True"), ("reference", "2", "512", "", "False"),
    ]  # fmt: skip


def test_a_patient_without_scores_has_a_row_and_counts_as_failed(folders):
    predictions, references, output = folders
    for case in ("BraTS2021_00001", "BraTS2021_00002"):
        reference(references, case, label_map())
    nested(predictions, "BraTS2021_00001", label_map())
    evaluate(*folders)
    assert [row["status"] for row in read_csv(output / "report.csv")] == ["ok", "error"]
    assert {row["case"] for row in read_csv(output / "metrics.csv")} == {"BraTS2021_00001"}
    assert {(row["n"], row["n_failed"]) for row in read_csv(output / "summary.csv")} == {("1", "1")}


def test_a_prediction_with_hundreds_of_strange_labels_names_a_few_and_counts_the_rest(folders):
    predictions, references, _ = folders
    reference(references, "BraTS2021_00001", label_map())
    noise = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    nested(predictions, "BraTS2021_00001", noise)
    reason = only_row(folders)["reason"]
    assert "label 3 (1 voxels)" in reason and f"and {np.prod(SHAPE) - 1 - 3 - 8} more" in reason and len(reason) < 500


def test_the_spreadsheet_runs_no_name_in_any_table(folders, tmp_path):
    predictions, references, output = folders
    second = tmp_path / "+second"
    reference(references, "=1+1", label_map())
    for folder in (predictions, second):
        nested(folder, "=1+1", label_map())
    evaluate(*folders, convention="brats2017", compare=[second])
    for name in ("report", "metrics", "lesions", "summary", "comparison", "comparison_cases", "detection"):
        with (output / f"{name}.csv").open(newline="") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert not [
            cell for cell in cells if cell.startswith(("=", "+", "@")) or cell.startswith("-") and cell[1:] == ""
        ]
        assert "'+second" in cells, name
    assert read_csv(output / "metrics.csv")[0]["case"] == "'=1+1"


# ---- other grids, other conventions ----


def coarse(shape: tuple[int, int, int] = (8, 8, 6)) -> np.ndarray:
    array = np.zeros(shape, np.uint8)
    array[2:6, 2:6, 1:5] = 4
    return array


def test_a_prediction_on_a_coarser_grid_is_resampled_when_asked_and_the_row_says_so(folders):
    predictions, references, _ = folders
    truth = np.zeros(SHAPE, np.uint8)
    truth[4:12, 4:12, 2:10] = 4
    reference(references, "BraTS2021_00001", truth)
    # Voxels of 2 mm whose corners are those of 2x2x2 voxels of 1 mm.
    nested(predictions, "BraTS2021_00001", coarse(), spacing=(2, 2, 2), origin=0.5)
    row = only_row(folders)
    assert row["status"] == "error" and "--resample" in row["reason"]
    row = only_row(folders, resample=True)
    assert row["status"] == "warn" and "resampled onto the reference's grid, from 8x8x6" in row["reason"]
    # Of the box of 8^3 only the eight corners fall below a half: .75^3 = .42, on the edges .75^2 = .56.
    assert row["voxels_ET"] == 504 and row["dice_ET"] == pytest.approx(2 * 504 / (504 + 512))
    assert row["volume_ml_ET"] == pytest.approx(0.504)


def test_the_same_voxels_stored_in_another_order_of_axes_are_the_same_grid(folders):
    predictions, references, _ = folders
    truth = label_map()
    path = reference(references, "BraTS2021_00001", truth, spacing=(1, 2, 3))
    image = nib.load(path).as_reoriented(np.array([[1, -1], [2, 1], [0, -1]]))
    assert image.shape != SHAPE
    (predictions / "BraTS2021_00001").mkdir(parents=True)
    nib.save(image, predictions / "BraTS2021_00001" / "BraTS2021_00001_seg.nii.gz")
    row = only_row(folders)
    assert row["status"] == "ok" and row["dice_ET"] == 1.0 and row["hd_mm_WT"] == 0.0


def test_each_side_has_its_convention_when_both_are_named(folders):
    predictions, references, _ = folders
    save(predictions / "a.nii.gz", label_map(labels=(1, 2, 3)))
    save(references / "a.nii.gz", label_map(labels=(2, 1, 3)))
    row = only_row(folders, convention="msd", reference_convention="brats2023")
    assert row["status"] == "ok" and row["convention"] == "msd"
    assert [row[f"dice_{region}"] for region in ("WT", "TC", "ET")] == [1.0, 1.0, 1.0]
    assert "prediction read as msd (asked for), reference as brats2023 (asked for)" in row["flags"]
    swapped = only_row(folders, convention="brats2023", reference_convention="brats2023")
    assert swapped["dice_TC"] < 0.8 and swapped["dice_WT"] == 1.0


def test_the_references_convention_alone_leaves_the_predictions_to_their_own_evidence(folders):
    predictions, references, _ = folders
    nested(predictions, "p1", label_map(labels=(2, 1, 4)))  # {1, 2, 4} says BraTS 2017-2021
    save(references / "p1.nii.gz", label_map(labels=(2, 1, 3)))
    row = only_row(folders, reference_convention="brats2023")
    assert row["status"] == "ok" and row["convention"] == "brats2017" and row["dice_ET"] == 1.0
    with pytest.raises(ConventionError, match="brats1999"):
        evaluate(*folders, reference_convention="brats1999")


def test_an_undecided_reference_names_the_option_of_the_references(folders):
    """Each side has an option of its own: the other one would not help."""
    predictions, references, _ = folders
    for folder in (predictions, references):
        save(folder / "a.nii.gz", label_map(labels=(2, 1, 3)))
    row = only_row(folders)
    assert row["status"] == "error" and "say which with --reference-convention NAME" in row["reason"], row["reason"]


# ---- several systems ----

FIRST_SHIFTS, SECOND_SHIFTS = (0, 0, 0, 4, 2, 0), (1, 2, 3, 0, 2, 5)


@pytest.fixture
def compared(folders, tmp_path) -> Path:
    predictions, references, output = folders
    second = tmp_path / "second"
    for number, shifts in enumerate(zip(FIRST_SHIFTS, SECOND_SHIFTS, strict=True)):
        case = f"BraTS2021_0000{number}"
        save(references / case / f"{case}_seg.nii.gz", box_map())
        for folder, shift in zip((predictions, second), shifts, strict=True):
            nested(folder, case, box_map(shift))
    nested(predictions, "BraTS2021_00009", box_map())  # a patient without a reference
    evaluate(*folders, convention="brats2017", compare=[second])
    return output


def test_two_systems_are_compared_patient_by_patient(compared):
    rows = {(row["region"], row["metric"]): row for row in read_csv(compared / "comparison.csv")}
    dice = rows["ET", "dice"]
    # A box of 8 voxels moved by s overlaps in 8 - s, so the differences are 1, 2, 3, -4, 0 and 5 eighths.
    assert (dice["system"], dice["other"]) == ("predictions", "second")
    assert (dice["wins"], dice["losses"], dice["ties"], dice["n"]) == ("4", "1", "1", "6")
    assert float(dice["mean_difference"]) == pytest.approx(7 / 8 / 6, rel=1e-5)
    assert float(dice["mean_system"]) == pytest.approx(1 - 1 / 8)
    # Rank 4 is the only negative one of five: 7 of the 32 signs give a sum of at most 4, on either side.
    assert float(dice["p_wilcoxon"]) == pytest.approx(14 / 32)
    assert float(dice["p_wilcoxon"]) == pytest.approx(wilcoxon([1, 2, 3, -4, 5]).pvalue)
    distance = rows["ET", "hd95_mm"]
    assert (distance["wins"], distance["losses"], distance["ties"]) == ("4", "1", "1")  # the lower one wins
    cases = [
        row for row in read_csv(compared / "comparison_cases.csv") if (row["region"], row["metric"]) == ("ET", "dice")
    ]
    assert [row["better"] for row in cases] == ["predictions"] * 3 + ["second", "tie", "predictions"]
    assert [float(row["second"]) for row in cases] == [1 - shift / 8 for shift in SECOND_SHIFTS]


def test_every_table_names_the_system_and_the_rows_of_each_are_together(compared):
    for name, place in (("report", 1), ("metrics", 1), ("lesions", 1), ("summary", 0), ("detection", 0)):
        rows = read_csv(compared / f"{name}.csv")
        assert list(rows[0])[place] == "system", name
        assert list(dict.fromkeys(row["system"] for row in rows)) == ["predictions", "second"], name
    report = read_csv(compared / "report.csv")
    assert [(row["system"], row["status"]) for row in report] == (
        [("predictions", "ok")] * 6 + [("predictions", "error")] + [("second", "ok")] * 6
    )


def test_one_system_has_the_columns_of_several_and_leaves_no_comparison_behind(compared, folders):
    names = ("report", "metrics", "lesions", "summary", "detection")
    several = {name: list(read_csv(compared / f"{name}.csv")[0]) for name in names}
    evaluate(*folders, convention="brats2017")
    assert {name: list(read_csv(compared / f"{name}.csv")[0]) for name in names} == several
    assert {row["system"] for name in names for row in read_csv(compared / f"{name}.csv")} == {"predictions"}
    assert not list(compared.glob("comparison*"))


def test_systems_of_one_name_are_told_apart():
    assert system_names([Path("/a/out"), Path("/b/out"), Path("c")]) == ["a/out", "b/out", "c"]
    assert system_names([Path("/a/out"), Path("/a/out/")]) == ["a/out", "a/out#2"]


# ---- processes, pictures, interruptions ----


def patients(folders, n: int = 3) -> None:
    predictions, references, _ = folders
    for number in range(n):
        reference(references, f"BraTS2021_{number:05}", label_map())
        nested(predictions, f"BraTS2021_{number:05}", label_map(number % 4))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_any_number_of_workers_writes_the_same_bytes(folders, page, tmp_path):
    predictions, references, output = folders
    patients(folders)
    save(references / "BraTS2021_00009" / "BraTS2021_00009_seg.nii.gz", label_map())
    rows: dict[int, list[str]] = {1: [], 2: []}
    for workers in (1, 2):
        evaluate(
            predictions, references, output / str(workers), workers=workers,
            progress=lambda row, total, of=rows[workers]: of.append(f"{row['case']} of {total}"),
        )  # fmt: skip
    one, two = contents(output / "1"), contents(output / "2")
    assert list(one) == list(two) and {"report.csv", "report.html", "pictures/BraTS2021_00002.png"} <= set(one)
    assert [name for name in one if one[name] != two[name]] == []
    assert rows[1] == rows[2] == [f"BraTS2021_0000{n} of 4" for n in (0, 1, 2, 9)]


def test_an_interrupted_evaluation_leaves_the_older_tables_whole_and_nothing_else(folders):
    output = folders[2]
    patients(folders)
    evaluate(*folders)
    before = contents(output)

    def interrupt(row: dict, total: int) -> None:
        if row["case"].endswith("2"):
            raise KeyboardInterrupt

    nested(folders[0], "BraTS2021_00000", label_map(3))
    with pytest.raises(KeyboardInterrupt):
        evaluate(*folders, progress=interrupt)
    assert contents(output) == before


def test_sixty_patients_take_seconds_and_hold_no_masks(folders):
    predictions, references, _ = folders
    for number in range(60):
        nested(references, f"BraTS2021_{number:05}", label_map())
        nested(predictions, f"BraTS2021_{number:05}", label_map(number % 4))
    held: list[int] = []
    start = time.process_time()
    try:
        evaluate(*folders, progress=lambda row, total: held.append(memory()))
    finally:
        tracemalloc.stop()
    assert time.process_time() - start < 20  # 4 s
    # Rows of numbers, whose size does not depend on the image's, and the lines of lesions.csv not yet on the disk.
    assert (held[-1] - held[9]) / 50 < 20_000


def memory() -> int:
    """Bytes that Python holds since the first call."""
    if not tracemalloc.is_tracing():
        tracemalloc.start()
    return tracemalloc.get_traced_memory()[0]


def test_the_worst_patients_get_pictures_and_the_others_none(folders, page):
    patients(folders)
    evaluate(*folders, pictures=1)
    assert [path.name for path in (folders[2] / "pictures").iterdir()] == ["BraTS2021_00002.png"]
    assert (folders[2] / "pictures" / "BraTS2021_00002.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_shows_every_system_of_the_worst_patient_and_the_viewer_where_asked(folders, page, tmp_path):
    predictions, references, output = folders
    patients(folders)
    second = tmp_path / "second"
    nested(second, "BraTS2021_00000", label_map(3))
    evaluate(*folders, compare=[second], pictures=1, interactive=["BraTS2021_00001"])
    made = sorted(str(path.relative_to(output)) for path in output.rglob("*.png"))
    assert made == ["pictures/predictions/BraTS2021_00000.png", "pictures/second/BraTS2021_00000.png"]
    text = (output / "report.html").read_text()
    assert text.count("data:image/png;base64,") >= 2 and "niivue" in text.lower()


@pytest.mark.parametrize("where", ["references", "run.json", "nowhere"])
def test_outlines_are_drawn_on_the_patients_flair_where_it_is_known(folders, where, page, monkeypatch):
    predictions, references, _ = folders
    case = "BraTS2021_00001"
    if where == "references":
        reference(references, case, label_map())
    else:
        save(references / case / f"{case}_seg.nii.gz", label_map())
    nested(predictions, case, label_map(1))
    if where == "run.json":
        flair = save(predictions.parent / "elsewhere.nii.gz", np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE))
        (predictions / "report.csv").write_text(f"case,folder,convention,seconds\n{case},{case},brats2017,2.5\n")
        files = {"flair": [str(flair)], "t2": ["\0", "gone.nii.gz"], "t1": "no list"}
        (predictions / "run.json").write_text(json.dumps({"cases": {case: {"files": files, "stages": {"network": 2}}}}))
    drawn: list[tuple] = []
    monkeypatch.setattr("pipeline.report.preview.write_preview", lambda *given: drawn.append(given))
    monkeypatch.setattr("pipeline.evaluate.run.write_evaluation_page", lambda *given: None)
    row = only_row(folders, convention="brats2017")
    ((_, title, background, masks, grid, reference_masks),) = drawn
    assert title == case and grid.shape == SHAPE and masks["WT"].sum() == reference_masks["WT"].sum() == 512
    if where == "nowhere":
        assert background is None
    else:
        np.testing.assert_array_equal(background.ravel(), np.arange(np.prod(SHAPE)))
    assert row["seconds"] == 2.5 if where == "run.json" else row["seconds"] is None or math.isnan(row["seconds"])


def test_a_record_of_the_run_that_holds_nonsense_is_as_none(folders):
    predictions, references, _ = folders
    reference(references, "BraTS2021_00001", label_map())
    nested(predictions, "BraTS2021_00001", label_map())
    (predictions / "report.csv").write_text(
        "case,folder,convention,seconds\nBraTS2021_00001,BraTS2021_00001,brats2017,x\n"
    )
    for text in ("[]", "{", '{"cases": 3}', '{"cases": {"BraTS2021_00001": [1]}}', "[" * 100_000):
        (predictions / "run.json").write_text(text)
        assert only_row(folders)["status"] == "ok"


def test_options_that_cannot_be_stop_it_before_any_work(folders, tmp_path):
    patients(folders)
    for options, said in (
        ({"workers": 0}, "--workers 0"),
        ({"pictures": -1}, "--pictures -1"),
        ({"interactive": ["BraTS2021_00001", "nobody"]}, "'nobody'"),
        ({"compare": [tmp_path / "gone"]}, "gone"),
    ):
        with pytest.raises(UsageError, match=said):
            evaluate(*folders, **options)
    assert not folders[2].exists()


# ---- summarise ----


def summary_of(pairs: list[tuple[int | None, int | None]], grid: Grid, failed: int = 0) -> pd.DataFrame:
    """summary.csv of one region, ET, indexed by metric: a patient for each pair of shifts, and some that failed."""
    scored = [score_masks(masks(ET=p), masks(ET=r), grid) for p, r in pairs]
    rows = [{"case": str(i)} | row for i, scores in enumerate(scored) for row in scores.regions]
    report = [{"case": str(i), "status": "ok"} for i in range(len(pairs))]
    report += [{"case": f"failed-{i}", "status": "error"} for i in range(failed)]
    metrics = metrics_frame(rows, metric_columns(ScoreOptions()))
    return summarise_metrics(metrics, report_frame(report)).set_index("metric")


def test_unknown_spacing_leaves_distances_unknown_and_counts_voxels():
    summary = summary_of([(3, 2)], Grid((12, 8, 8), np.eye(4), spacing_known=False))
    assert summary.loc["dice", "mean"] == 0.75 and summary.loc["dice", "n"] == 1
    assert summary.loc["hd95_mm", "n"] == 0 and math.isnan(summary.loc["hd95_mm", "mean"])
    assert summary.loc["hd95_mm", "n_empty_reference"] == 0


def test_summary_keeps_empties_in_the_mean_and_counts_them():
    pairs = [(2, 2), (3, 2), (None, 2), (3, None), (None, None)]
    summary = summary_of(pairs, Grid((12, 8, 8), np.eye(4)), failed=1)
    dice = summary.loc["dice"]
    assert (dice["n"], dice["n_empty_reference"], dice["n_empty_prediction"], dice["n_failed"]) == (5, 2, 2, 1)
    assert dice["mean"] == pytest.approx((1 + 0.75 + 0 + 0 + 1) / 5) and dice["median"] == 0.75
    assert dice["mean_reference_not_empty"] == pytest.approx((1 + 0.75 + 0) / 3)
    assert (dice["min"], dice["max"]) == (0.0, 1.0)
    assert dice["sd"] == pytest.approx(np.std([1, 0.75, 0, 0, 1], ddof=1))
    assert summary.loc["hd95_mm", "mean"] == pytest.approx((0 + 1 + 374 + 374 + 0) / 5)


# ---- tables ----


@pytest.mark.parametrize("lead", ["=", "+", "-", "@", "\t", "\r"])
def test_a_cell_that_a_spreadsheet_would_run_gets_an_apostrophe(lead):
    assert text_cell(f"{lead}1+1") == f"'{lead}1+1" == text_cell(text_cell(f"{lead}1+1"))


def test_cells_are_exact_but_for_undecodable_bytes(tmp_path):
    names = [
        "plain",
        "a,b",
        'say "x"',
        "two\nlines",
        "a\rb",
        "crlf\r\n",
        "Zürich 患者",
        os.fsdecode(b"caf\xe9 1"),
        "\ud800",
    ]
    expected = [*names[:7], "caf\ufffd 1", "\ufffd"]
    write_table(tmp_path / "t.csv", pd.DataFrame({"case": names, "n": range(len(names))}))
    rows = read_csv(tmp_path / "t.csv")
    assert [row["case"] for row in rows] == expected and [row["n"] for row in rows] == [
        str(i) for i in range(len(names))
    ]


def test_fractions_have_six_digits_unknown_ones_are_empty_and_negative_ones_stay_numbers(tmp_path):
    frame = pd.DataFrame(
        {"x": [2 / 3, -1.5, math.nan], "n": pd.array([1, None, 3], dtype="Int64"), "t": ["-", None, ""]}
    )
    write_table(tmp_path / "t.csv", frame)
    assert (tmp_path / "t.csv").read_text() == "x,n,t\n0.666667,1,'-\n-1.5,,\n,3,\n"
    write_table(tmp_path / "t.csv", frame.iloc[:0])
    assert (tmp_path / "t.csv").read_text() == "x,n,t\n"
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_columns_of_a_report_are_in_order_whichever_row_brought_them():
    frame = report_frame(
        [{"case": "a", "dice_WT": 1.0}, {"case": "b", "extra": 1, "volume_ml_ET": 2.0, "dice_ET": 0.5, "voxels_WT": 3}]
    )
    assert list(frame)[8:] == ["volume_ml_ET", "dice_WT", "dice_ET", "voxels_WT", "extra"]
    assert frame["voxels_WT"].dtype == "Int64"
