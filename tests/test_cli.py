"""The command line, as a user types it: what it prints, writes, and returns."""

from __future__ import annotations

import ast
import inspect
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import run_pipeline
from pipeline.checkpoint import open_checkpoint
from pipeline.commands.segment import Segment
from pipeline.commands.serve import Serve
from pipeline.commands.train import Train
from pipeline.execute.lock import output_lock
from pipeline.options import SegmentOptions, TrainOptions
from pipeline.segment.shards import Shard
from pipeline.training.sources.kinds import SOURCES
from pipeline.web.settings import Settings
from tests.conftest import make_model, read_mask

ROOT = Path(__file__).resolve().parent.parent
FIRST, SECOND = "BraTS-GLI-90001-000", "BraTS-GLI-90002-000"


def call(*arguments: object) -> int:
    return run_pipeline.main([str(a) for a in arguments])


def test_help_answers_at_once_and_loads_no_torch():
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "run_pipeline.py", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0
    for command in ("inspect", "segment", "merge", "evaluate", "train", "models", "demo"):
        assert command in done.stdout
    assert "torch" not in done.stderr and "monai" not in done.stderr
    assert time.perf_counter() - start < 10  # 0.5 s on an idle machine


def test_inspect_lists_what_there_is_and_why(phantoms, capsys):
    assert call("inspect", phantoms) == 0
    said = capsys.readouterr().out
    assert f"{FIRST}: ok" in said and "brats2023" in said and "40x48x32" in said and "2 patients: 2 ok" in said


def test_inspect_gives_the_same_to_programs(phantoms, capsys):
    assert call("inspect", phantoms, "--json", "--full") == 0
    found = json.loads(capsys.readouterr().out)
    assert [case["case"] for case in found] == [FIRST, SECOND]
    image = found[0]["images"]["t1c"]
    assert (image["shape"], image["spacing_mm"], image["orientation"]) == ([40, 48, 32], [5.0, 5.0, 5.0], "LPS")
    assert found[0]["convention"] == "brats2023"


def test_inspect_imports_no_torch(phantoms):
    code = (
        f"import sys, run_pipeline; run_pipeline.main(['inspect', {str(phantoms)!r}]); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True).returncode == 0


@pytest.mark.parametrize("trained", [True, False])
def test_inspect_advises_zeros_where_the_model_was_trained_for_a_missing_modality(
    phantoms, tmp_path, capsys, monkeypatch, trained
):
    model = open_checkpoint(make_model(tmp_path / "m.safetensors", missing_modalities=trained))
    monkeypatch.setattr("pipeline.inspect.choose_model", lambda *a, **k: model)
    shutil.copytree(phantoms / FIRST, tmp_path / "p" / FIRST)
    (tmp_path / "p" / FIRST / f"{FIRST}-t2w.nii.gz").unlink()
    call("inspect", tmp_path / "p")
    assert ("choose --missing zero or skip, or" in capsys.readouterr().out) == trained


@pytest.mark.parametrize(
    ("command", "options"),
    [(Segment, SegmentOptions), (Train, TrainOptions), (Serve, Settings)],
    ids=lambda c: c.__name__,
)
def test_an_option_of_the_library_has_its_help_and_its_default_in_one_place(command, options):
    assert issubclass(command, options)
    told_again = [name for name, text in attribute_texts(command).items() if name in attribute_texts(options) and text]
    assert told_again == []
    hidden = {"command", "on_step", "job_memory_bytes", "token"}
    assert [name for name, text in attribute_texts(options).items() if not text and name not in hidden] == []


def attribute_texts(owner: type) -> dict[str, str]:
    """The attributes that a class itself declares, each with the docstring below it."""
    (tree,) = ast.parse(inspect.getsource(owner)).body
    texts, last = {}, ""
    for node in tree.body:
        if isinstance(node, ast.AnnAssign):
            last = ast.unparse(node.target)
            texts[last] = ""
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and last:
            texts[last] = str(node.value.value)
    return texts


def test_every_kind_of_extra_folder_stands_in_the_help_of_train(capsys):
    with pytest.raises(SystemExit):
        call("train", "--help")
    (listed,) = re.findall(r"FOLDER:kind \(([^)]*)\)", re.sub(r"[│\s]+", " ", capsys.readouterr().out))
    assert set(listed.split(", ")) == set(SOURCES)


def test_inspect_full_finds_damage_that_headers_do_not_show(phantoms, tmp_path, capsys):
    case = tmp_path / "case"
    case.mkdir()
    for path in (phantoms / FIRST).iterdir():
        content = path.read_bytes()
        (case / path.name).write_bytes(content[:-40] if path.name.endswith("t2w.nii.gz") else content)
    assert call("inspect", tmp_path, "--full") == 1
    assert "t2w.nii.gz" in capsys.readouterr().out


def test_segment_then_evaluate_agree_on_the_scores(phantoms, tiny_model, tmp_path, capsys):
    assert call("segment", phantoms, "--output", tmp_path / "out", "--model", tiny_model) == 0
    said = capsys.readouterr().out
    assert f"[1/2] {FIRST}: ok" in said and "2 patients: 2 ok, 0 warn, 0 error" in said
    assert call("evaluate", tmp_path / "out", phantoms, "--output", tmp_path / "scores", "--quiet") == 0
    assert capsys.readouterr().out == ""
    segmented, evaluated = (
        pd.read_csv(tmp_path / folder / "report.csv").set_index("case") for folder in ("out", "scores")
    )
    for column in ("dice_WT", "dice_ET", "hd95_mm_TC", "hd_mm_WT", "volume_ml_WT"):
        np.testing.assert_allclose(segmented[column], evaluated[column], rtol=1e-5)


def test_evaluate_hands_every_option_on(tmp_path, monkeypatch, capsys):
    asked = []

    def evaluate(*folders, progress, **options):
        asked.append((folders, options))
        progress({"case": "a", "status": "ok", "reason": "", "seconds": 0.25}, 7)
        rows = {"case": ["a", "a"], "system": ["p", "q"], "status": ["ok", "ok"], "dice_WT": [0.25, 0.75]}
        return pd.DataFrame(rows)

    monkeypatch.setattr("pipeline.evaluate.run.evaluate", evaluate)
    monkeypatch.setattr("sys.argv", ["run_pipeline.py", "evaluate", "p", "r"])
    given = (
        "p r -o out --metrics standard brats2023-met --tolerance-mm 2 --compare q s --convention msd "
        "--reference-convention lgg --resample --like i --split-lesions --workers 3 --pictures 4 --interactive x y"
    )
    assert call("evaluate", *given.split()) == 0
    ((folders, options),) = asked
    assert folders == (Path("p"), Path("r"), Path("out"))
    scored = options.pop("options")
    assert (scored.metrics, scored.tolerance_mm, scored.split_lesions) == (("standard", "brats2023-met"), 2.0, True)
    assert options == {
        "convention": "msd", "reference_convention": "lgg", "compare": [Path("q"), Path("s")], "resample": True,
        "like": Path("i"), "workers": 3, "pictures": 4, "interactive": ["x", "y"],
        "command": "python run_pipeline.py evaluate p r",
    }  # fmt: skip
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ["[1/7] a: ok (0.2 s)", "2 patients: 2 ok, 0 warn, 0 error"]
    assert said[2:6] == [
        *("  p", "  dice_WT: mean 0.250, median 0.250"),
        *("  q", "  dice_WT: mean 0.750, median 0.750"),
    ]


def test_references_evaluated_against_themselves_are_perfect_and_need_no_torch(phantoms, tmp_path):
    given = ["evaluate", *[str(phantoms)] * 2, "--output", str(tmp_path), "--workers", "1", "--pictures", "1"]
    code = f"import sys, run_pipeline; run_pipeline.main({given!r}); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"[2/2] {SECOND}: ok" in done.stdout and "dice_WT: mean 1.000, median 1.000" in done.stdout
    assert f"page: {tmp_path / 'report.html'}" in done.stdout
    metrics = pd.read_csv(tmp_path / "metrics.csv")
    assert len(metrics) == 6 and (metrics["dice"] == 1).all() and (metrics["assd_mm"] == 0).all()
    assert len(list((tmp_path / "pictures").iterdir())) == 1


def test_flat_masks_are_evaluated_too(phantoms, tiny_model, tmp_path):
    assert call("segment", phantoms, "--output", tmp_path / "out", "--model", tiny_model, "--flat", "--quiet") == 0
    assert call("evaluate", tmp_path / "out", phantoms, "--output", tmp_path / "scores", "--quiet") == 0
    assert list(pd.read_csv(tmp_path / "scores" / "report.csv")["status"]) == ["ok", "ok"]


def test_one_patient_given_as_a_folder_of_files_is_segmented(phantoms, tiny_model, tmp_path):
    assert call("segment", phantoms / FIRST, "--output", tmp_path / "out", "--model", tiny_model, "--quiet") == 0
    assert (tmp_path / "out" / FIRST / f"{FIRST}_seg.nii.gz").is_file()


def test_only_the_named_cases_get_rows_and_an_unknown_one_cannot_start(phantoms, tiny_model, tmp_path, capsys):
    assert call("segment", phantoms, "--output", tmp_path, "--model", tiny_model, "--cases", SECOND, "--quiet") == 0
    assert list(pd.read_csv(tmp_path / "report.csv")["case"]) == [SECOND]
    assert call("segment", phantoms, "--output", tmp_path, "--model", tiny_model, "--cases", "nobody") == 2
    assert "'nobody'" in capsys.readouterr().err


def test_an_error_row_makes_the_exit_status_one(phantoms, tiny_model, tmp_path):
    (tmp_path / "in" / "empty").mkdir(parents=True)
    (tmp_path / "in" / FIRST).symlink_to(phantoms / FIRST)
    assert call("segment", tmp_path / "in", "--output", tmp_path / "out", "--model", tiny_model, "--quiet") == 1
    rows = pd.read_csv(tmp_path / "out" / "report.csv").set_index("case")
    assert rows.loc["empty", "status"] == "error"


@pytest.mark.parametrize(
    "arguments",
    [
        ("segment", "nowhere", "--output", "out"),
        ("segment", "{patients}", "--output", "{patients}"),
        ("segment", "{patients}", "--output", "{out}", "--model", "no-such-model"),
        ("segment", "{patients}", "--output", "{out}", "--device", "tpu"),
        ("segment", "{patients}", "--output", "{out}", "--convention", "no-such-convention"),
        ("segment", "{patients}", "--output", "{out}", "--executor", "threads:2"),
        ("evaluate", "nowhere", "{patients}", "--output", "{out}"),
        ("evaluate", "{patients}", "{patients}", "--output", "{out}", "--metrics", "standard", "brats1999"),
        ("evaluate", "{patients}", "{patients}", "--output", "{out}", "--tolerance-mm", "0"),
        ("evaluate", "{patients}", "{patients}", "--output", "{out}", "--workers", "0"),
        ("evaluate", "{patients}", "{patients}", "--output", "{out}", "--interactive", "nobody"),
        ("evaluate", "{patients}", "{patients}", "--output", "{out}", "--reference-convention", "no-such-convention"),
        ("evaluate", "{patients}", "{patients}", "--output", "{out}", "--compare", "nowhere"),
        ("inspect", "nowhere"),
    ],
)
def test_what_cannot_start_says_why_in_one_line_and_returns_two(arguments, phantoms, tmp_path, capsys):
    assert call(*(a.format(patients=phantoms, out=tmp_path / "out") for a in arguments)) == 2
    said = capsys.readouterr().err
    assert said.startswith("run_pipeline.py: ") and said.count("\n") == 1 and "Traceback" not in said


def test_models_lists_what_is_shipped_for_programs(capsys):
    assert call("models", "--json") == 0
    models = json.loads(capsys.readouterr().out)
    assert len(models) >= 2
    keys = {
        "name",
        "architecture",
        "spatial_dims",
        "modalities",
        "regions",
        "convention",
        "trained_on",
        "scores",
        "licence",
        "file",
        "sha256",
    }
    for model in models:
        assert keys <= set(model)
        assert model["name"].split("-")[0] in ("brats", "lgg", "mets")
        assert model["scores"] and model["trained_on"] and model["licence"]
        assert Path(model["file"]).stat().st_size <= 12 * 2**20 * (2 if "first" in model else 1)
        assert Path(model["file"]).with_suffix(".md").is_file()
    assert sum(Path(model["file"]).stat().st_size for model in models) <= 40 * 2**20


def test_an_output_folder_inside_the_input_is_not_taken_for_a_patient(phantoms, tiny_model, tmp_path):
    import shutil

    root = shutil.copytree(phantoms, tmp_path / "in")
    for _ in range(2):
        assert call("segment", root, "--output", root / "results", "--model", tiny_model, "--quiet") == 0
    assert list(pd.read_csv(root / "results" / "report.csv")["case"]) == [FIRST, SECOND]


def test_probabilities_are_written_when_asked(phantoms, tiny_model, tmp_path):
    arguments = (
        "--output",
        tmp_path,
        "--model",
        tiny_model,
        "--cases",
        FIRST,
        "--quiet",
        "--tta",
        "--save-probabilities",
    )
    assert call("segment", phantoms, *arguments) == 0
    probability = read_mask(tmp_path / FIRST / f"{FIRST}_prob_WT.nii.gz")
    mask = read_mask(tmp_path / FIRST / f"{FIRST}_seg.nii.gz")
    assert probability.shape == mask.shape
    assert (mask[probability < 0.5] == 0).all()


def test_quiet_still_says_which_patients_failed(phantoms, tiny_model, tmp_path, capsys):
    (tmp_path / "in" / "empty").mkdir(parents=True)
    (tmp_path / "in" / FIRST).symlink_to(phantoms / FIRST)
    assert call("segment", tmp_path / "in", "--output", tmp_path / "out", "--model", tiny_model, "--quiet") == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("empty: error, ") and said.err.count("\n") == 1


def test_names_that_a_terminal_cannot_show_do_not_end_the_command(phantoms, tmp_path):
    import os

    for name in (b"n\xff", "n\u00e9".encode(), b"\x1b[31m", b"a\nb"):
        os.mkdir(os.fsencode(tmp_path) + b"/" + name)
    done = subprocess.run(
        [sys.executable, "run_pipeline.py", "inspect", str(tmp_path)],
        cwd=ROOT, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr == b"" and b"\x1b" not in done.stdout
    assert b"4 patients" in done.stdout


def test_names_in_a_warning_neither_move_the_cursor_nor_begin_a_line(phantoms, tmp_path):
    shutil.copytree(phantoms, tmp_path / "in")
    (tmp_path / "in" / ".\x1b[2J\nERROR data: no patient\u202e_t1.nii.gz").touch()
    done = subprocess.run(
        [sys.executable, "run_pipeline.py", "inspect", str(tmp_path / "in")], cwd=ROOT, capture_output=True, text=True
    )
    (line,) = done.stderr.splitlines()
    assert line.startswith("WARNING data.find.walk: ") and ".?[2J?ERROR data: no patient?_t1.nii.gz" in line


def test_a_mistake_of_the_program_is_one_line_and_a_traceback_only_when_asked(phantoms, monkeypatch, capsys):
    monkeypatch.setattr("pipeline.inspect.inspect_cases", lambda *a, **k: 1 / 0)
    assert call("inspect", phantoms) == 2
    said = capsys.readouterr().err
    assert "ZeroDivisionError" in said and said.count("\n") == 1
    assert call("inspect", phantoms, "--debug") == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_gets_no_complaint(phantoms):
    command = f"{sys.executable} run_pipeline.py inspect {phantoms} | true"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == ""


def test_train_hands_every_option_on_and_says_where_the_model_is(tmp_path, monkeypatch, capsys):
    asked = []

    def run_training(*arguments):
        asked.append(arguments)
        return tmp_path / "model.safetensors"

    monkeypatch.setattr("pipeline.training.run.run_training", run_training)
    monkeypatch.setattr("sys.argv", ["run_pipeline.py", "train", "a b"])
    given = (
        "--device cpu --folds 3 --fold all --extra x y --leave-out p q --convention msd "
        "--init lgg-attention-unet-2d --resume --minutes 2 "
        "--workers 4"
    )
    assert call("train", "a b", "--recipe", "demo", "--output", tmp_path, *given.split()) == 0
    ((patients, recipe, output, options),) = asked
    assert (patients, recipe, output) == (Path("a b"), "demo", tmp_path)
    assert (options.device, options.folds, options.fold, options.split) == ("cpu", 3, "all", None)
    assert (options.extra, options.leave_out, options.convention) == (("x", "y"), ("p", "q"), "msd")
    assert (options.init, options.resume, options.minutes, options.workers) == ("lgg-attention-unet-2d", True, 2.0, 4)
    assert options.command == "python run_pipeline.py train 'a b'"
    assert capsys.readouterr().out == f"model: {tmp_path / 'model.safetensors'}\n"
    monkeypatch.setenv("RANK", "1")  # torchrun's second process
    assert call("train", "a b", "--recipe", "demo", "--output", tmp_path) == 0
    assert capsys.readouterr().out == ""


def test_train_that_cannot_start_says_why_in_one_line(phantoms, tmp_path, capsys):
    for arguments, sentence in (
        (("nowhere", "--recipe", "demo"), "nowhere does not exist"),
        ((phantoms, "--recipe", "no-such-recipe"), "no recipe 'no-such-recipe'"),
        ((phantoms, "--recipe", "demo", "--folds", 5), "--folds 5: there are only 2 patients"),
    ):
        assert call("train", *arguments, "--output", tmp_path / "out") == 2
        said = capsys.readouterr().err
        assert sentence in said and said.count("\n") == 1 and "Traceback" not in said


def test_segment_hands_every_option_on(tmp_path, phantoms, monkeypatch):
    asked = []

    def segment_cases(cases, output, options, **given):
        asked.append((len(cases), output, options, given))
        return pd.DataFrame({"status": ["ok"]})

    monkeypatch.setattr("pipeline.segment.run.segment_cases", segment_cases)
    monkeypatch.setattr("sys.argv", ["run_pipeline.py", "segment", "a b"])
    given = (
        "--model brats-attention-unet-3d brats-attention-unet-2d "
        "--device cpu --engine torch --window 64 --level 2 --tta --convention msd --missing zero "
        "--save-probabilities --overwrite "
        "--executor processes:2 --threads 3 --strict --max-voxels 1000 --flat"
    )
    assert call("segment", phantoms, "-o", tmp_path / "out", *given.split(), "--interactive", FIRST, "--quiet") == 0
    ((count, output, options, rest),) = asked
    assert (count, output) == (2, tmp_path / "out")
    assert options == SegmentOptions(
        models=("brats-attention-unet-3d", "brats-attention-unet-2d"),
        device="cpu", engine="torch", window="64", level=2, tta=True, convention="msd",
        missing="zero", save_probabilities=True, overwrite=True, threads=3, strict=True, max_voxels=1000, flat=True,
    )  # fmt: skip
    rest.pop("progress")
    said = "python run_pipeline.py segment 'a b'"
    assert rest == {"executor": "processes:2", "interactive": [FIRST], "command": said, "shard": None, "only": ()}


def test_segment_hands_all_patients_and_the_part_on_with_a_folder_of_its_own(tmp_path, phantoms, monkeypatch, capsys):
    asked = []

    def segment_cases(cases, output, options, **given):
        asked.append((len(cases), output, given["shard"]))
        return pd.DataFrame({"status": ["ok"]})

    monkeypatch.setattr("pipeline.segment.run.segment_cases", segment_cases)
    assert call("segment", phantoms, "-o", tmp_path, "--shard", "2/10", "--quiet") == 0
    assert asked == [(2, tmp_path / "shard-02-of-10", Shard(2, 10))]
    assert call("segment", phantoms, "-o", tmp_path, "--shard", "11/10") == 2
    assert "--shard 11/10: give I/N" in capsys.readouterr().err


def test_inspect_refuses_what_is_above_max_voxels_and_with_strict_any_warning(phantoms, tmp_path, capsys):
    assert call("inspect", phantoms, "--max-voxels", 1000) == 1
    assert "1000" in capsys.readouterr().out.replace(",", "")
    case = tmp_path / "case"
    case.mkdir()
    for path in (phantoms / FIRST).iterdir():
        (case / path.name).symlink_to(path)  # a link out of the input is followed, and warned of
    assert call("inspect", tmp_path) == 0
    assert call("inspect", tmp_path, "--strict") == 1


def test_the_traceback_of_a_patient_is_shown_with_debug_alone_also_from_a_worker(phantoms, tiny_model, tmp_path, capfd):
    for name in (FIRST, SECOND):
        (tmp_path / "in" / name).mkdir(parents=True)
        for path in (phantoms / name).iterdir():
            (tmp_path / "in" / name / path.name).write_bytes(b"not an image")
    arguments = ("segment", tmp_path / "in", "--output", tmp_path / "out", "--model", tiny_model)
    assert call(*arguments) == 1
    assert "Traceback" not in capfd.readouterr().err
    assert call(*arguments, "--debug", "--executor", "processes:1") == 1
    said = capfd.readouterr().err
    assert "Traceback" in said and "InputError" in said


def test_a_result_that_cannot_be_written_is_named_with_the_fix_and_the_status_says_that_it_failed(
    phantoms, tmp_path, monkeypatch, capsys
):
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "report.csv"))

    monkeypatch.setattr("pipeline.evaluate.run.evaluate", fail)
    assert call("evaluate", phantoms, phantoms, "-o", tmp_path) == 1
    said = capsys.readouterr().err
    assert (
        said
        == f"run_pipeline.py: {tmp_path / 'report.csv'}: No space left on device; free some space, and run it again\n"
    )


def test_an_output_that_is_in_use_is_refused(phantoms, tiny_model, tmp_path, capsys):
    refused = []

    def meanwhile() -> None:
        for command in (("segment", phantoms, "--model", tiny_model), ("evaluate", phantoms, phantoms),
                        ("train", phantoms, "--recipe", "demo"), ("demo",)):  # fmt: skip
            refused.append(call(*command, "--output", tmp_path))

    with output_lock(tmp_path):
        thread = threading.Thread(target=meanwhile)
        thread.start()
        thread.join()
    assert refused == [2, 2, 2, 2]
    said = capsys.readouterr().err
    assert said.count("another run is at work there (process") == 4 and said.count("\n") == 4
    assert list(tmp_path.iterdir()) == []


def test_every_option_of_a_segmentation_is_one_of_the_command_with_the_librarys_words(capsys) -> None:
    """Both are one dataclass: an option that is added to the library is on the command line, with its docstring."""
    with pytest.raises(SystemExit):
        run_pipeline.main(["segment", "--help"])
    shown = " ".join(re.sub(r"[^\w.,:;()<>/`-]+", " ", capsys.readouterr().out).split())
    assert issubclass(Segment, SegmentOptions)
    for option in fields(SegmentOptions):
        assert f"--{option.name.replace('_', '-').removesuffix('s' if option.name == 'models' else '')}" in shown
    assert "Also write one float image a region." in shown  # of the library alone
    assert "several are averaged. Default: the shipped model that fits each case." in shown
