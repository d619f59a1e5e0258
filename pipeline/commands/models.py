"""Commands `models`, `seal` and `recipes`: model files, and the recipes that make them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from data.errors import SegmentationError, explain
from pipeline.commands.options import Debug
from pipeline.commands.terminal.console import OK, SOME_FAILED, Console
from pipeline.commands.terminal.lines import model_lines
from pipeline.recipe_file import read_recipe, recipe_names, recipe_path, summary_of


@dataclass(frozen=True, kw_only=True)
class Models:
    """List the models that come with the pipeline."""

    json: bool = False
    """Print JSON for programs."""
    debug: Debug = False

    def run(self, console: Console) -> int:
        from pipeline.checkpoint import shipped_models
        from pipeline.default_model import default_uses

        defaults = default_uses()
        listing = [m.as_listing() | {"default_for": defaults.get(m.name, [])} for m in shipped_models()]
        if self.json:
            console.raw(json.dumps(listing, indent=1))
            return OK
        for model in listing:
            for line in model_lines(model):
                console.say(line)
        return OK


@dataclass(frozen=True, kw_only=True)
class Seal:
    """Bring model files of the first format forward to the present one.

    They held no SHA-256 of themselves.

    Tensors, settings and card stay. Only for files whose source you trust: earlier damage is sealed with the rest.
    """

    files: tyro.conf.Positional[list[Path]]
    """Model files; each is replaced."""
    debug: Debug = False

    def run(self, console: Console) -> int:
        from pipeline.checkpoint import bring_forward

        status = OK
        for path in self.files:
            try:
                console.say(f"{bring_forward(path)}  {path.name}")  # as sha256sum prints it
            except (SegmentationError, OSError) as error:
                status = SOME_FAILED
                console.complain(f"run_pipeline.py: {explain(error)}")
        return status


@dataclass(frozen=True, kw_only=True)
class Recipes:
    """List the recipes that `train` takes, or describe one.

    A recipe is described by every key with its value, its default and its meaning.
    """

    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[NAME|FILE]")] = None
    """Recipe to describe: a shipped name, or a YAML file. Without it they are listed."""
    json: bool = False
    """Print JSON for programs."""
    debug: Debug = False

    def run(self, console: Console) -> int:
        entries = _listing() if self.name is None else described(self.name)
        if self.json:
            console.raw(json.dumps(entries, indent=1))
            return OK
        for entry in entries:
            for line in _listed(entry) if self.name is None else _told(entry):
                console.say(line)
        return OK


def _listing() -> list[dict[str, Any]]:
    """Return name, summary, images and regions of each shipped recipe."""
    listing = []
    for name in recipe_names():
        path, settings = read_recipe(name)
        images, regions = (list(settings.get(key, ())) for key in ("modalities", "regions"))
        listing.append({"name": name, "summary": summary_of(path), "modalities": images, "regions": regions,
                        "file": str(path)})  # fmt: skip
    return listing


def described(name: str) -> list[dict[str, Any]]:
    """Return each key of a recipe: value, default, possible values, meaning.

    Parts of a recipe, such as ``training``, are no keys of their own.
    """
    path, _ = read_recipe(name)
    from pipeline.config import load_recipe  # it imports torch, which takes seconds
    from pipeline.config.keys import recipe_keys

    settings = load_recipe(str(path) if recipe_path(name) == path else name).model_dump(mode="json")
    rows = []
    for key, values, default, meaning in recipe_keys():
        if key.endswith(":"):
            continue
        value: Any = settings
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        value = value.get("name") if key == "first.recipe" and isinstance(value, dict) else value
        rows.append({"key": key, "value": value, "default": _plain(default), "values": _plain(values),
                     "meaning": _plain(meaning)})  # fmt: skip
    return rows


def _plain(markdown: str) -> str:
    return markdown.replace("`", "").replace("\\|", "|")


def _listed(entry: dict[str, Any]) -> list[str]:
    channels = f"from {', '.join(entry['modalities'])} to {', '.join(entry['regions'])}"
    return [f"{entry['name']}: {entry['summary']}", f"    {channels}"]


def _told(entry: dict[str, Any]) -> list[str]:
    default = f"default {entry['default']}" if entry["default"] else "no default"
    return [f"{entry['key']}: {json.dumps(entry['value'])}", f"    {entry['meaning']}",
            f"    {entry['values']}; {default}"]  # fmt: skip
