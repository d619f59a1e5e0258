"""Single T1c slices of patients with metastases, each with one of the lesions marked.

``img/<patient>-<visit>_mask_<name>_img.png`` is one slice of 512 x 512 pixels, ``labelcol/...._mask.png`` the mask of
what the name says (0 and 255), in the folder itself or in folders of it (``Train_Folder``...).

Notes
-----
Rows run to the left and columns to the posterior: of the masks whose names begin with a side, all but two of 126 lie on
it then. The brains of 66 patients are, in the ninth decile, 332 pixels long and 264 wide, those of BraTS 170 and 138
mm: a pixel is .5 mm. The pictures are stretched hard (a median of 6 % of the brain is white), and the brain is cut out,
its background 0.

The masks were drawn for irradiation, and not all show what a network could see. Left out are organs at risk, targets of
a plan (circles about a lesion), margins and cavities after surgery, told by their names; and what does not stand out
from its surroundings or lies outside the brain, told by the pixels: lesions that an earlier irradiation made vanish. Of
200 masks 96 are left, and of these each marks a lesion that is white or has a white rim.

What a mask tells: its lesion is core and whole tumour. Just around it there is no core and nothing enhances, but
unmarked oedema may be there. Farther off there may be other lesions, which would be as bright as the marked ones are:
there, core and enhancement are unknown in what is bright and what that surrounds, and absent elsewhere. (A network that
was told nothing of the rest of the brain took white matter for core: ten false components a slice.) How much of the
lesion enhances is not known, for its middle may be dead.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import scipy.ndimage as ndi
import torch
from numpy.typing import NDArray

from data.errors import UsageError
from pipeline.array_cache import array_path, file_digest
from pipeline.config import RunConfig
from pipeline.training.cached import Entry, TrainingCase, cached_cases
from pipeline.training.cases import recipe_key
from pipeline.training.sources.pictures import as_channels, read_pair, refuse_recipe
from pipeline.training.sources.slice_files import slice_on_grid

LESION_SIDE = 512
LESION_PIXEL_MM = 0.5
MARGIN_MM = 5.0
"""Around the mask, so far, nothing but the lesion is core or enhances."""
LEAST_CONTRAST = 0.75
"""By so many standard deviations of the brain the brighter quarter of a lesion is above its surroundings."""
BLUR_MM = 1.0
BRIGHTEST = 0.05
"""Share of a brain's pixels that may be a lesion beyond the margin."""
BORDER_PIXELS = 2
"""As far as the blur takes the edge of what is bright."""
MOST_OUTSIDE = 0.2
"""Largest share of a mask that may lie outside the brain."""
_NAME = re.compile(r"(?P<patient>.+)-[0-9]+_mask_(?P<lesion>.+)_img")
_NO_LESION = re.compile(r"lens|chiasm|opt-n|^brain_stem|cavity|marg|tgt", re.IGNORECASE)


def is_lesion_folder(folder: Path) -> bool:
    """Tell whether a folder holds such slices, by its files' names."""
    return any(any(Path(folder).glob(pattern)) for pattern in ("labelcol/*_mask.png", "*/labelcol/*_mask.png"))


def lesion_names(folder: Path) -> dict[str, str]:
    """Return the patient of each slice to learn from, by slice name.

    Raises
    ------
    data.errors.UsageError
        There is no slice whose mask is a lesion.
    data.errors.InputError
        A picture is damaged, or has no mask.
    """
    return {name: patient for name, (patient, _, _) in lesion_pairs(folder).items()}


def lesion_cases(
    folder: Path, config: RunConfig, cache: Path, *, names: Sequence[str] | None = None, workers: int = 0
) -> list[TrainingCase]:
    """Prepare slices to learn lesions from.

    Other modalities are 0, and everything that no mask tells is unknown.

    Parameters, and what is raised, as for :func:`pipeline.training.sources.cubes.cube_cases`.
    """
    refuse_recipe(folder, config)
    entries = []
    for name, (patient, image, mask) in lesion_pairs(folder).items():
        if names is not None and name not in names:
            continue
        made_from = ["lesion-slice, rest of the brain", recipe_key(config), file_digest(image), file_digest(mask)]
        make = partial(_on_working_grid, image, mask, config)
        path = array_path(cache, name, made_from)
        entries.append(Entry(name, "lesion-slice", path, make, patient=patient, beyond_known=False))
    return cached_cases(entries, config, workers)


def stands_out(pixels: NDArray[np.float32], lesion: NDArray[np.bool_]) -> bool:
    """Tell whether a mask marks something bright within the brain.

    See `LEAST_CONTRAST` and `MOST_OUTSIDE`.
    """
    brain = pixels > 0
    if (lesion & ~brain).sum() > MOST_OUTSIDE * lesion.sum():
        return False
    distance = _distance_mm(lesion)
    around = brain & (distance > 1) & (distance <= MARGIN_MM)
    if not around.any():
        return False
    contrast = np.percentile(pixels[lesion & brain], 75) - pixels[around].mean()
    return bool(contrast > LEAST_CONTRAST * pixels[brain].std())


def could_be_lesion(pixels: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return the pixels that are bright enough for a lesion, filled, with their border.

    Parameters
    ----------
    pixels : (rows, columns) float32
        0 outside the brain. A slice without brain gives no pixel.

    Returns
    -------
    (rows, columns) bool
        Bright is the share `BRIGHTEST` of the brain, after a blur that takes the noise out. Vessels and the falx are
        bright as well. Of half the marked lesions 86 % or more would be taken for bright, of a tenth nothing.
    """
    brain = pixels > 0
    if not brain.any():
        return brain
    smooth = ndi.gaussian_filter(pixels, BLUR_MM / LESION_PIXEL_MM)
    bright = smooth > np.quantile(smooth[brain], 1 - BRIGHTEST)
    return ndi.binary_dilation(ndi.binary_fill_holes(bright), iterations=BORDER_PIXELS)


def lesion_shares(
    pixels: NDArray[np.float32], lesion: NDArray[np.bool_], regions: Sequence[str]
) -> NDArray[np.float32]:
    """Return the region shares that a mask tells, NaN elsewhere.

    Shape (regions, rows, columns).
    """
    known = (_distance_mm(lesion) <= MARGIN_MM) | ~could_be_lesion(pixels)
    unknown = np.float32(np.nan)
    told = {
        "WT": np.where(lesion, np.float32(1), unknown),
        "TC": np.where(known, lesion.astype(np.float32), unknown),
        "ET": np.where(known & ~lesion, np.float32(0), unknown),
    }
    nothing = np.full(lesion.shape, unknown)
    return np.stack([told.get(region, nothing) for region in regions])


def _distance_mm(lesion: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the distance from the lesion in mm.

    It is right up to `MARGIN_MM`, and more than that beyond.
    """
    reach = int(np.ceil(MARGIN_MM / LESION_PIXEL_MM)) + 1
    places = np.argwhere(lesion)
    first, last = (places.min(axis=0) - reach).clip(0), places.max(axis=0) + reach + 1
    box = (slice(first[0], last[0]), slice(first[1], last[1]))  # the whole slice would take ten times as long
    distance = np.full(lesion.shape, np.inf)
    distance[box] = ndi.distance_transform_edt(~lesion[box]) * LESION_PIXEL_MM
    return distance


def lesion_pairs(folder: Path) -> dict[str, tuple[str, Path, Path]]:
    """Return patient, picture and mask of the slices with a visible lesion.

    Raises
    ------
    data.errors.UsageError, data.errors.InputError
        As `lesion_names`.
    """
    slices = {}
    for image in sorted((*Path(folder).glob("img/*_img.png"), *Path(folder).glob("*/img/*_img.png"))):
        found = _NAME.fullmatch(image.stem)
        if found is None or _NO_LESION.search(found["lesion"]):
            continue
        name = image.stem.removesuffix("_img")
        mask = image.parent.parent / "labelcol" / f"{name}_mask.png"
        if stands_out(*read_pair(image, mask, LESION_SIDE)):
            slices[name] = (found["patient"], image, mask)
    if not slices:
        raise UsageError(f"{folder}: holds no img/*_img.png of a lesion; give the folder of the slices")
    return slices


def _on_working_grid(image: Path, mask: Path, config: RunConfig) -> tuple[torch.Tensor, torch.Tensor]:
    pixels, lesion = read_pair(image, mask, LESION_SIDE)
    brain = pixels > 0
    shares = lesion_shares(pixels, lesion & brain, config.regions)
    return slice_on_grid(as_channels(pixels, config), shares, brain, LESION_PIXEL_MM, config.preprocess)
