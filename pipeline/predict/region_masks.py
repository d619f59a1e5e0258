"""Masks and a label map from the regions' probabilities on the case's own grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from data.errors import InputError, Mend
from data.grid import Grid
from data.labels import LabelConvention, load_convention
from pipeline.config import RunConfig
from transforms.borders import refine_by_watershed
from transforms.postprocess import to_masks


def region_parents(convention: LabelConvention, regions: Sequence[str]) -> dict[str, str | None]:
    """Find for each region the smallest other one that contains it."""
    parents: dict[str, str | None] = {}
    for region in regions:
        around = [r for r in regions if convention.regions[r] > convention.regions[region]]
        parents[region] = min(around, key=lambda r: len(convention.regions[r])) if around else None
    return parents


def region_masks(
    config: RunConfig,
    probabilities: Mapping[str, NDArray[np.float32]],
    grid: Grid,
    flair: NDArray[np.float32] | None,
) -> dict[str, NDArray[np.bool_]]:
    """Post-process the probabilities of one case.

    All arrays are (d1, d2, d3) on its own grid.

    With ``config.postprocess.watershed`` the border of WT is drawn on the edges of ``flair``, before nesting and
    components. The regions within it only follow by nesting: their borders show in T1c, which does not come along.
    Where the case has no FLAIR, WT is thresholded; where the voxel size is unknown, the edges' scale is in voxels.
    """
    drawn = {}
    if config.postprocess.watershed and flair is not None and "WT" in probabilities:
        spacing = grid.spacing_mm if grid.spacing_known else (1.0, 1.0, 1.0)
        drawn["WT"] = refine_by_watershed(probabilities["WT"], flair, spacing, threshold=config.postprocess.threshold)
    return to_masks(
        probabilities,
        region_parents(load_convention(config.convention), config.regions),
        grid.voxel_volume_ml if grid.spacing_known else float("nan"),
        **config.postprocess.model_dump(exclude={"watershed"}),
        drawn=drawn,
    )


def to_labels(
    config: RunConfig,
    model: str,
    probabilities: Mapping[str, NDArray[np.float32]],
    grid: Grid,
    flair: NDArray[np.float32] | None,
    convention: str | None,
) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.bool_]], str]:
    """Make the label map of a case from its probabilities.

    Returns the map, the masks as they come back from it, and the name of its convention.

    Parameters
    ----------
    model : str
        Its name, for the sentence of an error.
    probabilities, grid, flair
        As for :func:`region_masks`.
    convention : str or None
        Of the label map; None is the model's own.

    Raises
    ------
    data.errors.InputError
        The convention has none of the regions.
    """
    masks = region_masks(config, probabilities, grid, flair)
    written = load_convention(convention or config.convention)
    kept = [r for r in probabilities if r in written.regions]
    if not kept:
        raise InputError(
            f"the convention {written.name} has none of the regions {', '.join(probabilities)} of {model}",
            Mend.WRITE_ANOTHER_CONVENTION,
        )
    label_map = written.to_label_map({r: masks[r] for r in kept})
    back = written.region_masks(label_map, kept)
    return label_map, {r: back.get(r, masks[r]) for r in probabilities}, written.spelling
