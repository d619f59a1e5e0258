"""Random transforms for training: one MONAI chain for 2D and 3D."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import (
    Compose,
    DeleteItemsd,
    RandAdjustContrastd,
    RandAffined,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandomizableTransform,
    RandScaleIntensityd,
    RandShiftIntensityd,
    RandSimulateLowResolution,
    SpatialPadd,
)
from monai.transforms.transform import MapTransform, Randomizable
from monai.utils.misc import MAX_SEED


def _mark_tumour(sample: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
    """Add ``"tumour"``, any region: of several channels MONAI's cropper skips the first as a background, our WT."""
    return {**sample, "tumour": sample["regions"].amax(dim=0, keepdim=True)}


def _mark_brain(sample: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
    """Add ``"brain"``, the voxels that any modality has."""
    return {**sample, "brain": (sample["image"] != 0).any(dim=0, keepdim=True)}


def _blank_background(sample: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
    """Make the background exactly 0 again, as it is when the network is used."""
    return {"image": sample["image"] * sample["brain"], "regions": sample["regions"]}


class RandOneModalityd(RandomizableTransform, MapTransform):
    """With probability ``prob``, apply ``transform`` to one channel, drawn at random, and leave the others alone."""

    def __init__(self, keys: Sequence[str], prob: float, transform: Callable[[Any], Any]) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.transform = transform

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandOneModalityd:
        super().set_random_state(seed, state)
        if isinstance(self.transform, Randomizable):
            self.transform.set_random_state(seed=int(self.R.randint(MAX_SEED, dtype="uint32")))
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        self.randomize(None)
        if self._do_transform:
            for key in self.key_iterator(d):
                channel = int(self.R.randint(len(d[key])))
                d[key] = d[key].clone()
                d[key][channel] = self.transform(d[key][channel : channel + 1])[0]
        return d


def training_chain(spatial_dims: int, patch: Sequence[int], seed: int | None = None) -> Compose:
    """Crop, move and disturb one training sample.

    Input is a dictionary with ``image`` (modalities, dim_1, ..., dim_N) float32, z-scored with background 0, and
    ``regions`` (regions, dim_1, ..., dim_N) float32 in [0, 1], of any size; output is a list of one such dictionary
    (MONAI's croppers give lists) at the size ``patch``.

    Half of the crops are centred on tumour. Rotation, scaling and cropping are one interpolation; intensity changes
    touch the image alone and keep the background 0; a quarter of the samples lacks one modality.
    """
    both, image = ("image", "regions"), ("image",)
    margin = tuple(int(np.ceil(1.25 * n)) for n in patch)  # room for the corners of a rotated patch
    linear = "trilinear" if spatial_dims == 3 else "bilinear"
    angle = (np.pi / 12,) * (3 if spatial_dims == 3 else 1)
    chain = Compose(
        [
            SpatialPadd(both, spatial_size=margin),
            _mark_tumour,
            RandCropByPosNegLabeld(both, label_key="tumour", spatial_size=margin, pos=1.0, neg=1.0, num_samples=1),
            DeleteItemsd("tumour"),
            RandAffined(
                both,
                prob=1.0,
                rotate_range=angle,
                scale_range=(0.15,) * spatial_dims,
                spatial_size=tuple(patch),
                mode="bilinear",
                padding_mode="zeros",
            ),
            *(RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in range(spatial_dims)),
            _mark_brain,
            RandGaussianSmoothd(image, prob=0.1, sigma_x=(0.3, 0.8), sigma_y=(0.3, 0.8), sigma_z=(0.3, 0.8)),
            # One sequence of an examination is often worse than the others, or not there.
            RandOneModalityd(
                image, 0.2, RandSimulateLowResolution(prob=1.0, zoom_range=(0.25, 0.8), upsample_mode=linear)
            ),
            RandScaleIntensityd(image, prob=0.7, factors=0.3, channel_wise=True),
            RandShiftIntensityd(image, prob=0.7, offsets=0.3, channel_wise=True),
            RandAdjustContrastd(image, prob=0.3, gamma=(0.7, 1.5)),
            RandGaussianNoised(image, prob=0.3, std=0.1),
            _blank_background,
            RandOneModalityd(image, 0.25, torch.zeros_like),
        ]
    )
    if seed is not None:
        chain.set_random_state(seed)
    return chain
