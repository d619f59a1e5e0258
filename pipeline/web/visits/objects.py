"""Objects of the API that are about follow-ups."""

from __future__ import annotations

import datetime
from typing import Any

from pydantic import BaseModel, Field

from pipeline.web.store import CaseRecord
from pipeline.web.visits.marked import MOST_VISITS


class MarkedVisit(BaseModel, extra="forbid"):
    """Case that is a visit."""

    case: str = Field(pattern=r"^[0-9a-f]{32}$", description="Id of a finished case of this session.")
    date: datetime.date | None = Field(
        default=None, description="Day of the scan; null: that of the case, if it has one."
    )


class Marks(BaseModel, extra="forbid"):
    """Visits of one patient. They are in order of time, unless all have dates."""

    visits: list[MarkedVisit] = Field(min_length=2, max_length=MOST_VISITS)
    criterion: str = Field(default="rano2", max_length=40, description="As --criteria of `follow`.")
    name: str = Field(default="", max_length=200, description="What to call the patient; empty: as the first case.")


class VisitInfo(BaseModel):
    """Visit of a follow-up, as it was marked."""

    case: str
    label: str
    date: str


class GrowthView(BaseModel):
    """Growth since the baseline, as bits of the overlay."""

    since: str = Field(description="Label of the earlier visit.")
    region: str
    bits: dict[str, int] = Field(description="kept, gained and lost to the bit of a voxel.")


class VisitView(BaseModel):
    """Files that a viewer loads of one visit, on its own grid."""

    background: dict[str, str] = Field(description="Modality to URL.")
    prediction: str = Field(description="URL; bit i of a voxel says that it lies in regions[i].")
    reference: str | None
    regions: list[str] = Field(description="Regions of the mask; kept, gained and lost behind them.")
    colours: list[str]
    centre_mm: list[float]
    windows: dict[str, list[float]]
    offset: list[int]
    brain: int | None
    growth: GrowthView | None


class FollowedVisit(BaseModel):
    """Visit of a finished follow-up; a row of timepoints.csv in short."""

    case: str
    label: str
    when: str = Field(description="Its date and day in words.")
    volumes_ml: dict[str, float] = Field(description="Region to the volume of all its lesions.")
    category: str = Field(description="BASELINE, CR, PR, MR, SD, PD or NE.")
    note: str = Field(description="Whether it is preliminary, confirmed or not.")
    reason: str
    flags: str
    matrix: list[list[float]] = Field(description="4x4: from a place at the first visit to this one, mm, RAS+.")
    view: VisitView


class CurveInfo(BaseModel):
    """Measure over time."""

    title: str
    unit: str
    svg: str = Field(description="The curve with the repeatability as a band and the bounds.")


class FollowUp(BaseModel):
    """Result of a finished follow-up."""

    research: str = Field(description="Sentence that every view of it must show.")
    criterion: str
    status: str
    reason: str
    visits: list[FollowedVisit]
    curves: list[CurveInfo]
    curves_note: str


def followup_json(record: CaseRecord, base: str, files: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the follow-up of a record with the addresses of its files; None where it is not finished."""
    kept = (record.result or {}).get("followup")
    if kept is None:
        return None
    visits = [visit | {"view": _addressed(visit["view"], base)} for visit in kept["visits"]]
    return kept | {"visits": visits, "files": files}


def viewed_files(record: CaseRecord) -> set[str]:
    """Return the names below ``view/`` that a follow-up shows."""
    views = [visit["view"] for visit in (record.result or {}).get("followup", {}).get("visits", [])]
    return {name for view in views for name in (*view["background"].values(), view["prediction"])}


def _addressed(view: dict[str, Any], base: str) -> dict[str, Any]:
    shown = {modality: f"{base}view/{name}" for modality, name in view["background"].items()}
    return view | {"background": shown, "prediction": f"{base}view/{view['prediction']}"}
