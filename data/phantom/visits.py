"""Phantom patients over time: lesions that grow, shrink, split, merge, vanish and return.

One head is imaged at every visit, each time turned and shifted at random, on voxels of another size, with other noise
and brightness. Lesions are balls, or two that touch, all stretched alike: their volumes and identities are known from
geometry, and no voxel is counted for them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data.grid import Grid
from data.phantom.anatomy import HEAD_HALF_MM, Anatomy, TumourPlan, add_tumour, make_anatomy
from data.phantom.contrast import CONTRAST, draw_contrast, render
from data.phantom.fields import Array, Axes, Place, rotation, stream
from data.phantom.patient import Phantom, phantom_name, write_patient
from data.phantom.tumour import ET, NETC, SNFH, lattice_in, survey_head

STORIES: Mapping[str, tuple[tuple[float, ...], ...]] = {
    "splits": ((7.7, 7.4, 4.9, 4.8, 4.7), (7.0, 6.7, 4.0, 4.0, 4.0)),
    "merges": ((4.8, 4.8, 4.9, 7.7, 8.2), (4.0, 4.0, 4.1, 6.9, 7.4)),
    "grows": ((5.0, 6.0, 7.0, 8.0, 9.0),),
    "shrinks": ((9.0, 8.0, 7.0, 6.0, 5.0),),
    "returns": ((7.0, 6.0, 0.0, 0.0, 6.5),),
    "vanishes": ((8.0, 6.5, 5.0, 0.0, 0.0),),
    "comes": ((0.0, 0.0, 5.0, 6.0, 7.5),),
}
"""Radii in mm of each ball of a lesion at five visits; 0 where it is not there. The larger ball stands first."""
APART_MM = 13.0
"""Distance of the two balls' middles: less than their radii while they are one lesion, else 4 mm more."""
RIM_MM, SWELLING_MM = 2.5, 3.0
"""Thickness of the enhancing rim, and of the oedema that half of the lesions have."""
MOST_DEGREES, MOST_MM = 12.0, 12.0
"""Of the turn about each axis, and of the shift along each, of a head at a visit."""
REGIONS = ("WT", "TC", "ET")

_RAS = np.diag([-1.0, -1.0, 1.0])  # from the head's axes, which run as those of an LPS array


@dataclass(frozen=True)
class TrueLesion:
    """One lesion of a region at one visit, from geometry.

    Parameters
    ----------
    lesion : int
        Number over all visits, from 1: that of its larger ball. Where a lesion splits, the smaller part has a new
        number; where two merge, the larger one's stays.
    story : str
        One of `STORIES`.
    balls : tuple of int
        Numbers of the balls that it consists of.
    volume_ml : float
    """

    lesion: int
    story: str
    balls: tuple[int, ...]
    volume_ml: float


@dataclass(frozen=True, eq=False)
class Visit:
    """One visit of a phantom patient.

    Parameters
    ----------
    phantom : Phantom
        Images and labels on the visit's own grid.
    lesion_map : (d1, d2, d3) uint8
        Number of the lesion (of TC, as `TrueLesion.lesion`) at each voxel of TC and its oedema; 0 elsewhere.
    from_head : (4, 4) float64
        Takes a place in the head to its place at this visit, both in mm (RAS+).
    lesions : region -> tuple of TrueLesion
        By rising number, for each of `REGIONS`.
    """

    phantom: Phantom
    lesion_map: NDArray[np.uint8]
    from_head: NDArray[np.float64]
    lesions: dict[str, tuple[TrueLesion, ...]]

    def move_from(self, baseline: Visit) -> NDArray[np.float64]:
        """Return the true move, (4, 4), from a baseline to this visit.

        It takes a place to the same anatomy's place, both in mm (RAS+).
        """
        return np.asarray(self.from_head @ np.linalg.inv(baseline.from_head))


@dataclass(frozen=True)
class _Lesion:
    """Balls in a stretched space, and that space."""

    story: str
    first: int
    middles: tuple[NDArray[np.float64], ...]
    radii: tuple[tuple[float, ...], ...]
    swelling_mm: float
    place_mm: Place
    stretch: NDArray[np.float64]

    @property
    def reach_mm(self) -> float:
        """Distance from its place beyond which it never lies."""
        farthest = max(map(max, self.radii)) + self.swelling_mm
        return 1.25 * (farthest + float(np.linalg.norm(self.middles[0])))


def draw_visits(
    seed: int, visits: int = 5, *, spacing_mm: float = 1.0, modalities: Sequence[str] = tuple(CONTRAST)
) -> list[Visit]:
    """Draw a phantom patient at several visits.

    Parameters
    ----------
    seed : int, not negative
        The same arguments give the same bits.
    visits : int
        How many, at least one; stories are told by five, and other numbers take the nearest of these.
    spacing_mm : float
        Of the head that is drawn. A visit's voxels have .9 to 1.1 of it in plane, 1 to 1.6 of it across.
    modalities : sequence of str
        Of t1, t1c, t2, flair; only these are drawn.

    Returns
    -------
    list of Visit
        With one lesion of each of `STORIES`, or as many as the head has room for.

    Raises
    ------
    ValueError
        If the number of visits, the seed or the spacing is not positive, or a modality is unknown.
    """
    if visits < 1:
        raise ValueError(f"visits is at least 1, not {visits}")
    if unknown := set(modalities) - set(CONTRAST):
        raise ValueError(f"a modality is one of {', '.join(CONTRAST)}, not {sorted(unknown)[0]!r}")
    if not (math.isfinite(spacing_mm) and spacing_mm > 0):
        raise ValueError(f"spacing_mm is a positive number, not {spacing_mm}")
    head = make_anatomy(seed, _grid((spacing_mm,) * 3, 0.0), plan=TumourPlan(lesions=(0, 0)))
    lesions = _place_lesions(seed)
    return [_image(seed, number, visits, head, lesions, spacing_mm, modalities) for number in range(visits)]


def write_visits(folder: Path, seed: int, visits: int = 5, *, spacing_mm: float = 1.0) -> list[Path]:
    """Write a phantom patient's visits as folders of BraTS 2023.

    Their names end in ``-000`` and on; they are returned. Arguments as for `draw_visits`, files as of
    `data.phantom.patient.write_phantom`.
    """
    stem = phantom_name(seed).removesuffix("000")
    drawn = draw_visits(seed, visits, spacing_mm=spacing_mm)
    return [write_patient(Path(folder) / f"{stem}{number:03d}", visit.phantom) for number, visit in enumerate(drawn)]


def _grid(spacing: Sequence[float], margin_mm: float) -> Grid:
    """Return an LPS grid around the middle of the head."""
    d1, d2, d3 = (int(2 * (half + margin_mm) // step) + 1 for half, step in zip(HEAD_HALF_MM, spacing, strict=True))
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    affine[:3, 3] = -affine[:3, :3] @ (np.array([d1, d2, d3]) - 1) / 2
    return Grid((d1, d2, d3), affine)


def _place_lesions(seed: int) -> list[_Lesion]:
    """Choose places deep in the brain, so far apart that lesions never meet."""
    x_mm, y_mm, z_mm = (np.array([-half, half], np.float32) for half in HEAD_HALF_MM)
    lattice = lattice_in((x_mm, y_mm, z_mm), 0.0)
    head = survey_head(seed, lattice)
    rng = stream(seed, "stories")
    places = rng.permutation(np.argwhere((head.depth > 8) & (head.t1 > 100)))
    depth = head.depth[tuple(places.T)]
    where = np.stack([lattice[axis][places[:, axis]] for axis in range(3)], axis=1).astype(float)
    room = np.full(len(where), np.inf)
    chosen: list[_Lesion] = []
    for story, radii in STORIES.items():
        factor = float(rng.uniform(0.97, 1.08))
        scaled = tuple(tuple(factor * mm for mm in ball) for ball in radii)
        half = np.array([factor * APART_MM / 2 if len(radii) > 1 else 0.0, 0.0, 0.0])
        ratios = rng.uniform(0.9, 1.15, 3)
        turn = rotation(rng.uniform(-np.pi, np.pi, 3))
        swelling = SWELLING_MM if rng.random() < 0.5 else 0.0
        first = 1 + sum(len(lesion.radii) for lesion in chosen)
        middles = (half, -half)[: len(radii)]
        stretch = turn / (ratios / np.cbrt(ratios.prod()))[:, None]
        lesion = _Lesion(story, first, middles, scaled, swelling, (0.0, 0.0, 0.0), stretch)
        fits = np.flatnonzero((depth > lesion.reach_mm) & (room > lesion.reach_mm + 4))
        if not fits.size:
            continue
        x, y, z = where[fits[0]]
        chosen.append(_Lesion(story, first, middles, scaled, swelling, (float(x), float(y), float(z)), stretch))
        room = np.minimum(room, np.linalg.norm(where - where[fits[0]], axis=1) - lesion.reach_mm)
    return chosen


def _image(
    seed: int, number: int, visits: int, head: Anatomy, lesions: Sequence[_Lesion], spacing_mm: float,
    modalities: Sequence[str],
) -> Visit:  # fmt: skip
    rng = stream(seed, f"visit {number}")
    stage = round(number * 4 / max(visits - 1, 1))
    turned = np.eye(4)
    turned[:3, :3] = rotation(np.deg2rad(rng.uniform(-MOST_DEGREES, MOST_DEGREES, 3)))
    turned[:3, 3] = rng.uniform(-MOST_MM, MOST_MM, 3)
    factors = [*rng.uniform(0.9, 1.1, 2).tolist(), float(rng.uniform(1.0, 1.6))]
    grid = _grid([spacing_mm * factor for factor in factors], MOST_MM + 10)
    to_head = np.linalg.inv(turned) @ grid.affine
    to_head = np.vstack([_RAS @ to_head[:3], to_head[3]])  # from voxels to the axes of the head
    label_map, lesion_map = _draw(grid.shape, to_head, lesions, stage)
    brain, tissues = _turned(head, to_head, grid.shape)
    label_map[~brain], lesion_map[~brain] = 0, 0
    tissues = add_tumour(tissues, label_map, grid.spacing_mm)
    axes: Axes = tuple(  # type: ignore[assignment]
        ((np.arange(n) - (n - 1) / 2) * step).astype(np.float32)
        for n, step in zip(grid.shape, grid.spacing_mm, strict=True)
    )
    contrast = {name: row for name, row in draw_contrast(seed).items() if name in modalities}
    for row in contrast.values():
        row["level"] *= float(rng.uniform(0.7, 1.4))
    anatomy = Anatomy(tissues, brain, label_map, axes, (slice(None),) * 3)
    images = render(anatomy, contrast, int(rng.integers(2**31)))
    truth = {region: _truth(lesions, stage, region) for region in REGIONS}
    return Visit(Phantom(images, label_map, grid), lesion_map, turned, truth)


def _turned(
    head: Anatomy, to_head: NDArray[np.float64], shape: tuple[int, int, int]
) -> tuple[NDArray[np.bool_], dict[str, Array]]:
    """Return the brain and the healthy tissues on a visit's voxels."""
    steps = np.array([float(axis[1] - axis[0]) for axis in head.axes])
    start = np.array([float(axis[0]) for axis in head.axes])
    matrix, offset = to_head[:3, :3] / steps[:, None], (to_head[:3, 3] - start) / steps

    def turned(array: Array) -> Array:
        there = ndimage.affine_transform(array, matrix, offset, output_shape=shape, order=1, output=np.float32)
        return np.asarray(there, np.float32)

    brain = turned(head.brain.astype(np.float32)) > 0.5
    tissues = {name: turned(head.tissues[name]) for name in ("csf", "wm", "wmh", "vessel")}
    tissues["gm"] = np.asarray(1 - sum(tissues.values()), np.float32)
    return brain, tissues


def _draw(
    shape: tuple[int, int, int], to_head: NDArray[np.float64], lesions: Sequence[_Lesion], stage: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    label_map, lesion_map = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    steps = np.linalg.norm(to_head[:3, :3], axis=0)
    for lesion in lesions:
        middle = np.linalg.solve(to_head, [*lesion.place_mm, 1.0])[:3]
        low = np.maximum(np.floor(middle - lesion.reach_mm / steps).astype(int), 0)
        high = np.minimum(np.ceil(middle + lesion.reach_mm / steps).astype(int) + 1, shape)
        box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        voxels = np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high, strict=True)), indexing="ij"), -1)
        places = (voxels @ to_head[:3, :3].T + to_head[:3, 3] - lesion.place_mm) @ lesion.stretch.T
        # How far outside of each ball: below 0 is within it.
        outside = [
            np.linalg.norm(places - middle_mm, axis=-1) - radii[stage] if radii[stage] else np.inf * np.ones(1)
            for middle_mm, radii in zip(lesion.middles, lesion.radii, strict=True)
        ]
        nearest = np.minimum.reduce(np.broadcast_arrays(*outside)) * np.ones(voxels.shape[:3])
        here, numbers = label_map[box], lesion_map[box]
        here[nearest <= lesion.swelling_mm] = SNFH
        here[nearest <= 0] = ET
        here[nearest <= -RIM_MM] = NETC
        for truth in _truth([lesion], stage, "TC"):
            own = np.minimum.reduce(np.broadcast_arrays(*(outside[ball - lesion.first] for ball in truth.balls)))
            numbers[(own <= nearest) & (nearest <= lesion.swelling_mm)] = truth.lesion
    return label_map, lesion_map


def _truth(lesions: Sequence[_Lesion], stage: int, region: str) -> tuple[TrueLesion, ...]:
    found = []
    for lesion in lesions:
        grown = lesion.swelling_mm if region == "WT" else 0.0
        balls = {lesion.first + n: radii[stage] + grown for n, radii in enumerate(lesion.radii) if radii[stage]}
        apart = float(np.linalg.norm(lesion.middles[0] - lesion.middles[-1]))
        groups = [tuple(balls)] if sum(balls.values()) > apart else [(ball,) for ball in balls]
        for group in groups if balls else []:
            ml = _union_ml([balls[ball] for ball in group], apart)
            if region == "ET":
                ml -= _union_ml([balls[ball] - RIM_MM for ball in group], apart)
            found.append(TrueLesion(group[0], lesion.story, group, ml))
    return tuple(found)


def _union_ml(radii: Sequence[float], apart_mm: float) -> float:
    """Return the volume of one ball, or of two so far apart."""
    radii = [mm for mm in radii if mm > 0]
    total = sum(4 / 3 * math.pi * mm**3 for mm in radii)
    if len(radii) == 2 and apart_mm < sum(radii):
        a, b = radii
        lens = math.pi * (a + b - apart_mm) ** 2 * (apart_mm**2 + 2 * apart_mm * (a + b) - 3 * (a - b) ** 2)
        total -= lens / (12 * apart_mm)
    return total / 1000
