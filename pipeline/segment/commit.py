"""Files of one case, written aside and put in place together.

They replace those of an earlier run only when all of them are there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.case import MODALITIES
from data.errors import UsageError
from data.io.read import read_volume
from data.io.write import write_image, write_label_map, write_text_atomically
from data.output_names import BRAIN, MASK, STAGING, STATE_FOLDER, TRANSFORM, result_path
from pipeline.export.formats import exports_of
from pipeline.segment.state import CaseState, state_text
from pipeline.segment.task import (
    CaseTask,
    recorded_files,
    remove_files,
    remove_results,
    sha256_of,
    state_path,
    task_path,
)

if TYPE_CHECKING:  # they import torch, which takes seconds
    from pipeline.predict.segmentation import Segmentation
    from pipeline.prepare.case import Ready


def staging_folder(output: Path) -> Path:
    """Return the scratch folder of the running process.

    Anything found here at start was left by a killed run.
    """
    return output / STATE_FOLDER / STAGING


class NewFiles:
    """New files of a case in a folder of their own until :meth:`commit`."""

    def __init__(self, task: CaseTask) -> None:
        self.task, self.folder = task, staging_folder(task.output) / task.folder
        self.written: list[str] = []

    def path(self, what: str) -> Path:
        """Return the path at which to write ``what``, see :func:`pipeline.segment.task.result_path`."""
        self.written.append(what)
        return self.folder / result_path(self.task.output, self.task.folder, what, self.task.options.flat).name

    def commit(self, state: CaseState) -> None:
        """Put all files into their places, and the case's state file last.

        No file of an earlier result stays.

        Only renaming is left to do, which needs no space. A kill in the middle leaves whole files and a state file of a
        case that is not finished, so that the next run does it again; an error leaves no result at all.

        Parameters
        ----------
        state : CaseState
            For the state file; ``mask_sha256``, ``grids`` and ``files`` are added.

        Raises
        ------
        OSError
            Before anything was replaced, where it is for want of space.
        data.errors.UsageError
            An image that is not ours is in the place of one; nothing was replaced.
        """
        task = self.task
        staged = {what: self.path(what) for what in dict.fromkeys(self.written)}
        places = {what: task_path(task, what) for what in staged}
        names = {what: path.relative_to(task.output).as_posix() for what, path in places.items()}
        files = list(names.values())
        grids = {names[what]: sha256_of(staged[what]) for what in staged if what.startswith(f"{MASK}_")}
        digests = {"mask_sha256": sha256_of(staged[MASK]), "grids": grids}
        state = state.model_copy(update={**digests, "files": files})
        self._require_free(places)
        # Of a kill in the middle: not finished, and which files are ours.
        ours = {"mask_sha256": "", "files": sorted({*files, *recorded_files(task)})}
        unfinished, new_state = self.folder / "unfinished", self.folder / "state"
        write_text_atomically(unfinished, json.dumps(ours))
        write_text_atomically(new_state, state_text(state))
        try:
            os.replace(unfinished, state_path(task))
            for what, path in staged.items():
                os.replace(path, places[what])
            remove_files(task, keep=places)
            os.replace(new_state, state_path(task))
        except OSError:
            with suppress(OSError):
                remove_results(task)
            raise

    def _require_free(self, places: Mapping[str, Path]) -> None:
        """Refuse to replace an image that no run wrote: it is the patient's own. Raises UsageError."""
        written = recorded_files(self.task)
        for what, path in places.items():
            name = path.relative_to(self.task.output).as_posix()
            if what in MODALITIES and name not in written and os.path.lexists(path):
                raise UsageError(f"{path}: is there already, and no run wrote it; move it away")


@contextmanager
def new_files(task: CaseTask) -> Iterator[NewFiles]:
    """Provide a place for a case's new files.

    Files that were not committed are removed after the block; earlier ones stay.
    """
    made = NewFiles(task)
    shutil.rmtree(made.folder, ignore_errors=True)
    made.folder.mkdir(parents=True)
    try:
        yield made
    finally:
        shutil.rmtree(made.folder, ignore_errors=True)


def write_grids(files: NewFiles, result: Segmentation, ready: Ready) -> None:
    """Write masks on further grids, moves of images, and a head's brain."""
    from transforms.registration.move import write_move

    moves = {} if ready.prepared is None else ready.prepared.moves
    for name, place in ready.places.items():
        write_label_map(files.path(f"{MASK}_{name}"), result.elsewhere[name], place.header)
        moves = moves if place.move is None else {**moves, name: place.move}
    for name, move in moves.items():
        write_move(files.path(f"{TRANSFORM}_{name}"), move)
    if ready.prepared is not None and ready.prepared.stripped:
        brain = ready.prepared.brain_on(result.native.grid)
        write_label_map(files.path(BRAIN), brain.astype(np.uint8), result.native)


def write_exports_of(files: NewFiles, result: Segmentation, model: str, picture: Path, warnings: Sequence[str]) -> None:
    """Write the mask in the other formats that are asked for."""
    wanted = exports_of(files.task.options.outputs)
    if wanted:
        from pipeline.export.outputs import Exported, write_exports

        case, places = files.task.case, {what: files.path(what) for what in wanted}
        made = Exported(result.label_map, result.native.grid, result.convention, result.masks, case.case_id, model)
        write_exports(places, made, case.images, picture, warnings, files.task.options.max_voxels)


def write_slices_as_volumes(files: NewFiles) -> None:
    """Write slices as one volume each, for a viewer of the mask."""
    for modality, source in files.task.case.images.items():
        volume = read_volume(source, max_voxels=files.task.options.max_voxels)
        write_image(files.path(modality), volume.array, volume.header)
