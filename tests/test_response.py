"""Categories of response are those that the criteria define: sequences worked by hand, bounds, notes, summary."""

from __future__ import annotations

import datetime
import itertools
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.errors import UsageError
from pipeline.follow.clinical import Clinical, ClinicalEntry
from pipeline.follow.criteria import CATEGORIES, CRITERIA
from pipeline.follow.measures import LesionMeasure, VisitMeasures, is_measurable_2d, is_measurable_3d
from pipeline.follow.response import PatientResponse, respond

GOLDEN = yaml.safe_load((Path(__file__).parent / "golden_follow.yaml").read_text(encoding="utf-8"))
DAY_0 = datetime.date(2025, 1, 1)
KEYS = {"name", "criterion", "rt", "clinical", "visits", "regions", "measured", "expect", "say", "hand", "baseline"}
KEYS |= {"best", "best_unconfirmed", "progression", "ttp", "overall", "targets"}
LESION = re.compile(r"(?:([A-Z]+):)?(\d+)=(?:([\d.]+)x([\d.]+)|(?:(\d+)\*)?([\d.]+)ml)(!?)(?:\+(\d+))?(?:<(\d+))?")
CONFIRMED = {"": "", "+": "yes", "-": "no", "=": "not needed", "~": "not computable"}


def lesion_of(text: str, region: str) -> LesionMeasure:
    found = LESION.fullmatch(text)
    assert found, text
    other, number, longest, perpendicular, voxels, ml, small, merged, split = found.groups()
    return LesionMeasure(
        lesion=int(number),
        region=other or region,
        longest_mm=float(longest or 20),
        perpendicular_mm=float(perpendicular or 20),
        volume_ml=int(voxels or 1) * float(ml or 1),
        measurable=not small,
        measurable_3d=not small,
        merged=(int(merged),) if merged else (),
        split_from=int(split) if split else None,
    )


def day_of(label: str) -> int | None:
    found = re.match(r"d(-?\d+)", label)
    return int(found[1]) if found else None


def visits_of(case: Mapping[str, Any]) -> list[VisitMeasures]:
    region = CRITERIA[case["criterion"]].region
    everywhere = ("ET", "WT", "NCE")
    visits = []
    for order, (label, text) in enumerate(case["visits"].items()):
        day = day_of(label)
        missing = text.startswith("NE ")
        lesions = () if missing or text == "none" else tuple(lesion_of(each, region) for each in text.split(", "))
        visits.append(
            VisitMeasures(
                label=label,
                lesions=lesions,
                date=None if day is None else DAY_0 + datetime.timedelta(day),
                order=order,
                regions=tuple(case.get("measured", {}).get(label, everywhere)),
                evaluable=not missing,
                why_not=text.removeprefix("NE ") if missing else "",
            )
        )
    return visits


def clinical_of(case: Mapping[str, Any]) -> Clinical:
    rows = [f"d{case['rt']} radiotherapy_end"] if "rt" in case else []
    entries = []
    for line, row in enumerate([*rows, *case.get("clinical", [])], 2):
        when, word, *rest = row.split()
        entry = ClinicalEntry(line, DAY_0 + datetime.timedelta(day_of(when) or 0))
        if word == "steroids":
            entry = replace(entry, steroids_mg=float(rest[0]))
        else:
            entry = replace(entry, state=rest[0]) if word == "state" else replace(entry, event=word)
        entries.append(entry)
    return Clinical(tuple(entries))


def respond_to(case: Mapping[str, Any]) -> PatientResponse:
    return respond(visits_of(case), case["criterion"], clinical_of(case), regions=case.get("regions"))


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["name"].replace(" ", "-"))
def test_a_sequence_worked_by_hand_gets_its_categories(case):
    assert set(case) <= KEYS
    assert case["hand"]
    result = respond_to(case)
    shown = {word: mark for mark, word in CONFIRMED.items()}
    found = [f"{row.category}{'p' if row.preliminary else ''}{shown[row.confirmed]}" for row in result.visits]
    assert " ".join(found) == case["expect"], [row.reason for row in result.visits]
    last = result.visits[-1]
    assert case.get("say", "") in last.reason, last.reason
    known = {
        "baseline": result.baseline,
        "best": result.best,
        "best_unconfirmed": result.best_unconfirmed,
        "progression": result.progression or "none",
        "ttp": result.time_to_progression_days,
        "overall": last.overall,
        "targets": [number for _, number in (last.targets or ())],
    }
    for key in known.keys() & case.keys():
        assert known[key] == case[key], key
    assert sum(result.counts.values()) == len(case["visits"])


def test_the_golden_table_has_each_name_once_all_categories_and_all_criteria():
    assert len(GOLDEN) >= 40
    assert len({case["name"] for case in GOLDEN}) == len(GOLDEN)
    assert {case["criterion"] for case in GOLDEN} == set(CRITERIA)
    told = {re.sub(r"p?[-+=~]?$", "", word) for case in GOLDEN for word in case["expect"].split()}
    assert told == set(CATEGORIES)


def case_of(criterion: str = "rano2", rt: int | None = -30, **visits: str) -> dict[str, Any]:
    return {"criterion": criterion, "visits": visits} | ({} if rt is None else {"rt": rt})


def test_the_order_in_which_visits_are_given_changes_nothing():
    visits = visits_of(case_of(d0="1=40x25, 2=20x20", d60="1=20x25", d120="1=30x25, 2=10x10"))
    results = [respond(order, "rano2").visits for order in itertools.permutations(visits)]
    assert all(rows == results[0] for rows in results)


def test_a_later_visit_changes_no_earlier_category():
    # The merging on day 90 makes lesions 1 and 4 one; day 60 was judged before that.
    case = case_of(d0="1=20x20, 2=20x20, 3=20x20, 4=15x10", d60="1=25x20, 2=20x20, 3=20x20, 4=15x10")
    early = respond_to(case)
    case["visits"]["d90"] = "1=30x25+4, 2=20x20, 3=20x20"
    late = respond_to(case)
    assert [row.category for row in late.visits[:2]] == [row.category for row in early.visits]
    assert late.visits[1].value == early.visits[1].value == 500 + 400 + 400


@pytest.mark.parametrize(
    ("criterion", "second", "inside", "doubtful"),
    [
        ("rano2", "1=40x28.25", True, True),  # +13 %; and 13 % on either side it is 983 to 1277, across 1250
        ("rano2", "1=40x26", True, False),  # +4 %; 905 to 1175
        ("rano2", "1=49x25", False, True),  # 1066 to 1384, across 1250
        ("rano2", "1=40x35", False, True),  # 1218 to 1582
        ("rano2", "1=40x36", False, False),  # 1253 to 1627
        ("rano2-volume", "1=10.6ml", True, False),  # +6 %; 9.96 to 11.24
        ("rano2-volume", "1=13.5ml", False, True),  # 12.69 to 14.31, across 14
        ("rano2-volume", "1=15ml", False, False),  # 14.1 to 15.9
    ],
)
def test_the_repeatability_stands_beside_a_change(criterion, second, inside, doubtful):
    first = "1=10ml" if criterion == "rano2-volume" else "1=40x25"
    row = respond_to(case_of(criterion, d0=first, d90=second)).visits[1]
    band = "2 to 6 %" if criterion == "rano2-volume" else "2 to 13 %"
    assert (f"the change is inside the repeatability of {band}" in row.reason) == inside
    assert (f"a bound lies within the repeatability of {band}" in row.reason) == doubtful
    assert (row.inside_repeatability, row.doubtful) == (inside, doubtful)


@pytest.mark.parametrize(
    ("criterion", "second"), [("rano2", "1=40x28.5"), ("rano2-volume", "1=10.601ml"), ("rano2", "1=60x25")]
)
def test_a_change_beyond_the_repeatability_is_not_said_to_be_inside(criterion, second):
    first = "1=10ml" if criterion == "rano2-volume" else "1=40x25"
    row = respond_to(case_of(criterion, d0=first, d90=second)).visits[1]
    assert row.inside_repeatability is False
    assert "inside" not in row.reason


def test_a_row_holds_the_numbers_of_its_reason():
    result = respond_to(case_of(d0="1=40x25", d60="1=24x25", d120="1=30x25"))
    row = result.visits[2]
    assert (row.baseline, row.nadir, row.value, row.unit) == ("d0", "d60", 750, "mm2")
    assert row.change_from_baseline_percent == pytest.approx(-25)
    assert row.change_from_nadir_percent == pytest.approx(25)
    assert result.progression_date == datetime.date(2025, 5, 1)
    assert result.counts == {"BASELINE": 1, "CR": 0, "PR": 0, "MR": 0, "SD": 1, "PD": 1, "NE": 0}


def test_a_baseline_far_from_radiotherapy_says_so():
    assert "21 to 35 days are asked for" in respond_to(case_of(rt=-36, d0="1=40x25")).baseline_how
    assert "21 to 35 days are asked for" in respond_to(case_of(rt=-20, d0="1=40x25")).baseline_how
    for day in (-21, -35):
        assert respond_to(case_of(rt=day, d0="1=40x25")).baseline_how == (
            f"end of radiotherapy {DAY_0 + datetime.timedelta(day)}, {-day} days before this scan"
        )


@pytest.mark.parametrize(("start", "said"), [(14, False), (15, True)])
def test_a_baseline_long_before_a_treatment_says_so(start, said):
    case = case_of(rt=None, d0="1=40x25") | {"clinical": [f"d{start} treatment_start"]}
    assert ("at most 14 days before are asked for" in respond_to(case).baseline_how) == said


def test_a_baseline_that_is_named_replaces_the_rules():
    visits = visits_of(case_of(d0="1=40x25", d60="1=20x25", d120="1=25x25"))
    rows = respond(visits, "rano2", baselines=["d60"]).visits
    assert [row.category for row in rows] == ["NE", "BASELINE", "PD"]
    with pytest.raises(UsageError, match=r"^P1: baseline 'd9': there is no such visit; name one of d0, d60, d120$"):
        respond(visits, "rano2", baselines=["d9"], patient="P1")


def test_targets_of_a_table_replace_the_rules_and_must_fit():
    visits = visits_of(case_of(d0="1=40x25, 2=20x20, 3=8x8!", d60="1=40x25, 2=20x25, 3=8x8!"))
    by_rule, named = (respond(visits, "rano2", targets=chosen) for chosen in ({}, {("rano2", "ET"): (2,)}))
    assert [each.visits[1].category for each in (by_rule, named)] == ["SD", "PD"]  # 1500 / 1400, and 500 / 400
    for lesion, fault in ((3, "is not measurable at the baseline d0 by rano2"), (7, "is not there at the baseline d0")):
        with pytest.raises(UsageError, match=f"target lesion {lesion} of ET {fault}; name another"):
            respond(visits, "rano2", targets={("rano2", "ET"): (lesion,)})
    many = visits_of(case_of(d0="1=40x25, 2=20x20, 3=20x20, 4=20x20"))
    with pytest.raises(UsageError, match="4 targets in ET, rano2 takes at most 3"):
        respond(many, "rano2", targets={("rano2", "ET"): (1, 2, 3, 4)})


def test_no_visit_and_no_evaluable_visit_give_no_baseline():
    nothing = respond([], "rano2")
    assert (nothing.visits, nothing.baseline, nothing.best) == ((), None, "NE")
    blind = respond_to(case_of(d0="NE no mask"))
    assert (blind.baseline, blind.visits[0].category, blind.visits[0].reason) == (None, "NE", "no mask")


def test_two_visits_of_one_name_and_unknown_criteria_are_refused():
    visit = visits_of(case_of(d0="1=40x25"))[0]
    with pytest.raises(UsageError, match="two visits are called 'd0'"):
        respond([visit, visit], "rano2")
    with pytest.raises(UsageError, match=r"no criteria are called 'rano3' \(did you mean rano2\?\)"):
        respond([visit], "rano3")


@pytest.mark.parametrize(
    ("diameters", "slice_mm", "expected"),
    [
        ([(10, 10), (10, 10)], None, True),
        ([(10, 10), (10, 9.99)], None, False),
        ([(30, 30)], None, False),  # one slice
        ([(9.99, 9.99)] * 5, None, False),
        ([], None, False),
        ([(10, 10), (10, 10)], 5, True),
        ([(11, 11), (12, 12)], 6, False),  # RANO 2010: twice 6 mm
        ([(12, 12), (12, 12)], 6, True),
    ],
)
def test_measurable_in_2d_is_ten_millimetres_twice_on_two_slices(diameters, slice_mm, expected):
    assert is_measurable_2d(diameters, slice_mm=slice_mm) is expected


def test_measurable_in_3d_is_ten_millimetres_in_each_dimension():
    assert is_measurable_3d((10, 10, 10))
    assert is_measurable_3d((0.1 * 100, 30 / 3, 9.999999999999998))
    assert not is_measurable_3d((30, 30, 3))
    assert not is_measurable_3d((10, 10, 9.99))
    assert not is_measurable_3d(())


def test_thick_slices_count_in_2010_alone():
    lesion = replace(lesion_of("1=11x11", "ET"), measurable_2010=False)
    visits = [VisitMeasures("a", (lesion,), order=0), VisitMeasures("b", (), order=1)]
    assert [respond(visits, name).visits[1].category for name in ("rano2", "rano2010")] == ["CR", "SD"]


def test_by_volume_the_test_of_shape_is_that_in_3d():
    lesion = lesion_of("1=20x20", "ET")
    plate, ball = (replace(lesion, measurable=flat, measurable_3d=not flat) for flat in (True, False))
    for shape, expected in ((plate, ["CR", "SD"]), (ball, ["SD", "CR"])):
        visits = [VisitMeasures("a", (shape,), order=0), VisitMeasures("b", (), order=1)]
        assert [respond(visits, name).visits[1].category for name in ("rano2", "rano2-volume")] == expected


def test_a_region_that_was_not_measured_is_named():
    case = case_of("rano-lgg", d0="1=40x25", d60="1=40x25")
    case["measured"] = {"d0": ["WT"], "d60": ["WT"]}
    row = respond_to(case).visits[1]
    assert (row.category, "ET not measured: new lesions there are not seen" in row.reason) == ("SD", True)
    case["measured"] = {"d0": ["ET"], "d60": ["ET"]}
    assert [row.reason for row in respond_to(case).visits] == ["WT not measured", "WT not measured"]
