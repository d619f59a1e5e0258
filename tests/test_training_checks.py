"""Checks of patients before the first step of a training: all faults of all of them, together."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data.errors import InputError
from data.find.discover import discover_cases
from pipeline.config import load_recipe
from pipeline.training.cached import FaultyCases, gather
from pipeline.training.cases import patient_cases

SUFFIX = ("t1n", "t1c", "t2w", "t2f")
AFFINE = np.diag([-10.0, -10, 10, 1])


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def file(root: Path, number: int, what: str) -> Path:
    name = f"BraTS-GLI-0000{number}-000"
    return root / name / f"{name}-{what}.nii.gz"


@pytest.fixture
def patients(tmp_path) -> Path:
    """Four patients: a brain of 12x14x10 voxels of 10 mm in air, a tumour of 4^3 in it."""
    for number in range(4):
        brain = np.zeros((16, 18, 14), np.int16)
        random = np.random.default_rng(number)
        brain[2:14, 2:16, 2:12] = random.integers(100, 200, (12, 14, 10))
        tumour = np.zeros(brain.shape, np.uint8)
        tumour[5:9, 5:9, 5:9], tumour[6:8, 6:8, 6:8] = 2, 3
        for what in SUFFIX:
            save(file(tmp_path, number, what), brain + random.integers(0, 9, brain.shape, np.int16) * (brain > 0))
        save(file(tmp_path, number, "seg"), tumour)
    return tmp_path


def faults(root: Path, tmp_path: Path) -> tuple[str, ...]:
    with pytest.raises(FaultyCases) as error:
        patient_cases(discover_cases(root), load_recipe("demo"), tmp_path / "cache")
    return error.value.sentences


def labels_of(root: Path, number: int) -> np.ndarray:
    return np.asarray(nib.load(file(root, number, "seg")).dataobj)


def test_every_broken_patient_is_named_at_once(patients, tmp_path_factory):
    file(patients, 0, "t1c").unlink()
    t2 = np.asarray(nib.load(file(patients, 1, "t2w")).dataobj).astype(np.float32)
    t2[8, 8, 8] = np.nan
    save(file(patients, 1, "t2w"), t2)
    strange = labels_of(patients, 2).copy()
    strange[0, 0, 0] = 7
    save(file(patients, 2, "seg"), strange)
    found = faults(patients, tmp_path_factory.mktemp("c"))
    assert len(found) == 3, found
    for number, word in ((0, "t1c"), (1, "NaN"), (2, "label 7")):
        assert any(f"BraTS-GLI-0000{number}-000" in s and word.lower() in s.lower() for s in found), found


@pytest.mark.parametrize("how", ["moved", "half"])
def test_a_reference_on_another_grid_is_not_learnt_from(patients, tmp_path_factory, how):
    for number in (1, 3):
        labels, affine = labels_of(patients, number), AFFINE.copy()
        if how == "moved":
            affine[2, 3] = 60
        save(file(patients, number, "seg"), labels if how == "moved" else labels[:, :, :7], affine)
    found = faults(patients, tmp_path_factory.mktemp("c"))
    assert ["another grid" in sentence for sentence in found] == [True, True]
    assert ["00001" in found[0], "00003" in found[1]] == [True, True]


def test_a_brain_mask_and_a_mask_of_the_air_are_not_learnt_from(patients, tmp_path_factory):
    brain = np.asarray(nib.load(file(patients, 0, "t2f")).dataobj) > 0
    save(file(patients, 0, "seg"), 2 * brain.astype(np.uint8))
    save(file(patients, 1, "seg"), np.roll(labels_of(patients, 1), -5, axis=0))  # two of its four planes lie outside
    found = faults(patients, tmp_path_factory.mktemp("c"))
    assert len(found) == 2 and "brain mask" in found[0] and "where the image is 0" in found[1]


def test_patients_without_a_fault_are_prepared_and_one_fault_reads_as_ever(patients, tmp_path_factory):
    cases = discover_cases(patients)
    assert len(patient_cases(cases, load_recipe("demo"), tmp_path_factory.mktemp("c"))) == 4
    with pytest.raises(InputError, match="^only this$"):
        gather([lambda: 1, lambda: fail("only this")])


def fail(text: str) -> None:
    raise InputError(text)
