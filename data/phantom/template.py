"""Head of a phantom patient: nilearn's MNI152 template [1]_, deformed at random.

The template of nilearn's wheel is also turned and scaled.

References
----------
.. [1] Fonov et al., Unbiased average age-appropriate atlases for pediatric studies, NeuroImage 54, 2011.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data.errors import UsageError
from data.phantom.fields import Array, Axes, rotation, smooth_noise, stream

TEMPLATE_FILE = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"


@lru_cache(maxsize=1)
def template() -> tuple[NDArray[np.uint8], NDArray[np.uint8], Array]:
    """Read MNI152: T1 and white matter fraction (0-255, 1 mm), and depth below the brain's surface in mm (2 mm).

    The files are read where nilearn's wheel puts them: importing nilearn.datasets takes seconds, the files 0.2 s.
    """
    t1, grey, white = (
        np.asarray(nib.Nifti1Image.from_filename(template_file(name)).dataobj) for name in ("t1", "gm", "wm")
    )
    fraction = white.astype(np.float32) / np.maximum(white.astype(np.float32) + grey, 1.0)
    depth = ndimage.distance_transform_edt(np.pad(t1[::2, ::2, ::2] > 0, 1), sampling=2.0)[1:-1, 1:-1, 1:-1]
    return t1, (fraction * 255).astype(np.uint8), depth.astype(np.float32)


def template_file(kind: str) -> Path:
    """Return the path of MNI152 in nilearn's wheel: ``t1`` (a brain without skull), ``gm`` or ``wm``.

    Raises
    ------
    data.errors.UsageError
        nilearn is not installed.
    """
    package = importlib.util.find_spec("nilearn")
    if package is None or package.origin is None:
        raise UsageError("the MNI152 template of nilearn is not installed: run 'pip install nilearn'")
    return Path(package.origin).parent / "datasets" / "data" / TEMPLATE_FILE.format(kind)


@dataclass(frozen=True)
class Pose:
    """Place of a seed's head, and the push of its tumour.

    It maps places in mm to template voxels.
    """

    seed: int
    focus_mm: tuple[float, float, float] | None = None
    push: float = 0.0
    push_mm: float = 30.0

    def template_voxels(self, axes: Axes) -> Array:
        """Template voxel (1 mm) under each place, (3, b1, b2, b3)."""
        rng = stream(self.seed, "pose")
        angles = np.deg2rad(rng.uniform(-6, 6, 3))
        scale = rng.uniform(0.88, 0.97) * rng.uniform(0.97, 1.03, 3)
        shift = rng.uniform(-3, 3, 3)
        middle = np.array([98.0, 117.0, 79.0])
        x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
        if self.focus_mm is not None:
            fx, fy, fz = self.focus_mm
            pull = 1 - self.push * np.exp(-((x - fx) ** 2 + (y - fy) ** 2 + (z - fz) ** 2) / self.push_mm**2)
            x, y, z = (np.float32(f) + (v - np.float32(f)) * pull for v, f in ((x, fx), (y, fy), (z, fz)))
        matrix = (rotation(angles) / scale[:, None] * np.array([-1.0, -1.0, 1.0])).astype(np.float32)
        place = np.empty((3, *(len(axis) for axis in axes)), dtype=np.float32)
        for k in range(3):
            place[k] = matrix[k, 0] * x + matrix[k, 1] * y + matrix[k, 2] * z + np.float32(middle[k] + shift[k])
            for scale_mm, amount in ((55.0, 4.5), (22.0, 1.8), (10.0, 0.8)):
                rng = stream(self.seed, f"deform {k} {scale_mm}")
                place[k] += np.float32(amount) * smooth_noise(axes, scale_mm, rng)
        return place
