"""Training transforms: one chain for 2D and 3D, seeded, that moves images and regions together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.transforms import Compose

from transforms.augment import training_chain

SIZES = {2: ((20, 24), (16, 16)), 3: ((14, 16, 12), (8, 8, 8))}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def make_sample(dims: int, seed: int = 0, tumour: bool = True) -> dict[str, torch.Tensor]:
    """WT is a block, the core its half; the image is textured inside and 0 outside a margin."""
    size = SIZES[dims][0]
    rng = np.random.default_rng(seed)
    image = np.zeros((2, *size), np.float32)
    inside = tuple(slice(2, n - 2) for n in size)
    image[(slice(None), *inside)] = rng.normal(0, 1, image[(slice(None), *inside)].shape)
    regions = np.zeros((2, *size), np.float32)
    if tumour:
        block = tuple(slice(n // 3, n // 3 + 5) for n in size)
        regions[(0, *block)] = 1
        regions[(1, *(slice(s.start, s.start + 2) for s in block))] = 0.5
    return {"image": torch.as_tensor(image), "regions": torch.as_tensor(regions)}


def draw(dims: int, n: int, seed: int | None = 0, **options: bool) -> list[dict[str, torch.Tensor]]:
    chain = training_chain(dims, SIZES[dims][1], seed=seed)
    return [chain(make_sample(dims, **options))[0] for _ in range(n)]


def intensity_part(dims: int) -> Compose:
    """The steps after the last one that moves voxels."""
    steps = training_chain(dims, SIZES[dims][1]).transforms
    last = max(i for i, step in enumerate(steps) if "Flip" in type(step).__name__)
    return Compose(steps[last + 1 :]).set_random_state(3)


@pytest.mark.parametrize("dims", [2, 3])
def test_samples_have_the_patch_size_and_nothing_but_image_and_regions(dims: int) -> None:
    for sample in draw(dims, 5):
        assert set(sample) == {"image", "regions"}
        assert sample["image"].shape == (2, *SIZES[dims][1]) == sample["regions"].shape
        assert sample["image"].dtype == torch.float32 == sample["regions"].dtype


@pytest.mark.parametrize("dims", [2, 3])
def test_a_patch_larger_than_the_image_is_padded_with_zeros(dims: int) -> None:
    (sample,) = training_chain(dims, (40,) * dims, seed=0)(make_sample(dims))
    assert sample["image"].shape == (2, *(40,) * dims)
    assert sample["regions"].sum() > 0


@pytest.mark.parametrize("dims", [2, 3])
def test_the_same_seed_draws_the_same_samples_and_another_seed_draws_others(dims: int) -> None:
    first, again, other = draw(dims, 4, seed=7), draw(dims, 4, seed=7), draw(dims, 4, seed=8)
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a["image"], b["image"]) and torch.equal(a["regions"], b["regions"])
        assert not torch.equal(a["image"], c["image"])
    assert not torch.equal(first[0]["image"], first[1]["image"])


@pytest.mark.parametrize("dims", [2, 3])
def test_regions_stay_shares_between_0_and_1_and_the_core_stays_inside(dims: int) -> None:
    for sample in draw(dims, 20):
        regions = sample["regions"]
        assert regions.min() >= 0 and regions.max() <= 1 + 1e-6
        assert (regions[1] <= regions[0] + 1e-6).all()


@pytest.mark.parametrize("dims", [2, 3])
def test_intensity_changes_touch_the_image_alone(dims: int) -> None:
    chain, changed = intensity_part(dims), 0
    for seed in range(10):
        sample = make_sample(dims, seed)
        after = chain({key: value.clone() for key, value in sample.items()})
        changed += not torch.equal(torch.as_tensor(after["image"]), sample["image"])
        assert torch.equal(torch.as_tensor(after["regions"]), sample["regions"])
        assert torch.isfinite(after["image"]).all()
    assert changed >= 8


@pytest.mark.parametrize("dims", [2, 3])
def test_the_background_stays_exactly_0_and_a_quarter_of_the_samples_lacks_one_modality(dims: int) -> None:
    chain, blank, n = intensity_part(dims), 0, 80
    for seed in range(n):
        sample = make_sample(dims, seed % 5)
        after = chain({key: value.clone() for key, value in sample.items()})["image"]
        assert not after[:, ~sample["image"].any(dim=0)].any()
        empty = [not channel.any() for channel in after]
        assert sum(empty) <= 1
        blank += any(empty)
    assert 8 <= blank <= 34  # binomial: 20 +- 4, within three and a half deviations


@pytest.mark.parametrize("dims", [2, 3])
def test_image_and_regions_move_together(dims: int) -> None:
    steps = training_chain(dims, SIZES[dims][1], seed=1).transforms
    last = max(i for i, step in enumerate(steps) if "Flip" in type(step).__name__)
    geometry = Compose(steps[: last + 1]).set_random_state(5)
    for _ in range(10):
        sample = make_sample(dims)
        sample["image"] = sample["regions"].clone()  # the image shows just what the regions say
        moved = geometry(sample)[0]
        torch.testing.assert_close(torch.as_tensor(moved["image"]), torch.as_tensor(moved["regions"]))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("region", [0, 1])
def test_half_of_the_crops_are_centred_on_tumour_even_where_only_one_region_has_any(dims: int, region: int) -> None:
    # One voxel of tumour in the corner of a large image: a crop that is not centred on it hardly ever holds it.
    size = (64, 64) if dims == 2 else (32, 32, 32)
    chain = training_chain(dims, (6,) * dims, seed=0)
    found, n = 0, 60
    for _ in range(n):
        regions = torch.zeros(2, *size)
        regions[(region, *(slice(n // 2, n // 2 + 2) for n in size))] = 1
        sample = chain({"image": torch.randn(1, *size), "regions": regions})[0]
        found += bool(sample["regions"].any())
    # Binomial with a chance of one half, and of a few hundredths more for the crops that meet it by luck.
    assert 18 <= found <= 46


@pytest.mark.parametrize("dims", [2, 3])
def test_a_patient_without_tumour_is_cropped_anywhere(dims: int) -> None:
    (sample,) = draw(dims, 1, tumour=False)
    assert sample["image"].any() and not sample["regions"].any()
