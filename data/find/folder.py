"""Patients and loose masks among the files that lie directly in one folder."""

from __future__ import annotations

import os
from collections.abc import Sequence

from data.find.assembly import Draft, Named, drafts_of_volumes
from data.find.image_folder import holds_numbered_channels, read_image_folder
from data.find.naming import REFERENCE, Match, folders_of_a_set, is_ignored, load_layouts, match_volume
from data.find.ownership import LooseMask
from data.find.places import Places
from data.find.stacks import drafts_of_slices
from data.find.tree import Entry
from data.io.suffixes import VOLUME_SUFFIXES, split_suffix


def read_folder(
    folder: str,
    name: str,
    files: Sequence[Entry],
    via: tuple[str, ...],
    places: Places,
    *,
    is_leaf: bool,
    is_root: bool,
) -> tuple[list[Draft], list[LooseMask], bool]:
    """Read the files that lie directly in a folder.

    Parameters
    ----------
    folder, name : str
        Its path, and the name of its patient.
    files : sequence of Entry
        Those that lie directly in it.
    via : tuple of str
        Warnings about the links that led to it.
    places : Places
    is_leaf, is_root : bool
        It holds no folder; it is the input itself.

    Returns
    -------
    (list of Draft, list of LooseMask, bool)
        Patients, masks that lie there without images, and whether the folder was understood.
    """
    base, parent = os.path.basename(folder), os.path.dirname(folder)
    drafts: list[Draft] = []
    loose: list[LooseMask] = []
    if base in folders_of_a_set("image") or holds_numbered_channels(files):
        drafts, files = read_image_folder(folder, files, via, places)
    named, rest = [], []
    for entry in files:
        stem, extension = split_suffix(entry.name)
        match = match_volume(stem) if extension in VOLUME_SUFFIXES else None
        if (
            base in folders_of_a_set(REFERENCE)
            and extension in VOLUME_SUFFIXES
            and (match is None or match.layout.kind == "channels")
        ):
            layout = match.layout if match else load_layouts()["nnunet"]
            loose.append(LooseMask(folder, parent, Named(entry, Match(layout, stem, ((REFERENCE, None),)))))
        elif match:
            named.append(Named(entry, match))
        else:
            rest.append(entry)
    if named and all(item.match.is_reference for item in named):
        loose += [LooseMask(folder, "", item) for item in named]
    elif named:
        drafts += drafts_of_volumes(folder, name, named, _not_companions(rest, named), via, is_root=is_root)
    elif not drafts and not loose:
        drafts = drafts_of_slices(folder, name, files, via, is_leaf=is_leaf)
    set_folder = base in folders_of_a_set() or _holds_ignored_only(base, rest)
    return drafts, loose, bool(drafts or loose or set_folder)


def _holds_ignored_only(base: str, rest: Sequence[Entry]) -> bool:
    """Tell whether a folder holds a whole set's automatic masks.

    Such a folder is known, and no patient's. A patient's own folder is called like its files.
    """
    stems = [split_suffix(entry.name)[0] for entry in rest if split_suffix(entry.name)[1] in VOLUME_SUFFIXES]
    return bool(stems) and all(not stem.startswith(base) and is_ignored(stem) for stem in stems)


def _not_companions(rest: Sequence[Entry], named: Sequence[Named]) -> list[Entry]:
    """Leave out the voxel files of .mhd headers.

    A .mhd header keeps its voxels in a .raw or .zraw beside it: that file is known.
    """
    headers = {split_suffix(item.entry.name)[0] for item in named if item.entry.name.lower().endswith(".mhd")}
    return [
        entry
        for entry in rest
        if not (os.path.splitext(entry.name)[0] in headers and entry.name.lower().endswith(("raw", ".gz")))
    ]
