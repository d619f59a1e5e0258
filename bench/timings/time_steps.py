"""Training steps per second of this checkout beside another one, in turns.

The cases are synthetic; both loss curves are shown.

    python -m bench.timings.time_steps --beside CHECKOUT [--recipe NAME] [--steps N] [--rounds N]

Each checkout has a process of its own with one thread. They take turns of N steps, so that the machine's moods hit both
alike; the first turn warms up and is left out. CPU seconds are what counts where others are at work on the same core.
A step is all of it: drawing and augmenting the samples, the network, the optimiser, the average of the weights.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def synthetic_case(seed: int, config: Any) -> Any:
    """Make a brain of noise with a tumour, 72 x 90 x 70 voxels.

    It is as it comes out of the cache.
    """
    from pipeline.training.cached import TrainingCase

    generator, shape = np.random.default_rng(seed), (72, 90, 70)
    place = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    brain = (((place - np.array(shape) / 2) / (np.array(shape) / 2)) ** 2).sum(axis=-1) < 1
    distance = np.linalg.norm(place - generator.integers(25, 45, 3), axis=-1)
    masks = np.stack([(distance < 14 - 4 * i) & brain for i in range(len(config.regions))])
    images = (generator.normal(0, 0.7, (len(config.modalities), *shape)) + masks.sum(axis=0)) * brain
    centres = {name: np.argwhere(m).astype(np.int16) for name, m in zip(config.regions, masks, strict=True)}
    centres["brain"] = np.argwhere(brain).astype(np.int16)
    voxels = np.concatenate((images, masks)).astype(np.float16)
    told: dict[str, Any] = {"known": (True,) * len(masks)}  # an older checkout tells what is known by the region
    more = {key: value for key, value in told.items() if key in TrainingCase.__dataclass_fields__}
    return TrainingCase(
        name=f"case {seed}", kind="patient", voxels=voxels, n_images=len(images), centres=centres, **more
    )


def answer_turns(recipe: str, steps: int) -> None:
    """Make steps whenever a line comes in.

    Each is answered with wall seconds, CPU seconds and losses as JSON.
    """
    import torch

    from networks.losses import build_loss
    from pipeline.config import load_recipe
    from pipeline.training import run as training_run
    from pipeline.training.distributed import Process
    from pipeline.training.loop import Trainee, _batches, _learn
    from pipeline.training.sampling import PatchDataset

    torch.set_num_threads(1)
    getattr(training_run, "tune_malloc", lambda: None)()  # an older checkout leaves malloc as it is
    config = load_recipe(recipe)
    dataset = PatchDataset([synthetic_case(seed, config) for seed in range(4)], config)
    process = Process(0, 1, torch.device("cpu"))
    trainee = Trainee.new(config, process.device)
    loss_function = build_loss(config.training.loss.name, config.training.loss.parameters)
    batches = itertools.chain.from_iterable(_batches(dataset, epoch, process, 0) for epoch in itertools.count())
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        losses = [
            _learn(trainee, trainee.network, next(batches), loss_function, process, config.training.gradient_clip)
            for _ in range(steps)
        ]
        answer = [time.perf_counter() - wall, time.process_time() - cpu, losses]
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def started(checkout: Path, recipe: str, steps: int) -> subprocess.Popen[str]:
    """Start the process of one checkout.

    It runs this very file, with the pipeline of that folder.
    """
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": "1"}
    # -P: the folder of this file is not searched, or bench.speed.profile would hide Python's own.
    command = [sys.executable, "-P", str(Path(__file__).resolve()), "--answer"]
    command += ["--recipe", recipe, "--steps", str(steps)]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def turn(process: subprocess.Popen[str]) -> tuple[float, float, list[float]]:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    wall, cpu, losses = json.loads(process.stdout.readline())
    return wall, cpu, losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beside", type=Path, help="another checkout of this repository")
    parser.add_argument("--recipe", default="brats_attention_unet_2d")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.answer:
        answer_turns(arguments.recipe, arguments.steps)
        return
    checkouts = {"this": Path(__file__).resolve().parents[2]}
    if arguments.beside is not None:
        checkouts["beside"] = arguments.beside
    processes = {name: started(folder, arguments.recipe, arguments.steps) for name, folder in checkouts.items()}
    turns: dict[str, list[tuple[float, float, list[float]]]] = {name: [] for name in processes}
    for _ in range(arguments.rounds + 1):
        for name, process in processes.items():
            turns[name].append(turn(process))
    for process in processes.values():
        process.communicate()
    seconds = {name: np.array([each[:2] for each in own[1:]]) / arguments.steps for name, own in turns.items()}
    for name, own in seconds.items():
        wall, cpu = np.median(own, axis=0)
        sys.stdout.write(f"{name}: {wall:.3f} s, {cpu:.3f} CPU s a step\n")
    if "beside" in turns:
        wall, cpu = np.median(seconds["beside"] / seconds["this"], axis=0)
        sys.stdout.write(f"beside / this: {wall:.2f} (wall), {cpu:.2f} (CPU)\n")
        curves = {name: np.concatenate([losses for *_, losses in own]) for name, own in turns.items()}
        apart = np.abs(curves["this"] - curves["beside"])
        sys.stdout.write(
            f"losses of {len(apart)} steps: {curves['this'][0]:.4f} to {curves['this'][-1]:.4f}, "
            f"apart by at most {apart.max():.4f}, by {apart.mean():.4f} in the mean\n"
        )


if __name__ == "__main__":
    main()
