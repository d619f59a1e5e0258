"""Random transforms for training, as one MONAI chain.

It serves 2D, 2D with neighbouring slices, and 3D.

Inside the chain an image is (modalities, slices, *patch), with a single "slice" in 3D: so each step treats a modality's
slices alike, and torch's functions of (batch, channels, ...) fit. The intensity changes are plain functions on plain
tensors: MONAI's dictionary transforms of the same meaning keep meta data, and that took longer than the work on a 2D
patch.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.transforms import Compose, RandomizableTransform

from transforms.augment.changes import (
    Change,
    at_low_resolution,
    blurred,
    brightened,
    enlarged,
    left_out,
    one_modality,
    with_bias_field,
    with_contrast,
    with_gamma,
    with_noise,
)

MARGIN = 0.15
"""A crop has this share of the patch more on each side, for the corners of a patch that is rotated by 15 degrees."""
Sample = dict[Hashable, Any]


def crop_size(spatial_dims: int, patch: Sequence[int], context: int = 0) -> tuple[int, int, int]:
    """Return the size in voxels of the crop that :func:`training_chain` takes.

    It is the patch with a margin; in 2D its slice and neighbours.
    """
    # The same on both sides, so that the patch's middle is the crop's to the voxel and nothing is blurred for want of
    # it.
    sizes = [n + 2 * math.ceil(MARGIN * n) for n in patch]
    return (*sizes, 2 * context + 1) if spatial_dims == 2 else tuple(sizes)  # type: ignore[return-value]


def training_chain(
    spatial_dims: int,
    patch: Sequence[int],
    n_probabilities: int = 0,
    *,
    rotate_degrees: float = 15.0,
    scale: float = 0.2,
    elastic: float = 0.03,
    flip_axes: Sequence[int] = (0, 1, 2),
    contrast: float = 0.3,
    brightness: float = 0.3,
    gamma: float = 0.4,
    bias_field: float = 0.2,
    noise: float = 0.1,
    blur: float = 0.8,
    low_resolution: float = 0.2,
    missing_modality: float = 0.0,
) -> Compose:
    """Move and disturb one training sample.

    Input is a dictionary with ``image`` (modalities, c1, c2, c3) float32, z-scored with background 0, and ``regions``
    (regions, c1, c2, c3) float32 in [0, 1] or NaN, at :func:`crop_size`. Output has ``image`` and ``regions`` at the
    size ``patch``; in 2D the image's channels are modalities times slices (:func:`slices_as_channels`), and the regions
    are those of the middle slice.

    The options are those of :class:`pipeline.config.AugmentConfig`; with all of them 0 or empty the patch is the
    middle of the crop to the bit. Where a modality is 0 (background, or missing altogether), intensity changes keep
    it 0. ``chain.set_random_state(seed)`` before a sample decides all of it.

    The last ``n_probabilities`` channels of the image are a first network's probabilities: they are moved as the images
    are, and no change of intensities touches them; where no image shows anything they become 0, as the predictor has
    it.
    """
    # One sequence of an examination is often worse than the others, or not there at all: those strike one modality.
    changes: list[tuple[float, float, Change]] = [
        (blur, 0.1, partial(blurred, largest=blur)),
        (low_resolution, low_resolution, partial(one_modality, change=at_low_resolution)),
        (bias_field, 1 / 3, partial(with_bias_field, deviation=bias_field)),
        (contrast, 0.7, partial(with_contrast, largest=contrast)),
        (brightness, 0.7, partial(brightened, largest=brightness)),
        (gamma, 1 / 3, partial(with_gamma, largest=gamma)),
        (noise, 1 / 3, partial(with_noise, largest=noise)),
        (missing_modality, missing_modality, partial(one_modality, change=left_out)),
    ]
    wanted = [(probability, change) for option, probability, change in changes if option > 0]
    moved = RandMoved(patch, rotate_degrees, scale, elastic, flip_axes)
    return Compose([moved, RandChanged(wanted, n_probabilities), _finish])


class RandMoved(RandomizableTransform):
    """Random rotation, scale, mirroring and bending of image and regions together.

    One linear interpolation gives the patch.

    What lies beyond the crop is 0; NaN in a region that is NaN at the crop's edge there. A voxel that is interpolated
    from NaN is NaN.

    Parameters
    ----------
    patch : sequence of int
        Two numbers move each slice in its plane (all slices alike), three move the volume.
    rotate_degrees, scale, elastic, flip_axes
        As in :class:`pipeline.config.AugmentConfig`; in 2D the third axis is not mirrored.

    Raises
    ------
    ValueError
        The crop has not the size of :func:`crop_size`.
    """

    def __init__(
        self, patch: Sequence[int], rotate_degrees: float, scale: float, elastic: float, flip_axes: Sequence[int]
    ) -> None:
        super().__init__(1.0)
        self.patch = tuple(patch)
        self.rotate_degrees, self.scale, self.elastic = rotate_degrees, scale, elastic
        self.flip_axes = [axis for axis in sorted(set(flip_axes)) if axis < len(self.patch)]

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        image, regions = data["image"], data["regions"]
        wanted = crop_size(len(self.patch), self.patch)[: len(self.patch)]
        if tuple(image.shape[1 : 1 + len(wanted)]) != wanted:
            raise ValueError(f"a patch of {self.patch} is cut from {wanted} voxels (crop_size), not {image.shape[1:]}")
        if len(self.patch) == 2:
            image, regions = image.movedim(-1, 1), regions[..., regions.shape[-1] // 2]
        else:
            image = image[:, None]
        modalities, slices = image.shape[:2]
        moved = self._moved(torch.cat((image.flatten(0, 1), regions)))
        image, regions = moved[: modalities * slices], moved[modalities * slices :]
        return {"image": image.unflatten(0, (modalities, slices)), "regions": regions}

    def _moved(self, crop: torch.Tensor) -> torch.Tensor:
        """Move (channels, *crop) to (channels, *patch)."""
        matrix, bend = self._matrix(), self._bend()
        if bend is None and np.array_equal(abs(matrix), np.eye(len(self.patch))):
            middle = crop
            for axis, (n, inner) in enumerate(zip(crop.shape[1:], self.patch, strict=True), start=1):
                middle = middle.narrow(axis, (n - inner) // 2, inner)
            return middle.flip([1 + int(axis) for axis in np.flatnonzero(np.diag(matrix) < 0)])
        # From voxels off the crop's middle to [-1, 1] from its first to its last voxel; grid_sample's last axis first.
        half = np.array([max(n - 1, 1) / 2 for n in crop.shape[1:]])
        columns = torch.as_tensor(np.flip(matrix / half[:, None], 0).T.copy(), dtype=torch.float32)
        place = torch.zeros(len(self.patch)) if bend is None else (bend / torch.as_tensor(half).float()).flip(-1)
        for axis, n in enumerate(self.patch):
            offset = torch.arange(n, dtype=torch.float32) - (n - 1) / 2
            shape = [n if other == axis else 1 for other in range(len(self.patch))]
            place = place + (offset[:, None] * columns[axis]).reshape(*shape, -1)
        moved = F.grid_sample(crop[None], place[None], align_corners=True)[0]
        for channel, voxels in zip(moved, crop, strict=True):
            if voxels.isnan().any():  # beyond the crop nothing is known either where nothing is at its edge
                edge = F.grid_sample(voxels[None, None], place[None], padding_mode="border", align_corners=True)[0, 0]
                channel.masked_fill_(edge.isnan(), torch.nan)
        return moved

    def _matrix(self) -> np.ndarray:
        """Return the matrix from an offset in the patch to the crop's.

        Offsets are in voxels off the middle.
        """
        dims = len(self.patch)
        matrix = np.eye(dims)
        for first, second in [(0, 1), (0, 2), (1, 2)][: 1 if dims == 2 else 3]:
            angle = math.radians(self.R.uniform(-self.rotate_degrees, self.rotate_degrees))
            turn = np.eye(dims)
            turn[first, first] = turn[second, second] = math.cos(angle)
            turn[first, second], turn[second, first] = -math.sin(angle), math.sin(angle)
            matrix = matrix @ turn
        sizes = self.R.uniform(-self.scale, self.scale) + self.R.uniform(-self.scale / 2, self.scale / 2, dims)
        matrix = matrix @ np.diag(np.exp(sizes))
        for axis in self.flip_axes:
            if self.R.rand() < 0.5:
                matrix[:, axis] *= -1
        return matrix

    def _bend(self) -> torch.Tensor | None:
        """Draw smooth displacements (*patch, dims) in voxels."""
        if self.elastic == 0 or self.R.rand() >= 1 / 3:
            return None
        nodes = tuple(int(self.R.randint(4, 8)) for _ in self.patch)
        shift = torch.as_tensor(self.R.standard_normal((len(self.patch), *nodes)), dtype=torch.float32)
        shift *= torch.tensor([self.elastic * n for n in self.patch]).reshape(-1, *(1,) * len(nodes))
        return enlarged(shift[None], self.patch)[0].movedim(0, -1)


class RandChanged(RandomizableTransform):
    """Random changes of an image (modalities, slices, *patch).

    Each of ``changes`` is made with its probability, one after the other.

    One transform rather than one for each, for to seed a generator takes longer than most changes. The last
    ``n_probabilities`` channels are not changed.
    """

    def __init__(self, changes: Sequence[tuple[float, Change]], n_probabilities: int = 0) -> None:
        super().__init__(1.0)
        self.changes, self.n_probabilities = list(changes), n_probabilities

    def __call__(self, data: Mapping[Hashable, Any]) -> Sample:
        n_images = len(data["image"]) - self.n_probabilities
        image, probabilities = data["image"][:n_images], data["image"][n_images:]
        shown = image != 0
        for probability, change in self.changes:
            if self.R.rand() < probability:
                image = change(image, self.R)
        # The background of each modality is exactly 0 when the network is used.
        image = image * shown
        if self.n_probabilities:
            image = torch.cat((image, probabilities * shown.any(dim=0)))
        return {**data, "image": image}


def _finish(sample: Mapping[Hashable, Any]) -> Sample:
    """Make channels of modalities and slices."""
    return {"image": sample["image"].flatten(0, 1), "regions": sample["regions"]}
