"""Effect of the two watersheds on patients that a model has not seen.

They are the drawn border, and the number of lesions.

    python -m bench.quality.watershed PATIENTS --cases ID ... [--model NAME] [--output FILE]

First table: Dice and HD95 of the model's masks, and with the whole tumour's border moved onto the edges of FLAIR
(``postprocess.watershed``). Second table: lesions of at least 10 voxels, as components and after splitting.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.heldout import as_markdown, reference_of
from data.case import Case
from data.find.discover import discover_cases
from pipeline.config import RunConfig
from pipeline.predict.predictor import Predictor, region_masks
from pipeline.score.case import score_case
from transforms.postprocess import label_components
from transforms.watershed import split_touching

LEAST_VOXELS = 10
"""Smaller components of a reference are specks of the annotation, not lesions."""


def score_patients(cases: list[Case], predictor: Predictor) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score each system on each patient; count lesions.

    Scores have a row for each system and patient, lesions one for each patient and region.
    """
    scores: list[dict[str, object]] = []
    lesions: list[dict[str, object]] = []
    for case in cases:
        reference, grid = reference_of(case)
        result = predictor(case)
        flair = result.background if "flair" in predictor.modalities else None
        for name, watershed in ((predictor.name, False), ("+ watershed", True)):
            config = _with_watershed(predictor.configs[0], watershed)
            masks = region_masks(config, result.probabilities, result.native.grid, flair)
            scores.append({"system": name, "case": case.case_id, **score_case(masks, reference, grid)})
        for region, truth in reference.items():
            mask, probability = result.masks[region], result.probabilities[region]
            counts = {
                "reference": label_components(truth),
                "reference, split": split_touching(truth, grid.spacing_mm),
                "model": label_components(mask),
                "model, split by shape": split_touching(mask, grid.spacing_mm),
                "model, split by shape and probability": split_touching(mask, grid.spacing_mm, probability),
            }
            lesions.append(
                {"patient": case.case_id, "region": region} | {k: _lesions(labels) for k, labels in counts.items()}
            )
    return pd.DataFrame(scores), pd.DataFrame(lesions)


def _with_watershed(config: RunConfig, watershed: bool) -> RunConfig:
    return config.model_copy(update={"postprocess": config.postprocess.model_copy(update={"watershed": watershed})})


def _lesions(labels: NDArray[np.integer]) -> int:
    return int((np.bincount(labels[labels > 0]) >= LEAST_VOXELS).sum())


def lesions_as_markdown(lesions: pd.DataFrame) -> str:
    """Write a row for each patient and region, and the sums over the patients."""
    sums = lesions.groupby("region", sort=False).sum(numeric_only=True).reset_index()
    sums.insert(0, "patient", f"**sum of {lesions['patient'].nunique()}**")
    lines = ["| " + " | ".join(lesions.columns) + " |", "|---" * lesions.shape[1] + "|"]
    for table in (lesions, sums):
        lines += ["| " + " | ".join(map(str, row)) + " |" for row in table.itertuples(index=False)]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patients", type=Path)
    parser.add_argument("--cases", nargs="+", required=True)
    parser.add_argument("--model", default="brats-unet-plus-plus-2d")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    cases = [case for case in discover_cases(arguments.patients) if case.case_id in arguments.cases]
    if unknown := set(arguments.cases) - {case.case_id for case in cases}:
        parser.error(f"no patient {', '.join(sorted(unknown))} in {arguments.patients}")
    scores, lesions = score_patients(cases, Predictor(arguments.model, "cpu"))
    text = as_markdown(scores) + "\n" + lesions_as_markdown(lesions)
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
