"""Pictures, growth map and curves of one patient's page."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from data.errors import SegmentationError
from data.grid import Grid
from data.io.read import Volume, read_volume
from data.labels import Mask
from pipeline.follow.criteria import CRITERIA, REPEATABILITY_PERCENT
from pipeline.follow.growth import GAINED, GROWTH_LABELS, LOST, growth_map, growth_ml, lay_mask
from pipeline.follow.patients.task import PatientTask, Row
from pipeline.follow.patients.visit import Seen, move_of
from pipeline.follow.response import PatientResponse
from pipeline.follow.show.curves import Bound, Curve
from pipeline.follow.show.page import regions_of
from pipeline.follow.show.planes import PLANES, Box, cut, filled, fullest_plane, grey_limits, outlined, plane_grid
from pipeline.report.colours import region_colour
from transforms.postprocess import bounding_box

log = logging.getLogger(__name__)

_MARGIN_VOXELS = 4
_AXES = {"axial": 2, "coronal": 1, "sagittal": 0}


@dataclass(frozen=True)
class Growth:
    """Growth of a region between two visits, on the baseline's grid."""

    labels: NDArray[np.uint8]
    told: str
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    """PNG, by plane."""


@dataclass(frozen=True)
class Shown:
    """Pictures of one patient."""

    planes: Sequence[bytes | None]
    """One a visit."""
    told: str
    growth: Growth | None


def draw(task: PatientTask, seen: Sequence[Seen], baseline: Seen, response: PatientResponse) -> Shown:
    """Draw the same axial plane of every visit, and the growth.

    Growth is that from the baseline of the response to the last visit.
    """
    region = _shown_region(seen, response.regions[0])
    first, last = _ends(seen, response)
    areas: list[Mask] = []
    ends: dict[str, Mask] = {}
    total = np.zeros(baseline.grid.shape, np.uint16)
    for each in seen:
        mask = each.masks().get(region) if each.is_there else None
        if mask is None:
            continue
        laid = lay_mask(mask, each.grid, move_of(each), baseline.grid)
        total += laid
        if each.visit.label in (first, last):
            ends[each.visit.label] = laid
    turned = baseline.grid.turn(total, "RAS")
    areas.append(turned)
    index = fullest_plane(areas)
    image = _image_of(baseline, task)
    box = _box(baseline.grid, image, turned > 0)
    plane = plane_grid(baseline.grid, box, "axial", index)
    pictures = [_picture(each, plane, task, image if each is baseline else None) for each in seen]
    told = (
        f"Axial plane {index + 1} of {turned.shape[2]} of {baseline.visit.label}, where {region} is largest over all "
        "visits; the others are laid on it, and the patient\N{RIGHT SINGLE QUOTATION MARK}s left is on the right."
    )
    growth = None
    if first != last and len(ends) == 2:
        growth = _growth(ends[first], ends[last], baseline, image, box, f"{region} from {first} to {last}")
    return Shown(pictures, told, growth)


def _shown_region(seen: Sequence[Seen], judged: str) -> str:
    there = [region for each in seen if each.convention is not None for region in each.convention.regions]
    return judged if judged in there else next((name for name in ("ET", "TC", "WT") if name in there), there[0])


def _ends(seen: Sequence[Seen], response: PatientResponse) -> tuple[str, str]:
    """Return the labels of the visits between which growth is shown."""
    there = {each.visit.label for each in seen if each.is_there}
    ordered = [row.label for row in response.visits if row.label in there]
    first = response.baseline if response.baseline in there else ordered[0]
    return first, ordered[-1]


def _image_of(seen: Seen, task: PatientTask) -> Volume | None:
    source = seen.visit.case.images.get(seen.modality)
    try:
        return None if source is None else read_volume(source, max_voxels=task.options.max_voxels)
    except SegmentationError as error:
        log.debug("no picture of %s: %s", seen.visit.case.case_id, error)
        return None


def _laid(grid: Grid, seen: Seen) -> Grid:
    return Grid(grid.shape, np.linalg.inv(move_of(seen)) @ grid.affine, grid.spacing_known)


def _picture(seen: Seen, plane: Grid, task: PatientTask, image: Volume | None) -> bytes | None:
    if not seen.is_there:
        return None
    image = image or _image_of(seen, task)
    grid = _laid(seen.grid, seen)
    masks = {region: cut(mask, grid, plane) for region, mask in seen.masks().items()}
    if image is None:
        return outlined(None, (0.0, 1.0), masks)
    return outlined(cut(image.array, _laid(image.grid, seen), plane), grey_limits(image.array), masks)


def _box(grid: Grid, image: Volume | None, tumour: NDArray[np.bool_]) -> Box:
    """Return the box that is shown: the head, or the tumour and around it.

    It is in voxels of the baseline's grid turned to RAS.
    """
    shape = grid.reoriented("RAS").shape
    if image is not None and image.grid.matches(grid):
        shown, margin = grid.turn(image.array != 0, "RAS"), _MARGIN_VOXELS
    else:
        shown, margin = tumour, 20
    if not shown.any():
        return [(0.0, n - 1.0) for n in shape]
    found = bounding_box(shown)
    return [
        (float(max(side.start - margin, 0)), float(min(side.stop - 1 + margin, n - 1)))
        for side, n in zip(found, shape, strict=True)
    ]


def _growth(before: Mask, after: Mask, baseline: Seen, image: Volume | None, box: Box, about: str) -> Growth:
    labels = growth_map(before, after)
    ml = growth_ml(labels, baseline.grid)
    told = f"{about}: {ml['gained']:.2f} ml gained, {ml['kept']:.2f} ml kept, {ml['lost']:.2f} ml lost."
    turned = baseline.grid.turn(labels, "RAS")
    changed = (turned == GAINED) | (turned == LOST)
    weights = changed if changed.any() else turned > 0
    pictures = {}
    for name in PLANES:
        axis = _AXES[name]
        index = fullest_plane([np.moveaxis(weights, axis, 2)])
        plane = plane_grid(baseline.grid, box, name, index)
        parts = {GROWTH_LABELS[n]: cut(labels == n, baseline.grid, plane) for n in (1, 2, 3)}
        shown = None if image is None else cut(image.array, image.grid, plane)
        pictures[name] = filled(shown, (0.0, 1.0) if image is None else grey_limits(image.array), parts)
    return Growth(labels, told, pictures)


# ---- curves ----


def curves_of(rows: Sequence[Row], responses: Sequence[PatientResponse]) -> list[Curve]:
    """Return a curve for each set of criteria and each region's volume."""
    days, labels = [row["days"] for row in rows], [row["timepoint"] for row in rows]
    curves = []
    for response in responses:
        rule, own = CRITERIA[response.criterion], {row.label: row for row in response.visits}
        judged = [own[label] for label in labels]
        minor = response.regions[0] in rule.minor_regions
        bounds = [("PD", 1 + rule.progression, "at_nadir"), ("PR", 1 - rule.partial, "at_baseline")]
        bounds += [("MR", 1 - rule.minor, "at_baseline")] if minor else []
        curves.append(
            Curve(
                rule.title,
                f"{rule.unit.replace('mm2', 'mm²')}, targets",
                region_colour(response.regions[0]),
                days,
                labels,
                [row.value for row in judged],
                REPEATABILITY_PERCENT[rule.measure][1] / 100,
                [
                    Bound(
                        name,
                        [
                            float(factor) * reference
                            if row.sides and (reference := getattr(row.sides[0], attribute)) is not None
                            else None
                            for row in judged
                        ],
                    )
                    for name, factor, attribute in bounds
                ],
                ["" if row.category == "BASELINE" else row.category for row in judged],
            )
        )
    for region in regions_of(rows):
        values = [row.get(f"volume_ml_{region}") for row in rows]
        share = REPEATABILITY_PERCENT["volume"][1] / 100
        curves.append(Curve(f"{region}, all lesions", "ml", region_colour(region), days, labels, values, share))
    return curves
