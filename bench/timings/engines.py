"""Network alone under each engine and memory format.

Beside it stands the peak of this machine's matrix products.

    python -m bench.timings.engines [--model NAME ...] [--rounds 5] [--threads 1]

For each model a random input of the size of a brain (2D: one batch of its slices). The ways take turns, so that a busy
machine hits all alike; CPU seconds of this process, median. "of torch" below 1 is faster. "of peak": multiplications
and additions of the convolutions in a second of CPU time, over those of a float32 matrix product of 2048 x 2048 in the
same run. "start" is what OpenVINO takes before its first answer: with nothing kept, and with the conversion kept.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

from networks import PaddedNetwork
from pipeline.checkpoint import open_checkpoint, shipped_models
from pipeline.predict.engines import BRAIN_MM3, multiplications
from pipeline.predict.memory.machine import tune_malloc
from pipeline.predict.openvino import OpenVINONetwork, installed

BRAIN_MM = (144, 176, 144)


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def peak_flops(rounds: int) -> float:
    """Measure multiplications and additions a CPU second of a large float32 matrix product.

    The best of several counts.
    """
    a, b = torch.randn(2, 2048, 2048)
    a @ b
    return 2 * 2048**3 / min(cpu_seconds(lambda: a @ b) for _ in range(rounds))


def measure(name: str, rounds: int) -> str:
    """Measure one line of the table."""
    checkpoint = open_checkpoint(name)
    config, network = checkpoint.config, checkpoint.build().requires_grad_(False)
    assert isinstance(network, PaddedNetwork)
    dims = config.network.spatial_dims
    spacing = [s or 1.0 for s in config.preprocess.spacing_mm]
    size = [round(mm / s) for mm, s in zip(BRAIN_MM, spacing, strict=True)][:dims]
    x = torch.randn(config.window.batch if dims == 2 else 1, config.network.in_channels, *size)
    last = torch.channels_last if dims == 2 else torch.channels_last_3d
    arranged: Any = {"memory_format": last}  # Module.to takes it, but does not declare so
    other = copy.deepcopy(network).to(**arranged)
    ways: dict[str, Callable[[], object]] = {"torch": lambda: network(x), "channels last": lambda: other(x)}
    starts: list[float] = []
    if installed():
        made: list[OpenVINONetwork] = []
        for _ in range(2):
            starts.append(cpu_seconds(lambda: made.append(OpenVINONetwork(network, {"model": checkpoint.sha256}))))
        ways["openvino"] = lambda: made[-1](x)
    times: dict[str, list[float]] = {way: [] for way in ways}
    with torch.inference_mode():
        for way in ways.values():
            way()
        for _ in range(rounds):
            for key, way in ways.items():
                times[key].append(cpu_seconds(way))
    middle = {key: statistics.median(found) for key, found in times.items()}
    # The count is for a whole brain; the input is a part of one.
    voxels = x.shape[0] * math.prod(size) * math.prod(spacing)
    flops = 2 * multiplications(network, config) * voxels / BRAIN_MM3
    peak = peak_flops(rounds)
    ratios = [f"{middle[key] / middle['torch']:.2f}" if key in middle else "" for key in ("channels last", "openvino")]
    best = min(middle.values())
    shape = "x".join(map(str, x.shape))
    begun = ", ".join(f"{s:.2f}" for s in starts)
    return (
        f"| {name} | {shape} | {flops / 1e9:.0f} | {middle['torch']:.2f} | {' | '.join(ratios)} "
        f"| {flops / middle['torch'] / peak:.2f} | {flops / best / peak:.2f} | {begun} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="*", default=[])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tune_malloc()
    columns = (
        "model", "input", "GFLOP", "torch, CPU s", "channels last of torch", "openvino of torch", "torch of peak",
        "fastest of peak", "openvino's start, CPU s",
    )  # fmt: skip
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder  # the user's own cache would make the first start a second one
        for name in arguments.model or [m.name for m in shipped_models()]:
            print(measure(name, arguments.rounds), flush=True)


if __name__ == "__main__":
    main()
