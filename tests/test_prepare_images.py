"""Preparation of a patient's images: what is ready stays, the rest is registered and stripped."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.errors import InputError
from data.grid import Grid
from data.io.read import Volume
from data.phantom.patient import draw_patient
from pipeline.prepare import images as prepare
from pipeline.prepare.images import choose_reference, prepare_images


@pytest.fixture(scope="module")
def patient():
    return draw_patient(5, 2.5, contrast="mri")


@pytest.fixture(autouse=True)
def on_the_grid_of_the_phantom(monkeypatch):
    """1 mm would take seconds."""
    monkeypatch.setattr(prepare, "FINE_MM", (0.75, 2.5))


@pytest.fixture
def volumes(patient) -> dict[str, Volume]:
    return {
        name: Volume(np.asfortranarray(array), patient.header(Path(f"{name}.nii.gz")))
        for name, array in patient.images.items()
    }


def moved(volume: Volume, mm: tuple[float, float, float]) -> Volume:
    affine = volume.grid.affine.copy()
    affine[:3, 3] += mm
    return Volume(volume.array, replace(volume.header, grid=Grid(volume.grid.shape, affine)))


def heads(volumes: dict[str, Volume]) -> dict[str, Volume]:
    noise = np.random.default_rng(0)
    return {n: replace(v, array=v.array + noise.integers(1, 9, v.array.shape)) for n, v in volumes.items()}


@pytest.fixture
def knows_the_brain(monkeypatch, patient):
    """A network that finds the very brain."""
    seen = []

    def found(images):
        seen.append(images)
        return np.mean([image > 20 for image in images.values()], axis=0) > 0.5

    monkeypatch.setattr(prepare, "brain_of_head", found)
    monkeypatch.setattr(prepare, "is_installed", lambda: True)
    return seen


def test_ready_images_are_left_alone(volumes):
    assert prepare_images(volumes) is None and prepare_images(volumes, "off") is None and prepare_images({}) is None


def test_a_moved_image_is_laid_back_and_the_others_keep_their_place(volumes):
    shifted = volumes | {"flair": moved(volumes["flair"], (0, 0, 9))}
    done = prepare_images(shifted)
    assert done.done == "registered" and done.reference == "t1c" and not done.stripped
    assert done.native is volumes["t1c"].header
    assert done.sentence == "FLAIR moved by 9.0 mm / 0 degrees onto T1c"
    assert done.columns["moved_mm_flair"] == pytest.approx(9, abs=0.5)
    assert set(done.moves) == {"flair"}, "what lies well is not interpolated"
    assert all(np.array_equal(done.volumes[m].array, volumes[m].array) for m in ("t1", "t1c", "t2"))
    assert all(volume.grid.matches(done.volumes["t1c"].grid) for volume in done.volumes.values())
    back, there = done.volumes["flair"].array, done.volumes["t2"].array
    assert 2 * np.sum((back > 20) & (there > 20)) / (np.sum(back > 20) + np.sum(there > 20)) > 0.97


def test_the_reference_keeps_its_voxels_where_they_are_fine_enough(volumes):
    pair = {"t1c": volumes["t1c"], "t2": moved(volumes["t2"], (8, 0, 0))}
    assert np.array_equal(prepare_images(pair).volumes["t1c"].array, volumes["t1c"].array)


@pytest.mark.parametrize("spacing_mm", [(0.9, 0.9, 5.5), (0.5, 0.5, 0.5)])
def test_thick_slices_and_very_small_voxels_become_one_millimetre(spacing_mm, monkeypatch):
    monkeypatch.setattr(prepare, "FINE_MM", (0.75, 1.25))
    own = Grid((200, 100, 30), np.diag([*spacing_mm, 1.0]))
    target = prepare._target(own)
    assert target.spacing_mm == pytest.approx((1, 1, 1))
    assert target.shape == tuple(round(n * mm) for n, mm in zip(own.shape, spacing_mm, strict=True))


def test_a_brain_that_is_laid_back_does_not_grow_by_half_a_voxel(volumes):
    shown = np.count_nonzero(volumes["flair"].array)
    laid = prepare_images(volumes | {"flair": moved(volumes["flair"], (0, 0, 8.5))}).volumes["flair"].array
    assert np.count_nonzero(laid) == pytest.approx(shown, rel=0.01)


def test_an_image_of_unknown_orientation_is_not_turned_until_it_fits(volumes):
    lost = moved(volumes["flair"], (0, 0, 9))
    lost = replace(lost, header=replace(lost.header, sform_code=0, qform_code=0))
    with pytest.raises(InputError, match=r"flair.nii.gz: has neither sform nor qform"):
        prepare_images(volumes | {"flair": lost})


def test_off_refuses_a_moved_image_and_names_the_fix(volumes):
    shifted = volumes | {"t2": moved(volumes["t2"], (12, 0, 0))}
    with pytest.raises(InputError, match=r"not registered to t1c.nii.gz: t2.nii.gz by about 1[123] mm.*--prepare auto"):
        prepare_images(shifted, "off")


def test_off_refuses_a_head_and_names_the_fix(volumes):
    with pytest.raises(InputError, match=r"a head with its skull.*; run with --prepare auto"):
        prepare_images(heads(volumes), "off")


def test_a_head_without_a_means_to_strip_it_is_refused_with_both_ways(volumes, monkeypatch):
    monkeypatch.setattr(prepare, "is_installed", lambda: False)
    with pytest.raises(InputError, match=r"install the extra `raw`.*or give brain masks with --brain-mask"):
        prepare_images(heads(volumes))


def test_a_head_is_stripped_by_a_vote_over_its_series_in_upright_axes(volumes, knows_the_brain):
    done = prepare_images(heads(volumes))
    assert done.stripped == "deepbet" and done.done == "registered+stripped"
    assert done.sentence.endswith("skull removed (deepbet)")
    (seen,) = knows_the_brain
    assert set(seen) == set(volumes)
    top_down = done.volumes["t1c"].grid.turn(done.volumes["t1c"].array, "RAS")
    # Within the mask the image is untouched: the network saw it in the same axes.
    inside = top_down != 0
    assert np.array_equal(top_down[inside], seen["t1c"][inside]) and 0.2 < inside.mean() < 0.6
    own = done.volumes["t1c"].grid
    assert np.array_equal(done.brain_on(own), np.any([v.array != 0 for v in done.volumes.values()], axis=0))
    shown = [volume.array != 0 for volume in done.volumes.values()]
    assert all(not (mask & ~shown[0]).any() or 2 * (mask & shown[0]).sum() > 1.98 * mask.sum() for mask in shown)


def test_a_brain_mask_of_the_users_own_takes_the_networks_place(volumes, patient, monkeypatch):
    monkeypatch.setattr(prepare, "is_installed", lambda: False)
    mask = Volume((patient.images["t1"] > 0).astype(np.int16), patient.header(Path("P1_brain.nii.gz")))
    done = prepare_images(heads(volumes), brain=mask)
    assert done.stripped == "P1_brain.nii.gz"
    found_ml = np.count_nonzero(done.volumes["t1"].array) * done.volumes["t1"].grid.voxel_volume_ml
    assert found_ml == pytest.approx(np.count_nonzero(mask.array) * 2.5**3 / 1000, rel=0.01)


def test_a_brain_mask_on_another_grid_than_all_images_is_refused(volumes, patient):
    header = replace(patient.header(Path("m.nii.gz")), grid=Grid((9, 9, 9), np.eye(4)))
    mask = Volume(np.ones((9, 9, 9), np.int16), header)
    with pytest.raises(InputError, match=r"m.nii.gz.*on the grid of none"):
        prepare_images(heads(volumes), brain=mask)


def test_a_brain_that_is_none_is_refused(volumes, monkeypatch):
    monkeypatch.setattr(prepare, "is_installed", lambda: True)
    monkeypatch.setattr(prepare, "brain_of_head", lambda images: np.zeros(next(iter(images.values())).shape, bool))
    with pytest.raises(InputError, match=r"the brain found in it has 0 ml \(a brain has 300 to 2300 ml\)"):
        prepare_images(heads(volumes))


def test_images_of_different_things_are_not_registered_to_each_other(volumes):
    noise = np.random.default_rng(1).integers(1, 900, volumes["t2"].array.shape).astype(np.float32)
    noise[volumes["t2"].array == 0] = 0
    noise = np.roll(noise, 12, axis=0) * (np.arange(noise.shape[1]) % 16 > 4)[None, :, None]
    with pytest.raises(InputError, match=r"t2.nii.gz could not be registered to t1c.nii.gz.*one patient's head"):
        prepare_images(volumes | {"t2": replace(volumes["t2"], array=noise)}, "always")


def test_the_reference_is_the_first_of_the_order_the_finest_or_the_one_named():
    grids = {name: Grid((9, 9, 9), np.diag([mm, mm, mm, 1.0])) for name, mm in {"t1": 2, "flair": 3, "t2": 1}.items()}
    assert [choose_reference(grids, wanted) for wanted in ("auto", "finest", "t1")] == ["flair", "t2", "t1"]
    with pytest.raises(InputError, match="no t1c image; name one of flair, t1, t2"):
        choose_reference(grids, "t1c")
