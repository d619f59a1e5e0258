"""Parts of a label convention, checked as they are read from plain data."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

from data.errors import ConventionError

REGIONS = ("WT", "TC", "ET", "RC")
"""Whole tumour, tumour core, enhancing tumour, resection cavity: the order in which regions are always listed."""


def parse_labels(raw: Any, source: str) -> dict[int, str]:
    """Return the tissue of each label, in ascending order. Raises ConventionError."""
    if not isinstance(raw, Mapping) or not raw:
        raise ConventionError(f"{source}: labels must map values to tissues, such as {{1: NCR}}, not {raw!r}")
    for value in raw:
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 255:
            raise ConventionError(
                f"{source}: the label {value!r} must be a whole number from 1 to 255 (0 is background)"
            )
    return {value: str(raw[value]) for value in sorted(raw)}


def parse_regions(raw: Any, labels: Mapping[int, str], source: str) -> dict[str, frozenset[int]]:
    """Return the labels of each region, in the order of `REGIONS`. Raises ConventionError."""
    if (
        not isinstance(raw, Mapping)
        or not raw
        or not all(isinstance(values, list) and values for values in raw.values())
    ):
        raise ConventionError(
            f"{source}: regions must map names to lists of labels, such as {{WT: [1, 2]}}, not {raw!r}"
        )
    for name, values in raw.items():
        if name not in REGIONS:
            raise ConventionError(f"{source}: the region {name!r} must be one of {', '.join(REGIONS)}")
        if any(value not in labels for value in values):
            raise ConventionError(
                f"{source}: the region {name} holds {values}, but the labels are {sorted(labels)}; name them "
                "all under labels"
            )
    regions = {name: frozenset(raw[name]) for name in REGIONS if name in raw}
    for (name, own), (other_name, other) in combinations(regions.items(), 2):
        if own & other and not (own <= other or other <= own):
            raise ConventionError(
                f"{source}: the regions {name} {sorted(own)} and {other_name} {sorted(other)} must be nested or "
                "disjoint"
            )
    for inner, outer in (("ET", "TC"), ("TC", "WT"), ("ET", "WT")):
        if inner in regions and outer in regions and not regions[inner] <= regions[outer]:
            raise ConventionError(
                f"{source}: {inner} {sorted(regions[inner])} must lie in {outer} {sorted(regions[outer])}, or a mask "
                f"loses it: a region holds the labels of all its parts, so add those of {inner} to {outer}"
            )
    homeless = set(labels) - frozenset().union(*regions.values())
    if homeless:
        raise ConventionError(
            f"{source}: the labels {sorted(homeless)} lie in no region and would be lost; put them into one or "
            "leave them out"
        )
    return regions


def own_labels(regions: Mapping[str, frozenset[int]], chosen: Any, source: str) -> dict[str, int]:
    """Return the label that is written for each region.

    A voxel of that region, and of no smaller one, gets it. Raises ConventionError.
    """
    if not isinstance(chosen, Mapping) or not set(chosen) <= set(regions):
        raise ConventionError(
            f"{source}: written_as must map regions of this convention to one label each, not {chosen!r}"
        )
    written_as = {}
    for name, labels in regions.items():
        inner = [
            other for other_name, other in regions.items() if other < labels or (other == labels and other_name != name)
        ]
        own = labels - frozenset().union(*inner)
        if not own:
            raise ConventionError(
                f"{source}: lossy: the region {name} has no label of its own, so a voxel in it and in no "
                "smaller region cannot be written; give it one"
            )
        if name not in chosen and len(own) > 1:
            raise ConventionError(
                f"{source}: the region {name} has the own labels {sorted(own)}; say under written_as which one to write"
            )
        value = chosen.get(name, min(own))
        if value not in own:
            raise ConventionError(
                f"{source}: lossy: written_as says {name} -> {value!r}, but the labels of {name} alone are "
                f"{sorted(own)}; choose among them"
            )
        written_as[name] = value
    return written_as
