"""Doubts that need more than one voxel or header.

Examples are one image under two names, and a head where a brain should be.

Every image is reduced to an `Impression` of a megabyte at most, so that the images of a patient need not lie in memory
together. The bounds are wide: what crosses them is no brain, and what does not may still be a bad one.

References
----------
.. [1] On two equations about brain volume, cranial capacity and age. Surg Radiol Anat 33 (2011): CT of 58 adults.
.. [2] Sgouros et al. Intracranial volume change in childhood. J Neurosurg 91 (1999) 610-616.
.. [3] Pheasant, Bodyspace (1986): head length of British men aged 19 to 65.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.extent import nonzero_box
from data.io.header import ImageHeader

BRAIN_ML = (300.0, 2300.0)
"""Volume of a skull-stripped brain with its fluid. Intracranial volumes of adults are 1106 to 1656 ml [1]_, SD 135, in
the first months of life 600 ml or more [2]_; the bounds leave room for the new-born, for tumours and for hydrocephalus.
A whole head has 3500 ml or more."""
BRAIN_SIDES_MM = (60.0, 230.0)
"""Shortest and longest side of the box around a brain. The head of a new-born is more than 80 mm wide; 95 % of adults'
heads are no longer than 205 mm [3]_, and a tilted box is longer."""
FILLED = (0.20, 0.85)
"""Part of its box that a brain fills: 0.42 to 0.47 of real BraTS brains, 0.79 at most of one elliptic slice (pi / 4);
a head that is not skull-stripped fills 0.93 to 0.99 of it, for the air around it is noise and not 0."""
SAME_IMAGE = 0.999
"""Correlation where either is not 0 from which two images are one. Two sequences of one real patient have 0.6 at most
inside the brain and 0.8 in a whole head; rounding one of them to 7 bits leaves 0.9994."""
OVERLAP = 0.5
"""Part of an image that lies within the one that shows most, at least, where both show one head."""
COVERED = 0.75
"""Part of the brain in one image that every other image shows; 1 in real BraTS patients, whose mask is one for all."""

_MOST_SAMPLES = 2**18
_ENOUGH_SAMPLES = 1024  # their correlation is off by .03 at most
_FEWEST_SAMPLES = 64  # below, a correlation near 1 may be chance, and only equal voxels count


@dataclass(frozen=True, eq=False)
class Impression:
    """Summary of one image, enough to doubt it.

    Parameters
    ----------
    header : ImageHeader
    shape : (d1, d2, d3)
        Of the image turned to RAS.
    sample : (s1, s2, s3) float32
        Every n-th voxel along each axis of the image turned to RAS, at most 2^18 in all.
    count : int
        Voxels other than 0.
    box : (d1, d2, d3)
        Sides in voxels of the box around them; 0 where there are none.
    """

    header: ImageHeader
    shape: tuple[int, ...]
    sample: NDArray[np.float32]
    count: int
    box: tuple[int, int, int]

    @property
    def filled(self) -> float:
        """Part of the box that is not 0, or 0 for an empty image."""
        return self.count / max(math.prod(self.box), 1)


def impression(array: NDArray[Any], header: ImageHeader) -> Impression:
    """Reduce an image, (d1, d2, d3) on the grid of ``header``, for `doubts`."""
    shown = nonzero_box(array)
    box = tuple(side.stop - side.start for side in shown) if shown else (0, 0, 0)
    turned = header.grid.turn(array, "RAS")
    sample = turned[tuple(slice(None, None, step) for step in _steps(turned.shape))].astype(np.float32)
    return Impression(header, turned.shape, sample, int(np.count_nonzero(array)), box)  # type: ignore[arg-type]


def _steps(shape: Sequence[int]) -> list[int]:
    """Return the distance in voxels between samples along each axis of an image."""
    step = max(1, math.ceil((math.prod(shape) / _MOST_SAMPLES) ** (1 / 3)))
    return [step if n >= 4 * step else 1 for n in shape]


def patient_doubts(images: Mapping[str, tuple[NDArray[Any], ImageHeader]], *, skull_stripped: bool) -> list[str]:
    """Return warnings on the images of one patient.

    They need the voxels of several modalities, or know what a head is.

    Parameters
    ----------
    images : mapping of modality to (array, header)
        Each (d1, d2, d3) integers or floats on the grid of its own header; the grids may differ.
    skull_stripped : bool
        The model expects images in which everything outside the brain is 0.

    Returns
    -------
    list of str
        One sentence a doubt; empty for no images.
    """
    return doubts({name: impression(*image) for name, image in images.items()}, skull_stripped=skull_stripped)


def doubts(impressions: Mapping[str, Impression], *, skull_stripped: bool) -> list[str]:
    """Return the warnings of `patient_doubts` for images already reduced."""
    found = [*_same_images(impressions), *(doubt for seen in impressions.values() for doubt in _no_picture(seen))]
    by_kind: dict[str, list[tuple[str, str]]] = {}
    for seen in impressions.values() if skull_stripped else ():
        if (doubt := _no_brain(seen)) is not None:
            by_kind.setdefault(doubt[0], []).append((seen.header.path.name, doubt[1]))
    for kind, cases in by_kind.items():  # the modalities of a patient mostly have the same fault: one sentence for all
        more = f" (and {', '.join(name for name, _ in cases[1:])})" if len(cases) > 1 else ""
        found.append(f"{cases[0][0]}{more}: {cases[0][1]}; {_EXPECTED[kind]}")
    return [*found, *_apart(impressions, is_brain=skull_stripped and not by_kind)]


MOST_HEAD_ML = 8000.0
"""Of a head with neck; what shows more has a wrong voxel size."""
HEAD_SIDE_MM = 100.0
"""Shortest side of the box around a head with its skull, at least; smaller images that are filled are no heads."""


def shows_head(seen: Impression) -> bool:
    """Tell whether an image shows a head with its skull, not a brain alone.

    An image without a known voxel size, or a single slice, is never told to.
    """
    grid = seen.header.grid
    sides_mm = [n * mm for n, mm in zip(seen.box, grid.spacing_mm, strict=True)]
    if not grid.spacing_known or grid.shape.count(1) or min(sides_mm) < HEAD_SIDE_MM:
        return False
    if seen.filled <= FILLED[1]:
        return BRAIN_ML[1] < seen.count * grid.voxel_volume_ml < MOST_HEAD_ML
    # Air is noise, no one value; of an image that was normalised, the air has one value other than 0.
    _, counts = np.unique(seen.sample, return_counts=True)
    shown = 1 - counts.max() / seen.sample.size
    shown_ml = shown * math.prod(grid.shape) * grid.voxel_volume_ml
    return bool(shown > FILLED[1] or BRAIN_ML[1] < shown_ml < MOST_HEAD_ML)


def expects_brain_alone(crop: str, blank_air: bool) -> bool:
    """Tell whether a model's preprocessing takes 0 for "outside the brain" (`pipeline.config.PreprocessConfig`)."""
    return crop == "nonzero" and not blank_air


_ZERO_OUTSIDE = "the model expects skull-stripped images, 0 everywhere outside the brain"
_EXPECTED = {
    "head": f"{_ZERO_OUTSIDE}: skull-strip them",
    "large": f"{_ZERO_OUTSIDE}: skull-strip them, or correct the voxel size in the header",
    "small": "the model expects the whole brain: check the file, and the voxel size in the header",
    "stray": f"{_ZERO_OUTSIDE}: remove what is left there, or correct the voxel size in the header",
}


def _no_brain(seen: Impression) -> tuple[str, str] | None:
    """Return why the voxels that are not 0 cannot be a brain.

    The two items are the kind of doubt and its evidence.
    """
    grid = seen.header.grid
    sides_mm = [n * mm for n, mm in zip(seen.box, grid.spacing_mm, strict=True)]
    volume_ml = seen.count * grid.voxel_volume_ml
    blank = 100 * (1 - seen.count / math.prod(grid.shape))
    low, high = BRAIN_ML
    sized = grid.spacing_known
    is_slice = grid.shape.count(1) == 1  # one slice has no volume, and near the vertex it is small
    measured = f"{volume_ml:.0f} ml in a box of {' x '.join(f'{side:.0f}' for side in sides_mm)} mm"
    if sized and not is_slice and volume_ml < low:
        return "small", f"its voxels other than 0 are {measured}, too small for a brain ({low:.0f} to {high:.0f} ml)"
    if sized and not is_slice and min(sides_mm) < BRAIN_SIDES_MM[0]:
        return (
            "small",
            f"its voxels other than 0 are {measured}, and no brain is flatter than {BRAIN_SIDES_MM[0]:.0f} mm",
        )
    if seen.filled > FILLED[1]:
        shares = f"{blank:.0f} % of its voxels are 0, and the others fill {100 * seen.filled:.0f} % of their box"
        return "head", f"{shares} (a brain fills less than {100 * FILLED[1]:.0f} %), as in a head with its skull"
    if sized and not is_slice and volume_ml > high:
        return "large", f"its voxels other than 0 are {measured}, too large for a brain ({low:.0f} to {high:.0f} ml)"
    if seen.filled < FILLED[0]:
        filled = f"its voxels other than 0 fill only {100 * seen.filled:.1f} % of their box {seen.box}"
        return "stray", f"{filled}, and a brain at least {100 * FILLED[0]:.0f} %"
    if sized and max(sides_mm) > BRAIN_SIDES_MM[1]:
        return (
            "stray",
            f"its voxels other than 0 are {measured}, and no brain is longer than {BRAIN_SIDES_MM[1]:.0f} mm",
        )
    return None


def _no_picture(seen: Impression) -> list[str]:
    """Doubt an image of a brain that shows nothing inside.

    Its voxels that are not 0 may be those of a mask, or upside down.
    """
    values = seen.sample[::2, ::2, ::2] if seen.sample.size > 8 * _ENOUGH_SAMPLES else seen.sample
    values = values[values != 0]
    if values.size < _FEWEST_SAMPLES:
        return []
    # Of a mask all are alike, but for a stray voxel: then the middle nine tenths are.
    low, high = np.percentile(values, [5, 95])
    if low == high:
        return [
            f"{seen.header.path.name}: nine tenths of its voxels other than 0 have the one value {low:g}, as in a "
            "mask; put the image in its place"
        ]
    if high < 0:
        return [f"{seen.header.path.name}: its values are negative; correct the slope in its header, or invert it"]
    return []


def _same_images(impressions: Mapping[str, Impression]) -> list[str]:
    """Return one sentence for every set of modalities that hold one image."""
    groups: list[list[str]] = []
    for name in impressions:
        same = next((group for group in groups if _is_same(impressions[group[0]], impressions[name])), None)
        if same is None:
            groups.append([name])
        else:
            same.append(name)
    return [_same_sentence(group, impressions) for group in groups if len(group) > 1]


def _same_sentence(group: Sequence[str], impressions: Mapping[str, Impression]) -> str:
    named = " and ".join(f"{name} ({impressions[name].header.path.name})" for name in group)
    return f"{named} show the same image; put each modality's own image in its place"


def _apart(impressions: Mapping[str, Impression], is_brain: bool) -> list[str]:
    """Return a sentence for each image of another place, or of little brain."""
    found = []
    most = max(impressions.values(), key=lambda seen: seen.count * seen.header.grid.voxel_volume_ml, default=None)
    for seen in impressions.values():
        if most is None or seen is most:
            continue
        if not _same_grid(seen, most):
            if is_brain and (share := 100 * _covered(seen, most)) < 100 * COVERED:
                found.append(_covers_little(seen, most, share))
            continue
        shown, wanted = seen.sample != 0, most.sample != 0
        if min(shown.sum(), wanted.sum()) < _FEWEST_SAMPLES:
            continue
        both = np.count_nonzero(shown & wanted)
        overlap, covered = 100 * both / np.count_nonzero(shown), 100 * both / np.count_nonzero(wanted)
        if overlap < 100 * OVERLAP:
            found.append(
                f"{seen.header.path.name} and {most.header.path.name} show something else than 0 in different places "
                f"(only {overlap:.0f} % of the first overlaps); register the images to each other"
            )
        elif is_brain and covered < 100 * COVERED:
            found.append(_covers_little(seen, most, covered))
    return found


def _covers_little(seen: Impression, most: Impression, percent: float) -> str:
    return (
        f"{seen.header.path.name} is 0 where {most.header.path.name} is not: it covers only {percent:.0f} % of it; the "
        "model expects the whole brain in every image, with one brain mask: check both"
    )


def _covered(seen: Impression, most: Impression) -> float:
    """Return the part of an image, 0 to 1, that another one shows.

    It is 1 where a voxel size is unknown and nothing can be compared.
    """
    grid, wanted = seen.header.grid, most.header.grid
    places = np.argwhere(most.sample != 0) * _steps(most.shape)
    if not (grid.spacing_known and wanted.spacing_known) or len(places) < _FEWEST_SAMPLES:
        return 1.0
    own = np.linalg.solve(grid.reoriented("RAS").affine, wanted.reoriented("RAS").affine)
    there = places @ own[:3, :3].T + own[:3, 3]
    inside = ((there >= -0.5) & (there <= np.array(seen.shape) - 0.5)).all(axis=1)
    nearest = np.round(there[inside] / _steps(seen.shape)).astype(int).clip(0, np.array(seen.sample.shape) - 1)
    return float(np.count_nonzero(seen.sample[tuple(nearest.T)]) / len(places))


def _same_grid(one: Impression, other: Impression) -> bool:
    grids = one.header.grid.reoriented("RAS"), other.header.grid.reoriented("RAS")
    return grids[0].matches(grids[1])


def _is_same(one: Impression, other: Impression) -> bool:
    """Tell whether two images are equal but for scaling and rounding.

    Turned and mirrored storage does not matter.
    """
    if one.shape != other.shape:
        return False
    if np.array_equal(one.sample, other.sample):
        return True
    # An eighth of the samples tells nearly every pair apart; only a close one is worth them all.
    coarse = (slice(None, None, 2),) * 3
    n_coarse, correlation = _correlation(one.sample[coarse], other.sample[coarse])
    if n_coarse >= _ENOUGH_SAMPLES and correlation < SAME_IMAGE - 0.1:
        return False
    n_inside, correlation = _correlation(one.sample, other.sample)
    return n_inside >= _FEWEST_SAMPLES and correlation > SAME_IMAGE


def _correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> tuple[int, float]:
    """Count the samples that are not 0 in either, and correlate them.

    The correlation is 0 where one has a single value there.
    """
    inside = (one != 0) | (other != 0)
    n_inside = int(np.count_nonzero(inside))
    # Outside both are 0, so that sums need no selection, which would take most of the time.
    a, b = (_centred(sample, inside, max(n_inside, 1)) for sample in (one, other))
    # Not `a @ b`: BLAS would call on all cores for a millisecond's work, and take ten of each.
    norm = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return n_inside, float((a * b).sum()) / norm if norm > 0 else 0.0


def _centred(sample: NDArray[np.float32], inside: NDArray[np.bool_], n_inside: int) -> NDArray[np.float64]:
    """Return the sample less its mean over ``inside``, flat, and 0 outside."""
    mean = float(sample.sum(dtype=np.float64)) / n_inside
    centred: NDArray[np.float64] = (sample.astype(np.float64) - mean) * inside
    return centred.ravel()
