"""Walk behind `data.find.discover.discover_cases`: from folders to patients."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from data.case import Case
from data.errors import few
from data.find.assembly import Draft, unusable
from data.find.earlier_run import EarlierRun
from data.find.folder import read_folder
from data.find.naming import (
    MODALITIES,
    holds_what_programs_made,
    patient_name,
    session_folder,
)
from data.find.ownership import (
    LooseMask,
    below,
    gather_split_patients,
    join_loose_masks,
    name_below_the_root,
    names_only_what_it_shows,
    part_of_a_patient,
)
from data.find.places import Disk, Places
from data.find.tree import Entry, lift_wrapped_files
from data.io.stream import printable
from data.io.suffixes import split_suffix

if TYPE_CHECKING:
    from data.find.dicom.examinations import DicomOptions

log = logging.getLogger(__name__)

_DEEPEST = 16


@dataclass(frozen=True)
class _Walk:
    top: str
    root_real: str
    places: Places
    takes_results: bool = False  # masks of an earlier run are patients too
    drafts: list[Draft] = field(default_factory=list)
    loose: list[LooseMask] = field(default_factory=list)
    links: list[tuple[Entry, int]] = field(default_factory=list)  # links to folders wait until the real ones are done
    groups: set[str] = field(default_factory=set)  # real paths of folders that hold folders
    parts: dict[str, list[tuple[str, list[Entry]]]] = field(default_factory=dict)  # folders called T1 and the like
    results: dict[str, int] = field(default_factory=dict)  # of a folder that a run wrote into, how many were left out
    dicom: list[str] = field(default_factory=list)  # files of any depth: their headers tell whose they are
    media: set[str] = field(
        default_factory=set
    )  # folders with a DICOMDIR: viewers and their parts lie beside the images


def find_cases(root: Path, places: Places | None = None, dicom: DicomOptions | None = None) -> list[Case]:
    """Return every patient below `root`, in no particular order.

    See `data.find.discover.discover_cases`. Without ``places`` it is a folder on the disk.

    What an earlier run of ours has written is no input: its mask would be the reference of the patient that it was made
    from. Only where there is nothing else below `root` are these masks what is meant.
    """
    walk = _walk(root, places, takes_results=False)
    if walk.results and not walk.dicom and not any(draft.n_roles for draft in walk.drafts):
        walk = _walk(root, places, takes_results=True)
    for folder, count in walk.results.items():
        log.warning(
            "%s: an earlier run wrote its results here; what it wrote (%d files) was not taken for images or reference "
            "masks",
            printable(Path(folder)),
            count,
        )
    drafts = name_below_the_root(gather_split_patients(walk.drafts, walk.top), walk.top)
    cases = [walk.places.with_segment_names(draft.case) for draft in drafts]
    if walk.dicom:
        from data.find.dicom.examinations import DicomOptions, with_examinations  # pydicom, which NIfTI does without

        cases = with_examinations(cases, walk.dicom, dicom or DicomOptions(), walk.top)
    return cases


def _walk(root: Path, places: Places | None, *, takes_results: bool) -> _Walk:
    top = os.path.abspath(root)
    root_real = os.path.realpath(top)
    walk = _Walk(top, root_real, places or Disk(root_real), takes_results)
    _visit(walk, top, walk.root_real, 0, (), None)
    while walk.links:
        entry, depth = walk.links.pop(0)
        real = entry.real or entry.path
        if real in walk.groups:
            continue  # its patients have their rows already
        via = (f"{entry.name} is a link out of the input to {real}; it was followed",) if entry.link_target else ()
        via = via or (f"{entry.name} is a link to {real} within the input",)
        _visit(walk, entry.path, real, depth, via, None)
    walk.drafts[:] = join_loose_masks(walk.drafts, walk.loose, walk.top)
    return walk


def _visit(
    walk: _Walk, folder: str, real: str, depth: int, via: tuple[str, ...], within: int | None,
    run: EarlierRun | None = None,
) -> bool:  # fmt: skip
    """Find the patients in a folder and below; `within` is the draft whose patient's folder this one lies in, `run` the
    run whose output it lies in. True if any."""
    try:
        if depth > _DEEPEST:
            raise OSError(0, f"nested more than {_DEEPEST} deep")
        files, folders, hidden = walk.places.list_folder(folder)
    except OSError as error:
        walk.drafts.append(
            unusable(
                folder,
                f"{below(walk.top, folder)}the folder {os.path.basename(folder)} cannot be searched "
                f"({error.strerror}); check it, or move it up",
                via,
            )
        )
        return True
    lifted, folders = lift_wrapped_files(folders, walk.places.list_folder)
    if folders:
        walk.groups.add(real)
    run = None if walk.takes_results else walk.places.earlier_run(folder) or run
    files, results = _without_results(walk, run, files + lifted)
    files, dicom = _without_dicom(walk, files)
    name = patient_name(folder, walk.top)
    drafts, loose, found = read_folder(
        folder, name, files, via, walk.places, is_leaf=not folders, is_root=folder == walk.top
    )
    # A run leaves empty folders too, of patients that it had to refuse, and tables beside them.
    found = (
        found
        or bool(results)
        or bool(dicom)
        or (run is not None and _is_runs_own(run, folder, empty=not (files or folders)))
    )
    owner = len(walk.drafts) if len(drafts) == 1 and drafts[0].n_roles > 1 else within
    walk.drafts.extend(drafts)
    walk.loose.extend(loose)
    for entry in results:
        _add(walk, owner, unrecognised=Path(entry.path))
    found = _mention_hidden(walk, folder, hidden, len(walk.drafts) - 1 if len(drafts) == 1 else owner) or found
    for entry in folders:
        is_known = _visit_below(walk, entry, real, depth + 1, via, owner, run)
        if not is_known:
            _add(walk, owner, unrecognised=Path(entry.path))
        found = found or is_known
    for entry in files:  # a dangling link without an extension stands for a patient's folder
        if entry.problem and not os.path.splitext(entry.name)[1] and os.path.islink(entry.path):
            found = _report(walk, owner, entry, f"{entry.name} {entry.problem}") or found
    _gather_parts(walk, folder, via)
    if found or _is_part(walk, folder, within) or (depth == 0 and not any(split_suffix(e.name)[1] for e in files)):
        return found
    if depth > 1 and not folders and names_only_what_it_shows(folder):
        walk.parts.setdefault(os.path.dirname(folder), []).append((folder, files))
    else:
        walk.drafts.append(unusable(folder, below(walk.top, folder) + _nothing_known(files), via, files, name))
    return True


def _mention_hidden(walk: _Walk, folder: str, hidden: Sequence[str], owner: int | None) -> bool:
    """Warn of hidden images that were not read.

    The sentence stands in their patient's row, or in a row of their own. True where there is such a row.
    """
    for name in hidden:
        _add(walk, owner, unrecognised=Path(folder, name))
    if owner is not None or not hidden:
        return False
    folders = [name for name in hidden if os.path.isdir(os.path.join(folder, name))]
    for name in folders:
        path = os.path.join(folder, name)
        problem = (
            f"the folder {name} holds images and is hidden by the dot before its name; rename it if it is a patient"
        )
        walk.drafts.append(unusable(path, below(walk.top, path) + problem))
    images = [name for name in hidden if name not in folders]
    if images and folder != walk.top:
        problem = f"hidden by the dot before the name: {few(images, 3)}; rename what belongs to the patient"
        walk.drafts.append(unusable(folder, below(walk.top, folder) + problem, name=patient_name(folder, walk.top)))
    elif images:
        log.warning("%s: hidden by the dot before the name and not read: %s", printable(Path(folder)), few(images, 3))
    return folder != walk.top or bool(folders)


def _visit_below(
    walk: _Walk, entry: Entry, real: str, depth: int, via: tuple[str, ...], owner: int | None, run: EarlierRun | None
) -> bool:
    """Visit a folder within another.

    Its real path is `real`; one that is a link waits. True if it is known; results of a program within a patient's
    folder are not.
    """
    if owner is not None and holds_what_programs_made(entry.name):
        return False
    if entry.real is None:
        return _visit(walk, entry.path, os.path.join(real, entry.name), depth, via, owner, run)
    if (real + os.sep).startswith(entry.real.rstrip(os.sep) + os.sep):
        return _report(
            walk, owner, entry, f"the link {entry.name} leads back to {entry.real}, which holds it; remove the link"
        )
    walk.links.append((entry, depth))
    return True


def _gather_parts(walk: _Walk, folder: str, via: Sequence[str]) -> None:
    """Give unreadable modality folders to the patient above.

    A folder called T1 and the like that holds nothing to read belongs to the patient in whose folder it lies.
    """
    parts = walk.parts.pop(folder, [])
    if not parts:
        return
    mine = [
        n for n, d in enumerate(walk.drafts) if d.case.images and session_folder(str(d.case.folder), folder) == folder
    ]
    if len(mine) == 1:
        for place, _ in parts:
            _add(walk, mine[0], unrecognised=Path(place))
        return
    files = next((files for _, files in parts if files), [])
    walk.drafts.append(part_of_a_patient([place for place, _ in parts], _nothing_known(files), walk.top, via, files))


def _without_results(walk: _Walk, run: EarlierRun | None, files: Sequence[Entry]) -> tuple[list[Entry], list[Entry]]:
    """Split a folder's files into input and results of an earlier run."""
    results = [entry for entry in files if run is not None and run.wrote(entry.path)]
    if run is not None and results:
        walk.results[run.folder] = walk.results.get(run.folder, 0) + len(results)
    written = set(results)
    return [entry for entry in files if entry not in written], results


def _without_dicom(walk: _Walk, files: Sequence[Entry]) -> tuple[list[Entry], int]:
    """Take DICOM files out of a folder's files and count them.

    Their headers tell whose they are, not their folders.
    """
    dicom = {entry.path for entry in files if walk.places.is_dicom(entry)}
    walk.dicom.extend(sorted(dicom))
    walk.media.update(os.path.dirname(path) for path in dicom if os.path.basename(path).upper() == "DICOMDIR")
    return [entry for entry in files if entry.path not in dicom], len(dicom)


def _is_part(walk: _Walk, folder: str, within: int | None) -> bool:
    """Tell whether a folder is a part of a patient's, or of a medium.

    The software on a medium (a CD) is no patient.
    """
    return within is not None or any((folder + os.sep).startswith(medium + os.sep) for medium in walk.media)


def _is_runs_own(run: EarlierRun, folder: str, *, empty: bool) -> bool:
    return folder == run.folder or (empty and os.path.dirname(folder) == run.folder)


def _nothing_known(files: Sequence[Entry]) -> str:
    """Why a folder's files make no patient, and which names would."""
    if not files:
        return "the folder is empty; put the patient's images in"
    example = next((entry for entry in files if split_suffix(entry.name)[1]), files[0])
    extension = split_suffix(example.name)[1]
    fault = f"no image that any layout names among its {len(files)} files (such as {example.name})"
    if not extension:
        return f"{fault}; export the patient's images as NIfTI, named like NAME_t1c.nii.gz"
    return (
        f"{fault}: no file name tells a modality; put a modality at the end of each name, as in {_example(extension)}"
    )


def _example(extension: str) -> str:
    """Return short names that each tell a modality.

    A user's own stem may be the name of one image alone.
    """
    return ", ".join(f"NAME_{modality}{extension}" for modality in MODALITIES)


def _report(walk: _Walk, owner: int | None, entry: Entry, sentence: str) -> bool:
    if owner is not None:
        _add(walk, owner, warning=sentence)
    else:
        walk.drafts.append(unusable(entry.path, sentence))
    return True


def _add(walk: _Walk, index: int | None, *, warning: str | None = None, unrecognised: Path | None = None) -> None:
    """Add a warning or a file to a patient, where there is one."""
    if index is None:
        return
    draft = walk.drafts[index]
    case = draft.case
    warnings = (*case.warnings, warning) if warning else case.warnings
    paths = (*case.unrecognised, unrecognised) if unrecognised else case.unrecognised
    walk.drafts[index] = replace(draft, case=replace(case, warnings=warnings, unrecognised=paths))
