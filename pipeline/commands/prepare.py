"""Command `prepare`: registered images without skull, for any model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from data.errors import UsageError
from pipeline.commands.options import (
    CaseName,
    Debug,
    Input,
    KeepIdentity,
    Output,
    Quiet,
    Series,
    dicom_options,
)
from pipeline.commands.terminal.console import Console
from pipeline.commands.terminal.lines import conclude
from pipeline.web.intake.zipped_input import unpacked


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Register every patient's images, remove the skull, and write them as NIfTI."""

    input: Input
    """A data set's folder, one patient's folder of files, or a zip of either; -i INPUT or --input INPUT is the same."""
    output: Output
    """Folder for the patients' folders; what is there is never replaced."""
    prepare: Literal["auto", "always"] = "auto"
    """What is not ready, or register every patient's images."""
    brain_mask: str | None = None
    """Folder of brain masks, each named after its patient, in place of deepbet."""
    grid: str = "auto"
    """Image that the others are laid on: a modality, or finest. auto: the first of t1c, flair, t1, t2 that there is."""
    series: Series = ()
    keep_identity: KeepIdentity = False
    case: CaseName = None
    quiet: Quiet = False
    debug: Debug = False

    def run(self, console: Console) -> int:
        from data.find.discover import discover_cases
        from pipeline.execute.lock import output_lock

        if self.output.resolve() == self.input.resolve():
            raise UsageError(f"--output {self.output} is the input folder; choose another")
        with output_lock(self.output), unpacked(self.input) as given:
            from pipeline.options import SegmentOptions
            from pipeline.prepare.run import prepare_cases

            dicom = dicom_options(self.series, self.keep_identity, self.case)
            cases = discover_cases(given, exclude=self.output, dicom=dicom)
            options = SegmentOptions(prepare=self.prepare, brain_mask=self.brain_mask, grid=self.grid)
            with console.cases(len(cases), self.quiet) as progress:
                report = prepare_cases(cases, self.output, options, progress)
        return conclude(report, self.output, self.quiet, console)
