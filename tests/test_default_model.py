"""The model that a case gets where the user names none: by what the files of the models say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from data.errors import CheckpointError
from data.find.discover import discover_cases
from data.phantom.patient import write_phantom
from pipeline.checkpoint import Checkpoint
from pipeline.default_model import choose_model


def listed(name: str, dims: int, dice: float, modalities: str = "t1 t1c t2 flair") -> Checkpoint:
    heads = name.startswith("heads")
    settings = {
        "modalities": modalities.split(),
        "network": {"spatial_dims": dims},
        "convention": "lgg" if heads else "brats2023",
        "preprocess": {"crop": "nonzero", "blank_air": True} if heads else {},
    }
    return Checkpoint(Path(f"{name}.safetensors"), name, settings, {"scores": {"dice_WT": dice}})


def test_the_model_that_is_chosen_fits_data_set_then_modalities_then_score(tmp_path: Path, monkeypatch) -> None:
    case = discover_cases(write_phantom(tmp_path, 1, shape=(20, 20, 14), spacing_mm=(12.0, 12.0, 12.0)))[0]
    models = [listed("brats-a", 3, 0.8), listed("brats-b", 2, 0.85), listed("heads-c", 2, 0.99)]
    monkeypatch.setattr("pipeline.default_model.shipped_models", lambda: models)
    assert choose_model(case).name == "brats-b"
    models.append(
        listed("heads-d", 2, 0.9, "t1 flair t1c")
    )  # lacks nothing, but was trained on heads with their skulls
    without_t2 = replace(case, images={m: source for m, source in case.images.items() if m != "t2"})
    assert choose_model(without_t2).name == "brats-b"
    flair = replace(case, images={"flair": case.images["flair"]})
    models.append(listed("brats-flair", 3, 0.1, "flair"))
    assert choose_model(flair).name == "brats-flair"
    models.clear()
    with pytest.raises(CheckpointError, match="no model is shipped"):
        choose_model(case)


def test_a_single_slice_gets_a_model_of_slices(tmp_path: Path, monkeypatch) -> None:
    case = discover_cases(write_phantom(tmp_path, 1, shape=(60, 60, 1), spacing_mm=(4.0, 4.0, 4.0)))[0]
    models = [listed("brats-a", 3, 0.9), listed("brats-b", 2, 0.7)]
    monkeypatch.setattr("pipeline.default_model.shipped_models", lambda: models)
    assert choose_model(case).name == "brats-b"


def test_a_whole_head_gets_a_model_of_whole_heads_whatever_the_models_are_called(tmp_path: Path, monkeypatch) -> None:
    stripped = discover_cases(write_phantom(tmp_path, 1, shape=(20, 20, 14), spacing_mm=(12.0, 12.0, 12.0)))[0]
    assert "lgg" not in stripped.conventions
    heads, brains = listed("heads-a", 2, 0.5, "t1 flair t1c"), listed("lgg-b", 2, 0.9)
    monkeypatch.setattr("pipeline.default_model.shipped_models", lambda: [brains, heads])
    assert choose_model(replace(stripped, layout="lgg", conventions=("lgg",))).name == "heads-a"
    assert choose_model(replace(stripped, layout="lgg-of-ours")).name == "lgg-b"
    # Both write this convention: it tells nothing, and images are taken for skull-stripped as most sets' are.
    monkeypatch.setattr(
        "pipeline.default_model.shipped_models",
        lambda: [replace(brains, settings={**brains.settings, "convention": "lgg"}), heads],
    )
    assert choose_model(replace(stripped, conventions=("lgg",))).name == "lgg-b"
