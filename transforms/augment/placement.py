"""Placement of a lesion in its host: place, size, mirroring, fading."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from transforms.augment.donor import REACH, Donor

HELD_BY_BRAIN = 0.97
"""Least share of a lesion that must lie in the host's brain."""
FADE = 3.0
"""Voxels over which the lesion fades at a face of its volume that does not cut it."""
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
    for axis, ((low, high), (first, last)) in enumerate(fading_of(donor, placement)):
        along = donor.lesion[:, axis]
        clear &= (along - low >= first) & (high - along >= last)
    return donor.lesion[clear] if clear.any() else donor.lesion


def fading_of(donor: Donor, placement: Placement) -> Iterator[tuple[tuple[int, int], tuple[float, float]]]:
    """Yield the first and last face along each axis, with the fading depths.

    A depth is the number of voxels over which the donor fades there.
    """
    if placement.fades is None:
        return (((0, size - 1), (FADE, FADE)) for size in donor.voxels.shape[1:])
    return zip(donor.faces, placement.fades, strict=True)
