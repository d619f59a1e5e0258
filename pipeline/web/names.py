"""Names from outside: texts to show and to recognise, never paths of ours."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from data.visible import visible

_LONGEST_NAME, _DEEPEST = 1024, 16
_PLAIN = re.compile(r"[\w.+=@/-]+")
"""Names without blanks and punctuation of sentences."""
_QUOTES = re.compile("[“”„‟❝❞〝〞＂]")
"""Marks that could be read as the end of a quotation."""


@dataclass(frozen=True)
class Received:
    """File of an upload: the name under which it was sent, and its path.

    The name is never a path of ours.
    """

    name: str
    path: Path


def one_line(text: str) -> str:
    """Return a text from outside that can be shown anywhere.

    Characters that show nothing (half characters too) become ``_``.
    """
    return visible(text, "_").strip()


def clean_name(text: str) -> str:
    """Return a name from outside as a text to show and to recognise.

    It has the form ``folder/file``, without ``..``, roots and control characters.

    Empty for a name that says nothing.
    """
    text = one_line(text[-_LONGEST_NAME:])
    text = re.sub("%22", '"', re.sub("%0D|%0A", "_", text))  # how browsers write quotes and line ends
    parts = [part.strip() for part in re.split(r"[/\\]", text)]
    kept = [part[-200:] for part in parts if part not in ("", ".", "..")]
    return "/".join(kept[-_DEEPEST:])


def quoted(name: str) -> str:
    """Return a name for a sentence, in quotes where it could be misread.

    Without quotes stay names that cannot be read as a part of the sentence itself.
    """
    return name if _PLAIN.fullmatch(name) else "“" + _QUOTES.sub('"', name) + "”"
