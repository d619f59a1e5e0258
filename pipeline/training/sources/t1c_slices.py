"""Single T1c slices of BraTS 2020 as pictures, with the whole tumour marked.

``img/<patient>.png`` is one slice of 224 x 224 pixels, ``labelcol/<patient>_seg.png`` its mask (0 and 255).

Notes
-----
Ten of the patients are BraTS2021_01476 to 01485, which we have as volumes. For each of them one axial slice, cut as it
is stored (rows to the left, columns to the posterior) and scaled bilinearly from 240 to 224 pixels, has a correlation
of .99997 or more with the picture; of all turns, mirrors and crops no other comes near. The picture is that slice times
255 / its largest value, rounded down: nothing is cut off, and the background is 0. The masks have a Dice of .95 with
those of BraTS 2021, which were revised.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from data.errors import UsageError
from data.same_patient import known_as
from pipeline.array_cache import array_path, file_digest
from pipeline.config import RunConfig
from pipeline.training.cached import Entry, TrainingCase, cached_cases
from pipeline.training.cases import recipe_key
from pipeline.training.sources.pictures import as_channels, read_pair, refuse_recipe
from pipeline.training.sources.slice_files import slice_on_grid

T1C_SIDE = 224
T1C_PIXEL_MM = 240 / 224
"""Of a slice of 240 x 240 mm; see the notes."""
T1C_REGION = "WT"
"""All that the masks tell."""


def is_t1c_folder(folder: Path) -> bool:
    """Tell whether a folder holds such slices, by its files' names."""
    return any(Path(folder).glob("labelcol/*_seg.png"))


def t1c_names(folder: Path) -> dict[str, str]:
    """Return the patient of each slice by the slice's name.

    Raises
    ------
    data.errors.UsageError
        There is no slice.
    """
    names = {path.stem: known_as(path.stem) for path in sorted(Path(folder).glob("img/*.png"))}
    if not names:
        raise UsageError(f"{folder}: holds no img/*.png; give the folder of the slices")
    return names


def t1c_cases(
    folder: Path, config: RunConfig, cache: Path, *, names: Sequence[str] | None = None, workers: int = 0
) -> list[TrainingCase]:
    """Prepare slices to learn the whole tumour from.

    Other modalities are 0, other regions unknown.

    Parameters, and what is raised, as for :func:`pipeline.training.sources.cubes.cube_cases`.
    """
    refuse_recipe(folder, config)
    entries = []
    for name, patient in t1c_names(folder).items():
        if names is not None and name not in names:
            continue
        image, mask = Path(folder, "img", f"{name}.png"), Path(folder, "labelcol", f"{name}_seg.png")
        made_from = ["t1c-slice", recipe_key(config), file_digest(image), file_digest(mask)]
        make = partial(_on_working_grid, image, mask, config)
        entries.append(Entry(name, "t1c-slice", array_path(cache, name, made_from), make, patient=patient))
    return cached_cases(entries, config, workers)


def _on_working_grid(image: Path, mask: Path, config: RunConfig) -> tuple[torch.Tensor, torch.Tensor]:
    pixels, tumour = read_pair(image, mask, T1C_SIDE)
    shares = np.full((len(config.regions), *tumour.shape), np.nan, np.float32)
    if T1C_REGION in config.regions:
        shares[config.regions.index(T1C_REGION)] = tumour
    return slice_on_grid(as_channels(pixels, config), shares, pixels > 0, T1C_PIXEL_MM, config.preprocess)
