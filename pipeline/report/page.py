"""The page of a run, one self-contained HTML file: summary, charts, the worst patients, a section for every patient."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from data.io.write import atomic_write
from pipeline import __version__
from pipeline.report.markup import STYLE, escape, number, status_badge
from pipeline.report.overview import charts_section, comparison_section, detection_section, summary_section
from pipeline.report.patient import Patient, Picture, embed_png, gather_patients, patient_section, read_png
from pipeline.report.viewer import View, script_policy, viewer_panel, viewer_scripts

UNFOLDED = 30
"""So many patients are shown open; the rest opens at a click, for a page of 500 must stay quick to scroll."""
_WORST, _INDEX_FROM = 6, 4
"""How many of the worst are shown, and from how many patients on that, and the index, helps."""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


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
) -> None:
    """Write the page, whole or not at all: it opens offline, asks nothing of any server, and every text is escaped.

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

    Raises
    ------
    UsageError
        A view is asked for, and nilearn carries no NiiVue.
    OSError
        Disk full, no permission: for the caller to report.
    """
    patients = gather_patients(report, metrics, lesions, details or {})
    views = {patient.case: viewers[patient.case] for patient in patients if viewers and patient.case in viewers}
    scripts = viewer_scripts() if views else []
    overview = [summary_section(summary), comparison_section(comparison), detection_section(detection)]
    overview += ["".join(charts_section(metrics))]
    with atomic_write(path) as file:
        for part in _page(title, patients, overview, pictures, views, scripts):
            file.write(part.encode("utf-8") + b"\n")


def _page(
    title: str,
    patients: Sequence[Patient],
    overview: Sequence[str],
    pictures: Mapping[str, Picture],
    views: Mapping[str, View],
    scripts: Sequence[str],
) -> Iterator[str]:
    policy = f"{_POLICY}; {script_policy(scripts)}" if scripts else _POLICY
    yield (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="referrer" content="no-referrer">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
    )
    yield f"<header><h1>{escape(title)}</h1>"
    yield '<p class="research">For research use only; not a medical device.</p>'
    yield _counts(patients)
    # The links are those of the sections that are there.
    worst = _worst(patients, pictures)
    yield _links([*overview, worst, '<h2 id="patients">Patients</h2>' if patients else ""])
    yield "</header><main>"
    yield from (part for part in (*overview, worst) if part)
    if patients:
        yield '<h2 id="patients">Patients</h2>'
        yield (
            f'<p class="note">{_order(patients)} Pictures are in radiological convention: '
            "the patient\N{RIGHT SINGLE QUOTATION MARK}s left is on the right.</p>"
        )
        yield _index(patients)
    for place, patient in enumerate(patients):
        panel = viewer_panel(views[patient.case], patient.case) if patient.case in views else ""
        yield patient_section(patient, f"p{place}", pictures.get(patient.case), panel, fold=place >= UNFOLDED)
    yield f'</main><footer class="note">brain-tumour-segmentation {escape(__version__)}</footer>'
    yield from (f"<script>{script}</script>" for script in scripts)
    yield "</body></html>"


def _counts(patients: Sequence[Patient]) -> str:
    states = {status: sum(p.status == status for p in patients) for status in ("ok", "warn", "error")}
    tiles = f"<li><b>{len(patients)}</b>{'patient' if len(patients) == 1 else 'patients'}</li>"
    tiles += "".join(f"<li><b>{n}</b>{status_badge(status)}</li>" for status, n in states.items())
    return f'<ul class="counts">{tiles}</ul>'


def _links(sections: Sequence[str]) -> str:
    found = [pair for text in sections for pair in re.findall(r'<h2 id="(\w+)">([^<]*)</h2>', text)]
    return "<nav>" + "".join(f'<a href="#{anchor}">{name}</a>' for anchor, name in found) + "</nav>" if found else ""


def _order(patients: Sequence[Patient]) -> str:
    if any(patient.mean_dice == patient.mean_dice for patient in patients):
        return "Those that failed come first, then from the lowest mean Dice over regions to the highest."
    return "Those that failed come first, then warnings, then by name."


def _worst(patients: Sequence[Patient], pictures: Mapping[str, Picture]) -> str:
    """The patients to look at first, as small pictures that lead to their sections."""
    if len(patients) < _INDEX_FROM:
        return ""
    cards = []
    for place, patient in enumerate(patients[:_WORST]):
        dice = number(patient.mean_dice)
        mean = f'<span class="quiet">mean Dice {dice}</span>' if dice else ""
        small = _thumbnail(pictures.get(patient.case), patient.case)
        line = f'<span class="line"><b>{escape(patient.case)}</b>{mean}{_sign(patient)}</span>'
        cards.append(f'<li><a href="#p{place}">{small}{line}</a></li>')
    return f'<section><h2 id="worst">Look at these first</h2><ul class="worst">{"".join(cards)}</ul></section>'


def _thumbnail(picture: Picture | None, case: str) -> str:
    from PIL import Image

    path = next(iter(picture.values()), None) if isinstance(picture, Mapping) else picture
    if path is None or (content := read_png(path)) is None:
        return ""
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            small = image.convert("RGB")
    except (OSError, ValueError, SyntaxError):  # damaged, or no picture of a run
        return ""
    small.thumbnail((560, 560))
    buffer = io.BytesIO()
    small.quantize(96, dither=Image.Dither.NONE).save(buffer, format="PNG", optimize=True)
    return embed_png(buffer.getvalue(), escape(f"{case}, small"))


def _index(patients: Sequence[Patient]) -> str:
    """Every patient by name, with a link to its section."""
    if len(patients) < _INDEX_FROM:
        return ""
    places = sorted(range(len(patients)), key=lambda place: patients[place].case)
    lines = "".join(
        f'<li><a href="#p{place}">{escape(patients[place].case)}</a>'
        f"<span>{number(patients[place].mean_dice)} {_sign(patients[place])}</span></li>"
        for place in places
    )
    is_open = " open" if len(patients) <= 60 else ""
    return (
        f'<details class="index-box"{is_open}><summary class="small">All patients by name</summary>'
        f'<ul class="index">{lines}</ul></details>'
    )


def _sign(patient: Patient) -> str:
    return status_badge(patient.status) if patient.status in ("warn", "error") else ""
