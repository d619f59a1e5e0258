"""Run over many cases: a row for each patient folder.

A finished case is not done again.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from data.case import Case, ImageSource
from data.errors import UsageError
from data.find.earlier_run import read_earlier_run
from data.find.recognise import ConventionChoice, choose_conventions
from data.folder_names import unique_folder_names
from data.io.read import read_label_map
from data.labels import count_labels, load_convention
from pipeline.checkpoint import Checkpoint, open_checkpoint, require_same_regions, shipped_models
from pipeline.execute.cluster import own_share
from pipeline.execute.executors import WORKER_DIED, devices_of, is_elsewhere, run_tasks, threads_of_each, workers_of
from pipeline.execute.lock import output_lock, remove_temporary_files
from pipeline.execute.overlap import Listener, listening
from pipeline.execute.own_folder import own_output
from pipeline.predict.memory.machine import set_workers, tune_malloc
from pipeline.score.case import ScoreOptions, metric_columns
from pipeline.score.lesions import sensitivity_by_size
from pipeline.score.statistics import summarise_metrics
from pipeline.score.tables import lesion_file, lesions_frame, metrics_frame, pooled_detection, report_frame, write_table
from pipeline.segment.case import error_row, segment_one
from pipeline.segment.commit import staging_folder
from pipeline.segment.options import SegmentOptions
from pipeline.segment.page import write_segment_page
from pipeline.segment.run_record import write_run_record
from pipeline.segment.shards import Shard, record_path, write_shard_record
from pipeline.segment.state import CaseState, ReportRow, read_state
from pipeline.segment.task import RESULTS, STATE_FOLDER, CaseTask, result_path, state_path

if TYPE_CHECKING:
    import torch

Row = dict[str, Any]

__all__ = ["SegmentOptions", "segment_cases"]

MOST_THREADS = 1024
SHOWN_LESIONS = 100
"""So many lesions of a region and side, the largest, stand on the page; lesions.csv has them all."""


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
) -> pd.DataFrame:
    """Segment every case into ``output``; write its tables, report.html, run.json and the label descriptions.

    Parameters
    ----------
    cases : sequence of Case
        From :func:`data.find.discover.discover_cases`.
    output : Path
        Made if missing. Results that are there already, of the same inputs, model and options, are kept.
    executor : str
        See :mod:`pipeline.execute.executors`.
    progress : callable, optional
        Called with the columns of each row of report.csv as soon as it is known, in order of completion.
    on_stage : callable, optional
        Of the executor "serial": called with the stage where the case is (:data:`pipeline.execute.overlap.BEGINS`) and the
        share, 0 to 1, of the whole case that is done.
    interactive : collection of str
        Cases that the page shows in a 3D viewer; one without a mask has none. Each adds megabytes.
    command : str
        The command line that asks for it, for run.json.
    shard : Shard, optional
        Only this part of the cases, which :func:`pipeline.segment.merge.merge_shards` puts together with the others; ``cases``
        are all of them, and ``output`` is this part's own.

    Returns
    -------
    DataFrame
        The rows of report.csv, one for each case, in the order of ``cases``; columns as in docs/segment.md.

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
    device = _check(options, executor)
    folders = unique_folder_names([case.case_id for case in cases])
    _require_apart(cases, output, folders)
    with output_lock(output), own_results(output, folders.values()), clean_output(output, folders.values()):
        record_path(output).unlink(missing_ok=True)  # until this run has come to its end
        conventions = _conventions(cases, options)
        wanted = None if shard is None else shard.part_of(folders)
        tasks = [
            CaseTask(case, folders[case.case_id], output, options, conventions[case.case_id])
            for case in cases
            if wanted is None or case.case_id in wanted
        ]
        with listening(on_stage):
            rows = _run(tasks, output, options, executor, progress)
        report = report_of(rows)
        how = {**asdict(options), "executor": executor, "device_used": device}
        more = {"shard": str(shard)} if shard else {}
        write_results(output, tasks, report, how, command, started, interactive, more)
        if shard is not None:
            models = {model.name: model.sha256 for model in _named_models(options)}
            write_shard_record(output, shard, cases, tasks, rows, options, models)
    return report


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

    ``how``, ``command``, ``started`` and ``more`` are for run.json, see :func:`pipeline.segment.run_record.write_run_record`.
    """
    states, tables = _write_tables(output, tasks, report)
    used = list(dict.fromkeys(str(c) for c in report["convention"] if isinstance(c, str) and c))
    _write_labels(output, used)
    write_run_record(output, command, how, tasks, states, started, more)
    write_segment_page(output, tasks, states, tables, interactive)


def _check(options: SegmentOptions, executor: str) -> str:
    """Return the device; refuse impossible options before anything is written."""
    if options.models:
        require_same_regions([open_checkpoint(model) for model in options.models])
    if options.convention:
        load_convention(options.convention)
    for name, value in (("threads", options.threads), ("max-voxels", options.max_voxels)):
        if value is not None and value < 1:
            raise UsageError(f"--{name} {value}: give a number of at least 1")
    if options.threads is not None and options.threads > MOST_THREADS:
        raise UsageError(f"--threads {options.threads}: give at most {MOST_THREADS}")
    from pipeline.predict.device import choose_device  # torch takes seconds to import

    if is_elsewhere(executor) and options.device.partition(":")[0] in ("auto", "cpu", "cuda"):
        _check_model_options(options, None)
        return f"each worker's {options.device}"
    device = [choose_device(name) for name in devices_of(executor) or [options.device]][0]
    _check_model_options(options, device)
    return str(device)


def _check_model_options(options: SegmentOptions, device: torch.device | None) -> None:
    for name in options.models:
        open_checkpoint(name).config  # noqa: B018  it is checked
    if options.window == "auto" and options.engine == "auto" and options.level is None:
        return
    from networks import stages_of  # they import MONAI, beside which the first case is read
    from pipeline.predict.engines import choose_engine, prune
    from pipeline.predict.windows import with_window

    for model in _named_models(options):
        with_window(model.config, options.window)
        if options.level is not None and options.models:  # of those that are not named, the one that fits is cut
            prune(model.build(), options.level, model.name)
        if options.engine != "auto" and device is not None:
            for network, stage in zip(stages_of(model.build()), model.config.stages, strict=True):
                choose_engine(options.engine, network, stage, device)


def _run(
    tasks: Sequence[CaseTask],
    output: Path,
    options: SegmentOptions,
    executor: str,
    progress: Callable[[dict[str, Any]], None] | None,
) -> list[ReportRow]:
    """Segment all cases and return their rows in order.

    However the run ends, report.csv is written, unless it could not start.
    """
    rows: dict[int, ReportRow] = {}
    last_written = time.monotonic()
    results = run_tasks(
        segment_one, tasks, executor, _died, initializer=_start_worker, initargs=(options.threads, executor)
    )
    try:
        with closing(results):
            for index, row in results:
                rows[index] = row
                if progress:
                    progress(row.cells())
                if time.monotonic() - last_written > 5:
                    with suppress(OSError):  # the disk may have space again at the end
                        write_table(output / "report.csv", report_of(_in_order(rows)))
                    last_written = time.monotonic()
    except BaseException:
        if rows:
            with suppress(OSError):  # what ended the run is said, not what came of it
                write_table(output / "report.csv", report_of(_in_order(rows)))
        raise
    write_table(output / "report.csv", report_of(_in_order(rows)))
    return _in_order(rows)


def _in_order(rows: Mapping[int, ReportRow]) -> list[ReportRow]:
    return [rows[index] for index in sorted(rows)]


def report_of(rows: Sequence[ReportRow]) -> pd.DataFrame:
    """report.csv from the rows of its cases."""
    return report_frame([row.cells() for row in rows])


def _require_apart(cases: Sequence[Case], output: Path, folders: Mapping[str, str]) -> None:
    """Refuse an output folder that lies among the inputs.

    A result could replace an image or a reference of the same name.
    """
    top = output.resolve()
    results = {top / name for name in folders.values()}
    for case in cases:
        sources = [*case.images.values(), *([case.reference] if case.reference else [])]
        inputs = {case.folder.resolve(), *(path.parent.resolve() for source in sources for path in source.paths)}
        around = inputs.union(*(path.parents for path in inputs))  # a patient's results around another's images, too
        if top in inputs or results & around:
            raise UsageError(f"{output}: results would lie among the files of {case.case_id}; choose another --output")


_TABLES = ("report", "metrics", "lesions", "summary", "detection")


def own_results(output: Path, folders: Iterable[str], further: Sequence[Path] = ()) -> AbstractContextManager[None]:
    """Claim all paths that a run may replace and remove.

    ``further`` folders below ``output`` are claimed too.

    See :func:`pipeline.execute.own_folder.own_output`; ``folders`` are the cases'.
    """
    names = [*(f"{table}.csv" for table in _TABLES), "run.json", "report.html", STATE_FOLDER]
    names += [path.name for pattern in ("labels*.txt", "labels*.ctbl") for path in output.glob(pattern)]
    results = (
        result_path(output, folder, what, flat) for folder in folders for what in RESULTS for flat in (False, True)
    )
    # A link in the place of a case's folder costs that case its row, not the run.
    own = (path for path in results if path.parent == output or not path.parent.is_symlink())
    earlier = read_earlier_run(str(output)) is not None
    return own_output(
        output,
        chain((output / name for name in names), own, further),
        [output / STATE_FOLDER, *further],
        earlier=earlier,
    )


@contextmanager
def clean_output(output: Path, folders: Iterable[str]) -> Iterator[None]:
    """Remove leftovers of killed runs before the block, of killed workers after it.

    ``folders`` are the cases'.
    """
    own = [STATE_FOLDER, *folders]

    def clean() -> None:
        remove_temporary_files(output, own)
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


# What is made of the whole run


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
    with lesion_file(output / "lesions.csv") as write_lesions:
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
        (output / "detection.csv").unlink(missing_ok=True)
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

    for number, name in enumerate(conventions):
        write_label_descriptions(output, load_convention(name), "" if number == 0 else f"-{name}")


def _named_models(options: SegmentOptions) -> list[Checkpoint]:
    return [open_checkpoint(m) for m in options.models] or shipped_models()
