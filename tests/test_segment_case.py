"""One case: its images are read while what segments them is loaded, and what is written stays in the output folder."""

from __future__ import annotations

import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data import references
from data.errors import UsageError
from data.find.discover import discover_cases
from data.folder_names import unique_folder_names
from data.io.read import MAX_VOXELS, read_volumes
from pipeline.inspect import inspect_cases
from pipeline.options import SegmentOptions
from pipeline.segment import case as segment_case
from pipeline.segment.run import segment_cases
from tests.conftest import make_model

ROOT = Path(__file__).resolve().parent.parent
FIRST = "BraTS-GLI-90001-000"
MODALITIES = ("t1", "t1c", "t2", "flair")


@pytest.fixture(autouse=True)
def _nothing_loaded(monkeypatch):
    monkeypatch.setattr("pipeline.segment.results.write_segment_page", lambda *a: None)
    segment_case._predictor.cache_clear()
    yield
    segment_case._predictor.cache_clear()


@pytest.fixture
def case(phantoms):
    return next(c for c in discover_cases(phantoms) if c.case_id == FIRST)


def read_ahead(case):
    with segment_case._read_meanwhile(case, MODALITIES, MAX_VOXELS) as volumes:
        pass
    return volumes


def test_the_images_that_are_read_ahead_are_those_that_the_case_would_read(case):
    ahead, expected = read_ahead(case), read_volumes({m: case.images[m] for m in MODALITIES})
    assert list(ahead) == list(MODALITIES)
    for modality, volume in ahead.items():
        assert np.array_equal(volume.array, expected[modality].array)
        assert volume.array.dtype == expected[modality].array.dtype and volume.grid.matches(expected[modality].grid)


def test_nothing_is_read_ahead_beside_a_loaded_model_nor_of_large_images(case, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(segment_case, "READ_AHEAD_VOXELS", 10)
    assert read_ahead(case) == {}
    monkeypatch.undo()
    assert read_ahead(case)
    segment_cases([case], tmp_path, SegmentOptions(models=(str(tiny_model),)))
    assert read_ahead(case) == {}


def test_a_broken_image_is_the_cases_error_also_where_it_was_read_ahead(case, phantoms, tiny_model, tmp_path):
    (tmp_path / FIRST).mkdir()
    for path in (phantoms / FIRST).iterdir():
        (tmp_path / FIRST / path.name).symlink_to(path)
    broken = tmp_path / FIRST / f"{FIRST}-t1c.nii.gz"
    image = nib.load(broken)
    voxels = np.array(image.dataobj, np.float32)
    voxels[0, 0, 0] = np.nan
    broken.unlink()
    nib.save(nib.Nifti1Image(voxels, image.affine), broken)
    (found,) = discover_cases(tmp_path)
    assert read_ahead(found) == {}
    report = segment_cases([found], tmp_path / "out", SegmentOptions(models=(str(tiny_model),)))
    assert report["status"].tolist() == ["error"]
    assert broken.name in report["reason"][0] and "NaN" in report["reason"][0]


def test_what_was_read_ahead_gives_the_mask_that_the_case_reads_for_itself(case, tiny_model, tmp_path, monkeypatch):
    options = SegmentOptions(models=(str(tiny_model),), save_probabilities=True)
    segment_cases([case], tmp_path / "ahead", options)
    segment_case._predictor.cache_clear()
    monkeypatch.setattr(segment_case, "READ_AHEAD_VOXELS", 0)
    segment_cases([case], tmp_path / "own", options)
    names = sorted(path.name for path in (tmp_path / "ahead" / FIRST).glob("*.nii.gz"))
    assert len(names) == 4
    for name in names:
        assert (tmp_path / "ahead" / FIRST / name).read_bytes() == (tmp_path / "own" / FIRST / name).read_bytes()


def test_a_second_model_reads_its_own_images(case, tiny_model, tmp_path):
    other = make_model(tmp_path / "other.safetensors", seed=1)
    report = segment_cases([case], tmp_path / "out", SegmentOptions(models=(str(tiny_model), str(other))))
    assert report["status"].tolist() == ["ok"]


# ---- nothing is written, and nothing cleaned, anywhere else ----


def run(case, output, model):
    return segment_cases([case], output, SegmentOptions(models=(str(model),)))


@pytest.mark.parametrize("missing", [False, True])
def test_a_link_in_the_place_of_a_cases_folder_is_its_error_and_is_not_written_through(
    case, tiny_model, tmp_path, missing
):
    victim, output = tmp_path / "victim", tmp_path / "out"
    output.mkdir()
    if not missing:
        victim.mkdir()
        (victim / f"{FIRST}_seg.nii.gz").write_bytes(b"another's")
    (output / FIRST).symlink_to(victim)
    report = run(case, output, tiny_model)
    assert report["status"].tolist() == ["error"]
    assert "symbolic link" in report["reason"][0] and FIRST in report["reason"][0]
    assert victim.exists() is not missing
    if not missing:
        assert [p.name for p in victim.iterdir()] == [f"{FIRST}_seg.nii.gz"]
        assert (victim / f"{FIRST}_seg.nii.gz").read_bytes() == b"another's"


def test_a_link_in_the_place_of_the_state_folder_stops_the_run(case, tiny_model, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "victim").mkdir()
    (tmp_path / "out" / ".state").symlink_to(tmp_path / "victim")
    with pytest.raises(UsageError, match=r"out/\.state: is a symbolic link"):
        run(case, tmp_path / "out", tiny_model)
    assert not list((tmp_path / "victim").iterdir())


def test_results_around_the_images_of_another_patient_are_refused_and_nothing_of_theirs_is_removed(
    phantoms, tiny_model, tmp_path
):
    root = tmp_path / "set"
    for name in ("set", "P1"):
        (root / name).mkdir(parents=True)
        for path in (phantoms / FIRST).iterdir():
            (root / name / path.name.replace(FIRST, name)).symlink_to(path)
    kept = root / "P1" / ".notes.123-deadbeef.tmp"
    kept.write_text("the user's")
    with pytest.raises(UsageError, match="results would lie among the files of"):
        segment_cases(discover_cases(root), tmp_path, SegmentOptions(models=(str(tiny_model),)))
    segment_cases(discover_cases(root), tmp_path / "out", SegmentOptions(models=(str(tiny_model),)))
    assert kept.read_text() == "the user's"


def test_names_that_differ_in_how_their_accents_are_composed_get_folders_that_do_not():
    composed, apart = "Andr\u00e9", "Andre\u0301"
    names = unique_folder_names([composed, apart])
    assert len({unicodedata.normalize("NFC", name) for name in names.values()}) == 2


# ---- what is said ----


def test_a_convention_without_labels_for_some_regions_is_said(case, tiny_model, tmp_path):
    options = SegmentOptions(models=(str(tiny_model),), convention="lgg")
    report = segment_cases([case], tmp_path, options)
    assert report["status"].tolist() == ["warn"]
    assert "lgg has no label for TC, ET" in report["reason"][0]


@pytest.mark.parametrize(
    ("options", "words"), [({"threads": 10**11}, "--threads"), ({"level": 99}, "--level 99"), ({"level": 2}, "no UNet")]
)
def test_an_option_that_cannot_be_stops_the_run_before_the_first_case(case, tiny_model, tmp_path, options, words):
    with pytest.raises(UsageError, match=words):
        segment_cases([case], tmp_path / "out", SegmentOptions(models=(str(tiny_model),), **options))
    assert not (tmp_path / "out").exists()


def test_a_folder_in_the_place_of_a_table_is_named(case, tiny_model, tmp_path):
    (tmp_path / "new" / "report.csv").mkdir(parents=True)
    with pytest.raises(UsageError, match=re.escape(str(tmp_path / "new" / "report.csv"))):
        run(case, tmp_path / "new", tiny_model)
    table = tmp_path / "earlier" / "report.csv"  # in the folder of a run, whose tables are the next one's to replace
    run(case, table.parent, tiny_model)
    table.unlink()
    table.mkdir()
    with pytest.raises(OSError) as caught:
        run(case, table.parent, tiny_model)
    assert caught.value.filename == str(table) and table.is_dir()


def test_a_reference_of_another_grid_is_not_unpacked(case, tiny_model, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(references, "read_label_map", lambda source, **k: asked.append(source))
    header = nib.load(case.reference.paths[0])
    folder = tmp_path / "in" / FIRST
    folder.mkdir(parents=True)
    for path in case.folder.iterdir():
        if path != case.reference.paths[0]:
            (folder / path.name).symlink_to(path)
    nib.save(nib.Nifti1Image(np.zeros((9, 9, 9), np.uint8), header.affine), folder / case.reference.paths[0].name)
    (found,) = discover_cases(tmp_path / "in")
    report = run(found, tmp_path / "out", tiny_model)
    assert "another grid (9x9x9" in report["reason"][0] and not asked


@pytest.mark.parametrize("reader", ["read_label_map", "read_header"])
def test_a_reference_for_which_there_is_no_memory_costs_its_scores_alone(
    case, tiny_model, tmp_path, monkeypatch, reader
):
    original = getattr(references, reader)

    def too_large(source, **options):
        if source == case.reference:
            raise MemoryError
        return original(source, **options)

    monkeypatch.setattr(references, reader, too_large)
    report = run(case, tmp_path, tiny_model)
    assert report["status"].tolist() == ["warn"] and "not scored" in report["reason"][0]
    assert "memory" in report["reason"][0] and (tmp_path / FIRST / f"{FIRST}_seg.nii.gz").is_file()


def test_a_reference_that_is_stored_turned_lies_on_the_images_grid_for_inspect_as_for_segment(case, tmp_path):
    folder = tmp_path / FIRST
    folder.mkdir()
    reference = case.reference.paths[0]
    for path in case.folder.iterdir():
        if path != reference:
            (folder / path.name).symlink_to(path)
    turned = nib.as_closest_canonical(nib.load(reference))
    flipped = turned.as_reoriented(np.array([[1, -1], [0, 1], [2, -1]]))
    nib.save(flipped, folder / reference.name)
    (found,) = inspect_cases(tmp_path, full=True)
    assert not [text for text in found["warnings"] if "its grid" in text], found["warnings"]


def test_inspect_refuses_a_limit_that_segment_refuses(phantoms):
    with pytest.raises(UsageError, match="--max-voxels -1"):
        inspect_cases(phantoms, max_voxels=-1)


def test_a_file_in_the_place_of_the_output_is_called_so(case, tiny_model, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(
        UsageError, match=r"out: cannot be written to \(a file is in its place\); choose another --output"
    ):
        run(case, tmp_path / "out", tiny_model)


def test_a_title_in_letters_that_the_font_lacks_is_drawn_without_a_word(tmp_path):
    # In a process of its own: pytest has its own filter of warnings.
    program = (
        "import sys; from pathlib import Path; import numpy as np; from data.grid import Grid\n"
        "from pipeline.report.preview import write_preview\n"
        "write_preview(Path(sys.argv[1]), '\\uac00', None, {'WT': np.ones((8, 8, 8), bool)}, "
        "Grid((8, 8, 8), np.eye(4)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "x.png")], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert (tmp_path / "x.png").is_file() and done.stderr == ""
