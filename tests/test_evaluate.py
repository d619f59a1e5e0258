"""pipeline/evaluate.py and pipeline/tables.py on small synthetic folders."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from data.errors import ConventionError, UsageError
from data.grid import Grid
from pipeline.evaluate import evaluate, score_case, score_flags, summarise, write_table
from pipeline.tables import report_frame, text_cell

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
    assert list(rows[0])[:11] == [
        *("case", "folder", "status", "reason", "flags", "model", "convention", "seconds"),
        *("volume_ml_WT", "volume_ml_TC", "volume_ml_ET"),
    ]
    assert [float(row["dice_WT"]) for row in rows] == report["dice_WT"].tolist()
    summary = {(row["region"], row["metric"]): row for row in read_csv(output / "summary.csv")}
    assert float(summary["WT", "dice"]["mean"]) == pytest.approx(15 / 16) and summary["WT", "dice"]["n"] == "2"
    assert list(summary) == [(r, m) for r in ("WT", "TC", "ET") for m in ("volume_ml", "dice", "hd95_mm", "hd_mm")]


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


# ---- score_case, summarise ----


def masks(**shifts: int | None) -> dict[str, np.ndarray]:
    """Region -> a cube of 4^3 moved along the first axis, or nothing for None."""
    found = {}
    for region, shift in shifts.items():
        found[region] = np.zeros((12, 8, 8), bool)
        if shift is not None:
            found[region][shift : shift + 4, 2:6, 2:6] = True
    return found


def test_score_case_gives_columns_in_mm_and_flags_what_the_empty_rule_decided():
    grid = Grid((12, 8, 8), np.diag([3.0, 1, 1, 1]))
    columns = score_case(masks(WT=3, TC=None, ET=None), masks(WT=2, TC=2, ET=None, RC=1), grid)
    assert {name: value for name, value in columns.items() if "voxels" not in name} == {
        **{"dice_WT": 0.75, "hd95_mm_WT": 3.0, "hd_mm_WT": 3.0},
        **{"dice_TC": 0.0, "hd95_mm_TC": 374.0, "hd_mm_TC": 374.0},
        **{"dice_ET": 1.0, "hd95_mm_ET": 0.0, "hd_mm_ET": 0.0},
    }
    assert score_flags(columns) == ["TC is empty in the prediction", "ET is empty in the prediction and the reference"]


def test_unknown_spacing_leaves_distances_unknown_and_counts_voxels():
    columns = score_case(masks(WT=3), masks(WT=2), Grid((12, 8, 8), np.eye(4), spacing_known=False))
    assert columns["dice_WT"] == 0.75 and math.isnan(columns["hd95_mm_WT"]) and columns["voxels_WT"] == 64
    summary = summarise(report_frame([columns])).set_index("metric")
    assert (
        summary.loc["dice", "n"] == 1
        and summary.loc["hd95_mm", "n"] == 0
        and math.isnan(summary.loc["hd95_mm", "mean"])
    )
    assert summary.loc["hd95_mm", "n_empty_reference"] == 0


def test_summary_keeps_empties_in_the_mean_and_counts_them():
    grid = Grid((12, 8, 8), np.eye(4))
    pairs = [(2, 2), (3, 2), (None, 2), (3, None), (None, None)]
    rows = [score_case(masks(ET=p), masks(ET=r), grid) | {"case": str(i)} for i, (p, r) in enumerate(pairs)]
    rows.append({"case": "failed", "status": "error"})
    summary = summarise(report_frame(rows)).set_index("metric")
    dice = summary.loc["dice"]
    assert (dice["n"], dice["n_empty_reference"], dice["n_empty_prediction"]) == (5, 2, 2)
    assert dice["mean"] == pytest.approx((1 + 0.75 + 0 + 0 + 1) / 5) and dice["median"] == 0.75
    assert (dice["min"], dice["max"]) == (0.0, 1.0)
    assert dice["sd"] == pytest.approx(np.std([1, 0.75, 0, 0, 1], ddof=1))
    assert summary.loc["hd95_mm", "mean"] == pytest.approx((0 + 1 + 374 + 374 + 0) / 5)


def test_summary_of_rows_without_a_reference_is_of_volumes_and_of_nothing_is_nothing():
    rows = pd.DataFrame({"case": ["a", "b"], "volume_ml_WT": [0.0, 3.0]})
    summary = summarise(rows)
    assert summary["metric"].tolist() == ["volume_ml"] and summary["n_empty_prediction"].tolist() == [1]
    assert summary["n_empty_reference"].isna().all()
    assert summarise(report_frame([])).empty


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


def test_numbers_read_back_exactly_unknown_ones_are_empty_and_negative_ones_stay_numbers(tmp_path):
    frame = pd.DataFrame(
        {"x": [0.1 + 0.2, -1.5, math.nan], "n": pd.array([1, None, 3], dtype="Int64"), "t": ["-", None, ""]}
    )
    write_table(tmp_path / "t.csv", frame)
    assert (tmp_path / "t.csv").read_text() == "x,n,t\n0.30000000000000004,1,'-\n-1.5,,\n,3,\n"
    write_table(tmp_path / "t.csv", frame.iloc[:0])
    assert (tmp_path / "t.csv").read_text() == "x,n,t\n"
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_columns_of_a_report_are_in_order_whichever_row_brought_them():
    frame = report_frame(
        [{"case": "a", "dice_WT": 1.0}, {"case": "b", "extra": 1, "volume_ml_ET": 2.0, "dice_ET": 0.5, "voxels_WT": 3}]
    )
    assert list(frame)[8:] == ["volume_ml_ET", "dice_WT", "dice_ET", "voxels_WT", "extra"]
    assert frame["voxels_WT"].dtype == "Int64"
