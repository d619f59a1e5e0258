"""Terms of the losses.

They are Dice, Tversky, cross-entropy and focal terms of the pairs that a reference tells.

:mod:`networks.losses` states the contract and gives the sources of the formulas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

POWER_FLOOR = 1e-6
"""The least base of a power below 1, whose gradient is infinite at 0."""


@dataclass(frozen=True)
class KnownPair:
    """Logits and target, ``(batch, regions, dim_1, ..., dim_N)``, float32 or better, 0 where not known."""

    logits: Tensor
    target: Tensor
    weight: Tensor
    """1 where known, else 0: ``(batch, regions, dim_1, ..., dim_N)``, or with every dim 1 where all voxels are
    alike."""

    @property
    def probability(self) -> Tensor:
        """Sigmoid where known, 0 elsewhere."""
        return torch.sigmoid(self.logits) * self.weight

    @property
    def told(self) -> Tensor:
        """``(batch, regions)``: 1 where at least one voxel is known, else 0."""
        return self.weight.flatten(2).amax(2) if self.weight.numel() else self.weight.new_zeros(self.weight.shape[:2])


def known_pair(logits: Tensor, target: Tensor, known: Tensor | None) -> KnownPair:
    """Make the pair that the terms below take.

    Raises ``ValueError`` where the shapes do not fit.
    """
    if logits.shape != target.shape or logits.ndim < 3:
        raise ValueError(f"logits {(*logits.shape,)}, target {(*target.shape,)}: both are (batch, regions, dim_1, ...)")
    dtype = torch.promote_types(logits.dtype, torch.float32)  # squares and sums of float16 overflow
    logits, target = logits.to(dtype), target.to(dtype)
    alike = (*logits.shape[:2], *[1] * (logits.ndim - 2))
    if known is None:
        return KnownPair(logits, target, logits.new_ones(alike))
    if known.shape not in (logits.shape[:2], logits.shape) or known.dtype != torch.bool:
        raise ValueError(
            f"known {(*known.shape,)} {known.dtype}: neither bool (batch, regions) {(*logits.shape[:2],)} "
            f"nor bool {(*logits.shape,)}"
        )
    known = known if known.shape == logits.shape else known.reshape(alike)
    unknown = ~known
    # Filled before any function is applied: a product with 0 would let NaN through, in the gradient too.
    return KnownPair(logits.masked_fill(unknown, 0), target.masked_fill(unknown, 0), known.to(dtype))


def dice_term(pair: KnownPair, smooth: float, per_sample: bool) -> Tensor:
    """See :func:`networks.losses.dice`."""
    axes, p, t = _axes(pair, smooth, per_sample), pair.probability, pair.target
    total = p.square().sum(axes) + t.square().sum(axes)
    return region_mean((p - t).square().sum(axes) / (total + smooth), pair.told)


def tversky_scores(pair: KnownPair, alpha: float, beta: float, smooth: float, per_sample: bool) -> Tensor:
    """Compute ``1 - TI``, ``(regions,)`` or ``(batch, regions)``.

    It is the ratio of the loss to the whole, and never below 0 by rounding.
    """
    axes, p, t = _axes(pair, smooth, per_sample), pair.probability, pair.target
    lost = alpha * (p * (1 - t)).sum(axes) + beta * ((1 - p) * t).sum(axes)
    return lost / ((p * t).sum(axes) + lost + smooth)


def bce_term(pair: KnownPair) -> Tensor:
    """See :func:`networks.losses.bce`."""
    return _voxel_mean(_cross_entropy(pair), pair.weight)


def focal_term(pair: KnownPair, gamma: float, alpha: float | None) -> Tensor:
    """See :func:`networks.losses.dice_focal`."""
    error = (pair.target - torch.sigmoid(pair.logits)).abs()
    if 0 < gamma < 1:
        error = error.clamp(min=POWER_FLOOR)
    values = error**gamma * _cross_entropy(pair)
    if alpha is not None:
        values = values * (alpha * pair.target + (1 - alpha) * (1 - pair.target))
    return _voxel_mean(values, pair.weight)


def region_mean(scores: Tensor, weight: Tensor) -> Tensor:
    """Take the mean of scores over known pairs or regions.

    Scores ``(batch, regions)`` are averaged over known pairs, ``(regions,)`` over regions known at least once.

    0 if there are none.
    """
    if scores.ndim == 1:
        weight = (weight.sum(0) > 0).to(weight.dtype)
    return (scores * weight).sum() / weight.sum().clamp(min=1)


def check_number(name: str, value: float, least: float = 0, most: float = math.inf) -> None:
    """Raise ``ValueError`` unless ``value`` is a finite number from ``least`` to ``most``."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and least <= value <= most):
        raise ValueError(f"{name}: {value!r} is not a number from {least:g} to {most:g}")


def check_weights(**weights: float) -> None:
    """Raise ``ValueError`` unless the weights are 0 or more and not all 0."""
    for name, value in weights.items():
        check_number(name, value)
    if not any(weights.values()):
        raise ValueError(f"{' and '.join(weights)}: both are 0, so there is nothing to learn from")


def _axes(pair: KnownPair, smooth: float, per_sample: bool) -> tuple[int, ...]:
    """Return the axes that an overlap counts over.

    The two parameters that all overlaps share are checked.
    """
    check_number("smooth", smooth, least=1e-8)
    if not isinstance(per_sample, bool):
        raise ValueError(f"per_sample: {per_sample!r} is neither true nor false")
    spatial = range(2, pair.logits.ndim)
    return tuple(spatial) if per_sample else (0, *spatial)


def _cross_entropy(pair: KnownPair) -> Tensor:
    """Compute the cross-entropy of each voxel, in nats."""
    return F.binary_cross_entropy_with_logits(pair.logits, pair.target, reduction="none")


def _voxel_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Mean over the known voxels of all pairs; 0 if there are none."""
    each = max(1, values.numel()) / max(1, weight.numel())  # voxels that one weight stands for
    return (values * weight).sum() / (weight.sum().clamp(min=1 / each) * each)
