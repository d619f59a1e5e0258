"""Command `demo`: masks and scores of synthetic patients."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.commands.options import Debug, LogFile, Output, Quiet, command_line
from pipeline.commands.terminal.console import Console
from pipeline.commands.terminal.lines import conclude


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Make three phantom patients, segment them with a shipped model, and evaluate the result."""

    output: Output = Path("out/demo")
    """Folder for patients, masks and reports."""
    quiet: Quiet = False
    log_file: LogFile = None
    debug: Debug = False

    def run(self, console: Console) -> int:
        from pipeline.execute.lock import output_lock

        with output_lock(self.output), console.cases(3, self.quiet) as progress:
            if not self.quiet:
                console.say("making three synthetic patients, which takes some 10 seconds")
            from pipeline.demo import run_demo

            report = run_demo(self.output, progress, command=command_line())
        return conclude(report, self.output, self.quiet, console)
