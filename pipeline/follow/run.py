"""Follow-up of many patients: tables, a page for each patient, and an overview.

One patient is at work at a time, and of those that are done only rows are kept. A patient that is done and unchanged
(masks, images, dates, clinical table, targets, criteria) is not done again, so that a run that was killed goes on and
leaves the same bytes. The tables and the overview are written when all patients are done, each whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from data.errors import UsageError
from data.folder_names import unique_folder_names
from data.output_names import FOLLOWED_MASKS, FOLLOWUP, LESIONS_OVER_TIME, RESPONSE, STATE_FOLDER, TIMEPOINTS
from pipeline.execute.lock import output_lock, remove_temporary_files
from pipeline.execute.own_folder import own_output
from pipeline.follow.clinical import Clinical, read_clinical
from pipeline.follow.criteria import CRITERIA, criterion_named
from pipeline.follow.patients.sources import Visit, baselines_of
from pipeline.follow.patients.task import Followed, PatientTask, Row
from pipeline.follow.patients.work import Measured, follow_one
from pipeline.follow.show.page import PatientListed, write_overview
from pipeline.follow.show.tables import write_tables
from pipeline.follow.targets import read_targets
from pipeline.options import SegmentOptions

__all__ = ["FollowOptions", "follow_patients"]


@dataclass(frozen=True)
class FollowOptions:
    """Options of a follow-up.

    Raises
    ------
    UsageError
        There is no criterion, or none of that name.
    """

    criteria: tuple[str, ...] = ("rano2",)
    """Names of `pipeline.follow.criteria.CRITERIA`; sums over targets and the curves are those of the first."""
    clinical: Path | None = None
    """Clinical table, see `pipeline.follow.clinical`."""
    targets: Path | None = None
    """Table of target lesions, see `pipeline.follow.targets`."""
    baselines: tuple[str, ...] = ()
    """Cases that are their patient's baseline."""
    segment: SegmentOptions = field(default_factory=SegmentOptions)

    def __post_init__(self) -> None:
        if not self.criteria:
            raise UsageError(f"--criteria: name at least one of {', '.join(CRITERIA)}")
        for name in self.criteria:
            criterion_named(name)


def follow_patients(
    patients: Mapping[str, Sequence[Visit]],
    output: Path,
    options: FollowOptions | None = None,
    *,
    progress: Callable[[Row], None] | None = None,
    on_patient: Callable[[PatientTask, Followed], None] | None = None,
    on_measured: Callable[[Measured], None] | None = None,
    facts: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Follow every patient, and write tables and pages into ``output``.

    Parameters
    ----------
    patients : mapping of name to visits
        As `pipeline.follow.patients.sources.visits_by_patient` gives them.
    output : Path
        Gets timepoints.csv, lesions_over_time.csv, response.csv, followup.html, and for each patient a folder with
        followup.html, the growth map and the moves. Made if missing.
    progress, on_patient : callable, optional
        Called as each patient ends: with a row for a progress bar, and with all that is known of him.
    on_measured : callable, optional
        Called with the visits of each patient that is not kept from an earlier run, before his files are written.
    facts : mapping of str to str, optional
        For the head of the overview.

    Returns
    -------
    DataFrame
        A row for each patient: ``case`` (his name), folder, status, reason. Whatever goes wrong with one patient is his
        row, and with one visit its row of timepoints.csv.

    Raises
    ------
    UsageError
        A table or a baseline that is named does not fit the patients, or another run is at work in ``output``.
    OSError
        A table cannot be written.
    """
    options = options or FollowOptions()
    tasks = tasks_of(patients, Path(output), options)
    done: list[tuple[PatientTask, Followed]] = []
    rows: list[Row] = []
    with output_lock(output), _own_followup(output, tasks):
        (output / STATE_FOLDER).mkdir(exist_ok=True)
        remove_temporary_files(output, [STATE_FOLDER, *(task.folder for task in tasks)])
        for task in tasks:
            followed, seconds = follow_one(task, on_measured)
            done.append((task, followed))
            rows.append(followed.row(task, seconds))
            if on_patient is not None:
                on_patient(task, followed)
            if progress is not None:
                progress(rows[-1])
        _write(output, done, options, facts or {})
    return pd.DataFrame(rows, columns=["case", "folder", "status", "reason", "seconds"])


def tasks_of(patients: Mapping[str, Sequence[Visit]], output: Path, options: FollowOptions) -> list[PatientTask]:
    """Return each patient as a piece of work. Raises UsageError where a table or a baseline does not fit them."""
    labels = {name: [visit.label for visit in visits] for name, visits in patients.items()}
    clinical = {} if options.clinical is None else read_clinical(options.clinical, labels)
    targets = {} if options.targets is None else read_targets(options.targets, patients)
    baselines = baselines_of(options.baselines, patients)
    folders = unique_folder_names([*patients, FOLLOWED_MASKS])  # a patient's folder is not that of the masks
    return [
        PatientTask(
            name,
            folders[name] if name != FOLLOWED_MASKS else f"{name}_",
            output,
            tuple(visits),
            options.criteria,
            options.segment,
            clinical.get(name, Clinical()),
            targets.get(name, {}),
            baselines.get(name, ()),
        )
        for name, visits in patients.items()
    ]


def _own_followup(output: Path, tasks: Sequence[PatientTask]) -> AbstractContextManager[None]:
    """Claim all that a run may replace, see `pipeline.execute.own_folder.own_output`."""
    names = [output / name for name in (TIMEPOINTS, LESIONS_OVER_TIME, RESPONSE, FOLLOWUP, STATE_FOLDER)]
    return own_output(output, [*names, *(output / task.folder for task in tasks)], [output / STATE_FOLDER])


def _write(
    output: Path, done: Sequence[tuple[PatientTask, Followed]], options: FollowOptions, facts: Mapping[str, str]
) -> None:
    timepoints, lesions, responses = (
        [row for _, followed in done for row in getattr(followed, name)]
        for name in ("timepoints", "lesions", "responses")
    )
    write_tables(output, timepoints, lesions, responses, options.criteria)
    listed = [
        PatientListed(
            task.patient,
            task.folder,
            followed.timepoints,
            followed.responses,
            f"{task.folder}/{FOLLOWUP}" if followed.files else "",
            followed.reason if followed.status == "error" else "",
        )
        for task, followed in done
    ]
    titles = "; ".join(CRITERIA[name].title for name in options.criteria)
    write_overview(output / FOLLOWUP, listed, options.criteria, {"Criteria": titles, **facts})


def patient_object(task: PatientTask, followed: Followed) -> dict[str, Any]:
    """Return a patient for JSON: status, rows, and the place of his page."""
    page = task.output / task.folder / FOLLOWUP
    return {
        "patient": task.patient, "status": followed.status, "reason": followed.reason,
        "page": str(page) if followed.files else None,
        "timepoints": list(followed.timepoints), "lesions": list(followed.lesions),
        "responses": list(followed.responses),
    }  # fmt: skip
