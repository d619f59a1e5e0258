"""Command `evaluate`: scores of masks against references."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from pipeline.commands.options import Convention, Debug, Interactive, Layouts, LogFile, Output, Quiet, command_line
from pipeline.commands.terminal.console import Console
from pipeline.commands.terminal.lines import conclude, over_time_line


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Score masks against references, matched by case: tables and a page."""

    predictions: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PREDICTIONS")]
    """Folder of masks, nested or flat."""
    references: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="REFERENCES")]
    """Folder of reference masks, nested or flat."""
    output: Output
    """Folder for report.csv, metrics.csv, lesions.csv, detection.csv, summary.csv and report.html."""
    metrics: tuple[str, ...] = ("standard",)
    """standard (always there) and lesion-wise sets: brats2023-gli, brats2023-ssa, brats2023-ped, brats2023-men,
    brats2023-met, brats2024-gli."""
    tolerance_mm: float = 1.0
    """Of the normalised surface Dice (nsd)."""
    compare: tuple[Path, ...] = ()
    """Folders of other systems' masks of the same patients: side by side, with paired differences."""
    convention: Convention = None
    """Label convention of the masks, and of references of which nothing is known: a name, or a YAML file of your
    own."""
    reference_convention: Convention = None
    """Label convention of the references: a name, or a YAML file of your own."""
    layout: Layouts = ()
    resample: bool = False
    """Resample masks that lie on another grid than their reference; otherwise they are error rows."""
    like: Path | None = None
    """Folder of the images: masks that have lost their header, and have their number of voxels, get theirs."""
    split_lesions: bool = False
    """Tell touching lesions apart by watershed before they are listed and counted."""
    workers: int | None = None
    """Processes; 1: this one. Default: one for each CPU."""
    pictures: int = 50
    """So many patients, those with the lowest mean Dice, get a picture."""
    interactive: Interactive = ()
    over_time: bool = False
    """Also follow every patient's visits on both sides: the error of the change in ml and the agreement of categories,
    in over_time.csv, over_time_categories.csv and over_time_summary.csv."""
    criteria: tuple[str, ...] = ("rano2",)
    """Of --over-time: rano2, rano2-volume, rano2010, rano-lgg."""
    dates: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Of --over-time: dates of the visits, a table with the columns case and date."""
    quiet: Quiet = False
    log_file: LogFile = None
    debug: Debug = False

    def run(self, console: Console) -> int:
        from pipeline.execute.lock import output_lock

        with output_lock(self.output), console.cases(0, self.quiet) as progress:
            from pipeline.evaluate.run import ScoreOptions, evaluate

            report = evaluate(
                self.predictions,
                self.references,
                self.output,
                convention=self.convention,
                reference_convention=self.reference_convention,
                options=ScoreOptions(self.metrics, self.tolerance_mm, self.split_lesions),
                compare=list(self.compare),
                resample=self.resample,
                like=self.like,
                workers=self.workers,
                progress=progress,
                pictures=self.pictures,
                interactive=list(self.interactive),
                command=command_line(),
            )
            if self.over_time:
                self._compare_over_time(console)
        return conclude(report, self.output, self.quiet, console)

    def _compare_over_time(self, console: Console) -> None:
        from data.find.visits.dates import with_dates
        from pipeline.follow.over_time import compare_over_time
        from pipeline.follow.run import FollowOptions

        dates = self.dates
        summary = compare_over_time(
            self.predictions,
            self.references,
            self.output,
            FollowOptions(self.criteria),
            conventions=(self.convention, self.reference_convention or self.convention),
            with_dates=list if dates is None else lambda cases: with_dates(cases, dates),
        )
        for row in [] if self.quiet else summary.to_dict("records"):
            console.say(over_time_line(row))
