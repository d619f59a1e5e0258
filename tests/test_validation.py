"""Validation: the references that it accepts, and scores that do not depend on how a reference is stored."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from data.case import Case
from data.errors import InputError
from data.find.discover import discover_cases
from data.phantom.patient import write_phantom
from networks import build_network
from pipeline.checkpoint import save_checkpoint
from pipeline.config import RunConfig, load_recipe
from pipeline.predict.predictor import Predictor
from pipeline.training.distributed import Process
from pipeline.training.validation import mean_scores, references, validate
from tests.conftest import read_mask
from tests.test_training_run import write_recipe

ALONE = Process(0, 1, torch.device("cpu"))
NAME = "BraTS-GLI-90001-000"


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> RunConfig:
    return load_recipe(write_recipe(tmp_path_factory.mktemp("recipe") / "r.yaml"))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("patients")
    write_phantom(folder, 1, shape=(30, 30, 20), spacing_mm=(8.0, 8.0, 8.0))
    return folder


@pytest.fixture(scope="module")
def model(config, tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    save_checkpoint(path, build_network(config.network).eval(), config, {})
    return path


def reference_of(root: Path) -> Path:
    return next((root / NAME).glob("*seg*"))


def test_the_scores_are_those_of_the_predictors_masks(root, model, config):
    (case,) = discover_cases(root)
    (row,) = validate(model, references([case], config), ALONE)
    predicted = Predictor(model, "cpu")(case).masks["WT"]
    truth = read_mask(reference_of(root)) > 0
    assert row["case"] == NAME and truth.any() and predicted.any()
    assert row["dice_WT"] == pytest.approx(2 * (predicted & truth).sum() / (predicted.sum() + truth.sum()))
    assert row["accuracy_WT"] == pytest.approx((predicted == truth).mean())


def test_a_reference_stored_along_other_axes_gives_the_same_scores(root, model, config, tmp_path):
    turned = shutil.copytree(root, tmp_path / "turned")
    path = reference_of(turned)
    flip = np.array([[0, -1], [1, 1], [2, -1]])
    nib.save(nib.load(path).as_reoriented(flip), path)
    rows = [validate(model, references(discover_cases(r), config), ALONE) for r in (root, turned)]
    assert rows[0] == rows[1]


def test_a_reference_on_another_grid_is_an_error_that_names_the_patient(root, model, config, tmp_path):
    moved = shutil.copytree(root, tmp_path / "moved")
    path = reference_of(moved)
    image = nib.load(path)
    nib.save(image.slicer[:-2], path)
    with pytest.raises(InputError, match=f"{NAME}: .*seg.* lies on another grid"):
        validate(model, references(discover_cases(moved), config), ALONE)


def without_reference(case: Case) -> Case:
    return replace(case, reference=None)


def broken(case: Case) -> Case:
    return replace(case, problems=("two files are its t1",))


def told_nothing(case: Case) -> Case:
    return replace(case, conventions=("lgg",))


def test_a_case_that_cannot_be_scored_is_refused_before_training(root, config):
    (case,) = discover_cases(root)
    core_only = config.model_copy(update={"regions": ("TC", "ET")})
    for changed, wanted, sentence in (
        (without_reference, config, "no reference mask to score against"),
        (broken, config, "two files are its t1"),
        (told_nothing, core_only, r"its labels \(lgg\) tell none of the recipe's regions \(TC, ET\)"),
    ):
        with pytest.raises(InputError, match=f"{NAME}: {sentence}; leave it out"):
            references([changed(case)], wanted)
    assert references([], config) == []


def test_the_mean_of_a_region_is_over_the_patients_whose_reference_tells_it():
    rows = [{"case": "a", "dice_WT": 0.8, "dice_TC": 0.5}, {"case": "b", "dice_WT": 0.6}]
    assert mean_scores(rows, "dice", ["WT", "TC", "ET"]) == pytest.approx({"WT": 0.7, "TC": 0.5})
