"""What a call imports and reads before its work: as little as it needs."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data.case import ImageSource
from data.errors import InputError
from data.find.recognise import read_label_values
from data.labels import count_labels
from pipeline.inspect import inspect_cases

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "monai", "matplotlib", "scipy.stats", "sklearn", "SimpleITK", "itk", "openvino")


def imported_by(*arguments: str) -> set[str]:
    """The heavy packages that a call of the command line imports, in a process of its own."""
    program = (
        "import json, runpy, sys\n"
        "sys.argv = ['run_pipeline.py', *sys.argv[1:]]\n"
        "try:\n    runpy.run_path('run_pipeline.py', run_name='__main__')\n"
        "except SystemExit as end:\n    status = end.code\n"
        f"print(json.dumps([status, [name for name in {HEAVY!r} if name in sys.modules]]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    status, found = json.loads(done.stdout.splitlines()[-1])
    assert not status, done.stdout + done.stderr
    return set(found)


@pytest.mark.parametrize("arguments", [("--help",), ("segment", "--help"), ("models",)])
def test_a_call_that_runs_no_network_imports_neither_torch_nor_what_draws(arguments):
    assert imported_by(*arguments) == set()


def test_inspect_imports_neither_torch_nor_what_draws(phantoms):
    assert imported_by("inspect", str(phantoms)) == set()


def cpu_seconds(*arguments: str) -> float:
    """CPU seconds of a call of Python, the least of three: they do not grow with the machine's other work."""
    taken = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(taken)


@pytest.mark.parametrize(("arguments", "most"), [(("-c", "import data"), 0.15), (("run_pipeline.py", "--help"), 0.5)])
def test_a_start_takes_no_longer_than_a_user_notices(arguments, most):
    assert cpu_seconds(*arguments) <= most


def patient(root: Path, name: str, separator: str, suffixes: tuple[str, ...], labels: np.ndarray) -> None:
    (root / name).mkdir()
    for suffix in suffixes:
        array = labels if suffix == "seg" else np.arange(60, dtype=np.int16).reshape(3, 4, 5)
        nib.save(nib.Nifti1Image(array, np.diag([10, 10, 10, 1])), root / name / f"{name}{separator}{suffix}.nii.gz")


def labels_of(*values: int) -> np.ndarray:
    array = np.zeros((3, 4, 5), np.uint8)
    array.flat[: len(values)] = values
    return array


def test_masks_stay_unread_where_the_names_tell_the_convention(tmp_path, monkeypatch):
    patient(tmp_path, "BraTS2021_00001", "_", ("t1", "t1ce", "t2", "flair", "seg"), labels_of(1, 2, 4))
    monkeypatch.setattr("pipeline.inspect.read_label_values", lambda *_, **__: pytest.fail("a mask was read"))
    (found,) = inspect_cases(tmp_path)
    assert found["convention"] == "brats2017"


def test_every_mask_is_read_once_where_the_names_leave_a_choice(tmp_path, monkeypatch):
    for number, labels in enumerate([(1, 2, 3), (1, 2, 3, 4), (2,)]):
        name = f"BraTS-GLI-0000{number}-000"
        patient(tmp_path, name, "-", ("t1n", "t1c", "t2w", "t2f", "seg"), labels_of(*labels))
    read = []

    def counted(source, **options):
        read.append(source.paths[0].name)
        return read_label_values(source, **options)

    monkeypatch.setattr("pipeline.inspect.read_label_values", counted)
    found = inspect_cases(tmp_path)
    assert len(read) == len(set(read)) == 3
    # Label 4, the resection cavity, is known to the convention of 2024 alone, and one patient of a set tells the
    # others.
    assert {case["convention"] for case in found} == {"brats2024-gli"}


def test_a_damaged_mask_is_no_evidence_and_costs_no_other_patient(tmp_path):
    for number in (1, 2):
        name = f"BraTS-GLI-0000{number}-000"
        patient(tmp_path, name, "-", ("t1n", "t1c", "t2w", "t2f", "seg"), labels_of(1, 2, 3, 4))
    damaged = tmp_path / "BraTS-GLI-00001-000" / "BraTS-GLI-00001-000-seg.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    assert [case["convention"] for case in inspect_cases(tmp_path)] == ["brats2024-gli"] * 2


def test_patients_of_one_set_may_differ_in_what_they_lack(tmp_path):
    suffixes = ("t1n", "t1c", "t2w", "t2f")
    patient(tmp_path, "BraTS-GLI-00001-000", "-", suffixes, labels_of())
    patient(tmp_path, "BraTS-GLI-00002-000", "-", suffixes[:2], labels_of())
    whole, lacking = inspect_cases(tmp_path, convention="brats2023")
    assert not any("needs" in text for text in whole["warnings"])
    assert any("needs" in text for text in lacking["warnings"])


@pytest.mark.parametrize(
    ("values", "expected"), [((), set()), ((1, 4, 4, 2), {1, 2, 4}), ((70000, 1), {1, 70000}), ((65535,), {65535})]
)
def test_labels_are_the_values_but_for_the_background(values, expected):
    array = np.zeros((3, 4, 5), np.int32, order="F")
    array.flat[7 : 7 + len(values)] = values
    assert set(count_labels(array)) == expected


def test_a_fractional_label_is_refused(tmp_path):
    array = np.zeros((3, 4, 5), np.float32)
    array[1, 1, 1] = 0.5
    nib.save(nib.Nifti1Image(array, np.diag([10, 10, 10, 1])), tmp_path / "mask.nii.gz")
    with pytest.raises(InputError, match=r"no whole numbers, such as 0\.5"):
        read_label_values(ImageSource((tmp_path / "mask.nii.gz",)))
