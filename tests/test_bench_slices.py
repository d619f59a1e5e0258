"""Slices of patients set aside: found under any name, shown where the working grid has them, scored by patient."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pandas as pd
import pytest

from bench import slices as bench_slices
from bench.slices import THICKNESS, mean_dice, score_slices, slices_of
from pipeline.checkpoint import open_checkpoint, save_checkpoint
from tests.conftest import make_model


def write_slice(folder: Path, patient: int) -> Path:
    """A brain of 40 x 60 pixels from row 100, column 80.

    An enhancing square of 10 x 8 is in it, four rows of it necrosis.
    """
    images = np.zeros((240, 240, 4), np.float32)
    images[100:140, 80:140] = np.random.default_rng(patient).normal(5, 1, (40, 60, 4))
    mask = np.zeros((240, 240, 3), np.uint8)
    mask[110:114, 90:98, 0] = mask[114:120, 90:98, 2] = 1
    path = folder / f"volume_{patient}_slice_70.h5"
    with h5py.File(path, "w") as file:
        file["image"], file["mask"] = images, mask
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for patient in (5, 6):
        write_slice(tmp_path, patient)
    return tmp_path


def test_the_slices_of_the_wanted_patients_are_found_under_any_name(folder):
    assert [path.stem for path in slices_of(folder, ["BraTS20_Training_005"])] == ["volume_5_slice_70"]


def test_a_mask_is_compared_where_the_slice_lies_and_an_absent_region_does_not_count(folder, tmp_path, monkeypatch):
    model = open_checkpoint(make_model(tmp_path / "m.safetensors"))
    seen = {}

    class Answer:
        regions = ("WT", "TC", "ET")

        def __init__(self, checkpoint, device):
            seen["post"] = checkpoint.config.postprocess

        def __call__(self, case):
            # Rows run to the left and columns to the posterior: the brain's last row is the first one from the left in
            # R, A, S, so that rows 110..119 of 100..139 are 20..29, and columns 90..97 of 80..139 are 42..49.
            mask = np.zeros((40, 60, THICKNESS), bool)
            mask[20:30, 42:46] = True  # half of the square: 2 * 40 / (40 + 80)
            return SimpleNamespace(masks=dict.fromkeys(self.regions, mask))

    monkeypatch.setattr(bench_slices, "Predictor", Answer)
    row = score_slices(model, slices_of(folder, ["BraTS20_Training_005"])).iloc[0]
    assert (row["slice"], row["patient"]) == ("volume_5_slice_70", "BraTS20_Training_005")
    assert row["WT"] == row["TC"] == pytest.approx(2 / 3)
    assert row["ET"] == pytest.approx(2 * 24 / (40 + 48))
    assert seen["post"].min_component_ml == {}
    with h5py.File(folder / "volume_6_slice_70.h5", "r+") as file:
        file["mask"][..., 2] = 0
    assert np.isnan(score_slices(model, slices_of(folder, ["volume_6_slice_1"])).iloc[0]["ET"])


def test_the_mean_is_over_patients_and_not_over_slices():
    rows = pd.DataFrame(
        {"slice": ["a", "b", "c"], "patient": ["1", "1", "2"], "WT": [0.2, 0.4, 0.9], "ET": [np.nan] * 3}
    )
    mean = mean_dice(rows)
    assert mean["WT"] == pytest.approx(0.6) and np.isnan(mean["ET"])


@pytest.mark.parametrize("dims", [2, 3])
def test_models_of_any_dimension_are_scored_and_one_that_has_seen_a_patient_is_refused(
    folder, tmp_path, monkeypatch, capsys, dims
):
    plain = open_checkpoint(make_model(tmp_path / "m.safetensors", spatial_dims=dims, spacing_mm=2.0))
    card = {**plain.card, "learnt_from": {"slice": {"BraTS20_Training_005": {}}}}
    save_checkpoint(tmp_path / "seen.safetensors", plain.build(), plain.config, card)
    split = tmp_path / "s.json"
    split.write_text('{"train": ["a"], "validation": [], "set_aside": ["BraTS20_Training_005"]}')
    line = ["slices", str(folder), "--split", str(split), "--model", str(tmp_path / "seen.safetensors")]
    monkeypatch.setattr("sys.argv", line)
    with pytest.raises(SystemExit):
        bench_slices.main()
    assert "seen has learnt from the patients of 1 of these slices" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", [*line, "--seen", "--output", str(tmp_path / "t.csv")])
    bench_slices.main()
    assert "| seen | 1 | 1 | 0." in capsys.readouterr().out
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 2
