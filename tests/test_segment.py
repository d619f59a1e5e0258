"""The main job: every patient folder becomes one row and, where nothing is wrong, one mask on its own grid."""

from __future__ import annotations

import base64
import csv
import gzip
import json
import logging
import os
import re
import resource
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from data.errors import CheckpointError, UsageError
from data.find.discover import discover_cases
from data.io.read import read_header
from pipeline.default_model import choose_model
from pipeline.evaluate.label_maps import find_label_maps
from pipeline.options import SegmentOptions
from pipeline.predict.predictor import Predictor
from pipeline.predict.segmentation import STEPS_OF_PROBABILITY, in_steps
from pipeline.segment.run import segment_cases
from tests.conftest import make_model, read_mask

FIRST, SECOND = "BraTS-GLI-90001-000", "BraTS-GLI-90002-000"


def run(patients: Path, output: Path, model: Path, executor: str = "serial", **options) -> pd.DataFrame:
    return segment_cases(
        discover_cases(patients), output, SegmentOptions(models=(str(model),), **options), executor=executor
    )


@pytest.fixture(autouse=True)
def _quickly(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the tests that ask for the page draw its charts, which take longer than the patients."""
    if "page" not in request.fixturenames:
        monkeypatch.setattr("pipeline.segment.results.write_segment_page", lambda *a: None)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """Where the page of a run into ``tmp_path / "out"`` lies."""
    return tmp_path / "out" / "report.html"


@pytest.fixture
def patients(phantoms: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(phantoms, tmp_path / "patients"))


def test_every_patient_gets_a_uint8_mask_on_its_own_grid(phantoms, tiny_model, tmp_path):
    report = run(phantoms, tmp_path, tiny_model)
    assert list(report["case"]) == [FIRST, SECOND]
    assert list(report["status"]) == ["ok", "ok"]
    for case in (FIRST, SECOND):
        image = nib.load(phantoms / case / f"{case}-t1c.nii.gz")
        mask = nib.load(tmp_path / case / f"{case}_seg.nii.gz")
        assert mask.get_data_dtype() == np.uint8
        assert mask.shape == image.shape
        assert np.array_equal(mask.affine, image.affine)
        for code in ("sform_code", "qform_code"):
            assert mask.header[code] == image.header[code]
        assert set(np.unique(mask.dataobj)) <= {0, 1, 2, 3}
        by_itk = [sitk.ReadImage(str(path)) for path in (mask.get_filename(), image.get_filename())]
        assert by_itk[0].GetOrigin() == by_itk[1].GetOrigin()
        assert by_itk[0].GetDirection() == by_itk[1].GetDirection()
        assert by_itk[0].GetSpacing() == by_itk[1].GetSpacing()


def test_the_report_holds_volumes_and_scores_that_can_be_recomputed_from_the_files(phantoms, tiny_model, tmp_path):
    run(phantoms, tmp_path, tiny_model)
    row = pd.read_csv(tmp_path / "report.csv").set_index("case").loc[FIRST]
    mask = read_mask(tmp_path / FIRST / f"{FIRST}_seg.nii.gz")
    truth = read_mask(phantoms / FIRST / f"{FIRST}-seg.nii.gz")
    for region, labels in (("WT", (1, 2, 3)), ("TC", (1, 3)), ("ET", (3,))):
        ours, theirs = np.isin(mask, labels), np.isin(truth, labels)
        assert row[f"volume_ml_{region}"] == pytest.approx(ours.sum() * 0.125)  # 5 mm cubed
        assert row[f"dice_{region}"] == pytest.approx(2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()), rel=1e-5)
    for column in ("folder", "model", "convention", "seconds", "hd95_mm_WT", "hd_mm_ET"):
        assert column in row.index
    assert row["model"] == "tiny"
    assert row["convention"] == "brats2023"


def test_a_run_writes_all_that_a_reader_needs(phantoms, tiny_model, page):
    tmp_path = page.parent
    run(phantoms, tmp_path, tiny_model, save_probabilities=True)
    for name in ("report.csv", "summary.csv", "report.html", "run.json", "labels.txt", "labels.ctbl"):
        assert (tmp_path / name).stat().st_size > 0
    for case in (FIRST, SECOND):
        assert (tmp_path / case / f"{case}_preview.png").read_bytes().startswith(b"\x89PNG")
        for region in ("WT", "TC", "ET"):
            probability = nib.load(tmp_path / case / f"{case}_prob_{region}.nii.gz")
            assert probability.get_data_dtype() == np.float32
            assert np.min(probability.dataobj) >= 0 and np.max(probability.dataobj) <= 1
    summary = pd.read_csv(tmp_path / "summary.csv")
    assert {"region", "metric", "n", "mean", "sd", "median", "min", "max"} <= set(summary.columns)
    record = json.loads((tmp_path / "run.json").read_text())
    assert len(record["models"]["tiny"]) == 64
    inputs = record["cases"][FIRST]["inputs"]
    assert len(inputs) == 5 and all(len(digest) == 64 for digest in inputs.values())
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_page_shows_the_asked_for_case_in_the_viewer_with_the_mask_that_was_written(phantoms, tiny_model, page):
    cases, options = discover_cases(phantoms), SegmentOptions(models=(str(tiny_model),))
    segment_cases(cases, page.parent, options, interactive=[SECOND])
    (payload,) = re.findall(r'<script type="application/json">(.*?)</script>', page.read_text())
    shown = nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(json.loads(payload)["prediction"])))
    written = nib.load(page.parent / SECOND / f"{SECOND}_seg.nii.gz")
    assert np.count_nonzero(shown.dataobj) == np.count_nonzero(written.dataobj) > 0
    with pytest.raises(UsageError, match="--interactive: no patient 'nobody'"):
        segment_cases(cases, page.parent, options, interactive=["nobody"])


def test_label_descriptions_name_the_labels_of_the_convention(phantoms, tiny_model, tmp_path):
    run(phantoms, tmp_path, tiny_model)
    snap = (tmp_path / "labels.txt").read_text().splitlines()
    assert [line.split()[0] for line in snap if not line.startswith("#")] == ["0", "1", "2", "3"]
    assert [line.split('"')[1] for line in snap if not line.startswith("#")] == ["Clear Label", "NETC", "SNFH", "ET"]
    slicer = [line.split() for line in (tmp_path / "labels.ctbl").read_text().splitlines() if not line.startswith("#")]
    assert [(fields[0], fields[1]) for fields in slicer] == [
        ("0", "background"),
        ("1", "NETC"),
        ("2", "SNFH"),
        ("3", "ET"),
    ]


def test_a_broken_patient_is_an_error_row_and_the_next_one_is_done(patients, tiny_model, tmp_path):
    (patients / FIRST / f"{FIRST}-t2w.nii.gz").write_bytes(b"not an image")
    report = run(patients, tmp_path / "out", tiny_model)
    assert list(report["status"]) == ["error", "ok"]
    assert f"{FIRST}-t2w.nii.gz" in report["reason"][0]
    assert not (tmp_path / "out" / FIRST / f"{FIRST}_seg.nii.gz").exists()
    assert (tmp_path / "out" / SECOND / f"{SECOND}_seg.nii.gz").exists()


def test_an_error_leaves_no_older_mask_that_could_be_taken_for_its_own(patients, tiny_model, tmp_path):
    run(patients, tmp_path / "out", tiny_model)
    mask = tmp_path / "out" / FIRST / f"{FIRST}_seg.nii.gz"
    assert mask.exists()
    (patients / FIRST / f"{FIRST}-t2w.nii.gz").write_bytes(b"not an image")
    assert list(run(patients, tmp_path / "out", tiny_model)["status"]) == ["error", "ok"]
    assert not mask.exists()


@pytest.mark.parametrize(("choice", "status", "words"), [("fail", "error", "no t2 image"), ("skip", "warn", "skipped")])
def test_a_missing_modality_fails_or_is_skipped_as_asked(patients, tiny_model, tmp_path, choice, status, words):
    (patients / FIRST / f"{FIRST}-t2w.nii.gz").unlink()
    report = run(patients, tmp_path / "out", tiny_model, missing=choice)
    assert list(report["status"]) == [status, "ok"]
    assert words in report["reason"][0]
    assert not (tmp_path / "out" / FIRST / f"{FIRST}_seg.nii.gz").exists()


@pytest.mark.parametrize(
    ("trained", "advice"), [(True, "choose --missing zero or skip,"), (False, "choose --missing skip,")]
)
def test_zeros_are_advised_where_the_model_was_trained_for_a_missing_modality(patients, tmp_path, trained, advice):
    (patients / FIRST / f"{FIRST}-t2w.nii.gz").unlink()
    model = make_model(tmp_path / "m.safetensors", missing_modalities=trained)
    assert advice in run(patients, tmp_path / "out", model)["reason"][0]


def test_zeros_stand_in_for_a_missing_modality_only_in_a_model_trained_for_it(patients, tiny_model, tmp_path):
    (patients / FIRST / f"{FIRST}-t2w.nii.gz").unlink()
    trained = make_model(tmp_path / "trained.safetensors", missing_modalities=True)
    report = run(patients, tmp_path / "out", trained, missing="zero")
    assert list(report["status"]) == ["warn", "ok"]
    assert "t2 is missing and was replaced by zeros" in report["reason"][0]
    refused = run(patients, tmp_path / "other", tiny_model, missing="zero")
    assert list(refused["status"]) == ["error", "ok"]
    assert "not trained for missing modalities" in refused["reason"][0]


def test_a_finished_case_is_kept_and_done_again_only_when_asked_or_when_something_changed(
    patients, tiny_model, tmp_path
):
    out = tmp_path / "out"
    mask = out / FIRST / f"{FIRST}_seg.nii.gz"
    run(patients, out, tiny_model)
    first = mask.stat().st_mtime_ns
    run(patients, out, tiny_model)
    assert mask.stat().st_mtime_ns == first
    run(patients, out, tiny_model, overwrite=True)
    second = mask.stat().st_mtime_ns
    assert second > first
    run(patients, out, make_model(tmp_path / "other.safetensors", seed=1))
    third = mask.stat().st_mtime_ns
    assert third > second
    mask.write_bytes(mask.read_bytes()[:-20])  # a damaged mask is not a finished case
    run(patients, out, tmp_path / "other.safetensors")
    assert nib.load(mask).get_fdata().shape == (40, 48, 32)


def test_the_same_run_writes_the_same_bytes(phantoms, tiny_model, tmp_path):
    run(phantoms, tmp_path / "a", tiny_model, save_probabilities=True)
    run(phantoms, tmp_path / "b", tiny_model, save_probabilities=True)
    written = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.nii.gz"))
    assert len(written) == 8
    for path in written:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()
    for case in (FIRST, SECOND):
        name = Path(case, f"{case}_preview.png")
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.fixture(scope="module")
def serial(phantoms, tiny_model, tmp_path_factory):
    output = tmp_path_factory.mktemp("serial")
    return output, run(phantoms, output, tiny_model)


@pytest.mark.parametrize("spec", ["serial", "processes:2", "cuda:0"])  # test_cluster.py has the other
def test_every_executor_gives_the_same_report_and_masks(serial, phantoms, tiny_model, tmp_path, spec, monkeypatch):
    monkeypatch.setattr("pipeline.execute.executors.CARD", "cpu")
    expected, reference = serial
    report = run(phantoms, tmp_path, tiny_model, executor=spec)
    pd.testing.assert_frame_equal(reference.drop(columns="seconds"), report.drop(columns="seconds"))
    for case in (FIRST, SECOND):
        path = Path(case, f"{case}_seg.nii.gz")
        assert (expected / path).read_bytes() == (tmp_path / path).read_bytes()


def test_flat_output_holds_one_mask_a_case_side_by_side(phantoms, tiny_model, tmp_path):
    run(phantoms, tmp_path, tiny_model, flat=True)
    assert sorted(path.name for path in tmp_path.glob("*.nii.gz")) == [f"{FIRST}.nii.gz", f"{SECOND}.nii.gz"]
    assert (tmp_path / "previews" / f"{FIRST}_preview.png").is_file()


def test_another_convention_writes_the_same_regions_in_other_numbers(phantoms, tiny_model, tmp_path):
    run(phantoms, tmp_path / "a", tiny_model)
    report = run(phantoms, tmp_path / "b", tiny_model, convention="msd")
    ours, theirs = (read_mask(tmp_path / folder / FIRST / f"{FIRST}_seg.nii.gz") for folder in "ab")
    assert list(report["convention"]) == ["msd", "msd"]
    for brats2023, msd in ((1, 2), (2, 1), (3, 3)):
        assert np.array_equal(ours == brats2023, theirs == msd)


def test_two_models_average_their_probabilities(phantoms, tiny_model, tmp_path):
    other = make_model(tmp_path / "other.safetensors", seed=1)
    case = next(c for c in discover_cases(phantoms) if c.case_id == FIRST)
    single = [Predictor(model, "cpu")(case).probabilities["WT"] for model in (tiny_model, other)]
    both = (single[0] + single[1]) / 2
    options = SegmentOptions(models=(str(tiny_model), str(other)), save_probabilities=True)
    segment_cases([case], tmp_path / "both", options)
    written = read_mask(tmp_path / "both" / FIRST / f"{FIRST}_prob_WT.nii.gz")
    assert not np.array_equal(single[0], single[1])
    # In steps of 1/1024, downwards.
    assert np.array_equal(written * 1024, np.round(written * 1024))
    assert (both - written).min() > -1e-6 and (both - written).max() < 1 / 1024 + 1e-6


@given(
    hnp.arrays(
        np.float32,
        20,
        elements=st.floats(0, 1, width=32)
        | st.sampled_from([0.5, float(np.nextafter(np.float32(0.5), np.float32(0)))]),
    )
)
def test_what_is_written_of_a_probability_reaches_a_half_where_the_probability_does(values):
    written = in_steps(values, STEPS_OF_PROBABILITY, np.floor)
    assert np.array_equal(written >= 0.5, values >= 0.5) and written.dtype == np.float32
    assert (written <= values).all() and (values - written < 1 / STEPS_OF_PROBABILITY).all()


def test_models_of_different_regions_cannot_be_averaged(phantoms, tiny_model, tmp_path):
    whole_only = make_model(tmp_path / "whole.safetensors", regions=("WT",))
    options = SegmentOptions(models=(str(tiny_model), str(whole_only)))
    with pytest.raises(CheckpointError, match="regions"):
        segment_cases(discover_cases(phantoms), tmp_path / "out", options)


def test_a_reference_with_a_label_outside_its_convention_is_not_scored_but_the_mask_is_written(
    patients, tiny_model, tmp_path
):
    path = patients / FIRST / f"{FIRST}-seg.nii.gz"
    reference = nib.load(path)
    labels = np.asarray(reference.dataobj).copy()
    labels[0, 0, 0] = 9
    nib.save(nib.Nifti1Image(labels, reference.affine, reference.header), path)
    report = run(patients, tmp_path / "out", tiny_model)
    assert report["status"][0] == "warn"
    assert "not scored" in report["reason"][0] and "9" in report["reason"][0]
    assert np.isnan(report["dice_WT"][0]) and not np.isnan(report["dice_WT"][1])
    assert (tmp_path / "out" / FIRST / f"{FIRST}_seg.nii.gz").exists()


def test_a_reference_that_is_stored_flipped_is_brought_into_line_before_it_is_scored(patients, tiny_model, tmp_path):
    straight = run(patients, tmp_path / "a", tiny_model)
    path = patients / FIRST / f"{FIRST}-seg.nii.gz"
    nib.save(nib.as_closest_canonical(nib.load(path)), path)
    flipped = run(patients, tmp_path / "b", tiny_model)
    assert flipped["dice_WT"][0] == straight["dice_WT"][0]


def test_hostile_names_stay_one_row_each_and_inside_the_output_folder(phantoms, tiny_model, tmp_path, page):
    names = ["=1+2", 'a,b "c"', "new\nline", "back\\slash", "<img src=x>", "caf\u00e9", "x" * 200]
    for name in names:
        folder = tmp_path / "in" / name
        folder.mkdir(parents=True)
        for modality in ("t1n", "t1c", "t2w", "t2f"):
            shutil.copy(phantoms / FIRST / f"{FIRST}-{modality}.nii.gz", folder / f"p_{modality}.nii.gz")
    run(tmp_path / "in", tmp_path / "out", tiny_model)
    with open(tmp_path / "out" / "report.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["case"] for row in rows} == {"'=1+2", *names[1:]}
    assert all(row["status"] == "ok" for row in rows)  # copies, but none is scored
    for row in rows:
        mask = tmp_path / "out" / row["folder"] / f"{row['folder']}_seg.nii.gz"
        assert mask.is_file() and mask.resolve().is_relative_to((tmp_path / "out").resolve())
        assert not set(row["folder"]) & set('\\<>:"|?*\n')
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    shown = page.read_text()
    assert "<img src=x>" not in shown and "&lt;img src=x&gt;" in shown


def test_an_interrupted_run_goes_on_where_it_was(phantoms, tiny_model, tmp_path):
    class Stop(BaseException):
        pass

    def stop_after_one(row):
        raise Stop

    cases = discover_cases(phantoms)
    options = SegmentOptions(models=(str(tiny_model),))
    with pytest.raises(Stop):
        segment_cases(cases, tmp_path, options, progress=stop_after_one)
    assert list(pd.read_csv(tmp_path / "report.csv")["case"]) == [FIRST]
    done = (tmp_path / FIRST / f"{FIRST}_seg.nii.gz").stat().st_mtime_ns
    assert list(segment_cases(cases, tmp_path, options)["case"]) == [FIRST, SECOND]
    assert (tmp_path / FIRST / f"{FIRST}_seg.nii.gz").stat().st_mtime_ns == done


def test_temporary_files_of_a_killed_run_are_cleaned(phantoms, tiny_model, tmp_path):
    left = tmp_path / FIRST / f".{FIRST}_seg.nii.gz.4711-0123abcd.tmp"
    left.parent.mkdir()
    left.write_bytes(b"half a mask")
    run(phantoms, tmp_path, tiny_model)
    assert not left.exists()


def test_an_output_that_cannot_be_written_stops_the_run_before_it_starts(phantoms, tiny_model, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match="cannot be written"):
        run(phantoms, tmp_path / "file", tiny_model)


def test_slices_without_a_voxel_size_are_written_as_volumes_beside_a_mask_without_millilitres(real_slices, tmp_path):
    model = make_model(
        tmp_path / "lgg.safetensors", regions=("WT",), modalities=("t1", "flair", "t1c"), spatial_dims=2, spacing_mm=4.0
    )
    report = run(real_slices, tmp_path / "out", model)
    (case,) = report["case"]
    assert report["status"][0] in ("ok", "warn")
    assert np.isnan(report["volume_ml_WT"][0]) and report["voxels_WT"][0] >= 0
    mask, image = (nib.load(tmp_path / "out" / case / f"{case}_{what}.nii.gz") for what in ("seg", "flair"))
    assert mask.shape == image.shape == (256, 256, 20)
    assert np.array_equal(mask.affine, image.affine)
    assert set(np.unique(mask.dataobj)) <= {0, 255}


def test_without_a_named_model_a_shipped_one_that_fits_is_taken_and_named(patients):
    assert choose_model(discover_cases(patients)[0]).name.startswith("brats-")


def test_a_single_slice_takes_a_2d_model(tmp_path):
    case = tmp_path / "slice"
    case.mkdir()
    for modality in ("t1", "t1c", "t2", "flair"):
        nib.save(
            nib.Nifti1Image(np.arange(64, dtype=np.int16).reshape(8, 8, 1), np.eye(4)),
            case / f"slice_{modality}.nii.gz",
        )
    assert choose_model(discover_cases(tmp_path)[0]).settings["network"]["spatial_dims"] == 2


def test_the_written_mask_reads_back_without_a_warning(phantoms, tiny_model, tmp_path):
    from data.case import ImageSource

    run(phantoms, tmp_path, tiny_model)
    header = read_header(ImageSource((tmp_path / FIRST / f"{FIRST}_seg.nii.gz",)))
    assert header.warnings == ()


def test_an_output_among_the_inputs_is_refused_before_a_reference_is_lost(patients, tiny_model):
    reference = patients / FIRST / f"{FIRST}_seg.nii.gz"
    (patients / FIRST / f"{FIRST}-seg.nii.gz").rename(reference)
    before = reference.read_bytes()
    for source in (patients / FIRST, patients):
        with pytest.raises(UsageError, match="among the files"):
            run(source, patients, tiny_model)
    with pytest.raises(UsageError, match="among the files"):
        run(patients, patients / FIRST, tiny_model, flat=True)
    assert reference.read_bytes() == before


def test_patients_that_lie_inside_the_output_folder_are_found(patients, tiny_model, tmp_path):
    cases = discover_cases(patients, exclude=tmp_path)
    assert [case.case_id for case in cases] == [FIRST, SECOND]


def test_results_of_an_earlier_run_in_another_form_do_not_stay_beside_the_new_ones(phantoms, tiny_model, tmp_path):
    other = make_model(tmp_path / "other.safetensors", seed=4)
    run(phantoms, tmp_path / "out", tiny_model, save_probabilities=True)
    run(phantoms, tmp_path / "out", other, flat=True)
    left = sorted(path.name for path in (tmp_path / "out").rglob("*.nii.gz"))
    assert left == [f"{FIRST}.nii.gz", f"{SECOND}.nii.gz"]


def test_a_run_that_cannot_start_leaves_the_older_report(phantoms, tiny_model, tmp_path):
    run(phantoms, tmp_path, tiny_model)
    before = (tmp_path / "report.csv").read_bytes()
    with pytest.raises(UsageError):
        run(phantoms, tmp_path, tiny_model, executor="threads:2")
    for threads in (0, -1):
        with pytest.raises(UsageError, match="--threads"):
            run(phantoms, tmp_path, tiny_model, threads=threads)
    assert (tmp_path / "report.csv").read_bytes() == before


def test_run_json_names_the_file_of_each_modality_the_model_file_and_the_device(phantoms, tiny_model, tmp_path):
    renamed = Path(shutil.copy(tiny_model, tmp_path / "a+b.safetensors"))
    run(phantoms, tmp_path / "out", renamed)
    said = json.loads((tmp_path / "out" / "run.json").read_text())
    assert list(said["models"]) == ["a+b"]
    assert said["cases"][FIRST]["models"] == {str(renamed): said["models"]["a+b"]}
    assert said["options"]["device_used"] in ("cpu", "cuda")
    assert said["cases"][FIRST]["files"]["t1c"] == [str(phantoms / FIRST / f"{FIRST}-t1c.nii.gz")]
    assert said["versions"]["brain-tumour-segmentation"]


def test_an_unknown_voxel_size_is_said_in_the_row(real_slices, tmp_path):
    model = make_model(tmp_path / "lgg.safetensors", regions=("WT",), modalities=("t1", "flair", "t1c"), spatial_dims=2)
    report = run(real_slices, tmp_path / "out", model)
    assert "the voxel size is unknown" in report.loc[0, "flags"]


def test_a_reference_at_another_place_is_told_apart_by_its_place(patients, tiny_model, tmp_path):
    path = patients / FIRST / f"{FIRST}-seg.nii.gz"
    image = nib.load(path)
    affine = image.affine.copy()
    affine[0, 3] += 7
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), path)
    reason = run(patients, tmp_path / "out", tiny_model).loc[0, "reason"]
    assert "another grid" in reason and reason.count("first voxel at") == 2


def test_a_mistake_of_the_program_is_one_row_and_no_traceback(phantoms, tiny_model, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("pipeline.report.preview.write_preview", lambda *a, **k: 1 / 0)
    report = run(phantoms, tmp_path, tiny_model)
    assert list(report["status"]) == ["error", "error"]
    assert "ZeroDivisionError" in report.loc[0, "reason"]
    assert "Traceback" not in capfd.readouterr().err


def test_a_worker_that_dies_twice_on_one_patient_costs_that_row_alone(phantoms, tiny_model, tmp_path, monkeypatch):
    from concurrent.futures import Future
    from concurrent.futures.process import BrokenProcessPool

    from pipeline.execute.executors import SerialExecutor

    class Deadly(SerialExecutor):
        """Stands in for a pool whose worker is killed for its memory whenever it meets the first patient."""

        def submit(self, fn, /, task):
            if task.case.case_id != FIRST:
                return super().submit(fn, task)
            future: Future = Future()
            future.set_exception(BrokenProcessPool("a process was terminated abruptly"))
            return future

    monkeypatch.setattr("pipeline.execute.executors.make_executor", lambda *_: (Deadly(), 2))
    report = run(phantoms, tmp_path, tiny_model)
    assert list(report["status"]) == ["error", "ok"]
    assert "died" in report["reason"][0]
    assert (tmp_path / SECOND / f"{SECOND}_seg.nii.gz").is_file()


TABLES = ("report.csv", "metrics.csv", "lesions.csv", "detection.csv", "summary.csv")


def tables_of(output: Path) -> dict[str, bytes]:
    return {name: (output / name).read_bytes() for name in TABLES if (output / name).exists()}


def strict_json(path: Path) -> dict:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_every_table_says_the_same_of_a_patient_and_its_lesions(phantoms, tiny_model, tmp_path):
    run(phantoms, tmp_path, tiny_model)
    report, metrics, lesions, detection, summary = (pd.read_csv(tmp_path / name) for name in TABLES)
    assert list(zip(metrics["case"], metrics["region"], strict=True)) == [
        (case, region) for case in (FIRST, SECOND) for region in ("WT", "TC", "ET")
    ]
    for row in metrics.to_dict("records"):
        said = report.set_index("case").loc[row["case"]]
        for name, column in (("dice", "dice"), ("hd95_mm", "hd95_mm"), ("nsd", "nsd"),
                             ("volume_ml", "volume_ml_prediction"), ("voxels", "voxels_prediction")):  # fmt: skip
            assert said[f"{name}_{row['region']}"] == row[column]
        own = lesions[(lesions["case"] == row["case"]) & (lesions["region"] == row["region"])]
        for side in ("prediction", "reference"):
            assert own.loc[own["side"] == side, "voxels"].sum() == row[f"voxels_{side}"]
            assert (own["side"] == side).sum() == row[f"lesions_{side}"] + row[f"small_lesions_{side}"]
    for region, rows in detection.groupby("region"):
        of_region = metrics[metrics["region"] == region]
        assert rows["n"].sum() == of_region["lesions_reference"].sum() + of_region["small_lesions_reference"].sum()
    dice = summary[(summary["region"] == "WT") & (summary["metric"] == "dice")].iloc[0]
    assert dice["n"] == 2 and dice["mean"] == pytest.approx(report["dice_WT"].mean())


def test_a_patient_without_a_reference_has_volumes_and_lesions_and_no_scores(patients, tiny_model, tmp_path):
    run(patients, tmp_path / "out", tiny_model)
    assert len(tables_of(tmp_path / "out")) == 5
    for case in (FIRST, SECOND):
        (patients / case / f"{case}-seg.nii.gz").unlink()
    report = run(patients, tmp_path / "out", tiny_model)
    assert list(report["status"]) == ["ok", "ok"] and "dice_WT" not in report
    # No reference, nothing to detect, and no table of the earlier run either.
    assert set(tables_of(tmp_path / "out")) == set(TABLES) - {"detection.csv"}
    metrics = pd.read_csv(tmp_path / "out" / "metrics.csv")
    assert len(metrics) == 6 and metrics["dice"].isna().all() and metrics["volume_ml_reference"].isna().all()
    assert list(metrics["volume_ml_prediction"][:3]) == pytest.approx(
        [report.loc[0, f"volume_ml_{r}"] for r in ("WT", "TC", "ET")], rel=1e-5
    )
    lesions = pd.read_csv(tmp_path / "out" / "lesions.csv")
    assert set(lesions["side"]) == {"prediction"} and lesions["detected"].isna().all()


@pytest.mark.parametrize("tta", [False, True])
def test_a_run_that_finds_everything_done_writes_the_same_tables_to_the_byte(patients, tiny_model, tmp_path, tta):
    (patients / SECOND / f"{SECOND}-seg.nii.gz").unlink()  # one with and one without a reference
    run(patients, tmp_path / "out", tiny_model, tta=tta)
    first, mask = tables_of(tmp_path / "out"), tmp_path / "out" / FIRST / f"{FIRST}_seg.nii.gz"
    written = mask.stat().st_mtime_ns
    run(patients, tmp_path / "out", tiny_model, tta=tta)
    assert mask.stat().st_mtime_ns == written
    assert tables_of(tmp_path / "out") == first and len(first) == 5


def test_what_is_kept_of_a_case_is_json_that_any_reader_takes(real_slices, tmp_path):
    model = make_model(tmp_path / "lgg.safetensors", regions=("WT",), modalities=("t1", "flair", "t1c"), spatial_dims=2)
    run(real_slices, tmp_path / "out", model)
    first = tables_of(tmp_path / "out")
    (path,) = (tmp_path / "out" / ".state").glob("*.json")
    state = strict_json(path)
    assert state["row"]["volume_ml_WT"] is None and state["regions"][0]["volume_ml_prediction"] is None
    again = run(real_slices, tmp_path / "out", model)
    assert np.isnan(again.loc[0, "volume_ml_WT"]) and tables_of(tmp_path / "out") == first


def test_a_state_file_of_an_older_version_is_of_an_unfinished_case(phantoms, tiny_model, tmp_path):
    run(phantoms, tmp_path, tiny_model)
    masks, before = [], []
    for case, lost in ((FIRST, ["regions", "lesions"]), (SECOND, ["row"])):
        path = tmp_path / ".state" / f"{case}.json"
        path.write_text(json.dumps({key: value for key, value in strict_json(path).items() if key not in lost}))
        masks.append(tmp_path / case / f"{case}_seg.nii.gz")
        before.append(masks[-1].stat().st_mtime_ns)
    assert list(run(phantoms, tmp_path, tiny_model)["status"]) == ["ok", "ok"]
    assert all(mask.stat().st_mtime_ns > time for mask, time in zip(masks, before, strict=True))
    assert {"row", "regions", "lesions"} <= strict_json(path).keys()


def test_a_failed_patient_has_no_rows_of_an_earlier_run_in_any_table(patients, tiny_model, tmp_path, monkeypatch):
    run(patients, tmp_path / "out", tiny_model)
    monkeypatch.setattr("pipeline.segment.case.finished_state", lambda *a: (_ for _ in ()).throw(OSError(28, "full")))
    report = run(patients, tmp_path / "out", tiny_model)
    assert list(report["status"]) == ["error", "error"]
    for name in ("metrics.csv", "lesions.csv"):
        assert pd.read_csv(tmp_path / "out" / name).empty
    assert not (tmp_path / "out" / "detection.csv").exists()


def test_mirrored_passes_leave_maps_and_numbers_of_where_they_disagree(phantoms, tiny_model, tmp_path):
    report = run(phantoms, tmp_path, tiny_model, tta=True)
    for region in ("WT", "TC", "ET"):
        image = nib.load(tmp_path / FIRST / f"{FIRST}_uncertainty_{region}.nii.gz")
        mask = nib.load(tmp_path / FIRST / f"{FIRST}_seg.nii.gz")
        values = image.get_fdata()
        assert image.get_data_dtype() == np.float32 and np.array_equal(image.affine, mask.affine)
        assert values.shape == mask.shape and 0 < values.max() <= 0.5 and values.min() >= 0
        assert report[f"disagreement_{region}"].between(0, 1).all()
        flagged = f"{region}: the averaged predictions disagree" in report.loc[0, "flags"]
        assert flagged == (report.loc[0, f"disagreement_{region}"] > 0.1)
    plain = run(phantoms, tmp_path, tiny_model, flat=True)
    assert not any(column.startswith("disagreement") for column in plain)
    assert not list(tmp_path.rglob("*uncertainty*"))


def test_maps_lie_in_a_folder_of_their_own_beside_flat_masks(phantoms, tiny_model, tmp_path):
    run(phantoms, tmp_path, tiny_model, tta=True, flat=True)
    assert sorted(p.name for p in tmp_path.glob("*.nii.gz")) == [f"{FIRST}.nii.gz", f"{SECOND}.nii.gz"]
    assert len(list((tmp_path / "uncertainties").glob("*_uncertainty_*.nii.gz"))) == 6
    assert {item.folder for item in find_label_maps(tmp_path)} == {FIRST, SECOND}


def test_the_page_and_run_json_name_a_modality_that_was_replaced_by_zeros(patients, tmp_path, page, monkeypatch):
    (patients / FIRST / f"{FIRST}-t2w.nii.gz").unlink()
    model = make_model(tmp_path / "trained.safetensors", missing_modalities=True)
    told = {}
    monkeypatch.setattr("pipeline.report.page.write_page", lambda path, title, **what: told.update(what))
    report = run(patients, tmp_path / "out", model, missing="zero")
    assert json.loads((page.parent / "run.json").read_text())["cases"][FIRST]["missing"] == ["t2"]
    first, second = told["details"][FIRST], told["details"][SECOND]
    assert first["missing"] == ["t2"] and "missing" not in second
    assert first["model"] == "trained" and first["seconds"] == report.loc[0, "seconds"]
    assert {"network", "metrics"} <= first["stages"].keys()
    assert set(told["lesions"]["case"]) == {FIRST, SECOND} and len(told["metrics"]) == 6


def test_the_picture_shows_the_outline_of_the_reference_too(phantoms, tiny_model, tmp_path, monkeypatch):
    from pipeline.report import preview

    shown = []
    draw = preview.write_preview

    def watch(path, title, background, masks, grid, reference_masks=None):
        shown.append(reference_masks)
        draw(path, title, background, masks, grid, reference_masks)

    monkeypatch.setattr(preview, "write_preview", watch)
    run(phantoms, tmp_path, tiny_model)
    truth = read_mask(phantoms / FIRST / f"{FIRST}-seg.nii.gz")
    assert np.array_equal(shown[0]["WT"], truth > 0) and np.array_equal(shown[0]["ET"], truth == 3)


# ---- strict, disk full, what is needed to repeat ----


def test_strict_makes_a_warning_an_error_without_a_mask_also_where_a_mask_was_made_before(
    patients, tiny_model, tmp_path
):
    path = patients / FIRST / f"{FIRST}-seg.nii.gz"
    labels = np.asarray(nib.load(path).dataobj).copy()
    labels[0, 0, 0] = 9  # not scored, and a warning
    nib.save(nib.Nifti1Image(labels, nib.load(path).affine), path)
    mask = tmp_path / "out" / FIRST / f"{FIRST}_seg.nii.gz"
    assert list(run(patients, tmp_path / "out", tiny_model)["status"]) == ["warn", "ok"] and mask.is_file()
    kept = (tmp_path / "out" / SECOND / f"{SECOND}_seg.nii.gz").stat().st_mtime_ns
    for out in ("out", "new"):
        report = run(patients, tmp_path / out, tiny_model, strict=True)
        assert list(report["status"]) == ["error", "ok"]
        assert "9" in report.loc[0, "reason"] and "--strict" in report.loc[0, "reason"]
        assert not (tmp_path / out / FIRST / f"{FIRST}_seg.nii.gz").exists()
    assert (tmp_path / "out" / SECOND / f"{SECOND}_seg.nii.gz").stat().st_mtime_ns == kept


def test_a_skipped_patient_is_an_error_where_warnings_are(patients, tiny_model, tmp_path):
    (patients / FIRST / f"{FIRST}-t2w.nii.gz").unlink()
    assert list(run(patients, tmp_path, tiny_model, missing="skip", strict=True)["status"]) == ["error", "ok"]


def test_a_volume_above_max_voxels_is_an_error_row_that_names_the_limit(phantoms, tiny_model, tmp_path):
    report = run(phantoms, tmp_path, tiny_model, max_voxels=40 * 48 * 32 - 1)
    assert list(report["status"]) == ["error", "error"]
    assert str(40 * 48 * 32 - 1) in report.loc[0, "reason"].replace(",", "")
    with pytest.raises(UsageError, match="--max-voxels 0"):
        run(phantoms, tmp_path, tiny_model, max_voxels=0)


def results_of(output: Path) -> dict[str, bytes]:
    return {str(p.relative_to(output)): p.read_bytes() for p in output.rglob("*") if p.suffix in (".gz", ".png")}


@pytest.mark.parametrize("limit", [100, 4000])
def test_a_file_size_limit_costs_the_new_result_and_never_the_old_one(phantoms, tiny_model, tmp_path, limit):
    run(phantoms, tmp_path, tiny_model)
    before, state = results_of(tmp_path), sorted((tmp_path / ".state").iterdir())
    other = make_model(tmp_path / "other.safetensors", seed=4)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        if limit == 100:
            with pytest.raises(OSError):  # not even report.csv
                run(phantoms, tmp_path, other)
        else:
            report = run(phantoms, tmp_path, other)
            assert list(report["status"]) == ["error", "error"]
            assert (
                "File too large" in report.loc[0, "reason"] and "earlier run is still there" in report.loc[0, "reason"]
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert results_of(tmp_path) == before and sorted((tmp_path / ".state").iterdir()) == state
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp") or path.name == "staging"]
    assert {row["status"] for row in csv.DictReader((tmp_path / "report.csv").open())} <= {"ok", "error"}
    assert list(run(phantoms, tmp_path, tiny_model)["status"]) == ["ok", "ok"]  # finished, as it was
    assert results_of(tmp_path) == before


def test_a_kill_between_any_two_steps_of_writing_a_case_leaves_whole_files_and_the_next_run_mends_it(
    phantoms, tiny_model, tmp_path, monkeypatch
):
    class Killed(BaseException):
        pass

    cases, real = discover_cases(phantoms)[:1], os.replace
    other = make_model(tmp_path / "other.safetensors", seed=4)

    def one(model: Path, out: str) -> dict[str, bytes]:
        segment_cases(cases, tmp_path / out, SegmentOptions(models=(str(model),), save_probabilities=model is other))
        return results_of(tmp_path / out)

    new, old = one(other, "reference"), one(tiny_model, "old")
    for step in (2, 8, 9, 11, 14):  # seven files are written aside, then as many get their places
        out = shutil.copytree(tmp_path / "old", tmp_path / f"killed-{step}")
        steps: list[Path] = []

        def replace(source: Path, target: Path, steps=steps, last=step) -> None:
            steps.append(target)
            if len(steps) >= last:
                raise Killed
            real(source, target)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr("os.replace", replace)
            one(other, out.name)
        left = results_of(out)
        assert left and all(content in (old.get(name), new.get(name)) for name, content in left.items())
        assert one(other, out.name) == new
        assert not [path for path in out.rglob("*") if path.name.endswith(".tmp") or path.name == "staging"]


@pytest.mark.parametrize("missing", ["fail", "skip"])
def test_the_row_of_a_missing_image_names_the_files_that_nobody_recognised(patients, tiny_model, tmp_path, missing):
    image = patients / FIRST / f"{FIRST}-t2w.nii.gz"
    image.rename(image.with_name(f"{FIRST}-t2w.nii.gz.part"))
    reason = run(patients, tmp_path / "out", tiny_model, missing=missing).loc[0, "reason"]
    assert "no t2 image" in reason and f"not recognised: {FIRST}-t2w.nii.gz.part" in reason
    assert "give it a name like NAME_t1c.nii.gz" in reason


def test_a_result_whose_picture_was_deleted_is_made_again(phantoms, tiny_model, tmp_path):
    run(phantoms, tmp_path, tiny_model)
    picture = tmp_path / FIRST / f"{FIRST}_preview.png"
    before = picture.read_bytes()
    picture.unlink()
    run(phantoms, tmp_path, tiny_model)
    assert picture.read_bytes() == before


def test_run_json_holds_what_is_needed_to_do_it_again(phantoms, tiny_model, tmp_path):
    options = SegmentOptions(models=(str(tiny_model),), threads=1)
    segment_cases(discover_cases(phantoms), tmp_path, options, command="python run_pipeline.py segment 'a b'")
    said = json.loads((tmp_path / "run.json").read_text())
    assert said["command"] == "python run_pipeline.py segment 'a b'" and said["working_folder"] == os.getcwd()
    assert said["options"]["models"] == [str(tiny_model)] and said["options"]["strict"] is False
    assert said["machine"]["threads"] == 1 and said["machine"]["architecture"] and said["machine"]["platform"]
    assert set(said["versions"]) >= {"python", "torch", "monai", "numpy", "nibabel"}


def test_the_traceback_of_a_case_is_shown_only_when_asked(patients, tiny_model, tmp_path, caplog):
    (patients / FIRST / f"{FIRST}-t2w.nii.gz").write_bytes(b"not an image")
    with caplog.at_level(logging.WARNING, "pipeline"):
        run(patients, tmp_path, tiny_model)
    assert "Traceback" not in caplog.text
    with caplog.at_level(logging.DEBUG, "pipeline"):
        run(patients, tmp_path, tiny_model)
    assert "Traceback" in caplog.text and FIRST in caplog.text


def test_the_window_and_the_engine_are_part_of_what_was_asked_and_of_the_record(phantoms, tiny_model, tmp_path):
    run(phantoms, tmp_path, tiny_model)
    first = (tmp_path / FIRST / f"{FIRST}_seg.nii.gz").stat().st_mtime_ns
    run(phantoms, tmp_path, tiny_model, window="16", engine="torch")
    assert (tmp_path / FIRST / f"{FIRST}_seg.nii.gz").stat().st_mtime_ns > first
    record = json.loads((tmp_path / "run.json").read_text())
    assert (record["options"]["window"], record["options"]["engine"]) == ("16", "torch")
    assert record["cases"][FIRST]["engine"] == "torch"


@pytest.mark.parametrize("option", [{"window": "17x"}, {"engine": "abacus"}])
def test_a_window_or_an_engine_that_cannot_be_stops_the_run_before_it_starts(phantoms, tiny_model, tmp_path, option):
    with pytest.raises(UsageError, match=f"--{next(iter(option))}"):
        run(phantoms, tmp_path, tiny_model, **option)
    assert not (tmp_path / "report.csv").exists()
