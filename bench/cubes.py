"""Scores of models on lesions that are set aside.

They go through the same Predictor as the user's.

    python -m bench.cubes CUBES --split FILE --model NAME ... [--output FILE]

CUBES is the folder of the lesions (pipeline.training.cube_validation), FILE a split with the list ``set_aside``
(bench.sides). Each lesion stands alone: the network sees zeros outside of its cube, and no component is removed. With
--output: a table (CSV) with one row for each model and lesion. A model that has learnt from one of the patients is
refused, see bench.heldout; --seen scores it all the same.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch

from data.errors import SegmentationError, UsageError
from pipeline.checkpoint import Checkpoint, open_checkpoint
from pipeline.provenance import why_seen
from pipeline.score.tables import write_table
from pipeline.training.cube_validation import cubes_of, validate_cubes, without_empty
from pipeline.training.distributed import Process
from pipeline.training.splits import read_split
from pipeline.training.validation import mean_scores

REGIONS = ("WT", "TC", "ET")


def refuse_seen(models: Sequence[Checkpoint], patients: Mapping[str, str], what: str) -> None:
    """Refuse a model that has learnt from any of these patients.

    Parameters
    ----------
    models : sequence of Checkpoint
    patients : mapping of str to str
        Of each thing that is to be scored, by its name; ``what`` these are, for the sentence.

    Raises
    ------
    data.errors.UsageError
        Names the model and the first thing that it has seen.
    """
    for model in models:
        if seen := [name for name, patient in patients.items() if why_seen(model.card, patient, {})]:
            raise UsageError(
                f"{model.name} has learnt from the patients of {len(seen)} of these {what}, the first is {seen[0]}: "
                "the scores would say nothing; to have them all the same, add --seen"
            )


def as_markdown(rows: pd.DataFrame) -> str:
    """Write a line for each model, mean Dice over all lesions.

    A second figure is over those with a reference that is not empty.
    """
    columns = [f"{region}{more}" for more in ("", ", not empty") for region in REGIONS]
    lines = ["| model | lesions | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for model, own in rows.groupby("model", sort=False):
        records = own.to_dict("records")
        means = [mean_scores(records, "dice", REGIONS), without_empty(records, REGIONS)]
        cells = [f"{mean[region]:.3f}" if region in mean else "" for mean in means for region in REGIONS]
        lines.append(f"| {model} | {len(own)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cubes", type=Path)
    parser.add_argument("--split", type=Path, required=True)
    parser.add_argument("--model", nargs="+", required=True)
    parser.add_argument("--seen", action="store_true")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    try:
        cubes = cubes_of(arguments.cubes, read_split(arguments.split).set_aside)
        models = [open_checkpoint(name) for name in arguments.model]
        if not arguments.seen:
            refuse_seen(models, {cube.name: cube.name.partition("#")[0] for cube in cubes}, "lesions")
        alone = Process(0, 1, torch.device("cpu"))
        tables = [pd.DataFrame(validate_cubes(m.path, cubes, alone)).assign(model=m.name) for m in models]
    except SegmentationError as error:
        parser.error(str(error))
    rows = pd.concat(tables, ignore_index=True)
    if arguments.output is not None:
        write_table(arguments.output, rows)
    sys.stdout.write(as_markdown(rows))


if __name__ == "__main__":
    main()
