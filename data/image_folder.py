"""Patients of an ``imagesTr`` folder (MSD, nnU-Net), whose files are told apart by ``dataset.json``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from data.assembly import Draft, Named, assemble, unusable
from data.dataset_json import DatasetJson, read_dataset_json
from data.naming import VOLUME_EXTENSIONS, Match, load_layouts, match_volume, split_extension
from data.tree import Entry


def read_image_folder(folder: str, files: Sequence[Entry], via: tuple[str, ...]) -> tuple[list[Draft], list[Entry]]:
    """Patients of an ``imagesTr`` folder (MSD, nnU-Net), and the files that are none of theirs."""
    parent = os.path.dirname(folder)
    said = read_dataset_json(os.path.join(parent, "dataset.json"))
    groups: dict[str, list[Named]] = {}
    rest = []
    for entry in files:
        stem, extension = split_extension(entry.name)
        match = _match_in_set(stem, said) if extension in VOLUME_EXTENSIONS else None
        if match is None:
            rest.append(entry)
        else:
            groups.setdefault(match.patient, []).append(Named(entry, match))
    drafts = []
    for patient, named in groups.items():
        readable = [item for item in named if item.match.roles]
        others = [item.entry for item in named if not item.match.roles]
        if not readable:
            names = ", ".join(entry.name for entry in others)
            draft = unusable(
                folder,
                f"which modality {names} is cannot be told: write a dataset.json with channel_names into {parent}",
                via,
                others,
            )
            drafts.append(
                replace(
                    draft, case=replace(draft.case, case_id=patient, layout="nnunet"), patient=patient, scope=parent
                )
            )
            continue
        warnings = [*via, *([said.warning] if said.warning else [])]
        candidates = _candidates(readable[0].match.layout.conventions, said)
        drafts.append(
            assemble(
                folder, patient, patient, readable, others, scope=parent, conventions=candidates, warnings=warnings
            )
        )
    return drafts, rest


def _match_in_set(stem: str, said: DatasetJson) -> Match | None:
    layouts = load_layouts()
    numbered = layouts["nnunet"].pattern.fullmatch(stem) if layouts["nnunet"].pattern else None
    if numbered:
        number = int(numbered["channel"])
        modality = said.channels[number] if number < len(said.channels) else None
        return Match(layouts["nnunet"], numbered["patient"], ((modality, None),) if modality else ())
    ordinary = match_volume(stem)
    known = [(modality, channel) for channel, modality in enumerate(said.channels) if modality]
    if known and (ordinary is None or ordinary.layout.kind == "channels"):
        return Match(layouts["msd"], stem, tuple(known) if len(said.channels) > 1 else ((known[0][0], None),))
    return ordinary if ordinary and ordinary.layout.kind == "channels" else None


def _candidates(usual: tuple[str, ...], said: DatasetJson) -> tuple[str, ...]:
    """The set's own list of labels outweighs what its kind of folder usually holds."""
    if not said.conventions:
        return usual
    return (
        *(name for name in usual if name in said.conventions),
        *(name for name in said.conventions if name not in usual),
    )
