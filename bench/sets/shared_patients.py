"""Patients that several sets share, by names, fingerprints of whole images, and masks.

None of them may be on two sides.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from bench.sets.catalogue import cases_in, patients_of
from bench.sets.mask_search import (
    RESIZED_DICE,
    SAME_DICE,
    SMALLEST,
    Volumes,
    nearest_slices,
    nearest_volumes,
    slice_masks,
    whole_mask,
)
from data.case import Case, ImageSource
from data.errors import InputError
from data.find.discover import discover_cases
from data.same_patient import known_as
from pipeline.fingerprint import SAME, distances
from pipeline.provenance import prints_of
from pipeline.training.splits import Split

COLUMNS = ["how", "set", "case", "other_set", "other", "value"]
LEARNT_FROM = ("brats_2013", "brats2020_cubes", "brats2020_slices", "brats2020_t1ce_slices")
"""Sets of which whatever is not held back may be learnt from; the others are learnt from as the split says, or never.
"""


def shared(data: Path) -> tuple[pd.DataFrame, list[str]]:
    """Find all pairs of cases of one patient in two sets.

    Sentences on the comparisons come with them.

    Returns
    -------
    table : columns `COLUMNS`
        ``how`` is name, fingerprint (value: distance) or mask (value: Dice).
    remarks : list of str
    """
    logging.getLogger().setLevel(logging.ERROR)
    found = cases_in(data)
    prints, remarks = _prints(data, found)
    masks, more = _by_mask(found)
    rows = [*_by_name(found), *_by_fingerprint(prints), *masks]
    return pd.DataFrame(rows, columns=COLUMNS), [*remarks, *more]


def unnamed(table: pd.DataFrame) -> pd.DataFrame:
    """Return the pairs found by image or mask alone.

    Their names are not known to be one patient's.
    """
    other = [known_as(one) != known_as(two) for one, two in zip(table["case"], table["other"], strict=True)]
    return table[other]


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Count for each pair of sets the patients shared by each way."""
    patients = table.assign(patient=[known_as(case) for case in table["case"]])
    turned = patients["set"] > patients["other_set"]  # one line a pair, whichever was looked for in the other
    patients.loc[turned, ["set", "other_set"]] = patients.loc[turned, ["other_set", "set"]].to_numpy()
    counts = patients.groupby(["set", "other_set", "how"])["patient"].nunique().unstack("how", fill_value=0)
    return counts.reset_index()


def two_sides(table: pd.DataFrame, split: Split) -> list[str]:
    """Word a sentence for each patient on two sides, by name or by table.

    None where the sides are apart.
    """
    held = {known_as(name): side for side in ("validation", "test", "set_aside") for name in getattr(split, side)}
    named = {known_as(name): name for name in split.train}
    sentences = [f"{name} is in train and in {held[patient]}" for patient, name in named.items() if patient in held]

    def side(set_name: str, case: str) -> str:
        patient = known_as(case)
        if patient in held:
            return held[patient]
        return "train" if patient in named or set_name in LEARNT_FROM else ""

    for row in table.to_dict("records"):
        one, two = side(row["set"], row["case"]), side(row["other_set"], row["other"])
        if one and two and one != two:
            sentences.append(f"{row['case']} ({one}) is {row['other']} ({two}), by {row['how']} {row['value']:.3f}")
    return sentences


def _by_name(found: dict[str, dict[str, Path]]) -> Iterable[list[object]]:
    for (one, ours), (two, theirs) in combinations(found.items(), 2):
        first, second = patients_of(ours), patients_of(theirs)
        for patient in sorted(first.keys() & second.keys()):
            yield ["name", one, first[patient][0], two, second[patient][0], 1.0]


def _by_fingerprint(prints: dict[str, dict[str, dict[str, str]]]) -> Iterable[list[object]]:
    for one, two in combinations(prints, 2):
        for name, own in prints[one].items():
            for other, its in prints[two].items():
                if (apart := distances(own, its)) <= SAME:
                    yield ["fingerprint", one, name, two, other, apart]
    for one, cases in prints.items():
        for (name, own), (other, its) in combinations(cases.items(), 2):
            if (apart := distances(own, its)) <= SAME:
                yield ["fingerprint", one, name, one, other, apart]


def _prints(data: Path, found: dict[str, dict[str, Path]]) -> tuple[dict[str, dict[str, dict[str, str]]], list[str]]:
    prints: dict[str, dict[str, dict[str, str]]] = {}
    for name in ("brats", "brats_2013", "brats2023_unlabelled", "tcga_silver", "tcga_raw", "lgg", "open_ms_data"):
        cases = found.get(name, {})
        if not cases:
            continue
        whole = (
            [_silver(case, path) for case, path in cases.items()]
            if name == "tcga_silver"
            else discover_cases(next(iter(cases.values())).parent)
        )
        prints[name] = {}
        for case in whole:
            try:
                prints[name][case.case_id] = prints_of(case)
            except InputError as error:
                logging.getLogger(__name__).error("%s: %s", case.case_id, error)
    return prints, [f"fingerprints: {', '.join(f'{len(cases)} of {name}' for name, cases in prints.items())}"]


def _silver(case_id: str, folder: Path) -> Case:
    files = {m: next(folder.glob(f"raw_bet/*_{end}_bet.nii.gz")) for m, end in (("flair", "fla"), ("t1c", "t1c"))}
    return Case(
        case_id=case_id,
        folder=folder,
        layout="",
        layout_reason="",
        images={m: ImageSource((path,)) for m, path in files.items()},
        reference=None,
    )


def _by_mask(found: dict[str, dict[str, Path]]) -> tuple[list[list[object]], list[str]]:
    rows: list[list[object]] = []
    remarks = []
    cubes = {}
    for name, path in found.get("brats2020_cubes", {}).items():
        with np.load(path, allow_pickle=False) as content:
            cubes[name] = content["volume_labels"] > 0
    volumes = Volumes.of(cubes) if cubes else None
    whole: dict[str, Volumes] = {}
    for set_name, pattern in (("brats", "*seg*"), ("brats_2013", "*seg*"), ("tcga_silver", "fusion/*.nii.gz")):
        masks = {}
        for name, folder in found.get(set_name, {}).items():
            for file in sorted(folder.glob(pattern))[:1]:
                mask = whole_mask(file)
                if mask is not None:
                    masks[name] = mask
        if not masks:
            continue
        whole[set_name] = Volumes.of(masks)
        if volumes is None:
            continue
        second = 0.0
        for name, mask in masks.items():
            nearest = nearest_volumes(mask, volumes)
            rows += [
                ["mask", set_name, name, "brats2020_cubes", other, dice] for dice, other in nearest if dice > SAME_DICE
            ]
            second = max(second, *(dice for dice, _ in nearest if dice <= SAME_DICE))
        remarks.append(f"masks: {len(masks)} of {set_name} against {len(cubes)} cubes; all others at most {second:.3f}")
    if volumes is not None:
        alike = [
            (dice, name, other)
            for name, mask in cubes.items()
            for dice, other in nearest_volumes(mask, volumes)[:3]
            if name < other and dice > RESIZED_DICE
        ]
        rows += [["mask", "brats2020_cubes", name, "brats2020_cubes", other, dice] for dice, name, other in alike]
        whole["brats2020_cubes"] = volumes
    for set_name in ("brats2020_slices", "brats2020_t1ce_slices"):
        rows_of, remark = _slices_by_mask(set_name, found.get(set_name, {}), whole)
        rows += rows_of
        remarks += remark
    return rows, remarks


def _slices_by_mask(
    set_name: str, files: dict[str, Path], whole: dict[str, Volumes]
) -> tuple[list[list[object]], list[str]]:
    rows: list[list[object]] = []
    small, equal, near, none = 0, 0, 0, []
    for name, mask in slice_masks(files):
        if mask.sum() < SMALLEST:
            small += 1
            continue
        matches = [(dice, other, there) for there, v in whole.items() for dice, other in nearest_slices(mask, v)[:2]]
        best = max((dice for dice, _, there in matches if there == "brats2020_cubes"), default=0.0)
        if best > SAME_DICE:
            equal += 1
        elif best > RESIZED_DICE:
            near += 1
        else:
            none.append(f"{name} {best:.2f}")
        for dice, other, there in matches:
            # Of those that are not equal only the best: it is not proof, but it is the one to look at.
            if dice > SAME_DICE or (dice > RESIZED_DICE and dice >= best):
                rows.append(["mask", set_name, name, there, other, dice])
    if not files:
        return rows, []
    return rows, [
        f"masks: {len(files)} of {set_name}: {equal} equal a plane of a cube volume (Dice > {SAME_DICE}), {near} "
        "have one "
        f"above {RESIZED_DICE}, {small} are too small to tell, {len(none)} have none: {', '.join(none) or 'none'}"
    ]
