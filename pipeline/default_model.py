"""Choice of the model for a case where the user names none."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence

from data.case import MODALITIES, Case
from data.errors import CheckpointError, InputError
from data.io.read import read_header
from pipeline.checkpoint import Checkpoint, shipped_models


def choose_model(case: Case) -> Checkpoint:
    """Choose the shipped model that fits a case best.

    In this order: it was made for images like the case's (skull-stripped, or whole heads), the case has the modalities
    that it needs, it is 2D for a single slice, its held-out Dice of the whole tumour is highest. Only the files of the
    models decide, not their names. Raises :class:`data.errors.CheckpointError` where no model is shipped.
    """
    models = shipped_models()
    if not models:
        raise CheckpointError("no model is shipped; name a .safetensors file with --model")
    of_heads = _shows_whole_heads(case, models)
    # What cannot be read here is read again, and reported, by the predictor.
    with contextlib.suppress(InputError, StopIteration):
        single_slice = read_header(next(iter(case.images.values()))).grid.shape[2] == 1
        models = [m for m in models if (m.settings["network"]["spatial_dims"] == 2) or not single_slice] or models

    return _best(models, of_heads, case.images)


def _best(models: Sequence[Checkpoint], of_heads: bool, images: Collection[str]) -> Checkpoint:
    def rank(model: Checkpoint) -> tuple[bool, int, float]:
        lacking = len(set(model.settings["modalities"]) - set(images))
        made_for_it = model.expects_brain_alone != of_heads
        return (made_for_it, -lacking, float(model.card.get("scores", {}).get("dice_WT", 0)))

    return max(models, key=rank)


def default_uses() -> dict[str, list[str]]:
    """Return, by model, the kinds of images for which it is the default.

    The patient has all modalities.
    """
    uses: dict[str, list[str]] = {}
    models = shipped_models()
    flat = [model for model in models if model.settings["network"]["spatial_dims"] == 2] or models
    for of_heads, kind in ((False, "skull-stripped"), (True, "whole-head")) if models else ():
        volumes, slices = (_best(those, of_heads, MODALITIES).name for those in (models, flat))
        uses.setdefault(volumes, []).append(f"{kind} images" if volumes == slices else f"{kind} volumes")
        if slices != volumes:
            uses.setdefault(slices, []).append(f"{kind} single slices")
    return uses


def _shows_whole_heads(case: Case, models: Sequence[Checkpoint]) -> bool:
    """Tell from the case's naming whether its images are not skull-stripped.

    They are taken for whole heads where the naming admits label conventions alone that belong to models of whole heads.
    """
    conventions: dict[bool, set[str]] = {True: set(), False: set()}
    for model in models:
        conventions[model.expects_brain_alone].add(model.settings["convention"])
    return bool(case.conventions) and set(case.conventions) <= conventions[False] - conventions[True]
