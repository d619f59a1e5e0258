"""Owners of files that lie in several folders, or apart from their patient.

What only the whole walk shows: one patient's files in several folders, and names that say nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data.case import ImageSource
from data.errors import few
from data.find.assembly import Draft, Named, assemble, drafts_of_volumes, link_warnings, unusable
from data.find.naming import match_volume, patient_name, session_folder
from data.find.tree import Entry


def names_only_what_it_shows(folder: str) -> bool:
    """Tell whether a folder is called after a modality.

    ``T1`` and ``FLAIR`` are no patients: such a folder is part of the one above.
    """
    match = match_volume(os.path.basename(folder))
    return match is not None and not match.patient


def below(top: str, folder: str) -> str:
    """Return the path of a folder below the root, for a sentence.

    It is empty where the folder's name is as good.
    """
    path = os.path.relpath(folder, top)
    return f"{path}: " if os.sep in path else ""


def gather_split_patients(drafts: Sequence[Draft], top: str) -> list[Draft]:
    """Make one row for a patient with modalities in sibling folders.

    The row says so, and nothing is joined.

    The folders must be called after no patient, hold files of one patient's name, and no modality twice: otherwise they
    are sessions, or sites.
    """
    together: dict[tuple[str, str], list[Draft]] = {}
    for draft in drafts:
        if draft.patient and draft.case.images and not draft.scope:
            together.setdefault((os.path.dirname(draft.case.folder), draft.patient), []).append(draft)
    gathered: dict[int, Draft] = {}
    for (parent, patient), parts in together.items():
        modalities = [modality for draft in parts for modality in draft.case.images]
        if len({draft.case.folder for draft in parts}) < 2 or len(set(modalities)) < len(modalities):
            continue
        places = few((f"{draft.case.folder.name} ({', '.join(draft.case.images)})" for draft in parts), 4)
        problem = f"the images of {patient} lie in several folders, {places}; put them into one folder"
        by_folder = all(draft.case.case_id == draft.case.folder.name for draft in parts)
        name = patient_name(parent, top) if by_folder and parent != top else patient
        warnings = dict.fromkeys(warning for draft in parts for warning in draft.case.warnings)
        row = unusable(parent, problem, tuple(warnings), (), name)
        gathered |= {id(draft): row for draft in parts}
    return list({id(draft): draft for draft in (gathered.get(id(draft), draft) for draft in drafts)}.values())


def name_below_the_root(drafts: Sequence[Draft], top: str) -> list[Draft]:
    """Give patients called ``images`` or ``scans`` their own names where there are others.

    The files in such a folder are the root's own patient only where the root holds no second.
    """

    def is_roots_own(draft: Draft) -> bool:
        folder = str(draft.case.folder)
        climbed = folder != top and session_folder(folder, top) == top
        return climbed and draft.case.case_id == os.path.basename(top) and not draft.scope

    climbed = [is_roots_own(draft) for draft in drafts]
    patients = sum(own or bool(draft.case.images) for draft, own in zip(drafts, climbed, strict=True))
    if patients < 2:
        return list(drafts)
    return [
        replace(draft, case=replace(draft.case, case_id=os.path.relpath(draft.case.folder, top))) if own else draft
        for draft, own in zip(drafts, climbed, strict=True)
    ]


def part_of_a_patient(
    folders: Sequence[str], problem: str, top: str, via: Sequence[str], files: Sequence[Entry]
) -> Draft:
    """Make one row for modality folders without readable files.

    It stands under the patient's folder.
    """
    parent = os.path.dirname(folders[0])
    shown = few((os.path.relpath(folder, top) for folder in folders), 4)
    return unusable(parent, f"{shown}: {problem}", via, files, patient_name(parent, top))


@dataclass(frozen=True)
class LooseMask:
    """Mask that lies apart from its images.

    Parameters
    ----------
    folder : str
        Where it lies.
    scope : str
        The data set's folder, for sets whose names are unique only there; else ``""``.
    named : Named
    """

    folder: str
    scope: str
    named: Named


def join_loose_masks(drafts: Sequence[Draft], masks: Sequence[LooseMask], top: str) -> list[Draft]:
    """Give each mask to the one patient of its name.

    A mask that finds none is a patient without images.
    """
    drafts = list(drafts)
    by_name: dict[str, list[int]] = {}
    by_folder: dict[str, list[int]] = {}
    for index, draft in enumerate(drafts):
        if draft.case.images or draft.scope:  # a set's patient has its row even where its images cannot be told apart
            by_name.setdefault(draft.patient, []).append(index)
        if draft.case.images:
            by_folder.setdefault(session_folder(str(draft.case.folder), top), []).append(index)
    left: dict[str, list[LooseMask]] = {}
    for mask in masks:
        patient = mask.named.match.patient
        fits = (
            [index for index in by_name.get(patient, []) if not mask.scope or drafts[index].scope == mask.scope]
            if patient
            else []
        )
        if len(fits) > 1:  # files of several patients bear this name, so that it says nothing
            fits = []
        fits = fits or by_folder.get(mask.folder) or by_folder.get(os.path.dirname(mask.folder), [])
        fits = [
            index
            for index in fits
            if drafts[index].case.reference is None
            and (not patient or patient == (drafts[index].patient or drafts[index].case.case_id))
        ]
        if len(fits) == 1 and not mask.named.entry.problem:
            draft = drafts[fits[0]]
            case = replace(
                draft.case,
                reference=ImageSource((Path(mask.named.entry.path),)),
                warnings=(*draft.case.warnings, *link_warnings([mask.named.entry])),
            )
            drafts[fits[0]] = replace(draft, case=case)
        else:
            left.setdefault(mask.folder, []).append(mask)
    for folder, lost in left.items():
        drafts += _patients_without_images(folder, lost, top)
    return drafts


def _patients_without_images(folder: str, masks: Sequence[LooseMask], top: str) -> list[Draft]:
    named = [mask.named for mask in masks]
    if not masks[0].scope:
        return drafts_of_volumes(folder, patient_name(folder, top), named, [], (), is_root=folder == top)
    return [
        assemble(folder, item.match.patient, item.match.patient, [item], [], scope=mask.scope)
        for mask, item in zip(masks, named, strict=True)
    ]
