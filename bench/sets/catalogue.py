"""Sets of the collected training data: their cases and their patients.

A data folder holds one folder a set, see `SETS`. Cases are called as the pipeline calls them: a patient by its folder,
a slice by its file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from data.same_patient import known_as


@dataclass(frozen=True)
class DataSet:
    """One set.

    Parameters
    ----------
    pattern : str
        Of the files or folders that are its cases, within the data folder.
    name : str
        Regular expression whose first group is the case id in their name.
    """

    pattern: str
    name: str = r"([^.]+)(?:\..*)?"


SETS = {
    "brats": DataSet("brats/*"),
    "brats_2013": DataSet("brats_2013/*"),
    "brats2020_cubes": DataSet("brats2020_cubes/*.npz"),
    "brats2020_slices": DataSet("brats2020_slices/*.h5"),
    "brats2020_t1ce_slices": DataSet("brats2020_t1ce_slices/img/*.png"),
    "tcga_silver": DataSet("tcga_silver/*"),
    "tcga_raw": DataSet("tcga_raw/*"),
    "lgg": DataSet("lgg/kaggle_3m/TCGA_*"),
    "brats2023_unlabelled": DataSet("brats2023_unlabelled/*"),
    "open_ms_data": DataSet("open_ms_data/MNI/*"),
    "bcbm_t1c_slices": DataSet("bcbm_t1c_slices/*/img/*.png", r"(BCBM-RadioGenomics-[0-9]+)-.*"),
}


def cases_in(data: Path) -> dict[str, dict[str, Path]]:
    """Return case id to file or folder for each set that is there.

    A slice of which only the patient is named counts once.
    """
    found: dict[str, dict[str, Path]] = {}
    for name, about in SETS.items():
        cases = {}
        for path in sorted(data.glob(about.pattern)):
            if match := re.fullmatch(about.name, path.name):
                cases[match[1]] = path
        if cases:
            found[name] = cases
    return found


def patients_of(cases: dict[str, Path]) -> dict[str, list[str]]:
    """Group the cases by patient.

    The name is the one of the patient (:func:`data.same_patient.known_as`).
    """
    patients: dict[str, list[str]] = {}
    for case_id in cases:
        patients.setdefault(known_as(case_id), []).append(case_id)
    return patients
