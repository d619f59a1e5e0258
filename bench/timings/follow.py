"""Memory and time of a follow-up of many tiny patients.

    python -m bench.timings.follow [--patients 200] [--visits 5] [--every 20]

Each patient has one lesion that grows or shrinks at random. Memory is that of the process after every so many patients:
it must not rise with their number.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from data.case import Case, ImageSource, TimePoint
from data.grid import Grid
from data.io.header import ImageHeader
from data.io.write import write_image, write_label_map
from pipeline.follow.patients.sources import Visit
from pipeline.follow.patients.task import Row
from pipeline.follow.run import FollowOptions, follow_patients
from pipeline.options import SegmentOptions

SHAPE, MM = (32, 36, 28), 5.0


def write_patient(folder: Path, number: int, visits: int) -> list[Visit]:
    """Write a patient's images and masks; return the visits."""
    rng = np.random.default_rng(number)
    places = np.stack(np.meshgrid(*(np.arange(n) * MM for n in SHAPE), indexing="ij"), -1)
    middle = (np.array(SHAPE) - 1) * MM / 2
    brain = (((places - middle) / (0.45 * MM * np.array(SHAPE))) ** 2).sum(-1) < 1
    texture = 200 + 60 * np.sin(places[..., 0] / 11) * np.cos(places[..., 1] / 13) * np.sin(places[..., 2] / 9 + 1)
    radius, where = rng.uniform(8, 16), middle + rng.uniform(-20, 20, 3)
    found = []
    for visit in range(visits):
        radius = max(0.0, radius + rng.uniform(-4, 4))
        mask = (np.linalg.norm(places - where, axis=-1) < radius) & brain
        image = np.where(mask, 380, np.where(brain, texture + rng.normal(0, 5, SHAPE), 0)).astype(np.int16)
        name = f"P{number:04d}-{visit}"
        header = ImageHeader(
            path=folder, grid=Grid(SHAPE, np.diag([-MM, -MM, MM, 1.0])), dtype="int16", channels=1, sform_code=1,
            qform_code=1, qform=None, xyzt_units=2,
        )  # fmt: skip
        paths = {what: folder / f"{name}_{what}.nii.gz" for what in ("t1c", "seg")}
        write_image(paths["t1c"], image, header)
        write_label_map(paths["seg"], np.where(mask, 3, 0).astype(np.uint8), header)
        case = Case(
            case_id=name, folder=folder, layout="bench", layout_reason="", reference=None, patient=f"P{number:04d}",
            images={"t1c": ImageSource((paths["t1c"],))}, timepoint=TimePoint(str(visit), None, 60.0 * visit, visit),
        )  # fmt: skip
        found.append(Visit(case, str(visit), ImageSource((paths["seg"],)), "brats2023"))
    return found


@contextmanager
def patients_in(patients: int, visits: int) -> Iterator[tuple[Path, dict[str, list[Visit]]]]:
    """Yield a temporary folder with made-up patients, and their visits."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "in"
        folder.mkdir()
        yield Path(name), {f"P{n:04d}": write_patient(folder, n, visits) for n in range(patients)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print memory and time as patients are done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=200)
    parser.add_argument("--visits", type=int, default=5)
    parser.add_argument("--every", type=int, default=20)
    options = parser.parse_args(arguments)
    with patients_in(options.patients, options.visits) as (folder, patients):
        done, start, cpu = 0, time.perf_counter(), time.process_time()

        def tell(row: Row) -> None:
            nonlocal done
            done += 1
            if done % options.every == 0 or row["status"] == "error":
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                wall, own = time.perf_counter() - start, time.process_time() - cpu
                print(f"{done} patients: peak {peak:.0f} MB, {wall:.0f} s, {own / done:.2f} CPU s a patient, "
                      f"{row['status']}", flush=True)  # fmt: skip

        follow_patients(patients, folder / "out", FollowOptions(segment=SegmentOptions(prepare="off")), progress=tell)


if __name__ == "__main__":
    main()
