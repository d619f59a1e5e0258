"""Readiness: whether a patient's images are registered and without skull."""

import math
from pathlib import Path

import numpy as np
import pytest

from data.grid import Grid
from data.phantom.patient import Phantom, draw_patient
from transforms import readiness
from transforms.readiness import examine


@pytest.fixture(scope="module")
def patient():
    return draw_patient(5, 2.0, contrast="mri")


def images_of(patient: Phantom, **elsewhere: np.ndarray) -> dict:
    """Return the images with their headers; ``elsewhere`` moves the header of a modality."""
    made = {}
    for name, array in patient.images.items():
        grid = Grid(patient.grid.shape, elsewhere.get(name, np.eye(4)) @ patient.grid.affine)
        made[name] = (array, Phantom(patient.images, patient.label_map, grid).header(Path(f"{name}.nii.gz")))
    return made


def moved(mm: tuple[float, float, float], degrees: float = 0.0) -> np.ndarray:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = np.eye(4)
    matrix[:2, :2], matrix[:3, 3] = [[c, -s], [s, c]], mm
    return matrix


def rolled(array: np.ndarray, voxels: int) -> np.ndarray:
    return np.roll(array, voxels, axis=1)


def test_a_prepared_patient_is_ready_and_nothing_is_searched(patient, monkeypatch):
    monkeypatch.setattr(readiness, "small_move", None)
    assert examine(images_of(patient)).is_ready


@pytest.mark.parametrize("mm", [(6.0, 0.0, 0.0), (0.0, 0.0, -8.0)])
def test_an_image_whose_header_moved_is_found_with_its_move(patient, mm):
    found = examine(images_of(patient, flair=moved(mm)))
    assert list(found.moved) == ["flair"] and found.reference == "t1c"
    assert found.moved["flair"].moved_mm == pytest.approx(np.linalg.norm(mm), abs=1.5)


def test_a_turned_image_is_found(patient):
    found = examine(images_of(patient, t2=moved((0, 0, 0), 6.0)))
    assert list(found.moved) == ["t2"]
    assert found.moved["t2"].degrees == pytest.approx(6, abs=1.5)


def test_voxels_that_moved_on_one_grid_are_found(patient):
    images = images_of(patient)
    images["t1"] = (rolled(images["t1"][0], 4), images["t1"][1])  # 8 mm
    assert list(examine(images).moved) == ["t1"]


def test_images_cut_out_by_masks_that_differ_a_little_are_registered(patient):
    images = images_of(patient)
    own = images["t2"][0].copy()
    own[:, :, : np.flatnonzero(own.any(axis=(0, 1)))[0] + 6] = 0  # 12 mm of its lower end
    images["t2"] = (own, images["t2"][1])
    assert examine(images).is_ready


def test_another_order_of_axes_is_no_other_place(patient, monkeypatch):
    monkeypatch.setattr(readiness, "small_move", None)
    images = images_of(patient)
    array, header = images["flair"]
    turned = Phantom({}, patient.label_map, header.grid.reoriented("SAR")).header(header.path)
    images["flair"] = (header.grid.turn(array, "SAR"), turned)
    assert examine(images).is_ready


def test_noise_in_the_air_shows_a_head_and_every_modality_is_named(patient):
    rng = np.random.default_rng(0)
    images = {
        name: (array + rng.integers(1, 9, array.shape), header) for name, (array, header) in images_of(patient).items()
    }
    found = examine(images)
    assert set(found.heads) == {"t1", "t1c", "t2", "flair"} and not found.moved


def test_slices_without_a_voxel_size_are_not_looked_at(patient):
    images = {}
    for name, (array, header) in images_of(patient, flair=moved((20.0, 0, 0))).items():
        grid = Grid(header.grid.shape, header.grid.affine, spacing_known=False)
        images[name] = (array + 1, Phantom({}, patient.label_map, grid).header(header.path))
    assert examine(images).is_ready


def test_no_images_are_ready():
    assert examine({}).is_ready
