"""Target lesions: chosen by the rules, or named in a table.

Rules: measurable lesions of the baseline, those that grew since the scan before it first, then the largest; at most 3
(RANO 2.0), at most 2 of each region where two are judged, at most 5 (RANO 2010, and RANO-LGG as we read it). The same
lesions are measured at each visit. A lesion beside the targets that is measurable and grows by the bound of PD from its
own smallest size is added to the sum, at all visits.

The table is UTF-8 CSV with the columns ``patient``, ``region``, ``lesion`` and, where it holds for one set of criteria
alone, ``criterion``. It replaces the rules for each patient, region and criterion that it names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path

from data.errors import UsageError
from pipeline.follow.criteria import CRITERIA
from pipeline.follow.judging.given import check_patient, read_rows, read_word
from pipeline.follow.judging.sums import Lesions
from pipeline.follow.measures import at_least

COLUMNS = ("patient", "region", "lesion", "criterion")
"""Columns that the table may have."""
REGIONS = ("ET", "WT", "NCE")
"""Regions that have targets."""

Chosen = Mapping[tuple[str, str], tuple[int, ...]]
"""Lesions that a table names, by criterion and region."""


def choose_targets(lesions: Lesions, baseline: int, before: int | None, most: int) -> tuple[int, ...]:
    """Choose the target lesions of a baseline.

    Parameters
    ----------
    lesions : Lesions
        At least up to the baseline.
    baseline : int
        Place of the baseline among the visits.
    before : int, optional
        Place of the last evaluable visit before it; lesions that have grown since come first.
    most : int
        Most targets.

    Returns
    -------
    tuple of int
        Lesions, the most important first; empty: no measurable disease.
    """
    bound = 1 + lesions.criterion.progression

    def rank(lesion: int) -> tuple[bool, float, int]:
        size = lesions.size(baseline, [lesion])
        grows = before is not None and at_least(size, bound * Fraction(lesions.size(before, [lesion])))
        return (not grows, -size, lesion)

    measurable = [lesion for lesion in lesions.present(baseline) if lesions.measurable(baseline, lesion)]
    return tuple(sorted(measurable, key=rank)[:most])


def check_targets(lesions: Lesions, baseline: int, named: Iterable[int], most: int) -> tuple[int, ...]:
    """Return targets that a table names.

    Raises
    ------
    UsageError
        One of them is not there at the baseline or not measurable, or there are too many.
    """
    label, name = lesions.visits[baseline].label, lesions.criterion.name
    kept = []
    for lesion in dict.fromkeys(named):
        there = lesions.root.get(lesion)
        if there is None or there not in lesions.present(baseline):
            raise UsageError(f"target {_words(lesion, lesions)} is not there at the baseline {label}; name another")
        if not lesions.measurable(baseline, there):
            raise UsageError(
                f"target {_words(lesion, lesions)} is not measurable at the baseline {label} by {name}; name another"
            )
        kept.append(there)
    chosen = tuple(dict.fromkeys(kept))
    if len(chosen) > most:
        raise UsageError(f"{len(chosen)} targets in {lesions.region}, {name} takes at most {most}; leave some out")
    return chosen


def _words(lesion: int, lesions: Lesions) -> str:
    return f"lesion {lesion} of {lesions.region}"


def read_targets(path: Path, patients: Iterable[str]) -> dict[str, dict[tuple[str, str], tuple[int, ...]]]:
    """Read the table of target lesions.

    Parameters
    ----------
    path : Path
        UTF-8 CSV; columns stand in the module.
    patients : iterable of str

    Returns
    -------
    dict
        For each patient named: criterion and region, and the lesions.

    Raises
    ------
    UsageError
        For an unknown column, patient, region or criterion, or a lesion that is no number. Names file, line, value and
        fix.
    """
    known = list(patients)
    found: dict[str, dict[tuple[str, str], tuple[int, ...]]] = {}
    for line, row in read_rows(path, COLUMNS, ("patient", "region", "lesion")):
        check_patient(path, line, row["patient"], known)
        region = read_word(path, line, "region", row["region"], REGIONS)
        wanted = [read_word(path, line, "criterion", row["criterion"], CRITERIA)] if row["criterion"] else [*CRITERIA]
        if not (row["lesion"].isascii() and row["lesion"].isdigit()):
            raise UsageError(
                f"{path}, line {line}: lesion {row['lesion']!r} is no number; write one of lesions_over_time.csv"
            )
        own = found.setdefault(row["patient"], {})
        for criterion in wanted:
            own[criterion, region] = (*own.get((criterion, region), ()), int(row["lesion"]))
    return found
