"""Matching of file names by the layouts of data sets."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from data.case import MODALITIES
from data.find.layouts.layout import REFERENCE, Layout, load_layouts, note_match

_WITHIN_PATIENT = frozenset({"anat", "image", "images", "imaging", "img", "mr", "mri", "nifti", "nii", "scans"})
_SESSION = re.compile("ses-[0-9A-Za-z]+")  # BIDS


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


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sorting key under which ``x_2`` comes before ``x_10``; distinct names have distinct places."""
    parts = re.split("([0-9]+)", name)
    numbered = tuple((1, int(part), part) if index % 2 else (0, 0, part.casefold()) for index, part in enumerate(parts))
    return (*numbered, (0, 0, name))


def says_only_what_it_holds(name: str) -> bool:
    """Tell whether a folder's name describes its files and no patient:

    ``anat``, ``imagesTr``.
    """
    return name.lower() in _WITHIN_PATIENT or name in folders_of_a_set()


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


def folders_of_a_set(role: str | None = None) -> frozenset[str]:
    """Return the folder names that describe a set's files:

    ``"image"``, ``"reference"`` or both.
    """
    layouts = load_layouts().values()
    return frozenset[str]().union(
        *(layout.image_folders for layout in layouts if role != REFERENCE),
        *(layout.reference_folders for layout in layouts if role != "image"),
    )


def holds_what_programs_made(name: str) -> bool:
    """Tell whether a folder is called after a program that wrote masks there.

    LUMIERE has such folders within those of its patients.
    """
    return any(name in layout.not_ours_folders for layout in load_layouts().values())


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
            note_match(layout)
            patient = found.groupdict().get("patient") or ""
            if layout.kind == "channels":
                roles = tuple((modality, channel) for channel, modality in enumerate(layout.channels))
                return Match(layout, patient, roles, len(roles))
            role = layout.tokens[found["token"].lower()]
            return None if role == "ignored" else Match(layout, patient, ((role, None),))
        if any(pattern.fullmatch(stem) for pattern in layout.other_references):
            return Match(layout, "", ((REFERENCE, None),))
    return match_suffix(stem)


def is_ignored(stem: str) -> bool:
    """Tell whether a layout knows a name as nothing of ours.

    Examples are a brain mask and an automatic segmentation.
    """
    return any(pattern.fullmatch(stem) for layout in load_layouts().values() for pattern in layout.ignored)


_PROCESSED = re.compile(
    r"(?:[-_. ](?:hd[-_]?bet|bet|brain|ss|stripped|skull[-_]?stripped"
    r"|n4|bfc|reg|registered|coreg|mni|resampled|norm|eq(?:_[0-9])?|(?:crop|tilt)_[0-9]))+$",
    re.IGNORECASE,
)
"""What programs write behind a name: brain extraction, registration, dcm2niix (Eq, Crop, Tilt) and the like."""
_ENTITY = re.compile(
    r"_(?:acq|ce|rec|dir|run|mod|echo|part|space|res|den|label|desc|hemi|recon|chunk)(?:-[0-9A-Za-z]+|$)", re.IGNORECASE
)
"""Pair of key and value in a BIDS name that tells no patient."""
_OF_A_MASK = re.compile(
    r"(?:^|[-_. ])(?:manual|expert|consensus|final|gt|ground[-_ ]?truth|corrected|edited|reviewed|tumou?r|lesion|roi|"
    r"annotations?|segmentation[-_ ]?[0-9]*|rater[-_ ]?[0-9a-z]?)$",
    re.IGNORECASE,
)


def plain_name(patient: str) -> str:
    """Return the patient's name without the parts that name an image or a mask.

    ``P1_reg``, ``P1_t1c`` (of ``P1_t1c_seg``) and ``P1_space-T1w`` give ``P1``, ``manual`` gives ``""``.
    """
    name, before = _ENTITY.sub("", patient), ""
    while name != before:
        before, name = name, _OF_A_MASK.sub("", _PROCESSED.sub("", name))
        found = _match_end(name)
        if found and not found.is_reference:
            name = found.patient
    return name


def match_suffix(stem: str) -> Match | None:
    """Match the end of a name under the generic layout.

    ``smith_T1_post`` is t1c of ``smith``; None when it says nothing. An image may bear the word of a program behind
    its modality: ``smith_T1_bet``.
    """
    if (found := _match_end(stem)) or is_not_ours(stem):
        return found
    found = _match_end(_PROCESSED.sub("", stem))
    return found if found and not found.is_reference else None


def is_not_ours(stem: str) -> bool:
    """Tell whether the end of a name marks a file as foreign.

    A brain mask is such a file.
    """
    return _role_at_the_end(stem)[0] == "ignored"


def _match_end(stem: str) -> Match | None:
    role, start = _role_at_the_end(stem)
    if role in ("", "ignored"):
        return None
    return Match(load_layouts()["generic"], stem[:start].rstrip("-_. "), ((role, None),))


def _role_at_the_end(stem: str) -> tuple[str, int]:
    """Return the role that the end of a name shows, and its place;

    ``""`` for nothing.
    """
    layout = load_layouts()["generic"]
    for start in range(max(0, len(stem) - 24), len(stem)):
        if not stem[start].isalnum() or not _begins_word(stem, start):
            continue
        # The longest suffix is tried first: "t2_flair" is FLAIR of "x", not of "x_t2", and a brain mask is no tumour
        # mask.
        role = layout.tokens.get(re.sub(r"[-_. ]", "", stem[start:]).lower())
        if role:
            return role, start
    return "", 0


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
