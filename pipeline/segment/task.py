"""One case as a piece of work: its inputs, options and result paths."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from data.case import MODALITIES, Case, ImageSource
from data.errors import InputError, UsageError
from data.find.recognise import ConventionChoice
from data.io.read import read_header, read_label_map
from data.output_names import GRIDS, MASK, RESULTS, result_path, result_paths, state_file
from data.regular_file import open_regular_file, read_json_object
from pipeline.options import SegmentOptions

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class CaseTask:
    """Description of one case for a worker."""

    case: Case
    folder: str
    output: Path
    options: SegmentOptions
    convention: ConventionChoice
    """Of the reference as it was recognised; from `pipeline.segment.scoring.settled` on that of the mask."""
    reference: ConventionChoice | None = None
    """Of the reference where it is another; without a name where it is undecided, which costs the scores alone."""

    @property
    def read_as(self) -> str | None:
        """Convention of the reference; None where it is undecided."""
        return (self.reference or self.convention).name


def task_path(task: CaseTask, what: str) -> Path:
    """Return the result path of a task, its folder made."""
    path = result_path(task.output, task.folder, what, task.options.flat)
    require_own_folders(task)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def require_own_folders(task: CaseTask) -> None:
    """Refuse links in place of result folders, and folders in place of files.

    The one would be written through, and cleaned, where it leads; the other can neither be replaced nor removed.

    Raises
    ------
    data.errors.UsageError
    """
    paths = [path for what in RESULTS for path in result_paths(task.output, task.folder, what)]
    for path in (*paths, state_path(task)):
        if path.is_dir() and not path.is_symlink():
            raise UsageError(f"{path}: a folder is in the place of a file that the run writes; remove it")
    for folder in dict.fromkeys(path.parent for path in paths):
        if folder != task.output and folder.is_symlink():
            raise UsageError(f"{folder}: is a symbolic link, and what is written stays in --output; remove the link")


def state_path(task: CaseTask) -> Path:
    """Return the path of the case's state file."""
    return state_file(task.output, task.folder)


def result_names(task: CaseTask) -> dict[str, str]:
    """Map each possible result path below the output folder to its kind."""
    paths = {what: result_path(task.output, task.folder, what, task.options.flat) for what in RESULTS}
    return {path.relative_to(task.output).as_posix(): what for what, path in paths.items()}


def remove_results(task: CaseTask) -> None:
    """Forget an earlier result."""
    remove_files(task)
    state_path(task).unlink(missing_ok=True)


def remove_files(task: CaseTask, keep: Collection[str] = ()) -> None:
    """Remove the files of an earlier result but for ``keep``.

    Beside a new row an older file would be taken for its own.

    An image goes only where the state file says that a run wrote it: a user may lay the patient's own beside the
    mask.
    """
    written = recorded_files(task)
    for what in RESULTS:
        for flat in (False, True):
            path = result_path(task.output, task.folder, what, flat)
            own = what not in MODALITIES or path.relative_to(task.output).as_posix() in written
            if own and (flat is not task.options.flat or what not in keep):
                path.unlink(missing_ok=True)


def recorded_files(task: CaseTask) -> set[str]:
    """Return the paths below the output folder that an earlier run wrote.

    The case's state file lists them, also when that run was killed half-way.
    """
    files = read_json_object(state_path(task)).get("files")
    return {name for name in files if isinstance(name, str)} if isinstance(files, list) else set()


def require_own_mask(task: CaseTask) -> None:
    """Refuse to replace or remove a mask that was corrected by hand.

    Such a mask is whole, but not the one that a run wrote.

    Raises
    ------
    data.errors.UsageError
    """
    state, recorded = read_json_object(state_path(task)), recorded_files(task)
    grids = state["grids"] if isinstance(state.get("grids"), dict) else {}
    written = {path: state.get("mask_sha256") for path in result_paths(task.output, task.folder, MASK)}
    written |= {
        path: grids.get(path.relative_to(task.output).as_posix())
        for grid in GRIDS
        for path in result_paths(task.output, task.folder, f"{MASK}_{grid}")
    }
    for path, digest in written.items():
        known = _DIGEST.fullmatch(str(digest)) and path.relative_to(task.output).as_posix() in recorded
        if known and path.is_file():
            _require_written(path, str(digest), task.options.max_voxels)


def _require_written(path: Path, digest: str, max_voxels: int) -> None:
    with suppress(InputError):  # what cannot be read is damaged, and nobody's work
        # Longer than its header says, it is not read, which may take hours.
        read_header(ImageSource((path,)), max_voxels=max_voxels)
        if sha256_of(path) == digest:
            return
        read_label_map(ImageSource((path,)), max_voxels=max_voxels)
        raise UsageError(
            f"{path}: is not the mask that a run wrote there; if it was corrected by hand, move it away, else "
            "remove it or run with --overwrite"
        )


def sha256_of(path: Path, largest: int | None = None) -> str:
    """SHA-256 of a regular file of at most ``largest`` bytes. Raises ValueError for another, and OSError."""
    with open_regular_file(path, largest) as (file, _):
        return hashlib.file_digest(file, "sha256").hexdigest()
