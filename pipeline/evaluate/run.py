"""Evaluation of two folders of label maps, predictions and references.

Every patient that is found on either side has a row. Where predictions hold the ``report.csv`` of a segmentation run,
it says which file is whose, and in which label convention.

- report.csv, one row a patient: one that is missing on a side, or cannot be scored, has status ``error`` and a reason;
  a prediction with labels outside its convention, which count as background, has status ``warn``. ``seconds`` is what
  the prediction took, where its run's report says so.
- metrics.csv (a row for each patient and region), lesions.csv, detection.csv, summary.csv, report.html and
  ``pictures/``.
- All tables have a column ``system``, the name of the predictions' folder. Of several folders there are also
  comparison.csv and comparison_cases.csv, which hold the first one against each other.

Tables are written when all patients are done, each whole or not at all: nothing of an interrupted run is in them. The
number of processes changes no byte of them; a script that asks for several needs the ``if __name__ == "__main__"`` of
:mod:`multiprocessing`. A prediction on another grid is resampled region by region (linear, then .5), and its row says
so as a warning; the same voxels stored in another order of axes are put in order, which changes none.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from data.case import ImageSource
from data.errors import UsageError, few
from data.labels import load_convention
from data.regular_file import open_regular_file
from pipeline.evaluate.case import Outcome, PairTask, Row, error_row, score_pair
from pipeline.evaluate.grids import images_like
from pipeline.evaluate.page import draw_worst, write_evaluation_page
from pipeline.evaluate.pairs import Labels, Pair, doubled_cases, find_pairs, labels_of, system_names
from pipeline.execute.executors import WORKER_DIED, run_tasks, spec_for
from pipeline.execute.lock import output_lock, remove_temporary_files
from pipeline.execute.own_folder import own_output
from pipeline.report.head import Head
from pipeline.score.case import ScoreOptions, metric_columns
from pipeline.score.tables import (
    DETECTION_COLUMNS,
    LESION_COLUMNS,
    lesion_file,
    metrics_frame,
    pooled_detection,
    report_frame,
    text_cell,
    write_table,
)

__all__ = ["ScoreOptions", "evaluate"]

log = logging.getLogger(__name__)

PICTURES = 50
"""So many patients are shown unless told: a page of about 10 MB."""
_AHEAD = 64
"""Results wait for those before them, so that tables are in order; no worker runs further ahead than this."""
_LONGEST_HEADER = 10_000


def evaluate(
    predictions: Path,
    references: Path,
    output: Path,
    *,
    convention: str | None = None,
    reference_convention: str | None = None,
    options: ScoreOptions | None = None,
    compare: Sequence[Path] = (),
    resample: bool = False,
    like: Path | None = None,
    workers: int | None = 1,
    progress: Callable[[Row, int], None] | None = None,
    pictures: int = PICTURES,
    interactive: Sequence[str] = (),
    command: str = "",
) -> pd.DataFrame:
    """Score every patient of two folders, and write tables and page.

    Parameters
    ----------
    predictions, references : Path
        Folders of label maps, matched by case id; see :func:`pipeline.evaluate.label_maps.find_label_maps`.
    output : Path
        Folder for the files of the module's docstring; made if missing.
    convention, reference_convention : str, optional
        Of either side. What is not given is recognised, for a folder of predictions as a whole, by
        :func:`pipeline.evaluate.pairs.settle_conventions`; references without evidence are read as ``convention`` says.
    options, compare : ScoreOptions, sequence of Path
        What is measured; further folders of predictions for the same references.
    resample : bool
        Resample onto the reference's grid (background outside a side's box); else another grid is an error row.
    like : Path, optional
        Folder of the images: a prediction that has lost its header, and has their number of voxels, gets theirs.
    workers : int, optional
        Processes; 1: this one. None: one for each CPU, but no more than a quarter of the patients.
    progress : callable, optional
        Called with each patient's row, in the order of the table, and with their number.
    pictures, interactive : int, sequence of str
        Number of patients that get a picture, lowest mean Dice first; cases shown in a viewer.
    command : str
        The command line, for the page, which then has the date too.

    Returns the rows of report.csv. Raises UsageError and ConventionError where a folder or an option cannot be.
    """
    options, output, references = options or ScoreOptions(), Path(output), Path(references)
    folders, named = [Path(predictions), *map(Path, compare)], (convention, reference_convention)
    _check(folders, references, output, named, workers, pictures)
    systems = dict(zip(system_names(folders), folders, strict=True))
    pairs = find_pairs(systems, references, named, lambda s: _read_labels(s, workers), exclude=output)
    shown, tasks = _require_cases(interactive, pairs), _tasks(pairs, options, resample, like)
    with output_lock(output), _own_scores(output):
        remove_temporary_files(output, ["pictures"])
        tables = _score(tasks, output, workers, progress, compared=len(systems) > 1)
        frames = _write_tables(output, tables.frames(options), compared=bool(compare))
        drawn = draw_worst(tasks, frames["report"], output / "pictures", pictures, workers)
        write_evaluation_page(output, tasks, frames, drawn, shown, _head(command, systems, references, tasks))
    _warn_of_one_sided(tables.regions)
    _warn_of_doubled(frames["report"])
    return frames["report"]


def _tasks(pairs: Sequence[Pair], options: ScoreOptions, resample: bool, like: Path | None) -> list[PairTask]:
    images, doubled = images_like(like), doubled_cases(pairs)
    return [PairTask(pair, options, resample, images.get(pair.case), doubled.get(pair.case, "")) for pair in pairs]


def _head(command: str, systems: Mapping[str, Path], references: Path, tasks: Sequence[PairTask]) -> Head:
    named = [f"{name}: {folder}" if len(systems) > 1 else str(folder) for name, folder in systems.items()]
    models = dict.fromkeys(model for task in tasks for each in task.pair.predictions if (model := each.model))
    sides = {"Predictions": ", ".join(named), "References": str(references)}
    return Head(time.time(), command, sides, list(models), tasks[0].options.tolerance_mm)


def _warn_of_one_sided(rows: Sequence[Row]) -> None:
    """Log each region that one side alone of a system has.

    Its numbers may mean something else on that side.
    """
    sums: dict[tuple[str, str], tuple[int, int]] = {}
    for row in rows:
        if row["voxels_reference"] is not None:
            predicted, expected = sums.get((row["system"], row["region"]), (0, 0))
            sums[row["system"], row["region"]] = (
                predicted + row["voxels_prediction"],
                expected + row["voxels_reference"],
            )
    for (system, region), (predicted, expected) in sums.items():
        if bool(predicted) != bool(expected):
            side, other = ("reference", "predictions do") if predicted else ("prediction", "references do")
            log.warning(
                "%s: no %s has any %s, though %s; check that both label conventions are right (--convention, "
                "--reference-convention)",
                *(system, side, region, other),
            )


def _warn_of_doubled(report: pd.DataFrame) -> None:
    """Log the patients that are scored under several ids.

    Their rows have a flag and no warning: each is scored rightly, but the means count one patient twice.
    """
    flagged = report["flags"].str.contains("one patient under several ids", regex=False)
    if cases := list(dict.fromkeys(report.loc[flagged, "case"])):
        log.warning("%s: one patient under several ids, by equal files; the means count each of them", few(cases, 6))


def _write_tables(output: Path, frames: dict[str, pd.DataFrame], *, compared: bool) -> dict[str, pd.DataFrame]:
    for name, frame in frames.items():
        write_table(output / f"{name}.csv", frame)
    if not compared:  # an older run's would be taken for this one's
        for name in ("comparison", "comparison_cases"):
            (output / f"{name}.csv").unlink(missing_ok=True)
    return frames


_TABLES = ("report", "metrics", "lesions", "summary", "detection", "comparison", "comparison_cases")
_OVER_TIME = ("over_time", "over_time_categories", "over_time_summary")
"""Tables of `pipeline.follow.over_time`, which the same folder gets."""


def _own_scores(output: Path) -> AbstractContextManager[None]:
    """Claim all that an evaluation may replace and remove.

    See :func:`pipeline.execute.own_folder.own_output`.
    """
    names = [
        output / name for name in (*(f"{table}.csv" for table in (*_TABLES, *_OVER_TIME)), "report.html", "pictures")
    ]
    earlier = False
    with suppress(OSError, ValueError), open_regular_file(output / "metrics.csv") as (table, _):
        columns = table.readline(_LONGEST_HEADER).decode("utf-8").strip().split(",")
        earlier = columns[0] == "case" and {"region", "voxels_reference", "voxels_prediction"} <= set(columns)
    return own_output(output, names, [output / "pictures"], earlier=earlier)


def _check(
    folders: Sequence[Path],
    references: Path,
    output: Path,
    conventions: Iterable[str | None],
    workers: int | None,
    pictures: int,
) -> None:
    for name in conventions:
        if name is not None:
            load_convention(name)
    for folder in (*folders, references):
        if output.resolve() == folder.resolve():
            raise UsageError(f"{output} holds label maps and would lose its own report.csv; give another --output")
    if workers is not None and workers < 1:
        raise UsageError(f"--workers {workers}: give a number of at least 1")
    if pictures < 0:
        raise UsageError(f"--pictures {pictures}: give 0 or more")


def _require_cases(wanted: Sequence[str], pairs: Sequence[Pair]) -> list[str]:
    """Return the cells of the cases that are named, each once."""
    cells = list(dict.fromkeys(text_cell(name) for name in wanted))
    known = {pair.case for pair in pairs}
    if unknown := [cell for cell in cells if cell not in known]:
        raise UsageError(f"--interactive: no patient {', '.join(map(repr, unknown))} on either side; correct the name")
    return cells


# ---- in processes ----


def _read_labels(sources: Sequence[ImageSource], workers: int | None) -> list[Labels]:
    found: dict[int, Labels] = {}
    spec = spec_for(len(sources), workers)
    found.update(run_tasks(labels_of, sources, spec, lambda source: ()))
    return [found[index] for index in range(len(sources))]


def _in_order(results: Iterator[tuple[int, Outcome]]) -> Iterator[Outcome]:
    waiting: dict[int, Outcome] = {}
    due = 0
    for index, outcome in results:
        waiting[index] = outcome
        while due in waiting:
            yield waiting.pop(due)
            due += 1


def _died(task: PairTask) -> Outcome:
    return Outcome(error_row(task, WORKER_DIED))


# ---- tables ----


@dataclass
class _Tables:
    """Rows of scalars of all patients, one a patient and a few a region.

    Lesions go straight to a file.
    """

    compared: bool
    report: list[Row] = field(default_factory=list)
    regions: list[Row] = field(default_factory=list)
    detection: dict[str, list[Row]] = field(default_factory=dict)

    def add(self, task: PairTask, outcome: Outcome) -> None:
        about = {"case": task.pair.case, "system": task.pair.system}
        self.report.append(outcome.row | about)
        self.regions += [about | row for row in outcome.regions]
        self.detection.setdefault(about["system"], []).extend(outcome.detection)

    def frames(self, options: ScoreOptions) -> dict[str, pd.DataFrame]:
        """Return each CSV file's name and its table, but for lesions.csv."""
        from pipeline.score.statistics import compare, compare_cases, summarise_metrics

        report = report_frame(self.report)
        metrics = metrics_frame(self.regions, ["case", "system", *metric_columns(options)[1:]])
        by_system = {system: metrics[metrics["system"] == system] for system in self.detection}
        frames = (
            {"comparison": compare(by_system), "comparison_cases": compare_cases(by_system)} if self.compared else {}
        )
        detection = pd.concat(
            [pooled_detection(rows).assign(system=system) for system, rows in self.detection.items()]
        )[["system", *DETECTION_COLUMNS]]
        frames |= {"report": report, "metrics": metrics, "detection": detection.reset_index(drop=True)}
        return frames | {"summary": summarise_metrics(metrics, report)}


def _score(
    tasks: Sequence[PairTask],
    output: Path,
    workers: int | None,
    progress: Callable[[Row, int], None] | None,
    *,
    compared: bool,
) -> _Tables:
    """Score every patient, and write lesions.csv as results come.

    A noisy prediction may hold a hundred thousand.
    """
    tables = _Tables(compared)
    spec = spec_for(len(tasks), workers)
    results = run_tasks(score_pair, tasks, spec, _died, ahead=_AHEAD)
    columns = ["case", "system", *LESION_COLUMNS[1:]]
    with closing(results), lesion_file(output / "lesions.csv", columns) as write:
        for task, outcome in zip(tasks, _in_order(results), strict=True):
            tables.add(task, outcome)
            about = {"case": task.pair.case, "system": task.pair.system}
            write(about | row for row in outcome.lesions)
            if progress:
                progress(outcome.row | {"seconds": outcome.seconds}, len(tasks))
    return tables
