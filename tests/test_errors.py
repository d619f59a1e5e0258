"""Errors as sentences: fault and fix, in the words of the command line and of the page."""

from __future__ import annotations

import copy
import errno
import re
from pathlib import Path

import pytest

from data.errors import COMMAND_LINE, InputError, Mend, UsageError, advise, explain

ROOT = Path(__file__).resolve().parent.parent


def test_an_error_with_a_fix_is_one_sentence_in_the_words_of_the_command_line():
    error = InputError("x.nii: declares 9 voxels, over the limit of 4", Mend.CHECK_HEADER)
    assert (
        str(error)
        == "x.nii: declares 9 voxels, over the limit of 4; check the header, or raise --max-voxels of `segment`"
    )
    assert (error.fault, error.mend) == ("x.nii: declares 9 voxels, over the limit of 4", Mend.CHECK_HEADER)
    assert explain(error) == str(error)


def test_an_error_comes_whole_out_of_another_process():
    """A copy is made as pickling makes it."""
    error = copy.deepcopy(InputError("no t1 image", Mend.ADD_IMAGE))
    assert str(error) == "no t1 image; add the file, choose --missing skip, or name another model"
    assert (error.fault, error.mend) == ("no t1 image", Mend.ADD_IMAGE)
    plain = copy.deepcopy(UsageError("x: is no folder; give one"))
    assert (str(plain), plain.mend) == ("x: is no folder; give one", None)


def test_the_command_line_and_the_page_have_words_for_every_fix():
    from pipeline.web.compute.advice import PAGE

    for words in (COMMAND_LINE, PAGE):
        assert set(words) == set(Mend)
        assert all(text and "; " not in text for text in words.values())  # one clause each
    assert len(set(COMMAND_LINE.values())) == len(Mend)  # a fix is known again by its words


def test_no_words_of_the_page_name_an_option_or_a_file_of_ours():
    from pipeline.web.compute.advice import PAGE, SAY_CONVENTION

    folder = ROOT / "pipeline" / "web"
    scripts = [path.read_text(encoding="utf-8") for path in (folder / "static").glob("*.js")]
    pages = [path.read_text(encoding="utf-8") for path in (folder / "templates").glob("*.html")]
    assert scripts and pages
    for text in (*PAGE.values(), SAY_CONVENTION):
        assert not re.search("--|README|folder", text), text
    for text in (*scripts, *pages):
        # An option stands after a blank or a quote; "--depth" of a script does not.
        assert not re.search(r"[\s\"'`(]--[a-z][a-z-]+(?=[\s.,;\"'`)])(?! *<)", text)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (UsageError("x: is no folder; give one"), "x: is no folder; give one"),
        (OSError(errno.ENOSPC, "No space left on device", "/out/a/x.nii.gz"),
         "P1: x.nii.gz: No space left on device; free some space, and run it again"),
        (OSError(errno.EIO, "Input/output error"), "P1: Input/output error; mend that, and run it again"),
        (MemoryError(), "P1: not enough memory for this case; free some, or use fewer processes"),
        (ValueError("two\nlines"), "P1: unexpected ValueError: two lines; please report it (--debug shows where)"),
        (ValueError("x" * 1000), f"P1: unexpected ValueError: {'x' * 300}; please report it (--debug shows where)"),
    ],
)  # fmt: skip
def test_any_exception_is_a_sentence_about_a_case(error, sentence):
    assert explain(error, "P1") == sentence


def test_without_a_case_the_whole_path_is_named_and_the_page_has_its_own_words():
    from pipeline.web.compute.advice import PAGE

    full = OSError(errno.EACCES, "Permission denied", "/out/report.csv")
    assert explain(full) == "/out/report.csv: Permission denied; mend its permissions, and run it again"
    assert explain(MemoryError(), words=PAGE) == "not enough memory for this case; try smaller images"
    lacking = InputError("no t1 image, and m needs t1, t2", Mend.ADD_IMAGE)
    assert explain(lacking, words=PAGE) == "no t1 image, and m needs t1, t2; add the file, or choose another model"
    assert advise("no t1 image", Mend.ADD_IMAGE, PAGE) == "no t1 image; add the file, or choose another model"
