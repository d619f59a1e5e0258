"""Peak memory of a case against the prediction of pipeline.predict.memory.

Each case runs in a process of its own.

    python -m bench.timings.memory [--patients FOLDER] [--quick]

Prints a table and exits with 1 where a peak was above its prediction. The peak is the process's largest resident set
during a whole ``segment`` of the case (mask, scores, picture, report), less what it held idle with its model loaded.
Cases: phantoms of several sizes; a volume of noise, which no crop makes smaller; the first patient of FOLDER under each
shipped model that takes it. Models: the shipped ones, and random weights at 1 mm with windows of 128^3 voxels.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from data.find.discover import discover_cases
from data.grid import Grid
from data.io.read import read_header, write_image
from data.phantom.patient import write_phantom

ROOT = Path(__file__).resolve().parents[2]
MODALITIES = ("t1", "t1c", "t2", "flair")


def measure(patients: Path, models: list[str], tta: bool) -> dict[str, float]:
    """Measure the peak above idle; return it with the prediction.

    Both are in MiB, with the largest phase, of the first patient, in this process.
    """
    import torch

    from pipeline.options import SegmentOptions
    from pipeline.predict.memory.forecast import phases
    from pipeline.predict.predictor import Predictor
    from pipeline.segment.run import segment_cases

    torch.set_num_threads(1)
    case = discover_cases(patients)[0]
    predictor = Predictor(models, "cpu", tta=tta)
    predicted = predictor.predicted_bytes(case)
    headers = {m: read_header(case.images[m]) for m in predictor.modalities}
    of_phases = phases(headers, predictor.costs, tta=tta)
    idle = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    with tempfile.TemporaryDirectory() as folder:
        options = SegmentOptions(models=tuple(models), device="cpu", tta=tta, threads=1)
        row = segment_cases([case], Path(folder) / "out", options).iloc[0]
    if row["status"] == "error":
        raise SystemExit(f"{case.case_id}: {row['reason']}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - idle
    largest = max(of_phases, key=of_phases.__getitem__)
    return {"measured": peak / 2**20, "predicted": predicted / 2**20, "phase": largest}  # type: ignore[dict-item]


def in_own_process(patients: Path, models: list[str], tta: bool) -> dict[str, float]:
    command = [
        sys.executable,
        "-m",
        "bench.timings.memory",
        "--one",
        str(patients),
        "--model",
        *models,
        *["--tta"] * tta,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(f"{patients.name} {' '.join(models)}: {(done.stderr or done.stdout)[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def random_model(path: Path, architecture: str, channels: tuple[int, ...], dims: int, spacing_mm: float) -> str:
    """Write a checkpoint with random weights.

    Its windows have 128 voxels a side (2D: 192, eight together).
    """
    command = [
        sys.executable,
        "-c",
        _WRITE_MODEL,
        str(path),
        architecture,
        json.dumps(channels),
        str(dims),
        str(spacing_mm),
    ]
    subprocess.run(command, cwd=ROOT, check=True)
    return str(path)


_WRITE_MODEL = """
import json, sys
from pathlib import Path
from networks import build_network
from pipeline.checkpoint import save_checkpoint
from pipeline.config import parse_config
path, architecture, channels = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
dims, spacing = int(sys.argv[4]), float(sys.argv[5])
network = {
    "architecture": architecture, "spatial_dims": dims, "in_channels": 4, "out_channels": 3, "channels": channels
}
config = parse_config({"name": path.stem, "modalities": ["t1", "t1c", "t2", "flair"], "regions": ["WT", "TC", "ET"],
    "convention": "brats2023", "network": network, "preprocess": {"spacing_mm": [spacing] * 3},
    "window": {"size": [128] * 3 if dims == 3 else [192] * 2, "batch": 1 if dims == 3 else 8},
    "training": {"patch": [64] * dims}}, "bench")
save_checkpoint(path, build_network(config.network), config, {})
"""


def noise_patient(folder: Path, shape: tuple[int, int, int]) -> Path:
    """Write a phantom without a voxel of zero, so that nothing is cropped."""
    write_phantom(folder, 9, shape=(32, 32, 32), spacing_mm=(6.0, 6.0, 6.0))
    case = discover_cases(folder)[0]
    rng = np.random.default_rng(0)
    for source in case.images.values():
        header = read_header(source)
        grid = Grid(shape, header.grid.affine @ np.diag([1 / 6, 1 / 6, 1 / 6, 1]))
        values = rng.integers(1, 1000, shape).astype(np.int16)
        write_image(source.paths[0], values, replace(header, grid=grid, dtype="int16", placement={}))
    if case.reference is not None:
        case.reference.paths[0].unlink()
    return folder


def runs(folder: Path, patients: Path | None, quick: bool) -> Iterator[tuple[str, Path, list[str], bool]]:
    """Name of the case, its folder, models, mirrored or not."""
    two, three, plus = "brats-attention-unet-2d", "brats-attention-unet-3d", "brats-unet-plus-plus-2d"
    wide = random_model(folder / "wide3d.safetensors", "attention_unet", (16, 32, 64, 128, 256), 3, 1.0)
    nested = random_model(folder / "nested2d.safetensors", "unet_plus_plus", (16, 32, 64, 128, 256), 2, 1.0)
    sizes: list[tuple[tuple[int, int, int], float]] = [((64, 64, 64), 3.0), ((128, 128, 128), 1.5)]
    sizes += [] if quick else [((240, 240, 155), 1.0)]
    for shape, spacing in sizes:
        name = "x".join(map(str, shape))
        write_phantom(folder / name, 1, shape=shape, spacing_mm=(spacing,) * 3)
        for models, tta in (([three], False), ([two], True), ([plus], False), ([two, three], False)):
            yield f"phantom {name}", folder / name, models, tta
    yield f"phantom {name}", folder / name, [wide], False
    yield f"phantom {name}", folder / name, [nested], False
    if not quick:  # mirrored it takes long: what is found in noise are thousands of pieces
        yield "noise 300x300x250", noise_patient(folder / "noise", (300, 300, 250)), [three], False
    if patients is not None:
        several = [two, three]
        for models, tta in (
            ([two], False),
            ([three], True),
            ([plus], False),
            (several, False),
            ([nested], False),
            ([wide], False),
        ):
            yield "real 240x240x155", patients, models, tta


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=Path)
    parser.add_argument("--quick", action="store_true", help="small sizes only")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--model", nargs="*", default=[], help=argparse.SUPPRESS)
    parser.add_argument("--tta", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.model, arguments.tta)))
        return
    short = False
    print(
        "| case | model | mirrored | measured MiB | predicted MiB | ratio | largest phase "
        "|\n|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name, patients, models, tta in runs(Path(folder), arguments.patients, arguments.quick):
            found = in_own_process(patients.resolve(), models, tta)
            short |= found["measured"] > found["predicted"]
            model = " + ".join(Path(m).stem for m in models)
            print(
                f"| {name} | {model} | {'yes' if tta else 'no'} | {found['measured']:.0f} | {found['predicted']:.0f} "
                f"| {found['predicted'] / found['measured']:.2f} | {found['phase']} |",
                flush=True,
            )
    sys.exit(1 if short else 0)


if __name__ == "__main__":
    main()
