"""State files of finished cases, and the check of their form.

What lies in an output folder is not trusted. A file that is no regular one, too large, or not of this form says
nothing: its case is not finished, and is done again. The case itself, its folder and its paths come from the task
alone.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    create_model,
)

from data.case import MODALITIES
from data.errors import ConventionError
from data.labels import REGIONS, load_convention
from data.output_names import MASK, result_path
from data.regular_file import read_json
from pipeline.score import catalogue
from pipeline.score.case import ScoreOptions, metric_columns
from pipeline.segment import identity
from pipeline.segment.task import CaseTask, result_names, sha256_of, state_path

log = logging.getLogger(__name__)

MOVES = ("moved_mm", "moved_degrees")
"""Columns of a modality that was laid on another."""
DISAGREEMENT = "disagreement"
"""Of the averaged predictions: a measure of the network's answer, which the mask does not tell."""


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("is no text")
    return value


Text = Annotated[Any, AfterValidator(_text)]
"""pydantic's own text takes no bytes of a file name that are no UTF-8 (surrogates)."""


def _plain_number(value: Any) -> Any:
    """Return a number as JSON holds it: NaN and infinity, which JSON lacks, as None."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[Annotated[int | float, Field(ge=-1e15, le=1e15)] | None, BeforeValidator(_plain_number)]
Count = Annotated[int, Field(ge=0, lt=2**53)] | None
"""What every table can hold exactly; None where it is not known."""
Digest = Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")]
_FORM = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


_MEASURES = {catalogue.report_name(metric): metric for metric in catalogue.shown_in(catalogue.Place.REPORT)}


class ReportRow(BaseModel):
    """Row of report.csv: the fixed columns, and ``<measure>_<region>``.

    A measure is None where it is not known.
    """

    model_config = _FORM | ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, Number] = Field(init=False)

    case: Text
    folder: Text
    status: Literal["ok", "warn", "error"]
    reason: Text = ""
    flags: Text = ""
    model: Text = ""
    convention: Text = ""
    seconds: Number = None
    prepared: Literal["", "registered", "stripped", "registered+stripped"] = ""
    _already_done: bool = PrivateAttr(default=False)

    @property
    def already_done(self) -> bool:
        """True where an earlier run has done the case; no part of the row."""
        return self._already_done

    def kept(self) -> ReportRow:
        """Return the row as one of a case that an earlier run has done."""
        row = self.model_copy()
        row._already_done = True
        return row

    @property
    def measures(self) -> dict[str, float | None]:
        """Columns named ``<measure>_<region>`` and ``<move>_<modality>``."""
        return dict(self.__pydantic_extra__ or {})

    def cells(self) -> dict[str, Any]:
        """Return the row for a table: NaN where a measure is not known; fixed columns without a value are left out."""
        empty = {name for name in ("model", "convention", "seconds") if getattr(self, name) in ("", None)}
        return numbers_of({name: value for name, value in self.to_json().items() if name not in empty})

    def to_json(self) -> dict[str, Any]:
        """Return the row in JSON's own types, ``null`` where a measure is not known."""
        return self.model_dump()

    @classmethod
    def from_json(cls, value: Any, case_id: str = "", folder: str = "") -> ReportRow:
        """Check a row that was read from a file. Raises ValueError where it is none.

        ``case_id`` and ``folder``, where given, take the place of those in the file.
        """
        row = cls.model_validate(value)
        for name, number in row.measures.items():
            measure, _, region = name.rpartition("_")
            known = _MEASURES.get(measure)
            if measure in MOVES and region in MODALITIES:
                continue
            if region not in REGIONS or known is None:
                raise ValueError(f"{name[:80]!r} is no column of report.csv")
            if known.is_count and not (number is None or (float(number).is_integer() and number >= 0)):
                raise ValueError(f"{name} is no number of voxels")
        if row.convention:
            _require_convention(row.convention)
        return row.model_copy(update={"case": case_id or row.case, "folder": folder or row.folder})


def _require_convention(spelling: str) -> None:
    try:
        load_convention(spelling)
    except ConventionError as error:
        raise ValueError(f"convention: {error}") from None


_REGION_COLUMNS = [column for column in metric_columns(ScoreOptions()) if column not in ("case", "region")]


def _is_count(column: str) -> bool:
    metric = catalogue.find_metric(column)
    return metric is not None and metric.is_count


RegionRow: type[BaseModel] = create_model(
    "RegionRow",
    __config__=_FORM,
    region=(Literal[REGIONS], ...),
    **{name: (Count if _is_count(name) else Number, None) for name in _REGION_COLUMNS},  # type: ignore[call-overload]
)
"""A row of metrics.csv."""


class LesionRow(BaseModel):
    """Row of lesions.csv."""

    model_config = _FORM

    region: Literal[REGIONS]  # type: ignore[valid-type]
    side: Literal["prediction", "reference"]
    lesion: Annotated[int, Field(ge=1, lt=2**53)]
    voxels: Annotated[int, Field(ge=1, lt=2**53)]
    volume_ml: Number
    centroid_x_mm: Number
    centroid_y_mm: Number
    centroid_z_mm: Number
    diameter_mm: Number
    perpendicular_mm: Number
    bidimensional_mm2: Number
    slice: Count
    matches: Annotated[str, Field(pattern=r"\A[0-9 ]*\z")]
    detected: bool | None


class CaseState(BaseModel):
    """Content of the state file of a finished case.

    Further entries of a file are not read.

    ``key`` is its identity (:mod:`pipeline.segment.identity`), ``tables`` the number of the version that scored it.
    ``voxels`` counts each region's mask as it was computed. ``remarks`` are those flags that are not of the scores.
    ``learnt_from`` says which models have learnt from the patient, and why that is known. ``mask_sha256`` is of the
    mask, ``grids`` has those of masks on other grids by path. ``moves`` are registrations that were done, ``checks``
    what was looked at in the images.
    """

    model_config = _FORM | ConfigDict(extra="ignore", frozen=True)

    key: Digest
    mask_sha256: Literal[""] | Digest = ""
    grids: dict[Text, Digest] = {}
    files: list[Text] = []
    row: ReportRow
    tables: int = 0
    regions: Annotated[list[Any], Field(max_length=len(REGIONS))]
    lesions: list[Any]
    voxels: dict[str, Annotated[int, Field(ge=0, lt=2**53)]] = {}
    remarks: list[Text] = []
    learnt_from: list[Text] = []
    inputs: dict[Text, Digest] = {}
    models: dict[Text, Digest] = {}
    stages: dict[Text, Number] = {}
    missing: list[Text] = []
    moves: dict[Text, dict[Text, Number]] = {}
    checks: list[Text] = []
    engine: Text = ""
    convention_reason: Text = ""

    @property
    def is_scored(self) -> bool:
        """True where the scores are those that this version computes."""
        return self.tables == identity.TABLES

    def table(self, name: Literal["regions", "lesions"]) -> list[dict[str, Any]]:
        """Return the case's rows of metrics.csv ("regions") or lesions.csv, without the column ``case``."""
        return [numbers_of(row) for row in getattr(self, name)]

    def about(self) -> dict[str, Any]:
        """Return the entries that run.json repeats."""
        return self.model_dump(include=set(_IN_RUN_RECORD))

    def to_json(self) -> dict[str, Any]:
        """Return the content of the state file, in JSON's own types."""
        return self.model_dump()

    @classmethod
    def from_json(cls, value: Any) -> CaseState:
        """Check the content of a state file. Raises ValueError where it is of no finished case.

        Scores of another version say nothing: they are left out, and ``tables`` is 0.
        """
        if not isinstance(value, dict):
            raise ValueError("is no object")
        scored = value.get("tables") == identity.TABLES
        tables = {} if scored else {"tables": 0, "regions": [], "lesions": []}
        state = cls.model_validate(value | tables)
        if not (state.mask_sha256 and state.files):
            raise ValueError("names no mask")
        for row in state.regions:
            RegionRow.model_validate(row)
        for row in state.lesions:
            LesionRow.model_validate(row)
        row = ReportRow.from_json(value["row"]) if scored else _unscored(value["row"])
        columns = RegionRow.model_fields.keys()
        if any(row.keys() != columns for row in state.regions):  # of a version without one of the metrics
            return state.model_copy(update={"tables": 0, "regions": [], "lesions": [], "row": _unscored(value["row"])})
        return state.model_copy(update={"row": row})


_IN_RUN_RECORD = (
    *("inputs", "models", "stages", "engine", "missing", "convention_reason"),
    *("mask_sha256", "grids", "moves", "checks", "learnt_from"),
)


def _unscored(row: Mapping[str, Any]) -> ReportRow:
    """Return a row of another version without its scores."""
    kept = [*ReportRow.model_fields, *(name for name in row if name.startswith(f"{DISAGREEMENT}_"))]
    return ReportRow.from_json({name: row[name] for name in kept if name in row})


def read_state(path: Path) -> CaseState | None:
    """Read a case's state file; None, with a warning logged, where it is not of our form."""
    try:
        return CaseState.from_json(read_json(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("%s: not used (%s)", path, error.strerror)
    except ValidationError as error:
        log.warning("%s: not used (%s)", path, _first(error))
    except ValueError as error:
        log.warning("%s: not used (it %s)", path, error)
    return None


def state_text(state: CaseState) -> str:
    """Return the content of a state file."""
    return json.dumps(plain_json(state.to_json()), allow_nan=False)


def finished_state(task: CaseTask, key: str) -> CaseState | None:
    """Return the state that an earlier run of this very identity left.

    Its files must be there and its mask unchanged. A state file of an older version is of another identity.
    """
    state = read_state(state_path(task))
    if state is None or state.key != key or state.row.status == "error" or not results_are_there(task, state):
        return None
    return state.model_copy(
        update={"row": state.row.model_copy(update={"case": task.case.case_id, "folder": task.folder})}
    )


def results_are_there(task: CaseTask, state: CaseState) -> bool:
    """Check that the files of a state are there and its mask is unchanged.

    They must be regular files of this case.
    """
    mask, names = result_path(task.output, task.folder, MASK, task.options.flat), result_names(task)
    if mask.relative_to(task.output).as_posix() not in state.files or not all(name in names for name in state.files):
        return False
    paths = [task.output / name for name in state.files]
    if not (state.grids.keys() <= set(state.files) and all(p.is_file() and not p.is_symlink() for p in paths)):
        return False
    digests = {mask: state.mask_sha256} | {task.output / name: digest for name, digest in state.grids.items()}
    try:
        return all(sha256_of(path, 2 * task.options.max_voxels + 2**20) == digest for path, digest in digests.items())
    except ValueError:  # larger than any mask
        return False


def numbers_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Turn ``null`` into NaN again in a row of the state file.

    In ``detected`` it stays: a lesion without a reference.
    """
    return {name: math.nan if value is None and name != "detected" else value for name, value in row.items()}


def plain_json(value: Any) -> Any:
    """Convert a value to JSON's own types.

    Numpy's numbers become Python's; NaN and infinity, which JSON lacks, ``null``.
    """
    if isinstance(value, Mapping):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in value]
    return _plain_number(value)


def _first(error: ValidationError) -> str:
    """Return the first fault on one line, without the file's content."""
    fault = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(step)[:40] for step in fault["loc"])
    return f"{place or 'its form'}: {fault['msg'][:100]}"
