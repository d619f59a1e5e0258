"""The names inside an output folder stand in one module, which finds and runs share."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from data.find.earlier_run import EarlierRun
from data.output_names import KIND_FOLDERS, RESULT, RESULTS, TABLES, result_path, result_paths, state_file

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [p for package in ("data", "pipeline") for p in sorted((ROOT / package).rglob("*.py"))]
OUT = Path("out")


@pytest.mark.parametrize(
    ("what", "nested", "flat"),
    [
        ("seg", "P1/P1_seg.nii.gz", "P1.nii.gz"),
        ("preview", "P1/P1_preview.png", "previews/P1_preview.png"),
        ("prob_WT", "P1/P1_prob_WT.nii.gz", "probabilities/P1_prob_WT.nii.gz"),
        ("uncertainty_ET", "P1/P1_uncertainty_ET.nii.gz", "uncertainties/P1_uncertainty_ET.nii.gz"),
        ("seg-nrrd", "P1/P1_seg.seg.nrrd", "exports/P1_seg.seg.nrrd"),
        ("dicom-seg", "P1/P1_seg.dcm", "exports/P1_seg.dcm"),
        ("pdf", "P1/P1_report.pdf", "exports/P1_report.pdf"),
        ("flair", "P1/P1_flair.nii.gz", "images/P1_flair.nii.gz"),
        ("xfm_t2", "P1/P1_xfm_t2.txt", "transforms/P1_xfm_t2.txt"),
        ("seg_t1c", "P1/P1_seg_t1c.nii.gz", "grids/P1_seg_t1c.nii.gz"),
        ("seg_mni", "P1/P1_seg_mni.nii.gz", "grids/P1_seg_mni.nii.gz"),
        ("xfm_mni", "P1/P1_xfm_mni.txt", "transforms/P1_xfm_mni.txt"),
    ],
)
def test_a_result_lies_in_its_case_or_flat_in_a_folder_of_its_kind(what, nested, flat):
    assert result_path(OUT, "P1", what, flat=False) == OUT / nested
    assert result_path(OUT, "P1", what, flat=True) == OUT / flat
    assert result_paths(OUT, "P1", what) == (OUT / nested, OUT / flat)
    assert what in RESULTS and RESULT.fullmatch(what)


def test_the_state_file_of_a_case_is_hidden():
    assert state_file(OUT, "P1") == OUT / ".state" / "P1.json"


def test_an_earlier_run_knows_every_result_as_its_own_in_both_places():
    run = EarlierRun("out", frozenset({"P1"}), {"P1": ()})
    assert sorted(KIND_FOLDERS) == [
        "exports",
        "grids",
        "images",
        "previews",
        "probabilities",
        "transforms",
        "uncertainties",
    ]
    for what in RESULTS:
        for path in result_paths(OUT, "P1", what):
            assert run.wrote(str(path)), path
    assert not run.wrote("out/P1/P1_other.nii.gz")


def test_no_other_module_spells_the_name_of_a_record_a_table_of_a_run_or_the_state_folder():
    """The web app says what its downloads are by name.

    `evaluate` names its own tables alike, the catalogue its places.
    """
    allowed = {"data/output_names.py", "pipeline/web/compute/results.py", "pipeline/score/catalogue.py"}
    found = set()
    for path in SOURCES:
        name = path.relative_to(ROOT).as_posix()
        if name in allowed or name.startswith(("pipeline/evaluate/", "pipeline/web/routes/")):
            continue
        tree = ast.parse(path.read_text())
        words = {
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        found |= {(name, word) for word in words & {".state", "run.json", "_seg.nii.gz", *TABLES}}
    assert found == set()
