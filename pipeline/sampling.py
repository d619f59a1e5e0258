"""Which patches are learnt from: every sample is a function of the seed, the epoch and its number alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset

from data.errors import UsageError
from transforms.augment import crop_size, training_chain

if TYPE_CHECKING:
    from pipeline.config import RunConfig
    from pipeline.training_cases import TrainingCase

log = logging.getLogger(__name__)


def crop_around(
    voxels: np.ndarray, centre: Sequence[int] | np.ndarray, patch: Sequence[int], crop: Sequence[int]
) -> np.ndarray:
    """Cut ``crop`` voxels out of (channels, *spatial), zeros beyond the volume.

    The patch in the middle of the crop is around ``centre``, but moved inwards where it would leave the volume; along an
    axis that is shorter than the patch, the volume's middle is the crop's.

    Parameters
    ----------
    voxels : (channels, *spatial) array
    centre : (dims,) int
        May lie outside the volume.
    patch, crop : (dims,) int
        In voxels; no axis of the patch is longer than the crop's.

    Returns
    -------
    (channels, *crop) float32
        Voxel ``patch // 2`` of the patch is ``centre``, where that need not be moved.
    """
    result = np.zeros((len(voxels), *crop), np.float32)
    source, target = [slice(None)], [slice(None)]
    for middle, inner, outer, size in zip(centre, patch, crop, voxels.shape[1:], strict=True):
        first = (size - inner) // 2 if size <= inner else int(np.clip(middle - inner // 2, 0, size - inner))
        first -= (outer - inner) // 2
        start, stop = max(first, 0), min(first + outer, size)
        source.append(slice(start, stop))
        target.append(slice(start - first, stop - first))
    result[tuple(target)] = voxels[tuple(source)]
    return result


class PatchDataset(Dataset):
    """Augmented patches of one epoch after another; the same for any number of loading processes.

    Item ``i`` of an epoch is ``{"image", "regions", "known"}``: (channels, *patch) float32, (regions, *patch) float32 in
    [0, 1], (regions,) bool. Kinds are drawn with the recipe's shares, cases of a kind with equal chance.

    Parameters
    ----------
    cases : sequence of TrainingCase
        Of the data set; ``extra`` are those of further folders, ``phantoms`` synthetic ones.

    Raises
    ------
    data.errors.UsageError
        There is no case that the shares allow.
    """

    def __init__(
        self,
        cases: Sequence[TrainingCase],
        config: RunConfig,
        extra: Sequence[TrainingCase] = (),
        phantoms: Sequence[TrainingCase] = (),
    ) -> None:
        sampling, training = config.training.sampling, config.training
        own_share = round(1 - sampling.extra_share - sampling.phantom_share, 9)  # 1 - 0.9 - 0.1 is not quite 0
        shares = ((cases, own_share), (extra, sampling.extra_share), (phantoms, sampling.phantom_share))
        if extra and sampling.extra_share == 0:
            log.warning("the recipe's training.sampling.extra_share is 0: %d further cases are not used", len(extra))
        self.pools = [(list(pool), share) for pool, share in shares if len(pool) and share > 0]
        if not self.pools:
            raise UsageError(
                "there is no case to learn from; every patient needs the recipe's modalities and a reference"
            )
        total = sum(share for _, share in self.pools)
        self.chances = [share / total for _, share in self.pools]
        self.patch, self.dims = training.patch, config.network.spatial_dims
        self.crop = crop_size(self.dims, self.patch, config.window.context)
        self.context = config.window.context
        self.regions, self.regions_share = config.regions, sampling.regions_share
        self.chain = training_chain(self.dims, self.patch, **config.augment.model_dump())
        self.batch, self.seed, self.epoch = training.batch, training.seed, 0
        self.length = training.steps_per_epoch * training.batch

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        generator = np.random.default_rng((self.seed, self.epoch, index))
        pool, _ = self.pools[generator.choice(len(self.pools), p=self.chances)]
        case = pool[generator.integers(len(pool))]
        cut = self._cut(case, self._centre(case, generator))
        self.chain.set_random_state(int(generator.integers(2**32)))
        images, regions = torch.as_tensor(cut[: case.n_images]), torch.as_tensor(cut[case.n_images :])
        sample: Mapping[Any, Any] = self.chain({"image": images, "regions": regions})
        return {
            "image": sample["image"],
            "regions": sample["regions"].clamp(0, 1),  # interpolation rounds
            "known": torch.tensor(case.known),
        }

    def _centre(self, case: TrainingCase, generator: np.random.Generator) -> np.ndarray:
        """A voxel of a region that the case has, off the patch's middle by up to a quarter of it, or of the brain.

        In 2D the brain's voxel is one of a slice that is drawn first: by their voxels alone the slices at the ends of the
        head, where little is brain and much looks odd, would hardly ever be seen.
        """
        present = [region for region in self.regions if region in case.centres]
        about_region = bool(present) and generator.random() < self.regions_share
        places = case.centres.get(present[generator.integers(len(present))] if about_region else "brain")
        if places is None:
            return np.array(case.voxels.shape[1:]) // 2
        if self.dims == 2 and not about_region:
            slices = np.unique(places[:, 2])
            places = places[places[:, 2] == slices[generator.integers(len(slices))]]
        centre = places[generator.integers(len(places))].astype(int)
        if about_region:
            reach = [n // 4 for n in self.patch]
            centre[: len(reach)] += generator.integers([-r for r in reach], [r + 1 for r in reach])
        return centre

    def _cut(self, case: TrainingCase, centre: np.ndarray) -> np.ndarray:
        if self.dims == 3:
            return crop_around(case.voxels, centre, self.patch, self.crop)
        # Across the slices nothing moves: the neighbours of the chosen one, the last slice repeated beyond the ends.
        last = case.voxels.shape[-1] - 1
        near = [min(max(int(centre[2]) + k, 0), last) for k in range(-self.context, self.context + 1)]
        slices = [crop_around(case.voxels[..., k], centre[:2], self.patch, self.crop[:2]) for k in near]
        return np.stack(slices).transpose(1, 2, 3, 0)
