"""Cross-validation: a model a fold, and masks of the patients not seen.

    python -m bench.folds PATIENTS --recipe NAME --output FOLDER [--folds 3] [--minutes M] [--init MODEL]
        [--extra FOLDER ...] [--leave-out CASE ...] [--cache FOLDER] [--missing] [--score-only]

FOLDER/fold-I holds each run, FOLDER/fold-I/masks the out-of-fold masks with their report, FOLDER/scores.csv a row for
each patient. A stopped run goes on where it was. The baseline of one line stands in the same table: FLAIR z-scored over
its non-zero voxels, above 1, the largest component. With --missing: also with each modality left out in turn.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from pathlib import Path

import pandas as pd

from bench.heldout import as_markdown, score_missing, score_patients
from data.case import Case, same_patients
from data.find.discover import discover_cases
from pipeline.options import SegmentOptions, TrainOptions
from pipeline.score.tables import write_table
from pipeline.segment.run import segment_cases
from pipeline.training.run import run_training
from pipeline.training.splits import fold_split


def train_fold(patients: Path, recipe: str, output: Path, folds: int, fold: int, arguments: argparse.Namespace) -> Path:
    """Train the model of one fold to its last epoch.

    The held-back patients have chosen nothing. What is there is kept.
    """
    folder = output / f"fold-{fold}"
    options = TrainOptions(
        device=arguments.device,
        folds=folds,
        fold=fold,
        extra=arguments.extra,
        leave_out=arguments.leave_out,
        init=arguments.init,
        resume=True,
        cache=arguments.cache or output / "cache",
        minutes=arguments.minutes,
        command="python -m bench.folds " + shlex.join(sys.argv[1:]),
    )
    run_training(patients, recipe, folder, options)
    return folder / "last.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("patients", type=Path)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--init")
    parser.add_argument("--extra", nargs="*", type=Path, default=[])
    parser.add_argument("--leave-out", nargs="*", default=[])
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--missing", action="store_true")
    parser.add_argument("--score-only", action="store_true")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("pipeline").setLevel(logging.INFO)
    cases = [case for case in discover_cases(arguments.patients) if case.case_id not in arguments.leave_out]
    scores, missing = [], []
    for fold in range(arguments.folds):
        held_back = _held_back(cases, arguments.folds, fold)
        model = arguments.output / f"fold-{fold}" / "last.safetensors"
        if not arguments.score_only:
            model = train_fold(arguments.patients, arguments.recipe, arguments.output, arguments.folds, fold, arguments)
        segment_cases(held_back, model.parent / "masks", SegmentOptions(models=(str(model),), device=arguments.device))
        rows = score_patients(held_back, [str(model)])
        rows["system"] = rows["system"].replace({str(model): arguments.recipe})
        scores.append(rows.assign(fold=fold))
        if arguments.missing:
            missing.append(score_missing(held_back, [str(model)]).assign(model=arguments.recipe, fold=fold))
    table = pd.concat(scores).sort_values(["system", "case"], ignore_index=True)
    write_table(arguments.output / "scores.csv", table)
    sys.stdout.write(as_markdown(table))
    if missing:
        means = pd.concat(missing).drop(columns="fold").groupby("model").mean()
        sys.stdout.write("\nDice of the whole tumour, a modality left out:\n\n" + means.round(3).to_string() + "\n")


def _held_back(cases: list[Case], folds: int, fold: int) -> list[Case]:
    names = set(fold_split([case.case_id for case in cases], folds, fold, same_patients(cases)).validation)
    return [case for case in cases if case.case_id in names]


if __name__ == "__main__":
    main()
