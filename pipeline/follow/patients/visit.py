"""One visit: its mask, the image that shows it, its place and its flags."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.case import GRID_ORDER, ImageSource
from data.errors import InputError, SegmentationError, explain
from data.grid import Grid
from data.io.header import ImageHeader
from data.io.read import Volume, read_header, read_label_map, read_volume
from data.io.suffixes import split_suffix
from data.labels import LabelConvention, Mask, load_convention
from data.output_names import BRAIN, MASK
from pipeline.follow.align import Aligned, align, look_at, stay
from pipeline.follow.patients.scanner import scanner_of
from pipeline.follow.patients.sources import Visit
from pipeline.options import SegmentOptions
from pipeline.score.quality import quality_flags
from transforms.registration.register import Picture

log = logging.getLogger(__name__)

OTHER_VOXELS = 1.2
"""Ratio of two visits' voxels along an axis from which on it is flagged."""


@dataclass(eq=False)
class Seen:
    """Visit as read. Its arrays are one label map, and small pictures for the registration.

    Parameters
    ----------
    visit : Visit
    why_not : str
        Why nothing can be measured; empty where it can.
    labels, header, convention
        Its mask; None where there is none.
    modality : str
        Image that shows it, on the mask's grid where one is; empty where no image can be read.
    picture : Picture or None
        Of that image.
    aligned : Aligned or None
        Its place at the baseline.
    flags : list of str
    """

    visit: Visit
    why_not: str = ""
    labels: NDArray[Any] | None = None
    header: ImageHeader | None = None
    convention: LabelConvention | None = None
    modality: str = ""
    picture: Picture | None = None
    aligned: Aligned | None = None
    flags: tuple[str, ...] = ()
    scanner: str = ""

    @property
    def grid(self) -> Grid:
        """Grid of the mask."""
        assert self.header is not None
        return self.header.grid

    @property
    def is_there(self) -> bool:
        """Tell whether its mask can be measured."""
        return not self.why_not

    def masks(self) -> dict[str, Mask]:
        """Return its regions, (d1, d2, d3) bool each, the outermost first."""
        if self.labels is None or self.convention is None:
            return {}
        return self.convention.region_masks(self.labels)

    def tumour(self) -> Mask | None:
        """Return all that changes: every label, the cavity too."""
        return None if self.labels is None else self.labels != 0


def read_visit(visit: Visit, options: SegmentOptions, like: Seen | None) -> Seen:
    """Read a visit; a fault of it is a reason, never an exception.

    ``like`` is the visit to which it will be registered: the same modality is taken where both have it.
    """
    if visit.why_not or visit.mask is None:
        return Seen(visit, visit.why_not or "no mask")
    try:
        volume = read_label_map(visit.mask, max_voxels=options.max_voxels)
        convention = load_convention(visit.convention)
        _require_known(volume, convention)
    except SegmentationError as error:
        return Seen(visit, explain(error))
    seen = Seen(visit, "", volume.array, volume.header, convention, scanner=scanner_of(visit.case))
    seen.flags = tuple(_own_flags(seen))
    seen.modality = _modality(seen, options, like.modality if like is not None else "")
    if seen.modality:
        with_picture(seen, options)
    return seen


def with_picture(seen: Seen, options: SegmentOptions) -> None:
    """Give a visit the picture by which it is registered."""
    image = read_image(seen, options)
    if image is None:
        seen.modality = ""
        return
    tumour = seen.tumour() if image.grid.matches(seen.grid) else None
    seen.picture = look_at(image.array, image.grid, tumour)


def place_at(baseline: Seen, seen: Seen) -> None:
    """Find the place of a visit at the baseline; a doubt is a flag."""
    if seen is baseline:
        seen.aligned = stay(seen.picture) if seen.picture is not None else None
        return
    if baseline.picture is None or seen.picture is None:
        seen.flags = (*seen.flags, "registration doubtful: no image; places are those of the headers")
        return
    seen.aligned = align(baseline.picture, seen.picture)
    if seen.aligned.doubt:
        seen.flags = (*seen.flags, f"registration doubtful: {seen.aligned.doubt}".replace("; ", ", "))
    seen.picture = None  # it is not asked for again


def move_of(seen: Seen) -> NDArray[np.float64]:
    """Return the (4, 4) matrix from the baseline's places to the visit's."""
    return np.eye(4) if seen.aligned is None else seen.aligned.transform.matrix


def read_image(seen: Seen, options: SegmentOptions) -> Volume | None:
    """Read the image that shows a visit, without skull.

    None where it cannot be read.
    """
    from pipeline.prepare.case import prepare_case

    case, volumes = seen.visit.case, dict[str, Volume]()
    if (kept := _without_skull(seen, options)) is not None:
        return kept
    alone = replace(options, grid="auto")
    if alone.prepare == "always":  # there is nothing to register it to
        alone = replace(alone, prepare="auto")
    try:
        prepare_case(case, alone, [seen.modality], volumes)
    except (SegmentationError, ModuleNotFoundError) as error:
        log.debug("%s: %s is taken as it is (%s)", case.case_id, seen.modality, error)
    return volumes.get(seen.modality)


def _without_skull(seen: Seen, options: SegmentOptions) -> Volume | None:
    """Read the image inside the brain that `segment` has kept.

    None where no brain lies beside the mask.
    """
    mask = seen.visit.mask.paths[0] if seen.visit.mask is not None else Path()
    stem, suffix = split_suffix(mask.name)
    path = mask.with_name(f"{stem.removesuffix(MASK)}{BRAIN}{suffix}")
    if not stem.endswith(f"_{MASK}") or not path.is_file():
        return None
    try:
        image = read_volume(seen.visit.case.images[seen.modality], max_voxels=options.max_voxels)
        brain = read_label_map(ImageSource((path,)), max_voxels=options.max_voxels)
    except SegmentationError as error:
        log.debug("%s: %s is not used (%s)", seen.visit.case.case_id, path, error)
        return None
    if not brain.grid.matches(image.grid):
        return None
    return Volume(np.where(brain.array != 0, image.array, 0), image.header)


def compare_flags(baseline: Seen, seen: Seen) -> None:
    """Flag each difference from the baseline that a change may come from."""
    flags = []
    if baseline.scanner and seen.scanner and baseline.scanner != seen.scanner:
        flags.append(f"other scanner: {seen.scanner}, at the baseline {baseline.scanner}")
    own, then = (each.grid.reoriented("RAS").spacing_mm for each in (seen, baseline))
    if any(max(a, b) > OTHER_VOXELS * min(a, b) for a, b in zip(own, then, strict=True)):
        sizes = (" x ".join(f"{mm:.3g}" for mm in spacing) for spacing in (own, then))
        flags.append("voxel size: {} mm, at the baseline {} mm".format(*sizes))
    if lacking := [name for name in baseline.visit.case.images if name not in seen.visit.case.images]:
        flags.append(f"missing modality: {', '.join(sorted(lacking))}")
    seen.flags = (*flags, *seen.flags)


def _own_flags(seen: Seen) -> list[str]:
    flags = quality_flags(seen.masks(), seen.grid)
    edge = [f"mask at the edge: {flag}" for flag in flags if "edge" in flag]
    lacking = ", ".join(seen.visit.missing_images)
    missing = [f"missing modality: {lacking}, which the model of the mask asks for"] if lacking else []
    return [flag.replace("; ", ", ") for flag in (*missing, *edge, *seen.visit.case.warnings)]


def _require_known(volume: Volume, convention: LabelConvention) -> None:
    if not volume.header.grid.spacing_known:
        raise InputError("the voxel size is not known: nothing in mm or ml can be measured")
    if strange := convention.unknown_labels(np.unique(volume.array).tolist()):
        named = ", ".join(f"{label:g}" for label in strange[:6])
        raise InputError(f"the mask holds labels outside {convention.name}: {named}; name its convention, --convention")


def _modality(seen: Seen, options: SegmentOptions, wanted: str) -> str:
    """Return the image that shows a visit.

    On the mask's grid if one is; that of the baseline before others.
    """
    images = seen.visit.case.images
    order = [name for name in dict.fromkeys((wanted, *GRID_ORDER, *images)) if name in images]
    on_grid = [name for name in order if _lies_on(seen, name, options)]
    return next(iter(_preferred(on_grid, order)), "")


def _preferred(on_grid: Sequence[str], order: Collection[str]) -> list[str]:
    return [*on_grid, *(name for name in order if name not in on_grid)]


def _lies_on(seen: Seen, modality: str, options: SegmentOptions) -> bool:
    try:
        return read_header(seen.visit.case.images[modality], max_voxels=options.max_voxels).grid.matches(seen.grid)
    except InputError:
        return False
