"""Follow-up of small made-up patients with true masks, and its faults."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import run_pipeline
from data.errors import UsageError

SPACING_MM = (4.0, 4.0, 4.0)
SHAPE = (28, 32, 24)
RADII_MM = {"A": (11.0, 16.0, 9.0), "B": (13.0, 13.0, 0.0)}
"""Of the one lesion of each patient at three visits; 0: it is gone."""
CENTRE_MM = (64.0, 60.0, 44.0)


def _places() -> np.ndarray:
    return np.stack(np.meshgrid(*(np.arange(n) * mm for n, mm in zip(SHAPE, SPACING_MM, strict=True)), indexing="ij"))


def _write(path: Path, array: np.ndarray, spacing_mm: tuple[float, ...] = SPACING_MM) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, np.diag([-spacing_mm[0], -spacing_mm[1], spacing_mm[2], 1.0]))
    nib.save(image, path)


def write_visit(root: Path, masks: Path, case: str, radius_mm: float, modalities: tuple[str, ...] = ("t1c", "t2f")):
    places = _places()
    middle = (np.array(SHAPE) - 1) * SPACING_MM / 2
    head = np.sqrt((((places - middle[:, None, None, None]) / np.array([50, 58, 42])[:, None, None, None]) ** 2).sum(0))
    texture = 60 * np.sin(places[0] / 9) * np.cos(places[1] / 11) * np.sin(places[2] / 7 + 1)
    brain = np.where(head < 1, 200 + texture + 80 * (head < 0.35), 0)
    away = np.sqrt(((places - np.array(CENTRE_MM)[:, None, None, None]) ** 2).sum(0))
    lesion = away <= radius_mm if radius_mm else np.zeros(SHAPE, bool)
    image = np.where(lesion, 380, brain).astype(np.int16)
    for name in modalities:
        _write(root / case / f"{case}-{name}.nii.gz", image)
    _write(masks / f"{case}.nii.gz", np.where(lesion, 3, 0).astype(np.uint8))


@pytest.fixture(scope="module")
def patients(tmp_path_factory) -> tuple[Path, Path, Path]:
    """Images and masks of two patients at three visits, and their dates."""
    root = tmp_path_factory.mktemp("follow")
    rows = ["case,date"]
    for number, radii in enumerate(RADII_MM.values(), 1):
        for visit, radius in enumerate(radii):
            case = f"BraTS-GLI-0000{number}-00{visit}"
            write_visit(root / "images", root / "masks", case, radius)
            rows.append(f"{case},2021-0{1 + 2 * visit}-01")
    (root / "dates.csv").write_text("\n".join(rows) + "\n")
    return root / "images", root / "masks", root / "dates.csv"


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Draw small pictures, and take every visit to lie where the first one does.

    Registration has tests of its own; one test here registers.
    """
    from pipeline.follow.patients import visit
    from pipeline.follow.show import planes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planes, "PIXELS", 60)
        patch.setattr(visit, "align", lambda baseline, own: visit.stay(baseline))
        yield


def follow(patients, output: Path, *more: str) -> int:
    images, masks, dates = patients
    given = ["follow", str(images), "-o", str(output), "--masks", str(masks), "--dates", str(dates)]
    return run_pipeline.main([*given, "--prepare", "off", "--convention", "brats2023", "--quiet", *more])


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def followed(patients, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("followed") / "out"
    assert follow(patients, output, "--criteria", "rano2", "rano2-volume") == 0
    return output


def expected_ml(radius_mm: float) -> float:
    """Volume of the voxels with their middles in the ball."""
    away = np.sqrt(((_places() - np.array(CENTRE_MM)[:, None, None, None]) ** 2).sum(0))
    return float((away <= radius_mm).sum()) * np.prod(SPACING_MM) / 1000 if radius_mm else 0.0


def test_volumes_dates_and_identities_are_those_of_the_masks(followed):
    rows = rows_of(followed / "timepoints.csv")
    assert [row["timepoint"] for row in rows] == ["000", "001", "002"] * 2
    assert [row["days"] for row in rows[:3]] == ["0.0", "59.0", "120.0"]
    for row, radius in zip(rows, [*RADII_MM["A"], *RADII_MM["B"]], strict=True):
        assert float(row["volume_ml_ET"]) == pytest.approx(expected_ml(radius), rel=1e-5)
    lesions = [row for row in rows_of(followed / "lesions_over_time.csv") if row["region"] == "ET"]
    assert [row["lesion"] for row in lesions] == ["1"] * 6
    assert [row["event"] for row in lesions] == ["first", "same", "same", "first", "same", "gone"]


def test_categories_stand_in_columns_of_every_criterion_with_their_reason(followed):
    rows = rows_of(followed / "timepoints.csv")
    assert [row["category_rano2_volume"] for row in rows] == ["BASELINE", "PD", "SD", "BASELINE", "SD", "CR"]
    assert "bound 40 %" in rows[1]["reason_rano2_volume"]
    assert {row["category_rano2"] for row in rows} <= {"BASELINE", "CR", "PR", "MR", "SD", "PD", "NE"}
    responses = rows_of(followed / "response.csv")
    assert [(row["patient"], row["criterion"]) for row in responses] == [
        (patient, criterion)
        for patient in ("BraTS-GLI-00001", "BraTS-GLI-00002")
        for criterion in ("rano2", "rano2-volume")
    ]


def test_the_columns_are_those_of_the_documentation(followed):
    page = (Path(__file__).parent.parent / "docs" / "follow.md").read_text()
    for table in ("timepoints.csv", "response.csv", "lesions_over_time.csv"):
        for column in rows_of(followed / table)[0]:
            shown = [column.replace(region, "<region>") for region in ("WT", "TC", "ET") if region in column] or [
                column
            ]
            shown = [name.replace("rano2_volume", "<criteria>").replace("rano2", "<criteria>") for name in shown]
            measure = shown[0].partition("_percent_")[0] + "_percent_<measure>"
            known = {*shown, measure, column.partition("_")[0] + "_<category>", "centre"}
            assert any(name in page for name in known), column


def test_the_growth_map_lies_on_the_grid_of_the_first_visit_and_counts_the_change(followed, patients):
    folder = followed / "BraTS-GLI-00002"
    growth = nib.load(folder / "BraTS-GLI-00002_growth.nii.gz")
    first = nib.load(patients[1] / "BraTS-GLI-00002-000.nii.gz")
    assert np.allclose(growth.affine, first.affine) and growth.shape == first.shape
    assert np.array_equal(np.asarray(growth.dataobj), np.where(np.asarray(first.dataobj) > 0, 3, 0))  # all was lost
    names = sorted(path.name for path in folder.iterdir())
    assert "followup.html" in names and "BraTS-GLI-00002_growth_axial.png" in names
    assert "BraTS-GLI-00002-001_xfm_baseline.txt" in names and "BraTS-GLI-00002-000_xfm_baseline.txt" not in names


def test_a_run_that_was_stopped_goes_on_and_leaves_the_same_bytes(patients, tmp_path, monkeypatch):
    from pipeline.follow import run

    whole, parts = tmp_path / "whole" / "out", tmp_path / "parts" / "out"
    assert follow(patients, whole) == 0
    follow_one = run.follow_one

    def stopped(task, *more):
        if task.patient == "BraTS-GLI-00002":
            raise KeyboardInterrupt
        return follow_one(task, *more)

    monkeypatch.setattr(run, "follow_one", stopped)
    assert follow(patients, parts) == 130
    assert not (parts / "timepoints.csv").exists() and (parts / "BraTS-GLI-00001" / "followup.html").is_file()
    monkeypatch.setattr(run, "follow_one", follow_one)
    before = (parts / "BraTS-GLI-00001" / "followup.html").stat().st_mtime_ns
    assert follow(patients, parts) == 0
    assert (parts / "BraTS-GLI-00001" / "followup.html").stat().st_mtime_ns == before
    own = digests(parts)
    assert own.keys() == digests(whole).keys()
    assert {n for n, d in digests(whole).items() if d != own[n]} <= {"followup.html"}  # it names the command's folder
    overview = [(folder / "followup.html").read_text().replace(str(folder), "OUT") for folder in (whole, parts)]
    assert overview[0] == overview[1]


def test_a_broken_visit_is_not_evaluable_and_the_others_are_measured(patients, tmp_path):
    images, masks, dates = patients
    own = tmp_path / "masks"
    own.mkdir()
    for path in masks.iterdir():
        (own / path.name).write_bytes(path.read_bytes())
    (own / "BraTS-GLI-00001-001.nii.gz").write_bytes(b"no image")
    (own / "BraTS-GLI-00002-001.nii.gz").unlink()
    assert follow((images, own, dates), tmp_path / "out") == 0
    rows = rows_of(tmp_path / "out" / "timepoints.csv")
    assert [row["category_rano2"] == "NE" for row in rows] == [False, True, False, False, True, False]
    assert "BraTS-GLI-00001-001" in rows[1]["reason_rano2"] and "no mask" in rows[4]["reason_rano2"]
    assert rows[1]["volume_ml_ET"] == "" and float(rows[2]["volume_ml_ET"]) > 0
    assert [row["status"] for row in rows_of(tmp_path / "out" / "response.csv")] == ["warn", "warn"]


def test_a_patient_without_any_mask_is_an_error_row_and_no_other_is(patients, tmp_path, capsys):
    images, masks, dates = patients
    own = tmp_path / "masks"
    own.mkdir()
    for path in masks.glob("BraTS-GLI-00001-*"):
        (own / path.name).write_bytes(path.read_bytes())
    assert follow((images, own, dates), tmp_path / "out") == 1
    responses = rows_of(tmp_path / "out" / "response.csv")
    assert [row["status"] for row in responses] == ["ok", "error"] and "no visit" in responses[1]["reason"]
    assert len(rows_of(tmp_path / "out" / "timepoints.csv")) == 6
    assert "BraTS-GLI-00002: error" in capsys.readouterr().err


def test_a_patient_is_done_again_when_a_mask_or_a_date_changes_and_only_then(patients, tmp_path):
    images, masks, dates = patients
    own, days = tmp_path / "masks", tmp_path / "dates.csv"
    own.mkdir()
    for path in masks.iterdir():
        (own / path.name).write_bytes(path.read_bytes())
    days.write_bytes(dates.read_bytes())
    page = tmp_path / "out" / "BraTS-GLI-00001" / "followup.html"
    assert follow((images, own, days), tmp_path / "out") == 0
    first = page.stat().st_mtime_ns
    days.write_text(days.read_text().replace("00001-002,2021-05-01", "00001-002,2021-06-01"))
    assert follow((images, own, days), tmp_path / "out") == 0
    second = page.stat().st_mtime_ns
    write_visit(tmp_path / "other", own, "BraTS-GLI-00001-002", 20.0)
    assert follow((images, own, days), tmp_path / "out") == 0
    assert first < second < page.stat().st_mtime_ns
    move = page.with_name("BraTS-GLI-00001-001_xfm_baseline.txt")
    assert move.is_file()
    page.with_name("mine.txt").write_text("a note of the user's")
    (own / "BraTS-GLI-00001-001.nii.gz").unlink()
    assert follow((images, own, days), tmp_path / "out") == 0
    assert not move.exists() and page.with_name("mine.txt").is_file()  # nothing of an older run is taken for this one's
    rows = rows_of(tmp_path / "out" / "timepoints.csv")
    assert rows[2]["date"] == "2021-06-01" and float(rows[2]["volume_ml_ET"]) == pytest.approx(
        expected_ml(20.0), rel=1e-5
    )


def test_json_is_an_object_for_each_patient(patients, tmp_path, capsys):
    assert follow(patients, tmp_path / "out", "--json") == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["patient"] for each in found] == ["BraTS-GLI-00001", "BraTS-GLI-00002"]
    assert found[1]["timepoints"][0]["category_rano2"] == "BASELINE"
    assert Path(found[0]["page"]).is_file()


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (("--criteria", "rano3"), "rano2"),
        (("--baseline", "nobody"), "no case 'nobody'"),
        (("--masks", "nowhere"), "nowhere"),
        (("--clinical", "nowhere.csv"), "nowhere.csv"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(patients, tmp_path, capsys, more, named):
    assert follow(patients, tmp_path / "out", *more) == 2
    assert named in capsys.readouterr().err
    assert not (tmp_path / "out" / "timepoints.csv").exists()


def test_tables_that_do_not_fit_are_refused_before_anything_is_segmented(patients, tmp_path, capsys, monkeypatch):
    from pipeline.segment import run

    monkeypatch.setattr(run, "segment_cases", lambda *given, **more: pytest.fail("visits were segmented"))
    images = str(patients[0])
    for name, row in (("clinical", "patient,visit,event\nX,000,surgery"), ("targets", "patient,region,lesion\nX,ET,1")):
        (tmp_path / name).write_text(row)
        assert (
            run_pipeline.main(["follow", images, "-o", str(tmp_path / "out"), f"--{name}", str(tmp_path / name)]) == 2
        )
        assert "no patient is called 'X'" in capsys.readouterr().err
    assert run_pipeline.main(["follow", images, "-o", str(tmp_path / "out"), "--baseline", "nobody"]) == 2
    assert "no case 'nobody'" in capsys.readouterr().err


def test_a_folder_with_files_of_others_is_refused(patients, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "timepoints.csv").write_text("mine")
    assert follow(patients, tmp_path / "out") == 2
    assert (tmp_path / "out" / "timepoints.csv").read_text() == "mine"


# ---- flags ----


def seen(case: str, modalities: tuple[str, ...], tmp_path: Path, spacing=SPACING_MM, scanner: str = "", edge=False):
    from data.case import Case, ImageSource
    from pipeline.follow.patients.sources import Visit
    from pipeline.follow.patients.visit import read_visit
    from pipeline.options import SegmentOptions

    mask = np.zeros((16, 16, 16), np.uint8)
    mask[0 if edge else 4 : 8, 4:8, 4:8] = 3
    image = np.full((16, 16, 16), 100, np.int16)
    for name in (*modalities, "seg"):
        _write(tmp_path / f"{case}_{name}.nii.gz", mask if name == "seg" else image, spacing)
    if scanner:
        about = {"Manufacturer": scanner, "MagneticFieldStrength": 3}
        (tmp_path / f"{case}_t1c.json").write_text(json.dumps(about))
    images = {name: ImageSource((tmp_path / f"{case}_{name}.nii.gz",)) for name in modalities}
    found = Case(case_id=case, folder=tmp_path, layout="x", layout_reason="", images=images, reference=None)
    visit = Visit(found, case, ImageSource((tmp_path / f"{case}_seg.nii.gz",)), "brats2023")
    return read_visit(visit, SegmentOptions(prepare="off"), None)


def test_what_a_change_may_come_from_is_flagged_against_the_baseline(tmp_path):
    from pipeline.follow.patients.visit import compare_flags

    first = seen("a", ("t1c", "flair"), tmp_path, scanner="SIEMENS")
    second = seen("b", ("t1c",), tmp_path, (4.0, 4.0, 6.0), "GE", edge=True)
    compare_flags(first, second)
    starts = [flag.partition(":")[0] for flag in second.flags]
    assert starts == ["other scanner", "voxel size", "missing modality", "mask at the edge"]
    assert second.flags[0] == "other scanner: Ge 3 T, at the baseline Siemens 3 T" and "flair" in second.flags[2]
    assert "4 x 4 x 6 mm, at the baseline 4 x 4 x 4 mm" in second.flags[1]
    third = seen("c", ("t1c", "flair"), tmp_path, (4.1, 4.0, 4.0), "SIEMENS")
    compare_flags(first, third)
    assert third.flags == ()


def test_a_mask_with_labels_of_another_convention_is_a_reason(tmp_path):
    from dataclasses import replace

    from pipeline.follow.patients.visit import read_visit
    from pipeline.options import SegmentOptions

    visit = replace(seen("a", ("t1c",), tmp_path).visit, convention="whole-tumour")
    found = read_visit(visit, SegmentOptions(), None)
    assert not found.is_there and "3" in found.why_not and "whole-tumour" in found.why_not


def test_visits_of_one_label_are_called_after_their_cases():
    from data.case import Case, TimePoint
    from pipeline.evaluate.visits import VisitMask
    from pipeline.follow.patients.sources import baselines_of, visits_by_patient

    masks = [
        VisitMask(
            Case(
                case_id=name, folder=Path(name), layout="x", layout_reason="", images={}, reference=None, patient="P",
                timepoint=TimePoint("1", order=n),
            ),
            None,
            "none",
        )
        for n, name in enumerate(("P-a", "P-b"))
    ]  # fmt: skip
    patients = visits_by_patient(masks)
    assert [visit.label for visit in patients["P"]] == ["P-a", "P-b"]
    assert baselines_of(["P-b"], patients) == {"P": ("P-b",)}
    with pytest.raises(UsageError, match="no case 'P'"):
        baselines_of(["P"], patients)


# ---- predictions against references, and many patients ----


def test_evaluate_over_time_compares_changes_and_categories(patients, tmp_path, capsys):
    _, masks, dates = patients
    predictions = tmp_path / "predictions"
    predictions.mkdir()
    for path in masks.iterdir():
        (predictions / path.name).write_bytes(path.read_bytes())
    write_visit(tmp_path / "other", predictions, "BraTS-GLI-00001-001", 11.0)  # the growth is missed
    given = [
        "evaluate",
        str(predictions),
        str(masks),
        "-o",
        str(tmp_path / "out"),
        "--over-time",
        "--dates",
        str(dates),
    ]
    assert run_pipeline.main([*given, "--convention", "brats2023", "--workers", "1", "--pictures", "0"]) == 0
    row = next(
        row
        for row in rows_of(tmp_path / "out" / "over_time.csv")
        if (row["case"], row["region"]) == ("BraTS-GLI-00001-001", "ET")
    )
    missed = expected_ml(11.0) - expected_ml(16.0)
    assert float(row["error_of_change_ml"]) == pytest.approx(missed, rel=1e-5)
    table = {
        (row["reference"], row["prediction"]): int(row["n"])
        for row in rows_of(tmp_path / "out" / "over_time_categories.csv")
    }
    assert table["PD", "SD"] == 1 and sum(table.values()) == 4
    summary = {row["measure"]: row for row in rows_of(tmp_path / "out" / "over_time_summary.csv")}
    assert float(summary["category_rano2"]["agreement"]) == 0.75 and summary["category_rano2"]["n_not_compared"] == "2"
    assert summary["change_ml_ET"]["n"] == "4"
    assert float(summary["change_ml_ET"]["mean_absolute_error_ml"]) == pytest.approx(-missed / 4, rel=1e-4)
    assert "agreement 75%" in capsys.readouterr().out


def test_many_patients_are_registered_and_followed_one_after_the_other(monkeypatch, capsys):
    from bench.timings import follow as many
    from pipeline.follow.align import align
    from pipeline.follow.patients import visit

    monkeypatch.setattr(visit, "align", align)
    many.main(["--patients", "3", "--visits", "2", "--every", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["1", "2", "3"] and all(line.endswith("ok") for line in lines)
