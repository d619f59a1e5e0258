"""Visits of one patient are linked in every layout, with their dates, their order, and names that stay."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.case import Case, TimePoint, same_patients
from data.errors import UsageError
from data.find.discover import cases_of_names, discover_cases
from data.find.places import Names
from data.find.visits.dates import with_dates
from data.folder_names import folder_name, unique_folder_names
from data.same_patient import patient_id
from pipeline.commands.named import manifest_cases
from pipeline.commands.segment import require_known
from pipeline.commands.terminal.lines import inspection_lines
from pipeline.evaluate.visits import masks_of_cases, visits_of_masks
from pipeline.inspect import inspect_cases
from pipeline.training.splits import fold_split, patients_of
from tests.dicom_files import write_series

BRATS, UPENN = ("t1n", "t1c", "t2w", "t2f"), ("T1", "T1GD", "T2", "FLAIR")
PLAIN, BIDS = ("T1", "CT1", "T2", "FLAIR"), ("T1w", "ce-gadolinium_T1w", "T2w", "FLAIR")
CFB, RHUH = ("t1gd", "T2-FLAIR", "GTV", "brain_mask", "ADC"), ("t1", "t1ce", "t2", "flair", "adc", "segmentations")
MU = (*(f"brain_{ending}" for ending in BRATS), "tumorMask")
UCSD = ("T1pre", "T1post", "T2", "FLAIR", "BraTS_tumor_seg", "total_cellular_tumor_seg")
ALPTDG, PDGM = ("t1", "t1ce", "t2", "flair", "seg"), ("T1", "T1c", "T2", "FLAIR")
WEEKS = (("week-000-1", 0), ("week-000-2", 0), ("week-044", 308), ("week-102", 714))


@dataclass(frozen=True)
class Visit:
    """Files of a visit, and all that they must tell."""

    stem: str
    endings: tuple[str, ...]
    case: str
    patient: str
    label: str
    order: int
    days: float | None = None
    day: date | None = None


VISITS = {  # the layouts of DOMAIN.md, in the order that is expected of them
    "BraTS": [
        Visit(f"{p}-{t}/{p}-{t}-", BRATS, f"{p}-{t}", p, t, order)
        for p, labels in (("BraTS-GLI-00005", ("000", "001", "100")), ("BraTS-GLI-00006", ("000",)))
        for order, t in enumerate(labels)
    ],
    "UPENN-GBM": [
        Visit(f"images_structural/{p}_{t}/{p}_{t}_", UPENN, f"{p}_{t}", p, t, order)
        for p in ("UPENN-GBM-00001",)
        for order, t in enumerate(("11", "21"))
    ],
    "LUMIERE": [
        Visit(f"Imaging/{p}/{week}/", PLAIN, f"{p}_{week}", p, week, order, days)
        for p in ("Patient-001", "Patient-002")
        for order, (week, days) in enumerate(WEEKS)
    ],
    "BIDS": [
        Visit(f"{p}/ses-0{s}/anat/{p}_ses-0{s}_", BIDS, f"{p}_ses-0{s}", p, f"ses-0{s}", s - 1)
        for p in ("sub-01", "sub-02")
        for s in (1, 2)
    ],
    "CFB-GBM": [
        Visit(f"CFB-GBM/{p}/t{t}/{p}_t{t}_", CFB, f"{p}_t{t}", p, f"t{t}", t) for p in ("8", "12") for t in (0, 1, 2)
    ],
    "MU-Glioma-Post": [
        Visit(f"{p}/Timepoint_{t}/{p}_Timepoint_{t}_", MU, f"{p}_Timepoint_{t}", p, f"Timepoint_{t}", order)
        for p in ("PatientID_0003",)
        for order, t in enumerate((1, 2, 5, 10))
    ],
    "UCSD-PTGBM": [
        Visit(f"{p}_0{t}/{p}_0{t}_", UCSD, f"{p}_0{t}", p, f"0{t}", t - 1) for p in ("UCSD-PTGBM-0002",) for t in (1, 2)
    ],
    "UCSF-ALPTDG": [
        Visit(f"100010/100010_time{t}_", ALPTDG, f"100010_time{t}", "100010", f"time{t}", t - 1) for t in (1, 2)
    ],
    "RHUH-GBM": [Visit(f"{p}/{t}/{p}_{t}_", RHUH, f"{p}_{t}", p, str(t), t) for p in ("RHUH-0001",) for t in (0, 1, 2)],
    "UCSF-PDGM": [
        Visit(f"{p}{t}_nifti/{p}{t}_", PDGM, f"{p}{t}_nifti", p, label, days, days)
        for p in ("UCSF-PDGM-0431",)
        for t, label, days in (("", "baseline", 0), ("_FU001d", "FU001d", 1))
    ],
    "dates": [
        Visit("P1/2021-03-04/", PLAIN, "P1_2021-03-04", "P1", "2021-03-04", 1, 427, date(2021, 3, 4)),
        Visit("P1/20200102/", PLAIN, "P1_20200102", "P1", "20200102", 0, 0, date(2020, 1, 2)),
    ],
}


def touch(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def told(cases: list[Case]) -> dict[str, tuple[object, ...]]:
    return {
        case.case_id: (case.patient, p.label, p.date, p.days, p.order)
        for case in cases
        if (p := case.timepoint) is not None
    }


@pytest.mark.parametrize("layout", VISITS)
def test_every_layout_links_its_visits(layout: str, tmp_path: Path) -> None:
    visits = VISITS[layout]
    touch(tmp_path, *(f"{visit.stem}{ending}.nii.gz" for visit in visits for ending in visit.endings))
    cases = discover_cases(tmp_path)
    assert told(cases) == {v.case: (v.patient, v.label, v.day, v.days, v.order) for v in visits}
    assert not any(case.problems or case.warnings for case in cases)
    # The name serves as a folder's as it is, and tells the patient.
    assert all(folder_name(case.case_id) == case.case_id and patient_id(case.case_id) == case.patient for case in cases)


def names(visits: Iterable[Visit], prefix: str = "") -> dict[Path, str]:
    """Return the name of each visit's result folder by its first image."""
    places = Names("/data")
    for visit in visits:
        for ending in visit.endings:
            places.add(f"{prefix}{visit.stem}{ending}.nii.gz".split("/"))
    cases = cases_of_names(places)
    folders = unique_folder_names(case.case_id for case in cases)
    return {next(iter(case.images.values())).paths[0]: folders[case.case_id] for case in cases}


EVERY = [visit for visits in VISITS.values() for visit in visits]


@settings(max_examples=25, deadline=None)
@given(st.sets(st.sampled_from(EVERY), min_size=1), st.sampled_from(EVERY), st.sampled_from(["", "site/"]))
def test_no_further_visit_or_patient_changes_a_name(few: set[Visit], further: Visit, prefix: str) -> None:
    before, after = names(few, prefix), names({*few, further}, prefix)
    assert before.items() <= after.items() and len(set(after.values())) == len(after) == len({*few, further})


def test_the_patients_own_folder_as_input_is_the_patient(tmp_path: Path) -> None:
    touch(tmp_path, "Patient-001/week-004/T1.nii", "Patient-001/week-010-1/T1.nii", "Patient-001/week-010-1/CT1.nii")
    cases = discover_cases(tmp_path / "Patient-001")
    assert told(cases) == {
        "week-004": ("Patient-001", "week-004", None, 0, 0),
        "week-010-1": ("Patient-001", "week-010-1", None, 42, 1),
    }


def test_masks_of_programs_within_a_visit_are_no_patients_and_no_references(tmp_path: Path) -> None:
    visit = "Imaging/Patient-001/week-044"
    touch(
        tmp_path,
        *(f"{visit}/{name}.nii.gz" for name in PLAIN),
        f"{visit}/DeepBraTumIA-segmentation/atlas/segmentation/seg_mask.nii.gz",
        f"{visit}/HD-GLIO-AUTO-segmentation/registered/CT1_r2s_bet_reg.nii.gz",
    )
    [case] = discover_cases(tmp_path)
    assert case.reference is None and [path.name for path in case.unrecognised] == [
        "DeepBraTumIA-segmentation",
        "HD-GLIO-AUTO-segmentation",
    ]


def sessions(root: Path, *labels: str) -> None:
    touch(root, *(f"sub-01/ses-{s}/anat/sub-01_ses-{s}_{m}.nii.gz" for s in labels for m in ("T1w", "FLAIR")))


def test_dates_of_bids_tables_order_sessions_whose_names_do_not(tmp_path: Path) -> None:
    sessions(tmp_path, "predrug", "drug", "last")
    (tmp_path / "sub-01/sub-01_sessions.tsv").write_text(
        "session_id\tacq_time\nses-predrug\t2019-06-15T13:45:30\nses-drug\t2019-08-01\nses-last\tn/a\n"
    )
    (tmp_path / "sub-01/ses-last/sub-01_ses-last_scans.tsv").write_text(
        "filename\tacq_time\nanat/sub-01_ses-last_FLAIR.nii.gz\t2019-08-03T10:00:00.5Z\n"
        "anat/sub-01_ses-last_T1w.nii.gz\t2019-08-03T09:00:00\nother.nii\t1900-01-01\n"
    )
    cases = discover_cases(tmp_path)
    assert told(cases) == {
        "sub-01_ses-predrug": ("sub-01", "ses-predrug", date(2019, 6, 15), 0, 0),
        "sub-01_ses-drug": ("sub-01", "ses-drug", date(2019, 8, 1), 47, 1),
        "sub-01_ses-last": ("sub-01", "ses-last", date(2019, 8, 3), 49, 2),
    }
    assert {case.timepoint.order_from for case in cases if case.timepoint} == {"date"}
    assert not any(case.warnings for case in cases)


def test_a_bids_table_that_does_not_tell_is_said_and_names_give_no_order(tmp_path: Path) -> None:
    sessions(tmp_path, "predrug", "drug")
    (tmp_path / "sub-01/sub-01_sessions.tsv").write_text("session_id\tacq_time\nses-drug\t15.6.2019\n")
    first, second = discover_cases(tmp_path)
    assert first.warnings == ("sub-01_sessions.tsv: acq_time '15.6.2019' is no date; write it as 2021-03-04, or n/a",)
    assert second.timepoint == TimePoint("ses-predrug", None, None, 1, "name")
    (tmp_path / "sub-01/sub-01_sessions.tsv").write_bytes(b"\xff\x00")  # whatever lies there
    assert not any(case.warnings for case in discover_cases(tmp_path))


def test_tables_that_disagree_are_told_of_and_the_scans_count(tmp_path: Path) -> None:
    sessions(tmp_path, "1")
    (tmp_path / "sub-01/sub-01_sessions.tsv").write_text("session_id\tacq_time\nses-1\t2019-01-01\n")
    (tmp_path / "sub-01/ses-1/sub-01_ses-1_scans.tsv").write_text(
        "filename\tacq_time\nanat/sub-01_ses-1_T1w.nii.gz\t2019-02-01\n"
    )
    [case] = discover_cases(tmp_path)
    assert case.timepoint and case.timepoint.date == date(2019, 2, 1)
    assert "sub-01_sessions.tsv says 2019-01-01 where scans.tsv says 2019-02-01" in case.warnings[0]


def test_studies_of_a_dicom_patient_are_visits_by_date_and_keep_their_names(tmp_path: Path) -> None:
    def study(name: str, day: str, patient: str = "MRN-0042") -> None:
        picture = np.zeros((3, 4, 4), int)
        write_series(tmp_path / name, picture, "t1", study=name, patient=patient, StudyDate=day)

    study("second", "20240301")
    [alone] = discover_cases(tmp_path)
    study("first", "20231201")
    study("other", "20240301", "MRN-7")
    cases = {
        case.timepoint.label: case
        for case in discover_cases(tmp_path)
        if case.timepoint and case.patient == alone.patient
    }
    assert cases["2024-03-01"].case_id == alone.case_id and alone.case_id.startswith(f"{alone.patient}-")
    points = [case.timepoint for case in cases.values()]
    assert [(p.date, p.days, p.order) for p in points if p] == [(date(2023, 12, 1), 0, 0), (date(2024, 3, 1), 91, 1)]
    study("again", "20240301")  # a second scan on one day
    study("unknown", "")
    cases_now = [case for case in discover_cases(tmp_path) if case.patient == alone.patient]
    assert {case.case_id for case in cases.values()} < {case.case_id for case in cases_now}
    labels = sorted(case.timepoint.label for case in cases_now if case.timepoint)
    assert len(set(labels)) == 4 and sum(label.startswith("2024-03-01-") for label in labels) == 2


MANIFEST = (
    "case,t1,date,patient\nscan b,x.nii,2020-03-01,anna\nscan a,y.nii,20200115,anna\nscan c,z.nii,,anna\n"
    "bert_week-4,w.nii,,\n"
)


def manifest(folder: Path, text: str = MANIFEST) -> list[Case]:
    (folder / "table.csv").write_text(text)
    return manifest_cases(folder / "table.csv")


def test_a_manifest_tells_patients_and_dates(tmp_path: Path) -> None:
    cases = manifest(tmp_path, MANIFEST.replace("z.nii,,", "z.nii,2020-03-01,"))
    assert told(cases) == {
        "scan b": ("anna", "2020-03-01", date(2020, 3, 1), 46, 1),
        "scan a": ("anna", "2020-01-15", date(2020, 1, 15), 0, 0),
        "scan c": ("anna", "2020-03-01", date(2020, 3, 1), 46, 2),
        "bert_week-4": ("bert", "week-4", None, 0, 0),
    }
    with pytest.raises(UsageError, match="line 2: scan b: '2020-02-30' is no date; write it as 2021-03-04"):
        manifest(tmp_path, MANIFEST.replace("2020-03-01", "2020-02-30"))


def test_dates_of_a_table_take_the_place_of_what_was_known(tmp_path: Path) -> None:
    cases = manifest(tmp_path)
    assert [(c.timepoint.order, c.timepoint.days) for c in cases[:3] if c.timepoint] == [
        (1, None),
        (0, None),
        (2, None),
    ]
    table = tmp_path / "dates.csv"
    table.write_text("case,date\nscan c,2019-12-31\n scan b ,2020-03-02\n")
    after = with_dates(cases, table)
    assert [(c.case_id, c.timepoint.days, c.timepoint.order) for c in after[:3] if c.timepoint] == [
        ("scan b", 62, 2),
        ("scan a", 15, 1),
        ("scan c", 0, 0),
    ]
    assert after[3] == cases[3]
    table.write_text("date,timepoint,patient\n20200202,week-4,bert\n")
    [*_, bert] = with_dates(cases, table)
    assert bert.timepoint == TimePoint("week-4", date(2020, 2, 2), 0, 0, "date")


def test_a_row_of_a_table_of_dates_that_fits_two_cases_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "P1/2021-03-04/t1.nii", "P1/baseline/t1.nii")
    first, second = discover_cases(tmp_path)
    assert first.timepoint
    (tmp_path / "dates.csv").write_text(f"patient,timepoint,date\nP1,{first.timepoint.label},2020-01-01\n")
    with pytest.raises(UsageError, match=f"line 2: .*{first.case_id}, {first.case_id}x are called so; name them in a"):
        with_dates([first, second, replace(first, case_id=f"{first.case_id}x")], tmp_path / "dates.csv")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("case,when\nscan a,2020-01-01\n", "line 1: its columns are case, when; give case, date or patient, timepoint"),
        ("", "line 1: its columns are none"),
        ("case,date,date\nscan a,2020-01-01,2020-01-02\n", "line 1: its columns are case, date, date; give"),
        ("case,date\nscan x,2020-01-01\n", "line 2: 'scan x': no such visit; there are scan b, scan a, scan c"),
        ("case,date\nscan a,1.2.2020\n", "line 2: scan a: '1.2.2020' is no date; write it as 2021-03-04"),
        ("case,date\nscan a,\n", "line 2: scan a: '' is no date"),
        ("case,date\nscan a,2020-01-01\nscan a,2020-01-01\n", "line 3: 'scan a': it stands in line 2 too; keep one"),
        ("patient,timepoint,date\nbert,week-5,2020-01-01\n", "line 2: 'bert week-5': no such visit; there are bert"),
        ("case,date\nscan a\n", "line 2: '1 cells': give 2 cells"),
        ("case,date\nscan a,2020-01-01,x,y\n", "line 2: '4 cells': give 2 cells"),
        ('case,date\n"scan a,2020-01-01\nscan b,2020-01-02\n', "line 3: .*write it as CSV, quotes closed"),
    ],
)  # fmt: skip
def test_a_table_of_dates_is_read_strictly(text: str, sentence: str, tmp_path: Path) -> None:
    cases = manifest(tmp_path)
    table = tmp_path / "dates.csv"
    table.write_text(text)
    with pytest.raises(UsageError, match=sentence) as error:
        with_dates(cases, table)
    assert str(error.value).startswith(f"--dates {table}, line ")


def test_visits_of_one_day_stand_in_the_order_of_their_times_else_of_their_names(tmp_path: Path) -> None:
    sessions(tmp_path, "a", "b", "c")
    (tmp_path / "sub-01/sub-01_sessions.tsv").write_text(
        "session_id\tacq_time\nses-a\t2020-01-01T18:00:00\nses-b\t2020-01-01T08:00:00\nses-c\t2020-01-01T18:00:00\n"
    )
    assert {case.case_id[-1]: case.timepoint.order for case in discover_cases(tmp_path) if case.timepoint} == {
        "b": 0,
        "a": 1,
        "c": 2,
    }


def test_inspect_shows_patient_and_time_point(tmp_path: Path) -> None:
    touch(tmp_path, "P1/2021-03-04/t1.nii", "P1/baseline/t1.nii", "P2/t1.nii")
    found = inspect_cases(tmp_path)
    keys = ("case", "patient", "timepoint", "date", "days", "order", "order_from")
    assert [tuple(case[key] for key in keys) for case in found] == [
        ("P1_2021-03-04", "P1", "2021-03-04", "2021-03-04", None, 1, "number"),
        ("P1_baseline", "P1", "baseline", None, None, 0, "number"),
        ("P2", "P2", "", None, None, 0, "name"),
    ]
    lines = list(inspection_lines(found))
    assert "    patient P1, time point 2021-03-04, visit 2 by number" in lines
    assert sum("time point" in line for line in lines) == 2
    json.dumps(found)


def test_folds_keep_a_patient_together_whatever_the_cases_are_called(tmp_path: Path) -> None:
    cases = [*manifest(tmp_path), *manifest(tmp_path, "case,t1,patient\nD,x.nii,d\nE,y.nii,e\n")]
    groups = same_patients(cases)
    assert groups == [["scan b", "scan a", "scan c"]]
    ids = [case.case_id for case in cases]
    assert len(set(patients_of(ids).values())) == 6  # names alone tell nothing
    for fold in range(4):
        held_back = set(fold_split(ids, 4, fold, groups).validation)
        assert held_back & set(groups[0]) in (set(), set(groups[0]))


def test_a_name_of_an_earlier_version_is_answered_with_the_one_of_now(tmp_path: Path) -> None:
    touch(tmp_path, *(f"Imaging/Patient-00{p}/week-044/T1.nii" for p in (1, 2)), "P3/t1.nii")
    cases = discover_cases(tmp_path)
    sentence = (
        "no patient 'Imaging/Patient-001/week-044'; Imaging/Patient-001/week-044 is Patient-001_week-044 now; `ins"
    )
    with pytest.raises(UsageError, match=sentence):
        require_known(cases, ["P3", "Imaging/Patient-001/week-044"])


def output_of_a_run(root: Path, entries: dict[str, dict[str, object]]) -> None:
    rows = [f"{name},{name},brats2023\n" for name in entries]
    touch(root, *(f"{name}/{name}_seg.nii.gz" for name in entries if name != "P1_b"))
    (root / "report.csv").write_text("case,folder,convention\n" + "".join(rows))
    (root / "run.json").write_text(json.dumps({"cases": entries}))


def test_the_folder_of_a_run_gives_masks_with_patients_and_time_points(tmp_path: Path) -> None:
    point = TimePoint("2021-03-04", date(2021, 3, 4), 12.0, 3, "date")
    recorded = {"patient": "P1", **point.as_record()}
    output_of_a_run(
        tmp_path,
        {
            "scan 7": json.loads(json.dumps(recorded)),
            "P1_b": {"patient": 3, "order": "x"},
            "Q_week-2": {},
            "Q_week-1": {},
        },
    )
    found = {visit.case.case_id: visit for visit in visits_of_masks(tmp_path)}
    assert found["scan 7"].case.timepoint == point and found["scan 7"].case.patient == "P1"
    assert found["scan 7"].mask == tmp_path / "scan 7/scan 7_seg.nii.gz" and found["scan 7"].convention == "brats2023"
    assert found["P1_b"].mask is None and "is not there" in found["P1_b"].missing
    assert told([found["Q_week-2"].case, found["Q_week-1"].case]) == {  # of an older version: by their names
        "Q_week-2": ("Q", "week-2", None, 7, 1),
        "Q_week-1": ("Q", "week-1", None, 0, 0),
    }


def test_masks_by_others_find_their_visits(tmp_path: Path) -> None:
    sessions(tmp_path / "data", "1", "2")
    cases = discover_cases(tmp_path / "data")
    folder = "sub-01_ses-1-8661c327"  # of an earlier version
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "report.csv").write_text(f"case,folder,convention\nsub-01/ses-1,{folder},\n")
    for place in ("masks/sub-01_ses-1.nii.gz", "old/sub-01/ses-1/seg.nii.gz", f"run/{folder}/{folder}_seg.nii.gz"):
        root = touch(tmp_path, place) / place.split("/")[0]
        found = masks_of_cases(cases, root)
        assert [found[case.case_id].mask for case in cases] == [tmp_path / place, None]
        assert found["sub-01_ses-1"].case is cases[0]
        assert found["sub-01_ses-2"].missing == f"{root} holds no mask of sub-01_ses-2"
