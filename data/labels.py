"""Label conventions: numbers in a mask, their tissues, and the regions scored.

A convention is a YAML file, in ``conventions/`` or a user's own: its labels, and each region as a set of labels. Both
directions, label map to region masks and back, are derived from those sets, so they cannot drift apart. Facts: BraTS,
MSD, nnU-Net and LGG data pages.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.conventions.parts import REGIONS, own_labels, parse_labels, parse_regions
from data.errors import ConventionError
from data.regular_file import parse_json
from data.strict_yaml import read_strict_yaml
from data.visible import is_visible

Mask = NDArray[np.bool_]
"""Voxels of one region, (d1, ..., dN)."""


def sort_regions(regions: Iterable[str]) -> list[str]:
    """Return each region once: the usual ones first, in the order of `REGIONS`."""
    found = dict.fromkeys(regions)
    return [region for region in REGIONS if region in found] + [region for region in found if region not in REGIONS]


_FOLDER = Path(__file__).parent / "conventions"
CONVENTIONS: tuple[str, ...] = tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))
"""Names of the conventions that are shipped, for `load_convention`."""
_OWN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,49}")
LONGEST_SPELLING = 1000
"""Letters of a user's own convention as JSON: it stands in tables, state files and model files."""


@dataclass(frozen=True, kw_only=True)
class LabelConvention:
    """Numbers by which one data set writes tumour regions.

    Parameters
    ----------
    name, source : str
        Its name, and the data sets that use it.
    labels : mapping of int to str
        Label value (1 to 255) to tissue; 0 is background everywhere and not listed.
    regions : mapping of str to frozenset of int
        Region to its label values, in the order WT, TC, ET, RC; any two regions are nested or disjoint.
    written_as : mapping of str to int
        The value that a voxel gets which lies in this region and in no smaller one.
    """

    name: str
    source: str
    labels: Mapping[int, str]
    regions: Mapping[str, frozenset[int]]
    written_as: Mapping[str, int]

    @property
    def spelling(self) -> str:
        """Text that gives this convention back by `load_convention`, on any machine.

        It is the name of a shipped convention, and the whole content of a user's own as JSON: options, tables, state
        files and model files that name a convention hold this text, and so need no further file.
        """
        if self.name in CONVENTIONS:
            return self.name
        regions = {region: sorted(labels) for region, labels in self.regions.items()}
        return json.dumps({**vars(self), "regions": regions}, separators=(",", ":"))

    def region_masks(
        self, label_map: NDArray[Any], regions: Collection[str] | None = None
    ) -> dict[str, NDArray[np.bool_]]:
        """Masks of the regions, from a label map.

        Parameters
        ----------
        label_map : (d1, ..., dN) of any number type
            Values outside the convention, fractions and NaN lie in no region.
        regions : collection of str, optional
            Which regions to give, in this order; all of the convention's by default.

        Returns
        -------
        dict of str to (d1, ..., dN) bool
            An empty label map gives empty masks.

        Raises
        ------
        ConventionError
            The convention has no such region.
        """
        names = tuple(self.regions) if regions is None else tuple(regions)
        for region in names:
            if region not in self.regions:
                raise ConventionError(
                    f"the convention {self.name} has no region {region}: choose among {', '.join(self.regions)}"
                )
        masks = {}
        for region in names:
            first, *others = sorted(self.regions[region])
            mask = label_map == first  # in its order of axes: crossing orders costs fivefold
            for label in others:
                mask |= label_map == label
            masks[region] = mask
        return masks

    def to_label_map(self, masks: Mapping[str, NDArray[np.bool_]]) -> NDArray[np.uint8]:
        """Return a label map from region masks, painted from the outermost region inwards.

        Parameters
        ----------
        masks : mapping of str to (d1, ..., dN) bool
            Regions that the convention lacks are left out; regions that are not given are not painted.

        Returns
        -------
        (d1, ..., dN) uint8
            Where masks are not nested the inner region wins; where disjoint regions overlap (WT and RC), tumour
            wins, because a
            tumour lost to a cavity is the worse mistake.

        Raises
        ------
        ConventionError
            No mask at all, so no shape.
        ValueError
            The masks have different shapes.
        """
        if not masks:
            raise ConventionError(
                f"no region mask was given to write in the convention {self.name}: give at least one of "
                f"{', '.join(self.regions)}"
            )
        shapes = {np.shape(mask) for mask in masks.values()}
        if len(shapes) > 1:
            raise ValueError(f"region masks must have one shape, not {sorted(shapes)}")
        painted = {r: np.asarray(masks[r], dtype=bool) for r in self._outermost_first() if r in masks}
        label_map = np.zeros_like(next(iter(masks.values())), dtype=np.uint8)  # in its order of axes
        for region, mask in painted.items():
            np.copyto(label_map, self.written_as[region], where=mask)
        return label_map

    def unknown_labels(self, values: Collection[float]) -> tuple[int | float, ...]:
        """Return the distinct values that are neither background nor a label.

        They ascend (NaN last); whole numbers come as int.
        """
        unknown = (
            {float(value) for value in values if not math.isnan(value)}
            - {0.0}
            - {float(label) for label in self.labels}
        )
        tidy: list[int | float] = [int(value) if value.is_integer() else value for value in sorted(unknown)]
        return (*tidy, math.nan) if any(math.isnan(value) for value in values) else tuple(tidy)

    def _outermost_first(self) -> list[str]:
        depth = {name: sum(own < other for other in self.regions.values()) for name, own in self.regions.items()}
        return sorted(self.regions, key=lambda name: (depth[name], -REGIONS.index(name)))


def count_labels(label_map: NDArray[Any]) -> dict[float, int]:
    """Count the voxels of each label in a label map of any shape.

    Background is left out; an empty map gives an empty dictionary.
    """
    if label_map.min(initial=0) >= 0 and label_map.max(initial=0) < 2**16:
        voxels = label_map.ravel(order="K")
        # np.unique would sort nine million voxels, and bincount copies what it counts at eight bytes a voxel.
        counts = np.bincount(voxels[voxels != 0])
        present = np.flatnonzero(counts)
        found = zip(present.tolist(), counts[present].tolist(), strict=True)
    else:
        found = zip(*(part.tolist() for part in np.unique(label_map, return_counts=True)), strict=True)
    return {label: count for label, count in found if label != 0}


@lru_cache(maxsize=64)
def load_convention(spelling: str) -> LabelConvention:
    """Return a convention by its `LabelConvention.spelling`, checked.

    Raises
    ------
    ConventionError
        No convention of this name, or its content is not valid.
    """
    if spelling.startswith("{"):
        return _spelt(spelling)
    if spelling not in CONVENTIONS:
        raise ConventionError(
            f"there is no label convention {spelling[:80]!r}: choose among {', '.join(CONVENTIONS)}, or give a YAML "
            "file of your own"
        )
    path = _FOLDER / f"{spelling}.yaml"
    try:
        return parse_convention(read_strict_yaml(path), str(path))
    except ValueError as error:
        raise ConventionError(str(error)) from error


def convention_name(spelling: str) -> str:
    """Return the name of a convention, for sentences and pages.

    A text that spells none stays as it is.
    """
    try:
        return load_convention(spelling).name
    except ConventionError:
        return spelling


def convention_option(text: str) -> str:
    """Return the `LabelConvention.spelling` of the convention that an option names.

    The option is a shipped name, or the path of a YAML file.

    Raises
    ------
    ConventionError
        There is no such convention, or the file is none.
    """
    if text.lower().endswith((".yaml", ".yml")):
        return read_convention(Path(text)).spelling
    if text not in CONVENTIONS and os.path.exists(text):
        kind = "is a folder" if os.path.isdir(text) else "is a file whose name does not end in .yaml"
        raise ConventionError(f"{text} {kind}; give a label convention's YAML file, or one of {', '.join(CONVENTIONS)}")
    return load_convention(text).spelling


def read_convention(path: Path) -> LabelConvention:
    """Read a user's own convention from a YAML file.

    The file has the form of the shipped ones.

    Raises
    ------
    ConventionError
        As `parse_convention`; also where the file cannot be read, or bears the name of a shipped convention.
    """
    try:
        content = read_strict_yaml(path)
    except OSError as error:
        raise ConventionError(f"{path}: cannot be read ({error.strerror}); give a YAML file") from None
    except ValueError as error:
        raise ConventionError(str(error)) from None
    return _checked_own(parse_convention(content, str(path)), str(path))


def _spelt(spelling: str) -> LabelConvention:
    source = "a label convention in JSON"
    try:
        content = parse_json(spelling[: LONGEST_SPELLING + 1])
        content["labels"] = {int(label): tissue for label, tissue in content["labels"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConventionError(f"{source} is damaged: {spelling[:80]!r}; give its YAML file again") from None
    return _checked_own(parse_convention(content, source), source)


def _checked_own(convention: LabelConvention, source: str) -> LabelConvention:
    if not _OWN_NAME.fullmatch(convention.name) or convention.name in CONVENTIONS:
        raise ConventionError(
            f"{source}: the name {convention.name[:80]!r} must be another than those of the shipped conventions, of at "
            "most 50 letters, digits and ._-"
        )
    texts = (convention.source, *convention.labels.values())
    if not all(map(is_visible, "".join(texts))) or len(convention.spelling) > LONGEST_SPELLING:
        raise ConventionError(
            f"{source}: its source and tissues must be printable, and shorter than {LONGEST_SPELLING} letters together"
        )
    return convention


def parse_convention(mapping: Mapping[str, Any], source: str) -> LabelConvention:
    """Make a convention from plain data, refused when it would lose information.

    Parameters
    ----------
    mapping : mapping
        Keys ``name``, ``source``, ``labels`` {value: tissue}, ``regions`` {region: [values]}, and ``written_as``
        {region: value}
        for the regions that have more than one own label.
    source : str
        Where it stands (a file), for the error's text.

    Raises
    ------
    ConventionError
        A key is missing or unknown, a value is no label, two regions overlap without being nested, a region has no
        own label or
        several without a choice, or some combination of regions does not come back from its label.
    """
    unknown = set(mapping) - {"name", "source", "labels", "regions", "written_as"}
    if unknown or not {"name", "source", "labels", "regions"} <= set(mapping):
        raise ConventionError(
            f"{source}: a convention has the keys name, source, labels, regions and perhaps written_as, not "
            f"{sorted(map(str, mapping))}"
        )
    labels = parse_labels(mapping["labels"], source)
    regions = parse_regions(mapping["regions"], labels, source)
    convention = LabelConvention(
        name=str(mapping["name"]),
        source=str(mapping["source"]),
        labels=labels,
        regions=regions,
        written_as=own_labels(regions, mapping.get("written_as") or {}, source),
    )
    _refuse_lossy(convention, source)
    return convention


def _refuse_lossy(convention: LabelConvention, source: str) -> None:
    """Refuse a convention that loses information when it is read back.

    One voxel is painted for every combination of regions that can occur, and read back: by the real code, not by
    argument.
    """
    regions = convention.regions
    possible = []
    for size in range(1, len(regions) + 1):
        for chosen in combinations(regions, size):
            nested = all(regions[a] <= regions[b] or regions[b] <= regions[a] for a, b in combinations(chosen, 2))
            closed = all(outer in chosen for inner in chosen for outer in regions if regions[inner] <= regions[outer])
            if nested and closed:
                possible.append(chosen)
    masks = {name: np.array([name in chosen for chosen in possible]) for name in regions}
    back = convention.region_masks(convention.to_label_map(masks))
    for index, chosen in enumerate(possible):
        read = tuple(name for name in regions if back[name][index])
        if read != chosen:
            raise ConventionError(
                f"{source}: lossy: a voxel in {' and '.join(chosen)} would come back as "
                f"{' and '.join(read) or 'background'}; correct its regions"
            )
