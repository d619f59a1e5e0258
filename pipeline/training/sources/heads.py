"""Slices of heads with skull and air, kept as pictures.

The whole tumour is marked; the distance of the slices is unknown.

The set is LGG MRI segmentation (layout ``lgg``): T1, FLAIR and T1c as the three colours of a picture of 256 x 256
pixels, a modality that a patient lacks being a copy of FLAIR, and a mask of the FLAIR abnormality. What is learnt from
looks like a patient of BraTS: brain alone, z-scored over all of it, pixels of a known size. T2 and copies are missing
modalities; TC and ET are not known, WT is, and outside the brain there is none. Slices are no context for each other.

Notes
-----
Rows run to the posterior, columns to the left, slices up (:data:`data.io.slices.SLICE_AFFINE`), as seen beside the
BraTS volumes of the same patients (data/same_patient.yaml): noses, ventricles and tumours lie on the same sides.

The brain is found in 2441 of the 3929 slices, 1242 of the 1373 with tumour among them. Of all tumour pixels of the 110
patients .2 % lie outside the brain in slices that are kept (in TCGA_DU_8163 17 %), and 4.4 % in slices that are left
out.

A pixel is taken for .88 mm, a field of view of 225 mm: no picture says its own. The brains found are, in the median,
147 pixels wide and 190 long in their large slices, those of ten BraTS patients 130 and 162 mm; that is .89 and .86 mm,
and scanners differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

import transforms.brain
from data.case import Case
from data.errors import InputError
from data.find.discover import discover_cases
from data.io.read import read_label_map, read_volumes
from data.labels import load_convention
from data.same_patient import known_as
from pipeline.array_cache import array_path, file_digest
from pipeline.config import RunConfig
from pipeline.training.cached import Entry, TrainingCase, cached_cases
from pipeline.training.cases import digests_of, recipe_key
from pipeline.training.sources.pictures import refuse_recipe
from pipeline.training.sources.slice_files import slice_on_grid
from transforms.brain import brain_mask

HEAD_MODALITIES = ("flair", "t1", "t1c")
"""FLAIR first: the others may be copies of it."""
HEAD_CONVENTION = "lgg"
HEAD_PIXEL_MM = 0.88


def head_cases(
    folder: Path, config: RunConfig, cache: Path, *, names: Sequence[str] | None = None, workers: int = 0
) -> list[TrainingCase]:
    """Prepare head patients, to learn the whole tumour from.

    Only their slices in which the brain was found are taken.

    Parameters, and what is raised, as for :func:`pipeline.training.sources.cubes.cube_cases`; a patient whose images
    tell the size of a pixel is refused as well, and one in whom no brain is found.
    """
    found = [case for case in discover_cases(folder) if names is None or case.case_id in names]
    refuse_recipe(folder, config, HEAD_MODALITIES)
    method = file_digest(Path(transforms.brain.__file__))  # what is brain is decided there
    entries = []
    for case in found:
        if case.problems or case.reference is None:
            raise InputError(f"{case.case_id}: {'; '.join(case.problems) or 'no mask to learn from'}; leave it out")
        path = array_path(cache, case.case_id, ["head", recipe_key(config), digests_of(case, config), method])
        make = partial(_on_working_grid, case, config)
        entries.append(Entry(case.case_id, "head", path, make, patient=known_as(case.case_id), apart=True))
    return cached_cases(entries, config, workers)


def _on_working_grid(case: Case, config: RunConfig) -> tuple[torch.Tensor, torch.Tensor]:
    images, tumour = _read(case, config)
    brain = brain_mask(np.stack(list(images.values())))
    kept = brain.any(axis=(0, 1))
    if not kept.any():
        raise InputError(f"{case.folder}: no slice shows a brain that can be told from the head; leave the patient out")
    channels = np.zeros((len(config.modalities), *brain.shape), np.float32)
    for modality in set(images) & set(config.modalities):
        channels[config.modalities.index(modality)] = images[modality] * brain
    shares = np.full((len(config.regions), *brain.shape), np.nan, np.float32)
    for region, mask in tumour.items():
        shares[config.regions.index(region)] = mask & brain
    # Rows and columns trade places: there rows run to the left.
    channels, shares = (array[..., kept].swapaxes(2, 1) for array in (channels, shares))
    brain = brain[..., kept].swapaxes(1, 0)
    return slice_on_grid(channels, shares, brain, HEAD_PIXEL_MM, config.preprocess)


def _read(case: Case, config: RunConfig) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Read images by modality and masks by region, (rows, columns, slices) each.

    The images are not copied.
    """
    volumes = read_volumes({m: case.images[m] for m in HEAD_MODALITIES if m in case.images})
    assert case.reference is not None  # head_cases has looked
    reference = read_label_map(case.reference)
    images: dict[str, np.ndarray] = {}
    for modality, volume in volumes.items():
        if volume.grid.spacing_known:
            raise InputError(f"{case.folder}: its pixels have a size; take out the skull and give it as a patient")
        if volume.grid.shape != reference.grid.shape:
            raise InputError(f"{case.folder}: {modality} and the mask differ in shape; correct them, or leave it out")
        if not any(np.array_equal(volume.array, image) for image in images.values()):
            images[modality] = np.asarray(volume.array, np.float32)
    if not images:
        raise InputError(f"{case.folder}: has none of {', '.join(HEAD_MODALITIES)}; leave the patient out")
    convention = load_convention(HEAD_CONVENTION)
    told = [region for region in config.regions if region in convention.regions]
    return images, dict(convention.region_masks(reference.array, told))


__all__ = ["HEAD_PIXEL_MM", "head_cases"]
