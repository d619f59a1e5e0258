"""Visits of patients, and the mask of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data.case import MAX_VOXELS, Case, ImageSource, TimePoint
from data.errors import UsageError, few
from data.find.earlier_run import read_earlier_run
from data.find.recognise import ConventionChoice, choose_conventions, read_label_values
from data.output_names import REPORT
from pipeline.evaluate.visits import VisitMask


@dataclass(frozen=True)
class Visit:
    """One time point of a patient.

    Parameters
    ----------
    case : Case
        Its images.
    label : str
        Name of the time point, unique within the patient.
    mask : ImageSource or None
    convention : str
        Label convention of the mask; empty where there is none, or it is not known.
    why_not : str
        Why there is no mask that can be read; empty where there is one.
    model : str
        Model that made the mask, where that is known.
    missing_images : tuple of str
        Modalities that it wanted and did not have.
    """

    case: Case
    label: str
    mask: ImageSource | None = None
    convention: str = ""
    why_not: str = ""
    model: str = ""
    missing_images: tuple[str, ...] = ()

    @property
    def point(self) -> TimePoint:
        """Time point of the case; without one a name alone."""
        return self.case.timepoint or TimePoint(self.label)


def is_output(folder: Path) -> bool:
    """Tell whether a folder is the output of `segment`."""
    return (folder / REPORT).is_file() and read_earlier_run(str(folder)) is not None


def visits_by_patient(
    masks: Sequence[VisitMask], convention: str | None = None, max_voxels: int = MAX_VOXELS
) -> dict[str, list[Visit]]:
    """Return the visits of every patient, in order of time, each with its mask.

    Parameters
    ----------
    masks : sequence of VisitMask
        One of each case.
    convention : str, optional
        Of all masks; by default that of each one's run, else recognised.

    Returns
    -------
    dict of patient to list of Visit
        In the order in which the patients come.
    """
    choices = _conventions(masks, convention, max_voxels)
    patients: dict[str, list[Visit]] = {}
    for mask in masks:
        choice = choices.get(mask.case.case_id)
        why = mask.missing or "no mask" if mask.mask is None else ""
        if choice is not None and choice.name is None:
            why = choice.error or "the label convention of the mask is not known; name it with --convention"
        point = mask.case.timepoint
        visit = Visit(
            mask.case,
            point.label if point is not None and point.label else mask.case.case_id,
            None if mask.mask is None else ImageSource((mask.mask,)),
            (choice.name or "") if choice is not None else "",
            why,
            mask.model,
            mask.missing_images,
        )
        patients.setdefault(mask.case.patient, []).append(visit)
    return {name: _told_apart(sorted(own, key=lambda visit: visit.point.order)) for name, own in patients.items()}


def _told_apart(visits: list[Visit]) -> list[Visit]:
    """Call visits of one label after their cases."""
    labels = [visit.label for visit in visits]
    return [replace(v, label=v.case.case_id) if labels.count(v.label) > 1 else v for v in visits]


def _conventions(masks: Sequence[VisitMask], asked: str | None, max_voxels: int) -> dict[str, ConventionChoice]:
    """Return the convention of each mask: asked for, reported, or recognised."""
    there = [mask for mask in masks if mask.mask is not None]
    said = {
        mask.case.case_id: ConventionChoice(mask.convention, "its report.csv says so")
        for mask in there
        if mask.convention and asked is None
    }
    cases = [
        replace(mask.case, reference=ImageSource((mask.mask,)))
        for mask in there
        if mask.mask is not None and mask.case.case_id not in said
    ]
    recognised = choose_conventions(
        cases,
        override=asked,
        read_labels=lambda source: read_label_values(source, max_voxels=max_voxels),
        way_out="say which with --convention NAME",
    )
    return {**said, **recognised}


def baselines_of(named: Sequence[str], patients: Mapping[str, Sequence[Visit]]) -> dict[str, tuple[str, ...]]:
    """Return the labels of the visits that a user names as baselines, by patient.

    Raises
    ------
    UsageError
        A name is that of no case.
    """
    found: dict[str, tuple[str, ...]] = {}
    places = {visit.case.case_id: (patient, visit.label) for patient, own in patients.items() for visit in own}
    if unknown := [name for name in named if name not in places]:
        raise UsageError(
            f"--baseline: no case {few(map(repr, unknown), 3)}; `inspect` lists those that there are, such as "
            f"{few(places, 3)}"
        )
    for name in dict.fromkeys(named):
        patient, label = places[name]
        found[patient] = (*found.get(patient, ()), label)
    return found
