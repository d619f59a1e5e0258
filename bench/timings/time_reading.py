"""Times from a patient's files to the network's tensor.

Compared are MONAI's own chain and ours, with zlib and with ISA-L. MONAI's own chain beside ours, with zlib and with
ISA-L.

    python -m bench.timings.time_reading PATIENTS [--runs N] [--spacing MM]

MONAI's chain: LoadImaged, EnsureChannelFirstd, ConcatItemsd, Orientationd, Spacingd, CropForegroundd,
NormalizeIntensityd. Ours checks every header and voxel, and the patient's images together, besides. The last row is the
way back: three regions' probabilities from the working grid to the patient's own. The chains run in turn on each
patient, so that a busy machine is busy for all of them; seconds of CPU and of the clock, medians, and the ratio of CPU
to MONAI's. torch has one thread.
"""

from __future__ import annotations

import argparse
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from monai.transforms import (
    Compose,
    ConcatItemsd,
    CropForegroundd,
    EnsureChannelFirstd,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    Spacingd,
)

import data.io.stream
from data.case import Case
from data.find.discover import discover_cases
from transforms.preprocess import grid_of, preprocess_chain, run_chain
from transforms.restore import restore

MODALITIES = ("t1", "t1c", "t2", "flair")
N_REGIONS = 3


def monai_chain(spacing_mm: float) -> Compose:
    """Return the reading chain of MONAI's tutorials.

    It goes from ``{modality: file name}`` to ``"image"``.
    """
    return Compose(
        [
            LoadImaged(MODALITIES),
            EnsureChannelFirstd(MODALITIES),
            ConcatItemsd(MODALITIES, "image"),
            Orientationd("image", axcodes="RAS", labels=None),
            Spacingd("image", pixdim=(spacing_mm,) * 3, mode="bilinear"),
            CropForegroundd("image", source_key="image", allow_smaller=True),
            NormalizeIntensityd("image", nonzero=True, channel_wise=True),
        ]
    )


def ways(case: Case, spacing_mm: float) -> dict[str, Callable[[], Any]]:
    """Return each row of the table as a call."""
    files = {modality: str(case.images[modality].paths[0]) for modality in MODALITIES}
    sources = {modality: case.images[modality] for modality in MODALITIES}
    monai, ours = monai_chain(spacing_mm), preprocess_chain(MODALITIES, spacing_mm=(spacing_mm,) * 3)

    def by(inflater: Any) -> dict[str, Any]:
        before, data.io.stream.INFLATER = data.io.stream.INFLATER, inflater
        try:
            return run_chain(ours, sources)
        finally:
            data.io.stream.INFLATER = before

    prepared = by(zlib)
    working, probabilities = grid_of(prepared["image"]), torch.sigmoid(prepared["image"].as_tensor()[:N_REGIONS])
    calls: dict[str, Callable[[], Any]] = {"MONAI's chain": lambda: monai(files), "ours, zlib": lambda: by(zlib)}
    if data.io.stream.isal_zlib is not None:
        calls["ours, ISA-L"] = lambda: by(data.io.stream.isal_zlib)
    calls["restore"] = lambda: restore(probabilities, working, prepared["native"].grid)
    return calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patients", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--spacing", type=float, default=1.0, help="of the working grid, mm")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for case in discover_cases(options.patients):
        if case.problems or set(case.images) < set(MODALITIES):
            print(f"{case.case_id}: not timed (a problem, or not all of {', '.join(MODALITIES)})")
            continue
        calls = ways(case, options.spacing)
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
        for _ in range(options.runs):
            for name, call in calls.items():
                cpu, wall = time.process_time(), time.perf_counter()
                call()
                taken[name].append((time.process_time() - cpu, time.perf_counter() - wall))
        print(f"{case.case_id}: working grid of {options.spacing:g} mm, medians of {options.runs} runs in turn")
        print(f"    {'':<16} {'CPU s':>7} {'wall s':>7} {'CPU / MONAI':>12}")
        yardstick = median(cpu for cpu, _ in taken["MONAI's chain"])
        for name, runs in taken.items():
            cpu, wall = (median(column) for column in zip(*runs, strict=True))
            print(f"    {name:<16} {cpu:7.3f} {wall:7.3f} {cpu / yardstick:12.2f}")


if __name__ == "__main__":
    main()
