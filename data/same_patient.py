"""Names of one patient across sessions and across public sets."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from data.strict_yaml import read_strict_yaml

SAME_PATIENT = Path(__file__).with_name("same_patient.yaml")
"""Patients who stand in several sets under several names."""

# What follows the patient in a case id, per data set; the first group is the patient.
_TIME_POINTS = tuple(
    re.compile(pattern, re.IGNORECASE | re.DOTALL)
    for pattern in (
        r"(.+)[/\\](?:ses|session|tp|time[-_ ]?point|visit)[-_ ]?[0-9A-Za-z]+",  # folders of sessions, BIDS among them
        r"(BraTS-(?:[A-Za-z]+-)+[0-9]+)-[0-9]+",  # BraTS 2023 and later: ...-00000-000
        r"(brats_(?:2012|2013|tcia|cbica)_.+)_[0-9]+",
        r"(Brats1[789]_.+)_[0-9]+",
        r"(UCSF-PDGM-[0-9]+)(?:_FU[0-9]+d)?(?:_nifti)?",
        r"(UPENN-GBM-[0-9]+)_[0-9]+",
        r"(TCGA_[A-Z0-9]+_[A-Z0-9]+)_[0-9]{8}",
    )
)


def patient_id(case_id: str) -> str:
    """Return the patient that a case shows.

    It is the case's id without the session or time point, where the naming is known to have one.

    ``BraTS-GLI-00009-001`` gives ``BraTS-GLI-00009``, ``sub-01/ses-2`` gives ``sub-01``; an id of unknown naming is
    its own patient.
    """
    for pattern in _TIME_POINTS:
        if found := pattern.fullmatch(case_id):
            return found[1]
    return case_id


def known_as(case_id: str) -> str:
    """Return the one name of a patient across public sets.

    It is :func:`patient_id`, and one name where several are known.

    ``BraTS2021_01476`` and ``volume_271_slice_80`` give ``BraTS20_Training_271``. Read from `SAME_PATIENT`.
    """
    same, spelt, _ = _same_patients()
    name = patient_id(case_id)
    for pattern, form in spelt:
        if found := pattern.fullmatch(name):
            name = form.format(*found.groups())
            break
    return same.get(name, name)


def perhaps_one_of(case_id: str, others: Iterable[str]) -> bool:
    """Tell whether a case may show one of the other cases' patients.

    This concerns a set whose patients of the same site are not all known.

    ``TCGA_CS_4941`` may be ``BraTS20_Training_274``, and is not ``TCGA_CS_4943``. Read from `SAME_PATIENT`.
    """
    _, _, perhaps = _same_patients()
    own, theirs = _names(case_id), set[str]().union(*map(_names, others))

    def stands(pattern: re.Pattern[str], names: set[str]) -> bool:
        return any(map(pattern.fullmatch, names))

    return any(
        stands(mine, own) and stands(other, theirs) for pair in perhaps for mine, other in (pair, reversed(pair))
    )


def _names(case_id: str) -> set[str]:
    return {patient_id(case_id), known_as(case_id)}


Pairs = list[tuple[re.Pattern[str], re.Pattern[str]]]


@lru_cache(maxsize=1)
def _same_patients() -> tuple[dict[str, str], list[tuple[re.Pattern[str], str]], Pairs]:
    content = read_strict_yaml(SAME_PATIENT)
    same = {name: names[0] for names in content["same"] for name in names}
    spelt = [(re.compile(pattern, re.DOTALL), form) for pattern, form in content["spelt"]]
    return same, spelt, [(re.compile(one), re.compile(other)) for one, other in content["perhaps"]]
