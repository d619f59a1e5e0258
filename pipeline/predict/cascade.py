"""Geometry of a cascade.

The first network finds a box, the second sees its content, and both give one answer.

The first network works on a coarse grid of the whole head, the second on a fine one in a box around what the first has
found, with the first's probabilities as further channels. Outside the box the first's probabilities stand; inside its
faces they pass into the second's, so that no seam shows, or into a weighted mean of both. Where the first finds
nothing, its answer is the answer.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch

from pipeline.config import FirstStageConfig

BOX_MULTIPLE = 16
"""Sides of the box are multiples of so many voxels, where the image has them: few sizes, for which engines keep
kernels."""

Box = tuple[slice, slice, slice]


def tumour_box(
    probabilities: torch.Tensor, spacing_mm: Sequence[float], settings: FirstStageConfig, seen_axes: Collection[int]
) -> Box | None:
    """Return the box in which the second network works.

    It is None where the first network has found nothing.

    Parameters
    ----------
    probabilities : (regions, d1, d2, d3) float
        Of the first network, on the second's working grid; every region counts.
    spacing_mm : three floats
        Of that grid.
    seen_axes : collection of int
        Axes of the image that lie within what the second network sees at once; along the others the side need be no
        multiple.

    Returns
    -------
    three slices, or None
        Within the image.
    """
    found = probabilities.amax(dim=0) >= settings.threshold
    if not bool(found.any()):
        return None
    sides = []
    for axis, (n, spacing) in enumerate(zip(found.shape, spacing_mm, strict=True)):
        where = found.any(dim=tuple({0, 1, 2} - {axis})).nonzero()[:, 0]
        margin = math.ceil(settings.margin_mm / spacing - 1e-6)
        start, stop = max(int(where[0]) - margin, 0), min(int(where[-1]) + 1 + margin, n)
        side = max(stop - start, math.ceil(settings.smallest_mm / spacing - 1e-6))
        multiple = BOX_MULTIPLE if axis in seen_axes else 1
        side = min(-(-side // multiple) * multiple, n)
        start = min(max(start - (side - (stop - start)) // 2, 0), n - side)
        sides.append(slice(start, start + side))
    return (sides[0], sides[1], sides[2])


def second_input(image: torch.Tensor, probabilities: torch.Tensor, box: Box) -> torch.Tensor:
    """Stack the images and the first network's probabilities inside the box.

    The probabilities are 0 where no image shows anything.

    Parameters
    ----------
    image : (modalities, d1, d2, d3) float32
    probabilities : (fed regions, d1, d2, d3) float32
    """
    inside = image[(slice(None), *box)]
    shown = (inside != 0).any(dim=0)
    return torch.cat((inside, probabilities[(slice(None), *box)] * shown))


def blend_weights(
    box: Box, shape: Sequence[int], spacing_mm: Sequence[float], settings: FirstStageConfig
) -> torch.Tensor:
    """Compute the share of the second network's answer in the box.

    The result has the box's size, float32 in (0, 1].

    It rises linearly from each face to ``1 - share`` at a depth of ``blend_mm``; a face that is the image's has nothing
    beyond it to pass into, and there it is ``1 - share``.
    """
    blend_mm = settings.blend_mm
    weight = torch.ones(tuple(side.stop - side.start for side in box))
    for axis, (side, n, spacing) in enumerate(zip(box, shape, spacing_mm, strict=True)):
        depth = (torch.arange(side.stop - side.start) + 0.5) * spacing
        rise = (depth / blend_mm).clamp(max=1) if blend_mm > 0 else torch.ones_like(depth)
        ramp = torch.ones_like(depth)
        if side.start > 0:
            ramp = torch.minimum(ramp, rise)
        if side.stop < n:
            ramp = torch.minimum(ramp, rise.flip(0))
        weight = torch.minimum(weight, ramp.reshape([-1 if other == axis else 1 for other in range(3)]))
    return weight * (1 - settings.share)


def blend_into(whole: torch.Tensor, answer: torch.Tensor, box: Box, weight: torch.Tensor) -> torch.Tensor:
    """Blend the second network's answer into the first's, in place.

    Both are (regions, d1, d2, d3); the first is returned.
    """
    inside = whole[(slice(None), *box)]
    # Written so that a weight of 1 gives the answer to the bit.
    inside.copy_(inside * (1 - weight) + answer * weight)
    return whole
