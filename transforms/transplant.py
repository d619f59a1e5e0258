"""Transplanting: a lesion of one patient put into the brain of another, images and labels together.

Everything is in z-scores on one working grid, so a lesion's voxels can stand among the host's. The patch that a network
learns from is cut out first, and only the part of the lesion that the patch sees is moved: what that costs does not
depend on how large the volumes are, and it is the same in 2D, in 2D with neighbouring slices, and in 3D.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

from transforms.restore import axis_weights

HELD_BY_BRAIN = 0.97
"""Least share of a lesion that must lie in the host's brain."""
SEEN, WHOLE = 0.1, 0.9
"""Below and above these weights of the lesion's images a voxel is the host's or the lesion's; between them it is a mixture,
and its label is known only where both agree."""
FADE = 3.0
"""Voxels over which the lesion fades at the faces of the volume that it was cut from."""
REACH = 15
"""Voxels around a lesion that may come along with it."""


@dataclass(frozen=True, eq=False)
class Donor:
    """A lesion and its surroundings, ready to be put into another brain.

    Parameters
    ----------
    voxels : (images + regions, d1, d2, d3) float16 or float32
        z-scored images, 0 outside the brain; then each region's share, NaN where it is not known.
    n_images : int
    distance : (d1, d2, d3) uint8
        Voxels from the lesion, 0 inside, up to `REACH`; within the slice alone where the slices' distance is not known.
    lesion : (n, 3) int
        Positions within the lesion (of the first region), for the check that the host's brain holds it.
    middles : (m, 3) int
        Those of them that do not fade, to look at; all where every one does.
    place : three floats
        Where the volume's middle lies in the brain's box, from 0 to 1 along each axis.
    """

    voxels: NDArray[np.floating]
    n_images: int
    distance: NDArray[np.uint8]
    lesion: NDArray[np.integer]
    middles: NDArray[np.integer]
    place: tuple[float, float, float]


@dataclass(frozen=True)
class Placement:
    """Where and how large a lesion stands in its host.

    A host voxel ``x`` shows the donor's voxel ``middle + (x - centre) / scale``, along an axis that is mirrored
    ``middle - (x - centre) / scale``; ``middle`` is that of the donor's volume.

    Parameters
    ----------
    centre : three floats
        Host voxel at which the donor's middle stands.
    scale : float
        Above 1: larger than it was.
    mirrored : three bool
    reach : float
        Voxels around the lesion over which the donor's images fade into the host's.
    """

    centre: tuple[float, float, float]
    scale: float = 1.0
    mirrored: tuple[bool, bool, bool] = (False, False, False)
    reach: float = 5.0

    def to_donor(self, positions: NDArray[np.number], axis: int, size: int) -> NDArray[np.float64]:
        """Donor voxel indices (float) of host positions along one axis."""
        sign = -1.0 if self.mirrored[axis] else 1.0
        return (size - 1) / 2 + sign * (np.asarray(positions, float) - self.centre[axis]) / self.scale

    def to_host(self, voxel: NDArray[np.number], shape: Sequence[int]) -> NDArray[np.float64]:
        """Host positions (..., 3) of donor voxels (..., 3)."""
        sign = np.where(np.array(self.mirrored), -1.0, 1.0)
        return np.array(self.centre) + sign * self.scale * (np.asarray(voxel, float) - (np.array(shape) - 1) / 2)


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
    positions = np.argwhere(whole)
    positions = positions[:: max(1, len(positions) // most)]
    from_face = np.minimum(positions, np.array(whole.shape) - 1 - positions).min(axis=1)
    clear = positions[from_face >= FADE]
    middles = clear if len(clear) else positions
    return Donor(voxels[(slice(None), *box)], n_images, distance, positions, middles, place)


def draw_placement(
    donor: Donor,
    brain: NDArray[np.generic],
    generator: np.random.Generator,
    *,
    mirror_axis: int | None = 0,
    jitter: float = 0.04,
    tries: int = 5,
) -> Placement | None:
    """Choose where a lesion stands: at its own place in the brain or mirrored, moved and scaled a little.

    Parameters
    ----------
    brain : (images, d1, d2, d3) array
        The host's images, cropped to its brain; a voxel is brain where any of them is not 0.
    mirror_axis : int, optional
        The axis from left to right; half of the lesions are mirrored along it. None: no lesion is.
    jitter : float
        Standard deviation of the move along each axis, as a share of the brain: some 6 mm.
    tries : int
        Draws until the brain holds the lesion (`HELD_BY_BRAIN`).

    Returns
    -------
    Placement or None
        None where no draw was held.
    """
    shape, own = np.array(brain.shape[1:]), donor.voxels.shape[1:]
    for _ in range(tries):
        place, mirrored = np.array(donor.place), [False] * 3
        if mirror_axis is not None and generator.random() < 0.5:
            place[mirror_axis], mirrored[mirror_axis] = 1 - place[mirror_axis], True
        centre = (place + generator.normal(0, jitter, 3)) * (shape - 1)
        scale = float(np.exp(np.clip(generator.normal(0, 0.1), -0.25, 0.25)))
        placement = Placement(tuple(centre), scale, tuple(mirrored), float(generator.uniform(3, REACH)))  # type: ignore[arg-type]
        at = np.round(placement.to_host(donor.lesion, own)).astype(int)
        within = ((at >= 0) & (at < shape)).all(axis=1)
        i, j, k = at[within].T
        held = (brain[:, i, j, k] != 0).any(axis=0).sum()
        if held >= HELD_BY_BRAIN * len(at):
            return placement
    return None


def transplant(
    cut: NDArray[np.float32],
    positions: Sequence[NDArray[np.integer]],
    donor: Donor,
    placement: Placement,
    contrast: NDArray[np.floating] | None = None,
) -> NDArray[np.float32]:
    """Put a lesion into a patch.

    Parameters
    ----------
    cut : (images + regions, c1, c2, c3) float32
        Cut from the host; its images are 0 outside the brain.
    positions : three arrays of c1, c2 and c3 numbers
        Which host voxels the patch shows along each axis; slices need not follow each other.
    contrast : (images, 2) array, optional
        What each of the donor's images is multiplied by, and what is added to it.

    Returns
    -------
    (images + regions, c1, c2, c3) float32
        Where the host is not brain, or lacks an image, it stays as it is. Shares are the lesion's where its images are
        seen, the host's elsewhere, and NaN where the images are a mixture of two that do not agree.
    """
    n, own = donor.n_images, donor.voxels.shape[1:]
    at = [placement.to_donor(where, axis, own[axis]) for axis, where in enumerate(positions)]
    seen = [np.flatnonzero((where >= 0) & (where <= size - 1)) for where, size in zip(at, own, strict=True)]
    if any(len(indices) == 0 for indices in seen):
        return cut
    # All that the patch sees of the donor, and no more, is read and interpolated.
    source, weights = [], []
    for indices, where, size in zip(seen, at, own, strict=True):
        coordinates = where[indices]
        low, high = int(np.floor(coordinates.min())), int(np.ceil(coordinates.max()))
        source.append(slice(low, min(high, size - 1) + 1))
        weights.append(axis_weights(source[-1].stop - low, coordinates - low, 1.0).astype(np.float32))
    part = donor.voxels[(slice(None), *source)].astype(np.float32)
    whole = np.isfinite(part[n:]).all(axis=0, keepdims=True)
    stack = np.concatenate(
        (
            np.nan_to_num(part, nan=0.0),
            whole,
            donor.distance[tuple(source)][None],
            (part[:n] != 0).any(axis=0)[None],
        )
    ).astype(np.float32)
    for axis, matrix in enumerate(weights):
        stack = np.moveaxis(np.tensordot(stack, matrix, axes=(axis + 1, 1)), -1, axis + 1)
    images, shares = stack[:n], stack[n : len(part)]
    known, distance, covered = stack[-3] > 1 - 1e-3, stack[-2], stack[-1]

    weight = np.clip((placement.reach - distance) / max(placement.reach - 1.0, 1.0), 0, 1)
    for axis, (indices, size) in enumerate(zip(seen, own, strict=True)):
        face = np.minimum(at[axis][indices], size - 1 - at[axis][indices])
        weight = weight * np.clip(face / FADE, 0, 1).reshape([-1 if other == axis else 1 for other in range(3)])
    result = cut.copy()
    inside = np.ix_(np.arange(len(cut)), *seen)
    host = result[inside]
    brain = (host[:n] != 0).any(axis=0)
    weight = weight * brain * (covered > 0.5)  # no lesion outside of either brain
    if contrast is not None:
        images = images * contrast[:, :1, None, None] + contrast[:, 1:, None, None]
    host_images, host_shares = host[:n], host[n:]
    lacking = ~(host_images != 0).any(axis=(1, 2, 3))
    mixed = host_images + weight * (images - host_images)
    mixed[lacking] = host_images[lacking]
    taken = weight >= 0.5
    labels = np.where(taken, np.where(known, shares, np.nan), host_shares)
    between = (weight > SEEN) & (weight < WHOLE)
    apart = ~(np.abs(np.where(known, shares, np.nan) - host_shares) < 0.05)  # also where one of them is not known
    labels[between & apart] = np.nan
    result[inside] = np.concatenate((np.where(brain, mixed, host_images), labels))
    return result
