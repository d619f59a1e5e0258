"""The section of one patient on the page: state, pictures, scores, lesions, what was missing and how long it took."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from data.labels import REGIONS, sort_regions
from data.regular_file import read_regular_file
from pipeline.report.markup import (
    as_number,
    escape,
    is_known,
    number,
    region_label,
    seconds,
    status_badge,
    table,
)
from pipeline.score.catalogue import Metric, Place, find_metric, report_name, shown_in

Row = dict[Any, Any]
Picture = Path | Mapping[str, Path]

LESIONS_SHOWN = 20
LARGEST_PICTURE, LONGEST_SIDE = 2**24, 2**13
"""Bytes, and pixels of a side, of a picture that comes onto the page: ours have 0.5 MB and 1000 to 2000."""
_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_RANKS = {"error": 0, "warn": 1, "ok": 2}


@dataclass(frozen=True)
class Patient:
    """What the tables say of one patient: rows of report.csv, metrics.csv and lesions.csv (one a system where several)."""

    case: str
    report: Sequence[Row] = ()
    scores: Sequence[Row] = ()
    lesions: Sequence[Row] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> str:
        """The worst state of its rows; empty where there is none."""
        states = [str(row["status"]) for row in self.report if is_known(row.get("status"))]
        return min(states, key=lambda state: _RANKS.get(state, 3), default="")

    @property
    def mean_dice(self) -> float:
        """Mean Dice over regions (and systems); NaN where there is none."""
        values = [value for row in self.regions() if (value := as_number(row.get("dice"))) == value]
        return sum(values) / len(values) if values else float("nan")

    def regions(self) -> list[Row]:
        """A row a region (and system), from metrics.csv or else from the columns ``<measure>_<region>`` of report.csv."""
        rows = list(self.scores) or [row for line in self.report for row in _from_report(line)]
        order = sort_regions(str(row.get("region")) for row in rows)
        rows.sort(key=lambda row: order.index(str(row.get("region"))))
        return rows


def gather_patients(
    report: pd.DataFrame, metrics: pd.DataFrame, lesions: pd.DataFrame, details: Mapping[str, Mapping[str, Any]]
) -> list[Patient]:
    """Every patient that a table names, the worst first.

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


def patient_section(
    patient: Patient, anchor: str, picture: Picture | None, viewer: str = "", fold: bool = False
) -> str:
    """The section as HTML.

    Parameters
    ----------
    anchor : str
        The id that links lead to.
    picture : Path, or mapping of system to Path, or None
        PNG files; they are embedded. One that is not there is left out.
    viewer : str
        HTML of the interactive view.
    fold : bool
        Show the name alone until it is opened.
    """
    head = f"<h3>{escape(patient.case)}</h3>{_state(patient)}"
    parts = [f'<details class="patient" id="{anchor}"><summary>{head}</summary>' if fold else ""]
    parts += [f'<section class="patient" id="{anchor}"><div class="head">{head}</div>' if not fold else ""]
    parts += [_remarks(patient), _pictures(patient.case, picture, fold), viewer, _scores(patient), _lesions(patient)]
    parts += [_facts(patient), "</details>" if fold else "</section>"]
    return "\n".join(part for part in parts if part)


def _state(patient: Patient) -> str:
    dice = number(patient.mean_dice)
    mean = f'<span class="quiet">mean Dice {dice}</span> ' if dice else ""
    return f"<span>{mean}{status_badge(patient.status)}</span>"


def _remarks(patient: Patient) -> str:
    """Reasons and flags, each once; with the system's name where there are several."""
    reasons: dict[str, None] = {}
    flags: dict[str, None] = {}
    for row in patient.report:
        system = f"{row['system']}: " if is_known(row.get("system")) else ""
        if text := escape(row.get("reason")):
            reasons[f"{escape(system)} {text}".strip()] = None
        for flag in str(row["flags"]).split("; ") if is_known(row.get("flags")) else []:
            if flag.strip():
                flags[f"{escape(system)} {escape(flag)}".strip()] = None
    listed = "".join(f"<li>{flag}</li>" for flag in flags)
    shown = "".join(f'<p class="reason">{reason}</p>' for reason in reasons)
    return shown + (f'<ul class="flags" aria-label="Flags">{listed}</ul>' if listed else "")


def _pictures(case: str, picture: Picture | None, lazy: bool) -> str:
    named = picture if isinstance(picture, Mapping) else {"": picture} if picture is not None else {}
    shown = []
    for system, path in named.items():
        if (content := read_png(path)) is not None:
            alt = escape(f"Three planes through the largest lesion of {case}{f', {system}' if system else ''}")
            caption = f"<figcaption>{escape(system)}</figcaption>" if system else ""
            shown.append(f"<figure>{embed_png(content, alt, lazy)}{caption}</figure>")
    return f'<div class="pictures">{"".join(shown)}</div>' if len(shown) > 1 else "".join(shown)


def read_png(path: Path) -> bytes | None:
    """A picture as a run writes it beside a mask; None where there is none, or where something else lies in its place."""
    try:
        content = read_regular_file(path, LARGEST_PICTURE)
    except (OSError, ValueError):
        return None
    sides = [int.from_bytes(content[at : at + 4], "big") for at in (16, 20)]
    return content if content.startswith(_PNG) and all(0 < side <= LONGEST_SIDE for side in sides) else None


def embed_png(content: bytes, alt: str, lazy: bool = False) -> str:
    """An ``<img>`` that holds its own file; ``alt`` is escaped already. A lazy one is decoded when it comes into view."""
    # The size of a PNG stands in its first chunk; with it the page does not jump while the pictures are decoded.
    width, height = int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")
    encoded = base64.b64encode(content).decode()
    when = ' loading="lazy"' if lazy else ""
    return f'<img{when} width="{width}" height="{height}" alt="{alt}" src="data:image/png;base64,{encoded}">'


def _scores(patient: Patient) -> str:
    known = {(str(r.get("system", "")), str(r.get("region"))): r for line in patient.report for r in _from_report(line)}
    rows = [known.get((str(row.get("system", "")), str(row.get("region"))), {}) | row for row in patient.regions()]
    metrics = _shown_metrics(rows)
    cells = [
        [region_label(row.get("region")), escape(row.get("system"))]
        + [number(row.get(metric.key), metric.key, signed=metric.signed) for metric in metrics]
        for row in rows
    ]
    if not any(any(row[2:]) for row in cells):
        return ""
    head = ["Region", "System", *(metric.title for metric in metrics)]
    return table(head, cells, label=f"Volumes and scores of {patient.case}", text_columns=2)


def _shown_metrics(rows: Sequence[Row]) -> list[Metric]:
    """Return the metrics that the rows have and a patient's table shows, in its order.

    Voxels are counted where no volume in ml is known.
    """
    columns = dict.fromkeys(str(name) for row in rows for name in row)
    found = [metric for name in columns if (metric := find_metric(name)) and Place.PATIENT in metric.shown_in]
    if any(is_known(row.get("volume_ml_prediction")) for row in rows):
        found = [metric for metric in found if metric.unit != "voxels"]
    return sorted(found, key=lambda metric: metric.shown_in[Place.PATIENT])


def _lesions(patient: Patient) -> str:
    if not patient.lesions:
        return ""
    cells = [_lesion(row) for row in patient.lesions[:LESIONS_SHOWN]]
    sizes = [metric.title for metric in shown_in(Place.LESIONS)]
    head = ["Region", "System", "Lesion", "Overlap", *sizes, "Centroid x, y, z (mm)", "Slice"]
    shown = table(head, cells, label=f"Lesions of {patient.case}", text_columns=4)
    more = len(patient.lesions) - LESIONS_SHOWN
    rest = f'<p class="note">and {more} more in lesions.csv</p>' if more > 0 else ""
    is_open = " open" if len(cells) <= 8 else ""
    title = f"Lesions ({len(patient.lesions)})"
    return f'<details{is_open}><summary class="small">{title}</summary>{shown}{rest}</details>'


def _lesion(row: Row) -> list[str]:
    side = str(row["side"]) if is_known(row.get("side")) else ""
    matches = escape(row.get("matches"))
    detected = str(row.get("detected")) if is_known(row.get("detected")) else ""
    if detected in ("False", "0", "0.0"):
        overlap = "missed" if side == "reference" else "false positive"
    elif matches and detected:
        overlap = (
            f"{'prediction' if side == 'reference' else 'reference'} {matches.removesuffix('.0').replace(' ', ', ')}"
        )
    else:
        overlap = ""
    centroid = [as_number(row.get(f"centroid_{axis}_mm")) for axis in "xyz"]
    place = (
        ", ".join(f"{c:.0f}".replace("-", "\N{MINUS SIGN}") for c in centroid) if not any(map(_nan, centroid)) else ""
    )
    lesion = as_number(row.get("lesion"))
    return [
        region_label(row.get("region")),
        escape(row.get("system")),
        f"{escape(side)} {'' if _nan(lesion) else int(lesion)}".strip(),
        overlap,
        *(number(row.get(metric.key), metric.key) for metric in shown_in(Place.LESIONS)),
        place,
        "" if _nan(as_number(row.get("slice"))) else str(int(as_number(row.get("slice")))),
    ]


def _nan(value: float) -> bool:
    return value != value


def _facts(patient: Patient) -> str:
    details = patient.details
    facts: dict[str, str] = {}
    missing = [escape(modality) for modality in details.get("missing") or []]
    facts["Missing"] = ", ".join(missing)
    facts["Time"] = _times(patient)
    for name in ("model", "convention", "folder"):
        values = [escape(row.get(name)) for row in patient.report] or [""]
        values = [*values, escape(details.get(name))] if not any(values) else values
        facts[name.capitalize()] = ", ".join(dict.fromkeys(value for value in values if value))
    listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts.items() if value)
    return f"<dl>{listed}</dl>" if listed else ""


def _times(patient: Patient) -> str:
    total = [row.get("seconds") for row in patient.report if seconds(row.get("seconds"))]
    total = total or [patient.details.get("seconds")]
    shown = " / ".join(text for value in total if (text := seconds(value)))
    stages = patient.details.get("stages") or {}
    parts = [f"{escape(name)} {text}" for name, value in stages.items() if (text := seconds(value))]
    return shown + (f" ({', '.join(parts)})" if parts and shown else ", ".join(parts))
