"""Masks that lie apart from their images, given to the patients whose names they bear."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data.case import ImageSource
from data.find.assembly import Draft, Named, assemble, drafts_of_volumes, link_warnings
from data.find.naming import patient_name, session_folder


@dataclass(frozen=True)
class LooseMask:
    """A mask that lies apart from its images.

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
    """Give each mask to the one patient whose name it bears; one that finds none is a patient without images."""
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
        return drafts_of_volumes(folder, patient_name(folder, top), named, [], ())
    return [
        assemble(folder, item.match.patient, item.match.patient, [item], [], scope=mask.scope)
        for mask, item in zip(masks, named, strict=True)
    ]
