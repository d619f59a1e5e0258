"""Transplanting of one patient's lesion into the brain of another.

Images and labels are moved together.

Everything is in z-scores on one working grid, so a lesion's voxels can stand among the host's. The patch that a network
learns from is cut out first, and only the part of the lesion that the patch sees is moved: what that costs does not
depend on how large the volumes are, and it is the same in 2D, in 2D with neighbouring slices, and in 3D.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from transforms.donor import REACH, Donor
from transforms.restore import axis_weights

HELD_BY_BRAIN = 0.97
"""Least share of a lesion that must lie in the host's brain."""
SEEN, WHOLE = 0.1, 0.9
"""Weights of the lesion's images below which a voxel is the host's and above which it is the lesion's.

Between them it is a mixture, and its label is known only where both agree.
"""
FADE = 3.0
"""Voxels over which the lesion fades at the faces of the volume that it was cut from, unless they cut it and more is
asked."""
CUT = 0.1
"""A face cuts a lesion where more than this share of the lesion's largest section along that axis lies on it."""


@dataclass(frozen=True)
class Placement:
    """Place and size of a lesion in its host.

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
        Donor voxels around the lesion over which the donor's images fade into the host's.
    fades : three pairs of float, optional
        Donor voxels over which they fade at the first and the last face of what is known of the donor, along each axis.
        None: `FADE` at the faces of its volume, known or not.
    waves : (n, 4) float64, optional
        Plane waves that dent the border at a face that cuts the lesion: radians per donor voxel along each axis, phase.
    """

    centre: tuple[float, float, float]
    scale: float = 1.0
    mirrored: tuple[bool, bool, bool] = (False, False, False)
    reach: float = 5.0
    fades: tuple[tuple[float, float], ...] | None = None
    waves: NDArray[np.float64] | None = None

    def to_donor(self, positions: NDArray[np.number], axis: int, size: int) -> NDArray[np.float64]:
        """Return donor voxel indices (float) of host positions along one axis."""
        sign = -1.0 if self.mirrored[axis] else 1.0
        return (size - 1) / 2 + sign * (np.asarray(positions, float) - self.centre[axis]) / self.scale

    def to_host(self, voxel: NDArray[np.number], shape: Sequence[int]) -> NDArray[np.float64]:
        """Return host positions (..., 3) of donor voxels (..., 3)."""
        sign = np.where(np.array(self.mirrored), -1.0, 1.0)
        return np.array(self.centre) + sign * self.scale * (np.asarray(voxel, float) - (np.array(shape) - 1) / 2)


def draw_placement(
    donor: Donor,
    brain: NDArray[np.generic],
    generator: np.random.Generator,
    *,
    mirror_axis: int | None = 0,
    jitter: float = 0.04,
    tries: int = 5,
    scale: tuple[float, float] | None = None,
    fade: float | None = None,
) -> Placement | None:
    """Draw the place of a lesion in its host.

    It is its own place in the brain or the mirrored one, moved and scaled.

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
    scale : two floats, optional
        The least and the most, drawn log-uniformly; the gaps between the lesion and the brain's box then keep their
        proportion. None: a normal about 1, from .78 to 1.28.
    fade : float, optional
        Voxels over which the lesion fades at a face that cuts it (`CUT`), at most a quarter of what is known along the
        axis; `FADE` at the others, or where it is None.

    Returns
    -------
    Placement or None
        None where no draw was held. With ``scale`` or ``fade`` all fading is in voxels of the host, at the faces of
        what is known of the donor; without either, in the donor's, at the faces of its volume.
    """
    shape, own = np.array(brain.shape[1:]), donor.voxels.shape[1:]
    for _ in range(tries):
        place, mirrored = np.array(donor.place), [False] * 3
        if mirror_axis is not None and generator.random() < 0.5:
            place[mirror_axis], mirrored[mirror_axis] = 1 - place[mirror_axis], True
        centre = (place + generator.normal(0, jitter, 3)) * (shape - 1)
        size = _draw_scale(scale, generator)
        reach, fades, waves = float(generator.uniform(3, REACH)), None, None
        if scale is not None or fade is not None:
            reach, fades = min(reach / size, REACH), _fades(donor, size, fade)
        if fade is not None:
            waves = _draw_waves(size, generator)
        placement = Placement(tuple(centre), size, tuple(mirrored), reach, fades, waves)  # type: ignore[arg-type]
        if scale is not None:
            placement = replace(placement, centre=_kept_in_proportion(placement, donor, shape))
        at = np.round(placement.to_host(donor.lesion, own)).astype(int)
        within = ((at >= 0) & (at < shape)).all(axis=1)
        i, j, k = at[within].T
        held = (brain[:, i, j, k] != 0).any(axis=0).sum()
        if held >= HELD_BY_BRAIN * len(at):
            return placement
    return None


def _draw_scale(scale: tuple[float, float] | None, generator: np.random.Generator) -> float:
    if scale is None:
        return float(np.exp(np.clip(generator.normal(0, 0.1), -0.25, 0.25)))
    return float(np.exp(generator.uniform(*np.log(scale))))


def _draw_waves(size: float, generator: np.random.Generator, number: int = 4) -> NDArray[np.float64]:
    """Draw waves of 20 to 60 host voxels in any direction.

    They are for a lesion of that scale.
    """
    direction = generator.normal(size=(number, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    length = np.exp(generator.uniform(np.log(20), np.log(60), (number, 1))) / size
    return np.concatenate((2 * np.pi / length * direction, generator.uniform(0, 2 * np.pi, (number, 1))), axis=1)


def _fades(donor: Donor, size: float, fade: float | None) -> tuple[tuple[float, float], ...]:
    """Return the donor voxels over which a lesion fades at each face.

    The lesion is of that scale.
    """
    usual = FADE / size
    wide = usual if fade is None else fade / size
    return tuple(
        (first, last)
        for (low, high), cuts in zip(donor.faces, donor.cuts, strict=True)
        for first, last in [[max(min(wide, (high - low) / 4), 1.0) if cut > CUT else usual for cut in cuts]]
    )


def _kept_in_proportion(placement: Placement, donor: Donor, shape: NDArray[np.integer]) -> tuple[float, float, float]:
    """Return the centre that keeps the gaps' proportion before and behind the lesion.

    The gaps are those in the host's box, the proportion that of the unscaled lesion.

    A lesion at the skull so grows into the brain and not out of it.
    """
    unscaled = replace(placement, scale=1.0).to_host(donor.lesion, donor.voxels.shape[1:])
    low, high = unscaled.min(axis=0), unscaled.max(axis=0)
    before, behind = low.clip(min=0), (shape - 1 - high).clip(min=0)
    share = np.where(before + behind > 0, before / np.maximum(before + behind, 1e-6), 0.5)
    first = share * (shape - 1 - placement.scale * (high - low))
    x, y, z = first + placement.scale * (np.array(placement.centre) - low)
    return (float(x), float(y), float(z))


def clear_of_faces(donor: Donor, placement: Placement) -> NDArray[np.integer]:
    """Return positions within the lesion that do not fade at a face.

    They are (n, 3) int, to look at; all of them where every one fades.
    """
    clear = np.ones(len(donor.lesion), bool)
    for axis, ((low, high), (first, last)) in enumerate(_fading(donor, placement)):
        along = donor.lesion[:, axis]
        clear &= (along - low >= first) & (high - along >= last)
    return donor.lesion[clear] if clear.any() else donor.lesion


def _fading(donor: Donor, placement: Placement) -> Iterator[tuple[tuple[int, int], tuple[float, float]]]:
    """Yield the first and last face along each axis, with the fading depths.

    A depth is the number of voxels over which the donor fades there.
    """
    if placement.fades is None:
        return (((0, size - 1), (FADE, FADE)) for size in donor.voxels.shape[1:])
    return zip(donor.faces, placement.fades, strict=True)


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
    for axis, ((low, high), fades) in enumerate(_fading(donor, placement)):
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
