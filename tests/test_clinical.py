"""Tables of clinical facts and of targets are read strictly; the extent of resection is told in words."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import pytest

from data.errors import UsageError
from pipeline.follow.clinical import Clinical, ClinicalEntry, read_clinical
from pipeline.follow.resection import classify_resection
from pipeline.follow.targets import read_targets

PATIENTS = {"P1": ["000", "001"], "P2": ["000"]}


def written(folder: Path, *lines: str) -> Path:
    path = folder / "clinical.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_clinical_table_gives_the_rows_of_each_patient(tmp_path):
    path = written(
        tmp_path,
        "patient,date,days,visit,event,steroids_mg,clinical_state",
        "P1,2025-03-02,,,radiotherapy_end,4,",
        "",
        "P1, ,30.5,, ,0,stable",
        "P1,,,001,surgery,,worse",
    )
    assert read_clinical(path, PATIENTS) == {
        "P1": Clinical(
            (
                ClinicalEntry(2, date=datetime.date(2025, 3, 2), event="radiotherapy_end", steroids_mg=4.0),
                ClinicalEntry(4, days=30.5, steroids_mg=0.0, state="stable"),
                ClinicalEntry(5, visit="001", event="surgery", state="worse"),
            )
        )
    }


def test_columns_that_are_not_needed_may_be_left_out_and_a_table_may_have_no_row(tmp_path):
    assert read_clinical(written(tmp_path, "patient,date,event"), PATIENTS) == {}
    table = read_clinical(written(tmp_path, "\ufeffevent,patient,date", "surgery,P2,2025-01-01"), PATIENTS)
    assert table["P2"].entries[0].event == "surgery"


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        (["patient,date,evnt"], "line 1: unknown column 'evnt' (did you mean event?); the columns are patient, date"),
        (["patient,date,date"], "line 1: the column 'date' stands there twice"),
        (["date,event"], "line 1: the column 'patient' is missing"),
        ([""], "is empty; its first line names columns"),
        (["patient,date,event", "P9,2025-01-01,surgery"], "line 2: no patient is called 'P9'"),
        (["patient,date,event", ",2025-01-01,surgery"], "line 2: patient is empty; fill it in"),
        (["patient,date,event", "P1,2025-02-30,surgery"], "line 2: date '2025-02-30' is none; write year-month-day"),
        (["patient,date,event", "P1,02/03/2025,surgery"], "line 2: date '02/03/2025' is none; write year-month-day"),
        (["patient,date,event", "P1,20250302,surgery"], "line 2: date '20250302' is none; write year-month-day"),
        (["patient,date,event", "P1,2025-01-01,surgry"],
         "line 2: event 'surgry' is not known (did you mean surgery?); write one of radiotherapy_end"),
        (["patient,date,clinical_state", "P1,2025-01-01,bad"],
         "line 2: clinical_state 'bad' is not known; write one of better, stable, worse, worse_other"),
        (["patient,date,steroids_mg", "P1,2025-01-01,-1"], "line 2: steroids_mg '-1' is none; write a number of at l"),
        (["patient,date,steroids_mg", 'P1,2025-01-01,"1,5"'], "line 2: steroids_mg '1,5' is none; write a number of "),
        (["patient,date,steroids_mg", "P1,2025-01-01,nan"], "line 2: steroids_mg 'nan' is none; write a number of at"),
        (["patient,days,event", "P1,ten,surgery"], "line 2: days 'ten' is none; write a number, with a point"),
        (["patient,date,event", "P1,,surgery"], "line 2: gives no day; give one of date, days, visit"),
        (["patient,date,days,event", "P1,2025-01-01,3,surgery"],
         "line 2: gives date and days; give one of date, days, visit"),
        (["patient,date,event", "P1,2025-01-01,"], "line 2: says nothing; fill in event, steroids_mg or clinical_st"),
        (["patient,date,event", "P1,2025-01-01"], "line 2: has 2 cells where the head has 3; leave a cell empty"),
        (["patient,visit,event", "P1,002,surgery"], "line 2: P1 has no visit '002'; write one of 000, 001, or a date"),
        (["patient,date,steroids_mg", "P1,2025-01-01,2", "P1,2025-01-01,4"],
         "line 3: steroids_mg 4.0 contradicts 2.0 of line 2 on the same day; keep one"),
        (["patient,date,clinical_state", "P1,2025-01-01,stable", "P1,2025-01-01,worse"],
         "line 3: clinical_state worse contradicts stable of line 2 on the same day; keep one"),
    ],
)  # fmt: skip
def test_a_fault_of_the_clinical_table_names_file_line_value_and_fix(tmp_path, lines, fault):
    path = written(tmp_path, *lines)
    with pytest.raises(UsageError, match=re.escape(fault)) as caught:
        read_clinical(path, PATIENTS)
    assert str(caught.value).startswith(str(path))


def test_a_table_that_is_not_there_or_not_utf8_is_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_clinical(tmp_path / "none.csv", PATIENTS)
    path = tmp_path / "latin.csv"
    path.write_bytes("patient,date,event\nP\xe4,2025-01-01,surgery\n".encode("latin-1"))
    with pytest.raises(UsageError, match="cannot be read .*; give a table in UTF-8"):
        read_clinical(path, PATIENTS)


def test_a_label_of_two_visits_tells_no_day(tmp_path):
    path = written(tmp_path, "patient,visit,event", "P1,000,surgery")
    with pytest.raises(UsageError, match="line 2: P1 has several visits '000'"):
        read_clinical(path, {"P1": ["000", "000"]})


def test_a_table_of_targets_names_lesions_by_criterion_and_region(tmp_path):
    path = written(tmp_path, "patient,region,lesion,criterion", "P1,ET,2,rano2", "P1,ET,4,rano2", "P2,WT,1,")
    assert read_targets(path, PATIENTS) == {
        "P1": {("rano2", "ET"): (2, 4)},
        "P2": {(name, "WT"): (1,) for name in ("rano2", "rano2-volume", "rano2010", "rano-lgg")},
    }


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("P9,ET,1,", "line 2: no patient is called 'P9'"),
        ("P1,TC,1,", "line 2: region 'TC' is not known; write one of ET, WT, NCE"),
        ("P1,ET,one,", "line 2: lesion 'one' is no number; write one of lesions_over_time.csv"),
        ("P1,ET,1,rano", "line 2: criterion 'rano' is not known"),
        ("P1,ET,,", "line 2: lesion is empty; fill it in"),
    ],
)
def test_a_fault_of_the_table_of_targets_names_file_line_value_and_fix(tmp_path, row, fault):
    path = written(tmp_path, "patient,region,lesion,criterion", row)
    with pytest.raises(UsageError, match=re.escape(f"{path}, {fault}")):
        read_targets(path, PATIENTS)


@pytest.mark.parametrize(
    ("enhancing", "other", "words"),
    [
        (0, 5, "supramaximal"),
        (0, 5.001, "maximal, complete"),
        (0, None, "maximal, complete"),
        (0.175, 0, "supramaximal"),  # the floor for stray voxels
        (0.176, 0, "maximal, near total"),
        (1, 0, "maximal, near total"),
        (1.001, 0, "submaximal, subtotal"),
        (5, 0, "submaximal, subtotal"),
        (5.001, 0, "submaximal, partial"),
        (1000 * 0.001, None, "maximal, near total"),
        (0.1 + 0.2 + 0.7, None, "maximal, near total"),  # 1.0000000000000002 in some orders of adding
    ],
)
def test_the_extent_of_resection_is_told_in_words_at_and_beside_each_bound(enhancing, other, words):
    assert classify_resection(enhancing, non_enhancing_ml=other).words == words


def test_a_biopsy_is_given_and_never_seen_in_volumes():
    assert classify_resection(0, non_enhancing_ml=0, biopsy=True).words == "biopsy"


def test_the_reason_of_a_resection_has_the_ml_the_share_and_the_paper():
    found = classify_resection(0.5, non_enhancing_ml=2, cavity_ml=12.345, enhancing_before_ml=10, hours=73)
    assert found.removed_percent == pytest.approx(95)
    assert found.reason == (
        "enhancing tumour left 0.50 ml; 95.0 % of 10.00 ml removed; non-enhancing tumour left 2.00 ml; cavity 12.35 ml"
        "; scan 73 hours after surgery, the classes ask for at most 72; doi 10.1093/neuonc/noac193"
    )
    assert "up to 0.175 ml count as none" in classify_resection(0.1).reason
    assert "hours" not in classify_resection(0.1, hours=72).reason
    assert classify_resection(0, enhancing_before_ml=0).removed_percent is None


@pytest.mark.parametrize("volume", [-0.1, float("nan"), float("inf")])
def test_a_volume_that_is_none_is_refused(volume):
    with pytest.raises(ValueError, match="give finite ones of at least 0"):
        classify_resection(volume)
