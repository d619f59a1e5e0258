"""State files of followed patients: a patient that is unchanged is kept.

What lies in an output folder is not trusted: a file of another form says nothing, and its patient is done again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data.case import ImageSource
from data.io.write import write_text_atomically
from data.output_names import state_file
from data.regular_file import read_json, read_json_object
from pipeline.follow.patients.task import Followed, PatientTask
from pipeline.segment.task import sha256_of

log = logging.getLogger(__name__)

VERSION = 1
"""Of the rows, pages and pictures: raised where they change, so that patients are done again."""

Cell = str | int | float | bool | None
Rows = list[dict[str, Cell]]
Digest = Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")]


class PatientState(BaseModel):
    """Content of a state file."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    key: Digest
    mask_sha256: dict[str, Digest]
    """Of every mask that was read, by case. The name is that of `segment`'s state files, by which they are known."""
    files: dict[str, Digest]
    """SHA-256 by path below the output folder."""
    status: Literal["ok", "warn"]
    reason: str
    timepoints: Rows
    lesions: Rows
    responses: Rows


def identity(task: PatientTask) -> tuple[str, dict[str, str]]:
    """Return the SHA-256 of all that decides a patient's results.

    That of each mask comes with it, by case.

    Raises
    ------
    OSError, ValueError
        A file cannot be read.
    """
    masks, visits = {}, []
    for visit in task.visits:
        read = {} if visit.mask is None else dict(_digests(visit.mask))
        if read:
            masks[visit.case.case_id] = hashlib.sha256(json.dumps(read).encode()).hexdigest()
        images = {name: dict(_digests(image)) for name, image in sorted(visit.case.images.items())}
        point = None if visit.case.timepoint is None else asdict(visit.case.timepoint)
        told = [visit.label, visit.convention, visit.why_not, visit.model, visit.missing_images]
        visits.append([visit.case.case_id, told, point, read, images])
    about: dict[str, Any] = {
        "version": VERSION, "patient": task.patient, "visits": visits, "criteria": task.criteria,
        "baselines": task.baselines, "clinical": asdict(task.clinical),
        "targets": sorted([*key, list(lesions)] for key, lesions in task.targets.items()),
        "options": [task.options.max_voxels, task.options.prepare, task.options.brain_mask],
    }  # fmt: skip
    return hashlib.sha256(json.dumps(about, default=str, sort_keys=True).encode()).hexdigest(), masks


def _digests(source: ImageSource) -> Iterator[tuple[str, str]]:
    for path in source.paths:
        yield f"{path.name} {source.channel}", sha256_of(path)


def kept(task: PatientTask, key: str) -> Followed | None:
    """Return the result that an earlier run of this identity left.

    None where a file of it is not as it was.
    """
    path = state_file(task.output, task.folder)
    try:
        state = PatientState.model_validate(read_json(path))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        log.warning("%s: not used (%s)", path, error.errors()[0]["msg"])
        return None
    except (OSError, ValueError) as error:
        log.warning("%s: not used (it %s)", path, error)
        return None
    if state.key != key or not all(_is_as_it_was(task, name, digest) for name, digest in state.files.items()):
        return None
    rows = (tuple(state.timepoints), tuple(state.lesions), tuple(state.responses))
    return Followed(state.status, state.reason, *rows, tuple(state.files), already_done=True)


def forget(task: PatientTask) -> None:
    """Remove a patient's state file, and the files that it lists.

    Beside new ones an older file would be taken for theirs. What the state file does not list stays.
    """
    path = state_file(task.output, task.folder)
    listed = read_json_object(path).get("files")
    path.unlink(missing_ok=True)
    for name in listed if isinstance(listed, dict) else ():
        if _is_own(task, name):
            (task.output / name).unlink(missing_ok=True)


def _is_own(task: PatientTask, name: str) -> bool:
    """Tell a file in the patient's own folder from a link or another."""
    path = task.output / name
    return Path(name).parent == Path(task.folder) and path.is_file() and not path.is_symlink()


def _is_as_it_was(task: PatientTask, name: str, digest: str) -> bool:
    if not _is_own(task, name):
        return False
    try:
        return sha256_of(task.output / name) == digest
    except (OSError, ValueError):
        return False


def keep(task: PatientTask, followed: Followed, key: str, masks: dict[str, str]) -> None:
    """Write the state file of a patient; it is the last of his files. Raises OSError."""
    files = {name: sha256_of(task.output / name) for name in followed.files}
    state = {
        "key": key, "mask_sha256": masks, "files": files, "status": followed.status, "reason": followed.reason,
        "timepoints": followed.timepoints, "lesions": followed.lesions, "responses": followed.responses,
    }  # fmt: skip
    write_text_atomically(state_file(task.output, task.folder), json.dumps(state, allow_nan=False))
