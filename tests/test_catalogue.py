"""The catalogue of metrics: whatever a table or the page knows of a metric stands there, once."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import run_pipeline
from data.case import ImageSource
from pipeline.evaluate.run import evaluate
from pipeline.report.texts import number
from pipeline.score import catalogue
from pipeline.score.case import ScoreOptions
from pipeline.score.catalogue import HIGHER, Metric, Place, find_metric, lesionwise, report_name, shown_in
from pipeline.score.compared import ComparedRegion
from pipeline.score.lesionwise import LESIONWISE
from pipeline.web.compute.results import Outcome, describe
from tests.test_evaluate import nested, reference

EVERY = (*catalogue.measured(), *catalogue.DETECTION, *catalogue.VOXELS, *catalogue.PREDICTION, *catalogue.LESION_SIZES)
ROOT = Path(__file__).resolve().parent.parent


def whole_tumour(depth: int) -> np.ndarray:
    """A tumour of 2 x 2 x depth voxels without a core."""
    array = np.zeros((8, 8, 8), np.uint8)
    array[2:4, 2:4, 1 : 1 + depth] = 2
    return array


@pytest.fixture
def patients(tmp_path) -> tuple[Path, Path, Path]:
    """Two patients: the first mask has 8 voxels of the reference's 24, the second is the reference."""
    folders = tmp_path / "predictions", tmp_path / "references", tmp_path / "out"
    for case, predicted in (("BraTS2021_00001", 2), ("BraTS2021_00002", 6)):
        nested(folders[0], case, whole_tumour(predicted))
        reference(folders[1], case, whole_tumour(6))
    return folders


def volumetric_similarity(region: ComparedRegion) -> float:
    """Return 1 - |A - B| / (A + B) of the two volumes A and B (Taha & Hanbury 2015, equation 21)."""
    prediction, reference = region.tp + region.fp, region.tp + region.fn
    return 1 - abs(prediction - reference) / (prediction + reference) if prediction + reference else 1.0


def test_one_function_and_one_entry_put_a_metric_into_metrics_csv_summary_csv_and_the_page(patients, monkeypatch):
    places = dict.fromkeys((Place.SUMMARY, Place.PATIENT, Place.REPORT), 99)
    entry = Metric("volumetric_similarity", "Volumetric similarity", "", HIGHER, volumetric_similarity, places)
    monkeypatch.setattr(catalogue, "OVERLAP", (*catalogue.OVERLAP, entry))
    report = evaluate(*patients, pictures=0)
    assert report["volumetric_similarity_WT"].tolist() == [0.5, 1.0]  # 1 - (24 - 8) / (24 + 8)
    metrics = pd.read_csv(patients[2] / "metrics.csv")
    assert metrics.loc[metrics["region"] == "WT", "volumetric_similarity"].tolist() == [0.5, 1.0]
    summary = pd.read_csv(patients[2] / "summary.csv").set_index(["region", "metric"])
    assert summary.loc[("WT", "volumetric_similarity"), "mean"] == 0.75
    page = (patients[2] / "report.html").read_text(encoding="utf-8")
    shown, patient = page.split('id="patients"')
    assert "Volumetric similarity" in shown and "0.750" in shown
    assert "Volumetric similarity" in patient and "0.500" in patient


def test_the_web_app_and_the_lines_after_a_run_show_a_metric_by_its_entry_alone(patients, monkeypatch, capsys):
    places = {Place.WEB: 99, Place.TERMINAL: 99, Place.REPORT: 99}
    entry = Metric("similarity_mm", "Likeness", "mm", HIGHER, volumetric_similarity, places, meaning="How alike")
    monkeypatch.setattr(catalogue, "OVERLAP", (*catalogue.OVERLAP, entry))
    predictions, references, output = patients
    assert run_pipeline.main(["evaluate", *map(str, patients[:2]), "-o", str(output), "--pictures", "0"]) == 0
    assert "  similarity_mm_WT: mean 0.750, median 0.750\n" in capsys.readouterr().out  # of .5 and 1
    mask, known = (folder / "BraTS2021_00001" / "BraTS2021_00001_seg.nii.gz" for folder in (predictions, references))
    row = {"case": "BraTS2021_00001", "convention": "brats2017"}
    outcome = Outcome(mask, row, [], [], {}, ImageSource((known,)))
    result = describe(outcome, output / "view", 10**6)
    assert result["measures"][-1] == {
        "key": "similarity_mm", "heading": "Likeness (mm)", "unit": "mm", "meaning": "How alike",
    }  # fmt: skip
    whole = next(region for region in result["regions"] if region["region"] == "WT")
    assert whole["similarity_mm"] == 0.5
    alone = describe(replace(outcome, reference=None), output / "view", 10**6)
    assert alone["measures"] == [] and not alone["has_reference"]


def test_a_metric_that_no_place_shows_is_in_the_tables_and_not_on_the_page(patients, monkeypatch):
    monkeypatch.setattr(
        catalogue, "OVERLAP", (*catalogue.OVERLAP, Metric("similar", "Similar", "", HIGHER, volumetric_similarity))
    )
    report = evaluate(*patients, pictures=0)
    assert "similar" in pd.read_csv(patients[2] / "metrics.csv") and "similar_WT" not in report
    assert "Similar" not in (patients[2] / "report.html").read_text(encoding="utf-8")


def test_every_numeric_column_of_metrics_csv_is_in_the_catalogue(patients):
    evaluate(*patients, options=ScoreOptions(tuple(LESIONWISE)), pictures=0)
    metrics = pd.read_csv(patients[2] / "metrics.csv")
    numeric = metrics.select_dtypes("number").columns
    assert len(numeric) == len(metrics.columns) - 3  # case, system and region
    found = {column: find_metric(column) for column in numeric}
    assert {column: metric and metric.key for column, metric in found.items()} == {column: column for column in numeric}


def test_every_numeric_column_of_report_csv_is_a_metric_of_a_region(patients):
    report = evaluate(*patients, pictures=0).drop(columns="seconds")
    measures = {report_name(metric) for metric in shown_in(Place.REPORT)}
    numeric = report.select_dtypes("number").columns
    assert {column.rpartition("_")[0] for column in numeric} == measures - {"disagreement"}


def test_the_catalogue_is_read_without_torch_and_without_what_draws():
    program = (
        "import sys, pipeline.score.catalogue\n"
        "print([name for name in ('torch', 'monai', 'matplotlib', 'pandas', 'scipy.stats') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_two_entries_share_a_column():
    for entries in (EVERY, catalogue.LESIONWISE, shown_in(Place.REPORT)):
        keys = [report_name(metric) if entries == shown_in(Place.REPORT) else metric.key for metric in entries]
        assert len(keys) == len(set(keys))


@pytest.mark.parametrize("metric", (*EVERY, *lesionwise("brats2023-gli")), ids=lambda metric: metric.key)
def test_the_name_of_a_column_ends_with_the_unit_of_its_entry(metric):
    unit = {"mm": "_mm", "mm\N{SUPERSCRIPT TWO}": "_mm2", "%": "_percent", "ml": "_ml"}.get(metric.unit)
    assert unit is None or unit in metric.key
    assert unit or not any(mark in metric.key for mark in ("_mm", "_ml", "_percent"))


def test_the_better_end_of_a_metric_is_the_one_that_a_perfect_mask_reaches():
    better = {metric.key: metric.better for metric in (*catalogue.measured(), *catalogue.DETECTION) if metric.better}
    higher = {"dice", "iou", "sensitivity", "specificity", "precision", "accuracy", "tversky", "nsd"}
    higher |= {"lesions_tp", "lesions_f1"}
    lower = {"hd_mm", "hd95_mm", "assd_mm", "lesions_fp", "lesions_fn", "small_lesions_fp", "small_lesions_fn"}
    assert better == dict.fromkeys(higher, 1) | dict.fromkeys(lower, -1)


def test_systems_are_compared_only_by_metrics_with_a_better_end():
    assert all(metric.better for metric in shown_in(Place.COMPARISON))


def test_a_column_of_a_lesionwise_set_has_the_heading_and_the_number_format_of_its_metric():
    whole = find_metric("brats2023_gli_whole_hd95_mm")
    assert whole is not None and (whole.title, whole.better) == ("brats2023-gli whole HD95 (mm)", -1)
    assert number(41.06, "brats2023_gli_whole_hd95_mm") == "41.1" and number(3.0, "brats2024_gli_fp") == "3"
    assert find_metric("brats2023_gli_sensitivity") is None and find_metric("case") is None
