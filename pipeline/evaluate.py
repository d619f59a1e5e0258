"""Two folders of label maps, predictions and references, to a table of scores with a row for every patient."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.case import ImageSource, folder_name
from data.errors import InputError, SegmentationError, UsageError
from data.grid import Grid
from data.io import Volume, read_label_map
from data.labels import CONVENTIONS, LabelConvention, count_labels, load_convention
from data.recognise import ConventionChoice, choose_conventions
from pipeline.label_maps import LabelMap, by_patient, find_label_maps, matched_by_folder_name
from pipeline.metrics import PENALTY_MM, Mask, region_scores, volume_ml
from pipeline.tables import report_frame, summarise, write_table

__all__ = ["evaluate", "score_case", "score_flags", "summarise", "write_table"]

logger = logging.getLogger(__name__)


def evaluate(predictions: Path, references: Path, output: Path, *, convention: str | None = None) -> pd.DataFrame:
    """Score every patient of two folders, matched by case id, and write the tables.

    Parameters
    ----------
    predictions, references : Path
        Folders of label maps, each nested (``<case>/<case>_seg.nii.gz``), flat (``<case>.nii.gz``) or in any layout
        that ``discover_cases`` knows. Where predictions hold the ``report.csv`` of a segmentation run, it
        says which file is whose, and in which label convention.
    output : Path
        Folder for ``report.csv`` (one row a patient found on either side) and ``summary.csv``; made if missing.
    convention : str, optional
        The label convention of both sides. Without it each side's is recognised, patient by patient; a prediction whose
        name says nothing takes its reference's where its labels fit that.

    Returns
    -------
    DataFrame
        The rows of report.csv. A patient that is missing on one side, or cannot be scored, has status ``error`` and a
        reason; a prediction with labels outside its convention, which count as background, has status ``warn``.

    Raises
    ------
    UsageError
        When a folder is missing or holds no label map, or ``output`` is one of the two folders.
    ConventionError
        When ``convention`` is no known name.
    """
    predictions, references, output = Path(predictions), Path(references), Path(output)
    if convention is not None:
        load_convention(convention)
    for folder in (predictions, references):
        if output.resolve() == folder.resolve():
            raise UsageError(f"{output} holds label maps and would lose its own report.csv; give another --output")
    expected, predicted = by_patient(find_label_maps(references)), by_patient(find_label_maps(predictions))
    predicted = matched_by_folder_name(predicted, expected)
    expected_in = _choose(expected, convention)
    predicted_in = _choose(predicted, convention)
    rows = []
    for key in dict.fromkeys([*expected, *predicted]):
        sides = (predicted.get(key, []), expected.get(key, []))
        choices = (predicted_in.get(key), expected_in.get(key))
        rows.append(_row(key, sides, choices, (predictions, references)))
    report = report_frame(rows)
    output.mkdir(parents=True, exist_ok=True)
    write_table(output / "report.csv", report)
    write_table(output / "summary.csv", summarise(report))
    return report


def score_case(
    prediction: Mapping[str, Mask], reference: Mapping[str, Mask], grid: Grid, penalty_mm: float = PENALTY_MM
) -> dict[str, float]:
    """The scores of one patient as columns of report.csv.

    Parameters
    ----------
    prediction, reference : region -> (d1, d2, d3) bool
        Masks on ``grid``. Regions that only one side has are not scored.
    grid : Grid
        Gives the spacing; distances are NaN where it is not known.
    penalty_mm : float
        The distance that stands for a region which only one side has voxels of (empty rule of :mod:`pipeline.metrics`).

    Returns
    -------
    dict
        ``dice_<region>``, ``hd95_mm_<region>``, ``hd_mm_<region>``, and the numbers of voxels, ``voxels_<region>`` of
        the prediction and ``reference_voxels_<region>``, from which ``summarise`` counts the empties.

    Raises
    ------
    ValueError
        When masks are not boolean or not of one shape.
    """
    spacing_mm = grid.spacing_mm if grid.spacing_known else None
    columns: dict[str, float] = {}
    for region in (region for region in reference if region in prediction):
        scores = region_scores(prediction[region], reference[region], spacing_mm, penalty_mm)
        columns |= {f"{metric}_{region}": value for metric, value in scores.items()}
        columns[f"voxels_{region}"] = int(np.count_nonzero(prediction[region]))
        columns[f"reference_voxels_{region}"] = int(np.count_nonzero(reference[region]))
    return columns


def score_flags(columns: Mapping[str, float]) -> list[str]:
    """Remarks on ``score_case``'s columns that a reader of the scores needs: which regions the empty rule decided."""
    flags = []
    for region in (name.removeprefix("reference_voxels_") for name in columns if name.startswith("reference_voxels_")):
        empty = [
            side
            for side, count in (("prediction", "voxels"), ("reference", "reference_voxels"))
            if not columns[f"{count}_{region}"]
        ]
        if empty:
            flags.append(f"{region} is empty in the {' and the '.join(empty)}")
    return flags


# ---- which convention they are in ----


def _choose(found: Mapping[str, list[LabelMap]], override: str | None) -> dict[str, ConventionChoice]:
    """Each patient's own evidence, as its side of the comparison gives it; patients without a label map have none."""
    single = {key: items[0] for key, items in found.items() if len(items) == 1 and items[0].case.reference is not None}
    unreported = [item.case for item in single.values() if override or not item.reported]
    chosen = choose_conventions(unreported, override=override, read_labels=_labels_or_none) if unreported else {}
    return {
        key: chosen[item.case.case_id]
        if item.case.case_id in chosen
        else ConventionChoice(item.reported, "its report.csv says so")
        for key, item in single.items()
    }


def _labels_or_none(source: ImageSource) -> Collection[float]:
    try:
        return count_labels(read_label_map(source).array).keys()
    except InputError:
        return ()  # it costs that patient's row when the patient's turn comes


def _settle(
    prediction: ConventionChoice,
    reference: ConventionChoice,
    admitted: Collection[str],
    labels: tuple[Collection[float], Collection[float]],
) -> tuple[tuple[LabelConvention, str], tuple[LabelConvention, str]]:
    """The conventions of one patient's prediction and reference, each with the reason, from both sides' evidence.

    ``admitted`` are the conventions that the prediction's report or file naming leaves, empty when they say nothing;
    ``labels`` are those that occur in the two.
    """
    of_prediction, of_reference = labels
    if reference.name is None and not of_reference and prediction.name is not None:
        # No label, no question which is which: only the list of regions is wanted.
        reference = ConventionChoice(prediction.name, "the prediction's, as it holds no label")
    if reference.name is None:
        why = "; ".join([reference.error or reference.reason, *reference.warnings])
        raise InputError(f"not scored: the convention of the reference is undecided: {why}")
    its = load_convention(reference.name)
    read_reference = (its, reference.reason)
    fits = not its.unknown_labels(of_prediction)
    if fits and (its.name in admitted or not admitted):
        return (its, "the reference's, which its labels fit"), read_reference
    if prediction.name is not None:
        return (load_convention(prediction.name), prediction.reason), read_reference
    fitting = [name for name in CONVENTIONS if not load_convention(name).unknown_labels(of_prediction)]
    # With every label of its reference there, a further one is a stray; with one missing, it is another convention.
    if not fitting or set(of_reference) <= set(of_prediction):
        return (its, "the reference's, as no other is evident"), read_reference
    raise InputError(
        f"label convention of the prediction: its labels {_listed(of_prediction)} do not fit {its.name}, "
        f"its reference's, and could be {', '.join(fitting)}; convert it, or name one for both sides with --convention"
    )


def _listed(labels: Collection[float]) -> str:
    return "{" + ", ".join(f"{label:g}" for label in sorted(labels)) + "}"


# ---- one patient ----


def _row(
    key: str,
    sides: tuple[list[LabelMap], list[LabelMap]],
    choices: tuple[ConventionChoice | None, ConventionChoice | None],
    roots: tuple[Path, Path],
) -> dict[str, Any]:
    """The row of one patient, whatever happens: nothing about one may stop another."""
    start = time.perf_counter()
    own = sides[0][0] if sides[0] else None
    row: dict[str, Any] = {
        "case": key,
        "folder": own.folder if own else folder_name(sides[1][0].case.case_id),
        "status": "ok", "reason": "", "flags": "", "model": own.model if own else "", "convention": "", "seconds": 0.0,
    }  # fmt: skip
    try:
        for name, items, root in zip(("prediction", "reference"), sides, roots, strict=True):
            _require_one(name, items, root)
        assert choices[0] is not None and choices[1] is not None  # there is one label map on either side
        row |= _scored(sides[0][0], sides[1][0], choices[0], choices[1])
    except SegmentationError as error:
        row |= {"status": "error", "reason": str(error)}
    except Exception as error:
        logger.debug("case %r", key, exc_info=True)
        reason = f"unexpected {type(error).__name__}: {' '.join(str(error).split())[:300]}; please report it"
        row |= {"status": "error", "reason": reason}
    return row | {"seconds": round(time.perf_counter() - start, 3)}


def _require_one(name: str, items: list[LabelMap], root: Path) -> None:
    if not items:
        raise InputError(f"no {name} in {root} for this patient; add one, or leave the patient out on both sides")
    if len(items) > 1:
        raise InputError(
            f"{len(items)} {name}s in {root} bear this id: {', '.join(str(i.case.folder) for i in items)}; leave one"
        )
    if items[0].case.reference is None:
        raise InputError(
            f"no {name} in {root} for this patient ({items[0].missing or 'its folder holds no label map'}); add one"
        )


def _scored(
    own: LabelMap, other: LabelMap, own_choice: ConventionChoice, other_choice: ConventionChoice
) -> dict[str, Any]:
    """What reading and comparing one patient's two label maps adds to its row."""
    assert own.case.reference is not None and other.case.reference is not None
    prediction, reference = read_label_map(own.case.reference), read_label_map(other.case.reference)
    _require_same_grid(prediction, reference)
    counts, expected = count_labels(prediction.array), count_labels(reference.array)
    admitted = (own.reported,) if own.reported else own.case.conventions
    (convention, reason), (its_convention, its_reason) = _settle(own_choice, other_choice, admitted, (counts, expected))
    strangers = its_convention.unknown_labels(expected)
    if strangers:
        raise InputError(
            f"not scored: the reference holds {_counted(strangers, expected)} outside {its_convention.name}; "
            "correct it, or name its convention with --convention"
        )
    # What the choice of the prediction's convention warns of are strange labels: said below, with their counts.
    warnings = [*own.case.warnings, *other.case.warnings, *other_choice.warnings]
    warnings += [*prediction.header.warnings, *reference.header.warnings]
    strangers = convention.unknown_labels(counts)
    if strangers:
        warnings.append(
            f"the prediction holds {_counted(strangers, counts)} outside {convention.name}, counted as background"
        )
    masks, its_masks = convention.region_masks(prediction.array), its_convention.region_masks(reference.array)
    known = prediction.grid.spacing_known and reference.grid.spacing_known
    grid = Grid(reference.grid.shape, reference.grid.affine, known)
    columns = {f"volume_ml_{r}": volume_ml(mask, grid.voxel_volume_ml if known else None) for r, mask in masks.items()}
    columns |= score_case(masks, its_masks, grid)
    flags = score_flags(columns)
    flags += [f"{r} is not scored: {name} has no such region" for r, name in _unshared(convention, its_convention)]
    if not known:
        flags.append("the voxel size is unknown: no mm, no ml; voxels_<region> counts voxels")
    flags.append(f"prediction read as {convention.name} ({reason}), reference as {its_convention.name} ({its_reason})")
    status = {"status": "warn" if warnings else "ok", "reason": "; ".join(dict.fromkeys(warnings))}
    return status | {"convention": convention.name, "flags": "; ".join(flags)} | columns


def _counted(labels: Collection[float], counts: Mapping[float, int]) -> str:
    named = [f"label {label:g} ({counts[label]} voxels)" for label in labels]
    return " and ".join([", ".join(named[:-1]), named[-1]] if len(named) > 1 else named)


def _unshared(one: LabelConvention, other: LabelConvention) -> list[tuple[str, str]]:
    """Regions that only one of two conventions has, each with the name of the one that lacks it."""
    return [(r, other.name) for r in one.regions if r not in other.regions] + [
        (r, one.name) for r in other.regions if r not in one.regions
    ]


def _require_same_grid(prediction: Volume, reference: Volume) -> None:
    one, other = prediction.grid, reference.grid
    # Without a voxel size on one side there is no place in the patient to compare, only the number of voxels.
    placed = one.spacing_known and other.spacing_known
    if one.matches(other) if placed else one.shape == other.shape:
        return
    raise InputError(
        f"prediction and reference lie on different grids: {prediction.header.path} has {one.described()}, "
        f"{reference.header.path} has {other.described()}; resample one onto the other"
    )
