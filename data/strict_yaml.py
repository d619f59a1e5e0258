"""YAML files of ours, read strictly: plain data only, and no key said twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml


def read_strict_yaml(path: Path) -> dict[Any, Any]:
    """Read a YAML file whose top level is a mapping.

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
        The file is no YAML, not a mapping, or says a key twice (PyYAML alone would keep the last, in silence).
    """
    text = path.read_text(encoding="utf-8")
    try:
        _refuse_double_keys(yaml.compose(text, Loader=yaml.SafeLoader), path)
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a mapping (key: value), not {type(content).__name__}")
    return content


def line_of(path: Path, location: Sequence[str | int]) -> int | None:
    """The line, counted from 1, on which a value of the file stands.

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
    node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
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
