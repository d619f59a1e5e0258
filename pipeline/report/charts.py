"""Charts of a run as inline SVG: spread of each metric, agreement of volumes.

Volumes are compared after Bland and Altman.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.labels import sort_regions
from data.visible import visible
from pipeline.report.colours import region_colour
from pipeline.score.catalogue import find_metric
from pipeline.score.significance import LEAST_PATIENTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Values = NDArray[np.float64]

_INK, _GREY, _RULE = "#1F2933", "#5B6770", "#D9DEE3"
_MARKERS = "os^Dv"
LEAST_POINTS = 3
"""A chart is drawn from so many patients on: fewer have no quartiles, and their values stand in their own sections."""
_SETTINGS: Any = {
    "svg.fonttype": "none",  # text stays text: small, and read by a screen reader
    "font.size": 10,
    "text.color": _INK,
    "text.parse_math": False,
    "axes.edgecolor": _GREY,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _GREY,
    "ytick.color": _GREY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
}


@dataclass(frozen=True)
class Agreement:
    """Figures of Bland and Altman for paired volumes.

    Number, mean difference, and mean -+ 1.96 sd (NaN below two pairs).
    """

    n: int
    mean: float
    low: float
    high: float


def agreement(prediction: Values, reference: Values) -> Agreement:
    """Compute the mean of ``prediction - reference`` and its 95 % limits of agreement.

    After Bland & Altman, Lancet 1986.

    Parameters
    ----------
    prediction, reference : (n,) float
        Volumes in ml, pair by pair; pairs with a NaN are left out.

    Returns
    -------
    Agreement
        The sd is that of a sample (n - 1). No pair at all gives n 0 and NaN.
    """
    difference = np.asarray(prediction, float) - np.asarray(reference, float)
    difference = difference[np.isfinite(difference)]
    if not difference.size:
        return Agreement(0, np.nan, np.nan, np.nan)
    mean = float(difference.mean())
    reach = 1.96 * float(difference.std(ddof=1)) if difference.size > 1 else np.nan
    return Agreement(difference.size, mean, mean - reach, mean + reach)


def distribution_chart(metrics: pd.DataFrame, metric: str, title: str) -> str | None:
    """Draw every patient's value as a point beside a box, by region.

    The box shows quartiles and median, the whiskers 1.5 interquartile ranges.

    Parameters
    ----------
    metrics : DataFrame
        As in metrics.csv: ``region``, ``metric``, and ``system`` where several are compared; each system has a marker.
    metric : str
        The column that is drawn. ``dice``, ``nsd`` and the like are drawn from 0 to 1.
    title : str
        With the unit.

    Returns
    -------
    str or None
        An ``<svg>`` element: the same table gives the same bytes. None where no region has `LEAST_POINTS` values.
    """
    groups = _groups(metrics, [metric])
    if max(map(len, groups.values()), default=0) < LEAST_POINTS:
        return None
    systems = list(dict.fromkeys(system for _, system in groups))
    regions = list(dict.fromkeys(region for region, _ in groups))
    from matplotlib import rc_context

    with rc_context(_SETTINGS):
        legend = 0.2 * len(systems) if len(systems) > 1 else 0.0
        figure, axes = _figure(max(3.15, 0.9 + 0.75 * len(groups)), 2.9, (0.4, 0.05, 0.26 + legend, 0.26))
        step = 0.8 / len(systems)
        for (region, system), rows in groups.items():
            middle = regions.index(region) + (systems.index(system) - (len(systems) - 1) / 2) * step
            values = rows[metric].to_numpy(float)
            _draw_group(axes, values, middle, step, region_colour(region), _MARKERS[systems.index(system) % 5])
        axes.set_xticks(range(len(regions)), [_short(region) for region in regions])
        axes.set_xlim(-0.5, len(regions) - 0.5)
        axes.grid(axis="x", visible=False)
        axes.tick_params(length=0)
        top = max(float(rows[metric].max()) for rows in groups.values())
        bottom = min(float(rows[metric].min()) for rows in groups.values())
        if _is_share(metric) and bottom >= 0 and top <= 1:
            axes.set_ylim(-0.03, 1.03)
        elif bottom >= 0:
            axes.set_ylim(-0.03 * (top or 1.0), 1.06 * (top or 1.0))
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
        _system_legend(axes, systems)
        return _svg(figure, f"spread-{metric}", f"{title}: every patient, by region")


def bland_altman_chart(metrics: pd.DataFrame, region: str, system: str | None = None) -> str | None:
    """Draw the difference of both volumes against their mean.

    Lines show the mean difference and, from :data:`pipeline.score.significance.LEAST_PATIENTS` patients on, its 95 %
    limits.

    Parameters
    ----------
    metrics : DataFrame
        As in metrics.csv: ``region``, ``volume_ml_prediction``, ``volume_ml_reference``, perhaps ``system``.
    region, system : str
        Which rows are drawn.

    Returns
    -------
    str or None
        An ``<svg>`` element; None where fewer than `LEAST_POINTS` have both volumes.
    """
    columns = ["volume_ml_prediction", "volume_ml_reference"]
    rows = _groups(metrics, columns).get((region, system or ""))
    if rows is None or len(rows) < LEAST_POINTS:
        return None
    prediction, reference = (rows[column].to_numpy(float) for column in columns)
    found = agreement(prediction, reference)
    from matplotlib import rc_context

    with rc_context(_SETTINGS):
        figure, axes = _figure(3.15, 2.9, (0.62, 0.45, 0.45, 0.26))
        axes.scatter(
            (prediction + reference) / 2,
            prediction - reference,
            s=26,
            color=region_colour(region),
            edgecolors=_INK,
            linewidths=0.6,
            zorder=3,
        )
        axes.axhline(0, color=_GREY, lw=0.8)
        axes.margins(x=0.08, y=0.14)
        _draw_agreement(axes, found)
        axes.tick_params(length=0)
        axes.set_xlabel("mean of both volumes (ml)")
        axes.set_ylabel("prediction \N{MINUS SIGN} reference (ml)")
        title = _short(f"{region}, {system}" if system else region)
        axes.set_title(f"{title} (n = {found.n})", loc="left", fontsize=10, fontweight="bold")
        return _svg(figure, f"agreement-{region}-{system or ''}", f"Bland-Altman chart of the volume of {title}")


def _groups(metrics: pd.DataFrame, columns: Sequence[str]) -> dict[tuple[str, str], pd.DataFrame]:
    """Map (region, system) to the rows in which all of ``columns`` are known.

    The usual regions come first, in their order.
    """
    if "region" not in metrics or not set(columns) <= set(metrics.columns):
        return {}
    numbers = metrics[list(columns)].apply(pd.to_numeric, errors="coerce").replace([np.inf, -np.inf], np.nan)
    known = numbers.assign(region=metrics["region"].astype(str), system=_systems(metrics)).dropna()
    regions = sort_regions(known["region"])
    systems = list(dict.fromkeys(known["system"]))
    groups = {(r, s): known[(known["region"] == r) & (known["system"] == s)] for r in regions for s in systems}
    return {key: rows for key, rows in groups.items() if len(rows)}


def _systems(frame: pd.DataFrame) -> pd.Series:
    return frame["system"].astype(str) if "system" in frame else pd.Series("", index=frame.index)


def _is_share(column: str) -> bool:
    metric = find_metric(column)
    return metric is None or metric.unit == ""


def _figure(width: float, height: float, margins: tuple[float, float, float, float]) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasSVG(figure)
    # Margins in inches. Matplotlib's layout engine would draw every chart twice more to find them.
    left, right, bottom, top = margins
    return figure, figure.add_axes(
        (left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height)
    )


def _draw_group(axes: Axes, values: Values, middle: float, step: float, colour: str, marker: str) -> None:
    """Draw points on the left half, a box on the right."""
    # Points are spread by their rank, so that equal values stay apart and nothing depends on chance.
    ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    spread = ((ranks * 0.6180339887) % 1 - 0.5) * 0.28 * step
    axes.scatter(
        middle - 0.17 * step + spread,
        values,
        s=20,
        marker=marker,
        color=colour,
        edgecolors=_INK,
        linewidths=0.5,
        zorder=3,
    )
    if len(values) >= 3:  # quartiles of fewer say nothing
        axes.boxplot(
            values,
            positions=[middle + 0.2 * step],
            widths=0.26 * step,
            showfliers=False,
            patch_artist=True,
            boxprops={"facecolor": colour, "edgecolor": _INK, "linewidth": 0.8},
            medianprops={"color": _INK, "linewidth": 1.8},
            whiskerprops={"color": _INK, "linewidth": 0.8},
            capprops={"color": _INK, "linewidth": 0.8},
            manage_ticks=False,
        )


def _draw_agreement(axes: Axes, found: Agreement) -> None:
    dashes = (0, (4, 3))
    lines: list[tuple[float, Any]] = [(found.mean, "-")]
    if found.n >= LEAST_PATIENTS:
        lines += [(found.low, dashes), (found.high, dashes)]
    for value, style in lines:
        axes.axhline(value, color=_INK, lw=1.1, linestyle=style)
    bottom, top = axes.get_ylim()
    if top - bottom < 0.2:  # less than any volume means: a chart of rounding errors would alarm
        bottom, top = found.mean - 0.5, found.mean + 0.5
        axes.set_ylim(bottom, top)
    apart = found.high - found.low > 0.2 * (top - bottom)
    for value, _ in lines if apart else lines[:1]:
        axes.annotate(_signed(value), (1.015, value), xycoords=("axes fraction", "data"), va="center", fontsize=9)


def _system_legend(axes: Axes, systems: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    if len(systems) > 1:
        handles = [
            Line2D([], [], ls="", marker=_MARKERS[i % 5], color="white", markeredgecolor=_INK, label=_short(system))
            for i, system in enumerate(systems)
        ]
        axes.legend(handles=handles, frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.09))


def _short(text: str) -> str:
    shown = visible(text)
    return shown if len(shown) <= 28 else shown[:25] + "..."


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "\N{MINUS SIGN}")


def _svg(figure: Figure, name: str, description: str) -> str:
    """Return the figure as an element for a page.

    No date, no address, no id that another chart could have.
    """
    from html import escape

    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": name}):
        empty: Mapping[str, None] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=dict(empty), transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    # A page needs no name spaces, and knows href without one: so no address is left in it.
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    prefix = "".join(c if c.isascii() and c.isalnum() else f"-{ord(c):x}-" for c in name) + "."
    text = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{prefix}", text)
    return re.sub(
        r"^<svg ", f'<svg role="img" aria-label="{escape(description)}" preserveAspectRatio="xMidYMid meet" ', text
    )
