"""Two processes on gloo learn and validate as one does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from data.errors import UsageError
from data.phantom.patient import write_phantom
from pipeline.options import TrainOptions
from pipeline.training.distributed import Process, joined
from pipeline.training.options import check_batch
from pipeline.training.run import run_training
from tests.conftest import read_history
from tests.test_training_run import ROOT, write_recipe


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path]:
    """Output folders of one process and of two.

    Cross-entropy of fully known references is a mean over voxels, so the mean of two halves of a batch is that of the
    whole; instance norm sees one sample at a time. So both runs compute the same, but for rounding: that of float32,
    for bfloat16's is coarse enough to move a voxel over the threshold.
    """
    folder = tmp_path_factory.mktemp("distributed")
    for seed in (1, 2, 3, 4, 5):
        write_phantom(folder / "patients", seed, shape=(30, 30, 20), spacing_mm=(8.0, 8.0, 8.0))
    training = {"loss": {"name": "bce"}, "batch": 4, "epochs": 2, "steps_per_epoch": 2, "cpu_precision": "float32"}
    recipe = Path(write_recipe(folder / "r.yaml", **training))
    settings = yaml.safe_load(recipe.read_text())
    settings["network"] |= {"norm": "instance", "dropout": 0.0}
    recipe.write_text(yaml.safe_dump(settings))
    options = TrainOptions(device="cpu", folds=2, cache=folder / "cache one")
    run_training(folder / "patients", str(recipe), folder / "one", options)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "run_pipeline.py",
    ]
    command += ["train", folder / "patients", "--recipe", recipe, "--output", folder / "two", "--device", "cpu"]
    command += ["--folds", "2", "--cache", folder / "cache two"]
    done = subprocess.run(
        [str(a) for a in command], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("model: ") == 1  # only one of them speaks
    assert done.stderr.count("epoch 1 of 2, step 2") == 1
    return folder / "one", folder / "two"


def test_two_processes_have_the_losses_of_one(runs):
    one, two = (read_history(folder / "history.csv") for folder in runs)
    assert [r.step for r in one] == [r.step for r in two] == [2, 4]
    np.testing.assert_allclose([r.loss for r in two], [r.loss for r in one], rtol=1e-5)


def test_two_processes_validate_as_one_and_keep_the_patients_in_order(runs):
    one, two = (pd.read_csv(folder / "validation.csv") for folder in runs)
    assert list(two["case"]) == list(one["case"]) == [f"BraTS-GLI-9000{seed}-000" for seed in (1, 3, 5)]
    pd.testing.assert_frame_equal(two, one, atol=0.01, rtol=0)


def test_alone_a_process_leads_shares_with_nobody_and_waits_for_nobody():
    with joined("cpu") as process:
        assert process == Process(0, 1, torch.device("cpu")) and process.leads
        assert process.gathered(process.share([1, 2, 3])) == [1, 2, 3]
        assert process.from_leader("x") == "x" and process.mean(0.25) == 0.25
        with process.leader_first():
            pass


def test_the_shares_of_all_processes_are_the_whole():
    shares = [Process(rank, 3, torch.device("cpu")).share(list("abcdefgh")) for rank in range(3)]
    assert shares == [list("adg"), list("beh"), list("cf")]


def test_a_batch_that_cannot_be_dealt_evenly_is_refused(tmp_path):
    from pipeline.config import load_recipe

    config = load_recipe(write_recipe(tmp_path / "r.yaml", batch=4))
    with pytest.raises(UsageError, match=r"training\.batch 4 cannot be dealt to 3 processes"):
        check_batch(config, Process(0, 3, torch.device("cpu")))
