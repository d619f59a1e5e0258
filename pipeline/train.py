"""Find the weights of a recipe: a short loop over random patches that can be read from top to bottom."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from data.case import discover_cases
from data.errors import UsageError
from networks import build_network
from pipeline.training_cases import TrainingCase, patient_cases, phantom_cases, slice_cases
from transforms.augment import training_chain

if TYPE_CHECKING:
    from pipeline.config import RunConfig

log = logging.getLogger(__name__)


def dice_bce_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Soft Dice over the batch, one term a region, plus binary cross-entropy; target in [0, 1] of the logits' shape."""
    probability = torch.sigmoid(logits)
    axes = (0, *range(2, logits.ndim))
    overlap = (probability * target).sum(axes)
    total = (probability**2).sum(axes) + (target**2).sum(axes)
    return (1 - (2 * overlap + 1) / (total + 1)).mean() + F.binary_cross_entropy_with_logits(logits, target)


def supervised_loss(outputs: torch.Tensor | list[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
    """The loss of one output, or of several with halving weights, the first (final) output counting most."""
    outputs = outputs if isinstance(outputs, list) else [outputs]
    weights = [0.5**i for i in range(len(outputs))]
    losses = [w * dice_bce_loss(y, target) for w, y in zip(weights, outputs, strict=True)]
    return torch.stack(losses).sum() / sum(weights)


def draw_samples(
    cases: Sequence[TrainingCase], config: RunConfig, generator: np.random.Generator
) -> Iterator[dict[str, torch.Tensor]]:
    """Endless augmented samples; kinds are drawn with the recipe's shares, patients of a kind with equal chance."""
    training, dims = config.training, config.network.spatial_dims
    chain = training_chain(dims, training.patch, seed=training.seed)
    shares = {"phantom": training.phantom_share, "slice": training.slices_share}
    shares["patient"] = 1.0 - sum(shares.values())
    pools = {kind: [c for c in cases if c.kind == kind] for kind, share in shares.items() if share > 0}
    pools = {kind: pool for kind, pool in pools.items() if pool}
    chances = np.array([shares[kind] for kind in pools])
    while True:
        pool = pools[str(generator.choice(list(pools), p=chances / chances.sum()))]
        case = pool[generator.integers(len(pool))]
        image, regions = case.image, case.regions
        if dims == 2:
            index = _draw_slice(regions, generator)
            image, regions = image[..., index], regions[..., index]
        sample = {"image": torch.as_tensor(image).float(), "regions": torch.as_tensor(regions).float() / 255}
        yield chain(sample)[0]


def _draw_slice(regions: np.ndarray, generator: np.random.Generator) -> int:
    """Two slices in three show tumour, and one in three shows its core, which fewer slices have."""
    wanted = int(generator.integers(3))
    present = np.flatnonzero(regions[min(wanted, len(regions) - 1)].any(axis=(0, 1))) if wanted < 2 else np.array([])
    return int(generator.choice(present)) if len(present) else int(generator.integers(regions.shape[-1]))


def train(
    config: RunConfig,
    cases: Sequence[TrainingCase],
    keep: Callable[[nn.Module, dict[str, float]], None],
    device: str = "cpu",
    keep_every_seconds: float = 600,
    init: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Train, and hand the averaged network to ``keep`` now and then, and at the end.

    Parameters
    ----------
    cases : sequence of TrainingCase
        Patients that may be learnt from; the caller has left out those that are held back.
    keep : callable
        Called with the averaged network in ``eval`` mode and ``{"step", "minutes", "loss"}``.
    init : state dict, optional
        Weights to go on from, instead of random ones.
    """
    if not cases:
        raise UsageError("there is no case to learn from; every patient needs the recipe's modalities and a reference")
    training = config.training
    torch.manual_seed(training.seed)
    generator = np.random.default_rng(training.seed)
    network = build_network(config.network).to(device)
    if init is not None:
        network.load_state_dict(init)
    if config.network.spatial_dims == 3:  # a fifth faster for Attention U-Net on a CPU
        network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(training.ema_decay), use_buffers=True)
    optimiser = torch.optim.AdamW(network.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)
    samples = draw_samples(cases, config, generator)
    start = kept = time.monotonic()
    step, running = 0, math.nan
    network.train()
    while (progress := (time.monotonic() - start) / (60 * training.minutes)) < 1:
        warm_up = min(1.0, (step + 1) / 50)
        for group in optimiser.param_groups:
            group["lr"] = training.learning_rate * warm_up * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
        batch = [next(samples) for _ in range(training.batch)]
        image = torch.stack([torch.as_tensor(s["image"]).as_subclass(torch.Tensor) for s in batch]).to(device)
        target = torch.stack([torch.as_tensor(s["regions"]).as_subclass(torch.Tensor) for s in batch]).to(device)
        loss = supervised_loss(network(image), target.clamp(0, 1))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        average.update_parameters(network)
        step += 1
        running = loss.item() if math.isnan(running) else 0.98 * running + 0.02 * loss.item()
        if step % 20 == 0:
            log.info("step %d, %.0f %% of the time, loss %.4f", step, 100 * progress, running)
        if time.monotonic() - kept > keep_every_seconds:
            kept = time.monotonic()
            keep(average.module.eval(), {"step": step, "minutes": (kept - start) / 60, "loss": running})
    keep(average.module.eval(), {"step": step, "minutes": (time.monotonic() - start) / 60, "loss": running})


def run_training(
    patients: Path,
    recipe: str,
    output: Path,
    *,
    leave_out: Sequence[str] = (),
    slices: Path | None = None,
    phantoms: int = 12,
    init: str | None = None,
    minutes: float | None = None,
    licence: str = "",
) -> None:
    """Gather the cases, train, and write the model file ``output`` now and then.

    Parameters
    ----------
    patients : Path
        A data set's folder; every patient in it has a reference and the recipe's modalities, or is in ``leave_out``.
    recipe, init : str
        See :func:`pipeline.config.load_recipe` and :func:`pipeline.checkpoint.open_checkpoint`.
    slices : Path, optional
        Folder of .h5 slices.
    minutes : float, optional
        Instead of the recipe's.

    Raises
    ------
    data.errors.UsageError, data.errors.InputError, data.errors.CheckpointError
    """
    from pipeline.checkpoint import open_checkpoint, save_checkpoint
    from pipeline.config import load_recipe

    config = load_recipe(recipe)
    if minutes is not None:
        config = config.model_copy(update={"training": config.training.model_copy(update={"minutes": minutes})})
    found = discover_cases(patients)
    unknown = set(leave_out) - {case.case_id for case in found}
    if unknown:
        raise UsageError(f"--leave-out: no patient {', '.join(sorted(unknown))} in {patients}")
    if output.suffix != ".safetensors":
        raise UsageError(f"{output}: a model file ends in .safetensors")
    learnt = list(patient_cases([case for case in found if case.case_id not in leave_out], config))
    learnt += phantom_cases(range(1000, 1000 + phantoms), config)
    if slices is not None:
        learnt += slice_cases(slices, config)
    counts = Counter(case.kind for case in learnt)
    log.info("training on %s", ", ".join(f"{n} {kind} cases" for kind, n in counts.items()))
    card = {
        "trained_on": ", ".join(f"{n} {kind} cases" for kind, n in counts.items()),
        "held_out": list(leave_out),
        "scores": {},
        "licence": licence,
    }

    def keep(network: nn.Module, progress: dict[str, float]) -> None:
        save_checkpoint(output, network, config, card | {"progress": progress})

    train(config, learnt, keep, init=open_checkpoint(init).build().state_dict() if init else None)
