"""Names from outside: texts to show and to recognise, never paths of ours."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from data.visible import visible

_LONGEST_NAME, _DEEPEST = 1024, 16
_PLAIN = re.compile(r"[\w.+=@/-]+")
"""Without blanks and the marks that part sentences."""
_QUOTES = re.compile("[“”„‟❝❞〝〞＂]")
"""What could be read as the end of a quotation."""


@dataclass(frozen=True)
class Received:
    """One file of an upload: the name that it was sent under (never a path of ours), and where it lies."""

    name: str
    path: Path


def one_line(text: str) -> str:
    """A text from outside that can be shown anywhere: what shows nothing (half characters too) becomes ``_``."""
    return visible(text, "_").strip()


def clean_name(text: str) -> str:
    """A name from outside as a text to show and to recognise: ``folder/file``, without ``..``, roots and control characters.

    Empty for a name that says nothing.
    """
    text = one_line(text[-_LONGEST_NAME:])
    text = re.sub("%22", '"', re.sub("%0D|%0A", "_", text))  # how browsers write quotes and line ends
    parts = [part.strip() for part in re.split(r"[/\\]", text)]
    kept = [part[-200:] for part in parts if part not in ("", ".", "..")]
    return "/".join(kept[-_DEEPEST:])


def quoted(name: str) -> str:
    """A name for a sentence: in quotes where it could be read as a part of the sentence itself."""
    return name if _PLAIN.fullmatch(name) else "“" + _QUOTES.sub('"', name) + "”"
