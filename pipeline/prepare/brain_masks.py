"""Brain masks that a user gives, each named after its patient."""

from __future__ import annotations

from pathlib import Path

from data.errors import InputError, few


def brain_mask_of(folder: Path, case_id: str) -> Path | None:
    """Return the brain mask of a patient in a folder, by its name.

    None where there is none. The name is the patient's, or begins with it and a ``_``, ``-`` or ``.`` .
    """
    name = case_id.replace("\\", "/").rsplit("/", 1)[-1]
    found = sorted(
        path
        for path in (*folder.rglob("*.nii.gz"), *folder.rglob("*.nii"))
        if path.name.startswith((f"{name}_", f"{name}-", f"{name}.")) and path.is_file()
    )
    if len(found) > 1:
        raise InputError(f"{folder}: several brain masks of {case_id}: {few(p.name for p in found)}; keep one")
    return found[0] if found else None
