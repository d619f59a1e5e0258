"""Bound on patterns of own layouts that could match for ever.

Python's regular expressions go back over what they have matched. A repetition within a repetition takes twice as long
for each further character of a name, and several wide ones beside each other a power of its length.
"""

from __future__ import annotations

import re
import time

LONGEST_NAME = 255
"""Characters of a file's name, on all usual disks."""
_MOST_SECONDS = 0.05
_MOST_WIDE = 3
_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{[0-9]*,?[0-9]*\}|.", re.DOTALL)
_WIDE = re.compile(r"\.|\[\^.*|\\[DSWw]", re.DOTALL)
_STRANGERS = "0aA_- ."


def endless(pattern: str) -> str:
    """Return why a pattern may not end, empty where it does.

    Parameters
    ----------
    pattern : str
        A regular expression, with ``{token}`` where the words stand.

    Returns
    -------
    str
        The fault and its fix, to stand behind the pattern in a sentence.
    """
    text = pattern.replace("{token}", "x")
    wide = 0
    groups = [False]  # of each open group: its content can be matched in more than one way
    before, closed = "", False  # the item before, and whether it is a group of that kind
    for item in _TOKEN.findall(text):
        repeats = item in ("*", "+") or (item.startswith("{") and len(item) > 1)
        if item == "(":
            groups.append(False)
        elif item == ")" and len(groups) > 1:
            closed = groups.pop()
            groups[-1] |= closed
        elif item == "|":
            groups[-1] = True
        elif repeats and before not in ("*", "+", "?"):
            if before == ")" and closed:
                return "repeats what is repeated or has alternatives; write it without a repetition around it"
            wide += bool(_WIDE.fullmatch(before))
            groups[-1] = True
        before = item
    if wide > _MOST_WIDE:
        return f"has {wide} repetitions of any character; leave {_MOST_WIDE}, and write others as [0-9]+ or [A-Z]+"
    return _too_slow(text)


def _too_slow(text: str) -> str:
    """Try a pattern on names that grow, and stop before it takes long."""
    compiled = re.compile(text, re.IGNORECASE | re.DOTALL)
    for letter in _STRANGERS:
        length = 8
        while length < LONGEST_NAME:
            start = time.thread_time()
            compiled.fullmatch(letter * length + "!")
            if time.thread_time() - start > _MOST_SECONDS:
                return f"takes too long on a name of {length} characters; let each part of it match other characters"
            length += max(1, length // 16)
    return ""
