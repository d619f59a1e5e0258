"""Tumour shapes of real patients, for synthetic ones: label maps without their images.

Every shape keeps the name of its patient, so that what is held back gives no shape either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.errors import InputError, UsageError
from data.labels import load_convention
from pipeline.array_cache import file_digest, read_npz
from pipeline.training.sources.cubes import CUBE_CONVENTION, CUBE_SPACING_MM, GRID_SIDE


@dataclass(frozen=True)
class CubeShape:
    """Label map of a whole patient, as a file of lesion cubes holds it.

    Parameters
    ----------
    path : Path
        Its ``volume_labels`` are read: (128, 128, 128), in `CUBE_CONVENTION`.
    """

    path: Path

    def digest(self) -> str:
        """Return the SHA-256 of everything that decides the shape."""
        return file_digest(self.path)

    def read(self) -> tuple[NDArray[np.uint8], tuple[float, float, float]]:
        """Return the codes of `data.phantom.tumour` and the spacing in mm.

        The codes are 1 necrotic core, 2 oedema, 3 enhancing.

        Raises
        ------
        data.errors.InputError
            The file holds no such label map, or no tumour.
        """
        (labels,) = read_npz(self.path, ("volume_labels",), "volume_labels")
        if labels.shape != (GRID_SIDE,) * 3 or not np.isfinite(labels).all() or not labels.any():
            raise InputError(f"{self.path}: its volume_labels {labels.shape} show no tumour; leave it out")
        masks = load_convention(CUBE_CONVENTION).region_masks(labels, ("WT", "TC", "ET"))
        codes = np.select([masks["ET"], masks["TC"], masks["WT"]], [3, 1, 2], 0)
        return codes.astype(np.uint8), CUBE_SPACING_MM


def cube_shapes(folders: Sequence[tuple[Path, Sequence[str]]]) -> list[CubeShape]:
    """List the shapes of folders of cubes.

    Parameters
    ----------
    folders : sequence of (Path, names)
        A folder of lesion cubes, and the patients of it that may be learnt from.

    Raises
    ------
    data.errors.UsageError
        There is none.
    """
    shapes = [CubeShape(Path(folder, f"{name}.npz")) for folder, names in folders for name in names]
    if not shapes:
        raise UsageError(
            "the recipe's phantom_shapes is real, and no folder of lesion cubes is there; give one (--extra), or set "
            "it to drawn"
        )
    return shapes


def shape_for(seed: int, shapes: Sequence[CubeShape]) -> CubeShape:
    """Return the shape of a synthetic patient, drawn by its seed alone."""
    return shapes[int(np.random.default_rng((seed, 128)).integers(len(shapes)))]
