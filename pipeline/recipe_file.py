"""Files of recipes, found by name and read without a check of their keys.

Light on purpose: a misspelt name is said before anything is imported that takes seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data.errors import UsageError, did_you_mean
from data.strict_yaml import read_strict_yaml

RECIPES = Path(__file__).resolve().parent / "recipes"


def recipe_names() -> list[str]:
    """List the names of the shipped recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def recipe_path(name_or_path: str) -> Path:
    """Return the place of a recipe. The file may not be there."""
    path = Path(name_or_path)
    return path if path.suffix in (".yaml", ".yml") else RECIPES / f"{name_or_path}.yaml"


def read_recipe(name_or_path: str) -> tuple[Path, dict[Any, Any]]:
    """Find a recipe and read its settings as they stand there. Raises :class:`data.errors.UsageError`."""
    path = recipe_path(name_or_path)
    try:
        return path, read_strict_yaml(path)
    except FileNotFoundError:
        names = recipe_names()
        raise UsageError(
            f"no recipe {name_or_path!r}{did_you_mean(name_or_path, names)}; give a .yaml file or one of: "
            f"{', '.join(names)}"
        ) from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None
    except ValueError as error:
        raise UsageError(str(error)) from None


def summary_of(path: Path) -> str:
    """Return the comment on the first line of a recipe."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
