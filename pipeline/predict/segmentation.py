"""Result of segmenting one case."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.folder_names import unique_folder_names
from data.io.read import ImageHeader, write_label_map, write_probability
from data.labels import load_convention
from data.output_names import MASK, PREVIEW, result_path
from pipeline.report.colours import write_label_descriptions
from pipeline.report.preview import write_preview


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """Result for one case, all arrays on the case's own grid.

    Attributes
    ----------
    name : str
        Of the patient.
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
    elsewhere : name -> (n1, n2, n3) uint8
        Label maps on the further grids that were asked for, see :func:`pipeline.predict.region_masks.labels_elsewhere`.
    """

    name: str = "case"
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
    elsewhere: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)

    def save(self, folder: Path | str, *, probabilities: bool = False) -> Path:
        """Write the files that `segment` writes for a patient; return the mask's path.

        They are the mask, the maps of uncertainty, with ``probabilities`` those of probability, the preview, and the
        descriptions of the labels, in the same places of an output folder and with the same bytes.

        Raises
        ------
        OSError
            The folder cannot be made or written to.
        """
        output, place = Path(folder), unique_folder_names([self.name])[self.name]
        paths = {what: result_path(output, place, what, False) for what in (MASK, PREVIEW)}
        paths[MASK].parent.mkdir(parents=True, exist_ok=True)
        write_images(self, lambda what: result_path(output, place, what, False), probabilities=probabilities)
        write_preview(paths[PREVIEW], self.name, self.background, self.masks, self.native.grid)
        write_label_descriptions(output, load_convention(self.convention), "")
        return paths[MASK]


STEPS_OF_PROBABILITY, STEPS_OF_UNCERTAINTY = 1024, 256


def write_images(result: Segmentation, path_of: Callable[[str], Path], *, probabilities: bool) -> None:
    """Write the mask and the maps that go with it.

    ``path_of`` gives the path of a result of :mod:`data.output_names`.
    """
    # In steps finer than they are sure: as they are the maps would take 12 MB each, and thrice the time.
    deviations = (result.uncertainty or {}).items()
    maps = {f"uncertainty_{region}": in_steps(v, STEPS_OF_UNCERTAINTY, np.round) for region, v in deviations}
    if probabilities:
        # Downwards: what is below the threshold of the mask must not come to lie on it.
        known = result.probabilities.items()
        maps |= {f"prob_{region}": in_steps(v, STEPS_OF_PROBABILITY, np.floor) for region, v in known}
    write_label_map(path_of(MASK), result.label_map, result.native)
    for what, values in maps.items():
        write_probability(path_of(what), values, result.native)


def in_steps(values: NDArray[np.float32], steps: int, rounded: Callable[..., Any]) -> NDArray[np.float32]:
    """Round an array to steps of 1 / ``steps``, a power of two.

    Each value is then exact; same shape, float32.
    """
    scaled: NDArray[np.float32] = values * np.float32(steps)
    rounded(scaled, out=scaled)
    return np.multiply(scaled, np.float32(1 / steps), out=scaled)
