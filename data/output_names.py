"""Names inside an output folder: masks, pictures, maps, tables, records and state files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from data.case import MODALITIES
from data.labels import REGIONS

REPORT, METRICS, LESIONS, DETECTION = "report.csv", "metrics.csv", "lesions.csv", "detection.csv"
TABLES = (REPORT, METRICS, LESIONS, "summary.csv", DETECTION)
PAGE = "report.html"
RUN_RECORD = "run.json"
TIMEPOINTS, LESIONS_OVER_TIME, RESPONSE = "timepoints.csv", "lesions_over_time.csv", "response.csv"
"""Tables of `follow`."""
FOLLOWUP = "followup.html"
"""Pages of `follow`: the overview, and one in each patient's folder."""
FOLLOWED_MASKS = "masks"
"""Folder below the output of `follow` into which it segments."""
GROWTH = "growth"
"""Growth map of `follow`, in a patient's folder."""
LABEL_DESCRIPTIONS = ("labels*.txt", "labels*.ctbl")
"""Patterns: a run with several conventions has a pair for each."""

STATE_FOLDER = ".state"
"""One JSON file for each finished case, with its identity."""
STAGING = "staging"
"""Below the state folder: scratch folder of the running process."""
SHARD_RECORD = "shard"
"""Below the state folder: the record of a finished part. Its name ends otherwise than those of state files."""

MASK, PREVIEW = "seg", "preview"
BRAIN = "brain"
"""Mask of the brain that was found, where the skull was removed."""
"""``seg_<modality>`` and ``seg_mni`` are the mask on another grid."""
TRANSFORM = "xfm"
"""With ``_<modality>``: the move that laid it on the reference, an ITK transform; ``xfm_mni`` leads there from MNI."""
MNI = "mni"
"""In the place of a modality: the MNI152 template."""
GRIDS = (*MODALITIES, MNI)
"""Further grids on which a mask may lie."""
_KINDS = {
    MASK: "grids",
    "preview": "previews",
    "prob": "probabilities",
    "uncertainty": "uncertainties",
    TRANSFORM: "transforms",
}
_SUFFIXES = {PREVIEW: ".png", TRANSFORM: ".txt"}
_IMAGES, _EXPORTS = "images", "exports"
KIND_FOLDERS = frozenset({*_KINDS.values(), _IMAGES, _EXPORTS})
"""Folders of a flat output, see :func:`result_path`."""
EXPORTS: Mapping[str, str] = {
    "seg-nrrd": "seg.seg.nrrd",
    "dicom-seg": "seg.dcm",
    "rtstruct": "rtstruct.dcm",
    "sr": "sr.dcm",
    "pdf": "report.pdf",
}
"""Formats of a mask beside NIfTI, and the ends of their files' names."""
RESULTS = (
    MASK,
    PREVIEW,
    BRAIN,
    *(f"{kind}_{region}" for kind in ("prob", "uncertainty") for region in REGIONS),
    *(f"{kind}_{grid}" for kind in (MASK, TRANSFORM) for grid in GRIDS),
    *MODALITIES,
    *EXPORTS,
)
"""Results that a case may leave, see :func:`result_path`."""
RESULT = re.compile(
    rf"{MASK}(?:_(?:{'|'.join(GRIDS)}))?|{PREVIEW}|{BRAIN}|{GROWTH}|(?:prob|uncertainty|{TRANSFORM})_[A-Za-z0-9]+"
    rf"|{'|'.join((*MODALITIES, *EXPORTS))}"
)
"""A result of this version or another, whose regions may have other names."""


def result_path(output: Path, folder: str, what: str, flat: bool) -> Path:
    """Return the path of a result. ``folder`` is the name of the case's output folder.

    ``what`` is ``"seg"``, ``"preview"``, ``"brain"``, ``"prob_<region>"``, ``"uncertainty_<region>"``,
    ``"seg_<grid>"`` or ``"xfm_<grid>"`` of `GRIDS`, one of `EXPORTS` or, for cases that came as slices, a modality.
    With ``flat``, masks on the cases' own grids lie side by side as ``<folder>.nii.gz`` and everything else in folders
    of its own kind.
    """
    suffix = _SUFFIXES.get(what.partition("_")[0], ".nii.gz")
    if what in EXPORTS:
        return output / (_EXPORTS if flat else folder) / f"{folder}_{EXPORTS[what]}"
    if not flat:
        return output / folder / f"{folder}_{what}{suffix}"
    if what == MASK:
        return output / f"{folder}{suffix}"
    return output / _KINDS.get(what.partition("_")[0], _IMAGES) / f"{folder}_{what}{suffix}"


def result_paths(output: Path, folder: str, what: str) -> tuple[Path, Path]:
    """Return both paths that a result may have.

    One is in the case's own folder, the other in a flat output.
    """
    return result_path(output, folder, what, False), result_path(output, folder, what, True)


def state_file(output: Path, folder: str) -> Path:
    """Return the path of the state file of a case."""
    return output / STATE_FOLDER / f"{folder}.json"
