"""Templates of the page, which escape every value.

Unseen characters are shown as U+FFFD, unknown values are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.report.colours import REGION_COLOURS, STATUS_COLOURS, STATUS_SIGNS, region_colour
from pipeline.report.texts import is_known, plain


def render(template: str, **context: Any) -> str:
    """Fill in a template of ``templates/`` as HTML.

    Raises
    ------
    jinja2.UndefinedError
        The template asks for a value that ``context`` lacks.
    """
    return _environment().get_template(template).render(**context)


def render_in_pieces(template: str, **context: Any) -> Iterator[str]:
    """Fill in a template piece by piece.

    No page of 500 patients is in memory at once.
    """
    yield from _environment().get_template(template).generate(**context)


def page_style() -> str:
    """Return the style sheet of the page.

    The colours of regions and states are variables of it.
    """
    colours = dict(REGION_COLOURS)
    for status, (ink, ground) in STATUS_COLOURS.items():
        colours |= {f"{status}-ink": ink, f"{status}-ground": ground}
    variables = "".join(f"--{name}:{colour};" for name, colour in colours.items())
    return f":root{{{variables}}}\n{read_asset('style.css')}"


def read_asset(name: str) -> str:
    """Return the text of a style sheet or script beside this module."""
    return (files("pipeline.report") / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("pipeline.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: value if hasattr(value, "__html__") else plain(value),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["region_colour"] = lambda region: region_colour(str(region))
    environment.tests["known"] = lambda value: is_known(value) and value != ""
    environment.globals["signs"] = STATUS_SIGNS
    return environment
