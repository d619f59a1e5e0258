"""Moves at random: rates of detection and of false alarm, error of registration.

    python -m bench.moves PATIENTS [--moves 200] [--mm 5] [--degrees 5] [--register] [--output FILE]
    python -m bench.moves PATIENTS --moves 0 [--search] [--spacing-mm X Y Z]
    python -m bench.moves --phantoms N --moves 0 [--search]

PATIENTS are registered and skull-stripped (BraTS, LGG); phantoms are drawn on voxels of 2 mm. First each is examined as
he is: whatever is found is a false alarm. With --search another position is looked for even where one mask has cut the
images out, and in heads; --spacing-mm gives slices the voxel size that their files do not tell. Then one modality of a
patient is moved by so many mm or degrees, in turn, and resampled onto the grid on which it was; with --register it is
laid back, and the error is the distance of the brain's voxels from where they were.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk
from numpy.typing import NDArray

from data.case import Case
from data.find.discover import discover_cases
from data.grid import Grid
from data.io.read import Volume, read_volumes
from data.phantom.patient import draw_patient, phantom_name
from pipeline.score.tables import write_table
from transforms import readiness
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


Patient = tuple[str, Callable[[], dict[str, Volume]]]
"""Name of a patient, and the reader of his images."""


def phantoms(count: int) -> list[Patient]:
    def draw(seed: int) -> dict[str, Volume]:
        made = draw_patient(seed, 2.0, contrast="mri")
        return {name: Volume(made.images[name], made.header(Path(f"{name}.nii.gz"))) for name in made.images}

    return [(phantom_name(seed), partial(draw, seed)) for seed in range(count)]


def read_patient(case: Case) -> dict[str, Volume]:
    return read_volumes(case.images, max_voxels=2**28)


def sized(volumes: dict[str, Volume], spacing_mm: Sequence[float] | None) -> dict[str, Volume]:
    """Give images of unknown voxel size one."""
    if spacing_mm is None:
        return volumes
    affine = np.diag([*spacing_mm, 1.0])
    return {
        name: replace(volume, header=replace(volume.header, grid=Grid(volume.grid.shape, affine)))
        for name, volume in volumes.items()
        if not volume.grid.spacing_known
    }


def _read(case: Case, spacing_mm: Sequence[float] | None) -> dict[str, Volume]:
    return sized(read_patient(case), spacing_mm)


def trials(
    patients: list[Patient], moves: int, mm: float, degrees: float, with_register: bool
) -> list[dict[str, object]]:
    """Return a row for each patient as he is, and one for each move."""
    rows: list[dict[str, object]] = []
    for number, (patient, read) in enumerate(patients):
        volumes = read()
        started = time.process_time()
        seen = examine({m: (v.array, v.header) for m, v in volumes.items()})
        rows.append({"case": patient, "found": not seen.is_ready, "cpu_seconds": time.process_time() - started})
        places = brain_places(next(volumes[m] for m in ("t1c", *volumes) if m in volumes))
        for trial in range(number, moves, len(patients)):
            rng = np.random.default_rng(trial)
            name = MOVED[trial % len(MOVED)]
            shift, angle = ((mm, 0.0), (0.0, degrees), (mm, degrees))[trial // len(patients) % 3]
            truth = random_move(rng, shift, angle, places[:, :3].mean(axis=0))
            volume = moved(volumes[name], truth)
            started = time.process_time()
            seen = examine({m: (v.array, v.header) for m, v in {"t1c": volumes["t1c"], name: volume}.items()})
            row = {"case": patient, "moved": name, "mm": shift, "degrees": angle, "found": name in seen.moved}
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
    parser.add_argument("patients", type=Path, nargs="?")
    parser.add_argument("--moves", type=int, default=200)
    parser.add_argument("--mm", type=float, default=5.0)
    parser.add_argument("--degrees", type=float, default=5.0)
    parser.add_argument("--register", action="store_true")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--phantoms", type=int, default=0)
    parser.add_argument("--search", action="store_true")
    parser.add_argument("--spacing-mm", type=float, nargs=3)
    given = parser.parse_args(arguments)
    if given.search:
        readiness.SAME_BRAIN = 2.0  # no two masks are so alike
        vars(readiness)["shows_head"] = lambda seen: False  # of heads only the skull would be told
    wanted = {"t1c", *MOVED} if given.moves else set()
    cases = discover_cases(given.patients) if given.patients else []
    wanted_cases = [case for case in cases if wanted <= set(case.images)]
    patients = phantoms(given.phantoms)
    patients += [(case.case_id, partial(_read, case, given.spacing_mm)) for case in wanted_cases]
    table = pd.DataFrame(trials(patients, given.moves, given.mm, given.degrees, given.register))
    if given.output is not None:
        write_table(given.output, table)
    was_moved = table["moved"].notna() if given.moves else np.zeros(len(table), bool)
    unmoved, tried = table[~was_moved], table[was_moved]
    alarms, seconds = int(unmoved["found"].sum()), unmoved["cpu_seconds"]
    lines = [f"unmoved: {alarms} of {len(unmoved)} found, CPU s mean {seconds.mean():.2f}, most {seconds.max():.2f}"]
    if given.moves:
        found = int(tried["found"].sum())
        lines.append(f"moved by {given.mm:g} mm or {given.degrees:g} degrees: {found} of {len(tried)} found")
    if given.register:
        lines.append(
            f"registration error: mean {tried['error_mean_mm'].mean():.2f} mm, largest mean "
            f"{tried['error_mean_mm'].max():.2f} mm, largest {tried['error_max_mm'].max():.2f} mm"
        )
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
