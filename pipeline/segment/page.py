"""Page of a segmentation run, from its tables and its cases' records."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from data.case import ImageSource
from data.errors import InputError
from data.io.read import read_label_map
from data.labels import load_convention
from data.output_names import MASK, PAGE, PREVIEW, result_path
from pipeline.report.head import Head
from pipeline.report.preview import read_background
from pipeline.segment.state import CaseState
from pipeline.segment.task import CaseTask

if TYPE_CHECKING:
    from pipeline.report.viewer import View

log = logging.getLogger(__name__)


def write_segment_page(
    output: Path,
    tasks: Sequence[CaseTask],
    states: Sequence[CaseState | None],
    tables: Mapping[str, pd.DataFrame],
    interactive: Collection[str] = (),
    head: Head | None = None,
) -> None:
    """Write ``output/report.html``.

    Parameters
    ----------
    tasks, states : sequences
        The run's cases, and their state files; None where a case has no result.
    tables : mapping of name to DataFrame
        report, metrics, summary, lesions and, where there are references, detection.
    interactive : collection of str
        Cases for the 3D viewer; one whose mask is not there has none, and its row says why.
    head : Head, optional
    """
    from pipeline.report.page import write_page

    report = tables["report"]
    details, views = {}, {}
    for task, state, row in zip(tasks, states, report.to_dict("records"), strict=True):
        case = task.case.case_id
        known: dict[str, Any] = {} if state is None else {"missing": state.missing, "stages": state.stages}
        known |= {key: None if pd.isna(row[key]) else row[key] for key in ("seconds", "model")}
        details[case] = {key: value for key, value in known.items() if value}
        if case in interactive and state is not None and (view := _view(task, state.row.convention)) is not None:
            views[case] = view
    write_page(
        output / PAGE,
        "Tumour segmentation",
        report=report,
        metrics=tables["metrics"],
        summary=tables["summary"].assign(system=", ".join(dict.fromkeys(report["model"].dropna().astype(str)))),
        lesions=tables["lesions"],
        detection=tables.get("detection"),
        pictures={t.case.case_id: result_path(output, t.folder, PREVIEW, t.options.flat) for t in tasks},
        viewers=views,
        details=details,
        head=head,
    )


def _view(task: CaseTask, convention: str) -> View | None:
    """Return the written mask on the patient's image.

    The reference is not in it: `evaluate` compares.
    """
    from pipeline.report.viewer import View

    path = result_path(task.output, task.folder, MASK, task.options.flat)
    try:
        mask = read_label_map(ImageSource((path,)), max_voxels=task.options.max_voxels)
    except InputError as error:
        log.warning("no view of %s: %s", task.case.case_id, error)
        return None
    regions = load_convention(convention).region_masks(mask.array)
    return View(read_background(task.case.images, mask.grid), regions, mask.grid)
