"""Dice of the masks of bench.speed.yardsticks, between systems and against references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from data.labels import load_convention

Masks = Mapping[str, NDArray[np.bool_]]


def dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """2 |A and B| / (|A| + |B|); 1.0 where both are empty."""
    total = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / total if total else 1.0


def labelled(path: Path, convention: str, regions: Sequence[str]) -> Masks:
    """Regions of a label map."""
    labels = np.asarray(nib.loadsave.load(path).dataobj)  # type: ignore[attr-defined]
    return load_convention(convention).region_masks(labels, regions)


def stacked(folder: Path, regions: Sequence[str]) -> Masks:
    """Read regions of the one image of a folder, a channel each.

    MONAI's SaveImaged writes them so.
    """
    (path,) = folder.glob("*.nii.gz")
    channels = np.asarray(nib.loadsave.load(path).dataobj)  # type: ignore[attr-defined]
    return {region: channels[..., index] > 0 for index, region in enumerate(regions)}


def agreement(systems: Mapping[str, Mapping[str, Masks]], reference: Mapping[str, Masks]) -> dict[str, Any]:
    """Mean Dice over the patients.

    Parameters
    ----------
    systems : name -> patient -> masks
        The first is ours. Each is taken over the patients that it has in common with ours.
    reference : patient -> masks

    Returns
    -------
    dict
        ``"with_ours"``: system -> region -> Dice with our masks. ``"with_reference"``: system -> region -> (its Dice
        with the references, ours on the same patients).
    """
    ours_name, *others = systems
    ours = systems[ours_name]
    found: dict[str, Any] = {"with_ours": {}, "with_reference": {}}
    for name in [ours_name, *others]:
        masks = systems[name]
        both = [case for case in masks if case in ours]
        regions = list(masks[both[0]]) if both else []
        if name != ours_name:
            found["with_ours"][name] = {
                r: float(np.mean([dice(masks[case][r], ours[case][r]) for case in both])) for r in regions
            }
        scored = [case for case in both if case in reference]
        if scored:
            found["with_reference"][name] = {
                r: (
                    float(np.mean([dice(masks[case][r], reference[case][r]) for case in scored])),
                    float(np.mean([dice(ours[case][r], reference[case][r]) for case in scored])),
                )
                for r in regions
            }
    return found
