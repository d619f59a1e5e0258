"""Floor of the time: the network alone, over a window that holds the brain.

Beside it stands the machine's rate of multiplication.

Beside it stands the machine's rate of multiplication.

    python -m bench.speed.floor PATIENTS --model NAME [--repeats N] [--result FILE] [--device cpu]

For each patient the image is prepared by MONAI's plain chain and cut to the brain's box. Timed are PyTorch as it comes
and, on a CPU where the package is there, OpenVINO in float32 (its telemetry is never imported). 2D models see the
box's slices in batches of their own. The peak of the machine is the best torch.mm of float32 matrices of 2048 to 4096
rows, measured between the passes; the network's share of it counts its operations with torch's FlopCounterMode.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.speed.plain_monai import input_chain
from data.case import Case
from data.find.discover import discover_cases
from pipeline.checkpoint import open_checkpoint
from pipeline.config import RunConfig
from transforms.planes import slices_as_channels

SIZES = (2048, 3072, 4096)
"""Rows and columns of the matrices that the peak is measured with."""


def timed(work: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Wall and CPU seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - wall, time.process_time() - cpu


def sgemm_gflops(device: torch.device, sizes: tuple[int, ...] = SIZES) -> tuple[float, float]:
    """Measure the best of one product of each size.

    Returned are 10^9 operations a second of wall time, and of CPU time.

    A product of n x n matrices takes 2 n^3 operations.
    """
    best_wall = best_cpu = 0.0
    for n in sizes:
        a, b, out = torch.rand(n, n, device=device), torch.rand(n, n, device=device), torch.empty(n, n, device=device)
        wall, cpu = timed(lambda: torch.mm(a, b, out=out), device)  # noqa: B023  it is called at once
        best_wall, best_cpu = max(best_wall, 2e-9 * n**3 / wall), max(best_cpu, 2e-9 * n**3 / max(cpu, 1e-9))
    return best_wall, best_cpu


def brain_window(case: Case, config: RunConfig) -> torch.Tensor:
    """Cut the image to the box of its voxels that are not 0.

    (1, modalities, d1, d2, d3), 2D: (slices, channels, d1, d2).
    """
    image = input_chain(config)({"image": [str(case.images[m].paths[0]) for m in config.modalities]})["image"]
    image = image.as_tensor()
    where = image.abs().sum(dim=0).nonzero()
    low, high = where.min(dim=0).values.tolist(), (where.max(dim=0).values + 1).tolist()
    box = image[(slice(None), *(slice(a, b) for a, b in zip(low, high, strict=True)))][None]
    if config.network.spatial_dims == 3:
        return box.contiguous()
    return slices_as_channels(box, config.window.context)[0].movedim(-1, 0).contiguous()


def in_torch(network: torch.nn.Module, batches: list[torch.Tensor]) -> Callable[[], object]:
    def work() -> None:
        with torch.inference_mode():
            for batch in batches:
                network(batch)

    return work


def in_openvino(network: torch.nn.Module, batches: list[torch.Tensor]) -> Callable[[], object] | None:
    """None where the package is not installed."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # openvino then takes its own stub
    try:
        import openvino
    except ImportError:
        return None
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled: dict[tuple[int, ...], Any] = {}
    for batch in batches:
        if tuple(batch.shape) not in compiled:
            model = openvino.convert_model(network.requires_grad_(False), example_input=batch)
            model.reshape(list(batch.shape))
            compiled[tuple(batch.shape)] = openvino.Core().compile_model(model, "CPU", hints)
    return lambda: [compiled[tuple(batch.shape)](batch.numpy()) for batch in batches]


def measure(
    case: Case, config: RunConfig, network: torch.nn.Module, repeats: int, device: torch.device, openvino: bool
) -> dict[str, Any]:
    """Measure the seconds of the network for each engine.

    They are the median of ``repeats`` passes after one to warm up; the machine's peak is measured between.
    """
    window = brain_window(case, config).to(device)
    batches = list(window.split(config.window.batch)) if config.network.spatial_dims == 2 else [window]
    counter = FlopCounterMode(display=False)
    with counter:
        in_torch(network, batches)()
    engines = {"torch": in_torch(network, batches)}
    if openvino and device.type == "cpu" and (compiled := in_openvino(network, batches)) is not None:
        engines["openvino"] = compiled
    for work in engines.values():
        work()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
    peaks = []
    for _ in range(repeats):
        peaks.append(sgemm_gflops(device))
        for name, work in engines.items():
            times[name].append(timed(work, device))
    peak = np.max(peaks, axis=0)
    gflop = counter.get_total_flops() / 1e9
    found: dict[str, Any] = {
        "shape": list(window.shape),
        "gflop": gflop,
        "sgemm_gflops": float(peak[0]),
        "sgemm_gflops_cpu": float(peak[1]),
    }
    for name, pairs in times.items():
        wall, cpu = (statistics.median(column) for column in zip(*pairs, strict=True))
        found[name] = {
            "wall": wall,
            "cpu": cpu,
            "share_of_peak": gflop / wall / float(peak[0]),
            "share_of_peak_cpu": gflop / max(cpu, 1e-9) / float(peak[1]),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patients", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--torch-only", action="store_true")
    parser.add_argument("--result", type=Path)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    checkpoint, device = open_checkpoint(arguments.model), torch.device(arguments.device)
    network = checkpoint.build().to(device)
    options = (arguments.repeats, device, not arguments.torch_only)
    found: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "cases": {
            case.case_id: measure(case, checkpoint.config, network, *options)
            for case in discover_cases(arguments.patients)
        },
    }
    if arguments.result:
        arguments.result.write_text(json.dumps(found))
    else:
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
