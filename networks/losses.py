"""Losses of a segmentation network by name.

They are overlap (Dice, Tversky), cross-entropy, focal, and sums of them.

Every loss in :data:`LOSSES` keeps one contract, ``loss(logits, target, known=None, **parameters) -> scalar``:

- ``logits``, ``target``: ``(batch, regions, dim_1, ..., dim_N)``, N >= 1. A region is a sigmoid of its own, because
  regions overlap (whole tumour, tumour core, enhancing tumour). Any float; the work and the value are at least float32.
- ``target`` is in [0, 1]; the caller clamps it. Shares between 0 and 1 (interpolated labels) are allowed: Dice and
  focal are then 0 at ``sigmoid(logits) == target`` and nowhere else, BCE is lowest there (at the target's entropy),
  and Tversky is not, see :func:`tversky`.
- ``known``: bool, ``(batch, regions)`` (some references tell the whole tumour only) or as ``target`` (voxel by voxel:
  nothing is known beyond a lesion that was cut out), or None for all. What is not known adds nothing to the value and
  gets a zero gradient, even where its logits or target are NaN. Nothing known or an empty batch gives 0, with a zero
  gradient, still attached to the graph.
- Cross-entropy and focal are means over the known voxels of all pairs; Dice and Tversky count over known voxels and are
  means over the regions of which at least one sample knows a voxel.

Dice and Tversky count over the whole batch, one score a region: a patch without tumour is then no score of its own that
jumps between 0 and 1. ``per_sample=True`` gives one score for each known sample and region instead (MONAI's
``batch=False``). Under DistributedDataParallel the batch is that of one process.

``smooth`` (in voxels, at least 1e-8) is added above and below in every ratio, so that an empty target with an empty
prediction is 0. At 1 a prediction that is almost empty is already near 0; at MONAI's 1e-5 a few grey voxels cost 1.

Parameters out of range raise ValueError, as do shapes that do not fit.

References
----------
.. [1] Milletari et al. 2016, V-Net, 3DV. https://arxiv.org/abs/1606.04797
.. [2] Wang et al. 2023, Dice semimetric losses, MICCAI. https://arxiv.org/abs/2303.16296
.. [3] Lin et al. 2017, Focal loss for dense object detection, ICCV. https://arxiv.org/abs/1708.02002
.. [4] Li et al. 2020, Generalized focal loss, NeurIPS. https://arxiv.org/abs/2006.04388
.. [5] Salehi et al. 2017, Tversky loss function, MLMI. https://arxiv.org/abs/1706.05721
.. [6] Abraham & Khan 2019, A novel focal Tversky loss function, ISBI. https://arxiv.org/abs/1810.07842
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from networks.loss_terms import (
    POWER_FLOOR,
    bce_term,
    check_number,
    check_weights,
    dice_term,
    focal_term,
    known_pair,
    region_mean,
    tversky_scores,
)

Loss = Callable[..., Tensor]
"""``loss(logits, target, known=None) -> scalar``."""


def dice(
    logits: Tensor, target: Tensor, known: Tensor | None = None, *, smooth: float = 1.0, per_sample: bool = False
) -> Tensor:
    """Soft Dice loss with squared sums below [1]_: ``1 - (2 sum(p t) + s) / (sum(p^2) + sum(t^2) + s)``.

    Written as ``sum((p - t)^2) / (sum(p^2) + sum(t^2) + s)``, which is the same number without cancellation, and shows
    why the sums are squared: it is 0 exactly at ``p == t``, also for shares. With plain sums a share of .5 would be
    driven to 0 or 1 [2]_. Equal to MONAI's ``DiceLoss(sigmoid=True, squared_pred=True, batch=not per_sample)``.
    """
    return dice_term(known_pair(logits, target, known), smooth, per_sample)


def bce(logits: Tensor, target: Tensor, known: Tensor | None = None) -> Tensor:
    """Binary cross-entropy, the mean over the voxels of all known pairs, in nats."""
    return bce_term(known_pair(logits, target, known))


def dice_ce(
    logits: Tensor,
    target: Tensor,
    known: Tensor | None = None,
    *,
    dice_weight: float = 1.0,
    ce_weight: float = 1.0,
    smooth: float = 1.0,
    per_sample: bool = False,
) -> Tensor:
    """Compute ``dice_weight`` times :func:`dice` plus ``ce_weight`` times :func:`bce`."""
    check_weights(dice_weight=dice_weight, ce_weight=ce_weight)
    pair = known_pair(logits, target, known)
    return dice_weight * dice_term(pair, smooth, per_sample) + ce_weight * bce_term(pair)


def dice_focal(
    logits: Tensor,
    target: Tensor,
    known: Tensor | None = None,
    *,
    dice_weight: float = 1.0,
    focal_weight: float = 1.0,
    gamma: float = 2.0,
    alpha: float | None = None,
    smooth: float = 1.0,
    per_sample: bool = False,
) -> Tensor:
    """Compute ``dice_weight`` times :func:`dice` plus ``focal_weight`` times the focal loss [3]_.

    The focal loss is a mean over voxels.

    Parameters
    ----------
    gamma : float
        Focusing, 0 or more; 0 is cross-entropy.
    alpha : float, optional
        Balance in [0, 1]: the weight of a voxel in the region, ``1 - alpha`` that of one outside. None: both 1.

    Notes
    -----
    The focal term is ``|t - p|^gamma`` times the cross-entropy [4]_: Lin's ``(1 - p_t)^gamma`` where t is 0 or 1, and
    for a share it is 0 at ``p == t``, where Lin's formula read as a mixture of both cases is not even lowest.
    """
    check_weights(dice_weight=dice_weight, focal_weight=focal_weight)
    check_number("gamma", gamma)
    check_number("alpha", 0 if alpha is None else alpha, most=1)
    pair = known_pair(logits, target, known)
    return dice_weight * dice_term(pair, smooth, per_sample) + focal_weight * focal_term(pair, gamma, alpha)


def tversky(
    logits: Tensor,
    target: Tensor,
    known: Tensor | None = None,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    smooth: float = 1.0,
    per_sample: bool = False,
) -> Tensor:
    """Compute ``1 - TI`` with the Tversky index ``TI = (TP + s) / (TP + alpha FP + beta FN + s)`` [5]_.

    Parameters
    ----------
    alpha, beta : float
        Weight of false positives and of false negatives, 0 or more, not both 0. ``beta > alpha`` favours sensitivity.

    Notes
    -----
    TP, FP and FN are sums of products, ``p t``, ``p (1 - t)`` and ``(1 - p) t``, as published; ``alpha = beta = .5`` is
    Dice with plain sums. So a share is not where the loss is lowest: the prediction is driven to a hard mask
    that takes in voxels of a share above about ``alpha`` times TI (for ``alpha + beta = 1``).
    """
    check_weights(alpha=alpha, beta=beta)
    pair = known_pair(logits, target, known)
    return region_mean(tversky_scores(pair, alpha, beta, smooth, per_sample), pair.told)


def focal_tversky(
    logits: Tensor,
    target: Tensor,
    known: Tensor | None = None,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    gamma: float = 4 / 3,
    smooth: float = 1.0,
    per_sample: bool = False,
) -> Tensor:
    """Compute ``(1 - TI)^(1 / gamma)`` of each region [6]_, then the mean.

    TI is that of :func:`tversky`.

    Parameters
    ----------
    alpha, beta : float
        As in :func:`tversky`: alpha weighs false positives, beta false negatives. The paper swaps the two letters; its
        alpha = .7 on false negatives is beta = .7 here.
    gamma : float
        1 or more (the paper: 1 to 3). The exponent is 1 / gamma; code that takes the exponent .75 itself means 4 / 3.

    Notes
    -----
    ``1 - TI`` is held at :data:`networks.loss_terms.POWER_FLOOR` or above: at 0 the gradient of the power would be
    infinite. So a perfect prediction is 3e-5 rather than 0.
    """
    check_weights(alpha=alpha, beta=beta)
    check_number("gamma", gamma, least=1)
    pair = known_pair(logits, target, known)
    scores = tversky_scores(pair, alpha, beta, smooth, per_sample)
    return region_mean(scores.clamp(min=POWER_FLOOR) ** (1 / gamma), pair.told)


LOSSES: dict[str, Loss] = {
    "dice": dice,
    "dice_ce": dice_ce,
    "dice_focal": dice_focal,
    "bce": bce,
    "tversky": tversky,
    "focal_tversky": focal_tversky,
}


def build_loss(name: str, parameters: Mapping[str, Any] | None = None) -> Loss:
    """Return the loss ``name`` of :data:`LOSSES` with its ``parameters`` set.

    It is called as ``loss(logits, target, known=None) -> scalar``.

    Raises
    ------
    ValueError
        The name or a parameter is unknown (the text lists what there is), or a value is out of range.
    """
    if name not in LOSSES:
        raise ValueError(f"unknown loss {name!r}; known: {', '.join(LOSSES)}")
    parameters = dict(parameters or {})
    signature = inspect.signature(LOSSES[name]).parameters.values()
    defaults = {p.name: p.default for p in signature if p.kind is p.KEYWORD_ONLY}
    for key in parameters:
        if key not in defaults:
            there = ", ".join(f"{k} = {v}" for k, v in defaults.items()) or "none"
            raise ValueError(f"loss {name!r} has no parameter {key!r}; parameters and defaults: {there}")
    loss = partial(LOSSES[name], **parameters)
    try:
        loss(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))  # values are checked now, not after an hour of loading
    except ValueError as error:
        raise ValueError(f"loss {name!r}: {error}") from None
    return loss


def supervised_loss(
    outputs: Tensor | Sequence[Tensor], target: Tensor, loss: Loss, known: Tensor | None = None
) -> Tensor:
    """Compute ``loss`` of one output, or of several (deep supervision).

    The first (final) output counts most.

    Parameters
    ----------
    outputs : tensor or sequence of tensors, each of the shape of ``target``
        Logits, the final output first. The weights halve, 1, 1/2, 1/4, ..., and are divided by their sum.
    """
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    if not outputs:
        raise ValueError("outputs: an empty list; deep supervision needs at least the final output")
    weights = [0.5**i for i in range(len(outputs))]
    losses = [w * loss(logits, target, known) for w, logits in zip(weights, outputs, strict=True)]
    return torch.stack(losses).sum() / sum(weights)
