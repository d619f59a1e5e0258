"""Simulated first-stage probabilities: between the reference and chance, by the seed, and untouched as intensities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import RandomState

from pipeline.config import parse_config
from pipeline.training.cached import TrainingCase
from pipeline.training.sampling import PatchDataset
from tests.conftest import cascade_settings
from tests.test_sampling import STILL
from transforms.augment.chain import crop_size, training_chain
from transforms.first_stage import disturbed, simulated_first_stage, smooth_field


def balls(*radii: float, shape: tuple[int, int, int] = (48, 48, 48)) -> torch.Tensor:
    """Balls around the middle."""
    squares = sum((np.arange(n) - n // 2).reshape([-1 if a == axis else 1 for a in range(3)]) ** 2.0
                  for axis, n in enumerate(shape))  # fmt: skip
    return torch.as_tensor(np.stack([squares < r**2 for r in radii])).float()


def dice(one: torch.Tensor, other: torch.Tensor) -> float:
    a, b = one > 0.5, other > 0.5
    return float(2 * (a & b).sum() / (a.sum() + b.sum()).clamp(min=1))


def test_without_errors_it_is_the_reference_as_coarse_as_the_first_grid() -> None:
    shares = balls(14, 8)
    p = simulated_first_stage(shares, RandomState(0), errors=0)
    for index in range(2):
        assert dice(p[index], shares[index]) > 0.97
    assert p.min() >= 0 and p.max() <= 1
    # Half a voxel of 2 of blur: on the axis the ball of radius 14 ends between offsets 13 and 14.
    line = p[0, 24:, 24, 24]
    assert line[10] > 0.95 and line[17] < 0.05 and 0.4 < line[13:15].mean() < 0.6


def test_errors_are_like_a_first_networks_from_nearly_right_to_missed() -> None:
    shares = balls(14, 8)
    scores = np.array(
        [
            [dice(answer[i], shares[i]) for i in range(2)]
            for seed in range(30)
            if (answer := simulated_first_stage(shares, RandomState(seed))) is not None
        ]
    )
    assert 0.75 < scores[:, 0].mean() < 0.97 and scores[:, 0].max() > 0.95 and scores[:, 0].min() < 0.7
    assert scores[:, 1].mean() < scores[:, 0].mean()  # what is smaller is hit less well
    far = simulated_first_stage(shares, RandomState(0), errors=3.0)
    assert dice(far[0], shares[0]) < scores[:, 0].mean()


def test_something_is_invented_now_and_then_and_something_missed() -> None:
    shares, nothing = balls(14), torch.zeros(1, 48, 48, 48)
    invented = [bool((simulated_first_stage(nothing, RandomState(seed)) > 0.5).any()) for seed in range(30)]
    assert 3 <= sum(invented) <= 25
    missed = [
        float((simulated_first_stage(shares, RandomState(seed)) > 0.5)[shares > 0.5].float().mean())
        for seed in range(30)
    ]
    assert min(missed) < 0.8 and max(missed) > 0.95


def test_the_seed_decides_and_the_reference_stays() -> None:
    shares = balls(10, 5, shape=(20, 24, 3))
    before = shares.clone()
    one, two, other = (simulated_first_stage(shares, RandomState(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert torch.equal(shares, before) and one.shape == shares.shape and one.dtype == torch.float32
    given = torch.rand(2, 8, 8, 1)
    assert torch.equal(disturbed(given, RandomState(0), errors=0), given)


def test_what_the_reference_cannot_tell_is_taken_from_around_it() -> None:
    shares = balls(14, 8)
    unknown, gap = shares.clone(), shares.clone()
    unknown[1] = float("nan")
    gap[1, :, :, 20:] = float("nan")
    for p in (
        simulated_first_stage(unknown, RandomState(0), errors=0),
        simulated_first_stage(gap, RandomState(0), errors=0),
    ):
        assert bool(p.isfinite().all())
        np.testing.assert_allclose(p[1, :, :, 26:], p[0, :, :, 26:], atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 1, 1), (30, 20, 1), (7, 5, 3), (2, 40, 40)])
def test_any_size_of_sample_has_a_smooth_field(shape: tuple[int, int, int]) -> None:
    field = smooth_field(shape, RandomState(0))
    assert field.shape == shape and bool(field.isfinite().all())
    assert simulated_first_stage(torch.ones(2, *shape), RandomState(0)).shape == (2, *shape)


# -------------------------------------------------------------------------------------------------- in the samples


def test_intensity_changes_leave_probabilities_alone_and_moves_take_them_along() -> None:
    size = crop_size(3, (16, 16, 16))
    image = torch.rand(3, *size) + 1
    image[2] = torch.arange(image[2].numel()).reshape(size) / image[2].numel()
    loud: dict[str, Any] = dict.fromkeys(("contrast", "brightness", "gamma", "bias_field", "noise", "blur"), 0.9)
    still: dict[str, Any] = {
        "rotate_degrees": 0,
        "scale": 0,
        "elastic": 0,
        "missing_modality": 1.0,
        "low_resolution": 1.0,
    }
    middle = tuple(slice((n - 16) // 2, (n - 16) // 2 + 16) for n in size)
    chain = training_chain(3, (16, 16, 16), **loud, **still, flip_axes=(), n_probabilities=1)
    for seed in range(5):
        chain.set_random_state(seed)
        out = chain({"image": image, "regions": image[2:]})
        assert torch.equal(out["image"][2], image[2][middle])  # to the bit
        assert not torch.equal(out["image"][:2], image[:2][(slice(None), *middle)])
    chain = training_chain(3, (16, 16, 16), n_probabilities=1)
    chain.set_random_state(0)
    out = chain({"image": image, "regions": image[2:]})
    assert torch.equal(out["image"][2], out["regions"][0]) and not torch.equal(out["image"][2], image[2][middle])


def test_probabilities_are_0_where_no_image_shows_anything() -> None:
    size = crop_size(2, (8, 8), 1)
    image = torch.ones(3, *size)
    image[:2, :6] = 0
    image[1, :7] = 0
    chain = training_chain(2, (8, 8), **STILL, n_probabilities=1)
    out = chain({"image": image, "regions": torch.zeros(1, *size)})["image"].unflatten(0, (3, 3))
    start = (size[0] - 8) // 2
    assert out[2, :, : 6 - start].eq(0).all() and out[2, :, 6 - start :].eq(1).all()


def test_the_second_networks_samples_hold_the_modalities_and_the_fed_regions() -> None:
    plain = cascade_settings(dims=(2, 2), regions=("WT", "TC"), modalities=("t1", "flair"))
    plain["augment"] = STILL
    plain["first"] |= {"regions": ["TC"], "errors": 0}
    plain["network"]["in_channels"] = 9
    plain["window"]["context"] = 1
    config = parse_config(plain, "test")
    voxels = np.ones((4, 40, 40, 5), np.float16)
    voxels[2:] = balls(14, 8, shape=(40, 40, 5)).numpy()
    case = TrainingCase("a", "patient", voxels, 2, {"WT": np.array([[20, 20, 2]], np.int16)})
    sample = PatchDataset([case], config)[0]
    assert sample["image"].shape == (9, 16, 16) and sample["regions"].shape == (2, 16, 16)
    fed = sample["image"][6:]
    assert dice(fed[1], sample["regions"][1]) > 0.9 and dice(fed[1], sample["regions"][0]) < 0.9
    assert torch.equal(PatchDataset([case], config)[0]["image"], sample["image"])
