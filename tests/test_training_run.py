"""A whole run on tiny phantoms: what it leaves, who is learnt from, and that a kill changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

from data.errors import ConventionError, InputError, TrainingError, UsageError
from data.find.discover import discover_cases
from data.phantom.patient import write_phantom
from pipeline.checkpoint import open_checkpoint
from pipeline.config import load_recipe
from pipeline.execute.lock_owner import LOCK_NAME
from pipeline.execute.own_folder import MARK
from pipeline.options import TrainOptions
from pipeline.predict.predictor import Predictor
from pipeline.training import plan
from pipeline.training import run as training_run
from pipeline.training.progress import files as run_files
from pipeline.training.progress.identity import run_identity
from pipeline.training.progress.state import load_state, save_state
from pipeline.training.run import run_training
from pipeline.training.splits import Split
from tests.conftest import read_history
from tests.test_sources import write_cube

ROOT = Path(__file__).resolve().parent.parent
NAMES = [f"BraTS-GLI-9000{seed}-000" for seed in (1, 2, 3, 4)]
FOLD_0 = ([NAMES[1], NAMES[3]], [NAMES[0], NAMES[2]])
"""Patients dealt round-robin to two folds: those of fold 0 are validated on."""


def write_recipe(path: Path, **training: Any) -> str:
    settings = {
        "name": "tiny",
        "modalities": ["t1", "t1c", "t2", "flair"],
        "regions": ["WT", "TC", "ET"],
        "convention": "brats2023",
        "network": {
            "architecture": "unet_plus_plus",
            "spatial_dims": 2,
            "in_channels": 4,
            "out_channels": 3,
            "channels": [4, 8],
            "dropout": 0.2,
            "deep_supervision": True,
        },
        "preprocess": {"spacing_mm": [8.0, 8.0, 8.0]},
        "window": {"size": [16, 16], "batch": 16},
        "training": {
            "patch": [16, 16],
            "batch": 2,
            "epochs": 4,
            "steps_per_epoch": 3,
            "validate_every": 2,
            "learning_rate": 0.01,
            "ema_decay": 0.5,
            **training,
        },
    }
    path.write_text(yaml.safe_dump(settings))
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("training")


@pytest.fixture(scope="module")
def patients(folder) -> Path:
    """Four patients of 30 x 30 x 20 voxels of 8 mm."""
    for seed in (1, 2, 3, 4):
        write_phantom(folder / "patients", seed, shape=(30, 30, 20), spacing_mm=(8.0, 8.0, 8.0))
    return folder / "patients"


@pytest.fixture(scope="module")
def recipe(folder) -> str:
    return write_recipe(folder / "tiny.yaml")


@pytest.fixture(scope="module")
def options(folder) -> dict[str, Any]:
    return {"device": "cpu", "folds": 2, "cache": folder / "cache"}


@pytest.fixture(scope="module")
def undisturbed(folder, patients, recipe, options) -> Path:
    run_training(patients, recipe, folder / "undisturbed", TrainOptions(**options, licence="CC0", command="train it"))
    return folder / "undisturbed"


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch) -> None:
    """The undisturbed run draws them; they take longer than a tiny epoch."""
    monkeypatch.setattr(run_files, "plot_curves", lambda *_: None)


def assert_same_run(output: Path, undisturbed: Path) -> None:
    ours, theirs = (pd.read_csv(f / "history.csv", dtype=str).drop(columns="minutes") for f in (output, undisturbed))
    pd.testing.assert_frame_equal(ours, theirs)
    for name in ("model.safetensors", "last.safetensors"):
        one, other = (load_file(f / name) for f in (output, undisturbed))
        assert one.keys() == other.keys()
        assert all(one[key].numpy().tobytes() == other[key].numpy().tobytes() for key in one)
    assert (output / "validation.csv").read_bytes() == (undisturbed / "validation.csv").read_bytes()
    assert not [path for path in output.iterdir() if path.name.endswith(".tmp")]


# --------------------------------------------------------------------------------------------------- what it leaves


def test_a_run_leaves_model_history_curves_and_scores(undisturbed, patients):
    listed = {path.name for path in undisturbed.iterdir()} - {"tensorboard", MARK}
    tables = {"history.csv", "validation.csv", "curves.png", "split.json", "state.safetensors"}
    assert listed == tables | {"model.safetensors", "last.safetensors"}
    records = read_history(undisturbed / "history.csv")
    assert [(record.epoch, record.step) for record in records] == [(1, 3), (2, 6), (3, 9), (4, 12)]
    assert [record.mean_dice is not None for record in records] == [False, True, False, True]
    for record in records[1::2]:
        assert set(record.dice) == {"WT", "TC", "ET"}
        assert record.mean_dice == pytest.approx(np.mean(list(record.dice.values())), rel=1e-5)
        assert record.val_loss is not None and 0 < record.val_loss < 5
    split = json.loads((undisturbed / "split.json").read_text())
    assert split == {"train": FOLD_0[0], "validation": FOLD_0[1], "test": []}


def test_the_card_says_what_the_model_is(undisturbed):
    card = open_checkpoint(undisturbed / "model.safetensors").card
    assert (card["trained_on"], card["held_out"]) == ("2 patients", FOLD_0[1])
    assert (card["licence"], card["command"]) == ("CC0", "train it")
    assert set(card["scores"]) == {"dice_WT", "dice_TC", "dice_ET"}
    assert "parents" not in card and list(card["learnt_from"]) == ["patient"]
    learnt = card["learnt_from"]["patient"]
    assert list(learnt) == FOLD_0[0] and all(set(prints) == {"flair", "t1c"} for prints in learnt.values())


def test_the_per_patient_table_is_the_models_and_its_means_are_the_historys(undisturbed):
    rows = pd.read_csv(undisturbed / "validation.csv")
    assert list(rows["case"]) == FOLD_0[1]
    scores = open_checkpoint(undisturbed / "model.safetensors").card["scores"]
    for region in ("WT", "TC", "ET"):
        assert rows[f"dice_{region}"].mean() == pytest.approx(scores[f"dice_{region}"])


@pytest.mark.parametrize(("means", "best"), [((0.2, 0.9, 0.5, 0.9), 2), ((0.0, 0.0, 0.0, 0.1), 4)])
def test_the_model_is_that_of_the_best_epoch_and_the_first_of_equals(
    means, best, folder, patients, options, tmp_path, monkeypatch
):
    given = iter(means)
    kept = {}
    monkeypatch.setattr(run_files, "validate", lambda *_: [{"case": "x", "dice_WT": (d := next(given))}
                        | {f"{score}_WT": d for score in ("tversky", "accuracy")}])  # fmt: skip
    save_state = run_files.save_state

    def keep_last(path: Path, state: dict[str, Any]) -> None:
        kept[len(state["trainee"]["records"])] = (tmp_path / "out" / "last.safetensors").read_bytes()
        save_state(path, state)

    monkeypatch.setattr(run_files, "save_state", keep_last)
    settings = write_recipe(tmp_path / "r.yaml", validate_every=1, steps_per_epoch=1)
    model = run_training(patients, settings, tmp_path / "out", TrainOptions(**options))
    assert model.read_bytes() == kept[best]
    assert len(set(kept.values())) == 4


def test_with_fold_all_everybody_is_learnt_from_and_the_model_is_the_last_one(patients, options, tmp_path):
    settings = write_recipe(tmp_path / "r.yaml", epochs=2, steps_per_epoch=1)
    out = tmp_path / "out"
    run_training(patients, settings, out, TrainOptions(**options | {"fold": "all"}))
    assert json.loads((out / "split.json").read_text()) == {"train": NAMES, "validation": [], "test": []}
    assert (out / "model.safetensors").read_bytes() == (out / "last.safetensors").read_bytes()
    assert not (out / "validation.csv").exists()
    assert open_checkpoint(out / "model.safetensors").card["held_out"] == []


# ------------------------------------------------------------------------------------------------------ it survives


def test_a_run_killed_by_the_system_goes_on_to_the_bit(undisturbed, patients, recipe, options, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "run_pipeline.py", "train", patients, "--recipe", recipe, "--output", out, "--device"]
    command += ["cpu", "--folds", "2", "--cache", options["cache"], "--quiet"]
    process = subprocess.Popen([str(a) for a in command], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        until = time.monotonic() + 120
        while not (out / "state.safetensors").is_file() and time.monotonic() < until and process.poll() is None:
            time.sleep(0.001)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    assert len(read_history(out / "history.csv")) < 4
    (out / ".state.safetensors.1-0123abcd.tmp").write_bytes(b"half")  # as a kill within the writing leaves it
    run_training(patients, recipe, out, TrainOptions(**options, resume=True))
    assert_same_run(out, undisturbed)


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


@pytest.mark.parametrize("moment", ["step of epoch 3", "before the model", "before the state"])
def test_it_goes_on_to_the_bit_wherever_it_was_killed(
    moment, undisturbed, patients, recipe, options, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    target = "save_checkpoint" if moment == "before the model" else "save_state"
    real, calls = getattr(run_files, target), []

    def killing(*arguments: Any) -> None:
        calls.append(arguments)
        # Epoch 2 is validated: its model is saved by the fourth call (1: last of epoch 1; 2, 3: last; 4: model).
        if len(calls) == (4 if target == "save_checkpoint" else 2):
            raise Killed
        real(*arguments)

    def on_step(done: int, total: int, loss: float) -> None:
        if moment == "step of epoch 3" and done == 8:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        if moment.startswith("before"):
            patch.setattr(run_files, target, killing)
        run_training(patients, recipe, out, TrainOptions(**options, on_step=on_step))
    workers = 2 if moment == "step of epoch 3" else 0
    run_training(patients, recipe, out, TrainOptions(**options, resume=True, workers=workers))
    assert_same_run(out, undisturbed)


def test_resuming_a_finished_run_changes_nothing(undisturbed, patients, recipe, options, tmp_path):
    out = shutil.copytree(undisturbed, tmp_path / "out")
    run_training(patients, recipe, out, TrainOptions(**options, resume=True))
    for path in undisturbed.glob("*.*"):
        assert (out / path.name).read_bytes() == path.read_bytes()


def test_a_loss_that_is_no_number_leaves_the_earlier_files_as_they_were(
    patients, recipe, options, tmp_path, monkeypatch
):
    out, before = tmp_path / "out", {}
    learn = training_run.train.__globals__["_learn"]
    steps = []

    def failing(*arguments: Any) -> float:
        steps.append(1)
        if len(steps) == 7:
            before.update({path.name: path.read_bytes() for path in out.glob("*.*") if path.name != LOCK_NAME})
        return float("nan") if len(steps) >= 8 else learn(*arguments)

    monkeypatch.setattr("pipeline.training.loop._learn", failing)
    with pytest.raises(TrainingError, match="epoch 3: the loss is nan"):
        run_training(patients, recipe, out, TrainOptions(**options))
    assert {"model.safetensors", "last.safetensors", "history.csv", "state.safetensors"} <= set(before)
    assert {path.name: path.read_bytes() for path in out.glob("*.*")} == before


# ------------------------------------------------------------------------------------------------- it is extended

COOLDOWN = {"schedule": {"name": "constant_cooldown", "cooldown": 0.5, "warmup_steps": 2}}
"""Of the tiny run's 12 steps, the last one at the full rate is step 6: progress (7 - 1) / 12 = .5; epoch 2 ends with
it."""


def test_an_extended_cool_down_run_is_the_run_that_was_planned_so_long_to_the_bit(patients, options, tmp_path):
    short = write_recipe(tmp_path / "short.yaml", **COOLDOWN)
    long = write_recipe(tmp_path / "long.yaml", epochs=8, **COOLDOWN)
    out, planned = tmp_path / "out", tmp_path / "planned"
    run_training(patients, short, out, TrainOptions(**options))
    finished = read_history(out / "history.csv")
    assert (out / "state_before_cooldown.safetensors").is_file()
    run_training(patients, long, out, TrainOptions(**options, resume=True))
    run_training(patients, long, planned, TrainOptions(**options))
    extended = read_history(out / "history.csv")
    assert len(extended) == 8 and finished[2].learning_rate < 0.01
    # 24 steps, full rate up to progress .5, that is steps 1 to 13; the last of epoch 4 is step 12.
    assert [record.learning_rate for record in extended[:4]] == pytest.approx([0.01] * 4)
    ours, theirs = (pd.read_csv(f / "history.csv", dtype=str).drop(columns="minutes") for f in (out, planned))
    pd.testing.assert_frame_equal(ours, theirs)
    one, other = (load_file(f / "last.safetensors") for f in (out, planned))
    assert all(one[key].numpy().tobytes() == other[key].numpy().tobytes() for key in one)


@pytest.mark.parametrize("killed", [5, 8])
def test_an_extended_run_that_is_killed_goes_on_to_the_bit(killed, patients, options, tmp_path):
    short = write_recipe(tmp_path / "short.yaml", **COOLDOWN)
    longer = write_recipe(tmp_path / "longer.yaml", epochs=6, **COOLDOWN)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run_training(patients, short, whole, TrainOptions(**options))
    shutil.copytree(whole, broken)
    run_training(patients, longer, whole, TrainOptions(**options, resume=True))

    def on_step(done: int, total: int, loss: float) -> None:
        assert total == 18
        if done == 3 + killed:
            raise Killed

    with pytest.raises(Killed):
        run_training(patients, longer, broken, TrainOptions(**options, resume=True, on_step=on_step))
    run_training(patients, longer, broken, TrainOptions(**options, resume=True))
    assert_same_run(broken, whole)


def test_an_extended_cosine_run_starts_again_warm_over_the_added_epochs(patients, options, tmp_path):
    cosine = {"schedule": {"name": "cosine", "warmup_steps": 1, "last": 0.0}}
    out = tmp_path / "out"
    run_training(patients, write_recipe(tmp_path / "a.yaml", epochs=2, **cosine), out, TrainOptions(**options))
    run_training(
        patients, write_recipe(tmp_path / "b.yaml", epochs=4, **cosine), out, TrainOptions(**options, resume=True)
    )
    rates = [record.learning_rate / 0.01 for record in read_history(out / "history.csv")]
    # Of six steps each time, the third (progress 2/6) and the sixth (5/6): (1 + cos(pi / 3)) / 2, (1 + cos(5 pi / 6))
    # / 2.
    assert rates == pytest.approx([0.75, 0.0669873, 0.75, 0.0669873])


def test_without_the_state_before_it_a_cool_down_is_followed_by_a_short_warm_up(patients, options, tmp_path):
    out = tmp_path / "out"
    run_training(patients, write_recipe(tmp_path / "a.yaml", epochs=2, **COOLDOWN), out, TrainOptions(**options))
    (out / "state_before_cooldown.safetensors").unlink()
    longer = write_recipe(tmp_path / "b.yaml", epochs=6, steps_per_epoch=3, **COOLDOWN)
    rates: list[float] = []
    step = training_run.train.__globals__["_learn"]

    def learning(trainee: Any, *rest: Any) -> float:
        rates.append(trainee.optimiser.param_groups[0]["lr"] / 0.01)
        return step(trainee, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.training.loop._learn", learning)
        run_training(patients, longer, out, TrainOptions(**options, resume=True))
    # Twelve added steps: two of warm-up (1/3, 2/3), the full rate to progress 6/12, then 1 - sqrt((k - 6) / 6) of .99.
    falling = [0.01 + 0.99 * (1 - (k / 6) ** 0.5) for k in range(1, 6)]
    assert rates == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1, 1, *falling])


def test_an_extended_run_replaces_the_model_only_by_a_better_one(patients, options, tmp_path, monkeypatch):
    given = iter([0.9, 0.5, 0.95])
    monkeypatch.setattr(run_files, "validate", lambda *_: [
        {"case": "x", "dice_WT": (d := next(given)), "tversky_WT": d, "accuracy_WT": d}])  # fmt: skip
    out = tmp_path / "out"
    every = {"validate_every": 4, **COOLDOWN}
    run_training(patients, write_recipe(tmp_path / "a.yaml", **every), out, TrainOptions(**options))
    first = (out / "model.safetensors").read_bytes()
    seen = []

    def on_step(done: int, total: int, loss: float) -> None:
        seen.append((done, (out / "model.safetensors").read_bytes() == first))

    longer = write_recipe(tmp_path / "b.yaml", epochs=8, **every)
    run_training(patients, longer, out, TrainOptions(**options, resume=True, on_step=on_step))
    assert seen[0][0] == 7 and all(same for _, same in seen)  # epoch 4 scored .5: below the finished run's .9
    assert open_checkpoint(out / "model.safetensors").card["scores"] == {"dice_WT": 0.95}


# ------------------------------------------------------------------------------------------------- it makes a soup


@pytest.mark.parametrize(("score", "kept"), [(0.8, True), (0.6, False)])
def test_the_average_of_the_latest_epochs_is_the_model_only_if_it_scores_better_than_the_best(
    score, kept, patients, options, tmp_path, monkeypatch
):
    given = iter([0.1, 0.6, 0.5, score])
    monkeypatch.setattr(run_files, "validate", lambda *_: [
        {"case": "x", "dice_WT": (d := next(given)), "tversky_WT": d, "accuracy_WT": d}])  # fmt: skip
    out = tmp_path / "out"
    settings = write_recipe(tmp_path / "r.yaml", epochs=3, validate_every=1, soup=2)
    run_training(patients, settings, out, TrainOptions(**options))
    parents = [out / "kept" / f"epoch_00000{epoch}.safetensors" for epoch in (2, 3)]
    assert sorted((out / "kept").glob("epoch_*")) == parents
    model = open_checkpoint(out / "model.safetensors")
    assert model.card["scores"] == {"dice_WT": max(score, 0.6)}
    assert ("soup" in model.card) is kept
    if kept:
        assert [each["sha256"] for each in model.card["soup"]] == [open_checkpoint(path).sha256 for path in parents]
        own, *others = (load_file(path) for path in (model.path, *parents))
        name = next(name for name, tensor in own.items() if tensor.is_floating_point())
        mean = (others[0][name].float() + others[1][name].float()) / 2
        torch.testing.assert_close(own[name], mean.half(), rtol=0, atol=0)
    before = {path.name: path.read_bytes() for path in out.glob("*.*")}
    given = iter([score])
    run_training(patients, settings, out, TrainOptions(**options, resume=True))
    assert {path.name: path.read_bytes() for path in out.glob("*.*")} == before


# ------------------------------------------------------------------------------------------------- what it refuses


def test_a_folder_that_holds_a_run_is_refused_without_resume(undisturbed, patients, recipe, options):
    before = (undisturbed / "state.safetensors").read_bytes()
    with pytest.raises(UsageError, match="holds a training run; go on with --resume"):
        run_training(patients, recipe, undisturbed, TrainOptions(**options))
    assert (undisturbed / "state.safetensors").read_bytes() == before


def test_a_run_of_an_earlier_version_is_not_written_over(patients, recipe, options, tmp_path):
    (tmp_path / "state.pt").write_bytes(b"old")
    with pytest.raises(UsageError, match="holds a training run of an earlier version"):
        run_training(patients, recipe, tmp_path, TrainOptions(**options, resume=True))
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_resume_refuses_another_recipe_or_split_or_further_cases_and_says_which(
    undisturbed, patients, recipe, options, tmp_path
):
    other = write_recipe(tmp_path / "other.yaml", learning_rate=0.02)
    for settings, changed, part in (
        (other, {}, r"another recipe \(training.learning_rate is 0.01 there, 0.02 here\)"),
        (recipe, {"fold": 1}, "another split"),
        (recipe, {"leave_out": [NAMES[3]]}, "another split"),
        (recipe, {"extra": [patients]}, "another list of further cases"),
    ):
        with pytest.raises(UsageError, match=part):
            run_training(patients, settings, undisturbed, TrainOptions(**options | changed, resume=True))


def test_more_minutes_without_an_epoch_to_spend_them_on_are_refused_with_the_fix(
    undisturbed, patients, recipe, options
):
    with pytest.raises(UsageError, match=r"its 4 epochs are over, so that --minutes 5.0 adds nothing; raise training"):
        run_training(patients, recipe, undisturbed, TrainOptions(**options, resume=True, minutes=5.0))


def test_a_damaged_state_is_an_error_that_names_it(undisturbed, patients, recipe, options, tmp_path):
    out = shutil.copytree(undisturbed, tmp_path / "out")
    (out / "state.safetensors").write_bytes((out / "state.safetensors").read_bytes()[:-200])
    with pytest.raises(Exception, match=r"state\.safetensors: cannot go on from it"):
        run_training(patients, recipe, out, TrainOptions(**options, resume=True))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"fold": "two"}, "--fold two: a number from 0, or all"),
        ({"fold": 2}, "--fold 2"),
        ({"folds": 9}, "--folds 9: there are only 4 patients"),
        ({"leave_out": ["nobody"]}, "--leave-out: no case nobody"),
        ({"minutes": -1.0}, "--minutes -1.0"),
        ({"device": "tpu"}, "--device tpu"),
    ],
)
def test_an_option_that_cannot_be_is_refused_before_anything_is_written(
    changed, sentence, patients, recipe, options, tmp_path
):
    with pytest.raises(UsageError, match=sentence):
        run_training(patients, recipe, tmp_path / "out", TrainOptions(**options | changed))
    assert not (tmp_path / "out").exists()


def test_a_loss_that_there_is_not_is_refused_before_anything_is_loaded(patients, options, tmp_path):
    settings = write_recipe(tmp_path / "r.yaml", loss={"name": "dize"})
    with pytest.raises(UsageError, match=r"training\.loss: unknown loss 'dize'"):
        run_training(patients, settings, tmp_path / "out", TrainOptions(**options))


def test_the_input_folder_is_no_output_but_a_folder_within_it_is(patients, options, tmp_path):
    root = shutil.copytree(patients, tmp_path / "in")
    settings = write_recipe(tmp_path / "r.yaml", epochs=1, steps_per_epoch=1)
    with pytest.raises(UsageError, match="is the input folder"):
        run_training(root, settings, root, TrainOptions(**options))
    (root / "out").mkdir()
    run_training(root, settings, root / "out", TrainOptions(**options | {"fold": "all"}))
    assert json.loads((root / "out" / "split.json").read_text())["train"] == NAMES


# --------------------------------------------------------------------------------------------- who is learnt from


def test_lesions_that_are_set_aside_are_validated_on_and_never_learnt_from(patients, options, tmp_path):
    cubes = tmp_path / "cubes"
    cubes.mkdir()
    for name in ("BraTS20_Training_001", "BraTS20_Training_002"):
        write_cube(cubes / f"{name}.npz")
    split = {"train": NAMES[1:], "validation": NAMES[:1], "set_aside": ["BraTS20_Training_002"]}
    (tmp_path / "s.json").write_text(json.dumps(split))
    settings = write_recipe(tmp_path / "r.yaml", epochs=1, sampling={"extra_share": 0.5})
    chosen = {**options, "split": tmp_path / "s.json", "extra": [str(cubes)]}
    run_training(patients, settings, tmp_path / "out", TrainOptions(**chosen))
    rows = pd.read_csv(tmp_path / "out" / "validation_lesions.csv")
    assert rows["case"].tolist() == ["BraTS20_Training_002"]
    (record,) = read_history(tmp_path / "out" / "history.csv")
    lesions = float(rows[["dice_WT", "dice_TC", "dice_ET"]].to_numpy().mean())
    assert record.lesion_dice == pytest.approx(lesions, rel=1e-5)
    patient = sum(value or 0.0 for value in record.dice.values()) / 3
    assert record.mean_dice == pytest.approx((patient + lesions) / 2, rel=1e-5)
    card = open_checkpoint(tmp_path / "out" / "model.safetensors").card
    assert set(card["learnt_from"]["cube"]) == {"BraTS20_Training_001"}
    assert "BraTS20_Training_002" in card["held_out"]


def test_lesions_that_are_set_aside_count_in_what_an_extended_run_and_an_average_have_to_beat(
    patients, options, tmp_path, monkeypatch
):
    # Of two epochs and their average; below, of three more and theirs.
    of_patients, of_lesions = iter([0.9, 0.9, 0.0]), iter([0.1, 0.1, 0.0])
    monkeypatch.setattr(run_files, "validate", lambda *_: [
        {"case": "x", "dice_WT": (d := next(of_patients)), "tversky_WT": d, "accuracy_WT": d}])  # fmt: skip
    monkeypatch.setattr(run_files, "validate_cubes", lambda *_: [{"case": "y", "dice_WT": next(of_lesions)}])
    cubes, out = tmp_path / "cubes", tmp_path / "out"
    cubes.mkdir()
    for name in ("BraTS20_Training_001", "BraTS20_Training_002"):
        write_cube(cubes / f"{name}.npz")
    split = {"train": NAMES[1:], "validation": NAMES[:1], "set_aside": ["BraTS20_Training_002"]}
    (tmp_path / "s.json").write_text(json.dumps(split))
    chosen = {**options, "split": tmp_path / "s.json", "extra": [str(cubes)], "resume": True}
    for epochs in (2, 5):
        settings = write_recipe(tmp_path / "r.yaml", epochs=epochs, validate_every=1, soup=2)
        run_training(patients, settings, out, TrainOptions(**chosen))
        if epochs == 2:
            assert open_checkpoint(out / "model.safetensors").card["scores"] == {"dice_WT": 0.9}
            of_patients, of_lesions = iter([0.1, 0.8, 0.7, 0.9]), iter([0.1, 0.4, 0.1, 0.5])
    # .8 and .4 beat .9 and .1, and .9 and .5 beat these.
    model = open_checkpoint(out / "model.safetensors")
    assert model.card["scores"] == {"dice_WT": 0.9} and "soup" in model.card
    assert pd.read_csv(out / "validation_lesions.csv")["dice_WT"].tolist() == [0.5]


@pytest.fixture
def learnt_from(monkeypatch) -> list[str]:
    """Names of the cases of the last run; nothing is computed."""
    seen: list[str] = []

    def no_training(trainee, dataset, *_: Any, **__: Any) -> None:
        seen[:] = sorted(case.name for pool, _ in dataset.pools for case in pool)

    monkeypatch.setattr(training_run, "train", no_training)
    return seen


def test_a_split_file_decides_who_is_learnt_from(patients, recipe, options, tmp_path, learnt_from):
    split = {"train": NAMES[2:], "validation": NAMES[:1], "test": NAMES[1:2]}
    (tmp_path / "s.json").write_text(json.dumps(split))
    run_training(patients, recipe, tmp_path / "a", TrainOptions(**options, split=tmp_path / "s.json"))
    assert learnt_from == NAMES[2:]
    run_training(
        patients, recipe, tmp_path / "b", TrainOptions(**options, split=tmp_path / "s.json", leave_out=[NAMES[3]])
    )
    assert learnt_from == NAMES[2:3]
    assert json.loads((tmp_path / "b" / "split.json").read_text()) == split | {"train": NAMES[2:3]}


def test_who_is_left_out_is_in_no_part_of_a_fold(patients, recipe, options, tmp_path, learnt_from):
    run_training(patients, recipe, tmp_path / "out", TrainOptions(**options, leave_out=NAMES[:1]))
    split = json.loads((tmp_path / "out" / "split.json").read_text())
    assert split == {"train": [NAMES[2]], "validation": [NAMES[1], NAMES[3]], "test": []}
    assert learnt_from == [NAMES[2]]


def test_the_log_says_which_kind_a_further_folder_is_taken_for(
    patients, recipe, options, tmp_path, learnt_from, caplog
):
    both = tmp_path / "both"
    write_phantom(both, 7, shape=(30, 30, 20), spacing_mm=(8.0, 8.0, 8.0))
    write_cube(both / "BraTS20_Training_001.npz")
    with caplog.at_level("INFO"):
        run_training(patients, recipe, tmp_path / "out", TrainOptions(**options, extra=[str(both)]))
    assert "BraTS20_Training_001" not in learnt_from  # the recipe's extra_share is 0
    assert f"{both}: 1 cases of kind cube" in caplog.text


def test_further_folders_add_cases_but_never_one_of_a_patient_that_is_held_back(
    patients, options, tmp_path, learnt_from
):
    extra = tmp_path / "extra"
    for name in (NAMES[0], NAMES[1]):
        shutil.copytree(patients / name, extra / name)
    again = NAMES[2].removesuffix("-000") + "-001"  # another time point of a patient that is validated on
    write_phantom(extra, 5, shape=(30, 30, 20), spacing_mm=(8.0, 8.0, 8.0))
    write_phantom(extra, 6, shape=(30, 30, 20), spacing_mm=(8.0, 8.0, 8.0), patient_name=again)
    settings = write_recipe(tmp_path / "r.yaml", sampling={"extra_share": 0.5})
    run_training(patients, settings, tmp_path / "out", TrainOptions(**options, extra=[extra]))
    assert learnt_from == sorted([*FOLD_0[0], NAMES[1], "BraTS-GLI-90005-000"])
    left_out = TrainOptions(**options, extra=[extra], leave_out=["BraTS-GLI-90005-000"])
    run_training(patients, settings, tmp_path / "other", left_out)
    assert learnt_from == sorted([*FOLD_0[0], NAMES[1]])


def test_a_patient_is_held_back_and_left_out_under_all_its_names(patients, options, tmp_path, learnt_from):
    root = tmp_path / "in"
    for name, source in zip(("BraTS2021_01476", "BraTS2021_01477", "BraTS2021_01478"), NAMES, strict=False):
        shutil.copytree(patients / source, root / name)  # a case is called as its folder
    extra = tmp_path / "extra"
    for name in ("BraTS20_Training_271", "BraTS20_Training_272", "BraTS20_Training_280"):
        shutil.copytree(patients / NAMES[3], extra / name)
    split = {"train": ["BraTS2021_01477", "BraTS2021_01478"], "validation": ["BraTS2021_01476"]}
    (tmp_path / "s.json").write_text(json.dumps(split | {"set_aside": ["BraTS20_Training_280"]}))
    settings = write_recipe(tmp_path / "r.yaml", sampling={"extra_share": 0.5})
    run = TrainOptions(**options, split=tmp_path / "s.json", extra=[extra])
    run_training(root, settings, tmp_path / "a", run)
    assert learnt_from == ["BraTS2021_01477", "BraTS2021_01478", "BraTS20_Training_272"]
    run_training(root, settings, tmp_path / "b", replace(run, leave_out=["BraTS2021_01477"]))
    assert learnt_from == ["BraTS2021_01478"]


def test_a_model_that_goes_on_from_another_has_learnt_from_its_patients_too(
    undisturbed, patients, recipe, options, tmp_path, monkeypatch
):
    cards = []
    monkeypatch.setattr(training_run, "train", lambda *_, keep, **__: cards.append(keep.__self__.card))
    init = undisturbed / "model.safetensors"
    run_training(patients, recipe, tmp_path / "a", TrainOptions(**options | {"fold": 1}, init=str(init)))
    (card,) = cards
    assert card["parents"] == [{"name": "model", "sha256": open_checkpoint(init).sha256}]
    assert list(card["learnt_from"]["patient"]) == sorted([*FOLD_0[0], *FOLD_0[1]])


def test_a_validation_patient_without_a_modality_is_refused_at_once_unless_the_recipe_trains_for_it(
    patients, recipe, options, tmp_path, learnt_from
):
    root = shutil.copytree(patients, tmp_path / "in")
    next((root / NAMES[0]).glob("*t1c*")).unlink()
    with pytest.raises(InputError, match=f"{NAMES[0]}: no t1c image to validate with; leave it out"):
        run_training(root, recipe, tmp_path / "out", TrainOptions(**options))
    settings = yaml.safe_load(Path(recipe).read_text()) | {"augment": {"missing_modality": 0.2}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(settings))
    run_training(root, str(tmp_path / "r.yaml"), tmp_path / "out", TrainOptions(**options))
    assert learnt_from == FOLD_0[0]


# ------------------------------------------------------------------------------------------------- label conventions


@pytest.fixture(scope="module")
def binary(folder, patients) -> Path:
    """The patients under names that tell no convention, with masks in which 1 is the whole tumour."""
    for number, name in enumerate(NAMES, 1):
        own = folder / "binary" / f"p{number}"
        own.mkdir(parents=True)
        for modality in ("t1n", "t1c", "t2w", "t2f"):
            shutil.copy(next((patients / name).glob(f"*{modality}*")), own / f"p{number}_{modality}.nii.gz")
        mask = nib.load(next((patients / name).glob("*seg*")))
        nib.save(
            nib.Nifti1Image((np.asarray(mask.dataobj) > 0).astype(np.uint8), mask.affine), own / f"p{number}_seg.nii.gz"
        )
    return folder / "binary"


@pytest.fixture(scope="module")
def whole_recipe(folder, recipe) -> str:
    settings = yaml.safe_load(Path(recipe).read_text()) | {"regions": ["WT"]}
    settings["network"]["out_channels"], settings["training"]["epochs"] = 1, 2
    (folder / "whole.yaml").write_text(yaml.safe_dump(settings))
    return str(folder / "whole.yaml")


def test_binary_masks_are_learnt_from_in_the_convention_that_is_named_and_the_model_writes_it(
    binary, whole_recipe, options, tmp_path
):
    named = TrainOptions(**options, convention="whole-tumour")
    model = open_checkpoint(run_training(binary, whole_recipe, tmp_path / "out", named))
    assert model.config.convention == "whole-tumour" and set(model.card["scores"]) == {"dice_WT"}
    (case,) = [case for case in discover_cases(binary) if case.case_id == "p1"]
    assert set(np.unique(Predictor(model, "cpu")(case).label_map)) <= {0, 1}
    with pytest.raises(UsageError, match=r"another label convention \(whole-tumour there, brats2017 here\)"):
        run_training(binary, whole_recipe, tmp_path / "out", replace(named, convention="brats2017", resume=True))
    run_training(binary, whole_recipe, tmp_path / "out", replace(named, resume=True))


def test_a_run_of_an_earlier_version_goes_on_in_the_conventions_that_are_recognised(
    undisturbed, patients, recipe, options, tmp_path
):
    shutil.copytree(undisturbed, tmp_path / "out")
    state = load_state(tmp_path / "out" / "state.safetensors")
    assert state.pop("label convention") == "recognised"
    save_state(tmp_path / "out" / "state.safetensors", state)
    run_training(patients, recipe, tmp_path / "out", TrainOptions(**options, resume=True))
    with pytest.raises(UsageError, match=r"recognised there, brats2023 here"):
        run_training(patients, recipe, tmp_path / "out", TrainOptions(**options, convention="brats2023", resume=True))


def test_a_region_that_only_synthetic_patients_tell_is_learnt_and_has_no_score(binary, options, tmp_path, caplog):
    settings = write_recipe(tmp_path / "r.yaml", epochs=2, sampling={"phantom_share": 0.5, "phantoms": 1})
    named = TrainOptions(**options, convention="whole-tumour")
    model = open_checkpoint(run_training(binary, settings, tmp_path / "out", named))
    assert model.config.convention == "brats2023"  # which has a label for every region
    assert "does not tell TC, ET: unknown in the references, and the model writes brats2023" in caplog.text
    rows = pd.read_csv(tmp_path / "out" / "validation.csv")
    assert list(rows["case"]) == ["p1", "p3"] and rows["dice_WT"].notna().all()
    assert not {f"{name}_{region}" for name in ("dice", "tversky", "accuracy") for region in ("TC", "ET")} & set(rows)
    assert set(model.card["scores"]) == {"dice_WT"}
    records = read_history(tmp_path / "out" / "history.csv")
    assert set(records[-1].dice) == {"WT"} and records[-1].mean_dice == pytest.approx(rows["dice_WT"].mean(), rel=1e-5)
    assert records[-1].val_loss is not None and np.isfinite([record.loss for record in records]).all()


def test_a_region_that_no_case_tells_is_refused_with_the_fix_unless_the_first_weights_know_it(
    undisturbed, binary, recipe, options, tmp_path, learnt_from, caplog
):
    named = TrainOptions(**options, convention="whole-tumour")
    with pytest.raises(UsageError, match="no case tells TC, ET, .*leave TC, ET out of the recipe's regions .*--extra"):
        run_training(binary, recipe, tmp_path / "out", named)
    assert learnt_from == []
    run_training(binary, recipe, tmp_path / "on", replace(named, init=str(undisturbed / "model.safetensors")))
    assert learnt_from == ["p2", "p4"] and "no case tells TC, ET: only the weights of --init know them" in caplog.text


def test_a_region_that_no_case_has_though_the_convention_tells_it_is_said_before_it_is_learnt(
    binary, recipe, options, tmp_path, caplog
):
    # 1 is the necrotic core in brats2023: such masks have WT and TC, and an enhancing part nowhere.
    run_training(binary, recipe, tmp_path / "out", TrainOptions(**options, convention="brats2023"))
    assert "no case has any ET, though the label convention tells it" in caplog.text


def test_a_convention_that_tells_no_region_of_the_recipe_is_refused_before_anything_is_written(
    binary, whole_recipe, options, tmp_path
):
    for convention, error, sentence in (
        (
            "brats2024-men-rt",
            UsageError,
            r"tells none of the regions of the recipe tiny \(WT\); name another, or take .* TC",
        ),
        ("nonsense", ConventionError, "no label convention 'nonsense': choose among .*whole-tumour"),
    ):
        with pytest.raises(error, match=sentence):
            run_training(binary, whole_recipe, tmp_path / "out", TrainOptions(**options, convention=convention))
    assert not (tmp_path / "out").exists()


def test_a_further_folder_of_patients_has_a_convention_of_its_own(patients, binary, options, tmp_path, learnt_from):
    settings = write_recipe(tmp_path / "r.yaml", sampling={"extra_share": 0.5})
    # Zeros and ones are the whole tumour, also where nothing names the convention.
    run_training(patients, settings, tmp_path / "a", TrainOptions(**options, extra=[str(binary)]))
    assert learnt_from == [*FOLD_0[0], "p1", "p2", "p3", "p4"]
    named = TrainOptions(**options, extra=[f"{binary}:patient:whole-tumour"])
    run_training(patients, settings, tmp_path / "b", named)
    assert learnt_from == [*FOLD_0[0], "p1", "p2", "p3", "p4"]
    further = plan.further_cases(named.extra, [])
    identity = run_identity(load_recipe(settings), Split((), ()), further, named)
    assert identity["label convention"] == "recognised, binary whole-tumour"


# ---------------------------------------------------------------------------------------------------- where it begins


def test_init_takes_what_fits_of_a_model_of_other_regions_and_the_rest_from_the_seed(
    undisturbed, patients, recipe, options, tmp_path, monkeypatch
):
    trainees = []
    monkeypatch.setattr(training_run, "train", lambda trainee, *_, **__: trainees.append(trainee))
    settings = yaml.safe_load(Path(recipe).read_text())
    settings["regions"], settings["network"]["out_channels"] = ["WT", "TC"], 2
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(settings))
    init = str(undisturbed / "model.safetensors")
    for name in ("a", "b"):
        torch.rand(3)
        run_training(patients, str(tmp_path / "two.yaml"), tmp_path / name, TrainOptions(**options, init=init))
    given = load_file(init)
    first, second = (trainee.network.state_dict() for trainee in trainees)
    fitting = [name for name in first if first[name].shape == given[name].shape]
    assert 0 < len(fitting) < len(first)
    assert all(torch.equal(first[name], given[name].to(first[name].dtype)) for name in fitting)
    assert all(torch.equal(first[name], second[name]) for name in first)
