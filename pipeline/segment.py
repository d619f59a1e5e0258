"""Many cases: every patient folder becomes one row, and a finished case is not done again."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from data.case import Case, ImageSource, unique_folder_names
from data.errors import UsageError
from data.io import (
    is_temporary_name,
    read_label_map,
    write_text_atomically,
)
from data.labels import count_labels, load_convention
from data.recognise import ConventionChoice, choose_conventions
from pipeline.case_task import (
    STATE_FOLDER,
    CaseTask,
    Row,
    SegmentOptions,
    metadata_version,
    read_state,
    result_path,
    state_path,
)
from pipeline.checkpoint import Checkpoint, open_checkpoint, require_same_regions, shipped_models
from pipeline.executors import make_executor
from pipeline.segment_case import error_row, segment_one
from pipeline.tables import report_frame, summarise, text_cell, write_table

__all__ = ["SegmentOptions", "segment_cases"]

PACKAGES = (
    "brain-tumour-segmentation",
    "torch",
    "monai",
    "nibabel",
    "SimpleITK",
    "numpy",
    "scipy",
    "connected-components-3d",
)


def segment_cases(
    cases: Sequence[Case],
    output: Path | str,
    options: SegmentOptions | None = None,
    *,
    executor: str = "serial",
    progress: Callable[[Row], None] | None = None,
) -> pd.DataFrame:
    """Segment every case into ``output`` and write report.csv, summary.csv, report.html, run.json and the label descriptions.

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

    Returns
    -------
    DataFrame
        The rows of report.csv, one for each case, in the order of ``cases``; columns as in README.

    Raises
    ------
    data.errors.UsageError, data.errors.CheckpointError
        The run cannot start. What is wrong with one case is that case's row, never an exception.
    """
    options, output = options or SegmentOptions(), Path(output)
    started = time.time()
    if options.models:
        require_same_regions([open_checkpoint(model) for model in options.models])
    if options.convention:
        load_convention(options.convention)
    if options.threads is not None and options.threads < 1:
        raise UsageError(f"--threads {options.threads}: give a number of at least 1")
    from pipeline.device import choose_device  # torch takes seconds to import

    device = str(choose_device(options.device))
    folders = unique_folder_names([case.case_id for case in cases])
    _require_apart(cases, output, folders)
    _prepare_output(output)
    conventions = _conventions(cases, options)
    tasks = [CaseTask(case, folders[case.case_id], output, options, conventions[case.case_id]) for case in cases]
    rows: dict[int, Row] = {}
    last_written = time.monotonic()
    try:
        for index, row in _work(tasks, executor, options):
            rows[index] = row
            if progress:
                progress(row)
            if time.monotonic() - last_written > 5:
                write_table(output / "report.csv", _frame(rows))
                last_written = time.monotonic()
    finally:
        # An interrupted run leaves a table of what is done, and one that could not start leaves the older table.
        if rows or not tasks:
            write_table(output / "report.csv", _frame(rows))
    report = _frame(rows)
    summary = summarise(report)
    write_table(output / "summary.csv", summary)
    used = list(dict.fromkeys(str(c) for c in report["convention"] if isinstance(c, str) and c))
    _write_labels(output, used)
    _write_run(output, asdict(options) | {"executor": executor, "device_used": device}, tasks, started)
    _write_page(output, tasks, report, summary)
    return report


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


def _prepare_output(output: Path) -> None:
    try:
        (output / STATE_FOLDER).mkdir(parents=True, exist_ok=True)
        for folder, _, names in os.walk(output):
            for name in filter(is_temporary_name, names):  # left by a run that was killed
                Path(folder, name).unlink(missing_ok=True)
        write_text_atomically(output / STATE_FOLDER / "writable", "")
    except OSError as error:
        raise UsageError(f"{output}: cannot be written to ({error.strerror}); choose another --output") from None


def _conventions(cases: Sequence[Case], options: SegmentOptions) -> dict[str, ConventionChoice]:
    fallback = None
    if models := _named_models(options):
        fallback = str(models[0].settings["convention"])

    def labels(source: ImageSource) -> Collection[float]:
        return count_labels(read_label_map(source, max_voxels=options.max_voxels).array)

    return choose_conventions(cases, override=options.convention, fallback=fallback, read_labels=labels)


# Running


def _work(tasks: Sequence[CaseTask], spec: str, options: SegmentOptions) -> Iterator[tuple[int, Row]]:
    """Rows in order of completion; a worker that dies costs its case one more try on its own, then an error row."""
    waiting = list(enumerate(tasks))
    retried: set[int] = set()
    executor, workers = make_executor(spec, _start_worker, (options.threads, spec))
    running: dict[Future[Row], tuple[int, CaseTask]] = {}
    try:
        while waiting or running:
            # After a death only one case runs at a time, so that the next death has one name.
            while waiting and len(running) < (1 if waiting[0][0] in retried else workers):
                index, task = waiting.pop(0)
                running[_submit(executor, task)] = (index, task)
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            broken = False
            for future in done:
                index, task = running.pop(future)
                try:
                    yield index, future.result()
                except BrokenProcessPool:
                    broken = True
                    if index in retried:
                        yield (
                            index,
                            error_row(
                                task,
                                "the worker process died, probably for want of memory; free some, or use fewer processes",
                            ),
                        )
                    else:
                        retried.add(index)
                        waiting.insert(0, (index, task))
            if broken:
                for index, task in running.values():
                    retried.add(index)
                    waiting.insert(0, (index, task))
                running.clear()
                executor.shutdown(wait=False, cancel_futures=True)
                executor, workers = make_executor(spec, _start_worker, (options.threads, spec))
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _submit(executor: Executor, task: CaseTask) -> Future[Row]:
    try:
        return executor.submit(segment_one, task)
    except BrokenProcessPool as error:  # it broke between two cases
        future: Future[Row] = Future()
        future.set_exception(error)
        return future


def _start_worker(threads: int | None, spec: str) -> None:
    import torch

    workers = int(spec.partition(":")[2] or 1)
    if threads:
        torch.set_num_threads(threads)
    elif workers > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))


# What is made of the whole run


def _write_labels(output: Path, conventions: Sequence[str]) -> None:
    """The run's label descriptions; where patients keep different conventions, one more pair for each further one."""
    from pipeline.report import write_label_descriptions

    for number, name in enumerate(conventions):
        write_label_descriptions(output, load_convention(name), "" if number == 0 else f"-{name}")


def _write_run(output: Path, options: Mapping[str, Any], tasks: Sequence[CaseTask], started: float) -> None:
    cases: dict[str, Any] = {}
    models: dict[str, str] = {}
    for task in tasks:
        state = read_state(state_path(task))
        kept = {
            key: state[key]
            for key in ("inputs", "models", "stages", "convention_reason", "mask_sha256")
            if key in state
        }
        files = {m: [str(path) for path in source.paths] for m, source in task.case.images.items()}
        about = {"folder": task.folder, "layout": task.case.layout, "files": files}
        cases[text_cell(task.case.case_id)] = about | kept
        models |= {Path(file).stem: sha256 for file, sha256 in state.get("models", {}).items()}
    run = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 3),
        "options": options,
        "models": models,
        "versions": {
            "python": platform.python_version(),
            **{package: metadata_version(package) for package in PACKAGES},
        },
        "machine": platform.machine(),
        "cases": cases,
    }
    write_text_atomically(output / "run.json", json.dumps(run, indent=1, ensure_ascii=False) + "\n")


def _named_models(options: SegmentOptions) -> list[Checkpoint]:
    return [open_checkpoint(m) for m in options.models] or shipped_models()


def _write_page(output: Path, tasks: Sequence[CaseTask], report: pd.DataFrame, summary: pd.DataFrame) -> None:
    from pipeline.report import write_page

    previews = {task.case.case_id: result_path(output, task.folder, "preview", task.options.flat) for task in tasks}
    write_page(output / "report.html", "Tumour segmentation", report, summary, previews)
