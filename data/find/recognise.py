"""Recognition of the label convention of a patient's mask.

Evidence is taken from names, then values, then the set's other patients; never by a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from data.case import Case, ImageSource
from data.errors import InputError, Mend, advise, few
from data.io.read import MAX_VOXELS, read_label_map
from data.io.stream import printable
from data.labels import CONVENTIONS, load_convention

# Label 3 was dropped in 2017 and nobody else left that gap. A post-operative or paediatric mask may show it by
# chance, but there
# the names say so, and names come first.
_TELLING_VALUES = {frozenset({1, 2, 4}): "brats2017"}


SAY_CONVENTION = "say which with --convention NAME"
"""End of the error of an undecided convention, for the command line."""


@dataclass(frozen=True)
class ConventionChoice:
    """Convention of one patient and the evidence for it.

    Parameters
    ----------
    name : str or None
        None when it could not be decided; then `error` says so.
    reason : str
        The evidence, for the report.
    error : str or None
        One sentence that names the conventions that tie and the way out.
    warnings : tuple of str
        Such as label values that the convention does not know.
    """

    name: str | None
    reason: str
    error: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Evidence:
    candidates: tuple[str, ...]  # what naming and values leave, best first
    values: frozenset[int]  # labels in the reference that some candidate knows
    warnings: tuple[str, ...] = ()
    told: str | None = None  # what the patient's own names and values decide


def choose_conventions(
    cases: Sequence[Case],
    *,
    override: str | None = None,
    fallback: str | None = None,
    read_labels: Callable[[ImageSource], Collection[float]],
    way_out: str = SAY_CONVENTION,
) -> dict[str, ConventionChoice]:
    """Choose a label convention for every patient.

    Parameters
    ----------
    cases : sequence of Case
        One data set or a mixture; patients of the same layout inform each other.
    override : str, optional
        Taken for every patient, whatever the evidence.
    fallback : str, optional
        The model's own convention, for a patient without a reference and without evidence.
    read_labels : callable
        The distinct values of a reference mask. Called only where the naming leaves more than one candidate. An
        ``InputError``
        counts as no evidence here: whoever scores the mask reports it.
    way_out : str
        End of the error of a patient whose convention stays undecided: how the caller's user names it.

    Returns
    -------
    dict of str to ConventionChoice
        By `Case.case_id`; empty for no cases.

    Raises
    ------
    ConventionError
        `override` or `fallback` is no known convention.
    """
    for name in (override, fallback):
        if name is not None:
            load_convention(name)
    if override is not None:
        return {case.case_id: ConventionChoice(override, "asked for with --convention") for case in cases}
    evidence = {case.case_id: _own_evidence(case, read_labels) for case in cases}
    peers: dict[tuple[str, tuple[str, ...]], list[_Evidence]] = {}
    for case in cases:
        peers.setdefault((case.layout, case.conventions), []).append(evidence[case.case_id])
    return {
        case.case_id: _choose(case, evidence[case.case_id], peers[case.layout, case.conventions], fallback, way_out)
        for case in cases
    }


def _own_evidence(case: Case, read_labels: Callable[[ImageSource], Collection[float]]) -> _Evidence:
    if len(case.conventions) == 1:
        return _Evidence(case.conventions, frozenset(), told=case.conventions[0])
    admitted = case.conventions or CONVENTIONS
    values: Collection[float] = ()
    file = ""
    if case.reference is not None:
        file = f"{printable(case.reference.paths[0])}: "
        try:
            values = read_labels(case.reference)
        except (InputError, MemoryError):  # whoever scores it says so
            values = ()
    known = frozenset().union(*(load_convention(name).labels for name in admitted))
    whole = frozenset(int(value) for value in values if value in known)
    left = _fitting(admitted, whole)
    stray = sorted({float(value) for value in values} - {0.0} - {float(label) for label in whole})
    warnings = (
        (
            advise(
                f"{file}the reference has label values that no convention admitted here knows: "
                f"{few(f'{v:g}' for v in stray)}",
                Mend.NAME_CONVENTION_TO_SCORE,
            ),
        )
        if stray
        else ()
    )
    if not left:
        # No single convention holds all values: they are no evidence, and the names (if they say anything) stand.
        shown = few(sorted(whole))
        several = ", ".join(admitted)
        note = advise(
            f"{file}no convention among {several} has all label values of the reference ({shown})",
            Mend.NAME_CONVENTION_TO_SCORE,
        )
        return _Evidence(admitted, frozenset(), (*warnings, note))
    return _Evidence(left, whole, warnings, _told_by_values(left, whole))


def _fitting(candidates: Sequence[str], values: frozenset[int]) -> tuple[str, ...]:
    return tuple(name for name in candidates if values <= set(load_convention(name).labels))


def _told_by_values(candidates: tuple[str, ...], values: frozenset[int]) -> str | None:
    if not values:
        return None
    if len(candidates) == 1:
        return candidates[0]
    telling = _TELLING_VALUES.get(values)
    return telling if telling in candidates else None


def _choose(
    case: Case, own: _Evidence, peers: Sequence[_Evidence], fallback: str | None, way_out: str
) -> ConventionChoice:
    shown = "{" + ", ".join(map(str, sorted(own.values))) + "}"
    if own.told is not None:
        only_names = len(case.conventions) == 1
        reason = (
            f"the file naming ({case.layout}) admits no other"
            if only_names
            else f"the label values {shown} of the reference" + _among(case)
        )
        return ConventionChoice(own.told, reason, None, own.warnings)
    told = {peer.told for peer in peers if peer.told is not None} & set(own.candidates)
    if len(told) == 1:
        return ConventionChoice(
            told.pop(),
            f"other patients of the set ({case.layout}) show it, and nothing here speaks against it",
            None,
            own.warnings,
        )
    pooled = frozenset().union(*(peer.values for peer in peers))
    together = None if told else _told_by_values(_fitting(own.candidates, pooled), pooled)
    if together is not None:
        return ConventionChoice(
            together,
            f"the label values {sorted(pooled)} of the set's patients taken together ({case.layout})",
            None,
            own.warnings,
        )
    if case.conventions and not told and all(_compatible(a, b) for a, b in combinations(own.candidates, 2)):
        rest = ", ".join(own.candidates[1:])
        return ConventionChoice(
            own.candidates[0],
            f"the file naming ({case.layout}); {rest} would read the same labels alike",
            None,
            own.warnings,
        )
    if not own.values and not told and fallback is not None and (not case.conventions or fallback in own.candidates):
        return ConventionChoice(
            fallback, "no reference and no other evidence: the model's own convention", None, own.warnings
        )
    tie = ", ".join(own.candidates)
    if own.values:
        error = f"the label values {shown} of the reference fit {tie} alike; {way_out}"
    else:
        error = f"nothing tells which label convention to write ({tie}); {way_out}"
    return ConventionChoice(None, "undecided", error, own.warnings)


def _among(case: Case) -> str:
    return f", among those that the file naming ({case.layout}) admits" if case.conventions else ""


def _compatible(first: str, second: str) -> bool:
    """Tell whether two conventions read a mask of their common labels alike.

    Every label that both know must lie in the same regions.
    """
    one, two = load_convention(first), load_convention(second)
    regions = set(one.regions) | set(two.regions)
    nothing: frozenset[int] = frozenset()
    shared = set(one.labels) & set(two.labels)
    return all(
        (label in one.regions.get(r, nothing)) == (label in two.regions.get(r, nothing))
        for label in shared
        for r in regions
    )


if TYPE_CHECKING:
    from data.case import ImageSource


def read_label_values(source: ImageSource, *, max_voxels: int = MAX_VOXELS) -> frozenset[int]:
    """Return the labels of a label map but 0.

    It is checked as `data.io.read.read_label_map` checks it.

    Parameters
    ----------
    source : ImageSource
    max_voxels : int
        As in `data.io.read.read_header`.

    Returns
    -------
    frozenset of int
        Empty for an empty map.

    Raises
    ------
    InputError
        As `data.io.read.read_label_map`.
    """
    return distinct_labels(read_label_map(source, max_voxels=max_voxels).array)


def distinct_labels(label_map: NDArray[np.generic]) -> frozenset[int]:
    """Return the labels but 0 of a map of any shape.

    Background is dropped before anything is counted: it is nine voxels of ten, and a count of all would first copy the
    map at eight bytes a voxel.
    """
    voxels = label_map.ravel(order="K")
    labelled = voxels[voxels != 0]
    if not labelled.size:
        return frozenset()
    if int(labelled.min()) >= 0 and int(labelled.max()) < 2**16:
        return frozenset(np.flatnonzero(np.bincount(labelled)).tolist())
    return frozenset(np.unique(labelled).tolist())
