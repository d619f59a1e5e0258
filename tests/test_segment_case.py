"""The first case's images are read while what segments them is loaded; whatever is wrong is left to who needs them."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from data.case import discover_cases
from data.io import MAX_VOXELS, read_volumes
from pipeline import segment_case
from pipeline.segment import SegmentOptions, segment_cases
from tests.conftest import make_model

FIRST = "BraTS-GLI-90001-000"
MODALITIES = ("t1", "t1c", "t2", "flair")


@pytest.fixture(autouse=True)
def _nothing_loaded(monkeypatch):
    monkeypatch.setattr("pipeline.segment.write_segment_page", lambda *a: None)
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
