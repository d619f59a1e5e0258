"""Lesions as cubes: read by patient, seen by the network as they are stored, scored over the cube's voxels alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch

from bench import cubes as bench_cubes
from data.errors import InputError, UsageError
from pipeline.checkpoint import open_checkpoint, save_checkpoint
from pipeline.training import cube_validation, plan
from pipeline.training.cube_validation import cube_predictor, cubes_of, validate_cubes, without_empty
from pipeline.training.distributed import Process
from pipeline.training.splits import Split
from tests.conftest import make_model

ALONE = Process(0, 1, torch.device("cpu"))
SHAPE = (32, 32, 32)


def lesion(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise around 0 in the lower half of the cube, background 0 above; labels 2, 1, 4 in 8, 4 and 2 voxels."""
    images = np.random.default_rng(seed).normal(size=(4, *SHAPE)).astype(np.float16)
    images[:, :, :, 16:] = 0
    labels = np.zeros(SHAPE, np.uint8)
    labels[10, 10, 2:10], labels[11, 10, 2:6], labels[12, 10, 2:4] = 2, 1, 4
    return images, labels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, count in ((5, 1), (271, 2)):
        images, labels = zip(*(lesion(seed) for seed in range(count)), strict=True)
        np.savez(
            tmp_path / f"BraTS20_Training_{number:03d}.npz",
            images=np.stack(images),
            labels=np.stack(labels),
            starts=[[0, 0, 0]] * count,
        )
    return tmp_path


def test_the_lesions_of_the_wanted_patients_are_read_in_order_under_any_name(folder):
    names = [cube.name for cube in cubes_of(folder, ["BraTS2021_01476", "BraTS20_Training_005"])]
    assert names == ["BraTS20_Training_005", "BraTS20_Training_271", "BraTS20_Training_271#2"]
    (cube,) = cubes_of(folder, ["volume_5_slice_60"])
    assert cube.images.dtype == np.float32 and (cube.images == lesion()[0]).all() and (cube.labels == lesion()[1]).all()


def test_a_patient_without_cubes_and_a_file_that_holds_none_are_named(folder):
    with pytest.raises(UsageError, match="no cubes of BraTS20_Training_006"):
        cubes_of(folder, ["BraTS20_Training_006"])
    np.savez(folder / "BraTS20_Training_006.npz", images=np.zeros((1, 4, 8, 8, 8)), labels=np.zeros((1, 8, 8, 8)))
    np.savez(folder / "BraTS20_Training_007.npz", images=np.zeros(3))
    for number in (6, 7):
        with pytest.raises(InputError, match=f"BraTS20_Training_00{number}.npz: .*; (copy it again|leave it out)"):
            cubes_of(folder, [f"BraTS20_Training_00{number}"])


def test_a_patient_set_aside_may_have_no_lesion_cubes_but_a_name_found_nowhere_is_said(folder, caplog):
    aside = ("BraTS20_Training_005", "BCBM-9", "BraTS20_Training_05")
    lesions = plan.lesions_aside(Split((), (), set_aside=aside), [folder])
    assert [cube.name for cube in lesions] == ["BraTS20_Training_005"]
    ((_, _, kept),) = plan.further_cases([folder], aside, aside)
    assert "BraTS20_Training_005" not in kept and "in no further folder: BCBM-9, BraTS20_Training_05;" in caplog.text


def test_the_network_sees_the_stored_values_and_nothing_needs_the_whole_brain(folder, tmp_path):
    model = open_checkpoint(make_model(tmp_path / "m.safetensors", spacing_mm=None))
    assert model.config.preprocess.normalise == "nonzero" and model.config.postprocess.min_component_ml
    predictor = cube_predictor(model, "cpu")
    assert predictor.configs[0].preprocess.normalise == "none"
    post = predictor.configs[0].postprocess
    assert (post.threshold, post.nest, post.min_component_ml, post.min_component_share) == (0.5, True, {}, {})
    seen = []
    predictor.networks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    (cube,) = cubes_of(folder, ["BraTS20_Training_005"])
    with cube_validation._as_case(cube) as case:
        predictor(case)
    # R, A, S where the cube is L, P, S; cut to what is not 0, and zeros to the network's window.
    given = seen[0][0].numpy()
    shown = given[:, *(slice(side.min(), side.max() + 1) for side in np.nonzero(given.any(axis=0)))]
    np.testing.assert_allclose(shown, cube.images[:, ::-1, ::-1, :16])


def test_a_lesion_is_files_only_while_it_is_looked_at(folder):
    (cube,) = cubes_of(folder, ["BraTS20_Training_005"])
    with cube_validation._as_case(cube) as case:
        assert set(case.images) == {"t1", "t1c", "t2", "flair"} and case.folder.is_dir()
        np.testing.assert_allclose(nib.load(case.images["t1"].paths[0]).affine, cube.grid.affine, atol=1e-5)
    assert not case.folder.exists()


def test_a_row_holds_dice_over_the_cube_and_the_size_of_the_reference(folder, monkeypatch):
    whole = np.zeros(SHAPE, bool)
    whole[10, 10, 2:10] = True  # 8 of the 14 voxels, and none besides: 2 * 8 / (8 + 14)
    masks = {"WT": whole, "TC": np.zeros(SHAPE, bool), "ET": np.zeros(SHAPE, bool)}
    model = SimpleNamespace(name="m", regions=("WT", "TC", "ET"))
    monkeypatch.setattr(cube_validation, "open_checkpoint", lambda path: path)
    answer = type(
        "Fake", (), {"regions": model.regions, "name": "m", "__call__": lambda *_: SimpleNamespace(masks=masks)}
    )
    monkeypatch.setattr(cube_validation, "cube_predictor", lambda *_: answer())
    cube = cubes_of(folder, ["BraTS20_Training_005"])[0]
    empty = replace(cube, labels=np.where(cube.labels == 4, 2, cube.labels).astype(np.uint8))
    rows = validate_cubes(Path("m"), [cube, empty], ALONE)
    assert rows[0] == {"case": "BraTS20_Training_005", "dice_WT": pytest.approx(16 / 22), "voxels_WT": 14,
                       "dice_TC": 0, "voxels_TC": 6, "dice_ET": 0, "voxels_ET": 2}  # fmt: skip
    assert (rows[1]["dice_ET"], rows[1]["voxels_ET"]) == (1, 0)  # both empty
    assert without_empty(rows, ["WT", "ET"]) == pytest.approx({"WT": 16 / 22, "ET": 0})


@pytest.mark.parametrize("dims", [2, 3])
def test_models_of_any_dimension_and_spacing_are_scored(folder, tmp_path, dims):
    path = make_model(tmp_path / f"m{dims}.safetensors", spatial_dims=dims, spacing_mm=2.0)
    rows = validate_cubes(path, cubes_of(folder, ["BraTS20_Training_005", "BraTS20_Training_271"]), ALONE)
    assert [row["case"] for row in rows] == [f"BraTS20_Training_{n}" for n in ("005", "271", "271#2")]
    assert all(0 <= row[f"dice_{region}"] <= 1 for row in rows for region in ("WT", "TC", "ET"))


def test_a_model_that_has_learnt_from_a_lesions_patient_is_refused_unless_that_is_said(
    folder, tmp_path, monkeypatch, capsys
):
    plain = open_checkpoint(make_model(tmp_path / "m.safetensors"))
    card = {**plain.card, "learnt_from": {"slice": {"BraTS20_Training_005": {}}}}
    save_checkpoint(tmp_path / "seen.safetensors", plain.build(), plain.config, card)
    split = tmp_path / "s.json"
    split.write_text('{"train": ["a"], "validation": [], "set_aside": ["BraTS20_Training_005"]}')
    line = ["cubes", str(folder), "--split", str(split), "--model", str(tmp_path / "seen.safetensors")]
    monkeypatch.setattr("sys.argv", line)
    with pytest.raises(SystemExit):
        bench_cubes.main()
    assert "seen has learnt from the patients of 1 of these lesions" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", [*line, "--seen", "--output", str(tmp_path / "t.csv")])
    bench_cubes.main()
    assert "| seen | 1 |" in capsys.readouterr().out
    assert (tmp_path / "t.csv").read_text().splitlines()[1].startswith("BraTS20_Training_005,")
