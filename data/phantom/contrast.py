"""Contrast of a phantom patient: intensities by tissue, texture, bias field and noise.

It knows nothing of shapes.

Two kinds. "mri" is what a clinical scanner shows: the intensities were set beside real patients of BraTS 2021 [1]_,
z-scores over the brain, per region and modality. "random" is SynthSeg's generative model [2]_: the mean and standard
deviation of every tissue in every modality are drawn from the same wide ranges, then bias field, gamma and resolution,
so that a network cannot rely on any contrast. One rule of its own: what is labelled must be seen (`is_visible`).

References
----------
.. [1] Baid et al., The RSNA-ASNR-MICCAI BraTS 2021 benchmark, arXiv:2107.02314, 2021.
.. [2] Billot et al., SynthSeg: Segmentation of brain MRI scans of any contrast and resolution without retraining,
       Medical Image Analysis 86:102789, 2023.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count

import numpy as np
from scipy import ndimage

from data.phantom.anatomy import TISSUES, Anatomy
from data.phantom.fields import Array, smooth_noise, stream

CONTRAST: Mapping[str, Mapping[str, float]] = {
    modality: dict(zip((*TISSUES, "sd"), row, strict=True))
    for modality, row in {
        #        csf   gm    wm   wmh  oedema necrosis rim  vessel  sd
        "t1":    (-2.5, -0.3, 1.0, 0.3, 0.20, -0.35, 0.1, -1.0, 0.20),
        "t1c":   (-2.1, -0.2, 0.7, 0.3, 0.05, -0.30, 1.7, 2.6, 0.22),
        "t2":    (4.0, 0.1, -0.45, 0.6, 1.25, 2.40, 1.8, 0.8, 0.32),
        "flair": (-2.1, 0.2, -0.10, 0.9, 1.35, 1.60, 1.6, -0.5, 0.24),
    }.items()
}  # fmt: skip
"""Intensity of each tissue as a z-score of a healthy brain; ``sd`` is that score's unit as a fraction of the mean."""
JITTER = dict(zip((*TISSUES, "sd"), (0.25, 0.12, 0.12, 0.2, 0.25, 0.45, 0.3, 0.8, 0.0), strict=True))
"""Standard deviation, over seeds, of each entry of `CONTRAST`."""

SHOWN_ON: Mapping[str, tuple[str, ...]] = {
    "oedema": ("t2", "flair"),
    "necrosis": ("t1", "t1c", "t2"),
    "rim": ("t1c",),
}
"""Modalities on which a reader looks for each tissue of a tumour."""
BORDERS = (("necrosis", "rim"), ("necrosis", "oedema"), ("rim", "oedema"), ("oedema", "csf"))
"""Tissues that touch and have different labels; each pair must differ on some modality."""


@dataclass(frozen=True)
class RandomContrast:
    """One modality of a random contrast; intensities are fractions of full scale.

    Parameters
    ----------
    means, sds : dict of tissue to float
        Of the Gaussian that each tissue's voxels are drawn from.
    gamma : float
        Exponent that the intensities are raised to.
    bias : float
        Standard deviation of the logarithm of the bias field.
    resolution_mm : three floats
        Voxel of the scanner along each axis; finer than the grid's own changes nothing.
    noise : float
        Standard deviation of the noise that is added last.
    level : float
        Intensity of full scale.
    """

    means: dict[str, float]
    sds: dict[str, float]
    gamma: float = 1.0
    bias: float = 0.0
    resolution_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    noise: float = 0.0
    level: float = 1000.0


def draw_contrast(seed: int) -> dict[str, dict[str, float]]:
    """Return `CONTRAST` with moderate random changes, one drawing for each seed.

    Each modality also gets its ``level``.
    """
    rng = stream(seed, "contrast")
    drawn = {}
    shared = {tissue: rng.normal(0, width) for tissue, width in JITTER.items()}
    for modality, means in CONTRAST.items():
        row = {tissue: mean + 0.5 * shared[tissue] + rng.normal(0, JITTER[tissue]) for tissue, mean in means.items()}
        if modality == "flair":  # a cyst is dark on FLAIR, a solid core is bright
            row["necrosis"] += float(rng.choice([0.0, -2.5], p=[0.8, 0.2]))
        row["sd"] = means["sd"] * rng.uniform(0.8, 1.25)
        row["level"] = rng.uniform(450, 1100)
        drawn[modality] = row
    return drawn


def render(anatomy: Anatomy, contrast: Mapping[str, Mapping[str, float]], seed: int) -> dict[str, Array]:
    """Image an anatomy: intensities by tissue, texture, bias field, noise.

    Parameters
    ----------
    anatomy : Anatomy
    contrast : modality -> {tissue -> z-score, "sd" -> fraction of the mean, "level" -> mean intensity}
        As `draw_contrast` gives it; any other table is as good.
    seed : int
        Of texture, bias field and noise.

    Returns
    -------
    modality -> (b1, b2, b3) float32
        Whole numbers from 1 to 32767 in the brain, 0 outside.
    """
    images = {}
    shared_bias = smooth_noise(anatomy.axes, 90.0, stream(seed, "bias"))
    for modality, means in contrast.items():
        rng = stream(seed, f"noise {modality}")
        z = np.zeros(anatomy.brain.shape, dtype=np.float32)
        for tissue, fraction in anatomy.tissues.items():
            z += np.float32(means[tissue]) * fraction
        ill = anatomy.tissues["oedema"] + anatomy.tissues["necrosis"] + anatomy.tissues["rim"]
        for scale_mm, amount, more_in_tumour in ((4.0, 0.28, 0.1), (14.0, 0.3, 0.2)):
            strength = np.float32(amount) + np.float32(more_in_tumour) * ill
            z += strength * smooth_noise(anatomy.axes, scale_mm, rng)
        noise = rng.standard_normal(z.shape, dtype=np.float32)
        z += np.float32(rng.uniform(0.04, 0.09)) * (noise + ndimage.uniform_filter(noise, 3) * 3)
        bias = 0.5 * shared_bias + 0.8 * smooth_noise(anatomy.axes, 80.0, rng)
        signal = (1 + np.float32(means["sd"]) * z) * np.exp(np.float32(rng.uniform(0.02, 0.06)) * bias)
        image = np.rint(np.clip(np.float32(means["level"]) * signal, 1, 32767))
        images[modality] = np.where(anatomy.brain, image, 0).astype(np.float32)
    return images


def contrast_to_noise(contrast: RandomContrast, tissue: str, other: str) -> float:
    """Difference of two tissues' means over the root mean square of their standard deviations."""
    noise = np.hypot(contrast.sds[tissue], contrast.sds[other]) / np.sqrt(2)
    return float(abs(contrast.means[tissue] - contrast.means[other]) / noise)


def is_visible(contrasts: Mapping[str, RandomContrast]) -> bool:
    """Tell whether a reader could draw the tumour.

    Otherwise its labels would be noise.

    Each tissue of it must differ from both grey and white matter on at least one modality of `SHOWN_ON`, and each pair
    of `BORDERS` on at least one modality. To differ is a contrast-to-noise ratio of 2 or more and, after gamma, a
    distance of 0.15 of full scale or more.
    """

    def differ(contrast: RandomContrast, tissue: str, other: str) -> bool:
        distance = abs(contrast.means[tissue] ** contrast.gamma - contrast.means[other] ** contrast.gamma)
        return distance >= 0.15 and contrast_to_noise(contrast, tissue, other) >= 2

    shown = all(
        any(differ(contrasts[m], tissue, "gm") and differ(contrasts[m], tissue, "wm") for m in modalities)
        for tissue, modalities in SHOWN_ON.items()
    )
    return shown and all(any(differ(c, *pair) for c in contrasts.values()) for pair in BORDERS)


def draw_random_contrast(seed: int) -> dict[str, RandomContrast]:
    """Modality -> random contrast, drawn for ``seed`` until `is_visible`.

    Means from 0.1 to 0.9 and standard deviations from 0.02 to 0.1 of full scale, as in SynthSeg (25 to 225 and 5 to 25
    of 255), but milder resolution (to 2.5 mm in all directions or 5 mm in one) and bias: tumours are small.
    """
    drawn = (
        {modality: _draw_modality(seed, f"random {modality} {attempt}") for modality in CONTRAST} for attempt in count()
    )
    return next(contrasts for contrasts in drawn if is_visible(contrasts))


def _draw_modality(seed: int, purpose: str) -> RandomContrast:
    rng = stream(seed, purpose)
    resolution_mm = np.full(3, rng.uniform(1.0, 2.5))
    if rng.random() < 0.5:
        resolution_mm = np.ones(3)
        resolution_mm[rng.integers(3)] = rng.uniform(1.0, 5.0)
    return RandomContrast(
        means=dict(zip(TISSUES, rng.uniform(0.1, 0.9, len(TISSUES)).tolist(), strict=True)),
        sds=dict(zip(TISSUES, rng.uniform(0.02, 0.1, len(TISSUES)).tolist(), strict=True)),
        gamma=float(np.exp(np.clip(rng.normal(0, 0.4), -0.7, 0.7))),
        bias=float(rng.uniform(0, 0.25)),
        resolution_mm=(float(resolution_mm[0]), float(resolution_mm[1]), float(resolution_mm[2])),
        noise=float(rng.uniform(0.005, 0.03)),
        level=float(rng.uniform(600, 3000)),
    )


def render_random(anatomy: Anatomy, contrasts: Mapping[str, RandomContrast], seed: int) -> dict[str, Array]:
    """Image an anatomy as SynthSeg does.

    It takes a Gaussian for each tissue, bias field, gamma, resolution, noise.

    Parameters
    ----------
    anatomy : Anatomy
    contrasts : modality -> RandomContrast
        As `draw_random_contrast` gives it; any other table is as good.
    seed : int
        Of texture, bias field and noise.

    Returns
    -------
    modality -> (b1, b2, b3) float32
        As `render`.
    """
    images = {}
    for modality, contrast in contrasts.items():
        rng = stream(seed, f"random noise {modality}")
        mean, sd = np.zeros_like(anatomy.tissues["wm"]), np.zeros_like(anatomy.tissues["wm"])
        for tissue, fraction in anatomy.tissues.items():
            mean += np.float32(contrast.means[tissue]) * fraction
            sd += np.float32(contrast.sds[tissue]) * fraction
        # Part of the variance is smooth: tissue is uneven, and white noise alone would not survive a low resolution.
        smooth_share = rng.uniform(0.2, 0.7)
        texture = smooth_noise(anatomy.axes, float(rng.uniform(5.0, 15.0)), rng)
        grain = rng.standard_normal(mean.shape, dtype=np.float32)
        mean += sd * (np.float32(smooth_share**0.5) * texture + np.float32((1 - smooth_share) ** 0.5) * grain)
        mean *= np.exp(np.float32(contrast.bias) * smooth_noise(anatomy.axes, 80.0, rng))
        image = np.maximum(mean, 0) ** np.float32(contrast.gamma)
        for axis in range(3):
            image = _at_resolution(image, anatomy.axes[axis], axis, contrast.resolution_mm[axis], rng)
        image += np.float32(contrast.noise) * rng.standard_normal(image.shape, dtype=np.float32)
        image = np.rint(np.clip(np.float32(contrast.level) * image, 1, 32767))
        images[modality] = np.where(anatomy.brain, image, 0).astype(np.float32)
    return images


def _at_resolution(image: Array, places: Array, axis: int, resolution_mm: float, rng: np.random.Generator) -> Array:
    """Blur along one axis by a slice of that thickness.

    One voxel a slice is kept, and values between the slices are interpolated.
    """
    n = len(places)
    step = float(places[-1] - places[0]) / (n - 1) if n > 1 else resolution_mm
    if resolution_mm <= 1.05 * step:
        return image
    blurred = ndimage.gaussian_filter1d(image, 0.42 * resolution_mm / step, axis=axis, truncate=3.0)  # FWHM: a slice
    kept = np.unique(np.rint(np.arange(rng.uniform(0, 1), n / resolution_mm * step) * resolution_mm / step).astype(int))
    kept = kept[kept < n]
    after = np.clip(np.searchsorted(kept, np.arange(n)), 1, max(len(kept) - 1, 1))
    if len(kept) < 2:
        return blurred
    low, high = kept[after - 1], kept[after]
    weight = np.clip((np.arange(n) - low) / (high - low), 0, 1).astype(np.float32)
    weight = weight.reshape([-1 if k == axis else 1 for k in range(3)])
    return np.asarray((1 - weight) * blurred.take(low, axis) + weight * blurred.take(high, axis), dtype=np.float32)
