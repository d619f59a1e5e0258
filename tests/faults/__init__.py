"""Broken patients, one small function a fault.

None is stored: each is made from an undamaged phantom when it is needed.

`FAULTS` is the register. ``python -m tests.faults`` runs them all and prints what the pipeline makes of each.
"""

from __future__ import annotations

from tests.faults import dicom, files, geometry, headers, patients, references, voxels
from tests.faults.registry import FAULTS, CannotMake, Fault
from tests.faults.sowing import HEALTHY, Sown, ordinary_name, small_model, sow, sow_healthy

__all__ = [
    "FAULTS",
    "HEALTHY",
    "CannotMake",
    "Fault",
    "Sown",
    "dicom",
    "files",
    "geometry",
    "headers",
    "ordinary_name",
    "patients",
    "references",
    "small_model",
    "sow",
    "sow_healthy",
    "voxels",
]
