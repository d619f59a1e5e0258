"""What is learnt from: the same tensor as the predictor sees, and the share of each coarse voxel that a region fills."""

from __future__ import annotations

import shutil

import nibabel as nib
import numpy as np
import pytest

from data.case import discover_cases
from data.errors import InputError, UsageError
from pipeline.checkpoint import open_checkpoint
from pipeline.config import parse_config
from pipeline.train import run_training
from pipeline.training_cases import patient_cases
from tests.conftest import read_mask
from transforms.preprocess import preprocess_chain, run_chain

FIRST = "BraTS-GLI-90001-000"
MODALITIES = ("t1", "t1c", "t2", "flair")


def recipe(spacing: float = 5.0, minutes: float = 0.02) -> dict:
    network = {
        "architecture": "attention_unet",
        "spatial_dims": 3,
        "in_channels": 4,
        "out_channels": 3,
        "channels": [4, 8],
    }
    return {
        "name": "tiny",
        "modalities": list(MODALITIES),
        "regions": ["WT", "TC", "ET"],
        "convention": "brats2023",
        "network": network,
        "preprocess": {"spacing_mm": [spacing] * 3},
        "window": {"size": [16, 16, 16]},
        "training": {"patch": [16, 16, 16], "batch": 1, "minutes": minutes, "phantom_share": 0.0},
    }


def test_a_patient_is_learnt_from_as_the_predictor_sees_it(phantoms):
    config = parse_config(recipe(), "test")
    case = discover_cases(phantoms)[0]
    (learnt,) = patient_cases([case], config)
    chain = preprocess_chain(MODALITIES, **config.preprocess.model_dump())
    seen = run_chain(chain, case.images)["image"].numpy()
    np.testing.assert_allclose(learnt.image.astype(np.float32), seen, atol=4e-3, rtol=1e-3)  # float16
    assert (learnt.name, learnt.kind) == (FIRST, "patient")


def test_a_coarse_voxel_holds_the_share_that_a_region_fills(phantoms):
    config = parse_config(recipe(spacing=10.0), "test")
    (learnt,) = patient_cases([discover_cases(phantoms)[0]], config)
    truth = read_mask(phantoms / FIRST / f"{FIRST}-seg.nii.gz")
    fine_ml = (truth > 0).sum() * 0.125
    coarse_ml = learnt.regions[0].sum() / 255 * 1.0
    assert coarse_ml == pytest.approx(fine_ml, rel=0.05)
    assert len(np.unique(learnt.regions[0])) > 2  # shares, not yes or no


def test_a_patient_without_a_reference_is_refused_by_name(phantoms, tmp_path):
    shutil.copytree(phantoms / FIRST, tmp_path / FIRST)
    (tmp_path / FIRST / f"{FIRST}-seg.nii.gz").unlink()
    with pytest.raises(InputError, match=FIRST):
        list(patient_cases(discover_cases(tmp_path), parse_config(recipe(), "test")))


def test_training_from_a_folder_writes_a_model_that_says_what_it_has_not_seen(phantoms, tmp_path):
    import yaml

    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe()))
    output = tmp_path / "model.safetensors"
    run_training(phantoms, str(tmp_path / "tiny.yaml"), output, leave_out=[FIRST], phantoms=0, licence="none")
    checkpoint = open_checkpoint(output)
    assert checkpoint.card["held_out"] == [FIRST]
    assert checkpoint.card["trained_on"] == "1 patient cases"
    assert checkpoint.card["progress"]["step"] >= 1
    assert not checkpoint.build().training
    run_training(phantoms, str(tmp_path / "tiny.yaml"), tmp_path / "more.safetensors", phantoms=0, init=str(output))
    assert open_checkpoint(tmp_path / "more.safetensors").card["trained_on"] == "2 patient cases"


def test_an_unknown_patient_to_leave_out_or_nobody_left_cannot_start(phantoms, tmp_path):
    import yaml

    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe()))
    arguments = (phantoms, str(tmp_path / "tiny.yaml"), tmp_path / "m.safetensors")
    with pytest.raises(UsageError, match="nobody"):
        run_training(*arguments, leave_out=["nobody"])
    with pytest.raises(UsageError, match="no case"):
        run_training(*arguments, leave_out=[c.case_id for c in discover_cases(phantoms)], phantoms=0)


def test_a_slice_file_is_read_in_the_order_of_its_pictures_and_put_upright(tmp_path):
    import h5py

    from pipeline.training_cases import slice_cases

    settings = recipe()
    settings["network"] = settings["network"] | {"spatial_dims": 2}
    settings |= {"preprocess": {"spacing_mm": [1.0, 1.0, None]}, "window": {"size": [16, 16]}}
    settings["training"] = settings["training"] | {"patch": [16, 16]}
    pixels = np.full((240, 240, 4), -0.5, dtype=np.float32)  # as published: z-scored, so the background is not 0
    pixels[100:140, 80:160] = [1.0, 2.0, 3.0, 4.0]
    pixels[100, 80] += [0.5, 1.0, 1.5, 2.0]  # FLAIR, T1, T1c, T2 by their size, at the left anterior corner (LPS)
    mask = np.zeros((240, 240, 3))
    mask[100:110, 80:100, 1], mask[110:112, 80:82, 2] = 1, 1
    with h5py.File(tmp_path / "volume_1_slice_2.h5", "w") as file:
        file["image"], file["mask"] = pixels, mask
    (learnt,) = slice_cases(tmp_path, parse_config(settings, "test"))
    assert learnt.image.shape == (4, 40, 80, 1)
    # Rows grow to the left in the file and to the right in RAS; the corner comes to the far end of both axes.
    assert [np.unravel_index(channel.argmax(), channel.shape)[:2] for channel in learnt.image] == [(39, 79)] * 4
    assert [int((region == 255).sum()) for region in learnt.regions] == [10 * 20 + 2 * 2, 4, 4]


def test_written_phantoms_open_as_patients(phantoms):
    for case in discover_cases(phantoms):
        assert set(case.images) == set(MODALITIES)
        assert nib.load(case.images["t1"].paths[0]).shape == (40, 48, 32)
