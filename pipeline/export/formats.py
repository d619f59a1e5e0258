"""Formats of a mask that a run may be asked for."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib.util import find_spec

from data.case import ImageSource
from data.errors import InputError, UsageError
from data.output_names import EXPORTS

NIFTI = "nifti"
DICOM_OBJECTS = ("dicom-seg", "rtstruct", "sr")
"""Made of a DICOM series alone, by highdicom."""


def exports_of(outputs: Sequence[str]) -> list[str]:
    """Return the formats to write beside NIfTI, each once.

    A structured report refers to a DICOM segmentation, which is then written too.

    Raises
    ------
    UsageError
        A format is not known.
    """
    unknown = [name for name in outputs if name not in EXPORTS and name != NIFTI]
    if unknown:
        raise UsageError(f"--outputs {unknown[0]}: choose among {', '.join((NIFTI, *EXPORTS))}")
    asked = {*outputs, *(["dicom-seg"] if "sr" in outputs else [])}
    return [name for name in EXPORTS if name in asked]


def require_series(outputs: Sequence[str], images: Collection[ImageSource]) -> None:
    """Refuse DICOM masks of images that are no DICOM series.

    Raises
    ------
    data.errors.InputError
        A DICOM object is asked for, and none of the images is a series.
    """
    if any(name in outputs for name in DICOM_OBJECTS) and not any(image.series for image in images):
        raise InputError(
            "DICOM masks refer to the DICOM series that they were made from, and this image is none; give the "
            "examination as DICOM, or choose --outputs nifti seg-nrrd pdf"
        )


def possible_outputs(images: Collection[ImageSource]) -> tuple[tuple[str, ...], str]:
    """Return the formats that can be written of a patient's images here.

    A sentence says which cannot, and why; it is empty where all can.
    """
    kept = tuple(name for name in (NIFTI, *EXPORTS) if name not in DICOM_OBJECTS)
    if not all(image.series for image in images):
        return kept, "DICOM-SEG, RTSTRUCT and the structured report are made of DICOM images alone"
    if not all(map(find_spec, ("highdicom", "contourpy"))):
        return kept, "DICOM-SEG, RTSTRUCT and the structured report need the extra `dicom`, which is not installed here"
    return (NIFTI, *EXPORTS), ""
