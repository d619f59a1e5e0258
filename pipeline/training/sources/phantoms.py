"""Synthetic patients to learn from, with drawn tumours or those of real patients."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

import data.phantom
from data.phantom.patient import Contrast, draw_patient
from pipeline.array_cache import array_path, file_digest
from pipeline.config import RunConfig
from pipeline.training.cached import Entry, TrainingCase, cached_cases
from pipeline.training.cases import recipe_key, region_shares
from pipeline.training.sources.tumour_shapes import cube_shapes, shape_for
from transforms.preprocess import grid_of, preprocess_chain, run_chain

log = logging.getLogger(__name__)

SECONDS_OF_A_PHANTOM = 15
"""To draw and prepare one at 1 mm on one CPU core of 2020 or later, rounded up."""
FIRST_PHANTOM = 1000
"""Seed of the first synthetic patient that is learnt from; those of the demo and the benchmarks lie below."""


def drawn_phantoms(
    config: RunConfig, cubes: Sequence[tuple[Path, Sequence[str]]], cache: Path, *, workers: int = 0
) -> list[TrainingCase]:
    """Prepare the recipe's number of synthetic patients.

    Parameters
    ----------
    cubes : sequence of (Path, names)
        Folders of lesion cubes and the patients that are learnt from, for real shapes; the order matters.
    """
    sampling = config.training.sampling
    count = sampling.phantoms if sampling.phantom_share > 0 else 0
    shape_of = None
    if count and sampling.phantom_shapes == "real":
        shape_of = partial(shape_for, shapes=cube_shapes(cubes))
    if count:
        log.info(
            "%d synthetic patients: where the cache lacks them, about %d s each to make (%d at a time)",
            count, SECONDS_OF_A_PHANTOM, max(workers, 1),
        )  # fmt: skip
    seeds = range(FIRST_PHANTOM, FIRST_PHANTOM + count)
    return phantom_cases(seeds, config, cache, workers=workers, shape_of=shape_of)


class TumourShape(Protocol):
    """Tumour of a real patient for a phantom, as pipeline.training.sources.tumour_shapes reads it."""

    def digest(self) -> str:
        """Return the SHA-256 of everything that decides the shape."""

    def read(self) -> tuple[NDArray[np.uint8], tuple[float, float, float]]:
        """Return the codes of `data.phantom.tumour` and the spacing in mm."""


def phantom_digests() -> list[str]:
    """Return the SHA-256 of every module that decides the look of a phantom.

    `RuntimeError` where none is found.

    An empty list would silently keep phantoms of an older generator in the cache.
    """
    modules = sorted(Path(data.phantom.__file__ or "").parent.glob("*.py"))
    if "patient.py" not in {path.name for path in modules}:
        raise RuntimeError(f"no modules of phantoms beside {data.phantom.__file__}: the package is not installed whole")
    return [file_digest(path) for path in modules]


def phantom_cases(
    seeds: Sequence[int],
    config: RunConfig,
    cache: Path,
    *,
    workers: int = 0,
    shape_of: Callable[[int], TumourShape] | None = None,
) -> list[TrainingCase]:
    """Prepare phantoms at 1 mm, called ``phantom-SEED``, as patients are.

    Parameters and errors are those of `patient_cases`.

    Contrast and lesions are those of ``config.training.sampling``; of "both" contrasts an even seed has the clinical
    one. ``shape_of`` gives the real tumour of a seed; without it tumours are drawn.
    """
    # What a seed gives is decided by these files: they stand for the input.
    generator = phantom_digests() if seeds else []
    sampling, entries = config.training.sampling, []
    for seed in seeds:
        name, contrast = f"phantom-{seed}", sampling.phantom_contrast
        if contrast == "both":
            contrast = "random" if seed % 2 else "mri"
        made_from = ["phantom", recipe_key(config), int(seed), generator, contrast, sampling.phantom_lesions]
        shape = shape_of(int(seed)) if shape_of else None
        if shape:
            made_from.append(shape.digest())
        make = partial(_phantom, int(seed), config, contrast, shape)
        entries.append(Entry(name, "phantom", array_path(cache, name, made_from), make, patient=name))
    return cached_cases(entries, config, workers)


def _phantom(
    seed: int, config: RunConfig, contrast: Contrast, shape: TumourShape | None
) -> tuple[torch.Tensor, torch.Tensor]:
    tumour: dict[str, Any] = (
        dict(zip(("tumour_labels", "tumour_spacing_mm"), shape.read(), strict=True)) if shape else {}
    )
    phantom = draw_patient(seed, 1.0, contrast=contrast, lesions=config.training.sampling.phantom_lesions, **tumour)
    name = f"phantom-{seed}"
    meta = {"header": np.array(phantom.header(Path(name)), dtype=object)}  # as LoadVolumesd passes it on
    affine = torch.as_tensor(phantom.grid.affine.copy())
    images = {
        modality: MetaTensor(torch.as_tensor(phantom.images[modality])[None], affine=affine, meta=dict(meta))
        for modality in config.modalities
        if modality in phantom.images
    }
    chain = preprocess_chain(
        config.modalities, **config.preprocess.model_dump(), zero_missing=config.missing_modalities
    )
    image = run_chain(chain, images)["image"]
    shares = region_shares(name, phantom.label_map, phantom.grid, "brats2023", grid_of(image), config)
    return image.as_tensor(), shares
