"""First yardstick:

MONAI's own transforms and sliding windows. The network is the same, one patient after another.

    python -m bench.speed.plain_monai PATIENTS OUTPUT --model NAME [--result FILE] [--device cpu]

As MONAI's tutorials do it: LoadImaged, EnsureChannelFirstd, Orientationd, Spacingd, NormalizeIntensityd on the whole
volume, sliding_window_inference with the model's window (128 voxels a side at most), overlap 0.5 and Gaussian weights,
sigmoid, Invertd, threshold, SaveImaged: an image of one channel for each region. 2D models run through SliceInferer.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import SliceInferer, sliding_window_inference
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    SaveImaged,
    Spacingd,
)

from bench.speed.own_process import since_start
from data.case import Case
from data.find.discover import discover_cases
from pipeline.checkpoint import open_checkpoint
from pipeline.config import RunConfig
from transforms.planes import slices_as_channels

LARGEST_WINDOW = 128
OVERLAP = 0.5


def tutorial_window(config: RunConfig) -> tuple[int, ...]:
    """Return the model's window, no side above :data:`LARGEST_WINDOW`.

    A tutorial's window does not grow to the brain.
    """
    sides = config.window.size if isinstance(config.window.size, tuple) else ()
    return tuple(min(side, LARGEST_WINDOW) for side in sides) or (LARGEST_WINDOW,) * config.network.spatial_dims


def input_chain(config: RunConfig) -> Compose:
    """Return the chain from a patient's files to the network's image.

    The files are in the model's order.
    """
    return Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes=config.preprocess.orientation, labels=None),
            Spacingd("image", pixdim=[side or -1.0 for side in config.preprocess.spacing_mm]),
            NormalizeIntensityd("image", nonzero=True, channel_wise=True),
        ]
    )


def output_chain(config: RunConfig, before: Compose, folder: Path) -> Compose:
    """Return the chain from logits to a file on the patient's own grid.

    Probabilities are resampled, then cut at the threshold.
    """
    return Compose(
        [
            Activationsd("pred", sigmoid=True),
            Invertd("pred", before, orig_keys="image", nearest_interp=False),
            AsDiscreted("pred", threshold=config.postprocess.threshold),
            SaveImaged(
                "pred", output_dir=folder, output_postfix="seg", separate_folder=False, resample=False, print_log=False
            ),
        ]
    )


def logits_of(config: RunConfig, network: torch.nn.Module, image: torch.Tensor) -> torch.Tensor:
    """(1, regions, d1, d2, d3) of a (1, modalities, d1, d2, d3) image."""
    window = tutorial_window(config)
    if config.network.spatial_dims == 3:
        logits = sliding_window_inference(image, window, config.window.batch, network, OVERLAP, "gaussian")
    else:
        infer = SliceInferer(
            roi_size=window, spatial_dim=2, sw_batch_size=config.window.batch, overlap=OVERLAP, mode="gaussian"
        )
        logits = infer(slices_as_channels(image, config.window.context), network)
    assert isinstance(logits, torch.Tensor)
    return logits


def segment(
    case: Case, config: RunConfig, network: torch.nn.Module, folder: Path, device: torch.device
) -> dict[str, float]:
    """Write one patient's mask to ``folder/<case id>``; return its seconds.

    They are wall and CPU seconds of all of it, and wall seconds of its stages.
    """
    before = input_chain(config)
    after = output_chain(config, before, folder / case.case_id)
    cpu, start = time.process_time(), time.perf_counter()
    data: dict[str, Any] = before({"image": [str(case.images[m].paths[0]) for m in config.modalities]})
    read = time.perf_counter()
    with torch.inference_mode():
        logits = logits_of(config, network, data["image"][None].to(device))[0].cpu()
    network_end = time.perf_counter()
    data["pred"] = MetaTensor(logits.clone(), meta=data["image"].meta)  # outside of inference mode
    after(data)
    end = time.perf_counter()
    return {
        "wall": end - start,
        "cpu": time.process_time() - cpu,
        "read_preprocess": read - start,
        "network": network_end - read,
        "restore_write": end - network_end,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patients", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--result", type=Path)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    checkpoint, device = open_checkpoint(arguments.model), torch.device(arguments.device)
    network = checkpoint.build().to(device)
    start_up = since_start()
    cases = {
        case.case_id: segment(case, checkpoint.config, network, arguments.output, device)
        for case in discover_cases(arguments.patients)
    }
    found = {"start_up": start_up, "cases": cases}
    if arguments.result:
        arguments.result.write_text(json.dumps(found))
    else:
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
