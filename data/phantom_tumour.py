"""The tumour of a phantom patient: where it lies in the white matter, and how far core, rim and oedema reach."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data.phantom_fields import Array, Axes, rotation, smooth_noise, stream
from data.phantom_template import Pose, template

NETC, SNFH, ET = 1, 2, 3
"""Labels of the brats2023 convention: necrotic core, oedema, enhancing rim."""


def choose_foci(seed: int, axes: Axes) -> list[tuple[float, float, float]]:
    """One or two places (mm) deep in the white matter of the hemispheres, inside the field of view.

    Chosen on a 4 mm lattice of space rather than on the voxels, so that they do not move with the spacing.
    """
    lattice = [np.arange(-80, 81, 4, dtype=np.float32) for _ in range(3)]
    for axis, values in enumerate(axes):
        low, high = float(values.min()), float(values.max())
        margin = min(12.0, (high - low) / 4)
        inside = lattice[axis][(lattice[axis] >= low + margin) & (lattice[axis] <= high - margin)]
        lattice[axis] = inside if inside.size else np.array([(low + high) / 2], dtype=np.float32)
    coarse: Axes = (lattice[0], lattice[1], lattice[2])
    place = Pose(seed).template_voxels(coarse)
    _, white, depth_map = template()
    wm = ndimage.map_coordinates(white, place, order=1, output=np.float32)
    depth = ndimage.map_coordinates(depth_map, place / np.float32(2), order=1, output=np.float32)
    hemisphere = (np.abs(place[0] - 98) > 14) & (place[2] > 56) & (depth > 0)
    # Where the field of view has no place that is right in every way, the least bad one is taken.
    score = 1000.0 * hemisphere + 500.0 * (wm > 170) + np.where(depth > 12, 200.0, depth)
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
    seed: int, axes: Axes, spacing: tuple[float, float, float], foci: list[tuple[float, float, float]],
    brain: NDArray[np.bool_], csf: Array, wm: Array, depth: Array,
) -> NDArray[np.uint8]:  # fmt: skip
    """Label map: an irregular core, an enhancing rim in it, and oedema that follows the white matter around it."""
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


def _voxels(volume_ml: float, spacing: tuple[float, float, float], flat: bool) -> float:
    """Voxels of a volume, or in one slice of the middle section of a sphere of that volume."""
    if flat:
        return float(np.pi * (volume_ml * 1000 * 3 / (4 * np.pi)) ** (2 / 3) / (spacing[0] * spacing[1]))
    return volume_ml * 1000 / (spacing[0] * spacing[1] * spacing[2])


def _distance_to_foci(rng: np.random.Generator, axes: Axes, foci: list[tuple[float, float, float]]) -> Array:
    """Millimetres to the nearest focus, in ellipsoids turned at random; the second focus counts for less."""
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
    """Millimetres from each voxel of the mask to the nearest voxel outside; 0 outside, one voxel if there is none."""
    if mask.all():
        return np.full(mask.shape, min(spacing), dtype=np.float32)
    return np.asarray(ndimage.distance_transform_edt(mask, sampling=spacing), dtype=np.float32)


def _smallest(values: Array, allowed: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """Take the ``count`` allowed voxels of least value, less those pieces that are under a tenth of the largest."""
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
