"""Lines that a user reads: rows, inspections, models, and the end of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.output_names import PAGE, REPORT
from pipeline.commands.console import OK, SOME_FAILED, Console


def row_line(row: Mapping[str, Any]) -> str:
    """Word a row of report.csv."""
    return f"{row['case']}: {row['status']}" + (f", {row['reason']}" if row.get("reason") else "")


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
        yield f"    layout {case['layout']}: {case['layout_reason']}"
        yield f"    convention {case['convention'] or 'not known'}: {case['convention_reason']}"
        for name, image in case["images"].items():
            shape = "x".join(map(str, image["shape"])) if image["shape"] else "not readable"
            spacing = (
                "x".join(f"{s:.4g}" for s in image["spacing_mm"]) + " mm" if image["spacing_mm"] else "spacing unknown"
            )
            yield f"    {name}: {shape}, {spacing}, {image['orientation'] or ''}, {image['file']}"
        for kind in ("problems", "warnings", "missing", "unrecognised"):
            for text in case[kind]:
                yield f"    {kind.rstrip('s') if kind != 'missing' else kind}: {text}"
    yield counted([case["status"] for case in found])


def model_lines(model: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of one entry of `models`."""
    after = f", in the box that an {model['first']} finds" if "first" in model else ""
    planes = f", slices: {', '.join(model['planes'])}" if "planes" in model else ""
    yield f"{model['name']}: {model['architecture']}, {model['spatial_dims']}D{planes}{after}"
    channels = f"from {', '.join(model['modalities'])} to {', '.join(model['regions'])}"
    yield f"    {channels}; trained on {model['trained_on']}"
    scores = ", ".join(f"{name} {value:.3f}" for name, value in model["scores"].items())
    yield f"    {scores}; {model['licence']}"
