"""Formats of a mask that a run may be asked for."""

from __future__ import annotations

from collections.abc import Sequence

from data.errors import UsageError
from data.output_names import EXPORTS

NIFTI = "nifti"


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
