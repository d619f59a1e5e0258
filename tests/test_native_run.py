"""Runs with `--native` and `--space mni`: which masks are written, listed, kept, and removed."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from data.case import GRID_ORDER, ImageSource
from data.errors import InputError
from data.find.discover import discover_cases
from data.grid import Grid
from data.io.read import read_header, read_volume
from pipeline.commands.terminal.lines import case_object
from pipeline.options import SegmentOptions
from pipeline.predict.predictor import Predictor
from pipeline.prepare import grids
from pipeline.prepare.case import _alone
from pipeline.segment.run import segment_cases
from tests.conftest import read_mask
from transforms.registration.move import Move

FIRST = "BraTS-GLI-90001-000"
NATIVE = {f"{FIRST}_seg_{modality}.nii.gz" for modality in GRID_ORDER}


@pytest.fixture(autouse=True)
def _no_page(monkeypatch):
    monkeypatch.setattr("pipeline.segment.results.write_segment_page", lambda *a: None)


@pytest.fixture(scope="module")
def patient(phantoms, tmp_path_factory):
    """A phantom whose T2 lies in a box of its own of the same voxels: two fewer at the start of the first axis."""
    root = tmp_path_factory.mktemp("cropped")
    shutil.copytree(phantoms / FIRST, root / FIRST)
    path = root / FIRST / f"{FIRST}-t2w.nii.gz"
    image = nib.load(path)
    cut = image.slicer[2:]
    assert not np.asarray(image.dataobj)[:2].any(), "only air was cut off"
    nib.save(nib.Nifti1Image(np.asarray(cut.dataobj), cut.affine, cut.header), path)
    return discover_cases(root)[0]


def run(case, output, model, **options):
    report = segment_cases([case], output, SegmentOptions(models=(str(model),), **options))
    return report.iloc[0].to_dict()


def masks(output: Path) -> set[str]:
    return {path.name for path in (output / FIRST).glob("*_seg_*.nii.gz")}


@pytest.fixture(scope="module")
def done(patient, tiny_model, tmp_path_factory):
    output = tmp_path_factory.mktemp("native")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.segment.results.write_segment_page", lambda *a: None)
        return output, run(patient, output, tiny_model, native=True)


def test_every_image_has_the_mask_on_its_own_grid(done, patient):
    output, _ = done
    own = output / FIRST / f"{FIRST}_seg.nii.gz"
    mask = read_mask(own)
    assert masks(output) == NATIVE and mask.any()
    for modality in ("t1", "t1c", "flair"):
        assert (output / FIRST / f"{FIRST}_seg_{modality}.nii.gz").read_bytes() == own.read_bytes()
    cut = ImageSource((output / FIRST / f"{FIRST}_seg_t2.nii.gz",))
    assert np.array_equal(read_mask(cut.paths[0]), mask[2:])
    assert read_header(cut).grid.matches(read_header(patient.images["t2"]).grid)


def test_the_masks_stand_in_the_record_and_in_the_object_of_the_case(done):
    output, row = done
    (case,) = json.loads((output / "run.json").read_text())["cases"].values()
    assert {Path(name).name for name in case["grids"]} == NATIVE
    assert case["moves"] == {}
    assert case["checks"] == ["Registered: the images lie on each other", "Skull: none seen"]
    listed = case_object(row, output, False)["masks"]
    assert {Path(path).name for path in listed.values()} == NATIVE and list(listed) == ["t1", "t1c", "t2", "flair"]


def test_a_finished_case_is_kept_and_its_further_masks_go_when_they_are_no_longer_asked_for(
    done, patient, tiny_model, tmp_path
):
    output = tmp_path / "out"
    shutil.copytree(done[0], output)
    rows = []
    options = SegmentOptions(models=(str(tiny_model),), native=True)
    segment_cases([patient], output, options, progress=rows.append)
    assert rows[0]["already_done"]
    run(patient, output, tiny_model)
    assert masks(output) == set() and (output / FIRST / f"{FIRST}_seg.nii.gz").is_file()


def test_a_further_mask_that_was_corrected_by_hand_is_not_replaced_without_overwrite(
    done, patient, tiny_model, tmp_path
):
    output = tmp_path / "out"
    shutil.copytree(done[0], output)
    path = output / FIRST / f"{FIRST}_seg_t1.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine, image.header), path)
    corrected = path.read_bytes()
    row = run(patient, output, tiny_model, native=True)
    assert row["status"] == "error" and f"{FIRST}_seg_t1.nii.gz: is not the mask that a run wrote" in row["reason"]
    assert path.read_bytes() == corrected
    assert run(patient, output, tiny_model, native=True, overwrite=True)["status"] != "error"
    assert path.read_bytes() != corrected


def test_the_memory_of_further_grids_is_counted(patient, tiny_model):
    predictor = Predictor(tiny_model)
    large = Grid((300, 300, 300), np.eye(4))
    least = 300**3 * (4 + 1)  # the probability of a region, and the label map
    assert predictor.predicted_bytes(patient, elsewhere=[large]) - predictor.predicted_bytes(patient) > least


# ---- MNI space ----


class Template:
    """In the place of MNI152: the patient's own grid, 10 mm further to the right, so that all is worked out by hand."""

    def __init__(self, patient, monkeypatch, **move):
        header = read_header(patient.images["t1c"])
        affine = header.grid.affine.copy()
        affine[0, 3] += 10
        self.header = replace(header, grid=Grid(header.grid.shape, affine), placement={}, qform=None)
        back = np.eye(4)
        back[0, 3] = -10
        self.move = Move(**{"matrix": back, "middle_mm": np.zeros(3), "information": 0.7, "overlap": 0.95, **move})
        monkeypatch.setattr(grids, "template", lambda: (self.header, None))
        monkeypatch.setattr(grids, "register_head", lambda fixed, moving: self.move)


def test_the_mask_lies_in_the_template_where_the_transform_leads(patient, tiny_model, tmp_path, monkeypatch):
    template = Template(patient, monkeypatch)
    row = run(patient, tmp_path, tiny_model, space="mni")
    assert masks(tmp_path) == {f"{FIRST}_seg_mni.nii.gz"} and "MNI" not in row["reason"]
    path = tmp_path / FIRST / f"{FIRST}_seg_mni.nii.gz"
    assert np.array_equal(read_mask(path), read_mask(tmp_path / FIRST / f"{FIRST}_seg.nii.gz"))
    assert read_header(ImageSource((path,))).grid.matches(template.header.grid)
    way = sitk.ReadTransform(str(tmp_path / FIRST / f"{FIRST}_xfm_mni.txt"))
    assert way.TransformPoint((-30.0, 5.0, 7.0)) == pytest.approx((-20.0, 5.0, 7.0))  # x = 30 mm is the patient's 20
    (case,) = json.loads((tmp_path / "run.json").read_text())["cases"].values()
    assert case["moves"] == {"mni": {"information": 0.7, "overlap": 0.95}}


@pytest.mark.parametrize(
    ("move", "said"),
    [
        ({"information": 0.5}, r"mutual information 0\.50, at least"),
        ({"information": math.nan}, r"mutual information nan"),
        ({"overlap": 0.8}, r"overlap 0\.80, at least"),
        ({"overlap": math.nan}, r"overlap nan"),
        ({"matrix": np.diag([2.0, 2, 2, 1])}, r"2\.00 x 2\.00 x 2\.00 times the template's size.*voxel size"),
        ({"matrix": np.diag([-1.0, 1, 1, 1])}, r"-1\.00"),
    ],
)
def test_a_registration_that_is_not_believed_is_refused_in_one_sentence(patient, monkeypatch, move, said):
    Template(patient, monkeypatch, **move)
    with pytest.raises(InputError, match=rf"t1c\.nii\.gz: could not be registered \({said}"):
        grids.mni_place(read_volume(patient.images["t1c"]))


def test_an_image_that_tells_no_place_is_not_registered(patient):
    volume = read_volume(patient.images["t1c"])
    unknown = Grid(volume.grid.shape, volume.grid.affine, spacing_known=False)
    for change, said in (
        ({"grid": unknown}, "no known voxel size"),
        ({"sform_code": 0, "qform_code": 0}, "neither sform"),
    ):
        with pytest.raises(InputError, match=said):
            grids.mni_place(replace(volume, header=replace(volume.header, **change)))


def test_a_failed_template_costs_that_mask_alone_and_the_row_warns(patient, tiny_model, tmp_path, monkeypatch):
    Template(patient, monkeypatch, information=0.1)
    row = run(patient, tmp_path, tiny_model, space="mni")
    assert row["status"] == "warn" and "no mask in MNI space: " in row["reason"] and masks(tmp_path) == set()


def test_a_head_without_a_means_to_strip_it_and_no_image_at_all_are_refused(patient, monkeypatch):
    monkeypatch.setattr(grids, "shows_head", lambda seen: True)
    monkeypatch.setattr(grids, "is_installed", lambda: False)
    with pytest.raises(InputError, match="a head with its skull, and the template has none; install the extra `raw`"):
        grids.mni_place(read_volume(patient.images["t1c"]))
    with pytest.raises(InputError, match="no T1c or T1"):
        grids.mni_place(None)


# ---- one image elsewhere ----


def test_an_image_that_alone_lies_on_another_grid_is_named(patient):
    own = {m: read_header(patient.images[m]) for m in ("t1", "t1c", "flair")}
    other = read_header(patient.images["t2"])
    odd = dict.fromkeys(("t1", "t2", "flair"), own["t1"]) | {"t1c": other}
    assert _alone(odd, None) == [f"{other.path.name} alone lies on another grid than the other 3 images"]
    assert _alone({**own, "t2": other}, None) == [], "the preprocessing names it"
    assert _alone({**own, "t2": own["t1"]}, None) == [] and _alone({"t1": own["t1"], "t1c": other}, None) == []
    assert _alone({"t1": own["t1"], "t2": own["t1"], "t1c": other, "flair": other}, None) == [], "two and two"
