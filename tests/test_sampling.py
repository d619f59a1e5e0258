"""Sampling: which voxels a patch is cut from, how often what is seen, and that a sample's number alone decides it."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from data.errors import UsageError
from pipeline.config import RunConfig, parse_config
from pipeline.training.cached import TrainingCase
from pipeline.training.sampling import PatchDataset, _may_give, _may_take
from transforms.augment.crops import crop_around

STILL: dict[str, Any] = {
    "rotate_degrees": 0,
    "scale": 0,
    "elastic": 0,
    "flip_axes": [],
    "contrast": 0,
    "brightness": 0,
    "gamma": 0,
    "bias_field": 0,
    "noise": 0,
    "blur": 0,
    "low_resolution": 0,
}


def make_config(
    dims: int = 3,
    context: int = 0,
    patch: int = 8,
    sampling: dict[str, Any] | None = None,
    augment: dict[str, Any] | None = None,
    **training: Any,
) -> RunConfig:
    return parse_config(
        {
            "name": "tiny",
            "modalities": ["t1", "flair"],
            "regions": ["WT", "ET"],
            "convention": "brats2023",
            "network": {
                "architecture": "unet_plus_plus",
                "spatial_dims": dims,
                "in_channels": 2 * (2 * context + 1),
                "out_channels": 2,
                "channels": [4, 8],
            },
            "window": {"size": [16] * dims, "context": context},
            "augment": STILL if augment is None else augment,
            "training": {
                "patch": [patch] * dims,
                "batch": 2,
                "steps_per_epoch": 5,
                "sampling": sampling or {},
                **training,
            },
        },
        "test",
    )


def make_case(
    name: str = "a",
    shape: tuple[int, int, int] = (30, 28, 26),
    places: dict[str, Any] | None = None,
    value: float | None = None,
    known: tuple[bool, bool] = (True, True),
    **attributes: Any,
) -> TrainingCase:
    """Each voxel of the first image is its own number (or ``value``), the second is 1; regions are single voxels."""
    voxels = np.zeros((4, *shape), np.float16)
    numbers = np.arange(1, np.prod(shape) + 1).reshape(shape)
    voxels[0] = numbers % 2000 if value is None else value  # whole numbers up to 2048 are exact in float16
    voxels[1] = 1
    brain = np.argwhere(np.ones(shape, bool))
    centres = {"brain": brain.astype(np.int16)}
    for index, (region, at) in enumerate(places.items() if places else ()):
        voxels[(2 + index, *at)] = 1
        centres[region] = np.array([at], np.int16)
    voxels[2:][~np.array(known)] = np.nan
    return TrainingCase(name, "patient", voxels, 2, centres, **{"patient": name, **attributes})


# ---------------------------------------------------------------------------------------------------------- crops


def by_padding(voxels: np.ndarray, centre: Any, patch: Any, crop: Any) -> np.ndarray:
    """Zeros all round, then plain slicing."""
    around = 60
    padded = np.pad(voxels.astype(np.float32), [(0, 0)] + [(around, around)] * (voxels.ndim - 1))
    index: list[slice] = [slice(None)]
    for c, p, full, size in zip(centre, patch, crop, voxels.shape[1:], strict=True):
        start = c - p // 2
        while start + p > size and start > 0:  # inwards, a voxel at a time
            start -= 1
        start = max(start, 0)
        if size <= p:
            start = -((p - size + 1) // 2)
        start += around - (full - p) // 2
        index.append(slice(start, start + full))
    return padded[tuple(index)]


AXIS = st.tuples(st.integers(1, 20), st.integers(1, 12), st.integers(0, 6), st.integers(-5, 25))


@given(axes=st.lists(AXIS, min_size=1, max_size=3))
def test_a_crop_is_a_slice_of_the_volume_with_zeros_all_round(axes: list[tuple[int, int, int, int]]) -> None:
    shape, patch, margins, centre = zip(*axes, strict=True)
    crop = tuple(p + m for p, m in zip(patch, margins, strict=True))
    voxels = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float16)
    result = crop_around(voxels, centre, patch, crop)
    assert result.dtype == np.float32 and result.shape == (2, *crop)
    assert np.array_equal(result, by_padding(voxels, centre, patch, crop))


@given(axes=st.lists(AXIS, min_size=3, max_size=3))
def test_the_patch_in_the_crops_middle_holds_the_voxel_that_is_nearest_to_the_centre(
    axes: list[tuple[int, int, int, int]],
) -> None:
    shape, patch, margins, centre = zip(*axes, strict=True)
    crop = tuple(p + 2 * m for p, m in zip(patch, margins, strict=True))
    voxels = np.zeros((1, *shape), np.float16)
    nearest = tuple(int(np.clip(c, 0, n - 1)) for c, n in zip(centre, shape, strict=True))
    voxels[(0, *nearest)] = 1
    middle = tuple(slice(m, m + p) for m, p in zip(margins, patch, strict=True))
    inside = crop_around(voxels, centre, patch, crop)[(0, *middle)]
    # Of an axis that is shorter than the patch all is seen, of a longer one what is round the centre.
    assert inside.sum() == 1


def test_a_centre_far_inside_is_the_patchs_middle_voxel() -> None:
    voxels = np.arange(100.0)[None]
    crop = crop_around(voxels, (50,), (8,), (12,))[0]
    assert crop.tolist() == list(range(44, 56))  # the patch is 46..53, its voxel 8 // 2 is 50


def test_a_patch_at_the_edge_is_moved_inwards_and_only_its_margin_leaves_the_volume() -> None:
    voxels = np.arange(1.0, 11.0)[None]
    assert crop_around(voxels, (0,), (4,), (8,))[0].tolist() == [0, 0, 1, 2, 3, 4, 5, 6]
    assert crop_around(voxels, (9,), (4,), (8,))[0].tolist() == [5, 6, 7, 8, 9, 10, 0, 0]


def test_a_volume_that_is_smaller_than_the_patch_lies_in_its_middle() -> None:
    assert crop_around(np.array([[7.0, 8.0]]), (1,), (6,), (8,))[0].tolist() == [0, 0, 0, 7, 8, 0, 0, 0]


# ------------------------------------------------------------------------------------------------------- samples


def test_a_3d_sample_is_cut_out_of_the_volume_round_a_voxel_of_the_region() -> None:
    config = make_config(sampling={"regions_share": 1.0})
    case = make_case(places={"WT": (15, 14, 13)})
    dataset = PatchDataset([case], config)
    offsets = set()
    for index in range(40):
        sample = dataset[index]
        assert sample["image"].shape == (2, 8, 8, 8) and sample["regions"].shape == (2, 8, 8, 8)
        (at,) = torch.nonzero(sample["regions"][0]).tolist()
        assert all(abs(a - 4) <= 2 for a in at)  # off the middle by up to a quarter of the patch
        offsets.add(tuple(at))
        first = [c - a for c, a in zip((15, 14, 13), at, strict=True)]
        expected = case.voxels[(slice(0, 2), *(slice(f, f + 8) for f in first))]
        assert np.array_equal(sample["image"], expected.astype(np.float32))
        assert not sample["regions"][1].any()
    assert len(offsets) > 20
    assert {o[0] for o in offsets} == {2, 3, 4, 5, 6}


@pytest.mark.parametrize("slice_at", [0, 12, 25])
def test_a_2d_sample_is_the_regions_slice_with_its_neighbours_and_the_ends_repeat_themselves(slice_at: int) -> None:
    config = make_config(dims=2, context=1, sampling={"regions_share": 1.0})
    case = make_case(places={"WT": (15, 14, slice_at)})
    sample = PatchDataset([case], config)[3]
    assert sample["image"].shape == (6, 8, 8) and sample["regions"].shape == (2, 8, 8)
    ((i, j),) = torch.nonzero(sample["regions"][0]).tolist()
    rows, columns = slice(15 - i, 23 - i), slice(14 - j, 22 - j)
    near = [max(slice_at - 1, 0), slice_at, min(slice_at + 1, 25)]
    expected = [case.voxels[modality, rows, columns, k] for modality in range(2) for k in near]
    assert np.array_equal(sample["image"], np.stack(expected).astype(np.float32))


def test_a_case_of_one_slice_serves_a_2d_network_with_context() -> None:
    case = make_case(shape=(20, 20, 1), places={"WT": (10, 10, 0)})
    sample = PatchDataset([case], make_config(dims=2, context=2))[0]
    assert sample["image"].shape == (10, 8, 8)
    assert all(torch.equal(sample["image"][0], channel) for channel in sample["image"][:5])


def test_slices_that_are_no_neighbours_are_no_context_for_each_other() -> None:
    case = replace(make_case(shape=(16, 16, 9)), apart=True)
    sample = PatchDataset([case], make_config(dims=2, context=2, sampling={"regions_share": 1.0}))[0]
    image = sample["image"].reshape(2, 5, 8, 8)
    assert image.any() and (image == image[:, :1]).all()


def test_slices_that_are_no_neighbours_are_cut_in_their_own_direction_whatever_the_recipes_planes() -> None:
    config = make_config(dims=2, sampling={"regions_share": 0.0})
    window = config.window.model_copy(update={"planes": ("axial", "coronal", "sagittal")})
    case = replace(make_case(shape=(16, 16, 16)), apart=True)
    case.voxels[0] = np.arange(1, 17)  # the same all over an axial slice
    dataset = PatchDataset([case], config.model_copy(update={"window": window}))
    assert all(len(dataset[index]["image"][0].unique()) == 1 for index in range(20))


def test_a_case_without_brain_and_tumour_gives_its_middle() -> None:
    case = make_case()
    empty = TrainingCase("b", "patient", case.voxels, 2, {})
    sample = PatchDataset([empty], make_config())[0]
    expected = case.voxels[:2, 11:19, 10:18, 9:17].astype(np.float32)  # 30 // 2 - 4, 28 // 2 - 4, 26 // 2 - 4
    assert np.array_equal(sample["image"], expected)


@pytest.mark.parametrize("augment", [None, {}], ids=["still", "moved"])
def test_what_a_reference_cannot_tell_is_nan_in_every_sample_of_it(augment: Any) -> None:
    cases = [make_case("whole", value=1, known=(True, False)), make_case("all", value=2)]
    dataset = PatchDataset(cases, make_config(augment=augment))
    seen = set()
    for index in range(20):
        whole, enhancing = dataset[index]["regions"].isnan()
        assert not whole.any()
        assert enhancing.all() or not enhancing.any()
        seen.add(bool(enhancing.any()))
    assert seen == {True, False}


@pytest.mark.parametrize("dims", [2, 3])
def test_beyond_the_faces_of_a_cut_out_lesion_nothing_is_known_and_beyond_a_brain_nothing_is(dims: int) -> None:
    for beyond_known in (True, False):
        case = make_case(shape=(6, 6, 6), beyond_known=beyond_known)
        (sample,) = (PatchDataset([case], make_config(dims, patch=12))[0],)
        within = sample["image"][1] != 0  # the second image is 1 inside the volume
        assert 0 < within.sum() < within.numel()
        assert bool(sample["regions"][:, ~within].isnan().all()) is not beyond_known
        assert not sample["regions"][:, within].isnan().any()


def test_an_unknown_voxel_makes_its_neighbours_unknown_where_they_are_interpolated_from_it() -> None:
    case = make_case(shape=(8, 8, 1))
    case.voxels[2, 4, 4, 0] = np.nan
    sample = PatchDataset([case], make_config(2, augment={}))[0]
    assert sample["regions"][0].isnan().any() and not sample["regions"][1].isnan().any()
    assert not sample["image"].isnan().any()


def test_regions_stay_between_0_and_1() -> None:
    case = make_case()
    case.voxels[2:] = 1
    dataset = PatchDataset([case], make_config(augment={}))
    for index in range(10):
        regions = dataset[index]["regions"]
        assert regions.min() >= 0 and regions.max() <= 1


# -------------------------------------------------------------------------------------------------------- shares


def shares_of(dataset: PatchDataset, n: int) -> Counter[float]:
    """How often each case's value is seen at the middle of the patch."""
    return Counter(float(dataset[index]["image"][0, 4, 4, 4]) for index in range(n))


def test_kinds_come_in_the_recipes_shares_and_the_cases_of_a_kind_equally_often() -> None:
    own, extra = [make_case(value=1), make_case(value=2)], [make_case(value=3 + k) for k in range(2)]
    phantoms = [make_case(value=9)]
    config = make_config(sampling={"extra_share": 0.2, "phantom_share": 0.3})
    dataset = PatchDataset(own, config, extra, phantoms)
    assert [(len(pool), share) for pool, share in dataset.pools] == [(2, 0.5), (2, 0.2), (1, 0.3)]
    seen = shares_of(dataset, 400)
    for value, chance in {1: 0.25, 2: 0.25, 3: 0.1, 4: 0.1, 9: 0.3}.items():
        deviation = (400 * chance * (1 - chance)) ** 0.5
        assert abs(seen[value] - 400 * chance) < 4 * deviation, (value, seen)


def test_the_share_of_a_kind_that_is_not_there_goes_to_the_others() -> None:
    config = make_config(sampling={"extra_share": 0.2, "phantom_share": 0.4})
    seen = shares_of(PatchDataset([make_case(value=1)], config, phantoms=[make_case(value=9)]), 200)
    assert seen.keys() == {1.0, 9.0} and 72 <= seen[1] <= 128  # 0.4 to 0.4: binomial, 100 +- 7


def test_only_what_has_a_share_is_learnt_from(caplog: pytest.LogCaptureFixture) -> None:
    own, other = [make_case(value=1)], [make_case(value=2)]
    dataset = PatchDataset(own, make_config(sampling={"extra_share": 0.9, "phantom_share": 0.1}), other, other)
    assert [pool for pool, _ in dataset.pools] == [other, other]
    with caplog.at_level(logging.WARNING):
        dataset = PatchDataset(own, make_config(), other)
    assert [pool for pool, _ in dataset.pools] == [own]
    assert caplog.messages == ["the recipe's training.sampling.extra_share is 0: 1 further cases are not used"]


def test_nothing_to_learn_from_is_refused() -> None:
    with pytest.raises(UsageError, match="there is no case to learn from; every patient needs the recipe's modalities"):
        PatchDataset([], make_config())
    with pytest.raises(UsageError, match="there is no case to learn from"):
        PatchDataset([make_case()], make_config(sampling={"extra_share": 1.0}))


def test_regions_are_seen_in_their_share_and_each_region_of_a_patient_equally_often() -> None:
    # WT and ET are single voxels in opposite corners of a large head: a patch round a brain voxel hardly meets them.
    case = make_case(shape=(60, 60, 60), places={"WT": (10, 10, 10), "ET": (50, 50, 50)})
    dataset, n = PatchDataset([case], make_config(patch=4, sampling={"regions_share": 0.6})), 400
    found = np.array([[bool(region.any()) for region in dataset[index]["regions"]] for index in range(n)]).sum(axis=0)
    for count in found:
        assert abs(count - 0.3 * n) < 4 * (n * 0.3 * 0.7) ** 0.5


def test_in_2d_a_small_slice_is_seen_as_often_as_a_large_one() -> None:
    case = make_case()
    voxels = np.zeros_like(case.voxels)
    voxels[0, :, :, 0] = 1  # the whole first slice, and a single voxel of the last one
    voxels[0, 3, 3, -1] = 1
    places = np.argwhere(voxels[0] != 0).astype(np.int16)
    dataset = PatchDataset([replace(case, voxels=voxels, centres={"brain": places})], make_config(dims=2))
    generator = np.random.default_rng(0)
    drawn = [dataset._centre(dataset.pools[0][0][0], generator)[2] for _ in range(400)]
    # Binomial with n = 400 and p = 1/2: five standard deviations are 50.
    assert set(drawn) == {0, voxels.shape[-1] - 1}
    assert abs(drawn.count(0) - 200) < 50


def test_a_patient_with_one_region_shows_it_in_the_whole_share() -> None:
    case = make_case(shape=(60, 60, 60), places={"WT": (10, 10, 10)})
    dataset, n = PatchDataset([case], make_config(patch=4, sampling={"regions_share": 0.6})), 300
    found = sum(bool(dataset[index]["regions"].any()) for index in range(n))
    assert abs(found - 0.6 * n) < 4 * (n * 0.6 * 0.4) ** 0.5
    never = PatchDataset([case], make_config(patch=4, sampling={"regions_share": 0.0}))
    assert sum(bool(never[index]["regions"].any()) for index in range(100)) <= 3


# ---------------------------------------------------------------------------------------------------- determinism


def make_random_dataset(dims: int, context: int = 0, **training: Any) -> PatchDataset:
    """All the changes, and two cases."""
    cases = [make_case("a", places={"WT": (9, 9, 9)}), make_case("b", places={"WT": (5, 5, 5), "ET": (20, 20, 20)})]
    return PatchDataset(cases, make_config(dims, context, augment={"missing_modality": 0.3}, **training))


def bytes_of(sample: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {key: value.numpy().tobytes() for key, value in sample.items()}


@pytest.mark.parametrize(("dims", "context"), [(2, 1), (3, 0)])
def test_a_sample_depends_on_its_number_not_on_what_came_before(dims: int, context: int) -> None:
    first, second = make_random_dataset(dims, context), make_random_dataset(dims, context)
    forward = [bytes_of(first[index]) for index in range(10)]
    backward = [bytes_of(second[index]) for index in reversed(range(10))]
    assert forward == backward[::-1]
    assert len({sample["image"] for sample in forward}) == 10


def test_another_epoch_and_another_seed_give_other_samples_and_the_first_epoch_can_be_seen_again() -> None:
    dataset, other = make_random_dataset(2), make_random_dataset(2, seed=1)
    first = bytes_of(dataset[4])
    dataset.epoch = 1
    second = bytes_of(dataset[4])
    dataset.epoch = 0
    assert bytes_of(dataset[4]) == first
    assert len({first["image"], second["image"], bytes_of(other[4])["image"]}) == 3


@pytest.mark.parametrize("epoch", [0, 3])
def test_loading_processes_give_the_same_bytes_as_none(epoch: int) -> None:
    batches = {}
    for workers in (0, 2):
        dataset = make_random_dataset(2, 1)
        dataset.epoch = epoch
        loader = DataLoader(dataset, batch_size=dataset.batch, num_workers=workers)
        batches[workers] = [bytes_of(batch) for batch in loader]
    assert batches[0] == batches[2]
    assert len(batches[0]) == 5


def test_an_epoch_has_its_steps_times_the_batch() -> None:
    assert len(make_random_dataset(2)) == 10


# ------------------------------------------------------------------------------------------------- transplanting


def lesion_case(name: str, value: float, kind: str = "patient", **attributes: Any) -> TrainingCase:
    """A brain of 1 with a cube of 7 voxels of ``value`` in its middle, all of it WT and its middle voxel ET."""
    case = make_case(name, shape=(40, 40, 40), value=1, **attributes)
    case.voxels[:2, 17:24, 17:24, 17:24] = value
    case.voxels[2, 17:24, 17:24, 17:24], case.voxels[3, 20, 20, 20] = 1, 1
    case.centres["WT"] = np.argwhere(case.voxels[2] > 0).astype(np.int16)  # type: ignore[index]
    return replace(case, kind=kind)


def transplanting(dims: int = 3, share: float = 1.0, **changes: Any) -> RunConfig:
    return make_config(dims, augment={**STILL, "transplant": share, "flip_axes": [0]}, patch=12, **changes)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_transplanted_sample_shows_another_patients_lesion_in_this_ones_brain(dims: int) -> None:
    host, donor = make_case("host", shape=(40, 40, 40), value=1), lesion_case("donor", 9)
    config = transplanting(dims, sampling={"extra_share": 0.01, "regions_share": 0})
    dataset = PatchDataset([host], config, extra=[donor])
    shown = 0
    for index in range(40):
        sample = dataset[index]
        lesion = sample["regions"][0] > 0.5
        shown += bool(lesion.any())
        if lesion.sum() > 20:  # drawn about 9, by a tenth, and interpolated
            assert 4 < float(sample["image"][0][lesion].median()) < 12
    assert shown > 30


def test_without_transplanting_a_brain_shows_its_own_lesions_alone() -> None:
    host, donor = make_case("host", shape=(40, 40, 40), value=1), lesion_case("donor", 9)
    dataset = PatchDataset([host], transplanting(share=0.0, sampling={"extra_share": 0.0}), extra=[donor])
    assert dataset.donors == [] and not any(dataset[index]["regions"].any() for index in range(10))


def test_no_patient_is_given_a_lesion_of_its_own() -> None:
    first, second = lesion_case("a-1", 9, patient="a"), lesion_case("a-2", 9, patient="a")
    dataset = PatchDataset([first, second], transplanting(sampling={"regions_share": 0}))
    case = dataset.pools[0][0][0]
    assert dataset._transplanted(case, np.random.default_rng(0)) is None


def test_the_log_says_where_nothing_can_be_transplanted(caplog: pytest.LogCaptureFixture) -> None:
    one, other = lesion_case("a-1", 9, patient="a"), lesion_case("b", 9)
    cube = replace(other, kind="cube", place=(0.5, 0.5, 0.5))
    extra = {"sampling": {"extra_share": 0.5}}
    for cases, further, config in (
        ([one], [], transplanting()),
        ([one, lesion_case("a-2", 9, patient="a")], [], transplanting()),
        (
            [make_case("host", shape=(40, 40, 40), value=1), make_case("c", shape=(40, 40, 40), value=1)],
            [],
            transplanting(),
        ),
        ([], [cube], transplanting(**extra)),  # no brain to put it into
    ):
        PatchDataset(cases, config, further)
        assert "augment.transplant is 1, but nothing can be transplanted" in caplog.text
        caplog.clear()
    PatchDataset([one, other], transplanting())
    PatchDataset([one], transplanting(**extra), [cube])
    PatchDataset([one], transplanting(share=0.0))
    assert not caplog.text


def test_lesions_that_no_face_cuts_are_drawn_as_often_as_the_recipe_says() -> None:
    host = make_case("host", shape=(40, 40, 40), value=1)
    whole = lesion_case("whole", 9, "cube", place=(0.5, 0.5, 0.5))
    cut = lesion_case("cut", 9, "cube", place=(0.5, 0.5, 0.5))
    cut.voxels[:, :20] = np.nan  # its middle plane is its first known face
    cut.voxels[:2, :20] = 0
    augment = {**STILL, "transplant": 1.0, "flip_axes": [0]}
    for share, expected in ((0.0, 0.5), (0.5, 0.75), (1.0, 1.0)):
        config = make_config(3, augment={**augment, "transplant_whole": share}, patch=12)
        dataset = PatchDataset([host], config, extra=[whole, cut])
        generator = np.random.default_rng(0)
        drawn = [dataset._giver(generator).name for _ in range(400)]
        assert abs(drawn.count("whole") / 400 - expected) < 0.08


def test_where_every_lesion_is_cut_the_recipe_is_told_so(caplog: pytest.LogCaptureFixture) -> None:
    cut = lesion_case("cut", 9, "cube", place=(0.5, 0.5, 0.5))
    cut.voxels[2:, :20] = np.nan
    augment = {**STILL, "transplant": 1.0, "transplant_whole": 0.5}
    host = make_case("host", shape=(40, 40, 40), value=1)
    dataset = PatchDataset([host], make_config(3, augment=augment, patch=12), extra=[cut])
    assert "transplant_whole has no effect" in caplog.text
    assert dataset._giver(np.random.default_rng(0)).name == "cut"


def test_slices_phantoms_and_cubes_take_no_lesion_and_a_brain_without_t1_gives_none() -> None:
    host = make_case("host", shape=(40, 40, 40), value=1)
    lacking = lesion_case("lacking", 9)
    lacking.voxels[1] = 0
    faint = lesion_case("faint", 9)
    faint.voxels[2] *= 0.4
    assert not _may_give(faint, "WT")
    takers = {
        "patient": host,
        "phantom": replace(host, kind="phantom"),
        "cube": replace(host, kind="cube", place=(0.5, 0.5, 0.5)),
        "slice": make_case("slice", shape=(40, 40, 1)),
    }
    assert [kind for kind, case in takers.items() if _may_take(case)] == ["patient"]
    assert not _may_give(lacking, "WT") and not _may_give(host, "WT") and _may_give(lesion_case("d", 9), "WT")


def test_the_further_folders_share_is_divided_by_the_recipes_weights() -> None:
    cases = [make_case("own", value=1)]
    extra = [replace(make_case(f"c{n}", value=2), kind="cube") for n in range(3)]
    extra += [replace(make_case("s", value=3), kind="slice"), replace(make_case("p", value=4), kind="patient")]
    sampling = {"extra_share": 0.6, "extra_weights": {"cube": 1, "slice": 3}}
    dataset = PatchDataset(cases, make_config(sampling=sampling), extra)
    shares = {pool[0].kind if pool[0].name != "own" else "own": share for pool, share in dataset.pools}
    assert shares == {"own": pytest.approx(0.4), "cube": pytest.approx(0.15), "slice": pytest.approx(0.45)}
    even = PatchDataset(cases, make_config(sampling={"extra_share": 0.5}), extra)
    assert [share for _, share in even.pools] == pytest.approx([0.5, 0.3, 0.1, 0.1])


def test_neighbours_are_the_recipes_step_apart() -> None:
    case = make_case(shape=(12, 12, 9))
    case.voxels[0] = np.arange(9)
    config = make_config(2, 2, patch=12)
    settings = config.model_dump()
    settings["window"]["context_step"] = 3
    dataset = PatchDataset([case], parse_config(settings, "test"))
    for index in range(5):
        seen = dataset[index]["image"][:5, 6, 6].tolist()
        middle = seen[2]
        assert seen == [max(0, middle - 6), max(0, middle - 3), middle, min(8, middle + 3), min(8, middle + 6)]
