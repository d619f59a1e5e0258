"""The command line for a person and for a program: names that are nearly right, values, progress, JSON and logs."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from types import MethodType, SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import run_pipeline
from data.errors import UsageError
from data.find.discover import discover_cases
from data.labels import CONVENTIONS
from pipeline.checkpoint import shipped_models
from pipeline.commands.options import line_that_goes_on
from pipeline.commands.parser import parse
from pipeline.commands.terminal.lines import counted, validation_lines
from pipeline.config import load_recipe
from pipeline.execute import interruption
from pipeline.recipe_file import recipe_names
from pipeline.score.lesionwise import LESIONWISE
from pipeline.score.tables import csv_line

ROOT = Path(__file__).resolve().parent.parent
FIRST, SECOND = "BraTS-GLI-90001-000", "BraTS-GLI-90002-000"


def call(*arguments: object) -> int:
    return run_pipeline.main([str(a) for a in arguments])


# ---- names that are nearly right ----


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (("segmnt", "in"), "no command 'segmnt' (did you mean segment?)"),
        (("evaluat", "a", "b"), "no command 'evaluat' (did you mean evaluate?)"),
        (("segment", "in", "--out", "x"), "segment has no option --out (did you mean --output?)"),
        (("segment", "in", "-o", "x", "--models", "m"), "segment has no option --models (did you mean --model?)"),
        (("train", "in", "-o", "x", "--recipe", "demo", "--minuts=3"), "no option --minuts (did you mean --minutes?)"),
        (("evaluate", "a", "b", "-o", "x", "--no_resampel"), "no option --no-resampel (did you mean --no-resample?)"),
        (("evaluate", "a", "b", "-o", "x", "--qqqq"), "evaluate has no option --qqqq; `run_pipeline.py evaluate"),
        (("train", "in", "-o", "x", "--recipe", "demmo"), "no recipe 'demmo' (did you mean demo?)"),
        (("inspect", "-i"), "-i: give a folder behind it"),
    ],
)
def test_a_name_that_is_nearly_right_is_answered_with_the_right_one(arguments, meant, capsys):
    assert call(*arguments) == 2
    said = capsys.readouterr().err
    assert meant in said and said.startswith("run_pipeline.py: ") and said.count("\n") == 1


def test_a_key_of_a_recipe_that_is_nearly_right_is_answered_with_the_right_one(tmp_path):
    recipe = (ROOT / "pipeline" / "recipes" / "demo.yaml").read_text()
    (tmp_path / "a.yaml").write_text(recipe.replace("\nwindow:", "\nwindw:"))
    with pytest.raises(UsageError, match=r"windw: unknown key \(did you mean window\?\)"):
        load_recipe(str(tmp_path / "a.yaml"))
    (tmp_path / "b.yaml").write_text(recipe + "\nlearning_rate: 1\n")
    with pytest.raises(UsageError, match=r"unknown key \(did you mean training\.learning_rate\?\)"):
        load_recipe(str(tmp_path / "b.yaml"))


def test_what_is_misspelt_is_said_before_anything_is_imported_that_takes_seconds(phantoms, tmp_path):
    out = str(tmp_path / "out")
    wrong = [["segment", str(phantoms), "-o", out, *more] for more in (
        ["--model", "brats"], ["--device", "gpu"], ["--executor", "threads"], ["--convention", "brats"])]  # fmt: skip
    wrong += [["train", str(phantoms), "-o", out, "--recipe", "demmo"]]
    wrong += [["train", str(phantoms), "-o", out, "--recipe", "demo", "--init", "brats"]]
    code = f"import sys, run_pipeline; print([run_pipeline.main(a) for a in {wrong}], 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f"{[2] * len(wrong)} False\n" and not Path(out).exists()


# ---- inputs, values ----


@pytest.mark.parametrize("given", [["-i", "IN"], ["--input", "IN"], ["--input=IN"]])
def test_the_folder_may_be_given_by_name_anywhere(given):
    for rest in (["segment", "-o", "OUT", "--cases", "a", "b"], ["train", "--recipe", "demo", "-o", "OUT"]):
        command = parse([*rest, *given])
        assert (command.input, command.output) == (Path("IN"), Path("OUT"))
    assert parse(["inspect", *given, "--full"]) == parse(["inspect", "IN", "--full"])


def help_of(command: str, capsys) -> str:
    with pytest.raises(SystemExit):
        call(command, "--help")
    return re.sub(r"[│\s]+", " ", capsys.readouterr().out)


def test_the_help_lists_every_value_that_is_shipped(capsys):
    segment, train, evaluate = (help_of(command, capsys) for command in ("segment", "train", "evaluate"))
    assert [name for name in CONVENTIONS if not all(f"{name}" in text for text in (segment, train, evaluate))] == []
    assert [model.name for model in shipped_models() if model.name not in segment] == []
    assert [name for name in recipe_names() if name not in train] == []
    assert [name for name in LESIONWISE if name not in evaluate] == []
    assert "PREDICTIONS REFERENCES" in evaluate and "] INPUT" in segment


def test_the_models_say_which_is_the_default(capsys):
    assert call("models", "--json") == 0
    uses = {model["name"]: model["default_for"] for model in json.loads(capsys.readouterr().out)}
    assert sorted(use for those in uses.values() for use in those) == ["skull-stripped images", "whole-head images"]
    assert uses["brats-cascade-2d"] == ["skull-stripped images"]
    call("models")
    assert "default for skull-stripped images" in capsys.readouterr().out


def test_a_level_that_no_model_of_the_cases_has_stops_before_anything_is_written(phantoms, tmp_path, capsys):
    assert call("segment", phantoms, "-o", tmp_path / "out", "--level", 2) == 2
    assert "--level 2: brats-cascade-2d is no UNet++" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# ---- a run ----


@pytest.fixture(scope="module")
def told(phantoms, tiny_model, tmp_path_factory):
    """Output folder of a run with --json, and what stood on standard output of it and of the same run again."""
    root = tmp_path_factory.mktemp("told")
    command = [sys.executable, "run_pipeline.py", "segment", phantoms, "-o", root / "out", "--model", tiny_model]
    arguments, log = [str(each) for each in command[2:]], str(root / "log")
    code = f"import run_pipeline as r; a={arguments!r}; r.main([*a, '--json', '--log-file', {log!r}])"
    both = [subprocess.run([sys.executable, "-c", code + more], cwd=ROOT, capture_output=True, text=True)
            for more in ("; r.main([*a, '--json']); r.main(a)",)]  # fmt: skip
    assert both[0].returncode == 0, both[0].stderr
    return root, both[0].stdout.splitlines()


def test_json_is_one_object_a_case_and_nothing_else_and_done_cases_are_called_so(told):
    root, lines = told
    first, again = (list(map(json.loads, part)) for part in (lines[:2], lines[2:4]))
    assert [row["case"] for row in first] == [row["case"] for row in again] == [FIRST, SECOND]
    assert [row["already_done"] for row in (*first, *again)] == [False, False, True, True]
    table = pd.read_csv(root / "out" / "report.csv")
    assert [row["status"] for row in first] == list(table["status"])
    np.testing.assert_allclose([row["dice_WT"] for row in first], table["dice_WT"], rtol=1e-5)
    assert all(Path(row["mask"]).is_file() for row in first)
    assert lines[4:6] == [f"[1/2] {FIRST}: ok (already done)", f"[2/2] {SECOND}: ok (already done)"]


def test_the_log_file_tells_command_and_cases_with_times(told):
    root, _ = told
    lines = (root / "log").read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (INFO|WARNING) ", line) for line in lines)
    assert any(f"{FIRST}: ok" in line for line in lines)


def test_numbers_in_tables_have_six_digits_and_the_state_keeps_all(told):
    root, _ = told
    cells = [c for line in (root / "out" / "metrics.csv").read_text().splitlines()[1:] for c in line.split(",")]
    fractions = [cell for cell in cells if re.fullmatch(r"-?\d+\.\d+(e-?\d+)?", cell)]
    assert len(fractions) > 20
    assert [
        c for c in fractions if len(c.split("e")[0].replace(".", "").lstrip("-0")) > 6 and not c.endswith(".0")
    ] == []
    state = json.loads((root / "out" / ".state" / f"{FIRST}.json").read_text())
    assert any(len(repr(value)) > 12 for value in state["row"].values() if isinstance(value, float))


@pytest.mark.parametrize(
    ("value", "cell"),
    [(1 / 3, "0.333333"), (123456.789, "123457.0"), (12345678.0, "12345678.0"), (1 / 3e7, "3.33333e-08"), (5, "5"),
     (-2 / 3, "-0.666667"), (math.inf, "inf"), (math.nan, ""), (np.float32(0.1), "0.1"), (True, "True")],
)  # fmt: skip
def test_a_fraction_is_rounded_and_a_whole_number_is_not(value, cell):
    assert csv_line([value]) == f"{cell}\n"


def test_cases_leaves_the_rows_of_the_others_as_they_are(told, phantoms, tiny_model, tmp_path, capsys):
    import shutil

    patients, out = shutil.copytree(phantoms, tmp_path / "in"), tmp_path / "out"
    (patients / "empty").mkdir()
    assert call("segment", patients, "-o", out, "--model", tiny_model, "--quiet") == 1
    before = pd.read_csv(out / "report.csv").set_index("case")
    capsys.readouterr()
    assert call("segment", patients, "-o", out, "--model", tiny_model, "--cases", SECOND, "--overwrite") == 0
    assert "1 patient: 1 ok" in capsys.readouterr().out
    after = pd.read_csv(out / "report.csv").set_index("case")
    assert list(after.index) == list(before.index) and set(after.index) == {FIRST, SECOND, "empty"}
    pd.testing.assert_series_equal(after.loc[FIRST], before.loc[FIRST])
    assert after.loc["empty", "reason"] == before.loc["empty", "reason"]
    assert set(pd.read_csv(out / "metrics.csv")["case"]) == {FIRST, SECOND}


@pytest.mark.parametrize(("statuses", "line"), [(["ok"], "1 patient: 1 ok, 0 warn, 0 error"),
                                                ([], "0 patients: 0 ok, 0 warn, 0 error")])  # fmt: skip
def test_one_patient_is_no_plural(statuses, line):
    assert counted(statuses) == line


# ---- recipes, training ----


def test_recipes_are_listed_and_described_with_every_key(capsys):
    assert call("recipes") == 0
    listed = capsys.readouterr().out
    assert [name for name in recipe_names() if f"{name}: " not in listed] == []
    assert call("recipes", "demo", "--json") == 0
    keys = {entry["key"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert keys["training.learning_rate"]["default"] == "0.001" and keys["network.spatial_dims"]["value"] == 2
    assert "Highest rate of AdamW" in keys["training.learning_rate"]["meaning"]
    assert keys["modalities"]["value"] == ["t1", "t1c", "t2", "flair"] and len(keys) > 80
    assert call("recipes", "demmo") == 2


def test_set_changes_a_key_and_is_checked_as_the_recipe_is():
    config = load_recipe(
        "demo", ["training.learning_rate=0.003", "augment.flip_axes=[0]", "training.loss.name=dice_ce"]
    )
    assert (config.training.learning_rate, config.augment.flip_axes) == (0.003, (0,))
    assert config.training.batch == load_recipe("demo").training.batch
    for change, fault in [
        ("training.learnin_rate=1", r"unknown key \(did you mean learning_rate\?\)"),
        ("training.epochs=0", "training.epochs: .*greater than or equal to 1"),
        ("training.epochs", "give KEY=VALUE"),
        ("name.first=1", "name holds no further keys"),
        ("training.epochs=[", "no value of YAML"),
    ]:
        with pytest.raises(UsageError, match=fault):
            load_recipe("demo", [change])


def test_set_may_be_given_again():
    command = parse(["train", "IN", "-o", "OUT", "--recipe", "demo", "--set", "a=1", "--set", "b=2"])
    assert tuple(command.changes) == ("a=1", "b=2")


def test_an_epoch_says_how_many_there_are_and_how_long_they_take():
    from pipeline.training.loop import _sentence
    from pipeline.training.progress.history import EpochRecord
    from pipeline.training.progress.trainee import Trainee

    training = load_recipe("demo", ["training.epochs=60", "training.steps_per_epoch=10"]).training
    trainee = SimpleNamespace(records=[EpochRecord(3, 30, 6.0, 0.001, 0.5)], origin={"step": 0, "minutes": 0.0})
    trainee.progress = MethodType(Trainee.progress, trainee)
    # 3 of 60 epochs took 6 minutes: 57 are left, at 2 minutes each
    assert _sentence(trainee, training) == "epoch 3 of 60, step 30, 6.0 min, about 114.0 min left, loss 0.5000"


def test_the_last_lines_of_a_training_are_its_scores(tmp_path):
    table = tmp_path / "validation.csv"
    table.write_text("case,dice_WT,hd95_mm_WT,dice_ET,hd95_mm_ET\na,0.8,4.0,0.5,\nb,0.6,374.0,,\n")
    assert list(validation_lines(table)) == [
        f"validation: 2 patients, {table}",
        "  WT: mean Dice 0.700, HD95 189.0 mm",
        "  ET: mean Dice 0.500",
    ]


def test_a_stopped_run_says_the_command_that_goes_on(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/x/run-pipeline", "train", "a b", "--recipe", "demo", "-o", "OUT"])
    line = line_that_goes_on(parse(["train", "a b", "--recipe", "demo", "-o", "OUT"]))
    assert line == "/x/run-pipeline train 'a b' --recipe demo -o OUT --resume"
    monkeypatch.setattr("sys.argv", ["/x/run_pipeline.py", "segment", "IN", "-o", "OUT", "--overwrite"])
    assert (
        line_that_goes_on(parse(["segment", "IN", "-o", "OUT"]))
        == f"{sys.executable} /x/run_pipeline.py segment IN -o OUT"
    )
    assert line_that_goes_on(parse(["models"])) == ""
    monkeypatch.setattr(interruption, "_line_that_goes_on", "go --on")
    assert interruption.sentence(KeyboardInterrupt()).endswith("what is finished is kept, go on with: go --on")


# ---- the library ----


def test_a_predictor_takes_paths_or_arrays_and_saves_what_segment_writes(told, phantoms, tiny_model, tmp_path):
    from pipeline import Predictor

    root, _ = told
    (case,) = (case for case in discover_cases(phantoms) if case.case_id == FIRST)
    predictor = Predictor(tiny_model, "cpu")
    paths = {modality: source.paths[0] for modality, source in case.images.items()}
    images = {modality: nib.load(path) for modality, path in paths.items()}
    by_path = predictor(paths, name=FIRST)
    arrays = {modality: np.asarray(image.dataobj) for modality, image in images.items()}
    by_array = predictor(arrays, affine=images["t1c"].affine, name=FIRST)
    np.testing.assert_array_equal(by_array.label_map, by_path.label_map)
    np.testing.assert_allclose(by_array.native.grid.affine, images["t1c"].affine)
    mask = by_path.save(tmp_path)
    written = root / "out" / FIRST / f"{FIRST}_seg.nii.gz"
    assert mask == tmp_path / FIRST / written.name and mask.read_bytes() == written.read_bytes()
    assert {path.name for path in (tmp_path / FIRST).iterdir()} == {path.name for path in written.parent.iterdir()}
    assert (tmp_path / "labels.txt").read_bytes() == (root / "out" / "labels.txt").read_bytes()


@pytest.mark.parametrize(
    ("images", "affine", "fault"),
    [
        ({"t1w": np.zeros((2, 2, 2))}, np.eye(4), "no modality 't1w'"),
        ({"t1": np.zeros((2, 2, 2))}, None, "t1 is an array and needs affine="),
        ({"t1": np.zeros((2, 2))}, np.eye(4), "t1 has 2 dimensions"),
    ],
)
def test_images_that_cannot_be_are_refused(images, affine, fault):
    from pipeline.predict.given_images import given_case

    with pytest.raises(UsageError, match=fault), given_case(images, affine, "a"):
        pass
