"""Rows of a follow-up's tables, from lesions and volumes that are given."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from data.case import Case
from pipeline.follow.clinical import Clinical, ClinicalEntry
from pipeline.follow.measures import LesionMeasure, VisitMeasures
from pipeline.follow.over_time import change_rows, confusion, kappa
from pipeline.follow.patients.rows import MONTH_DAYS, Told, failed_rows, response_row, targets_of, timepoint_rows
from pipeline.follow.patients.sources import Visit
from pipeline.follow.patients.task import PatientTask
from pipeline.follow.response import respond

START = datetime.date(2025, 1, 1)


def told(
    label: str, day: float, volumes: dict[str, float], *lesions: tuple[int, float, float], **about: object
) -> Told:
    """Make a visit with lesions of ET: number, both diameters in mm, ml."""
    measured = tuple(
        LesionMeasure(number, "ET", side, side, ml, measurable=side >= 10, measurable_3d=side >= 10)
        for number, side, ml in lesions
    )
    date = START + datetime.timedelta(days=day)
    known = {"date": date, "days": day, "order": int(day), "regions": ("ET",)}
    measures = VisitMeasures(label, measured, **known, **about)  # type: ignore[arg-type]
    return Told(f"case-{label}", measures, volumes)


def task(*criteria: str, clinical: Clinical | None = None) -> PatientTask:
    return PatientTask("P", "P", Path("out"), (), criteria or ("rano2",), clinical=clinical or Clinical())


def rows_of(work: PatientTask, visits: list[Told]) -> list[dict]:
    responses = [respond([each.measures for each in visits], name, work.clinical) for name in work.criteria]
    return timepoint_rows(work, visits, responses)


def test_growth_a_month_and_doubling_time_are_those_since_the_visit_before():
    day = 16 * MONTH_DAYS  # 487
    first, second, third = rows_of(
        task(), [told("a", 0, {"ET": 2.0}), told("b", day, {"ET": 4.0}), told("c", 2 * day, {"ET": 1.0})]
    )
    assert first["growth_ml_per_month_ET"] is None and first["doubling_days_ET"] is None
    assert second["growth_ml_per_month_ET"] == pytest.approx(2 / 16) and second["doubling_days_ET"] == pytest.approx(
        day
    )
    assert third["growth_ml_per_month_ET"] == pytest.approx(-3 / 16) and third["doubling_days_ET"] is None


def test_two_visits_on_one_day_have_no_speed():
    rows = rows_of(task(), [told("a", 0, {"ET": 2.0}), told("b", 0, {"ET": 4.0})])
    assert rows[1]["growth_ml_per_month_ET"] is None


def test_changes_are_from_the_baseline_and_from_the_smallest_value_since():
    visits = [
        told(name, 60.0 * n, {"ET": ml}, (1, side, ml))
        for n, (name, side, ml) in enumerate([("a", 20, 10.0), ("b", 15, 6.0), ("c", 18, 9.0)])
    ]
    first, second, third = rows_of(task(), visits)
    assert first["sum_of_products_mm2"] == 400 and first["change_from_baseline_percent_sum_of_products_mm2"] is None
    assert second["change_from_nadir_percent_volume_ml_ET"] == pytest.approx(-40)
    assert third["change_from_baseline_percent_volume_ml_ET"] == pytest.approx(-10)
    assert third["change_from_nadir_percent_volume_ml_ET"] == pytest.approx(50)
    assert third["change_from_nadir_percent_target_volume_ml"] == pytest.approx(50)
    assert third["change_from_nadir_percent_sum_of_products_mm2"] == pytest.approx(44)  # 324 of 225
    assert third["category_rano2"] == "PD"


def test_volumes_are_of_all_lesions_and_sums_of_the_targets_alone():
    lesions = [(number, 40.0 - number, 1.0) for number in range(1, 6)]
    rows = rows_of(task(), [told("a", 0, {"ET": 5.0}, *lesions), told("b", 60, {"ET": 5.0}, *lesions)])
    assert [row["volume_ml_ET"] for row in rows] == [5.0, 5.0]
    assert [row["target_volume_ml"] for row in rows] == [3.0, 3.0]  # RANO 2.0 takes three
    assert rows[0]["sum_of_products_mm2"] == 39**2 + 38**2 + 37**2


def test_a_nadir_of_zero_has_no_percentage():
    visits = [
        told("a", 0, {"ET": 2.0}, (1, 15, 2.0)),
        told("b", 60, {"ET": 0.0}),
        told("c", 120, {"ET": 1.0}, (1, 12, 1)),
    ]
    row = rows_of(task(), visits)[2]
    assert row["change_from_nadir_percent_volume_ml_ET"] is None
    assert row["change_from_baseline_percent_volume_ml_ET"] == -50 and row["category_rano2"] == "PD"


def test_a_visit_that_is_not_evaluable_says_why_and_has_no_part_in_the_others():
    broken = told("b", 60, {}, evaluable=False, why_not="the mask is cut off")
    visits = [told("a", 0, {"ET": 4.0}, (1, 20, 4.0)), broken, told("c", 120, {"ET": 4.0}, (1, 20, 4.0))]
    first, second, third = rows_of(task("rano2", "rano2-volume"), visits)
    assert second["category_rano2"] == second["category_rano2_volume"] == "NE"
    assert "cut off" in second["reason_rano2"] and "volume_ml_ET" not in second
    assert third["category_rano2"] == "SD" and third["growth_ml_per_month_ET"] == 0


def test_a_single_visit_is_a_baseline_with_its_sums():
    (row,) = rows_of(task(), [told("a", 0, {"ET": 4.0}, (1, 20, 4.0), (2, 5, 0.1))])
    assert row["category_rano2"] == "BASELINE"
    assert (row["sum_of_products_mm2"], row["target_volume_ml"]) == (400, 4.0)


def test_a_patient_who_failed_has_a_row_for_each_visit_with_the_reason():
    case = Case(case_id="P-1", folder=Path("P"), layout="x", layout_reason="", images={}, reference=None)
    work = PatientTask("P", "P", Path("out"), (Visit(case, "1"), Visit(case, "2", why_not="no mask")), ("rano2",))
    assert [row["reason_rano2"] for row in failed_rows(work, "the disk is full")] == ["the disk is full", "no mask"]
    assert [row["category_rano2"] for row in failed_rows(work, "x")] == ["NE", "NE"]


def test_response_has_best_response_and_time_to_progression():
    visits = [
        told("a", 0, {}, (1, 20, 4)), told("b", 60, {}, (1, 13, 1)), told("c", 120, {}, (1, 13, 1)),
        told("d", 200, {}, (1, 30, 9)),
    ]  # fmt: skip
    response = respond([each.measures for each in visits], "rano2")
    row = response_row(task(), response)
    assert (row["best_response"], row["best_response_confirmed"]) == ("PR", "yes")
    assert (row["progression_timepoint"], row["progression_date"], row["days_to_progression"]) == (
        "d",
        "2025-07-20",
        200,
    )
    assert (row["n_PR"], row["n_PD"], row["n_BASELINE"], row["visits"], row["days"]) == (2, 1, 1, 4, 200)
    assert targets_of(task(), response, [each.measures for each in visits]) == {"ET": {1}}


# ---- after surgery ----


def cavity(label: str, day: float, et: float, tc: float, rc: float) -> Told:
    return told(label, day, {"TC": tc, "ET": et, "RC": rc}, (1, 20, et))


def test_a_new_cavity_is_told_in_the_words_of_rano_resect():
    rows = rows_of(
        task(), [cavity("a", 0, 20.0, 30.0, 0.0), cavity("b", 10, 0.5, 0.8, 15.0), cavity("c", 90, 3, 3, 14)]
    )
    assert [bool(row["resection"]) for row in rows] == [False, True, False]
    words = rows[1]["resection"]
    assert words.startswith("maximal, near total: enhancing tumour left 0.50 ml; 97.5 % of 20.00 ml removed")
    assert "cavity 15.00 ml" in words and "core that does not enhance 0.30 ml" in words


def test_surgery_of_the_clinical_table_gives_the_hours_to_the_scan():
    operated = Clinical((ClinicalEntry(2, date=START + datetime.timedelta(days=8), event="surgery"),))
    rows = rows_of(task(clinical=operated), [cavity("a", 0, 20, 20, 2.0), cavity("b", 13, 0.0, 0.0, 15.0)])
    assert "120 hours after surgery" in rows[1]["resection"]
    assert rows[1]["resection"].startswith("maximal, complete")


def test_without_the_label_of_a_cavity_nothing_is_said_of_surgery():
    rows = rows_of(task(), [told("a", 0, {"ET": 9.0}), told("b", 9, {"ET": 0.0})])
    assert [row["resection"] for row in rows] == [None, None]


# ---- predictions against references ----


def test_the_error_of_a_change_is_that_from_the_first_visit_of_both_sides():
    def row(visit: str, ml: float | None) -> dict:
        about = {"patient": "P", "case": visit, "timepoint": visit, "date": None, "days": None}
        return about | ({} if ml is None else {"volume_ml_ET": ml})

    pairs = [(row("a", 9.0), row("a", None)), (row("b", 10.0), row("b", 8.0)), (row("c", 13.0), row("c", 10.0))]
    first, second = change_rows(pairs)
    assert first["case"] == "b" and "error_of_change_ml" not in first
    assert (second["change_ml_prediction"], second["change_ml_reference"], second["error_of_change_ml"]) == (3, 2, 1)


def test_kappa_is_that_of_a_hand_worked_table():
    expected = ["PD"] * 25 + ["SD"] * 25
    got = ["PD"] * 20 + ["SD"] * 5 + ["PD"] * 10 + ["SD"] * 15
    pairs = [({"category_rano2": a}, {"category_rano2": b}) for a, b in zip(got, expected, strict=True)]
    counts = confusion([*pairs, ({"category_rano2": "NE"}, {"category_rano2": "PD"})], "rano2")
    assert counts == {("PD", "PD"): 20, ("PD", "SD"): 5, ("SD", "PD"): 10, ("SD", "SD"): 15}
    assert kappa(counts) == pytest.approx(0.4)  # .7 observed, .5 by chance


def test_kappa_is_not_known_of_no_visits_or_of_one_category_alone():
    assert kappa({}) is None and kappa({("SD", "SD"): 7}) is None
