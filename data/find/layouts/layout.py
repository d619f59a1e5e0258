"""Layouts: the naming of the files of one data set, read from YAML."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from data.case import MODALITIES
from data.errors import ConventionError, UsageError
from data.find.layouts.bounded import endless
from data.labels import convention_option
from data.strict_yaml import read_strict_yaml

REFERENCE = "reference"
log = logging.getLogger(__name__)


_FOLDER = Path(__file__).parent
_KINDS = {"files", "channels", "numbered", "slices", "suffix"}
_OPTIONAL: dict[str, Any] = {
    "pattern": "", "images": {}, "reference": [], "other_references": [], "ignored": [], "not_ours": [],
    "channels": [], "image_folders": [], "reference_folders": [], "not_ours_folders": [], "example": {},
}  # fmt: skip
_OWN_KINDS = ("files", "channels")
"""Kinds of a user's own layouts; the others are each read in a way of their own."""
_own: ContextVar[Mapping[str, Layout] | None] = ContextVar("layouts of the user's own", default=None)
_matched: ContextVar[set[str]] = ContextVar("names of layouts that some file bears")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Naming of the files of one data set.

    Parameters
    ----------
    name, title : str
        Its key, and what a person calls it.
    kind : {"files", "channels", "numbered", "slices", "suffix"}
        One file a modality; one 4D file; one numbered file a modality; one file a slice; modality by suffix alone.
    pattern : re.Pattern or None
        The whole name without extension, any case; groups ``patient``, ``token``, ``channel``, ``slice``, ``mask``.
    tokens : mapping of str to str
        Lower-case token to modality, ``"reference"`` or ``"ignored"``.
    other_references, ignored : tuple of re.Pattern
        Whole names that are a reference, or nothing of ours, whatever the pattern says.
    channels : tuple of str
        Modalities of a 4D file's volumes or of a colour slice's bands, in order.
    image_folders, reference_folders : frozenset of str
        Folder names that say what their files are.
    not_ours_folders : frozenset of str
        Names of folders within a patient's that hold results of programs.
    conventions : tuple of str
        Label conventions that the naming admits, best first; empty when it says nothing.
    example : mapping
        ``paths``, perhaps ``json``, and the ``cases`` that must be found: run by the tests. A user's own needs none.
    """

    name: str
    title: str
    kind: str
    pattern: re.Pattern[str] | None
    tokens: Mapping[str, str]
    other_references: tuple[re.Pattern[str], ...]
    ignored: tuple[re.Pattern[str], ...]
    channels: tuple[str, ...]
    image_folders: frozenset[str]
    reference_folders: frozenset[str]
    not_ours_folders: frozenset[str]
    conventions: tuple[str, ...]
    example: Mapping[str, Any]


def parse_layout(mapping: Mapping[str, Any], source: str) -> Layout:
    """Make a layout from plain data.

    ``UsageError`` naming `source` for an unknown key, kind, modality, convention or bad pattern.
    """
    needed = {"name", "title", "kind", "conventions"}
    if not needed <= set(mapping) or set(mapping) - needed - set(_OPTIONAL):
        raise UsageError(
            f"{source}: a layout has the keys {sorted(needed)} and perhaps {sorted(_OPTIONAL)}, not "
            f"{sorted(map(str, mapping))}"
        )
    raw = {**_OPTIONAL, **mapping}
    _check_forms(raw, source)
    if raw["kind"] not in _KINDS:
        raise UsageError(f"{source}: the kind {raw['kind']!r} must be one of {sorted(_KINDS)}")
    if set(raw["images"]) - set(MODALITIES) or set(raw["channels"]) - set(MODALITIES):
        raise UsageError(f"{source}: modalities are {', '.join(MODALITIES)}, not {[*raw['images'], *raw['channels']]}")
    try:
        conventions = tuple(_convention(text, source) for text in raw["conventions"])
    except ConventionError as error:
        raise UsageError(f"{source}: {error}") from None
    tokens = _tokens({**raw["images"], REFERENCE: raw["reference"], "ignored": raw["not_ours"]}, source)
    try:
        pattern = (
            re.compile(raw["pattern"].replace("{token}", _token_group(tokens)), re.IGNORECASE | re.DOTALL)
            if raw["pattern"]
            else None
        )
        others, ignored = (
            tuple(re.compile(text, re.IGNORECASE | re.DOTALL) for text in raw[key])
            for key in ("other_references", "ignored")
        )
    except re.error as error:
        raise UsageError(f"{source}: the pattern {error.pattern!r} is no regular expression: {error}") from error
    return Layout(
        name=str(raw["name"]),
        title=str(raw["title"]),
        kind=raw["kind"],
        pattern=pattern,
        tokens=tokens,
        other_references=others,
        ignored=ignored,
        channels=tuple(raw["channels"]),
        image_folders=frozenset(raw["image_folders"]),
        reference_folders=frozenset(raw["reference_folders"]),
        not_ours_folders=frozenset(raw["not_ours_folders"]),
        conventions=conventions,
        example=raw["example"],
    )


def _token_group(tokens: Iterable[str]) -> str:
    """Return the expression of any of the words of a layout."""
    # Longest first, so that "t1ce" is not read as "t1" with something behind it.
    return "(?P<token>" + "|".join(sorted(map(re.escape, tokens), key=len, reverse=True)) + ")"


def _tokens(roles: Mapping[str, Iterable[str | int]], source: str) -> dict[str, str]:
    """Return the role of each word, in small letters. A word of two roles is an error."""
    tokens: dict[str, str] = {}
    for role, words in roles.items():
        for word in map(str, words):
            if tokens.setdefault(word.lower(), role) != role:
                raise UsageError(
                    f"{source}: the word {word!r} stands for {tokens[word.lower()]} and for {role}; keep it for one"
                )
    return tokens


def _check_forms(raw: Mapping[str, Any], source: str) -> None:
    spelt = raw["images"].values() if isinstance(raw["images"], dict) else [None]
    lists = [raw[key] for key, usual in _OPTIONAL.items() if isinstance(usual, list)] + [raw["conventions"], *spelt]
    if not all(isinstance(part, list) and all(isinstance(text, str | int) for text in part) for part in lists):
        raise UsageError(
            f"{source}: images must map modalities to lists, such as {{t1: [T1W]}}, and all keys but name, title, "
            "kind, pattern and example must be lists"
        )
    if not isinstance(raw["pattern"], str) or not isinstance(raw["kind"], str):
        raise UsageError(f"{source}: kind and pattern must be texts")


def _convention(text: Any, source: str) -> str:
    """Return the spelling of a convention that a layout admits.

    It is a shipped one, or a YAML file beside the layout's own.
    """
    beside = str(Path(source).parent / str(text))
    return convention_option(beside if beside.lower().endswith((".yaml", ".yml")) else str(text))


def read_layout(path: Path) -> Layout:
    """Read a user's own layout from a YAML file.

    The file has the form of the shipped ones.

    Its kind is ``files`` or ``channels``; ``conventions`` may name YAML files beside it, and ``example`` may be left
    out.

    Raises
    ------
    UsageError
        The file cannot be read, is no layout, or bears the name of a shipped one.
    """
    try:
        layout = parse_layout(read_strict_yaml(path), str(path))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); give a YAML file") from None
    except ValueError as error:
        raise UsageError(str(error)) from None
    texts = [layout.pattern.pattern if layout.pattern else "", *(each.pattern for each in layout.other_references)]
    texts += [each.pattern for each in layout.ignored]
    for text in texts:
        if fault := endless(text.replace(_token_group(layout.tokens), "{token}")):
            shown = text.replace(_token_group(layout.tokens), "{token}")
            raise UsageError(f"{path}: the pattern {shown[:80]!r} {fault}")
    if layout.name in _shipped_layouts() or not layout.name.isprintable():
        raise UsageError(f"{path}: the name {layout.name!r} is that of a shipped layout; give it another")
    if layout.kind not in _OWN_KINDS:
        raise UsageError(f"{path}: the kind of a layout of your own must be one of {', '.join(_OWN_KINDS)}")
    groups = layout.pattern.groupindex if layout.pattern else {}
    needed = ("patient", "token") if layout.kind == "files" else ("patient",)
    if lacking := [group for group in needed if group not in groups]:
        wanted = "{token}" if lacking == ["token"] else "(?P<patient>...)"
        raise UsageError(f"{path}: the pattern must hold {wanted}, or no file is told from the others")
    if not (layout.channels if layout.kind == "channels" else layout.tokens):
        raise UsageError(f"{path}: it names no modality; list them under {'channels' if groups else 'images'}")
    return layout


@contextmanager
def own_layouts(paths: Iterable[Path]) -> Iterator[None]:
    """Use a user's own layouts within the block.

    Files are matched by these first, then by the shipped ones. One that matched no file is told of at the end.

    Parameters
    ----------
    paths : iterable of Path
        YAML files, see `read_layout`, which says how they are refused.
    """
    layouts: dict[str, Layout] = {}
    for path in paths:
        layout = read_layout(Path(path))
        if layout.name in layouts:
            raise UsageError(f"{path}: another layout is called {layout.name} too; give it another name")
        layouts[layout.name] = layout
    tokens = _own.set(layouts), _matched.set(set())
    try:
        yield
    finally:
        for layout in layouts.values():
            if layout.name not in _matched.get():
                log.warning("the layout %s names no file that was found; check its pattern and its words", layout.name)
        _own.reset(tokens[0])
        _matched.reset(tokens[1])


def note_match(layout: Layout) -> None:
    """Keep in mind that some file is named as in a layout."""
    if _own.get():
        _matched.get().add(layout.name)


def load_layouts() -> Mapping[str, Layout]:
    """Return all layouts by name, those of :func:`own_layouts` before the shipped ones.

    ``UsageError`` when a file of them is not valid.
    """
    own = _own.get()
    return {**own, **_shipped_layouts()} if own else _shipped_layouts()


@cache
def _shipped_layouts() -> Mapping[str, Layout]:
    layouts = {}
    for path in sorted(_FOLDER.glob("*.yaml")):
        try:
            layouts[path.stem] = parse_layout(read_strict_yaml(path), str(path))
        except ValueError as error:
            raise UsageError(str(error)) from error
    return layouts
