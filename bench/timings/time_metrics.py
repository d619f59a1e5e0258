"""CPU time of Dice, HD95 and NSD of one patient, ours beside others'.

All run in one process, with the values side by side.

    python -m bench.timings.time_metrics [PATIENTS] [--case ID] [--runs N]

Three regions of the first patient with a reference (without PATIENTS: of a phantom, 240x240x155) against its own
masks grown by a voxel, moved by a voxel along two axes, and with a ball of false positives far away. One thread.
Masks are in memory in each library's own type before the clock starts. Absolute figures belong to the machine and its
other work; the ratios are what to read.

DeepMind's row needs `pip install surface-distance-based-measures`, which is no dependency of ours; without it, the row
is left out, and said so. Not one of the libraries has all three scores under one definition: the table says which.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import SimpleITK as sitk
import torch
from scipy import ndimage

from bench.heldout import reference_of
from data.find.discover import discover_cases
from data.grid import Grid
from data.labels import Mask, load_convention
from data.phantom.patient import make_phantom
from pipeline.score.metrics import region_scores

TOLERANCE_MM = 1.0
ANISOTROPIC_MM = (0.5, 1.25, 3.0)
SCORES = ("dice", "hd95_mm", "hd_mm", "nsd")
DEEPMIND = "surface_distance"

T = TypeVar("T")
Masks = Mapping[str, Mask]
Scores = dict[str, list[float]]
"""Score -> one value a region; a score that a library does not have is missing."""
Results = list[tuple["System", float, Scores]]
"""System, median CPU seconds, scores."""


@dataclass(frozen=True)
class System:
    name: str
    surface: str
    """What its surface, its HD95 and its NSD are."""
    prepare: Callable[[Masks, Masks, tuple[float, ...]], Callable[[], Scores]]
    """Puts the masks into the library's own type, untimed, and gives what is timed."""


def ours(prediction: Masks, reference: Masks, spacing: tuple[float, ...]) -> Callable[[], Scores]:
    def run() -> Scores:
        found = [region_scores(prediction[r], reference[r], spacing, tolerance_mm=TOLERANCE_MM) for r in reference]
        return {name: [scores[name] for scores in found] for name in SCORES}

    return run


def monai_metrics(prediction: Masks, reference: Masks, spacing: tuple[float, ...]) -> Callable[[], Scores]:
    from monai.metrics import DiceMetric, HausdorffDistanceMetric, SurfaceDiceMetric

    pair = [torch.from_numpy(np.stack([m[r] for r in reference])[None]).float() for m in (prediction, reference)]

    def run() -> Scores:
        dice = DiceMetric(include_background=True)(*pair)
        hd95 = HausdorffDistanceMetric(include_background=True, percentile=95)(*pair, spacing=spacing)
        nsd = SurfaceDiceMetric([TOLERANCE_MM] * len(reference), include_background=True)(*pair, spacing=spacing)
        found = {"dice": dice, "hd95_mm": hd95, "nsd": nsd}
        return {name: np.asarray(values[0]).tolist() for name, values in found.items()}

    return run


def full_volume_edt(prediction: Masks, reference: Masks, spacing: tuple[float, ...]) -> Callable[[], Scores]:
    """Compute HD95 MedPy's way (medpy.metric.binary 0.5, hd95).

    It takes erosion and distance transform of the whole volume, both directions pooled. Its NSD, which MedPy does not
    have, is ours to take from the same distances.
    """

    def distances(of: Mask, to: Mask) -> np.ndarray:
        cross = ndimage.generate_binary_structure(of.ndim, 1)
        of_border, to_border = (mask ^ ndimage.binary_erosion(mask, structure=cross) for mask in (of, to))
        return ndimage.distance_transform_edt(~to_border, sampling=spacing)[of_border]

    def one(first: Mask, second: Mask) -> tuple[float, ...]:
        both = np.hstack([distances(first, second), distances(second, first)])
        dice = 2.0 * np.count_nonzero(first & second) / (np.count_nonzero(first) + np.count_nonzero(second))
        return dice, float(np.percentile(both, 95)), float(both.max()), float((both <= TOLERANCE_MM).mean())

    def run() -> Scores:
        return _by_score([one(prediction[r], reference[r]) for r in reference])

    return run


def deepmind(prediction: Masks, reference: Masks, spacing: tuple[float, ...]) -> Callable[[], Scores]:
    library = importlib.import_module(DEEPMIND)

    def one(first: Mask, second: Mask) -> tuple[float, ...]:
        surfaces = library.compute_surface_distances(second, first, spacing)
        return (
            library.compute_dice_coefficient(second, first),
            library.compute_robust_hausdorff(surfaces, 95),
            library.compute_robust_hausdorff(surfaces, 100),
            library.compute_surface_dice_at_tolerance(surfaces, TOLERANCE_MM),
        )

    def run() -> Scores:
        return _by_score([one(prediction[r], reference[r]) for r in reference])

    return run


def simpleitk_maurer(prediction: Masks, reference: Masks, spacing: tuple[float, ...]) -> Callable[[], Scores]:
    """Compute HD95 by the recipe of SimpleITK's own notebook on evaluation.

    Maurer's distance map sampled on the other's contour.
    """
    pairs = _sitk_pairs(prediction, reference, spacing)

    def one(first: sitk.Image, second: sitk.Image) -> tuple[float, ...]:
        overlap = sitk.LabelOverlapMeasuresImageFilter()
        overlap.Execute(second, first)
        directed = []
        for of, to in ((first, second), (second, first)):
            distance = sitk.Abs(sitk.SignedMaurerDistanceMap(to, squaredDistance=False, useImageSpacing=True))
            contour = sitk.GetArrayFromImage(sitk.LabelContour(of)) > 0
            directed.append(sitk.GetArrayFromImage(distance)[contour])
        hd95 = max(float(np.percentile(d, 95)) for d in directed)
        both = np.concatenate(directed)
        return overlap.GetDiceCoefficient(), hd95, float(both.max()), float((both <= TOLERANCE_MM).mean())

    def run() -> Scores:
        return _by_score([one(*pair) for pair in pairs])

    return run


def simpleitk_hausdorff(prediction: Masks, reference: Masks, spacing: tuple[float, ...]) -> Callable[[], Scores]:
    pairs = _sitk_pairs(prediction, reference, spacing)

    def run() -> Scores:
        found = []
        for pair in pairs:
            hausdorff = sitk.HausdorffDistanceImageFilter()
            hausdorff.Execute(*pair)
            found.append(hausdorff.GetHausdorffDistance())
        return {"hd_mm": found}

    return run


def _sitk_pairs(prediction: Masks, reference: Masks, spacing: tuple[float, ...]) -> list[tuple[sitk.Image, sitk.Image]]:
    def image(mask: Mask) -> sitk.Image:
        converted = sitk.GetImageFromArray(np.ascontiguousarray(mask.T).astype(np.uint8))
        converted.SetSpacing(spacing)
        return converted

    return [(image(prediction[region]), image(reference[region])) for region in reference]


def _by_score(rows: list[tuple[float, ...]]) -> Scores:
    return {name: [row[k] for row in rows] for k, name in enumerate(SCORES)}


OURS = System(
    "ours, `region_scores` (all of STANDARD)", "boundary voxels by faces; larger direction; share of voxels", ours
)
MONAI = System("MONAI, DiceMetric + HausdorffDistanceMetric + SurfaceDiceMetric", "as ours", monai_metrics)
OTHERS = (
    System("MedPy's way, EDT of the full volume", "as ours; HD95 of both directions pooled", full_volume_edt),
    System("DeepMind surface-distance", "surface elements between voxels, weighted by area", deepmind),
    System(
        "SimpleITK, LabelOverlapMeasures + SignedMaurerDistanceMap",
        "boundary voxels by faces to the other's by faces, edges and corners; larger direction; share of voxels",
        simpleitk_maurer,
    ),
    System("SimpleITK, HausdorffDistance alone", "all voxels of the masks, no surface; HD only", simpleitk_hausdorff),
)


def grown_moved_and_spotted(mask: Mask) -> Mask:
    """Make a plausible bad prediction of a mask.

    It is near everywhere, equal nowhere, with a ball of false positives.
    """
    moved = np.roll(ndimage.binary_dilation(mask), (1, 1), axis=(0, 1))
    x, y, z = np.ogrid[tuple(map(slice, mask.shape))]
    a, b, c = (length // 4 for length in mask.shape)
    return np.asfortranarray(moved | ((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2 <= 16))


def load_reference(patients: Path | None, case_id: str | None) -> tuple[str, dict[str, Mask], Grid]:
    """Read the reference masks of one patient of a folder, or of a phantom."""
    if patients is None:
        phantom = make_phantom(0)
        masks = load_convention("brats2023").region_masks(phantom.label_map, ("WT", "TC", "ET"))
        return "a phantom", masks, phantom.grid
    for case in discover_cases(patients):
        if case.reference is not None and case_id in (None, case.case_id):
            return (case.case_id, *reference_of(case))
    raise SystemExit(f"{patients} has no patient with a reference" + (f" called {case_id}" if case_id else ""))


def timed(work: Callable[[], T]) -> tuple[float, T]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def compare(
    systems: tuple[System, ...], prediction: Masks, reference: Masks, spacing: tuple[float, ...], runs: int
) -> Results:
    """Time all systems in turn, run after run.

    The machine's other work so meets each of them.
    """
    prepared = [system.prepare(prediction, reference, spacing) for system in systems]
    samples = [[timed(work) for work in prepared] for _ in range(runs)]
    return [
        (system, statistics.median(run[k][0] for run in samples), samples[0][k][1]) for k, system in enumerate(systems)
    ]


def table(results: Results) -> list[str]:
    baseline = results[0][1]
    lines = [
        "| system | CPU ms | times ours | Dice | HD95 mm | HD mm | NSD | surface, HD95, NSD |",
        "|---|" + "---|" * 7,
    ]
    for system, seconds, scores in results:
        cells = [" / ".join(f"{v:.4f}" for v in scores[name]) if name in scores else "-" for name in SCORES]
        lines.append(
            f"| {system.name} | {1e3 * seconds:.1f} | {seconds / baseline:.1f} | {' | '.join(cells)} | "
            f"{system.surface} |"
        )
    return lines


def greatest_difference(results: Results) -> float:
    """Return the greatest difference between the first two systems.

    It is over the scores that both have, relative above 1, as MONAI computes in float32.
    """
    (_, _, first), (_, _, second) = results[:2]
    return max(
        math.fabs(a - b) / max(1.0, a) for name in second for a, b in zip(first[name], second[name], strict=True)
    )


def everything(prediction: Masks, reference: Masks, grid: Grid, runs: int) -> list[str]:
    """Time all that `evaluate` scores of one patient.

    Lesion-wise sets and lesion tables are included; CPU time.
    """
    try:
        scoring = importlib.import_module("pipeline.score.case")
        names = ("standard", *importlib.import_module("pipeline.score.lesionwise").LESIONWISE)
    except ImportError as error:
        return [f"Everything of one patient: not timed, {error}."]
    choices = (("standard",), ("standard", "brats2023-gli", "brats2023-met", "brats2024-gli"), names)
    lines = ["", "| `score_masks` with | CPU ms |", "|---|---|"]
    for chosen in choices:
        options = scoring.ScoreOptions(metrics=chosen)
        seconds = statistics.median(
            timed(partial(scoring.score_masks, prediction, reference, grid, options))[0] for _ in range(runs)
        )
        lines.append(f"| {' '.join(chosen)} | {1e3 * seconds:.0f} |")
    return lines


def bench(patients: Path | None, case_id: str | None, runs: int) -> str:
    torch.set_num_threads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    warnings.filterwarnings("ignore", module="monai")
    name, reference, grid = load_reference(patients, case_id)
    prediction = {region: grown_moved_and_spotted(mask) for region, mask in reference.items()}
    others = tuple(s for s in OTHERS if s.prepare is not deepmind or importlib.util.find_spec(DEEPMIND))
    lines = [f"{name}, {grid.described()}; {' / '.join(reference)}; median of {runs} runs", ""]
    results = compare((OURS, MONAI, *others), prediction, reference, grid.spacing_mm, runs)
    lines += [*table(results), "", f"Greatest difference to MONAI: {greatest_difference(results):.1e}."]
    if len(others) < len(OTHERS):
        lines.append(f"DeepMind's surface-distance is not installed (no module {DEEPMIND}).")
    lines += ["", f"The same masks, as if their voxels were {ANISOTROPIC_MM} mm:", ""]
    results = compare((OURS, MONAI), prediction, reference, ANISOTROPIC_MM, runs)
    lines += [*table(results), "", f"Greatest difference to MONAI: {greatest_difference(results):.1e}."]
    return "\n".join([*lines, *everything(prediction, reference, grid, runs)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patients", type=Path, nargs="?")
    parser.add_argument("--case")
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    sys.stdout.write(bench(arguments.patients, arguments.case, arguments.runs))


if __name__ == "__main__":
    main()
