"""Requests that the computing processes answer.

They look at a case, segment it, open an earlier result, or take an edited mask.

Each works in the case's own folder, which is the current one, with relative paths:

    files/    what came in, under numbers        input/   links to it, called by modality
    output/   what `segment` wrote               view/    what the viewer loads
    edits/    masks changed by hand              everything.zip
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.case import MODALITIES, ImageSource
from data.errors import InputError, UsageError, explain
from data.folder_names import unique_folder_names
from data.io.read import read_header, read_label_map, write_label_map, write_text_atomically
from data.labels import count_labels, load_convention
from data.output_names import (
    BRAIN,
    MASK,
    PREVIEW,
    REPORT,
    RUN_RECORD,
    TRANSFORM,
    result_path,
    result_paths,
    state_file,
)
from data.references import strange_labels
from data.regular_file import read_json_object
from pipeline.execute.lock import remove_temporary_files
from pipeline.execute.stages import Stage
from pipeline.segment.task import sha256_of
from pipeline.web.compute.advice import PAGE, for_page, with_places
from pipeline.web.compute.checks import FILES, Request, case_of, check
from pipeline.web.compute.worker import Emit
from pipeline.web.names import Received
from pipeline.web.workspace import remove_leftovers

if TYPE_CHECKING:
    from pipeline.evaluate.label_maps import LabelMap

INPUT, OUTPUT, VIEW, EDITS = (Path(name) for name in ("input", "output", "view", "edits"))
_LINKED = {f"{INPUT}/": ""}
MAX_EDITS = 99
"""Largest number per case."""


def check_process(request: Request, emit: Emit) -> Any:
    """Requests that are quick: ``do`` is take, check, example, list, open or edit."""
    does = {"take": take, "check": check, "example": example, "list": earlier_results}
    does |= {"open": open_earlier, "edit": take_edit}
    return does[request["do"]](request)


def job_process(request: Request, emit: Emit) -> Any:
    """Requests that take minutes; ``warm`` imports what they need."""
    if request["do"] == "warm":
        import matplotlib.figure  # noqa: F401

        import pipeline.predict.predictor
        import pipeline.segment.run  # noqa: F401
        from pipeline.predict.device import choose_device

        choose_device("auto")
        return None
    if request["do"] == "follow":
        from pipeline.web.compute.follow import follow_visits

        return follow_visits(request, emit)
    return segment(request, emit)


# Segmenting


def segment(request: Request, emit: Emit) -> dict[str, Any]:
    """Segment one patient as `segment` on the command line does.

    Raises SegmentationError with its reason.
    """
    from pipeline.export.formats import possible_outputs
    from pipeline.options import SegmentOptions
    from pipeline.segment.run import segment_cases
    from pipeline.segment.state import read_state
    from pipeline.web.compute.results import Outcome, describe

    record = request["case"]
    for folder in (OUTPUT, VIEW, INPUT):
        shutil.rmtree(folder, ignore_errors=True)
    remove_temporary_files(Path())  # the zip of a run that was stopped
    set_edits_aside()
    case = case_of(record, INPUT, linked=True)
    outputs, left_out = possible_outputs(case.images.values())
    options = SegmentOptions(
        models=(request["model"],),
        missing="zero",
        save_probabilities=True,
        max_voxels=request["max_voxels"],
        prepare=record["prepare"],
        outputs=outputs,
    )
    report = segment_cases([case], OUTPUT, options, on_stage=emit)
    row = {str(key): value for key, value in report.iloc[0].to_dict().items()}
    if row["status"] == "error":
        raise InputError(for_page(with_places(str(row["reason"]), _LINKED)))
    emit(Stage.PREVIEW, 1.0)
    name = unique_folder_names([case.case_id])[case.case_id]
    state = read_state(state_file(OUTPUT, name))
    mask = result_path(OUTPUT, name, MASK, flat=False)
    row["reason"], row["flags"] = (with_places(str(row[key] or ""), _LINKED) for key in ("reason", "flags"))
    regions, lesions = (state.table("regions"), state.table("lesions")) if state else ([], [])
    said = (left_out,) if left_out else ()
    checks = tuple(with_places(text, _LINKED) for text in state.checks) if state else ()
    outcome = Outcome(mask, row, regions, lesions, case.images, case.reference, said, checks)
    return finished(describe(outcome, VIEW, request["max_voxels"]), mask)


def finished(result: dict[str, Any], mask: Path, *, of_a_run: bool = False) -> dict[str, Any]:
    """Return the answer of a case with a mask, and write its zip.

    The answer holds the result and the files that can be downloaded.
    """
    from pipeline.segment.state import plain_json
    from pipeline.web.compute.results import offer

    here = Path.cwd()
    return {"result": plain_json(result), "downloads": offer(here / OUTPUT, here, here / mask, of_a_run=of_a_run)}


# Earlier results


def earlier_results(request: Request) -> dict[str, str]:
    """Return the finished patients of a `segment` run's folder: id for URLs -> case id."""
    from pipeline.evaluate.label_maps import find_label_maps

    found = [
        item.case.case_id for item in find_label_maps(Path(request["data"])) if item.case.reference and item.reported
    ]
    return {hashlib.sha256(case.encode("utf-8", "replace")).hexdigest()[:32]: case for case in found}


def open_earlier(request: Request) -> dict[str, Any]:
    """Open a finished patient of a `segment` run's folder.

    Its mask is copied, its numbers are read, its images are packed.
    """
    from pipeline.evaluate.label_maps import find_label_maps
    from pipeline.segment.state import read_state
    from pipeline.web.compute.results import OF_A_RUN, Outcome, describe, read_row

    root = Path(request["data"])
    found = next((item for item in find_label_maps(root) if item.case.case_id == request["about"]), None)
    if found is None or found.case.reference is None:
        raise InputError(f"{request['about']}: has no mask any more; look at the list again")
    state = read_state(state_file(root, found.folder))
    row = state.row.to_json() if state else _row_of(root, found.case.case_id, read_row)
    row["convention"] = row.get("convention") or found.reported
    if not row["convention"]:
        raise UsageError(f"{root}: no report.csv says in which label convention {found.case.case_id} is written")
    mask = _taken(found.case.reference.paths[0], root)
    if mask is None:
        raise InputError(f"{request['about']}: its mask is a link out of the results; put the file itself there")
    for what in (PREVIEW, BRAIN, *(f"{TRANSFORM}_{modality}" for modality in MODALITIES)):
        for path in result_paths(root, found.folder, what):
            _taken(path, root)
    for name in OF_A_RUN:
        _taken(root / name, root)
    regions, lesions = (state.table("regions"), state.table("lesions")) if state else ([], [])
    reference = _reference(root, found, request["max_voxels"])
    checks = tuple(state.checks) if state else ()
    outcome = Outcome(mask, row, regions, lesions, _images(root, found), reference, checks)
    return finished(describe(outcome, VIEW, request["max_voxels"]), mask, of_a_run=True)


def _taken(path: Path, root: Path) -> Path | None:
    """Copy a file of the results into the case's own output folder.

    Returns the copy's path. None where it is not there, or a link out of them.
    """
    if not path.is_file() or not path.resolve().is_relative_to(root.resolve()):
        return None
    OUTPUT.mkdir(exist_ok=True)
    shutil.copyfile(path, OUTPUT / path.name)
    return OUTPUT / path.name


def _images(root: Path, found: LabelMap) -> dict[str, ImageSource]:
    """Return the images on which the mask was drawn.

    Where they were slices, these are the volumes that the run wrote beside the mask.
    """
    images = dict(found.images)
    for modality, written in [(m, path) for m in images for path in result_paths(root, found.folder, m)]:
        if written.is_file() and written.resolve().is_relative_to(root.resolve()):
            images[modality] = ImageSource((written,))
    return images


def _reference(root: Path, found: LabelMap, max_voxels: int) -> ImageSource | None:
    """Return the reference of the run's scores, where it is still the same file.

    It is made of the inputs that run.json lists and does not call an image.

    Its scores are of those; another file in their place would contradict them.
    """
    cases = read_json_object(root / RUN_RECORD).get("cases")
    record = cases.get(found.case.case_id) if isinstance(cases, dict) else None
    inputs, images = (record.get(key) if isinstance(record, dict) else None for key in ("inputs", "files"))
    if not isinstance(inputs, dict) or not isinstance(images, dict):
        return None
    shown = {name for names in images.values() if isinstance(names, list) for name in map(str, names)}
    source = ImageSource(tuple(Path(name) for name in inputs if name not in shown))
    try:
        read_header(source, max_voxels=max_voxels)
        same = [sha256_of(path) == inputs[str(path)] for path in source.paths]
    except (OSError, ValueError, InputError, IndexError):  # gone, or no longer readable
        return None
    return source if all(same) else None


def _row_of(root: Path, case: str, read_row: Callable[[Path, str], dict[str, Any]]) -> dict[str, Any]:
    try:
        return read_row(root / REPORT, case)
    except (OSError, ValueError):
        return {}


# Uploads, edits and examples


def take(request: Request) -> dict[str, Any]:
    """Unpack, keep and recognise an upload; return the parts of a record that follow."""
    from pipeline.web.intake.files import take_in

    received = [Received(item["name"], Path(item["path"])) for item in request["received"]]
    found = take_in(received, FILES, max_unpacked=request["max_unpacked"], max_voxels=request["max_voxels"])
    return asdict(found)


def set_edits_aside() -> None:
    """Rename the edited masks of a mask that is made anew.

    They are a user's work, but they do not belong to the new mask.
    """
    earlier = [int(found[1]) for path in EDITS.glob("*") if (found := re.match(r"earlier-([0-9]+)-edited-", path.name))]
    for path in sorted(EDITS.glob("edited-*")):
        path.rename(path.with_name(f"earlier-{max(earlier, default=0) + 1}-{path.name}"))


def take_edit(request: Request) -> dict[str, Any]:
    """Check an edited label map against the mask, and keep it with its provenance."""
    from pipeline.web.compute.results import offer

    remove_leftovers(Path())
    mask_path, limit = Path(request["mask"]), request["max_voxels"]
    upload = Path(request["upload"])
    # The number is chosen in this process, which answers one request at a time, so that two edits never share one.
    number = 1 + max((int(path.name[7:9]) for path in EDITS.glob("edited-[0-9][0-9].nii.gz")), default=0)
    try:
        if number > MAX_EDITS:
            raise InputError(f"the case has {MAX_EDITS} edited masks; no more are kept")
        mask = read_label_map(ImageSource((mask_path,)), max_voxels=limit)
        edited = read_label_map(ImageSource((upload,)), max_voxels=int(np.prod(mask.array.shape)) * 2)
        if not edited.grid.matches(mask.grid):
            raise InputError(
                f"the edited mask lies on another grid ({edited.grid.described()}) than the mask "
                f"({mask.grid.described()}); save it on the mask's own grid"
            )
        convention = load_convention(request["convention"])
        if doubt := strange_labels(count_labels(edited.array), convention):
            raise InputError(f"the edited mask {doubt}; use {', '.join(map(str, convention.labels))}")
    except InputError as error:
        raise InputError(with_places(explain(error, words=PAGE), {str(upload): "the edited mask"})) from None
    finally:
        upload.unlink(missing_ok=True)
    stem = f"edited-{number:02d}"
    changed = edited.array != mask.array
    write_label_map(EDITS / f"{stem}.nii.gz", edited.array.astype(np.uint8), mask.header)
    provenance = {
        "mask": mask_path.name,
        "mask_sha256": sha256_of(mask_path),
        "edited_sha256": sha256_of(EDITS / f"{stem}.nii.gz"),
        "edited": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "voxels_changed": int(np.count_nonzero(changed)),
        "voxels_of_labels": {str(int(k)): v for k, v in count_labels(edited.array).items()},
        "model": request["model"],
        "convention": request["convention"],
        "by": "hand, in the web app",
    }
    write_text_atomically(EDITS / f"{stem}.json", json.dumps(provenance, indent=1) + "\n")
    here = Path.cwd()
    of_a_run = not request["case"]["sources"]
    return {"downloads": offer(here / OUTPUT, here, here / mask_path, of_a_run=of_a_run)}


def example(request: Request) -> dict[str, Any]:
    """Make a phantom patient of the gallery, then check it as any case."""
    from pipeline.web.compute.gallery import write_example

    write_example(request["about"], FILES)
    return check(request)
