"""Scores of models on whole slices of patients that are set aside.

They go through the same Predictor as the user's.

    python -m bench.slices SLICES --split FILE --model NAME ... [--output FILE]

SLICES is the folder of the slices (pipeline.training.sources.slice_files), FILE a split with the list ``set_aside``
(bench.sides). Other than the lesions of bench.cubes they show a tumour among normal brain, and tumours of every size;
but a slice stands alone here: it is shown as its own neighbour, in a slab of `THICKNESS` slices, and its middle one is
scored. No component is removed. Dice is the mean over the patients, of each the mean of the slices that have the
region. A model that has learnt from one of the patients is refused, see bench.heldout; --seen scores it all the same.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from bench.cubes import refuse_seen
from data.case import Case, ImageSource
from data.errors import SegmentationError
from data.same_patient import known_as
from pipeline.checkpoint import Checkpoint, open_checkpoint
from pipeline.config import PreprocessConfig
from pipeline.predict.predictor import Predictor
from pipeline.score.metrics import dice
from pipeline.score.tables import write_table
from pipeline.training.sources.slice_files import SLICE_CHANNELS, SLICE_REGIONS, read_slice_file, slice_files
from pipeline.training.splits import read_split

THICKNESS = 9
"""Slices of 1 mm: as far as any network of ours looks to the sides."""


def slices_of(folder: Path, patients: Collection[str]) -> list[Path]:
    """Return the slices of some patients, under any of their names."""
    wanted = {known_as(name) for name in patients}
    return [path for path in slice_files(folder, SLICE_CHANNELS) if known_as(path.stem) in wanted]


def score_slices(checkpoint: Checkpoint, files: Sequence[Path]) -> pd.DataFrame:
    """Score each slice, one row each.

    ``slice``, ``patient`` and Dice of each region, NaN where the reference has none of it.
    """
    settings = {**checkpoint.settings, "postprocess": {"threshold": checkpoint.config.postprocess.threshold}}
    predictor = Predictor(replace(checkpoint, settings=settings), "cpu")
    return pd.DataFrame([_scores(predictor, path) for path in files])


def mean_dice(rows: pd.DataFrame) -> dict[str, float]:
    """Return the mean Dice of each region over the patients.

    A patient counts with the mean of its slices; a slice without the region does not count.
    """
    of_patients = rows.groupby("patient").mean(numeric_only=True)
    return {str(region): float(value) for region, value in of_patients.mean().items()}


def _scores(predictor: Predictor, path: Path) -> dict[str, str | float]:
    with _as_case(path) as (case, truth):
        masks = predictor(case).masks
    row: dict[str, str | float] = {"slice": path.stem, "patient": known_as(path.stem)}
    for region in predictor.regions:
        mask = truth[SLICE_REGIONS.index(region)]
        row[region] = dice(masks[region][..., THICKNESS // 2], mask) if mask.any() else float("nan")
    return row


@contextmanager
def _as_case(path: Path) -> Iterator[tuple[Case, np.ndarray]]:
    """Write the slab as a patient's files, for the time of the block.

    The slice's masks (regions, rows, columns) come with them.
    """
    images, shares = read_slice_file(path, SLICE_CHANNELS, SLICE_REGIONS, PreprocessConfig(spacing_mm=(1.0, 1.0, 1.0)))
    with tempfile.TemporaryDirectory(prefix="slice-") as name:
        sources = {m: ImageSource((Path(name) / f"{m}.nii",)) for m in SLICE_CHANNELS}
        for source, image in zip(sources.values(), images.numpy(), strict=True):
            # At 1 mm from the left, the posterior and the inferior side, the working grid of every recipe.
            nib.save(nib.Nifti1Image(np.repeat(image, THICKNESS, axis=-1), np.eye(4)), source.paths[0])
        yield (
            Case(
                case_id=path.stem,
                folder=Path(name),
                layout="slice",
                layout_reason="one slice of BraTS 2020",
                images=sources,
                reference=None,
            ),
            shares[..., 0].numpy() > 0.5,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slices", type=Path)
    parser.add_argument("--split", type=Path, required=True)
    parser.add_argument("--model", nargs="+", required=True)
    parser.add_argument("--seen", action="store_true")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    try:
        files = slices_of(arguments.slices, read_split(arguments.split).set_aside)
        models = [open_checkpoint(name) for name in arguments.model]
        if not arguments.seen:
            refuse_seen(models, {path.stem: known_as(path.stem) for path in files}, "slices")
        tables = [score_slices(model, files).assign(model=model.name) for model in models]
    except SegmentationError as error:
        parser.error(str(error))
    if arguments.output is not None:
        write_table(arguments.output, pd.concat(tables, ignore_index=True))
    sys.stdout.write("| model | patients | slices | WT | TC | ET |\n" + "|---" * 6 + "|\n")
    for model, rows in zip(models, tables, strict=True):
        mean = mean_dice(rows)
        cells = " | ".join(f"{mean[region]:.3f}" if region in mean else "" for region in SLICE_REGIONS)
        sys.stdout.write(f"| {model.name} | {rows['patient'].nunique()} | {len(rows)} | {cells} |\n")


if __name__ == "__main__":
    main()
