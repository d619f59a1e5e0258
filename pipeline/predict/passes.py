"""Passes of a network over one image: each direction of slices, each mirroring.

Their answers are averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from transforms.planes import axes_of, turning

if TYPE_CHECKING:  # torch takes seconds to import
    from pipeline.config import RunConfig


@dataclass(frozen=True)
class Pass:
    """One pass.

    Parameters
    ----------
    across : int
        Axis of the working grid across which the slices lie; 2 for a 3D network.
    mirrored : tuple of int
        Axes of the working grid that are mirrored.
    weight, of : int
        Its weight in the mean, and the sum over all passes.
    """

    across: int
    mirrored: tuple[int, ...]
    weight: int = 1
    of: int = 1

    @property
    def share(self) -> float:
        """Share of the pass in the mean."""
        return self.weight / self.of


def passes(config: RunConfig, tta: bool, shape: Sequence[int] | None = None) -> list[Pass]:
    """List the passes over one image in order.

    The first of each direction mirrors nothing.

    Mirrored are those of ``config.augment.flip_axes`` that lie within the slices, since training mirrors no others. A
    direction has the same share of the mean whatever the number of its passes.

    Parameters
    ----------
    tta : bool
        With all mirrorings; else with none.
    shape : (d1, d2, d3), optional
        Of the image: a single slice is not cut in other directions. By default it is taken for a volume.
    """
    flips = set(config.augment.flip_axes) if tta else set()
    directions = []
    for across in config.slice_axes if shape is None else axes_of(shape, config.slice_axes):
        within = sorted(flips.intersection(turning(across)[: config.network.spatial_dims]))
        directions.append([(across, axes) for n in range(len(within) + 1) for axes in combinations(within, n)])
    most = max(map(len, directions))  # each number of mirrorings is a power of two: the weights are whole
    return [
        Pass(across, axes, most // len(direction), most * len(directions))
        for direction in directions
        for across, axes in direction
    ]
