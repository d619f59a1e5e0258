"""Objects of the API, as its documentation describes them."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, Field, create_model

from pipeline.score.catalogue import Place, shown_in
from pipeline.web.jobs import Jobs
from pipeline.web.store import CaseRecord
from pipeline.web.visits.marked import is_followup, marks_of
from pipeline.web.visits.objects import FollowUp, VisitInfo, followup_json, viewed_files

Role = Literal["t1", "t1c", "t2", "flair", "reference"]
State = Literal["checking", "ready", "queued", "running", "done", "failed", "cancelled", "interrupted"]


class Problem(BaseModel):
    """Reply to a request that failed."""

    error: str = Field(description="One sentence: what, which value, what to do.")


class ModelInfo(BaseModel):
    """Model that can be chosen."""

    name: str
    modalities: list[str] = Field(description="In the order in which it takes them.")
    regions: list[str]
    trained_on: str
    scores: dict[str, float]
    licence: str
    card: str = Field(description="The model card as Markdown; empty where there is none.")


class GalleryEntry(BaseModel):
    """Phantom patient to try."""

    id: str
    title: str
    text: str


class ResultEntry(BaseModel):
    """Finished patient of an earlier `segment` run."""

    id: str
    title: str


class CaseFile(BaseModel):
    """Image of a case: file, stack of slices, 4D volume or DICOM series."""

    id: str
    name: str
    role: Role | None = Field(description="What it shows, as the user says or its name does.")
    detected_role: Role | None = Field(description="What its name says.")
    shape: list[int] | None
    spacing_mm: list[float] | None
    orientation: str | None = Field(description='The direction in which each axis grows, such as "LPS".')
    problem: str | None
    series: str = Field(description="SeriesInstanceUID of a DICOM series; empty for other images.")
    reasons: list[str] = Field(description="Why a DICOM series was taken for its role, or left aside.")


class MeasureInfo(BaseModel):
    """Score of the regions that is known of at least one of them."""

    key: str = Field(description="Its entry in each region.")
    heading: str = Field(description="With the unit.")
    unit: str = Field(description='"" for a share, 0 to 1.')
    meaning: str


class _RegionSizes(BaseModel):
    region: str
    colour: str
    volume_ml: float | None
    voxels: int
    lesions: int
    largest_diameter_mm: float | None


RegionResult: type[BaseModel] = create_model(
    "RegionResult",
    __base__=_RegionSizes,
    __doc__="Measurements of one region; null where one is not known.",
    **{metric.key: (float | None, ...) for metric in shown_in(Place.WEB)},  # type: ignore[call-overload]
)
"""Sizes of a region and the scores that the catalogue of metrics shows in the web app."""


class LesionResult(BaseModel):
    """One lesion, the largest first in each region."""

    region: str
    lesion: int
    volume_ml: float | None
    centroid_mm: list[float | None] = Field(description="x, y, z, RAS+.")
    centre_voxel: list[int] | None = Field(
        description="Index in the mask of the lesion's own voxel nearest to its centroid; null where the mask shows no "
        "such lesion."
    )
    diameter_mm: float | None
    perpendicular_mm: float | None


class LabelInfo(BaseModel):
    """Meaning of a value of the mask."""

    name: str
    colour: str
    regions: list[str]


class ViewInfo(BaseModel):
    """Files that a viewer loads.

    They are NIfTI files of uint8, all on one crop of the mask's grid.
    """

    background: dict[str, str] = Field(description="Modality to URL; slope and intercept give the image's own units.")
    prediction: str = Field(description="URL; bit i of a voxel says that it lies in regions[i].")
    reference: str | None
    mask: str = Field(description="URL of the written mask itself.")
    regions: list[str]
    colours: list[str]
    centre_mm: list[float] = Field(description="Where to look first.")
    windows: dict[str, list[float]] = Field(description="Modality to the darkest and the brightest value shown.")
    offset: list[int] = Field(description="Voxel of the mask at which the crop begins.")
    brain: int | None = Field(
        description="Bit of the prediction's voxels that lie in the brain, where the skull was removed."
    )


class MoveInfo(BaseModel):
    """Move that laid an image on the one that gives the grid."""

    mm: float
    degrees: float


class Preparation(BaseModel):
    """Work on images that were not registered or showed the skull."""

    reference: str = Field(description="Modality that the others were laid on.")
    moves: dict[str, MoveInfo] = Field(description="Modality to its move.")
    stripped: bool = Field(description="The skull was removed; view.brain shows what was kept.")


class ResultFile(BaseModel):
    """File that can be downloaded."""

    name: str
    url: str
    bytes: int
    what: str


class Result(BaseModel):
    """Result of a finished case."""

    status: str = Field(description="ok or warn, as in report.csv.")
    reason: str
    flags: list[str] = Field(description="What a reader should look at twice.")
    checks: list[str] = Field(default=[], description="What was looked at in the images, and what was found.")
    model: str
    convention: str
    spacing_known: bool
    regions: list[RegionResult]  # type: ignore[valid-type]
    measures: list[MeasureInfo] = Field(description="In the order in which they are shown; empty without a reference.")
    lesions: list[LesionResult]
    labels: dict[str, LabelInfo]
    seconds: float | None
    has_reference: bool = Field(description="It was compared with one, which view.reference shows where it is there.")
    view: ViewInfo
    preparation: Preparation | None = Field(description="null where the images were taken as they came.")
    left_out: list[str] = Field(description="Formats of the mask that are not among the files, and why.")
    files: list[ResultFile]


class FollowUpResult(FollowUp):
    """Result of a finished follow-up, with its files."""

    files: list[ResultFile]


class CaseInfo(BaseModel):
    """One case of this session."""

    id: str = Field(description="128 random bits, 32 hexadecimal digits.")
    name: str
    state: State
    created: float = Field(description="Seconds since 1970.")
    expires: float = Field(description="When the server removes it.")
    files: list[CaseFile]
    missing: list[str] = Field(description="Modalities that the model would like and that are not there.")
    problems: list[str] = Field(description="Why it cannot run.")
    warnings: list[str]
    prepare: Literal["auto", "off"] = Field(
        description="As --prepare of `segment`: what is not ready is prepared, or refused."
    )
    unready: str = Field(description="What of the images will be prepared; empty where nothing is known of it yet.")
    can_run: bool
    model: str | None
    models: list[str] = Field(description="Models that fit.")
    queue_position: int | None = Field(description="1: the next.")
    stage: str | None
    progress: float = Field(ge=0, le=1)
    seconds_left: float | None = Field(
        description="By what earlier runs took and by how far it is; null while nothing is known."
    )
    error: str | None
    result: Result | None
    date: str = Field(description="Day of the scan; empty where nothing tells it.")
    visits: list[VisitInfo] = Field(description="Of a follow-up, in order of time; empty for a case with images.")
    followup: FollowUpResult | None


class Changes(BaseModel, extra="forbid"):
    """Changes that a user may make to a case."""

    roles: dict[str, Role | None] = Field(default={}, description="File id to what it shows; null: nothing of ours.")
    model: str | None = None
    prepare: Literal["auto", "off"] | None = None
    name: str | None = Field(default=None, max_length=200)


class Nothing(BaseModel, extra="forbid"):
    """Body of a request that needs none: an empty object, or nothing.

    Anything else is refused.
    """


class CaseTexts:
    """Cases as JSON text. A finished case is packed once: it may list hundreds of lesions, and is asked for often."""

    MOST = 1000

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._packed: dict[str, tuple[CaseRecord, bytes]] = {}

    def __call__(self, record: CaseRecord) -> bytes:
        """Return the record as ``CaseInfo``."""
        packed = self._packed.get(record.id)
        if packed is not None and packed[0] is record:  # records are replaced, never changed
            return packed[1]
        text = json.dumps(case_json(record, self._jobs)).encode()
        if record.state not in ("queued", "running"):  # their texts change with time alone
            if len(self._packed) >= self.MOST:
                self._packed.clear()
            self._packed[record.id] = (record, text)
        return text


def case_json(record: CaseRecord, jobs: Jobs) -> dict[str, Any]:
    """Return a record as ``CaseInfo``."""
    return {
        "id": record.id,
        "name": record.name,
        "state": record.state,
        "created": record.created,
        "expires": record.expires,
        "files": [
            {
                "id": source.id,
                "name": source.name,
                "role": source.role,
                "detected_role": source.detected_role,
                "shape": source.shape,
                "spacing_mm": source.spacing_mm,
                "orientation": source.orientation,
                "problem": source.problem,
                "series": source.series,
                "reasons": source.reasons,
            }
            for source in record.sources
        ],
        "missing": record.missing,
        "problems": record.problems,
        "warnings": record.warnings,
        "prepare": record.prepare,
        "unready": record.unready,
        "can_run": record.can_run and record.state not in ("checking", "queued", "running"),
        "model": record.model,
        "models": record.models,
        "queue_position": jobs.forecast.position(record),
        "stage": record.stage,
        "progress": 1.0 if record.state == "done" else record.progress,
        "seconds_left": jobs.forecast.seconds_left(record),
        "error": record.error,
        "result": None if is_followup(record) else _result(record),
        "date": record.date,
        "visits": [asdict(mark) for mark in marks_of(record)],
        "followup": followup_json(record, _base(record), _files(record)),
    }


def _base(record: CaseRecord) -> str:
    return f"/api/cases/{record.id}/files/"


def _files(record: CaseRecord) -> list[dict[str, Any]]:
    return [
        {"name": name, "url": _base(record) + quote(name), "bytes": about["bytes"], "what": about["what"]}
        for name, about in record.downloads.items()
    ]


def _result(record: CaseRecord) -> dict[str, Any] | None:
    if record.result is None:
        return None
    base = _base(record)
    view = record.result["view"]
    shown = {modality: f"{base}view/{name}" for modality, name in view["background"].items()}
    urls = {
        "background": shown,
        "prediction": f"{base}view/{view['prediction']}",
        "reference": view["reference"] and f"{base}view/{view['reference']}",
        "mask": f"{base}view/mask.nii.gz",
    }
    later: dict[str, Any] = {"preparation": None, "left_out": []}  # of results that an older version has kept
    return later | record.result | {"view": {"brain": None} | view | urls, "files": _files(record)}


def served_path(record: CaseRecord, name: str) -> str | None:
    """Return the path, below the case's folder, of the file served as ``name``.

    None for everything else.
    """
    if name in record.downloads:
        return str(record.downloads[name]["path"])
    if record.result is None or not name.startswith("view/"):
        return None
    if is_followup(record):
        return name if name.removeprefix("view/") in viewed_files(record) else None
    view = record.result["view"]
    shown = {*view["background"].values(), view["prediction"], view["reference"]}
    if name == "view/mask.nii.gz":
        return str(next(iter(record.downloads.values()))["path"])
    return name if name.removeprefix("view/") in shown else None
