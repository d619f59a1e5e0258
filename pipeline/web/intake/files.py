"""Recognition of one patient's files in an upload.

The rules are those for folders on a disk.

It runs in the checking process, whose memory is limited: the server's own process opens no uploaded file. Names are
recognised in memory, and the content lies under numbers.
"""

from __future__ import annotations

import filecmp
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data.case import DICOM, Case, ImageSource
from data.errors import InputError
from data.find.discover import cases_of_names
from data.find.naming import MODALITIES, REFERENCE, match_volume
from data.find.places import Names
from data.find.recognise import with_segment_names
from data.find.tree import is_dicom_file
from data.io.read import read_header
from data.io.suffixes import SLICE_SUFFIXES, VOLUME_SUFFIXES, split_suffix
from pipeline.web.compute.advice import with_places
from pipeline.web.intake.examination import take_examination
from pipeline.web.intake.unpack import MAX_ENTRIES, is_archive, unpack_zip
from pipeline.web.names import Received, clean_name, quoted
from pipeline.web.store import Source

ROLES = (*MODALITIES, REFERENCE)
NAMELESS = "patient"
"""Name of a patient whose files carry none."""
_INDEX = "dataset.json"
_MAX_INDEX_BYTES = 2**20
_MOST_UNASSIGNED = 32
_PLACE = os.path.abspath(os.sep + "names of an upload")
"""Folder in which the names are laid out in memory; no such folder exists or is read."""
MAX_FOLDERS = 1000
"""Limit on the folders of one upload, nested ones counted; a patient has a handful."""


@dataclass(frozen=True)
class Stored:
    """Kept file: its name from outside, and its name in the case's folder."""

    name: str
    file: str


@dataclass(frozen=True)
class Intake:
    """Recognised upload, from which a case starts.

    ``notes`` are what the recognition doubts, ``ties`` as of :class:`pipeline.web.store.CaseRecord`.
    """

    name: str
    sources: tuple[Source, ...]
    layout: str
    layout_reason: str
    conventions: tuple[str, ...]
    notes: tuple[str, ...]
    ties: tuple[tuple[str, str], ...] = ()
    date: str = ""


def take_in(received: Sequence[Received], folder: Path, *, max_unpacked: int, max_voxels: int) -> Intake:
    """Unpack archives, keep the images and recognise them.

    They are kept as ``folder/f0001.nii.gz`` and so on.

    Parameters
    ----------
    received : sequence of Received
        Files on the same disk as ``folder``; they are moved or removed.
    folder : Path
        There, empty.

    Raises
    ------
    InputError
        Nothing in it can be used, an archive is refused, or it holds several patients, two files of one name, or too
        many folders.
    """
    files, label = _unpacked(received, max_unpacked)
    pictures = [item for item in files if is_dicom_file(str(item.path), item.name)]
    if pictures:
        return _with_examination(pictures, [item for item in files if item not in pictures], folder, max_voxels)
    usable = [item for item in files if _is_used(item)]
    unused = [item for item in files if not _is_used(item)]
    usable, notes = _each_once(usable)
    stored = [_kept(item, folder, number) for number, item in enumerate(usable, 1)]
    for item in unused:
        item.path.unlink()
    if not any(split_suffix(item.name)[1] for item in stored):
        raise InputError(_nothing([item.name for item in unused]))
    found = recognise(stored, folder, label, max_voxels)
    notes += [f"not used: {_listed([item.name for item in unused])}"] if unused else []
    return replace(found, notes=(*found.notes, *notes))


def _with_examination(
    pictures: Sequence[Received], others: Sequence[Received], folder: Path, max_voxels: int
) -> Intake:
    """Take in a DICOM examination, with volumes such as a reference beside it.

    Pictures and texts beside it are of the export, and their names may be the patient's: they are counted alone.
    """
    found = take_examination(pictures, folder)
    volumes = [item for item in others if split_suffix(item.name)[1] in VOLUME_SUFFIXES and _is_used(item)]
    for item in others:
        if item not in volumes:
            item.path.unlink()
    volumes, notes = _each_once(volumes)
    unused = len(others) - len(volumes)
    notes += [f"{unused} files beside the DICOM files are not used"] if unused else []
    beside: Intake | None = None
    if volumes:
        stored = [_kept(item, folder, len(pictures) + number) for number, item in enumerate(volumes, 1)]
        beside = recognise(stored, folder, found.name, max_voxels)
        notes += beside.notes
    taken = {source.role for source in found.sources}
    more = (
        [replace(source, role=None if source.role in taken else source.role) for source in beside.sources]
        if beside
        else []
    )
    sources = [*found.sources, *more]
    return Intake(
        name=found.name,
        sources=tuple(replace(source, id=str(number)) for number, source in enumerate(sources, 1)),
        layout=DICOM,
        layout_reason=found.reason,
        conventions=beside.conventions if beside else (),
        notes=(*found.notes, *notes),
        ties=found.ties,
        date=found.date,
    )


def _is_used(item: Received) -> bool:
    """Return whether a file is an image by its name, or a `dataset.json`."""
    extension = split_suffix(item.name)[1]
    if extension == ".mhd":
        raise InputError(f"{quoted(item.name)}: a .mhd keeps its voxels in another file; save it as .mha or .nii.gz")
    return bool(extension) or (os.path.basename(item.name) == _INDEX and item.path.stat().st_size <= _MAX_INDEX_BYTES)


def _kept(item: Received, folder: Path, number: int) -> Stored:
    kept = Stored(item.name, f"f{number:04d}{split_suffix(item.name)[1] or '.json'}")
    item.path.rename(folder / kept.file)
    return kept


def _nothing(unused: Sequence[str]) -> str:
    if not unused:
        return "the upload holds no file; drop the patient's images (.nii, .nii.gz, .mha, .tif, .png) or a .zip of them"
    return (
        f"no image among {_listed(unused)}; drop DICOM, NIfTI (.nii, .nii.gz), .mha, .tif or .png files, or a .zip of "
        "them"
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(quoted, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _unpacked(received: Sequence[Received], max_bytes: int) -> tuple[list[Received], str]:
    """Return all files, zips unpacked, and a name for a patient without one."""
    files: list[Received] = []
    label, left = NAMELESS, MAX_ENTRIES - sum(not item.name.lower().endswith(".zip") for item in received)
    for item in received:
        if not item.name.lower().endswith(".zip"):
            if is_archive(item.name):
                raise InputError(
                    f"{quoted(item.name)}: only .zip is unpacked; pack it as .zip, or drop the files as they are"
                )
            files.append(item)
            continue
        members = unpack_zip(item.path, item.name, item.path.parent, max_bytes=max_bytes, first=len(files), most=left)
        left -= len(members)
        item.path.unlink()
        files += [Received(clean_name(member.name), member.path) for member in members]
        max_bytes -= sum(member.path.stat().st_size for member in members)
        label = _component(os.path.basename(item.name)[:-4]) or label
    return files, label


def _each_once(files: Sequence[Received]) -> tuple[list[Received], list[str]]:
    """Return the files without second copies, and a note of those.

    Two different files of one name are refused.
    """
    first: dict[str, Received] = {}
    copies: list[str] = []
    for item in files:
        known = first.setdefault(item.name, item)
        if known is item:
            continue
        if not filecmp.cmp(known.path, item.path, shallow=False):
            raise InputError(
                f"two different files are called {quoted(item.name)}; rename one of them, or drop the folders that "
                "they lie in"
            )
        item.path.unlink()
        copies.append(item.name)
    notes = [f"came more than once and is used once: {_listed(list(dict.fromkeys(copies)))}"] if copies else []
    return list(first.values()), notes


def recognise(stored: Sequence[Stored], folder: Path, label: str, max_voxels: int) -> Intake:
    """Find which stored file shows which image.

    Raises InputError where they are files of several patients.
    """
    names = Names(os.path.join(_PLACE, label))
    placed = _lay_out(stored, folder, names)
    return _from_cases(cases_of_names(names), placed, stored, folder, label, max_voxels)


def _lay_out(stored: Sequence[Stored], folder: Path, names: Names) -> dict[str, Stored]:
    """Lay the stored files' names out in folders that exist as names alone.

    Returns path -> the file for which it stands.
    """
    placed: dict[str, Stored] = {}
    for item in stored:
        parts = [part for part in map(_component, item.name.split("/")) if part] or ["image"]
        is_index = parts[-1] == _INDEX and item.file.endswith(".json")
        path = names.add(parts, (folder / item.file).read_bytes() if is_index else None)
        if names.n_folders > MAX_FOLDERS:
            raise InputError(f"the upload has more than {MAX_FOLDERS} folders; drop one patient's folder at a time")
        if path is not None:  # None: a folder has the same name, and the user assigns the file by hand
            placed[path] = item
    return placed


def _component(text: str) -> str:
    """Return one harmless part of a path.

    It has letters, digits, blanks and ``-_.+,=@()[]``, no dot in front, and at most 100 bytes.
    """
    safe = "".join(c if c.isalnum() or c in "-_.+,=@()[] " else "_" for c in text).strip(". ")
    return safe.encode()[-100:].decode("utf-8", "ignore").strip(". ")


def _from_cases(
    cases: Sequence[Case],
    placed: dict[str, Stored],
    stored: Sequence[Stored],
    folder: Path,
    label: str,
    max_voxels: int,
) -> Intake:
    known = [case for case in cases if case.images or case.reference]
    with_images = [case for case in known if case.images]
    roles = [role for case in known for role in _sources_of(case)]
    if len(with_images) > 1 and len(set(roles)) < len(roles):
        names = _listed([case.case_id for case in with_images])
        raise InputError(f"the upload holds {len(with_images)} patients ({names}); drop one patient at a time")
    # The top folder is ours: a user sees an upload in its place.
    shown = {_PLACE + os.sep: "", f"the folder {label} ": "the upload ", f"the files of {label} ": "the files "}
    notes = [with_places(note, shown) for case in known for note in (*case.warnings, *case.problems)]
    if len(with_images) > 1:
        notes.append(f"the names speak of different patients: {_listed([c.case_id for c in with_images])}; check them")
    sources: list[Source] = []
    used: set[str] = set()
    for case in known:
        for role, image in _sources_of(case).items():
            own = [placed[str(path)] for path in image.paths if str(path) in placed]
            if len(own) == len(image.paths) and role not in {source.role for source in sources}:
                used |= {item.file for item in own}
                sources.append(_source(len(sources) + 1, own, image.channel, role))
    sources.sort(key=lambda source: ROLES.index(source.role or REFERENCE))
    left = [item for item in stored if item.file not in used and not item.file.endswith(".json")]
    for item in left[:_MOST_UNASSIGNED]:
        sources += _unassigned(len(sources) + 1, item, folder, max_voxels)
    if len(left) > _MOST_UNASSIGNED:
        notes.append(f"not used: {_listed([item.name for item in left[_MOST_UNASSIGNED:]])}")
    main = max(known, key=lambda case: len(case.images), default=None)
    truth = next((source for source in sources if source.role == REFERENCE), None)
    if main is not None and truth is not None:
        files = tuple(folder / name for name in truth.files)
        main = with_segment_names(replace(main, reference=ImageSource(files, truth.channel), warnings=()))
        notes += main.warnings
    return Intake(
        name=_name(main, label, sources),
        sources=tuple(replace(source, id=str(number)) for number, source in enumerate(sources, 1)),
        layout=main.layout if main else "by hand",
        layout_reason=main.layout_reason if main else "no name tells what the files show",
        conventions=main.conventions if main else (),
        notes=tuple(dict.fromkeys(notes)),
    )


def _name(case: Case | None, label: str, sources: Sequence[Source]) -> str:
    """Name the patient.

    The name is that of its folder, else of its zip, else the beginning of its files' names, else the name of its one
    file.
    """
    if case is not None and case.case_id != label:
        return case.case_id
    stems = [split_suffix(os.path.basename(source.name))[0] for source in sources if len(source.files) == 1]
    begun = {match.patient for stem in stems if (match := match_volume(stem)) and match.patient}
    if label != NAMELESS:
        return label
    if len(begun) == 1:
        return begun.pop()
    alone = stems[0] if len({source.files for source in sources}) == 1 and stems else ""
    return _component(alone) or label


def _sources_of(case: Case) -> dict[str, ImageSource]:
    return {**case.images, **({REFERENCE: case.reference} if case.reference else {})}


def _source(number: int, items: Sequence[Stored], channel: int | None, role: str | None) -> Source:
    name = items[0].name
    if len(items) > 1:
        name = f"{name} and {len(items) - 1} more slices"
    if channel is not None:
        what = "band" if split_suffix(items[0].name)[1] in SLICE_SUFFIXES else "volume"
        name = f"{name}, {what} {channel + 1}"
    return Source(str(number), name, tuple(item.file for item in items), channel, role, role)


def _unassigned(number: int, item: Stored, folder: Path, max_voxels: int) -> list[Source]:
    """Return the sources of a file that no name explains.

    They are one image, or one for each of its volumes.
    """
    try:
        header = read_header(ImageSource((folder / item.file,), 0), max_voxels=max_voxels)
    except InputError:  # the check of the case reports it
        return [_source(number, [item], None, None)]
    if header.channels == 1:
        return [_source(number, [item], None, None)]
    return [_source(number + channel, [item], channel, None) for channel in range(min(header.channels, 8))]
