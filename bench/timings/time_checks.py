"""Cost of the checks of the input beyond reading, a volume.

    python -m bench.timings.time_checks PATIENTS [--runs N]

Reading is what nobody can do without: unpacking the stream and turning it to float32. The checks are: the header (size,
type, geometry), every voxel (finite, not constant), and the patient's images together (one image twice, no brain).
That the stream's CRC and length are checked costs nothing that could be measured: zlib does it while it unpacks.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from data.case import MAX_VOXELS, Case
from data.find.discover import discover_cases
from data.io.nifti import read_nifti
from data.io.read import read_header, read_volume
from data.io.stream import StoredVoxels, load_voxels
from data.io.values import check_voxels
from data.plausibility import patient_doubts


def seconds_of(work: Callable[[], Any], runs: int) -> float:
    """Median wall-clock seconds of a call."""
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return median(taken)


def read_alone(stored: StoredVoxels) -> np.ndarray:
    """Unpack and convert."""
    return load_voxels(stored)[0].astype(np.float32, order="F", copy=False)


def time_patient(case: Case, runs: int) -> dict[str, float]:
    """Seconds a volume of each stage, averaged over the patient's images."""
    sources = list(case.images.values())
    stored = [read_nifti(source.paths[0], MAX_VOXELS)[1] for source in sources]
    volumes = {name: read_volume(source) for name, source in case.images.items()}
    images: dict[str, Any] = {name: (volume.array, volume.header) for name, volume in volumes.items()}

    def every_voxel() -> None:
        for array, header in images.values():
            check_voxels(header.path, array)

    n = len(images)
    return {
        "reading alone": seconds_of(lambda: [read_alone(each) for each in stored], runs) / n,
        "header": seconds_of(lambda: [read_header(source) for source in sources], runs) / n,
        "every voxel": seconds_of(every_voxel, runs) / n,
        "images together": seconds_of(lambda: patient_doubts(images, skull_stripped=True), runs) / n,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patients", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    for case in discover_cases(options.patients):
        if case.problems or any(not str(s.paths[0]).endswith((".nii", ".nii.gz")) for s in case.images.values()):
            print(f"{case.case_id}: not timed (no NIfTI images, or a problem)")
            continue
        shape = "x".join(map(str, read_header(next(iter(case.images.values()))).grid.shape))
        stages = time_patient(case, options.runs)
        checks = sum(stages.values()) - stages["reading alone"]
        print(f"{case.case_id}: {len(case.images)} volumes of {shape}, milliseconds a volume")
        for stage, seconds in (*stages.items(), ("all checks", checks)):
            print(f"    {stage:<16} {1000 * seconds:7.1f}")


if __name__ == "__main__":
    main()
