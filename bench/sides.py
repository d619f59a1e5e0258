"""Fixed sides: cases to learn from, to validate on, and for the last figure.

The rule can be repeated by anyone.

    python -m bench.sides DATA --output split.json

DATA is the folder of the collected sets (bench.sets). The rule, by the one name that a patient has in all sets:

- test: BraTS2021_01476, 01479, 01482 and 01485 (BraTS20_Training_271, 274, 277 and 280), as for all models so far;
- validation: BraTS2021_01478 and 01481, of the other patients in `brats` the last two by name whose tumour has all
  three regions (without enhancing tumour a Dice of ET is 0 or 1, and chooses nothing);
- set_aside: of the patients of `brats2020_cubes` who are in no set of whole volumes (`brats`, `brats_2013`,
  `tcga_silver`) the 60 whose names have the smallest SHA-256. All 60 serve both for choosing while training and for the
  last figure on lesions, so that figure is a little kind to the model; the test patients' is not. Of the patients of
  `bcbm_t1c_slices` that mark a lesion, sorted by name, every fourth from the third is set aside as well: they serve for
  the last figure alone (bench.quality.metastases);
- train: the other patients in `brats`.

Give the file to `train --split`: nothing of a patient who is not in train, slice or cube, is learnt from under any name
in the --extra folders. Printed is what remains of each set.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from bench.sets.catalogue import cases_in
from data.io.write import write_text_atomically
from data.same_patient import known_as
from pipeline.training.sources.lesion_slices import is_lesion_folder, lesion_names
from pipeline.training.splits import Split

TEST = ("BraTS2021_01476", "BraTS2021_01479", "BraTS2021_01482", "BraTS2021_01485")
VALIDATION = ("BraTS2021_01478", "BraTS2021_01481")
SET_ASIDE = 60
RULE = (
    "test: as for all models so far; validation, the two by name with all regions; "
    "set_aside: the smallest SHA-256 of the name; metastases: every fourth by name from the third (bench.sides)"
)


def by_digest(names: Iterable[str]) -> list[str]:
    """Sort the names by the SHA-256 of the patient's one name across sets.

    It is an order without a reason.
    """
    return sorted(names, key=lambda name: hashlib.sha256(known_as(name).encode()).hexdigest())


def fixed_sides(
    patients: Iterable[str], others: Iterable[str], cubes: Iterable[str], metastases: Iterable[str] = ()
) -> Split:
    """Return the split of the rule above.

    Parameters
    ----------
    patients : iterable of str
        Case ids of the whole BraTS patients; of the test and validation patients those that are there.
    others, cubes : iterable of str
        Case ids of the other sets of whole patients, and of the lesions.
    metastases : iterable of str
        Patients with metastases.
    """
    patients = sorted(patients)
    test, validation = ({known_as(name) for name in names} for names in (TEST, VALIDATION))
    whole = test | {known_as(name) for name in (*patients, *others)}
    lesions = by_digest({known_as(name) for name in cubes} - whole)
    return Split(
        train=tuple(name for name in patients if known_as(name) not in test | validation),
        validation=tuple(name for name in patients if known_as(name) in validation),
        test=tuple(name for name in patients if known_as(name) in test),
        set_aside=tuple(sorted((*lesions[:SET_ASIDE], *sorted(set(metastases))[2::4]))),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    found = cases_in(arguments.data)
    others = [name for part in ("brats_2013", "tcga_silver") for name in found.get(part, {})]
    slices = arguments.data / "bcbm_t1c_slices"
    metastases = lesion_names(slices).values() if is_lesion_folder(slices) else ()
    split = fixed_sides(found.get("brats", {}), others, found.get("brats2020_cubes", {}), metastases)
    if not split.train or len(split.set_aside) < SET_ASIDE:
        parser.error(
            f"{arguments.data}: {len(split.train)} patients are left to learn from, {len(split.set_aside)} of "
            f"{SET_ASIDE} "
            "are set aside; give the folder that holds brats and brats2020_cubes"
        )
    lists = {"data": "collected BraTS sets, see bench.sets", "rule": RULE, **split.as_lists()}
    write_text_atomically(arguments.output, json.dumps(lists, indent=1) + "\n")
    held_back = {known_as(name) for name in split.held_back}
    for name, ids in split.as_lists().items():
        sys.stdout.write(f"{name}: {len(ids)} ({', '.join(ids[:12])}{', ...' if len(ids) > 12 else ''})\n")
    for name, cases in found.items():
        back = [case for case in cases if known_as(case) in held_back]
        left = {known_as(case) for case in cases} - held_back
        sys.stdout.write(f"{name}: {len(cases)} cases, {len(back)} held back, {len(left)} patients to learn from\n")


if __name__ == "__main__":
    main()
