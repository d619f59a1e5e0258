"""Is a prediction uncertain where it is wrong? The uncertainty map and the disagreement against the references.

    python -m bench.uncertainty PATIENTS --model NAME_OR_FILE ... [--tta] [--cases ID ...] [--output FILE]
    python -m bench.uncertainty PATIENTS --fold-runs FOLDER ... [--tta] [--cases ID ...] [--output FILE]

With --fold-runs each patient is segmented by the models that have not seen it: FOLDER/fold-I/last.safetensors of every
FOLDER that bench.folds has written. With --model the models may have seen the patients, which flatters them.

Per patient and region, the area under the ROC curve (AUC) of the uncertainty, the standard deviation over the members,
for telling the voxels that the mask gets wrong from those that it gets right: 0.5 is chance, 1 every wrong voxel above
every right one. Once over the neighbourhood, all voxels within 10 mm of the prediction or the reference, and once over
the brain, the voxels that the background image is not 0 in, where the far and certain background makes it easy. A
region without a wrong voxel, or without a right one, has no AUC. Then Spearman's correlation over the patients of the
disagreement of a region with its Dice (negative where disagreement foretells a bad mask).
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import rankdata, spearmanr

from data.case import Case, same_patients
from data.errors import UsageError
from data.find.discover import discover_cases
from data.find.recognise import choose_conventions
from data.grid import Grid
from data.io.read import read_label_map
from data.labels import Mask, load_convention
from pipeline.predict.predictor import Predictor, Segmentation
from pipeline.score.metrics import dice
from pipeline.score.tables import write_table
from pipeline.training.splits import fold_split
from transforms.postprocess import bounding_box

NEIGHBOURHOOD_MM = 10.0


def area_under_curve(score: NDArray[np.floating], positive: Mask) -> float:
    """Return the probability that a positive has a higher score than a negative.

    A tie is counted half: the Mann-Whitney statistic.

    Parameters
    ----------
    score, positive : (n,)
        Without a positive or without a negative: NaN.
    """
    n_positive = int(positive.sum())
    n_negative = positive.size - n_positive
    if not n_positive or not n_negative:
        return float("nan")
    ranks = rankdata(score)
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def neighbourhood(mask: Mask, grid: Grid, radius_mm: float = NEIGHBOURHOOD_MM) -> Mask:
    """Return the voxels with a centre within ``radius_mm`` of the mask.

    None for an empty mask.

    Where the voxel size is unknown the radius is in voxels.
    """
    near = np.zeros_like(mask)
    if mask.any():
        spacing = grid.spacing_mm if grid.spacing_known else (1.0, 1.0, 1.0)
        box = bounding_box(mask, margin=int(np.ceil(radius_mm / min(spacing))))
        near[box] = ndimage.distance_transform_edt(~mask[box], sampling=spacing) <= radius_mm
    return near


def score_uncertainty(result: Segmentation, truth: dict[str, Mask]) -> list[dict[str, Any]]:
    """Score each region that both have, one row each.

    A row has the two AUC, the disagreement and the Dice of one patient.
    """
    if result.uncertainty is None or result.disagreement is None:
        raise UsageError("one model in one pass has no uncertainty; add --tta, or name several models")
    brain = result.background != 0
    rows: list[dict[str, Any]] = []
    for region in (region for region in truth if region in result.masks):
        mask, reference, score = result.masks[region], truth[region], result.uncertainty[region]
        near = neighbourhood(mask | reference, result.native.grid)
        wrong = mask != reference
        rows.append(
            {
                "region": region,
                "auc_near": area_under_curve(score[near], wrong[near]),
                "auc_brain": area_under_curve(score[brain], wrong[brain]),
                "disagreement": result.disagreement[region],
                "dice": dice(mask, reference),
            }
        )
    return rows


def summarise_uncertainty(rows: pd.DataFrame) -> pd.DataFrame:
    """Summarise the rows per region.

    Given are the mean AUC over the patients that have one, their number, and Spearman's correlation over all.
    """
    summary = []
    for region, own in rows.groupby("region", sort=False):
        varied = len(own) > 2 and own["disagreement"].nunique() > 1 and own["dice"].nunique() > 1
        correlation = spearmanr(own["disagreement"], own["dice"]) if varied else (np.nan, np.nan)
        summary.append(
            {
                "region": region,
                "patients": len(own),
                "with_auc": int(own["auc_near"].notna().sum()),
                "auc_near": own["auc_near"].mean(),
                "auc_near_min": own["auc_near"].min(),
                "auc_brain": own["auc_brain"].mean(),
                "disagreement": own["disagreement"].mean(),
                "dice": own["dice"].mean(),
                "spearman": float(correlation[0]),
                "spearman_p": float(correlation[1]),
            }
        )
    return pd.DataFrame(summary)


def reference_masks(case: Case, grid: Grid) -> dict[str, Mask]:
    """Read the reference of one case, which lies on ``grid``.

    Its convention is the one that its evidence speaks for.
    """
    if case.reference is None:
        raise UsageError(f"{case.case_id} has no reference to compare with; leave it out with --cases")
    choices = choose_conventions([case])
    truth = read_label_map(case.reference)
    if not truth.grid.matches(grid):
        raise UsageError(
            f"{case.case_id}: its reference lies on another grid than its images; leave it out with --cases"
        )
    return load_convention(str(choices[case.case_id].name)).region_masks(truth.array)


def fold_models(cases: Sequence[Case], runs: Sequence[Path]) -> Iterator[tuple[list[str], list[Case]]]:
    """Return the models of each fold and the patients that they have not seen.

    A fold has one model of every run.
    """
    folds = len(list(runs[0].glob("fold-*/last.safetensors")))
    if not folds:
        raise UsageError(f"{runs[0]} holds no fold-0/last.safetensors; give a folder that bench.folds has written")
    for fold in range(folds):
        unseen = set(fold_split([case.case_id for case in cases], folds, fold, same_patients(cases)).validation)
        models = [str(run / f"fold-{fold}" / "last.safetensors") for run in runs]
        yield models, [case for case in cases if case.case_id in unseen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patients", type=Path)
    models = parser.add_mutually_exclusive_group(required=True)
    models.add_argument("--model", nargs="+")
    models.add_argument("--fold-runs", nargs="+", type=Path)
    parser.add_argument("--tta", action="store_true")
    parser.add_argument("--cases", nargs="*")
    parser.add_argument("--leave-out", nargs="*", default=[], help="patients that the folds were made without")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, help="CSV file for the rows of the patients")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    cases = [case for case in discover_cases(arguments.patients) if case.case_id not in arguments.leave_out]
    # The folds are drawn from all patients; --cases only chooses whom to look at.
    parts = fold_models(cases, arguments.fold_runs) if arguments.fold_runs else [(arguments.model, cases)]
    rows = []
    for names, of_part in parts:
        predictor = Predictor(names, arguments.device, tta=arguments.tta)
        for case in of_part:
            if arguments.cases and case.case_id not in arguments.cases:
                continue
            result = predictor(case)
            scored = score_uncertainty(result, reference_masks(case, result.native.grid))
            rows += [{"case": case.case_id, "model": predictor.name} | row for row in scored]
    if not rows:
        raise UsageError("no patient is left to look at; check --cases")
    table = pd.DataFrame(rows)
    if arguments.output:
        write_table(arguments.output, table)
    sys.stdout.write(table.round(3).to_string(index=False) + "\n\n")
    sys.stdout.write(summarise_uncertainty(table).round(3).to_string(index=False) + "\n")


if __name__ == "__main__":
    main()
