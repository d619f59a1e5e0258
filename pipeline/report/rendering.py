"""Templates of the page, which escape every value.

Unseen characters are shown as U+FFFD, unknown values are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.report.colours import DARK_STATUS_COLOURS, REGION_COLOURS, STATUS_COLOURS, STATUS_SIGNS, region_colour
from pipeline.report.texts import is_known, plain
from pipeline.score.compared import PENALTY_MM
from pipeline.score.lesions import SMALL_ML

_DARK = "screen and (prefers-color-scheme:dark)"


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
    light = _variables(REGION_COLOURS) + _variables(_of_states(STATUS_COLOURS))
    dark = _variables(_of_states(DARK_STATUS_COLOURS))
    return f":root{{{light}}}\n@media {_DARK}{{:root{{{dark}}}}}\n{read_asset('style.css')}"


def _of_states(pairs: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    inks = {f"{status}-ink": ink for status, (ink, _) in pairs.items()}
    return inks | {f"{status}-ground": ground for status, (_, ground) in pairs.items()}


def _variables(colours: Mapping[str, str]) -> str:
    return "".join(f"--{name}:{colour};" for name, colour in colours.items())


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
    environment.globals |= {"signs": STATUS_SIGNS, "small_ml": f"{SMALL_ML:g}", "penalty_mm": f"{PENALTY_MM:g}"}
    return environment
