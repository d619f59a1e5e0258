"""Metastases set aside: found by one pixel, Dice near the lesion alone, and other components counted from .1 ml on."""

from __future__ import annotations

import json
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bench.quality import metastases
from bench.quality.metastases import as_markdown, compare, score_metastases, summarise
from bench.slices import THICKNESS
from pipeline.checkpoint import open_checkpoint, save_checkpoint
from pipeline.training.sources.lesion_slices import lesion_pairs
from tests.conftest import make_model
from tests.test_sources import write_lesion_slice


def square(row: int, column: int, side: int) -> np.ndarray:
    mask = np.zeros((100, 100), bool)
    mask[row : row + side, column : column + side] = True
    return mask


def test_a_lesion_is_found_by_one_pixel_and_what_is_far_from_it_does_not_lower_its_dice():
    lesion = square(20, 20, 4)
    # Half of the lesion, and one pixel 6 mm from its edge that touches nothing.
    row = compare(square(20, 20, 4) & square(20, 20, 2) | square(20, 29, 1), lesion, 1.0)
    assert row == {"area_mm2": 16.0, "found": 1.0, "dice": pytest.approx(2 * 4 / (4 + 16)), "false": 0.0}
    near = compare(lesion | square(20, 28, 1), lesion, 1.0)  # 5 mm from the last column of the lesion
    assert near["dice"] == pytest.approx(2 * 16 / (17 + 16))
    assert compare(square(60, 60, 2), lesion, 1.0)["found"] == 0.0
    # Ten pixels of half a millimetre are 5 mm, and eleven 5.5 mm.
    half = compare(lesion | square(20, 33, 1), lesion, 0.5)
    assert (half["area_mm2"], half["dice"]) == (4.0, pytest.approx(2 * 16 / (17 + 16)))
    assert compare(lesion | square(20, 34, 1), lesion, 0.5)["dice"] == 1.0


@pytest.mark.parametrize(("pixels", "false"), [(25, 0), (27, 1)])
def test_a_component_counts_as_false_from_the_area_through_a_ball_of_a_tenth_millilitre_on(pixels, false):
    # Of volume 100 mm3 the radius is 2.879 mm, and the area through the middle 26.05 mm2.
    other = np.zeros((100, 100), bool)
    other[60, 60 : 60 + pixels] = True
    assert compare(other, square(20, 20, 4), 1.0)["false"] == false
    assert compare(other, square(20, 20, 4), 0.5)["false"] == 0  # a quarter of the area
    small = np.zeros((100, 100), bool)
    small[60:62, 60:90] = True  # 60 pixels, 15 mm2
    assert compare(small, square(20, 20, 4), 0.5)["false"] == 0
    reaching = other | np.eye(100, dtype=bool)  # diagonal neighbours join it to the lesion
    assert compare(reaching, square(20, 20, 4), 1.0)["false"] == 0


def test_dice_is_of_found_lesions_and_over_patients_and_an_empty_mask_finds_none():
    rows = pd.DataFrame(
        {
            "patient": ["1", "1", "2", "2"],
            "area_mm2": [30.0, 20.0, 30.0, 10.0],
            "found": [1.0, 1.0, 1.0, 0.0],
            "dice": [0.2, 0.4, 0.9, 0.0],
            "false": [2.0, 0.0, 1.0, 0.0],
        }
    )
    of = summarise(rows)
    assert (of["patients"], of["lesions"], of["found"], of["large"], of["large_found"]) == (2, 4, 0.75, 2, 1.0)
    assert of["dice"] == pytest.approx(0.6) and of["false"] == 0.75
    assert as_markdown(["m"], [rows]).splitlines()[-1] == "| m | 2 | 4 | 0.750 | 2 | 1.000 | 0.600 | 0.75 |"
    nothing = compare(np.zeros((100, 100), bool), square(20, 20, 4), 1.0)
    assert (nothing["found"], nothing["dice"], nothing["false"]) == (0.0, 0.0, 0.0)


def test_the_mask_is_compared_where_the_picture_lies_and_a_model_that_has_seen_the_patient_is_refused(
    tmp_path, monkeypatch, capsys
):
    write_lesion_slice(tmp_path)
    pairs = lesion_pairs(tmp_path)
    ((name, (patient, picture, marked)),) = pairs.items()
    pixels = np.array(Image.open(picture))
    pixels[190:200] = 0  # outside the brain, with half of the lesion
    Image.fromarray(pixels).save(picture)
    model = open_checkpoint(make_model(tmp_path / "m.safetensors"))
    lesion = metastases.read_pair(picture, marked, 512)[1] & (pixels > 0)

    class Answer:
        def __init__(self, checkpoint, device, zero_missing):
            assert zero_missing

        def __call__(self, images, *, affine, name):
            assert images["t1c"].shape == (512, 512, THICKNESS) and name.startswith("BCBM-9")
            # The picture's first row is the rightmost and its first column the most anterior one.
            assert nib.aff2axcodes(affine) == ("L", "P", "S")
            assert np.linalg.norm(affine[:3, :2], axis=0).tolist() == [0.5, 0.5]
            mask = np.zeros((*lesion.shape, THICKNESS), bool)
            mask[..., THICKNESS // 2] = lesion
            return SimpleNamespace(masks={"TC": mask})

    monkeypatch.setattr(metastases, "Predictor", Answer)
    row = score_metastases(model, pairs).iloc[0]
    assert (row["patient"], row["found"], row["dice"], row["false"]) == (patient, 1.0, 1.0, 0.0)
    assert row["area_mm2"] == 200 / 4
    card = {**model.card, "learnt_from": {"lesion-slice": {patient: {}}}}
    save_checkpoint(tmp_path / "seen.safetensors", model.build(), model.config, card)
    write_lesion_slice(tmp_path)
    write_lesion_slice(tmp_path, "BCBM-8-0_mask_R-frontal")  # of a patient that is not set aside
    split = tmp_path / "s.json"
    split.write_text(json.dumps({"train": ["a"], "validation": [], "set_aside": [patient]}))
    line = ["x", str(tmp_path), "--split", str(split), "--model", str(tmp_path / "seen.safetensors")]
    monkeypatch.setattr("sys.argv", line)
    with pytest.raises(SystemExit):
        metastases.main()
    assert "seen has learnt from the patients of 1 of these slices" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", [*line, "--seen", "--output", str(tmp_path / "t.csv")])
    metastases.main()
    assert "| seen | 1 | 1 | 1.000 |" in capsys.readouterr().out
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 2
    split.write_text(json.dumps({"train": ["a"], "validation": [], "set_aside": ["b"]}))
    with pytest.raises(SystemExit):
        metastases.main()
    assert "none of the patients" in capsys.readouterr().err
