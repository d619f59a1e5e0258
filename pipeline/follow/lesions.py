"""Lesions of one patient at several visits, and which of them are the same.

Definitions that every number here rests on:

lesion at a visit
    A 26-connected component of a region's mask on the visit's own grid (:func:`pipeline.score.lesions.find_lesions`);
    it is measured there.
same
    Components of two visits are compared where they lie on the baseline's grid, after registration. Those of a visit
    and of the visit before it are paired so that the volume that pairs share is the largest possible (maximum
    matching): each lesion has at most one successor. Any shared volume counts.
small shift
    Small components may miss each other. Where two left over are both below `SMALL_MM`, they are one lesion if their
    nearest voxels lie within `ERROR_MM` and one voxel's diagonal of the coarser visit. A larger lesion that is moved
    by so little still overlaps itself, so a larger one beside it is another.
split, merged
    A component without a predecessor of which `PART` lies in a lesion of the visit before has split off it; a lesion
    without a successor of which `PART` lies in a component has merged into it. A neighbour does not reach so far:
    where two balls of 5 mm touch, and registration is off by 1 mm, one covers a tenth of the other at most.
returned
    A component without a predecessor that lies, by the rules above, where a lesion was last seen that is gone. One that
    splits off a lesion where another had merged into it takes that one's number again.
new, gone
    All others.

Numbers are given by falling volume, then by place, so they do not depend on the order of components or of axes.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial import KDTree

from pipeline.follow.components import Component, Components
from pipeline.follow.measures import MEASURABLE_MM, LesionMeasure, VisitMeasures

SMALL_MM = float(MEASURABLE_MM)
"""Longest axial diameter below which a lesion may have moved out of its own outline: RANO's bound of measurable."""
ERROR_MM = 1.0
"""Error of a registration that is not doubtful, at most."""
PART = 0.25
"""Of a component's volume, at least, that lies in the lesion that it split off or merged into."""

Event = Literal["first", "same", "new", "returned", "split"]


@dataclass(frozen=True, eq=False)
class Lesion:
    """One lesion at one visit, with the number that it keeps.

    Parameters
    ----------
    lesion : int
        From 1, over all visits.
    component : Component
    event : str
        How it came to be at this visit: at the first one, as the same as before, new, returned, or split.
    split_from : int, optional
        Lesion that it once split off.
    merged : tuple of int
        Lesions that have merged into it and have not come apart since, by rising number.
    """

    lesion: int
    component: Component
    event: Event
    split_from: int | None = None
    merged: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class VisitLesions:
    """Lesions of a region at one visit.

    Parameters
    ----------
    lesions : tuple of Lesion
        By rising number.
    gone : tuple of int
        Lesions of the visit before that are no longer there.
    merged : dict of int to int
        Lesions of the visit before that merged into another, and that one's number.
    """

    lesions: tuple[Lesion, ...] = ()
    gone: tuple[int, ...] = ()
    merged: dict[int, int] = field(default_factory=dict)


def follow_lesions(visits: Sequence[Components | None]) -> list[VisitLesions | None]:
    """Give the lesions of a region the numbers that they keep over all visits.

    Parameters
    ----------
    visits : sequence of Components
        In order of time, all on one baseline's grid. None where the region was not measured; what was there before is
        compared with the next.

    Returns
    -------
    list of VisitLesions
        One for each visit, None where there is none.
    """
    seen: dict[int, _Seen] = {}
    result: list[VisitLesions | None] = []
    for now in visits:
        is_first = all(visit is None for visit in result)
        result.append(None if now is None else _next(seen, now, is_first=is_first))
    return result


def visit_measures(
    label: str,
    by_region: Mapping[str, VisitLesions],
    *,
    date: datetime.date | None = None,
    days: float | None = None,
    order: int = 0,
    flags: tuple[str, ...] = (),
) -> VisitMeasures:
    """Return the measures of a visit, from which its category is computed.

    Parameters
    ----------
    label, date, days, order, flags
        As of `pipeline.follow.measures.VisitMeasures`.
    by_region : region -> VisitLesions
        Of this visit; the lesions of a region have their own numbers.
    """
    measured = []
    for region, visit in by_region.items():
        for found in visit.lesions:
            size = found.component
            measured.append(
                LesionMeasure(
                    lesion=found.lesion,
                    region=region,
                    longest_mm=size.longest_mm,
                    perpendicular_mm=size.perpendicular_mm,
                    volume_ml=size.volume_ml,
                    measurable=size.measurable,
                    measurable_3d=size.measurable_3d,
                    measurable_2010=size.measurable_2010,
                    merged=found.merged,
                    split_from=found.split_from,
                )
            )
    return VisitMeasures(
        label, tuple(measured), date=date, days=days, order=order, regions=tuple(by_region), flags=flags
    )


@dataclass(frozen=True, eq=False)
class _Seen:
    """Lesion as it was last seen; ``is_there`` at the last visit, or merged into another since."""

    at: Components
    component: Component
    split_from: int | None = None
    is_there: bool = True
    merged_into: int | None = None


def _next(seen: dict[int, _Seen], now: Components, *, is_first: bool) -> VisitLesions:
    """Number the components of a visit; ``seen`` is brought up to it."""
    there = [number for number in sorted(seen) if seen[number].is_there]
    absent = [number for number in sorted(seen) if not seen[number].is_there]
    shared = _shared_ml(seen, now)
    components = {c.number: c for c in sorted(now.found, key=lambda each: (-each.volume_ml, each.centre_mm))}
    same = _pairs(there, list(components.values()), seen, shared, now)
    left = [component for number, component in components.items() if number not in same]
    again = _pairs(absent, left, seen, shared, now)
    lesions = [Lesion(lesion, components[c], "same", seen[lesion].split_from) for c, lesion in same.items()]
    fresh = max(seen, default=0)
    for component in left:
        parts = {n: shared[n].get(component.number, 0.0) for n in there}
        source = _largest(parts, component.laid_ml)
        number = again.get(component.number)
        event: Event = "split" if source is not None else "new" if number is None else "returned"
        if number is None:
            number = fresh = fresh + 1
        elif source is None:
            source = seen[number].split_from
        lesions.append(Lesion(number, component, "first" if is_first else event, source))
    lost = _lost(
        set(there) - set(same.values()), {each.component.number: each.lesion for each in lesions}, seen, shared
    )
    for number, target in lost.items():
        seen[number] = replace(seen[number], is_there=False, merged_into=target)
    for lesion in lesions:
        seen[lesion.lesion] = _Seen(now, lesion.component, lesion.split_from)
    found = tuple(replace(each, merged=_within(seen, each.lesion)) for each in sorted(lesions, key=lambda x: x.lesion))
    gone = tuple(number for number, target in lost.items() if target is None)
    return VisitLesions(found, gone, {number: target for number, target in lost.items() if target is not None})


def _shared_ml(seen: Mapping[int, _Seen], now: Components) -> dict[int, dict[int, float]]:
    """Return the volume that lesions share with components of a visit.

    Each lesion counts where it was last seen.
    """
    tables: dict[int, dict[tuple[int, int], float]] = {}
    shared: dict[int, dict[int, float]] = {}
    for lesion, last in seen.items():
        table = tables.get(id(last.at))
        if table is None:
            both = (last.at.laid > 0) & (now.laid > 0)
            pairs, counts = np.unique(np.stack([last.at.laid[both], now.laid[both]]), axis=1, return_counts=True)
            ml = counts * now.baseline.voxel_volume_ml
            table = {(int(a), int(b)): float(each) for (a, b), each in zip(pairs.T, ml, strict=True)}
            tables[id(last.at)] = table
        shared[lesion] = {b: ml for (a, b), ml in table.items() if a == last.component.number}
    return shared


def _pairs(
    lesions: Sequence[int],
    components: Sequence[Component],
    seen: Mapping[int, _Seen],
    shared: Mapping[int, Mapping[int, float]],
    now: Components,
) -> dict[int, int]:
    """Map components to the lesions that they are.

    Shared volume decides, and for small ones left over distance.
    """
    pairs: dict[int, int] = {}
    by_volume = np.array([[shared[n].get(c.number, 0.0) for c in components] for n in lesions])
    for row, column in _assigned(by_volume):
        pairs[components[column].number] = lesions[row]
    small = [n for n in lesions if n not in pairs.values() and seen[n].component.longest_mm < SMALL_MM]
    near = [c for c in components if c.number not in pairs and c.longest_mm < SMALL_MM]
    by_distance = np.array([[_nearness(seen[n], c, now) for c in near] for n in small])
    for row, column in _assigned(by_distance):
        pairs[near[column].number] = small[row]
    return pairs


def _assigned(weights: np.ndarray) -> list[tuple[int, int]]:
    """Return the pairs of rows and columns with the largest sum of weights.

    Those of weight 0 are none.
    """
    if weights.size == 0:
        return []
    rows, columns = linear_sum_assignment(weights, maximize=True)
    pairs = zip(rows.tolist(), columns.tolist(), strict=True)
    return [(row, column) for row, column in pairs if weights[row, column] > 0]


def _nearness(last: _Seen, component: Component, now: Components) -> float:
    """Return by how many mm two components lie within the tolerance, or 0."""
    voxel_mm = max(math.hypot(*last.at.grid.spacing_mm), math.hypot(*now.grid.spacing_mm))
    reach = ERROR_MM + voxel_mm
    apart, _ = KDTree(last.component.places_mm).query(component.places_mm, distance_upper_bound=reach)
    return max(0.0, reach - float(np.min(apart)))


def _largest(parts: Mapping[int, float], whole_ml: float) -> int | None:
    """Return the key of the largest part; None below `PART` of the whole."""
    best = max(parts, key=lambda key: (parts[key], -key), default=None)
    return best if best is not None and 0 < PART * whole_ml <= parts[best] else None


def _lost(
    lesions: Collection[int],
    lesion_of: Mapping[int, int],
    seen: Mapping[int, _Seen],
    shared: Mapping[int, Mapping[int, float]],
) -> dict[int, int | None]:
    """Return the lesion that each lost one has merged into.

    None where it is gone.
    """
    lost: dict[int, int | None] = {}
    for number in sorted(lesions):
        parts = {lesion_of[component]: ml for component, ml in shared[number].items()}
        lost[number] = _largest(parts, seen[number].component.laid_ml)
    return lost


def _within(seen: Mapping[int, _Seen], lesion: int) -> tuple[int, ...]:
    """Return the lesions that have merged into one, or into one of those."""
    own = [number for number in sorted(seen) if seen[number].merged_into == lesion]
    return tuple(sorted({*own, *(each for number in own for each in _within(seen, number))}))
