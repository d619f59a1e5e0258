"""State files of finished cases, and the check of their form.

What lies in an output folder is not trusted. A file that is no regular one, too large, or not of this form says nothing:
its case is not finished, and is done again. The case itself, its folder and its paths come from the task alone.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from data.labels import CONVENTIONS, REGIONS
from data.regular_file import read_json
from pipeline.score import catalogue
from pipeline.score.case import ScoreOptions, metric_columns
from pipeline.segment.task import CaseTask, Row, result_names, result_path, sha256_of, state_path

log = logging.getLogger(__name__)

STATE_TABLES = ("regions", "lesions")
"""In a state file: the case's rows of metrics.csv and of lesions.csv, without the column ``case``."""


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("is no text")
    return value


Text = Annotated[Any, AfterValidator(_text)]
"""pydantic's own text takes no bytes of a file name that are no UTF-8 (surrogates)."""
Number = Annotated[float, Field(ge=-1e15, le=1e15)] | None
Count = Annotated[int, Field(ge=0, lt=2**53)] | None
"""What every table can hold exactly; None where it is not known."""
Digest = Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")]
_FORM = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


_MEASURES = {catalogue.report_name(metric): metric for metric in catalogue.shown_in(catalogue.Place.REPORT)}


class ReportRow(BaseModel):
    """Row of report.csv: the fixed columns, and ``<measure>_<region>``."""

    model_config = _FORM | ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Number]

    case: Text
    folder: Text
    status: Literal["ok", "warn", "error"]
    reason: Text = ""
    flags: Text = ""
    model: Text = ""
    convention: Literal["", *CONVENTIONS] = ""  # type: ignore[valid-type]
    seconds: Number = None

    @model_validator(mode="after")
    def _is_measured(self) -> ReportRow:
        for name, value in (self.__pydantic_extra__ or {}).items():
            measure, _, region = name.rpartition("_")
            known = _MEASURES.get(measure)
            if region not in REGIONS or known is None:
                raise ValueError(f"{name[:80]!r} is no column of report.csv")
            if known.is_count and not (value is None or (float(value).is_integer() and value >= 0)):
                raise ValueError(f"{name} is no number of voxels")
        return self


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


class StateFile(BaseModel):
    """Content of a state file but for its tables.

    The rows of those are checked one by one; further entries are not read.
    """

    model_config = _FORM | ConfigDict(extra="ignore")

    key: Digest
    mask_sha256: Digest
    files: list[Text]
    row: ReportRow
    regions: Annotated[list[Any], Field(max_length=len(REGIONS))]
    lesions: list[Any]
    inputs: dict[Text, Digest] = {}
    models: dict[Text, Digest] = {}
    stages: dict[Text, Number] = {}
    missing: list[Text] = []
    engine: Text = ""
    convention_reason: Text = ""


def read_state(path: Path) -> dict[str, Any]:
    """Read a case's state file in the form of :class:`StateFile`.

    ``{}``, with a warning logged, where it is not.
    """
    try:
        state = read_json(path)
        StateFile.model_validate(state)
        for table, form in (("regions", RegionRow), ("lesions", LesionRow)):
            for row in state[table]:
                form.model_validate(row)
    except FileNotFoundError:
        return {}
    except OSError as error:
        log.warning("%s: not used (%s)", path, error.strerror)
        return {}
    except ValidationError as error:
        log.warning("%s: not used (%s)", path, _first(error))
        return {}
    except ValueError as error:
        log.warning("%s: not used (it %s)", path, error)
        return {}
    return {name: state[name] for name in StateFile.model_fields if name in state}


def checked_row(row: Any, case_id: str, folder: str) -> Row:
    """Read a row of report.csv from a file as the row of this case.

    Raises ValueError where it is none.
    """
    ReportRow.model_validate(row)
    return numbers_of(row | {"case": case_id, "folder": folder})


def finished_row(task: CaseTask, key: str) -> Row | None:
    """Return the row of an earlier run that made this very result.

    Its files must be there and its mask unchanged.

    A state file of an older version, which lacks the rows of the other tables or the files, is of no finished case.
    """
    state = read_state(state_path(task))
    if state.get("key") != key or state["row"]["status"] == "error" or not results_are_there(task, state):
        return None
    return checked_row(state["row"], task.case.case_id, task.folder)


def results_are_there(task: CaseTask, state: Mapping[str, Any]) -> bool:
    """Check that the files of a state are there and its mask is unchanged.

    They must be regular files of this case.
    """
    mask = result_path(task.output, task.folder, "seg", task.options.flat)
    names, files = result_names(task), state["files"]
    if mask.relative_to(task.output).as_posix() not in files or not all(name in names for name in files):
        return False
    if not all((task.output / name).is_file() and not (task.output / name).is_symlink() for name in files):
        return False
    try:
        return sha256_of(mask, 2 * task.options.max_voxels + 2**20) == state["mask_sha256"]
    except ValueError:  # larger than any mask
        return False


def numbers_of(row: Row) -> Row:
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
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _first(error: ValidationError) -> str:
    """Return the first fault on one line, without the file's content."""
    fault = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(step)[:40] for step in fault["loc"])
    return f"{place or 'its form'}: {fault['msg'][:100]}"
