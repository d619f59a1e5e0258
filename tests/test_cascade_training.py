"""`train` of a cascade: its stages one after the other, resumable in each, into one model file."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from data.errors import UsageError
from data.find.discover import discover_cases
from networks import Cascade, build_network
from pipeline.checkpoint import open_checkpoint, save_checkpoint
from pipeline.options import TrainOptions
from pipeline.predict.predictor import Predictor
from pipeline.training.initial import initial_network
from pipeline.training.progress import files as run_files
from pipeline.training.run import run_training
from tests.conftest import cascade_settings, make_model


def settings() -> dict[str, Any]:
    plain = cascade_settings(dims=(2, 2), spacing_mm=(10.0, 5.0))
    short = {"patch": [16, 16], "batch": 2, "epochs": 2, "steps_per_epoch": 2, "validate_every": 2, "ema_decay": 0.5}
    plain["training"] = {**short, "seed": 1}
    plain["first"]["recipe"]["training"] = short
    return plain


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("training")


@pytest.fixture(scope="module")
def recipe(folder: Path) -> str:
    (folder / "cascade.yaml").write_text(json.dumps(settings()))  # JSON is YAML without aliases
    return str(folder / "cascade.yaml")


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_files, "plot_curves", lambda *_: None)


def options(folder: Path, **more: Any) -> TrainOptions:
    return TrainOptions(device="cpu", folds=2, cache=folder / "cache", **more)


@pytest.fixture(scope="module")
def undisturbed(folder: Path, phantoms: Path, recipe: str) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_files, "plot_curves", lambda *_: None)
        run_training(phantoms, recipe, folder / "run", options(folder))
    return folder / "run"


def same_weights(one: Path, other: Path) -> bool:
    ours, theirs = load_file(one), load_file(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_first_stage_is_trained_in_a_folder_of_its_own_and_is_part_of_the_cascade(undisturbed: Path) -> None:
    first, both = (open_checkpoint(undisturbed / name) for name in ("first/model.safetensors", "model.safetensors"))
    assert both.config.first is not None and both.config.first.recipe == first.config and first.config.first is None
    inner, alone = both.build(), first.build()
    assert isinstance(inner, Cascade)
    for name, value in alone.state_dict().items():
        assert torch.equal(inner.first.state_dict()[name], value)
    assert (
        both.card["held_out"] == first.card["held_out"]
        and "1 patient; first stage: 1 patient" in both.card["trained_on"]
    )
    assert (undisturbed / "split.json").read_text() == (undisturbed / "first" / "split.json").read_text()


def test_the_scores_are_those_of_the_cascade_as_a_user_runs_it(undisturbed: Path, phantoms: Path) -> None:
    (row,) = pd.read_csv(undisturbed / "validation.csv").to_dict("records")
    case = next(case for case in discover_cases(phantoms) if case.case_id == row["case"])
    masks = Predictor(undisturbed / "model.safetensors", "cpu")(case).masks
    from tests.conftest import read_mask

    assert case.reference is not None
    truth = read_mask(case.reference.paths[0]) > 0
    total = truth.sum() + masks["WT"].sum()
    assert row["dice_WT"] == pytest.approx(2 * (truth & masks["WT"]).sum() / total)


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


@pytest.mark.parametrize("killed_at", [3, 7])
def test_a_run_that_was_killed_in_either_stage_goes_on_to_the_same_weights(
    killed_at: int, undisturbed: Path, folder: Path, phantoms: Path, recipe: str, tmp_path: Path
) -> None:
    """Each stage has four steps in two epochs: the third and the seventh lie in the second epoch of one."""
    steps: list[int] = []

    def on_step(done: int, total: int, loss: float) -> None:
        steps.append(done)
        if len(steps) == killed_at:
            raise Killed

    with pytest.raises(Killed):
        run_training(phantoms, recipe, tmp_path / "out", options(folder, on_step=on_step))
    with pytest.raises(UsageError, match="holds a training run; go on with --resume"):
        run_training(phantoms, recipe, tmp_path / "out", options(folder))
    run_training(phantoms, recipe, tmp_path / "out", options(folder, resume=True))
    for name in ("model.safetensors", "last.safetensors", "first/model.safetensors"):
        assert same_weights(tmp_path / "out" / name, undisturbed / name)
    assert (tmp_path / "out" / "validation.csv").read_bytes() == (undisturbed / "validation.csv").read_bytes()


def test_a_finished_first_stage_is_taken_as_it_is(
    undisturbed: Path, folder: Path, phantoms: Path, recipe: str, tmp_path: Path
) -> None:
    first = str(undisturbed / "first" / "model.safetensors")
    run_training(phantoms, recipe, tmp_path / "out", options(folder, first=first))
    assert not (tmp_path / "out" / "first").exists()
    assert same_weights(tmp_path / "out" / "model.safetensors", undisturbed / "model.safetensors")
    other = shutil.copy(make_model(tmp_path / "other.safetensors", spatial_dims=2), tmp_path / "copy.safetensors")
    with pytest.raises(UsageError, match="its run has another recipe"):
        run_training(phantoms, recipe, tmp_path / "out", options(folder, first=str(other), resume=True))


def test_a_run_does_not_go_on_behind_other_weights(
    undisturbed: Path, folder: Path, phantoms: Path, recipe: str, tmp_path: Path
) -> None:
    out = shutil.copytree(undisturbed, tmp_path / "out")
    config = open_checkpoint(undisturbed / "first" / "model.safetensors").config
    torch.manual_seed(9)
    save_checkpoint(tmp_path / "other.safetensors", build_network(config.network), config, {})
    with pytest.raises(UsageError, match="its run has another first stage; resume with the same one"):
        run_training(phantoms, recipe, out, options(folder, first=str(tmp_path / "other.safetensors"), resume=True))


def test_another_model_may_be_the_first_stage_and_a_warning_says_whom_it_may_have_seen(
    folder: Path, phantoms: Path, recipe: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = make_model(tmp_path / "other.safetensors", spacing_mm=8.0)
    with caplog.at_level(logging.WARNING):
        model = run_training(phantoms, recipe, tmp_path / "out", options(folder, first=str(first)))
    config = open_checkpoint(model).config
    assert config.first is not None and config.first.recipe == open_checkpoint(first).config
    assert "does not hold back 1 of the 1 validation patients" in caplog.text


def test_a_first_stage_that_cannot_be_is_refused_before_anything_is_learnt(
    folder: Path, phantoms: Path, recipe: str, tmp_path: Path, tiny_cascade: Path
) -> None:
    with pytest.raises(UsageError, match="tiny-cascade is a cascade itself"):
        run_training(phantoms, recipe, tmp_path / "out", options(folder, first=str(tiny_cascade)))
    flat = make_model(tmp_path / "wt.safetensors", regions=("WT",))
    with pytest.raises(UsageError, match=r"first\.recipe has no region TC, ET"):
        run_training(phantoms, recipe, tmp_path / "out", options(folder, first=str(flat)))
    with pytest.raises(UsageError, match="--first x: the recipe demo is no cascade"):
        run_training(phantoms, "demo", tmp_path / "out", options(folder, first="x"))


def test_a_second_stage_begins_with_the_weights_of_a_model_or_of_a_cascades_second(
    undisturbed: Path, tmp_path: Path
) -> None:
    cascade = open_checkpoint(undisturbed / "model.safetensors")
    built = cascade.build()
    assert isinstance(built, Cascade)
    again = initial_network(str(cascade.path), cascade.config).state_dict()
    assert all(torch.equal(value, built.second.state_dict()[name]) for name, value in again.items())
    alone = make_model(tmp_path / "alone.safetensors", spatial_dims=2)
    given, begun = open_checkpoint(alone).build().state_dict(), initial_network(str(alone), cascade.config).state_dict()
    first = next(iter(begun))
    assert begun[first].shape[1] == 7 and torch.equal(begun[first][:, :4], given[first])
