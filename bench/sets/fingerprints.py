"""Distances between fingerprints of images.

One image stored in other ways is set against the nearest other patient.

    python -m bench.sets.fingerprints DATA [--sets NAME ...] [--output FILE]

DATA holds one folder a set. Every image of every patient is compared with all others; of the sets that are not LGG,
and of every tenth LGG patient, the image is also stored in other ways in memory: reversed, its axes in another order,
as 8 bits, as float16, multiplied and shifted, z-scored with a background of 0 and with another, cut to the brain, and
(for information) at half the resolution. See pipeline.fingerprint, whose tolerance was chosen by this.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from data.find.discover import discover_cases
from data.io.read import read_volumes
from data.same_patient import known_as
from pipeline.fingerprint import SAME, distance, distances, fingerprint
from pipeline.provenance import PRINTED
from pipeline.score.tables import write_table

SETS = ("brats", "brats_2013", "brats2023_unlabelled", "tcga_raw", "open_ms_data/MNI", "lgg/kaggle_3m")


def stored_otherwise(image: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Return the same image stored in other ways, each with its name.

    (d1, d2, d3) float32 in and out, axes and shape may differ.
    """
    low, high = float(image.min()), float(image.max())
    background = image[0, 0, 0]
    brain = image != background
    yield "reversed", image[::-1, ::-1, ::-1]
    yield "one axis reversed", image[::-1]
    yield "axes in another order", image.transpose(2, 0, 1)
    yield "8 bits", np.round((image - low) / (high - low) * 255).astype(np.uint8)
    yield "float16", ((image - low) / (high - low)).astype(np.float16)
    yield "times 3.7 + 100", image * np.float32(3.7) + 100
    yield "z-scored, background not 0", (image - image.mean()) / image.std()
    if brain.mean() < 0.8:
        yield "z-scored, background 0", np.where(brain, (image - image[brain].mean()) / image[brain].std(), 0)
        sides = [np.flatnonzero(brain.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
        yield "cut to the brain", image[tuple(slice(side[0], side[-1] + 1) for side in sides)]
    if min(image.shape) > 60:
        even = image[tuple(slice(0, n // 2 * 2) for n in image.shape)]
        halves = even.reshape(*(part for n in even.shape for part in (n // 2, 2)))
        yield "half the resolution", halves.mean(axis=(1, 3, 5))


def measure(root: Path, sets: tuple[str, ...]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Distances of images to themselves stored otherwise, and of all pairs of patients.

    Returns
    -------
    own : columns set, case, modality, stored, distance
    pairs : columns case, other, same, flair, t1, t1c, t2, mean
        ``same``: the two names are known to be one patient's.
    """
    own: list[dict[str, object]] = []
    prints: dict[str, dict[str, str]] = {}
    for name in sets:
        for number, case in enumerate(discover_cases(root / name)):
            prints[f"{name}/{case.case_id}"] = found = {}
            for modality, volume in read_volumes(case.images).items():
                image = volume.grid.turn(volume.array, "RAS").astype(np.float32)
                found[modality] = fingerprint(image)
                if name.startswith("lgg") and number % 10:
                    continue
                for how, other in stored_otherwise(image):
                    apart = distance(found[modality], fingerprint(other))
                    row = {"set": name, "case": case.case_id, "modality": modality, "stored": how, "distance": apart}
                    own.append(row)
        sys.stderr.write(f"{name} read\n")
    pairs = []
    for (first, ours), (second, theirs) in combinations(prints.items(), 2):
        same = known_as(first.rpartition("/")[2]) == known_as(second.rpartition("/")[2])
        single = {m: distance(ours[m], theirs[m]) for m in ours if m in theirs}
        pairs.append(
            {
                "case": first,
                "other": second,
                "same": same,
                **single,
                "mean": distances(first_two(ours), first_two(theirs)),
            }
        )
    return pd.DataFrame(own), pd.DataFrame(pairs)


def first_two(prints: dict[str, str]) -> dict[str, str]:
    """Return the fingerprints that a card would hold."""
    return {m: prints[m] for m in [m for m in PRINTED if m in prints][:2]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    own, pairs = measure(arguments.data, tuple(arguments.sets))
    if arguments.output is not None:
        write_table(arguments.output, pairs)
    columns = [name for name in ("flair", "t1", "t1c", "t2", "mean") if name in pairs]
    sys.stdout.write(f"the same image, stored in another way: largest distance (the same up to {SAME})\n")
    sys.stdout.write(own.pivot_table("distance", "stored", "set", "max").round(3).to_string() + "\n\n")
    sys.stdout.write("mean:\n" + own.groupby("stored")["distance"].mean().round(4).to_string() + "\n\n")
    strangers = pairs[~pairs["same"]]
    sys.stdout.write(f"{len(strangers)} pairs of different patients, by modality\n")
    sys.stdout.write(strangers[columns].describe().loc[["count", "min", "50%"]].round(3).to_string() + "\n\n")
    sys.stdout.write("nearest pairs\n" + pairs.nsmallest(12, "mean").round(3).to_string(index=False) + "\n\n")
    sys.stdout.write("known to be one patient\n" + pairs[pairs["same"]].round(3).to_string(index=False) + "\n")


if __name__ == "__main__":
    main()
