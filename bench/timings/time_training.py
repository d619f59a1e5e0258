"""Images per second of the trainer beside a plain MONAI loop.

Network and patients are the same, all in one run.

    python -m bench.timings.time_training PATIENTS [--recipe NAME] [--steps N] [--rounds N]

The plain loop is MONAI's tutorial: a CacheDataset of the deterministic transforms, random transforms of the same kinds
as ours, its DataLoader, DiceCELoss, AdamW. Both take turns, so that the machine's moods hit both alike; the first round
warms up and is left out. Loading and preprocessing before the first step are timed apart.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import CacheDataset, DataLoader
from monai.losses import DiceCELoss
from monai.transforms import (
    Compose,
    ConcatItemsd,
    CropForegroundd,
    DeleteItemsd,
    EnsureChannelFirstd,
    Lambdad,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    RandAdjustContrastd,
    RandAffined,
    RandBiasFieldd,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandShiftIntensityd,
    Spacingd,
    SpatialPadd,
)
from torch.utils.data import RandomSampler

from data.case import Case
from data.find.discover import discover_cases
from data.find.recognise import choose_conventions
from data.labels import load_convention
from networks import build_network
from networks.losses import build_loss
from pipeline.config import RunConfig, load_recipe
from pipeline.training.cases import patient_cases
from pipeline.training.distributed import Process
from pipeline.training.loop import _batches, _learn
from pipeline.training.progress.trainee import Trainee
from pipeline.training.sampling import PatchDataset


def region_channels(cases: list[Case], config: RunConfig) -> Callable[[torch.Tensor], torch.Tensor]:
    """Turn a label map into one channel a region, in these patients' convention."""
    choices = choose_conventions(cases)
    convention = load_convention(str(choices[cases[0].case_id].name))
    labels = [tuple(convention.regions[region]) for region in config.regions]
    return lambda label: torch.stack([torch.isin(label[0], torch.tensor(values)) for values in labels]).float()


def monai_batches(cases: list[Case], config: RunConfig) -> Iterator[dict[str, Any]]:
    """Yield endless batches of the plain loop.

    The cases are cached before the first one is given.
    """
    keys, patch = list(config.modalities), config.training.patch
    both = ["image", "label"]
    spacing = tuple(mm or 1.0 for mm in config.preprocess.spacing_mm)
    fixed = [
        LoadImaged([*keys, "label"]),
        EnsureChannelFirstd([*keys, "label"]),
        ConcatItemsd(keys, "image"),
        DeleteItemsd(keys),
        Lambdad("label", region_channels(cases, config)),
        Orientationd(both, axcodes="RAS", labels=None),
        Spacingd(both, pixdim=spacing, mode=("bilinear", "nearest")),
        CropForegroundd(both, source_key="image", allow_smaller=True),
        NormalizeIntensityd("image", nonzero=True, channel_wise=True),
    ]
    random = [
        SpatialPadd(both, patch),
        RandCropByPosNegLabeld(both, label_key="label", spatial_size=patch, pos=2, neg=1, num_samples=1),
        RandAffined(both, prob=1.0, rotate_range=(0.26,) * 3, scale_range=(0.2,) * 3, mode=("bilinear", "nearest")),
        RandFlipd(both, prob=0.5, spatial_axis=0),
        RandGaussianSmoothd("image", prob=0.1),
        RandBiasFieldd("image", prob=1 / 3),
        RandScaleIntensityd("image", prob=0.7, factors=0.3, channel_wise=True),
        RandShiftIntensityd("image", prob=0.7, offsets=0.3, channel_wise=True),
        RandAdjustContrastd("image", prob=1 / 3, gamma=(0.6, 1.6)),
        RandGaussianNoised("image", prob=1 / 3, std=0.1),
    ]
    items = []
    for case in cases:
        assert case.reference is not None
        images = {modality: case.images[modality].paths[0] for modality in keys}
        items.append({**images, "label": case.reference.paths[0]})
    dataset = CacheDataset(items, Compose([*fixed, *random]), progress=False)
    assert len(dataset._cache) == len(items)  # an item that is not in the cache would be unpacked again in every step
    endless = RandomSampler(dataset, replacement=True, num_samples=10_000)
    yield {}  # everything is cached: the clock of the steps starts here
    while True:
        yield from DataLoader(dataset, batch_size=config.training.batch, sampler=endless)


def time_steps(step: Callable[[], object], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        step()
    return time.perf_counter() - start


def plain_loop(cases: list[Case], config: RunConfig) -> Callable[[], object]:
    batches = monai_batches(cases, config)
    next(batches)
    network = build_network(config.network)
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.training.learning_rate)
    loss_function = DiceCELoss(sigmoid=True, batch=True)

    def step() -> None:
        batch = next(batches)
        outputs = network(batch["image"].as_tensor())
        outputs = outputs if isinstance(outputs, list) else [outputs]
        loss = sum(0.5**i * loss_function(y, batch["label"].as_tensor()) for i, y in enumerate(outputs))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def our_loop(cases: list[Case], config: RunConfig, cache: Path) -> Callable[[], object]:
    dataset = PatchDataset(patient_cases(cases, config, cache), config)
    process = Process(0, 1, torch.device("cpu"))
    trainee = Trainee.new(config, process.device)
    loss_function = build_loss(config.training.loss.name, config.training.loss.parameters)
    batches = itertools.chain.from_iterable(_batches(dataset, epoch, process, 0) for epoch in itertools.count())
    return lambda: _learn(trainee, trainee.network, next(batches), loss_function, process, 5.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("patients", type=Path)
    parser.add_argument("--recipe", default="brats_attention_unet_3d")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    config = load_recipe(arguments.recipe)
    cases = [case for case in discover_cases(arguments.patients) if case.reference is not None]
    with tempfile.TemporaryDirectory() as cache:
        loops: dict[str, Callable[[], object]] = {}
        lines = []
        builders: dict[str, Callable[[], Callable[[], object]]] = {
            "ours": lambda: our_loop(cases, config, Path(cache)),
            "ours, second start": lambda: our_loop(cases, config, Path(cache)),
            "MONAI": lambda: plain_loop(cases, config),
        }
        for name, build in builders.items():
            start = time.perf_counter()
            loops[name] = build()
            lines.append(f"{name}: {time.perf_counter() - start:.1f} s before the first step")
        del loops["ours, second start"]
        seconds: dict[str, list[float]] = {name: [] for name in loops}
        for _ in range(arguments.rounds + 1):
            for name, step in loops.items():
                seconds[name].append(time_steps(step, arguments.steps))
        rates = {name: arguments.steps * config.training.batch / np.median(own[1:]) for name, own in seconds.items()}
        lines += [f"{name}: {rate:.2f} images/s" for name, rate in rates.items()]
        lines.append(f"ours / MONAI: {rates['ours'] / rates['MONAI']:.2f}")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
