"""Visible characters.

Names from outside are read by people, who must see every letter of them.
"""

from __future__ import annotations

INVISIBLE = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0"  # joiners, fillers and vowels without a sign
    + "".join(map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))  # selectors of variants
    + "\u2800\U0001d159"  # a braille cell without dots, a musical note without a head
)
"""What Unicode counts as letters, marks and symbols, and Python as printable, but shows nothing (Unicode 15,
Default_Ignorable_Code_Point, and two blank signs)."""


def is_visible(character: str) -> bool:
    """Tell whether one character shows something, or is the blank.

    A control, another blank, half a character and a filler do not.
    """
    return character.isprintable() and character not in INVISIBLE


def visible(text: str, instead: str = "\N{REPLACEMENT CHARACTER}") -> str:
    """Return the text with ``instead`` for each character that shows nothing.

    An empty text stays one.
    """
    return "".join(character if is_visible(character) else instead for character in text)
