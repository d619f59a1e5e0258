"""The bench of preparing: a scanner sees an image where it was moved, in slices that are means."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from bench.moves import random_move
from bench.preparing import _errors, _onto, acquired, told
from data.grid import Grid
from data.io.read import Volume
from data.phantom.head import NOISE
from data.phantom.patient import Phantom
from transforms.registration.move import Move


class AlongZ:
    """Random numbers that lay slices across the third axis."""

    def integers(self, *_: int) -> int:
        return 2


def slope() -> Volume:
    """Return a brain of 24 mm whose value is 1000 + 10 z, around the origin (LPS, 1 mm)."""
    n = 24
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[:3, 3] = [n / 2, n / 2, -n / 2]
    array = np.zeros((n, n, n), np.float32)
    array[4:20, 4:20, 4:20] = 1000 + 10 * (np.arange(4, 20) - n / 2)
    grid = Grid((n, n, n), affine)
    return Volume(array, Phantom({}, np.zeros((n, n, n), np.uint8), grid).header(Path("t2.nii.gz")))


@pytest.mark.parametrize(("thick_mm", "slices"), [(3.0, 8), (5.0, 5)])
def test_a_moved_image_has_its_values_where_it_was_moved_to_and_thick_slices_are_means(
    thick_mm: float, slices: int
) -> None:
    move = np.eye(4)
    move[:3, 3] = [3, -2, 40]
    seen = acquired(slope(), move, AlongZ(), thick_mm, head=False)  # type: ignore[arg-type]
    assert seen.grid.spacing_mm == pytest.approx((1, 1, thick_mm)) and seen.grid.shape[2] == slices
    place = np.linalg.solve(seen.grid.affine, [3, -2, 40, 1])[:3]
    i, j, k = np.rint(place).astype(int)
    z = seen.grid.affine[2, 3] + thick_mm * k
    # The middle of a slice is the mean of a slope over it: 1000 + 10 (z - 40).
    assert seen.array[i, j, k] == pytest.approx(1000 + 10 * (z - 40), abs=0.6)
    shown_ml = np.count_nonzero(seen.array) * seen.grid.voxel_volume_ml
    assert shown_ml == pytest.approx(16**3 / 1000, rel=0.2) and seen.array[seen.array > 0].min() > 600


class NoisyAlongZ(AlongZ):
    """The same, and noise."""

    def __init__(self) -> None:
        self.rayleigh = np.random.default_rng(0).rayleigh


def test_beyond_a_moved_head_is_the_noise_of_air() -> None:
    move = np.eye(4)
    move[0, 3] = 8
    volume = slope()
    seen = acquired(volume, move, NoisyAlongZ(), 1.0, head=True)  # type: ignore[arg-type]
    median = np.median(volume.array[volume.array > 0])
    assert seen.array[:7].mean() == pytest.approx(NOISE * median * np.sqrt(np.pi / 2), rel=0.05)
    assert not seen.array[8:12].any(), "what the image shows is as it was"


def test_the_error_of_an_image_is_how_far_its_places_were_laid_from_where_they_are() -> None:
    places = np.c_[np.random.default_rng(1).uniform(-60, 60, (20, 3)), np.ones(20)]
    move = np.eye(4)
    move[:3, 3] = [2, -2, 1]
    truth = {"t1c": np.eye(4), "t2": move}
    assert _errors(None, truth, places) == pytest.approx({"error_mean_mm_t2": 3.0, "error_max_mm_t2": 3.0})
    found = SimpleNamespace(moves={"t2": Move(move, np.zeros(3), 1.0)})
    assert _errors(found, truth, places) == {"error_mean_mm_t2": 0.0, "error_max_mm_t2": 0.0}  # type: ignore[arg-type]


def test_a_mask_is_brought_to_a_grid_where_it_has_half_of_a_voxel() -> None:
    mask = np.zeros((9, 3, 3), bool)
    mask[3:7] = True
    further = np.eye(4)
    further[0, 3] = 0.4
    there = _onto(mask, Grid(mask.shape, np.eye(4)), Grid(mask.shape, further))
    assert np.flatnonzero(there[:, 1, 1]).tolist() == [3, 4, 5, 6]


def test_a_random_move_goes_as_far_as_it_is_told_about_the_middle() -> None:
    middle = np.array([10.0, -20.0, 30.0])
    move = random_move(np.random.default_rng(3), 7.0, 12.0, middle)
    assert np.linalg.norm(move[:3, :3] @ middle + move[:3, 3] - middle) == pytest.approx(7)
    assert np.degrees(np.arccos((np.trace(move[:3, :3]) - 1) / 2)) == pytest.approx(12)


def test_the_means_are_over_all_images_and_the_largest_error_is_told() -> None:
    rows = {"case": ["a", "b"], "kind": "head", "error_mean_mm_t1": [0.2, 0.4], "error_mean_mm_t2": [0.3, 0.7]}
    rows |= {"error_max_mm_t1": [0.5, 1.5], "error_max_mm_t2": [0.6, 0.8], "dice_WT": [0.8, 0.9]}
    rows |= {"dice_WT_unmoved": [0.82, 0.9], "prepare_cpu_seconds": [10.0, 20.0], "dice_brain": [0.97, 0.99]}
    assert told(pd.DataFrame(rows)) == (
        "head, 2 patients: registration error mean 0.40 mm, largest mean 0.70 mm, largest 1.50 mm; preparing "
        "15.0 CPU s; Dice of WT 0.850, unmoved 0.860; Dice of the brain 0.980, lowest 0.970\n"
    )
