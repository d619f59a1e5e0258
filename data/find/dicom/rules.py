"""Rules that tell DICOM series apart, read from ``rules.yaml``."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from data.io.dicom.record import Record
from data.strict_yaml import read_strict_yaml

_NUMBERS = ("tr", "te", "ti", "b")
_PLANES = re.compile(r"(?<![a-z])(ax|axial|sag|cor|tra|tr)(?=t[12])")
_NONE = frozenset({"no", "none", "nein", "non", "ohne", "without", "n", "0", "keine", "aucun", "なし"})
_MARGIN, _ENOUGH = 2, 4
"""Points by which the best kind must lead, and those that it needs."""


@dataclass(frozen=True)
class Verdict:
    """Answer of the rules about one volume.

    Parameters
    ----------
    aside : str
        Kind of series that is left aside; ``""`` for one of the four.
    kind : str
        t1, t2 or flair; ``""`` where it is left aside.
    contrast : str
        with, without, contradicted, or ``""`` where nothing tells.
    reasons : tuple of str
        Evidence, as shown by `inspect`.
    """

    aside: str
    kind: str
    contrast: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class _Facts:
    text: str
    plain: str
    image_type: frozenset[str]
    sequence: frozenset[str]
    numbers: Mapping[str, float]


def judge(record: Record, *, protocol: bool = True) -> Verdict:
    """Tell which kind of series an image's header speaks of.

    Parameters
    ----------
    record : Record
        Header of the first file of a volume.
    protocol : bool
        Its ProtocolName is about this series, not about the whole examination ("brain w/wo contrast").
    """
    facts = _facts(record, protocol)
    if record.modality not in ("MR", ""):
        return Verdict(f"no MR image ({_safe(record.modality)})", "", "", ())
    for rule in load_rules()["aside"]:
        if reason := _holds(rule, facts):
            return Verdict(rule["name"], "", "", (reason,))
    points: dict[str, float] = {}
    reasons: dict[str, list[str]] = {}
    for rule in load_rules()["kind"]:
        if reason := _holds(rule, facts):
            points[rule["says"]] = points.get(rule["says"], 0) + rule["points"]
            reasons.setdefault(rule["says"], []).append(reason)
    ranked = sorted(points, key=lambda kind: -points[kind])
    if not ranked or points[ranked[0]] < _ENOUGH:
        return Verdict("of a kind that cannot be told", "", "", ("neither its words nor its times tell",))
    best = ranked[0]
    if len(ranked) > 1 and points[best] - points[ranked[1]] < _MARGIN:
        both = tuple(f"{kind}: {', '.join(reasons[kind])}" for kind in ranked[:2])
        return Verdict(f"{best} or {ranked[1]}, which cannot be told", "", "", both)
    if best not in ("t1", "t2", "flair"):
        return Verdict(best, "", "", tuple(reasons[best]))
    contrast, more = _contrast(record, facts) if best == "t1" else ("", ())
    pieces = (piece for reason in (*reasons[best], *more) for piece in reason.split(", "))
    return Verdict("", best, contrast, tuple(dict.fromkeys(pieces)))


def _contrast(record: Record, facts: _Facts) -> tuple[str, tuple[str, ...]]:
    """Tell whether a T1 was made with contrast, and why."""
    found: dict[str, list[str]] = {"with": [], "without": []}
    points = {"with": 0, "without": 0}
    for rule in load_rules()["contrast"]:
        if reason := _holds(rule, facts):
            found[rule["says"]].append(reason)
            points[rule["says"]] += rule["points"]
    # Words for "without" hold words for "with": "ohne KM", "pre contrast".
    words = "without" if points["without"] >= 6 or points["without"] > points["with"] else ""
    words = words or ("with" if points["with"] else "")
    agent = record.contrast or ""
    if agent:
        tag = "without" if agent.casefold() in _NONE else "with"
        why = "a contrast agent is named" if tag == "with" else "the contrast agent is said to be none"
        if words and words != tag:
            return "contradicted", (*found[words][:1], why)
        return tag, (*found[tag][:1], why)
    return words, tuple(found[words][:1]) if words else ("contrast is not said",)


def _facts(record: Record, protocol: bool) -> _Facts:
    words = record.words
    text = _plain(" | ".join(words.get(key, "") for key in ("SeriesDescription", "ProtocolName")[: 1 + protocol]))
    sequence = " ".join(words.get(key, "") for key in ("ScanningSequence", "SequenceVariant", "ScanOptions"))
    pulse = words.get("EchoPulseSequence", "").upper()
    parts = {*re.split(r"[\s\\]+", sequence.upper()), *({"GR"} if "GRADIENT" in pulse else set())}
    parts |= {"SE"} if "SPIN" in pulse else set()
    return _Facts(text, _gaps(text), frozenset(record.image_type), frozenset(parts), record.numbers)


def _plain(text: str) -> str:
    """Return a text in small letters, without accents, its planes set apart (``axt1``: ``ax t1``)."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = "".join(c for c in unicodedata.normalize("NFD", text) if ord(c) < 0x300 or ord(c) > 0x36F)
    return _PLANES.sub(r"\1 ", unicodedata.normalize("NFC", text))


def _gaps(text: str) -> str:
    return re.sub(r"[\s_\-/.,:;()\[\]^]+", " ", text)


def _holds(rule: Mapping[str, Any], facts: _Facts) -> str:
    """Return the reason why a rule holds; empty where it does not."""
    reasons = []
    for name, values in rule.items():
        if name == "words":
            reasons.append(next((f"{word!r}" for word in values if _word(word).search(facts.plain)), ""))
        elif name == "separate":
            reasons.append(next((f"{word!r}" for word in values if _separate(word).search(facts.text)), ""))
        elif name in ("image_type", "sequence"):
            present: frozenset[str] = getattr(facts, name)
            title = "ImageType" if name == "image_type" else "sequence"
            reasons.append(next((f"{title} {value}" for value in values if value in present), ""))
        elif name in _NUMBERS:
            number = facts.numbers.get(name)
            fits = number is not None and values[0] <= number <= values[1]
            reasons.append(f"{name.upper() if name != 'b' else 'b-value'} {number:g}" if fits else "")
        elif name == "no_ti":
            reasons.append("" if facts.numbers.get("ti") else "no TI")
    return ", ".join(reasons) if all(reasons) else ""


@lru_cache(maxsize=1024)
def _word(word: str) -> re.Pattern[str]:
    """Compile a word: no letter beside a letter, no digit beside a digit."""
    word = _gaps(_plain(word))
    left = r"(?<![^\W\d_])" if word[0].isascii() and word[0].isalpha() else r"(?<!\d)" if word[0].isdigit() else ""
    right = r"(?![^\W\d_])" if word[-1].isascii() and word[-1].isalpha() else r"(?!\d)" if word[-1].isdigit() else ""
    return re.compile(left + re.escape(word).replace(r"\ ", " ?") + right)


@lru_cache(maxsize=64)
def _separate(word: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\S){re.escape(word)}(?!\w)")


def _safe(modality: str) -> str:
    return re.sub(r"[^A-Z0-9]", "", modality.upper())[:16] or "?"


@lru_cache
def load_rules() -> Mapping[str, list[dict[str, Any]]]:
    """Load ``rules.yaml``; its lists are "aside", "kind" and "contrast"."""
    return read_strict_yaml(Path(__file__).with_name("rules.yaml"))
