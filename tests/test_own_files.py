"""A hospital's own file naming and label numbers, as YAML files that are no part of the package."""

from __future__ import annotations

import json
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import run_pipeline
from data.case import Case
from data.errors import ConventionError, UsageError
from data.find.discover import discover_cases
from data.find.layouts.bounded import endless
from data.find.layouts.layout import load_layouts, own_layouts, read_layout
from data.labels import LONGEST_SPELLING, convention_name, convention_option, load_convention, read_convention
from pipeline.checkpoint import open_checkpoint
from tests.conftest import make_model, read_mask
from tests.test_training_run import write_recipe

LABELS = """\
name: st-elsewhere
source: St Elsewhere hospital
labels: {10: necrosis, 20: oedema, 30: enhancing tumour}
regions: {WT: [10, 20, 30], TC: [10, 30], ET: [30]}
"""
LAYOUT = """\
name: st-elsewhere
title: St Elsewhere hospital
kind: files
pattern: '(?P<patient>ELS-[0-9]+)_{token}'
images: {t1: [NATIVE], t1c: [GADO], t2: [TSE], flair: [DARK]}
reference: [CONTOUR]
conventions: [labels.yaml]
"""
NAMES = {"t1n": "NATIVE", "t1c": "GADO", "t2w": "TSE", "t2f": "DARK", "seg": "CONTOUR"}
NUMBERS = {1: 10, 2: 20, 3: 30}
"""Of BraTS 2023, NETC, SNFH and ET, to the hospital's."""


def renumbered(labels: np.ndarray, numbers: dict[int, int]) -> np.ndarray:
    table = np.zeros(256, np.uint8)
    for old, new in numbers.items():
        table[old] = new
    return table[labels]


@pytest.fixture
def hospital(phantoms: Path, tmp_path: Path) -> Path:
    """The phantoms under names and with label numbers that no set of ours has, and the two YAML files."""
    for number, patient in enumerate(sorted(phantoms.iterdir()), start=1):
        folder = tmp_path / "scans" / f"ELS-{number}"
        folder.mkdir(parents=True)
        for theirs, ours in NAMES.items():
            image = nib.load(patient / f"{patient.name}-{theirs}.nii.gz")
            path = folder / f"ELS-{number}_{ours}.nii.gz"
            if theirs == "seg":
                nib.save(nib.Nifti1Image(renumbered(np.asarray(image.dataobj), NUMBERS), image.affine), path)
            else:
                nib.save(image, path)
    (tmp_path / "labels.yaml").write_text(LABELS)
    (tmp_path / "layout.yaml").write_text(LAYOUT)
    return tmp_path


def run(*arguments: object) -> int:
    return run_pipeline.main([str(argument) for argument in arguments])


def test_inspect_knows_the_names_and_the_labels_by_the_two_files(hospital, capsys):
    assert run("inspect", hospital / "scans", "--layout", hospital / "layout.yaml", "--full", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [case["case"] for case in found] == ["ELS-1", "ELS-2"]
    for case in found:
        assert case["layout"] == case["convention"] == "st-elsewhere" and case["status"] == "ok", case
        assert {name: Path(image["file"]).name[6:] for name, image in case["images"].items()} == {
            "t1": "NATIVE.nii.gz",
            "t1c": "GADO.nii.gz",
            "t2": "TSE.nii.gz",
            "flair": "DARK.nii.gz",
            "reference": "CONTOUR.nii.gz",
        }


def test_without_the_layout_the_names_say_nothing(hospital):
    run("inspect", hospital / "scans", "--layout", hospital / "layout.yaml")
    assert not any(case.images for case in discover_cases(hospital / "scans"))


def test_masks_are_written_and_scored_in_the_hospitals_own_numbers(hospital, phantoms, tiny_model, capsys):
    scans, output = hospital / "scans", hospital / "out"
    own = ("--layout", hospital / "layout.yaml")
    assert run("segment", scans, "-o", output, "--model", tiny_model, "--quiet", *own) == 0
    usual = hospital / "usual"
    assert run("segment", phantoms, "-o", usual, "--model", tiny_model, "--convention", "brats2023", "--quiet") == 0
    masks = [read_mask(path) for path in sorted(output.rglob("*_seg.nii.gz"))]
    expected = [renumbered(read_mask(path), NUMBERS) for path in sorted(usual.rglob("*_seg.nii.gz"))]
    assert len(masks) == 2 and any(mask.any() for mask in masks)
    for mask, wanted in zip(masks, expected, strict=True):
        assert np.array_equal(mask, wanted)
    assert "enhancing tumour" in (output / "labels.txt").read_text()

    # Both tables have its name; the run's state files say how its masks are numbered: no file is asked for again.
    assert pd.read_csv(output / "report.csv")["convention"].tolist() == ["st-elsewhere"] * 2
    assert run("evaluate", output, scans, "-o", hospital / "scores", "--workers", 1, "--quiet", *own) == 0
    report = pd.read_csv(hospital / "scores" / "report.csv")
    assert report["case"].tolist() == ["ELS-1", "ELS-2"] and (report["status"] == "ok").all()
    assert report["convention"].tolist() == ["st-elsewhere"] * 2
    for mask, row in zip(masks, report.to_dict("records"), strict=True):
        truth = read_mask(scans / row["case"] / f"{row['case']}_CONTOUR.nii.gz")
        both = 2 * np.count_nonzero((mask > 0) & (truth > 0))
        assert row["dice_WT"] == pytest.approx(both / (np.count_nonzero(mask) + np.count_nonzero(truth)), abs=1e-6)


def test_a_finished_case_is_done_again_when_the_numbers_change(hospital, tiny_model):
    labels, output = hospital / "labels.yaml", hospital / "out"
    options = ("--layout", hospital / "layout.yaml", "--model", tiny_model, "--convention", labels, "--quiet")
    (hospital / "layout.yaml").write_text(LAYOUT.replace("[labels.yaml]", "[]"))
    assert run("segment", hospital / "scans", "-o", output, *options) == 0
    path = output / "ELS-1" / "ELS-1_seg.nii.gz"
    before, made = read_mask(path), path.stat().st_mtime_ns
    assert run("segment", hospital / "scans", "-o", output, *options) == 0
    assert path.stat().st_mtime_ns == made
    labels.write_text(LABELS.replace("30", "40"))
    run("segment", hospital / "scans", "-o", output, *options)
    assert np.array_equal(read_mask(path), renumbered(before, {10: 10, 20: 20, 30: 40}))


def test_a_model_writes_the_own_numbers_that_it_learnt_without_their_file_and_its_cases_are_kept(hospital):
    scans, labels, layout = hospital / "scans", hospital / "labels.yaml", hospital / "layout.yaml"
    recipe = write_recipe(hospital / "tiny.yaml", epochs=1, steps_per_epoch=1, validate_every=1)
    training = ("--recipe", recipe, "--folds", 2, "--device", "cpu", "--layout", layout, "--convention", labels)
    assert run("train", scans, "-o", hospital / "run", *training) == 0
    layout.write_text(LAYOUT.replace("[labels.yaml]", "[]"))
    for file in (labels, *scans.rglob("*_CONTOUR.nii.gz")):
        file.unlink()
    model, output = hospital / "run" / "model.safetensors", hospital / "out"
    written = load_convention(open_checkpoint(model).settings["convention"])
    assert (written.name, written.written_as) == ("st-elsewhere", {"WT": 20, "TC": 10, "ET": 30})
    options = ("-o", output, "--layout", layout, "--model", model, "--quiet")
    assert run("segment", scans, *options) == 0
    assert "oedema" in (output / "labels.txt").read_text()
    masks = sorted(output.rglob("*_seg.nii.gz"))
    made = [path.stat().st_mtime_ns for path in masks]
    assert run("segment", scans, *options) == 0
    assert len(masks) == 2 and [path.stat().st_mtime_ns for path in masks] == made


def test_a_model_with_the_longest_convention_that_is_taken_opens(tmp_path):
    labels = tmp_path / "labels.yaml"
    labels.write_text(LABELS)
    room = LONGEST_SPELLING - len(read_convention(labels).spelling)
    labels.write_text(LABELS.replace("oedema", "oedema" + "x" * room))
    convention = read_convention(labels)
    assert len(convention.spelling) == LONGEST_SPELLING
    model = make_model(tmp_path / "own.safetensors", convention=convention.spelling)
    assert load_convention(open_checkpoint(model).settings["convention"]) == convention


def test_a_spelling_gives_the_convention_back_without_its_file(tmp_path):
    (tmp_path / "labels.yaml").write_text(LABELS)
    spelling = convention_option(str(tmp_path / "labels.yaml"))
    (tmp_path / "labels.yaml").unlink()
    convention = load_convention(spelling)
    assert convention.name == convention_name(spelling) == "st-elsewhere" and convention.spelling == spelling
    assert convention.labels == {10: "necrosis", 20: "oedema", 30: "enhancing tumour"}
    assert convention.regions == {"WT": {10, 20, 30}, "TC": {10, 30}, "ET": {30}}
    assert convention.written_as == {"WT": 20, "TC": 10, "ET": 30}
    assert convention_option("brats2023") == "brats2023" == load_convention("brats2023").spelling


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("name: st-elsewhere", "name: brats2023"), "shipped"),
        (("name: st-elsewhere", "name: ../x"), "letters, digits"),
        (("30: enhancing", "300: enhancing"), "300"),
        (("TC: [10, 30], ET: [30]", "TC: [10, 20], ET: [20, 30]"), "nested or disjoint"),
        (("WT: [10, 20, 30], TC: [10, 30], ET: [30]", "WT: [20], TC: [10], ET: [30]"), r"ET \[30\] must lie in TC"),
        (("WT: [10, 20, 30], TC: [10, 30]", "WT: [20], TC: [10, 30]"), r"TC \[10, 30\] must lie in WT \[20\]"),
        (("name:", "nam:"), "has the keys"),
        (("oedema", '"oe\\u200bdema"'), "printable"),
        (("oedema", "x" * 900), "shorter"),
        (("source:", "name: y\nsource:"), "said twice"),
    ],
)
def test_a_convention_of_ones_own_is_read_as_strictly_as_ours(change, message, tmp_path, capsys):
    path = tmp_path / "labels.yaml"
    path.write_text(LABELS.replace(*change))
    with pytest.raises(ConventionError, match=message) as caught:
        read_convention(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert run("inspect", tmp_path, "--convention", path) == 2
    assert str(path) in capsys.readouterr().err


def test_files_that_are_not_utf_8_are_named_with_the_fix(tmp_path, capsys):
    path = tmp_path / "own.yaml"
    path.write_bytes(LABELS.replace("oedema", "\u00f6dem").encode("latin-1"))
    for option in ("--convention", "--layout"):
        assert run("inspect", tmp_path, option, path) == 2
        said = capsys.readouterr().err
        assert f"{path}: is not UTF-8 text" in said and "save it as UTF-8" in said


@pytest.mark.parametrize(
    "spelling", ["{", '{"name": 1}', "{}", '{"labels": {"a": "b"}}', "{" + "[" * 5000, "{" * 99999]
)
def test_a_damaged_spelling_is_refused(spelling):
    with pytest.raises(ConventionError, match="JSON"):
        load_convention(spelling)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("name: st-elsewhere", "name: brats2021"), "shipped layout"),
        (("kind: files", "kind: slices"), "files, channels"),
        (("{token}", "x"), r"\{token\}"),
        (("(?P<patient>ELS-[0-9]+)", "ELS"), "patient"),
        (("(?P<patient>", "(?P<patient"), "regular expression"),
        (("images: {t1: [NATIVE]", "images: {t9: [NATIVE]"), "modalities are"),
        (("[NATIVE]", "NATIVE"), "lists"),
        (("[GADO]", "[GADO, native]"), "'native' stands for t1 and for t1c"),
        (("[CONTOUR]", "[CONTOUR, Dark]"), "'Dark' stands for flair and for reference"),
        (("kind: files", "kind: [files]"), "kind and pattern"),
        (("[labels.yaml]", "[nonsense]"), "nonsense"),
        (("[labels.yaml]", "[lost.yaml]"), "lost.yaml: cannot be read"),
        (("title:", "titel:"), "has the keys"),
    ],
)
def test_a_layout_of_ones_own_is_read_as_strictly_as_ours(change, message, hospital, capsys):
    path = hospital / "layout.yaml"
    path.write_text(LAYOUT.replace(*change))
    with pytest.raises(UsageError, match=message) as caught:
        read_layout(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert run("inspect", hospital / "scans", "--layout", path) == 2
    assert str(path) in capsys.readouterr().err


def test_own_layouts_hold_within_their_block_alone(hospital):
    path = hospital / "layout.yaml"
    with own_layouts([path]):
        assert next(iter(load_layouts())) == "st-elsewhere"
        first: Case = discover_cases(hospital / "scans")[0]
        assert len(first.images) == 4 and convention_name(first.conventions[0]) == "st-elsewhere"
    assert "st-elsewhere" not in load_layouts()
    with pytest.raises(UsageError, match="another layout is called"), own_layouts([path, path]):
        pass
    with pytest.raises(UsageError, match=r"lost\.yaml: cannot be read"), own_layouts([hospital / "lost.yaml"]):
        pass


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(?P<patient>(?:[A-Z]+-?)+)_{token}", "repeats what is repeated"),
        ("(?P<patient>(?:[A-Z]|[0-9A-Z])*)_{token}", "repeats what is repeated or has alternatives"),
        ("(?P<patient>(?:EL+S){2,})_{token}", "repeats what is repeated"),
        ("(?P<patient>.+)-.*-.*-.*_{token}", "has 4 repetitions of any character"),
        ("(?P<patient>" + "[0-9]+" * 9 + ")_{token}", "takes too long on a name of"),
    ],
)
def test_a_pattern_that_may_never_end_is_refused_with_its_fix(pattern, words, hospital):
    """Each of these takes more than seconds, the first three years, for a name of 200 characters."""
    path = hospital / "layout.yaml"
    path.write_text(LAYOUT.replace("(?P<patient>ELS-[0-9]+)_{token}", pattern))
    began = time.thread_time()
    with pytest.raises(UsageError, match=words) as caught:
        read_layout(path)
    assert time.thread_time() - began < 2 and str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "pattern",
    [
        "(?P<patient>.+)_{token}",
        "(?P<patient>[A-Z]{3}-[0-9]{1,4}(?:_FU[0-9]+)?)[-_]{token}(?:_(?:reg|bet))?",
        r"(?P<patient>[^_]+)_\\(x\\+\\)\\+*{token}.*",
        r"(?P<patient>[]+*)(]+)_{token}",
    ],
)
def test_patterns_with_an_end_are_taken(pattern, hospital):
    path = hospital / "layout.yaml"
    path.write_text(LAYOUT.replace("(?P<patient>ELS-[0-9]+)_{token}", pattern.replace("\\\\", "\\")))
    assert read_layout(path).pattern is not None


def test_every_shipped_pattern_ends():
    for layout in load_layouts().values():
        assert layout.pattern is None or layout.kind in ("slices", "suffix") or not endless(layout.pattern.pattern)


def test_a_layout_that_names_no_file_is_told_of(hospital, caplog):
    path = hospital / "layout.yaml"
    assert run("inspect", hospital / "scans", "--layout", path) == 0
    assert "names no file" not in caplog.text
    path.write_text(LAYOUT.replace("ELS-", "XYZ-"))
    assert run("inspect", hospital / "scans", "--layout", path) == 1
    assert "the layout st-elsewhere names no file that was found; check its pattern" in caplog.text


@pytest.mark.parametrize("command", ["inspect", "evaluate"])
def test_a_folder_of_unknown_names_is_answered_with_the_option_that_names_them(command, hospital, capsys):
    (hospital / "dark").mkdir()
    (hospital / "dark/x_DARK.txt").write_text("")
    more = [hospital / "scans", "-o", hospital / "out"] if command == "evaluate" else []
    run(command, hospital / "dark", *more)
    said = capsys.readouterr()
    assert "--layout" in said.out + said.err


@pytest.mark.parametrize(("name", "words"), [("folder", "is a folder"), ("labels.txt", "does not end in .yaml")])
def test_a_convention_that_is_no_yaml_file_is_answered_with_what_it_is(name, words, hospital, capsys):
    (hospital / "folder").mkdir()
    (hospital / "labels.txt").write_text(LABELS)
    assert run("inspect", hospital / "scans", "--convention", hospital / name) == 2
    error = capsys.readouterr().err
    assert f"{hospital / name} is" in error and words in error and "YAML file" in error
