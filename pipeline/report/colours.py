"""Colours of regions and states, the same wherever they are shown.

That is: previews, charts, the page, the viewer and the label files.
"""

from __future__ import annotations

from pathlib import Path

from data.io.read import write_text_atomically
from data.labels import LabelConvention

REGION_COLOURS = {"WT": "#56B4E9", "TC": "#F0E442", "ET": "#D55E00", "RC": "#009E73"}
"""Sky blue, yellow, vermilion, bluish green: told apart with any colour vision (Okabe & Ito, 2008)."""
NO_REGION_COLOUR = "#999999"
"""For what lies in no region that we know: Okabe & Ito's grey."""
STATUS_COLOURS = {"ok": ("#00563F", "#E3F2EC"), "warn": ("#6B4700", "#FBF0D9"), "error": ("#8C1D18", "#FBE7E4")}
"""Text and ground of a state; a sign always says the same.

Each pair has a contrast of at least 7 (WCAG 2.2, level AAA).
"""
DARK_STATUS_COLOURS = {"ok": ("#7FD6B4", "#0F2B22"), "warn": ("#F2C877", "#33270F"), "error": ("#FFB4AB", "#3B1512")}
"""The same pairs of a dark page."""
STATUS_SIGNS = {"ok": "\N{CHECK MARK}", "warn": "!", "error": "\N{MULTIPLICATION SIGN}"}


def region_colour(region: str) -> str:
    """Return ``#RRGGBB`` of a region; grey for one without a colour of its own."""
    return REGION_COLOURS.get(region, NO_REGION_COLOUR)


def rgb(colour: str) -> tuple[int, int, int]:
    """Return red, green and blue of ``#RRGGBB``, each 0 to 255."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def label_colours(convention: LabelConvention) -> dict[int, str]:
    """Return a colour (``#RRGGBB``) for each label: its innermost region's."""
    colours = {}
    for label in convention.labels:
        holding = [region for region, labels in convention.regions.items() if label in labels]
        innermost = min(holding, key=lambda region: len(convention.regions[region]), default="")
        colours[label] = region_colour(innermost)
    return colours


def write_label_descriptions(folder: Path, convention: LabelConvention, suffix: str = "") -> None:
    """Write ``labels.txt`` for ITK-SNAP and ``labels.ctbl`` for 3D Slicer.

    Their colours are those of the previews.
    """
    snap = [f"# ITK-SNAP label description: {convention.name}", '    0     0    0    0        0  0  0    "Clear Label"']
    slicer = [f"# 3D Slicer colour table: {convention.name}", "0 background 0 0 0 0"]
    for label, colour in label_colours(convention).items():
        red, green, blue = rgb(colour)
        name = convention.labels[label]
        snap.append(f'{label:5d}   {red:3d}  {green:3d}  {blue:3d}        1  1  1    "{name}"')
        slicer.append(f"{label} {name.replace(' ', '_')} {red} {green} {blue} 255")
    write_text_atomically(folder / f"labels{suffix}.txt", "\n".join(snap) + "\n")
    write_text_atomically(folder / f"labels{suffix}.ctbl", "\n".join(slicer) + "\n")
