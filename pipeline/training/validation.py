"""Scores of a model on patients that it does not learn from.

They go through the same Predictor as the user's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import default_collate

from data.case import Case
from data.errors import InputError
from data.find.recognise import ConventionChoice, choose_conventions
from data.labels import load_convention
from data.references import read_reference
from networks.losses import build_loss, supervised_loss
from pipeline.checkpoint import open_checkpoint
from pipeline.config import AugmentConfig, RunConfig
from pipeline.predict.predictor import Predictor
from pipeline.score.metrics import hd95_mm, overlap_scores
from pipeline.training.cached import gather
from pipeline.training.distributed import Process
from pipeline.training.sampling import PatchDataset

LOSS_BATCHES = 8
"""Batches of the recipe's size over which the validation loss is a mean; always the same ones."""
NO_AUGMENTATION = AugmentConfig(
    rotate_degrees=0, scale=0, elastic=0, flip_axes=(), contrast=0, brightness=0, gamma=0, bias_field=0, noise=0,
    blur=0, low_resolution=0,
)  # fmt: skip


@dataclass(frozen=True)
class Reference:
    """Patient to validate on, and the label convention of its reference."""

    case: Case
    convention: str


def references(cases: Sequence[Case], config: RunConfig, convention: str | None = None) -> list[Reference]:
    """Settle the label convention of every case, before hours are spent on learning.

    ``convention`` is that of every reference, whatever the evidence says; without it each one's own is told.

    Raises
    ------
    data.errors.InputError
        A case has no reference, none that tells a region of the recipe, or lacks a modality; names it.
    data.errors.ConventionError
        There is no such convention.
    """
    choices = choose_conventions(cases, override=convention)
    return gather(partial(_settled, case, choices[case.case_id], config) for case in cases)


def _settled(case: Case, choice: ConventionChoice, config: RunConfig) -> Reference:
    if reason := _obstacle(case, choice, config):
        raise InputError(f"{case.case_id}: {reason}")
    assert choice.name is not None  # or it would be the obstacle
    return Reference(case, choice.name)


def _obstacle(case: Case, choice: ConventionChoice, config: RunConfig) -> str:
    """Return the reason against validating on a case, with the way out.

    It is empty where nothing is against it.
    """
    if case.problems or case.reference is None:
        return ("; ".join(case.problems) or "no reference mask to score against") + "; leave it out"
    if choice.name is None:
        return choice.error or choice.reason
    missing = [modality for modality in config.modalities if modality not in case.images]
    if missing and (len(missing) == len(config.modalities) or not config.missing_modalities):
        return f"no {', '.join(missing)} image to validate with; leave it out"
    if not set(config.regions) & set(load_convention(choice.name).regions):
        return (
            f"its labels ({choice.name}) tell none of the recipe's regions ({', '.join(config.regions)}); leave it out"
        )
    return ""


def validate(model: Path, patients: Sequence[Reference], process: Process) -> list[dict[str, float | str]]:
    """Return one row for each patient.

    ``case`` and, per region that its reference tells, dice, tversky and accuracy.

    A patient's columns are those of :func:`pipeline.score.metrics.overlap_scores` with the region behind, ``dice_WT``,
    and ``hd95_mm_WT`` (NaN where the spacing is unknown).
    The processes of a distributed run share the patients; each gets all rows.

    Raises
    ------
    data.errors.InputError
        A file cannot be used, or a reference does not lie on its images' grid.
    """
    checkpoint = open_checkpoint(model)
    predictor = Predictor(checkpoint, str(process.device), zero_missing=checkpoint.config.missing_modalities)
    return process.gathered([_scores(predictor, patient) for patient in process.share(list(patients))])


@torch.no_grad()
def validation_loss(network: nn.Module, samples: PatchDataset, config: RunConfig, device: torch.device) -> float:
    """Return the mean loss over samples that never change.

    The loss is the recipe's, the network in ``eval`` mode.
    """
    loss = build_loss(config.training.loss.name, config.training.loss.parameters)
    losses = []
    for first in range(0, LOSS_BATCHES * samples.batch, samples.batch):
        batch = default_collate([samples[index] for index in range(first, first + samples.batch)])
        image, target = (batch[key].to(device) for key in ("image", "regions"))
        known = ~target.isnan()
        losses.append(supervised_loss(network(image), target, loss, known).item())
    return float(np.mean(losses))


def _scores(predictor: Predictor, patient: Reference) -> dict[str, float | str]:
    segmentation = predictor(patient.case)
    assert patient.case.reference is not None  # references() has looked
    convention = load_convention(patient.convention)
    told = [region for region in predictor.regions if region in convention.regions]
    reference = read_reference(patient.case.reference, segmentation.native.grid, convention, told)
    if reference.doubt:
        raise InputError(f"{patient.case.case_id}: {reference.doubt}, or leave the case out")
    masks, grid = reference.masks, segmentation.native.grid
    spacing = grid.spacing_mm if grid.spacing_known else None
    row: dict[str, float | str] = {"case": patient.case.case_id}
    for region in told:
        for name, score in overlap_scores(segmentation.masks[region], masks[region]).items():
            row[f"{name}_{region}"] = score
        row[f"hd95_mm_{region}"] = hd95_mm(segmentation.masks[region], masks[region], spacing)
    return row


def mean_scores(rows: Sequence[dict[str, float | str]], name: str, regions: Sequence[str]) -> dict[str, float]:
    """Return the mean of one score over the patients, by region.

    Regions that no reference tells are absent.
    """
    columns = {
        region: [float(row[f"{name}_{region}"]) for row in rows if f"{name}_{region}" in row] for region in regions
    }
    return {region: float(np.mean(values)) for region, values in columns.items() if values}
