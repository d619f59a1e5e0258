"""Gain of pre-training on synthetic patients for real ones.

A small network is cross-validated with it and without it.

    python -m bench.quality.synthetic PATIENTS --output FOLDER [--folds 3] [--steps 600] [--phantoms 16] [--cache
    FOLDER]

Three systems on each patient, none of which has seen that patient: trained on the other folds' patients alone; on
synthetic patients alone; on synthetic patients first and then on the other folds', for as many steps each. The network
is a 2D Attention U-Net on slices of 4 mm, so that the seven runs take half an hour of two cores: the difference counts
here, not the height. A stopped run goes on where it was; FOLDER/scores.csv holds a row for each patient and system.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import pandas as pd
import yaml

from bench.heldout import as_markdown, score_patients
from data.case import same_patients
from data.find.discover import discover_cases
from data.io.write import write_text_atomically
from pipeline.options import TrainOptions
from pipeline.score.tables import write_table
from pipeline.training.run import run_training
from pipeline.training.splits import fold_split

SYSTEMS = ("patients", "synthetic", "synthetic, then patients")


def write_recipe(folder: Path, name: str, steps: int, phantoms: int) -> Path:
    """Write the small network's recipe.

    It learns from synthetic patients alone where ``phantoms`` is not 0.
    """
    sampling = {"phantom_share": 1.0, "phantoms": phantoms} if phantoms else {}
    epochs = max(steps // 50, 1)
    settings = {
        "name": name,
        "modalities": ["t1", "t1c", "t2", "flair"],
        "regions": ["WT", "TC", "ET"],
        "convention": "brats2023",
        "network": {
            "architecture": "attention_unet",
            "spatial_dims": 2,
            "in_channels": 4,
            "out_channels": 3,
            "channels": [12, 24, 48, 96],
        },
        "preprocess": {"spacing_mm": [4.0, 4.0, 4.0]},
        "augment": {"flip_axes": [0]},
        "window": {"size": [64, 64], "batch": 16},
        "training": {
            "patch": [48, 48],
            "batch": 8,
            "epochs": epochs,
            "steps_per_epoch": 50,
            "validate_every": epochs,
            "learning_rate": 0.003,
            "ema_decay": 0.98,
            "sampling": sampling,
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    write_text_atomically(path, yaml.safe_dump(settings, sort_keys=False))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patients", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--phantoms", type=int, default=16)
    parser.add_argument("--cache", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("pipeline").setLevel(logging.INFO)
    output, cache = arguments.output, arguments.cache or arguments.output / "cache"
    on_patients = write_recipe(output, "patients", arguments.steps, 0)
    on_phantoms = write_recipe(output, "synthetic", arguments.steps, arguments.phantoms)

    def train(recipe: Path, folder: str, fold: int | str, init: Path | None = None) -> Path:
        options = TrainOptions(
            folds=arguments.folds, fold=fold, cache=cache, resume=True, init=None if init is None else str(init)
        )
        run_training(arguments.patients, str(recipe), output / folder, options)
        return output / folder / "last.safetensors"

    # With phantom_share 1 no patient is learnt from: one run serves every fold.
    synthetic = train(on_phantoms, "synthetic", "all")
    cases, scores = discover_cases(arguments.patients), []
    for fold in range(arguments.folds):
        models = (
            train(on_patients, f"patients-{fold}", fold),
            synthetic,
            train(on_patients, f"both-{fold}", fold, init=synthetic),
        )
        names = set(
            fold_split([case.case_id for case in cases], arguments.folds, fold, same_patients(cases)).validation
        )
        rows = score_patients([case for case in cases if case.case_id in names], [str(model) for model in models])
        scores.append(rows.replace({"system": dict(zip(map(str, models), SYSTEMS, strict=True))}))
    table = pd.concat(scores).sort_values(["system", "case"], ignore_index=True)
    write_table(output / "scores.csv", table)
    sys.stdout.write(as_markdown(table))


if __name__ == "__main__":
    main()
