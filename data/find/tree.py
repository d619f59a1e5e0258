"""Listing of untrusted folders.

Links, loops, pipes and unreadable places become sentences, never a crash or a wait.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from data.find.naming import is_ignored, match_volume, natural_key, says_only_what_it_holds
from data.io.dicom.dataset import is_dicom
from data.io.suffixes import SLICE_SUFFIXES, SUFFIXES, VOLUME_SUFFIXES, split_suffix
from data.output_names import STATE_FOLDER
from data.regular_file import open_regular_file

_DICOM_HEAD = 132
NEVER = {"__MACOSX", "Thumbs.db", "desktop.ini", "Icon\r", ".DS_Store"}
_PROGRAMS_OWN = (".git", ".svn", ".hg", ".datalad", STATE_FOLDER, ".cache", ".trash", ".snapshot", ".ipynb_checkpoints")
"""How hidden folders begin in which programs keep copies of files: nobody's patients."""


@dataclass(frozen=True)
class Entry:
    """One name in a folder.

    Parameters
    ----------
    name : str
        As the system gives it; undecodable bytes stay surrogate-escaped.
    path : str
    link_target : str or None
        Where a symbolic link leads, when that is outside the input.
    problem : str or None
        Why the file cannot be used, the end of a sentence that begins with its name.
    real : str or None
        The place that a link to a folder leads to; None for a plain entry.
    """

    name: str
    path: str
    link_target: str | None = None
    problem: str | None = None
    real: str | None = None


class Listing(NamedTuple):
    """Content of a folder, in natural order.

    Parameters
    ----------
    files, folders : list of Entry
        Not the hidden ones.
    hidden : list of str
        Names that begin with a dot and may be a patient's all the same: images, and folders that hold some. What a Mac
        or another program leaves is not among them.
    """

    files: list[Entry]
    folders: list[Entry]
    hidden: list[str]


def list_folder(folder: str, root_real: str) -> Listing:
    """List the direct content of `folder`.

    Nothing is opened.

    A name that begins with one dot is hidden; one that begins with two is somebody's odd name and listed.

    Raises
    ------
    OSError
        The folder cannot be listed.
    """
    files: list[Entry] = []
    folders: list[Entry] = []
    hidden: list[str] = []
    with os.scandir(folder) as scan:
        for item in scan:
            if item.name in NEVER:
                continue
            if item.name.startswith(".") and not item.name.startswith(".."):
                if _hides_images(item):
                    hidden.append(item.name)
                continue
            if item.is_symlink():
                entry, is_folder = _follow(item.path, item.name, root_real)
            else:
                is_folder = item.is_dir()
                odd = None if is_folder or item.is_file() else "is a pipe, socket or device and not a file; remove it"
                entry = Entry(item.name, item.path, problem=odd)
            (folders if is_folder else files).append(entry)
    files, folders = (sorted(found, key=lambda entry: natural_key(entry.name)) for found in (files, folders))
    return Listing(files, folders, sorted(hidden, key=natural_key))


def _hides_images(item: os.DirEntry[str]) -> bool:
    """Tell whether a hidden name hides images.

    It is that of an image, or of a folder with an image that a layout names.
    """
    if item.name.startswith("._") or item.name.lower().startswith(_PROGRAMS_OWN):
        return False
    if not item.is_dir(follow_symlinks=False):
        return bool(split_suffix(item.name)[1])
    try:
        with os.scandir(item.path) as scan:
            inside = [split_suffix(inner.name) for inner in scan if not inner.name.startswith(".")]
    except OSError:
        return False
    return any(match_volume(stem) for stem, extension in inside if extension in VOLUME_SUFFIXES)


_NO_DICOM = (
    *(*SUFFIXES, ".json", ".csv", ".tsv", ".txt", ".html", ".pdf", ".xml", ".bval", ".bvec", ".raw", ".zraw", ".gz"),
    *(".jpg", ".jpeg", ".gif", ".bmp", ".zip", ".tar", ".7z", ".rar", ".mat", ".npy", ".npz", ".nrrd", ".h5", ".py"),
    *(".md", ".yaml", ".yml", ".safetensors", ".pt", ".xlsx", ".xls", ".docx", ".log", ".exe", ".dll", ".inf", ".jar"),
)


def begins_as_dicom(entry: Entry) -> bool:
    """Tell whether a file begins as DICOM does.

    One with the name of another format is not opened.
    """
    return not entry.problem and is_dicom_file(entry.path, entry.name)


def is_dicom_file(path: str, name: str) -> bool:
    """Tell whether the file at ``path``, which came under ``name``, begins as DICOM does."""
    if name.lower().endswith(_NO_DICOM):
        return False
    try:
        with open_regular_file(path) as (file, _):
            return is_dicom(file.read(_DICOM_HEAD))
    except (OSError, ValueError):
        return False


def linked_out(path: str, root_real: str) -> list[Entry]:
    """Return the file at `path` where it is a link out of the input.

    Its user must be told of such a link; any other file gives nothing.
    """
    entry = _follow(path, os.path.basename(path), root_real)[0] if os.path.islink(path) else None
    return [entry] if entry is not None and entry.link_target else []


def _follow(path: str, name: str, root_real: str) -> tuple[Entry, bool]:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        why = (
            "which does not exist or cannot be reached"
            if isinstance(error, FileNotFoundError)
            else f"which fails: {error.strerror}"
        )
        return Entry(
            name, path, problem=f"is a symbolic link to {os.readlink(path)}, {why}; fetch the file or remove the link"
        ), False
    real = os.path.realpath(path)
    outside = real if real != root_real and not real.startswith(root_real.rstrip(os.sep) + os.sep) else None
    if stat.S_ISDIR(mode):
        return Entry(name, path, link_target=outside, real=real), True
    odd = None if stat.S_ISREG(mode) else "leads to a pipe, socket or device and not to a file; remove it"
    return Entry(name, path, link_target=outside, problem=odd), False


def lift_wrapped_files(folders: list[Entry], listing: Callable[[str], Listing]) -> tuple[list[Entry], list[Entry]]:
    """Folders that stand for a single file: ``x_flair.nii/`` of the Kaggle mirrors, one folder a modality of BraTS
    2012-2016.

    Returns
    -------
    lifted : list of Entry
        One a folder: the folder's name (it is the one that names the modality) with the path of the file inside.
    remaining : list of Entry
        All other folders.
    """
    lifted, remaining = [], []
    for folder in folders:
        stem, extension = split_suffix(folder.name)
        match = match_volume(stem)
        entry = _unwrap(folder, stem, extension, listing) if extension or match else None
        if entry is None:
            remaining.append(folder)
        else:
            lifted.append(entry)
    return lifted, remaining


def _unwrap(folder: Entry, stem: str, extension: str, listing: Callable[[str], Listing]) -> Entry | None:
    try:
        files, folders, _ = listing(folder.path)
    except OSError:
        return None
    if not files and len(folders) == 1 and says_only_what_it_holds(folders[0].name):  # 1_T1/NIFTI/T1.nii
        try:
            files, folders, _ = listing(folders[0].path)
        except OSError:
            return None
    volumes = [entry for entry in files if split_suffix(entry.name)[1] in VOLUME_SUFFIXES]
    roles = {match.roles[0][0] for entry in volumes if (match := match_volume(split_suffix(entry.name)[0]))}
    if folders or len(roles) > 1 or any(split_suffix(entry.name)[1] in SLICE_SUFFIXES for entry in files):
        return None
    if len(volumes) == 1:
        inner_stem, inner_extension = split_suffix(volumes[0].name)
        own = match_volume(stem)
        # "seg/scan.nii" is a mask, "images_segm/P1_segm.nii" a set's folder of masks that happens to hold one.
        whose = own is not None and (not own.is_reference or not own.patient)
        unnamed = whose and not roles and not is_ignored(inner_stem)
        if extension or inner_stem == stem or unnamed or (own and not own.is_reference and roles == {own.roles[0][0]}):
            return replace(
                volumes[0], name=stem + inner_extension, link_target=volumes[0].link_target or folder.link_target
            )
        return None
    if extension:
        return replace(
            folder,
            problem=f"is a folder that holds {len(volumes)} images where one file should be; put the file here",
        )
    return None
