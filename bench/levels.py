"""Cost and gain of each level of a UNet++.

Dice against the reference, and the network's CPU time.

    python -m bench.levels PATIENTS --cases ID ... [--model NAME ...] [--engine torch]

Give patients that the models were not trained on. Without --model: the shipped UNet++ models that these were held out
of. The CPU time is of this process in the network's part of a case, in one thread, the median over the patients; the
levels take turns on each patient. Patients whose reference has no voxel of a region are left out of that region's mean.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from bench.heldout import reference_of
from data.find.discover import discover_cases
from pipeline.checkpoint import open_checkpoint, shipped_models
from pipeline.predict import inference
from pipeline.predict.memory.machine import tune_malloc
from pipeline.predict.predictor import Predictor


def timed_inference(seconds: list[float]) -> None:
    """Have the predictor's calls of the network append their CPU seconds."""
    plain = inference.infer

    def infer(*arguments, **options):  # type: ignore[no-untyped-def]
        start = time.process_time()
        found = plain(*arguments, **options)
        seconds.append(time.process_time() - start)
        return found

    inference.infer = infer  # type: ignore[assignment]


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    """2 |A and B| / (|A| + |B|); NaN where the reference is empty."""
    return 2 * float((mask & truth).sum()) / float(mask.sum() + truth.sum()) if truth.any() else float("nan")


def measure(name: str, cases: list, engine: str) -> list[str]:
    """Lines of a table, one a level."""
    depth = len(open_checkpoint(name).settings["network"]["channels"]) - 1
    predictors = {level: Predictor(name, "cpu", engine=engine, level=level) for level in range(1, depth + 1)}
    seconds: list[float] = []
    timed_inference(seconds)
    times: dict[int, list[float]] = {level: [] for level in predictors}
    scores: dict[int, list[list[float]]] = {level: [] for level in predictors}
    for case in cases:
        truth, _ = reference_of(case)
        for level, predictor in predictors.items():
            masks = predictor(case).masks
            times[level].append(seconds[-1])
            scores[level].append([dice(masks[region], truth[region]) for region in masks])
    whole = statistics.median(times[depth])
    lines = []
    for level, predictor in predictors.items():
        means = " | ".join(f"{mean:.3f}" for mean in np.nanmean(scores[level], axis=0))
        weights = sum(p.numel() for p in predictor.networks[0].parameters())
        middle = statistics.median(times[level])
        lines.append(f"| {name} | {level} | {means} | {middle:.2f} | {middle / whole:.2f} | {weights / 1e6:.2f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patients", type=Path)
    parser.add_argument("--cases", nargs="+", required=True)
    parser.add_argument("--model", nargs="*", default=[])
    parser.add_argument("--engine", default="torch")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tune_malloc()
    cases = [case for case in discover_cases(arguments.patients) if case.case_id in arguments.cases]
    nested = [m for m in shipped_models() if m.settings["network"]["architecture"] == "unet_plus_plus"]
    names = arguments.model or [m.name for m in nested if set(arguments.cases) <= set(m.card.get("held_out", ()))]
    if not cases or not names:
        parser.error("no such patients, or every shipped UNet++ was trained on some of them")
    regions = open_checkpoint(names[0]).settings["regions"]
    columns = ["model", "level", *(f"Dice {r}" for r in regions), "network, CPU s", "of the whole", "million weights"]
    print(f"{len(cases)} patients, engine {arguments.engine}\n")
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for name in names:
        print("\n".join(measure(name, cases, arguments.engine)), flush=True)


if __name__ == "__main__":
    main()
