"""Kinds of folders to learn from beside the patients.

Each has a module and one entry in the table here.

A source gives cases whose shares are NaN wherever it does not know (see `pipeline.training.cached.TrainingCase`);
losses take no gradient from there. To add one: a module here, and a line in `SOURCES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from data.case import Case
from data.errors import ConventionError, UsageError
from data.find.discover import discover_cases
from data.labels import load_convention
from data.same_patient import known_as
from pipeline.config import RunConfig
from pipeline.training.cached import TrainingCase
from pipeline.training.cases import patient_cases
from pipeline.training.sources.cubes import cube_cases, is_cube_folder
from pipeline.training.sources.heads import head_cases
from pipeline.training.sources.lesion_slices import is_lesion_folder, lesion_cases, lesion_names
from pipeline.training.sources.silver import is_silver_folder, silver_cases, silver_names
from pipeline.training.sources.slice_files import is_slice_folder, slice_cases
from pipeline.training.sources.t1c_slices import is_t1c_folder, t1c_cases, t1c_names
from pipeline.training.sources.tumour_free import tumour_free_cases

_PATIENT = "patient"

Cases = Callable[..., list[TrainingCase]]
"""``(folder, config, cache, *, names, workers)``: those of the cases that are called ``names``."""


@dataclass(frozen=True)
class Source:
    """Kind of a folder to learn from.

    Parameters
    ----------
    kind : str
        As the user and the recipe's ``extra_weights`` name it.
    help : str
        What a folder of this kind holds, in a phrase.
    recognises : callable
        Whether a folder is of this kind, told by its names.
    names : callable
        ``folder -> {case name: patient}``.
    cases : callable
        See `Cases`.
    whole : callable
        ``folder -> {case name: Case}`` of those that are whole patients, for their fingerprints; none by default.
    convention : str, optional
        Label convention of all its references, where the user says so.
    """

    kind: str
    help: str
    recognises: Callable[[Path], bool]
    names: Callable[[Path], Mapping[str, str]]
    cases: Cases
    whole: Callable[[Path], Mapping[str, Case]] = lambda folder: {}
    convention: str | None = None


def _patients(folder: Path) -> dict[str, Case]:
    return {case.case_id: case for case in discover_cases(folder)}


def _patient_names(folder: Path) -> dict[str, str]:
    return {name: known_as(name) for name in _patients(folder)}


def _patients_of(
    folder: Path,
    config: RunConfig,
    cache: Path,
    *,
    names: Sequence[str],
    convention: str | None = None,
    workers: int = 0,
) -> list[TrainingCase]:
    found = _patients(folder)
    return patient_cases(
        [found[name] for name in names],
        config,
        cache,
        convention=convention,
        workers=workers,
        way_out=f"say which with --extra {folder}:{_PATIENT}:NAME",  # --convention is that of the data set alone
    )


def _file_names(pattern: str) -> Callable[[Path], dict[str, str]]:
    def names(folder: Path) -> dict[str, str]:
        return {path.stem: known_as(path.stem) for path in sorted(folder.glob(pattern))}

    return names


SOURCES: dict[str, Source] = {
    source.kind: source
    for source in (
        Source(
            "cube",
            "lesions of BraTS 2020 cut out as cubes, .npz",
            is_cube_folder,
            _file_names("*.npz"),
            cube_cases,
        ),
        Source(
            "slice",
            "labelled axial slices of BraTS 2020, .h5",
            is_slice_folder,
            _file_names("*.h5"),
            slice_cases,
        ),
        Source("t1c-slice", "T1c slices of BraTS 2020 as pictures, .png", is_t1c_folder, t1c_names, t1c_cases),
        Source(
            "lesion-slice",
            "T1c slices with one metastasis marked, .png",
            is_lesion_folder,
            lesion_names,
            lesion_cases,
        ),
        Source("silver", "patients with the masks of several methods", is_silver_folder, silver_names, silver_cases),
        Source(
            "tumour-free",
            "patients in any layout who have no tumour; only where the user says so",
            lambda folder: False,
            _patient_names,
            tumour_free_cases,
        ),
        Source(
            "head",
            "slices of heads with skull, the whole tumour marked; only where the user says so",
            lambda folder: False,
            _patient_names,
            head_cases,
        ),
        Source(
            _PATIENT,
            "patients in any layout, also with some of the labels alone",
            lambda folder: True,
            _patient_names,
            _patients_of,
            _patients,
        ),
    )
}
"""By kind; a folder without a kind is of the first that recognises it."""


def source_of(option: str | Path) -> tuple[Path, Source]:
    """Return the folder and the kind that an option names.

    The option is ``FOLDER[:kind]`` or ``FOLDER:patient:CONVENTION``.

    Raises
    ------
    data.errors.UsageError
        There is no such folder, kind or label convention, or the kind has a convention of its own.
    """
    text = str(option)
    folder, _, kind = text.rpartition(":")
    rest, _, before = folder.rpartition(":")
    if rest and before in SOURCES and Path(rest).is_dir() and not Path(text).exists():
        return Path(rest), _in_convention(SOURCES[before], kind, f"--extra {text}")
    if not folder or kind not in SOURCES:
        if folder and not Path(text).exists() and Path(folder).exists():
            raise UsageError(f"--extra {text}: no kind {kind!r}; choose one of: {', '.join(SOURCES)}")
        folder, kind = text, ""
    path = Path(folder)
    if not path.is_dir():
        raise UsageError(f"--extra {text}: no such folder; check the path")
    return path, SOURCES[kind] if kind else next(s for s in SOURCES.values() if s.recognises(path))


def _in_convention(source: Source, convention: str, option: str) -> Source:
    """Return the kind with all references in one label convention."""
    if source.kind != _PATIENT:
        raise UsageError(f"{option}: the labels of a {source.kind} are known; leave :{convention} out")
    try:
        load_convention(convention)
    except ConventionError as error:
        raise UsageError(f"{option}: {error}") from None
    return replace(source, cases=partial(source.cases, convention=convention), convention=convention)


__all__ = ["SOURCES", "Source", "source_of"]
