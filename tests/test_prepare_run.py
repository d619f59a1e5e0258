"""Preparation of a folder: images for any model, with the reference and the moves beside them."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from data.case import ImageSource
from data.find.discover import discover_cases
from data.grid import Grid
from data.io.read import read_volume, write_image
from pipeline.options import SegmentOptions
from pipeline.prepare import images as prepare
from pipeline.prepare.run import prepare_cases
from pipeline.segment.commit import write_grids

READY, MOVED = "BraTS-GLI-90001-000", "BraTS-GLI-90002-000"


def move_header(path: Path, mm: tuple[float, float, float]) -> None:
    volume = read_volume(ImageSource((path,)))
    affine = volume.grid.affine.copy()
    affine[:3, 3] += mm
    header = replace(volume.header, grid=Grid(volume.grid.shape, affine), placement={}, qform=None)
    path.unlink()
    write_image(path, volume.array.astype(np.int16), header)


@pytest.fixture(scope="module")
def done(phantoms, tmp_path_factory):
    """Two phantoms, of whom the second has T1c and his reference elsewhere; T1c is the reference of the others."""
    root = tmp_path_factory.mktemp("examinations")
    for name in (READY, MOVED):
        shutil.copytree(phantoms / name, root / name)
    for what in ("t2f", "t2w"):
        move_header(root / MOVED / f"{MOVED}-{what}.nii.gz", (0, 18, 6))
    output = root.parent / f"{root.name}-prepared"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "FINE_MM", (0.75, 6))
        report = prepare_cases(discover_cases(root), output, SegmentOptions())
        again = prepare_cases(discover_cases(root), output, SegmentOptions())
    return root, output, report.set_index("case"), again


def test_a_ready_patient_is_written_as_he_came(done, phantoms):
    _, output, report, _ = done
    assert (report.loc[READY, "status"], report.loc[READY, "prepared"]) == ("ok", "")
    for ours, his in (("t1", "t1n"), ("t1c", "t1c"), ("t2", "t2w"), ("flair", "t2f"), ("seg", "seg")):
        one = nib.load(output / READY / f"{READY}_{ours}.nii.gz")
        other = nib.load(phantoms / READY / f"{READY}-{his}.nii.gz")
        assert np.array_equal(one.dataobj, other.dataobj) and np.allclose(one.affine, other.affine, atol=1e-4)


def test_a_moved_patient_is_registered_and_the_row_says_how_far(done):
    _, output, report, _ = done
    row = report.loc[MOVED]
    assert (row["status"], row["prepared"]) == ("warn", "registered")
    assert row["moved_mm_flair"] == pytest.approx(np.hypot(18, 6), abs=1.5)
    assert "FLAIR moved by" in row["reason"] and "onto T1c" in row["reason"]
    assert (output / MOVED / f"{MOVED}_xfm_flair.txt").read_text().startswith("#Insight Transform File")
    shown = [np.asarray(nib.load(output / MOVED / f"{MOVED}_{m}.nii.gz").dataobj) > 20 for m in ("t1c", "flair")]
    assert 2 * np.sum(shown[0] & shown[1]) / (shown[0].sum() + shown[1].sum()) > 0.95


def test_what_is_prepared_is_found_with_its_reference_and_needs_nothing_more(done):
    _, output, _, _ = done
    cases = {case.case_id: case for case in discover_cases(output)}
    assert set(cases) == {READY, MOVED}
    for case in cases.values():
        assert set(case.images) == {"t1", "t1c", "t2", "flair"} and case.reference is not None and not case.problems
        volumes = {m: read_volume(source) for m, source in case.images.items()}
        assert len({volume.array.shape for volume in volumes.values()}) == 1
        assert prepare.prepare_images({m: volumes[m] for m in ("t1c", "t1")}, "off") is None


def test_a_reference_on_a_moved_image_goes_with_it(phantoms, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "FINE_MM", (0.75, 6))
    shutil.copytree(phantoms / MOVED, tmp_path / "in" / MOVED)
    for what in ("t1n", "t2w", "t2f", "seg"):
        move_header(tmp_path / "in" / MOVED / f"{MOVED}-{what}.nii.gz", (15, 0, 0))
    prepare_cases(discover_cases(tmp_path / "in"), tmp_path / "out", SegmentOptions())
    found = np.asarray(nib.load(tmp_path / "out" / MOVED / f"{MOVED}_seg.nii.gz").dataobj) > 0
    truth = np.asarray(nib.load(phantoms / MOVED / f"{MOVED}-seg.nii.gz").dataobj) > 0
    assert 2 * np.sum(found & truth) / (found.sum() + truth.sum()) > 0.9


def test_a_patient_whose_folder_is_there_is_an_error_row_and_nothing_is_replaced(done):
    _, output, _, again = done
    assert list(again["status"]) == ["error", "error"] and again["reason"].str.contains("is there already").all()
    assert (output / READY / f"{READY}_t1.nii.gz").is_file()


def test_segment_keeps_the_brain_of_a_stripped_head_and_none_of_a_brain(phantoms, tmp_path):
    volume = read_volume(ImageSource((phantoms / READY / f"{READY}-t1c.nii.gz",)))
    files = SimpleNamespace(path=lambda what: tmp_path / f"{what}.nii.gz")
    for means in ("", "deepbet"):
        assert not (tmp_path / "brain.nii.gz").exists()
        done = prepare.Prepared({"t1c": volume}, "t1c", {"t1c": volume.header}, {}, means)
        write_grids(files, SimpleNamespace(native=volume.header), SimpleNamespace(prepared=done, places={}))
    brain = nib.load(tmp_path / "brain.nii.gz")
    assert np.array_equal(np.asarray(brain.dataobj), volume.array != 0)
    assert np.allclose(brain.affine, volume.grid.affine, atol=1e-4)
