"""Lesions of a mask one by one: their place, size and detection.

The size is measured as a radiologist does.

Definitions that every number here rests on:

lesion
    A 26-connected component of a region's mask; with ``split`` the parts into which
    :func:`transforms.watershed.split_touching` cuts it.
axial slice, diameter, perpendicular
    See :mod:`pipeline.score.diameters`.
found
    A lesion is found when at least one voxel of it is in a lesion of the other side.
small
    A lesion below :data:`SMALL_ML` is counted apart: as often a speck of the annotation as a lesion, it would swamp
    the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray

from data.grid import Grid
from data.labels import Mask
from pipeline.score.diameters import AxialDiameters, axial_diameters, slice_axis
from transforms.postprocess import bounding_box, label_components, union_box
from transforms.watershed import split_touching

SMALL_ML = 0.05
"""Volume below which a lesion is small: 50 voxels of 1 mm, a sphere of 4.6 mm."""
SIZE_CLASSES_ML = ((0.0, SMALL_ML), (SMALL_ML, 0.1), (0.1, 1.0), (1.0, 10.0), (10.0, math.inf))
"""Classes of a reference lesion's volume; the lower end belongs to the class, the upper one does not."""

_SPECK_VOXELS = 64
"""Of a lesion's box: the diameters of one so small are measured once for all of its shape."""

Labels = NDArray[np.int32]


def find_lesions(mask: Mask, spacing_mm: Sequence[float], *, split: bool = False) -> tuple[Labels, int]:
    """Number the lesions of a mask, the largest first.

    Parameters
    ----------
    mask : (d1, d2, d3) or (d1, d2) bool
    spacing_mm : one positive number an axis
        Only ``split`` asks for it: what counts as touching is a rule in mm.
    split : bool
        Cut touching lesions apart by watershed, with the defaults of :func:`transforms.watershed.split_touching`.

    Returns
    -------
    labels : int32 array of the mask's shape
        0 outside the mask. Number 1 has the most voxels; of equals, the one that comes first in C order.
    n : int
        The number of lesions. An empty mask gives all 0 and 0.

    Raises
    ------
    ValueError
        When the mask is not boolean.
    """
    mask = np.asarray(mask)
    _check_boolean(mask)
    if split:
        labels = split_touching(mask, spacing_mm)
        return labels, int(labels.max(initial=0))
    labels = np.zeros(mask.shape, np.int32)
    box = bounding_box(mask)
    inside = np.ascontiguousarray(mask[box])  # NIfTI arrays come in Fortran order, which makes all of this slow
    numbers = label_components(inside)[inside]
    voxels = np.bincount(numbers, minlength=1)[1:]
    first = np.zeros(len(voxels) + 1, np.int64)
    # Written backwards, so that the first voxel of each lesion has the last word.
    first[numbers[::-1]] = np.arange(len(numbers))[::-1]
    order = np.lexsort((first[1:], -voxels))
    renumbered = np.zeros(len(voxels) + 1, np.int32)
    renumbered[order + 1] = np.arange(1, len(voxels) + 1)
    labels[box][inside] = renumbered[numbers]
    return labels, len(voxels)


def lesion_table(prediction: Mask, reference: Mask | None, grid: Grid, *, split: bool = False) -> list[dict[str, Any]]:
    """List the lesions of one region of one patient, a row each.

    The prediction's stand before the reference's.

    Parameters
    ----------
    prediction, reference : (d1, d2, d3) bool
        Masks on ``grid``. None: there is no reference.
    grid : Grid
        Gives millimetres and directions.
    split : bool
        See :func:`find_lesions`. Where the spacing is unknown its rules in mm are taken in voxels.

    Returns
    -------
    list of dict
        ``side`` ("prediction" or "reference"), ``lesion`` (from 1, by falling volume), ``voxels``, ``volume_ml``,
        ``centroid_x_mm``, ``centroid_y_mm``, ``centroid_z_mm`` (mean of the voxel centres in the patient: x grows to
        the right, y to the front, z to the head), ``diameter_mm``, ``perpendicular_mm``, ``bidimensional_mm2`` (their
        product), ``slice`` (index from 0 along the slice axis, of the diameter), ``matches`` (the numbers of the
        other side's lesions that it shares a voxel with, such as "1 3"; empty where there are none), ``detected``
        (whether there are any; None without a reference). Empty masks have no rows. Where the spacing is unknown
        what is in mm, mm2 or ml is NaN.

    Raises
    ------
    ValueError
        When a mask is not boolean or not of the grid's shape.
    """
    masks = {"prediction": np.asarray(prediction)}
    if reference is not None:
        masks["reference"] = np.asarray(reference)
    for side, mask in masks.items():
        _check_boolean(mask)
        if mask.shape != grid.shape:
            raise ValueError(f"the {side} is {mask.shape}, the grid {grid.shape}; resample it to the grid first")
    # One voxel of background is kept around the lesions, for the watershed takes the array's edge for unknown.
    box = union_box([bounding_box(mask) for mask in masks.values()], grid.shape, margin=1)
    corner = np.array([cut.start for cut in box])
    labels = {side: find_lesions(mask[box], grid.spacing_mm, split=split)[0] for side, mask in masks.items()}
    matches = _matches(labels["prediction"], labels["reference"]) if reference is not None else {}
    rows = []
    for side, numbered in labels.items():
        for row in measure_lesions(numbered, corner, grid):
            found = matches.get((side, row["lesion"]), [])
            row |= {"matches": " ".join(map(str, found)), "detected": None if reference is None else bool(found)}
            rows.append({"side": side} | row)
    return rows


def detection_scores(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Count the lesions found and missed, from the rows of :func:`lesion_table`.

    Returns
    -------
    dict
        ``lesions_prediction``, ``lesions_reference``: how many there are. ``lesions_tp``, ``lesions_fn``: reference
        lesions found and missed. ``lesions_fp``: predicted lesions that find none. ``lesions_f1``:
        2 tp / (2 tp + fp + fn). Small lesions are in none of these; ``small_lesions_prediction``,
        ``small_lesions_reference``, ``small_lesions_fp`` and ``small_lesions_fn`` count them likewise. A lesion that
        shares a voxel with a small one alone is found too. A lesion of unknown volume is not small. No rows, as of two
        empty masks: counts of 0 and F1 1. Rows without a reference: all but the numbers of predicted lesions are NaN.
    """
    predicted, wanted = _sides(rows)
    counts: dict[str, float] = {}
    for prefix, small in (("", False), ("small_", True)):
        own, others = ([row for row in side if is_small(row) is small] for side in (predicted, wanted))
        counts |= {f"{prefix}lesions_prediction": len(own), f"{prefix}lesions_reference": len(others)}
        counts[f"{prefix}lesions_tp"] = sum(bool(row["detected"]) for row in others)
        counts[f"{prefix}lesions_fp"] = sum(not row["detected"] for row in own)
        counts[f"{prefix}lesions_fn"] = len(others) - counts[f"{prefix}lesions_tp"]
    del counts["small_lesions_tp"]  # as many as are not missed
    tp, fp, fn = (counts[f"lesions_{name}"] for name in ("tp", "fp", "fn"))
    counts["lesions_f1"] = 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 1.0
    if any(row["detected"] is None for row in predicted):
        counts |= {name: math.nan for name in counts if not name.endswith("_prediction")}
    return counts


def is_small(row: Mapping[str, Any]) -> bool:
    """Tell whether a row of lesions.csv is of a small lesion."""
    return bool(row["volume_ml"] < SMALL_ML)


def sensitivity_by_size(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the share of reference lesions found, by their volume.

    The rows may be of one patient or of many.

    Returns
    -------
    list of dict
        One for each of ``SIZE_CLASSES_ML``: ``size_class`` in words, ``n`` reference lesions of that size, ``found``
        of them, ``sensitivity`` = found / n (NaN where there are none). Lesions of unknown volume are in no class.
    """
    wanted = _sides(rows)[1]
    table = []
    for low, high in SIZE_CLASSES_ML:
        found = [bool(row["detected"]) for row in wanted if low <= row["volume_ml"] < high]
        share = sum(found) / len(found) if found else math.nan
        table.append({"size_class": _in_words(low, high), "n": len(found), "found": sum(found), "sensitivity": share})
    return table


def _check_boolean(mask: NDArray[Any]) -> None:
    if mask.dtype != bool:
        raise ValueError(f"a mask is boolean, not {mask.dtype}; use LabelConvention.region_masks()")


def _sides(rows: Iterable[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    rows = list(rows)
    return [row for row in rows if row["side"] == "prediction"], [row for row in rows if row["side"] == "reference"]


def _in_words(low: float, high: float) -> str:
    # A spreadsheet would read "1-10" as the first of October.
    if low == 0:
        return f"below {high:g} ml"
    return f"{low:g} ml and more" if math.isinf(high) else f"{low:g} to {high:g} ml"


def _matches(prediction: Labels, reference: Labels) -> dict[tuple[str, int], list[int]]:
    """Map (side, lesion) to the other side's lesions that share a voxel with it.

    The numbers rise.
    """
    both = (prediction > 0) & (reference > 0)
    n_reference = int(reference.max(initial=0)) + 1
    # Not a table of every lesion with every other: of 100,000 on each side it would take 10 GB.
    pairs = np.unique(prediction[both].astype(np.int64) * n_reference + reference[both])
    matches: dict[tuple[str, int], list[int]] = {}
    for predicted, wanted in zip((pairs // n_reference).tolist(), (pairs % n_reference).tolist(), strict=True):
        matches.setdefault(("prediction", predicted), []).append(wanted)
        matches.setdefault(("reference", wanted), []).append(predicted)
    return matches


def measure_lesions(labels: Labels, corner: NDArray[np.int64], grid: Grid) -> list[dict[str, Any]]:
    """Return rows of :func:`lesion_table`, from ``lesion`` to ``slice``, for labels 1 to n.

    ``corner`` is the place on the grid of the array's first voxel.
    """
    if not labels.any():
        return []
    of_all = cc3d.statistics(labels)
    known = 1.0 if grid.spacing_known else math.nan
    matrix, axis = grid.affine[:3, :3], slice_axis(grid.affine)
    rows = []
    sizes: dict[tuple[tuple[int, ...], bytes], AxialDiameters] = {}  # noise is made of the same few specks
    for number in range(1, int(labels.max()) + 1):
        box, voxels = of_all["bounding_boxes"][number], int(of_all["voxel_counts"][number])
        centroid = matrix @ (of_all["centroids"][number] + corner) + grid.affine[:3, 3]
        lesion = labels[box] == number
        speck = (lesion.shape, lesion.tobytes()) if lesion.size <= _SPECK_VOXELS else None
        size = sizes.get(speck) if speck is not None else None
        size = size or axial_diameters(lesion, grid.affine, axis=axis)
        if speck is not None:
            sizes[speck] = size
        row: dict[str, Any] = {"lesion": number, "voxels": voxels, "volume_ml": known * voxels * grid.voxel_volume_ml}
        row |= {f"centroid_{name}_mm": known * float(mm) for name, mm in zip("xyz", centroid, strict=True)}
        row |= {
            "diameter_mm": known * size.diameter_mm,
            "perpendicular_mm": known * size.perpendicular_mm,
            "bidimensional_mm2": known * size.diameter_mm * size.perpendicular_mm,
            "slice": size.slice + box[axis].start + int(corner[axis]),
        }
        rows.append(row)
    return rows
