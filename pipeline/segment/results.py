"""Results of a whole run: its tables, label descriptions, run.json and page."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from data.case import DICOM
from data.labels import convention_name, load_convention
from data.output_names import DETECTION, LESIONS, REPORT
from pipeline.report.head import Head
from pipeline.score.case import ScoreOptions, metric_columns
from pipeline.score.lesions import sensitivity_by_size
from pipeline.score.statistics import summarise_metrics
from pipeline.score.tables import (
    lesion_file,
    lesions_frame,
    metrics_frame,
    pooled_detection,
    read_columns,
    report_frame,
    text_cell,
    write_table,
)
from pipeline.segment.page import write_segment_page
from pipeline.segment.run_record import write_run_record
from pipeline.segment.state import CaseState, ReportRow, read_state, results_are_there
from pipeline.segment.task import CaseTask, state_path

Row = dict[str, Any]

SHOWN_LESIONS = 100
"""So many lesions of a region and side, the largest, stand on the page; lesions.csv has them all."""


def report_of(rows: Sequence[ReportRow]) -> pd.DataFrame:
    """report.csv from the rows of its cases."""
    cells = [row.cells() for row in rows]
    # A user's own convention is a page of JSON; the state files keep it.
    return report_frame([{k: convention_name(v) if k == "convention" else v for k, v in row.items()} for row in cells])


def rows_of_others(
    output: Path, tasks: Sequence[CaseTask], only: Collection[str]
) -> tuple[list[CaseTask], dict[str, ReportRow]]:
    """Return the tasks that have a row, and the rows that earlier runs left.

    These are of the cases outside ``only``; empty, it means all cases. A finished case has its state file; of another
    one report.csv tells the status and the reason.
    """
    if not only:
        return list(tasks), {}
    try:
        told = {row["case"]: row for row in read_columns(output / REPORT, ("case", "status", "reason"))}
    except (OSError, ValueError):
        told = {}
    rows: dict[str, ReportRow] = {}
    for task in (task for task in tasks if task.case.case_id not in only):
        name, state = task.case.case_id, read_state(state_path(task))
        row = told.get(text_cell(name), {})
        fixed = {"case": name, "folder": task.folder}
        if state is not None and results_are_there(task, state):
            rows[name] = state.row.model_copy(update=fixed)
        elif row.get("status") in ("warn", "error"):
            rows[name] = ReportRow.model_validate(fixed | {"status": row["status"], "reason": row["reason"]})
    return [task for task in tasks if task.case.case_id in {*only, *rows}], rows


def write_results(
    output: Path,
    tasks: Sequence[CaseTask],
    report: pd.DataFrame,
    how: Mapping[str, Any],
    command: str,
    started: float,
    interactive: Collection[str],
    more: Mapping[str, Any],
) -> None:
    """Write tables, label descriptions, run.json and the page of a run.

    They are made of report.csv and the cases' state files.

    ``how``, ``command``, ``started`` and ``more`` are for run.json, see
    :func:`pipeline.segment.run_record.write_run_record`.
    """
    states, tables = _write_tables(output, tasks, report)
    used = list(dict.fromkeys(state.row.convention for state in states if state is not None and state.row.convention))
    _write_labels(output, used)
    write_run_record(output, command, how, tasks, states, started, more)
    head = Head(started, command, _folders(output, tasks) if command else {}, _models(states))
    write_segment_page(output, tasks, states, tables, interactive, head)


def _folders(output: Path, tasks: Sequence[CaseTask]) -> dict[str, str]:
    """Return the folders of a run's page; one is that around all patients.

    Folders of DICOM examinations may bear a patient's name and are not told.
    """
    told = [os.path.abspath(task.case.folder) for task in tasks if task.case.layout != DICOM]
    around = os.path.commonpath(told) if told else ""
    return {"Patients": around, "Output": os.path.abspath(output)}


def _models(states: Sequence[CaseState | None]) -> list[str]:
    """Return the models of a run, each with the beginning of its file's SHA-256."""
    used = {Path(file).stem: digest for state in states if state is not None for file, digest in state.models.items()}
    return [f"{name} (SHA-256 {digest[:12]})" for name, digest in used.items()]


def _write_tables(
    output: Path, tasks: Sequence[CaseTask], report: pd.DataFrame
) -> tuple[list[CaseState | None], dict[str, pd.DataFrame]]:
    """Write the tables beside report.csv; return the records of the cases and the tables.

    Of lesions, which may be very many, only the largest of each region and side are returned, for the page.
    """
    states: list[CaseState | None] = []
    regions: list[Row] = []
    detection: list[Row] = []
    shown: list[Row] = []
    with lesion_file(output / LESIONS) as write_lesions:
        for task, status in zip(tasks, report["status"], strict=True):
            # What a failure leaves there is an earlier run's.
            state = None if status == "error" else read_state(state_path(task))
            case: Row = {"case": task.case.case_id}
            lesions = [case | row for row in (state.table("lesions") if state else ())]
            write_lesions(lesions)
            shown += [row for row in lesions if row["lesion"] <= SHOWN_LESIONS]
            regions += [case | row for row in (state.table("regions") if state else ())]
            detection += _detection(lesions)
            states.append(None if state is None else state.model_copy(update={"lesions": []}))  # may be very many
    metrics = metrics_frame(regions, metric_columns(ScoreOptions()))
    tables = {"metrics": metrics, "summary": summarise_metrics(metrics, report)}
    if metrics["voxels_reference"].notna().any():
        tables["detection"] = pooled_detection(detection)
    else:  # an older run's would be taken for this one's
        (output / DETECTION).unlink(missing_ok=True)
    for name, table in tables.items():
        write_table(output / f"{name}.csv", table)
    return states, tables | {"report": report, "lesions": lesions_frame(shown)}


def _detection(lesions: Sequence[Row]) -> list[Row]:
    """Count the lesions of each size that were found, by region.

    For one case that has a reference.
    """
    wanted = [row for row in lesions if row["side"] == "reference"]
    return [
        {"region": region} | row
        for region in dict.fromkeys(row["region"] for row in wanted)
        for row in sensitivity_by_size([row for row in wanted if row["region"] == region])
    ]


def _write_labels(output: Path, conventions: Sequence[str]) -> None:
    """Write the run's label descriptions.

    Where patients keep different conventions, each further one gets a pair of its own.
    """
    from pipeline.report.colours import write_label_descriptions

    for number, convention in enumerate(map(load_convention, conventions)):
        write_label_descriptions(output, convention, "" if number == 0 else f"-{convention.name}")
