"""Real tumour shapes in phantom patients.

A mask is turned, mirrored, scaled, bent and put where a head has room.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data.phantom.fields import Array, Axes, Place, rotation, smooth_noise, stream, window_around
from data.phantom.tumour import NETC, SNFH, lattice_in, survey_head

VENTRICLE_DEPTH_MM = 24.0
"""CSF that lies deeper below the brain's surface than this is ventricle, not sulcus."""
_BEND_MM = 1.5


def crop_tumour(tumour_labels: NDArray[np.integer], tumour_spacing_mm: Sequence[float]) -> NDArray[np.uint8]:
    """Cut a label map to the box of its tumour.

    Parameters
    ----------
    tumour_labels : (d1, d2, d3) whole numbers
        The codes of `data.phantom.tumour`: 0 nothing, 1 necrotic core, 2 oedema, 3 enhancing tumour.
    tumour_spacing_mm : three floats
        Distance of its voxel centres along each axis.

    Returns
    -------
    (b1, b2, b3) uint8

    Raises
    ------
    ValueError
        If the label map has not three axes, holds other codes or no tumour, or the spacing is not positive.
    """
    labels, spacing = np.asarray(tumour_labels), np.asarray(tumour_spacing_mm, dtype=np.float64)
    if labels.ndim != 3:
        raise ValueError(f"tumour_labels has three axes, not {labels.ndim}: give one volume")
    if spacing.shape != (3,) or not np.isfinite(spacing).all() or spacing.min() <= 0:
        raise ValueError(f"tumour_spacing_mm is one positive number for each axis, not {tumour_spacing_mm}")
    sides = [np.flatnonzero((labels != 0).any(axis=tuple(k for k in range(3) if k != axis))) for axis in range(3)]
    if not sides[0].size:
        raise ValueError("tumour_labels holds no tumour; a head without one is drawn by lesions=(0, 0)")
    box = labels[tuple(slice(int(side[0]), int(side[-1]) + 1) for side in sides)]
    strange = np.unique(box[~np.isin(box, (0, 1, 2, 3))])
    if strange.size:
        raise ValueError(
            f"tumour_labels holds {strange[:3].tolist()}; translate it to 1 necrotic core, 2 oedema, 3 enhancing tumour"
        )
    return box.astype(np.uint8)


def find_place(
    seed: int,
    tumour_labels: NDArray[np.uint8],
    tumour_spacing_mm: Sequence[float],
    axes: Axes,
    *,
    scale: tuple[float, float] = (0.8, 1.25),
) -> Place:
    """Choose a tumour's middle in the seed's head, mm, so that it fits.

    Sixty places in the white matter of the hemispheres are tried in random order: the first with nine tenths of the
    tumour in brain tissue and in the field of view is taken, or where there is none the best. Arguments as for
    `place_tumour`.
    """
    lattice = lattice_in(axes, margin_mm=0.0)
    head = survey_head(seed, lattice)
    room = (head.depth > 2) & (head.t1 > 120)
    wanted = 2.0 * head.hemisphere + (head.wm > 150) + 0.5 * room
    candidates = np.argwhere(wanted >= wanted.max())
    candidates = stream(seed, "tumour place").permutation(candidates)[:60]
    to_voxel, middle = _turn(seed, tumour_labels, tumour_spacing_mm, scale)
    voxels = np.argwhere(tumour_labels)
    voxels = voxels[:: max(1, len(voxels) // 500)]
    steps = np.rint((voxels - middle) @ np.linalg.inv(to_voxel).T / 4.0).astype(int)
    there = candidates[:, None] + steps
    inside = ((there >= 0) & (there < room.shape)).all(axis=2)
    there = np.clip(there, 0, np.array(room.shape) - 1)
    kept = (inside & room[there[..., 0], there[..., 1], there[..., 2]]).mean(axis=1)
    best = candidates[int(np.argmax(np.where(kept >= 0.9, 1.0, kept)))]
    return (float(lattice[0][best[0]]), float(lattice[1][best[1]]), float(lattice[2][best[2]]))


def place_tumour(
    seed: int,
    tumour_labels: NDArray[np.uint8],
    tumour_spacing_mm: Sequence[float],
    axes: Axes,
    place_mm: Place,
    *,
    brain: NDArray[np.bool_],
    csf: Array,
    depth: Array,
    scale: tuple[float, float] = (0.8, 1.25),
) -> NDArray[np.uint8]:
    """Put a real tumour into a head.

    Parameters
    ----------
    seed : int
        Of turn (any), mirror, scale and bend (1.5 mm, smooth over 18 mm).
    tumour_labels : (d1, d2, d3) uint8
        1 necrotic core, 2 oedema, 3 enhancing tumour, on any grid; as `crop_tumour` gives it.
    tumour_spacing_mm : three floats
        Of its grid.
    axes : three float32 vectors
        Millimetres of the head's voxels along each axis: lengths b1, b2, b3.
    place_mm : three floats
        Where the tumour's centre of mass comes to lie.
    brain, csf, depth : (b1, b2, b3) bool, float32, float32
        The head: brain tissue, fraction of CSF, millimetres below the brain's surface.
    scale : two floats
        Lengths are multiplied by a number drawn between these, on a logarithmic scale.

    Returns
    -------
    (b1, b2, b3) uint8
        The same codes. Nothing lies outside the brain or in the ventricles, and no oedema in sulci; a core may fill
        a sulcus, as a grown one may. Each voxel takes the nearest voxel of the mask, so that volumes are kept on
        average, thin rims too. All zeros where the head has no brain at that place.
    """
    to_voxel, middle = _turn(seed, tumour_labels, tumour_spacing_mm, scale)
    placed = np.zeros(brain.shape, dtype=np.uint8)
    reach_mm = np.linalg.norm((np.argwhere(tumour_labels) - middle) @ np.linalg.inv(to_voxel).T, axis=1).max()
    window = window_around(axes, place_mm, float(reach_mm) + 4 * _BEND_MM)
    near: Axes = (axes[0][window[0]], axes[1][window[1]], axes[2][window[2]])
    if min(map(len, near)) == 0:
        return placed
    grid = np.meshgrid(*(near[k] - np.float32(place_mm[k]) for k in range(3)), indexing="ij", sparse=True)
    there = [grid[k] + np.float32(_BEND_MM) * smooth_noise(near, 18.0, stream(seed, f"bend {k}")) for k in range(3)]
    matrix = to_voxel.astype(np.float32)
    source = np.stack([sum(matrix[k, m] * there[m] for m in range(3)) + np.float32(middle[k]) for k in range(3)])
    # Padded, for scipy gives nothing in the outer half of a voxel at the border.
    labels = ndimage.map_coordinates(np.pad(tumour_labels, 1), source + np.float32(1), order=0, output=np.uint8)
    wet = csf[window] > 0.6
    shut = ~brain[window] | (wet & ((labels == SNFH) | (depth[window] > VENTRICLE_DEPTH_MM)))
    placed[window] = np.where(shut, 0, labels)
    return placed


def _turn(
    seed: int, labels: NDArray[np.uint8], spacing_mm: Sequence[float], scale: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the map from millimetres to voxels of the tumour's mask.

    Millimetres are counted from the tumour's middle; the second item is that middle in voxels.
    """
    rng = stream(seed, "tumour turn")
    turn = rotation(rng.uniform(-np.pi, np.pi, 3)) @ np.diag([rng.choice([-1.0, 1.0]), 1.0, 1.0])
    factor = float(np.exp(rng.uniform(*np.log(scale))))
    middle = np.argwhere(labels >= NETC).mean(axis=0)
    return turn / factor / np.asarray(spacing_mm, dtype=np.float64)[:, None], middle
