"""Names of one patient across sessions and across public sets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import product
from pathlib import Path

from data.strict_yaml import read_strict_yaml

SAME_PATIENT = Path(__file__).with_name("same_patient.yaml")
"""Patients who stand in several sets under several names."""

# What follows the patient in a case id, per data set: the first group is the patient, the second the time point.
_TIME_POINTS = tuple(
    re.compile(pattern, re.IGNORECASE | re.DOTALL)
    for pattern in (
        r"(BraTS-(?:[A-Za-z]+-)+[0-9]+)-([0-9]+)",  # BraTS 2023 and later: ...-00000-000
        r"(brats_(?:2012|2013|tcia|cbica)_.+)_([0-9]+)",
        r"(Brats1[789]_.+)_([0-9]+)",
        r"(UCSF-PDGM-[0-9]+)(?:_(FU[0-9]+d))?(?:_nifti)?",
        r"(UPENN-GBM-[0-9]+)_([0-9]+)",
        r"(UCSD-PTGBM-[0-9]+)_([0-9]+)",
        r"(RHUH-[0-9]+)_([0-9]+)",
        r"([0-9]+)_(t[0-9]+)",  # CFB-GBM: 8_t0
        r"(TCGA_[A-Z0-9]+_[A-Z0-9]+)_([0-9]{8})",
    )
)

_DATE = r"(?:19|20)[0-9]{2}(?P<dash>[-_.]?)[01][0-9](?P=dash)[0-3][0-9](?:[-_.T ]?[0-9]{4,6})?"
_WHEN = (
    r"(?:ses|session|sess|tp|time[-_ ]?point|time|visit|week|wk|day|month|mon|year|yr|follow[-_ ]?up|fup?|baseline"
    r"|base|bl"
    r"|(?:pre|post|intra)[-_ ]?(?:op|operative|operation|surgery|rt|treatment|therapy)?)"
)
_TIME = re.compile(rf"{_WHEN}(?:[-_ ]?[0-9]+[a-z]?)*|ses[-_ ]?[0-9A-Za-z]+|{_DATE}", re.IGNORECASE)
"""Name of a time point: of a folder, or the end of a patient's name."""
_PERHAPS_TIME = re.compile(r"(?:scan|exam|examination|study|mri?|acq|[dwmy])?[-_ ]?[0-9]{1,2}", re.IGNORECASE)
"""Name of a time point below a folder that is called after a patient; elsewhere of a patient."""
_PERSON = re.compile(
    r"(?:patient(?:[-_ ]?id)?|pat|pt|subject|subj?|participant|person)[-_ ]?[0-9A-Za-z]*[0-9][0-9A-Za-z]*",
    re.IGNORECASE,
)
_NUMBERED = re.compile(
    r"(?!(?:dataset|task|set|fold|batch|part|group|site|cent(?:er|re)|brats)).*[0-9]{3,}", re.IGNORECASE
)
"""Folder that is numbered as patients are, with three figures or more."""


def patient_id(case_id: str) -> str:
    """Return the patient that a case shows.

    It is the case's id without the session, date or time point that a folder at any depth, or the end of a name, gives,
    and without all that lies below a folder that is called after a patient.

    ``BraTS-GLI-00009-001`` gives ``BraTS-GLI-00009``, ``sub-01/ses-2`` gives ``sub-01``, ``site/P1_week-044`` gives
    ``site/P1``; ``week-044`` alone gives ``.``, the one patient of the root. An id that says nothing of the kind is its
    own patient.
    """
    return patient_and_time(case_id)[0]


def patient_and_time(case_id: str) -> tuple[str, str]:
    """Return the patient that a case shows, and its time point's name.

    The patient is that of :func:`patient_id`.

    ``BraTS-GLI-00009-001`` gives ``001``, ``sub-01/ses-2`` gives ``ses-2``; an id that says nothing of the kind gives
    ``""``.
    """
    parts = re.split(r"[/\\]", case_id)
    for pattern in _TIME_POINTS:
        if found := pattern.fullmatch(parts[-1]):
            return found[1], found[2] or ""
    persons = [index for index, part in enumerate(parts) if _PERSON.fullmatch(part)]
    below: list[str] = []
    if persons:
        parts, below = parts[: persons[0] + 1], parts[persons[0] + 1 :]
    is_time = [_is_time(parts, index) for index in range(len(parts))]
    kept = [part for part, at in zip(parts, is_time, strict=True) if not at]
    times = [part for part, at in zip(parts, is_time, strict=True) if at]
    if not kept:
        return ".", "_".join([*times, *below])
    patient, time = _parted(kept[-1])
    if kept[-2:-1] == [patient]:  # 100010/100010_time1
        kept.pop()
    below = [part.removeprefix(f"{patient}_") for part in below]
    return "/".join([*kept[:-1], patient]), "_".join(part for part in (*times, time, *below) if part)


def _is_time(parts: Sequence[str], index: int) -> bool:
    if _TIME.fullmatch(parts[index]):
        return True
    above = parts[index - 1] if index else ""
    return bool(_PERHAPS_TIME.fullmatch(parts[index]) and _NUMBERED.fullmatch(above))


def _parted(name: str) -> tuple[str, str]:
    """Part a name into the patient's and its time point's, which may be ``""``."""
    for found in re.finditer("[-_. ]", name):
        if found.start() and _TIME.fullmatch(name, found.end()):
            return name[: found.start()], name[found.end() :]
    return name, ""


def known_as(case_id: str) -> str:
    """Return the one name of a patient across public sets.

    It is :func:`patient_id`, and one name where several are known.

    ``BraTS2021_01476`` and ``volume_271_slice_80`` give ``BraTS20_Training_271``. Read from `SAME_PATIENT`.
    """
    same, spelt, _ = _same_patients()
    name = patient_id(case_id)
    own = re.split(r"[/\\]", name)[-1]  # a public set's name is one in any folder
    for text, (pattern, form) in product((name, own), spelt):
        if found := pattern.fullmatch(text):
            name = own = form.format(*found.groups())
            break
    return same.get(own, name)


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
