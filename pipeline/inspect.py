"""What is in a folder, before any work."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from data.case import Case, ImageSource, discover_cases
from data.errors import InputError
from data.io import ImageHeader, read_header, read_label_map, read_volume
from data.labels import count_labels, load_convention
from data.naming import MODALITIES
from data.recognise import ConventionChoice, choose_conventions


def inspect_cases(root: Path, *, full: bool = False, convention: str | None = None) -> list[dict[str, Any]]:
    """Look at every patient below ``root``: names, headers, and as many masks as the label convention needs.

    Parameters
    ----------
    full : bool
        Read and check every voxel too.
    convention : str, optional
        Taken for all, whatever the evidence.

    Returns
    -------
    list of dict
        One a patient: case, status (ok, warn, error), layout, layout_reason, convention (None: not decided), convention_reason,
        images {modality or "reference": {file, shape, spacing_mm (None: unknown), orientation, dtype}}, missing (modalities),
        problems, warnings, unrecognised (file names). Plain values only.
    """
    cases = discover_cases(root)
    if convention is not None:
        load_convention(convention)
    choices = choose_conventions(cases, override=convention, read_labels=_labels)
    return [_inspect(case, choices[case.case_id], full) for case in cases]


def _labels(source: ImageSource) -> Collection[float]:
    return count_labels(read_label_map(source).array)


def _inspect(case: Case, choice: ConventionChoice, full: bool) -> dict[str, Any]:
    problems, warnings = [*case.problems], [*case.warnings, *choice.warnings]
    images: dict[str, Any] = {}
    headers: dict[str, ImageHeader] = {}
    sources = {**case.images, **({"reference": case.reference} if case.reference else {})}
    for name, source in sources.items():
        entry: dict[str, Any] = {
            "file": str(source.paths[0]),
            "shape": None,
            "spacing_mm": None,
            "orientation": None,
            "dtype": None,
        }
        if len(source.paths) > 1:
            entry["files"] = len(source.paths)
        images[name] = entry
        try:
            header = headers[name] = _read(name, source, full)
        except InputError as error:
            # A bad reference costs the scores, not the patient.
            (warnings if name == "reference" else problems).append(str(error))
            continue
        entry["shape"], entry["dtype"], entry["orientation"] = (
            list(header.grid.shape),
            header.dtype,
            header.grid.orientation,
        )
        entry["spacing_mm"] = [round(s, 6) for s in header.grid.spacing_mm] if header.grid.spacing_known else None
        warnings += header.warnings
    first = next(iter(headers), None)
    for header in headers.values():
        if first is not None and not header.grid.matches(headers[first].grid):
            of_first = headers[first]
            warnings.append(
                f"{header.path.name}: its grid ({header.grid.described()}) is not that of {of_first.path.name} "
                f"({of_first.grid.described()})"
            )
    if choice.error:
        (problems if case.reference else warnings).append(choice.error)
    missing = [m for m in MODALITIES if m not in case.images]
    status = "error" if problems else "warn" if warnings else "ok"
    return {
        "case": case.case_id,
        "status": status,
        "layout": case.layout,
        "layout_reason": case.layout_reason,
        "convention": choice.name,
        "convention_reason": choice.reason,
        "images": images,
        "missing": missing,
        "problems": list(dict.fromkeys(problems)),
        "warnings": list(dict.fromkeys(warnings)),
        "unrecognised": [path.name for path in case.unrecognised],
    }


def _read(name: str, source: ImageSource, full: bool) -> ImageHeader:
    if not full:
        return read_header(source)
    return (read_label_map(source) if name == "reference" else read_volume(source)).header
