"""Look at a case before it runs: voxels, fitting models, missing images.

Every voxel is read, by the rules of `inspect`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data.case import DICOM, Case, ImageSource
from data.errors import InputError, SegmentationError
from data.find.naming import MODALITIES, REFERENCE
from data.find.recognise import ConventionChoice, choose_conventions, read_label_values
from data.io.read import read_header
from data.io.suffixes import SLICE_SUFFIXES, split_suffix
from data.plausibility import Impression, doubts, shows_head
from pipeline.checkpoint import Checkpoint, open_checkpoint
from pipeline.default_model import choose_model
from pipeline.web.compute.advice import FOLDER, PREPARE_BOX, SAY_CONVENTION, for_page, shown_names, with_names

FILES = Path("files")
Request = dict[str, Any]


def case_of(record: Mapping[str, Any], folder: Path = FILES, *, linked: bool = False) -> Case:
    """Return the case as the user assigned it.

    With ``linked``, its files are linked as ``folder/<modality>.nii.gz``.
    """
    images: dict[str, ImageSource] = {}
    for source in record["sources"]:
        if source["role"] is not None:
            image = _image_of(source)
            if linked and len(image.paths) == 1 and source["channel"] is None and not image.series:
                path = link(image.paths[0], folder / (source["role"] + split_suffix(image.paths[0].name)[1]))
                image = replace(image, paths=(path,))
            images[source["role"]] = image
    reference = images.pop(REFERENCE, None)
    ordered = {modality: images[modality] for modality in MODALITIES if modality in images}
    conventions = tuple(record["conventions"])
    if reference is None and record["convention"] not in (None, *conventions):
        conventions = ()  # the names left the convention open; _convention decided it
    return Case(
        case_id=record["name"],
        folder=Path(FOLDER),
        layout=record["layout"],
        layout_reason=record["layout_reason"],
        images=ordered,
        reference=reference,
        conventions=conventions,
        warnings=tuple(record["notes"]),
    )


def _image_of(source: Mapping[str, Any]) -> ImageSource:
    paths = tuple(FILES / name for name in source["files"])
    return ImageSource(paths, source["channel"], series=source["series"])


def link(stored: Path, path: Path) -> Path:
    """Link a file of ours under another name; return the new path.

    It is copied where links cannot be.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    try:
        os.link(stored, path)
    except OSError:  # a file system without hard links
        shutil.copyfile(stored, path)
    return path


def check(request: Request) -> dict[str, Any]:
    """Read every voxel and say which models fit and whether the case can run.

    The rules are those of `inspect`.
    """
    from pipeline.inspect import inspect_case

    record, max_voxels = request["case"], request["max_voxels"]
    case = case_of(record | {"convention": None})
    models = [open_checkpoint(path) for path in request["models"]]
    fitting = [model for model in models if _fits(model, case)]
    chosen = _chosen(record["wanted_model"], fitting, case)
    choice = _convention(case, chosen, max_voxels)
    # Without a reference the page needs no convention, and it says itself which images are missing.
    asked = choice if case.reference else replace(choice, error=None)
    impressions: dict[str, Impression] = {}
    usual = case.layout == DICOM  # each series has a grid of its own
    seen = inspect_case(
        case, asked, True, False, max_voxels, advises=False, tells_grids=not usual, impressions=impressions
    )
    problems, warnings = list(seen["problems"]), list(seen["warnings"])
    problems += [sentence for role, sentence in record["ties"] if role not in case.images]
    unready = ""
    if chosen is not None and chosen.expects_brain_alone and any(map(shows_head, impressions.values())):
        # Of a head these doubts say what the preparation mends.
        mended = {*doubts(impressions, skull_stripped=True)} - {*doubts(impressions, skull_stripped=False)}
        warnings = [text for text in warnings if text not in mended]
        unready, unmet = _head(record["prepare"])
        problems += unmet
    if not case.images:
        problems = ["nothing is assigned: say what each file shows (T1, T1c, T2 or FLAIR)"]
    elif not fitting:
        problems.append(_no_model(models, case))
    missing = [m for m in (chosen.settings["modalities"] if chosen else MODALITIES) if m not in case.images]
    if chosen is not None and missing:
        place = "its place" if len(missing) == 1 else "their place"
        warnings.append(
            f"no {', '.join(missing)} image: {chosen.name} takes zeros in {place}, which it was trained for, but the "
            "mask is better with all that there are"
        )
    warnings += _unknown_spacing(case, seen)
    sources = [_looked_at(source, seen, problems + warnings, max_voxels) for source in record["sources"]]
    shape = next((s["shape"] for s in sources if s["role"] not in (None, REFERENCE) and s["shape"]), None)
    names = shown_names(record["sources"])

    def said(text: str) -> str:
        return with_names(for_page(text), names)  # names come last, so that a name is never reworded

    return {
        "sources": [source | {"problem": source["problem"] and said(source["problem"])} for source in sources],
        "missing": missing,
        "unready": unready,
        "problems": [said(text) for text in problems],
        "warnings": [said(text) for text in warnings],
        "can_run": not problems and chosen is not None,
        "model": chosen.name if chosen else None,
        "models": [model.name for model in fitting],
        "convention": choice.name,
        "voxels": int(np.prod(shape)) if shape else 0,
    }


def _head(prepare: str) -> tuple[str, list[str]]:
    """Return the plan for a head, or the reason against it."""
    from transforms.skull import is_installed  # torch, which a check does without otherwise

    head = "the images show the head with its skull"
    if not is_installed():
        return "", [
            f"{head}, which this server cannot remove (the extra `raw` is not installed); skull-strip them first"
        ]
    if prepare == "off":
        return head, [f"{head}, and the model expects the brain alone; switch on “{PREPARE_BOX}”, or skull-strip them"]
    return head, []


def _fits(model: Checkpoint, case: Case) -> bool:
    lacking = set(model.settings["modalities"]) - set(case.images)
    untrained = model.settings.get("augment", {}).get("missing_modality", 0) <= 0
    return bool(case.images) and (not lacking or (not untrained and lacking < set(model.settings["modalities"])))


def _chosen(wanted: str | None, fitting: Sequence[Checkpoint], case: Case) -> Checkpoint | None:
    """Choose the model of a case.

    It is the one that the user asks for, else the one that `segment` would take by itself, else the one that lacks
    fewest images.
    """
    if not fitting:
        return None
    names = {model.name: model for model in fitting}
    try:
        own = choose_model(case).name
    except SegmentationError:  # none is shipped
        own = ""
    least = min(fitting, key=lambda model: len(set(model.settings["modalities"]) - set(case.images)))
    return names.get(wanted or "") or names.get(own) or least


def _no_model(models: Sequence[Checkpoint], case: Case) -> str:
    if not models:
        return "this server has no model; tell the person who runs it"
    lacking = min(
        ([m for m in model.settings["modalities"] if m not in case.images] for model in models),
        key=lambda names: len(names),
    )
    return f"no model can do without {', '.join(lacking)}; add {'it' if len(lacking) == 1 else 'them'}"


def _convention(case: Case, model: Checkpoint | None, max_voxels: int) -> ConventionChoice:
    labels = partial(read_label_values, max_voxels=max_voxels)
    fallback = str(model.settings["convention"]) if model else None
    choices = choose_conventions([case], fallback=fallback, read_labels=labels, way_out=SAY_CONVENTION)
    choice = choices[case.case_id]
    if choice.error and case.reference is None and case.conventions:
        # Nothing is compared, and the page cannot choose a convention: take the model's own.
        return _convention(replace(case, conventions=()), model, max_voxels)
    return choice


def _unknown_spacing(case: Case, seen: dict[str, Any]) -> list[str]:
    """Return a sentence where an image states neither voxel size nor orientation."""
    for role, source in case.images.items():
        image = seen["images"][role]
        if image["shape"] and image["spacing_mm"] is None:
            slices = split_suffix(source.paths[0].name)[1] in SLICE_SUFFIXES
            what, lie = ("slices", "the slices lie") if slices else ("images", "they are stored")
            return [
                f"the {what} carry no voxel size and no orientation: volumes are in voxels, and left and right are as "
                f"{lie}"
            ]
    return []


def _looked_at(source: dict[str, Any], seen: dict[str, Any], said: Sequence[str], max_voxels: int) -> dict[str, Any]:
    known = {key: source[key] for key in ("id", "role")} | {"problem": None}
    paths = [FILES / name for name in source["files"]]
    if source["series"] and source["role"] is None:  # its reasons say why it is left aside
        return known | {"shape": None, "spacing_mm": None, "orientation": None}
    if (image := seen["images"].get(source["role"])) is not None:
        problem = (
            next((text for text in said if text.startswith(f"{paths[0]}: ")), None) if not image["shape"] else None
        )
        return known | {key: image[key] for key in ("shape", "spacing_mm", "orientation")} | {"problem": problem}
    try:
        grid = read_header(_image_of(source), max_voxels=max_voxels).grid
    except InputError as error:
        return known | {"shape": None, "spacing_mm": None, "orientation": None, "problem": str(error)}
    spacing = [round(s, 6) for s in grid.spacing_mm] if grid.spacing_known else None
    return known | {"shape": list(grid.shape), "spacing_mm": spacing, "orientation": grid.orientation}
