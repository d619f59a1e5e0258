"""pipeline/score/case.py: one patient's masks to numbers that are known by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from data.errors import UsageError
from data.grid import Grid
from pipeline.score.case import ScoreOptions, metric_columns, score_case, score_flags, score_masks
from pipeline.score.catalogue import measured
from pipeline.score.lesions import sensitivity_by_size
from pipeline.score.lesionwise import LESIONWISE
from pipeline.score.tables import (
    lesion_file,
    lesions_frame,
    metrics_frame,
    pooled_detection,
    read_lesions,
)

GRID = Grid((12, 8, 8), np.diag([3.0, 1, 1, 1]))


def masks(**shifts: int | None) -> dict[str, np.ndarray]:
    """Region -> a cube of 4^3 moved along the first axis, or nothing for None."""
    found = {}
    for region, shift in shifts.items():
        found[region] = np.zeros((12, 8, 8), bool)
        if shift is not None:
            found[region][shift : shift + 4, 2:6, 2:6] = True
    return found


def test_score_case_gives_columns_in_mm_and_flags_what_the_empty_rule_decided():
    columns = score_case(masks(WT=3, TC=None, ET=None), masks(WT=2, TC=2, ET=None, RC=1), GRID)
    kept = {name: value for name, value in columns.items() if "vox" not in name and "volume" not in name}
    assert kept == {
        # Of 56 boundary voxels 16 are one step of 3 mm away, and 4 one of 1 mm.
        **{"dice_WT": 0.75, "hd95_mm_WT": 3.0, "hd_mm_WT": 3.0, "nsd_WT": pytest.approx(40 / 56)},
        **{"dice_TC": 0.0, "hd95_mm_TC": 374.0, "hd_mm_TC": 374.0, "nsd_TC": 0.0},
        **{"dice_ET": 1.0, "hd95_mm_ET": 0.0, "hd_mm_ET": 0.0, "nsd_ET": 1.0},
    }
    assert score_flags(columns) == ["TC is empty in the prediction", "ET is empty in the prediction and the reference"]


def test_a_box_moved_by_one_step_gives_the_numbers_worked_by_hand():
    scores = score_masks(masks(WT=3), masks(WT=2), GRID)
    (row,) = scores.regions
    known = {"region": "WT", "dice": 0.75, "iou": 0.6, "sensitivity": 0.75, "precision": 0.75, "tversky": 0.75}
    known |= {"specificity": 1 - 16 / (768 - 64), "accuracy": 1 - 32 / 768, "hd_mm": 3.0, "hd95_mm": 3.0}
    known |= {"assd_mm": (16 * 3 + 4 * 1) / 56, "nsd": 40 / 56, "volume_ml_prediction": 0.192}
    known |= {"volume_ml_reference": 0.192, "volume_error_ml": 0.0, "volume_error_percent": 0.0}
    known |= {"lesions_tp": 1, "lesions_fp": 0, "lesions_f1": 1.0, "voxels_prediction": 64, "voxels_reference": 64}
    assert {name: row[name] for name in known} == pytest.approx(known)
    assert list(row) == list(metric_columns(ScoreOptions())[1:])
    assert {name: scores.columns[f"{name}_WT"] for name in ("dice", "nsd", "volume_ml", "reference_volume_ml")} == (
        pytest.approx({"dice": 0.75, "nsd": 40 / 56, "volume_ml": 0.192, "reference_volume_ml": 0.192})
    )


def test_a_wider_tolerance_finds_the_whole_surface():
    (row,) = score_masks(masks(WT=3), masks(WT=2), GRID, ScoreOptions(tolerance_mm=3)).regions
    assert row["nsd"] == 1.0


def test_the_volume_of_a_sheared_grid_is_that_of_its_voxels_not_of_their_edges():
    affine = np.array([[2.0, 1.0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 1]])  # edges 2, sqrt 2, 1; volume 2
    scores = score_masks(masks(WT=3), masks(WT=None), Grid((12, 8, 8), affine))
    assert scores.regions[0]["volume_ml_prediction"] == pytest.approx(0.128) == scores.columns["volume_ml_WT"]
    assert scores.regions[0]["volume_error_ml"] == pytest.approx(0.128)


def test_without_a_reference_there_are_volumes_and_lesions_and_no_scores():
    scores = score_masks(masks(WT=3, ET=None), None, GRID, ScoreOptions(("brats2023-gli",)))
    whole, enhancing = scores.regions
    assert (whole["volume_ml_prediction"], enhancing["volume_ml_prediction"]) == (pytest.approx(0.192), 0.0)
    assert all(math.isnan(whole[name]) for name in (m.key for m in measured()) if name != "volume_ml_prediction")
    assert whole["brats2023_gli_dice"] is None and whole["voxels_reference"] is None
    assert (whole["lesions_prediction"], enhancing["lesions_prediction"], whole["lesions_fp"]) == (1, 0, None)
    assert [(row["region"], row["side"], row["detected"]) for row in scores.lesions] == [("WT", "prediction", None)]
    assert set(scores.columns) == {f"{name}_{region}" for name in ("volume_ml", "voxels") for region in ("WT", "ET")}
    assert scores.flags == []


def test_a_region_of_one_side_alone_has_a_volume_and_no_row():
    scores = score_masks(masks(WT=3, RC=2), masks(WT=3, TC=2), GRID)
    assert [row["region"] for row in scores.regions] == ["WT"]
    assert scores.columns["volume_ml_RC"] == pytest.approx(0.192) and "dice_RC" not in scores.columns
    assert [row["detected"] for row in scores.lesions if row["region"] == "RC"] == [None]
    assert score_masks({}, {}, GRID).regions == []


def test_unknown_spacing_leaves_mm_and_ml_unknown_and_counts_voxels():
    grid = Grid((12, 8, 8), np.eye(4), spacing_known=False)
    scores = score_masks(masks(WT=3), masks(WT=2), grid, ScoreOptions(("brats2023-gli",)))
    (row,) = scores.regions
    assert row["dice"] == 0.75 and row["voxels_prediction"] == 64 and row["volume_error_percent"] == 0.0
    for name in ("hd95_mm", "assd_mm", "volume_ml_prediction", "volume_error_ml", "brats2023_gli_hd95_mm"):
        assert math.isnan(row[name]), name
    assert math.isnan(scores.columns["volume_ml_WT"])


@pytest.mark.parametrize("name", LESIONWISE)
def test_every_lesionwise_set_can_be_asked_for_and_has_its_columns(name):
    (row,) = score_masks(masks(WT=3), masks(WT=3), GRID, ScoreOptions((name, name))).regions
    prefix = name.replace("-", "_")
    assert (row[f"{prefix}_dice"], row[f"{prefix}_hd95_mm"], row[f"{prefix}_whole_dice"]) == (1.0, 0.0, 1.0)
    assert (row[f"{prefix}_tp"], row[f"{prefix}_fp"], row[f"{prefix}_fn"]) == (1, 0, 0)
    assert [column for column in row if column.startswith(prefix)] == [
        f"{prefix}_{key}" for key in ("dice", "hd95_mm", "whole_dice", "whole_hd95_mm", "tp", "fp", "fn")
    ]


def test_touching_lesions_are_two_when_asked():
    x, y, z = np.indices((40, 20, 20))
    mask = {"ET": sum(((x - c) ** 2 + (y - 10) ** 2 + (z - 10) ** 2 <= 64) for c in (11, 25)).astype(bool)}
    grid = Grid((40, 20, 20), np.eye(4))
    for split, n in ((False, 1), (True, 2)):
        (row,) = score_masks(mask, mask, grid, ScoreOptions(split_lesions=split)).regions
        assert row["lesions_prediction"] == row["lesions_tp"] == n


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"metrics": ("standard", "brats2025")}, "'brats2025': choose among standard, brats2023-gli"),
        ({"tolerance_mm": 0}, "--tolerance-mm 0"),
        ({"tolerance_mm": math.nan}, "--tolerance-mm nan"),
        ({"tolerance_mm": -1.5}, "--tolerance-mm -1.5"),
    ],
)
def test_options_that_cannot_be_are_refused_with_those_that_can(options, said):
    with pytest.raises(UsageError, match=said):
        ScoreOptions(**options)


# ---- tables ----


def test_whole_numbers_are_written_whole_beside_blanks():
    frame = metrics_frame(
        [{"case": "a", "n": 3, "x": 1.5}, {"case": "b", "n": None, "x": math.nan}, {"case": "c"}], ["case", "n", "x"]
    )
    assert str(frame["n"].dtype) == "Int64" and frame["n"].isna().tolist() == [False, True, True]
    assert frame["x"].tolist()[0] == 1.5 and frame["x"].isna().sum() == 2
    assert list(metrics_frame([], ["case", "n"]).columns) == ["case", "n"]


def test_detection_is_pooled_over_patients_not_averaged():
    patients = [(1, 1), (3, 0)]  # lesions, found
    rows = [{"region": "ET", "size_class": "s", "n": n, "found": found} for n, found in patients]
    rows.append({"region": "WT", "size_class": "s", "n": 0, "found": 0})
    table = pooled_detection(rows)
    assert table["region"].tolist() == ["WT", "ET"]
    assert table["sensitivity"].tolist()[1] == 0.25 and math.isnan(table["sensitivity"].tolist()[0])
    lesions = [row | {"case": "a"} for row in score_masks(masks(WT=3), masks(WT=2), GRID).lesions]
    counted = pooled_detection({"region": "WT"} | row for row in sensitivity_by_size(lesions)).set_index("size_class")
    assert counted.loc["0.1 to 1 ml", ["n", "found", "sensitivity"]].tolist() == [1, 1, 1.0]
    assert counted["n"].sum() == 1 and pooled_detection([]).empty


def test_lesions_read_back_as_they_were_written(tmp_path):
    cases = ("001", "NA", 'a,"b"\n')
    rows = {
        case: [{"case": case} | row for row in score_masks(masks(WT=3), masks(WT=2), GRID).lesions] for case in cases
    }
    alone = [{"case": "alone"} | row for row in score_masks(masks(WT=3), None, GRID).lesions]
    with lesion_file(tmp_path / "lesions.csv") as write:
        for lesions in (*rows.values(), alone):
            write(lesions)
    for case in cases:
        read, written = read_lesions(tmp_path / "lesions.csv", [case]), lesions_frame(rows[case])
        pd.testing.assert_frame_equal(read, written, check_exact=False, rtol=1e-5)
    assert len(read_lesions(tmp_path / "lesions.csv", [*cases, "alone"])) == 7
    assert read_lesions(tmp_path / "lesions.csv", ["alone"])["detected"].isna().all()
    assert read_lesions(tmp_path / "lesions.csv", ["alone"], largest=0).empty


def test_lesions_of_an_interrupted_run_are_not_there(tmp_path):
    with pytest.raises(KeyboardInterrupt), lesion_file(tmp_path / "lesions.csv") as write:
        write([])
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with lesion_file(tmp_path / "lesions.csv"):
        pass
    assert read_lesions(tmp_path / "lesions.csv", ["a"]).empty
