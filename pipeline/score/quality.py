"""Remarks on one patient's result for a closer look.

They never change its status.

Notes
-----
Where the bounds come from:

``USUAL_WHOLE_TUMOUR_ML``
    The lower one is a sphere of 10 mm, 0.52 ml: smaller lesions are not measurable by RANO (Wen et al., J Clin Oncol
    28(11), 2010). The upper one is 1.7 times the largest whole tumour of the 16 BraTS patients at hand, 30 to 231 ml.
    Wide on purpose: brain metastases are often smaller, and that is no fault of the mask.
``USUAL_DISAGREEMENT``
    A convention, not a figure that was fitted: on average the members' masks have a Dice below 0.9 with that of their
    mean. The mirrored passes of brats-attention-unet-3d on two BraTS patients gave 0.03 to 0.08 over the three regions
    (``python -m bench.uncertainty PATIENTS --model brats-attention-unet-3d --tta``; patients that the model has seen).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from data.grid import Grid

USUAL_WHOLE_TUMOUR_ML = (0.5, 400.0)
USUAL_DISAGREEMENT = 0.1

LEARNT_FROM = "has learnt from this patient"
"""Part of the flag of a patient whom a model has learnt from, by which it is found again."""


def is_learnt_from(flags: object) -> bool:
    """Tell whether flags say that a model has learnt from the patient."""
    return isinstance(flags, str) and LEARNT_FROM in flags


def quality_flags(
    masks: Mapping[str, NDArray[np.bool_]], grid: Grid, disagreement: Mapping[str, float] | None = None
) -> list[str]:
    """Return remarks on an unusual result, one text each.

    A result without anything unusual has none.

    Parameters
    ----------
    masks : region -> (d1, d2, d3) bool
        On ``grid``, the outermost region first. No regions give no remarks but that on the voxel size.
    grid : Grid
        Where its voxel size is unknown, a remark says so, and none speaks of the volume.
    disagreement : region -> float in [0, 1], optional
        See :meth:`pipeline.predict.uncertainty.MemberSpread.disagreement`.

    Returns
    -------
    list of str
        An empty outermost region (then not also the regions within it), an empty inner region, a lesion that touches
        the edge of the image (an axis of one voxel has no edge), a whole tumour (region ``WT``) of an unusual volume,
        a region on which the members disagree, an unknown voxel size.
    """
    flags = _place(masks, grid)
    if "WT" in masks and masks["WT"].any() and grid.spacing_known:
        flags += _volume(np.count_nonzero(masks["WT"]) * grid.voxel_volume_ml)
    flags += [
        f"{region}: the averaged predictions disagree by {value:.2f} (1 - mean Dice; usual up to {USUAL_DISAGREEMENT})"
        for region, value in (disagreement or {}).items()
        if value > USUAL_DISAGREEMENT
    ]
    if not grid.spacing_known:
        flags.append("the voxel size is unknown: no mm, no ml; voxels_<region> counts voxels")
    return flags


def _place(masks: Mapping[str, NDArray[np.bool_]], grid: Grid) -> list[str]:
    if not masks:
        return []
    outermost, whole = next(iter(masks.items()))
    if not whole.any():
        return ["no tumour found"]
    flags = [f"no {region} found" for region, mask in masks.items() if not mask.any()]
    faces = [whole.take(end, axis) for axis in range(3) if grid.shape[axis] > 1 for end in (0, -1)]
    if any(face.any() for face in faces):
        flags.append(f"{outermost} touches the edge of the image")
    return flags


def _volume(volume_ml: float) -> list[str]:
    low, high = USUAL_WHOLE_TUMOUR_ML
    if low <= volume_ml <= high:
        return []
    size, shown = ("small", f"{volume_ml:.3f}") if volume_ml < low else ("large", f"{volume_ml:.0f}")
    return [f"WT of {shown} ml is unusually {size} (usual {low:g} to {high:g} ml)"]
