"""Which labels a label map holds, without keeping its voxels: what tells one label convention from another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from data.io.read import MAX_VOXELS, read_label_map

if TYPE_CHECKING:
    from data.case import ImageSource


def read_label_values(source: ImageSource, *, max_voxels: int = MAX_VOXELS) -> frozenset[int]:
    """The labels of a label map but 0, checked as `data.io.read.read_label_map` checks them.

    Parameters
    ----------
    source : ImageSource
    max_voxels : int
        As in `data.io.read.read_header`.

    Returns
    -------
    frozenset of int
        Empty for an empty map.

    Raises
    ------
    InputError
        As `data.io.read.read_label_map`.
    """
    return distinct_labels(read_label_map(source, max_voxels=max_voxels).array)


def distinct_labels(label_map: NDArray[np.generic]) -> frozenset[int]:
    """The labels but 0 of a map of any shape.

    Background is dropped before anything is counted: it is nine voxels of ten, and a count of all would first copy the
    map at eight bytes a voxel.
    """
    voxels = label_map.ravel(order="K")
    labelled = voxels[voxels != 0]
    if not labelled.size:
        return frozenset()
    if int(labelled.min()) >= 0 and int(labelled.max()) < 2**16:
        return frozenset(np.flatnonzero(np.bincount(labelled)).tolist())
    return frozenset(np.unique(labelled).tolist())
