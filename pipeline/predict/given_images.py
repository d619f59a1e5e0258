"""Images of one patient that a program holds as arrays or names as files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray

from data.case import MODALITIES, Case, ImageSource
from data.errors import UsageError

Image = str | Path | Sequence[str | Path] | NDArray[np.generic]
"""A file, the files of its slices, or voxels (d1, d2, d3)."""


@contextmanager
def given_case(images: Mapping[str, Image], affine: ArrayLike | None, name: str) -> Iterator[Case]:
    """Provide the case of images that are given as files or arrays.

    Arrays are written to temporary files, so that they pass the very checks that files pass.

    Parameters
    ----------
    images : mapping of modality (t1, t1c, t2, flair) to Image
    affine : (4, 4) float
        Of all arrays: from voxel indices to mm, x to the right, y to the front, z up. Needed where there is an array.
    name : str
        Of the patient.

    Raises
    ------
    data.errors.UsageError
        A modality is not known, an array has no affine or another number of dimensions than three.
    """
    if unknown := [modality for modality in images if modality not in MODALITIES]:
        raise UsageError(f"images: no modality {', '.join(map(repr, unknown))}; there are {', '.join(MODALITIES)}")
    with TemporaryDirectory(prefix="images-") as folder:
        sources = {}
        for modality, image in images.items():
            if isinstance(image, np.ndarray):
                path = Path(folder) / f"{modality}.nii"
                _write(path, modality, image, affine)
                sources[modality] = ImageSource((path,))
            else:
                files = [image] if isinstance(image, str | Path) else image
                sources[modality] = ImageSource(tuple(Path(file) for file in files))
        place = next((source.paths[0].parent for source in sources.values()), Path(folder))
        yield Case(case_id=name, folder=place, layout="given", layout_reason="named by the caller", images=sources,
                   reference=None)  # fmt: skip


def _write(path: Path, modality: str, array: NDArray[np.generic], affine: ArrayLike | None) -> None:
    matrix = None if affine is None else np.asarray(affine, dtype=np.float64)
    if matrix is None or matrix.shape != (4, 4):
        raise UsageError(f"images: {modality} is an array and needs affine=, a matrix of 4 x 4 from voxels to mm")
    if array.ndim != 3:
        raise UsageError(f"images: {modality} has {array.ndim} dimensions; give an array of three")
    voxels = array if array.dtype in (np.uint8, np.int16, np.float32) else array.astype(np.float32)
    image = nib.Nifti1Image(voxels, matrix)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
