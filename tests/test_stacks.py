"""Slices put into order by the numbers in their names, whatever numbers these are."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from data.case import Case
from data.find.discover import discover_cases


def stack(root: Path, *numbers: str) -> Case:
    (root / "P1").mkdir()
    for number in numbers:
        (root / f"P1/flair_{number}.png").touch()
    (case,) = discover_cases(root)
    return case


@pytest.mark.parametrize("far", ["20261125113045", "300000000", "9" * 200])
def test_a_huge_number_in_a_name_costs_no_memory_and_is_said(far: str, tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        case = stack(tmp_path, "1", "2", "3", far)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
    assert len(case.images["flair"].paths) == 4 and "but 4 is missing" in case.warnings[0]
    assert far[:8] in case.warnings[0] and len(case.warnings[0]) < 200


def test_numbers_without_a_gap_say_nothing_wherever_they_begin(tmp_path: Path) -> None:
    assert not stack(tmp_path, "007", "8", "9", "10").warnings
