"""What a person looks at: preview pictures, the page, and label descriptions for ITK-SNAP and 3D Slicer."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.grid import Grid
from data.io import write_bytes_atomically, write_text_atomically
from data.labels import REGIONS, LabelConvention
from transforms.postprocess import bounding_box, largest_component

REGION_COLOURS = {"WT": "#56B4E9", "TC": "#F0E442", "ET": "#D55E00", "RC": "#009E73"}
"""Sky blue, yellow, vermilion, bluish green: told apart with any colour vision (Okabe & Ito, 2008)."""

_PLANES = (("axial", 2), ("coronal", 1), ("sagittal", 0))


def largest_lesion_centre(mask: NDArray[np.bool_]) -> tuple[int, ...]:
    """Voxel of the largest 26-connected component that lies nearest to its centre of mass; the array's middle for an empty mask."""
    if not mask.any():
        return tuple(n // 2 for n in mask.shape)
    voxels = np.argwhere(largest_component(mask))
    nearest = np.square(voxels - voxels.mean(axis=0)).sum(axis=1).argmin()
    return tuple(int(n) for n in voxels[nearest])


def write_preview(
    path: Path, title: str, background: NDArray[np.float32], masks: Mapping[str, NDArray[np.bool_]], grid: Grid
) -> None:
    """Three planes through the largest lesion, regions as outlines, in radiological convention (the patient's left on the right).

    Parameters
    ----------
    background : (d1, d2, d3)
        On ``grid``, like the masks.
    masks : region -> (d1, d2, d3) bool
        The outermost region first; it decides where the planes lie.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    spacing = grid.reoriented("RAS").spacing_mm
    image = _to_ras(background, grid)
    full_shape = image.shape
    regions = {region: _to_ras(mask, grid) for region, mask in masks.items()}
    # The pictures show the brain, not the empty field around it.
    box = bounding_box(image != 0, margin=5)
    if image[box].size:
        image, regions = image[box], {region: mask[box] for region, mask in regions.items()}
    offset = [s.start if image.size else 0 for s in box]
    centre = largest_lesion_centre(next(iter(regions.values())))
    inside = image[image != 0]
    low, high = np.percentile(inside, [1, 99.5]) if inside.size else (0.0, 1.0)

    planes = [(name, axis) for name, axis in _PLANES if min(n for a, n in enumerate(image.shape) if a != axis) > 1]
    figure = Figure(figsize=(4 * len(planes), 4.6), facecolor="black")
    FigureCanvasAgg(figure)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.08, top=0.88, wspace=0.02)
    for column, (name, axis) in enumerate(planes, start=1):
        axes = figure.add_subplot(1, len(planes), column)
        across, up = [a for a in range(3) if a != axis]
        aspect = spacing[up] / spacing[across]
        axes.imshow(
            image.take(centre[axis], axis).T,
            cmap="gray",
            vmin=low,
            vmax=high,
            origin="lower",
            aspect=aspect,
            interpolation="nearest",
        )
        for region, mask in regions.items():
            cut = mask.take(centre[axis], axis).T
            if cut.any():
                # An outline lies on the border of the mask's voxels: half way between a voxel inside and one outside.
                rows, columns = (np.arange(-1, n + 1) for n in cut.shape)
                colour = REGION_COLOURS.get(region, "white")
                axes.contour(columns, rows, np.pad(cut, 1), levels=[0.5], colors=colour, linewidths=1.2)
        axes.set_axis_off()
        axes.set_title(f"{name} {offset[axis] + centre[axis] + 1}/{full_shape[axis]}", color="white", fontsize=9)
        left, right = ("A", "P") if axis == 0 else ("R", "L")
        axes.invert_xaxis()
        for text, where in ((left, 0.02), (right, 0.98)):
            axes.text(where, 0.5, text, color="white", transform=axes.transAxes, ha="center", va="center", fontsize=9)
    figure.suptitle(_printable(title), color="white", fontsize=10)
    handles = [Line2D([], [], color=REGION_COLOURS.get(region, "white"), label=region) for region in regions]
    figure.legend(
        handles=handles, loc="lower center", ncols=len(handles), frameon=False, labelcolor="white", fontsize=9
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, facecolor="black", metadata={"Software": None})
    write_bytes_atomically(path, buffer.getvalue())


def _to_ras(array: NDArray[Any], grid: Grid) -> NDArray[Any]:
    import nibabel as nib

    return nib.orientations.apply_orientation(array, grid.orientation_to("RAS"))


def _printable(text: str) -> str:
    shown = "".join(c if c.isprintable() and c != "$" else "\N{REPLACEMENT CHARACTER}" for c in text)
    return shown if len(shown) <= 80 else shown[:77] + "..."


def label_colours(convention: LabelConvention) -> dict[int, str]:
    """A colour (``#RRGGBB``) for each label: that of the innermost region that holds it."""
    colours = {}
    for label in convention.labels:
        holding = [region for region, labels in convention.regions.items() if label in labels]
        colours[label] = (
            REGION_COLOURS[min(holding, key=lambda region: len(convention.regions[region]))] if holding else "#999999"
        )
    return colours


def write_label_descriptions(folder: Path, convention: LabelConvention, suffix: str = "") -> None:
    """``labels.txt`` for ITK-SNAP and ``labels.ctbl`` for 3D Slicer, in the same colours as the previews."""
    snap = [f"# ITK-SNAP label description: {convention.name}", '    0     0    0    0        0  0  0    "Clear Label"']
    slicer = [f"# 3D Slicer colour table: {convention.name}", "0 background 0 0 0 0"]
    for label, colour in label_colours(convention).items():
        red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        name = convention.labels[label]
        snap.append(f'{label:5d}   {red:3d}  {green:3d}  {blue:3d}        1  1  1    "{name}"')
        slicer.append(f"{label} {name.replace(' ', '_')} {red} {green} {blue} 255")
    write_text_atomically(folder / f"labels{suffix}.txt", "\n".join(snap) + "\n")
    write_text_atomically(folder / f"labels{suffix}.ctbl", "\n".join(slicer) + "\n")


_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1a1a1a}
table{border-collapse:collapse;font-size:13px;display:block;overflow-x:auto}th,td{padding:.25rem .6rem;border-bottom:1px solid #ddd;text-align:right}
th:first-child,td:first-child{text-align:left}img{max-width:100%;background:#000}.ok{color:#00674b}.warn{color:#8a5a00}.error{color:#b00020}
section{margin:2rem 0;break-inside:avoid}.note{color:#555}
"""


def write_page(path: Path, title: str, rows: pd.DataFrame, summary: pd.DataFrame, previews: Mapping[str, Path]) -> None:
    """One self-contained HTML page: the summary table, then a section a patient with its picture. Every text is escaped.

    Parameters
    ----------
    rows, summary : DataFrame
        As in report.csv and summary.csv.
    previews : mapping of case to Path
        PNG files; they are embedded.
    """
    parts = [
        f"<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'><title>{html.escape(title)}</title>",
        f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1><p class='note'>For research use only; not a medical device.</p>",
        f"<p>{_count(rows)}</p>",
    ]
    if len(summary):
        parts += ["<h2>Summary</h2>", _table(summary)]
    for row in rows.to_dict("records"):
        name, status = html.escape(_printable(str(row["case"]))), html.escape(str(row["status"]))
        parts.append(f"<section><h2>{name} <small class='{status}'>{status}</small></h2>")
        parts += [
            f"<p>{html.escape(str(row[key]))}</p>"
            for key in ("reason", "flags")
            if isinstance(row.get(key), str) and row[key]
        ]
        preview = previews.get(str(row["case"]))
        if preview is not None and preview.is_file():
            encoded = base64.b64encode(preview.read_bytes()).decode()
            parts.append(
                f"<img alt='three planes through the largest lesion of {name}' src='data:image/png;base64,{encoded}'>"
            )
        parts += [_table(_by_region(row)), "</section>"]
    write_text_atomically(path, "\n".join(parts) + "</html>\n")


def _by_region(row: Mapping[str, Any]) -> pd.DataFrame:
    """One patient's ``<measure>_<region>`` columns as a table: a line a region, a column a measure; what is not known is empty."""
    lines = []
    for region in REGIONS:
        own = {name.removesuffix(f"_{region}"): value for name, value in row.items() if name.endswith(f"_{region}")}
        if any(not pd.isna(value) for value in own.values()):
            lines.append({"region": region} | own)
    return pd.DataFrame(lines)


def _count(rows: pd.DataFrame) -> str:
    counts = rows["status"].value_counts()
    return f"{len(rows)} patients: " + ", ".join(
        f"{int(counts.get(status, 0))} {status}" for status in ("ok", "warn", "error")
    )


def _table(frame: pd.DataFrame) -> str:
    if frame.empty:
        return ""
    head = "".join(f"<th>{html.escape(str(column))}</th>" for column in frame.columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{_cell(value)}</td>" for value in row) + "</tr>"
        for row in frame.itertuples(index=False, name=None)
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(value: Any) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return ""
    return f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else html.escape(str(value))
