"""What is learnt from: patients, phantoms and single slices, preprocessed as the predictor does and kept compact."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from data.case import Case, discover_cases
from data.errors import InputError, UsageError
from data.grid import Grid
from data.io import read_label_map
from data.labels import count_labels, load_convention
from data.phantom import write_phantom
from data.recognise import choose_conventions
from pipeline.config import RunConfig
from transforms.preprocess import grid_of, preprocess_chain, run_chain
from transforms.restore import grid_at_spacing, resample_to

SLICE_CHANNELS = ("flair", "t1", "t1c", "t2")
"""Order of the images in the BraTS 2020 slices (.h5); read off the pictures, for their publisher names another."""


@dataclass(frozen=True)
class TrainingCase:
    """One patient on the working grid, compact in memory.

    image : (modalities, d1, d2, d3) float16, normalised; regions : (regions, d1, d2, d3) uint8, the share of each voxel
    times 255; kind : "patient", "slice" or "phantom".
    """

    name: str
    image: np.ndarray
    regions: np.ndarray
    kind: str


def patient_cases(cases: Sequence[Case], config: RunConfig) -> Iterator[TrainingCase]:
    """Every case that has all modalities of the recipe and a reference; the others are refused.

    Raises
    ------
    data.errors.InputError
        A case has no reference, lacks a modality, or its label convention is undecided.
    """
    choices = choose_conventions(cases, read_labels=lambda source: count_labels(read_label_map(source).array))
    for case in cases:
        if case.problems or case.reference is None:
            raise InputError(
                f"{case.case_id}: {'; '.join(case.problems) or 'no reference mask to learn from'}; leave it out"
            )
        choice = choices[case.case_id]
        if choice.name is None:
            raise InputError(f"{case.case_id}: {choice.error or choice.reason}")
        yield _on_working_grid(case, config, choice.name, "patient")


def phantom_cases(seeds: Sequence[int], config: RunConfig) -> Iterator[TrainingCase]:
    """Phantom patients at 1 mm, written and read as any patient is."""
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            (case,) = discover_cases(write_phantom(Path(folder), seed))
            yield _on_working_grid(case, config, "brats2023", "phantom")


def _on_working_grid(case: Case, config: RunConfig, convention: str, kind: str) -> TrainingCase:
    chain = preprocess_chain(config.modalities, **config.preprocess.model_dump())
    image = run_chain(chain, {m: case.images[m] for m in config.modalities if m in case.images})["image"]
    assert case.reference is not None  # the callers have looked
    reference = read_label_map(case.reference)
    masks = load_convention(convention).region_masks(reference.array, config.regions)
    shares = torch.as_tensor(np.stack([masks[region] for region in config.regions])).float()
    return _compact(case.case_id, image.as_tensor(), resample_to(shares, reference.grid, grid_of(image)), kind)


def _compact(name: str, image: torch.Tensor, shares: torch.Tensor, kind: str) -> TrainingCase:
    regions = (shares.clamp(0, 1) * 255).round().byte().numpy()
    return TrainingCase(name, image.half().numpy(), regions, kind)


def slice_cases(folder: Path, config: RunConfig) -> Iterator[TrainingCase]:
    """Single axial slices of BraTS 2020 (.h5 with image (240, 240, 4) and mask (240, 240, 3) NCR, ED, ET at 1 mm, LPS).

    Raises
    ------
    data.errors.UsageError
        h5py is not installed: it reads nothing else here, so it is no dependency.
    """
    try:
        import h5py
    except ImportError:
        raise UsageError(f"{folder}: reading .h5 slices needs h5py; install it with pip") from None
    for path in sorted(folder.glob("*.h5")):
        with h5py.File(path) as file:
            pixels, tissue = np.array(file["image"], dtype=np.float32), np.array(file["mask"]) > 0
        pixels -= pixels[0, 0]  # z-scored by their publisher: the background is not 0, as it is everywhere else
        brain = (pixels != 0).any(axis=-1)
        channels = np.moveaxis(pixels, -1, 0)[[SLICE_CHANNELS.index(m) for m in config.modalities]]
        core = tissue[..., 0] | tissue[..., 2]
        masks = {"WT": tissue.any(axis=-1), "TC": core, "ET": tissue[..., 2]}
        own = Grid((*brain.shape, 1), np.diag([-1.0, -1.0, 1.0, 1.0]))  # type: ignore[arg-type]
        along = own.reoriented(config.preprocess.orientation)
        rows, columns = np.flatnonzero(brain.any(axis=1)), np.flatnonzero(brain.any(axis=0))
        stack = np.stack([*(channels * brain), *(masks[r].astype(np.float32) for r in config.regions)])
        moved = resample_to(torch.as_tensor(stack[..., None]), own, along)
        box = moved[:, 240 - 1 - rows[-1] : 240 - rows[0], 240 - 1 - columns[-1] : 240 - columns[0]]
        inside = Grid(tuple(box.shape[1:]), along.affine)  # type: ignore[arg-type]
        x, y, _ = config.preprocess.spacing_mm
        working = resample_to(box.contiguous(), inside, grid_at_spacing(inside, (x, y, None)))
        image, shares = working[: len(channels)], working[len(channels) :]
        for channel in image:
            voxels = channel[channel != 0]
            channel[channel != 0] = (voxels - voxels.mean()) / voxels.std(correction=0)
        yield _compact(path.stem, image, shares, "slice")
