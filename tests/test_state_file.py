"""State files are not trusted: one that is not of our form is of no finished case, and the case is done again."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest

from data.find.discover import discover_cases
from pipeline.options import SegmentOptions
from pipeline.segment.run import segment_cases
from pipeline.segment.state import ReportRow, read_state

FIRST, SECOND = "BraTS-GLI-90001-000", "BraTS-GLI-90002-000"


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.segment.results.write_segment_page", lambda *a: None)


@pytest.fixture(scope="module")
def finished(phantoms, tiny_model, tmp_path_factory) -> Path:
    """An output folder, not to be changed."""
    output = tmp_path_factory.mktemp("state") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.segment.results.write_segment_page", lambda *a: None)
        run(phantoms, output, tiny_model)
    return output


def run(phantoms: Path, output: Path, model: Path) -> pd.DataFrame:
    return segment_cases(discover_cases(phantoms), output, SegmentOptions(models=(str(model),)))


def test_what_a_run_writes_is_read_back_whole(finished):
    path = finished / ".state" / f"{FIRST}.json"
    state = read_state(path)
    assert state is not None and state.to_json() == json.loads(path.read_text())


def changed(state: dict, place: str, value: object) -> dict:
    *way, last = place.split(".")
    inner = state
    for step in way:
        inner = inner[int(step)] if isinstance(inner, list) else inner[step]
    inner[last] = value
    return state


HOSTILE = [
    ("regions", [1, 2]),
    ("regions", {}),
    ("regions", [{"region": "WT"}] * 60_000),
    ("regions.0.dice", "x"),
    ("regions.0.voxels_prediction", 1e30),
    ("regions.0.region", "XX"),
    ("regions.0.case", "another"),
    ("lesions", "x"),
    ("lesions.0.lesion", None),
    ("lesions.0.detected", 1),
    ("lesions.0.matches", "=1"),
    ("lesions.0.case", "another"),
    ("row", [1]),
    ("row.seconds", "x"),
    ("row.voxels_WT", 1e30),
    ("row.voxels_WT", 0.5),
    ("row.status", "fine"),
    ("row.convention", "nobody's"),
    ("row.reason", 5),
    ("row.=cmd", 1.0),
    ("row.dice_WT", 10**400),
    ("files", [1]),
    ("files", {"a": 1}),
    ("inputs", [["a"]]),
    ("models", {"m": 5}),
    ("stages", {"network": "long"}),
    ("missing", 7),
    ("mask_sha256", None),
    ("voxels", {"WT": -1}),
    ("remarks", "x"),
]


@pytest.mark.parametrize(("place", "value"), HOSTILE)
def test_a_value_of_another_kind_makes_the_file_say_nothing_with_a_notice(place, value, finished, tmp_path, caplog):
    state = json.loads((finished / ".state" / f"{FIRST}.json").read_text())
    (tmp_path / "X.json").write_text(json.dumps(changed(state, place, value)))
    with caplog.at_level(logging.WARNING):
        assert read_state(tmp_path / "X.json") is None
    (record,) = caplog.records
    assert f"{tmp_path / 'X.json'}: not used (" in record.getMessage() and len(record.getMessage().splitlines()) == 1


def test_every_patient_comes_out_right_where_a_fifo_and_wrong_values_lie_in_the_place_of_states(
    finished, phantoms, tiny_model, tmp_path
):
    output = Path(shutil.copytree(finished, tmp_path / "out"))
    states = output / ".state"
    state = json.loads((states / f"{FIRST}.json").read_text())
    (states / f"{FIRST}.json").write_text(json.dumps(state | {"regions": [1, 2], "row": {"seconds": "x"}}))
    (states / f"{SECOND}.json").unlink()
    os.mkfifo(states / f"{SECOND}.json")
    again = run(phantoms, output, tiny_model)
    assert list(again["case"]) == [FIRST, SECOND] and list(again["status"]) == ["ok", "ok"]
    assert (output / "metrics.csv").read_bytes() == (finished / "metrics.csv").read_bytes()
    assert (output / "lesions.csv").read_bytes() == (finished / "lesions.csv").read_bytes()


def test_the_case_and_its_folder_come_from_the_task_whatever_the_file_says(finished, phantoms, tiny_model, tmp_path):
    output = Path(shutil.copytree(finished, tmp_path / "out"))
    path = output / ".state" / f"{FIRST}.json"
    state = json.loads(path.read_text())
    state["row"] |= {"case": SECOND, "folder": "../elsewhere"}
    path.write_text(json.dumps(state))
    again = run(phantoms, output, tiny_model)
    assert list(again["case"]) == [FIRST, SECOND] and list(again["folder"]) == [FIRST, SECOND]
    assert list(again["seconds"]) == list(pd.read_csv(finished / "report.csv")["seconds"])  # it was kept


def test_a_link_in_the_place_of_a_result_is_of_no_finished_case(finished, phantoms, tiny_model, tmp_path):
    output = Path(shutil.copytree(finished, tmp_path / "out"))
    mask = output / FIRST / f"{FIRST}_seg.nii.gz"
    mask.rename(tmp_path / "elsewhere.nii.gz")
    mask.symlink_to(tmp_path / "elsewhere.nii.gz")
    run(phantoms, output, tiny_model)
    assert not mask.is_symlink()
    assert mask.read_bytes() == (tmp_path / "elsewhere.nii.gz").read_bytes()


def test_a_folder_in_the_place_of_a_state_file_is_named_and_costs_that_patient_alone(
    finished, phantoms, tiny_model, tmp_path
):
    output = Path(shutil.copytree(finished, tmp_path / "out"))
    (output / ".state" / f"{FIRST}.json").unlink()
    (output / ".state" / f"{FIRST}.json").mkdir()
    again = run(phantoms, output, tiny_model)
    assert list(again["status"]) == ["error", "ok"]
    assert f"{FIRST}.json: a folder is in the place of a file that the run writes; remove it" in again["reason"][0]


def test_names_whose_bytes_are_no_text_are_read_back():
    row = {"case": "b\udcff", "folder": "x", "status": "warn", "reason": "a\udcfe", "dice_WT": None}
    found = ReportRow.from_json(row, "b\udcff", "y").cells()
    assert found["case"] == "b\udcff" and found["folder"] == "y" and found["reason"] == "a\udcfe"
    assert math.isnan(found["dice_WT"])


def test_a_case_that_took_no_time_keeps_its_seconds_in_the_table_and_an_unknown_time_is_left_out():
    row = {"case": "X", "folder": "X", "status": "error", "reason": "X: is empty; add images"}
    assert ReportRow.from_json(row | {"seconds": 0.0}).cells()["seconds"] == 0.0
    assert "seconds" not in ReportRow.from_json(row | {"seconds": None}).cells()
