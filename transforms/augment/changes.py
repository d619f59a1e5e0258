"""Random changes of intensities: contrast, brightness, gamma, bias field, noise, blur, resolution.

Each takes and gives an image (modalities, slices, *patch) float32, z-scored, of which nothing is changed in place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import scipy.ndimage as ndi
import torch
import torch.nn.functional as F
from monai.utils.misc import MAX_SEED

Random = np.random.RandomState
Change = Callable[[torch.Tensor, Random], torch.Tensor]


def _per_modality(values: np.ndarray, image: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.float32).reshape(-1, *(1,) * (image.ndim - 1))


def with_contrast(image: torch.Tensor, random: Random, largest: float) -> torch.Tensor:
    """Multiply each modality by its own factor, up to ``largest`` off 1."""
    return image * _per_modality(1 + random.uniform(-largest, largest, len(image)), image)


def brightened(image: torch.Tensor, random: Random, largest: float) -> torch.Tensor:
    """Add its own number to each modality, up to ``largest`` off 0."""
    return image + _per_modality(random.uniform(-largest, largest, len(image)), image)


def with_gamma(image: torch.Tensor, random: Random, largest: float) -> torch.Tensor:
    """Raise each modality to its own power.

    Its least and its greatest value stay.
    """
    bound = -math.log(1 - largest)
    exponent = _per_modality(np.exp(random.uniform(-bound, bound, len(image))), image)
    every = tuple(range(1, image.ndim))
    low, high = image.amin(every, keepdim=True), image.amax(every, keepdim=True)
    extent = (high - low).clamp_min(1e-6)
    return ((image - low) / extent) ** exponent * extent + low


def with_bias_field(image: torch.Tensor, random: Random, deviation: float) -> torch.Tensor:
    """Multiply each modality by its own smooth field, as a coil's sensitivity does.

    Slices share theirs.

    The images are z-scored: a field ``1 + b`` on an intensity of mean m and deviation s makes ``z + b (z + m / s)``;
    m / s is taken as 2, as inside a brain.
    """
    nodes = [max(1, min(4, n // 4)) for n in image.shape[2:]]
    coarse = torch.as_tensor(random.normal(0, deviation, (len(image), 1, *nodes)), dtype=torch.float32)
    return image + enlarged(coarse, image.shape[2:]) * (image + 2)


def with_noise(image: torch.Tensor, random: Random, largest: float) -> torch.Tensor:
    """Add Gaussian noise of one deviation up to ``largest``."""
    deviation = random.uniform(0, largest)
    # RandomState draws doubles, four times slower.
    generator = np.random.default_rng(random.randint(MAX_SEED, dtype="uint32"))
    noise = torch.as_tensor(generator.standard_normal(tuple(image.shape), dtype=np.float32))
    return image + noise.mul_(deviation)


def blurred(image: torch.Tensor, random: Random, largest: float) -> torch.Tensor:
    """Smooth by a Gaussian of a third of ``largest`` up to it, in voxels."""
    sigmas = [random.uniform(largest / 3, largest) for _ in image.shape[2:]]
    # scipy, for it needs an eighth of the time of MONAI's filter, whose 3D convolutions are slow on a CPU.
    return torch.as_tensor(ndi.gaussian_filter(image.numpy(), (0, 0, *sigmas), mode="nearest"))


def one_modality(image: torch.Tensor, random: Random, change: Change) -> torch.Tensor:
    """Change one modality, drawn at random, and leave the others alone."""
    index = int(random.randint(len(image)))
    image = image.clone()
    image[index] = change(image[index : index + 1], random)[0]
    return image


def at_low_resolution(image: torch.Tensor, random: Random) -> torch.Tensor:
    """Sample at .25 to .8 of the resolution and interpolate back."""
    zoom = random.uniform(0.25, 0.8)
    size = [max(1, round(zoom * n)) for n in image.shape[2:]]
    # "nearest-exact" takes the middles of the coarse voxels, where the way up expects them; "nearest" moves the image.
    coarse = F.interpolate(image, size=size, mode="nearest-exact")
    return F.interpolate(coarse, size=image.shape[2:], mode="bilinear" if len(size) == 2 else "trilinear")


def left_out(image: torch.Tensor, random: Random) -> torch.Tensor:
    """Return zeros, as for a modality that is missing."""
    return torch.zeros_like(image)


def enlarged(field: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Bring a coarse (batch, channels, ...) field to ``size``."""
    return F.interpolate(field, size=tuple(size), mode="bicubic" if len(size) == 2 else "trilinear", align_corners=True)
