"""Recognition of the label convention of a patient's mask.

Evidence is taken from names, then values, then the set's other patients; never by a guess.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from data.case import Case, ImageSource
from data.errors import InputError, Mend, advise, few
from data.find.dataset_json import conventions_of
from data.io.read import MAX_VOXELS, read_header, read_label_map
from data.io.stream import printable
from data.io.suffixes import NRRD_SUFFIX
from data.labels import CONVENTIONS, convention_name, count_labels, load_convention

# Label 3 was dropped in 2017 and nobody else left that gap. A post-operative or paediatric mask may show it by
# chance, but there
# the names say so, and names come first.
_TELLING_VALUES = {frozenset({1, 2, 4}): "brats2017"}


BINARY = "whole-tumour"
"""Convention of masks of zeros and ones, where no name says another."""
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
    decided: str | None = None  # by the patient's names and values alone


def read_label_values(source: ImageSource, *, max_voxels: int = MAX_VOXELS) -> frozenset[float]:
    """Return the labels of a label map but 0, empty for an empty map.

    It is checked as `data.io.read.read_label_map` checks it, and raises as that does; ``max_voxels`` is as there.
    """
    return frozenset(count_labels(read_label_map(source, max_voxels=max_voxels).array))


_SAYS_NOTHING = re.compile(r"(?:segment|label|region|class|roi|layer)?[-_ ]*[0-9]*", re.IGNORECASE)
"""Names that 3D Slicer and others give to a segment by themselves."""


def with_segment_names(case: Case) -> Case:
    """Let the names in the header of a case's segmentation tell its convention.

    They have the last word, as ``dataset.json`` has. Nothing changes where there are none, where they say nothing
    (``Segment_1``), and where the file cannot be read, as its reader says.
    """
    if case.reference is None or not case.reference.paths[0].name.lower().endswith(NRRD_SUFFIX):
        return case
    try:
        segments = read_header(case.reference).segments
    except InputError:
        return case
    if all(_SAYS_NOTHING.fullmatch(name) for name in segments.values()):
        return case
    named = {str(value): name for value, name in segments.items()}
    conventions, note = conventions_of(case.reference.paths[0].name, named, "segments")
    source = "the names of its segments say so" if conventions else ""
    warnings = (*case.warnings, note) if note else case.warnings
    return replace(case, conventions=conventions or case.conventions, conventions_from=source, warnings=warnings)


def choose_conventions(
    cases: Sequence[Case],
    *,
    override: str | None = None,
    fallback: str | None = None,
    read_labels: Callable[[ImageSource], Collection[float]] = read_label_values,
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
        Gives the distinct values of a reference mask; by default it reads the file. Called only where the naming
        leaves more than one candidate. An ``InputError`` counts as no evidence here: the scoring reports it.
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
        return _Evidence(case.conventions, frozenset(), decided=case.conventions[0])
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
        several = ", ".join(map(convention_name, admitted))
        note = advise(
            f"{file}no convention among {several} has all label values of the reference ({shown})",
            Mend.NAME_CONVENTION_TO_SCORE,
        )
        return _Evidence(admitted, frozenset(), (*warnings, note))
    return _Evidence(left, whole, warnings, _decided_by_values(left, whole))


def _fitting(candidates: Sequence[str], values: frozenset[int]) -> tuple[str, ...]:
    return tuple(name for name in candidates if values <= set(load_convention(name).labels))


def _decided_by_values(candidates: tuple[str, ...], values: frozenset[int]) -> str | None:
    if not values:
        return None
    if len(candidates) == 1:
        return candidates[0]
    telling = _TELLING_VALUES.get(values)
    return telling if telling in candidates else None


def _choose(
    case: Case, evidence: _Evidence, peers: Sequence[_Evidence], fallback: str | None, way_out: str
) -> ConventionChoice:
    shown = "{" + ", ".join(map(str, sorted(evidence.values))) + "}"
    if evidence.decided is not None:
        only_names = len(case.conventions) == 1
        reason = (
            case.conventions_from or f"the file naming ({case.layout}) admits no other"
            if only_names
            else f"the label values {shown} of the reference" + _among(case)
        )
        return ConventionChoice(evidence.decided, reason, None, evidence.warnings)
    decided = {peer.decided for peer in peers if peer.decided is not None} & set(evidence.candidates)
    if len(decided) == 1:
        return ConventionChoice(
            decided.pop(),
            f"other patients of the set ({case.layout}) show it, and nothing here speaks against it",
            None,
            evidence.warnings,
        )
    pooled = frozenset().union(*(peer.values for peer in peers))
    together = None if decided else _decided_by_values(_fitting(evidence.candidates, pooled), pooled)
    if together is not None:
        return ConventionChoice(
            together,
            f"the label values {sorted(pooled)} of the set's patients taken together ({case.layout})",
            None,
            evidence.warnings,
        )
    if pooled == {1} and not decided and BINARY in evidence.candidates:
        reason = "the references hold 0 and 1 alone: masks of the whole tumour"
        return ConventionChoice(BINARY, reason, None, evidence.warnings)
    if case.conventions and not decided and all(_compatible(a, b) for a, b in combinations(evidence.candidates, 2)):
        rest = ", ".join(map(convention_name, evidence.candidates[1:]))
        return ConventionChoice(
            evidence.candidates[0],
            f"the file naming ({case.layout}); {rest} would read the same labels alike",
            None,
            evidence.warnings,
        )
    if (
        not evidence.values
        and not decided
        and fallback is not None
        and (not case.conventions or fallback in evidence.candidates)
    ):
        return ConventionChoice(
            fallback, "no reference and no other evidence: the model's own convention", None, evidence.warnings
        )
    tie = ", ".join(map(convention_name, evidence.candidates))
    if evidence.values:
        error = f"the label values {shown} of the reference fit {tie} alike; {way_out}"
    else:
        error = f"nothing tells which label convention to write ({tie}); {way_out}"
    return ConventionChoice(None, "undecided", error, evidence.warnings)


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
