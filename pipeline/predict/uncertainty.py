"""Agreement among the members of an averaged prediction.

Every model in every pass is one member.

Two answers for each region. The standard deviation of the members' probabilities says where they differ, voxel by
voxel: the usual measure of a test-time-augmentation or ensemble prediction [1]_. The disagreement says how much the
masks differ, as one number a region: one minus the mean Dice of the members' masks with the mask of their mean.

References
----------
.. [1] Wang, Li, Aertsen, Deprest, Ourselin, Vercauteren: Aleatoric uncertainty estimation with test-time augmentation
   for medical image segmentation with convolutional neural networks. Neurocomputing 338, 2019.
"""

from __future__ import annotations

import torch

from data.grid import Grid
from transforms.restore import resample_to


class MemberSpread:
    """Running mean and variance of the members' probabilities, one member at a time.

    The weighted form of Welford's algorithm (West, CACM 22(9), 1979) in float32: unlike a sum of squares it loses no
    digits where all members are near 1. Members are not kept, but for their thresholded masks, one bit a voxel: what
    this takes is two float32 and one byte for each eight members a voxel and region. It is a class for that state
    alone.

    Parameters
    ----------
    threshold : float
        From which probability on a voxel belongs to a member's mask, and to the mask of the mean.

    Notes
    -----
    Everything is computed on the first member's grid, the working grid, where no interpolation has smoothed the members
    yet. Members on another grid are interpolated onto it; what they have outside it is left out. The standard deviation
    is then to be interpolated like any image. That of interpolated members would be the same at voxel centres and at
    most as large between them, and would need every member on the finer native grid. Members that are equal to the bit
    give exactly 0 in both answers.
    """

    def __init__(self, threshold: float = 0.5) -> None:
        self.threshold = threshold
        self.grid: Grid | None = None
        self.weights: list[float] = []
        self.mean = torch.empty(0)
        self._squares = torch.empty(0)
        self._masks: list[torch.Tensor] = []

    def add(self, probability: torch.Tensor, grid: Grid, weight: float = 1.0) -> None:
        """Take in one member.

        Parameters
        ----------
        probability : (regions, d1, d2, d3) float32
            Left as it is. A member on another device than the one before takes the sums there.
        grid : Grid
            On which it lies.
        weight : float
            Its share of the mean, against the other members' weights.
        """
        self.grid = self.grid or grid
        if not grid.matches(self.grid):
            probability = resample_to(probability, grid, self.grid)
        number = len(self.weights)
        self.weights.append(weight)
        if number == 0:
            self.mean, self._squares = probability.clone(), torch.zeros_like(probability)
        else:
            device = probability.device
            self.mean, self._squares = self.mean.to(device), self._squares.to(device)
            before = probability - self.mean
            self.mean.add_(before, alpha=weight / sum(self.weights))
            self._squares.addcmul_(before, probability - self.mean, value=weight)
        if number % 8 == 0:
            self._masks.append(torch.zeros_like(probability, dtype=torch.uint8))
        bits = (probability >= self.threshold).to(torch.uint8) * (1 << number % 8)
        self._masks[-1] = self._masks[-1].to(bits.device) | bits

    def standard_deviation(self) -> torch.Tensor:
        """Compute the standard deviation of the members around their mean.

        It is the population's, not a sample's: (regions, d1, d2, d3) in [0, 0.5].

        One member, or none, gives zeros.
        """
        return (self._squares / sum(self.weights)).clamp_(0).sqrt_() if self.weights else self._squares

    def disagreement(self) -> list[float]:
        """Compute for each region how much the members' masks differ.

        It is 1 - the weighted mean over the members of Dice(member's mask, mask of the mean), in [0, 1].

        0: all masks are equal. Two masks without a voxel have Dice 1, a mask against none has 0. No members: no
        regions.
        """
        mean = self.mean.flatten(1) >= self.threshold if self.weights else torch.empty(0, 0, dtype=torch.bool)
        of_mean, agreed = mean.sum(dim=1), torch.zeros(len(mean), dtype=torch.float64)
        for number, weight in enumerate(self.weights):
            mask = (self._masks[number // 8].flatten(1) >> number % 8 & 1).bool().to(mean.device)
            both, total = (mask & mean).sum(dim=1), mask.sum(dim=1) + of_mean
            dice = torch.where(total > 0, 2.0 * both.double() / total.clamp(min=1), 1.0)
            agreed += weight * dice.cpu()
        return [float(1 - share / sum(self.weights)) for share in agreed]
