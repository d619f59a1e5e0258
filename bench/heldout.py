"""Scores of the shipped models on patients that they have not seen.

A baseline of one line stands beside them.

    python -m bench.heldout PATIENTS --cases ID ... [--model NAME ...] [--window N] [--tta] [--missing] [--seen]
        [--output FILE]

Without --model: the shipped models whose card says that all these cases were held out. A model that has learnt from one
of the cases, by name, by another name of the same patient or by image (pipeline.provenance), is refused; to score it
all the same, name it and say --seen. Older models do not say whom they have learnt from.

With --window: in sliding windows of N voxels a side instead of the model's own; with --tta: averaged over mirrorings.
With --missing: each model again with each modality left out in turn, Dice of the whole tumour.

The baseline for the whole tumour: FLAIR, z-scored over its non-zero voxels, above 1; the largest component.
"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from data.case import Case
from data.find.discover import discover_cases
from data.find.recognise import choose_conventions
from data.grid import Grid
from data.io.read import read_label_map, read_volume
from data.labels import load_convention
from data.same_patient import known_as
from pipeline.checkpoint import open_checkpoint, shipped_models
from pipeline.predict.predictor import Predictor
from pipeline.provenance import prints_of, why_seen
from pipeline.score.case import score_case
from transforms.postprocess import largest_component

METRICS = ("dice_WT", "dice_TC", "dice_ET", "hd95_mm_WT", "hd95_mm_TC", "hd95_mm_ET")


def flair_baseline(flair: np.ndarray) -> np.ndarray:
    """Return the largest 26-connected component of FLAIR above one standard deviation.

    Shape (d1, d2, d3) bool.
    """
    brain = flair[flair != 0]
    return largest_component((flair - brain.mean()) / brain.std() > 1)


def score_patients(cases: list[Case], names: list[str], window: str = "auto", tta: bool = False) -> pd.DataFrame:
    """Score each system on each patient, one row each.

    Systems are ``names`` and the baseline.
    """
    predictors = {name: Predictor(name, "cpu", window=window, tta=tta) for name in names}
    rows = []
    for case in cases:
        reference, grid = reference_of(case)
        for name, predictor in predictors.items():
            rows.append({"system": name, "case": case.case_id} | score_case(predictor(case).masks, reference, grid))
        baseline = {"WT": flair_baseline(read_volume(case.images["flair"]).array)}
        rows.append({"system": "FLAIR > 1", "case": case.case_id} | score_case(baseline, {"WT": reference["WT"]}, grid))
    return pd.DataFrame(rows)


def reference_of(case: Case) -> tuple[dict[str, np.ndarray], Grid]:
    if case.reference is None:
        raise SystemExit(f"{case.case_id} has no reference to score against")
    choices = choose_conventions([case])
    truth = read_label_map(case.reference)
    masks = load_convention(str(choices[case.case_id].name)).region_masks(truth.array, ("WT", "TC", "ET"))
    return masks, truth.grid


def score_missing(cases: list[Case], names: list[str]) -> pd.DataFrame:
    """Score each model with each modality replaced by zeros.

    Mean Dice of the whole tumour; one row a model, one column a modality.
    """
    truths = {case.case_id: reference_of(case) for case in cases}
    rows = []
    for name in names:
        predictor = Predictor(name, "cpu", zero_missing=True)
        row: dict[str, object] = {"model": name}
        for modality in ("", *predictor.modalities):
            dices = []
            for case in cases:
                left = {m: source for m, source in case.images.items() if m != modality}
                reference, grid = truths[case.case_id]
                scores = score_case(
                    {"WT": predictor(replace(case, images=left)).masks["WT"]}, {"WT": reference["WT"]}, grid
                )
                dices.append(scores["dice_WT"])
            row[f"without {modality}" if modality else "all four"] = float(np.mean(dices))
        rows.append(row)
    return pd.DataFrame(rows)


def as_markdown(scores: pd.DataFrame) -> str:
    """Write a table of patients and of means.

    The means stand with and without the patients that have an empty reference in that region.
    """
    lines = ["| system | patient | " + " | ".join(METRICS) + " |", "|---" * (len(METRICS) + 2) + "|"]

    def line(system: str, label: str, values: list[float]) -> str:
        return (
            f"| {system} | {label} | "
            + " | ".join("" if np.isnan(v) else f"{v:.3f}" if v <= 1 else f"{v:.1f}" for v in values)
            + " |"
        )

    for system, rows in scores.groupby("system", sort=False):
        lines += [
            line(str(system), row["case"], [row.get(m, np.nan) for m in METRICS]) for row in rows.to_dict("records")
        ]
        lines.append(line(str(system), f"**mean of {len(rows)}**", [rows[m].mean() for m in METRICS]))
        known = [rows.loc[rows[f"reference_voxels_{m[-2:]}"] > 0, m].mean() if m in rows else np.nan for m in METRICS]
        lines.append(line(str(system), "mean, empty references left out", known))
    return "\n".join(lines) + "\n"


def seen_cases(names: list[str], cases: list[Case]) -> list[str]:
    """Word a sentence for each model and case that it has learnt from.

    Models that do not say give none.
    """
    models = [model for model in map(open_checkpoint, names) if "learnt_from" in model.card]
    sentences = []
    for case in cases if models else []:
        prints = prints_of(case)
        for model in models:
            if reason := why_seen(model.card, case.case_id, prints):
                sentences.append(f"{model.name} has learnt from {case.case_id} ({reason})")
    return sentences


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("patients", type=Path)
    parser.add_argument("--cases", nargs="+", required=True)
    parser.add_argument("--model", nargs="*", default=[])
    parser.add_argument("--window", default="auto")
    parser.add_argument("--tta", action="store_true")
    parser.add_argument("--missing", action="store_true")
    parser.add_argument("--seen", action="store_true")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    wanted = set(map(known_as, arguments.cases))
    unseen_by = [m.name for m in shipped_models() if wanted <= set(map(known_as, m.card.get("held_out", ())))]
    for name in arguments.model:
        open_checkpoint(name)  # an error of all of them before the first is scored
    names = arguments.model or unseen_by
    if not names:
        parser.error("every shipped model has been trained on some of these cases; name one with --model all the same")
    cases = [case for case in discover_cases(arguments.patients) if case.case_id in arguments.cases]
    if seen := seen_cases(names, cases):
        if not (arguments.model and arguments.seen):
            parser.error(f"{'; '.join(seen)}: the scores would say nothing; to have them all the same, add --seen")
        sys.stderr.write(f"{'; '.join(seen)}\n")
    if arguments.missing:
        table = score_missing(cases, names)
        lines = [" | ".join(map(str, table.columns)), "|".join(["---"] * table.shape[1])]
        lines += [
            " | ".join(v if isinstance(v, str) else f"{v:.3f}" for v in row) for row in table.itertuples(index=False)
        ]
        text = "".join(f"| {line} |\n" for line in lines)
    else:
        text = as_markdown(score_patients(cases, names, arguments.window, arguments.tta))
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
