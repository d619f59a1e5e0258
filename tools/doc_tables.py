"""Parts of docs/ that are written from the sources.

They are recipe keys, networks, losses, label conventions and the list of modules.

``python -m tools.doc_tables`` writes them anew, each between two comments of the page; tests/test_readme.py holds them
equal.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path

from data.labels import CONVENTIONS, REGIONS, load_convention
from networks import ARCHITECTURES
from networks.losses import LOSSES
from pipeline.config import keys
from pipeline.config.keys import first_sentence

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PACKAGES = ("data", "transforms", "networks", "pipeline")


def recipe_keys() -> str:
    """Write the table of all keys of a recipe: values, default, meaning."""
    rows = [f"| `{key}` | {values} | {default} | {meaning} |" for key, values, default, meaning in keys.recipe_keys()]
    return "\n".join(["| key | values | default | meaning |", "|---|---|---|---|", *rows])


def architectures() -> str:
    """Write the table of the networks that a recipe may name."""
    rows = [
        f"| `{name}` | {' and '.join(f'{dims}D' for dims in entry.spatial_dims)} | "
        f"{first_sentence(entry.build.__doc__)} |"
        for name, entry in ARCHITECTURES.items()
    ]
    return "\n".join(["| `network.architecture` | | |", "|---|---|---|", *rows])


def losses() -> str:
    """Write the table of the losses of a recipe, with parameters and defaults."""
    lines = ["| `training.loss.name` | | `training.loss.parameters`, with their defaults |", "|---|---|---|"]
    for name, loss in LOSSES.items():
        signature = inspect.signature(loss).parameters.values()
        defaults = ", ".join(
            f"`{p.name}: {keys.shown(p.default)[1:-1]}`" for p in signature if p.kind is p.KEYWORD_ONLY
        )
        lines.append(f"| `{name}` | {first_sentence(loss.__doc__)} | {defaults} |")
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
            told = first_sentence(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))))
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


def main() -> None:
    """Write every part into its page."""
    for name, (file, part) in PARTS.items():
        page = DOCS / file
        page.write_text(write_part(page.read_text(encoding="utf-8"), name, part()), encoding="utf-8")


if __name__ == "__main__":
    main()
