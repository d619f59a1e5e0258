"""First sentences of docstrings, and the rule that they keep (see docs/house.md where it stands in words)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

MOST_WORDS = 14
PERSONS_AND_RIDDLES = frozenset(
    ("what", "who", "whose", "whom", "whoever", "whatever", "nobody", "somebody", "anybody")
)
NO_START = frozenset(
    re.findall(
        r"\w+",
        "a an the this that these those it its how where when whether if of for from with without in on at to by as "
        "all every each no one two three some any both what who whose there here not only same so than",
    )
)
"""Words that begin neither a verb in the imperative nor a noun without an article."""
NUMBERS = frozenset(("one", "two", "three"))
"""They may begin a noun: "Two masks of one case."."""


def docstrings(source: str) -> Iterator[tuple[str, str, int, str]]:
    """Kind (module, class, property, function), dotted name, line and text of every docstring of a source."""

    def walk(node: ast.AST, name: str) -> Iterator[tuple[str, str, int, str]]:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text is not None:
                yield _kind(node), name, getattr(node, "lineno", 1), text
        for child in ast.iter_child_nodes(node):
            own = getattr(child, "name", None)
            yield from walk(child, f"{name}.{own}".lstrip(".") if isinstance(own, str) else name)

    return walk(ast.parse(source), "")


def _kind(node: ast.AST) -> str:
    if isinstance(node, ast.Module | ast.ClassDef):
        return "module" if isinstance(node, ast.Module) else "class"
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    return "property" if any("property" in ast.unparse(mark) for mark in node.decorator_list) else "function"


def first_sentence(text: str) -> str:
    """Up to the first mark that a capital, a quote or a bracket follows, or the end of the first paragraph."""
    paragraph = re.sub(r"\s+", " ", re.split(r"\n\s*\n", text.strip())[0])
    found = re.match(r"(.*?[.!?:;])(?:\s+(?=[A-Z`\"'(])|$)", paragraph)
    return found.group(1) if found else paragraph


def faults_of(kind: str, text: str) -> list[str]:
    """What is wrong with a first sentence; code in backticks counts as one word."""
    words = [word for word in re.sub(r"``?[^`]*``?", "X", first_sentence(text)).split() if re.search(r"\w", word)]
    plain = [re.sub(r"\W", "", word).lower() for word in words]
    faults = [f"{len(words)} words"] if len(words) > MOST_WORDS else []
    faults += [f"holds {word!r}" for word in sorted(PERSONS_AND_RIDDLES & set(plain))]
    if plain and plain[0] in NO_START and not (kind != "function" and plain[0] in NUMBERS):
        faults.append(f"begins with {words[0]!r}")
    if kind == "function" and words and words[0].startswith("X"):
        faults.append("begins with a name, no verb")
    return faults


def broken_sentences(path: Path, source: str) -> list[str]:
    """A line for each first sentence of a file that breaks the rule."""
    return [
        f"{path}:{line} {kind} {name}: {', '.join(faults)}: {first_sentence(text)}"
        for kind, name, line, text in docstrings(source)
        if (faults := faults_of(kind, text))
    ]
