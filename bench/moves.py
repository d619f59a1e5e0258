"""Moves at random: rates of detection and of false alarm, error of registration.

    python -m bench.moves PATIENTS [--moves 200] [--mm 5] [--degrees 5] [--register] [--output FILE]

PATIENTS are registered and skull-stripped (BraTS). First each is examined as he is: whatever is found is a false alarm.
Then one modality of a patient is moved by so many mm or degrees, in turn, and resampled onto the grid on which it was;
with --register it is laid back, and the error is the distance of the brain's voxels from where they were.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk
from numpy.typing import NDArray

from data.case import Case
from data.find.discover import discover_cases
from data.io.read import Volume, read_volumes
from pipeline.score.tables import write_table
from transforms.readiness import examine
from transforms.registration.register import picture, register

MOVED = ("t1", "t2", "flair")
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def random_move(
    rng: np.random.Generator, mm: float, degrees: float, middle_mm: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return a move about a place in a random direction, (4, 4) in mm."""
    axis, way = (each / np.linalg.norm(each) for each in rng.normal(size=(2, 3)))
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    matrix = np.eye(4)
    matrix[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    matrix[:3, 3] = middle_mm + mm * way - matrix[:3, :3] @ middle_mm
    return matrix


def moved(volume: Volume, matrix: NDArray[np.float64]) -> Volume:
    """Return an image with its content moved, on its own grid."""
    affine = _LPS @ volume.grid.affine
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array.T, dtype=np.float32))
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetSpacing(volume.grid.spacing_mm)
    image.SetDirection((affine[:3, :3] / volume.grid.spacing_mm).ravel().tolist())
    back = np.linalg.inv(_LPS @ matrix @ _LPS)
    transform = sitk.AffineTransform(back[:3, :3].ravel().tolist(), back[:3, 3].tolist())
    there = sitk.GetArrayFromImage(sitk.Resample(image, image, transform, sitk.sitkLinear)).T
    # A brain mask is sharp: linear interpolation would leave a rim of small values around it.
    return replace(volume, array=np.where(there > 0.1 * np.median(there[there > 0]), there, 0))


def brain_places(volume: Volume) -> NDArray[np.float64]:
    """Return places in the brain, (n, 4): mm, and a 1."""
    voxels = 6 * np.argwhere(volume.array[::6, ::6, ::6] != 0)
    return np.c_[voxels @ volume.grid.affine[:3, :3].T + volume.grid.affine[:3, 3], np.ones(len(voxels))]


def read_patient(case: Case) -> dict[str, Volume]:
    return read_volumes(case.images, max_voxels=2**28)


def trials(cases: list[Case], moves: int, mm: float, degrees: float, with_register: bool) -> list[dict[str, object]]:
    """Return a row for each patient as he is, and one for each move."""
    rows: list[dict[str, object]] = []
    for number, case in enumerate(cases):
        volumes = read_patient(case)
        started = time.process_time()
        seen = examine({m: (v.array, v.header) for m, v in volumes.items()})
        rows.append({"case": case.case_id, "found": not seen.is_ready, "cpu_seconds": time.process_time() - started})
        places = brain_places(volumes["t1c"])
        for trial in range(number, moves, len(cases)):
            rng = np.random.default_rng(trial)
            name = MOVED[trial % len(MOVED)]
            shift, angle = ((mm, 0.0), (0.0, degrees), (mm, degrees))[trial // len(cases) % 3]
            truth = random_move(rng, shift, angle, places[:, :3].mean(axis=0))
            volume = moved(volumes[name], truth)
            started = time.process_time()
            seen = examine({m: (v.array, v.header) for m, v in {"t1c": volumes["t1c"], name: volume}.items()})
            row = {"case": case.case_id, "moved": name, "mm": shift, "degrees": angle, "found": name in seen.moved}
            row["cpu_seconds"] = time.process_time() - started
            if with_register:
                row |= _registered(volumes["t1c"], volume, truth, places)
            rows.append(row)
    return rows


def _registered(
    fixed: Volume, volume: Volume, truth: NDArray[np.float64], places: NDArray[np.float64]
) -> dict[str, object]:
    found = register(picture(fixed.array, fixed.grid), picture(volume.array, volume.grid))
    apart = np.linalg.norm(places @ (found.matrix - truth).T, axis=1)
    return {"error_mean_mm": apart.mean(), "error_max_mm": apart.max(), "information": found.information}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patients", type=Path)
    parser.add_argument("--moves", type=int, default=200)
    parser.add_argument("--mm", type=float, default=5.0)
    parser.add_argument("--degrees", type=float, default=5.0)
    parser.add_argument("--register", action="store_true")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args(arguments)
    cases = [case for case in discover_cases(given.patients) if {"t1c", *MOVED} <= set(case.images)]
    table = pd.DataFrame(trials(cases, given.moves, given.mm, given.degrees, given.register))
    if given.output is not None:
        write_table(given.output, table)
    unmoved, tried = table[table["moved"].isna()], table[table["moved"].notna()]
    alarms, found, most = int(unmoved["found"].sum()), int(tried["found"].sum()), unmoved["cpu_seconds"].max()
    lines = [
        f"unmoved: {alarms} of {len(unmoved)} found, {most:.2f} CPU s at most",
        f"moved by {given.mm:g} mm or {given.degrees:g} degrees: {found} of {len(tried)} found",
    ]
    if given.register:
        lines.append(
            f"registration error: mean {tried['error_mean_mm'].mean():.2f} mm, largest mean "
            f"{tried['error_mean_mm'].max():.2f} mm, largest {tried['error_max_mm'].max():.2f} mm"
        )
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
