"""Label maps of a folder, and the patients that they belong to."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.case import Case, ImageSource
from data.errors import UsageError
from data.find.discover import discover_cases
from data.find.recognise import with_segment_names
from data.folder_names import folder_name, unique_folder_names
from data.io.suffixes import VOLUME_SUFFIXES, split_suffix
from data.labels import convention_name
from data.output_names import MASK, REPORT, RUN_RECORD, result_paths, state_file
from data.regular_file import open_regular_file, read_json_object
from pipeline.score.quality import is_learnt_from
from pipeline.score.tables import read_columns, text_cell

log = logging.getLogger(__name__)

_SUFFIX = re.compile(r"[._-](seg|segm|segmentation|mask|label|pred|prediction)$", re.IGNORECASE)
_REPORTED = ("model", "reason", "status", "seconds", "flags")
CORRECTED = "the mask is not the one that the run wrote there: it was corrected by hand"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PROBABILITY = re.compile(r"_prob_[A-Z]+$")


@dataclass(frozen=True)
class LabelMap:
    """One patient's label map on one side."""

    case: Case
    folder: str  # the cell of that name
    missing: str = ""  # why there is no label map, when case.reference is None
    reported: str = ""  # convention that a report.csv beside it names
    model: str = ""  # likewise
    seconds: float | None = None  # likewise: what making it took
    images: Mapping[str, ImageSource] = field(default_factory=dict)  # what it was drawn on, where that is known
    stages: Mapping[str, float] = field(default_factory=dict)  # seconds of each step of the run that made it
    missing_images: tuple[str, ...] = ()  # modalities that its model wanted and did not have
    remarks: tuple[str, ...] = ()  # flags for its row that the run's own records give


def find_label_maps(root: Path, *, exclude: Path | None = None) -> list[LabelMap]:
    """Return the label maps below a folder.

    Patients that should have one and have none are among them.

    Parameters
    ----------
    root : Path
        Nested (``<case>/<case>_seg.nii.gz``), flat (``<case>.nii.gz``), the output of a segmentation run, or a data
        set.
    exclude : Path, optional
        A folder whose content is no input: an output folder that lies inside ``root``.

    Raises
    ------
    data.errors.UsageError
        ``root`` is no folder, or holds no label map.
    """
    if not root.is_dir():
        raise UsageError(f"{root} is not a folder; give the folder that holds the label maps")
    reported = _from_report(root)
    if reported:
        found = reported
    else:
        try:
            cases = discover_cases(root, exclude=exclude)
        except UsageError as error:  # e.g. a flat folder of label maps: nothing in it is an image by its name
            log.debug("no layout for %s: %s", root, error)
            cases = []
        if not any(case.reference for case in cases):
            cases = _bare_label_maps(root, cases) or cases
        found = [
            LabelMap(case, folder_name(case.case_id), "; ".join(case.problems), images=case.images) for case in cases
        ]
    if not any(item.case.reference for item in found):
        raise UsageError(
            f"{root} holds no label maps; expected <case>/<case>_seg.nii.gz, <case>.nii.gz or a data set with masks; "
            "say with --layout FILE how files of your own naming are called"
        )
    return found


def _from_report(root: Path) -> list[LabelMap]:
    """Return the label maps that a segmentation run's report.csv names.

    Those that it could not write are among them; [] without a report.
    """
    try:
        rows = read_columns(root / REPORT, ("case", "folder", "convention"), _REPORTED)
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        log.warning("%s: not used (%s)", root / REPORT, getattr(error, "strerror", None) or error)
        return []
    found = []
    run = run_record(root)
    for row in rows:
        case_id, folder, convention, model, reason, status = (
            row[name] for name in ("case", "folder", "convention", "model", "reason", "status")
        )
        path, state = _reported_path(root, folder), _state_of(root, folder)
        by_hand = path is not None and _is_corrected(root, path, state)
        # What else lies there after a failure is left from an earlier run, of who knows what.
        source = None if path is None or (status == "error" and not by_hand) else ImageSource((path,))
        missing = f"its report.csv says: {reason}" if reason else "the file that its report.csv names is not there"
        case, seconds = bare_case(case_id, root / folder, source), _number(row["seconds"])
        convention = _own_convention(convention, state)
        recorded = _recorded(run.get(case_id))
        learnt_from = [flag for flag in row["flags"].split("; ") if is_learnt_from(flag)]
        remarks = (*learnt_from, *recorded.pop("remarks"), *([CORRECTED] if by_hand else ()))
        known = {"remarks": tuple(dict.fromkeys(remarks)), **recorded}
        found.append(LabelMap(case, folder, missing, convention, model, seconds, **known))
    # Masks that were put there since are patients too.
    named = {name for item in found for name in (item.case.case_id, item.folder, item.folder.removeprefix("'"))}
    beside = [case for case in _bare_label_maps(root, []) if text_cell(case.case_id) not in named]
    return found + [LabelMap(case, folder_name(case.case_id)) for case in beside]


def run_record(root: Path) -> Mapping[str, Any]:
    """Return the entries of a segmentation run's run.json, one a case.

    They are empty where it is not there or not readable.
    """
    cases = read_json_object(root / RUN_RECORD).get("cases")
    return cases if isinstance(cases, dict) else {}


def _recorded(record: Any) -> dict[str, Any]:
    """Return images, stages, missing images and remarks from one case of run.json.

    Images are those that are still there. The record may hold anything.
    """
    record = record if isinstance(record, dict) else {}
    files, stages = (record[key] if isinstance(record.get(key), dict) else {} for key in ("files", "stages"))
    images = {}
    for modality, names in files.items():
        if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
            paths = tuple(Path(name) for name in names)
            if all(_is_file(path) for path in paths):
                images[str(modality)] = ImageSource(paths)
    missing, learnt_from = (
        record[key] if isinstance(record.get(key), list) else [] for key in ("missing", "learnt_from")
    )
    return {
        "images": images,
        "stages": {str(name): float(spent) for name, spent in stages.items() if _is_time(spent)},
        "missing_images": tuple(map(str, missing)),
        "remarks": [str(flag) for flag in learnt_from if is_learnt_from(flag)],
    }


def _state_of(root: Path, folder: str) -> Mapping[str, Any]:
    """Return the content of a finished case's state file; empty without one."""
    name = folder.removeprefix("'")
    return read_json_object(state_file(root, name)) if name and Path(name).name == name else {}


def _is_corrected(root: Path, path: Path, state: Mapping[str, Any]) -> bool:
    """Tell whether a mask has other bytes than the run wrote.

    Without a record of the run there is no telling.
    """
    written, files = state.get("mask_sha256"), state.get("files")
    listed = isinstance(files, list) and path.relative_to(root).as_posix() in files
    if not (listed and isinstance(written, str) and _DIGEST.fullmatch(written)):
        return False
    with suppress(OSError, ValueError), open_regular_file(path) as (file, _):
        return hashlib.file_digest(file, "sha256").hexdigest() != written
    return False


def _own_convention(reported: str, state: Mapping[str, Any]) -> str:
    """Return the spelling of the convention that a report.csv names.

    A table has the name alone of a user's own one, whose content stands in the case's state file. A row without a mask
    names none, and the mask beside it has that of the state file.
    """
    row = state.get("row")
    spelling = row.get("convention") if isinstance(row, dict) else None
    known = isinstance(spelling, str) and bool(spelling) and reported in ("", convention_name(spelling))
    return str(spelling) if known else reported


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, or with a null byte
        return False


def _number(text: str) -> float | None:
    """Return a time, or None for a text that is none."""
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if _is_time(seconds) else None


def _is_time(seconds: Any) -> bool:
    return type(seconds) in (int, float) and 0 <= seconds < 1e9


def _reported_path(root: Path, folder: str) -> Path | None:
    # The cell may carry the ' that keeps spreadsheets from running it. No path may lead out of root.
    for name in (folder, folder.removeprefix("'")):
        if name and name not in (".", "..") and Path(name).name == name:
            for path in result_paths(root, name, MASK):
                if _is_file(path):
                    return path
    return None


def _bare_label_maps(root: Path, cases: Sequence[Case]) -> list[Case]:
    """Return label maps that are named after their case.

    They lie in folders of their case's name, or side by side.

    ``cases`` is what the layouts make of the same folder. A file that shows one modality by its name is no label map.
    One that would be a stack of modalities may be: a label map ``BRATS_001.nii.gz`` bears the name of its 4D image.
    """
    taken = [(case, source) for case in cases for source in case.images.values()]
    images = {path for _, source in taken if source.channel is None for path in source.paths}
    naming = {path: case.conventions for case, source in taken for path in source.paths}
    found = []
    for entry in sorted(Path(os.path.abspath(root)).iterdir()):  # the layouts' paths are absolute
        try:
            inside = sorted(entry.iterdir()) if entry.is_dir() else [entry]
        except OSError as error:
            log.warning("%s cannot be listed: %s", entry, error.strerror)
            continue
        for path in inside:
            stem = _stem(path)
            case_id = _SUFFIX.sub("", stem)
            if path.is_file() and stem and path not in images and (path is entry or case_id == entry.name):
                bare = bare_case(case_id, path.parent, ImageSource((path,)), naming.get(path, ()))
                found.append(with_segment_names(bare))
    return found


def _stem(path: Path) -> str:
    """Return the file's name without its extension.

    It is empty for hidden files, probabilities and what is no image.
    """
    stem, suffix = split_suffix(path.name)
    is_label_map = suffix in VOLUME_SUFFIXES and not path.name.startswith(".") and not _PROBABILITY.search(stem)
    return stem if is_label_map else ""


def bare_case(case_id: str, folder: Path, source: ImageSource | None, conventions: tuple[str, ...] = ()) -> Case:
    """Return a case that is a label map alone."""
    return Case(
        case_id=case_id,
        folder=folder,
        layout="label maps",
        layout_reason="a file for each case, named after it",
        images={},
        reference=source,
        conventions=conventions,
    )


def by_patient(found: Sequence[LabelMap]) -> dict[str, list[LabelMap]]:
    """Group label maps by case id, as a table holds it.

    More than one is an error of that patient.
    """
    grouped: dict[str, list[LabelMap]] = {}
    for item in found:
        grouped.setdefault(text_cell(item.case.case_id), []).append(item)
    return grouped


def matched_by_folder_name(
    predicted: Mapping[str, list[LabelMap]], expected: Mapping[str, list[LabelMap]]
) -> dict[str, list[LabelMap]]:
    """Put predictions under the id of their reference.

    A prediction may bear the safe output name of that reference, unless one bears its own id; or the end of the path
    that is its id (``P1`` and ``week-044/P1`` for ``site/week-044/P1``), where that is of one reference alone.
    """
    safe_names = unique_folder_names([items[0].case.case_id for items in expected.values()])
    keys = {safe: text_cell(case_id) for case_id, safe in safe_names.items()}
    found = {key: key if key in expected else keys.get(items[0].case.case_id, key) for key, items in predicted.items()}
    found |= _ends_of_one([key for key in predicted if found[key] not in expected], set(expected) - set(found.values()))
    matched: dict[str, list[LabelMap]] = {}
    for key, items in predicted.items():
        matched.setdefault(found[key], []).extend(items)
    return matched


def _ends_of_one(predicted: Sequence[str], expected: Collection[str]) -> dict[str, str]:
    """Pair ids of which one is the end of the other.

    The end is that of a path, or joined by ``_``; only a pair that stands alone counts.
    """
    ends: dict[str, set[str]] = {}
    for key in expected:
        for end in _ends(key):
            ends.setdefault(end, set()).add(key)
    fits = {key: ends.get(key, set()) | {end for end in _ends(key) if end in expected} for key in predicted}
    often = Counter(one for found in fits.values() for one in found)
    return {key: next(iter(found)) for key, found in fits.items() if len(found) == 1 and often[next(iter(found))] == 1}


def _ends(key: str) -> list[str]:
    parts = key.split("/")
    return [joint.join(parts[first:]) for first in range(len(parts)) for joint in ("/", "_")]
