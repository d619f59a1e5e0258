"""Result of segmenting one case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.io.read import ImageHeader


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """Result for one case, all arrays on the case's own grid.

    Attributes
    ----------
    label_map : (d1, d2, d3) uint8
        In ``convention``.
    masks : region -> (d1, d2, d3) bool
        As they come back from the label map, so that what is reported is what was written.
    probabilities : region -> (d1, d2, d3) float32 in [0, 1]
    native : ImageHeader
        Of the modality that gives the grid; the writers copy its geometry.
    background : (d1, d2, d3) float32
        FLAIR where there is one, else the reference modality, for pictures.
    warnings : tuple of str
        What was repaired, resampled or is doubtful about the input.
    seconds : stage -> float
        Wall-clock time of read, preprocess, network, restore.
    uncertainty : region -> (d1, d2, d3) float32 in [0, 0.5], or None
        Standard deviation of the probability over the members, every model in every pass (direction of slices,
        mirroring); None for one member.
    disagreement : region -> float in [0, 1], or None
        1 - mean Dice of the members' masks with the mask of their mean, before post-processing; None for one member.
    remarks : tuple of str
        What was done to get a result that is right all the same, such as about a card whose memory was full.
    engine : str
        What ran the networks, see :mod:`pipeline.predict.engines`; of several models joined by ``+``.
    """

    label_map: NDArray[np.uint8]
    masks: Mapping[str, NDArray[np.bool_]]
    probabilities: Mapping[str, NDArray[np.float32]]
    native: ImageHeader
    background: NDArray[np.float32]
    convention: str
    warnings: tuple[str, ...]
    seconds: Mapping[str, float]
    uncertainty: Mapping[str, NDArray[np.float32]] | None = None
    disagreement: Mapping[str, float] | None = None
    remarks: tuple[str, ...] = ()
    engine: str = "torch"
