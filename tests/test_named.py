"""Patients whose files are named by hand or by a table."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

import run_pipeline
from data.errors import UsageError
from pipeline.commands.named import manifest_cases, named_case

FIRST, SECOND = "BraTS-GLI-90001-000", "BraTS-GLI-90002-000"
SUFFIX = {"t1": "t1n", "t1c": "t1c", "t2": "t2w", "flair": "t2f"}


@pytest.fixture
def strange(phantoms: Path, tmp_path: Path) -> Path:
    """A patient's images under names that no layout knows."""
    folder = tmp_path / "in" / "strange"
    folder.mkdir(parents=True)
    for number, (modality, ending) in enumerate(SUFFIX.items()):
        shutil.copy(phantoms / FIRST / f"{FIRST}-{ending}.nii.gz", folder / f"image{number}_{modality[::-1]}.nii.gz")
    return folder


def by_hand(folder: Path) -> list[str]:
    files = sorted(path.name for path in folder.iterdir())
    return [part for option, name in zip(SUFFIX, files, strict=True) for part in (f"--{option}", name)]


def test_images_named_by_hand_give_the_mask_of_the_same_images_under_known_names(
    phantoms, strange, tiny_model, tmp_path
):
    common = ["--model", str(tiny_model), "--quiet"]
    given = [str(strange), *by_hand(strange), "--case", "Anna 7", "--output", str(tmp_path / "a")]
    assert run_pipeline.main(["segment", *given, *common]) == 0
    assert (
        run_pipeline.main(["segment", str(phantoms), "--cases", FIRST, "--output", str(tmp_path / "b"), *common]) == 0
    )
    (ours,), (theirs,) = ((tmp_path / name).glob("*/*_seg.nii.gz") for name in "ab")
    assert ours.read_bytes() == theirs.read_bytes()
    assert list(pd.read_csv(tmp_path / "a" / "report.csv")["case"]) == ["Anna 7"]


def test_a_table_names_patients_images_and_references(phantoms, strange, tiny_model, tmp_path):
    shutil.copy(phantoms / FIRST / f"{FIRST}-seg.nii.gz", tmp_path / "in" / "truth-seg.nii.gz")
    files = [f"strange/{path.name}" for path in sorted(strange.iterdir())]
    table = tmp_path / "in" / "patients.csv"
    table.write_text(
        "case,t1,t1c,t2,flair,reference,date\r\n"
        f"A,{','.join(files)},truth-seg.nii.gz,2020-01-02\r\n"
        f"B,{','.join(files)},,\r\n",
        encoding="utf-8-sig",
    )
    output = tmp_path / "out"
    arguments = ["segment", "--manifest", str(table), "--output", str(output), "--model", str(tiny_model), "--quiet"]
    assert run_pipeline.main([*arguments, "--reference-convention", "brats2023"]) == 0
    report = pd.read_csv(output / "report.csv").set_index("case")
    assert list(report.index) == ["A", "B"]
    assert 0 <= report.loc["A", "dice_WT"] <= 1 and pd.isna(report.loc["B", "dice_WT"])
    cases = json.loads((output / "run.json").read_text())["cases"]
    assert (cases["A"]["patient"], cases["A"]["timepoint"], cases["A"]["date"]) == ("A", "2020-01-02", "2020-01-02")
    assert cases["B"]["patient"] == "B" and "timepoint" not in cases["B"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name,t1\nA,x.nii\n", "its columns are name, t1; give case"),
        ("case,reference\nA,x.nii\n", "give case, at least one of t1, t1c, t2, flair"),
        ("case,t1\n,x.nii\n", "line 2: the case '' is empty or stands there twice"),
        ("case,t1\nA,x.nii\nA,y.nii\n", "line 3: the case 'A' is empty or stands there twice"),
        ("case,t1,t2\nA,,\n", "line 2: A has no image"),
        ("case,t1\n", "has no row"),
        ("", "its columns are none"),
        ("case,t1,t1\nA,x.nii,y.nii\n", "its columns are case, t1, t1; give .* each once"),
        ("case,t1,t2\nA,x.nii\n", "line 2: 'A' has too few cells; give 3, empty ones between commas"),
        ("case,t1\nA,x.nii\nB,x.nii,y.nii\n", "line 3: 'B' has too many cells; give 2"),
        ('case,t1,patient\nA,x.nii,"p\nB,y.nii,q\n', "line 3: .*; write it as CSV, quotes closed"),
    ],
)
def test_a_table_that_cannot_be_is_refused_with_its_line(tmp_path, text, sentence):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(UsageError, match=sentence):
        manifest_cases(tmp_path / "p.csv")


def test_a_file_that_is_not_there_or_named_twice_is_refused(tmp_path):
    (tmp_path / "a.nii").touch()
    with pytest.raises(UsageError, match=r"--t2 b.nii: no such file"):
        named_case({"t1": Path("a.nii"), "t2": Path("b.nii")}, tmp_path, None)
    with pytest.raises(UsageError, match=r"--t2 a.nii: is the file of --t1 too"):
        named_case({"t1": Path("a.nii"), "t2": Path("a.nii")}, tmp_path, None)
    assert named_case({"t1": Path("a.nii")}, tmp_path, None).case_id == tmp_path.name
