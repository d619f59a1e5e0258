"""Parts of docs/ that are written from the sources.

They are recipe keys, networks, losses, label conventions and the list of modules.

``python -m tools.doc_tables`` writes them anew, each between two comments of the page; tests/test_readme.py holds them
equal.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data.labels import CONVENTIONS, REGIONS, load_convention
from networks import ARCHITECTURES, NetworkConfig
from networks.losses import LOSSES
from pipeline import config

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PACKAGES = ("data", "transforms", "networks", "pipeline")


def recipe_keys() -> str:
    """Write the table of all keys of a recipe: values, default, meaning."""
    rows = [
        f"| `{key}` | {values} | {default} | {meaning} |"
        for key, values, default, meaning in _keys(config.RunConfig, "")
    ]
    return "\n".join(["| key | values | default | meaning |", "|---|---|---|---|", *rows])


def architectures() -> str:
    """Write the table of the networks that a recipe may name."""
    rows = [
        f"| `{name}` | {' and '.join(f'{dims}D' for dims in entry.spatial_dims)} | "
        f"{_first_sentence(entry.build.__doc__)} |"
        for name, entry in ARCHITECTURES.items()
    ]
    return "\n".join(["| `network.architecture` | | |", "|---|---|---|", *rows])


def losses() -> str:
    """Write the table of the losses of a recipe, with parameters and defaults."""
    lines = ["| `training.loss.name` | | `training.loss.parameters`, with their defaults |", "|---|---|---|"]
    for name, loss in LOSSES.items():
        signature = inspect.signature(loss).parameters.values()
        defaults = ", ".join(f"`{p.name}: {_shown(p.default)[1:-1]}`" for p in signature if p.kind is p.KEYWORD_ONLY)
        lines.append(f"| `{name}` | {_first_sentence(loss.__doc__)} | {defaults} |")
    return "\n".join(lines)


def label_conventions() -> str:
    """Write the table of the label conventions.

    It has the sets that use one, the meaning of each number, and the numbers of each region.
    """
    lines = ["| convention | used by | labels | " + " | ".join(REGIONS) + " |", "|---|---|---|" + "---|" * len(REGIONS)]
    for name in CONVENTIONS:
        convention = load_convention(name)
        labels = ", ".join(f"{value} {tissue}" for value, tissue in sorted(convention.labels.items()))
        held = [", ".join(map(str, sorted(convention.regions.get(region, ())))) for region in REGIONS]
        lines.append(f"| `{name}` | {convention.source} | {labels} | " + " | ".join(held) + " |")
    return "\n".join(lines)


def modules() -> str:
    """List all modules by folder, each with the first line of its docstring."""
    lines: list[str] = []
    for folder in sorted(
        {path.parent for package in (*PACKAGES, "bench", "tools") for path in (ROOT / package).rglob("*.py")}
    ):
        listed = [path for path in sorted(folder.glob("*.py")) if path.name != "__init__.py"]
        if listed:
            lines += ["", f"### {folder.relative_to(ROOT)}/", ""]
        for path in listed:
            told = _first_sentence(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))))
            lines += textwrap.wrap(
                f"- `{path.name}`: {told}", 118, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
            )
    return "\n".join(lines[1:])


PARTS: dict[str, tuple[str, Callable[[], str]]] = {
    "recipe keys": ("train.md", recipe_keys),
    "architectures": ("train.md", architectures),
    "losses": ("train.md", losses),
    "label conventions": ("segment.md", label_conventions),
    "modules": ("house.md", modules),
}
"""Name of a part: the page that holds it, and the function that writes it."""


def write_part(page: str, name: str, text: str) -> str:
    """Replace the part of that name in a page.

    Raises
    ------
    ValueError
        The page lacks the part's two comments.
    """
    start, end = f"<!-- {name}: written by python -m tools.doc_tables -->", f"<!-- end of {name} -->"
    before, found, rest = page.partition(start)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"has no part {name!r}; put the lines {start} and {end} there")
    return f"{before}{start}\n{text}\n{end}{after}"


def _keys(model: type, prefix: str) -> Iterator[tuple[str, str, str, str]]:
    """List key, values, default and meaning of each field.

    Those of the parts below it are included.
    """
    told = _docstrings(model)
    for name, schema, default in _fields(model):
        part = _part(schema)
        if part is None:
            yield prefix + name, _values(schema), default, told.get(name, "")
        elif part is config.RunConfig:  # first.recipe: all of these keys again
            yield prefix + name, "a recipe", default, told.get(name, "")
        else:
            yield f"{prefix}{name}:", "", default, told.get(name, "") or _first_sentence(part.__doc__)
            yield from _keys(part, f"{prefix}{name}.")


def _fields(model: type) -> Iterator[tuple[str, dict[str, Any], str]]:
    whole = config.RunConfig.model_json_schema(mode="validation")
    schema = whole["$defs"][model.__name__]
    needed = set(schema.get("required", ()))
    for name, field in schema["properties"].items():
        settings = _part(field) is not None and field.get("default") is not None
        default = "" if name in needed or settings else _shown(field.get("default"))
        yield name, field, default


def _part(schema: dict[str, Any]) -> type | None:
    """Return the class of settings that stands at a key, if one does."""
    for each in (schema, *schema.get("anyOf", ())):
        if "$ref" in each:
            name = each["$ref"].rpartition("/")[2]
            return NetworkConfig if name == "NetworkConfig" else getattr(config, name)
    return None


def _values(schema: dict[str, Any]) -> str:
    """Word the values that a key may have."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_values(each) for each in schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = schema.get("type", "")
    if kind == "array":
        each = schema["prefixItems"] if "prefixItems" in schema else [schema["items"]]
        inner = " or ".join(dict.fromkeys(map(_values, each)))
        return f"{len(each)} of: {inner}" if "prefixItems" in schema else f"list of: {inner}"
    if kind == "object":
        held = schema.get("additionalProperties", True)
        return f"name: {_values(held)}" if isinstance(held, dict) and held else "name: value"
    return {"null": "null", "boolean": "true, false", "string": "text"}.get(kind) or _numbers(schema)


def _numbers(schema: dict[str, Any]) -> str:
    word = "whole number" if schema["type"] == "integer" else "number"
    bounds = [
        f"{sign} {schema[key]:g}"
        for key, sign in (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<"))
        if key in schema
    ]
    return " ".join([word, ", ".join(bounds)]).strip()


def _shown(value: Any) -> str:
    return f"`{json.dumps(value)}`".replace('"', "")


def _docstrings(model: type) -> dict[str, str]:
    """Read the text below each attribute of a class, on one line of Markdown."""
    (body,) = [node.body for node in ast.parse(inspect.getsource(model)).body if isinstance(node, ast.ClassDef)]
    told = {}
    for field, text in zip(body, body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            told[ast.unparse(field.target)] = _plain(str(text.value.value))
    return told


def _first_sentence(docstring: str | None) -> str:
    return _plain((docstring or "").partition("\n")[0])


def _plain(text: str) -> str:
    """Docstring's text as one line of Markdown: no roles, no references, single backquotes."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", re.sub(r"\s+", " ", text))
    text = re.sub(r" \[\d+\]_", "", text)
    text = text.replace("``", "`").replace("`python -m", "`.venv/bin/python -m")
    return text.replace("|", "\\|").strip()


def main() -> None:
    """Write every part into its page."""
    for name, (file, part) in PARTS.items():
        page = DOCS / file
        page.write_text(write_part(page.read_text(encoding="utf-8"), name, part()), encoding="utf-8")


if __name__ == "__main__":
    main()
