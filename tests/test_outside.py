"""NaN outside the brain are background, and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data.case import ImageSource
from data.errors import InputError
from data.io.read import read_volumes

ROOT = Path(__file__).resolve().parent.parent


def brain() -> np.ndarray:
    array = np.full((8, 8, 8), np.nan, np.float32)
    array[2:6, 2:6, 2:6] = np.arange(64).reshape(4, 4, 4) + 1
    return array


def read(folder: Path, **arrays: np.ndarray) -> dict[str, np.ndarray]:
    sources = {}
    for name, array in arrays.items():
        nib.save(nib.Nifti1Image(array, np.eye(4)), folder / f"{name}.nii.gz")
        sources[name] = ImageSource((folder / f"{name}.nii.gz",))
    volumes = read_volumes(sources)
    assert any("448 voxels outside the brain are NaN" in " ".join(v.header.warnings) for v in volumes.values())
    return {name: volume.array for name, volume in volumes.items()}


def test_nan_where_no_image_has_a_number_is_background(tmp_path: Path) -> None:
    zeros = np.nan_to_num(brain())  # another program wrote 0 there
    found = read(tmp_path, t1=brain(), t2=brain() * 2, flair=zeros)
    assert all(np.isfinite(array).all() and array[0, 0, 0] == 0 for array in found.values())
    assert found["t2"][2, 2, 2] == 2 and np.array_equal(found["flair"], zeros)


@pytest.mark.parametrize("fault", ["hole", "other", "infinite", "corner"])
def test_any_other_nan_is_an_error(fault: str, tmp_path: Path) -> None:
    one, other = brain(), brain()
    if fault == "hole":
        one[3, 3, 3] = other[3, 3, 3] = np.nan
    elif fault == "other":
        other[1, 1, 1] = 5
    elif fault == "infinite":
        one[3, 3, 3] = np.inf
    else:
        one[0, 0, 0] = other[0, 0, 0] = 1
    with pytest.raises(InputError, match="t1.nii.gz: .* NaN or infinite"):
        read(tmp_path, t1=one, t2=other)


def test_a_user_without_an_entry_in_the_systems_list_can_import_monai() -> None:
    code = (
        "import os, pwd\n"
        "def getpwuid(uid): raise KeyError('uid not found')\n"
        "pwd.getpwuid = getpwuid\n"
        "import pipeline, getpass\n"
        "assert getpass.getuser() == 'user'\n"
        "import monai.config\n"
    )
    nobody = dict.fromkeys(("USER", "LOGNAME", "LNAME", "USERNAME"), "")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env={**os.environ, **nobody})
