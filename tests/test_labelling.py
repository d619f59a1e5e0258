"""pipeline/segment/scoring.py: the mask's convention and the reference's are two things."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data.case import Case, ImageSource
from data.find.recognise import ConventionChoice
from pipeline.options import SegmentOptions
from pipeline.segment.scoring import convention_remarks as remarks
from pipeline.segment.scoring import settled
from pipeline.segment.task import CaseTask

MODEL: Any = SimpleNamespace(settings={"convention": "brats2023"})
UNDECIDED = ConventionChoice(None, "undecided", "the labels {1, 2, 3} fit two; say which")


def task_of(found: ConventionChoice, asked: str | None = None, *, reference: bool = True) -> CaseTask:
    source = ImageSource((Path("seg.nii"),)) if reference else None
    case = Case(case_id="a", folder=Path(), layout="", layout_reason="", images={}, reference=source)
    return settled(CaseTask(case, "a", Path(), SegmentOptions(convention=asked), found), MODEL)


def test_a_mask_is_written_as_its_reference_unless_something_speaks_against_it():
    task = task_of(ConventionChoice("brats2017", "names"))
    assert (task.convention.name, task.read_as, remarks(task)) == ("brats2017", "brats2017", [])


def test_the_convention_of_masks_leaves_the_reference_to_its_own_evidence():
    task = task_of(ConventionChoice("brats2017", "names"), "brats2023")
    assert (task.convention.name, task.read_as) == ("brats2023", "brats2017")
    assert remarks(task) == ["reference read as brats2017 (names)"]


def test_where_nothing_tells_the_references_convention_that_of_the_masks_is_taken():
    task = task_of(UNDECIDED, "msd")
    assert (task.convention.name, task.read_as, task.convention.error) == ("msd", "msd", None)


def test_an_ambiguous_reference_costs_the_scores_and_never_the_mask():
    task = task_of(UNDECIDED)
    assert (task.convention.name, task.read_as, task.convention.error) == ("brats2023", None, None)
    assert task.convention.warnings[0].startswith("not scored: the labels {1, 2, 3} fit two")


def test_a_reference_of_the_whole_tumour_alone_takes_no_region_from_the_mask():
    task = task_of(ConventionChoice("whole-tumour", "0 and 1 alone"))
    assert (task.convention.name, task.read_as) == ("brats2023", "whole-tumour")
    assert "has no label for TC, ET" in task.convention.reason


@pytest.mark.parametrize("found", [UNDECIDED, ConventionChoice("lgg", "names")])
def test_without_a_reference_what_was_found_is_for_the_mask(found):
    assert task_of(found, reference=False).convention is found
