"""Simulated probabilities of a cascade's first network, with errors of new patients.

The second network learns from them.

The first network has learnt from the very patients that the second learns from, so that what it says of them is better
than of anybody new; a second network that saw it would learn to copy. So it is shown the reference in the place of the
first network's answer, degraded: as coarse as the first grid, moved, grown or shrunk from place to place, more or less
sure, with parts missed and parts invented.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.ndimage as ndi
import torch
import torch.nn.functional as F

Random = np.random.RandomState

FIELD_NODES = 5
"""Nodes of a smooth random field along the longest axis of a sample."""


def simulated_first_stage(
    region_shares: torch.Tensor,
    random: Random,
    *,
    coarseness: Sequence[float] = (2.0, 2.0, 2.0),
    errors: float = 1.0,
) -> torch.Tensor:
    """Make plausible probabilities of a first network from the reference.

    Parameters
    ----------
    region_shares : (regions, d1, d2, d3) float32
        Share of each voxel that a region fills, an outer region before the ones inside it. Where it is NaN, which is
        not known, the region is taken to be as the one before it, so that it comes out anywhere within that.
    random : numpy.random.RandomState
    coarseness : three floats
        Voxels of the sample to one of the first network's, along each axis; below 1 counts as 1.
    errors : float
        Strength; 0 only coarsens.

    Returns
    -------
    (regions, d1, d2, d3) float32 in [0, 1]
    """
    shares = _without_unknown(region_shares)
    steps = [max(1.0, float(step)) for step in coarseness]
    sigmas = [0.5 * step * (1 + errors * random.uniform(0, 0.8)) for step in steps]
    soft = np.stack([ndi.gaussian_filter(share, sigmas, mode="nearest") for share in shares.numpy()])
    # The blurred share crosses a half at the border; the first network's probability does so in a voxel or two of its
    # own.
    logits = torch.as_tensor(soft).sub_(0.5).mul_(10.0)
    return disturbed(torch.sigmoid(logits), random, coarseness=steps, errors=errors)


def disturbed(
    probabilities: torch.Tensor, random: Random, *, coarseness: Sequence[float] = (2.0, 2.0, 2.0), errors: float = 1.0
) -> torch.Tensor:
    """Disturb probabilities of a first network as a sample of a second one's training.

    In this order, by up to ``errors``, a strength that is drawn for each sample: all regions are bent by one smooth
    field of up to a voxel of the first network; each region is surer here and less sure there, and grows or shrinks, as
    a whole and from place to place, by fields on its logits. In a quarter of the samples each a part of the tumour is
    missed, and a tumour is invented; in a twentieth an inner region is missed altogether.

    Parameters
    ----------
    probabilities : (regions, d1, d2, d3) float32 in [0, 1]
        Left as they are.
    random, coarseness, errors
        As for `simulated_first_stage`; 0 gives the probabilities themselves.

    Returns
    -------
    (regions, d1, d2, d3) float32 in [0, 1]
    """
    if errors == 0:
        return probabilities.clone()
    shape = probabilities.shape[1:]
    here = errors * random.uniform(0, 1)  # some patients are easy
    bent = _bent(probabilities, random, [here * step for step in coarseness])
    logits = torch.logit(bent, eps=1e-4)
    for logit in logits:
        logit.mul_(torch.exp(0.4 * here * smooth_field(shape, random)))
        logit.add_(here * (2 * smooth_field(shape, random) + random.standard_normal()))
    if random.rand() < min(0.25 * errors, 0.9) and (place := _drawn(bent[0] > 0.5, random)) is not None:
        logits -= 8 * _blob(shape, place, random, coarseness, (4, 12))  # a part is missed
    if random.rand() < min(0.25 * errors, 0.9):
        place = tuple(int(random.randint(n)) for n in shape)
        sure = random.uniform(1, 9)
        # The outermost region is the surest; what lies inside is invented less often.
        for index, logit in enumerate(logits):
            if index == 0 or random.rand() < 0.5:
                logit += sure * _blob(shape, place, random, coarseness, (2, 6))
    for logit in logits[1:]:
        if random.rand() < min(0.05 * errors, 0.5):
            logit.sub_(6)  # an inner region is not seen at all
    return torch.sigmoid(logits)


def smooth_field(shape: Sequence[int], random: Random) -> torch.Tensor:
    """Draw a smooth random field (d1, d2, d3) of mean 0.

    Its standard deviation is about 1 at its nodes.
    """
    longest = max(shape)
    nodes = [max(2, round(FIELD_NODES * n / longest)) if n > 1 else 1 for n in shape]
    coarse = torch.as_tensor(random.standard_normal(nodes), dtype=torch.float32)
    return F.interpolate(coarse[None, None], size=tuple(shape), mode="trilinear", align_corners=True)[0, 0]


def _without_unknown(region_shares: torch.Tensor) -> torch.Tensor:
    shares = region_shares.clone()
    for index, share in enumerate(shares):
        outer = shares[index - 1] if index else torch.zeros_like(share)
        share.copy_(torch.where(share.isnan(), outer, share))
    return shares


def _bent(volume: torch.Tensor, random: Random, reach: Sequence[float]) -> torch.Tensor:
    """Move all channels by one smooth field.

    Its standard deviation is ``reach`` in voxels; an axis of 1 stays.
    """
    shape = volume.shape[1:]
    place = []
    for axis, n in enumerate(shape):
        index = torch.arange(n, dtype=torch.float32).reshape([-1 if other == axis else 1 for other in range(3)])
        moved = index + (reach[axis] * smooth_field(shape, random) if n > 1 else torch.zeros(tuple(shape)))
        place.append(moved * (2 / max(n - 1, 1)) - 1)
    grid = torch.stack(place[::-1], dim=-1)[None]  # grid_sample's last axis first
    return F.grid_sample(volume[None], grid, align_corners=True, padding_mode="border")[0]


def _drawn(mask: torch.Tensor, random: Random) -> tuple[int, ...] | None:
    """Draw a voxel of a mask, each with equal chance."""
    places = mask.flatten().nonzero()[:, 0]
    if not len(places):
        return None
    chosen = int(places[int(random.randint(len(places)))])
    return tuple(int(i) for i in np.unravel_index(chosen, tuple(mask.shape)))


def _blob(
    shape: Sequence[int],
    place: Sequence[int],
    random: Random,
    coarseness: Sequence[float],
    radii: tuple[float, float],
) -> torch.Tensor:
    """Return a blob: 1 in an ellipsoid's middle, falling to 0 around it.

    Its radii are in voxels of the first network.
    """
    total = torch.zeros(tuple(shape))
    for axis, (n, middle, step) in enumerate(zip(shape, place, coarseness, strict=True)):
        offset = (torch.arange(n, dtype=torch.float32) - middle) / (step * random.uniform(*radii))
        total = total + (offset**2).reshape([-1 if other == axis else 1 for other in range(3)])
    return torch.sigmoid(6 * (1 - total))
