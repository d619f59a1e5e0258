"""Recipes: settings read from a YAML file, with errors that name the line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from data.errors import UsageError
from data.strict_yaml import line_of, read_strict_yaml
from pipeline.config.run import RunConfig

RECIPES = Path(__file__).resolve().parents[1] / "recipes"

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
            sentence = "unknown key; correct its spelling, or remove it"
        raise UsageError(f"{place}: {key}: {sentence} (got {value})") from None


def load_recipe(name_or_path: str) -> RunConfig:
    """Read a shipped recipe by name or a YAML file by path. Raises :class:`data.errors.UsageError`."""
    path, settings = _read_recipe(name_or_path)
    return parse_config(_with_first_stage(settings, path), str(path), partial(line_of, path))


def _with_first_stage(settings: dict[Any, Any], path: Path) -> dict[Any, Any]:
    """Put the whole recipe in the place of its name in ``first``."""
    first = settings.get("first")
    if not isinstance(first, dict) or not isinstance(named := first.get("recipe"), str):
        return settings
    beside = path.parent / named
    place, inner = _read_recipe(str(beside if Path(named).suffix in (".yaml", ".yml") else named))
    if "first" in inner:  # it might name itself
        line = line_of(path, ("first", "recipe"))
        raise UsageError(f"{path}, line {line}: first.recipe: {named} is a cascade itself; name a recipe without first")
    parse_config(inner, str(place), partial(line_of, place))  # an error in there has its own file and line
    return {**settings, "first": {**first, "recipe": inner}}


def _read_recipe(name_or_path: str) -> tuple[Path, dict[Any, Any]]:
    """Find a recipe and read its settings as they stand there."""
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = RECIPES / f"{name_or_path}.yaml"
    try:
        return path, read_strict_yaml(path)
    except FileNotFoundError:
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
        raise UsageError(f"no recipe {name_or_path!r}; give a .yaml file or one of: {known}") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None
    except ValueError as error:
        raise UsageError(str(error)) from None
