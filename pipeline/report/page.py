"""Page of a run, one self-contained HTML file.

It holds a summary, charts, the worst patients, and a section for every patient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from data.io.write import atomic_write
from pipeline.report.colours import STATUS_SIGNS
from pipeline.report.head import Head
from pipeline.report.matrix import score_matrix
from pipeline.report.overview import (
    comparison_table,
    definitions,
    detection_table,
    draw_charts,
    has_scores,
    summary_table,
)
from pipeline.report.patient import Patient, PatientEntry, gather_patients
from pipeline.report.pictures import Picture
from pipeline.report.rendering import page_style, read_asset, render_in_pieces
from pipeline.report.viewer import View, own_scripts_alone, script_policy, viewer_scripts
from pipeline.score.significance import LEAST_PATIENTS

UNFOLDED = 30
"""So many patients are shown open; the rest opens at a click, for a page of 500 must stay quick to scroll."""
_WORST, _INDEX_FROM = 6, 4
"""How many of the worst are shown, and from how many patients on that, and the index, helps."""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def write_page(
    path: Path,
    title: str,
    *,
    report: pd.DataFrame,
    metrics: pd.DataFrame,
    summary: pd.DataFrame,
    lesions: pd.DataFrame,
    pictures: Mapping[str, Picture],
    comparison: pd.DataFrame | None = None,
    detection: pd.DataFrame | None = None,
    viewers: Mapping[str, View] | None = None,
    details: Mapping[str, Mapping[str, Any]] | None = None,
    head: Head | None = None,
) -> None:
    """Write the page, whole or not at all.

    It opens offline, asks nothing of any server, and every text is escaped.

    Parameters
    ----------
    path : Path
        In a folder that exists.
    title : str
    report, metrics, summary, lesions, comparison, detection : DataFrame
        As in the CSV files of those names. Any may have no rows and lack columns: what is not known is not shown.
        A column ``system`` in them shows the systems side by side.
    pictures : mapping of case to Path, or to a mapping of system to Path
        PNG files; they are embedded, one patient at a time. One that is not there is left out.
    viewers : mapping of case to View
        The patients that get an interactive view: about 2 MB each, and 2.3 MB once.
    details : mapping of case to mapping
        ``missing`` (modalities), ``seconds``, ``stages`` (name to seconds), ``model``, ``convention``: any of them.
    head : Head, optional
        What is known of the run as a whole.

    Raises
    ------
    UsageError
        A view is asked for, and nilearn carries no NiiVue.
    OSError
        Disk full, no permission: for the caller to report.
    """
    head = head or Head()
    tolerance_mm = head.tolerance_mm
    report, metrics, lesions = _told_apart(report, metrics, lesions)
    found = gather_patients(report, metrics, lesions, details or {})
    patients = _entries(found, pictures, viewers or {}, tolerance_mm)
    overview = {"charts": draw_charts(metrics, tolerance_mm), "detection": detection_table(detection)}
    overview |= _means(summary, comparison, tolerance_mm)
    scripts, policy = _scripts(overview["matrix"] is not None, any(entry.view is not None for entry in patients))
    frame = {"title": title, "policy": policy, "style": page_style(), "scripts": scripts, "facts": head.facts()}
    pieces = render_in_pieces("page.html", **frame, **overview, **_listing(patients))
    with atomic_write(path) as file:
        for piece in pieces:
            file.write(piece.encode("utf-8"))


def _told_apart(*frames: pd.DataFrame) -> tuple[pd.DataFrame, ...]:
    """Return tables of patients, without the column ``system`` where there is one system.

    The tables of means name it; in each patient's section it would be noise.
    """
    systems = {name for frame in frames if "system" in frame for name in frame["system"].dropna()}
    return frames if len(systems) > 1 else tuple(frame.drop(columns="system", errors="ignore") for frame in frames)


def _means(summary: pd.DataFrame, comparison: pd.DataFrame | None, tolerance_mm: float) -> dict[str, Any]:
    scored = has_scores(summary)
    return {
        "matrix": score_matrix(summary),
        "summary": summary_table(summary, tolerance_mm),
        "summary_scored": scored,
        "least_patients": LEAST_PATIENTS,
        "comparison": comparison_table(comparison, tolerance_mm),
        "definitions": definitions(tolerance_mm) if scored else {},
    }


def _scripts(copied: bool, viewed: bool) -> tuple[list[str], str]:
    """Return the scripts of the page, and the policy that lets no other run."""
    scripts = [*([read_asset("copy.js")] if copied else []), *(viewer_scripts() if viewed else [])]
    if not scripts:
        return [], POLICY
    return scripts, f"{POLICY}; {script_policy(scripts) if viewed else own_scripts_alone(scripts)}"


def _entries(
    patients: Sequence[Patient], pictures: Mapping[str, Picture], viewers: Mapping[str, View], tolerance_mm: float
) -> list[PatientEntry]:
    return [
        PatientEntry(
            patient=patient,
            anchor=f"p{place}",
            picture=pictures.get(patient.case),
            view=viewers.get(patient.case),
            folded=place >= UNFOLDED,
            tolerance_mm=tolerance_mm,
        )
        for place, patient in enumerate(patients)
    ]


def _listing(entries: Sequence[PatientEntry]) -> dict[str, Any]:
    """Return the lists of patients on the page: all, worst, index by name."""
    patients = [entry.patient for entry in entries]
    many = len(entries) >= _INDEX_FROM
    return {
        "patients": entries,
        "counts": {status: sum(patient.status == status for patient in patients) for status in STATUS_SIGNS},
        "scored": any(not math.isnan(patient.mean_dice) for patient in patients),
        "worst": entries[:_WORST] if many else [],
        "index": sorted(entries, key=lambda entry: entry.patient.case) if many else [],
    }
