"""Curves of a patient's measures over time, as SVG that follows the page's colours.

A curve has the repeatability around it as a band, and the bounds of response and progression as dashed steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 352.0, 226.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 12.0, 18.0, 34.0
_NAMES = 24.0
"""Room on the right for the names of bounds."""
_UNITS = ((120.0, 1.0, "days"), (900.0, 30.4375, "months"), (math.inf, 365.25, "years"))
"""Longest span in days that each unit of the time axis is for, and its length in days."""


@dataclass(frozen=True)
class Bound:
    """Bound of a category, as the criterion sets it at each visit."""

    name: str
    """Such as ``PD``."""
    values: Sequence[float | None]
    """One a visit; None where there is none."""


@dataclass(frozen=True)
class Curve:
    """One measure of a patient over time."""

    title: str
    unit: str
    colour: str
    """Of the line, ``#RRGGBB``."""
    days: Sequence[float | None]
    """Since the first visit, one a visit; where one is not known, visits stand at equal distances."""
    labels: Sequence[str]
    """Of the visits."""
    values: Sequence[float | None]
    """One a visit; None where it could not be measured."""
    repeatability: float | None = None
    """Half the width of the band, as a share of the value."""
    bounds: Sequence[Bound] = ()
    marks: Sequence[str] = ()
    """Short texts above the points, such as categories."""


@dataclass(frozen=True)
class _Tick:
    at: str
    text: str


@dataclass(frozen=True)
class _Point:
    x: str
    y: str
    mark: str
    """Above the point."""
    told: str
    """For a reader that points at it, and for a screen reader."""
    progressed: bool


@dataclass(frozen=True)
class _Step:
    name: str
    path: str
    x: str
    y: str


@dataclass(frozen=True)
class Drawn:
    """Curve in the coordinates of its picture, for the template."""

    title: str
    unit: str
    colour: str
    told: str
    line: str
    band: str
    points: Sequence[_Point]
    steps: Sequence[_Step]
    missing: Sequence[_Tick]
    rows: Sequence[_Tick]
    columns: Sequence[_Tick]
    axis: str
    """Unit of the time axis."""
    right: float
    width: float = WIDTH
    height: float = HEIGHT
    left: float = _LEFT
    top: float = _TOP
    bottom: float = HEIGHT - _BOTTOM


def draw_curve(curve: Curve) -> Drawn | None:
    """Lay a curve out; None where no visit has a value."""
    known = [value for value in curve.values if _is_known(value)]
    if not known:
        return None
    places, axis, ticks = _time_axis(curve)
    share = curve.repeatability or 0.0
    reach = [value * (1 + share) for value in known if value is not None]
    reach += [value for bound in curve.bounds for value in bound.values if value is not None and _is_known(value)]
    levels = _nice_levels(max(reach))
    top = levels[-1]

    def height(value: float) -> float:
        return HEIGHT - _BOTTOM - (HEIGHT - _BOTTOM - _TOP) * value / top

    seen = [(x, value, n) for n, (x, value) in enumerate(zip(places, curve.values, strict=True)) if value is not None]
    seen = [each for each in seen if _is_known(each[1])]
    upper = [(x, height(value * (1 + share))) for x, value, _ in seen]
    lower = [(x, height(value * (1 - share))) for x, value, _ in seen]
    return Drawn(
        title=curve.title,
        unit=curve.unit,
        colour=curve.colour,
        told=_told(curve),
        line=_path([(x, height(value)) for x, value, _ in seen]),
        band=_path([*upper, *reversed(lower)], closed=True) if share and len(seen) > 1 else "",
        points=[_point(curve, n, x, height(value)) for x, value, n in seen],
        steps=_apart([_step(bound, places, height) for bound in curve.bounds if any(map(_is_known, bound.values))]),
        missing=[_Tick(_n(x), curve.labels[n]) for n, x in enumerate(places) if not _is_known(curve.values[n])],
        rows=[_Tick(_n(height(level)), f"{level:g}") for level in levels],
        columns=ticks,
        axis=axis,
        right=WIDTH - _right(curve),
    )


def _right(curve: Curve) -> float:
    return _RIGHT + (_NAMES if curve.bounds else 0.0)


def _is_known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _n(value: float) -> str:
    return f"{value:.1f}"


def _path(points: Sequence[tuple[float, float]], *, closed: bool = False) -> str:
    return "M" + "L".join(f"{_n(x)} {_n(y)}" for x, y in points) + ("Z" if closed else "")


def _time_axis(curve: Curve) -> tuple[list[float], str, list[_Tick]]:
    """Return the place of each visit, the axis' name, and its ticks."""
    inner, count = WIDTH - _LEFT - _right(curve) - 12, len(curve.days)
    days = [day for day in curve.days if day is not None]
    first, span = (min(days), max(days) - min(days)) if days else (0.0, 0.0)
    if len(days) < count or span <= 0:
        places = [_LEFT + 6 + inner * (n / max(count - 1, 1) if count > 1 else 0.5) for n in range(count)]
        shown = range(0, count, max(1, math.ceil(count / 6)))
        return places, "visits, not to scale", [_Tick(_n(places[n]), curve.labels[n][:10]) for n in shown]
    places = [_LEFT + 6 + inner * (day - first) / span for day in days]
    length, name = next((length, name) for longest, length, name in _UNITS if span <= longest)
    levels = [level for level in _nice_levels(span / length, most=5) if level * length <= span * 1.001]
    ticks = [_Tick(_n(_LEFT + 6 + inner * level * length / span), f"{level:g}") for level in levels]
    return places, f"{name} since the first visit", ticks


def _nice_levels(top: float, most: int = 4) -> list[float]:
    """Return levels from 0 to at least ``top``.

    They are multiples of 1, 2 or 5 times a power of ten.
    """
    if top <= 0:
        return [0.0, 1.0]
    step = 10.0 ** math.floor(math.log10(top / most))
    step = next(step * factor for factor in (1, 2, 5, 10, 20) if step * factor * most >= top * (1 - 1e-9))
    return [round(n * step, 10) for n in range(math.ceil(top / step - 1e-9) + 1)]


def _point(curve: Curve, n: int, x: float, y: float) -> _Point:
    mark = curve.marks[n] if curve.marks else ""
    value = curve.values[n]
    told = f"{curve.labels[n]}: {value:.4g} {curve.unit.partition(',')[0]}" + (f", {mark}" if mark else "")
    return _Point(_n(x), _n(y), mark, told, mark.startswith("PD"))


def _step(bound: Bound, places: Sequence[float], height: object) -> _Step:
    """Draw a bound as steps: each value holds from half-way after the visit before."""
    lay = height if callable(height) else float
    points: list[tuple[float, float]] = []
    for n, (x, value) in enumerate(zip(places, bound.values, strict=True)):
        if value is None or not _is_known(value):
            continue
        before = (places[n - 1] + x) / 2 if n else x - 6
        after = (places[n + 1] + x) / 2 if n + 1 < len(places) else x + 6
        points += [(before, lay(value)), (after, lay(value))]
    return _Step(bound.name, _path(points), _n(points[-1][0] + 4), _n(points[-1][1]))


def _apart(steps: Sequence[_Step]) -> list[_Step]:
    """Move names that would stand on each other."""
    placed: list[_Step] = []
    for step in sorted(steps, key=lambda each: float(each.y)):
        y = float(step.y)
        if placed:
            y = max(y, float(placed[-1].y) + 11)
        placed.append(_Step(step.name, step.path, step.x, _n(y)))
    return placed


def _told(curve: Curve) -> str:
    known = [
        f"{label} {value:.4g}" for label, value in zip(curve.labels, curve.values, strict=True) if value is not None
    ]
    return f"{curve.title}, {curve.unit}: {'; '.join(known)}"
