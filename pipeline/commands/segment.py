"""Commands `segment` and `merge`: masks and their report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from data.case import DICOM, MODALITIES, Case
from data.errors import UsageError
from pipeline.commands.checks import check_device, check_executor, check_models
from pipeline.commands.named import manifest_cases, named_case
from pipeline.commands.options import (
    ByHand,
    CaseName,
    Convention,
    Debug,
    Input,
    Interactive,
    KeepIdentity,
    Layouts,
    LogFile,
    Models,
    Output,
    Quiet,
    Series,
    command_line,
    dicom_options,
    options_of,
)
from pipeline.commands.terminal.console import Console
from pipeline.commands.terminal.lines import case_object, conclude
from pipeline.options import SegmentOptions
from pipeline.web.intake.zipped_input import unpacked


@dataclass(frozen=True, kw_only=True)
class Segment(SegmentOptions):
    """Give every patient of a folder a tumour mask, and write the report."""

    input: Input
    """A data set's folder, one patient's folder of files, a zip of either, or a table (CSV) of patients with the
    columns case, t1, t1c, t2, flair, reference, date, patient; -i INPUT, --input INPUT and --manifest INPUT are the
    same."""
    output: Output
    """Folder for masks and reports; finished cases in it are kept."""
    models: Models = ()
    convention: Convention = None
    reference_convention: Convention = None
    layout: Layouts = ()
    executor: str = "serial"
    """serial, processes:N, cuda:0,1,..., dask:tcp://HOST:PORT, or dask:slurm:N for up to N jobs."""
    cases: tuple[str, ...] = ()
    """Only these patients; the rows of the others stay as they are."""
    series: Series = ()
    keep_identity: KeepIdentity = False
    case: CaseName = None
    t1: ByHand = None
    t1c: ByHand = None
    t2: ByHand = None
    flair: ByHand = None
    shard: str | None = None
    """I/N: the I-th of N parts of the patients, into OUTPUT/shard-I-of-N; then `merge` the parts."""
    interactive: Interactive = ()
    json: bool = False
    """Print a JSON object for each case as it ends, one a line, and nothing else on standard output."""
    quiet: Quiet = False
    log_file: LogFile = None
    debug: Debug = False

    def run(self, console: Console) -> int:
        check_models(self.models)
        check_device(self.device)
        check_executor(self.executor)
        from pipeline.execute.lock import output_lock

        if self.output.resolve() == self.input.resolve():
            raise UsageError(
                f"--output {self.output} is the input folder; choose another, so that masks and images stay apart"
            )
        from pipeline.segment.shards import parse_shard

        shard = parse_shard(self.shard) if self.shard is not None else None
        output = shard.folder_in(self.output) if shard else self.output
        with output_lock(output), unpacked(self.input) as given:  # before torch, whose import takes seconds
            from pipeline.segment.run import segment_cases

            cases = self._cases(given)
            hidden = self.input if not self.keep_identity and any(case.layout == DICOM for case in cases) else None
            require_known(cases, self.cases)
            if shard:
                cases = [case for case in cases if not self.cases or case.case_id in self.cases]
            options = SegmentOptions(**options_of(self, SegmentOptions))
            here = len(shard.part_of(case.case_id for case in cases)) if shard else len(self.cases or cases)
            with console.cases(here, self.quiet or self.json) as progress:

                def end(row: dict[str, Any]) -> None:
                    progress(row)
                    if self.json:
                        console.raw(json.dumps(case_object(row, output, self.flat)))

                report = segment_cases(
                    cases,
                    output,
                    options,
                    executor=self.executor,
                    progress=end,
                    interactive=list(self.interactive),
                    command=command_line(hidden),
                    shard=shard,
                    only=() if shard else self.cases,
                )
        return conclude(report, output, self.quiet or self.json, console)

    def _cases(self, given: Path) -> list[Case]:
        by_hand = {modality: path for modality in MODALITIES if (path := getattr(self, modality)) is not None}
        if by_hand:
            return [named_case(by_hand, given, self.case)]
        if given.suffix.lower() == ".csv" and given.is_file():
            return manifest_cases(given)
        from data.find.discover import discover_cases

        dicom = dicom_options(self.series, self.keep_identity, self.case)
        return discover_cases(given, exclude=self.output, dicom=dicom)


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Make one result of the parts that `segment --shard` left.

    It is equal to the result of an undivided run.
    """

    parts: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PART")]
    """The folders shard-I-of-N of all parts."""
    output: Output
    """Folder for masks and reports; not around the parts. Masks are hard links where the file system can."""
    interactive: Interactive = ()
    quiet: Quiet = False
    log_file: LogFile = None
    debug: Debug = False

    def run(self, console: Console) -> int:
        from pipeline.segment.merge import merge_shards

        report = merge_shards(list(self.parts), self.output, interactive=list(self.interactive), command=command_line())
        return conclude(report, self.output, self.quiet, console)


def require_known(cases: Sequence[Case], wanted: Sequence[str]) -> None:
    """Refuse names that no case has. Raises :class:`data.errors.UsageError`."""
    known = {case.case_id for case in cases}
    unknown = [name for name in wanted if name not in known]
    # Earlier versions joined patient and time point by a slash.
    ends = {
        name: [case for case in known if f"/{name}".replace("/", "_").endswith(f"_{case}")]
        for name in unknown
        if "/" in name
    }
    now = "".join(f"; {name} is {found[0]} now" for name, found in ends.items() if len(found) == 1)
    if unknown:
        names = ", ".join(map(repr, unknown))
        raise UsageError(f"--cases: no patient {names}{now}; `inspect` lists those that there are")
