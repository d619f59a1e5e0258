"""Many cases: every patient folder becomes one row, and a finished case is not done again."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from data.case import Case, ImageSource, unique_folder_names
from data.errors import UsageError
from data.io import read_label_map
from data.labels import count_labels, load_convention
from data.lock import output_lock, remove_temporary_files
from data.recognise import ConventionChoice, choose_conventions
from pipeline.case_task import (
    STATE_TABLES,
    CaseTask,
    Row,
    SegmentOptions,
    numbers_of,
    read_state,
    state_path,
)
from pipeline.checkpoint import Checkpoint, open_checkpoint, require_same_regions, shipped_models
from pipeline.executors import WORKER_DIED, run_tasks, threads_of_each, workers_of
from pipeline.free_memory import set_workers
from pipeline.lesions import sensitivity_by_size
from pipeline.run_record import write_run_record
from pipeline.score_tables import lesion_file, lesions_frame, metrics_frame, pooled_detection
from pipeline.scoring import ScoreOptions, metric_columns
from pipeline.segment_case import error_row, segment_one
from pipeline.segment_page import write_segment_page
from pipeline.staging import staging_folder
from pipeline.statistics import summarise_metrics
from pipeline.tables import report_frame, write_table

__all__ = ["SegmentOptions", "segment_cases"]

SHOWN_LESIONS = 100
"""So many lesions of a region and side, the largest, stand on the page; lesions.csv has them all."""


def segment_cases(
    cases: Sequence[Case],
    output: Path | str,
    options: SegmentOptions | None = None,
    *,
    executor: str = "serial",
    progress: Callable[[Row], None] | None = None,
    interactive: Collection[str] = (),
    command: str = "",
) -> pd.DataFrame:
    """Segment every case into ``output``; write its tables, report.html, run.json and the label descriptions.

    Parameters
    ----------
    cases : sequence of Case
        From :func:`data.case.discover_cases`.
    output : Path
        Made if missing. Results that are there already, of the same inputs, model and options, are kept.
    executor : str
        See :mod:`pipeline.executors`.
    progress : callable, optional
        Called with each row as soon as it is known, in order of completion.
    interactive : collection of str
        Cases that the page shows in a 3D viewer; one without a mask has none. Each adds megabytes.
    command : str
        The command line that asks for it, for run.json.

    Returns
    -------
    DataFrame
        The rows of report.csv, one for each case, in the order of ``cases``; columns as in README.

    Notes
    -----
    Every case has its rows in metrics.csv and lesions.csv; without a reference these are its volumes and the lesions
    found. summary.csv sums up metrics.csv, and detection.csv, which is there where a case has a reference, lesions.csv.
    A case that is kept from an earlier run keeps its rows, so that the tables come out the same to the byte.
    Every file is written whole or not at all, so that a run may be killed at any moment, and the next one goes on.

    Raises
    ------
    data.errors.UsageError, data.errors.CheckpointError
        The run cannot start; so too where another run is at work in ``output``. What is wrong with one case is that
        case's row, never an exception.
    OSError
        The cases are done and a table could not be written: the older one is still there.
    """
    options, output = options or SegmentOptions(), Path(output)
    if unknown := sorted(set(interactive) - {case.case_id for case in cases}):
        raise UsageError(
            f"--interactive: no patient {', '.join(map(repr, unknown))}; `inspect` lists those that there are"
        )
    started = time.time()
    device = _check(options)
    folders = unique_folder_names([case.case_id for case in cases])
    _require_apart(cases, output, folders)
    with output_lock(output), _clean(output):
        conventions = _conventions(cases, options)
        tasks = [CaseTask(case, folders[case.case_id], output, options, conventions[case.case_id]) for case in cases]
        report = _run(tasks, output, options, executor, progress)
        records, tables = _write_tables(output, tasks, report)
        used = list(dict.fromkeys(str(c) for c in report["convention"] if isinstance(c, str) and c))
        _write_labels(output, used)
        how = {**asdict(options), "executor": executor, "device_used": device}
        write_run_record(output, command, how, tasks, records, started)
        write_segment_page(output, tasks, records, tables, interactive)
    return report


def _check(options: SegmentOptions) -> str:
    """The device; options that cannot be are refused before anything is written."""
    if options.models:
        require_same_regions([open_checkpoint(model) for model in options.models])
    if options.convention:
        load_convention(options.convention)
    for name, value in (("threads", options.threads), ("max-voxels", options.max_voxels)):
        if value is not None and value < 1:
            raise UsageError(f"--{name} {value}: give a number of at least 1")
    from pipeline.device import choose_device  # torch takes seconds to import

    return str(choose_device(options.device))


def _run(
    tasks: Sequence[CaseTask],
    output: Path,
    options: SegmentOptions,
    executor: str,
    progress: Callable[[Row], None] | None,
) -> pd.DataFrame:
    """The rows of all cases; report.csv is there whatever ends it, unless it could not start."""
    rows: dict[int, Row] = {}
    last_written = time.monotonic()
    results = run_tasks(
        segment_one, tasks, executor, _died, initializer=_start_worker, initargs=(options.threads, executor)
    )
    try:
        with closing(results):
            for index, row in results:
                rows[index] = row
                if progress:
                    progress(row)
                if time.monotonic() - last_written > 5:
                    with suppress(OSError):  # the disk may have space again at the end
                        write_table(output / "report.csv", _frame(rows))
                    last_written = time.monotonic()
    except BaseException:
        if rows:
            with suppress(OSError):  # what ended the run is said, not what came of it
                write_table(output / "report.csv", _frame(rows))
        raise
    write_table(output / "report.csv", _frame(rows))
    return _frame(rows)


def _frame(rows: Mapping[int, Row]) -> pd.DataFrame:
    public = [{key: value for key, value in rows[index].items() if not key.startswith("_")} for index in sorted(rows)]
    return report_frame(public)


def _require_apart(cases: Sequence[Case], output: Path, folders: Mapping[str, str]) -> None:
    """Results never lie among inputs, where they could replace an image or a reference of the same name."""
    top = output.resolve()
    for case in cases:
        sources = [*case.images.values(), *([case.reference] if case.reference else [])]
        inputs = {case.folder.resolve(), *(path.parent.resolve() for source in sources for path in source.paths)}
        if inputs & {top, top / folders[case.case_id]}:
            raise UsageError(f"{output}: results would lie among the files of {case.case_id}; choose another --output")


@contextmanager
def _clean(output: Path) -> Iterator[None]:
    """What a killed run left is removed before, and what a killed worker left after."""

    def clean() -> None:
        remove_temporary_files(output)
        shutil.rmtree(staging_folder(output), ignore_errors=True)

    clean()
    try:
        staging_folder(output).mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"{output}: cannot be written to ({error.strerror}); choose another --output") from None
    try:
        yield
    finally:
        clean()


def _conventions(cases: Sequence[Case], options: SegmentOptions) -> dict[str, ConventionChoice]:
    fallback = None
    if models := _named_models(options):
        fallback = str(models[0].settings["convention"])

    def labels(source: ImageSource) -> Collection[float]:
        return count_labels(read_label_map(source, max_voxels=options.max_voxels).array)

    return choose_conventions(cases, override=options.convention, fallback=fallback, read_labels=labels)


# Running


def _died(task: CaseTask) -> Row:
    return error_row(task, WORKER_DIED)


def _start_worker(threads: int | None, spec: str) -> None:
    import torch

    if (workers := workers_of(spec)) > 1:
        set_workers(workers)
    if number := threads_of_each(threads, spec):
        torch.set_num_threads(number)


# What is made of the whole run


def _write_tables(
    output: Path, tasks: Sequence[CaseTask], report: pd.DataFrame
) -> tuple[list[Row], dict[str, pd.DataFrame]]:
    """The tables beside report.csv, written, and what else the state file of each case holds.

    Of lesions, which may be very many, only the largest of each region and side are returned, for the page.
    """
    records: list[Row] = []
    regions: list[Row] = []
    detection: list[Row] = []
    shown: list[Row] = []
    with lesion_file(output / "lesions.csv") as write_lesions:
        for task, status in zip(tasks, report["status"], strict=True):
            # What a failure leaves there is an earlier run's.
            state = {} if status == "error" else read_state(state_path(task))
            case: Row = {"case": task.case.case_id}
            lesions = [case | numbers_of(row) for row in state.get("lesions", ())]
            write_lesions(lesions)
            shown += [row for row in lesions if row["lesion"] <= SHOWN_LESIONS]
            regions += [case | numbers_of(row) for row in state.get("regions", ())]
            detection += _detection(lesions)
            records.append({key: value for key, value in state.items() if key not in STATE_TABLES})
    metrics = metrics_frame(regions, metric_columns(ScoreOptions()))
    tables = {"metrics": metrics, "summary": summarise_metrics(metrics, report)}
    if metrics["voxels_reference"].notna().any():
        tables["detection"] = pooled_detection(detection)
    else:  # an older run's would be taken for this one's
        (output / "detection.csv").unlink(missing_ok=True)
    for name, table in tables.items():
        write_table(output / f"{name}.csv", table)
    return records, tables | {"report": report, "lesions": lesions_frame(shown)}


def _detection(lesions: Sequence[Row]) -> list[Row]:
    """How many lesions of each size were found in each region of one case that has a reference."""
    wanted = [row for row in lesions if row["side"] == "reference"]
    return [
        {"region": region} | row
        for region in dict.fromkeys(row["region"] for row in wanted)
        for row in sensitivity_by_size([row for row in wanted if row["region"] == region])
    ]


def _write_labels(output: Path, conventions: Sequence[str]) -> None:
    """The run's label descriptions; where patients keep different conventions, one more pair for each further one."""
    from pipeline.colours import write_label_descriptions

    for number, name in enumerate(conventions):
        write_label_descriptions(output, load_convention(name), "" if number == 0 else f"-{name}")


def _named_models(options: SegmentOptions) -> list[Checkpoint]:
    return [open_checkpoint(m) for m in options.models] or shipped_models()
