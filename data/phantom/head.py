"""Head around a brain: skull, scalp, eyes, face, neck and the noise of air.

The brain is a phantom's or a real patient's whose skull was removed. Its voxels are kept to the bit, so that the right
brain mask of the head is known, and a program that removes skulls can be measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data.grid import Grid
from data.phantom.fields import Array, Axes, Place, smooth_noise, stream

AIR, CSF, BONE, MARROW, FAT, MUSCLE, VITREOUS, CORD = range(8)
TISSUES = ("air", "csf", "bone", "marrow", "fat", "muscle", "vitreous", "cord")

LEVELS: Mapping[str, tuple[float, ...]] = {
    #        air   csf   bone  marrow fat  muscle vitreous cord
    "t1":    (0.0, 0.35, 0.12, 1.10, 1.90, 0.75, 0.30, 1.05),
    "t1c":   (0.0, 0.40, 0.12, 1.20, 1.90, 0.95, 0.30, 1.05),
    "t2":    (0.0, 2.30, 0.12, 0.90, 1.50, 0.45, 2.60, 0.90),
    "flair": (0.0, 0.35, 0.12, 0.75, 1.20, 0.60, 0.30, 0.95),
}  # fmt: skip
"""Intensity of each of `TISSUES` in parts of the brain's median."""
NOISE = 0.02
"""Of the air, in parts of the brain's median: what a magnitude image shows is its Rayleigh distribution."""
ROOM_MM = (22.0, 28.0, 50.0, 22.0)
"""From the brain to the borders of the grid: at each side, in front and behind, below, above."""
EYE_MM, ORBIT_MM = 12.0, 17.0
"""Radius of an eye, and of the fat around it."""
EYES_APART_MM = 64.0
"""Between the middles of the eyes."""
EYE_BELOW_MM = 3.0
"""Between the orbit and the brain above it."""
EYE_BEHIND_MM = 12.0
"""From the frontal pole backwards to the middles of the eyes."""
NECK_MM, CORD_MM = 55.0, 6.0
"""Radius of the neck, and of the spinal cord in its middle."""
SKIN_MM = 5.0
"""Fat under the skin of face and neck."""
FACE_MM = (62.0, 65.0, 78.0)
"""Half axes of the face, an ellipsoid: to the right, to the front, to the head."""
AIRWAY_MM = (12.0, 35.0, 22.0)
"""Half axes of the nose's hollow, of air, in the middle of the face."""


@dataclass(frozen=True)
class Layers:
    """Thickness of the layers around a brain, mm.

    Parameters
    ----------
    csf_mm, skull_mm, scalp_mm : float
        From the brain outwards. The middle third of the skull is marrow.
    uneven_mm : float
        Standard deviation by which the distance from the brain is off, smooth over 25 mm.
    """

    csf_mm: float = 2.5
    skull_mm: float = 7.0
    scalp_mm: float = 6.0
    uneven_mm: float = 0.0

    @property
    def total_mm(self) -> float:
        """Distance from the brain to the air."""
        return self.csf_mm + self.skull_mm + self.scalp_mm


@dataclass(frozen=True, eq=False)
class Head:
    """Images of a head, and the brain in it.

    Parameters
    ----------
    images : dict of modality to (d1, d2, d3) float32
        Whole numbers, not negative; air is noise.
    brain : (d1, d2, d3) bool
        Voxels that come from the brain's own images.
    grid : Grid
        Has the brain's voxels, and more around them.
    """

    images: dict[str, Array]
    brain: NDArray[np.bool_]
    grid: Grid


def draw_layers(seed: int) -> Layers:
    """Draw the layers of a seed's head."""
    low, high = np.array([[1.5, 3.0], [5.5, 8.5], [4.0, 8.0]]).T
    csf, skull, scalp = stream(seed, "head layers").uniform(low, high).tolist()
    return Layers(csf, skull, scalp, 0.6)


def add_head(images: Mapping[str, NDArray[np.generic]], grid: Grid, seed: int, layers: Layers | None = None) -> Head:
    """Draw a head around a brain.

    Parameters
    ----------
    images : mapping of modality of `LEVELS` to (d1, d2, d3) array
        Skull-stripped and registered to each other: 0 outside the brain. The brain is where any is not 0.
    grid : Grid
        Of all the images; its axes may have any order and direction, and run along those of the patient.
    seed : int, not negative
        The same arguments give the same bits.
    layers : Layers, optional
        By default `draw_layers` of the seed.

    Returns
    -------
    Head
        On a grid that goes `ROOM_MM` beyond the brain; its axes are those of ``grid``.

    Raises
    ------
    ValueError
        There is no image, an image has another shape, a modality is unknown, the brain is empty, or the grid is turned
        against the patient's axes.
    """
    _check(images, grid)
    layers = layers or draw_layers(seed)
    upright = grid.reoriented("RAS")
    turned = {name: grid.turn(np.asarray(image), "RAS") for name, image in images.items()}
    shown = np.any([image != 0 for image in turned.values()], axis=0)
    if not shown.any():
        raise ValueError("the images hold no brain: they are 0 everywhere")
    whole, cut = _room(shown, upright)
    brain = np.zeros(whole.shape, bool)
    brain[cut[0]] = shown[cut[1]]
    tissue = _tissues(brain, whole, layers, seed)
    made = {}
    for name, image in turned.items():
        own = np.zeros(whole.shape, np.float32)
        own[cut[0]] = image[cut[1]]
        made[name] = whole.turn(_render(name, own, brain, tissue, whole, seed), grid.orientation)
    return Head(made, whole.turn(brain, grid.orientation), whole.reoriented(grid.orientation))


def _check(images: Mapping[str, NDArray[np.generic]], grid: Grid) -> None:
    if not images:
        raise ValueError("a head needs the images of a brain")
    for name, image in images.items():
        if name not in LEVELS:
            raise ValueError(f"no head has a modality {name!r}: name one of {', '.join(LEVELS)}")
        if np.shape(image) != grid.shape:
            raise ValueError(f"{name} has shape {np.shape(image)}, the grid {grid.shape}")
    turned = np.abs(grid.affine[:3, :3]) / np.array(grid.spacing_mm)
    if np.sort(turned, axis=None)[-3:].min() < 0.999:
        raise ValueError("the grid's axes are turned against the patient's: lay the brain on a straight grid first")


def _room(brain: NDArray[np.bool_], grid: Grid) -> tuple[Grid, tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Return a grid with room for the head (RAS).

    The box of the brain in it and in the given grid come with it.
    """
    side, front, below, above = ROOM_MM
    to, own, shape = [], [], []
    first = np.zeros(3)
    for axis, (before, behind) in enumerate(((side, side), (front, front), (below, above))):
        planes = np.flatnonzero(brain.any(axis=tuple({0, 1, 2} - {axis})))
        low, high, step = int(planes[0]), int(planes[-1]) + 1, grid.spacing_mm[axis]
        lead, trail = int(np.ceil(before / step)), int(np.ceil(behind / step))
        to.append(slice(lead, lead + high - low))
        own.append(slice(low, high))
        shape.append(lead + high - low + trail)
        first[axis] = low - lead
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ first
    return Grid((shape[0], shape[1], shape[2]), affine), (tuple(to), tuple(own))


def _tissues(brain: NDArray[np.bool_], grid: Grid, layers: Layers, seed: int) -> NDArray[np.uint8]:
    """Return each voxel's tissue outside the brain, its number in `TISSUES`."""
    away = ndimage.distance_transform_edt(~brain, sampling=grid.spacing_mm).astype(np.float32)
    axes = _axes(grid)
    if layers.uneven_mm:
        away += np.float32(layers.uneven_mm) * smooth_noise(axes, 25.0, stream(seed, "head uneven"))
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    middle, neck = _middle(brain, axes), _neck(brain, axes)
    front = float(axes[1][np.flatnonzero(brain.any(axis=(0, 2)))[-1]])
    low = float(axes[2][np.flatnonzero(brain.any(axis=(0, 1)))[0]])
    from_neck = np.hypot(x - neck[0], y - neck[1])
    face = (middle[0], front - FACE_MM[1] + 6, low)
    in_face = _out_of((x, y, z), face, FACE_MM)
    in_neck = np.where(z < low + 30, from_neck - NECK_MM, np.float32(np.inf))
    skin = np.minimum(np.minimum(in_face, in_neck), away - np.float32(layers.total_mm))  # negative under it
    tissue = np.where(skin > 0, AIR, np.where(skin > -SKIN_MM, FAT, MUSCLE)).astype(np.uint8)
    tissue[_out_of((x, y, z), (face[0], face[1] + 10, face[2] - 20), AIRWAY_MM) < 0] = AIR
    spine = (z < low) & (from_neck < CORD_MM + 10)
    for part, inside in ((BONE, CORD_MM + 10), (MARROW, CORD_MM + 8), (CSF, CORD_MM + 3), (CORD, CORD_MM)):
        tissue[spine & (from_neck < inside)] = part
    third = layers.skull_mm / 3
    for part, reach in (
        (FAT, layers.total_mm),
        (BONE, layers.csf_mm + layers.skull_mm),
        (MARROW, layers.csf_mm + 2 * third),
        (BONE, layers.csf_mm + third),
    ):
        # Where the cord leaves the skull there is a hole in it.
        tissue[(away <= reach) & ~(spine & (from_neck < CORD_MM + 3))] = part
    tissue[(away <= layers.csf_mm) & (tissue != CORD)] = CSF
    for eye in _eyes(brain, axes, middle, front):
        from_eye = np.sqrt((x - eye[0]) ** 2 + (y - eye[1]) ** 2 + (z - eye[2]) ** 2)
        tissue[(from_eye < ORBIT_MM) & (away > layers.csf_mm + third)] = FAT
        tissue[(from_eye < EYE_MM) & (away > layers.csf_mm + third)] = VITREOUS
    return tissue


def _out_of(places: Axes, middle: Place, half_mm: Place) -> Array:
    """Return about how far places lie out of an ellipsoid, mm; negative within."""
    x, y, z = ((v - np.float32(f)) / np.float32(r) for v, f, r in zip(places, middle, half_mm, strict=True))
    return np.asarray((np.sqrt(x**2 + y**2 + z**2) - 1) * np.float32(min(half_mm)), np.float32)


def _axes(grid: Grid) -> Axes:
    """Return millimetres from the middle of a grid in RAS, along each axis."""
    x, y, z = (
        ((np.arange(n) - (n - 1) / 2) * step).astype(np.float32)
        for n, step in zip(grid.shape, grid.spacing_mm, strict=True)
    )
    return (x, y, z)


def _middle(brain: NDArray[np.bool_], axes: Axes) -> Place:
    x, y, z = (
        float(axes[k][planes].mean())
        for k in range(3)
        for planes in [np.flatnonzero(brain.any(axis=tuple({0, 1, 2} - {k})))[[0, -1]]]
    )
    return (x, y, z)


def _neck(brain: NDArray[np.bool_], axes: Axes) -> tuple[float, float]:
    """Return the middle of the brain's lowest 10 mm: of the brain stem."""
    rows = np.flatnonzero(brain.any(axis=(0, 1)))
    lowest = brain & (axes[2] <= axes[2][rows[0]] + 10)
    places = np.argwhere(lowest)[:, :2].mean(axis=0)
    x, y = (float(np.interp(places[k], np.arange(len(axes[k])), axes[k])) for k in range(2))
    return (x, y)


def _eyes(brain: NDArray[np.bool_], axes: Axes, middle: Place, front: float) -> list[Place]:
    """Return the middles of both eyes, under the frontal lobes.

    Where no brain is above, they lie at its middle height.
    """
    found = []
    for x in (middle[0] - EYES_APART_MM / 2, middle[0] + EYES_APART_MM / 2):
        y = front - EYE_BEHIND_MM
        over = (np.abs(axes[0] - x) <= ORBIT_MM)[:, None] & (np.abs(axes[1] - y) <= ORBIT_MM)[None]
        height = np.flatnonzero(brain[over].any(axis=0))
        lowest = float(axes[2][height[0]]) if height.size else middle[2] + ORBIT_MM + EYE_BELOW_MM
        found.append((x, y, lowest - EYE_BELOW_MM - ORBIT_MM))
    return found


def _render(name: str, own: Array, brain: NDArray[np.bool_], tissue: NDArray[np.uint8], grid: Grid, seed: int) -> Array:
    """Image a head in one modality, with the brain's own voxels in it."""
    rng = stream(seed, f"head {name}")
    median = float(np.median(own[brain & (own > 0)])) if (own > 0).any() else 1000.0
    levels = np.array(LEVELS[name], np.float32)
    levels *= rng.uniform(0.85, 1.15, len(levels)).astype(np.float32)
    signal = levels[tissue]
    signal *= 1 + np.float32(0.12) * smooth_noise(_axes(grid), 8.0, rng)
    # The brain takes part, so that what lies beside it is not darkened.
    signal[brain] = own[brain] / np.float32(median)
    signal = ndimage.gaussian_filter(signal, [min(0.6 / step, 1.0) for step in grid.spacing_mm], truncate=2.0)
    noise = rng.standard_normal((2, *signal.shape), dtype=np.float32) * np.float32(NOISE)
    image = np.rint(np.float32(median) * np.hypot(signal + noise[0], noise[1]))
    return np.where(brain, own, np.clip(image, 0, 32767)).astype(np.float32)
