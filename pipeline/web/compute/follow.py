"""Follow-up of finished cases, by the run of `follow`.

All that it needs of them is linked into its own folder first, so that it stays whole when a visit is removed:

    input/0/   mask and images of the first visit    output/    what `follow` wrote
    view/0/    what the viewer loads of it           everything.zip
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.case import Case, ImageSource, TimePoint
from data.errors import InputError
from data.find.naming import MODALITIES
from data.grid import Grid
from data.io.read import read_label_map
from data.io.suffixes import split_suffix
from data.labels import Mask
from data.output_names import BRAIN, FOLLOWUP, GROWTH, LESIONS_OVER_TIME, MASK, RESPONSE, TIMEPOINTS
from pipeline.evaluate.visits import VisitMask
from pipeline.execute.lock import remove_temporary_files
from pipeline.execute.stages import BEGINS, Stage
from pipeline.follow.criteria import CRITERIA
from pipeline.follow.growth import GROWTH_COLOURS, GROWTH_LABELS, growth_map, lay_mask
from pipeline.follow.patients.shown import curves_of
from pipeline.follow.patients.sources import visits_by_patient
from pipeline.follow.patients.visit import Seen, move_of
from pipeline.follow.patients.work import Measured
from pipeline.follow.run import FollowOptions, follow_patients
from pipeline.follow.show.page import CURVES_NOTE, RESEARCH, curve_svg, note_of, regions_of, when
from pipeline.options import SegmentOptions
from pipeline.report.texts import is_known
from pipeline.web.compute.advice import for_page, with_names, with_places
from pipeline.web.compute.checks import Request, case_of, link, shown_names
from pipeline.web.compute.results import ZIP_NAME, write_zip
from pipeline.web.compute.view import write_eight_bits
from pipeline.web.compute.worker import Emit

INPUT, OUTPUT, VIEW = (Path(name) for name in ("input", "output", "view"))
MOST_REGIONS = 8 - len(GROWTH_COLOURS)
"""Regions of a mask beside whose bits those of growth have room."""
_WHAT = {
    TIMEPOINTS: "a row a visit: volumes, changes, category with its reason",
    LESIONS_OVER_TIME: "a row a lesion and visit",
    RESPONSE: "best response and progression",
    FOLLOWUP: "the page of the patient, which works anywhere",
    GROWTH: "growth from the baseline to the last visit: 1 kept, 2 gained, 3 lost",
    ZIP_NAME: "all that was written, in one file",
}


@dataclass(frozen=True)
class _Visit:
    """Visit with its files in the follow-up's own folder."""

    number: int
    record: Mapping[str, Any]
    mask: VisitMask
    view: Mapping[str, Any]
    """As the case's result describes it; its files lie in ``view/<number>``."""

    def shown(self, text: str) -> str:
        """Return a sentence with the user's names in place of our files."""
        named = with_names(text, shown_names(self.record["sources"]))
        return with_places(named, {f"{INPUT}/{self.number}/": ""})


def follow_visits(request: Request, emit: Emit) -> dict[str, Any]:
    """Follow the visits of one patient as `follow` on the command line does.

    Raises SegmentationError with its reason.
    """
    for folder in (OUTPUT, VIEW, INPUT):
        shutil.rmtree(folder, ignore_errors=True)
    remove_temporary_files(Path())  # the zip of a run that was stopped
    emit(Stage.READ, 0.0)
    about = json.loads(request["case"]["task_about"])
    visits = _linked(request, about["visits"])
    preparing = any(visit.record["prepare"] == "auto" for visit in visits)
    segment = SegmentOptions(max_voxels=request["max_voxels"], prepare="auto" if preparing else "off")
    options = FollowOptions(criteria=(about["criterion"],), segment=segment)
    found: list[Measured] = []

    def on_measured(measured: Measured) -> None:
        found.append(measured)
        emit(Stage.METRICS, BEGINS[Stage.METRICS])

    emit(Stage.PREPARE, BEGINS[Stage.PREPARE])
    patients = visits_by_patient([visit.mask for visit in visits], max_voxels=request["max_voxels"])
    report = follow_patients(patients, OUTPUT, options, on_measured=on_measured)
    row = report.iloc[0]
    if row["status"] == "error" or not found:
        raise InputError(_shown(visits, str(row["reason"])))
    emit(Stage.PREVIEW, BEGINS[Stage.PREVIEW])
    told = _followup(visits, found[0], about["criterion"])
    told |= {"status": str(row["status"]), "reason": _shown(visits, str(row["reason"]))}
    return {"result": {"followup": told}, "downloads": _offered(OUTPUT / str(row["folder"]))}


def _shown(visits: Sequence[_Visit], text: str) -> str:
    for visit in visits:
        text = visit.shown(text)
    return for_page(text)


# Files of the visits


def _linked(request: Request, marks: Sequence[Mapping[str, str]]) -> list[_Visit]:
    records, folders = request["visits"], [Path(folder) for folder in request["folders"]]
    names = [record["name"] for record in records]
    ids = [name if names.count(name) == 1 else f"{name} ({number})" for number, name in enumerate(names, 1)]
    visits = []
    for number, (record, folder, own, point) in enumerate(zip(records, folders, ids, _points(marks), strict=True)):
        view, place = record["result"]["view"], INPUT / str(number)
        for name in (*view["background"].values(), view["prediction"]):
            link(folder / VIEW / name, VIEW / str(number) / name)
        mask = folder / next(iter(record["downloads"].values()))["path"]
        brain = mask.with_name(mask.name.replace(f"_{MASK}.", f"_{BRAIN}."))
        if brain != mask and brain.is_file():
            link(brain, place / f"visit_{BRAIN}.nii.gz")
        case = Case(
            case_id=own, folder=place, layout=record["layout"], layout_reason="", reference=None,
            images=_images(record, folder, number), patient=request["case"]["name"], timepoint=point,
        )  # fmt: skip
        kept = link(mask, place / f"visit_{MASK}.nii.gz")
        result = record["result"]
        visits.append(_Visit(number, record, VisitMask(case, kept, "", result["convention"], result["model"]), view))
    return visits


def _images(record: Mapping[str, Any], folder: Path, number: int) -> dict[str, ImageSource]:
    """Return a case's images, linked; of an earlier result those shown."""
    if not record["sources"]:
        background = record["result"]["view"]["background"]
        return {
            modality: ImageSource((VIEW / str(number) / background[modality],))
            for modality in MODALITIES
            if modality in background
        }
    images = {}
    for modality, image in case_of(record).images.items():
        paths = []
        for path in image.paths:
            alone = len(image.paths) == 1 and not image.series
            name = modality + split_suffix(path.name)[1] if alone else f"{modality}-{path.name}"
            paths.append(link(folder / path, INPUT / str(number) / name))
        images[modality] = replace(image, paths=tuple(paths))
    return images


def _points(marks: Sequence[Mapping[str, str]]) -> list[TimePoint]:
    """Return the time points of visits that are in order of time."""
    days = [date.fromisoformat(mark["date"]) if mark["date"] else None for mark in marks]
    known = [day for day in days if day is not None]
    first = known[0] if len(known) == len(days) else None
    return [
        TimePoint(
            mark["label"],
            day,
            None if first is None or day is None else float((day - first).days),
            order,
            "number" if first is None else "date",
        )
        for order, (mark, day) in enumerate(zip(marks, days, strict=True))
    ]


# Result


def _followup(visits: Sequence[_Visit], measured: Measured, criterion: str) -> dict[str, Any]:
    rule, response = CRITERIA[criterion], measured.responses[0]
    seen = {each.visit.case.case_id: each for each in measured.seen}
    own = {visit.mask.case.case_id: visit for visit in visits}
    base = next((each for each in measured.seen if each.visit.label == response.baseline), measured.baseline)
    regions, shown = regions_of(measured.timepoints), []
    for row in measured.timepoints:
        visit, each = own[row["case"]], seen[row["case"]]
        shown.append(
            {
                "case": visit.record["id"],
                "label": row["timepoint"],
                "when": when(row),
                "volumes_ml": {
                    name: float(row[key]) for name in regions if is_known(row.get(key := f"volume_ml_{name}"))
                },
                "category": str(row.get(f"category_{rule.column}") or ""),
                "note": note_of(row, rule.column),
                "reason": visit.shown(str(row.get(f"reason_{rule.column}") or "")),
                "flags": visit.shown(str(row.get("flags") or "")),
                "matrix": move_of(each).tolist(),
                "view": _view(visit, each, base, rule.region),
            }
        )
    curves = [(curve, curve_svg(curve)) for curve in curves_of(measured.timepoints, measured.responses)]
    return {
        "research": RESEARCH,
        "criterion": rule.title,
        "visits": shown,
        "curves": [{"title": curve.title, "unit": curve.unit, "svg": svg} for curve, svg in curves if svg],
        "curves_note": CURVES_NOTE,
    }


def _view(visit: _Visit, seen: Seen, base: Seen, region: str) -> dict[str, Any]:
    """Describe the view of a visit.

    Growth since the baseline is put into its overlay.
    """
    view, folder = visit.view, f"{visit.number}/"
    regions, colours = (list(view[name])[:MOST_REGIONS] for name in ("regions", "colours"))
    growth = None
    if seen is not base and seen.is_there and base.is_there:
        growth = _growth(VIEW / folder / view["prediction"], regions, seen, base, region)
        if growth is not None:
            regions += growth["bits"]
            colours += [GROWTH_COLOURS[label] for label in sorted(GROWTH_COLOURS)]
    return {
        "background": {modality: folder + name for modality, name in view["background"].items()},
        "prediction": folder + view["prediction"],
        "reference": None,
        "regions": regions,
        "colours": colours,
        "centre_mm": view["centre_mm"],
        "windows": view["windows"],
        "offset": view["offset"],
        "brain": None,
        "growth": growth,
    }


def _growth(path: Path, regions: Sequence[str], seen: Seen, base: Seen, judged: str) -> dict[str, Any] | None:
    """Write the bits of growth behind those of the regions; None where the visits share no region."""
    before = base.masks()
    region = next((name for name in (judged, "ET", "TC", "WT") if name in before and name in seen.masks()), None)
    if region is None:
        return None
    shown = read_label_map(ImageSource((path,)))
    bits = shown.array.astype(np.uint8) & np.uint8((1 << len(regions)) - 1)
    to_base = move_of(base) @ np.linalg.inv(move_of(seen))
    after = _cropped(seen.masks()[region], seen.grid, shown.grid)
    labels = growth_map(lay_mask(before[region], base.grid, to_base, shown.grid), after)
    first = len(regions)
    places = {GROWTH_LABELS[label]: first + bit for bit, label in enumerate(sorted(GROWTH_COLOURS))}
    for label in GROWTH_COLOURS:
        bits |= (labels == label).astype(np.uint8) << np.uint8(places[GROWTH_LABELS[label]])
    path.unlink()  # the case's own file is the same one, and stays as it is
    write_eight_bits(path, bits, shown.grid.affine)
    return {"since": base.visit.label, "region": region, "bits": places}


def _cropped(mask: Mask, grid: Grid, crop: Grid) -> NDArray[np.bool_]:
    """Return the part of a mask that lies on a crop of its grid."""
    start = np.rint(np.linalg.solve(grid.affine, crop.affine)[:3, 3]).astype(int)
    return mask[tuple(slice(begin, begin + n) for begin, n in zip(start, crop.shape, strict=True))]


def _offered(folder: Path) -> dict[str, dict[str, Any]]:
    """List the files to take away, and write all in one."""
    growth = folder / f"{folder.name}_{GROWTH}.nii.gz"
    names = {name: OUTPUT / name for name in (TIMEPOINTS, LESIONS_OVER_TIME, RESPONSE)} | {FOLLOWUP: folder / FOLLOWUP}
    names |= {growth.name: growth} if growth.is_file() else {}
    written = [path for path in sorted(OUTPUT.rglob("*")) if path.is_file() and not _is_hidden(path)]
    write_zip(Path(ZIP_NAME), {path.relative_to(OUTPUT).as_posix(): path for path in written})
    names[ZIP_NAME] = Path(ZIP_NAME)
    return {
        name: {"path": str(path), "bytes": path.stat().st_size, "what": _WHAT.get(name, _WHAT[GROWTH])}
        for name, path in names.items()
    }


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
