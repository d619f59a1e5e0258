"""The anatomy of a phantom patient: which tissue is where, before any scanner."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data.grid import Grid
from data.phantom_fields import Array, Axes, sheets, sigmoid, smooth_noise, stream
from data.phantom_template import Pose, template
from data.phantom_tumour import ET, NETC, SNFH, choose_foci, grow_tumour

HEAD_HALF_MM = (86.0, 106.0, 92.0)
"""Half of the box around the middle of the head that holds every brain that is drawn here, millimetres."""

TISSUES = ("csf", "gm", "wm", "wmh", "oedema", "necrosis", "rim", "vessel")


@dataclass(frozen=True)
class Anatomy:
    """What is where, before any scanner: all arrays cover the box of the grid that the head can reach.

    Parameters
    ----------
    tissues : dict of (b1, b2, b3) float32
        Fractions, 0 to 1 and together 1, of `TISSUES`: "wmh" is the white matter of age beside the ventricles (no
        tumour), "vessel" whatever healthy takes up contrast medium.
    brain : (b1, b2, b3) bool
    label_map : (b1, b2, b3) uint8
    axes : three float32 vectors
        Millimetres of the box's voxels from the middle of the grid, along each array axis.
    box : three slices
        Where the box lies in the grid.
    """

    tissues: dict[str, Array]
    brain: NDArray[np.bool_]
    label_map: NDArray[np.uint8]
    axes: Axes
    box: tuple[slice, slice, slice]


def make_anatomy(seed: int, grid: Grid, *, level_mm: float = 0.0) -> Anatomy:
    """Deform the template for ``seed``, read tissue from it on ``grid`` and grow a tumour in it.

    ``level_mm`` is the height of the grid's middle above the middle of the head; a grid of one slice (d3 = 1) gets
    areas in place of volumes. Raises as `make_phantom`.
    """
    axes, box = _head_box(grid, level_mm)
    spacing = grid.spacing_mm
    foci = choose_foci(seed, axes)
    rng = stream(seed, "push")
    pose = Pose(seed, foci[0], push=float(rng.uniform(0.05, 0.3)), push_mm=float(rng.uniform(28, 42)))
    place = pose.template_voxels(axes)
    t1, white, depth_map = template()
    depth = ndimage.map_coordinates(depth_map, place / np.float32(2), order=1, output=np.float32)
    brain = depth > 1.6 + 0.9 * smooth_noise(axes, 18.0, stream(seed, "skull strip"))
    t1_here = ndimage.map_coordinates(t1, place, order=1, output=np.float32)
    white_here = ndimage.map_coordinates(white, place, order=1, output=np.float32)
    del place
    # The template is a mean of many brains and has lost the small sulci: sheets of CSF put them back into the cortex.
    sulci = sheets(axes, 10.0, 0.22, stream(seed, "sulci")) * np.clip((17 - depth) / 5, 0, 1)
    folds = smooth_noise(axes, 6.0, stream(seed, "folds"))
    level = float(stream(seed, "atrophy").uniform(106.0, 132.0))
    csf = sigmoid((level - t1_here + 11 * folds + 45 * sulci) / 8)
    wm = (1 - csf) * sigmoid((white_here - 104 + 24 * smooth_noise(axes, 7.0, stream(seed, "white folds"))) / 16)
    label_map = grow_tumour(seed, axes, spacing, foci, brain, csf, wm, depth)
    tissues = _mix(seed, axes, spacing, label_map, csf, wm, depth)
    return Anatomy(tissues, brain, label_map, axes, box)


def _head_box(grid: Grid, level_mm: float) -> tuple[Axes, tuple[slice, slice, slice]]:
    axes, box = [], []
    for axis in range(3):
        n, step = grid.shape[axis], grid.spacing_mm[axis]
        place = (np.arange(n) - (n - 1) / 2) * step + (level_mm if axis == 2 else 0.0)
        inside = np.flatnonzero(np.abs(place) <= HEAD_HALF_MM[axis])
        start, stop = (int(inside[0]), int(inside[-1]) + 1) if inside.size else (n // 2, n // 2 + 1)
        axes.append(place[start:stop].astype(np.float32))
        box.append(slice(start, stop))
    return (axes[0], axes[1], axes[2]), (box[0], box[1], box[2])


def _mix(
    seed: int,
    axes: Axes,
    spacing: tuple[float, float, float],
    label_map: NDArray[np.uint8],
    csf: Array,
    wm: Array,
    depth: Array,
) -> dict[str, Array]:
    """Fractions of every tissue: the tumour's borders are soft, as a scanner sees them; the labels stay exact."""
    # Contrast medium in healthy places: veins in the outer CSF, patches of dura, choroid plexus in the ventricles.
    where = np.where(depth < 7, 0.8, np.where(depth > 28, 0.6, 0.15)).astype(np.float32)
    vessel = csf * where * sheets(axes, 8.0, 0.25, stream(seed, "vessels"))
    dura = np.clip((4 - depth) / 2, 0, 1) * sigmoid(4 * smooth_noise(axes, 14.0, stream(seed, "dura")) - 5)
    vessel = np.maximum(vessel, 0.7 * dura * (1 - wm))
    ventricle = csf * (depth > 24)
    age = float(stream(seed, "age").uniform(0, 3))
    wmh = wm * np.clip(age * ndimage.gaussian_filter(ventricle, [3.0 / step for step in spacing], truncate=2.0), 0, 0.7)
    healthy = {"csf": csf, "gm": 1 - csf - wm, "wm": wm - wmh, "wmh": wmh}
    tissues = {name: (1 - vessel) * part for name, part in healthy.items()} | {"vessel": vessel}
    soft = {}
    for name, label, blur_mm in (("necrosis", NETC, 0.7), ("rim", ET, 0.6), ("oedema", SNFH, 0.0)):
        sigma = [min(blur_mm / step, 1.0) for step in spacing]
        soft[name] = ndimage.gaussian_filter((label_map == label).astype(np.float32), sigma)
    whole = ndimage.gaussian_filter((label_map > 0).astype(np.float32), [min(1.5 / step, 1.5) for step in spacing])
    whole = np.maximum(whole, soft["necrosis"] + soft["rim"])
    soft["oedema"] = np.maximum(whole - soft["necrosis"] - soft["rim"], 0)
    rest = 1 - whole
    return {name: rest * part for name, part in tissues.items()} | soft
