"""What outlines are drawn on: an image of the patient, in the axes of the mask."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from data.case import ImageSource
from data.errors import InputError
from data.grid import Grid
from data.io.read import read_volume

logger = logging.getLogger(__name__)


def read_background(images: Mapping[str, ImageSource], grid: Grid) -> NDArray[np.float32] | None:
    """The FLAIR, or the first image that will do, (d1, d2, d3) float32 on ``grid``.

    None where no image is readable and on the same voxels (axes may be stored in another order): a picture is an aid,
    so nothing about it is an error.
    """
    for modality in sorted(images, key=lambda name: name != "flair"):
        try:
            volume = read_volume(images[modality])
        except InputError as error:
            logger.debug("no background: %s", error)
            continue
        aligned = volume.grid.reoriented(grid.orientation)
        if aligned.matches(grid) if grid.spacing_known else aligned.shape == grid.shape:
            turn = volume.grid.orientation_to(grid.orientation)
            return nib.orientations.apply_orientation(volume.array, turn).astype(np.float32, copy=False)
    return None
