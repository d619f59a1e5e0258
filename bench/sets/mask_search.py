"""Search by masks: the same tumour in two sets, under any name.

Whole volumes lie on the 240 x 240 x 155 grid of BraTS (1 mm, axes L, P, S). The BraTS 2020 cubes hold each volume's
labels at 128 places along each axis, ends included; so that every mask is compared at those places.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.case import ImageSource
from data.io.read import read_label_map

FULL = (240, 240, 155)
PLACES = tuple(np.rint(np.arange(128) * (n - 1) / 127).astype(int) for n in FULL)
SAME_DICE = 0.98
"""Above it two masks are one: the nearest other patients reach .79 as volumes."""
RESIZED_DICE = 0.9
"""The same for slices that were resized (224 x 224), or whose plane the 128 places skip: the best match, above this."""
SMALLEST = 150
"""Pixels at the 128 x 128 places: a smaller slice of a tumour is a blob like any other."""


@dataclass(frozen=True, eq=False)
class Volumes:
    """Whole-tumour masks of many patients at the 128 places, by case id; ``masks`` is (n, 128, 128, 128) in bits."""

    names: tuple[str, ...]
    bits: NDArray[np.uint8]
    areas: NDArray[np.int32]

    @classmethod
    def of(cls, masks: Mapping[str, NDArray[np.bool_]]) -> Volumes:
        """Stack masks (128, 128, 128) bool by name."""
        bits = np.stack([np.packbits(np.moveaxis(mask, 2, 0).reshape(128, -1), axis=1) for mask in masks.values()])
        return cls(tuple(masks), bits, np.bitwise_count(bits).sum(axis=2, dtype=np.int32))


def at_places(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Take a mask (240, 240[, 155]) at the 128 places of each axis."""
    return mask[np.ix_(*PLACES[: mask.ndim])]


def whole_mask(path: Path) -> NDArray[np.bool_] | None:
    """Whole tumour of a label file at the 128 places; None where the volume is of another shape."""
    labels = read_label_map(ImageSource((path,)))
    turned = labels.grid.turn(labels.array, "LPS")
    return at_places(np.asarray(turned > 0, bool)) if turned.shape == FULL else None


def slice_masks(files: Mapping[str, Path]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Read whole-tumour masks (128, 128) of single slices by case id.

    They are .h5 of 240 x 240, or .png of 224 x 224 resized to it.
    """
    for name, path in files.items():
        if path.suffix == ".h5":
            with h5py.File(path) as file:
                yield name, at_places(np.asarray(np.array(file["mask"]).any(axis=-1), bool))
        else:
            label = path.parent.parent / "labelcol" / f"{path.stem}_seg.png"
            pixels = np.asarray(Image.open(label).resize(FULL[:2], Image.Resampling.BILINEAR))
            yield name, at_places(np.asarray(pixels > 127, bool))


def nearest_slices(mask: NDArray[np.bool_], volumes: Volumes) -> list[tuple[float, str]]:
    """Best Dice of a slice with any axial plane of each volume, best first; (128, 128) bool."""
    bits, area = np.packbits(mask.ravel()), int(mask.sum())
    # Dice d needs areas whose ratio is d / (2 - d) at least.
    near = (volumes.areas > area * 0.7) & (volumes.areas < area / 0.7)
    best: dict[str, float] = {}
    patients, planes = np.nonzero(near)
    both = np.bitwise_count(volumes.bits[patients, planes] & bits).sum(axis=1, dtype=np.int64)
    for patient, value in zip(patients, 2 * both / (volumes.areas[patients, planes] + area), strict=True):
        name = volumes.names[patient]
        best[name] = max(best.get(name, 0.0), float(value))
    return sorted(((value, name) for name, value in best.items()), reverse=True)


def nearest_volumes(mask: NDArray[np.bool_], volumes: Volumes) -> list[tuple[float, str]]:
    """Dice of a whole mask, (128, 128, 128) bool, with each volume, best first."""
    own = Volumes.of({"": mask})
    both = np.array([np.bitwise_count(bits & own.bits[0]).sum(dtype=np.int64) for bits in volumes.bits])
    dice = 2 * both / np.maximum(volumes.areas.sum(axis=1) + own.areas.sum(), 1)
    return sorted(zip(dice.tolist(), volumes.names, strict=True), reverse=True)
