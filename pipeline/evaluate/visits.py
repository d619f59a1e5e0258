"""Masks of visits, of a run or by others, with patient and time point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.case import Case, TimePoint
from data.find.visits.order import evidence_of, found_in_name, with_time_points
from data.same_patient import patient_and_time
from pipeline.evaluate.label_maps import LabelMap, by_patient, find_label_maps, matched_by_folder_name, run_record
from pipeline.score.tables import text_cell


@dataclass(frozen=True)
class VisitMask:
    """Case and its mask.

    Parameters
    ----------
    case : Case
        With patient and time point, and the images where they are known.
    mask : Path or None
    missing : str
        Why there is no mask; ``""`` where there is one.
    convention : str
        Label convention that the run's report.csv names; ``""`` for masks of which nothing is known.
    model : str
        Likewise.
    missing_images : tuple of str
        Modalities that its model wanted and did not have.
    """

    case: Case
    mask: Path | None
    missing: str = ""
    convention: str = ""
    model: str = ""
    missing_images: tuple[str, ...] = ()


def visits_of_masks(root: Path) -> list[VisitMask]:
    """Return the cases of a folder of masks, in its own order.

    Patient and time point are those of run.json where `segment` wrote the folder, and follow from the names of others
    and of older runs.

    Parameters
    ----------
    root : Path
        As for :func:`pipeline.evaluate.label_maps.find_label_maps`, which says how it is refused.
    """
    run = run_record(root)
    masks = [_one_of(name, items) for name, items in by_patient(find_label_maps(root)).items()]
    cases = _linked([mask.case for mask in masks], run)
    return [replace(mask, case=case) for mask, case in zip(masks, cases, strict=True)]


def masks_of_cases(cases: Sequence[Case], root: Path) -> dict[str, VisitMask]:
    """Return the mask of each case from a folder, by case id.

    A mask bears its case's id, the name of its result folder, or the end of its path.

    Parameters
    ----------
    cases : sequence of Case
        Of one discovery; patient, time point and images are theirs.
    root : Path
        As for :func:`visits_of_masks`.

    Returns
    -------
    dict of str to VisitMask
        One for each case; without a mask where the folder has none for it. Masks of other cases are left out.
    """
    expected = {text_cell(case.case_id): [LabelMap(case, "")] for case in cases}
    found = matched_by_folder_name(by_patient(find_label_maps(root)), expected)
    masks = {}
    for case in cases:
        items = found.get(text_cell(case.case_id), [])
        none = VisitMask(case, None, f"{root} holds no mask of {case.case_id}")
        masks[case.case_id] = replace(_one_of(case.case_id, items), case=case) if items else none
    return masks


def _one_of(name: str, items: Sequence[LabelMap]) -> VisitMask:
    """Return the one mask of a case; several are none."""
    item, source = items[0], items[0].case.reference
    case = replace(item.case, images=item.images) if item.images else item.case
    if len(items) > 1:
        return VisitMask(case, None, f"{name} has {len(items)} masks; keep one")
    mask = None if source is None else source.paths[0]
    missing = "" if mask else item.missing or "no mask"
    return VisitMask(case, mask, missing, item.reported, item.model, item.missing_images)


def _linked(cases: Sequence[Case], run: Mapping[str, Any]) -> list[Case]:
    """Return the cases with recorded patients and time points, else by names."""
    linked, found, unrecorded = [], {}, set[str]()
    for case in cases:
        entry = run.get(text_cell(case.case_id))
        record = entry if isinstance(entry, dict) else {}
        patient, label = patient_and_time(case.case_id)
        named = record.get("patient")
        if isinstance(named, str) and named:
            patient, point = named, TimePoint.from_record(record)
        else:
            point = case.timepoint
            patient = case.patient if point else case.case_id if patient == "." else patient
            unrecorded.add(patient)
        linked.append(replace(case, patient=patient, timepoint=point))
        found[case.case_id] = evidence_of(point) if point else found_in_name(label)
    ordered = with_time_points(linked, found)
    return [new if new.patient in unrecorded else old for new, old in zip(ordered, linked, strict=True)]
