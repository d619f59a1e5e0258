"""Series of DICOM examinations are told apart as a radiographer would, or listed where they cannot be."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="the extra dicom is not installed")

from data.case import MODALITIES, Case
from data.find.dicom import choice
from data.find.discover import discover_cases
from data.io.dicom.record import read_record
from tests.dicom_files import uid, write_series, write_study
from tests.dicom_studies import ENHANCED, STUDIES, TIES


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> dict[str, Case]:
    """The forty studies in one folder, by name."""
    root = tmp_path_factory.mktemp("studies")
    for number, (name, (vendor, series)) in enumerate(STUDIES.items()):
        write_study(root / f"{number:02d}", name, vendor, series, enhanced=name in ENHANCED)
    found = {case.series[0].uid: case for case in discover_cases(root)}
    return {name: found[uid("series", name, "1")] for name in STUDIES}


def expected(name: str) -> dict[str, str]:
    return {made.role: uid("series", name, str(n)) for n, made in enumerate(STUDIES[name][1], 1) if made.role}


def test_there_are_forty_studies():
    assert len(STUDIES) == 40


@pytest.mark.parametrize("name", [name for name in STUDIES if name not in TIES])
def test_each_role_gets_the_series_that_shows_it(studies, name):
    case = studies[name]
    assert {role: source.series for role, source in case.images.items()} == expected(name)
    assert case.problems == ()


@pytest.mark.parametrize("name", sorted(TIES))
def test_a_tie_is_an_error_that_lists_every_series_in_question(studies, name):
    case = studies[name]
    [problem] = case.problems
    tied = {uid("series", name, str(n)) for n, made in enumerate(STUDIES[name][1], 1) if made.role == "?"}
    assert all(series in problem for series in tied) and "--series" in problem
    sure = {role: series for role, series in expected(name).items() if role in MODALITIES}
    assert {role: source.series for role, source in case.images.items()} == sure


def test_every_series_has_one_line_with_its_reasons(studies):
    for name, case in studies.items():
        assert len(case.series) == len(STUDIES[name][1])
        assert all(line.reasons or "no MR" in str(line) for line in case.series)


def volumes_of(**days: str):
    return {role: SimpleNamespace(records=[SimpleNamespace(date=day)]) for role, day in days.items()}


def test_images_of_different_days_are_said_without_the_dates():
    found = choice._other_days(volumes_of(t1="20240131", t1c="20240131", t2="20240214", flair="20240201"))
    assert found == ["images of different time points: t2 14 days after t1"]


@pytest.mark.parametrize("days", [{}, {"t1": ""}, {"t1": "20240131", "t2": "20240201"}, {"t1": "x", "t2": "20240201"}])
def test_an_examination_that_goes_on_after_midnight_and_unknown_dates_are_no_time_points(days):
    assert choice._other_days(volumes_of(**days)) == []


def test_the_day_of_a_series_is_that_of_its_acquisition(tmp_path):
    voxels = np.zeros((1, 8, 8), np.int16)
    known = {"AcquisitionDate": "20240102", "SeriesDate": "20240103"}
    one = write_series(tmp_path / "one", voxels, "1", **known)[0]
    other = write_series(tmp_path / "other", voxels, "2", SeriesDate="20240103")[0]
    assert (read_record(one).date, read_record(other).date) == ("20240102", "20240103")
