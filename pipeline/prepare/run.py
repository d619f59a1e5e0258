"""Preparation of a folder of examinations: BraTS-like NIfTI for any model.

Each patient gets a folder with his images, and his reference where he has one, on one grid. What is there already is
never replaced.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from data.case import Case
from data.errors import InputError, explain
from data.folder_names import unique_folder_names
from data.io.read import Volume, read_label_map, write_image, write_label_map
from data.output_names import MASK, REPORT, TRANSFORM, result_path
from pipeline.options import SegmentOptions
from pipeline.prepare.case import prepare_case
from pipeline.prepare.images import Prepared
from pipeline.score.tables import report_frame, write_table
from transforms.registration.move import write_move
from transforms.restore import resample_to


def prepare_cases(
    cases: Sequence[Case],
    output: Path,
    options: SegmentOptions,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> pd.DataFrame:
    """Write every patient's images, registered and without skull.

    Parameters
    ----------
    cases : sequence of Case
    output : Path
        Gets ``<case>/<case>_{t1,t1c,t2,flair,seg}.nii.gz``, ``<case>/<case>_xfm_<modality>.txt`` and report.csv.
    options : SegmentOptions
        Of these ``prepare``, ``brain_mask``, ``grid`` and ``max_voxels`` count.
    progress : callable, optional
        Called with each row.

    Returns
    -------
    DataFrame
        report.csv: one row a patient. Images that were ready are written as they came.

    Raises
    ------
    OSError
        report.csv could not be written. Whatever goes wrong with one patient is his error row.
    """
    folders = unique_folder_names(case.case_id for case in cases)
    rows = []
    for case in cases:
        row = _prepare_one(case, output / folders[case.case_id], options)
        rows.append(row)
        if progress is not None:
            progress(row)
    output.mkdir(parents=True, exist_ok=True)
    report = report_frame(rows)
    write_table(output / REPORT, report)
    return report


def _prepare_one(case: Case, folder: Path, options: SegmentOptions) -> dict[str, Any]:
    start = time.perf_counter()
    row: dict[str, Any] = {"case": case.case_id, "folder": folder.name, "status": "ok", "reason": "", "prepared": ""}
    try:
        if case.problems:
            raise InputError("; ".join(case.problems))
        if folder.exists() or folder.is_symlink():
            raise InputError(f"{folder}: is there already; move it away, or choose another --output")
        volumes: dict[str, Volume] = {}
        prepared = prepare_case(case, options, list(case.images), volumes)
        reference = _reference(case, prepared, volumes, options)
        _write(folder, volumes, prepared, reference)
        said = [*([prepared.sentence] if prepared else []), *case.warnings]
        row |= (prepared.columns if prepared else {}) | {"reason": "; ".join(filter(None, said))}
        row["status"] = "warn" if row["reason"] else "ok"
    except Exception as error:
        row |= {"status": "error", "reason": explain(error, folder.name)}
    return row | {"seconds": round(time.perf_counter() - start, 3)}


def _reference(
    case: Case, prepared: Prepared | None, volumes: dict[str, Volume], options: SegmentOptions
) -> Volume | None:
    """Read the reference and lay it where its image was laid."""
    if case.reference is None:
        return None
    labels = read_label_map(case.reference, max_voxels=options.max_voxels)
    if prepared is None:
        return labels
    own = next((m for m, header in prepared.came.items() if header.grid.holds_voxels_of(labels.grid)), None)
    place = prepared.moves[own].lay(labels.grid) if own in prepared.moves else labels.grid
    target = volumes[prepared.reference].header
    if place.matches(target.grid):
        return Volume(labels.array, target)
    best, chosen = np.full(target.grid.shape, 0.5, np.float32), np.zeros(target.grid.shape, np.uint8)
    for label in np.unique(labels.array[labels.array != 0]):
        share = torch.from_numpy((labels.array == label).astype(np.float32))[None]
        there = resample_to(share, place, target.grid)[0].numpy()
        chosen[there >= best] = label
        best = np.maximum(best, there)
    return Volume(chosen, target)


def _write(folder: Path, volumes: dict[str, Volume], prepared: Prepared | None, reference: Volume | None) -> None:
    folder.mkdir(parents=True)
    for modality, volume in volumes.items():
        path = result_path(folder.parent, folder.name, modality, flat=False)
        write_image(path, _storable(volume.array), volume.header)
    if reference is not None:
        path = result_path(folder.parent, folder.name, MASK, flat=False)
        write_label_map(path, reference.array.astype(np.uint8), reference.header)
    for modality, move in prepared.moves.items() if prepared else ():
        write_move(result_path(folder.parent, folder.name, f"{TRANSFORM}_{modality}", flat=False), move)


def _storable(array: NDArray[Any]) -> NDArray[Any]:
    """Return an image as int16 where it fits, else float32."""
    whole = np.issubdtype(array.dtype, np.integer)
    if whole and np.abs(array.astype(np.int64)).max() < 2**15:
        return array.astype(np.int16)
    return array.astype(np.float32)
