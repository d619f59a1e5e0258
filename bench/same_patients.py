"""Do two data sets share patients? Compare the place of the tumours, register the likely pairs, correlate the images.

    python -m bench.same_patients SET OTHER [--modality flair] [--output FILE]
    python -m bench.same_patients DATA --all [--split FILE] [--output FILE]

With --all: all sets of the collected data at once (bench.sets), without registration: who shares whom by names, by
fingerprints of whole images and by masks (bench.sets.shared_patients). With --split: exit status 1 where a patient is
on two of its sides (bench.sides). Else two sets, as follows.

Names do not tell: BraTS holds patients of TCGA, renamed. The set that is called LGG has no voxel size and a skull, the
other none; so an affine registration (mutual information inside the brain of SET) stands before the comparison. For
each pair that was registered: the correlation of the two images inside the brain, and the Dice of the two whole-tumour
masks. A pair that stands out from all others in both is the same examination; take such patients out of one of the
sets.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk

from data.find.discover import discover_cases
from data.io.read import read_label_map, read_volume
from pipeline.score.tables import write_table

STEP_MM = 3.0
"""Voxel of the comparison: a tenth of a gyrus is not needed to know a head again."""
SLICES_MM, PIXEL_MM = 150.0, 0.93
"""What a set without voxel size is taken for: its slices span a head, its pixels a field of view of 240 mm."""


@dataclass(frozen=True)
class Head:
    """Image, whole-tumour mask and spacing in mm of one patient, axes RAS.

    The tumour's place is relative to the head.
    """

    image: np.ndarray
    tumour: np.ndarray
    spacing_mm: tuple[float, ...]
    centre: np.ndarray
    extent: np.ndarray


def read_heads(folder: Path, modality: str) -> dict[str, Head]:
    """Patients of a folder that have the modality and a tumour, by case id."""
    heads = {}
    for case in discover_cases(folder):
        if case.problems or case.reference is None or modality not in case.images:
            continue
        volume, labels = read_volume(case.images[modality]), read_label_map(case.reference)
        image = volume.grid.turn(np.asarray(volume.array, np.float32), "RAS")
        tumour = volume.grid.turn(np.asarray(labels.array) > 0, "RAS")
        if not tumour.any():
            continue
        spacing = volume.grid.reoriented("RAS").spacing_mm
        if not volume.grid.spacing_known:
            spacing = (PIXEL_MM, PIXEL_MM, SLICES_MM / image.shape[2])
        head = image > 0.12 * np.percentile(image, 99)
        box = [np.flatnonzero(head.mean(axis=tuple({0, 1, 2} - {axis})) > 0.01)[[0, -1]] for axis in range(3)]
        first, last = np.array(box, float).T
        place = (np.argwhere(tumour) - first) / (last - first)
        heads[case.case_id] = Head(image, tumour, tuple(spacing), place.mean(axis=0), place.std(axis=0))
    return heads


def alike(one: Head, other: Head, mirrored: tuple[bool, ...]) -> bool:
    """Tell whether the two tumours lie in the same part of the head.

    ``mirrored`` is left to right and top to bottom.
    """
    centre = other.centre.copy()
    for axis, mirror in zip((0, 2), mirrored, strict=True):
        centre[axis] = 1 - centre[axis] if mirror else centre[axis]
    return bool(np.abs(centre - one.centre).max() < 0.15 and np.abs(np.log(other.extent / one.extent)).max() < 0.55)


def registered_pair(one: Head, other: Head, mirrored: tuple[bool, ...]) -> tuple[float, float]:
    """Compare two heads after affine registration.

    Returned are the correlation of the images inside the brain of ``one`` and the Dice of the tumours.
    """
    flip = (slice(None, None, -1 if mirrored[0] else 1), slice(None), slice(None, None, -1 if mirrored[1] else 1))
    fixed, tumour = _image(one.image, one.spacing_mm), _image(one.tumour.astype(np.float32), one.spacing_mm)
    moving = _image(other.image[flip], other.spacing_mm)
    moving_tumour = _image(other.tumour[flip].astype(np.float32), other.spacing_mm)
    brain = sitk.BinaryThreshold(fixed, 1e-6, 1e9)
    head = sitk.BinaryThreshold(moving, float(0.12 * np.percentile(other.image, 99)), 1e9)
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(24)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.15, 1)
    method.SetMetricFixedMask(brain)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 0.02, 60)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([2, 1])
    method.SetSmoothingSigmasPerLevel([2, 0])
    start = sitk.CenteredTransformInitializer(
        sitk.Cast(brain, sitk.sitkFloat32),
        sitk.Cast(head, sitk.sitkFloat32),
        sitk.AffineTransform(3),
        sitk.CenteredTransformInitializerFilter.MOMENTS,
    )
    method.SetInitialTransform(start, inPlace=False)
    found = method.Execute(fixed, moving)
    inside = sitk.GetArrayFromImage(brain) > 0
    image = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, found, sitk.sitkLinear, 0.0))
    moved = sitk.GetArrayFromImage(sitk.Resample(moving_tumour, fixed, found, sitk.sitkLinear, 0.0)) > 0.5
    own = sitk.GetArrayFromImage(tumour) > 0.5
    correlation = float(np.corrcoef(sitk.GetArrayFromImage(fixed)[inside], image[inside])[0, 1])
    return correlation, float(2 * (own & moved).sum() / max(own.sum() + moved.sum(), 1))


def _image(array: np.ndarray, spacing_mm: tuple[float, ...]) -> sitk.Image:
    steps = [max(round(STEP_MM / spacing), 1) for spacing in spacing_mm]
    image = sitk.GetImageFromArray(np.ascontiguousarray(array[tuple(slice(None, None, s) for s in steps)].T))
    image.SetSpacing([spacing * step for spacing, step in zip(spacing_mm, steps, strict=True)])
    return image


def _all_sets(data: Path, split: Path | None, output: Path | None) -> int:
    """Write the patients that sets share; return the exit status."""
    from bench.sets.shared_patients import shared, summary, two_sides, unnamed
    from pipeline.training.splits import read_split

    table, remarks = shared(data)
    if output:
        write_table(output, table)
    sys.stdout.write("patients that two sets share\n" + summary(table).to_string(index=False) + "\n\n")
    sys.stdout.write("\n".join(remarks) + "\n\n")
    sys.stdout.write("alike without a common name\n" + unnamed(table).round(3).to_string(index=False) + "\n")
    if split is None:
        return 0
    double = two_sides(table, read_split(split))
    sys.stdout.write("\n" + ("\n".join(double) or f"{split}: no patient is on two sides") + "\n")
    return int(bool(double))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", type=Path)
    parser.add_argument("other", type=Path, nargs="?")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--split", type=Path)
    parser.add_argument("--modality", default="flair")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if arguments.all:
        sys.exit(_all_sets(arguments.set, arguments.split, arguments.output))
    if arguments.other is None:
        parser.error("give two sets, or the folder of all of them with --all")
    own, others = read_heads(arguments.set, arguments.modality), read_heads(arguments.other, arguments.modality)
    rows = []
    for (name, one), (other_name, other) in itertools.product(own.items(), others.items()):
        for mirrored in itertools.product((False, True), repeat=2):
            if not alike(one, other, mirrored):
                continue
            try:
                correlation, dice = registered_pair(one, other, mirrored)
            except RuntimeError:  # ITK: no overlap left; such a pair is no match
                continue
            rows.append(
                {"case": name, "other": other_name, "mirrored_lr": mirrored[0], "mirrored_is": mirrored[1]}
                | {"correlation": correlation, "dice": dice}
            )
    columns = ["case", "other", "mirrored_lr", "mirrored_is", "correlation", "dice"]
    table = pd.DataFrame(rows, columns=columns).sort_values("correlation", ascending=False, ignore_index=True)
    if arguments.output:
        write_table(arguments.output, table)
    sys.stdout.write(f"{len(own)} x {len(others)} patients, {len(table)} likely pairs registered\n")
    sys.stdout.write(table.head(25).round(3).to_string() + "\n")


if __name__ == "__main__":
    main()
