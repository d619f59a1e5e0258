"""Series of DICOM examinations are told apart as a radiographer would, or listed where they cannot be."""

from __future__ import annotations

import pytest

pytest.importorskip("pydicom", reason="the extra dicom is not installed")

from data.case import MODALITIES, Case
from data.find.discover import discover_cases
from tests.dicom_files import uid, write_study
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
