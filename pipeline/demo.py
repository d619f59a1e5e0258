"""Demonstration on synthetic patients: phantoms, masks, scores and a page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from data.find.discover import discover_cases
from data.phantom.patient import phantom_name, write_phantom
from pipeline.execute.lock import output_lock
from pipeline.segment.output import own_results
from pipeline.segment.run import segment_cases

SEEDS = (1, 2, 3)
SHAPE, SPACING_MM = (120, 120, 78), (2.0, 2.0, 2.0)


def run_demo(
    output: Path, progress: Callable[[dict[str, Any]], None] | None = None, *, command: str = ""
) -> pd.DataFrame:
    """Make three phantom patients, segment them and score them.

    The patients are in ``output/patients``, the masks in ``output``, and the references are the phantoms' exact labels.

    Returns the rows of ``output/report.csv``.
    """
    patients = output / "patients"
    names = [phantom_name(seed) for seed in SEEDS]
    made = [patients / name for name in names]
    with output_lock(output), own_results(output, names, [patients, *made]):
        for seed in SEEDS:
            write_phantom(patients, seed, shape=SHAPE, spacing_mm=SPACING_MM)
        return segment_cases(discover_cases(patients), output, progress=progress, command=command)
