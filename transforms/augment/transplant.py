"""Transplanting of one patient's lesion into the brain of another.

Images and labels are moved together.

Everything is in z-scores on one working grid, so a lesion's voxels can stand among the host's. The patch that a network
learns from is cut out first, and only the part of the lesion that the patch sees is moved: what that costs does not
depend on how large the volumes are, and it is the same in 2D, in 2D with neighbouring slices, and in 3D.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from transforms.augment.donor import Donor
from transforms.augment.placement import CUT, Placement, fading_of
from transforms.restore import axis_weights

SEEN, WHOLE = 0.1, 0.9
"""Weights of the lesion's images below which a voxel is the host's and above which it is the lesion's.

Between them it is a mixture, and its label is known only where both agree.
"""


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
    at = [where[indices] for where, indices in zip(at, seen, strict=True)]
    stack = _interpolated(donor, at)
    images, shares = stack[:n], stack[n:-3]
    known, distance, covered = stack[-3] > 1 - 1e-3, stack[-2], stack[-1]

    weight = np.clip((placement.reach - distance) / max(placement.reach - 1.0, 1.0), 0, 1)
    weight = _fade_at_faces(weight, donor, placement, at)
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


def _interpolated(donor: Donor, at: Sequence[NDArray[np.float64]]) -> NDArray[np.float32]:
    """Interpolate the donor at coordinates along its axes.

    Channels are those of the donor (0 where not known), whether all of them are known, the distance from the lesion,
    and whether an image covers the place. No more of the donor is read than that takes.
    """
    source, weights = [], []
    for coordinates, size in zip(at, donor.voxels.shape[1:], strict=True):
        low, high = int(np.floor(coordinates.min())), int(np.ceil(coordinates.max()))
        source.append(slice(low, min(high, size - 1) + 1))
        weights.append(axis_weights(source[-1].stop - low, coordinates - low, 1.0).astype(np.float32))
    part = donor.voxels[(slice(None), *source)].astype(np.float32)
    whole = np.isfinite(part[donor.n_images :]).all(axis=0, keepdims=True)
    stack = np.concatenate(
        (
            np.nan_to_num(part, nan=0.0),
            whole,
            donor.distance[tuple(source)][None],
            (part[: donor.n_images] != 0).any(axis=0)[None],
        )
    ).astype(np.float32)
    for axis, matrix in enumerate(weights):
        stack = np.moveaxis(np.tensordot(stack, matrix, axes=(axis + 1, 1)), -1, axis + 1)
    return stack


def _fade_at_faces(
    weight: NDArray[np.floating], donor: Donor, placement: Placement, at: Sequence[NDArray[np.float64]]
) -> NDArray[np.floating]:
    """Fade the weight at the faces.

    At a face that cuts the lesion, where there are waves, it fades over a third of the depth, which begins the deeper
    the higher the wave is: an uneven border, no straight one.
    """
    dents = None if placement.waves is None else 2 * _waves(placement.waves, at)
    for axis, ((low, high), fades) in enumerate(fading_of(donor, placement)):
        along = at[axis].reshape([-1 if other == axis else 1 for other in range(3)])
        first, last = (
            3 * depth - dents if dents is not None and cut > CUT else depth
            for depth, cut in zip(((along - low) / fades[0], (high - along) / fades[1]), donor.cuts[axis], strict=True)
        )
        weight = weight * np.clip(np.minimum(first, last), 0, 1)
    return weight


def _waves(waves: NDArray[np.float64], at: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Sum plane waves over a grid of donor voxels, (c1, c2, c3).

    The sum is moved and cut to 0 to 1.
    """
    total = np.zeros([len(where) for where in at])
    for *turns, phase in waves:
        i, j, k = (np.exp(1j * turn * where) for turn, where in zip(turns, at, strict=True))
        total += (np.exp(1j * phase) * i[:, None, None] * j[:, None] * k).imag
    return np.clip(0.5 + 0.5 * total / np.sqrt(len(waves)), 0, 1)  # type: ignore[no-any-return]
