"""Command `follow`: the same patients over time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from data.case import DICOM, Case
from data.errors import UsageError
from data.output_names import FOLLOWED_MASKS
from pipeline.commands.checks import check_device, check_models
from pipeline.commands.named import manifest_cases
from pipeline.commands.options import (
    Convention,
    Debug,
    Input,
    KeepIdentity,
    Layouts,
    LogFile,
    Models,
    Output,
    Quiet,
    command_line,
    dicom_options,
    options_of,
)
from pipeline.commands.terminal.console import Console
from pipeline.commands.terminal.lines import conclude_follow
from pipeline.options import SegmentOptions
from pipeline.web.intake.zipped_input import unpacked

if TYPE_CHECKING:
    from pipeline.evaluate.visits import VisitMask

Table = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]


@dataclass(frozen=True, kw_only=True)
class Follow(SegmentOptions):
    """Follow every patient over time: volumes, lesions, categories of response, and a page.

    Computed from masks by a research tool; no diagnosis.
    """

    input: Input
    """A data set with several visits a patient, its manifest (CSV) or zip, or a folder that `segment` wrote. Without
    masks the visits are segmented first, into OUTPUT/masks."""
    output: Output
    """Folder for timepoints.csv, lesions_over_time.csv, response.csv, followup.html and a folder for each patient."""
    masks: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Masks to take, nested or flat, named after their cases; nothing is segmented."""
    dates: Table = None
    """Dates of the visits: a table with the columns case and date, or patient, timepoint and date."""
    clinical: Table = None
    """Radiotherapy, surgery, steroids and clinical state: a table, see docs/follow.md."""
    targets: Table = None
    """Target lesions in place of those that the rules choose: patient, region, lesion and perhaps criterion."""
    baseline: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[CASE ...]")] = ()
    """Cases that are their patient's baseline, in place of the rules."""
    criteria: tuple[str, ...] = ("rano2",)
    """rano2, rano2-volume, rano2010, rano-lgg: each with columns of its own; the curve is that of the first."""
    models: Models = ()
    convention: Convention = None
    layout: Layouts = ()
    keep_identity: KeepIdentity = False
    json: bool = False
    """Print a JSON object for each patient as it ends, one a line, and nothing else on standard output."""
    quiet: Quiet = False
    log_file: LogFile = None
    debug: Debug = False

    def run(self, console: Console) -> int:
        check_models(self.models)
        check_device(self.device)
        from pipeline.execute.lock import output_lock

        if self.output.resolve() == self.input.resolve():
            raise UsageError(f"--output {self.output} is the input folder; choose another")
        with output_lock(self.output), unpacked(self.input) as given:
            from pipeline.follow.patients.sources import visits_by_patient
            from pipeline.follow.run import FollowOptions, follow_patients, patient_object

            options = FollowOptions(
                self.criteria, self.clinical, self.targets, self.baseline,
                SegmentOptions(**options_of(self, SegmentOptions)),
            )  # fmt: skip
            masks = self._masks(given, options.segment, console)
            patients = visits_by_patient(masks, self.convention, self.max_voxels)

            def tell(task: Any, followed: Any) -> None:
                if self.json:
                    console.raw(json.dumps(patient_object(task, followed)))

            with console.cases(len(patients), self.quiet or self.json) as progress:
                report = follow_patients(
                    patients, self.output, options, progress=progress, on_patient=tell, facts=self._facts(masks)
                )
        return conclude_follow(report, self.output, self.quiet or self.json, console)

    def _masks(self, given: Path, options: SegmentOptions, console: Console) -> list[VisitMask]:
        """Return the mask of every visit.

        Visits are segmented where masks are neither there nor named.
        """
        from pipeline.evaluate.visits import masks_of_cases, visits_of_masks
        from pipeline.follow.patients.sources import is_output

        if self.masks is None and is_output(given):
            return self._dated_masks(visits_of_masks(given))
        if self.masks is not None and self.masks.resolve() == given.resolve():
            return self._dated_masks(visits_of_masks(given))
        cases = self._dated(self._cases(given))
        if self.masks is not None:
            return list(masks_of_cases(cases, self.masks).values())
        self._check(cases)
        folder = self.output / FOLLOWED_MASKS
        from pipeline.segment.run import segment_cases

        with console.cases(len(cases), self.quiet or self.json) as progress:
            segment_cases(cases, folder, options, progress=progress, command=command_line(self._hidden(cases)))
        return list(masks_of_cases(cases, folder).values())

    def _check(self, cases: Sequence[Case]) -> None:
        """Refuse tables and baselines that do not fit the cases."""
        from pipeline.evaluate.visits import VisitMask
        from pipeline.follow.patients.sources import visits_by_patient
        from pipeline.follow.run import FollowOptions, tasks_of

        patients = visits_by_patient([VisitMask(case, None, "not segmented yet") for case in cases])
        tasks_of(patients, self.output, FollowOptions(self.criteria, self.clinical, self.targets, self.baseline))

    def _cases(self, given: Path) -> list[Case]:
        if given.suffix.lower() == ".csv" and given.is_file():
            return manifest_cases(given)
        from data.find.discover import discover_cases

        return discover_cases(given, exclude=self.output, dicom=dicom_options((), self.keep_identity, None))

    def _dated(self, cases: Sequence[Case]) -> list[Case]:
        if self.dates is None:
            return list(cases)
        from data.find.visits.dates import with_dates

        return with_dates(cases, self.dates)

    def _dated_masks(self, masks: Sequence[VisitMask]) -> list[VisitMask]:
        cases = self._dated([mask.case for mask in masks])
        return [replace(mask, case=case) for mask, case in zip(masks, cases, strict=True)]

    def _hidden(self, cases: Sequence[Case]) -> Path | None:
        return self.input if not self.keep_identity and any(case.layout == DICOM for case in cases) else None

    def _facts(self, masks: Sequence[VisitMask]) -> dict[str, str]:
        hidden = self._hidden([mask.case for mask in masks])
        taken = str(self.masks) if self.masks is not None else ""
        return {name: text for name, text in (("Masks", taken), ("Command", command_line(hidden))) if text}
