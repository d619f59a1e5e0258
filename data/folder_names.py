"""Names of folders made from the names of patients."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable

from data.visible import is_visible

_LONGEST_NAME = 100
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
# A run keeps its own files beside the patients' folders: report.csv, run.json and more, now and in later versions.
_LIKE_OUTPUT = re.compile(r".*\.(csv|html|json|txt|ctbl|yaml|png|gz|log|lock|tmp)", re.IGNORECASE)


def folder_name(case_id: str) -> str:
    """Return a safe output name for a case.

    It is one path component, valid on Linux, macOS and Windows.

    Letters, digits, blanks within and ``-_.+=,@()[]`` stay; anything else becomes ``_``. None begins as a spreadsheet
    formula does, or ends as the files do that a run writes. A name that had to be altered gets eight hexadecimal digits
    of its SHA-256, so that different ids stay different; at most 109 characters. An empty id gives ``_-e3b0c442``.
    """
    safe = "".join(
        letter if (letter.isalnum() and is_visible(letter)) or letter in "-_.+=,@()[] " else "_" for letter in case_id
    )
    safe = re.sub(r"\.\.+", "_", safe).lstrip(". =+-@").rstrip(". ")
    # 100 letters may be 400 bytes, and a file system counts bytes (255).
    safe = safe[:_LONGEST_NAME].encode("utf-8")[:_LONGEST_NAME].decode("utf-8", "ignore").rstrip(". ")
    if safe == case_id and safe and not _RESERVED.fullmatch(safe) and not _LIKE_OUTPUT.fullmatch(safe):
        return safe
    return f"{safe or '_'}-{hashlib.sha256(case_id.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def unique_folder_names(case_ids: Iterable[str]) -> dict[str, str]:
    """Return a distinct `folder_name` for every id.

    Names are made different where a file system that ignores case or composition takes two for one.

    The name of an id depends on the other ids only where they clash; the ids' order does not matter.
    """
    ids = sorted(set(case_ids))
    clashes: dict[str, int] = {}
    for case_id in ids:
        key = _as_one_name(folder_name(case_id))
        clashes[key] = clashes.get(key, 0) + 1
    names: dict[str, str] = {}
    taken: set[str] = set()
    for case_id in ids:
        name = folder_name(case_id)
        if clashes[_as_one_name(name)] > 1:
            name = f"{name}-{hashlib.sha256(case_id.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
        while _as_one_name(name) in taken:
            name += "_"
        taken.add(_as_one_name(name))
        names[case_id] = name
    return names


def _as_one_name(name: str) -> str:
    """Return one key for names that a file system may confuse.

    Such names differ in case, or in how accents are composed (APFS).
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
