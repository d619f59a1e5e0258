"""Gain of each ingredient of the training.

One recipe is trained with and without it, as many steps each, into one table.

    python -m bench.ingredients DATA --split FILE --output FOLDER [--recipe NAME] [--init MODEL] [--steps N] [--seeds 0
    1]
        [--only NAME ...]

DATA is the folder of the collected sets (bench.sets), FILE the fixed sides (bench.sides). Every variant is trained by
`train` from random weights, or from those of a MODEL that has learnt from the patients alone, so that few steps show
what an ingredient adds to it; its last weights are scored on the validation patients, and on the lesions and the whole
slices that are set aside. A run that is there is not made again, and one that was stopped goes on; so the table can be
made in parts. Steps are equal rather than minutes, because a busy machine is no fair clock; the CPU time of each is in
the table.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml

from bench.slices import mean_dice, score_slices, slices_of
from data.find.discover import discover_cases
from pipeline.checkpoint import open_checkpoint
from pipeline.config import load_recipe
from pipeline.options import TrainOptions
from pipeline.training.cube_validation import cubes_of, validate_cubes
from pipeline.training.distributed import Process
from pipeline.training.progress.files import LAST_NAME
from pipeline.training.run import run_training
from pipeline.training.splits import read_split
from pipeline.training.validation import mean_scores, references, validate


@dataclass(frozen=True)
class Ingredient:
    """Change of the recipe.

    Parameters
    ----------
    extra : dict of str to float
        Folder of DATA, with its kind where that is not told by its files, and its weight in the further share.
    share : float
        Share of the samples that come from these folders.
    changes : dict
        Dotted key of the recipe to value.
    """

    extra: dict[str, float] = field(default_factory=dict)
    share: float = 0.4
    changes: dict[str, Any] = field(default_factory=dict)


KINDS = {
    "brats2020_cubes": "cube",
    "brats2020_slices": "slice",
    "brats2020_t1ce_slices": "t1c-slice",
    "bcbm_t1c_slices": "lesion-slice",
    "tcga_silver": "silver",
    "open_ms_data/MNI": "tumour-free",
    "brats_2013": "patient",
    "lgg": "head",
}
CUBES = {"brats2020_cubes": 1.0}
TRANSPLANT = {"augment.transplant": 0.5}
INGREDIENTS: dict[str, Ingredient] = {
    "patients alone": Ingredient(),
    "transplanting among them": Ingredient(changes=TRANSPLANT),
    "cubes": Ingredient(CUBES),
    "cubes, transplanting": Ingredient(CUBES, changes=TRANSPLANT),
    "slices": Ingredient({"brats2020_slices": 1.0}),
    "cubes, slices, transplanting": Ingredient({"brats2020_cubes": 0.6, "brats2020_slices": 0.4}, 0.5, TRANSPLANT),
    "t1c slices": Ingredient({"brats2020_t1ce_slices": 1.0}, 0.2),
    "marked metastases": Ingredient({"bcbm_t1c_slices": 1.0}, 0.1),
    "silver": Ingredient({"tcga_silver": 1.0}, 0.1),
    "tumour-free": Ingredient({"open_ms_data/MNI": 1.0}, 0.1),
    "LGG as partial labels": Ingredient({"lgg": 1.0}, 0.3),
    "phantoms of drawn shapes": Ingredient(changes={"training.sampling.phantom_share": 0.3}),
    "phantoms of real shapes": Ingredient(
        {"brats2020_cubes": 0.0},
        0.0,
        {"training.sampling.phantom_share": 0.3, "training.sampling.phantom_shapes": "real"},
    ),
}
"""By the name in the table; a new one is a line here."""


def variant(recipe: str, ingredient: Ingredient, steps: int, seed: int) -> dict[str, Any]:
    """Return the recipe's settings with an ingredient.

    They are for so many steps, validated at the end alone.
    """
    settings = load_recipe(recipe).model_dump(mode="json")
    training = settings["training"]
    training["epochs"] = training["validate_every"] = max(1, steps // training["steps_per_epoch"])
    training["seed"] = seed
    training["validate_minutes"] = None
    training["stopping"] = {}
    training["schedule"] = {"name": "cosine"}
    sampling = training["sampling"]
    sampling["extra_share"] = ingredient.share if ingredient.extra else 0.0
    sampling["extra_weights"] = {KINDS[folder]: weight for folder, weight in ingredient.extra.items()}
    settings["augment"]["transplant"] = 0.0
    for key, value in ingredient.changes.items():
        place = settings
        *parents, last = key.split(".")
        for parent in parents:
            place = place[parent]
        place[last] = value
    return settings


def trained(
    data: Path,
    split: Path,
    output: Path,
    settings: dict[str, Any],
    ingredient: Ingredient,
    cache: Path,
    init: str | None = None,
) -> tuple[Path, float]:
    """Train a variant and return its last weights and CPU minutes.

    A variant that is there is kept.
    """
    minutes = output / "cpu_minutes.json"
    if not minutes.is_file():
        output.mkdir(parents=True, exist_ok=True)
        recipe = output / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(settings, sort_keys=False))
        extra = [f"{data / folder}:{KINDS[folder]}" for folder in ingredient.extra]
        start = time.process_time()
        run_training(
            data / "brats",
            str(recipe),
            output / "run",
            TrainOptions(
                device="cpu",
                split=split,
                extra=extra,
                cache=cache,
                init=init,
                resume=True,
                command="python -m bench.ingredients",
            ),
        )
        minutes.write_text(json.dumps((time.process_time() - start) / 60))
    return output / "run" / LAST_NAME, json.loads(minutes.read_text())


def scores(model: Path, data: Path, split: Path) -> dict[str, float]:
    """Score the Dice of each region on the held-back cases.

    Validation patients are ``WT``, lesions and slices set aside ``lesions WT``.
    """
    alone, sides = Process(0, 1, torch.device("cpu")), read_split(split)
    config = open_checkpoint(model).config
    patients = [case for case in discover_cases(data / "brats") if case.case_id in sides.validation]
    found = mean_scores(validate(model, references(patients, config), alone), "dice", config.regions)
    lesions = validate_cubes(model, cubes_of(data / "brats2020_cubes", sides.set_aside), alone)
    of_lesions = mean_scores(lesions, "dice", config.regions)
    slices = score_slices(open_checkpoint(model), slices_of(data / "brats2020_slices", sides.set_aside))
    found |= {f"lesions {region}": value for region, value in of_lesions.items()}
    return found | {f"slices {region}": value for region, value in mean_dice(slices).items()}


def as_markdown(rows: pd.DataFrame) -> str:
    """Write a line for each ingredient and seed."""
    columns = [column for column in rows.columns if column not in ("ingredient", "seed", "CPU minutes")]
    lines = ["| ingredient | seed | " + " | ".join(columns) + " | CPU minutes |", "|---" * (len(columns) + 3) + "|"]
    for row in rows.to_dict("records"):
        values = " | ".join(f"{row[column]:.3f}" for column in columns)
        lines.append(f"| {row['ingredient']} | {row['seed']} | {values} | {row['CPU minutes']:.0f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--recipe", default="brats_attention_unet_2d")
    parser.add_argument("--init", help="first weights, of a model that has learnt from the patients alone")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", default=list(INGREDIENTS), choices=list(INGREDIENTS))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    rows = []
    for seed in arguments.seeds:
        for name in arguments.only:
            ingredient = INGREDIENTS[name]
            settings = variant(arguments.recipe, ingredient, arguments.steps, seed)
            folder = arguments.output / f"{name.replace(' ', '_').replace(',', '')}-{seed}"
            cache = arguments.output / "cache"
            model, minutes = trained(
                arguments.data, arguments.split, folder, settings, ingredient, cache, arguments.init
            )
            rows.append(
                {"ingredient": name, "seed": seed}
                | scores(model, arguments.data, arguments.split)
                | {"CPU minutes": minutes}
            )
            sys.stdout.write(as_markdown(pd.DataFrame(rows[-1:])).splitlines()[-1] + "\n")
            sys.stdout.flush()
    sys.stdout.write("\n" + as_markdown(pd.DataFrame(rows)))


if __name__ == "__main__":
    main()
