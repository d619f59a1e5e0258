"""Section of one patient: state, pictures, scores, lesions and facts of the run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from data.labels import REGIONS, convention_name, sort_regions
from pipeline.report.pictures import EmbeddedImage, Picture, embed_pictures, thumbnail
from pipeline.report.texts import Table, as_number, is_known, make_table, metric_name, number, plain, seconds
from pipeline.report.viewer import View, viewer_panel
from pipeline.score.catalogue import Metric, Place, find_metric, report_name, shown_in
from pipeline.score.lesions import is_small
from pipeline.score.quality import is_learnt_from

Row = dict[Any, Any]

LESIONS_SHOWN = 20
_RANKS = {"error": 0, "warn": 1, "ok": 2}


@dataclass(frozen=True)
class Patient:
    """Rows of report.csv, metrics.csv and lesions.csv of one patient (one a system where several)."""

    case: str
    report: Sequence[Row] = ()
    scores: Sequence[Row] = ()
    lesions: Sequence[Row] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> str:
        """Worst state of its rows; empty where there is none."""
        states = [str(row["status"]) for row in self.report if is_known(row.get("status"))]
        return min(states, key=lambda state: _RANKS.get(state, 3), default="")

    @property
    def learnt_from(self) -> bool:
        """True where a flag says that a model has learnt from the patient."""
        return any(is_learnt_from(row.get("flags")) for row in self.report)

    @property
    def mean_dice(self) -> float:
        """Mean Dice over regions (and systems); NaN where there is none."""
        values = [value for row in self.regions() if (value := as_number(row.get("dice"))) == value]
        return sum(values) / len(values) if values else float("nan")

    def regions(self) -> list[Row]:
        """Return a row a region (and system), from metrics.csv or else from report.csv.

        There the columns are ``<measure>_<region>``.
        """
        rows = list(self.scores) or [row for line in self.report for row in _from_report(line)]
        order = sort_regions(str(row.get("region")) for row in rows)
        rows.sort(key=lambda row: order.index(str(row.get("region"))))
        return rows


def gather_patients(
    report: pd.DataFrame, metrics: pd.DataFrame, lesions: pd.DataFrame, details: Mapping[str, Mapping[str, Any]]
) -> list[Patient]:
    """Gather every patient that a table names, the worst first.

    Errors come before all; then the scored ones, from the lowest mean Dice up; then those without a score, warnings
    first. Equals are in the order of their names.
    """
    rows, scores, found = (_by_case(frame) for frame in (report, metrics, lesions))
    patients = [
        Patient(case, rows.get(case, []), scores.get(case, []), found.get(case, []), details.get(case, {}))
        for case in dict.fromkeys((*rows, *scores, *found))
    ]

    def badness(patient: Patient) -> tuple[bool, bool, float, int, str]:
        dice = patient.mean_dice
        scored = dice == dice
        state = patient.status
        return (state != "error", not scored, dice if scored else 0.0, _RANKS.get(state, 3), patient.case)

    return sorted(patients, key=badness)


def _by_case(frame: pd.DataFrame) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {}
    for row in frame.to_dict("records") if "case" in frame else []:
        rows.setdefault(str(row["case"]), []).append(row)
    return rows


def _from_report(row: Row) -> Iterator[Row]:
    keys = {report_name(metric): metric.key for metric in shown_in(Place.REPORT)}
    for region in REGIONS:
        own = {
            str(name).removesuffix(f"_{region}"): value
            for name, value in row.items()
            if str(name).endswith(f"_{region}") and is_known(value)
        }
        if own:
            about = {key: row[key] for key in ("system",) if key in row}
            yield about | {"region": region} | {keys.get(name, name): value for name, value in own.items()}


@dataclass(frozen=True)
class PatientEntry:
    """Patient as the page's templates show it."""

    patient: Patient
    anchor: str
    """The id that links lead to."""
    picture: Picture | None
    view: View | None
    folded: bool
    """Whether the name alone is shown until it is opened."""
    tolerance_mm: float | None = None
    """Of the normalised surface Dice."""

    @property
    def mean_dice(self) -> str:
        """Mean Dice as text; empty where there is none."""
        return number(self.patient.mean_dice)

    @property
    def thumbnail(self) -> EmbeddedImage | None:
        """Small picture; None where there is none."""
        return thumbnail(self.patient.case, self.picture)

    @property
    def reasons(self) -> list[str]:
        """Reasons of its rows, each once; with the system's name where there are several."""
        return _each_once((row, [row.get("reason")]) for row in self.patient.report)

    @property
    def flags(self) -> list[str]:
        """Flags of its rows, likewise."""
        rows = [row for row in self.patient.report if is_known(row.get("flags"))]
        return _each_once((row, str(row["flags"]).split("; ")) for row in rows)

    def pictures(self) -> list[tuple[str, EmbeddedImage]]:
        """Read and embed its pictures, by system.

        One that is not there is left out.
        """
        return embed_pictures(self.patient.case, self.picture)

    def viewer(self) -> str:
        """Return its interactive view as HTML; empty where none is asked for."""
        return viewer_panel(self.view, self.patient.case) if self.view is not None else ""

    def scores(self) -> Table | None:
        """Make the table of volumes and scores; None where nothing is known."""
        return _scores(self.patient, self.tolerance_mm)

    @property
    def n_small(self) -> int:
        """Number of its lesions that are counted apart."""
        return sum(map(_is_small, self.patient.lesions))

    def lesions(self) -> Table | None:
        """Make the table of its first `LESIONS_SHOWN` lesions; None where there are none.

        Small ones are not in it.
        """
        shown = [row for row in self.patient.lesions if not _is_small(row)][:LESIONS_SHOWN]
        cells = [_lesion(row) for row in shown]
        sizes = [metric.title for metric in shown_in(Place.LESIONS)]
        head = ["Region", "System", "Lesion", "Overlap", *sizes, "Centroid x, y, z (mm)", "Slice"]
        return make_table(head, cells, label=f"Lesions of {self.patient.case}", text_columns=4)

    def facts(self) -> dict[str, str]:
        """Return missing modalities, time, model, convention and folder, as far as known."""
        return {name: value for name, value in _facts(self.patient).items() if value}


def _each_once(said: Iterable[tuple[Row, Sequence[Any]]]) -> list[str]:
    by_text: dict[str, list[str]] = {}
    said = list(said)
    for row, texts in said:
        system = plain(row["system"]) if is_known(row.get("system")) else ""
        for text in dict.fromkeys(text for each in texts if (text := plain(each))):
            by_text.setdefault(text, []).append(system)
    # What holds for all systems needs no name.
    return [
        f"{', '.join(systems)}: {text}" if any(systems) and len(systems) < len(said) else text
        for text, systems in by_text.items()
    ]


def _is_small(row: Row) -> bool:
    return is_small({"volume_ml": as_number(row.get("volume_ml"))})


def _scores(patient: Patient, tolerance_mm: float | None) -> Table | None:
    known = {(str(r.get("system", "")), str(r.get("region"))): r for line in patient.report for r in _from_report(line)}
    rows = [known.get((str(row.get("system", "")), str(row.get("region"))), {}) | row for row in patient.regions()]
    metrics = _shown_metrics(rows)
    cells = [
        [row.get("region"), plain(row.get("system"))]
        + [number(row.get(metric.key), metric.key, signed=metric.signed) for metric in metrics]
        for row in rows
    ]
    if not any(any(row[2:]) for row in cells):
        return None
    head = ["Region", "System", *(metric_name(metric.key, tolerance_mm) for metric in metrics)]
    return make_table(head, cells, label=f"Volumes and scores of {patient.case}", text_columns=2)


def _shown_metrics(rows: Sequence[Row]) -> list[Metric]:
    """Return the rows' metrics that a patient's table shows, in its order.

    Voxels are counted where no volume in ml is known.
    """
    columns = dict.fromkeys(str(name) for row in rows for name in row)
    found = [metric for name in columns if (metric := find_metric(name)) and Place.PATIENT in metric.shown_in]
    if any(is_known(row.get("volume_ml_prediction")) for row in rows):
        found = [metric for metric in found if metric.unit != "voxels"]
    return sorted(found, key=lambda metric: metric.shown_in[Place.PATIENT])


def _lesion(row: Row) -> list[Any]:
    side = str(row["side"]) if is_known(row.get("side")) else ""
    centroid = [as_number(row.get(f"centroid_{axis}_mm")) for axis in "xyz"]
    place = ", ".join(f"{mm:.0f}".replace("-", "\N{MINUS SIGN}") for mm in centroid)
    lesion, index = as_number(row.get("lesion")), as_number(row.get("slice"))
    return [
        row.get("region"),
        row.get("system"),
        f"{side} {'' if math.isnan(lesion) else int(lesion)}",
        _overlap(row, side),
        *(number(row.get(metric.key), metric.key) for metric in shown_in(Place.LESIONS)),
        "" if any(map(math.isnan, centroid)) else place,
        "" if math.isnan(index) else int(index),
    ]


def _overlap(row: Row, side: str) -> str:
    """Name the other side's lesions that share a voxel with this one.

    A lesion without any is missed, or a false positive.
    """
    detected = str(row.get("detected")) if is_known(row.get("detected")) else ""
    if detected in ("False", "0", "0.0"):
        return "missed" if side == "reference" else "false positive"
    matches = plain(row.get("matches"))
    if not (matches and detected):
        return ""
    other = "prediction" if side == "reference" else "reference"
    return f"{other} {matches.removesuffix('.0').replace(' ', ', ')}"


def _facts(patient: Patient) -> dict[str, str]:
    details = patient.details
    facts = {"Missing": ", ".join(map(plain, details.get("missing") or [])), "Time": _times(patient)}
    for name in ("model", "convention", "folder"):
        values = [plain(row.get(name)) for row in patient.report] or [""]
        values = [*values, plain(details.get(name))] if not any(values) else values
        values = list(map(convention_name, values)) if name == "convention" else values
        facts[name.capitalize()] = ", ".join(dict.fromkeys(value for value in values if value))
    return facts


def _times(patient: Patient) -> str:
    total = [row.get("seconds") for row in patient.report if seconds(row.get("seconds"))]
    total = total or [patient.details.get("seconds")]
    shown = " / ".join(text for value in total if (text := seconds(value)))
    stages = patient.details.get("stages") or {}
    parts = [f"{plain(name)} {text}" for name, value in stages.items() if (text := seconds(value))]
    return shown + (f" ({', '.join(parts)})" if parts and shown else ", ".join(parts))
