"""Lesion-wise scores of the BraTS challenges: Dice and HD95 lesion by lesion, with a price on each miss and invention.

One region (WT, TC, ET, ...) of one patient, in the terms of the challenges' rules [1]_ [2]_:

reference lesion
    The region's reference mask is dilated, ``dilation_iterations`` times by the 18 neighbours of a voxel; the undilated
    voxels in one 26-connected component of the dilated mask are one lesion. So near pieces are one lesion.
predicted component
    A 26-connected component of the prediction; with ``merge_predictions`` near pieces are merged as in the reference.
match
    A reference lesion is matched with every predicted component that touches its dilated mask. A component may match
    several lesions. The lesion's Dice and HD95 are those of the union of its matches against the undilated lesion; a
    lesion without a match has 0 and ``penalty_mm``.
false positive
    A predicted component that matches no reference lesion, of any size; a component on a dropped lesion is none.

The scores are ``dice = sum / (n_reference + n_false_positive)``, and for ``hd95_mm`` likewise, with ``penalty_mm`` for
each false positive. HD95 is DeepMind's, weighted by area (``surface_elements``).

In 2D, and along an axis of one voxel, the neighbourhoods are what is left of them in the plane: all eight neighbours.

The worked cases of the tests come from the official scripts. Where we depart from the script of 2024 [2]_ on purpose:
its whole-volume HD95 is computed on component numbers instead of masks; ours on masks. It also merges ET and RC lesions
that touch another label's, dilates RC five times, and leaves small reference lesions (20 mm3, ET 10) out of the mean;
here every region has the same rule and no reference lesion is dropped.

References
----------
.. [1] https://github.com/rachitsaluja/BraTS-2023-Metrics, ``metrics.py`` (``eval.py``).
.. [2] https://github.com/rachitsaluja/BraTS-2024-Metrics, ``metrics_GLI.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data.errors import InputError
from pipeline.score.surface_elements import (
    Mask,
    checked_pair,
    robust_hausdorff_mm,
    union_box,
    weighted_surface_distances,
)
from transforms.postprocess import dilate_18, label_components

Labels = NDArray[np.unsignedinteger]

MOST_COMPARED_VOXELS = 2**31
"""Of all lesions' boxes together, some minutes of work: 600 lesions within one predicted piece as large as a brain."""


@dataclass(frozen=True)
class LesionwiseRules:
    """Rules of one challenge: its definition of a lesion, the price of a miss.

    The terms are those of the module's text.
    """

    dilation_iterations: int
    """How often the mask is dilated by 18 neighbours before near pieces are one lesion."""
    dropped_reference_mm3: float
    """Reference lesions of at most this volume do not count, found or missed. 0 drops none."""
    penalty_mm: float
    """The HD95 of a missed lesion, of an invented one, and of a whole region that one side lacks."""
    merge_predictions: bool = False
    """Near pieces of the prediction are one component too, as in the reference."""
    dropped_prediction_voxels: int = 0
    """Predicted components, after merging, of at most so many voxels are removed before everything. 0 removes none."""
    dropped_prediction_voxels_in: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Regions with another such number."""


_GLIOMA_2023 = LesionwiseRules(dilation_iterations=3, dropped_reference_mm3=50, penalty_mm=374.0)

LESIONWISE: dict[str, LesionwiseRules] = {
    "brats2023-gli": _GLIOMA_2023,
    "brats2023-ssa": _GLIOMA_2023,
    "brats2023-ped": _GLIOMA_2023,
    "brats2023-men": LesionwiseRules(dilation_iterations=1, dropped_reference_mm3=50, penalty_mm=374.0),
    "brats2023-met": LesionwiseRules(dilation_iterations=1, dropped_reference_mm3=2, penalty_mm=374.0),
    "brats2024-gli": LesionwiseRules(
        dilation_iterations=3,
        dropped_reference_mm3=0,
        penalty_mm=337.0,
        merge_predictions=True,
        dropped_prediction_voxels=20,
        dropped_prediction_voxels_in=MappingProxyType({"ET": 10}),
    ),
}
"""The rules by the names that ``evaluate --metrics`` takes."""


def lesionwise_scores(
    prediction: Mask, reference: Mask, spacing_mm: Sequence[float] | None, rules: LesionwiseRules, region: str
) -> dict[str, float]:
    """Compute the lesion-wise and whole-volume scores of one region.

    The challenges print the whole-volume ones beside the others.

    Parameters
    ----------
    prediction, reference : (d1, d2) or (d1, d2, d3) bool
        The region's two masks, on the same grid.
    spacing_mm : 2 or 3 floats, or None where the voxel size is unknown
        Distance between neighbouring voxel centres along each array axis, in mm. A 2D pixel counts as 1 mm thick.
    rules : LesionwiseRules
        One of :data:`LESIONWISE`.
    region : str
        The region's name; some rules differ by region.

    Returns
    -------
    dict
        ``dice`` in 0..1 and ``hd95_mm``, lesion-wise; ``whole_dice`` and ``whole_hd95_mm`` of the whole volume; ``tp``,
        ``fp``, ``fn``: reference lesions found, predicted components on no lesion, reference lesions missed;
        ``sensitivity`` and ``specificity`` of the whole volume's voxels.
        Empty rule: no lesion that counts on either side is 1 and 0 lesion-wise; no voxel on either side is 1 and 0 for
        the whole volume; one side empty is 0 and ``rules.penalty_mm``.
        Spacing unknown: what is in mm is NaN, and so are ``dice``, ``tp`` and ``fn`` where the rules drop lesions by
        their volume.

    Raises
    ------
    ValueError
        When a mask is not boolean, 2D or 3D, the shapes differ, or the spacing is not one positive number per axis.
    InputError
        When comparing lesion by lesion would take hours (:data:`MOST_COMPARED_VOXELS`).
    """
    return lesionwise_sets(prediction, reference, spacing_mm, {"": rules}, region)[""]


def lesionwise_sets(
    prediction: Mask,
    reference: Mask,
    spacing_mm: Sequence[float] | None,
    sets: Mapping[str, LesionwiseRules],
    region: str,
) -> dict[str, dict[str, float]]:
    """Compute :func:`lesionwise_scores` for several rules, by their names.

    Sets share the steps that are alike.
    """
    prediction, reference, spacing = checked_pair(prediction, reference, spacing_mm)
    voxels = prediction.size
    voxel_mm3 = math.nan if spacing_mm is None else math.prod(spacing_mm)
    # Dilation needs room around the masks, and ends at the image as the scripts' does.
    room = max((rules.dilation_iterations for rules in sets.values()), default=0)
    box = tuple(slice(max(cut.start - room, 0), cut.stop + room) for cut in union_box(prediction, reference))
    prediction, reference = np.ascontiguousarray(prediction[box]), np.ascontiguousarray(reference[box])
    scored: dict[str, dict[str, float]] = {}
    masks_before: Mask | None = None  # the last prediction whose whole volume was compared
    for name, rules in sets.items():
        if (twin := next((other for other in scored if sets[other] is rules), None)) is not None:
            scored[name] = scored[twin]  # several challenges have the same rules
            continue
        merging = rules.dilation_iterations if rules.merge_predictions else 0
        small = rules.dropped_prediction_voxels_in.get(region, rules.dropped_prediction_voxels)
        components = _without_small(_merged_components(prediction, merging)[0], small)
        kept = components > 0
        if masks_before is None or not np.array_equal(kept, masks_before):
            masks_before, comparison = kept, _compare(kept, reference, spacing)
        whole = comparison.with_penalty(rules.penalty_mm)
        lesions, territories = _merged_components(reference, rules.dilation_iterations)
        matches = _matches(components, territories)
        scored[name] = {
            **_lesion_scores(components, lesions, matches, whole, spacing, voxel_mm3, rules),
            "whole_dice": whole.dice,
            "whole_hd95_mm": whole.hd95_mm,
            **_voxel_shares(kept, reference, voxels),
        }
    return scored


def _merged_components(mask: Mask, iterations: int) -> tuple[Labels, Labels]:
    """Number the pieces of a mask, with one number for near pieces.

    The numbers come on the mask itself, and on the dilated mask.
    """
    territories = label_components(dilate_18(mask, iterations))
    return np.where(mask, territories, 0), territories


def _without_small(components: Labels, dropped_voxels: int) -> Labels:
    """Remove small components and renumber the others from 1 without a gap.

    Small is at most ``dropped_voxels``.
    """
    if not dropped_voxels:
        return components
    sizes = np.bincount(components.ravel())
    keep = sizes > dropped_voxels
    keep[0] = False
    return np.where(keep, np.cumsum(keep), 0).astype(components.dtype)[components]


def _matches(components: Labels, territories: Labels) -> dict[int, list[int]]:
    """Find the predicted components that touch each reference lesion's dilated mask.

    A lesion that none touches has no key.
    """
    both = (components > 0) & (territories > 0)
    n_components = int(components.max(initial=0)) + 1
    pairs = np.unique(territories[both].astype(np.int64) * n_components + components[both])
    matches: dict[int, list[int]] = {}
    for lesion, component in zip((pairs // n_components).tolist(), (pairs % n_components).tolist(), strict=True):
        matches.setdefault(lesion, []).append(component)
    return matches


class _Scores(NamedTuple):
    dice: float
    hd95_mm: float

    def with_penalty(self, penalty_mm: float) -> _Scores:
        """Replace an infinite distance by the penalty.

        It is infinite where only one of the masks has voxels.
        """
        return _Scores(self.dice, penalty_mm if math.isinf(self.hd95_mm) else self.hd95_mm)


def _compare(prediction: Mask, reference: Mask, spacing: tuple[float, ...] | None) -> _Scores:
    """Compute Dice and area-weighted HD95, infinite where one mask is empty.

    Axes of one voxel count: a flat lesion is no slice.
    """
    voxels = int(np.count_nonzero(prediction)) + int(np.count_nonzero(reference))
    dice = 2 * int(np.count_nonzero(prediction & reference)) / voxels if voxels else 1.0
    if spacing is None:
        return _Scores(dice, math.nan)
    return _Scores(dice, robust_hausdorff_mm(weighted_surface_distances(prediction, reference, spacing), 95.0))


def _lesion_scores(
    components: Labels,
    lesions: Labels,
    matches: dict[int, list[int]],
    whole: _Scores,
    spacing: tuple[float, ...] | None,
    voxel_mm3: float,
    rules: LesionwiseRules,
) -> dict[str, float]:
    """Return the means over lesions and false positives, and their numbers."""
    n_components = int(components.max(initial=0))
    fp = n_components - len(set().union(*matches.values()))
    if spacing is None and rules.dropped_reference_mm3:
        return {"dice": math.nan, "hd95_mm": math.nan, "tp": math.nan, "fp": fp, "fn": math.nan}

    # An affine's rounding must not lift a lesion of just 50 mm3 over the limit.
    limit_voxels = rules.dropped_reference_mm3 / voxel_mm3 * (1 + 1e-5) if rules.dropped_reference_mm3 else 0
    sizes = np.bincount(lesions.ravel(), minlength=1)
    counted = [lesion for lesion in range(1, len(sizes)) if sizes[lesion] > limit_voxels]
    found = [lesion for lesion in counted if lesion in matches]
    if len(sizes) == 2 and found and len(matches[1]) == n_components:
        scores = [whole]  # one lesion and everything predicted: that pair has been scored
    else:
        pairs = _lesion_pairs(lesions, components, {lesion: matches[lesion] for lesion in found})
        scores = [_compare(*pair, spacing).with_penalty(rules.penalty_mm) for pair in pairs]

    fn = len(counted) - len(found)
    n = len(counted) + fp
    hd95_sum = sum(score.hd95_mm for score in scores) + (fn + fp) * rules.penalty_mm
    return {
        "dice": sum(score.dice for score in scores) / n if n else 1.0,
        "hd95_mm": math.nan if spacing is None else (hd95_sum / n if n else 0.0),
        "tp": len(found),
        "fp": fp,
        "fn": fn,
    }


def _lesion_pairs(lesions: Labels, components: Labels, matches: Mapping[int, list[int]]) -> Iterator[tuple[Mask, Mask]]:
    """Yield each matched lesion beside the union of its matches.

    The union comes first, both cut to the smallest box that holds them.
    """
    own_boxes, component_boxes = ndimage.find_objects(lesions), ndimage.find_objects(components)
    chosen = np.zeros(len(component_boxes) + 1, bool)
    boxes = {
        lesion: _box_around([own_boxes[lesion - 1], *(component_boxes[component - 1] for component in matched)])
        for lesion, matched in matches.items()
    }
    compared = sum(math.prod(cut.stop - cut.start for cut in box) for box in boxes.values())
    if compared > MOST_COMPARED_VOXELS:
        raise InputError(
            f"{len(boxes)} reference lesions touch predicted pieces so large that comparing each with its own would "
            f"take {compared} voxels, and {MOST_COMPARED_VOXELS} are the most; look at the masks, or leave the "
            "lesion-wise metrics out"
        )
    for lesion, matched in matches.items():
        box = boxes[lesion]
        chosen[matched] = True
        yield chosen[components[box]], lesions[box] == lesion
        chosen[matched] = False


def _box_around(boxes: Sequence[tuple[slice, ...]]) -> tuple[slice, ...]:
    """Return the smallest box that holds all of these."""
    return tuple(
        slice(min(cut.start for cut in cuts), max(cut.stop for cut in cuts)) for cuts in zip(*boxes, strict=True)
    )


def _voxel_shares(prediction: Mask, reference: Mask, voxels: int) -> dict[str, float]:
    """Return sensitivity and specificity in an image of ``voxels`` voxels.

    Each is 1 where there is nothing to find and nothing found.
    """
    tp = int(np.count_nonzero(prediction & reference))
    n_prediction, n_reference = int(np.count_nonzero(prediction)), int(np.count_nonzero(reference))
    empty = voxels - n_reference
    return {
        "sensitivity": tp / n_reference if n_reference else float(not n_prediction),
        "specificity": (empty - n_prediction + tp) / empty if empty else 1.0,
    }
