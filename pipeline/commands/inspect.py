"""Command `inspect`: the content of a folder, before any work."""

from __future__ import annotations

import json
from dataclasses import dataclass

from pipeline.commands.options import (
    CaseName,
    Convention,
    Debug,
    Input,
    KeepIdentity,
    Layouts,
    LogFile,
    Series,
    dicom_options,
)
from pipeline.commands.terminal.console import OK, SOME_FAILED, Console
from pipeline.commands.terminal.lines import inspection_lines
from pipeline.web.intake.zipped_input import unpacked


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Show the content of a folder before any work.

    Shown are the layout, the label convention, the images, and each fault or gap.
    """

    input: Input
    """A data set's folder, one patient's folder of files, or a zip of either; -i INPUT or --input INPUT is the same."""
    full: bool = False
    """Read every voxel, not only headers."""
    json: bool = False
    """Print JSON for programs."""
    convention: Convention = None
    """Label convention of all masks, whatever the evidence says: a name, or a YAML file of your own."""
    layout: Layouts = ()
    strict: bool = False
    """A warning is an error."""
    max_voxels: int = 2**28
    """A file whose header promises more voxels is refused, unread."""
    series: Series = ()
    keep_identity: KeepIdentity = False
    case: CaseName = None
    log_file: LogFile = None
    debug: Debug = False

    def run(self, console: Console) -> int:
        from pipeline.inspect import inspect_cases

        with unpacked(self.input) as given:
            found = inspect_cases(
                given,
                full=self.full,
                convention=self.convention,
                strict=self.strict,
                max_voxels=self.max_voxels,
                dicom=dicom_options(self.series, self.keep_identity, self.case),
            )
        if self.json:
            console.raw(json.dumps(found, indent=1))
        else:
            for line in inspection_lines(found):
                console.say(line)
        return SOME_FAILED if any(case["status"] == "error" for case in found) else OK
