"""Sentences of the command line for who has a page in front of him: advice that names an option, or a folder that he
has not, becomes what the page can do, or is left out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.web.names import quoted

FOLDER = "patient"
"""What a case's folder is called in sentences; no user has such a folder."""
_BY_NAMES = "name the files as their data set does"
_REWORDED: tuple[tuple[str, str], ...] = (
    (rf"(^|; ){FOLDER}: ", r"\1"),
    (r"choose --missing (?:zero or )?skip, or name another model", "or choose another model"),
    (
        r"(of the reference fit [^;]*); say which with --convention NAME",
        rf"\1; choose “Not used” for it, or {_BY_NAMES}",
    ),
    (r"say which with --convention NAME", _BY_NAMES),
    (r"[;,] name its convention with --convention(?: NAME)?", ""),
    (r"choose another with --convention(?: NAME)?", "choose another model"),
    (
        r"the folder [^;]*? holds another patient's file: ([^;]*); move it to that patient's folder",
        r"\1: bears another patient's name, and is not used unless you say what it shows",
    ),
    (
        r"the files of [^;]*? bear different patients' names (\([^;]*\)); keep one patient's files in a folder",
        r"the files bear different patients' names \1; check that they are one patient's",
    ),
    (r", or raise --max-voxels", ""),
    (r"; see the layouts in README", "; say what each file shows"),
    (r" \(--debug shows where\)", ""),
)
_OF_NO_USE = re.compile(r"the shipped model that fits best, needs |^nothing tells which label convention to write ")


def for_page(text: str) -> str:
    """A sentence of the command line, reworded where its advice cannot be followed on the page."""
    for pattern, page in _REWORDED:
        text = re.sub(pattern, page, text)
    return text


def of_use(warnings: Sequence[str]) -> list[str]:
    """Without those of which the page says more, or which settle themselves once the files are assigned."""
    return [text for text in warnings if not _OF_NO_USE.search(text)]


def with_names(text: str, shown: Mapping[str, str]) -> str:
    """A sentence with the user's names in place of ours; ``shown`` as of :func:`shown_names`."""
    return re.sub(
        r"(?:files/)?(f[0-9]{4,}\.[a-z.]*[a-z])(?![A-Za-z0-9])", lambda found: shown.get(found[1], found[1]), text
    )


def _one_of(source: Mapping[str, Any]) -> str:
    """The name of a source's file, without what was added to it for more slices or for one of its volumes."""
    added = (
        r" and [0-9]+ more slices$"
        if source["channel"] is None
        else r"( and [0-9]+ more slices)?, (band|volume) [0-9]+$"
    )
    return re.sub(added, "", source["name"])


def shown_names(sources: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Stored name -> what the user calls it, of all files of a case."""
    names: dict[str, str] = {}
    for source in sources:
        names |= {file: quoted(_one_of(source)) for file in source["files"]}
    return names
