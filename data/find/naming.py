"""File names of data sets: one YAML file a layout, and matching by it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from data.case import MODALITIES
from data.errors import UsageError
from data.labels import CONVENTIONS
from data.strict_yaml import read_strict_yaml

REFERENCE = "reference"
VOLUME_EXTENSIONS = (".nii.gz", ".nii", ".mha", ".mhd")
SLICE_EXTENSIONS = (".tif", ".tiff", ".png")

_WITHIN_PATIENT = frozenset({"anat", "image", "images", "img", "mr", "mri", "nifti", "nii", "scans"})
_SESSION = re.compile("ses-[0-9A-Za-z]+")  # BIDS

_FOLDER = Path(__file__).parent / "layouts"
_KINDS = {"files", "channels", "numbered", "slices", "suffix"}
_OPTIONAL: dict[str, Any] = {
    "pattern": "", "images": {}, "reference": [], "other_references": [], "ignored": [], "not_ours": [],
    "channels": [], "image_folders": [], "reference_folders": [],
}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """Naming of the files of one data set.

    Parameters
    ----------
    name, title : str
        Its key, and what a person calls it.
    kind : {"files", "channels", "numbered", "slices", "suffix"}
        One file a modality; one 4D file; one numbered file a modality; one file a slice; modality by suffix alone.
    pattern : re.Pattern or None
        The whole name without extension, any case; groups ``patient``, ``token``, ``channel``, ``slice``, ``mask``.
    tokens : mapping of str to str
        Lower-case token to modality, ``"reference"`` or ``"ignored"``.
    other_references, ignored : tuple of re.Pattern
        Whole names that are a reference, or nothing of ours, whatever the pattern says.
    channels : tuple of str
        Modalities of a 4D file's volumes or of a colour slice's bands, in order.
    image_folders, reference_folders : frozenset of str
        Folder names that say what their files are.
    conventions : tuple of str
        Label conventions that the naming admits, best first; empty when it says nothing.
    example : mapping
        ``paths``, perhaps ``json``, and the ``cases`` that must be found: run by the tests.
    """

    name: str
    title: str
    kind: str
    pattern: re.Pattern[str] | None
    tokens: Mapping[str, str]
    other_references: tuple[re.Pattern[str], ...]
    ignored: tuple[re.Pattern[str], ...]
    channels: tuple[str, ...]
    image_folders: frozenset[str]
    reference_folders: frozenset[str]
    conventions: tuple[str, ...]
    example: Mapping[str, Any]


@dataclass(frozen=True)
class Match:
    """Patient and roles that a file's name gives.

    Parameters
    ----------
    layout : Layout
    patient : str
        As the name spells it; ``""`` when it names none.
    roles : tuple of (str, int or None)
        Modality (or ``"reference"``) and the channel that holds it; several for a 4D file.
    volumes : int or None
        So many volumes a 4D file must have for its channels to be these; None for a file of one image.
    """

    layout: Layout
    patient: str
    roles: tuple[tuple[str, int | None], ...]
    volumes: int | None = None

    @property
    def is_reference(self) -> bool:
        return self.roles[0][0] == REFERENCE


def parse_layout(mapping: Mapping[str, Any], source: str) -> Layout:
    """Make a layout from plain data.

    ``UsageError`` naming `source` for an unknown key, kind, modality, convention or bad pattern.
    """
    needed = {"name", "title", "kind", "conventions", "example"}
    if not needed <= set(mapping) or set(mapping) - needed - set(_OPTIONAL):
        raise UsageError(
            f"{source}: a layout has the keys {sorted(needed)} and perhaps {sorted(_OPTIONAL)}, not "
            f"{sorted(map(str, mapping))}"
        )
    raw = {**_OPTIONAL, **mapping}
    if raw["kind"] not in _KINDS:
        raise UsageError(f"{source}: the kind {raw['kind']!r} must be one of {sorted(_KINDS)}")
    if set(raw["images"]) - set(MODALITIES) or set(raw["channels"]) - set(MODALITIES):
        raise UsageError(f"{source}: modalities are {', '.join(MODALITIES)}, not {[*raw['images'], *raw['channels']]}")
    if set(raw["conventions"]) - set(CONVENTIONS):
        raise UsageError(f"{source}: conventions are {', '.join(CONVENTIONS)}, not {raw['conventions']}")
    tokens = {str(token).lower(): modality for modality, spelt in raw["images"].items() for token in spelt}
    tokens.update(
        {str(token).lower(): REFERENCE for token in raw["reference"]},
        **{str(token).lower(): "ignored" for token in raw["not_ours"]},
    )
    # Longest first, so that "t1ce" is not read as "t1" with something behind it.
    token_group = "(?P<token>" + "|".join(sorted(map(re.escape, tokens), key=len, reverse=True)) + ")"
    try:
        pattern = (
            re.compile(raw["pattern"].replace("{token}", token_group), re.IGNORECASE | re.DOTALL)
            if raw["pattern"]
            else None
        )
        others, ignored = (
            tuple(re.compile(text, re.IGNORECASE | re.DOTALL) for text in raw[key])
            for key in ("other_references", "ignored")
        )
    except re.error as error:
        raise UsageError(f"{source}: the pattern {error.pattern!r} is no regular expression: {error}") from error
    return Layout(
        str(raw["name"]), str(raw["title"]), raw["kind"], pattern, tokens, others, ignored, tuple(raw["channels"]),
        frozenset(raw["image_folders"]), frozenset(raw["reference_folders"]), tuple(raw["conventions"]), raw["example"],
    )  # fmt: skip


@cache
def load_layouts() -> Mapping[str, Layout]:
    """Return all shipped layouts by name.

    ``UsageError`` when a file of them is not valid.
    """
    layouts = {}
    for path in sorted(_FOLDER.glob("*.yaml")):
        try:
            layouts[path.stem] = parse_layout(read_strict_yaml(path), str(path))
        except ValueError as error:
            raise UsageError(str(error)) from error
    return layouts


def split_extension(name: str) -> tuple[str, str]:
    """Split a name into stem and image extension, lower case.

    The extension is ``""`` when it is none that we read.
    """
    lower = name.lower()
    for extension in VOLUME_EXTENSIONS + SLICE_EXTENSIONS:
        if lower.endswith(extension):
            return name[: -len(extension)], extension
    return name, ""


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sorting key under which ``x_2`` comes before ``x_10``; distinct names have distinct places."""
    parts = re.split("([0-9]+)", name)
    numbered = tuple((1, int(part), part) if index % 2 else (0, 0, part.casefold()) for index, part in enumerate(parts))
    return (*numbered, (0, 0, name))


def session_folder(folder: str, root: str) -> str:
    """Return the folder that is called after a patient or a session.

    It is looked for from one whose name says only what kind of files it holds.

    ``P1/images`` belongs to ``P1`` and ``sub-01/ses-1/anat`` to ``sub-01/ses-1``; `root` is never left.
    """
    while folder != root and os.path.basename(folder).lower() in _WITHIN_PATIENT:
        folder = os.path.dirname(folder)
    return folder


def patient_name(folder: str, root: str) -> str:
    """Return the name of the patient that owns a folder of files.

    It is ``sub-01`` for ``sub-01/anat`` and for ``sub-01/ses-1/anat``.
    """
    folder = session_folder(folder, root)
    if folder != root and _SESSION.fullmatch(os.path.basename(folder)):
        folder = os.path.dirname(folder)
    return os.path.basename(folder)


def match_volume(stem: str) -> Match | None:
    """Match a volume's name, wherever the file lies.

    The data sets' own layouts come before the generic one.

    Returns
    -------
    Match or None
        None when no layout names it, or when one says that it is nothing of ours.
    """
    layouts = load_layouts()
    for layout in layouts.values():
        if layout.kind not in ("files", "channels"):
            continue
        found = layout.pattern.fullmatch(stem) if layout.pattern else None
        if any(pattern.fullmatch(stem) for pattern in layout.ignored):
            return None
        if found:
            patient = found.groupdict().get("patient") or ""
            if layout.kind == "channels":
                roles = tuple((modality, channel) for channel, modality in enumerate(layout.channels))
                return Match(layout, patient, roles, len(roles))
            return Match(layout, patient, ((layout.tokens[found["token"].lower()], None),))
        if any(pattern.fullmatch(stem) for pattern in layout.other_references):
            return Match(layout, "", ((REFERENCE, None),))
    return match_suffix(stem)


def is_ignored(stem: str) -> bool:
    """Tell whether a layout knows a name as nothing of ours.

    Examples are a brain mask and an automatic segmentation.
    """
    return any(pattern.fullmatch(stem) for layout in load_layouts().values() for pattern in layout.ignored)


def match_suffix(stem: str) -> Match | None:
    """Match the end of a name under the generic layout.

    ``smith_T1_post`` is t1c of ``smith``; None when it says nothing.
    """
    layout = load_layouts()["generic"]
    for start in range(max(0, len(stem) - 24), len(stem)):
        if not stem[start].isalnum() or not _begins_word(stem, start):
            continue
        # The longest suffix is tried first: "t2_flair" is FLAIR of "x", not of "x_t2", and a brain mask is no tumour
        # mask.
        role = layout.tokens.get(re.sub(r"[-_. ]", "", stem[start:]).lower())
        if role:
            return None if role == "ignored" else Match(layout, stem[:start].rstrip("-_. "), ((role, None),))
    return None


def _begins_word(stem: str, start: int) -> bool:
    if start == 0 or stem[start - 1] in "-_. ":
        return True
    return stem[start].isupper() and (stem[start - 1].islower() or stem[start - 1].isdigit())


def modality_called(text: str) -> str | None:
    """Return the modality that a channel name of dataset.json means (``"T1ce"``, ``"T2w"``).

    None when it is none of the four.
    """
    found = match_suffix(text.strip())
    return found.roles[0][0] if found and found.roles[0][0] in MODALITIES else None
