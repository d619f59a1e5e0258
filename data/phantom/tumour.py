"""Tumour of a phantom patient.

It lies in the white matter; core, rim and oedema reach outwards from its foci.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data.phantom.fields import Array, Axes, Place, rotation, smooth_noise, stream, window_around
from data.phantom.template import Pose, template

NETC, SNFH, ET = 1, 2, 3
"""Labels of the brats2023 convention: necrotic core, oedema, enhancing rim."""


LESION_MM = (2.0, 15.0)
"""Least and greatest diameter of a small lesion (of the sphere of its volume), millimetres."""


@dataclass(frozen=True)
class Survey:
    """Coarse survey of a head.

    T1 and white matter of the template (0-255), depth in mm, deep in a hemisphere or not.
    """

    t1: Array
    wm: Array
    depth: Array
    hemisphere: NDArray[np.bool_]


def lattice_in(axes: Axes, margin_mm: float) -> Axes:
    """Return a lattice of 4 mm in the field of view, less a margin.

    Places chosen on it do not move with the spacing.
    """
    lattice = [np.arange(-80, 81, 4, dtype=np.float32) for _ in range(3)]
    for axis, values in enumerate(axes):
        low, high = float(values.min()), float(values.max())
        margin = min(margin_mm, (high - low) / 4)
        inside = lattice[axis][(lattice[axis] >= low + margin) & (lattice[axis] <= high - margin)]
        lattice[axis] = inside if inside.size else np.array([(low + high) / 2], dtype=np.float32)
    return (lattice[0], lattice[1], lattice[2])


def survey_head(seed: int, lattice: Axes) -> Survey:
    """Look at the seed's head on a lattice, before any tumour pushes it."""
    place = Pose(seed).template_voxels(lattice)
    t1_map, white, depth_map = template()
    t1 = ndimage.map_coordinates(t1_map, place, order=1, output=np.float32)
    wm = ndimage.map_coordinates(white, place, order=1, output=np.float32)
    depth = ndimage.map_coordinates(depth_map, place / np.float32(2), order=1, output=np.float32)
    return Survey(t1, wm, depth, (np.abs(place[0] - 98) > 14) & (place[2] > 56) & (depth > 0))


def choose_foci(seed: int, axes: Axes) -> list[Place]:
    """Choose one or two places (mm) deep in the white matter.

    They lie in the hemispheres, inside the field of view.
    """
    coarse = lattice_in(axes, margin_mm=12.0)
    head = survey_head(seed, coarse)
    # Where the field of view has no place that is right in every way, the least bad one is taken.
    score = 1000.0 * head.hemisphere + 500.0 * (head.wm > 170) + np.where(head.depth > 12, 200.0, head.depth)
    candidates = np.argwhere(score >= score.max() - 1e-3)
    places = np.stack([coarse[axis][candidates[:, axis]] for axis in range(3)], axis=1).astype(float)
    rng = stream(seed, "foci")
    first = places[rng.integers(len(places))]
    foci = [first]
    apart = np.linalg.norm(places - first, axis=1)
    others = places[(apart > 25) & (apart < 60)]
    if rng.random() < 0.25 and len(others):
        foci.append(others[rng.integers(len(others))])
    return [(float(x), float(y), float(z)) for x, y, z in foci]


def grow_tumour(
    seed: int, axes: Axes, spacing: tuple[float, float, float], foci: list[Place],
    brain: NDArray[np.bool_], csf: Array, wm: Array, depth: Array,
) -> NDArray[np.uint8]:  # fmt: skip
    """Grow a label map of one tumour.

    It has an irregular core, an enhancing rim in it, and oedema that follows the white matter around it.
    """
    rng = stream(seed, "tumour")
    label_map = np.zeros(brain.shape, dtype=np.uint8)
    # Nothing of the tumour reaches further than this from a focus: the distance transforms run in this box only.
    reach_mm = 48.0
    edges = [(min(f[k] for f in foci) - reach_mm, max(f[k] for f in foci) + reach_mm) for k in range(3)]
    window = tuple(slice(*np.searchsorted(axes[k], edges[k]).tolist()) for k in range(3))
    near: Axes = (axes[0][window[0]], axes[1][window[1]], axes[2][window[2]])
    brain, csf, wm, depth = brain[window], csf[window], wm[window], depth[window]
    if not brain.any():
        return label_map
    flat = len(axes[2]) == 1
    core_ml = float(np.exp(rng.uniform(np.log(7), np.log(36))))
    whole_ml = float(np.clip(core_ml * rng.uniform(1.8, 4.5), 26, 112))
    # A small field of view holds a small tumour: never more than these shares of the brain near it.
    core_n, whole_n = (
        max(1, int(min(_voxels(ml, spacing, flat), share * brain.sum())))
        for ml, share in ((core_ml, 0.15), (whole_ml, 0.35))
    )

    far = _distance_to_foci(rng, near, foci)
    radius = (core_ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3)
    far += np.float32(0.32 * radius) * smooth_noise(near, 14.0, stream(seed, "lobes"))
    far += np.float32(0.10 * radius) * smooth_noise(near, 6.0, stream(seed, "lobules"))
    far += 8 * csf + np.maximum(6 - depth, 0)
    core = _smallest(far, brain, core_n)
    # The distance is to the centre of the next voxel outside; the surface lies half a voxel nearer.
    inner = _distance_to_outside(core, spacing) - min(spacing[:2] if flat else spacing) / 2
    thick = rng.uniform(2.0, 4.0) * np.exp(0.35 * smooth_noise(near, 9.0, stream(seed, "rim")))
    if rng.random() < 0.2:  # little enhancement: the rim is there in patches only
        thick = np.where(smooth_noise(near, 10.0, stream(seed, "patches")) > rng.uniform(0.3, 1.2), thick, 0)
    rim = core & (inner <= thick)

    outer = _distance_to_outside(~core, spacing)
    outer += 10 * (1 - wm - csf) + 40 * csf + 3.5 * smooth_noise(near, 9.0, stream(seed, "fingers"))
    whole = core | _smallest(np.where(core, -1000, outer), brain & ((csf < 0.6) | core), max(whole_n, core_n + 1))
    whole = _touching(whole, core)
    label_map[window] = np.where(rim, ET, np.where(core, NETC, np.where(whole, SNFH, 0)))
    return label_map


def scatter_places(seed: int, axes: Axes, diameters_mm: Array) -> list[Place]:
    """Scatter places (mm) for small lesions in the brain's tissue.

    At least 12 mm of it lie between any two.

    As many as there is room for: where the field of view is small, fewer than there are diameters.
    """
    lattice = lattice_in(axes, margin_mm=0.0)
    head = survey_head(seed, lattice)
    rng = stream(seed, "scatter")
    free = rng.permutation(np.argwhere((head.depth > 6) & (head.t1 > 125)))
    places = np.stack([lattice[k][free[:, k]] for k in range(3)], axis=1) + rng.uniform(-1.5, 1.5, free.shape)
    room = np.full(len(places), np.inf)
    chosen = []
    for diameter in diameters_mm:
        fits = np.flatnonzero(room > diameter / 2 + 12)
        if not fits.size:
            break
        place = places[fits[0]]
        chosen.append((float(place[0]), float(place[1]), float(place[2])))
        room = np.minimum(room, np.linalg.norm(places - place, axis=1) - diameter / 2)
    return chosen


def grow_lesions(
    seed: int, axes: Axes, places: list[Place], diameters_mm: Array, brain: NDArray[np.bool_], csf: Array, wm: Array
) -> NDArray[np.uint8]:
    """Grow a label map of small lesions.

    All of a lesion enhances but the middle of larger ones; half have oedema.

    Each is one piece of at least one voxel, whatever the spacing: the voxel nearest to its place.
    """
    rng = stream(seed, "lesions")
    label_map = np.zeros(brain.shape, dtype=np.uint8)
    lobes = np.clip(smooth_noise(axes, 5.0, stream(seed, "lesion lobes")), -1.2, 1.2)
    fingers = np.clip(smooth_noise(axes, 9.0, stream(seed, "lesion fingers")), -2, 2)
    for place, diameter in zip(places, diameters_mm, strict=False):
        radius = float(diameter) / 2
        ratios = rng.uniform(0.8, 1.25, 3)
        matrix = (rotation(rng.uniform(-np.pi, np.pi, 3)) / (ratios / np.cbrt(ratios.prod()))[:, None]).astype(
            np.float32
        )
        rim_mm = float(rng.uniform(1.5, 3.0)) if rng.random() < 0.6 and radius > 4 else radius
        swelling_mm = radius * float(rng.uniform(0.4, 2.5)) if rng.random() < 0.5 else 0.0
        centre = tuple(int(np.abs(axes[k] - place[k]).argmin()) for k in range(3))
        if not brain[centre]:
            continue
        around = window_around(axes, place, 2 * radius + 2 * swelling_mm)
        near = tuple(slice(min(s.start, c), max(s.stop, c + 1)) for s, c in zip(around, centre, strict=True))
        d = np.meshgrid(*(axes[k][near[k]] - np.float32(place[k]) for k in range(3)), indexing="ij", sparse=True)
        far = np.sqrt(sum((row[0] * d[0] + row[1] * d[1] + row[2] * d[2]) ** 2 for row in matrix))
        far += np.float32(0.15 * radius) * lobes[near]
        seedling = np.zeros(far.shape, dtype=bool)
        seedling[tuple(c - s.start for s, c in zip(near, centre, strict=True))] = True
        core = _touching((brain[near] & (far <= radius)) | seedling, seedling)
        spread = np.float32(swelling_mm) * (0.3 + 0.7 * wm[near]) * (1 + 0.3 * fingers[near])
        whole = _touching(core | (brain[near] & (csf[near] < 0.6) & (far - radius <= spread) & (swelling_mm > 0)), core)
        here = label_map[near]
        here[whole & (here == 0)] = SNFH
        here[core] = np.where(far[core] <= radius - rim_mm, NETC, ET)
    return label_map


def _voxels(volume_ml: float, spacing: tuple[float, float, float], flat: bool) -> float:
    """Return how many voxels a volume takes.

    In one slice it is the middle section of a sphere of that volume.
    """
    if flat:
        return float(np.pi * (volume_ml * 1000 * 3 / (4 * np.pi)) ** (2 / 3) / (spacing[0] * spacing[1]))
    return volume_ml * 1000 / (spacing[0] * spacing[1] * spacing[2])


def _distance_to_foci(rng: np.random.Generator, axes: Axes, foci: list[Place]) -> Array:
    """Return the millimetres to the nearest focus.

    Distances are those of ellipsoids turned at random; the second focus counts for less.
    """
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    far = None
    for number, (fx, fy, fz) in enumerate(foci):
        matrix = (rotation(rng.uniform(-np.pi, np.pi, 3)) / rng.uniform(0.8, 1.3, 3)[:, None]).astype(np.float32)
        dx, dy, dz = x - np.float32(fx), y - np.float32(fy), z - np.float32(fz)
        here = np.sqrt(sum((row[0] * dx + row[1] * dy + row[2] * dz) ** 2 for row in matrix))
        here = here * np.float32(rng.uniform(1.3, 2.0) if number else 1.0)
        far = here if far is None else np.minimum(far, here)
    assert far is not None
    return np.asarray(far, dtype=np.float32)


def _distance_to_outside(mask: NDArray[np.bool_], spacing: tuple[float, float, float]) -> Array:
    """Return the millimetres from each voxel of the mask to the outside.

    The nearest voxel outside counts: 0 outside, one voxel if there is none.
    """
    if mask.all():
        return np.full(mask.shape, min(spacing), dtype=np.float32)
    return np.asarray(ndimage.distance_transform_edt(mask, sampling=spacing), dtype=np.float32)


def _smallest(values: Array, allowed: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """Take the ``count`` allowed voxels of least value.

    Pieces under a tenth of the largest are left out.
    """
    count = min(count, int(allowed.sum()))
    limit = np.partition(values[allowed], count - 1)[count - 1]
    chosen = allowed & (values <= limit)
    pieces, _ = ndimage.label(chosen)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return np.asarray((sizes >= 0.1 * sizes.max())[pieces] & chosen)


def _touching(mask: NDArray[np.bool_], seedling: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Keep the pieces of the mask that hold a voxel of the seedling."""
    pieces, n = ndimage.label(mask)
    kept = np.zeros(n + 1, dtype=bool)
    kept[np.unique(pieces[seedling])] = True
    kept[0] = False
    return np.asarray(kept[pieces])
