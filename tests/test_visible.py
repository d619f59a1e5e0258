"""Names from outside: nothing in them stays unseen, wherever they are shown."""

from __future__ import annotations

import re
import sys
import unicodedata
from pathlib import Path

import pytest

import run_pipeline
from data.io.stream import printable
from data.visible import is_visible, visible
from pipeline.report.charts import _short
from pipeline.report.preview import printable as in_a_picture
from pipeline.report.texts import plain
from pipeline.web.names import clean_name, one_line

FILLER = "\N{HANGUL FILLER}"


def test_hangul_fillers_and_selectors_of_variants_are_invisible_by_their_names_in_unicode():
    named = {chr(n): unicodedata.name(chr(n), "") for n in range(sys.maxunicode + 1)}
    silent = [c for c, name in named.items() if re.search("HANGUL.* FILLER$|VARIATION SELECTOR", name)]
    assert len(silent) >= 4 + 256 + 3
    assert [named[c] for c in silent if is_visible(c)] == []


@pytest.mark.parametrize(
    "name",
    ["COMBINING GRAPHEME JOINER", "KHMER VOWEL INHERENT AQ", "KHMER VOWEL INHERENT AA", "BRAILLE PATTERN BLANK",
     "MUSICAL SYMBOL NULL NOTEHEAD", "ZERO WIDTH SPACE", "WORD JOINER", "SOFT HYPHEN", "RIGHT-TO-LEFT OVERRIDE",
     "NO-BREAK SPACE", "IDEOGRAPHIC SPACE", "TAG LATIN SMALL LETTER A", "INVISIBLE SEPARATOR"],
)  # fmt: skip
def test_what_shows_nothing_is_invisible(name):
    assert not is_visible(unicodedata.lookup(name))


@pytest.mark.parametrize("character", ["a", " ", "_", "\u00e9", "\N{COMBINING ACUTE ACCENT}", "\uac00",
                                       "\N{HANGUL CHOSEONG KIYEOK}", "\N{BRAILLE PATTERN DOTS-1}",
                                       "\u0915", "\N{BRAIN}"])  # fmt: skip
def test_letters_marks_and_pictures_are_visible(character):
    assert is_visible(character)


@pytest.mark.parametrize(
    ("show", "shown"),
    [
        (lambda name: printable(Path(name)), "P1\\u3164_t1"), (one_line, "P1__t1"), (clean_name, "P1__t1"),
        (plain, "P1\ufffd_t1"), (in_a_picture, "P1\ufffd_t1"), (_short, "P1\ufffd_t1"),
        (run_pipeline._printable, "P1?_t1"),
    ],
    ids=["sentence", "one line", "upload", "page", "picture", "chart", "terminal"],
)  # fmt: skip
def test_wherever_a_name_is_shown_a_filler_in_it_is_seen(show, shown):
    assert show(f"P1{FILLER}_t1") == shown


def test_a_text_keeps_its_length_and_every_letter_that_shows() -> None:
    assert visible("a\u3164b\n") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}"
    assert visible("é ok", "?") == "é ok" and visible("\ufe0fx", "_") == "_x" and visible("") == ""
