"""Run over many cases: a row for each patient folder.

Every case has its rows in metrics.csv and lesions.csv; without a reference these are its volumes and the lesions found.
summary.csv sums up metrics.csv, and detection.csv, which is there where a case has a reference, lesions.csv.

A finished case, of the same inputs, model and options, is not done again (:mod:`pipeline.segment.identity`). It keeps
its rows, so that the tables come out the same to the byte. Every file is written whole or not at all: a run may be
killed at any moment, and the next one goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from data.case import Case
from data.errors import UsageError
from data.find.recognise import ConventionChoice, choose_conventions, read_label_values
from data.folder_names import unique_folder_names
from data.io.equal_files import same_files, same_files_sentence
from data.labels import load_convention
from data.output_names import REPORT
from pipeline.checkpoint import Checkpoint, open_checkpoint, require_same_regions, shipped_models
from pipeline.default_model import choose_model
from pipeline.execute.cluster import own_share
from pipeline.execute.executors import WORKER_DIED, devices_of, is_elsewhere, run_tasks, threads_of_each, workers_of
from pipeline.execute.lock import output_lock
from pipeline.execute.stages import Listener, listening
from pipeline.export.formats import exports_of
from pipeline.options import SegmentOptions
from pipeline.predict.memory.machine import set_workers, tune_malloc
from pipeline.score.tables import write_table
from pipeline.segment.case import error_row, segment_one
from pipeline.segment.output import clean_output, own_results, require_apart
from pipeline.segment.results import report_of, rows_of_others, write_results
from pipeline.segment.shards import Shard, record_path, write_shard_record
from pipeline.segment.state import ReportRow
from pipeline.segment.task import CaseTask

if TYPE_CHECKING:
    import torch

__all__ = ["SegmentOptions", "segment_cases"]

MOST_THREADS = 1024


def segment_cases(
    cases: Sequence[Case],
    output: Path | str,
    options: SegmentOptions | None = None,
    *,
    executor: str = "serial",
    progress: Callable[[dict[str, Any]], None] | None = None,
    on_stage: Listener | None = None,
    interactive: Collection[str] = (),
    command: str = "",
    shard: Shard | None = None,
    only: Collection[str] = (),
) -> pd.DataFrame:
    """Segment every case into ``output``; write its tables, report.html and run.json.

    Parameters
    ----------
    executor : str
        See :mod:`pipeline.execute.executors`.
    progress : callable, optional
        Called with the columns of each row of report.csv as soon as it is known, in order of completion, and with
        ``already_done``, which is true where an earlier run has done the case.
    on_stage : callable, optional
        Of the executor "serial": called with the stage (:mod:`pipeline.execute.stages`) of the case, and its share.
    interactive : collection of str
        Cases that the page shows in a 3D viewer; one without a mask has none. Each adds megabytes.
    command : str
        The command line, for run.json.
    shard : Shard, optional
        The part of ``cases``, which are all of them, to segment; :mod:`pipeline.segment.merge` joins parts.
    only : collection of str
        Cases to segment, where they are not all; the others keep the rows that an earlier run left in ``output``.

    Returns the rows of report.csv, one for each case, in the order of ``cases``; with ``only`` those of these alone.

    Raises
    ------
    data.errors.UsageError, data.errors.CheckpointError
        The run cannot start, or another run is at work in ``output``. A fault of one case is a row, never an exception.
    OSError
        The cases are done and a table could not be written: the older one is still there.
    """
    options, output, started = options or SegmentOptions(), Path(output), time.time()
    device = _check(cases, options, executor, interactive)
    folders = unique_folder_names([case.case_id for case in cases])
    require_apart(cases, output, folders)
    with output_lock(output), own_results(output, folders.values()), clean_output(output, folders.values()):
        record_path(output).unlink(missing_ok=True)  # until this run has come to its end
        doubled = _doubled(cases)
        if options.strict:
            cases = [replace(c, warnings=(*c.warnings, *doubled.get(c.case_id, ()))) for c in cases]
        tasks, kept = rows_of_others(output, _tasks(cases, folders, output, options, shard), only)
        with listening(on_stage):
            rows = _run(tasks, kept, output, options, executor, progress, doubled)
        report, how = report_of(rows), {**asdict(options), "executor": executor, "device_used": device}
        write_results(output, tasks, report, how, command, started, interactive, {"shard": str(shard)} if shard else {})
        if shard is not None:
            models = {model.name: model.sha256 for model in _named_models(options)}
            write_shard_record(output, shard, cases, tasks, rows, options, models)
    return report[~report["case"].isin(list(kept))] if kept else report


def _tasks(
    cases: Sequence[Case], folders: Mapping[str, str], output: Path, options: SegmentOptions, shard: Shard | None
) -> list[CaseTask]:
    """Return the cases as pieces of work; of a shard its part alone.

    All cases decide the conventions.
    """
    conventions = _conventions(cases, options)
    wanted = None if shard is None else shard.part_of(folders)
    return [
        CaseTask(case, folders[case.case_id], output, options, conventions[case.case_id])
        for case in cases
        if wanted is None or case.case_id in wanted
    ]


def _check(cases: Sequence[Case], options: SegmentOptions, executor: str, interactive: Collection[str]) -> str:
    """Return the device; refuse impossible options before anything is written."""
    if unknown := sorted(set(interactive) - {case.case_id for case in cases}):
        raise UsageError(
            f"--interactive: no patient {', '.join(map(repr, unknown))}; `inspect` lists those that there are"
        )
    if options.models:
        require_same_regions([open_checkpoint(model) for model in options.models])
    for convention in (options.convention, options.reference_convention):
        if convention:
            load_convention(convention)
    exports_of(options.outputs)
    for name, value in (("threads", options.threads), ("max-voxels", options.max_voxels)):
        if value is not None and value < 1:
            raise UsageError(f"--{name} {value}: give a number of at least 1")
    if options.threads is not None and options.threads > MOST_THREADS:
        raise UsageError(f"--threads {options.threads}: give at most {MOST_THREADS}")
    from pipeline.predict.device import choose_device  # torch takes seconds to import

    if is_elsewhere(executor) and options.device.partition(":")[0] in ("auto", "cpu", "cuda"):
        _check_model_options(options, None, cases)
        return f"each worker's {options.device}"
    device = [choose_device(name) for name in devices_of(executor) or [options.device]][0]
    _check_model_options(options, device, cases)
    return str(device)


def _check_model_options(options: SegmentOptions, device: torch.device | None, cases: Sequence[Case]) -> None:
    for name in options.models:
        open_checkpoint(name).config  # noqa: B018  it is checked
    if options.window == "auto" and options.engine == "auto" and options.level is None:
        return
    if options.level is not None and not options.models:
        _check_level(options.level, cases)
    from networks import networks_of  # they import MONAI, beside which the first case is read
    from pipeline.predict.engines import choose_engine, prune
    from pipeline.predict.windows import with_window

    for model in _named_models(options):
        with_window(model.config, options.window)
        if options.level is not None and options.models:  # of those that are not named, the one that fits is cut
            prune(model.build(), options.level, model.name)
        if options.engine != "auto" and device is not None:
            for network, stage in zip(networks_of(model.build()), model.config.stages, strict=True):
                choose_engine(options.engine, network, stage, device)


def _check_level(level: int, cases: Sequence[Case]) -> None:
    """Refuse a level that none of the cases' own models has. Raises UsageError."""
    from pipeline.predict.engines import prune

    refused: list[UsageError] = []
    chosen = {model.name: model for model in (choose_model(case) for case in cases if not case.problems)}
    for model in chosen.values():
        try:
            prune(model.build(), level, model.name)
        except UsageError as error:
            refused.append(error)
    if refused and len(refused) == len(chosen):
        raise refused[0]


def _run(
    tasks: Sequence[CaseTask],
    kept: Mapping[str, ReportRow],
    output: Path,
    options: SegmentOptions,
    executor: str,
    progress: Callable[[dict[str, Any]], None] | None,
    doubled: Mapping[str, tuple[str, ...]],
) -> list[ReportRow]:
    """Segment the cases that are not kept, and return all rows in order.

    However the run ends, report.csv is written, unless it could not start.
    """
    rows = {index: kept[task.case.case_id] for index, task in enumerate(tasks) if task.case.case_id in kept}
    places = [index for index in range(len(tasks)) if index not in rows]
    last_written = time.monotonic()
    todo = [tasks[index] for index in places]
    results = run_tasks(
        segment_one, todo, executor, _died, initializer=_start_worker, initargs=(options.threads, executor)
    )
    try:
        with closing(results):
            for number, row in results:
                index = places[number]
                rows[index] = row = _warned(row, doubled.get(tasks[index].case.case_id, ()))
                if progress:
                    progress(row.cells() | {"already_done": row.already_done})
                if time.monotonic() - last_written > 5:
                    with suppress(OSError):  # the disk may have space again at the end
                        write_table(output / REPORT, report_of(_in_order(rows)))
                    last_written = time.monotonic()
    except BaseException:
        if rows:
            with suppress(OSError):  # what ended the run is said, not what came of it
                write_table(output / REPORT, report_of(_in_order(rows)))
        raise
    write_table(output / REPORT, report_of(_in_order(rows)))
    return _in_order(rows)


def _doubled(cases: Sequence[Case]) -> dict[str, tuple[str, ...]]:
    """Return a sentence for each scored case that shares image files with another.

    Without references nothing is counted twice, and two equal masks do no harm.
    """
    groups = same_files(case for case in cases if case.reference is not None)
    return {case_id: (same_files_sentence(case_id, group),) for group in groups for case_id in group}


def _warned(row: ReportRow, warnings: Collection[str]) -> ReportRow:
    """Return a row with warnings of the run.

    They are no part of the case, so that a finished one is not done again for them.
    """
    if row.status == "error" or all(warning in row.reason for warning in warnings):
        return row
    return row.model_copy(update={"status": "warn", "reason": "; ".join(filter(None, [row.reason, *warnings]))})


def _in_order(rows: Mapping[int, ReportRow]) -> list[ReportRow]:
    return [rows[index] for index in sorted(rows)]


def _conventions(cases: Sequence[Case], options: SegmentOptions) -> dict[str, ConventionChoice]:
    fallback = None
    if models := _named_models(options):
        fallback = str(models[0].settings["convention"])

    labels = partial(read_label_values, max_voxels=options.max_voxels)
    return choose_conventions(
        cases,
        override=options.reference_convention,
        fallback=fallback,
        read_labels=labels,
        way_out="say which with --reference-convention NAME",
    )


# Running


def _died(task: CaseTask) -> ReportRow:
    return error_row(task, WORKER_DIED)


def _start_worker(threads: int | None, spec: str) -> None:
    import torch

    tune_malloc()
    workers, number = workers_of(spec), threads_of_each(threads, spec)
    if is_elsewhere(spec):
        share, workers = own_share()
        number = number or share
    if workers > 1:
        set_workers(workers)
    if number:
        torch.set_num_threads(number)


def _named_models(options: SegmentOptions) -> list[Checkpoint]:
    return [open_checkpoint(m) for m in options.models] or shipped_models()
