"""Result of a finished case as the page shows it.

Numbers come from the run's own records; images are packed for the viewer, and all files into one zip.

Runs in the process that computes, where memory and time are limited.
"""

from __future__ import annotations

import csv
import io
import math
import re
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.case import GRID_ORDER, MODALITIES, ImageSource
from data.errors import InputError
from data.grid import Grid
from data.io.read import Volume, atomic_write, read_label_map
from data.labels import LabelConvention, Mask, load_convention
from data.output_names import BRAIN, EXPORTS, MASK, TRANSFORM
from data.references import voxels_on
from data.regular_file import read_regular_file
from pipeline.report.colours import label_colours, region_colour
from pipeline.score.case import score_masks
from pipeline.score.catalogue import Place, report_name, shown_in
from pipeline.score.tables import LARGEST_TABLE
from pipeline.web.compute.advice import for_page
from pipeline.web.compute.view import lesion_centres, write_view

if TYPE_CHECKING:  # it imports SimpleITK
    from transforms.registration.move import Move

ZIP_NAME = "everything.zip"
SHOWN_LESIONS = 100
"""Largest number per region; lesions.csv has them all."""
OF_A_RUN = {
    "report.csv": "all patients of that run: status, volumes, scores",
    "metrics.csv": "all patients of that run: every score of each region",
    "lesions.csv": "all patients of that run: every lesion",
    "report.html": "the report of that run, one page for all its patients",
}
"""Files of an earlier run's folder beside the masks."""
_WHAT = {
    "seg": "the mask, in the images' own grid and label convention",
    "preview": "picture of three planes",
    "report.csv": "one row: status, volumes, scores",
    "metrics.csv": "every score of each region",
    "lesions.csv": "every lesion: place, volume, diameters",
    "report.html": "the report, one page that works anywhere",
    "labels.txt": "label names for ITK-SNAP",
    "labels.ctbl": "label names for 3D Slicer",
    "brain": "the brain that was found in the head",
}
_FORMATS = {
    "seg-nrrd": "the mask for 3D Slicer, with names and colours",
    "dicom-seg": "the mask as DICOM-SEG, filed under the patient's name",
    "rtstruct": "the contours as RTSTRUCT, filed under the patient's name",
    "sr": "volumes and diameters as a DICOM report, filed under the patient's name",
    "pdf": "one page to print: picture, volumes, warnings",
}
_OFFERED = (".gz", ".png", ".nrrd", ".dcm", ".pdf", ".txt")
_SHOWN = {"t1": "T1", "t1c": "T1c", "t2": "T2", "flair": "FLAIR"}


@dataclass(frozen=True)
class Outcome:
    """Files and table rows of a finished case.

    Parameters
    ----------
    mask : Path
        The written label map.
    row, lesions, regions :
        The case's rows of report.csv, lesions.csv and metrics.csv. Without regions they are measured anew.
    images : modality -> source
        Those that are still there.
    reference : ImageSource, optional
    left_out : tuple of str
        Formats of the mask that were not written, and why.
    checks : tuple of str
        What was looked at in the images, and what was found.
    """

    mask: Path
    row: Mapping[str, Any]
    regions: list[dict[str, Any]]
    lesions: list[dict[str, Any]]
    images: Mapping[str, ImageSource]
    reference: ImageSource | None
    left_out: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()


def describe(outcome: Outcome, view_folder: Path, max_voxels: int) -> dict[str, Any]:
    """Return the result of a case as the API gives it, without URLs.

    The viewer's files are written to ``view_folder``.

    Returns
    -------
    dict
        As ``Result`` of the API, but ``view`` names files, and ``files`` is not there yet. Numbers that are not known
        (a volume without a voxel size) are None.

    Raises
    ------
    InputError
        The mask cannot be read.
    """
    mask = read_label_map(ImageSource((outcome.mask,)), max_voxels=max_voxels)
    convention = load_convention(str(outcome.row["convention"]))
    masks = convention.region_masks(mask.array)
    truth = _reference_masks(outcome.reference, mask, convention, max_voxels)
    regions, lesions = outcome.regions, outcome.lesions
    if not regions:
        scores = score_masks(masks, truth, mask.grid)
        regions, lesions = scores.regions, scores.lesions
    measured = {str(row["region"]) for row in regions} | {str(row["region"]) for row in lesions}
    masks = {region: m for region, m in masks.items() if region in measured or m.any()} or masks
    row = outcome.row
    shown = [_region(region, m, mask.grid, row, regions, lesions) for region, m in masks.items()]
    scores_shown = [metric for metric in shown_in(Place.WEB) if any(item[metric.key] is not None for item in shown)]
    view_folder.mkdir(parents=True, exist_ok=True)
    moves, brain = _preparation(outcome.mask, mask, max_voxels)
    view = write_view(outcome.images, mask, masks, truth, view_folder, max_voxels, moves=moves, brain=brain)
    return {
        "status": row.get("status", "ok"),
        "reason": for_page(str(row.get("reason") or "")),
        # Flags that name columns of report.csv say nothing to a user of the page.
        "flags": [
            flag for flag in for_page(str(row.get("flags") or "")).split("; ") if flag and "_<region>" not in flag
        ],
        "checks": [for_page(text) for text in outcome.checks],
        "model": row.get("model") or "",
        "convention": convention.name,
        "spacing_known": mask.grid.spacing_known,
        "regions": shown,
        "lesions": _lesions(lesions, masks, mask.grid),
        "labels": _labels(convention),
        "seconds": _number(row.get("seconds")),
        "measures": [
            {"key": metric.key, "heading": metric.title, "unit": metric.unit, "meaning": metric.meaning}
            for metric in scores_shown
        ],
        "has_reference": truth is not None or bool(scores_shown),
        "view": view,
        "preparation": _prepared(row, outcome.images, moves, brain),
        "left_out": list(outcome.left_out),
    }


def _preparation(path: Path, mask: Volume, max_voxels: int) -> tuple[dict[str, Move], Mask | None]:
    """Read the moves and the brain that a run has left beside a mask."""
    stem = path.name.removesuffix(".nii.gz").removesuffix(f"_{MASK}")
    found = {modality: path.with_name(f"{stem}_{TRANSFORM}_{modality}.txt") for modality in MODALITIES}
    kept = {modality: written for modality, written in found.items() if written.is_file()}
    brain_path = path.with_name(f"{stem}_{BRAIN}.nii.gz")
    brain = None
    if brain_path.is_file():
        brain = voxels_on(read_label_map(ImageSource((brain_path,)), max_voxels=max_voxels), mask.grid)
    if not kept:
        return {}, None if brain is None else brain != 0
    from transforms.registration.move import read_move

    return {modality: read_move(written) for modality, written in kept.items()}, None if brain is None else brain != 0


def _prepared(
    row: Mapping[str, Any], images: Mapping[str, ImageSource], moves: Mapping[str, Move], brain: Mask | None
) -> dict[str, Any] | None:
    if not row.get("prepared"):
        return None
    return {
        "reference": next((name for name in GRID_ORDER if name in images and name not in moves), ""),
        "moves": {
            name: {"mm": round(move.moved_mm, 1), "degrees": round(move.degrees, 1)} for name, move in moves.items()
        },
        "stripped": brain is not None,
    }


def _labels(convention: LabelConvention) -> dict[str, Any]:
    colours = label_colours(convention)
    return {
        str(value): {
            "name": name,
            "colour": colours[value],
            "regions": [region for region, labels in convention.regions.items() if value in labels],
        }
        for value, name in convention.labels.items()
    }


def _region(
    region: str,
    mask: Mask,
    grid: Grid,
    report: Mapping[str, Any],
    rows: list[dict[str, Any]],
    lesions: list[dict[str, Any]],
) -> dict[str, Any]:
    row = next((row for row in rows if row["region"] == region), {})
    own = [item for item in lesions if item["region"] == region and item.get("side") == "prediction"]
    voxels = int(np.count_nonzero(mask))
    diameters = [d for item in own if (d := _number(item.get("diameter_mm"))) is not None]
    return {
        "region": region,
        "colour": region_colour(region),
        "volume_ml": round(voxels * grid.voxel_volume_ml, 6) if grid.spacing_known else None,
        "voxels": voxels,
        "lesions": len(own),
        "largest_diameter_mm": max(diameters, default=None),
    } | {
        metric.key: _first_number(row.get(metric.key), report.get(f"{report_name(metric)}_{region}"))
        for metric in shown_in(Place.WEB)
    }


def _lesions(rows: list[dict[str, Any]], masks: Mapping[str, Mask], grid: Grid) -> list[dict[str, Any]]:
    """Return the predicted lesions, the largest ones of each region."""
    shown = [row for row in rows if row.get("side") == "prediction" and row["lesion"] <= SHOWN_LESIONS]
    centres = {
        region: lesion_centres(mask, grid, [row for row in shown if row["region"] == region])
        for region, mask in masks.items()
    }
    return [_lesion(row, centres.get(row["region"], {}).get(int(row["lesion"]))) for row in shown]


def _lesion(item: Mapping[str, Any], centre: tuple[int, int, int] | None) -> dict[str, Any]:
    return {
        "region": item["region"],
        "lesion": int(item["lesion"]),
        "volume_ml": _number(item.get("volume_ml")),
        "centroid_mm": [_number(item.get(f"centroid_{axis}_mm")) for axis in "xyz"],
        "centre_voxel": centre and list(centre),
        "diameter_mm": _number(item.get("diameter_mm")),
        "perpendicular_mm": _number(item.get("perpendicular_mm")),
    }


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _first_number(*values: Any) -> float | None:
    """Return the first number that is known."""
    return next((number for value in values if (number := _number(value)) is not None), None)


def _reference_masks(
    reference: ImageSource | None, mask: Volume, convention: LabelConvention, max_voxels: int
) -> dict[str, Mask] | None:
    """Return the reference's masks on the mask's grid.

    None where it cannot be compared, which the run's warnings have said.
    """
    if reference is None:
        return None
    try:
        volume = read_label_map(reference, max_voxels=max_voxels)
    except InputError:
        return None
    array = voxels_on(volume, mask.grid)
    return None if array is None else convention.region_masks(array)


# Files to download


def offer(output: Path, folder: Path, mask: Path, *, of_a_run: bool = False) -> dict[str, dict[str, Any]]:
    """List the files that a finished case offers, the mask first.

    Returns name in a URL -> path (below the case's folder), bytes, what.

    ``everything.zip``, which holds all the others, is written. With ``of_a_run`` the tables are of a whole run, in
    which the case was one of many.
    """
    names = {mask.name: mask}
    names |= {path.name: path for path in sorted(mask.parent.glob("*")) if path.suffix in _OFFERED}
    names |= {name: output / name for name in _WHAT if (output / name).is_file()}
    names |= {path.name: path for path in sorted((folder / "edits").glob("*")) if path.suffix in (".gz", ".json")}
    write_zip(folder / ZIP_NAME, names)
    names[ZIP_NAME] = folder / ZIP_NAME
    said = {name: _what_is(name, of_a_run) for name in names} | {mask.name: _WHAT["seg"]}
    return {
        name: {"path": str(path.relative_to(folder)), "bytes": path.stat().st_size, "what": said[name]}
        for name, path in names.items()
    }


def _what_is(name: str, of_a_run: bool) -> str:
    """Describe a file that is offered, in a few words."""
    if of_a_run and name in OF_A_RUN:
        return OF_A_RUN[name]
    if name in _WHAT:
        return _WHAT[name]
    if name == ZIP_NAME:
        return "all of these in one file"
    if earlier := re.match(r"earlier-[0-9]+-(edited-.*)", name):
        return "of an earlier result: " + _what_is(earlier[1], of_a_run)
    if name.startswith("edited-"):
        return "mask with changes by hand" if name.endswith(".gz") else "where the edited mask comes from"
    if export := next((text for key, text in _FORMATS.items() if name.endswith(f"_{EXPORTS[key]}")), None):
        return export
    if moved := re.search(rf"_{TRANSFORM}_([a-z0-9]+)\.txt$", name):
        return f"move of {_SHOWN.get(moved[1], moved[1])} onto the mask's image, for ITK"
    stem = name.removesuffix(".nii.gz").removesuffix(".png")
    for mark, text in (("_prob_", "probability of "), ("_uncertainty_", "uncertainty of ")):
        if mark in stem:
            return text + stem.rpartition("_")[2]
    what = stem.rpartition("_")[2]
    return f"{_SHOWN[what]} image, its slices as one volume" if what in _SHOWN else _WHAT.get(what, "image")


def write_zip(target: Path, names: Mapping[str, Path]) -> None:
    """Pack files under their names, not compressed again; whole or not at all."""
    with atomic_write(target) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, path in names.items():
            # No date, so that two zips of the same files are the same.
            with archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as entry, path.open("rb") as source:
                shutil.copyfileobj(source, entry)


def read_row(report: Path, case: str) -> dict[str, Any]:
    """Return the row of one case in a report.csv; empty without one.

    Raises OSError, ValueError.
    """
    text = read_regular_file(report, LARGEST_TABLE).decode("utf-8-sig")
    try:
        return next((row for row in csv.DictReader(io.StringIO(text, newline="")) if row.get("case") == case), {})
    except csv.Error as error:
        raise ValueError(f"is no table ({error})") from None
