"""Single axial slices of BraTS 2020 (.h5).

Each holds the pictures and the tissue of one slice, at 1 mm, rows and columns LPS.

A file holds ``image`` (240, 240, 4), z-scored by its publisher, and ``mask`` (240, 240, 3) NCR, ED, ET.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from data.errors import InputError, UsageError
from data.grid import Grid
from data.same_patient import known_as
from pipeline.array_cache import array_path, file_digest
from pipeline.config import PreprocessConfig, RunConfig
from pipeline.training.cached import Entry, TrainingCase, cached_cases
from pipeline.training.cases import recipe_key
from transforms.restore import grid_at_spacing, resample_to

SLICE_CHANNELS = ("flair", "t1", "t1c", "t2")
"""Order of the images; read off the pictures, for their publisher names another."""
SLICE_REGIONS = ("WT", "TC", "ET")
_SIZE = 240


def is_slice_folder(folder: Path) -> bool:
    """Tell whether a folder holds slices, by its files' names."""
    return any(Path(folder).glob("*.h5"))


def slice_files(folder: Path, modalities: Sequence[str]) -> list[Path]:
    """Return the slices of a folder by name.

    Raises
    ------
    data.errors.UsageError
        There is none, or they lack one of the modalities.
    """
    files = sorted(Path(folder).glob("*.h5"))
    if not files:
        raise UsageError(f"{folder}: holds no .h5 slice; give the folder of the slices")
    if missing := set(modalities) - set(SLICE_CHANNELS):
        raise UsageError(f"{folder}: the slices have no {', '.join(sorted(missing))}; train without them")
    return files


def read_slice_file(
    path: Path, modalities: Sequence[str], regions: Sequence[str], preprocess: PreprocessConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Read a slice's images and region shares, on the working grid.

    They are cropped to the brain.

    Parameters
    ----------
    path : Path
    modalities, regions : sequence of str
        Channels in order.
    preprocess : PreprocessConfig
        Its orientation and the first two of its spacings; the slice has no third.

    Returns
    -------
    images : (modalities, d1, d2, 1) float32
        z-scored over the non-zero pixels of each, background 0.
    shares : (regions, d1, d2, 1) float32 in [0, 1]
        NaN in a region that is not in `SLICE_REGIONS`.

    Raises
    ------
    data.errors.UsageError
        h5py is not installed: it reads nothing else here, so it is no dependency.
    data.errors.InputError
        The file is no such slice, or it shows no brain.
    """
    pixels, tissue = _read(path)
    pixels -= pixels[0, 0]  # z-scored with its background by the publisher: that is not 0, as it is everywhere else
    brain = (pixels != 0).any(axis=-1)
    if not brain.any():
        raise InputError(f"{path}: shows no brain; leave it out")
    channels = np.moveaxis(pixels, -1, 0)[[SLICE_CHANNELS.index(m) for m in modalities]] * brain
    whole, core, enhancing = tissue.any(axis=-1), tissue[..., 0] | tissue[..., 2], tissue[..., 2]
    masks = dict(zip(SLICE_REGIONS, (whole, core, enhancing), strict=True))
    untold = np.full(brain.shape, np.nan)
    shares = np.stack([masks.get(region, untold) for region in regions]).astype(np.float32)
    return slice_on_grid(np.stack([*channels]), shares, brain, 1.0, preprocess)


def slice_on_grid(
    images: NDArray[np.floating],
    shares: NDArray[np.floating],
    brain: NDArray[np.bool_],
    pixel_mm: float,
    preprocess: PreprocessConfig,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Bring axial slices of one patient onto the working grid.

    They are cropped to the brain.

    Parameters
    ----------
    images : (modalities, rows, columns) or (modalities, rows, columns, slices)
        Rows run to the left, columns to the posterior, slices up; 0 outside the brain, and all 0 where a modality is
        missing.
    shares : (regions, rows, columns) or (regions, rows, columns, slices) in [0, 1]
        NaN where a share is not known.
    brain : (rows, columns) or (rows, columns, slices) bool
        Not empty.
    pixel_mm : float
        Distance of the pixels' centres.
    preprocess : PreprocessConfig
        Its orientation and the first two of its spacings; slices have no third.

    Returns
    -------
    images : (modalities, d1, d2, slices) float32
        z-scored over the non-zero pixels of each modality in all slices, background 0.
    shares : (regions, d1, d2, slices) float32 in [0, 1]
        NaN where any pixel that takes part is not known.
    """
    stack = np.concatenate((images, np.nan_to_num(shares), ~np.isnan(shares))).astype(np.float32)
    brain = brain.reshape(*brain.shape[:2], -1)
    rows, columns = (np.flatnonzero(brain.any(axis=axes)) for axes in ((1, 2), (0, 2)))
    # Resampling starts from the brain's own box, as the chain of a patient does.
    box = stack.reshape(len(stack), *brain.shape)[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    own = Grid(box.shape[1:], np.diag([-pixel_mm, -pixel_mm, 1.0, 1.0]))
    along = own.reoriented(preprocess.orientation)
    x, y, _ = preprocess.spacing_mm
    moved = resample_to(torch.as_tensor(np.ascontiguousarray(box)), own, along)
    working = resample_to(moved.contiguous(), along, grid_at_spacing(along, (x, y, None)))
    pictures, told, known = working.split((len(images), len(shares), len(shares)))
    everywhere = torch.as_tensor(~np.isnan(shares.reshape(len(shares), -1)).any(axis=1))[:, None, None, None]
    told = torch.where((known > 1 - 1e-3) | everywhere, told.clamp(0, 1), torch.nan)
    for image in pictures:
        inside = image != 0
        if inside.any():
            deviation = image[inside].std(correction=0)
            image[inside] = (image[inside] - image[inside].mean()) / (deviation if deviation > 0 else 1.0)
    return pictures, told


def _read(path: Path) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    try:
        import h5py
    except ImportError:
        raise UsageError(f"{path}: reading .h5 slices needs h5py; install it with pip") from None
    try:
        with h5py.File(path) as file:
            image, mask = file["image"], file["mask"]
            # Of these shapes before they are read: a file of 2 kB may declare terabytes.
            if image.shape != (_SIZE, _SIZE, 4) or mask.shape != (_SIZE, _SIZE, 3):
                raise InputError(
                    f"{path}: its image is {image.shape} and its mask {mask.shape}, not (240, 240, 4) and "
                    "(240, 240, 3); leave it out"
                )
            pixels, tissue = np.array(image, dtype=np.float32), np.array(mask) > 0
    except InputError:
        raise
    except Exception as error:  # h5py lets through whatever it comes upon
        raise InputError(f"{path}: is no slice with image and mask ({str(error)[:200]}); copy it again") from None
    if not np.isfinite(pixels).all():
        raise InputError(f"{path}: holds a value that is not finite; leave it out")
    return pixels, tissue


def slice_cases(
    folder: Path, config: RunConfig, cache: Path, *, names: Sequence[str] | None = None, workers: int = 0
) -> list[TrainingCase]:
    """Prepare single axial slices of BraTS 2020, or only those called ``names``.

    The third axis has one voxel; see `pipeline.training.sources.slice_files`. Else as `patient_cases`.

    Raises
    ------
    data.errors.UsageError
        The folder holds no slice, the recipe wants another modality, or h5py is not installed.
    data.errors.InputError
        A file is no such slice.
    """
    entries = []
    for file in slice_files(folder, config.modalities):
        if names is not None and file.stem not in names:
            continue
        path = array_path(cache, file.stem, ["slice", recipe_key(config), file_digest(file)])
        make = partial(read_slice_file, file, config.modalities, config.regions, config.preprocess)
        entries.append(Entry(file.stem, "slice", path, make, patient=known_as(file.stem)))
    return cached_cases(entries, config, workers)
