"""Training transforms: one chain for 2D, 2.5D and 3D, where voxels come from and what may happen to their values."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import scipy.ndimage as ndi
import torch

from transforms.augment.chain import RandChanged, RandMoved, crop_size, training_chain
from transforms.planes import slices_as_channels

NOTHING: dict[str, Any] = {
    "rotate_degrees": 0.0,
    "scale": 0.0,
    "elastic": 0.0,
    "flip_axes": (),
    "contrast": 0.0,
    "brightness": 0.0,
    "gamma": 0.0,
    "bias_field": 0.0,
    "noise": 0.0,
    "blur": 0.0,
    "low_resolution": 0.0,
    "missing_modality": 0.0,
}
INTENSITY = {
    "contrast": 0.3,
    "brightness": 0.3,
    "gamma": 0.4,
    "bias_field": 0.2,
    "noise": 0.1,
    "blur": 0.8,
    "low_resolution": 1.0,
}
# spatial_dims, patch, context: odd and even sizes, a thin axis
CASES = [(2, (20, 14), 0), (2, (9, 16), 1), (2, (16, 16), 2), (3, (12, 9, 10), 0), (3, (8, 10, 1), 0)]


def make_sample(
    dims: int, patch: Sequence[int], context: int = 0, modalities: int = 2, regions: int = 2
) -> dict[str, torch.Tensor]:
    """Random numbers, none of them 0, at the crop's size."""
    generator = torch.Generator().manual_seed(1)
    size = crop_size(dims, patch, context)
    image = torch.randn(modalities, *size, generator=generator)
    return {
        "image": torch.where(image.abs() < 1e-3, 1.0, image),
        "regions": torch.rand(regions, *size, generator=generator),
    }


def middle_of(array: torch.Tensor, patch: Sequence[int]) -> torch.Tensor:
    """The middle of the crop by plain slicing, along as many axes as the patch has."""
    starts = [(n - inner) // 2 for n, inner in zip(array.shape[1:], patch, strict=False)]
    return array[(slice(None), *(slice(s, s + n) for s, n in zip(starts, patch, strict=True)))]


def by_slicing(sample: dict[str, torch.Tensor], dims: int, patch: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """What the chain gives when nothing happens."""
    image, regions = middle_of(sample["image"], patch), middle_of(sample["regions"], patch)
    if dims == 3:
        return image, regions
    slices = image.shape[-1]
    channels = [image[m, ..., k] for m in range(len(image)) for k in range(slices)]
    return torch.stack(channels), regions[..., slices // 2]


def run(sample: dict[str, torch.Tensor], dims: int, patch: Sequence[int], seed: int = 0, **options: Any) -> Any:
    chain = training_chain(dims, patch, **{**NOTHING, **options}).set_random_state(seed)
    return chain(sample)


# ------------------------------------------------------------------------------------------------------- the size


def test_a_crop_has_15_percent_of_the_patch_on_each_side() -> None:
    assert crop_size(3, (64, 100, 20)) == (84, 130, 26)  # 64 + 2 * 10, 100 + 2 * 15, 20 + 2 * 3
    assert crop_size(2, (96, 112), context=1) == (126, 146, 3)  # 96 + 2 * 15, 112 + 2 * 17
    assert crop_size(2, (96, 112)) == (126, 146, 1)


@pytest.mark.parametrize("n", range(1, 40))
def test_a_crops_middle_is_its_patchs_to_the_voxel(n: int) -> None:
    assert (crop_size(3, (n, n, n))[0] - n) % 2 == 0


def test_the_crops_margin_shows_the_corners_of_a_patch_that_is_rotated_by_15_degrees() -> None:
    sample = {"image": torch.ones(1, *crop_size(2, (40, 40))), "regions": torch.ones(1, *crop_size(2, (40, 40)))}
    for seed in range(10):
        assert run(sample, 2, (40, 40), seed, rotate_degrees=15.0)["image"].min() > 0.999


@pytest.mark.parametrize(("dims", "patch", "context"), CASES)
def test_samples_have_the_patch_size_and_are_plain_float32_tensors(
    dims: int, patch: tuple[int, ...], context: int
) -> None:
    chain = training_chain(dims, patch, missing_modality=0.5)
    for seed in range(8):
        sample = chain.set_random_state(seed)(make_sample(dims, patch, context))
        assert set(sample) == {"image", "regions"}
        assert sample["image"].shape == (2 * (2 * context + 1), *patch) and sample["regions"].shape == (2, *patch)
        for value in sample.values():
            assert type(value) is torch.Tensor and value.dtype == torch.float32 and torch.isfinite(value).all()


def test_a_crop_of_another_size_is_refused() -> None:
    sample = make_sample(3, (10, 10, 10))
    with pytest.raises(ValueError, match=r"a patch of \(12, 12, 12\) is cut from \(16, 16, 16\) voxels"):
        RandMoved((12, 12, 12), 15.0, 0.2, 0.0, ())(sample)


# --------------------------------------------------------------------------------------- where the voxels come from


@pytest.mark.parametrize(("dims", "patch", "context"), CASES)
def test_with_every_option_off_the_patch_is_the_middle_of_the_crop_to_the_bit(
    dims: int, patch: tuple[int, ...], context: int
) -> None:
    sample = make_sample(dims, patch, context)
    image, regions = by_slicing(sample, dims, patch)
    result = run(sample, dims, patch)
    assert torch.equal(result["image"], image) and torch.equal(result["regions"], regions)


@pytest.mark.parametrize(("dims", "patch", "context"), CASES)
def test_mirroring_turns_image_and_regions_round_exactly_along_each_axis_in_half_of_the_samples(
    dims: int, patch: tuple[int, ...], context: int
) -> None:
    sample = make_sample(dims, patch, context)
    image, regions = by_slicing(sample, dims, patch)
    for axis in range(dims):
        turned, n = 0, 60
        for seed in range(n):
            result = run(sample, dims, patch, seed, flip_axes=(axis,))
            flipped = patch[axis] > 1 and not torch.equal(result["image"], image)
            expected = [image.flip(1 + axis), regions.flip(1 + axis)] if flipped else [image, regions]
            assert torch.equal(result["image"], expected[0]) and torch.equal(result["regions"], expected[1])
            turned += flipped
        assert patch[axis] == 1 or 15 <= turned <= 45  # binomial: 30 +- 3.9


def test_a_slice_is_not_mirrored_along_the_axis_that_it_does_not_have() -> None:
    sample = make_sample(2, (10, 12), 1)
    for seed in range(10):
        assert torch.equal(
            run(sample, 2, (10, 12), seed, flip_axes=(2,))["image"], run(sample, 2, (10, 12), seed)["image"]
        )


def by_scipy(volume: np.ndarray, matrix: np.ndarray, patch: Sequence[int]) -> np.ndarray:
    """Offsets from the patch's middle, multiplied by ``matrix``, are offsets from the crop's middle."""
    start = (np.array(volume.shape) - 1) / 2 - matrix @ ((np.array(patch) - 1) / 2)
    return ndi.affine_transform(
        volume.astype(np.float64), matrix, start, output_shape=tuple(patch), order=1, mode="constant"
    )


@pytest.mark.parametrize(("dims", "patch", "context"), [(2, (14, 11), 1), (3, (12, 9, 10), 0)])
@pytest.mark.parametrize("seed", range(3))
def test_moved_voxels_are_those_of_scipys_affine_transform(
    dims: int, patch: tuple[int, ...], context: int, seed: int
) -> None:
    sample = make_sample(dims, patch, context)
    moved = RandMoved(patch, 30.0, 0.3, 0.0, (0, 1, 2))
    moved.set_random_state(seed)
    matrix = moved._matrix()
    moved.set_random_state(seed)
    result = moved(sample)
    for image, source in zip(result["image"], sample["image"].numpy(), strict=True):
        for k in range(2 * context + 1):
            plane = source[..., k] if dims == 2 else source
            np.testing.assert_allclose(image[k], by_scipy(plane, matrix, patch), atol=1e-4)
    for region, source in zip(result["regions"], sample["regions"].numpy(), strict=True):
        plane = source[..., context] if dims == 2 else source
        np.testing.assert_allclose(region, by_scipy(plane, matrix, patch), atol=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_matrix_is_a_rotation_times_scalings_within_the_options_bounds(dims: int) -> None:
    moved = RandMoved((8,) * dims, 20.0, 0.2, 0.0, (0,))
    moved.set_random_state(0)
    mirrored, angles = 0, []
    for _ in range(200):
        matrix = moved._matrix()
        sizes = np.linalg.norm(matrix, axis=0)  # each column: where one step along an axis of the patch leads
        assert np.all(np.abs(np.log(sizes)) <= 0.2 + 0.1 + 1e-9)  # of the whole, and of each axis half of it
        turn = matrix / sizes
        np.testing.assert_allclose(turn.T @ turn, np.eye(dims), atol=1e-9)
        mirrored += np.linalg.det(turn) < 0
        if dims == 2:
            angles.append(abs(math.degrees(math.asin(turn[0, 1]))))
    assert 70 <= mirrored <= 130  # binomial: 100 +- 7
    if dims == 2:
        assert 15 < max(angles) <= 20 + 1e-9


def test_a_quarter_turn_is_numpys() -> None:
    # Uniform between -90 and 90 degrees, but here the generator gives its upper end.
    class Upper(np.random.RandomState):
        def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
            return np.full(size, high) if size is not None else high

    sample = make_sample(2, (12, 12))
    moved = RandMoved((12, 12), 90.0, 0.0, 0.0, ())
    moved.R = Upper(0)
    image, _ = by_slicing(sample, 2, (12, 12))
    expected = np.rot90(image.numpy(), -1, axes=(1, 2))
    np.testing.assert_allclose(moved(sample)["image"][:, 0], expected, atol=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_third_of_the_samples_is_bent_smoothly_by_its_share_of_the_patch(dims: int) -> None:
    moved = RandMoved((40,) * dims, 0.0, 0.0, 0.03, ())
    moved.set_random_state(0)
    bends = [moved._bend() for _ in range(90)]
    drawn = torch.stack([bend for bend in bends if bend is not None])
    assert drawn.shape[1:] == (*(40,) * dims, dims)
    assert 15 <= len(drawn) <= 45  # binomial: 30 +- 4.5
    # Between its nodes an interpolated field is smaller than at them: at most 0.03 * 40 voxels.
    assert 0.5 < drawn.std().item() < 1.35
    # Nodes lie 39 / 6 voxels apart or more: from one voxel to the next a sixth of what they differ by, at five sigma.
    assert drawn.diff(dim=1).abs().max() < 1.2 * math.sqrt(2) * 5 / 6.5 * 2


def test_the_bend_displaces_along_the_axis_that_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    patch = (10, 8, 12)
    sample = make_sample(3, patch)
    for axis in range(3):
        bend = torch.zeros(*patch, 3)
        bend[..., axis] = 1  # every voxel comes from one voxel further along the axis
        moved = RandMoved(patch, 0.0, 0.0, 0.1, ())
        monkeypatch.setattr(moved, "_bend", lambda bend=bend: bend)
        expected = middle_of(sample["image"].roll(-1, dims=1 + axis), patch)
        np.testing.assert_allclose(moved(sample)["image"][:, 0], expected, atol=1e-4)


@pytest.mark.parametrize(("dims", "patch", "context"), CASES)
def test_image_slices_and_regions_move_alike(dims: int, patch: tuple[int, ...], context: int) -> None:
    one = torch.rand(1, *crop_size(dims, patch, context), generator=torch.Generator().manual_seed(0))
    if dims == 2:
        one = one[..., :1].expand_as(one)  # every slice shows the same
    chain = training_chain(dims, patch, **{**NOTHING, "rotate_degrees": 40.0, "scale": 0.3, "elastic": 0.1})
    for seed in range(5):
        result = chain.set_random_state(seed)({"image": one.repeat(2, 1, 1, 1), "regions": one})
        for channel in result["image"]:
            assert torch.equal(channel, result["regions"][0])


def test_of_the_regions_the_middle_slice_is_learnt() -> None:
    sample = make_sample(2, (8, 8), 2)
    sample["regions"][:] = torch.arange(5.0)
    assert (run(sample, 2, (8, 8))["regions"] == 2).all()


@pytest.mark.parametrize(("dims", "patch", "context"), CASES)
def test_regions_stay_shares_and_the_inner_one_stays_inside(dims: int, patch: tuple[int, ...], context: int) -> None:
    sample = make_sample(dims, patch, context)
    sample["regions"][1] *= sample["regions"][0]
    for seed in range(5):
        outer, inner = training_chain(dims, patch).set_random_state(seed)(sample)["regions"]
        assert inner.min() >= -1e-6 and outer.max() <= 1 + 1e-6 and (inner <= outer + 1e-6).all()


# ------------------------------------------------------------------------------------------- what the voxels show


@pytest.mark.parametrize("option", sorted(INTENSITY))
@pytest.mark.parametrize(("dims", "patch", "context"), CASES)
def test_an_intensity_change_touches_the_image_alone_and_keeps_the_background_and_a_missing_modality_0(
    dims: int, patch: tuple[int, ...], context: int, option: str
) -> None:
    sample = make_sample(dims, patch, context, modalities=3)
    sample["image"][0, : sample["image"].shape[1] // 2] = 0  # the first modality sees half, the second nothing
    sample["image"][1] = 0
    before, regions = by_slicing(sample, dims, patch)
    changed = 0
    for seed in range(30):
        result = run(sample, dims, patch, seed, **{option: INTENSITY[option]})
        assert torch.equal(result["regions"], regions)
        assert torch.isfinite(result["image"]).all()
        assert not result["image"][before == 0].any()
        changed += not torch.equal(result["image"], before)
    assert changed >= (1 if option == "blur" else 5)  # the chances are a tenth and at least a third


def test_the_same_chance_strikes_as_often_as_it_says() -> None:
    sample = {"image": torch.ones(1, 1, 2, 2)}
    changed = RandChanged([(0.25, lambda image, random: image + 1)])
    changed.set_random_state(0)
    struck = sum(bool((changed(sample)["image"] == 2).all()) for _ in range(400))
    assert 65 <= struck <= 135  # binomial: 100 +- 8.7


def affine_of(before: torch.Tensor, after: torch.Tensor) -> tuple[float, float]:
    """Factor and shift of one channel, and that it is nothing but these."""
    x, y = before.flatten().double().numpy(), after.flatten().double().numpy()
    factor, shift = np.polyfit(x, y, 1)
    np.testing.assert_allclose(y, factor * x + shift, atol=1e-4)
    return float(factor), float(shift)


@pytest.mark.parametrize("option", ["contrast", "brightness"])
def test_contrast_multiplies_and_brightness_shifts_each_modality_by_its_own_number_and_all_its_slices_alike(
    option: str,
) -> None:
    sample = make_sample(2, (12, 12), 1)
    before, _ = by_slicing(sample, 2, (12, 12))
    numbers = []
    for seed in range(60):
        after = run(sample, 2, (12, 12), seed, **{option: 0.3})["image"]
        found = [affine_of(before[3 * m : 3 * m + 3], after[3 * m : 3 * m + 3]) for m in range(2)]
        for factor, shift in found:
            assert (shift if option == "contrast" else factor - 1) == pytest.approx(0, abs=1e-4)
        numbers.append([factor - 1 if option == "contrast" else shift for factor, shift in found])
    drawn = np.array(numbers)[~np.all(np.abs(numbers) < 1e-6, axis=1)]
    assert 29 <= len(drawn) <= 55  # binomial, chance 0.7: 42 +- 3.5
    assert 0.25 < np.abs(drawn).max() <= 0.3 + 1e-4 and drawn.min() < -0.1
    assert np.abs(drawn[:, 0] - drawn[:, 1]).max() > 0.1


def test_gamma_is_a_power_between_a_modalitys_least_and_greatest_value() -> None:
    sample = make_sample(3, (12, 12, 12))
    before, _ = by_slicing(sample, 3, (12, 12, 12))
    exponents = []
    for seed in range(40):
        after = run(sample, 3, (12, 12, 12), seed, gamma=0.4)["image"]
        if torch.equal(after, before):
            continue
        for x, y in zip(before, after, strict=True):
            low, high = float(x.min()), float(x.max())
            assert [float(y.min()), float(y.max())] == pytest.approx([low, high], abs=1e-4)
            x, y = (x - low) / (high - low), (y - low) / (high - low)
            inside = (x > 0.2) & (x < 0.8)
            powers = (y[inside].log() / x[inside].log()).numpy()
            np.testing.assert_allclose(powers, powers[0], atol=1e-3)
            exponents.append(float(powers[0]))
    assert exponents and 0.6 - 1e-3 <= min(exponents) < 1 < max(exponents) <= 1 / 0.6 + 1e-3


def test_noise_is_normal_with_at_most_the_deviation_that_is_said_and_differs_from_slice_to_slice() -> None:
    sample = make_sample(2, (30, 30), 1)
    before, _ = by_slicing(sample, 2, (30, 30))
    deviations = []
    for seed in range(60):
        noise = run(sample, 2, (30, 30), seed, noise=0.5)["image"] - before
        if noise.any():
            deviations.append(noise.std().item())
            assert abs(noise.mean()) < 5 * deviations[-1] / math.sqrt(noise.numel())
            flat = noise.flatten(1).numpy()
            assert np.abs(np.corrcoef(flat) - np.eye(len(flat))).max() < 0.2  # 1 / sqrt(900) each
            assert abs(np.mean((flat / flat.std()) ** 4) - 3) < 0.5  # the fourth moment of a normal distribution
    assert 8 <= len(deviations) <= 33  # binomial, chance 1 / 3: 20 +- 3.7
    assert max(deviations) < 0.53 and min(deviations) < 0.2


@pytest.mark.parametrize(("dims", "patch", "context"), [(2, (32, 32), 1), (3, (16, 16, 3), 0)])
def test_a_bias_field_is_smooth_one_for_each_modality_and_the_same_for_its_slices(
    dims: int, patch: tuple[int, ...], context: int
) -> None:
    sample = make_sample(dims, patch, context)
    before, _ = by_slicing(sample, dims, patch)
    usable = (before + 2).abs() > 0.1
    seen = 0
    for seed in range(30):
        after = run(sample, dims, patch, seed, bias_field=0.2)["image"]
        if torch.equal(after, before):
            continue
        seen += 1
        field = torch.where(usable, (after - before) / torch.where(usable, before + 2, 1), torch.nan).numpy()
        slices = 2 * context + 1
        for m in range(2):
            own = field[slices * m : slices * (m + 1)]
            if dims == 2:
                assert np.nanmax(np.abs(own - own[:1])) < 1e-4
            # Four nodes over 16 voxels or more, 0.2 each: no step from voxel to voxel, a shift of several sigma spread.
            assert np.nanmax(np.abs(np.diff(own, axis=1))) < 0.35
        assert np.nanmax(np.abs(field[0] - field[slices])) > 0.01
        assert np.nanmax(np.abs(field)) < 1.2
    assert seen >= 3


@pytest.mark.parametrize(("dims", "patch", "context"), [(2, (24, 24), 1), (3, (16, 16, 16), 0)])
def test_blur_is_scipys_gaussian_within_the_bounds_and_not_across_slices(
    dims: int, patch: tuple[int, ...], context: int
) -> None:
    sample = make_sample(dims, patch, context, modalities=1)
    sample["image"][:] = 1e-6  # a single bright voxel in the middle slice on a background that counts as brain
    at = tuple(n // 2 for n in sample["image"].shape[1:])
    sample["image"][(0, *at)] = 1
    for seed in range(40):
        after = run(sample, dims, patch, seed, blur=0.9)["image"].double()
        if after.max() == 1:
            continue
        if dims == 2:
            assert after[0].max() < 1e-3 and after[2].max() < 1e-3
            after = after[1:2]
        spread = after[0].numpy()
        assert spread.sum() == pytest.approx(1, abs=0.02)
        for axis in range(dims):
            profile = spread.sum(axis=tuple(other for other in range(dims) if other != axis))
            places = np.arange(len(profile))
            middle = (profile * places).sum() / profile.sum()
            sigma = math.sqrt((profile * (places - middle) ** 2).sum() / profile.sum())
            assert 0.15 < sigma < 0.95  # 0.3 to 0.9; a sampled Gaussian of 0.3 voxels measures less
        return
    pytest.fail("no sample was blurred")


@pytest.mark.parametrize(("dims", "patch", "context"), [(2, (32, 24), 1), (3, (16, 18, 20), 0)])
def test_low_resolution_strikes_one_modality_smooths_it_and_does_not_move_it(
    dims: int, patch: tuple[int, ...], context: int
) -> None:
    sample = make_sample(dims, patch, context, modalities=3)
    size = sample["image"].shape[1:]
    # A ramp along each axis: sampled down and up again it is a ramp at the same place, but for the rounding of voxels.
    ramp = sum(torch.arange(float(n)).reshape([n if a == axis else 1 for a in range(3)]) for axis, n in enumerate(size))
    sample["image"] = (ramp + 10.0).expand(3, *size).clone()
    before, _ = by_slicing(sample, dims, patch)
    slices, inner, shifts, struck = 2 * context + 1, [slice(None)] + [slice(4, -4)] * dims, [], []
    for seed in range(30):
        after = run(sample, dims, patch, seed, low_resolution=1.0)["image"]
        changed = [m for m in range(3) if not torch.equal(*(x[slices * m : slices * (m + 1)] for x in (after, before)))]
        assert len(changed) == 1
        struck += changed
        shifts.append((after - before)[slices * changed[0] : slices * (changed[0] + 1)][tuple(inner)].mean().item())
    assert set(struck) == {0, 1, 2}
    assert abs(np.mean(shifts)) < 0.25 * dims


def test_a_missing_modality_is_one_of_them_in_its_share_of_the_samples_with_all_its_slices() -> None:
    sample = make_sample(2, (10, 10), 1, modalities=3)
    before, _ = by_slicing(sample, 2, (10, 10))
    missing = []
    for seed in range(200):
        after = run(sample, 2, (10, 10), seed, missing_modality=0.25)["image"].unflatten(0, (3, 3))
        gone = [m for m in range(3) if not after[m].any()]
        kept = [m for m in range(3) if torch.equal(after[m], before.unflatten(0, (3, 3))[m])]
        assert len(gone) <= 1 and sorted(gone + kept) == [0, 1, 2]
        missing += gone
    assert 28 <= len(missing) <= 75  # binomial: 50 +- 6.1
    assert min(missing.count(m) for m in range(3)) >= 5


# ---------------------------------------------------------------------------------------------------- determinism


@pytest.mark.parametrize(("dims", "patch", "context"), CASES)
def test_the_seed_alone_decides_a_sample_whatever_came_before(dims: int, patch: tuple[int, ...], context: int) -> None:
    sample = make_sample(dims, patch, context)
    first, second = (training_chain(dims, patch, missing_modality=0.2) for _ in range(2))
    seeds = [5, 2**32 - 1, 0, 7, 11]
    forward = {seed: first.set_random_state(seed)(sample) for seed in seeds}
    backward = {seed: second.set_random_state(seed)(sample) for seed in reversed(seeds)}
    for seed in seeds:
        assert all(torch.equal(forward[seed][key], backward[seed][key]) for key in ("image", "regions"))
    assert not torch.equal(forward[5]["image"], forward[7]["image"])


def test_a_sample_leaves_its_input_and_the_global_generators_alone() -> None:
    sample = make_sample(3, (8, 8, 8))
    copy = {key: value.clone() for key, value in sample.items()}
    chain = training_chain(3, (8, 8, 8), missing_modality=0.5)
    torch.manual_seed(1)
    np.random.seed(1)
    ours, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()
    for seed in range(10):
        chain.set_random_state(seed)(sample)
    assert torch.equal(torch.get_rng_state(), ours) and np.array_equal(np.random.get_state()[1], numpys)
    assert all(torch.equal(sample[key], copy[key]) for key in copy)


def test_a_chain_can_be_sent_to_another_process() -> None:
    chain = training_chain(2, (8, 8), missing_modality=0.5)
    sample = make_sample(2, (8, 8), 1)
    expected = chain.set_random_state(3)(sample)["image"]
    sent = pickle.loads(pickle.dumps(chain))  # noqa: S301 - our own bytes
    assert torch.equal(sent.set_random_state(3)(sample)["image"], expected)


# --------------------------------------------------------------------------------------- neighbours for volumes


def test_each_slice_gets_its_neighbours_as_channels_and_the_ends_repeat_themselves() -> None:
    # Two modalities of three slices, each slice the number 10 * modality + slice.
    volume = torch.tensor([[0.0, 1.0, 2.0], [10.0, 11.0, 12.0]]).reshape(1, 2, 1, 1, 3).expand(1, 2, 4, 5, 3)
    result = slices_as_channels(volume, 1)
    assert result.shape == (1, 6, 4, 5, 3)
    assert result[0, :, 0, 0, 0].tolist() == [0, 0, 1, 10, 10, 11]
    assert result[0, :, 0, 0, 1].tolist() == [0, 1, 2, 10, 11, 12]
    assert result[0, :, 0, 0, 2].tolist() == [1, 2, 2, 11, 12, 12]
    assert slices_as_channels(volume, 2)[0, :5, 0, 0, 0].tolist() == [0, 0, 0, 1, 2]
    assert slices_as_channels(volume, 0) is volume


def test_training_and_inference_put_the_slices_into_the_same_channels() -> None:
    sample = make_sample(2, (6, 6), 1, modalities=3)
    at_inference = slices_as_channels(middle_of(sample["image"], (6, 6))[None], 1)[0, ..., 1]
    assert torch.equal(run(sample, 2, (6, 6))["image"], at_inference)
