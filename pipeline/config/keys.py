"""Keys of a recipe: their values, defaults and meanings, read from the settings' classes."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from data.errors import did_you_mean
from networks import NetworkConfig
from pipeline import config


def recipe_keys() -> list[tuple[str, str, str, str]]:
    """List all keys of a recipe: dotted name, values, default, meaning.

    Texts are Markdown. The name of a part, which holds further keys, ends with a colon.
    """
    return list(_keys(config.RunConfig, ""))


def advice_for(location: Sequence[str | int]) -> str:
    """Return ``" (did you mean KEY?)"`` for an unknown key; empty where none is alike.

    It is sought in its own part first, then in all.
    """
    path = [str(step) for step in location if step != "[key]"]
    dotted = ".".join(path).removeprefix("first.recipe.")
    part, _, name = dotted.rpartition(".")
    all_keys = [key.rstrip(":") for key, *_ in recipe_keys()]
    beside = [key for key in all_keys if key.rpartition(".")[0] == part]
    if found := did_you_mean(name, [key.rpartition(".")[2] for key in beside]):
        return found
    last = {key.rpartition(".")[2]: key for key in reversed(all_keys)}
    if name in last:
        return f" (did you mean {last[name]}?)"
    return did_you_mean(dotted, all_keys)


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
            yield f"{prefix}{name}:", "", default, told.get(name, "") or first_sentence(part.__doc__)
            yield from _keys(part, f"{prefix}{name}.")


def _fields(model: type) -> Iterator[tuple[str, dict[str, Any], str]]:
    whole = config.RunConfig.model_json_schema(mode="validation")
    schema = whole["$defs"][model.__name__]
    needed = set(schema.get("required", ()))
    for name, field in schema["properties"].items():
        settings = _part(field) is not None and field.get("default") is not None
        default = "" if name in needed or settings else shown(field.get("default"))
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


def shown(value: Any) -> str:
    return f"`{json.dumps(value)}`".replace('"', "")


def _docstrings(model: type) -> dict[str, str]:
    """Read the text below each attribute of a class, on one line of Markdown."""
    (body,) = [node.body for node in ast.parse(inspect.getsource(model)).body if isinstance(node, ast.ClassDef)]
    told = {}
    for field, text in zip(body, body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            told[ast.unparse(field.target)] = plain(str(text.value.value))
    return told


def first_sentence(docstring: str | None) -> str:
    return plain((docstring or "").partition("\n")[0])


def plain(text: str) -> str:
    """Docstring's text as one line of Markdown: no roles, no references, single backquotes."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", re.sub(r"\s+", " ", text))
    text = re.sub(r" \[\d+\]_", "", text)
    text = text.replace("``", "`").replace("`python -m", "`.venv/bin/python -m")
    return text.replace("|", "\\|").strip()
