"""Largest axial diameter of a lesion and its perpendicular, as RANO measures them.

Definitions that every number here rests on:

axial slice
    A plane across the array axis that is nearest to the patient's superior-inferior axis, by nibabel's orientation.
    Nothing is resampled: the slices of an oblique scan are measured as they were acquired.
diameter
    The largest distance between two points of a lesion within one axial slice, of all its slices, in mm [1]_ [2]_. A
    voxel is the parallelogram that it covers in the plane, not its centre, so the distance runs from the outer corner
    of one voxel to that of another.
perpendicular
    The longest chord at a right angle to that diameter, in the same slice, of the convex hull of the lesion's voxels.
    It always crosses the diameter. Of diameters that are equally long (the two diagonals of a square) the one with
    the longer perpendicular counts, then the one in the first slice.

Notes
-----
A box of 30 x 40 mm has the diameter 50 and the perpendicular 37.5 mm, and a single voxel of 1 mm has sqrt 2 and sqrt 2.
Neither changes when voxels are cut into smaller ones. Measured between voxel centres a lesion is up to one voxel's
diagonal shorter (and a single voxel has no size); measured on the contour at 0.5 between voxel centres, as some tools
do, up to one voxel shorter. RANO leaves out cavities and cysts; a hull includes them, so give the mask of what is to
be measured (ET), and do not take a product across a large resection cavity for tumour.

References
----------
.. [1] Wen et al.: Updated response assessment criteria for high-grade gliomas (RANO). J Clin Oncol 28(11), 2010.
.. [2] Wen et al.: RANO 2.0: update to the response assessment in neuro-oncology criteria. J Clin Oncol 41(33), 2023.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from data.labels import Mask

TIE = 1e-9
"""Lengths that differ by less than this share are equal: a mirrored image rounds its lengths differently."""

BLOCK = 2**15
"""Pairs of corners that are looked at together: many slices of a small lesion, one of a large one."""


@dataclass(frozen=True)
class AxialDiameters:
    """Diameters of a lesion and their axial slice.

    The slice is an index; definitions stand in the module.
    """

    diameter_mm: float
    perpendicular_mm: float
    slice: int


def axial_diameters(lesion: Mask, affine: NDArray[np.float64], *, axis: int | None = None) -> AxialDiameters:
    """Measure a lesion's largest axial diameter and its largest perpendicular.

    Definitions stand in the module.

    Parameters
    ----------
    lesion : (d1, d2, d3) bool
        At least one voxel; need not be connected.
    affine : (4, 4) float
        From voxel indices to millimetres, RAS+; spacing may differ between axes, and axes may be oblique or sheared.
    axis : int, optional
        The array axis across which the slices lie; None takes :func:`slice_axis`, which costs more than a small lesion.

    Raises
    ------
    ValueError
        For an empty lesion.
    """
    if not lesion.any():
        raise ValueError("an empty lesion has no diameter; leave it out")
    if axis is None:
        axis = slice_axis(affine)
    step = affine[:3, [other for other in range(3) if other != axis]]
    gram = np.asarray(step.T @ step, np.float64)
    plane = np.linalg.cholesky(gram)  # (row, column) @ plane is a place in the slice in mm, up to a turn
    left, right = _outline(np.moveaxis(lesion, axis, 0))
    longest, candidates = _longest(left, right, gram)
    perpendicular, best = 0.0, -1
    for index, directions in sorted(candidates.items()):
        across = _longest_chord_across(_hull(left[index], right[index]) @ plane, np.array(directions) @ plane)
        if best < 0 or across > perpendicular * (1 + TIE):
            perpendicular, best = across, index
    return AxialDiameters(longest, min(perpendicular, longest), best)  # equal ones may be rounded differently


def slice_axis(affine: NDArray[np.float64]) -> int:
    """Return the array axis nearest to the patient's superior-inferior axis: 0, 1 or 2."""
    return int(np.flatnonzero(nib.orientations.io_orientation(affine)[:, 0] == 2)[0])


def _outline(stack: Mask) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the outermost voxel corners on each line between rows of voxels.

    The stack is (slices, rows, columns).

    Returns
    -------
    left, right : (slices, rows + 1) int
        Columns of the first and the last corner; -1 in ``right`` where the line has none.
    """
    slices, rows, columns = stack.shape
    filled = stack.any(axis=2)
    first = np.where(filled, stack.argmax(axis=2), columns + 1)
    last = np.where(filled, columns - stack[:, :, ::-1].argmax(axis=2), -1)
    left, right = np.full((slices, rows + 1), columns + 1), np.full((slices, rows + 1), -1)
    left[:, :-1], right[:, :-1] = first, last
    left[:, 1:], right[:, 1:] = np.minimum(left[:, 1:], first), np.maximum(right[:, 1:], last)
    return left, right


def _longest(
    left: NDArray[np.int64], right: NDArray[np.int64], gram: NDArray[np.float64]
) -> tuple[float, dict[int, list[tuple[int, int]]]]:
    """Find the longest distance in mm and the slices that have it.

    Each such slice comes with the directions (row, column) of that distance, in voxels.
    """
    used = right >= 0
    height = used.shape[1] - 1 - used[:, ::-1].argmax(axis=1) - used.argmax(axis=1)
    width = right.max(axis=1) - left.min(axis=1)
    bound = gram[0, 0] * height**2 + gram[1, 1] * width**2 + 2 * abs(gram[0, 1]) * height * width
    bound[~used.any(axis=1)] = -1.0
    longest = 0.0
    candidates: dict[int, list[tuple[int, int]]] = {}
    order = np.argsort(-bound, kind="stable")
    down = np.subtract.outer(np.arange(used.shape[1]), np.arange(used.shape[1]))
    block = max(1, BLOCK // down.size)
    for start in range(0, len(order), block):
        slices = order[start : start + block]
        if bound[slices[0]] < longest * (1 - TIE):
            break  # the diagonals of these slices' bounding boxes are shorter than what was found already
        # From the left end of one line to the right end of another: both ways round, every pair of corners that counts.
        along = right[slices, :, None] - left[slices, None, :]
        squared = gram[0, 0] * down**2 + along * (gram[1, 1] * along + 2 * gram[0, 1] * down)
        squared[~(used[slices, :, None] & used[slices, None, :])] = -1.0
        found = float(squared.max())
        if found > longest * (1 + TIE):
            longest, candidates = found, {}
        for place in np.argwhere(squared >= longest * (1 - TIE)):
            direction = (int(down[tuple(place[1:])]), int(along[tuple(place)]))
            candidates.setdefault(int(slices[place[0]]), []).append(direction)
    return math.sqrt(longest), candidates


def _hull(left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the vertices (row, column) of the convex hull of one slice's outline.

    They are in order around it, and exact: integers.
    """
    lines = np.flatnonzero(right >= 0).tolist()
    near = _lower_chain(zip(lines, left[lines].tolist(), strict=True))
    far = _lower_chain(zip(lines, (-right[lines]).tolist(), strict=True))
    return np.array(near + [(row, -column) for row, column in reversed(far)])


def _lower_chain(points: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the lower convex hull of points by rising abscissa (Andrew's monotone chain)."""
    chain: list[tuple[int, int]] = []
    for x, y in points:
        while len(chain) > 1:
            (ax, ay), (bx, by) = chain[-2:]
            if (bx - ax) * (y - ay) > (by - ay) * (x - ax):
                break
            chain.pop()
        chain.append((x, y))
    return chain


def _longest_chord_across(hull: NDArray[np.float64], directions: NDArray[np.float64]) -> float:
    """Return the longest chord of a convex polygon across any of its diameters.

    The chord stands at a right angle to the diameter; the polygon is (m, 2), the diameters' directions (n, 2).
    """
    units = (directions / np.hypot(*directions.T)[:, None]).T
    along, across = hull @ units, hull @ np.stack([-units[1], units[0]])
    # The length changes linearly between vertices, so the longest chord goes through one: (vertices, edges, n).
    step = np.roll(along, -1, axis=0) - along
    slope = np.divide(np.roll(across, -1, axis=0) - across, step, out=np.zeros_like(step), where=step != 0)
    offset = along[:, None] - along
    spans = (np.minimum(step, 0) <= offset) & (offset <= np.maximum(step, 0))
    place = across + offset * slope
    chords = np.where(spans, place, -np.inf).max(axis=1) - np.where(spans, place, np.inf).min(axis=1)
    return float(chords.max())
