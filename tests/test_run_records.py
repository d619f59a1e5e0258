"""What the records of a segmentation run tell an evaluation of its masks."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from pipeline.evaluate.label_maps import CORRECTED
from pipeline.evaluate.run import evaluate
from pipeline.score.tables import csv_line
from tests.test_evaluate import label_map, nested, read_csv, reference, save

CASES = ("BraTS2021_00001", "BraTS2021_00002")
SEEN = "the model m has learnt from this patient (by name, x), so that its Dice says nothing"


@pytest.fixture
def folders(tmp_path, monkeypatch) -> tuple[Path, Path, Path]:
    """Two patients, segmented and with references; tables alone are made."""
    monkeypatch.setattr("pipeline.evaluate.run.draw_worst", lambda *given: {})
    monkeypatch.setattr("pipeline.evaluate.run.write_evaluation_page", lambda *given: None)
    predictions, references = tmp_path / "predictions", tmp_path / "references"
    for case, shift in zip(CASES, (0, 1), strict=True):
        reference(references, case, label_map())
        nested(predictions, case, label_map(shift))
        record(predictions, case)
    report(predictions)
    return predictions, references, tmp_path / "out"


def record(predictions: Path, case: str, **row: str) -> None:
    """Write the state file of a case, as a run does that has just written its mask."""
    mask = predictions / case / f"{case}_seg.nii.gz"
    state = {
        "mask_sha256": hashlib.sha256(mask.read_bytes()).hexdigest(),
        "files": [f"{case}/{mask.name}"],
        "row": {"convention": "brats2017"} | row,
    }
    path = predictions / ".state" / f"{case}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(state))


def report(predictions: Path, **second: str) -> None:
    """Write report.csv; ``second`` are cells of the second patient's row."""
    names = ("case", "folder", "status", "reason", "flags", "model", "convention", "seconds")
    rows = [
        dict.fromkeys(names, "") | {"case": c, "folder": c, "status": "ok", "convention": "brats2017"} for c in CASES
    ]
    rows[1] |= second
    lines = [csv_line(names), *(csv_line(row.values()) for row in rows)]
    (predictions / "report.csv").write_text("".join(lines))


def test_a_mask_that_was_corrected_by_hand_is_scored_though_the_next_run_has_no_row_for_it(folders):
    nested(folders[0], CASES[1], label_map())
    report(folders[0], status="error", reason="is not the mask that a run wrote there", convention="")
    rows = evaluate(*folders).to_dict("records")
    assert [row["status"] for row in rows] == ["ok", "ok"] and [row["dice_WT"] for row in rows] == [1.0, 1.0]
    assert [CORRECTED in row["flags"] for row in rows] == [False, True]
    assert rows[1]["convention"] == "brats2017"


def test_a_mask_corrected_since_the_last_run_is_flagged_too(folders):
    nested(folders[0], CASES[1], label_map())
    assert [CORRECTED in flags for flags in evaluate(*folders)["flags"]] == [False, True]


@pytest.mark.parametrize("state", ["as written", "gone", "nonsense"])
def test_what_a_failed_run_left_as_it_was_is_not_scored(folders, state):
    report(folders[0], status="error", reason="no memory")
    path = folders[0] / ".state" / f"{CASES[1]}.json"
    if state == "gone":
        path.unlink()
    elif state == "nonsense":
        path.write_text('{"mask_sha256": 3, "files": {}, "row": []}')
    row = evaluate(*folders).to_dict("records")[1]
    assert row["status"] == "error" and "its report.csv says: no memory" in row["reason"]


def test_a_patient_whom_the_model_has_learnt_from_is_flagged_and_counted(folders):
    report(folders[0], flags=f"no ET found; {SEEN}")
    (folders[0] / "run.json").write_text(json.dumps({"cases": {CASES[0]: {"learnt_from": [SEEN, "nonsense", 3]}}}))
    flags = evaluate(*folders)["flags"]
    assert [SEEN in cell for cell in flags] == [True, True] and not flags.str.contains("nonsense|no ET").any()
    assert {row["n_learnt_from"] for row in read_csv(folders[2] / "summary.csv")} == {"2"}


def test_one_patient_under_two_ids_is_flagged_and_said_once(folders, caplog):
    evaluate(*folders)
    assert f"{CASES[0]}, {CASES[1]}: one patient under several ids" in caplog.text  # the images are equal here
    flag = f"its images are the same files as those of {CASES[1]}"
    row = read_csv(folders[2] / "report.csv")[0]
    assert flag in row["flags"] and row["status"] == "ok"


def test_equal_references_without_images_are_one_patient_but_not_where_they_are_empty(tmp_path, folders, caplog):
    for name, shift, labels in (("full", 0, (2, 1, 4)), ("empty", 0, (0, 0, 0))):
        bare, masks = tmp_path / name, tmp_path / f"{name} masks"
        for case in CASES:
            save(bare / f"{case}.nii.gz", label_map(shift, labels))
            save(masks / f"{case}.nii.gz", label_map(1, labels))
        caplog.clear()
        evaluate(masks, bare, tmp_path / f"{name} out", convention="brats2017")
        assert ("one patient under several ids" in caplog.text) is (name == "full")
