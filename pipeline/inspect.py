"""Inspection of a folder, before any work."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from data.case import GRID_ORDER, Case, ImageSource, TimePoint
from data.errors import CheckpointError, InputError, Mend, UsageError, advise
from data.find.dicom.examinations import DicomOptions
from data.find.discover import discover_cases
from data.find.naming import MODALITIES
from data.find.recognise import ConventionChoice, choose_conventions, read_label_values
from data.grid import Grid
from data.io.read import MAX_VOXELS, ImageHeader, read_header, read_label_map, read_volume
from data.labels import convention_name, load_convention
from data.plausibility import Impression, doubts, impression
from data.references import other_grid, slightly_off, strange_labels
from pipeline.checkpoint import Checkpoint
from pipeline.default_model import choose_model

_NO_TIME_POINT = TimePoint("")
_READERS = 4
"""Masks that are read at once: each may take a gigabyte, where its header says so and its file can hold it."""


def inspect_cases(
    root: Path,
    *,
    full: bool = False,
    convention: str | None = None,
    strict: bool = False,
    max_voxels: int = MAX_VOXELS,
    dicom: DicomOptions | None = None,
) -> list[dict[str, Any]]:
    """Look at every patient below ``root``.

    It reads names, headers, and as many masks as the label convention needs.

    Parameters
    ----------
    full : bool
        Read and check every voxel too, and hold the images of a patient against each other and against what the
        shipped model that fits the patient expects.
    convention : str, optional
        Taken for all, whatever the evidence.
    strict : bool
        Count every warning as a problem.
    max_voxels : int
        Larger files are refused from their header.
    dicom : DicomOptions, optional
        Choices about DICOM examinations.

    Returns
    -------
    list of dict
        One a case: case, patient, timepoint ("" where nothing tells of one), date, days, order, order_from (see
        `data.case.TimePoint`), status (ok, warn, error), layout, layout_reason, convention (None: not decided),
        convention_reason, images {modality or "reference": {file, shape, spacing_mm (None: unknown), orientation,
        dtype}}, missing (modalities that the fitting model needs), problems, warnings, unrecognised (file names),
        series (of a DICOM examination: uid, number, description, role, pictures, reasons). Plain values only.
    """
    if max_voxels < 1:
        raise UsageError(f"--max-voxels {max_voxels}: give a number of at least 1")
    cases = discover_cases(root, dicom=dicom)
    if convention is not None:
        load_convention(convention)
    read_labels = _label_reader(cases if convention is None else (), max_voxels)
    choices = choose_conventions(cases, override=convention, read_labels=read_labels)
    models: dict[Any, Checkpoint | None] = {}
    return [inspect_case(case, choices[case.case_id], full, strict, max_voxels, models) for case in cases]


def _label_reader(cases: Iterable[Case], max_voxels: int) -> Callable[[ImageSource], Collection[float]]:
    """Return the reader of a mask's labels.

    Masks that will be asked for are read by several threads beforehand.

    A mask is unpacked outside Python's lock, so that threads share the processors. Each holds one mask in memory.
    """

    def read(source: ImageSource) -> Collection[float] | InputError | MemoryError:
        try:
            return read_label_values(source, max_voxels=max_voxels)
        except (InputError, MemoryError) as error:
            return error

    # Where the names admit one convention only, no mask is asked for.
    asked = [case.reference for case in cases if case.reference is not None and len(case.conventions) != 1]
    with ThreadPoolExecutor(min(_READERS, os.cpu_count() or 1)) as pool:
        known = dict(zip(asked, pool.map(read, asked), strict=True))

    def labels(source: ImageSource) -> Collection[float]:
        found = known[source] if source in known else read(source)
        if isinstance(found, InputError | MemoryError):
            raise found
        return found

    return labels


def inspect_case(
    case: Case,
    choice: ConventionChoice,
    full: bool,
    strict: bool,
    max_voxels: int,
    models: dict[Any, Checkpoint | None] | None = None,
    *,
    advises: bool = True,
    tells_grids: bool = True,
    impressions: dict[str, Impression] | None = None,
) -> dict[str, Any]:
    """Inspect one patient.

    ``models`` keeps those chosen for patients before; ``impressions`` gets those of images that are read. No warning is
    given of images that the shipped model lacks without ``advises``, of grids of their own without ``tells_grids``.
    """
    problems, warnings = [*case.problems], [*case.warnings, *choice.warnings]
    images: dict[str, Any] = {}
    headers: dict[str, ImageHeader] = {}
    impressions = {} if impressions is None else impressions
    sources = {**case.images, **({"reference": case.reference} if case.reference else {})}
    for name, source in sources.items():
        images[name] = _unread(source)
        try:
            headers[name] = _read(name, source, full, max_voxels, impressions)
        except InputError as error:
            # A bad reference costs the scores, not the patient.
            (warnings if name == "reference" else problems).append(str(error))
            continue
        images[name] |= _described(headers[name])
        warnings += headers[name].warnings
    warnings += _other_grids(headers, tells_grids)
    model = _known_model(case, headers.get(next(iter(case.images), "")), {} if models is None else models)
    if full:
        warnings += doubts(impressions, skull_stripped=model is not None and model.expects_brain_alone)
    if advises and model is not None and case.images:
        warnings += _lacking(case, model)
    if full and "reference" in headers and choice.name is not None and not choice.warnings:
        warnings += _unknown_labels(headers["reference"], sources["reference"], max_voxels, choice.name)
    if choice.error:
        (problems if case.reference else warnings).append(choice.error)
    if strict:
        problems, warnings = [*problems, *warnings], []
    return {
        "case": case.case_id,
        "patient": case.patient,
        **(case.timepoint or _NO_TIME_POINT).as_record(),
        "status": "error" if problems else "warn" if warnings else "ok",
        "layout": case.layout,
        "layout_reason": case.layout_reason,
        "convention": choice.name and convention_name(choice.name),
        "convention_reason": choice.reason,
        "images": images,
        "missing": [m for m in _needed(model) if m not in case.images],
        "problems": list(dict.fromkeys(problems)),
        "warnings": list(dict.fromkeys(warnings)),
        "unrecognised": [path.name for path in case.unrecognised],
        "series": [asdict(line) for line in case.series],
    }


def _known_model(case: Case, first: ImageHeader | None, models: dict[Any, Checkpoint | None]) -> Checkpoint | None:
    """Return the default model of a case, kept for patients alike.

    Most patients of a set are alike in all that a model is chosen by. ``first`` is the header of the first image.
    """
    alike = (case.layout, frozenset(case.images), first is not None and first.grid.shape[2] == 1)
    if alike not in models:
        models[alike] = _model_for(case)
    return models[alike]


def _unread(source: ImageSource) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "file": source.names[0],
        "shape": None,
        "spacing_mm": None,
        "orientation": None,
        "dtype": None,
    }
    return entry | ({"files": len(source.paths)} if len(source.paths) > 1 else {})


def _described(header: ImageHeader) -> dict[str, Any]:
    grid = header.grid
    return {
        "shape": list(grid.shape),
        "spacing_mm": [round(s, 6) for s in grid.spacing_mm] if grid.spacing_known else None,
        "orientation": _orientation(grid.affine.tobytes()),
        "dtype": header.dtype,
    }


@lru_cache(maxsize=1024)
def _orientation(affine: bytes) -> str:
    """Return the orientation of an affine given as bytes, (4, 4) float64.

    A set has few, and each takes nibabel a millisecond.
    """
    return Grid((1, 1, 1), np.frombuffer(affine).reshape(4, 4)).orientation


def _other_grids(headers: dict[str, ImageHeader], tells_images: bool) -> list[str]:
    """Return one sentence for each image that lies on another grid.

    Without ``tells_images``, of the reference alone.

    The grid is that of the image that gives it; a reference stored turned lies on it too.
    """
    native = next((headers[name] for name in (*GRID_ORDER, *headers) if name in headers), None)
    reference = headers.get("reference")
    differing = [
        f"{header.path.name}: its grid ({header.grid.described()}) is not that of {native.path.name} "
        f"({native.grid.described()})"
        for name, header in headers.items()
        if tells_images and native is not None and name != "reference" and not header.grid.matches(native.grid)
    ]
    doubt = other_grid(reference, native.grid) if reference is not None and native is not None else ""
    if reference is not None and native is not None:
        differing += slightly_off(reference.path.name, reference.grid, native.grid)
    return [*differing, f"{reference.path.name} {doubt}; resample it onto theirs"] if doubt and reference else differing


def _model_for(case: Case) -> Checkpoint | None:
    """Return the model that `segment` takes by itself."""
    try:
        return choose_model(case)
    except CheckpointError:  # none is shipped: then nothing is expected
        return None


def _needed(model: Checkpoint | None) -> list[str]:
    """Return the modalities that the model wants, all where there is no model."""
    return [m for m in MODALITIES if model is None or m in model.settings["modalities"]]


def _lacking(case: Case, model: Checkpoint) -> list[str]:
    """Return a sentence where the patient lacks an image that the model needs."""
    needed = model.settings["modalities"]
    lacking = [modality for modality in needed if modality not in case.images]
    if not lacking:
        return []
    zeros = len(lacking) < len(needed) and _does_without(model.settings)
    return [
        advise(
            f"{Path(case.shown).name}: no {', '.join(lacking)} image, and {model.name}, the shipped model that fits "
            f"best, needs {', '.join(needed)}",
            Mend.ADD_IMAGE_OR_TAKE_ZEROS if zeros else Mend.ADD_IMAGE,
        )
    ]


def _does_without(settings: Mapping[str, Any]) -> bool:
    """Tell whether a model works without some modality.

    As `RunConfig.missing_modalities`, of settings that were not checked (that check imports torch).
    """
    first = settings.get("first")
    trained = settings.get("augment", {}).get("missing_modality", 0) > 0
    return trained and (first is None or _does_without(first["recipe"]))


def _unknown_labels(header: ImageHeader, source: ImageSource, max_voxels: int, convention: str) -> list[str]:
    """Return a sentence where the reference holds labels unknown to its convention."""
    doubt = strange_labels(read_label_values(source, max_voxels=max_voxels), load_convention(convention))
    return [advise(f"{header.path.name} {doubt}, so that it is not scored", Mend.NAME_CONVENTION)] if doubt else []


def _read(
    name: str, source: ImageSource, full: bool, max_voxels: int, impressions: dict[str, Impression]
) -> ImageHeader:
    """Read the header.

    With ``full`` all voxels are checked, and of an image the impression is kept.
    """
    if not full:
        return read_header(source, max_voxels=max_voxels)
    if name == "reference":
        return read_label_map(source, max_voxels=max_voxels).header
    volume = read_volume(source, max_voxels=max_voxels)
    impressions[name] = impression(volume.array, volume.header)
    return volume.header
