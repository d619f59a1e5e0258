"""One patient as a piece of work, and the result of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.follow.clinical import Clinical
from pipeline.follow.patients.sources import Visit
from pipeline.follow.targets import Chosen
from pipeline.options import SegmentOptions

Row = dict[str, Any]


@dataclass(frozen=True)
class PatientTask:
    """Description of one patient."""

    patient: str
    folder: str
    output: Path
    visits: tuple[Visit, ...]
    """In order of time."""
    criteria: tuple[str, ...]
    options: SegmentOptions = field(default_factory=SegmentOptions)
    """Of these the largest number of voxels and the brain masks count."""
    clinical: Clinical = field(default_factory=Clinical)
    targets: Chosen = field(default_factory=dict)
    baselines: tuple[str, ...] = ()
    """Labels of visits that the user names."""

    def path(self, end: str) -> Path:
        """Return the path of one of the patient's files, ``<folder>/<folder>_<end>``."""
        return self.output / self.folder / f"{self.folder}_{end}"


@dataclass(frozen=True)
class Followed:
    """Rows of one patient, as the tables have them, and files."""

    status: str
    reason: str
    timepoints: tuple[Row, ...]
    lesions: tuple[Row, ...]
    responses: tuple[Row, ...]
    files: tuple[str, ...] = ()
    """Below the output folder."""
    already_done: bool = False

    def row(self, task: PatientTask, seconds: float) -> Row:
        """Return the row that a user sees as the patient ends."""
        about: Mapping[str, Any] = {"case": task.patient, "folder": task.folder, "status": self.status}
        return {**about, "reason": self.reason, "seconds": seconds, "already_done": self.already_done}
