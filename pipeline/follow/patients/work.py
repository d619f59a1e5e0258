"""One patient, from his masks to rows, growth map, pictures and page.

No error of one stops another.
"""

from __future__ import annotations

import datetime
import logging
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.errors import UsageError, explain
from data.folder_names import folder_name
from data.io.write import write_bytes_atomically
from data.output_names import FOLLOWUP, GROWTH
from pipeline.follow.align import Aligned, write_aligned
from pipeline.follow.growth import write_growth_map
from pipeline.follow.patients.measured import lesion_rows, measure, volumes_ml
from pipeline.follow.patients.rows import Told, failed_rows, response_row, targets_of, timepoint_rows
from pipeline.follow.patients.shown import Shown, curves_of, draw
from pipeline.follow.patients.state import forget, identity, keep, kept
from pipeline.follow.patients.task import Followed, PatientTask, Row
from pipeline.follow.patients.visit import Seen, compare_flags, place_at, read_visit
from pipeline.follow.response import PatientResponse, respond
from pipeline.follow.show.page import PatientShown, write_patient_page

log = logging.getLogger(__name__)


def follow_one(task: PatientTask, on_measured: Callable[[Measured], None] | None = None) -> tuple[Followed, float]:
    """Follow one patient and write his files.

    His rows come back, and the seconds that it took.

    A patient of whom nothing can be computed has rows that say why. ``on_measured`` is told of one that is not kept
    from an earlier run, before his files are written. Raises OSError where a file cannot be written.
    """
    start = time.perf_counter()
    try:
        if (task.output / task.folder).is_symlink():
            raise UsageError(f"{task.output / task.folder}: is a symbolic link; remove the link")
        key, masks = identity(task)
        followed = None if task.options.overwrite else kept(task, key)
        if followed is None:
            forget(task)
            followed = _follow(task, on_measured)
            keep(task, followed, key, masks)
    except Exception as error:
        log.debug("patient %r", task.patient, exc_info=True)
        followed = _failed(task, explain(error, task.folder))
    return followed, round(time.perf_counter() - start, 3)


def _failed(task: PatientTask, reason: str) -> Followed:
    reason = " ".join(reason.split())
    rows = tuple(map(_plain, failed_rows(task, reason)))
    about: Row = {"patient": task.patient, "status": "error", "reason": reason, "visits": len(task.visits)}
    responses = tuple({**about, "criterion": name} for name in task.criteria)
    return Followed("error", reason, rows, (), responses)


@dataclass(frozen=True)
class Measured:
    """Visits of a patient, measured and judged."""

    seen: Sequence[Seen]
    """In order of time."""
    baseline: Seen
    responses: Sequence[PatientResponse]
    """One for each of the criteria."""
    timepoints: Sequence[Row]
    lesions: Sequence[Row]


def measure_patient(task: PatientTask) -> Measured:
    """Read, register, measure and judge all visits of a patient; nothing is written.

    Raises
    ------
    UsageError
        No visit can be measured, or a baseline or a target that is named does not fit.
    """
    seen, baseline = _read(task)
    if baseline is None:
        why = dict.fromkeys(f"{each.visit.label}: {each.why_not}" for each in seen)
        raise UsageError(f"no visit can be measured ({'; '.join(why)})")
    measures, found = measure(seen, baseline)
    responses = [
        respond(measures, name, task.clinical, patient=task.patient, baselines=task.baselines, targets=task.targets)
        for name in task.criteria
    ]
    told = [Told(each.visit.case.case_id, own, volumes_ml(each)) for each, own in zip(seen, measures, strict=True)]
    rows = timepoint_rows(task, told, responses)
    lesions = lesion_rows(task, seen, found, targets_of(task, responses[0], measures))
    order = [row["timepoint"] for row in rows]
    seen = sorted(seen, key=lambda each: order.index(each.visit.label))
    return Measured(seen, baseline, responses, rows, lesions)


def timepoints_of(task: PatientTask) -> list[Row]:
    """Return a patient's rows of timepoints.csv, and write nothing.

    Whatever is wrong with him is in them.
    """
    try:
        return list(map(_plain, measure_patient(task).timepoints))
    except Exception as error:
        log.debug("patient %r", task.patient, exc_info=True)
        return failed_rows(task, " ".join(explain(error).split()))


def _follow(task: PatientTask, on_measured: Callable[[Measured], None] | None) -> Followed:
    measured = measure_patient(task)
    if on_measured is not None:
        on_measured(measured)
    shown = draw(task, measured.seen, measured.baseline, measured.responses[0])
    status, reason = _status(measured)
    about = [response_row(task, response) | {"status": status, "reason": reason} for response in measured.responses]
    timepoints, lesions, responses = (
        tuple(map(_plain, rows)) for rows in (measured.timepoints, measured.lesions, about)
    )
    followed = Followed(status, reason, timepoints, lesions, responses)
    return replace(followed, files=_write(task, followed, measured, shown))


def _read(task: PatientTask) -> tuple[list[Seen], Seen | None]:
    """Read all visits and lay them on the baseline.

    It is the visit that is named, or else the first that can be read.
    """
    named_first = sorted(task.visits, key=lambda visit: visit.label not in task.baselines)
    baseline: Seen | None = None
    seen: dict[str, Seen] = {}
    for visit in named_first:
        each = seen[visit.label] = read_visit(visit, task.options, baseline)
        if not each.is_there:
            continue
        baseline = baseline or each
        place_at(baseline, each)
        if each is not baseline:
            compare_flags(baseline, each)
    return [seen[visit.label] for visit in task.visits], baseline


def _status(measured: Measured) -> tuple[str, str]:
    seen, responses = measured.seen, measured.responses
    told = [f"{each.visit.label} is not evaluable: {each.why_not}" for each in seen if not each.is_there]
    told += [f"{each.visit.label}: {flag}" for each in seen for flag in each.flags if flag.startswith("registration")]
    told += list(dict.fromkeys(note for response in responses for note in response.notes))
    return ("warn" if told else "ok"), " ".join("; ".join(told).split())


def _write(task: PatientTask, followed: Followed, measured: Measured, shown: Shown) -> tuple[str, ...]:
    """Write growth map, moves and page; return their names below the output folder."""
    seen, baseline = measured.seen, measured.baseline
    folder = task.output / task.folder
    folder.mkdir(exist_ok=True)
    written = []
    for each in seen:
        if each.aligned is not None and each is not baseline:
            written.append(_write_move(folder, each.visit.case.case_id, each.aligned))
    if shown.growth is not None and baseline.header is not None:
        written.append(task.path(f"{GROWTH}.nii.gz"))
        write_growth_map(written[-1], shown.growth.labels, baseline.header)
        for name, png in shown.growth.pictures.items():
            written.append(task.path(f"{GROWTH}_{name}.png"))
            write_bytes_atomically(written[-1], png)
    written.append(folder / FOLLOWUP)
    write_patient_page(written[-1], _page(task, followed, measured, shown))
    return tuple(path.relative_to(task.output).as_posix() for path in written)


def _write_move(folder: Path, case_id: str, aligned: Aligned) -> Path:
    """Write the move of a visit whole or not at all: SimpleITK takes a path, and may be killed at it."""
    with tempfile.TemporaryDirectory(prefix="move-") as scratch:
        made = write_aligned(Path(scratch), folder_name(case_id), aligned)
        content = made.read_bytes()
    path = folder / made.name
    write_bytes_atomically(path, content)
    return path


def _page(task: PatientTask, followed: Followed, measured: Measured, shown: Shown) -> PatientShown:
    seen, baseline, responses = measured.seen, measured.baseline, measured.responses
    first, growth = responses[0], shown.growth
    masks = dict.fromkeys(each.visit.model or "given" for each in seen if each.visit.mask is not None)
    facts = {
        "Baseline": f"{first.baseline}: {first.baseline_how}" if first.baseline else "none",
        "Registered to": baseline.visit.label,
        "Masks": ", ".join(masks),
        "Convention": ", ".join(dict.fromkeys(each.convention.name for each in seen if each.convention is not None)),
        "Notes": "; ".join(dict.fromkeys(note for response in responses for note in response.notes)),
    }
    return PatientShown(
        task.patient,
        followed.timepoints,
        followed.lesions,
        followed.responses,
        task.criteria,
        curves_of(followed.timepoints, responses),
        shown.planes,
        shown.told,
        {} if growth is None else growth.pictures,
        "" if growth is None else growth.told,
        "" if growth is None else task.path(f"{GROWTH}.nii.gz").name,
        [(row["timepoint"], row["resection"]) for row in followed.timepoints if row.get("resection")],
        {name: value for name, value in facts.items() if value},
    )


def _plain(row: Row) -> Row:
    """Return a row in JSON's own types: NaN as None, a date as text."""
    return {name: _value(value) for name, value in row.items()}


def _value(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, datetime.date):
        return value.isoformat()
    return None if isinstance(value, float) and not math.isfinite(value) else value
