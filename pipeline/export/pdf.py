"""One page of PDF about a patient: pictures, volumes, warnings."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.grid import Grid
from data.io.write import write_bytes_atomically
from pipeline import __version__
from pipeline.export.segments import ALGORITHM
from pipeline.report.colours import region_colour
from pipeline.report.preview import printable
from pipeline.score.diameters import axial_diameters

RESEARCH_USE_ONLY = "Research use only. Not a medical device; not for diagnosis or treatment."
_A4 = (8.27, 11.69)
_MOST_LINES, _LETTERS = 24, 105
_NAMES = {"WT": "Whole tumour", "TC": "Tumour core", "ET": "Enhancing tumour", "RC": "Resection cavity"}


def write_pdf(
    path: Path,
    title: str,
    picture: Path,
    masks: Mapping[str, NDArray[np.bool_]],
    grid: Grid,
    *,
    model: str,
    warnings: Sequence[str],
) -> None:
    """Write the page.

    Parameters
    ----------
    picture : Path
        The patient's preview, a PNG.
    masks : region -> (d1, d2, d3) bool
        On ``grid``.
    model : str
    warnings : sequence of str
        Sentences; those that no longer fit on the page are counted.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=_A4, facecolor="white")
    figure.text(0.06, 0.955, printable(title), fontsize=15, weight="bold")
    figure.text(0.06, 0.935, f"Brain tumour segmentation by {printable(model)}, {ALGORITHM} {__version__}", fontsize=8)
    figure.text(0.06, 0.915, RESEARCH_USE_ONLY, fontsize=9, weight="bold", color="#8C1D18")
    _show(figure, picture)
    _table(figure, masks, grid)
    lines = [line for text in warnings for line in textwrap.wrap(f"- {printable(text)}", _LETTERS)]
    if len(lines) > _MOST_LINES:
        lines = [*lines[: _MOST_LINES - 1], f"and {len(lines) - _MOST_LINES + 1} more lines in report.csv"]
    figure.text(0.06, 0.4, "Warnings" if lines else "No warnings", fontsize=10, weight="bold", va="top")
    figure.text(0.06, 0.38, "\n".join(lines), fontsize=7.5, va="top", linespacing=1.4)
    figure.text(0.06, 0.03, RESEARCH_USE_ONLY, fontsize=8, color="#8C1D18")
    content = io.BytesIO()
    figure.savefig(content, format="pdf", metadata={"CreationDate": None, "Title": printable(title)})
    write_bytes_atomically(path, content.getvalue())


def _show(figure, picture: Path) -> None:
    from PIL import Image

    with Image.open(picture, formats=("PNG",)) as image:
        pixels = np.asarray(image.convert("RGB"))
    axes = figure.add_axes((0.06, 0.6, 0.88, 0.3))
    axes.imshow(pixels)
    axes.set_axis_off()


def _table(figure, masks: Mapping[str, NDArray[np.bool_]], grid: Grid) -> None:
    """Draw volumes and largest axial diameters, a row for each region."""
    figure.text(0.06, 0.57, "Region", fontsize=9, weight="bold")
    for x, heading in ((0.45, "Volume (ml)"), (0.65, "Longest axial (mm)"), (0.85, "Across it (mm)")):
        figure.text(x, 0.57, heading, fontsize=9, weight="bold", ha="right")
    for row, (region, mask) in enumerate(masks.items()):
        y = 0.548 - 0.022 * row
        figure.text(0.06, y, "\u25a0", fontsize=11, color=region_colour(region))
        figure.text(0.085, y, f"{_NAMES.get(region, region)} ({region})", fontsize=9)
        if not grid.spacing_known:
            cells = ["unknown", "", ""]
        elif mask.any():
            across = axial_diameters(mask, grid.affine)
            volume = int(np.count_nonzero(mask)) * grid.voxel_volume_ml
            cells = [f"{volume:.2f}", f"{across.diameter_mm:.1f}", f"{across.perpendicular_mm:.1f}"]
        else:
            cells = ["0.00", "-", "-"]
        for x, cell in zip((0.45, 0.65, 0.85), cells, strict=True):
            figure.text(x, y, cell, fontsize=9, ha="right")
