"""Patients without a tumour, in any layout: every region is known, and empty.

That there is none is the user's word, and no folder is taken for one without it. A reference, such as the mask of
other lesions, is not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from data.case import Case
from data.find.discover import discover_cases
from data.same_patient import known_as
from pipeline.array_cache import array_path
from pipeline.config import RunConfig
from pipeline.training.cached import Entry, TrainingCase, cached_cases
from pipeline.training.cases import digests_of, images_on_working_grid, recipe_key, refuse_missing


def tumour_free_cases(
    folder: Path, config: RunConfig, cache: Path, *, names: Sequence[str] | None = None, workers: int = 0
) -> list[TrainingCase]:
    """Prepare patients without a tumour to learn from.

    Parameters, and what is raised, as for :func:`pipeline.training.cases.patient_cases`.
    """
    found = [case for case in discover_cases(folder) if names is None or case.case_id in names]
    refuse_missing(found, config)
    entries = []
    for case in (replace(case, reference=None) for case in found):
        path = array_path(cache, case.case_id, ["tumour-free", recipe_key(config), digests_of(case, config)])
        make = partial(_on_working_grid, case, config)
        entries.append(Entry(case.case_id, "tumour-free", path, make, patient=known_as(case.case_id)))
    return cached_cases(entries, config, workers)


def _on_working_grid(case: Case, config: RunConfig) -> tuple[torch.Tensor, torch.Tensor]:
    image = images_on_working_grid(case, config).as_tensor()
    return image, torch.zeros((len(config.regions), *image.shape[1:]))
