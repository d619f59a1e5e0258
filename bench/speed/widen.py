"""Network that the targets of speed are about, Attention U-Net 16-256 at 1 mm.

It is made from the shipped one.

    python -m bench.speed.widen FILE [--model brats-attention-unet-3d] [--spacing 1]

The shipped 3D model has half of its features and a grid of 2 mm. Every feature is doubled and every weight that reads
it halved, so that the wide network computes the same function in four times the operations (Net2Net, Chen, Goodfellow &
Shlens 2016), now on a finer grid and in one window that holds the whole brain. It is for timing, and for comparing
masks of one and the same network; it was not trained at that spacing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

from networks import build_network
from pipeline.checkpoint import Checkpoint, open_checkpoint, save_checkpoint
from pipeline.config import RunConfig

WINDOW = 128


def widened(network: nn.Module, wide: nn.Module) -> nn.Module:
    """Give ``wide`` the function of ``network`` and return it.

    It has twice the features at every resolution.
    """
    narrow = network.state_dict()
    turned = {
        f"{name}.weight" for name, m in wide.named_modules() if isinstance(m, nn.ConvTranspose2d | nn.ConvTranspose3d)
    }
    weights = {}
    for name, target in wide.state_dict().items():
        weight = narrow[name].clone()
        reads = 0 if name in turned else 1
        for axis in range(target.dim()):
            times, rest = divmod(target.shape[axis], weight.shape[axis])
            if rest or times not in (1, 2):
                raise ValueError(f"{name}: {tuple(narrow[name].shape)} cannot become {tuple(target.shape)}")
            if times == 2:
                weight = weight.repeat_interleave(2, axis)
                if axis == reads and target.dim() > 2:  # a sum over features, each of which is there twice now
                    weight = weight / 2
        weights[name] = weight
    wide.load_state_dict(weights)
    return wide.eval()


def widen(model: Checkpoint, path: Path, spacing_mm: float) -> Path:
    """Write the wide model, with a card that says so."""
    settings = model.config.model_dump(mode="json")
    settings["name"] = f"{model.name}-wide-{spacing_mm:g}mm"
    settings["network"]["channels"] = [2 * n for n in settings["network"]["channels"]]
    settings["preprocess"]["spacing_mm"] = [spacing_mm] * 3
    settings["window"] |= {"size": [WINDOW] * 3, "whole": True, "overlap": 0.5, "batch": 1}
    config = RunConfig.model_validate(settings)
    card = {
        "trained_on": f"not trained: {model.name} with every feature doubled, for timing",
        "held_out": [],
        "scores": {},
        "licence": model.card.get("licence", ""),
        "date": model.card.get("date", ""),
        "command": "python -m bench.speed.widen",
    }
    with torch.no_grad():
        save_checkpoint(path, widened(model.build(), build_network(config.network)), config, card)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", default="brats-attention-unet-3d")
    parser.add_argument("--spacing", type=float, default=1.0, help="mm")
    arguments = parser.parse_args()
    print(widen(open_checkpoint(arguments.model), arguments.file, arguments.spacing))


if __name__ == "__main__":
    main()
