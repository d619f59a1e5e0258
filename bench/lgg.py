"""Scores of the LGG models on the test patients of a split.

Beside them stand those of predicting nothing.

    python -m bench.lgg PATIENTS --split FILE [--part test] [--model NAME ...] [--together] [--tta] [--output FILE]

PATIENTS is the folder of the set's patients. With --together: also the average of all the models. With --output: a
table (CSV) with one row for each system and patient.

Volume-wise: over all voxels of a patient, then the mean over the patients. Slice-wise: over each slice, a slice that is
empty on both sides counting 1, then the mean over all slices. The other columns are over all voxels of all patients.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from data.case import Case
from data.find.discover import discover_cases
from data.io.read import read_label_map
from data.labels import load_convention
from pipeline.checkpoint import open_checkpoint, shipped_models
from pipeline.predict.predictor import Predictor
from pipeline.score.metrics import dice, overlap_scores
from pipeline.score.tables import write_table
from pipeline.training.splits import match_split, read_split

POOLED = ("accuracy", "sensitivity", "specificity", "tversky")


def voxel_counts(prediction: np.ndarray, reference: np.ndarray) -> dict[str, int]:
    """True and false positives and negatives, as numbers of voxels."""
    return {
        "tp": int((prediction & reference).sum()),
        "fp": int((prediction & ~reference).sum()),
        "fn": int((~prediction & reference).sum()),
        "tn": int((~prediction & ~reference).sum()),
    }


def pooled_scores(rows: pd.DataFrame) -> dict[str, float]:
    """Scores over all voxels of all patients together, from the sums of their counts."""
    tp, fp, fn, tn = (int(rows[name].sum()) for name in ("tp", "fp", "fn", "tn"))
    return {
        "accuracy": (tp + tn) / (tp + fp + fn + tn),
        "sensitivity": tp / (tp + fn),
        "specificity": tn / (tn + fp),
        "tversky": tp / (tp + 0.3 * fp + 0.7 * fn),
    }


def patient_row(prediction: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Score one patient; slices are along the last axis."""
    slices = [dice(prediction[..., k], reference[..., k]) for k in range(reference.shape[-1])]
    return (
        overlap_scores(prediction, reference)
        | {"slice_dice_sum": sum(slices), "slices": len(slices)}
        | voxel_counts(prediction, reference)
    )


def score(systems: Mapping[str, Sequence[str]], cases: Sequence[Case], tta: bool) -> pd.DataFrame:
    """Score each system on each patient, one row each.

    A system is the average of its models, and an empty one predicts nothing.
    """
    predictors = {name: Predictor(list(models), "cpu", tta=tta) for name, models in systems.items() if models}
    rows = []
    for case, reference in _with_reference(cases):
        for system in systems:
            mask = predictors[system](case).masks["WT"] if system in predictors else np.zeros_like(reference)
            rows.append({"system": system, "case": case.case_id} | patient_row(mask, reference))
    return pd.DataFrame(rows)


def _with_reference(cases: Sequence[Case]) -> Iterator[tuple[Case, np.ndarray]]:
    for case in cases:
        if case.reference is None:
            raise SystemExit(f"{case.case_id} has no reference to score against")
        yield case, load_convention("lgg").region_masks(read_label_map(case.reference).array, ["WT"])["WT"]


def as_markdown(rows: pd.DataFrame) -> str:
    """Write a table of systems."""
    head = ["system", "volume-wise Dice", "median", "lowest", "slice-wise Dice", *POOLED]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for system, own in rows.groupby("system", sort=False):
        by_slice = own["slice_dice_sum"].sum() / own["slices"].sum()
        values = [own["dice"].mean(), own["dice"].median(), own["dice"].min(), by_slice, *pooled_scores(own).values()]
        lines.append(f"| {system} | " + " | ".join(f"{value:.4f}" for value in values) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("patients", type=Path)
    parser.add_argument("--split", type=Path, required=True)
    parser.add_argument("--part", choices=("train", "validation", "test"), default="test")
    parser.add_argument("--model", nargs="*", default=[])
    parser.add_argument("--together", action="store_true")
    parser.add_argument("--tta", action="store_true")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    found = discover_cases(arguments.patients)
    split = match_split(read_split(arguments.split), [case.case_id for case in found], arguments.split)
    cases = [case for case in found if case.case_id in getattr(split, arguments.part)]
    names = arguments.model or [model.name for model in shipped_models() if model.settings["convention"] == "lgg"]
    systems: dict[str, Sequence[str]] = {open_checkpoint(name).name: [name] for name in names}
    if arguments.together and len(names) > 1:
        systems["all of them, averaged"] = names
    systems["nothing"] = []
    rows = score(systems, cases, arguments.tta)
    if arguments.output is not None:
        write_table(arguments.output, rows)
    sys.stdout.write(f"{len(cases)} {arguments.part} patients\n\n{as_markdown(rows)}")


if __name__ == "__main__":
    main()
