"""Pictures of the worst patients, and the page of an evaluation."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from data.errors import SegmentationError, UsageError
from data.folder_names import unique_folder_names
from pipeline.evaluate.case import PairMasks, PairTask, background_of, draw_pair, read_pair
from pipeline.evaluate.pairs import Pair
from pipeline.execute.executors import run_tasks, spec_for
from pipeline.report.head import Head
from pipeline.score.tables import read_lesions

log = logging.getLogger(__name__)

Picture = Path | dict[str, Path]


def draw_worst(
    tasks: Sequence[PairTask], report: pd.DataFrame, folder: Path, most: int, workers: int | None
) -> dict[str, Picture]:
    """Draw the patients with the lowest mean Dice over their regions.

    A patient of several systems has the Dice of the worst; of equals the first come first.

    Parameters
    ----------
    tasks : sequence of PairTask
    report : DataFrame
        Rows of report.csv, one a task in their order.
    folder : Path
        For ``<case>.png``, or ``<system>/<case>.png`` where there are several; made where there is something to draw.
    most : int
        No more patients than this.
    workers : int, optional
        See :func:`pipeline.execute.executors.spec_for`.

    Returns
    -------
    dict of case to Path, or to a dict of system to Path where there are several
        Without patients that have no Dice, and those whose drawing failed, which is logged.
    """
    dice = report[[name for name in report if str(name).startswith("dice_")]].mean(axis=1).dropna()
    cases = pd.Series([tasks[i].pair.case for i in dice.index], index=dice.index, dtype=object)
    worst = dice.groupby(cases, sort=False).min().sort_values(kind="stable").index[:most]
    names = unique_folder_names(worst)
    systems = unique_folder_names(task.pair.system for task in tasks)
    several = len(systems) > 1
    jobs = []
    for task in (tasks[i] for i in dice.index if tasks[i].pair.case in names):
        place = folder / systems[task.pair.system] if several else folder
        if place.is_symlink():
            raise UsageError(f"{place}: is a symbolic link, and what is written stays in --output; remove the link")
        place.mkdir(parents=True, exist_ok=True)
        jobs.append((task, place / f"{names[task.pair.case]}.png"))
    done = dict(run_tasks(draw_pair, jobs, spec_for(len(jobs), workers), lambda job: False))
    drawn: dict[str, dict[str, Path]] = {}
    for index, (task, path) in enumerate(jobs):
        if done[index]:
            drawn.setdefault(task.pair.case, {})[task.pair.system] = path
    return {case: paths if several else next(iter(paths.values())) for case, paths in drawn.items()}


def write_evaluation_page(
    output: Path,
    tasks: Sequence[PairTask],
    frames: Mapping[str, pd.DataFrame],
    drawn: Mapping[str, Picture],
    interactive: Sequence[str],
    head: Head,
) -> None:
    """Write ``output/report.html``.

    Parameters
    ----------
    frames : mapping of name to DataFrame
        The CSV files, but for lesions.csv, which is read from ``output``: only shown patients' lesions are wanted.
    drawn : mapping of case to pictures
        From :func:`draw_worst`.
    interactive : sequence of str
        Cases for the viewer; one that could not be scored has none, and its row says why.
    head : Head
    """
    from pipeline.report.page import write_page

    first = {task.pair.case: task for task in tasks if task.pair.system == tasks[0].pair.system}
    views = {}
    for case in interactive:
        view = _view([task for task in tasks if task.pair.case == case])
        if view is not None:
            views[case] = view
    write_page(
        output / "report.html",
        "Evaluation",
        report=frames["report"],
        metrics=frames["metrics"],
        summary=frames["summary"],
        lesions=read_lesions(output / "lesions.csv", {*drawn, *views}),
        pictures=drawn,
        comparison=frames.get("comparison"),
        detection=frames["detection"],
        viewers=views,
        details={case: _details(task.pair) for case, task in first.items()},
        head=head,
    )


def _view(tasks: Sequence[PairTask]) -> Any:
    """Return a patient of all systems for the page's viewer.

    Without the systems that could not be scored; None where none could. The rows give the reasons.
    """
    from pipeline.report.viewer import View

    read: dict[str, PairMasks] = {}
    for task in tasks:
        with suppress(SegmentationError):
            found = read_pair(task)
            first = next(iter(read.values()), found)
            if found.grid.matches(first.grid):
                read[task.pair.system] = found
            else:
                log.warning("%s: %s lies on another grid and is not in the viewer", task.pair.case, task.pair.system)
    if not read:
        return None
    (system, shown), *others = read.items()
    return View(
        background_of(next(task.pair for task in tasks if task.pair.system == system), shown.grid),
        shown.prediction,
        shown.grid,
        shown.reference,
        name=system if len(tasks) > 1 else "prediction",
        others={name: each.prediction for name, each in others},
    )


def _details(pair: Pair) -> dict[str, Any]:
    """Return the facts that the prediction's own run recorded."""
    if not pair.predictions:
        return {}
    own = pair.predictions[0]
    known = {
        "model": own.model,
        "seconds": own.seconds,
        "stages": dict(own.stages),
        "missing": list(own.missing_images),
    }
    return {key: value for key, value in known.items() if value}
