"""One case, from its files to its mask, picture and report row."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from data.case import DICOM, GRID_ORDER, Case
from data.errors import ConventionError, InputError, explain
from data.io.read import Volume, read_header, read_volumes
from data.io.suffixes import NIFTI_SUFFIXES
from data.output_names import MASK, PREVIEW, result_path
from pipeline.checkpoint import Checkpoint, open_checkpoint
from pipeline.default_model import choose_model
from pipeline.execute.processes import own_device
from pipeline.execute.stages import Stage, begin, enter
from pipeline.export.formats import require_series
from pipeline.score.case import score_masks
from pipeline.score.quality import LEARNT_FROM
from pipeline.segment import identity
from pipeline.segment.commit import new_files, write_exports_of, write_grids, write_slices_as_volumes
from pipeline.segment.scoring import convention_remarks, flags_of, reference_masks, scored_again, settled
from pipeline.segment.state import DISAGREEMENT, CaseState, ReportRow, finished_state
from pipeline.segment.task import (
    CaseTask,
    remove_results,
    require_own_folders,
    require_own_mask,
)

if TYPE_CHECKING:  # it imports torch, which takes seconds
    from pipeline.predict.predictor import Predictor, Segmentation
    from pipeline.prepare.case import Ready

log = logging.getLogger(__name__)


@lru_cache(maxsize=2)
def _predictor(models: tuple[tuple[str, str], ...], device: str, **options: Any) -> Predictor:
    """Load the predictor of models given as file and SHA-256.

    A file that is replaced during the run is loaded again.
    """
    from pipeline.predict.predictor import Predictor

    return Predictor([path for path, _ in models], device, **options)


def error_row(task: CaseTask, reason: str) -> ReportRow:
    """Return the row of a failed case.

    It says so where the mask of an earlier run is still there.
    """
    if result_path(task.output, task.folder, MASK, task.options.flat).is_file():
        reason += "; the mask of an earlier run is still there, as it was"
    reason = " ".join(reason.split())
    return ReportRow(case=task.case.case_id, folder=task.folder, status="error", reason=reason)


def segment_one(task: CaseTask) -> ReportRow:
    """Segment one case and return its row; no error of the case is raised.

    An error of the patient's files leaves no mask behind, not even an older one, which was made from other files. An
    error of ours or the machine's (disk full, memory) leaves an older result as it was, and the row says so.
    """
    begin()
    start = time.perf_counter()
    try:
        require_own_folders(task)
        if not task.options.overwrite:
            require_own_mask(task)
        return _segment(task, start)
    except Exception as error:
        log.debug("case %r", task.case.case_id, exc_info=True)
        if isinstance(error, InputError | ConventionError):
            with suppress(OSError):
                remove_results(task)
        row = error_row(task, explain(error, task.folder))
    return row.model_copy(update={"seconds": _since(start)})


def _since(start: float) -> float:
    return round(time.perf_counter() - start, 3)


def _segment(task: CaseTask, start: float) -> ReportRow:
    case, options = task.case, task.options
    if case.problems:
        raise InputError("; ".join(case.problems))
    require_series(options.outputs, case.images.values())  # before minutes of work
    models = tuple(open_checkpoint(m) for m in options.models) or (choose_model(case),)
    missing = [m for m in dict.fromkeys(m for c in models for m in c.settings["modalities"]) if m not in case.images]
    if missing and options.missing == "skip":
        reason = _checked_warnings(
            task, [f"no {', '.join(missing)} image; skipped, no mask was made{_unrecognised(case)}"]
        )
        remove_results(task)
        return ReportRow(case=case.case_id, folder=task.folder, status="warn", reason=reason, seconds=_since(start))
    task = settled(task, models[0])
    if task.convention.error:
        raise InputError(task.convention.error)
    key, inputs = identity.identity(task, models)
    if not options.overwrite and (kept := _kept(task, key)) is not None:
        return kept
    _checked_warnings(task, [*case.warnings, *task.convention.warnings])
    with _read_meanwhile(case, models[0].settings["modalities"], options.max_voxels) as volumes:
        predictor = _predictor(
            tuple((str(c.path), c.sha256) for c in models),
            own_device() or options.device,
            engine=options.engine,
            window=options.window,
            level=options.level,
            tta=options.tta,
            zero_missing=options.missing == "zero",
            max_voxels=options.max_voxels,
        )
    stages: dict[str, float] = {}
    try:
        ready = _ready(task, predictor, volumes, stages)
        grids = {name: place.grid for name, place in ready.places.items()}
        name = task.convention.name
        result = predictor(case, name, volumes=volumes, onto=ready.onto, elsewhere=grids, on_stage=enter)
    except InputError as error:
        raise InputError(f"{error}{_unrecognised(case) if missing else ''}") from error
    learnt_from = _learnt_from(models, case, result)
    about = {
        "key": key,
        "missing": missing,
        "inputs": inputs,
        "stages": {**stages, **result.seconds},
        "convention_reason": task.convention.reason,
        "models": {str(c.path): c.sha256 for c in models},
        "engine": result.engine,
        "learnt_from": learnt_from,
        "moves": ready.moves,
        "checks": ready.checks,
        # Without a reference no score deceives; `evaluate` finds it in run.json.
        "remarks": [*(learnt_from if case.reference else ()), *convention_remarks(task), *result.remarks],
    }
    return _keep(task, predictor.name, result, ready, about, start)


def _ready(task: CaseTask, predictor: Predictor, volumes: dict[str, Volume], stages: dict[str, float]) -> Ready:
    """Prepare the images where they need it, and find the masks' grids."""
    from pipeline.prepare.case import make_ready

    predictor.require_room(task.case)
    brain_alone = any(checkpoint.expects_brain_alone for checkpoint in predictor.checkpoints)
    with _timed(stages, Stage.PREPARE):
        return make_ready(task.case, task.options, predictor.modalities, volumes, brain_alone=brain_alone)


def _kept(task: CaseTask, key: str) -> ReportRow | None:
    """Return the row of a finished case; None for any other.

    It is scored again where its tables are of another format.
    """
    state = finished_state(task, key)
    if state is None:
        return None
    _checked_warnings(task, [state.row.reason] if state.row.status == "warn" else [])
    row = state.row if state.is_scored else scored_again(task, state)
    return None if row is None else row.kept()


READ_AHEAD_VOXELS = 2**26
"""No more are read before the case's memory is judged."""


@contextmanager
def _read_meanwhile(case: Case, modalities: Sequence[str], max_voxels: int) -> Iterator[dict[str, Volume]]:
    """Read the images of the first case while its model and MONAI load.

    Loading takes seconds.

    Gives the dictionary that they come into. It stays empty where a model is loaded already, for large images, and
    where anything is wrong: whoever needs the images then reads them himself, and says so.
    """
    volumes: dict[str, Volume] = {}

    def read() -> None:
        with suppress(Exception):
            sources = {m: case.images[m] for m in modalities if m in case.images}
            shapes = [read_header(source, max_voxels=max_voxels).grid.shape for source in sources.values()]
            if sum(map(math.prod, shapes)) <= READ_AHEAD_VOXELS:
                volumes.update(read_volumes(sources, max_voxels=max_voxels))

    # Slices would import their reader, and two threads had better not import at the same time.
    nifti = all(p.name.lower().endswith(NIFTI_SUFFIXES) for image in case.images.values() for p in image.paths)
    thread = threading.Thread(target=read, name="read-ahead", daemon=True)
    if nifti and _predictor.cache_info().currsize == 0:
        thread.start()
    try:
        yield volumes
    finally:
        if thread.ident is not None:
            thread.join()


def _learnt_from(models: Sequence[Checkpoint], case: Case, result: Segmentation) -> list[str]:
    """Return a sentence for each model that was trained on this patient.

    The scores of such a case deceive.
    """
    listing = [model for model in models if "learnt_from" in model.card]
    if not listing:
        return []
    from pipeline.fingerprint import fingerprint
    from pipeline.provenance import why_seen

    read = models[0].settings["modalities"]
    # The one image that is still at hand, see `pipeline.predict.predictor.Segmentation`.
    shown = next(m for m in ("flair", *GRID_ORDER, *read) if m in read and m in case.images)
    prints = {shown: fingerprint(result.background, result.native.grid)}
    reasons = {model.name: why_seen(model.card, case.case_id, prints) for model in listing}
    return [
        f"the model {name} {LEARNT_FROM} ({reason}), so that its Dice says nothing"
        for name, reason in reasons.items()
        if reason
    ]


def _keep(
    task: CaseTask, model: str, result: Segmentation, ready: Ready, about: dict[str, Any], start: float
) -> ReportRow:
    """Score the result and write all of the case; return its row. ``about`` are entries of the state file."""
    grid, stages, case = result.native.grid, about["stages"], task.case
    warnings = [*ready.warnings, *case.warnings, *task.convention.warnings, *result.warnings]
    with _timed(stages, Stage.METRICS):
        brain = result.background != 0
        truth = reference_masks(case, task.read_as, result.masks, grid, brain, task.options.max_voxels, warnings)
        reason = _checked_warnings(task, warnings)
        scores = score_masks(result.masks, truth, grid)
    from pipeline.predict.segmentation import write_images

    with new_files(task) as files:
        with _timed(stages, Stage.WRITE):
            write_images(result, files.path, probabilities=task.options.save_probabilities)
            if not grid.spacing_known:
                write_slices_as_volumes(files)
            write_grids(files, result, ready)
        with _timed(stages, Stage.PREVIEW):
            from pipeline.report.preview import write_preview

            picture = files.path(PREVIEW)
            write_preview(picture, case.case_id, result.background, result.masks, grid, reference_masks=truth)
            write_exports_of(files, result, model, picture, warnings)
        measures: dict[str, Any] = dict(scores.columns)
        measures |= {} if ready.prepared is None else ready.prepared.columns
        measures |= {f"{DISAGREEMENT}_{region}": value for region, value in (result.disagreement or {}).items()}
        row = ReportRow(
            case=case.case_id,
            folder=task.folder,
            status="warn" if warnings else "ok",
            reason=reason,
            flags=flags_of(about["remarks"], result.masks, grid, result.disagreement, scores),
            model=model,
            convention=result.convention,
            seconds=_since(start),
            **measures,
        )
        voxels = {region: int(np.count_nonzero(mask)) for region, mask in result.masks.items()}
        about |= {"tables": identity.TABLES, "regions": scores.regions, "lesions": scores.lesions}
        files.commit(CaseState(row=row, voxels=voxels, **about))
    return row


def _unrecognised(case: Case) -> str:
    """Name the files that may be the missing image under another name."""
    if case.layout == DICOM:  # its series, and why one cannot be read, are told in its warnings
        return "".join(f"; {text}" for text in case.warnings)
    names = [path.name for path in case.unrecognised]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    how = "where the missing image is one of them, give it a name like NAME_t1c.nii.gz"
    return f" (not recognised: {', '.join(names[:3])}{more}; {how})" if names else ""


def _checked_warnings(task: CaseTask, warnings: list[str]) -> str:
    """Join the warnings into one line; with ``--strict`` any is an error."""
    text = " ".join("; ".join(dict.fromkeys(warnings)).split())
    if text and task.options.strict:
        raise InputError(f"{text} (--strict: a warning is an error)")
    return text


@contextmanager
def _timed(seconds: dict[str, float], stage: Stage) -> Iterator[None]:
    """Enter ``stage``, and add the block's wall-clock time to ``seconds[stage]``."""
    enter(stage)
    start = time.perf_counter()
    yield
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start
