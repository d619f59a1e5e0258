"""Lesions of every visit, with the numbers that they keep."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from data.labels import sort_regions
from pipeline.follow.components import find_components
from pipeline.follow.lesions import VisitLesions, follow_lesions, visit_measures
from pipeline.follow.measures import VisitMeasures
from pipeline.follow.patients.task import PatientTask, Row
from pipeline.follow.patients.visit import Seen, move_of
from pipeline.follow.targets import REGIONS

CAVITY = "RC"


def measure(seen: Sequence[Seen], baseline: Seen) -> tuple[list[VisitMeasures], list[dict[str, VisitLesions]]]:
    """Measure the lesions of all visits and tell which are the same.

    One region is worked on at a time, for a visit's components are two volumes.
    """
    found: list[dict[str, VisitLesions]] = [{} for _ in seen]
    for region in followed_regions(seen):
        components = []
        for each in seen:
            mask = each.masks().get(region) if each.is_there else None
            components.append(None if mask is None else find_components(mask, each.grid, move_of(each), baseline.grid))
        for own, lesions in zip(found, follow_lesions(components), strict=True):
            if lesions is not None:
                own[region] = lesions
    measured = [_measures(each, lesions) for each, lesions in zip(seen, found, strict=True)]
    return measured, found


def followed_regions(seen: Iterable[Seen]) -> list[str]:
    """Return the regions that are followed.

    Those that have criteria, or else all but the cavity.
    """
    there = sort_regions(region for each in seen if each.convention is not None for region in each.convention.regions)
    judged = [region for region in there if region in REGIONS]
    return judged or [region for region in there if region != CAVITY]


def _measures(seen: Seen, lesions: dict[str, VisitLesions]) -> VisitMeasures:
    visit, point = seen.visit, seen.visit.point
    about: dict[str, Any] = {"date": point.date, "days": point.days, "order": point.order, "flags": seen.flags}
    if not seen.is_there:
        return VisitMeasures(visit.label, regions=(), evaluable=False, why_not=seen.why_not, **about)
    return visit_measures(visit.label, lesions, **about)


def volumes_ml(seen: Seen) -> dict[str, float]:
    """Return the volume of every region of a visit, all lesions together."""
    if not seen.is_there:
        return {}
    return {region: float(mask.sum()) * seen.grid.voxel_volume_ml for region, mask in seen.masks().items()}


def lesion_rows(
    task: PatientTask, seen: Sequence[Seen], found: Sequence[dict[str, VisitLesions]], targets: dict[str, set[int]]
) -> list[Row]:
    """Return the rows of lesions_over_time.csv.

    Every lesion at every visit, and those that are gone or merged.
    """
    rows: list[Row] = []
    regions = followed_regions(seen)
    for region in regions:
        for each, own in zip(seen, found, strict=True):
            if region not in own:
                continue
            about: Row = {
                "patient": task.patient, "case": each.visit.case.case_id, "timepoint": each.visit.label,
                "date": each.visit.point.date, "days": each.visit.point.days, "region": region,
            }  # fmt: skip
            chosen = targets.get(region, set())
            rows += [about | row for row in _rows(own[region], chosen)]
    return rows


def _rows(visit: VisitLesions, targets: set[int]) -> Iterable[Row]:
    for each in visit.lesions:
        size = each.component
        yield {
            "lesion": each.lesion,
            "event": each.event + (f" from {each.split_from}" if each.event == "split" else ""),
            "target": each.lesion in targets,
            "measurable": size.measurable,
            "measurable_3d": size.measurable_3d,
            "volume_ml": size.volume_ml,
            "diameter_mm": size.longest_mm,
            "perpendicular_mm": size.perpendicular_mm,
            "product_mm2": size.longest_mm * size.perpendicular_mm,
            "slice": size.slice,
            **dict(zip(("centre_x_mm", "centre_y_mm", "centre_z_mm"), size.centre_mm, strict=True)),
            "merged": " ".join(map(str, each.merged)),
            "split_from": each.split_from,
        }
    for lesion in visit.gone:
        yield {"lesion": lesion, "event": "gone", "target": lesion in targets, "volume_ml": 0.0}
    for lesion, into in visit.merged.items():
        yield {"lesion": lesion, "event": f"merged into {into}", "target": lesion in targets, "volume_ml": 0.0}
