"""Pages of a follow-up: one for each patient, and an overview.

Each is one file that opens offline, asks nothing of any server and runs no script; every text is escaped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.io.write import atomic_write
from data.labels import sort_regions
from data.output_names import FOLLOWUP
from pipeline import __version__
from pipeline.follow.criteria import CRITERIA, Criterion
from pipeline.follow.show.curves import Curve, draw_curve
from pipeline.follow.show.planes import COLOURS_BY_NAME
from pipeline.report.page import POLICY
from pipeline.report.pictures import embed_png
from pipeline.report.rendering import page_style, read_asset, render, render_in_pieces
from pipeline.report.texts import Table, as_number, is_known, make_table

RESEARCH = "Computed from masks by a research tool; no diagnosis."
"""Sentence on every page and in no smaller letters than the rest."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class PatientShown:
    """Content of a patient's page. Tables are those of the CSV files, so that both say the same."""

    patient: str
    timepoints: Sequence[Row]
    """Rows of timepoints.csv, in order of time."""
    lesions: Sequence[Row] = ()
    """Rows of lesions_over_time.csv."""
    responses: Sequence[Row] = ()
    """Rows of response.csv, one a criterion."""
    criteria: Sequence[str] = ()
    curves: Sequence[Curve] = ()
    pictures: Sequence[bytes | None] = ()
    """PNG of one plane, one a visit."""
    plane_told: str = ""
    growth: Mapping[str, bytes] = field(default_factory=dict)
    """PNG of the growth, by plane."""
    growth_told: str = ""
    growth_file: str = ""
    resection: Sequence[tuple[str, str]] = ()
    """What is told of surgery, by visit."""
    facts: Mapping[str, str] = field(default_factory=dict)


def write_patient_page(path: Path, shown: PatientShown) -> None:
    """Write a patient's page, whole or not at all; its folder is there. Raises OSError."""
    rows = shown.timepoints
    text = render(
        "follow_patient.html",
        policy=POLICY, style=_style(), research=RESEARCH, version=__version__, overview=FOLLOWUP,
        patient=shown.patient, cards=_cards(shown), facts=dict(shown.facts),
        visits=_visits(shown), regions=regions_of(rows), plane_note=shown.plane_told,
        criteria=[_judged(shown, CRITERIA[name]) for name in shown.criteria],
        curves=[drawn for curve in shown.curves if (drawn := draw_curve(curve)) is not None],
        curves_note=CURVES_NOTE,
        growth=[(name, embed_png(png, f"Growth, {name} plane")) for name, png in shown.growth.items()],
        growth_told=shown.growth_told, growth_file=shown.growth_file, growth_colours=COLOURS_BY_NAME,
        resection=make_table(["Visit", "After surgery"], shown.resection, label="After surgery", text_columns=2),
        resection_note=_RESECTION_NOTE, measures=_measures(rows), lesions=_lesion_rows(shown),
        lesions_note=_LESIONS_NOTE,
        flags={str(row["timepoint"]): row["flags"] for row in rows if row.get("flags")},
    )  # fmt: skip
    with atomic_write(path) as file:
        file.write(text.encode("utf-8"))


CURVES_NOTE = (
    "The band is the repeatability: masks of one patient, laid four times anew, differed by so much at most, and a "
    "smaller change says nothing. Dashed are the bounds: PD from the nadir, PR and MR from the baseline. NE: not "
    "evaluable."
)
_LESIONS_NOTE = (
    "A lesion is a connected part of a region's mask; numbers are kept from visit to visit by overlap after "
    "registration. Below the ml: largest axial diameter and its perpendicular, on the visit's own grid."
)
_RESECTION_NOTE = "Words of the RANO resect group (Karschnia 2023, doi 10.1093/neuonc/noac193), from volumes alone."


@dataclass(frozen=True)
class PatientListed:
    """Patient of the overview."""

    name: str
    folder: str
    timepoints: Sequence[Row]
    responses: Sequence[Row]
    page: str = ""
    """Address of the patient's page; empty where there is none."""
    error: str = ""


def write_overview(
    path: Path, patients: Sequence[PatientListed], criteria: Sequence[str], facts: Mapping[str, str]
) -> None:
    """Write the overview of all patients, whole or not at all. Raises OSError."""
    rows = [row for patient in patients for row in patient.timepoints]
    judged = f"category_{CRITERIA[criteria[0]].column}"
    counts = {"patient" if len(patients) == 1 else "patients": len(patients)}
    counts |= {"visit" if len(rows) == 1 else "visits": len(rows)}
    counts |= {"with progression": sum(_progressed(patient, judged) for patient in patients)}
    counts |= {"visits not evaluable": sum(row.get(judged) == "NE" for row in rows)}
    pieces = render_in_pieces(
        "follow.html",
        policy=POLICY, style=_style(), research=RESEARCH, version=__version__, title="Follow-up", counts=counts,
        facts=dict(facts), patients=_listed(patients, CRITERIA[criteria[0]]),
        order_note=f"Categories by {CRITERIA[criteria[0]].title}, visit by visit; the line is the sum over the "
        "targets. Progression first, then by name.",
    )  # fmt: skip
    with atomic_write(path) as file:
        for piece in pieces:
            file.write(piece.encode("utf-8"))


def curve_svg(curve: Curve) -> str:
    """Draw a curve for another page, which has the rules of `curve.css`.

    Empty where nothing is known.
    """
    drawn = draw_curve(curve)
    return "" if drawn is None else render("follow_curve.html", drawn=drawn)


def regions_of(rows: Sequence[Row]) -> list[str]:
    """Return the regions of which rows of timepoints.csv have a volume, in their order."""
    start = "volume_ml_"
    return sort_regions(
        name.removeprefix(start) for row in rows for name, value in row.items() if name.startswith(start)
        and is_known(value)
    )  # fmt: skip


def when(row: Row) -> str:
    """Word a visit's time: its date, and its day or order."""
    day = as_number(row.get("days"))
    date = str(row["date"]) if is_known(row.get("date")) and row.get("date") else ""
    told = f"day {day:g}" if day == day else ""
    return ", ".join(part for part in (date if date != row["timepoint"] else "", told) if part)


def note_of(row: Row, column: str) -> str:
    """Word whether a category is preliminary, confirmed or not, by a criterion's columns."""
    preliminary = "preliminary" if row.get(f"preliminary_{column}") == "yes" else ""
    confirmed = {"yes": "confirmed", "no": "not confirmed"}.get(str(row.get(f"confirmed_{column}")), "")
    return ", ".join(part for part in (preliminary, confirmed) if part)


def _style() -> str:
    return "\n".join((page_style(), read_asset("follow.css"), read_asset("curve.css")))


def _cards(shown: PatientShown) -> list[tuple[str, str, bool]]:
    """Return the figures at the top: name, value, and whether it is a category."""
    rows = shown.timepoints
    cards = [("visit" if len(rows) == 1 else "visits", str(len(rows)), False)]
    for name in shown.criteria[:1]:
        column = CRITERIA[name].column
        latest = [row for row in rows if is_known(row.get(f"category_{column}")) and row.get(f"category_{column}")]
        if latest:
            cards.append((f"at {latest[-1]['timepoint']}", str(latest[-1][f"category_{column}"]), True))
        response: Row = next((each for each in shown.responses if each.get("criterion") == name), {})
        if best := response.get("best_response"):
            cards.append(("best response", str(best), True))
        change = _latest(rows, f"change_from_baseline_percent_{_summed(CRITERIA[name])}")
        if change is not None:
            cards.append(("since the baseline, targets", _percent(change), False))
    return cards


def _summed(criterion: Criterion) -> str:
    return "sum_of_products_mm2" if criterion.measure == "product" else "target_volume_ml"


def _latest(rows: Sequence[Row], column: str) -> float | None:
    known = [value for row in rows if (value := as_number(row.get(column))) == value]
    return known[-1] if known else None


def _percent(value: float) -> str:
    return f"{value:+.0f} %".replace("-", "\N{MINUS SIGN}")


def _visits(shown: PatientShown) -> list[dict[str, Any]]:
    pictures = [*shown.pictures, *[None] * len(shown.timepoints)]
    return [
        {
            "label": row["timepoint"],
            "when": when(row),
            "picture": embed_png(png, f"Axial plane at {row['timepoint']}") if png else None,
            "judged": _badges(shown, row),
        }
        for row, png in zip(shown.timepoints, pictures, strict=False)
    ]


def _badges(shown: PatientShown, row: Row) -> list[dict[str, Any]]:
    """Return the categories of a visit; one badge where all criteria agree."""
    columns = {name: CRITERIA[name].column for name in shown.criteria}
    found = [
        (row.get(f"category_{column}"), note_of(row, column), name)
        for name, column in columns.items()
        if row.get(f"category_{column}")
    ]
    if len({(category, note) for category, note, _ in found}) == 1:
        found = [(*found[0][:2], "")]
    return [{"category": category, "note": note, "criterion": name} for category, note, name in found]


def _judged(shown: PatientShown, criterion: Criterion) -> dict[str, Any]:
    column = criterion.column
    response: Row = next((each for each in shown.responses if each.get("criterion") == criterion.name), {})
    told = {
        "Best response": response.get("best_response"),
        "Progression": response.get("progression_date") or response.get("progression_timepoint"),
        "Time to progression": _days(response.get("days_to_progression")),
    }
    return {
        "title": criterion.title,
        "lines": [
            {
                "label": row["timepoint"],
                "when": when(row),
                "category": row.get(f"category_{column}"),
                "note": note_of(row, column).capitalize(),
                "reason": row.get(f"reason_{column}"),
            }
            for row in shown.timepoints
        ],
        "response": {name: value for name, value in told.items() if is_known(value) and value != ""},
    }


def _days(value: Any) -> str:
    days = as_number(value)
    return f"{days:g} days" if days == days else ""


def _measures(rows: Sequence[Row]) -> Table | None:
    regions = regions_of(rows)
    heads = ["Visit", "Targets (mm²)", "Targets (ml)"]
    for region in regions:
        heads += [f"{region} (ml)", f"{region}, from baseline", f"{region}, ml a month", f"{region}, doubling (days)"]
    cells = []
    for row in rows:
        line = [row["timepoint"], _figure(row.get("sum_of_products_mm2")), _figure(row.get("target_volume_ml"))]
        for region in regions:
            change = as_number(row.get(f"change_from_baseline_percent_volume_ml_{region}"))
            line += [_figure(row.get(f"volume_ml_{region}")), _percent(change) if change == change else ""]
            line += [_figure(row.get(f"{name}_{region}")) for name in ("growth_ml_per_month", "doubling_days")]
        cells.append(line)
    return make_table(heads, cells, label="Measures of every visit")


def _figure(value: Any) -> str:
    number = as_number(value)
    if number != number:
        return ""
    text = f"{number:.2f}" if abs(number) < 10 else f"{number:.1f}" if abs(number) < 100 else f"{number:.0f}"
    return text.replace("-", "\N{MINUS SIGN}")


def _lesion_rows(shown: PatientShown) -> list[dict[str, Any]]:
    """Return a row for each lesion, with a cell for each visit.

    A cell has ml, diameters, and whether the lesion is new, gone, split or merged.
    """
    visits = [row["timepoint"] for row in shown.timepoints]
    lesions: dict[tuple[str, int], dict[str, Row]] = {}
    for row in shown.lesions:
        lesions.setdefault((row["region"], row["lesion"]), {})[row["timepoint"]] = row
    return [
        {
            "region": region,
            "lesion": number,
            "target": any(row.get("target") for row in own.values()),
            "cells": [_lesion_cell(own.get(visit)) for visit in visits],
        }
        for (region, number), own in sorted(lesions.items(), key=lambda item: (_place(item[0][0]), item[0][1]))
    ]


def _place(region: str) -> int:
    return {"ET": 0, "TC": 1, "WT": 2}.get(region, 3)


def _lesion_cell(row: Row | None) -> dict[str, str]:
    if row is None:
        return {"ml": "", "size": "", "event": ""}
    event = str(row.get("event") or "")
    gone = not is_known(row.get("diameter_mm"))
    size = "" if gone else f"{_figure(row['diameter_mm'])} × {_figure(row['perpendicular_mm'])} mm"
    return {
        "ml": "" if gone else f"{_figure(row['volume_ml'])} ml",
        "size": size + ("" if gone or row.get("measurable") else ", not measurable"),
        "event": "" if event in ("same", "first") else event,
    }


# ---- overview ----


def _progressed(patient: PatientListed, judged: str) -> bool:
    return any(row.get(judged) == "PD" for row in patient.timepoints)


def _listed(patients: Sequence[PatientListed], criterion: Criterion) -> Iterator[dict[str, Any]]:
    judged = f"category_{criterion.column}"
    for patient in sorted(patients, key=lambda each: (not _progressed(each, judged), each.name)):
        rows = patient.timepoints
        change = _latest(rows, f"change_from_baseline_percent_{_summed(criterion)}")
        told = patient.error or (f"targets {_percent(change)} since the baseline" if change is not None else "")
        yield {
            "name": patient.name,
            "page": patient.page,
            "visits": f"{len(rows)} visit{'' if len(rows) == 1 else 's'}",
            "categories": [row.get(judged) for row in rows],
            "spark": _spark([as_number(row.get(_summed(criterion))) for row in rows], rows),
            "told": told,
        }


def _spark(values: Sequence[float], rows: Sequence[Row]) -> dict[str, Any] | None:
    """Lay a small curve out: 112 by 32."""
    known = [(as_number(row.get("days")), n, value) for n, (row, value) in enumerate(zip(rows, values, strict=True))]
    by_day = all(day == day for day, _, _ in known) and len({day for day, _, _ in known}) > 1
    seen = [(day if by_day else float(n), value) for day, n, value in known if value == value]
    if len(seen) < 2:
        return None
    first, last, top = seen[0][0], seen[-1][0], max(value for _, value in seen) or 1.0
    points = [
        (f"{5 + 102 * (x - first) / ((last - first) or 1):.1f}", f"{27 - 22 * value / top:.1f}") for x, value in seen
    ]
    line = "M" + "L".join(f"{x} {y}" for x, y in points)
    told = "Sum over the targets: " + ", ".join(f"{value:.4g}" for _, value in seen)
    return {"width": 112, "height": 32, "line": line, "points": points, "colour": "#D55E00", "told": told}
