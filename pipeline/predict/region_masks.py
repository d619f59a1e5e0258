"""Masks and a label map from the regions' probabilities on the case's own grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray

from data.errors import InputError, Mend
from data.grid import Grid
from data.labels import LabelConvention, Mask, load_convention
from pipeline.config import RunConfig
from transforms.borders import refine_by_watershed
from transforms.postprocess import bounding_box, fill_cavities, kept_elsewhere, to_masks, union_box
from transforms.restore import average_to


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
    return to_masks(
        probabilities,
        region_parents(load_convention(config.convention), config.regions),
        grid.voxel_volume_ml if grid.spacing_known else float("nan"),
        **config.postprocess.model_dump(exclude={"watershed"}),
        drawn=_drawn(config, probabilities, grid, flair),
    )


def _drawn(
    config: RunConfig,
    probabilities: Mapping[str, NDArray[np.float32]],
    grid: Grid,
    flair: NDArray[np.float32] | None,
) -> dict[str, Mask]:
    """Draw the borders that the threshold does not."""
    if not (config.postprocess.watershed and flair is not None and "WT" in probabilities):
        return {}
    spacing = grid.spacing_mm if grid.spacing_known else (1.0, 1.0, 1.0)
    return {"WT": refine_by_watershed(probabilities["WT"], flair, spacing, threshold=config.postprocess.threshold)}


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


@dataclass(frozen=True, eq=False)
class Answer:
    """Probabilities of one model where its network gave them, on the working grid.

    Parameters
    ----------
    probabilities : (regions, d1, d2, d3) float32 tensor
    grid : Grid
    regions : tuple of str
    """

    probabilities: torch.Tensor
    grid: Grid
    regions: tuple[str, ...]

    def of(self, region: str) -> torch.Tensor:
        """Return the probability of one region, (1, d1, d2, d3)."""
        return self.probabilities[[self.regions.index(region)]]


@dataclass(frozen=True, eq=False)
class Own:
    """Masks of a case on its own grid, which those on other grids follow.

    Parameters
    ----------
    grid : Grid
    label_map : (d1, d2, d3) uint8
    convention : str
        Of the label map.
    masks : region -> (d1, d2, d3) bool
        As they were written.
    probabilities : region -> (d1, d2, d3) float32
    flair : (d1, d2, d3) float32, optional
    """

    grid: Grid
    label_map: NDArray[np.uint8]
    convention: str
    masks: Mapping[str, Mask]
    probabilities: Mapping[str, NDArray[np.float32]]
    flair: NDArray[np.float32] | None = None


def labels_elsewhere(config: RunConfig, answers: Sequence[Answer], own: Own, grid: Grid) -> NDArray[np.uint8]:
    """Make the label map of a case on another grid.

    The probabilities are interpolated once, from where the networks gave them, and then thresholded. Post-processing
    is not done anew: what it dropped on the own grid is dropped, what it kept stays, however small it is here. A border
    that was drawn on edges is carried over. A grid of the same voxels, in any order of axes, gets the very same mask.

    Parameters
    ----------
    config : RunConfig
        Of the first model.
    answers : sequence of Answer
        Of every model; they are averaged.
    own : Own
    grid : Grid
        Its affine leads to where the own grid's lies.

    Returns
    -------
    (n1, n2, n3) uint8 in ``own.convention``
    """
    if own.grid.holds_voxels_of(grid):
        return np.ascontiguousarray(own.grid.turn(own.label_map, grid.orientation))
    threshold = config.postprocess.threshold
    parents = region_parents(load_convention(config.convention), config.regions)
    drawn = _drawn(config, own.probabilities, own.grid, own.flair)
    masks: dict[str, Mask] = {}
    for region in own.probabilities:
        before = drawn[region] if region in drawn else own.probabilities[region] >= threshold
        edge = Answer(torch.from_numpy(before.astype(np.float32))[None], own.grid, (region,))
        found = _thresholded([edge] if region in drawn else answers, region, grid, threshold)
        found = kept_elsewhere(found, grid, before, own.masks[region], own.grid)
        parent = parents.get(region)
        if config.postprocess.nest and parent in masks:
            found &= masks[parent]
        masks[region] = fill_cavities(found) if config.postprocess.fill_holes else found
    return load_convention(own.convention).to_label_map(masks)


def _thresholded(answers: Sequence[Answer], region: str, grid: Grid, threshold: float) -> Mask:
    """Bring one region of all answers to a grid, and threshold their mean.

    Only the box is computed in which it may reach the threshold.
    """
    found = np.zeros(grid.shape, bool)
    boxes = [_box_of(answer.of(region)[0].numpy() >= threshold / 2, answer.grid, grid) for answer in answers]
    box = union_box(boxes, grid.shape)
    shape = tuple(side.stop - side.start for side in box)
    if not all(shape):
        return found
    to_box = np.eye(4)
    to_box[:3, 3] = [side.start for side in box]
    part = Grid((shape[0], shape[1], shape[2]), grid.affine @ to_box, grid.spacing_known)
    mean = np.zeros(shape, np.float32)
    for answer in answers:
        mean += average_to(answer.of(region), answer.grid, part)[0].numpy() / np.float32(len(answers))
    found[box] = mean >= threshold
    return found


def _box_of(shown: Mask, own: Grid, grid: Grid) -> tuple[slice, ...]:
    """Return the box in a grid around voxels that are shown, as slices.

    It has two voxels to spare; it is empty for none.
    """
    box = bounding_box(shown)
    corners = np.array(list(product(*((side.start - 1, side.stop) for side in box))))
    if not all(side.stop > side.start for side in box):
        return box
    there = np.linalg.solve(grid.affine, own.affine)
    places = corners @ there[:3, :3].T + there[:3, 3]
    low, high = np.floor(places.min(axis=0)).astype(int) - 2, np.ceil(places.max(axis=0)).astype(int) + 3
    sides = zip(low, high, grid.shape, strict=True)
    return tuple(slice(int(np.clip(a, 0, n)), int(np.clip(b, 0, n))) for a, b, n in sides)
