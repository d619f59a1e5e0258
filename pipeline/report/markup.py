"""Text, numbers and tables as HTML: every text escaped, every number in its unit's precision, nothing shown that is not known."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from data.visible import visible
from pipeline.report.colours import REGION_COLOURS, STATUS_COLOURS, STATUS_SIGNS, region_colour
from pipeline.score.catalogue import find_metric


def escape(value: Any) -> str:
    """A value as text that HTML takes for nothing else; what shows nothing becomes U+FFFD, what is unknown nothing."""
    if not is_known(value):
        return ""
    text = " ".join(str(value).split())
    return html.escape(visible(text))


def is_known(value: Any) -> bool:
    """False for None, NaN, NA and NaT, as an empty cell of a table reads back."""
    return value is not None and not (pd.api.types.is_scalar(value) and pd.isna(value))


def as_number(value: Any) -> float:
    """A cell as a number; NaN for what is none."""
    try:
        return float(value) if is_known(value) else math.nan
    except (TypeError, ValueError):
        return math.nan


def metric_name(column: str) -> str:
    """Return the heading of a column of metrics.csv, with its unit (not escaped)."""
    metric = find_metric(column)
    return metric.title if metric is not None else column.replace("_", " ").capitalize()


def number(value: Any, metric: str = "", *, signed: bool = False) -> str:
    """A number in the precision of its metric: scores 3 decimals, mm, ml and percent 1 (2 below 10), counts none.

    Parameters
    ----------
    value : number or anything
        What is no number, NaN among it, gives an empty text.
    metric : str
        A column of metrics.csv.
    signed : bool
        Show the sign of what is above 0 too.
    """
    known, found = as_number(value), find_metric(metric)
    if math.isnan(known):
        return ""
    if math.isinf(known):
        text = "\N{INFINITY}" if known > 0 else "-\N{INFINITY}"
    elif found is not None and found.is_count and float(known).is_integer():
        text = f"{known:,.0f}"
    elif found is not None and found.unit:
        text = f"{known:,.2f}" if abs(known) < 10 else f"{known:,.1f}"
    else:
        text = f"{known:.3f}"
    if text.startswith("-") and not text.strip("-0.,"):
        text = text[1:]  # -0.00
    plus = "+" if signed and known > 0 and text.strip("0.,") else ""
    return plus + text.replace("-", "\N{MINUS SIGN}")


def count(value: Any) -> str:
    """A whole number; nothing where it is not known."""
    known = as_number(value)
    return f"{known:,.0f}" if math.isfinite(known) else ""


def p_value(value: Any) -> str:
    """A p in three decimals; ``< 0.001`` below that."""
    known = as_number(value)
    return "" if math.isnan(known) else "&lt; 0.001" if known < 0.001 else f"{known:.3f}"


def seconds(value: Any) -> str:
    """A time: ``0.8 s``, ``42 s``, ``3 min 5 s``."""
    known = as_number(value)
    if not math.isfinite(known):
        return ""
    if known < 10:
        return f"{known:.1f} s"
    whole = round(known)
    return f"{whole} s" if whole < 120 else f"{whole // 60} min {whole % 60} s"


def interval(low: Any, high: Any, metric: str, *, signed: bool = False) -> str:
    """``low to high``; nothing unless both are known."""
    ends = [number(end, metric, signed=signed) for end in (low, high)]
    return " to ".join(ends) if all(ends) else ""


def region_label(region: Any) -> str:
    """A region's name with a swatch of its colour."""
    return f'<i class="swatch" style="background:{region_colour(str(region))}"></i>{escape(region)}'


def status_badge(status: Any) -> str:
    """A state as a badge that is told by its sign and its word, not by its colour alone."""
    word = str(status) if is_known(status) else ""
    kind = word if word in STATUS_COLOURS else "other"
    return f'<span class="badge {kind}">{STATUS_SIGNS.get(word, "")} {escape(word)}</span>' if word else ""


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, label: str, text_columns: int = 1) -> str:
    """A table that scrolls inside its own box; columns in which no row has anything are left out.

    Parameters
    ----------
    headings : sequence of str
        Not escaped yet.
    rows : sequence of rows
        Cells as HTML.
    label : str
        What a screen reader says of it; not escaped yet.
    text_columns : int
        So many columns on the left hold text; the others hold numbers, and are set to the right.

    Returns
    -------
    str
        Empty where there is no row.
    """
    if not rows:
        return ""
    kept = [i for i in range(len(headings)) if any(row[i] for row in rows)]

    def cells(tag: str, values: Sequence[str]) -> str:
        return "".join(f"<{tag}{' class=t' if i < text_columns else ''}>{values[i]}</{tag}>" for i in kept)

    head = cells("th", [escape(heading) for heading in headings])
    before = [rows[0][0], *(row[0] for row in rows[:-1])]
    # A rule stands where the first column changes: the rows of one region belong together.
    body = "\n".join(
        f"<tr{'' if row[0] == last else ' class=g'}>{cells('td', row)}</tr>"
        for row, last in zip(rows, before, strict=True)
    )
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(label)}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>"
    )


_BADGES = "".join(f".badge.{s}{{color:{ink};background:{ground}}}" for s, (ink, ground) in STATUS_COLOURS.items())
_REGION_RULES = ":root{" + "".join(f"--{region}:{colour};" for region, colour in REGION_COLOURS.items()) + "}"
STYLE = f"""
{_REGION_RULES}
*{{box-sizing:border-box}}
html{{-webkit-text-size-adjust:100%;text-size-adjust:100%;scroll-behavior:smooth}}
body{{margin:0;background:#fbfbfa;color:#1f2933;
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue","Liberation Sans",Arial,sans-serif}}
main,header,footer{{max-width:72rem;margin:0 auto;padding:0 1.5rem}}
header{{padding-top:3rem}}
h1{{font-size:2rem;line-height:1.2;font-weight:600;letter-spacing:-.015em;margin:0 0 .5rem;overflow-wrap:anywhere}}
h2{{font-size:1.35rem;line-height:1.3;font-weight:600;letter-spacing:-.01em;margin:3.25rem 0 .5rem}}
h3{{font-size:1.1rem;line-height:1.35;font-weight:600;margin:0;overflow-wrap:anywhere}}
h4{{font-size:.9rem;font-weight:600;margin:1.4rem 0 .4rem;color:#3e4c59}}
p{{margin:.4rem 0 .8rem;max-width:46rem;overflow-wrap:anywhere}}
a{{color:#0b5394;text-decoration-thickness:1px;text-underline-offset:.15em}}
a:focus-visible,button:focus-visible,summary:focus-visible,.scroll:focus-visible{{outline:2px solid #0b5394;outline-offset:2px}}
.note,figcaption,.quiet{{color:#52606d;font-size:.9rem}}
.research{{color:#52606d;border-left:3px solid #bcc5ce;padding-left:.8rem;margin:.8rem 0 1.6rem}}
.counts{{display:flex;flex-wrap:wrap;gap:.75rem;padding:0;margin:0 0 1.25rem;list-style:none}}
.counts li{{background:#fff;border:1px solid #e1e5ea;border-radius:8px;padding:.7rem 1.1rem;min-width:7.5rem}}
.counts b{{display:block;font-size:1.6rem;line-height:1.2;font-weight:600;font-variant-numeric:tabular-nums}}
nav{{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;font-size:.95rem;border-bottom:1px solid #e1e5ea;padding:.25rem 0 .9rem}}
.scroll{{overflow-x:auto;margin:.6rem 0 1rem;background:#fff;border:1px solid #e1e5ea;border-radius:8px}}
table{{border-collapse:collapse;width:100%;font-size:.875rem;line-height:1.4;font-variant-numeric:tabular-nums lining-nums}}
th,td{{padding:.45rem .8rem;text-align:right;white-space:nowrap;border-top:1px solid #eceff2;vertical-align:baseline}}
th{{border-top:0;color:#52606d;font-weight:600;font-size:.8rem;vertical-align:bottom;white-space:normal;min-width:4.2rem}}
thead tr{{background:#f4f6f7}}
tr.g td{{border-top:1px solid #bcc5ce}}
.t{{text-align:left}}th.t:first-child,td.t:first-child{{position:sticky;left:0;background:inherit}}
tbody tr{{background:#fff}}td.t:first-child{{font-weight:600}}
tbody tr:hover{{background:#f7f9fa}}
td small{{color:#52606d}}
.swatch{{display:inline-block;width:.72em;height:.72em;border-radius:2px;margin-right:.5em;border:1px solid rgba(0,0,0,.45)}}
.badge{{display:inline-block;border-radius:999px;padding:.05rem .65rem;font-size:.8rem;font-weight:600;white-space:nowrap;
background:#eceff2;color:#3e4c59}}
{_BADGES}
.flags{{list-style:none;padding:0;margin:.5rem 0;display:flex;flex-wrap:wrap;gap:.4rem}}
.flags li{{border:1px solid #e3c784;background:#fdf8ec;color:#5c3d00;border-radius:6px;padding:.15rem .6rem;font-size:.85rem;
overflow-wrap:anywhere}}
.charts{{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,19.5rem),1fr));gap:1rem;margin:.8rem 0}}
.charts.wide{{grid-template-columns:repeat(auto-fill,minmax(min(100%,30rem),1fr))}}
.charts figure{{background:#fff;border:1px solid #e1e5ea;border-radius:8px;padding:.9rem;margin:0}}
svg{{display:block;width:100%;height:auto;max-height:24rem}}
svg text{{font-family:inherit!important}}
.worst{{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,20rem),1fr));gap:1rem;padding:0;margin:.8rem 0;list-style:none}}
.worst li{{background:#fff;border:1px solid #e1e5ea;border-radius:8px;overflow:hidden}}
.worst a{{display:block;color:inherit;text-decoration:none}}
.worst img{{border-radius:0}}
.worst span.line{{display:flex;flex-wrap:wrap;gap:.2rem .6rem;justify-content:space-between;align-items:baseline;padding:.55rem .8rem;
font-size:.875rem;overflow-wrap:anywhere}}
.index{{columns:15rem;column-gap:2rem;padding:0;margin:.6rem 0;list-style:none;font-size:.875rem;font-variant-numeric:tabular-nums}}
.index li{{break-inside:avoid;display:flex;gap:.5rem;justify-content:space-between;padding:.12rem 0}}
.index a{{overflow-wrap:anywhere}}
img{{display:block;max-width:100%;height:auto;background:#000;border-radius:6px}}
.patient{{background:#fff;border:1px solid #e1e5ea;border-radius:10px;padding:1.3rem 1.5rem;margin:1.25rem 0;scroll-margin-top:1rem}}
.patient>.head,.patient>summary{{display:flex;flex-wrap:wrap;gap:.3rem .9rem;align-items:center;justify-content:space-between}}
.patient figure{{margin:.9rem 0}}
.pictures{{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr));gap:.75rem}}
.reason{{color:#3e4c59}}
summary{{cursor:pointer}}
details>summary.small{{font-size:.9rem;font-weight:600;color:#3e4c59;margin:1rem 0 .4rem}}
dl{{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:.2rem 1.1rem;font-size:.875rem;margin:1rem 0 0}}
dt{{color:#52606d}}dd{{margin:0;overflow-wrap:anywhere}}
footer{{padding-top:2.5rem;padding-bottom:3rem}}
button{{font:inherit;font-size:.9rem;font-weight:600;color:#0b5394;background:#fff;border:1px solid #9fb3c8;border-radius:6px;
padding:.35rem .9rem;cursor:pointer}}
.viewer{{margin:.9rem 0}}
.canvas{{height:26rem;max-height:80vh;border-radius:6px;overflow:hidden;background:#000}}.canvas canvas{{display:block}}
.controls{{display:flex;flex-wrap:wrap;gap:.4rem 1.4rem;align-items:center;font-size:.875rem;padding:.6rem 0}}
.controls label{{display:inline-flex;align-items:center;gap:.35rem}}
[hidden]{{display:none!important}}
@media(max-width:640px){{
body{{font-size:15px}}main,header,footer{{padding-left:1rem;padding-right:1rem}}header{{padding-top:1.5rem}}
h1{{font-size:1.55rem}}h2{{margin-top:2.4rem}}.patient{{padding:1rem;border-radius:8px}}
.patient figure{{overflow-x:auto}}.patient figure img{{max-width:none;width:38rem}}
.counts{{display:grid;grid-template-columns:1fr 1fr}}.counts li{{min-width:0}}
table{{font-size:.8rem}}th,td{{padding:.35rem .4rem}}th{{min-width:0;font-size:.72rem}}.swatch{{margin-right:.3em}}
td.t+td.t{{white-space:normal;max-width:6.2rem}}.canvas{{height:30rem}}}}
@media print{{
@page{{margin:14mm}}
body{{background:#fff;font-size:10pt}}main,header,footer{{max-width:none;padding:0}}header{{padding-top:0}}
nav,.viewer,.index-box{{display:none}}
.scroll{{overflow:visible;border:0;border-radius:0}}
table{{font-size:7.5pt}}th,td{{padding:1.5pt 3pt;white-space:normal}}th{{min-width:0;font-size:7pt}}
tr,img,svg,figure,.worst li,.counts li,section.patient,dl{{break-inside:avoid}}
h2,h3,h4,.head{{break-after:avoid}}thead{{display:table-header-group}}
.patient{{border:0;border-top:1px solid #bcc5ce;border-radius:0;padding:10pt 0 0}}
.charts{{grid-template-columns:repeat(3,1fr)}}.charts.wide{{grid-template-columns:repeat(2,1fr)}}
details::details-content{{content-visibility:visible;block-size:auto}}
*{{-webkit-print-color-adjust:exact;print-color-adjust:exact}}}}
"""
