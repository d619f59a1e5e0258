"""Brain in slices of a head.

It takes no network and no atlas, and slices may lie any distance apart.

Around the brain lies the skull, dark in every sequence. A watershed from markers finds that dark line whatever the
brightness on its sides is: each pixel goes to the brain or to the scalp, whichever it reaches by the brighter path.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.ndimage as ndi
import SimpleITK as sitk
from numpy.typing import NDArray

HEAD_LEVEL = 0.12
"""Of a channel's 98th percentile: what is darker is air."""
TOO_BRIGHT = 1.5
"""Times the brain's level: fat, contrast agent and oedema are cut off there, so that no channel outvotes the others."""
SCALP_PX, SEED_PX = 3, 7
"""So deep below the head's face lies no brain; so far within its section in the next slice lies brain."""
OPEN_PX, CLOSE_PX = 4, 20
"""Radius of what is thinner than the brain (vessels, nerves, the dura), and of what is filled in its outline."""
DOWN_PX, UP_PX = 3, 3
"""By so much may the brain's section grow from one slice to the next, down and up from the middle of the head."""
TISSUE = 0.6
"""Brain tissue, in brain levels, the mean of the channels."""
LEAST_TISSUE, LEAST_EDGE, LEAST_SHARE = 0.75, 0.4, 0.06
"""A section is plausible where so much of it is tissue, so much of its border dark, and it is so large a share of the
largest."""
DARK = 0.65
"""Of the section's median: a border is dark where the darkest pixel within 3 is darker."""


def brain_mask(images: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Find the brain in slices of a head with skull and air.

    Parameters
    ----------
    images : (channels, d1, d2, slices) array
        At least one channel, on one grid: T1, T1c or FLAIR. Slices are axial and run from the neck to the vertex, with
        pixels of .7 to 1.1 mm; their distance is of no matter.

    Returns
    -------
    (d1, d2, slices) bool
        Nothing in a slice in which the section found is no plausible one, such as of face, neck or vertex. All False
        where no head is found.

    Notes
    -----
    1. Head: in each slice the largest piece of what is brighter than air in all channels, its outline closed and
       filled.
    2. Brain level of each channel: its median in the depth of the head's middle slices. ``tissue`` is the mean of the
       channels in these units, each cut off at `TOO_BRIGHT`.
    3. From the widest slice of the middle to both ends: a watershed of ``tissue`` [1]_, from a marker within the
       section of the slice before and one in the scalp, then opening, the largest piece, closing, and filling of holes.
       A section lies within that of the slice before, grown by a few pixels.
    4. Sections that do not look like brain are left out, see `LEAST_TISSUE`.

    References
    ----------
    .. [1] Hahn and Peitgen, The skull stripping problem in MRI solved by a single 3D watershed transform, MICCAI 2000.
    """
    images = np.asarray(images, np.float32)
    found = np.zeros(images.shape[1:], bool)
    head = _head(images)
    if not head.any():
        return found
    rows, columns = (np.flatnonzero(head.any(axis=axes)) for axes in ((1, 2), (0, 2)))
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))  # the rest would only cost time
    head, part = head[box], found[box]
    tissue = _in_brain_levels(images[(slice(None), *box)], head)
    areas = head.sum(axis=(0, 1))
    n = head.shape[-1]
    middle = int(np.argmax(np.where(_middle(n), areas, 0)))
    for k, before in _outwards(middle, n):
        if before is None:
            depth = _depth(head[..., k])
            seed, within = depth > 0.25 * depth.max(), np.ones_like(head[..., k])
        elif not part[..., before].any():
            continue
        else:
            depth = _depth(part[..., before])
            deep = 0.5 * depth.max() if before > k else min(SEED_PX, 0.5 * depth.max())
            seed = depth > deep
            within = _grown(part[..., before], DOWN_PX if before > k else UP_PX)
        part[..., k] = _section(tissue[..., k], head[..., k], seed & (tissue[..., k] > TISSUE)) & within
    largest = part.sum(axis=(0, 1)).max()
    for k in range(n):
        if not _plausible(part[..., k], tissue[..., k], largest):
            part[..., k] = False
    return found


def _outwards(middle: int, n: int) -> Iterator[tuple[int, int | None]]:
    """Yield each slice and the one before it.

    The order is from the middle down and then up.
    """
    yield middle, None
    yield from ((k, k + 1) for k in range(middle - 1, -1, -1))
    yield from ((k, k - 1) for k in range(middle + 1, n))


def _middle(n: int) -> NDArray[np.bool_]:
    places = (np.arange(n) + 0.5) / n
    return (places > 0.4) & (places < 0.75) | (n < 4)


def _head(images: NDArray[np.float32]) -> NDArray[np.bool_]:
    levels = HEAD_LEVEL * np.percentile(images.reshape(len(images), -1), 98, axis=1)
    bright: NDArray[np.bool_] = np.all(images > levels[:, None, None, None], axis=0)
    head = np.zeros_like(bright)
    for k in np.flatnonzero(bright.any(axis=(0, 1))):
        head[..., k] = _grown(_largest(_closed(_shrunk(bright[..., k], 1), 4)), 1)
    return head


def _in_brain_levels(images: NDArray[np.float32], head: NDArray[np.bool_]) -> NDArray[np.float32]:
    areas = head.sum(axis=(0, 1))
    deep = np.zeros_like(head)
    for k in np.flatnonzero(_middle(head.shape[-1]) & (areas > 0.6 * areas.max())):
        depth = _depth(head[..., k])
        deep[..., k] = depth > 0.45 * depth.max()
    deep = deep if deep.any() else head
    levels = [max(float(np.median(image[deep])), 1e-6) for image in images]
    smooth = [ndi.gaussian_filter(image, (0.7, 0.7, 0)) for image in images]
    return np.mean([np.minimum(s / level, TOO_BRIGHT) for s, level in zip(smooth, levels, strict=True)], axis=0)


def _section(tissue: NDArray[np.float32], head: NDArray[np.bool_], seed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    scalp = ~head | (_depth(head) <= SCALP_PX)
    markers = np.where(scalp, 2, np.where(seed, 1, 0)).astype(np.uint8)
    if not (markers == 1).any():
        return np.zeros_like(head)
    height = sitk.GetImageFromArray(np.round(-1000 * tissue).astype(np.int16))
    basins = sitk.MorphologicalWatershedFromMarkers(
        height, sitk.GetImageFromArray(markers), markWatershedLine=False, fullyConnected=False
    )
    brain = sitk.GetArrayFromImage(basins) == 1
    opened = _grown(_largest(_shrunk(ndi.binary_fill_holes(brain), OPEN_PX)), OPEN_PX) & brain
    return _closed(opened, CLOSE_PX) & head if opened.any() else opened


def _plausible(section: NDArray[np.bool_], tissue: NDArray[np.float32], largest: int) -> bool:
    if section.sum() < max(LEAST_SHARE * largest, 1):
        return False
    inside = tissue[section]
    border = section & ~ndi.binary_erosion(section)
    dark = ndi.minimum_filter(tissue, 7)[border] < DARK * np.median(inside)
    share = np.mean(inside > TISSUE)
    return bool(share >= LEAST_TISSUE and dark.mean() >= LEAST_EDGE)


# Outlines, by distance in pixels


def _depth(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    depth: NDArray[np.float64] = ndi.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    return depth


def _shrunk(mask: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    return _depth(mask) > radius


def _grown(mask: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    return ndi.distance_transform_edt(~mask) <= radius if mask.any() else mask


def _closed(mask: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """Close a mask and fill its holes.

    Nothing is beyond the faces.
    """
    inside = (slice(radius + 1, -radius - 1),) * 2
    closed = _shrunk(_grown(np.pad(mask, radius + 1), radius), radius)[inside]
    filled: NDArray[np.bool_] = ndi.binary_fill_holes(closed | mask)
    return filled


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    pieces, count = ndi.label(mask)
    return mask if count < 2 else pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
