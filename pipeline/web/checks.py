"""Looking at a case before it runs: every voxel by the rules of `inspect`, which models fit, what is missing."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import InputError, SegmentationError
from data.io import read_header, read_label_map
from data.labels import count_labels
from data.naming import MODALITIES, REFERENCE, split_extension
from data.patient import Case, ImageSource
from data.recognise import ConventionChoice, choose_conventions
from pipeline.checkpoint import Checkpoint, choose_model, open_checkpoint

FILES = Path("files")
Request = dict[str, Any]


def case_of(record: Mapping[str, Any], folder: Path = FILES, *, linked: bool = False) -> Case:
    """The case as the user assigned it; with ``linked``, its files under ``folder/<modality>.nii.gz``."""
    images: dict[str, ImageSource] = {}
    for source in record["sources"]:
        if source["role"] is not None:
            paths = [FILES / name for name in source["files"]]
            if linked and len(paths) == 1 and source["channel"] is None:
                paths = [_link(paths[0], folder / (source["role"] + split_extension(paths[0].name)[1]))]
            images[source["role"]] = ImageSource(tuple(paths), source["channel"])
    reference = images.pop(REFERENCE, None)
    ordered = {modality: images[modality] for modality in MODALITIES if modality in images}
    return Case(
        record["name"], Path("patient"), record["layout"], record["layout_reason"], ordered, reference,
        tuple(record["conventions"]), (), tuple(record["notes"]),
    )  # fmt: skip


def _link(stored: Path, path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    try:
        os.link(stored, path)
    except OSError:  # a file system without hard links
        shutil.copyfile(stored, path)
    return path


def check(request: Request) -> dict[str, Any]:
    """Every voxel looked at by the rules of `inspect`; which models fit; whether it can run."""
    from pipeline.inspect import inspect_case

    record, max_voxels = request["case"], request["max_voxels"]
    case = case_of(record)
    models = [open_checkpoint(path) for path in request["models"]]
    fitting = [model for model in models if _fits(model, case)]
    chosen = _chosen(record["wanted_model"], fitting, case)
    choice = _convention(case, chosen, max_voxels)
    seen = inspect_case(case, choice, True, False, max_voxels)
    shown = _shown_names(record["sources"])
    problems, warnings = list(seen["problems"]), list(seen["warnings"])
    if not case.images:
        problems = ["nothing is assigned: say what each file shows (T1, T1c, T2 or FLAIR)"]
    elif not fitting:
        problems.append(_no_model(models, case))
    missing = [m for m in (chosen.settings["modalities"] if chosen else MODALITIES) if m not in case.images]
    if chosen is not None and missing:
        warnings.append(
            f"no {', '.join(missing)} image: {chosen.name} takes zeros in its place, which it was trained for"
        )
    sources = [_looked_at(source, seen, problems + warnings, max_voxels) for source in record["sources"]]
    shape = next((s["shape"] for s in sources if s["role"] not in (None, REFERENCE) and s["shape"]), None)
    return {
        "sources": [source | {"problem": _renamed(source["problem"], shown)} for source in sources],
        "missing": missing,
        "problems": [_renamed(text, shown) for text in problems],
        "warnings": [_renamed(text, shown) for text in warnings],
        "can_run": not problems and chosen is not None,
        "model": chosen.name if chosen else None,
        "models": [model.name for model in fitting],
        "convention": choice.name,
        "voxels": int(np.prod(shape)) if shape else 0,
    }


def _fits(model: Checkpoint, case: Case) -> bool:
    lacking = set(model.settings["modalities"]) - set(case.images)
    untrained = model.settings.get("augment", {}).get("missing_modality", 0) <= 0
    return bool(case.images) and (not lacking or (not untrained and lacking < set(model.settings["modalities"])))


def _chosen(wanted: str | None, fitting: Sequence[Checkpoint], case: Case) -> Checkpoint | None:
    """What the user asks for, else what `segment` would take by itself, else the one that lacks least."""
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
        return "no model is there; start the server with --model FILE"
    lacking = min(
        ([m for m in model.settings["modalities"] if m not in case.images] for model in models),
        key=lambda names: len(names),
    )
    return f"no model can do without {', '.join(lacking)}; add {'it' if len(lacking) == 1 else 'them'}"


def _convention(case: Case, model: Checkpoint | None, max_voxels: int) -> ConventionChoice:
    def labels(source: ImageSource) -> Any:
        return count_labels(read_label_map(source, max_voxels=max_voxels).array)

    fallback = str(model.settings["convention"]) if model else None
    return choose_conventions([case], fallback=fallback, read_labels=labels)[case.case_id]


def _looked_at(source: dict[str, Any], seen: dict[str, Any], said: Sequence[str], max_voxels: int) -> dict[str, Any]:
    known = {key: source[key] for key in ("id", "role")} | {"problem": None}
    paths = [FILES / name for name in source["files"]]
    if (image := seen["images"].get(source["role"])) is not None:
        problem = (
            next((text for text in said if text.startswith(f"{paths[0]}: ")), None) if not image["shape"] else None
        )
        return known | {key: image[key] for key in ("shape", "spacing_mm", "orientation")} | {"problem": problem}
    try:
        grid = read_header(ImageSource(tuple(paths), source["channel"]), max_voxels=max_voxels).grid
    except InputError as error:
        return known | {"shape": None, "spacing_mm": None, "orientation": None, "problem": str(error)}
    spacing = [round(s, 6) for s in grid.spacing_mm] if grid.spacing_known else None
    return known | {"shape": list(grid.shape), "spacing_mm": spacing, "orientation": grid.orientation}


def _shown_names(sources: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Stored name -> what the user calls it."""
    names: dict[str, str] = {}
    for source in sources:
        names |= {file: source["name"].partition(" and ")[0] for file in source["files"]}
    return names


def _renamed(text: str | None, shown: Mapping[str, str]) -> str | None:
    """A sentence with the user's names in place of ours."""
    if text is None:
        return None
    return re.sub(
        r"(?:files/)?(f[0-9]{4,}\.[a-z.]*[a-z])(?![A-Za-z0-9])", lambda found: shown.get(found[1], found[1]), text
    )
