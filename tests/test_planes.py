"""Planes: one network of slices in several directions, in training and in use, against filters worked out by hand."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from torch import nn

from data.case import Case
from data.errors import UsageError
from data.find.discover import discover_cases
from data.phantom.patient import write_phantom
from networks import ARCHITECTURES, build_network
from pipeline.checkpoint import open_checkpoint, save_checkpoint
from pipeline.config import RECIPES, RunConfig, load_recipe, parse_config
from pipeline.options import TrainOptions
from pipeline.predict import cascade as cascade_module
from pipeline.predict import windows
from pipeline.predict.engines import ENGINES, PAYS_FROM, multiplications
from pipeline.predict.memory.forecast import HEADROOM, ModelCost, one_window_bytes, phases
from pipeline.predict.openvino import installed
from pipeline.predict.passes import Pass, passes
from pipeline.predict.predictor import Predictor
from pipeline.training.cached import TrainingCase
from pipeline.training.progress import files as run_files
from pipeline.training.run import run_training
from pipeline.training.sampling import PatchDataset
from tests.conftest import cascade_settings, make_cascade, make_model
from tests.test_memory import config as sized
from tests.test_memory import four
from tests.test_predictor import CUDA, on_a_full_card
from tests.test_sampling import STILL, lesion_case, make_case, make_config
from transforms.planes import slice_axis, turned, turned_back

CPU = torch.device("cpu")
ALL = ["axial", "coronal", "sagittal"]
ACROSS = {"axial": 2, "coronal": 1, "sagittal": 0}
"""Of a volume in RAS."""
TWO_DIMENSIONAL = [name for name, architecture in ARCHITECTURES.items() if 2 in architecture.spatial_dims]


def with_planes(config: RunConfig, planes: list[str], **changes: Any) -> RunConfig:
    settings = config.model_dump(mode="json")
    settings["window"]["planes"] = planes
    for key, value in changes.items():
        part, option = key.split("__")
        settings[part][option] = value
    return parse_config(settings, "test")


def slices_of(planes: list[str], context: int = 0, modalities: int = 1, **window: Any) -> RunConfig:
    """One region, seen as it is, from slices in one pass each."""
    return parse_config(
        {
            "name": "planes",
            "modalities": ["t1", "flair"][:modalities],
            "regions": ["WT"],
            "convention": "brats2023",
            "network": {
                "architecture": "attention_unet",
                "spatial_dims": 2,
                "in_channels": modalities * (2 * context + 1),
                "out_channels": 1,
                "channels": [4, 8],
            },
            "window": {"size": [16, 16], "whole": True, "context": context, "planes": planes, **window},
            "training": {"patch": [16, 16]},
        },
        "test",
    )


class Linear(nn.Module):
    """Logits are a linear filter of the channels (the slice and its neighbours), and of the pixels about each."""

    def __init__(self, weights: Any) -> None:
        super().__init__()
        self.kernel = torch.as_tensor(np.array(weights), dtype=torch.float32)[None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        halves = [n // 2 for n in self.kernel.shape[2:]]
        padded = nn.functional.pad(x, (halves[1], halves[1], halves[0], halves[0]), mode="replicate")
        return nn.functional.conv2d(padded, self.kernel)


def volume(*shape: int, channels: int = 1) -> torch.Tensor:
    return torch.randn(channels, *shape, generator=torch.Generator().manual_seed(4)) + 0.01


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def answer(config: RunConfig, network: nn.Module, image: torch.Tensor, **options: Any) -> torch.Tensor:
    return windows.infer(config, network, image, CPU, **options)[0]


# --------------------------------------------------------------------------------------------------------- turning


@pytest.mark.parametrize(
    ("orientation", "axes"), [("RAS", (2, 1, 0)), ("LPS", (2, 1, 0)), ("ARI", (2, 0, 1)), ("PLS", (2, 0, 1))]
)
def test_a_plane_is_known_by_the_letter_of_the_axis_across_it(orientation: str, axes: tuple[int, ...]) -> None:
    assert tuple(slice_axis(plane, orientation) for plane in ALL) == axes


def test_the_axes_of_a_slice_keep_their_order() -> None:
    x = volume(3, 4, 5)
    assert turned(x, 2) is x and turned_back(x, 2) is x
    coronal, sagittal = turned(x, 1), turned(x, 0)
    assert coronal.shape == (1, 3, 5, 4) and sagittal.shape == (1, 4, 5, 3)
    assert coronal[0, 2, 4, 1] == x[0, 2, 1, 4] and sagittal[0, 3, 1, 2] == x[0, 2, 3, 1]


@given(shape=st.tuples(*[st.integers(1, 5)] * 3), before=st.integers(0, 2), across=st.integers(0, 2))
def test_turning_back_undoes_turning(shape: tuple[int, int, int], before: int, across: int) -> None:
    x = torch.arange(2**before * int(np.prod(shape))).reshape(*(2,) * before, *shape)
    assert torch.equal(turned_back(turned(x, across), across), x)


# ------------------------------------------------------------------------------------------- the answer, by hand


@pytest.mark.parametrize("planes", [ALL, ["coronal"], ["sagittal", "axial"]])
def test_a_filter_along_the_slices_is_averaged_over_the_directions(planes: list[str]) -> None:
    """A weight for each neighbour is a correlation along the axis across the slices, the last one repeated."""
    weights, x = [0.9, -0.4, 0.2], volume(6, 7, 8)
    found = answer(slices_of(planes, context=1), Linear(np.reshape(weights, (3, 1, 1))), x)
    each = [
        sigmoid(ndimage.correlate1d(x[0].double().numpy(), weights, axis=ACROSS[plane], mode="nearest"))
        for plane in planes
    ]
    np.testing.assert_allclose(found[0], np.mean(each, axis=0), atol=1e-6)


@pytest.mark.parametrize(("pixels", "axes"), [((3, 1), (0, 0, 1)), ((1, 3), (1, 2, 2))])
def test_a_filter_within_the_slices_is_along_their_axes(pixels: tuple[int, int], axes: tuple[int, ...]) -> None:
    weights, x = [0.1, -0.4, 0.8], volume(6, 7, 8)
    found = answer(slices_of(ALL), Linear(np.reshape(weights, (1, *pixels))), x)
    each = [sigmoid(ndimage.correlate1d(x[0].double().numpy(), weights, axis=a, mode="nearest")) for a in axes]
    np.testing.assert_allclose(found[0], np.mean(each, axis=0), atol=1e-6)


def test_what_is_symmetric_under_every_exchange_of_axes_has_an_answer_that_is_so_too() -> None:
    """The filter has no preference between the two axes of a slice; between neighbours it has."""
    x = volume(7, 7, 7)[0]
    x = sum(x.permute(*order) for order in permutations(range(3)))[None]  # type: ignore[assignment]
    kernel = np.random.default_rng(0).normal(size=(3, 3, 3))
    network = Linear(kernel + kernel.transpose(0, 2, 1))
    found = answer(slices_of(ALL, context=1), network, x)[0]
    for order in permutations(range(3)):
        np.testing.assert_allclose(found.permute(*order), found, atol=1e-6)
    alone = answer(slices_of(["axial"], context=1), network, x)[0]
    assert not np.allclose(alone.permute(2, 1, 0), alone, atol=1e-2)


def real_network(architecture: str, config: RunConfig) -> nn.Module:
    channels = (4, 8, 12, 12, 12)[: ARCHITECTURES[architecture].resolutions or 3]
    torch.manual_seed(0)
    changed: Any = {"architecture": architecture, "channels": channels}
    network = build_network(replace(config.network, **changed))
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.2, 1.0) if value.ndim < 2 else value.normal_(0, 0.2)
    return network.eval()


@pytest.mark.parametrize("engine", list(ENGINES))
@pytest.mark.parametrize("architecture", TWO_DIMENSIONAL)
@pytest.mark.parametrize("window", [{"whole": True}, {"whole": False, "batch": 3}])
def test_another_plane_alone_is_axial_of_the_turned_volume_to_the_bit(
    architecture: str, engine: str, window: dict[str, Any], tmp_path: Path
) -> None:
    if engine == "openvino" and not installed():
        pytest.skip("openvino is not installed (extra cpu)")
    options = {"context": 2, "context_step": 2, "modalities": 2, **window}
    axial = slices_of(["axial"], **options)
    network, x = real_network(architecture, axial), volume(20, 24, 18, channels=2)
    save_checkpoint(tmp_path / "m.safetensors", build_network(axial.network), axial, {})
    network = ENGINES[engine](network, open_checkpoint(tmp_path / "m.safetensors"), axial).network
    x[:, :, :, 4:6] = 0  # some slices are empty
    for plane, order in (("coronal", (0, 2, 1)), ("sagittal", (1, 2, 0))):
        back = tuple(order.index(axis) for axis in range(3))
        seen = x.permute(0, *(1 + axis for axis in order)).contiguous()
        expected = answer(axial, network, seen).permute(0, *(1 + axis for axis in back))
        assert torch.equal(answer(slices_of([plane], **options), network, x), expected)
        assert not torch.allclose(answer(axial, network, x), expected, atol=1e-3)
    assert not getattr(network, "failure", "")


# -------------------------------------------------------------------------------------- mirroring and its members


def test_only_the_axes_within_the_slices_are_mirrored_and_each_direction_has_the_same_share() -> None:
    config = with_planes(slices_of(ALL), ALL, augment__flip_axes=[0])
    assert passes(config, tta=True) == [
        Pass(2, (), 1, 6), Pass(2, (0,), 1, 6), Pass(1, (), 1, 6), Pass(1, (0,), 1, 6), Pass(0, (), 2, 6)
    ]  # fmt: skip
    assert passes(config, tta=False) == [Pass(2, (), 1, 3), Pass(1, (), 1, 3), Pass(0, (), 1, 3)]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_mirrored_pass_mirrors_the_axis_of_the_working_grid_in_every_direction_that_shows_it(axis: int) -> None:
    config = with_planes(slices_of(ALL), ALL, augment__flip_axes=[axis])
    kernel, x = np.random.default_rng(1).normal(size=(1, 3, 3)), volume(6, 7, 8)
    each = [
        answer(slices_of([plane]), Linear(kernel), x.flip(f)).flip(f)
        for plane in ALL
        for f in ((), () if ACROSS[plane] == axis else (1 + axis,))  # the one that does not show it counts twice
    ]
    shown: list[tuple[np.ndarray, Pass]] = []
    found = answer(config, Linear(kernel), x, tta=True, watch=lambda p, one: shown.append((p.numpy().copy(), one)))
    np.testing.assert_allclose(found, sum(each) / 6, atol=1e-6)
    np.testing.assert_allclose(sum(p * one.share for p, one in shown), found, atol=1e-6)


def test_a_3d_network_and_axial_slices_have_the_passes_that_they_had() -> None:
    eight = [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]
    assert passes(sized(flip_axes=(0, 1, 2)), tta=True) == [Pass(2, axes, 1, 8) for axes in eight]
    assert [p.mirrored for p in passes(sized(dims=2, flip_axes=(0, 1, 2)), tta=True)] == [(), (0,), (1,), (0, 1)]


def test_progress_goes_on_through_all_directions_and_ends_at_the_end() -> None:
    heard: list[float] = []
    answer(slices_of(ALL), Linear([[[1.0]]]), volume(6, 7, 9), on_share=heard.append)
    assert heard == sorted(heard) and heard[-1] == 1.0
    # A call for each slice: 9 axial, 7 coronal, 6 sagittal ones, and each direction says its end once more.
    assert len(heard) == 9 + 7 + 6 + 3
    assert heard[8:11] == pytest.approx([1 / 3, 1 / 3, 1 / 3 + 1 / 21]) and heard[16] == pytest.approx(2 / 3)


# --------------------------------------------------------------------------------------------------------- one case


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = write_phantom(tmp_path_factory.mktemp("phantom"), 1, shape=(40, 40, 26), spacing_mm=(6.0, 6.0, 6.0))
    return discover_cases(folder)[0]


def save_planes(folder: Path, planes: list[str]) -> Path:
    """The same random weights whatever the planes."""
    plain = open_checkpoint(make_model(folder / "plain.safetensors", spatial_dims=2, spacing_mm=6.0))
    path = folder / f"{'-'.join(planes)}.safetensors"
    save_checkpoint(path, plain.build(), with_planes(plain.config, planes), dict(plain.card))
    return path


def test_a_case_gets_the_mean_of_what_each_direction_alone_gives_and_how_they_differ(
    tmp_path: Path, case: Case
) -> None:
    together = Predictor(save_planes(tmp_path, ALL), "cpu")(case)
    apart = [Predictor(save_planes(tmp_path, [plane]), "cpu")(case) for plane in ALL]
    assert together.uncertainty is not None and together.disagreement is not None
    assert all(one.uncertainty is None for one in apart)
    for region, found in together.probabilities.items():
        members = np.stack([one.probabilities[region] for one in apart])
        np.testing.assert_allclose(found, members.mean(axis=0), atol=1e-5)
        # The grids are the same, so that nothing is interpolated on the way back.
        np.testing.assert_allclose(together.uncertainty[region], members.std(axis=0), atol=1e-5)
    assert max(together.disagreement.values()) > 0.01


def test_a_single_slice_is_seen_in_its_own_direction_alone(tmp_path: Path) -> None:
    folder = write_phantom(tmp_path / "flat", 1, shape=(40, 40, 1), spacing_mm=(6.0, 6.0, 6.0))
    flat = discover_cases(folder)[0]
    together, axial = (Predictor(save_planes(tmp_path, planes), "cpu")(flat) for planes in (ALL, ["axial"]))
    for region, found in together.probabilities.items():
        assert found.tobytes() == axial.probabilities[region].tobytes()
    assert together.uncertainty is None and together.disagreement is None


def test_the_second_stage_of_a_cascade_works_in_its_box_in_every_direction(
    tmp_path: Path, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cascade_module, "BOX_MULTIPLE", 1)  # or an axial network's box would be another
    options = {"smallest_mm": 0, "threshold": 0.89, "margin_mm": 6, "seed": 1}  # a box of 12 x 14 x 15 of 24 x 28 x 24
    path = tmp_path / "plain.safetensors"
    made = make_cascade(path, dims=(2, 2), spacing_mm=(12.0, 6.0), **options)  # type: ignore[arg-type]
    plain = open_checkpoint(made)
    found = {}
    for planes in (ALL, *([plane] for plane in ALL)):
        path = tmp_path / f"{'-'.join(planes)}.safetensors"
        save_checkpoint(path, plain.build(), with_planes(plain.config, planes), {})
        found["-".join(planes)] = Predictor(path, "cpu")(case)
    together, apart = found["-".join(ALL)], [found[plane] for plane in ALL]
    for region, probability in together.probabilities.items():
        members = np.stack([one.probabilities[region] for one in apart])
        np.testing.assert_allclose(probability, members.mean(axis=0), atol=1e-5)
        differs = (members.std(axis=0) > 1e-4).mean() / (12 * 14 * 15 / (40 * 40 * 26))
        assert 0.3 < differs <= 1  # inside the box, and not beyond it
        assert together.uncertainty is not None
        np.testing.assert_allclose(together.uncertainty[region], members.std(axis=0), atol=1e-5)


def test_what_a_networks_windows_hold_are_multiples_in_a_cascades_box() -> None:
    settings = cascade_settings(dims=(2, 2))
    seen = {}
    for planes in (ALL, ["axial"], ["coronal"]):
        settings["window"]["planes"] = planes
        seen["-".join(planes)] = set(parse_config(settings, "test").seen_axes)
    assert seen == {"axial-coronal-sagittal": {0, 1, 2}, "axial": {0, 1}, "coronal": {0, 2}}
    assert parse_config(cascade_settings(dims=(2, 3)), "test").seen_axes == {0, 1, 2}


def test_what_did_not_fit_a_card_in_one_direction_is_not_tried_in_the_next(
    tmp_path: Path, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_planes(tmp_path, ALL)
    undisturbed, predictor = Predictor(path, "cpu")(case), Predictor(path, "cpu")
    ways = windows.ways_to_run(CUDA, predictor.configs[0].window.batch)
    tried = on_a_full_card(predictor, monkeypatch, ways[-1])
    result = predictor(case)
    assert tried == [*ways, *ways[-1:] * 2] and len(result.remarks) == 1
    assert result.label_map.tobytes() == undisturbed.label_map.tobytes()


# ------------------------------------------------------------------------------------------------ memory and engines


def test_memory_counts_the_turned_copy_the_sum_and_the_largest_window_of_all_directions() -> None:
    # 100 x 60 x 40 voxels in windows of 50 x 50, halved once: 50 x 50 axial, 50 x 40 coronal and sagittal.
    grid, voxels = (100, 60, 40), 100 * 60 * 40
    one = {
        name: one_window_bytes(ModelCost(with_planes(sized(dims=2), planes), 40_000.0), grid)
        for name, planes in {"all": ALL, "axial": ["axial"], "coronal": ["coronal"]}.items()
    }
    image, maps = 4 * 4 * voxels, 4 * 3 * voxels
    assert one["all"] - one["axial"] == pytest.approx(HEADROOM * (image + maps), rel=1e-6)
    smaller = (50 * 50 - 50 * 40) * (40_000 * 1.3 + 2 * 4 * 3)
    assert one["coronal"] - one["axial"] == pytest.approx(HEADROOM * (image - smaller), rel=1e-6)


def test_memory_counts_each_direction_as_a_member() -> None:
    plain, several = (phases(four(), [ModelCost(with_planes(sized(dims=2), p), 0.0)]) for p in (["axial"], ALL))
    spread = 3 * 10**6 * (8 + 1)
    assert several["network"] - plain["network"] == 16 * 10**6 + 12 * 10**6 + spread + 4 * 12 * 10**6
    assert several["uncertainty"] - plain["uncertainty"] == 24 * 10**6 + spread


def test_the_peak_of_a_case_in_three_directions_stays_below_its_prediction(tmp_path: Path, case: Case) -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the kernel does not tell a process its peak")
    predictor = Predictor(save_planes(tmp_path, ALL), "cpu", tta=True)

    def status(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

    idle = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    predictor(case)
    assert status("VmHWM") - idle < predictor.predicted_bytes(case)


def test_an_engine_pays_by_the_work_in_all_directions() -> None:
    axial = slices_of(["axial"])
    network = build_network(axial.network)
    assert 0 < multiplications(network, axial) < PAYS_FROM
    assert multiplications(network, slices_of(ALL)) == 3 * multiplications(network, axial)


# -------------------------------------------------------------------------------------------------------- training


def coordinates(shape: tuple[int, int, int] = (30, 28, 26), **options: Any) -> TrainingCase:
    """The first image says the first two axes' voxel (32 i + j + 1), the second the third's (k + 1)."""
    case = make_case(shape=shape, **options)
    i, j, k = np.indices(shape)
    case.voxels[0], case.voxels[1] = 32 * i + j + 1, k + 1
    return case


def seen_voxels(image: torch.Tensor, context: int) -> np.ndarray:
    """(3, slices, d1, d2) voxel along each axis of the case, which a sample of :func:`coordinates` shows."""
    first, third = image.reshape(2, 2 * context + 1, *image.shape[1:]).numpy().astype(int) - 1
    return np.stack((first // 32, first % 32, third))


def test_training_slices_are_cut_in_a_plane_drawn_at_random_with_their_neighbours_across_it() -> None:
    config = with_planes(make_config(dims=2, context=1, sampling={"regions_share": 1.0}), ALL, window__context_step=2)
    dataset = PatchDataset([coordinates(places={"WT": (15, 14, 13)})], config)
    drawn: Counter[int] = Counter()
    for index in range(150):
        sample = dataset[index]
        at = seen_voxels(sample["image"], 1)
        across = next(axis for axis in range(3) if (at[axis] == at[axis, :, :1, :1]).all())
        drawn[across] += 1
        first, second = (axis for axis in range(3) if axis != across)
        middle = (15, 14, 13)[across]
        assert at[across, :, 0, 0].tolist() == [middle - 2, middle, middle + 2]
        assert (np.diff(at[first], axis=1) == 1).all() and (np.diff(at[first], axis=2) == 0).all()
        assert (np.diff(at[second], axis=2) == 1).all() and (np.diff(at[second], axis=1) == 0).all()
        # The region's voxel is where the middle slice shows it, off the middle by up to a quarter of the patch.
        ((i, j),) = torch.nonzero(sample["regions"][0]).tolist()
        assert at[:, 1, i, j].tolist() == [15, 14, 13] and all(abs(a - 4) <= 2 for a in (i, j))
    # Binomial with n = 150 and p = 1/3: four standard deviations are 23.
    assert all(abs(drawn[axis] - 50) < 23 for axis in range(3))


def test_a_plane_that_is_not_asked_for_is_not_drawn_and_a_single_slice_keeps_its_own() -> None:
    config = with_planes(make_config(dims=2, context=1), ["coronal", "sagittal"])
    volumes, flat = coordinates(), coordinates(shape=(30, 28, 1))
    for case, wanted in ((volumes, {0, 1}), (flat, {2})):
        dataset, found = PatchDataset([case], config), set()
        for index in range(30):
            at = seen_voxels(dataset[index]["image"], 1)
            found.add(next(axis for axis in (2, 1, 0) if (at[axis] == at[axis, :, :1, :1]).all()))
        assert found == wanted


def test_brain_is_drawn_by_slice_across_the_plane_that_is_cut() -> None:
    case = make_case()
    voxels = np.zeros_like(case.voxels)
    voxels[0, 0], voxels[0, -1, 3, 3] = 1, 1  # the whole first sagittal slice, a single voxel of the last one
    places = np.argwhere(voxels[0] != 0).astype(np.int16)
    dataset = PatchDataset([replace(case, voxels=voxels, centres={"brain": places})], make_config(dims=2))
    drawn = [dataset._centre(dataset.pools[0][0][0], np.random.default_rng(n), 0)[0] for n in range(400)]
    assert set(drawn) == {0, voxels.shape[1] - 1} and abs(drawn.count(0) - 200) < 50


@pytest.mark.parametrize(("flip", "mirrored"), [(0, {2: {0}, 1: {0}, 0: set()}), (2, {2: set(), 1: {1}, 0: {1}})])
def test_axes_of_the_working_grid_are_mirrored_where_they_lie_within_the_slice(
    flip: int, mirrored: dict[int, set[int]]
) -> None:
    config = with_planes(make_config(dims=2, context=1, augment={**STILL, "flip_axes": [flip]}), ALL)
    dataset = PatchDataset([coordinates()], config)
    found: dict[int, set[int]] = {0: set(), 1: set(), 2: set()}
    for index in range(80):
        at = seen_voxels(dataset[index]["image"], 1)
        across = next(axis for axis in range(3) if (at[axis] == at[axis, :, :1, :1]).all())
        assert (np.diff(at[across, :, 0, 0]) >= 0).all()  # the neighbours are never exchanged
        within = [axis for axis in range(3) if axis != across]
        found[across] |= {n for n, axis in enumerate(within) if np.diff(at[axis], axis=1 + n).min() < 0}
    assert found == mirrored


def test_a_transplanted_lesion_stands_in_slices_of_every_direction_where_it_stands_in_the_brain() -> None:
    """The donor's brain is the host's size; its lesion is longer along the second axis than along the others."""
    host, donor = make_case("host", shape=(40, 40, 40), value=1), lesion_case("donor", 9)
    donor.voxels[:2, 17:24, 8:32, 17:24], donor.voxels[2, 17:24, 8:32, 17:24] = 9, 1
    donor.centres["WT"] = np.argwhere(donor.voxels[2] > 0).astype(np.int16)  # type: ignore[index]
    base = make_config(2, augment={**STILL, "transplant": 1.0, "flip_axes": [0]}, patch=32)
    for plane, lengths in (("axial", (7, 24)), ("coronal", (7, 7)), ("sagittal", (24, 7))):
        config = with_planes(base, [plane], training__sampling={"extra_share": 0.01, "regions_share": 0})
        dataset, seen = PatchDataset([host], config, extra=[donor]), []
        for index in range(30):
            sample = dataset[index]
            lesion = sample["regions"][0] > 0.5
            if lesion.any():
                seen.append([int(lesion.any(dim=1 - axis).sum()) for axis in range(2)])
                assert 4 < float(sample["image"][0][lesion].median()) < 12
        assert len(seen) > 20
        # Drawn larger or smaller by a tenth, and cut at the patch's edge.
        np.testing.assert_allclose(np.median(seen, axis=0), lengths, atol=3)


def test_a_first_stages_coarseness_is_turned_with_the_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = cascade_settings(dims=(2, 2))
    settings["first"]["recipe"]["preprocess"]["spacing_mm"] = [5.0, 10.0, 20.0]
    settings["window"] |= {"planes": ALL, "context": 1, "context_step": 2}
    settings["network"]["in_channels"] *= 3
    given: list[list[float]] = []

    def simulated(shares: torch.Tensor, random: Any, coarseness: list[float], errors: float) -> torch.Tensor:
        given.append(list(coarseness))
        return shares

    monkeypatch.setattr("pipeline.training.sampling.simulated_first_stage", simulated)
    case = make_case(shape=(30, 30, 30))
    case = replace(case, voxels=np.ones((7, 30, 30, 30), np.float16), n_images=4)
    dataset = PatchDataset([case], parse_config(settings, "test"))
    for index in range(20):
        dataset[index]
    # 1, 2 and 4 voxels to one of the first network's; a step of 2 halves what lies between the slices of a sample.
    assert {tuple(steps) for steps in given} == {(1, 2, 2), (1, 4, 1), (2, 4, 0.5)}


def test_a_run_learns_in_three_directions_and_leaves_a_model_that_knows_them(
    tmp_path: Path, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_files, "plot_curves", lambda *_: None)
    settings = cascade_settings(dims=(2, 2), spacing_mm=(10.0, 5.0))
    short = {"patch": [16, 16], "batch": 2, "epochs": 1, "steps_per_epoch": 3}
    settings["training"] = settings["first"]["recipe"]["training"] = short
    settings["window"]["planes"] = settings["first"]["recipe"]["window"]["planes"] = ALL
    (tmp_path / "planes.yaml").write_text(json.dumps(settings))  # JSON is YAML without aliases
    path = run_training(phantoms, str(tmp_path / "planes.yaml"), tmp_path / "run", TrainOptions(device="cpu", folds=2))
    model = open_checkpoint(path)
    assert model.config.window.planes == tuple(ALL) and set(model.card["scores"]) == {"dice_WT", "dice_TC", "dice_ET"}
    result = Predictor(path, "cpu", tta=True)(discover_cases(phantoms)[0])
    assert result.uncertainty is not None and all(np.isfinite(p).all() for p in result.probabilities.values())


# ------------------------------------------------------------------------------------------------- recipes and files


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_takes_three_planes_or_says_why_not(path: Path) -> None:
    config = load_recipe(path.stem)
    plain = config.model_dump_json()
    assert config.slice_axes == (2,) and "planes" not in plain
    assert with_planes(config, ["axial"]).model_dump_json() == plain  # said or not said
    sides = [side or np.inf for side in config.preprocess.spacing_mm]
    if config.network.spatial_dims == 2 and max(sides) <= 1.2 * min(sides):
        three = with_planes(config, ALL)
        assert three.slice_axes == (2, 1, 0) and parse_config(three.model_dump(mode="json"), "again") == three
        assert three.model_dump(mode="json")["window"]["planes"] == ALL
        size = (21, 19, 17)
        network = build_network(three.network).eval()
        image = torch.randn(len(three.inputs), *size)
        single = [answer(with_planes(three, [plane]), network, image) for plane in ALL]
        np.testing.assert_allclose(answer(three, network, image), sum(single) / 3, atol=1e-6)
        chain_sizes = {len(PatchDataset([case_for(three)], three)[n]["image"]) for n in range(4)}
        assert chain_sizes == {three.network.in_channels}
    else:
        with pytest.raises(UsageError, match=r"window\.planes \[axial, coronal, sagittal\]"):
            with_planes(config, ALL)


def case_for(config: RunConfig) -> TrainingCase:
    n_images, n_regions = len(config.modalities), len(config.regions)
    voxels = np.ones((n_images + n_regions, 24, 22, 20), np.float16)
    return replace(make_case(), voxels=voxels, n_images=n_images, centres={"brain": np.array([[9, 9, 9]], np.int16)})


@pytest.mark.parametrize(
    ("changes", "planes", "sentence"),
    [
        (
            {"preprocess__spacing_mm": [1.0, 1.0, 3.0]},
            ALL,
            "window.planes [axial, coronal, sagittal]: preprocess.spacing_mm is [1, 1, 3], and slices of several "
            "planes are alike only where the largest is at most 1.2 times the smallest; make them equal, or name one "
            "plane",
        ),
        ({"preprocess__spacing_mm": [1.0, None, 1.0]}, ["axial", "coronal"], "preprocess.spacing_mm is [1, null, 1]"),
        ({"preprocess__spacing_mm": [1.0, 1.21, 1.0]}, ["sagittal", "axial"], "preprocess.spacing_mm is [1, 1.21, 1]"),
        (
            {"preprocess__orientation": "SRA"},
            ["coronal"],
            "preprocess.orientation SRA has no axial slices across its third axis; end it with S or I",
        ),
        ({}, ["axial", "axial"], "window.planes: names a plane twice: axial, axial; name each once"),
        ({}, [], "window.planes: "),
        ({}, ["transverse"], "window.planes.0: "),
    ],
)
def test_planes_that_cannot_be_are_refused_with_the_key_and_the_fix(
    changes: dict[str, Any], planes: list[str], sentence: str
) -> None:
    with pytest.raises(UsageError) as caught:
        with_planes(make_config(dims=2), planes, **changes)
    assert sentence in str(caught.value)


def test_planes_are_refused_for_a_3d_network_and_one_plane_needs_no_like_sides() -> None:
    with pytest.raises(UsageError, match=r"window\.planes \[coronal\] is for 2D networks; leave it out"):
        with_planes(make_config(dims=3), ["coronal"])
    thick = with_planes(make_config(dims=2), ["coronal"], preprocess__spacing_mm=[1.0, 1.0, 3.0])
    nearly = with_planes(make_config(dims=2), ALL, preprocess__spacing_mm=[1.0, 1.2, 1.0])
    assert thick.slice_axes == (1,) and nearly.slice_axes == (2, 1, 0)
    turned_grid = with_planes(make_config(dims=2), ALL, preprocess__orientation="ARI")
    assert turned_grid.slice_axes == (2, 0, 1)


def test_a_model_says_its_planes_where_it_has_more_than_axial_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import run_pipeline

    several, axial = (open_checkpoint(save_planes(tmp_path, planes)) for planes in (ALL, ["axial"]))
    assert several.as_listing()["planes"] == ALL and "planes" not in axial.as_listing()
    monkeypatch.setattr("pipeline.checkpoint.shipped_models", lambda: [several, axial])
    assert run_pipeline.main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "axial-coronal-sagittal: attention_unet, 2D, slices: axial, coronal, sagittal"
    assert lines[3] == "axial: attention_unet, 2D"
