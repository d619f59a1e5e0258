"""Scores of one case against its own reference, and the label conventions of both.

A kept case is scored again where its tables are of another format.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from data.case import Case, ImageSource
from data.find.recognise import ConventionChoice
from data.grid import Grid
from data.io.read import read_label_map
from data.io.write import write_text_atomically
from data.labels import Mask, convention_name, load_convention
from data.output_names import MASK, result_path
from data.references import read_reference, reference_doubts
from pipeline.checkpoint import Checkpoint
from pipeline.score.case import CaseScores, score_masks
from pipeline.score.quality import quality_flags
from pipeline.segment import identity
from pipeline.segment.state import DISAGREEMENT, CaseState, ReportRow, state_text
from pipeline.segment.task import CaseTask, state_path

Masks = Mapping[str, Mask]


def settled(task: CaseTask, model: Checkpoint) -> CaseTask:
    """Return the task with the convention of its mask.

    That of its reference is set where it is another.

    The mask is written in the reference's convention unless the user asks for another, the reference's is undecided,
    or it has no label for a region of the model: then it is the model's own.
    """
    found, asked, own = task.convention, task.options.convention, str(model.settings["convention"])
    if asked is not None:
        choice = ConventionChoice(asked, "asked for with --convention")
        if found.name is None or found.name == asked:
            return replace(task, convention=choice)
        return replace(task, convention=replace(choice, warnings=found.warnings), reference=found)
    if task.case.reference is None:
        return task
    if found.error is not None:
        warnings = (f"not scored: {found.error}", *found.warnings)
        choice = ConventionChoice(own, "the model's own, for the reference's is undecided", None, warnings)
        return replace(task, convention=choice, reference=found)
    if found.name is None:
        return task
    convention = load_convention(found.name)
    if lost := [region for region in load_convention(own).regions if region not in convention.regions]:
        reason = f"the model's own, for {convention.name}, the reference's, has no label for {', '.join(lost)}"
        return replace(task, convention=ConventionChoice(own, reason, None, found.warnings), reference=found)
    return task


def convention_remarks(task: CaseTask) -> list[str]:
    """Return a flag where reference and mask differ in convention."""
    if task.case.reference is None or task.reference is None or task.reference.name is None:
        return []
    reason = task.reference.reason.replace("; ", ", ")
    return [f"reference read as {convention_name(task.reference.name)} ({reason})"]


def scored_again(task: CaseTask, state: CaseState) -> ReportRow | None:
    """Score a kept mask again, and bring its state file up to date.

    The mask is not touched.

    Parameters
    ----------
    state : CaseState
        From :func:`pipeline.segment.state.finished_state`: of the very same inputs, model and options.

    Returns
    -------
    ReportRow or None
        None where the mask does not tell all that was computed: the convention has no label for a region, or regions
        were not nested. Such a case is to be segmented again.

    Raises
    ------
    data.errors.InputError, OSError
    """
    path = result_path(task.output, task.folder, MASK, task.options.flat)
    mask = read_label_map(ImageSource((path,)), max_voxels=task.options.max_voxels)
    written = load_convention(state.row.convention).region_masks(mask.array)
    masks = {region: written[region] for region in state.voxels if region in written}
    if not masks or {region: np.count_nonzero(m) for region, m in masks.items()} != state.voxels:
        return None
    # Its doubts stand in the row already: the reference is the same file.
    truth = reference_masks(task.case, task.read_as, masks, mask.grid, None, task.options.max_voxels, [])
    scores = score_masks(masks, truth, mask.grid)
    measures = state.row.measures
    disagreement = {r: v for r in masks if (v := measures.get(f"{DISAGREEMENT}_{r}")) is not None}
    flags = flags_of(state.remarks, masks, mask.grid, disagreement, scores)
    fixed = {name: getattr(state.row, name) for name in ReportRow.model_fields}
    row = ReportRow(**{**fixed, "flags": flags, **scores.columns, **measures})
    tables = {"regions": scores.regions, "lesions": scores.lesions, "tables": identity.TABLES}
    write_text_atomically(state_path(task), state_text(state.model_copy(update={"row": row, **tables})))
    return row


def flags_of(
    remarks: Sequence[str], masks: Masks, grid: Grid, disagreement: Mapping[str, float] | None, scores: CaseScores
) -> str:
    """Join the remarks on a case, its masks and its scores, each once.

    It is the cell ``flags`` of report.csv.
    """
    return "; ".join(dict.fromkeys([*remarks, *quality_flags(masks, grid, disagreement), *scores.flags]))


def reference_masks(
    case: Case,
    convention: str | None,
    regions: Collection[str],
    native: Grid,
    brain: Mask | None,
    max_voxels: int,
    warnings: list[str],
) -> dict[str, Mask] | None:
    """Return the masks of the case's reference on the result's grid.

    None where it cannot be scored against; the reason goes to ``warnings``.

    Parameters
    ----------
    convention : str or None
        Of the reference; None where it is undecided, which was said.
    regions : collection of str
        Those that the result has; others are left out.
    native : Grid
        Of the result.
    brain : (d1, d2, d3) bool or None
        Where the image is not 0, to doubt a reference that lies elsewhere; None doubts nothing.
    warnings : list of str
        Extended.
    """
    if case.reference is None or convention is None:
        return None
    found = read_reference(case.reference, native, load_convention(convention), max_voxels=max_voxels)
    warnings += found.warnings
    if found.doubt:
        warnings.append(f"not scored: {found.doubt}")
        return None
    truth, name = found.masks, case.reference.paths[0].name
    if brain is not None:
        warnings += reference_doubts(name, next(iter(truth.values())), brain)
    return {region: truth[region] for region in regions if region in truth}
