"""Identity of a finished case: all that decides the bytes of its files.

It holds the input files, the models, the options that are marked in :mod:`pipeline.options`, the versions of the
packages that compute, and :data:`MASKS`. A case with another identity is done again. Tables have a number of their own,
:data:`TABLES`: with another one the masks are kept and scored again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from data.case import ImageSource
from data.errors import InputError
from data.io.read import read_header
from data.output_names import MNI
from pipeline.checkpoint import Checkpoint
from pipeline.options import Decides, SegmentOptions, options_that_decide
from pipeline.prepare.brain_masks import brain_mask_of
from pipeline.segment.task import CaseTask, sha256_of

MASKS = 2
"""Raise it whenever our code may give other bytes for the same input, model and options: all cases are done again."""
TABLES = 2
"""Raise it whenever a column of the tables is added, removed or computed otherwise: kept masks are scored again."""
PACKAGES = (
    "torch",
    "monai",
    "openvino",
    "nibabel",
    "SimpleITK",
    "numpy",
    "scipy",
    "connected-components-3d",
)
"""Libraries that decide the bytes of a mask."""


@lru_cache
def package_version(package: str) -> str:
    """Return the installed version of a package; empty when it is not there."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def versions() -> dict[str, str | int]:
    """Return, by name, the versions and numbers that decide a mask and its tables.

    These are the libraries' versions and our own numbers.
    """
    return {package: package_version(package) for package in PACKAGES} | {"masks": MASKS, "tables": TABLES}


def identity(task: CaseTask, models: Sequence[Checkpoint]) -> tuple[str, dict[str, str]]:
    """Hash all that decides the result; return it and the input files' hashes.

    A file with a refused header is not read further, however long it is, and has no hash: the reader names its fault.
    """
    sources = [*task.case.images.items(), *([("reference", task.case.reference)] if task.case.reference else [])]
    inputs: dict[str, str] = {}
    for _, source in sources:
        with suppress(InputError):
            read_header(source, max_voxels=task.options.max_voxels)
            inputs |= hashes_of(source)
    brain = task.options.brain_mask and brain_mask_of(Path(task.options.brain_mask), task.case.case_id)
    if brain:
        inputs[str(brain)] = sha256_of(brain)
    parts = {
        "options": options_that_decide(task.options, Decides.FILES),
        "inputs": [[role, [inputs.get(name, "") for name in source.names], source.channel] for role, source in sources],
        "models": [model.sha256 for model in models],
        "brain mask": inputs.get(str(brain), ""),
        "convention": task.convention.name,
        "warnings": [*task.case.warnings, *task.convention.warnings],
        "versions": {name: version for name, version in versions().items() if name != "tables"},
    }
    if task.options.space == MNI:  # its template lies there
        parts["template"] = package_version("nilearn")
    if task.reference is not None:  # else it is the mask's
        parts["reference convention"] = task.reference.name
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest(), inputs


def hashes_of(source: ImageSource) -> dict[str, str]:
    """Return the SHA-256 of an image's files by name.

    A DICOM series has one for all of its files, in any order.
    """
    hashes = {path: sha256_of(path) for path in source.paths}
    if not source.series:
        return {str(path): value for path, value in hashes.items()}
    return {source.names[0]: hashlib.sha256("".join(sorted(hashes.values())).encode()).hexdigest()}


def made_with(options: SegmentOptions, models: Mapping[str, str]) -> dict[str, Any]:
    """Return all that the parts of one run must have in common.

    The names are those that a user knows.

    Parameters
    ----------
    models : mapping of str to str
        Name and SHA-256 of each model that may have been used.
    """
    chosen = options_that_decide(options, Decides.FILES, Decides.ROW)
    return {
        **{f"model {name}": sha256 for name, sha256 in models.items()},
        **{f"--{name.replace('_', '-')}": value for name, value in chosen.items()},
        **{_NUMBERS.get(name, name): version for name, version in versions().items()},
    }


TABLE_FORMAT = "table format"
"""In :func:`made_with`, :data:`TABLES` of the version that made the part."""
_NUMBERS = {"masks": "mask format", "tables": TABLE_FORMAT}
