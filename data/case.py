"""Patients as found on disk.

Plain frozen data, made by `data.find.walk` and used by everything above.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

MODALITIES = ("t1", "t1c", "t2", "flair")
GRID_ORDER = ("t1c", "flair", "t1", "t2")
"""The first of these that a patient has gives the grid; the contrast-enhanced scan usually has the smallest voxels."""

MAX_VOXELS = 2**28
"""Most voxels of up to 4 bytes that one file may declare, all its volumes together (float64 counts double)."""


@dataclass(frozen=True)
class ImageSource:
    """Place of one image's voxels.

    Parameters
    ----------
    paths : tuple of Path
        One file, or the slices of one volume in natural order.
    channel : int or None
        Index of the volume in a 4D file or of the band in colour slices; None when there is only one.
    volumes : int or None
        So many volumes the names, or dataset.json, give the file; None where they say nothing of it.
    """

    paths: tuple[Path, ...]
    channel: int | None = None
    volumes: int | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One patient as found on disk; nothing but names was looked at.

    Parameters
    ----------
    case_id : str
        The path of the patient's folder below the root, without folders that only say what they hold (``P1`` for
        ``P1/images``, ``sub-01/ses-1`` for ``sub-01/ses-1/anat``), and the name inside the file names where several
        patients lie in it. A public set's own name stands alone (``BraTS2021_00001``). It follows from the patient's
        own path and files, so that another patient changes none. Unique within one discovery.
    folder : Path
        The folder that holds the files.
    layout, layout_reason : str
        Which naming was recognised, and a sentence that says why.
    images : mapping of str to ImageSource
        Modality (t1, t1c, t2, flair) to its image; a missing modality is absent.
    reference : ImageSource or None
    conventions : tuple of str
        Label conventions that the naming admits, best first; empty when it says nothing.
    conventions_from : str
        What tells them where it is not the naming: the names in the header of a segmentation.
    problems : tuple of str
        Sentences that make the patient an error row.
    warnings : tuple of str
        Sentences about what is doubtful.
    unrecognised : tuple of Path
        Files (and folders within) that no layout names; they change nothing.
    """

    case_id: str
    folder: Path
    layout: str
    layout_reason: str
    images: Mapping[str, ImageSource]
    reference: ImageSource | None
    conventions: tuple[str, ...] = ()
    conventions_from: str = ""
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    unrecognised: tuple[Path, ...] = ()
