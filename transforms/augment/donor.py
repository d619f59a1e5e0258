"""Lesions cut out of a volume, to be put into another brain.

See transforms.augment.transplant.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

REACH = 15
"""Voxels around a lesion that may come along with it."""
WHOLE = 0.5
"""A lesion is whole where less of it than this times its volume to two thirds lies on faces: a tenth of a ball's
surface."""


@dataclass(frozen=True, eq=False)
class Donor:
    """Lesion and its surroundings, ready to be put into another brain.

    Parameters
    ----------
    voxels : (images + regions, d1, d2, d3) float16 or float32
        z-scored images, 0 outside the brain; then each region's share, NaN where it is not known.
    n_images : int
    distance : (d1, d2, d3) uint8
        Voxels from the lesion, 0 inside, up to `REACH`; within the slice alone where the slices' distance is not known.
    lesion : (n, 3) int
        Positions within the lesion (of the first region), for the check that the host's brain holds it.
    faces : three pairs of int
        First and last voxel along each axis of the box in which the first region is known.
    cuts : three pairs of float
        How much of the lesion lies on each of these faces, as a share of its largest section along that axis. All 0
        where the volume is the brain's box: there the lesion ends by itself.
    place : three floats
        Where the volume's middle lies in the brain's box, from 0 to 1 along each axis.
    """

    voxels: NDArray[np.floating]
    n_images: int
    distance: NDArray[np.uint8]
    lesion: NDArray[np.integer]
    faces: tuple[tuple[int, int], ...]
    cuts: tuple[tuple[float, float], ...]
    place: tuple[float, float, float]


def make_donor(
    voxels: NDArray[np.floating],
    n_images: int,
    place: tuple[float, float, float] | None,
    *,
    flat: bool = False,
    most: int = 512,
) -> Donor | None:
    """Cut the lesion of a volume out, with its surroundings; None where there is none, or nothing that is known of it.

    Parameters
    ----------
    voxels : (images + regions, d1, d2, d3) array
        The first region is the whole lesion.
    place : three floats, optional
        As of :class:`Donor`, of ``voxels``; None: the volume is the brain's box.
    flat : bool
        The slices (of the third axis) lie at an unknown distance: from a slice without lesion nothing comes along.
    most : int
        Positions of the lesion that are kept, at even steps.
    """
    whole = voxels[n_images] > 0.5  # NaN, which is not known, compares false
    if not whole.any():
        return None
    ends_there = place is None
    box = [slice(0, n) for n in whole.shape]
    if place is None:
        ends = [np.flatnonzero(whole.any(axis=tuple({0, 1, 2} - {axis})))[[0, -1]] for axis in range(3)]
        box = [slice(max(a - REACH, 0), min(b + 1 + REACH, n)) for (a, b), n in zip(ends, whole.shape, strict=True)]
        middle = [(side.start + side.stop - 1) / 2 / max(n - 1, 1) for side, n in zip(box, whole.shape, strict=True)]
        place = (float(middle[0]), float(middle[1]), float(middle[2]))
        whole = whole[tuple(box)]
    if flat:
        marked = whole.any(axis=(0, 1))
        away = np.full(whole.shape, float(REACH))
        for k in np.flatnonzero(marked):
            away[..., k] = ndi.distance_transform_edt(~whole[..., k])
    else:
        away = ndi.distance_transform_edt(~whole)
    distance = away.clip(0, REACH).round().astype(np.uint8)
    voxels = voxels[(slice(None), *box)]
    faces = known_faces(voxels[n_images])
    cuts = ((0.0, 0.0),) * 3 if ends_there else face_cuts(whole, faces)
    positions = np.argwhere(whole)
    positions = positions[:: max(1, len(positions) // most)]
    return Donor(voxels, n_images, distance, positions, faces, cuts, place)


def known_faces(region: NDArray[np.floating]) -> tuple[tuple[int, int], ...]:
    """Return the first and last known index along each axis.

    Known is not NaN in a region; some of it must be.
    """
    known = np.isfinite(region)
    ends = (np.flatnonzero(known.any(axis=tuple({0, 1, 2} - {axis})))[[0, -1]] for axis in range(3))
    return tuple((int(first), int(last)) for first, last in ends)


def face_cuts(whole: NDArray[np.bool_], faces: tuple[tuple[int, int], ...]) -> tuple[tuple[float, float], ...]:
    """Return the section of a lesion on each face, from 0 to 1.

    It is a share of the lesion's largest section along that axis; three pairs.
    """
    sections = [whole.sum(axis=tuple({0, 1, 2} - {axis})) for axis in range(3)]
    return tuple(
        (float(section[first] / section.max()), float(section[last] / section.max()))
        for section, (first, last) in zip(sections, faces, strict=True)
    )


def is_whole(region: NDArray[np.floating]) -> bool:
    """Tell whether a lesion hardly touches the faces of the known voxels.

    `WHOLE` is the share that may; no lesion at all is not whole.

    Parameters
    ----------
    region : (d1, d2, d3) array
        Share of each voxel that the lesion fills; NaN where it is not known.
    """
    lesion = region > 0.5
    if not lesion.any():
        return False
    sections = (lesion.sum(axis=tuple({0, 1, 2} - {axis})) for axis in range(3))
    on_faces = sum(
        int(section[first] + section[last])
        for section, (first, last) in zip(sections, known_faces(region), strict=True)
    )
    return on_faces < WHOLE * float(np.count_nonzero(lesion)) ** (2 / 3)
