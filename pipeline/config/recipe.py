"""Recipes: settings read from a YAML file, with errors that name the line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from data.errors import UsageError
from data.strict_yaml import line_of
from pipeline.config.run import RunConfig
from pipeline.recipe_file import RECIPES, read_recipe

__all__ = ["RECIPES", "load_recipe", "parse_config"]

UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")
"""Pydantic's types of error for an unknown key, in a model and in a dataclass."""


def parse_config(
    settings: Any, source: str, line_at: Callable[[Sequence[str | int]], int | None] = lambda location: None
) -> RunConfig:
    """Check nested dictionaries and freeze them.

    Parameters
    ----------
    settings : nested dictionaries
    source : str
        Where they stand (a file), for the error's text.
    line_at : callable
        From the keys on the way to a value to its line there, where that is known.

    Raises
    ------
    data.errors.UsageError
        Names source, line, key and value.
    """
    try:
        return RunConfig.model_validate(settings)
    except ValidationError as error:
        # A misspelt key is also a missing one: the spelling is what is to be mended.
        first = min(error.errors(), key=lambda each: each["type"] not in UNKNOWN_KEY)
        key = ".".join(str(part) for part in first["loc"] if part != "[key]") or "recipe"
        value = repr(first.get("input"))
        value = value if len(value) < 80 else value[:77] + "..."
        line = line_at(first["loc"])
        place = source if line is None else f"{source}, line {line}"
        sentence = first["msg"].removeprefix("Value error, ")
        if first["type"] in UNKNOWN_KEY:
            from pipeline.config.keys import advice_for  # it imports this module

            sentence = f"unknown key{advice_for(first['loc']) or '; correct its spelling, or remove it'}"
        raise UsageError(f"{place}: {key}: {sentence} (got {value})") from None


def load_recipe(name_or_path: str, changes: Sequence[str] = ()) -> RunConfig:
    """Read a shipped recipe by name or a YAML file by path.

    ``changes`` are texts such as ``training.learning_rate=0.003``, checked as the recipe is. Raises
    :class:`data.errors.UsageError`.
    """
    path, settings = read_recipe(name_or_path)
    settings = _with_first_stage(settings, path)
    config = parse_config(settings, str(path), partial(line_of, path))
    if not changes:
        return config
    settings = deepcopy(settings)
    for change in changes:
        _set(settings, change)
    return parse_config(settings, " ".join(f"--set {change}" for change in changes))


def _set(settings: dict[Any, Any], change: str) -> None:
    """Put the value of ``KEY=VALUE`` into settings; the value is YAML."""
    key, equals, text = change.partition("=")
    *parts, last = key.strip().split(".")
    if not equals or not last:
        raise UsageError(f"--set {change}: give KEY=VALUE, such as training.learning_rate=0.003")
    for part in parts:
        settings = settings.setdefault(part, {})
        if not isinstance(settings, dict):
            raise UsageError(f"--set {change}: {part} holds no further keys; `recipes NAME` lists all")
    try:
        settings[last] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UsageError(f"--set {change}: {text!r} is no value of YAML; quote it, or mend it") from None


def _with_first_stage(settings: dict[Any, Any], path: Path) -> dict[Any, Any]:
    """Put the whole recipe in the place of its name in ``first``."""
    first = settings.get("first")
    if not isinstance(first, dict) or not isinstance(named := first.get("recipe"), str):
        return settings
    beside = path.parent / named
    place, inner = read_recipe(str(beside if Path(named).suffix in (".yaml", ".yml") else named))
    if "first" in inner:  # it might name itself
        line = line_of(path, ("first", "recipe"))
        raise UsageError(f"{path}, line {line}: first.recipe: {named} is a cascade itself; name a recipe without first")
    parse_config(inner, str(place), partial(line_of, place))  # an error in there has its own file and line
    return {**settings, "first": {**first, "recipe": inner}}
