"""Lines that a user reads: rows, inspections, models, and the end of a run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.output_names import FOLLOWUP, GRIDS, MASK, PAGE, REPORT, TIMEPOINTS, result_path
from pipeline.commands.terminal.console import OK, SOME_FAILED, Console


def row_line(row: Mapping[str, Any]) -> str:
    """Word a row of report.csv."""
    return f"{row['case']}: {row['status']}" + (f", {row['reason']}" if row.get("reason") else "")


def progress_line(row: Mapping[str, Any], done: int, total: int) -> str:
    """Word the end of a case, with the time that it took.

    That of an earlier run is not told.
    """
    taken = "already done" if row.get("already_done") else f"{row.get('seconds', 0):.1f} s"
    return f"[{done}/{total}] {row_line(row)} ({taken})"


def case_object(row: Mapping[str, Any], output: Path, flat: bool) -> dict[str, Any]:
    """Return a row for JSON, with the paths of its masks.

    ``null`` stands where there is no mask, or a measure is not known.
    """
    unknown = {name for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)}
    mask = result_path(output, row["folder"], MASK, flat)
    is_there = row["status"] != "error" and mask.is_file()
    grids = {grid: result_path(output, row["folder"], f"{MASK}_{grid}", flat) for grid in (GRIDS if is_there else ())}
    masks = {grid: str(path) for grid, path in grids.items() if path.is_file()}
    there = {"mask": str(mask) if is_there else None, **({"masks": masks} if masks else {})}
    return {name: None if name in unknown else value for name, value in row.items()} | there


def conclude(report: Any, output: Path, quiet: bool, console: Console) -> int:
    """Say the number of cases, their scores and files; return the exit status."""
    errors = report[report["status"] == "error"].to_dict("records")
    if quiet:
        for row in errors:
            console.complain(row_line(row))
    else:
        for line in conclusion_lines(report, output):
            console.say(line)
    return SOME_FAILED if errors else OK


def conclude_follow(report: Any, output: Path, quiet: bool, console: Console) -> int:
    """Say the number of patients and their files; return the exit status."""
    errors = report[report["status"] == "error"].to_dict("records")
    if quiet:
        for row in errors:
            console.complain(row_line(row))
    else:
        console.say(counted(report["status"]))
        console.say(f"table: {output / TIMEPOINTS}")
        console.say(f"page: {output / FOLLOWUP}")
    return SOME_FAILED if errors else OK


def over_time_line(row: Mapping[str, Any]) -> str:
    """Word a row of over_time_summary.csv."""
    told = [f"{row['n']:.0f} visits"]
    for name, text in (
        ("mean_absolute_error_ml", "mean error {:.2f} ml"), ("agreement", "agreement {:.0%}"), ("kappa", "kappa {:.2f}")
    ):  # fmt: skip
        value = row.get(name)
        if value is not None and math.isfinite(value):
            told.append(text.format(value))
    return f"  {row['measure']}: {', '.join(told)}"


def conclusion_lines(report: Any, output: Path) -> Iterator[str]:
    """Yield the lines below those of the cases."""
    from pipeline.score.catalogue import Place, report_name, shown_in

    yield counted(report["status"])
    shown = tuple(f"{report_name(metric)}_" for metric in shown_in(Place.TERMINAL))
    for name, rows in report.groupby("system", sort=False) if "system" in report else [("", report)]:
        if name:
            yield f"  {name}"
        for column in (c for c in rows.columns if c.startswith(shown) and rows[c].notna().any()):
            yield f"  {column}: mean {rows[column].mean():.3f}, median {rows[column].median():.3f}"
    yield f"report: {output / REPORT}"
    if (output / PAGE).is_file():
        yield f"page: {output / PAGE}"


def counted(statuses: Sequence[str]) -> str:
    """Count the patients, all and by status."""
    there = list(statuses)
    listed = ", ".join(f"{there.count(status)} {status}" for status in ("ok", "warn", "error"))
    return f"{len(there)} patient{'' if len(there) == 1 else 's'}: {listed}"


def inspection_lines(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of `inspect`."""
    for case in found:
        yield f"{case['case']}: {case['status']}"
        yield from _visit_lines(case)
        yield f"    layout {case['layout']}: {case['layout_reason']}"
        yield f"    convention {case['convention'] or 'not known'}: {case['convention_reason']}"
        for name, image in case["images"].items():
            shape = "x".join(map(str, image["shape"])) if image["shape"] else "not readable"
            spacing = (
                "x".join(f"{s:.4g}" for s in image["spacing_mm"]) + " mm" if image["spacing_mm"] else "spacing unknown"
            )
            yield f"    {name}: {shape}, {spacing}, {image['orientation'] or ''}, {image['file']}"
        for line in case["series"]:
            number = "" if line["number"] is None else f" {line['number']}"
            role = line["role"] or "left aside"
            pictures = f"{line['pictures']} picture{'' if line['pictures'] == 1 else 's'}"
            why = ", ".join(line["reasons"])
            yield f"    series{number} {line['description']!r}, {pictures}: {role} ({why}) {line['uid']}"
        for kind in ("problems", "warnings", "missing", "unrecognised"):
            for text in case[kind]:
                yield f"    {kind.rstrip('s') if kind != 'missing' else kind}: {text}"
    yield counted([case["status"] for case in found])


def _visit_lines(case: Mapping[str, Any]) -> Iterator[str]:
    """Yield the line of a case's patient and time point, where it has one."""
    if not case["timepoint"]:
        return
    told = [f"patient {case['patient']}", f"time point {case['timepoint']}"]
    told += [case["date"]] if case["date"] and case["date"] != case["timepoint"] else []
    told += [f"day {case['days']:g}"] if case["days"] is not None else []
    by = {"date": "by date", "days": "by days", "number": "by number"}.get(case["order_from"], "by name alone")
    yield f"    {', '.join(told)}, visit {case['order'] + 1} {by}"


def model_lines(model: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of one entry of `models`."""
    after = f", in the box that an {model['first']} finds" if "first" in model else ""
    planes = f", slices: {', '.join(model['planes'])}" if "planes" in model else ""
    yield f"{model['name']}: {model['architecture']}, {model['spatial_dims']}D{planes}{after}"
    if model["default_for"]:
        yield f"    default for {' and '.join(model['default_for'])}"
    channels = f"from {', '.join(model['modalities'])} to {', '.join(model['regions'])}"
    yield f"    {channels}; trained on {model['trained_on']}"
    scores = ", ".join(f"{name} {value:.3f}" for name, value in model["scores"].items())
    yield f"    {scores}; {model['licence']}"


def training_lines(model: Path) -> Iterator[str]:
    """Yield the last lines of `train`: the model and its scores."""
    yield f"model: {model}"
    table = model.parent / "validation.csv"
    if table.is_file():
        yield from validation_lines(table)


def validation_lines(table: Path) -> Iterator[str]:
    """Yield mean Dice and HD95 of each region in validation.csv."""
    from pipeline.score.tables import read_rows

    header, *rows = read_rows(table)
    yield f"validation: {len(rows)} patient{'' if len(rows) == 1 else 's'}, {table}"
    for column in (name for name in header if name.startswith("dice_")):
        region, scores = column.removeprefix("dice_"), []
        for name, heading, unit, digits in (("dice", "Dice", "", 3), ("hd95_mm", "HD95", " mm", 1)):
            place = header.index(f"{name}_{region}") if f"{name}_{region}" in header else None
            values = [float(row[place]) for row in rows if place is not None and row[place]]
            if values:
                scores.append(f"{heading} {sum(values) / len(values):.{digits}f}{unit}")
        yield f"  {region}: mean {', '.join(scores)}"
