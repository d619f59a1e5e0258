"""References on the grid of their images, and the doubts that forbid their use."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.case import ImageSource
from data.errors import InputError, Mend, advise, few
from data.grid import Grid
from data.io.read import MAX_VOXELS, ImageHeader, Volume, read_header, read_label_map
from data.labels import LabelConvention, Mask, count_labels

TUMOUR = 0.5
"""Part of what an image shows that a tumour fills at most: the largest of BraTS fill a quarter of the brain."""
OUTSIDE = 0.1
"""Part of a reference that may lie where its image is 0: a real one, drawn within the brain mask, has next to nothing
there, but a tumour's dark voxels may be 0."""


@dataclass(frozen=True, kw_only=True)
class ReferenceMasks:
    """Masks of a reference on a wanted grid, or a doubt.

    The doubt forbids the reference's use.

    Parameters
    ----------
    masks : mapping of str to (d1, d2, d3) bool
        Region to mask; empty where there is a doubt.
    doubt : str
        One sentence without its end, which says what to do; empty where there is none.
    warnings : tuple of str
        Of the file's header.
    """

    masks: Mapping[str, Mask] = field(default_factory=dict)
    doubt: str = ""
    warnings: tuple[str, ...] = ()


def read_reference(
    source: ImageSource,
    grid: Grid,
    convention: LabelConvention,
    regions: Collection[str] | None = None,
    *,
    max_voxels: int = MAX_VOXELS,
) -> ReferenceMasks:
    """Read a reference and turn its masks to the grid of its images.

    Parameters
    ----------
    source : ImageSource
    grid : Grid
        Of the images. The reference may be stored in another order of axes, which changes no voxel, and
        one of 3D Slicer for the box around its segments alone.
    convention : LabelConvention
        Of the reference.
    regions : collection of str, optional
        Those that are wanted; by default all of the convention's.
    max_voxels : int
        As in `data.io.read.read_header`.

    Returns
    -------
    ReferenceMasks
        With a doubt where the file cannot be read, lies on another grid, or holds labels of another convention.
    """
    name = source.paths[0].name
    warnings: tuple[str, ...] = ()
    try:
        header = read_header(source, max_voxels=max_voxels)
        warnings = header.warnings
        # Its header first: one of another grid, however large, is not unpacked.
        if doubt := other_grid(header, grid):
            return ReferenceMasks(doubt=f"{name} {doubt}; resample it onto theirs", warnings=warnings)
        volume = filled(read_label_map(source, max_voxels=max_voxels), grid)
    except InputError as error:
        return ReferenceMasks(doubt=str(error), warnings=warnings)
    except MemoryError:
        return ReferenceMasks(doubt=f"{name}: there is not enough memory to read it; free some", warnings=warnings)
    warnings = (*volume.header.warnings, *slightly_off(name, volume.grid, grid))
    if doubt := strange_labels(count_labels(volume.array), convention):
        return ReferenceMasks(doubt=advise(f"{name} {doubt}", Mend.NAME_CONVENTION), warnings=warnings)
    turned = volume.grid.turn(volume.array, grid.orientation)
    return ReferenceMasks(masks=convention.region_masks(turned, regions), warnings=warnings)


def other_grid(header: ImageHeader, images: Grid) -> str:
    """Return the doubt on a label map that lies on another grid.

    It is empty where it does not, where its header is a little off (:func:`slightly_off`), and for a segmentation of 3D
    Slicer that is stored for a part of their voxels.
    """
    grid = header.grid
    if grid.off_mm(images) is not None or (header.is_segmentation and grid.offset_in(images) is not None):
        return ""
    return f"lies on another grid ({grid.described()}) than the images ({images.described()})"


def slightly_off(name: str, grid: Grid, images: Grid) -> list[str]:
    """Return a warning where a grid is nearly that of the images."""
    off = grid.off_mm(images)
    if off is None or grid.holds_voxels_of(images):
        return []
    return [
        f"the header of {name} places it {off:.2g} mm off, less than a quarter of a voxel; taken for the same voxels"
    ]


def filled(volume: Volume, images: Grid) -> Volume:
    """Return a segmentation of 3D Slicer on the grid of its images.

    Outside the box for which it is stored it is background. All other label maps, and one that does not lie within the
    images, come back as they are.
    """
    offset = volume.grid.offset_in(images) if volume.header.is_segmentation else None
    if offset is None or volume.grid.holds_voxels_of(images):
        return volume
    part = volume.grid.turn(volume.array, images.orientation)
    array = np.zeros(images.shape, part.dtype, order="F")
    array[tuple(slice(first, first + n) for first, n in zip(offset, part.shape, strict=True))] = part
    return replace(volume, array=array, header=replace(volume.header, grid=images))


def strange_labels(labels: Collection[float], convention: LabelConvention) -> str:
    """Return the doubt on labels that a convention does not know.

    It is empty where there are none.

    ``labels`` may be a mapping to numbers of voxels; 0 is no label.
    """
    unknown = convention.unknown_labels(labels)
    return f"holds the label {few(unknown)}, which {convention.name} does not know" if unknown else ""


def voxels_on(volume: Volume, grid: Grid) -> NDArray[Any] | None:
    """Return the voxels, (d1, d2, d3), in the order of axes of ``grid``; None where they are others.

    Where ``grid`` gives no voxel size there is no place to compare, only the number of voxels.
    """
    volume = filled(volume, grid)
    turned = volume.grid.reoriented(grid.orientation)
    if not (turned.off_mm(grid) is not None if grid.spacing_known else turned.shape == grid.shape):
        return None
    return volume.grid.turn(volume.array, grid.orientation)


def reference_doubts(name: str, whole: NDArray[np.bool_], shown: NDArray[np.bool_]) -> list[str]:
    """Return warnings about a reference that cannot be a tumour's.

    It may be a brain mask, or have labels in the air.

    Parameters
    ----------
    name : str
        Of its file.
    whole : (d1, d2, d3) bool
        Its outermost region.
    shown : (d1, d2, d3) bool
        Where the image on the same grid is not 0.

    Returns
    -------
    list of str
        Empty for an empty reference.
    """
    marked, inside = int(np.count_nonzero(whole)), int(np.count_nonzero(whole & shown))
    brain = int(np.count_nonzero(shown))
    if marked and inside < (1 - OUTSIDE) * marked:
        return [
            f"{name}: {100 * (1 - inside / marked):.0f} % of what it marks lies where the image is 0; check that it is "
            "this patient's tumour"
        ]
    if marked and inside > TUMOUR * brain:
        return [
            f"{name}: it marks {100 * inside / brain:.0f} % of what the image shows, more than a tumour fills; check "
            "that it is no brain mask"
        ]
    return []
