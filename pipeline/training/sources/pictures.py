"""Single axial T1c slices kept as grey pictures: ``img/*.png`` with a mask each in ``labelcol/``.

No other modality is there, and a picture is one slice, so that a recipe must do without the one and the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.case import ImageSource
from data.errors import InputError, UsageError
from data.io.read import read_volume
from pipeline.config import RunConfig

PICTURE_MODALITY = "t1c"


def read_picture(path: Path, side: int) -> NDArray[np.float32]:
    """Read the pixels of a grey picture.

    Parameters
    ----------
    side : int
        Rows and columns that it must have, for the size of a pixel is known for these alone.

    Returns
    -------
    (side, side) float32

    Raises
    ------
    data.errors.InputError
        It is not there, damaged, or no such picture.
    """
    if not path.is_file():
        raise InputError(f"{path}: is not there; copy it again, or leave the slice out")
    pixels = read_volume(ImageSource((path,)), as_stored=True).array
    if pixels.shape != (side, side, 1):
        raise InputError(f"{path}: has {pixels.shape[0]} x {pixels.shape[1]} pixels, not {side} x {side}; leave it out")
    return pixels[..., 0].astype(np.float32)


def read_pair(image: Path, mask: Path, side: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Read the pixels of a slice and its mask, (side, side) each.

    Raises
    ------
    data.errors.InputError
        As `read_picture`; or the slice or its mask is empty.
    """
    pixels, lesion = read_picture(image, side), read_picture(mask, side) > 127
    if not lesion.any():
        raise InputError(f"{mask}: marks no pixel; leave it out")
    return pixels, lesion


def as_channels(pixels: NDArray[np.float32], config: RunConfig) -> NDArray[np.float32]:
    """Put a slice among the recipe's modalities.

    Shape (modalities, rows, columns); missing modalities are 0.
    """
    images = np.zeros((len(config.modalities), *pixels.shape), np.float32)
    images[config.modalities.index(PICTURE_MODALITY)] = pixels
    return images


def refuse_recipe(folder: Path, config: RunConfig, shown: Sequence[str] = (PICTURE_MODALITY,)) -> None:
    """Refuse a recipe that slices of the modalities ``shown`` cannot serve.

    Raises
    ------
    data.errors.UsageError
        It is for volumes, does without the shown modalities or not without the others, or normalises in another way.
    """
    if config.network.spatial_dims != 2:
        raise UsageError(f"{folder}: single slices teach a 3D network nothing; train without them, or in 2D")
    if not set(shown) & set(config.modalities):
        raise UsageError(
            f"{folder}: the slices are {', '.join(shown)}, which the recipe does not see; train without them"
        )
    missing = [modality for modality in config.modalities if modality not in shown]
    if missing and not config.missing_modalities:
        raise UsageError(
            f"{folder}: the slices have no {', '.join(missing)}; train without them, or for missing modalities "
            "(augment.missing_modality)"
        )
    if config.preprocess.normalise != "nonzero":
        raise UsageError(
            f"{folder}: the slices are stretched pictures, and the recipe says normalise: "
            f"{config.preprocess.normalise}; set it to nonzero, or train without them"
        )
