"""Sentences of the library in the words of the page.

A user of the page has neither options nor folders, so each fix has words of its own here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from data.errors import COMMAND_LINE, Mend
from pipeline.web.names import quoted

FOLDER = "patient"
"""Name of a case's folder in sentences; no user has such a folder."""
PREPARE_BOX = "Prepare the images where they need it"
"""Label of the box that has images prepared."""
PAGE: Mapping[Mend, str] = {
    Mend.ADD_IMAGE: "add the file, or choose another model",
    Mend.ADD_IMAGE_OR_TAKE_ZEROS: "add the file, or choose another model",
    Mend.NAME_CONVENTION: "correct its labels",
    Mend.NAME_CONVENTION_TO_SCORE: "it will not be scored, correct its labels",
    Mend.WRITE_ANOTHER_CONVENTION: "choose another model",
    Mend.CHECK_HEADER: "check the header",
    Mend.CHECK_SLICES: "check the slices",
    Mend.NAME_AS_A_LAYOUT: "say what each file shows",
    Mend.MOVE_TO_ITS_PATIENT: "it is not used unless you say what it shows",
    Mend.PART_THE_PATIENTS: "check that they are one patient's",
    Mend.PREPARE: f"switch on “{PREPARE_BOX}”, or register and skull-strip them",
    Mend.STRIP: "skull-strip them first",
    Mend.FREE_MEMORY: "try smaller images",
    Mend.REPORT: "please report it",
}
"""Each fix in the words of the page."""
SAY_CONVENTION = "choose “Not used” for it, or name the files as their data set does"
"""End of the error of a reference whose convention is undecided."""
_CLAUSES = {COMMAND_LINE[mend]: words for mend, words in PAGE.items()}


def for_page(text: str) -> str:
    """Return the command line's sentences with fixes in the page's words.

    Warnings and the reasons of a report are kept as text, joined by "; ". A fix is a whole clause of it, from the table
    by which the sentence was made.
    """
    clauses = (clause.removeprefix(f"{FOLDER}: ") for clause in text.split("; "))
    return "; ".join(_CLAUSES.get(clause, clause) for clause in clauses)


def with_places(text: str, shown: Mapping[str, str]) -> str:
    """Return a sentence with the user's words in place of our folders and files.

    ``shown`` maps ours to the user's.
    """
    for ours, users in shown.items():
        text = text.replace(ours, users)
    return text


def with_names(text: str, shown: Mapping[str, str]) -> str:
    """Return a sentence with the user's file names in place of ours; ``shown`` as of :func:`shown_names`."""
    return re.sub(
        r"(?:files/)?(f[0-9]{4,}\.[a-z.]*[a-z])(?![A-Za-z0-9])", lambda found: shown.get(found[1], found[1]), text
    )


def _one_of(source: Mapping[str, Any]) -> str:
    """Return the name of a source's file, without the additions for slices and volumes."""
    added = (
        r" and [0-9]+ more slices$"
        if source["channel"] is None
        else r"( and [0-9]+ more slices)?, (band|volume) [0-9]+$"
    )
    return re.sub(added, "", source["name"])


def shown_names(sources: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return stored name -> the user's name, of all files of a case."""
    names: dict[str, str] = {}
    for source in sources:
        names |= {file: quoted(_one_of(source)) for file in source["files"]}
    return names
