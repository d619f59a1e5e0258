"""YAML files of ours, read strictly.

They hold plain data only, no key twice, no aliases, and are a few levels deep.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from data.regular_file import read_regular_file

LARGEST_FILE, LONGEST = 2**16, 1000
"""Bytes, and letters of one key or value; a recipe has some 3000. PyYAML takes a second for 100 kB."""
DEEPEST = 32
"""Levels of lists and mappings; a recipe of a cascade has 6."""
_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, OverflowError)
"""What PyYAML lets through of a scalar that is not what its tag says: the 13th month, 5000 digits."""


def read_strict_yaml(path: Path) -> dict[Any, Any]:
    """Read a YAML file with a mapping at its top level.

    Parameters
    ----------
    path : Path
        A UTF-8 file of plain YAML; tags that build Python objects are refused by the safe loader.

    Returns
    -------
    dict
        The mapping; an empty file gives an empty one.

    Raises
    ------
    ValueError
        The file is no regular one or larger than 64 KiB, no YAML, no mapping, says a key twice (PyYAML alone would keep
        the last, in silence), uses an alias (a few lines of which unpack to gigabytes), is nested too deep,
        or has a key or value of more than 1000 letters.
    OSError
        It cannot be read.
    """
    text = _read_text(path)
    try:
        _refuse_aliases_and_depth(text, path)
        _refuse_double_keys(yaml.compose(text, Loader=yaml.SafeLoader), path)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    except _UNREADABLE as error:
        detail = " ".join(str(error).split())[:100]
        raise ValueError(f"{path} is not valid YAML: a number or date in it cannot be read ({detail})") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a mapping (key: value), not {type(content).__name__}")
    return content


def line_of(path: Path, location: Sequence[str | int]) -> int | None:
    """Return the line, counted from 1, on which a value stands.

    Parameters
    ----------
    path : Path
        A file that :func:`read_strict_yaml` has read.
    location : sequence of str or int
        Keys and positions in lists on the way to the value; where the file does not go as far, the last that is there.

    Returns
    -------
    int or None
        Of the key; of the item in a list. None where not even the first step is in the file.
    """
    node = yaml.compose(_read_text(path), Loader=yaml.SafeLoader)
    line = None
    for step in location:
        if isinstance(node, yaml.MappingNode):
            found = [(key, value) for key, value in node.value if key.value == str(step)]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            found = [(item, item) for item in node.value[step : step + 1]]
        else:
            found = []
        if not found:
            break
        (marked, node), *_ = found
        line = marked.start_mark.line + 1
    return line


def _read_text(path: Path) -> str:
    try:
        return read_regular_file(path, LARGEST_FILE).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        fault = f"{path}: is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        raise ValueError(fault) from None
    except ValueError as error:
        raise ValueError(f"{path} {error}; give a YAML file") from None


def _refuse_aliases_and_depth(text: str, path: Path) -> None:
    """Refuse aliases, long values and deep nesting.

    PyYAML's events come one by one; what is built of them is built by recursion.
    """
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"{path}, line {line}: the alias *{event.anchor} is not read; write the value out")
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > LONGEST:
            raise ValueError(f"{path}, line {line}: a value is longer than {LONGEST} letters; shorten it")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ValueError(f"{path}, line {line}: is nested more than {DEEPEST} levels deep; correct it")


def _refuse_double_keys(node: yaml.Node | None, path: Path) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ValueError(
                    f"{path}, line {key.start_mark.line + 1}: a key must be a single word, not a list or a mapping"
                )
            if key.value in seen:
                raise ValueError(
                    f"{path}, line {key.start_mark.line + 1}: the key {key.value!r} is said twice; keep one"
                )
            seen.add(key.value)
            _refuse_double_keys(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_double_keys(item, path)
