"""Scores of models on metastases of patients that are set aside.

They go through the same Predictor as the user's.

    python -m bench.quality.metastases SLICES --split FILE --model NAME ... [--output FILE]

SLICES is the folder of the T1c slices (pipeline.training.sources.lesion_slices), FILE a split with the list
``set_aside`` (bench.sides). A slice is shown as its own neighbour, in a slab of `THICKNESS` slices, and its middle one
is scored; the other modalities are not there. Each slice marks one lesion, and others may be unmarked, so that

- a lesion is found where the mask (tumour core) has a voxel of it;
- Dice is that of the voxels within `MARGIN_MM` of the lesion, of lesions that are found, the mean over the patients;
- false is the number of other components a slice of `LARGE_MM2` or more, an upper bound: an unmarked lesion is one.

Large lesions are those of the area that a ball of .1 ml has through its middle. A model that has learnt from one of the
patients is refused, see bench.heldout; --seen scores it all the same.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.ndimage as ndi
from numpy.typing import NDArray

from bench.cubes import refuse_seen
from bench.slices import THICKNESS
from data.errors import SegmentationError
from pipeline.checkpoint import Checkpoint, open_checkpoint
from pipeline.predict.predictor import Predictor
from pipeline.score.metrics import dice
from pipeline.score.tables import write_table
from pipeline.training.sources.lesion_slices import LESION_PIXEL_MM, LESION_SIDE, MARGIN_MM, lesion_pairs
from pipeline.training.sources.pictures import PICTURE_MODALITY, read_pair
from pipeline.training.splits import read_split

REGION = "TC"
LARGE_MM2 = math.pi * (3 * 100 / (4 * math.pi)) ** (2 / 3)
"""Area through the middle of a ball of .1 ml, 26 mm2."""
_TOUCHING = np.ones((3, 3), bool)


def compare(mask: NDArray[np.bool_], lesion: NDArray[np.bool_], pixel_mm: float) -> dict[str, float]:
    """Compare a slice's mask with the one lesion marked on it.

    Parameters
    ----------
    mask, lesion : (rows, columns) bool
        The lesion has at least one pixel; the mask may be empty.
    pixel_mm : float
        Side of a pixel.

    Returns
    -------
    dict
        ``area_mm2`` of the lesion; ``found``, 1 or 0; ``dice`` near the lesion; ``false``, components of the mask of at
        least `LARGE_MM2` without a pixel of the lesion.
    """
    near = ndi.distance_transform_edt(~lesion) * pixel_mm <= MARGIN_MM
    components, count = ndi.label(mask, _TOUCHING)
    sizes = np.bincount(components.ravel(), minlength=count + 1)[1:] * pixel_mm**2
    hit = np.unique(components[lesion & mask]) - 1
    others = np.delete(sizes, hit)
    return {
        "area_mm2": float(lesion.sum()) * pixel_mm**2,
        "found": float((mask & lesion).any()),
        "dice": dice(mask & near, lesion),
        "false": float((others >= LARGE_MM2).sum()),
    }


def score_metastases(checkpoint: Checkpoint, pairs: Mapping[str, tuple[str, Path, Path]]) -> pd.DataFrame:
    """Score each slice, one row each: ``slice``, ``patient`` and the columns of `compare`.

    Parameters
    ----------
    checkpoint : Checkpoint
        Sees T1c; other modalities that it asks for are zeros.
    pairs : mapping of str to (patient, picture, mask)
        By slice name, as `lesion_pairs` gives them.
    """
    predictor = Predictor(checkpoint, "cpu", zero_missing=True)
    rows = []
    for name, (patient, picture, marked) in pairs.items():
        pixels, lesion = read_pair(picture, marked, LESION_SIDE)
        mask = _segment(predictor, name, pixels)
        rows.append({"slice": name, "patient": patient, **compare(mask, lesion & (pixels > 0), LESION_PIXEL_MM)})
    return pd.DataFrame(rows)


def summarise(rows: pd.DataFrame) -> dict[str, float]:
    """Return patients, lesions, shares found, Dice of found lesions, false components a slice."""
    found, large = rows[rows["found"] > 0], rows[rows["area_mm2"] >= LARGE_MM2]
    return {
        "patients": rows["patient"].nunique(),
        "lesions": len(rows),
        "found": rows["found"].mean(),
        "large": len(large),
        "large_found": large["found"].mean(),
        "dice": found.groupby("patient")["dice"].mean().mean(),
        "false": rows["false"].mean(),
    }


def _segment(predictor: Predictor, name: str, pixels: NDArray[np.float32]) -> NDArray[np.bool_]:
    slab = np.repeat(pixels[..., None], THICKNESS, axis=-1)
    # Rows run to the left and columns to the posterior.
    affine = np.diag([-LESION_PIXEL_MM, -LESION_PIXEL_MM, 1, 1])
    return predictor({PICTURE_MODALITY: slab}, affine=affine, name=name).masks[REGION][..., THICKNESS // 2]


def as_markdown(models: Sequence[str], tables: Sequence[pd.DataFrame]) -> str:
    """Write a line for each model."""
    head = "| model | patients | lesions | found | of .1 ml or more | found | Dice | false a slice |\n"
    lines = [head + "|---" * 8 + "|\n"]
    for name, rows in zip(models, tables, strict=True):
        of = summarise(rows)
        lines.append(
            f"| {name} | {of['patients']} | {of['lesions']} | {of['found']:.3f} | {of['large']} "
            f"| {of['large_found']:.3f} | {of['dice']:.3f} | {of['false']:.2f} |\n"
        )
    return "".join(lines)


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
        aside = set(read_split(arguments.split).set_aside)
        pairs = {name: pair for name, pair in lesion_pairs(arguments.slices).items() if pair[0] in aside}
        if not pairs:
            parser.error(f"{arguments.split}: none of the patients in {arguments.slices} is set aside; see bench.sides")
        models = [open_checkpoint(name) for name in arguments.model]
        if not arguments.seen:
            refuse_seen(models, {name: patient for name, (patient, _, _) in pairs.items()}, "slices")
        tables = [score_metastases(model, pairs).assign(model=model.name) for model in models]
    except SegmentationError as error:
        parser.error(str(error))
    if arguments.output is not None:
        write_table(arguments.output, pd.concat(tables, ignore_index=True))
    sys.stdout.write(as_markdown([model.name for model in models], tables))


if __name__ == "__main__":
    main()
