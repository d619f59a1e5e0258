"""Watershed that parts touching lesions.

Notes
-----
The height of a voxel is its distance in mm to the background (the centre of the nearest voxel outside), times
the smoothed probability where one is given. A marker is a summit of that height; two summits are two lesions if
the lower one rises at least ``depth_mm`` above the saddle between them. For two balls of radius R in mm that a
neck of radius n joins, that is R - n >= ``depth_mm``.

Components (26-connected, in 2D 8-connected) never share a number. Cavities count as inside for the height, so
that a ring of enhancement around necrosis is one lesion, not a chain of thick places. Beyond the array nothing
is known, so its edge is not background; an axis of one voxel is therefore ignored, and a mask that fills the
array is one lesion. A mirrored or turned mask gives the same lesions, except for voxels on the line between two
of them that are as near to one as to the other.

The depth of 2 mm is a compromise. In the reference masks of 12 glioma patients at 1 mm (WT, TC and ET; a glioma
is rarely several touching lesions) splitting adds 38 parts to the components at a depth of 1 mm, 21 at 1.5, 10 at
2, 6 at 3 and 1 at 4 mm, mostly in rims of enhancement of uneven thickness. In exchange two digital balls that
overlap by 1 mm are parted reliably from about 10 mm across, at a depth of 1 mm from 7 mm: give that for small
metastases.

References
----------
.. [1] Meyer, Topographic distance and watershed lines, Signal Processing 38 (1994), 113-125.
.. [2] Soille, Morphological Image Analysis, 2nd ed., Springer 2003, section 6.3.5 (h-maxima), chapter 9.
.. [3] Beare and Lehmann, The watershed transform in ITK, Insight Journal 2006.
"""

from __future__ import annotations

from collections.abc import Sequence

import cc3d
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from data.labels import Mask
from transforms.postprocess import bounding_box, fill_cavities, label_components

LEVELS = 2**20
"""Steps between 0 and the highest point of a height map: fine enough for any rule in mm, too coarse for rounding."""


def split_touching(
    mask: NDArray[np.generic],
    spacing_mm: Sequence[float],
    probability: NDArray[np.floating] | None = None,
    *,
    depth_mm: float = 2.0,
    min_distance_mm: float = 3.0,
    smoothing_mm: float = 1.0,
) -> NDArray[np.int32]:
    """Number the lesions of a mask, touching ones apart.

    A marker-controlled watershed in each component parts them (see the module's notes).

    Parameters
    ----------
    mask : (d1, d2, d3) or (d1, d2) bool, or integers of which 0 is background
    spacing_mm : one positive number an axis
    probability : array of the mask's shape, within 0 and 1, or None
        Two lesions in a smooth mask are parted where the network was less sure between them.
    depth_mm : float, at least 0
        Larger splits less. See the module's notes on 2 mm.
    min_distance_mm : float, at least 0
        Neighbours whose summits are nearer than this are one lesion.
    smoothing_mm : float, at least 0
        Standard deviation of the Gaussian on the probability, taken within the component only.

    Returns
    -------
    int32 array of the mask's shape: 0 outside the mask, 1 to n inside.
        Number 1 has the most voxels; of equals, the one that comes first in C order. An empty mask gives all 0.

    Raises
    ------
    ValueError
        Shapes that differ, a mask of floats, a probability that is not finite or not within 0 and 1, a spacing or an
        option out of range.
    """
    if mask.dtype.kind not in "bui":
        raise ValueError(f"the mask is {mask.dtype}; threshold the probabilities first and give a bool mask")
    inside: Mask = mask.astype(bool)
    check_lengths(
        inside.shape, spacing_mm, depth_mm=depth_mm, min_distance_mm=min_distance_mm, smoothing_mm=smoothing_mm
    )
    if probability is not None:
        check_probability(probability, inside.shape)
    if inside.ndim == 3 and 1 in inside.shape:
        axis = inside.shape.index(1)
        labels = split_touching(
            inside.squeeze(axis),
            [s for a, s in enumerate(spacing_mm) if a != axis],
            None if probability is None else probability.squeeze(axis),
            depth_mm=depth_mm,
            min_distance_mm=min_distance_mm,
            smoothing_mm=smoothing_mm,
        )
        return np.expand_dims(labels, axis)

    return _parted(inside, spacing_mm, probability, depth_mm, min_distance_mm, smoothing_mm)


def _parted(
    inside: Mask,
    spacing_mm: Sequence[float],
    probability: NDArray[np.floating] | None,
    depth_mm: float,
    min_distance_mm: float,
    smoothing_mm: float,
) -> NDArray[np.int32]:
    result = np.zeros(inside.shape, np.int32)
    if not inside.any():
        return result
    frame = bounding_box(inside, margin=1)
    components = label_components(inside[frame]).astype(np.int32)
    count = 0
    for number, tight in enumerate(ndimage.find_objects(components), start=1):
        box = grown(tight, [1] * inside.ndim)
        lesion = components[box] == number
        solid = fill_cavities(lesion)
        sure = None if probability is None else probability[frame][box]
        height = _height(lesion, solid, spacing_mm, sure, smoothing_mm)
        parts = _basins(height, solid, spacing_mm, depth_mm, min_distance_mm)
        result[frame][box][lesion] = parts[lesion] + count
        count += int(parts.max())
    return _number_by_size(result)


def check_lengths(shape: tuple[int, ...], spacing_mm: Sequence[float], **lengths_mm: float) -> None:
    if len(shape) not in (2, 3):
        raise ValueError(f"the array is {shape}; give one region of two or three axes")
    if len(spacing_mm) != len(shape) or not all(np.isfinite(s) and s > 0 for s in spacing_mm):
        raise ValueError(f"spacing_mm is {tuple(spacing_mm)}; give {len(shape)} positive numbers, one an axis")
    for name, value in lengths_mm.items():
        if not (np.isfinite(value) and value >= 0):
            raise ValueError(f"{name} is {value}; give a length in mm that is not negative")


def check_probability(probability: NDArray[np.floating], shape: tuple[int, ...]) -> None:
    if probability.shape != shape:
        raise ValueError(f"the probability is {probability.shape}, the mask {shape}; bring both to one grid")
    if not np.isfinite(probability).all():
        raise ValueError("the probability has voxels that are NaN or infinite; the model or its input is damaged")
    if probability.size and not (probability.min() >= -1e-3 and probability.max() <= 1 + 1e-3):  # resampling rounds
        raise ValueError(
            f"the probability reaches from {probability.min():g} to {probability.max():g}; apply the sigmoid first"
        )


def grown(box: tuple[slice, ...], margin: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(max(s.start - m, 0), s.stop + m) for s, m in zip(box, margin, strict=True))


def _height(
    lesion: Mask,
    solid: Mask,
    spacing_mm: Sequence[float],
    probability: NDArray[np.floating] | None,
    smoothing_mm: float,
) -> NDArray[np.float64]:
    """Return the distance in mm inside a component times the probability.

    Cavities do not count as outside; it is 0 outside the component.
    """
    if solid.all():
        return np.ones(solid.shape)  # no background to measure from
    height = ndimage.distance_transform_edt(solid, sampling=spacing_mm)
    if probability is None:
        return height
    # A cavity is not of the region, so its probability is low; it must not cut the lesion around it in pieces.
    sure = np.where(lesion, probability, solid).astype(np.float64)
    sigma = [smoothing_mm / s for s in spacing_mm]
    weight = ndimage.gaussian_filter(solid.astype(np.float64), sigma, mode="nearest")
    smooth = ndimage.gaussian_filter(sure, sigma, mode="nearest")
    return height * np.divide(smooth, weight, out=np.zeros_like(smooth), where=solid)


def _basins(
    height: NDArray[np.float64],
    solid: Mask,
    spacing_mm: Sequence[float],
    depth_mm: float,
    min_distance_mm: float,
) -> NDArray[np.int32]:
    """Number the basins inside one component from 1 on.

    Each is a summit of the height with the slopes below it.
    """
    inside = height[solid]
    if np.ptp(inside) <= 0 or np.ptp(inside) < depth_mm:
        return solid.astype(np.int32)
    step = float(inside.max()) / LEVELS
    # Two steps of mercy: a rise of exactly depth_mm counts, however the heights were rounded.
    rise = max(int(depth_mm / step) - 2, 0)
    floor = -rise - 1  # below all that the dome of the lowest summit is cut down to, so that none is lost
    levels = np.where(solid, np.rint(height / step), floor).astype(np.int32)
    markers = label_components(_domes(levels, rise) & solid).astype(np.int32)
    if markers.max() == 1:
        return solid.astype(np.int32)
    basins = np.where(solid, flood(levels.max() - levels, markers, True), 0).astype(np.int32)
    return _join_near(basins, markers, levels, spacing_mm, min_distance_mm)


def _domes(levels: NDArray[np.int32], rise: int) -> Mask:
    """Find the summits that rise by more than ``rise`` (h-maxima).

    The rise is above the saddle to a higher summit, or to one as high.
    """
    cut = sitk.ReconstructionByDilation(to_itk(levels - rise), to_itk(levels), True)
    return sitk.GetArrayFromImage(sitk.RegionalMaxima(cut, 0.0, 1.0, True, True)) > 0


def _join_near(
    basins: NDArray[np.int32],
    markers: NDArray[np.int32],
    levels: NDArray[np.int32],
    spacing_mm: Sequence[float],
    min_distance_mm: float,
) -> NDArray[np.int32]:
    """Give touching basins one number where their summits are nearer than the given distance."""
    count = int(markers.max())
    numbers = np.arange(1, count + 1)
    highest = np.concatenate([[0], ndimage.maximum(levels, markers, numbers)]).astype(np.int64)
    tops = np.where(levels == highest[markers], markers, 0)
    summits = np.array(ndimage.center_of_mass(tops > 0, tops, numbers)) * np.asarray(spacing_mm)
    volume = basins if basins.ndim == 3 else basins[..., None]
    pairs = cc3d.region_graph(np.ascontiguousarray(np.pad(volume, 1)), connectivity=26)
    least = min_distance_mm * (1 - 1e-9)  # so that rounding does not make exactly that distance less
    near = [(a - 1, b - 1) for a, b in pairs if np.linalg.norm(summits[a - 1] - summits[b - 1]) < least]
    if not near:
        return basins
    rows, columns = np.array(near).T
    graph = coo_array((np.ones(len(near)), (rows, columns)), shape=(count, count))
    joined = connected_components(graph, directed=False)[1]
    return np.concatenate([[0], joined + 1]).astype(np.int32)[basins]


def flood(height: NDArray[np.int32], markers: NDArray[np.generic], diagonal: bool) -> NDArray[np.int32]:
    """Flood from the markers, low heights first; no voxel is left to a line."""
    flooded = sitk.MorphologicalWatershedFromMarkers(to_itk(height), to_itk(markers.astype(np.uint32)), False, diagonal)
    return sitk.GetArrayFromImage(flooded).astype(np.int32)


def to_itk(array: NDArray[np.generic]) -> sitk.Image:
    return sitk.GetImageFromArray(np.ascontiguousarray(array))  # NIfTI arrays come in Fortran order


def _number_by_size(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    old, first, voxels = np.unique(labels[labels > 0], return_index=True, return_counts=True)
    new = np.zeros(int(labels.max(initial=0)) + 1, np.int32)
    new[old[np.lexsort((first, -voxels))]] = np.arange(1, len(old) + 1)
    return new[labels]
