"""Patients of an ``imagesTr`` folder (MSD, nnU-Net).

Its files are told apart by ``dataset.json``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from data.errors import few
from data.find.assembly import Draft, Named, assemble, link_warnings, unusable
from data.find.dataset_json import DatasetJson
from data.find.naming import Match, folders_of_a_set, load_layouts, match_volume
from data.find.places import Places
from data.find.tree import Entry
from data.io.suffixes import VOLUME_SUFFIXES, split_suffix


def read_image_folder(
    folder: str, files: Sequence[Entry], via: tuple[str, ...], places: Places
) -> tuple[list[Draft], list[Entry]]:
    """Return the patients of an ``imagesTr`` folder and the remaining files.

    Both MSD and nnU-Net have such folders.
    """
    # A folder of any name with numbered files may have its dataset.json beside them.
    parent = os.path.dirname(folder)
    if os.path.basename(folder) not in folders_of_a_set("image") or any(f.name == "dataset.json" for f in files):
        parent = folder
    content, linked = places.dataset_json(os.path.join(parent, "dataset.json"))
    via = (*via, *link_warnings(linked))
    groups: dict[str, list[Named]] = {}
    rest = []
    for entry in files:
        stem, extension = split_suffix(entry.name)
        match = _match_in_set(stem, content) if extension in VOLUME_SUFFIXES else None
        if match is None:
            rest.append(entry)
        else:
            groups.setdefault(match.patient, []).append(Named(entry, match))
    drafts = []
    for patient, named in groups.items():
        readable = [item for item in named if item.match.roles]
        others = [item.entry for item in named if not item.match.roles]
        if not readable:
            names = few((entry.name for entry in others), 4)
            why = content.warning or _unnamed(content) or f"write a dataset.json with channel_names into {parent}"
            draft = unusable(folder, f"which modality {names} is cannot be told: {why}", via, others)
            drafts.append(
                replace(
                    draft, case=replace(draft.case, case_id=patient, layout="nnunet"), patient=patient, scope=parent
                )
            )
            continue
        warnings = [*via, *([content.warning] if content.warning else []), *_beyond(others, content)]
        if content.note and any(item.match.is_reference for item in readable):
            warnings.append(content.note)
        candidates = _candidates(readable[0].match.layout.conventions, content)
        drafts.append(
            assemble(
                folder, patient, patient, readable, others, scope=parent, conventions=candidates, warnings=warnings
            )
        )
    return drafts, rest


def holds_numbered_channels(files: Sequence[Entry]) -> bool:
    """Tell whether a folder's files are numbered as nnU-Net wants them: ``a_0000.nii.gz``, ``a_0001.nii.gz``."""
    pattern = load_layouts()["nnunet"].pattern
    channels: dict[str, set[int]] = {}
    for entry in files:
        stem, extension = split_suffix(entry.name)
        found = pattern.fullmatch(stem) if pattern and extension in VOLUME_SUFFIXES else None
        if found and match_volume(stem) is None:
            channels.setdefault(found["patient"], set()).add(int(found["channel"]))
    return any({0, 1} <= numbers for numbers in channels.values())


def _unnamed(content: DatasetJson) -> str:
    if not content.channels:
        return ""
    return f"dataset.json names {len(content.channels)} channels, and none of these files is one that is known"


def _beyond(others: Sequence[Entry], content: DatasetJson) -> list[str]:
    """Warn of files of more channels than dataset.json names."""
    pattern = load_layouts()["nnunet"].pattern
    found = {
        entry.name: int(match["channel"])
        for entry in others
        if pattern and (match := pattern.fullmatch(split_suffix(entry.name)[0]))
    }
    beyond = [name for name, channel in found.items() if channel >= len(content.channels)]
    if not beyond:
        return []
    return [
        f"{few(beyond, 4)}: channel {found[beyond[0]]} (they count from 0), but dataset.json names "
        f"{len(content.channels)} channels; it was left aside"
    ]


def _match_in_set(stem: str, content: DatasetJson) -> Match | None:
    layouts = load_layouts()
    numbered = layouts["nnunet"].pattern.fullmatch(stem) if layouts["nnunet"].pattern else None
    if numbered:
        number = int(numbered["channel"])
        modality = content.channels[number] if number < len(content.channels) else None
        return Match(layouts["nnunet"], numbered["patient"], ((modality, None),) if modality else ())
    ordinary = match_volume(stem)
    known = [(modality, channel) for channel, modality in enumerate(content.channels) if modality]
    if known and (ordinary is None or ordinary.layout.kind == "channels"):
        roles = tuple(known) if len(content.channels) > 1 else ((known[0][0], None),)
        return Match(layouts["msd"], stem, roles, len(content.channels))
    return ordinary if ordinary and ordinary.layout.kind == "channels" else None


def _candidates(usual: tuple[str, ...], content: DatasetJson) -> tuple[str, ...]:
    """Return the conventions that dataset.json or the layout admits.

    The set's own list of labels outweighs what its kind of folder usually holds.
    """
    if not content.conventions:
        return usual
    return (
        *(name for name in usual if name in content.conventions),
        *(name for name in content.conventions if name not in usual),
    )
