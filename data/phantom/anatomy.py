"""Anatomy of a phantom patient: tissues and their places, before any scanner."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data.grid import Grid
from data.phantom.fields import Array, Axes, Place, sheets, sigmoid, smooth_noise, stream
from data.phantom.shapes import find_place, place_tumour
from data.phantom.template import Pose, template
from data.phantom.tumour import ET, LESION_MM, NETC, SNFH, choose_foci, grow_lesions, grow_tumour, scatter_places

HEAD_HALF_MM = (86.0, 106.0, 92.0)
"""Half of the box around the middle of the head that holds every brain that is drawn here, millimetres."""

TISSUES = ("csf", "gm", "wm", "wmh", "oedema", "necrosis", "rim", "vessel")


@dataclass(frozen=True)
class TumourPlan:
    """Tumour that a head gets.

    By default it is grown, of the shape and size of a glioma.

    Parameters
    ----------
    lesions : (least, most), optional
        Small lesions instead, a number drawn between these, both included; (0, 0) is a healthy head.
    labels : (d1, d2, d3) uint8, optional
        A real tumour instead, as `data.phantom.shapes.crop_tumour` gives it.
    spacing_mm : three floats
        Distance of the voxel centres of ``labels``.

    Raises
    ------
    ValueError
        If both are given, or the numbers of lesions are not in order.
    """

    lesions: tuple[int, int] | None = None
    labels: NDArray[np.uint8] | None = None
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if self.lesions is not None and self.labels is not None:
            raise ValueError("a head gets either lesions or tumour_labels: leave one of them out")
        if self.lesions is not None and not 0 <= self.lesions[0] <= self.lesions[1]:
            raise ValueError(f"lesions is the least and the most, from 0 on, not {self.lesions}")


@dataclass(frozen=True)
class Anatomy:
    """Tissues and their places, before any scanner.

    All arrays cover the box of the grid that the head can reach.

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


def make_anatomy(seed: int, grid: Grid, *, level_mm: float = 0.0, plan: TumourPlan = TumourPlan()) -> Anatomy:
    """Deform the template for ``seed`` and put the planned tumour in it.

    Tissue is read from the template on ``grid``.

    ``level_mm`` is the height of the grid's middle above the middle of the head; a grid of one slice (d3 = 1) gets
    areas in place of volumes. Raises as `make_phantom`.
    """
    axes, box = _head_box(grid, level_mm)
    spacing = grid.spacing_mm
    places, diameters_mm = _choose_places(seed, axes, plan)
    place = _pose(seed, places, plan).template_voxels(axes)
    t1, white, depth_map = template()
    depth = ndimage.map_coordinates(depth_map, place / np.float32(2), order=1, output=np.float32)
    border = 1.6 + 0.9 * smooth_noise(axes, 18.0, stream(seed, "skull strip"))
    brain = depth > np.maximum(border, 0)  # outside the head the depth is 0, and no noise makes a brain there
    t1_here = ndimage.map_coordinates(t1, place, order=1, output=np.float32)
    white_here = ndimage.map_coordinates(white, place, order=1, output=np.float32)
    del place
    # The template is a mean of many brains and has lost the small sulci: sheets of CSF put them back into the cortex.
    sulci = sheets(axes, 10.0, 0.22, stream(seed, "sulci")) * np.clip((17 - depth) / 5, 0, 1)
    folds = smooth_noise(axes, 6.0, stream(seed, "folds"))
    level = float(stream(seed, "atrophy").uniform(106.0, 132.0))
    csf = sigmoid((level - t1_here + 11 * folds + 45 * sulci) / 8)
    wm = (1 - csf) * sigmoid((white_here - 104 + 24 * smooth_noise(axes, 7.0, stream(seed, "white folds"))) / 16)
    if plan.labels is not None:
        label_map = place_tumour(seed, plan.labels, plan.spacing_mm, axes, places[0], brain=brain, csf=csf, depth=depth)
    elif plan.lesions is not None:
        label_map = grow_lesions(seed, axes, places, diameters_mm, brain, csf, wm)
    else:
        label_map = grow_tumour(seed, axes, spacing, places, brain, csf, wm, depth)
    tissues = _mix(seed, axes, spacing, label_map, csf, wm, depth)
    return Anatomy(tissues, brain, label_map, axes, box)


def _choose_places(seed: int, axes: Axes, plan: TumourPlan) -> tuple[list[Place], Array]:
    """Choose where the tumour's pieces lie, and the diameters of small lesions.

    There are no diameters for other plans.
    """
    none = np.zeros(0, dtype=np.float32)
    if plan.labels is not None:
        return [find_place(seed, plan.labels, plan.spacing_mm, axes)], none
    if plan.lesions is None:
        return choose_foci(seed, axes), none
    rng = stream(seed, "lesion sizes")
    count = int(rng.integers(plan.lesions[0], plan.lesions[1] + 1))
    # Largest first, while there is room.
    low, high = (float(np.log(mm)) for mm in LESION_MM)
    diameters_mm = np.sort(np.exp(rng.uniform(low, high, count)))[::-1].astype(np.float32)
    return (scatter_places(seed, axes, diameters_mm) if count else []), diameters_mm


def _pose(seed: int, places: list[Place], plan: TumourPlan) -> Pose:
    """Return the head's pose, pushed aside by the tumour.

    Small lesions push nothing aside, a real tumour as much as its volume is of 60 ml.
    """
    if plan.lesions is not None:
        return Pose(seed)
    rng = stream(seed, "push")
    pose = Pose(seed, places[0], push=float(rng.uniform(0.05, 0.3)), push_mm=float(rng.uniform(28, 42)))
    if plan.labels is None:
        return pose
    volume_ml = np.count_nonzero(plan.labels) * float(np.prod(plan.spacing_mm)) / 1000
    return replace(pose, push=pose.push * min(1.0, volume_ml / 60))


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
    """Return the fractions of every tissue.

    The tumour's borders are soft, as a scanner sees them; the labels stay exact.
    """
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
    return add_tumour(tissues, label_map, spacing)


def add_tumour(
    tissues: dict[str, Array], label_map: NDArray[np.uint8], spacing: tuple[float, float, float]
) -> dict[str, Array]:
    """Lay a tumour over a healthy head's tissues, with soft borders.

    Parameters
    ----------
    tissues : name -> (b1, b2, b3) float32
        Fractions of the healthy tissues, together 1.
    label_map : (b1, b2, b3) uint8
        Codes of `data.phantom.tumour`.
    spacing : three floats
        Distance in mm of its voxels.
    """
    soft = {}
    for name, label, blur_mm in (("necrosis", NETC, 0.7), ("rim", ET, 0.6), ("oedema", SNFH, 0.0)):
        sigma = [min(blur_mm / step, 1.0) for step in spacing]
        soft[name] = ndimage.gaussian_filter((label_map == label).astype(np.float32), sigma)
    whole = ndimage.gaussian_filter((label_map > 0).astype(np.float32), [min(1.5 / step, 1.5) for step in spacing])
    whole = np.maximum(whole, soft["necrosis"] + soft["rim"])
    soft["oedema"] = np.maximum(whole - soft["necrosis"] - soft["rim"], 0)
    rest = 1 - whole
    return {name: rest * part for name, part in tissues.items()} | soft
