"""Faults and healthy patients put into one input folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import make_model
from tests.faults.patient import SPACING_MM, Patient
from tests.faults.registry import FAULTS, CannotMake

HEALTHY = {f"BraTS-GLI-9000{seed}-000": seed for seed in (2, 3, 5)}
"""Healthy patients and their seeds; the first is what every fault was made from."""


@dataclass(frozen=True)
class Sown:
    """What lies in an input folder.

    Parameters
    ----------
    cases : mapping of str to tuple of str
        Of each fault the ids of its rows, the judged one first.
    unmade : mapping of str to str
        Faults that could not be made here, and why.
    """

    cases: Mapping[str, tuple[str, ...]]
    unmade: Mapping[str, str]


def ordinary_name(name: str) -> str:
    """What the patient of a fault is called that does not say otherwise: ``BraTS-GLI-00017-000``."""
    return f"BraTS-GLI-{1 + list(FAULTS).index(name):05d}-000"


def sow(root: Path, outside: Path, names: Iterable[str]) -> Sown:
    """Make the named faults in ``root``, each a patient of its own; ``outside`` is for what their links lead to."""
    cases: dict[str, tuple[str, ...]] = {}
    unmade: dict[str, str] = {}
    outside.mkdir(parents=True, exist_ok=True)
    for name in names:
        fault = FAULTS[name]
        patient = Patient(root / (fault.folder or ordinary_name(name)), outside / name)
        try:
            _write(patient)
            cases[name] = tuple(fault.make(patient) or (patient.name,))
            if fault.status == "ok" and fault.scored is None:  # scoring takes longer than segmenting
                for reference in patient.folder.rglob("*-seg.nii*"):
                    reference.unlink()
        except CannotMake as reason:
            unmade[name] = str(reason)
            shutil.rmtree(patient.folder, ignore_errors=True)
    return Sown(cases, unmade)


def _write(patient: Patient) -> None:
    try:
        patient.write_all()
    except OSError as error:
        raise CannotMake(f"this file system takes no folder called {ascii(patient.name)}: {error.strerror}") from None


def small_model(path: Path) -> Path:
    """A network of random weights that works on the patients' own grid, and whose masks are a few pieces of every
    label."""
    return make_model(path, spacing_mm=SPACING_MM, seed=8)


def sow_healthy(root: Path) -> None:
    """Put the `HEALTHY` patients into ``root``."""
    for name, seed in HEALTHY.items():
        Patient(root / name, root, seed).write_all()
