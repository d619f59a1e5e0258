"""Command `prepare`: registered images without skull, for any model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from data.errors import UsageError
from pipeline.commands.options import Debug, Input, Output, Quiet
from pipeline.commands.terminal.console import Console
from pipeline.commands.terminal.lines import conclude


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Register every patient's images, remove the skull, and write them as NIfTI."""

    input: Input
    """A data set's folder, or one patient's folder of files."""
    output: Output
    """Folder for the patients' folders; what is there is never replaced."""
    prepare: Literal["auto", "always"] = "auto"
    """What is not ready, or register every patient's images."""
    brain_mask: str | None = None
    """Folder of brain masks, each named after its patient, in place of deepbet."""
    grid: str = "auto"
    """Image that the others are laid on: a modality, or finest. auto: the first of t1c, flair, t1, t2 that there is."""
    quiet: Quiet = False
    debug: Debug = False

    def run(self, console: Console) -> int:
        from data.find.discover import discover_cases
        from pipeline.execute.lock import output_lock

        if self.output.resolve() == self.input.resolve():
            raise UsageError(f"--output {self.output} is the input folder; choose another")
        with output_lock(self.output):
            from pipeline.options import SegmentOptions
            from pipeline.prepare.run import prepare_cases

            cases = discover_cases(self.input, exclude=self.output)
            options = SegmentOptions(prepare=self.prepare, brain_mask=self.brain_mask, grid=self.grid)
            with console.cases(len(cases), self.quiet) as progress:
                report = prepare_cases(cases, self.output, options, progress)
        return conclude(report, self.output, self.quiet, console)
