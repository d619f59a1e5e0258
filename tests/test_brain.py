"""The brain in slices of a head, on heads that are drawn."""

from __future__ import annotations

import numpy as np
import pytest

from transforms.brain import brain_mask


def drawn_head(scalp: float = 200.0, n: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Images (1, 200, 200, n) of air, scalp, skull and brain, thinner to both ends, and the brain."""
    rows, columns = np.mgrid[:200, :200]
    image, brain = np.ones((200, 200, n)), np.zeros((200, 200, n), bool)
    for k in range(n):
        radius = np.hypot((rows - 100) / 1.2, columns - 100) + 1.5 * abs(k - n // 2)
        image[..., k] = np.select([radius < 55, radius < 62, radius < 70], [100, 5, scalp], 1)
        brain[..., k] = radius < 55
    return image[None].astype(np.float32), brain


@pytest.mark.parametrize("scalp", [60.0, 200.0, 600.0])
def test_the_brain_ends_at_the_skull_however_bright_the_scalp_is(scalp):
    images, brain = drawn_head(scalp)
    found = brain_mask(images)
    assert found.shape == brain.shape and (found | ~brain).mean() > 0.999
    assert not found[images[0] == scalp].any()  # the dark skull between may go to either


def test_ventricles_and_a_dark_tumour_at_the_border_are_brain():
    images, brain = drawn_head()
    images[0, 95:105, 90:110] = 10
    tumour = np.zeros(brain.shape, bool)
    tumour[90:110, 140:153, 3:6] = True
    images[0][tumour & brain] = 8
    found = brain_mask(images)
    assert found[95:105, 90:110, 1:-1].all() and (found & tumour & brain).sum() > 0.95 * (tumour & brain).sum()


def test_a_bridge_between_brain_and_scalp_does_not_let_the_scalp_in():
    images, brain = drawn_head()
    images[0, 98:103, 150:172, 4] = 100
    found = brain_mask(images)
    assert not found[images[0] == 200].any() and (found | ~brain).mean() > 0.999


def test_slices_that_show_no_brain_are_left_out_and_no_head_is_no_brain():
    images, brain = drawn_head()
    rng = np.random.default_rng(0)
    images[0, ..., 0] = np.where(images[0, ..., 0] > 1, rng.choice([5.0, 150.0], (200, 200)), 1)  # as a face
    found = brain_mask(images)
    assert not found[..., 0].any() and found[..., 1:].any(axis=(0, 1)).all()
    assert not brain_mask(np.zeros((2, 32, 32, 4))).any()
