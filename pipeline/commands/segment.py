"""Commands `segment` and `merge`: masks and their report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from data.errors import UsageError
from pipeline.commands.console import Console
from pipeline.commands.lines import conclude
from pipeline.commands.options import Debug, Interactive, Layouts, Quiet, command_line, options_of
from pipeline.options import SegmentOptions


@dataclass(frozen=True, kw_only=True)
class Segment(SegmentOptions):
    """Give every patient of a folder a tumour mask, and write the report."""

    input: tyro.conf.Positional[Path]
    """A data set's folder, or one patient's folder of files."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder for masks and reports; finished cases in it are kept."""
    models: Annotated[tuple[str, ...], tyro.conf.arg(name="model")] = ()
    layout: Layouts = ()
    executor: str = "serial"
    """serial, processes:N, cuda:0,1,..., dask:tcp://HOST:PORT, or dask:slurm:N for up to N jobs."""
    cases: tuple[str, ...] = ()
    """Only these patients."""
    shard: str | None = None
    """I/N: the I-th of N parts of the patients, into OUTPUT/shard-I-of-N; then `merge` the parts."""
    interactive: Interactive = ()
    quiet: Quiet = False
    debug: Debug = False

    def run(self, console: Console) -> int:
        from data.find.discover import discover_cases
        from pipeline.execute.lock import output_lock

        if self.output.resolve() == self.input.resolve():
            raise UsageError(
                f"--output {self.output} is the input folder; choose another, so that masks and images stay apart"
            )
        from pipeline.segment.shards import parse_shard

        shard = parse_shard(self.shard) if self.shard is not None else None
        output = shard.folder_in(self.output) if shard else self.output
        with output_lock(output):  # before torch, whose import takes seconds
            from pipeline.segment.run import segment_cases

            cases = _only(discover_cases(self.input, exclude=self.output), self.cases)
            options = SegmentOptions(**options_of(self, SegmentOptions))
            here = len(shard.part_of(case.case_id for case in cases)) if shard else len(cases)
            with console.cases(here, self.quiet) as progress:
                report = segment_cases(
                    cases,
                    output,
                    options,
                    executor=self.executor,
                    progress=progress,
                    interactive=list(self.interactive),
                    command=command_line(),
                    shard=shard,
                )
        return conclude(report, output, self.quiet, console)


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Make one result of the parts that `segment --shard` left.

    It is equal to the result of an undivided run.
    """

    parts: tyro.conf.Positional[list[Path]]
    """The folders shard-I-of-N of all parts."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder for masks and reports; not around the parts. Masks are hard links where the file system can."""
    interactive: Interactive = ()
    quiet: Quiet = False
    debug: Debug = False

    def run(self, console: Console) -> int:
        from pipeline.segment.merge import merge_shards

        report = merge_shards(self.parts, self.output, interactive=self.interactive, command=command_line())
        return conclude(report, self.output, self.quiet, console)


def _only(cases: list[Any], wanted: Sequence[str]) -> list[Any]:
    unknown = [name for name in wanted if name not in {case.case_id for case in cases}]
    if unknown:
        raise UsageError(f"--cases: no patient {', '.join(map(repr, unknown))}; `inspect` lists those that there are")
    return [case for case in cases if not wanted or case.case_id in wanted]
