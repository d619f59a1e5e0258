"""Preparation of raw examinations: errors of registration, brain masks, tumour masks.

    python -m bench.preparing PATIENTS --output FILE [--cases ID ...] [--mm 20] [--degrees 15] [--slices-mm 1 5]
    python -m bench.preparing PATIENTS --output FILE --unmoved
    python -m bench.preparing SERIES --output FILE --brains [--pictures FOLDER]

PATIENTS are registered and skull-stripped (BraTS), with references. Each is segmented as he is. Then each of his images
is acquired again on a grid of its own: T1c where it was, the others moved at random by up to so many mm and degrees;
slices of a thickness and a direction at random, each the mean over its thickness. This is done to the brain alone, and
to the brain in a synthetic head (data/phantom/head.py). The images are prepared and segmented, and the mask is brought
back to the patient's own grid. The error of a registration is the distance of the brain's voxels from where they were;
an image that was not laid back has the error of its move.

With --unmoved, the images are registered as they are published, and the errors are how far from there they are laid:
no registration of moved images can be held to less.

With --brains, the brain is found in every image of a folder (NIfTI), each alone, and its volume is told.

FILE is a table; patients that are in it already are not done again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from bench.heldout import reference_of
from bench.moves import brain_places, random_move, read_patient
from data.case import Case, ImageSource
from data.find.discover import discover_cases
from data.grid import Grid
from data.io.read import Volume, read_volumes
from data.phantom.head import NOISE, Head, add_head
from pipeline.default_model import choose_model
from pipeline.predict.predictor import Predictor
from pipeline.prepare.images import Prepared, prepare_images
from pipeline.score.metrics import dice
from pipeline.score.tables import write_table
from transforms.restore import resample_to
from transforms.skull import brain_of_head

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def acquired(
    volume: Volume, move: NDArray[np.float64], rng: np.random.Generator, thickness_mm: float, *, head: bool
) -> Volume:
    """Return a moved image as a scanner sees it, on its own grid.

    Parameters
    ----------
    volume : Volume
        Of a brain alone, or of a head with noise around it.
    move : (4, 4) float64
        From the places of the image to those where the scanner sees them, mm.
    rng : numpy.random.Generator
        Of the direction of the slices, and of the noise beyond the image.
    thickness_mm : float
        Of a slice; within it voxels are 1 mm wide.
    """
    axis = int(rng.integers(3))
    planes = max(1, round(thickness_mm))
    corners = np.c_[volume.grid.corners_mm(), np.ones(8)] @ (np.eye(4) if head else move).T
    low, high = corners[:, :3].min(axis=0), corners[:, :3].max(axis=0)
    step = np.ones(3)
    step[axis] = thickness_mm / planes
    shape = np.ceil((high - low) / step).astype(int)
    shape[axis] = planes * -(-shape[axis] // planes)
    fine = np.diag([*step, 1.0])
    fine[:3, 3] = low
    image = _resampled(volume.array, volume.grid, move, fine, shape, beyond=-1.0)
    outside = image < 0
    values = volume.array.astype(np.float32)
    median = float(np.median(values[values > 0]))
    image[outside] = rng.rayleigh(NOISE * median, np.count_nonzero(outside)) if head else 0.0
    image = _thick(image, axis, planes)
    if not head:
        shown = _resampled((volume.array != 0).astype(np.float32), volume.grid, move, fine, shape, beyond=0.0)
        image[_thick(shown, axis, planes) < 0.5] = 0
    affine = fine.copy()
    affine[:3, axis] *= planes
    affine[axis, 3] += (planes - 1) / 2 * step[axis]
    grid = Grid(image.shape, affine)
    header = replace(volume.header, grid=grid, placement={}, qform=None, sform_code=1)
    return Volume(np.rint(image).astype(np.float32), header)


def _resampled(
    array: NDArray[np.generic],
    grid: Grid,
    move: NDArray[np.float64],
    fine: NDArray[np.float64],
    shape: NDArray[np.int_],
    beyond: float,
) -> NDArray[np.float32]:
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0), dtype=np.float32))
    affine = _LPS @ grid.affine
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetSpacing(grid.spacing_mm)
    image.SetDirection((affine[:3, :3] / grid.spacing_mm).ravel().tolist())
    back = _LPS @ np.linalg.inv(move) @ _LPS
    place, spacing = _LPS @ fine, np.linalg.norm(fine[:3, :3], axis=0)
    method = sitk.ResampleImageFilter()
    method.SetSize(shape.tolist())
    method.SetOutputOrigin(place[:3, 3].tolist())
    method.SetOutputSpacing(spacing.tolist())
    method.SetOutputDirection((place[:3, :3] / spacing).ravel().tolist())
    method.SetTransform(sitk.AffineTransform(back[:3, :3].ravel().tolist(), back[:3, 3].tolist()))
    method.SetDefaultPixelValue(beyond)
    return np.array(sitk.GetArrayFromImage(method.Execute(image)).transpose(2, 1, 0))


def _thick(image: NDArray[np.float32], axis: int, planes: int) -> NDArray[np.float32]:
    """Return the means over so many neighbouring planes."""
    split = [*image.shape[:axis], image.shape[axis] // planes, planes, *image.shape[axis + 1 :]]
    return np.asarray(image.reshape(split).mean(axis=axis + 1))


def trial(
    case: Case, number: int, predictor: Predictor, mm: float, degrees: float, slices_mm: Sequence[float]
) -> list[dict[str, object]]:
    """Return a row for a patient's brain, and one for it in a head."""
    volumes = read_patient(case)
    own = volumes["t1c"].grid
    reference, _ = reference_of(case)
    places = brain_places(volumes["t1c"])
    before = dice(predictor(case, volumes=dict(volumes)).masks["WT"], reference["WT"])
    rows: list[dict[str, object]] = []
    brain = np.any([volume.array != 0 for volume in volumes.values()], axis=0)
    head = add_head({name: volume.array for name, volume in volumes.items()}, own, number)
    for kind in ("brain", "head"):
        rng = np.random.default_rng(number)
        seen: dict[str, Volume] = {}
        truth: dict[str, NDArray[np.float64]] = {}
        for place, (name, volume) in enumerate(volumes.items()):
            shown = _in_head(volume, head, name) if kind == "head" else volume
            shift, angle = rng.uniform(0, mm), rng.uniform(0, degrees)
            move = np.eye(4) if name == "t1c" else random_move(rng, shift, angle, places[:, :3].mean(axis=0))
            thickness = float(rng.uniform(slices_mm[0], slices_mm[1]))
            seen[name] = acquired(shown, move, np.random.default_rng([number, place]), thickness, head=kind == "head")
            truth[name] = move
        started = time.process_time()
        prepared = prepare_images(seen)
        seconds = time.process_time() - started
        row: dict[str, object] = {"case": case.case_id, "kind": kind, "prepared": prepared.done if prepared else ""}
        row |= {"prepare_cpu_seconds": seconds} | _errors(prepared, truth, places)
        given = dict(prepared.volumes) if prepared else dict(seen)
        if kind == "head" and prepared:
            mask = np.any([volume.array != 0 for volume in given.values()], axis=0)
            row |= {"dice_brain": dice(_onto(mask, given["t1c"].grid, own), brain)}
        found = predictor(case, volumes=given)
        row |= {"dice_WT_unmoved": before}
        row |= {"dice_WT": dice(_onto(found.masks["WT"], found.native.grid, own), reference["WT"])}
        rows.append(row)
    return rows


def unmoved(case: Case) -> dict[str, object]:
    """Return a row for a patient's images as published, registered anew."""
    volumes = read_patient(case)
    places = brain_places(volumes["t1c"])
    started = time.process_time()
    prepared = prepare_images(volumes, "always")
    seconds = time.process_time() - started
    row: dict[str, object] = {"case": case.case_id, "kind": "unmoved", "prepare_cpu_seconds": seconds}
    return row | _errors(prepared, dict.fromkeys(volumes, np.eye(4)), places)


def _in_head(volume: Volume, head: Head, name: str) -> Volume:
    return Volume(head.images[name], replace(volume.header, grid=head.grid))


def _errors(
    prepared: Prepared | None, truth: dict[str, NDArray[np.float64]], places: NDArray[np.float64]
) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, move in truth.items():
        if name != "t1c":
            laid = prepared.moves[name].matrix if prepared and name in prepared.moves else np.eye(4)
            apart = np.linalg.norm(places @ (laid - move).T, axis=1)
            found |= {f"error_mean_mm_{name}": float(apart.mean()), f"error_max_mm_{name}": float(apart.max())}
    return found


def _onto(mask: NDArray[np.bool_], grid: Grid, target: Grid) -> NDArray[np.bool_]:
    share = resample_to(torch.from_numpy(np.ascontiguousarray(mask, dtype=np.float32))[None], grid, target)
    return np.asarray(share[0].numpy() >= 0.5)


def brain_alone(path: Path, pictures: Path | None) -> dict[str, object]:
    """Return the volume of the brain in one image of a head."""
    volume = read_volumes({"image": ImageSource((path,))}, max_voxels=2**28)["image"]
    upright = volume.grid.reoriented("RAS")
    image = volume.grid.turn(volume.array, "RAS")
    started = time.process_time()
    mask = brain_of_head({"image": image})
    seconds = time.process_time() - started
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
        _draw(image, mask, upright, pictures / f"{path.parent.name}_{path.name.split('.')[0]}.png")
    return {"ml": int(mask.sum()) * upright.voxel_volume_ml, "cpu_seconds": seconds}


def _draw(image: NDArray[np.generic], mask: NDArray[np.bool_], grid: Grid, path: Path) -> None:
    """Draw three planes through a brain, with its outline."""
    from matplotlib.figure import Figure

    middle = np.argwhere(mask).mean(axis=0).astype(int) if mask.any() else np.array(mask.shape) // 2
    bright = float(np.percentile(image.astype(np.float32), 99.5))
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for axis, shown in enumerate(figure.subplots(1, 3)):
        others = [grid.spacing_mm[k] for k in range(3) if k != axis]
        plane = np.take(image, middle[axis], axis).T
        shown.imshow(plane, cmap="gray", origin="lower", aspect=others[1] / others[0], vmax=bright)
        shown.contour(np.take(mask, middle[axis], axis).T, [0.5], colors="red", linewidths=0.7)
        shown.axis("off")
    figure.savefig(path, dpi=60)


def told(table: pd.DataFrame) -> str:
    """Return the figures of a table in words."""
    if "kind" not in table:
        volumes = table["ml"]
        return f"{len(table)} images: brains of {volumes.min():.0f} to {volumes.max():.0f} ml\n"
    lines = []
    for kind, own in table.groupby("kind"):
        means, most = (own[[c for c in own if c.startswith(f"error_{what}_mm")]].stack() for what in ("mean", "max"))
        lines.append(
            f"{kind}, {len(own)} patients: registration error mean {means.mean():.2f} mm, largest mean "
            f"{means.max():.2f} mm, largest {most.max():.2f} mm; preparing "
            f"{own['prepare_cpu_seconds'].mean():.1f} CPU s"
        )
        if "dice_WT" in own:
            lines[-1] += f"; Dice of WT {own['dice_WT'].mean():.3f}, unmoved {own['dice_WT_unmoved'].mean():.3f}"
        if own.get("dice_brain", pd.Series(dtype=float)).notna().any():
            lines[-1] += f"; Dice of the brain {own['dice_brain'].mean():.3f}, lowest {own['dice_brain'].min():.3f}"
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--unmoved", action="store_true")
    parser.add_argument("--brains", action="store_true")
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--cases", nargs="*")
    parser.add_argument("--mm", type=float, default=20.0)
    parser.add_argument("--degrees", type=float, default=15.0)
    parser.add_argument("--slices-mm", type=float, nargs=2, default=(1.0, 5.0))
    given = parser.parse_args(arguments)
    table = pd.read_csv(given.output) if given.output.is_file() else pd.DataFrame({"case": []})
    done = set(table["case"])

    def keep(rows: list[dict[str, object]]) -> None:
        nonlocal table
        table = pd.concat([table, pd.DataFrame(rows)], ignore_index=True)
        write_table(given.output, table)

    if given.brains:
        for path in sorted(given.folder.rglob("*.nii.gz")):
            if (name := path.relative_to(given.folder).as_posix()) not in done:
                keep([{"case": name} | brain_alone(path, given.pictures)])
    else:
        cases = discover_cases(given.folder)
        predictor = None if given.unmoved else Predictor(choose_model(cases[0]), "cpu")
        for number, case in enumerate(cases):
            if case.case_id not in done and (not given.cases or case.case_id in given.cases):
                if predictor is None:
                    keep([unmoved(case)])
                else:
                    keep(trial(case, number, predictor, given.mm, given.degrees, given.slices_mm))
    sys.stdout.write(told(table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
