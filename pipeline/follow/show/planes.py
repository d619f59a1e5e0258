"""Pictures of one plane at every time point, and of growth.

All lie on planes of the baseline's grid, in radiological convention: the patient's left is on the right.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data.grid import Grid
from data.labels import Mask
from pipeline.follow.growth import GROWTH_COLOURS, GROWTH_LABELS
from pipeline.report.colours import region_colour, rgb
from transforms.restore import resample_to

PLANES = ("axial", "coronal", "sagittal")
COLOURS_BY_NAME = {GROWTH_LABELS[label]: colour for label, colour in GROWTH_COLOURS.items()}
"""Colours of ``kept``, ``gained`` and ``lost``."""
PIXELS = 400
"""Longer side of a picture."""
_FINER = 2  # lines are drawn on so many times the pixels, then averaged
_SHOWN = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}  # across, down, through
_COLOURS = 96

Box = Sequence[tuple[float, float]]
"""First and last voxel along R, A and S of the baseline's grid turned to RAS."""


def plane_grid(baseline: Grid, box: Box, plane: str, index: float) -> Grid:
    """Return the grid of one plane: pixels across, pixels down, one through.

    Parameters
    ----------
    baseline : Grid
    box : three (first, last)
        What is shown, in voxels of the baseline's grid turned to RAS.
    plane : one of PLANES
    index : float
        Voxel, along the axis that the plane cuts.
    """
    turned = baseline.reoriented("RAS")
    across, down, through = _SHOWN[plane]
    sides = [(box[axis][1] - box[axis][0] + 1) * turned.spacing_mm[axis] for axis in (across, down)]
    pixel = max(sides) / PIXELS
    shape = (max(1, round(sides[0] / pixel)), max(1, round(sides[1] / pixel)), 1)
    corner = np.zeros(3)
    corner[through] = index
    affine = np.eye(4)
    for column, axis in enumerate((across, down)):
        step = pixel / turned.spacing_mm[axis]
        corner[axis] = box[axis][1] + 0.5 - step / 2  # from right to left, from front to back, from head to foot
        affine[:3, column] = -step * turned.affine[:3, axis]
    affine[:3, 2] = turned.affine[:3, through]
    affine[:3, 3] = turned.affine[:3, :3] @ corner + turned.affine[:3, 3]
    return Grid(shape, affine)


def cut(array: NDArray[Any], grid: Grid, plane: Grid) -> NDArray[np.float32]:
    """Return an image or mask on a plane, (down, across) float32.

    It is 0 outside of its grid.
    """
    there = resample_to(torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))[None], grid, plane)
    return there[0, :, :, 0].numpy().T


def grey_limits(image: NDArray[Any]) -> tuple[float, float]:
    """Return the values of an image that are shown as black and white."""
    inside = image[image != 0]
    if not inside.size:
        return 0.0, 1.0
    low, high = np.percentile(inside, [1, 99.5])
    return float(low), max(float(high), float(low) + 1e-6)


def outlined(
    image: NDArray[np.float32] | None, limits: tuple[float, float], masks: Mapping[str, NDArray[np.float32]]
) -> bytes:
    """Draw regions as outlines on a plane of an image; a PNG.

    Parameters
    ----------
    image : (down, across) float32, or None
        None gives a dark field.
    limits : (float, float)
        Values that are black and white.
    masks : region -> (down, across) float32, at least one
        Share of each pixel that lies in the region; the outline is where it is a half.
    """
    from contourpy import contour_generator
    from PIL import Image, ImageDraw

    down, across = next(iter(masks.values())).shape
    picture = Image.fromarray(_greys(image, limits, (down, across))).convert("RGB")
    picture = picture.resize((_FINER * across, _FINER * down), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(picture)
    for region, mask in masks.items():
        if mask.max(initial=0.0) < 0.5:
            continue
        rows, columns = (np.arange(-1, n + 1) for n in mask.shape)
        lines: list[Any] = list(contour_generator(columns, rows, np.pad(mask, 1)).lines(0.5))
        for line in lines:
            points = [(float(_FINER * (x + 0.5)), float(_FINER * (y + 0.5))) for x, y in line]
            draw.line(points, fill=rgb(region_colour(region)), width=round(2.5 * _FINER), joint="curve")
    return _png(picture.resize((across, down), Image.Resampling.BOX))


def filled(
    image: NDArray[np.float32] | None, limits: tuple[float, float], parts: Mapping[str, NDArray[np.float32]]
) -> bytes:
    """Lay growth over a plane of an image, in its colours; a PNG.

    Parameters are those of `outlined`; ``parts`` has names of `COLOURS_BY_NAME`.
    """
    from PIL import Image

    shape = next(iter(parts.values())).shape
    shades = np.repeat(_greys(image, limits, shape)[..., None], 3, axis=2).astype(np.float32)
    for name, part in parts.items():
        share = 0.6 * np.clip(part, 0.0, 1.0)[..., None]
        shades = (1 - share) * shades + share * np.array(rgb(COLOURS_BY_NAME[name]), np.float32)
    return _png(Image.fromarray(shades.round().astype(np.uint8)))


def fullest_plane(masks: Sequence[Mask]) -> int:
    """Return the index along the last axis where masks are fullest.

    The middle, if they are empty.

    ``masks`` are at least one, (d1, d2, d3) bool of one shape.
    """
    areas = np.sum([mask.sum(axis=(0, 1), dtype=np.int64) for mask in masks], axis=0)
    return int(areas.argmax()) if areas.any() else len(areas) // 2


def _greys(image: NDArray[np.float32] | None, limits: tuple[float, float], shape: tuple[int, int]) -> NDArray[np.uint8]:
    if image is None:
        return np.full(shape, 40, np.uint8)
    low, high = limits
    return (255 * np.clip((image - low) / (high - low), 0, 1)).round().astype(np.uint8)


def _png(picture: Any) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    picture.quantize(_COLOURS, dither=Image.Dither.NONE).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
