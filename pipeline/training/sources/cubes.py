"""Lesions of BraTS 2020 cut out as cubes (.npz).

They have four modalities and expert labels; nothing is known around them.

A file is one patient and holds ``images`` (n, 4, 32, 32, 32) float16 (T1, T1c, T2, FLAIR; z-scored over the whole
brain, background 0), ``labels`` (n, 32, 32, 32) uint8 (1 NCR, 2 ED, 4 ET), ``starts`` (n, 3) int16 and
``volume_labels`` (128, 128, 128). Cubes and labels lie on a grid of 128^3 voxels that stretches over the 240 x 240 x
155 mm of a BraTS volume, LPS.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from data.errors import InputError, UsageError, few
from data.grid import Grid
from data.labels import load_convention
from pipeline.array_cache import array_path, file_digest, read_npz
from pipeline.config import RunConfig
from pipeline.training.cached import Entry, TrainingCase, cached_cases
from pipeline.training.cases import recipe_key
from transforms.restore import grid_at_spacing, resample_to

log = logging.getLogger(__name__)

CUBE_CHANNELS = ("t1", "t1c", "t2", "flair")
"""Order of the images."""
GRID_SIDE = 128
"""Voxels of the grid along each axis."""
CUBE_SPACING_MM = (239 / 127, 239 / 127, 154 / 127)
"""Voxel i of the 128^3 grid is voxel i times this of the 1 mm volume."""
CUBE_CONVENTION = "brats2017"
BRAIN_BOX_LPS = ((50.0, 44.0, 2.0), (187.0, 213.0, 139.0))
"""First and last voxel of the brain in the 240x240x155 volume of the BraTS atlas: the mean of the twelve patients of
BraTS 2021 and 2023 at hand, whose standard deviation is 2 to 5 voxels."""


@dataclass(frozen=True, eq=False)
class LesionCube:
    """Single lesion with its surroundings.

    Parameters
    ----------
    name : str
        The patient's id, for a patient's further lesions followed by ``#2``, ``#3``...
    images : (4, 32, 32, 32) float32
        In the order of `CUBE_CHANNELS`, z-scored over the whole brain, background 0.
    labels : (32, 32, 32) uint8
        In `CUBE_CONVENTION`.
    inside : (32, 32, 32) bool
        Where the cube holds the patient; elsewhere it was padded, and nothing is known.
    grid : Grid
        Of the cube, in the millimetres of the BraTS atlas.
    """

    name: str
    images: NDArray[np.float32]
    labels: NDArray[np.uint8]
    inside: NDArray[np.bool_]
    grid: Grid


def is_cube_folder(folder: Path) -> bool:
    """Tell whether a folder holds lesion cubes, by its files' names."""
    return any(Path(folder).glob("*.npz"))


def cube_files(folder: Path) -> list[Path]:
    """Return the cubes of a folder, one file a patient, by name.

    Raises
    ------
    data.errors.UsageError
        There is none.
    """
    files = sorted(Path(folder).glob("*.npz"))
    if not files:
        raise UsageError(f"{folder}: holds no .npz of lesion cubes; give the folder of the cubes")
    return files


def read_cubes(path: Path) -> list[LesionCube]:
    """Read the lesions of one patient.

    Raises
    ------
    data.errors.InputError
        The file is no such patient.
    """
    images, labels, starts = read_npz(path, ("images", "labels", "starts"), "lesion cubes")
    if not images.ndim:
        raise InputError(f"{path}: its images have no axes; leave it out")
    n, side = len(images), images.shape[-1] if images.ndim == 5 else 0
    if images.shape != (n, 4, *(side,) * 3) or labels.shape != (n, *(side,) * 3) or starts.shape != (n, 3):
        raise InputError(
            f"{path}: images {images.shape}, labels {labels.shape} and starts {starts.shape} do not fit each other; "
            "leave it out"
        )
    if n == 0:
        raise InputError(f"{path}: holds no lesion; leave it out")
    unknown = sorted({*np.unique(labels).tolist()} - {0, *load_convention(CUBE_CONVENTION).labels})
    if unknown:
        shown = few(f"{value:g}" for value in unknown)
        raise InputError(f"{path}: holds labels that {CUBE_CONVENTION} does not know: {shown}; leave it out")
    if not np.isfinite(images).all():
        raise InputError(f"{path}: holds a value that is not finite; leave it out")
    cubes = []
    for index in range(n):
        shown = (images[index] != 0).any(axis=0)
        if not shown.any():
            raise InputError(f"{path}: lesion {index + 1} shows no brain; leave it out")
        inside = np.zeros(shown.shape, bool)
        box = _box(shown)
        inside[box] = True
        # What is padded may lie beyond the grid; the patient does not. A start that is no number fails as well.
        places = zip(box, starts[index].astype(float), strict=True)  # int16 would overflow
        if not all(side.start + at >= 0 and side.stop + at <= GRID_SIDE for side, at in places):
            raise InputError(
                f"{path}: lesion {index + 1} starts at {starts[index].tolist()}, so that it shows brain beyond the "
                "grid "
                f"of {GRID_SIDE} voxels; correct starts, or leave it out"
            )
        affine = np.diag([-CUBE_SPACING_MM[0], -CUBE_SPACING_MM[1], CUBE_SPACING_MM[2], 1.0])
        affine[:3, 3] = affine[:3, :3] @ starts[index] + (0.0, 239.0, 0.0)
        grid = Grid((side, side, side), affine)
        name = path.stem if index == 0 else f"{path.stem}#{index + 1}"
        cubes.append(LesionCube(name, images[index].astype(np.float32), labels[index], inside, grid))
    return cubes


def cube_cases(
    folder: Path, config: RunConfig, cache: Path, *, names: Sequence[str] | None = None, workers: int = 0
) -> list[TrainingCase]:
    """Prepare lesion cubes to learn from, one case a lesion.

    Nothing is known beyond their faces.

    Parameters
    ----------
    folder : Path
        Of ``.npz`` files, one a patient.
    names : sequence of str, optional
        Only these patients.
    config, cache, workers
        As for :func:`pipeline.training.cases.patient_cases`.

    Raises
    ------
    data.errors.UsageError
        The folder holds no cube, or the recipe wants another modality or normalisation.
    data.errors.InputError
        A file is no such patient.
    """
    if missing := set(config.modalities) - set(CUBE_CHANNELS):
        raise UsageError(f"{folder}: the cubes have no {', '.join(sorted(missing))}; train without them")
    if config.preprocess.normalise != "nonzero":
        raise UsageError(
            f"{folder}: the cubes are z-scored over the brain, and the recipe says normalise: "
            f"{config.preprocess.normalise}; set it to nonzero, or train without them"
        )
    entries, empty = [], []
    for path in cube_files(folder):
        if names is not None and path.stem not in names:
            continue
        digest = file_digest(path)
        for index, cube in enumerate(read_cubes(path)):
            made_from = ["cube", recipe_key(config), digest, index]
            if not cube.labels.any():
                empty.append(cube.name)
            entries.append(
                Entry(
                    cube.name,
                    "cube",
                    array_path(cache, cube.name, made_from),
                    partial(_on_working_grid, path, index, config),
                    patient=path.stem,
                    beyond_known=False,
                    place=place_in_brain(cube.grid, config.preprocess.orientation),
                )
            )
    if empty:
        log.warning(
            "%s: no voxel of a lesion in %d of %d cubes (%s): learnt from as brain without a lesion; --leave-out NAME "
            "leaves a patient's out",
            folder,
            len(empty),
            len(entries),
            few(empty),
        )
    return cached_cases(entries, config, workers)


def place_in_brain(grid: Grid, orientation: str) -> tuple[float, float, float]:
    """Return the place of an atlas grid's middle in the brain's box.

    It goes from 0 to 1 along each working axis of the BraTS atlas.
    """
    middle = grid.affine[:3, :3] @ ((np.array(grid.shape) - 1) / 2) + grid.affine[:3, 3]
    first, last = np.array(BRAIN_BOX_LPS)
    lps = (middle - (0.0, 239.0, 0.0)) * (-1.0, -1.0, 1.0)
    share = dict(zip("LPS", (lps - first) / (last - first), strict=True))
    opposite = {"R": "L", "A": "P", "I": "S"}
    x, y, z = (share[axis] if axis in share else 1 - share[opposite[axis]] for axis in orientation)
    return (float(x), float(y), float(z))


def cube_on_grid(
    cube: LesionCube,
    modalities: Sequence[str],
    regions: Sequence[str],
    orientation: str,
    spacing_mm: Sequence[float | None],
) -> tuple[torch.Tensor, torch.Tensor, Grid]:
    """Return images and region shares of a cube on a working grid over it.

    Returns
    -------
    images : (modalities, d1, d2, d3) float32
        Zero where less than half of a voxel is brain, and where nothing is known.
    shares : (regions, d1, d2, d3) float32 in [0, 1]
        NaN where nothing is known, as in a region that the labels do not tell.
    grid : Grid
    """
    convention = load_convention(CUBE_CONVENTION)
    told = [region for region in regions if region in convention.regions]
    masks = convention.region_masks(cube.labels, told)
    channels = cube.images[[CUBE_CHANNELS.index(m) for m in modalities]]
    brain = (cube.images != 0).any(axis=0)
    stack = np.stack([*channels, brain, cube.inside, *(masks[region] for region in told)]).astype(np.float32)
    along = cube.grid.reoriented(orientation)
    grid = grid_at_spacing(along, tuple(spacing_mm))
    moved = resample_to(torch.as_tensor(stack), cube.grid, grid)
    n = len(channels)
    covered, known = moved[n], moved[n + 1] > 1 - 1e-3
    shown = (covered > 0.5) & known
    images = torch.where(shown, moved[:n] / covered.clamp(min=0.5), torch.zeros(()))
    shares = torch.full((len(regions), *grid.shape), torch.nan)
    for region, share in zip(told, moved[n + 2 :], strict=True):
        shares[list(regions).index(region)] = torch.where(known, share.clamp(0, 1), torch.nan)
    return images, shares, grid


def _on_working_grid(path: Path, index: int, config: RunConfig) -> tuple[torch.Tensor, torch.Tensor]:
    cube, preprocess = read_cubes(path)[index], config.preprocess
    images, shares, _ = cube_on_grid(
        cube, config.modalities, config.regions, preprocess.orientation, preprocess.spacing_mm
    )
    return images, shares


def _box(shown: NDArray[np.bool_]) -> tuple[slice, ...]:
    ends = [np.flatnonzero(shown.any(axis=tuple({0, 1, 2} - {axis})))[[0, -1]] for axis in range(3)]
    return tuple(slice(int(first), int(last) + 1) for first, last in ends)
