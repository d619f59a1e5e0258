"""The bench of preparing: a scanner sees an image where it was moved, in slices that are means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.moves import random_move
from bench.preparing import acquired, told
from data.grid import Grid
from data.io.read import Volume
from data.phantom.patient import Phantom


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


def test_a_moved_image_has_its_values_where_it_was_moved_to_and_thick_slices_are_means() -> None:
    move = np.eye(4)
    move[:3, 3] = [3, -2, 40]
    seen = acquired(slope(), move, AlongZ(), 3.0, head=False)  # type: ignore[arg-type]
    assert seen.grid.spacing_mm == pytest.approx((1, 1, 3))
    place = np.linalg.solve(seen.grid.affine, [3, -2, 40, 1])[:3]
    i, j, k = np.rint(place).astype(int)
    z = seen.grid.affine[2, 3] + 3 * k
    # The middle of a slice is the mean of a slope over it: 1000 + 10 (z - 40).
    assert seen.array[i, j, k] == pytest.approx(1000 + 10 * (z - 40), abs=0.6)
    shown_ml = np.count_nonzero(seen.array) * seen.grid.voxel_volume_ml
    assert shown_ml == pytest.approx(16**3 / 1000, rel=0.2) and seen.array[seen.array > 0].min() > 600


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
        "head, 2 patients: registration error mean 0.40 mm, largest mean 0.70 mm, largest 1.50 mm; Dice of WT 0.850, "
        "unmoved 0.860; preparing 15.0 CPU s; Dice of the brain 0.980, lowest 0.970\n"
    )
