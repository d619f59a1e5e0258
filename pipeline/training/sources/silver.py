"""Patients with the masks of five challenge winners.

They give soft shares, and no expert drew them.

``<patient>/raw_bet/*_{t1,t1c,t2,fla}_bet.nii.gz`` are the images, ``<patient>/segmentation/*.nii.gz`` the masks. Their
labels are 1 (necrotic core), 2 (oedema) and 4 (enhancing), of BraTS 2017 to 2021. ``fusion/`` holds their vote, which
their mean has.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from data.case import Case, ImageSource
from data.errors import InputError, UsageError
from data.io.read import read_label_map
from data.same_patient import known_as
from pipeline.array_cache import array_path, file_digest
from pipeline.config import RunConfig
from pipeline.training.cached import Entry, TrainingCase, cached_cases
from pipeline.training.cases import digests_of, images_on_working_grid, recipe_key, refuse_missing, region_shares
from transforms.preprocess import grid_of

SILVER_IMAGES = {"t1": "t1", "t1c": "t1c", "t2": "t2", "flair": "fla"}
"""How the files name the modalities."""
SILVER_CONVENTION = "brats2017"


def is_silver_folder(folder: Path) -> bool:
    """Tell whether a folder holds such patients, by its files' names."""
    return any(Path(folder).glob("*/raw_bet/*_bet.nii.gz")) and any(Path(folder).glob("*/segmentation/*.nii.gz"))


def silver_names(folder: Path) -> dict[str, str]:
    """Return the patients by the names of their folders.

    Raises
    ------
    data.errors.UsageError
        There is none.
    """
    names = {path.parent.name: known_as(path.parent.name) for path in sorted(Path(folder).glob("*/raw_bet"))}
    if not names:
        raise UsageError(f"{folder}: holds no patient with a folder raw_bet; give the folder of the patients")
    return names


def silver_cases(
    folder: Path, config: RunConfig, cache: Path, *, names: Sequence[str] | None = None, workers: int = 0
) -> list[TrainingCase]:
    """Prepare patients with the mean of the winners' masks as shares.

    Parameters, and what is raised, as for :func:`pipeline.training.cases.patient_cases`.
    """
    entries = []
    for name, patient in silver_names(folder).items():
        if names is not None and name not in names:
            continue
        case, masks = _found(Path(folder, name))
        refuse_missing([case], config)
        made_from = ["silver", recipe_key(config), digests_of(case, config), [file_digest(mask) for mask in masks]]
        make = partial(_on_working_grid, case, masks, config)
        entries.append(Entry(name, "silver", array_path(cache, name, made_from), make, patient=patient))
    return cached_cases(entries, config, workers)


def _found(folder: Path) -> tuple[Case, list[Path]]:
    images = {}
    for modality, token in SILVER_IMAGES.items():
        files = sorted((folder / "raw_bet").glob(f"*_{token}_bet.nii.gz"))
        if len(files) > 1:
            raise InputError(f"{folder}: {files[0].name} and {files[1].name} are both {modality}; keep one")
        if files:
            images[modality] = ImageSource((files[0],))
    masks = sorted((folder / "segmentation").glob("*.nii.gz"))
    if not masks:
        raise InputError(f"{folder}: holds no segmentation/*.nii.gz; leave the patient out")
    case = Case(
        case_id=folder.name,
        folder=folder,
        layout="silver",
        layout_reason="by its folders' names",
        images=images,
        reference=None,
    )
    return case, masks


def _on_working_grid(case: Case, masks: Sequence[Path], config: RunConfig) -> tuple[torch.Tensor, torch.Tensor]:
    image = images_on_working_grid(case, config)
    total = torch.zeros(())
    for mask in masks:
        reference = read_label_map(ImageSource((mask,)))
        total = total + region_shares(
            case.case_id, reference.array, reference.grid, SILVER_CONVENTION, grid_of(image), config
        )
    return image.as_tensor(), total / len(masks)
