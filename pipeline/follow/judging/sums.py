"""Sums over lesions at each visit, with merged and split lesions counted as one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.follow.criteria import Criterion
from pipeline.follow.measures import LesionMeasure, VisitMeasures


@dataclass(frozen=True)
class Lesions:
    """Lesions of one region over the visits up to the one that is judged.

    Lesions that have merged by then, and parts of one that has split, are one: their sizes are added up at every visit,
    so that like is compared with like. Later visits change nothing.
    """

    criterion: Criterion
    region: str
    visits: tuple[VisitMeasures, ...]
    root: dict[int, int]
    """Number under which each lesion is counted: the lowest of those that have merged."""

    def at(self, index: int, lesion: int | None = None) -> list[LesionMeasure]:
        """Return the measures of a visit, or of one lesion with its parts."""
        own = [each for each in self.visits[index].lesions if each.region == self.region]
        return own if lesion is None else [each for each in own if self.root[each.lesion] == lesion]

    def present(self, index: int) -> set[int]:
        """Return the lesions of a visit, merged ones once."""
        return {self.root[each.lesion] for each in self.at(index)}

    def size(self, index: int, lesions: Iterable[int]) -> float:
        """Return the sum over some lesions at a visit in mm2 or ml."""
        wanted = set(lesions)
        found = [each for each in self.at(index) if self.root[each.lesion] in wanted]
        return sum(each.product_mm2 if self.criterion.measure == "product" else each.volume_ml for each in found)

    def measurable(self, index: int, lesion: int) -> bool:
        """Tell whether a lesion is measurable at a visit, by these criteria."""
        return any(_measurable(self.criterion, each) for each in self.at(index, lesion))

    def diameters(self, index: int, lesion: int) -> tuple[float, float]:
        """Return the diameters in mm of a lesion's largest part, or zeros."""
        parts = sorted(self.at(index, lesion), key=lambda each: each.product_mm2)
        return (parts[-1].longest_mm, parts[-1].perpendicular_mm) if parts else (0.0, 0.0)


def lesions_until(criterion: Criterion, region: str, visits: Sequence[VisitMeasures]) -> Lesions:
    """Return the lesions of a region over some visits."""
    root: dict[int, int] = {}

    def top(lesion: int) -> int:
        while root.setdefault(lesion, lesion) != lesion:
            lesion = root[lesion]
        return lesion

    for visit in visits:
        for each in visit.lesions:
            if each.region == region:
                top(each.lesion)
                for other in (*each.merged, *(() if each.split_from is None else (each.split_from,))):
                    low, high = sorted((top(each.lesion), top(other)))
                    root[high] = low
    return Lesions(criterion, region, tuple(visits), {lesion: top(lesion) for lesion in list(root)})


def _measurable(criterion: Criterion, lesion: LesionMeasure) -> bool:
    if criterion.measure == "volume":
        return lesion.measurable_3d
    if criterion.name == "rano2010" and lesion.measurable_2010 is not None:
        return lesion.measurable_2010
    return lesion.measurable
