"""The contrast of a phantom patient: intensities by tissue, texture, bias field and noise; it knows nothing of shapes.

The intensities were set beside real patients of BraTS 2021 [1]_: z-scores over the brain, per region and modality.

References
----------
.. [1] Baid et al., The RSNA-ASNR-MICCAI BraTS 2021 benchmark, arXiv:2107.02314, 2021.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

from data.phantom_anatomy import TISSUES, Anatomy
from data.phantom_fields import Array, smooth_noise, stream

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


def draw_contrast(seed: int) -> dict[str, dict[str, float]]:
    """`CONTRAST` with moderate random changes, one drawing for each seed; each modality also gets its ``level``."""
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
