"""The predictor: on the case's own grid, and each of its parts what a plain computation of the same gives."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from torch import nn

from data.case import Case
from data.errors import CheckpointError, InputError, SegmentationError, UsageError
from data.find.discover import discover_cases
from data.grid import Grid
from data.labels import load_convention
from data.phantom.patient import write_phantom
from networks import build_network
from pipeline.checkpoint import open_checkpoint, save_checkpoint
from pipeline.config import RunConfig, parse_config
from pipeline.predict import predictor as module
from pipeline.predict import windows
from pipeline.predict.device import choose_device, out_of_memory
from pipeline.predict.predictor import Predictor, region_parents
from pipeline.predict.windows import EMPTY_WINDOW_LOGIT, Way, skipping_empty, ways_to_run
from tests.conftest import make_cascade
from transforms.preprocess import grid_of, preprocess_chain, run_chain
from transforms.restore import restore


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = write_phantom(tmp_path_factory.mktemp("phantom"), 1, shape=(40, 40, 26), spacing_mm=(6.0, 6.0, 6.0))
    return discover_cases(folder)[0]


def make_config(dims: int = 3, regions: Sequence[str] = ("WT", "TC"), **changes: Any) -> RunConfig:
    plain: dict[str, Any] = {
        "name": "tiny",
        "modalities": ["t1c", "flair"],
        "regions": list(regions),
        "convention": "brats2023",
        "network": {
            "architecture": "attention_unet" if dims == 3 else "unet_plus_plus",
            "spatial_dims": dims,
            "in_channels": 2,
            "out_channels": len(regions),
            "channels": [4, 8],
        },
        "preprocess": {"spacing_mm": [8.0, 8.0, 8.0]},
        "window": {"size": [16] * dims, "batch": 2},
        "training": {"patch": [16] * dims},
        **changes,
    }
    plain["network"]["in_channels"] = len(plain["modalities"])
    return parse_config(plain, "test")


def save_tiny(folder: Path, name: str = "tiny", seed: int = 0, **options: Any) -> Path:
    config = make_config(**options)
    torch.manual_seed(seed)
    network = build_network(config.network)
    for value in network.state_dict().values():
        if value.is_floating_point() and value.ndim > 1:
            value.normal_(0, 0.2)  # so that answers differ from voxel to voxel
    save_checkpoint(folder / f"{name}.safetensors", network, config, {})
    return folder / f"{name}.safetensors"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def flat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("flat"), "flat", dims=2)


@pytest.fixture(scope="module")
def cascade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cascade(
        tmp_path_factory.mktemp("cascade") / "tiny.safetensors", seed=1,
        modalities=("t1c", "flair"), regions=("WT", "TC"), spacing_mm=(12.0, 8.0),
    )  # fmt: skip


@pytest.fixture(scope="module", params=["model", "flat_model", "cascade"])
def any_model(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def textured(*shape: int) -> torch.Tensor:
    """An image without a single zero, so that no window is empty."""
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(5)).abs() + 0.1


def infer(predictor: Predictor, image: torch.Tensor) -> torch.Tensor:
    return windows.infer(predictor.configs[0], predictor.networks[0], image, predictor.device, tta=predictor.tta)[0]


def prepared(predictor: Predictor, case: Case) -> tuple[torch.Tensor, Grid]:
    """The case's normalised image and its working grid."""
    config = predictor.configs[0]
    chain = preprocess_chain(config.modalities, spacing_mm=(8.0, 8.0, 8.0))
    done = run_chain(chain, {m: case.images[m] for m in config.modalities})
    return done["image"].as_tensor(), grid_of(done["image"])


def mirrorings(*flip_axes: int) -> list[tuple[int, ...]]:
    """Axes of a (regions, d1, d2, d3) array that each pass mirrors."""
    return [c for n in range(len(flip_axes) + 1) for c in combinations([1 + axis for axis in flip_axes], n)]


# ------------------------------------------------------------------------------------------------------- the case


def test_everything_comes_back_on_the_cases_own_grid(any_model: Path, case: Case) -> None:
    result = Predictor(any_model, "cpu")(case)
    grid = result.native.grid
    assert grid.shape == (40, 40, 26) and grid.orientation == "LPS"
    assert result.label_map.shape == grid.shape and result.label_map.dtype == np.uint8
    assert list(result.masks) == list(result.probabilities) == ["WT", "TC"]
    for region in result.masks:
        assert result.masks[region].shape == grid.shape and result.masks[region].dtype == bool
        probability = result.probabilities[region]
        assert probability.dtype == np.float32 and probability.min() >= 0 and probability.max() <= 1 + 1e-6
    assert result.background.shape == grid.shape
    assert result.convention == "brats2023" and result.warnings == ()
    assert set(result.seconds) == {"read", "preprocess", "network", "restore"}
    # What is reported is what was written.
    back = load_convention("brats2023").region_masks(result.label_map, ["WT", "TC"])
    assert all(np.array_equal(back[region], result.masks[region]) for region in back)
    assert result.masks["WT"].any() and not result.masks["WT"].all()


def test_the_probabilities_are_those_of_a_plain_run_brought_back(model: Path, case: Case) -> None:
    predictor = Predictor(model, "cpu")
    config = predictor.configs[0]
    images = {m: case.images[m] for m in config.modalities}
    prepared = run_chain(preprocess_chain(config.modalities, spacing_mm=(8.0, 8.0, 8.0)), images)
    image = prepared["image"].as_tensor()
    asked = skipping_empty(predictor.networks[0], 2)
    roi = [min(16, n) for n in image.shape[1:]]
    with torch.no_grad():
        logits = sliding_window_inference(image[None], roi, 2, asked, overlap=0.5, mode="gaussian")
    expected = restore(torch.sigmoid(logits)[0], grid_of(prepared["image"]), prepared["native"].grid)
    result = predictor(case)
    for region, wanted in zip(("WT", "TC"), expected.numpy(), strict=True):
        np.testing.assert_allclose(result.probabilities[region], wanted, atol=1e-6)


def test_the_same_case_gives_the_same_bytes_twice(any_model: Path, case: Case) -> None:
    first, second = Predictor(any_model, "cpu")(case), Predictor(any_model, "cpu")(case)
    assert first.label_map.tobytes() == second.label_map.tobytes()
    for region in first.probabilities:
        assert first.probabilities[region].tobytes() == second.probabilities[region].tobytes()


def test_the_label_map_is_in_the_convention_that_is_asked_for(any_model: Path, case: Case) -> None:
    result = Predictor(any_model, "cpu")(case, "msd")  # edema 1, core 2
    assert result.convention == "msd"
    assert set(np.unique(result.label_map)) <= {0, 1, 2}
    assert np.array_equal(result.label_map > 0, result.masks["WT"])
    assert np.array_equal(result.label_map == 2, result.masks["TC"])


def test_a_convention_with_none_of_the_models_regions_is_refused(tmp_path: Path, case: Case) -> None:
    predictor = Predictor(save_tiny(tmp_path, regions=["ET"]), "cpu")
    with pytest.raises(InputError, match="the convention lgg has none of the regions ET of tiny; choose another"):
        predictor(case, "lgg")


def test_regions_know_the_smallest_region_around_them() -> None:
    convention = load_convention("brats2024-gli")
    assert region_parents(convention, ("WT", "TC", "ET", "RC")) == {"WT": None, "TC": "WT", "ET": "TC", "RC": None}
    assert region_parents(convention, ("WT", "ET")) == {"WT": None, "ET": "WT"}


# -------------------------------------------------------------------------------------------------------- windows


@pytest.mark.parametrize("shape", [(24, 20, 18), (16, 16, 16), (9, 30, 11)])
def test_windows_are_monais_with_the_same_settings(model: Path, shape: tuple[int, int, int]) -> None:
    predictor, image = Predictor(model, "cpu"), textured(*shape)
    roi = [min(16, n) for n in shape]
    with torch.no_grad():
        logits = sliding_window_inference(image[None], roi, 1, predictor.networks[0], overlap=0.5, mode="gaussian")
    np.testing.assert_allclose(infer(predictor, image), torch.sigmoid(logits)[0], atol=1e-5)


def test_a_flat_network_goes_through_a_volume_slice_by_slice(flat_model: Path) -> None:
    predictor, image = Predictor(flat_model, "cpu"), textured(24, 20, 5)
    with torch.no_grad():
        slices = [
            sliding_window_inference(
                image[None, ..., z], (16, 16), 1, predictor.networks[0], overlap=0.5, mode="gaussian"
            )
            for z in range(5)
        ]
    expected = torch.sigmoid(torch.stack(slices, dim=-1))[0]
    np.testing.assert_allclose(infer(predictor, image), expected, atol=1e-5)


def test_a_flat_network_takes_a_single_slice(flat_model: Path) -> None:
    predictor, image = Predictor(flat_model, "cpu"), textured(16, 16, 1)
    with torch.no_grad():
        expected = torch.sigmoid(predictor.networks[0](image[None, ..., 0]))[0]
    np.testing.assert_allclose(infer(predictor, image)[..., 0], expected, atol=1e-6)


@pytest.mark.parametrize(("context", "depth"), [(1, 5), (2, 3), (1, 1)])
def test_a_flat_network_with_context_sees_each_slice_between_its_neighbours(
    tmp_path: Path, context: int, depth: int
) -> None:
    config = make_config(2).model_dump(mode="json")
    config["window"]["context"] = context
    config["network"]["in_channels"] = 2 * (2 * context + 1)
    torch.manual_seed(0)
    network = build_network(parse_config(config, "test").network)
    save_checkpoint(tmp_path / "context.safetensors", network, parse_config(config, "test"), {})
    predictor, image = Predictor(tmp_path / "context.safetensors", "cpu"), textured(16, 16, depth)
    for z in range(depth):
        # The slices of one modality together, in ascending order, the end ones repeated.
        near = [min(max(z + k, 0), depth - 1) for k in range(-context, context + 1)]
        shown = torch.stack([image[modality, ..., k] for modality in range(2) for k in near])
        with torch.no_grad():
            expected = torch.sigmoid(predictor.networks[0](shown[None]))[0]
        np.testing.assert_allclose(infer(predictor, image)[..., z], expected, atol=1e-5)


class Counting(nn.Module):
    """A network that says 3 everywhere and counts the windows that it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        assert windows.flatten(1).any(dim=1).all()
        self.seen += len(windows)
        return torch.full((len(windows), 2, *windows.shape[2:]), 3.0)


@pytest.mark.parametrize("dims", [2, 3])
def test_empty_windows_are_answered_without_asking_the_network(model: Path, flat_model: Path, dims: int) -> None:
    predictor = Predictor(model if dims == 3 else flat_model, "cpu")
    config = predictor.configs[0].model_copy(
        update={"window": predictor.configs[0].window.model_copy(update={"overlap": 0.0, "batch": 3})}
    )
    image = torch.zeros(2, 64, 16, 16)
    image[0, 20, 5, 7] = 1.0  # in the second of four windows
    network = Counting()
    answer, _ = windows.infer(config, network, image, predictor.device)
    assert network.seen == 1  # a cube, or one slice of 16 x 16
    full = answer[:, 16:32] if dims == 3 else answer[:, 16:32, :, 7]
    np.testing.assert_allclose(full, 1 / (1 + np.exp(-3)), rtol=1e-6)
    share = 16 * 16 * (16 if dims == 3 else 1) / (64 * 16 * 16)
    assert (answer > 0.5).float().mean().item() == pytest.approx(share)
    assert answer.min() == pytest.approx(1 / (1 + np.exp(-EMPTY_WINDOW_LOGIT)), abs=1e-12)
    network = Counting()
    assert windows.infer(config, network, torch.zeros(2, 64, 16, 16), predictor.device)[0].max() < 1e-8
    assert network.seen == 0


# ----------------------------------------------------------------------------------------------------- averaging


@pytest.mark.parametrize("dims", [2, 3])
def test_mirroring_is_the_mean_of_the_passes_flipped_by_hand(model: Path, flat_model: Path, dims: int) -> None:
    path, image = (model, flat_model)[3 - dims], textured(16, 18, 8)
    plain, mirrored = Predictor(path, "cpu"), Predictor(path, "cpu", tta=True)
    axes = range(1, dims + 1)
    flips = [c for n in range(dims + 1) for c in combinations(axes, n)]
    assert len(flips) == 2**dims
    expected = sum(infer(plain, image.flip(f)).flip(f) for f in flips) / len(flips)
    np.testing.assert_allclose(infer(mirrored, image), expected, atol=1e-6)
    assert not np.allclose(infer(plain, image), expected, atol=1e-4)


@pytest.mark.parametrize(("dims", "axes"), [(2, (0,)), (2, (1, 2)), (3, (0, 2)), (3, ())])
def test_only_the_mirrorings_that_were_trained_are_averaged(tmp_path: Path, dims: int, axes: tuple[int, ...]) -> None:
    path, image = save_tiny(tmp_path, dims=dims, augment={"flip_axes": axes}), textured(16, 18, 8)
    plain, mirrored = Predictor(path, "cpu"), Predictor(path, "cpu", tta=True)
    trained = [1 + axis for axis in axes if axis < dims]  # a slice has no third axis
    flips = [c for n in range(len(trained) + 1) for c in combinations(trained, n)]
    expected = sum(infer(plain, image.flip(f)).flip(f) for f in flips) / len(flips)
    np.testing.assert_allclose(infer(mirrored, image), expected, atol=1e-6)
    assert np.allclose(infer(plain, image), expected, atol=1e-4) is (not trained)


def test_two_models_give_the_mean_of_their_probabilities_whatever_their_order_of_regions(
    model: Path, tmp_path: Path, case: Case
) -> None:
    regions = ["WT", "ET", "RC"]
    first = save_tiny(tmp_path, "first", 1, regions=regions, convention="brats2024-gli")
    second = save_tiny(tmp_path, "second", 2, regions=["RC", "WT", "ET"], convention="brats2024-gli", dims=2)
    both = Predictor([first, open_checkpoint(second)], "cpu")
    assert both.name == "first+second"
    a, b, mean = (p(case).probabilities for p in (Predictor(first, "cpu"), Predictor(second, "cpu"), both))
    assert list(mean) == regions
    for region in regions:
        np.testing.assert_allclose(mean[region], (a[region] + b[region]) / 2, atol=1e-6)


def test_gathering_the_members_changes_no_bit_of_the_mean_and_the_mask(model: Path, case: Case) -> None:
    plain, result = Predictor(model, "cpu"), Predictor(model, "cpu", tta=True)(case)
    image, working = prepared(plain, case)
    total = sum(infer(plain, image.flip(f)).flip(f) for f in mirrorings(0, 1, 2))
    mean = restore(total / 8, working, result.native.grid).numpy()
    for region, wanted in zip(("WT", "TC"), mean, strict=True):
        assert result.probabilities[region].tobytes() == wanted.tobytes()
    masks = module.region_masks(plain.configs[0], result.probabilities, result.native.grid, None)
    back = load_convention("brats2023").region_masks(result.label_map, ["WT", "TC"])
    assert all(np.array_equal(masks[region], back[region]) for region in masks)


def test_one_model_in_one_pass_has_no_uncertainty_and_gathers_nothing(
    model: Path, tmp_path: Path, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MemberSpread", None)  # asking for one would be an error
    unmirrored = save_tiny(tmp_path, augment={"flip_axes": []})
    for predictor in (Predictor(model, "cpu"), Predictor(unmirrored, "cpu", tta=True)):
        result = predictor(case)
        assert result.uncertainty is None and result.disagreement is None


def test_the_uncertainty_is_the_deviation_of_the_mirrored_passes_brought_back(model: Path, case: Case) -> None:
    plain, result = Predictor(model, "cpu"), Predictor(model, "cpu", tta=True)(case)
    image, working = prepared(plain, case)
    members = np.stack([infer(plain, image.flip(f)).flip(f).numpy() for f in mirrorings(0, 1, 2)]).astype(np.float64)
    deviation = torch.as_tensor(members.std(axis=0), dtype=torch.float32)
    of_mean = members.mean(axis=0) >= 0.5
    assert result.uncertainty is not None and result.disagreement is not None
    assert list(result.uncertainty) == list(result.disagreement) == ["WT", "TC"]
    for i, (region, wanted) in enumerate(
        zip(("WT", "TC"), restore(deviation, working, result.native.grid).numpy(), strict=True)
    ):
        own = result.uncertainty[region]
        assert own.dtype == np.float32 and own.shape == result.native.grid.shape and own.max() > 0.01
        np.testing.assert_allclose(own, wanted, atol=1e-5)
        dices = [2 * ((m[i] >= 0.5) & of_mean[i]).sum() / ((m[i] >= 0.5).sum() + of_mean[i].sum()) for m in members]
        assert result.disagreement[region] == pytest.approx(1 - np.mean(dices), abs=1e-3)


def test_a_model_beside_itself_agrees_wholly(model: Path, case: Case) -> None:
    result = Predictor([model, model], "cpu")(case)
    assert result.disagreement == {"WT": 0.0, "TC": 0.0}
    assert result.uncertainty is not None and not any(values.any() for values in result.uncertainty.values())


def test_each_model_has_the_same_weight_however_many_passes_it_takes(tmp_path: Path, case: Case) -> None:
    axes = ((0, 1), (0,))
    paths = [save_tiny(tmp_path, f"m{n}", n, augment={"flip_axes": a}) for n, a in enumerate(axes)]
    both = Predictor(paths, "cpu", tta=True)
    image, working = prepared(both, case)
    members, weights = [], []
    for path, flip_axes in zip(paths, axes, strict=True):
        passes = [infer(Predictor(path, "cpu"), image.flip(f)).flip(f).numpy() for f in mirrorings(*flip_axes)]
        members += passes
        weights += [1 / len(passes)] * len(passes)
    assert weights == [0.25] * 4 + [0.5] * 2
    mean = np.average(members, axis=0, weights=weights)
    deviation = np.sqrt(np.average((np.array(members, np.float64) - mean) ** 2, axis=0, weights=weights))
    result = both(case)
    assert result.uncertainty is not None
    wanted = restore(torch.as_tensor(deviation, dtype=torch.float32), working, result.native.grid).numpy()
    np.testing.assert_allclose(result.uncertainty["TC"], wanted[1], atol=1e-5)


def test_members_are_compared_region_by_region_and_on_one_grid(tmp_path: Path, case: Case) -> None:
    regions = ["WT", "ET", "RC"]
    first = save_tiny(tmp_path, "first", 1, regions=regions, convention="brats2024-gli")
    # The same network, but its heads are named in another order.
    second = save_tiny(tmp_path, "second", 1, regions=["RC", "WT", "ET"], convention="brats2024-gli")
    result = Predictor([first, second], "cpu")(case)
    predictor = Predictor(first, "cpu")
    image, working = prepared(predictor, case)
    heads = infer(predictor, image)
    apart = restore((heads - heads[[1, 2, 0]]).abs() / 2, working, result.native.grid).numpy()
    assert result.uncertainty is not None and list(result.uncertainty) == regions
    for region, wanted in zip(regions, apart, strict=True):
        np.testing.assert_allclose(result.uncertainty[region], wanted, atol=1e-6)
    coarse = save_tiny(tmp_path, "coarse", 1, regions=regions, convention="brats2024-gli",
                       preprocess={"spacing_mm": [10.0, 10.0, 10.0]})  # fmt: skip
    mixed = Predictor([first, coarse], "cpu")(case)
    assert mixed.uncertainty is not None and mixed.uncertainty["RC"].shape == (40, 40, 26)
    assert 0 < mixed.uncertainty["RC"].max() <= 0.5


def test_models_of_different_regions_are_refused(model: Path, tmp_path: Path) -> None:
    other = save_tiny(tmp_path, "other", regions=["WT", "ET"])
    with pytest.raises(CheckpointError) as caught:
        Predictor([model, other], "cpu")
    assert str(caught.value) == (
        "tiny gives the regions WT, TC but other gives WT, ET; only models of the same regions can be averaged"
    )


def test_no_model_at_all_is_refused() -> None:
    with pytest.raises(UsageError, match="no model was given"):
        Predictor([], "cpu")


# ------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_output_that_is_not_finite_is_an_error_and_no_mask(
    model: Path, case: Case, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    predictor = Predictor(model, "cpu")
    monkeypatch.setattr(predictor.networks[0], "forward", lambda x: torch.full((len(x), 2, *x.shape[2:]), value))
    with pytest.raises(SegmentationError) as caught:
        predictor(case)
    n_values = 2 * np.prod(prepared(predictor, case)[0].shape[1:])
    text = str(caught.value)
    assert text.startswith(
        f"tiny: the network's output is not finite in {n_values} of {n_values} values, from normalised"
    )
    assert text.endswith("; look for extreme intensities in the images, or choose another model")


def without(case: Case, *modalities: str) -> Case:
    from dataclasses import replace

    return replace(case, images={m: s for m, s in case.images.items() if m not in modalities})


def test_a_missing_modality_is_refused_unless_the_model_was_trained_for_that(
    model: Path, tmp_path: Path, case: Case
) -> None:
    with pytest.raises(InputError, match="no flair image, and tiny needs t1c, flair; add the file"):
        Predictor(model, "cpu")(without(case, "flair"))
    with pytest.raises(SegmentationError, match="tiny was not trained for missing modalities"):
        Predictor(model, "cpu", zero_missing=True)(without(case, "flair"))
    trained = save_tiny(tmp_path, "trained", augment={"missing_modality": 0.2})
    result = Predictor(trained, "cpu", zero_missing=True)(without(case, "flair"))
    assert result.warnings == ("flair is missing and was replaced by zeros",)
    with pytest.raises(InputError, match="no flair image"):
        Predictor(trained, "cpu")(without(case, "flair"))
    with pytest.raises(InputError, match="no t1c, flair image"):
        Predictor(trained, "cpu", zero_missing=True)(without(case, "t1c", "flair"))


def test_other_modalities_than_the_models_do_not_matter(any_model: Path, case: Case) -> None:
    first, second = Predictor(any_model, "cpu")(case), Predictor(any_model, "cpu")(without(case, "t1", "t2"))
    assert first.label_map.tobytes() == second.label_map.tobytes()


def test_a_model_of_volumes_warns_of_a_single_slice_and_one_of_slices_does_not(
    model: Path, flat_model: Path, case: Case, tmp_path: Path
) -> None:
    import nibabel as nib

    for modality in ("t1c", "flair"):
        image = nib.load(case.images[modality].paths[0])
        nib.save(image.slicer[:, :, 13:14], tmp_path / case.images[modality].paths[0].name)
    (slice_case,) = discover_cases(tmp_path)
    (warning,) = [w for w in Predictor(model, "cpu")(slice_case).warnings if "single slice" in w]
    assert warning.endswith("a single slice (40x40x1), and tiny expects volumes; choose a 2D model")
    assert not [w for w in Predictor(flat_model, "cpu")(slice_case).warnings if "single slice" in w]


# --------------------------------------------------------------------------------------------------------- devices


def test_auto_is_the_card_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, device in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert choose_device("auto").type == device
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "", "mps", "cuda:x", "meta"])
def test_what_is_no_device_is_refused_with_what_is(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        choose_device(name)
    assert str(caught.value) == f"--device {name}: not a device; choose auto, cpu, cuda or cuda:N"


def test_a_card_that_this_machine_does_not_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UsageError, match="--device cuda: this machine has 0 CUDA devices; choose auto or cpu"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UsageError, match="cuda:2: this machine has 2"):
        choose_device("cuda:2")


FULL = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
CUDA, CPU = torch.device("cuda"), torch.device("cpu")


def on_a_full_card(predictor: Predictor, monkeypatch: pytest.MonkeyPatch, fits: Way) -> list[Way]:
    """Pretend to be on a card with room for one way of running only; returns what was tried."""
    plain, tried = windows._one_pass, []

    def pretend(config: RunConfig, network: nn.Module, image: torch.Tensor, way: Way, axes: Any) -> torch.Tensor:
        tried.append(way)
        if way != fits:
            raise FULL
        return plain(config, network, image, Way(CPU, way.batch, CPU), axes)

    monkeypatch.setattr(windows, "_one_pass", pretend)
    monkeypatch.setattr(predictor, "device", CUDA)
    monkeypatch.setattr(windows, "free_card_bytes", lambda device: 3 * 2**28 if device == CUDA else None)
    return tried


def test_a_card_gets_smaller_batches_then_single_windows_and_last_nothing() -> None:
    assert ways_to_run(CUDA, 8) == [
        Way(CUDA, 8, CUDA), Way(CUDA, 4, CUDA), Way(CUDA, 2, CUDA), Way(CUDA, 1, CUDA), Way(CUDA, 1, CPU),
        Way(CPU, 8, CPU)
    ]  # fmt: skip
    assert ways_to_run(CPU, 8) == [Way(CPU, 8, CPU)]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, None),
        (1, "ran in batches of 1"),
        (2, "ran in batches of 1, stitched on the CPU"),
        (3, "ran on the CPU"),
    ],
)
def test_a_full_card_costs_no_mask_and_what_was_done_is_said(
    model: Path, case: Case, monkeypatch: pytest.MonkeyPatch, number: int, said: str | None
) -> None:
    undisturbed, predictor = Predictor(model, "cpu")(case), Predictor(model, "cpu")
    ways = ways_to_run(CUDA, 2)
    tried = on_a_full_card(predictor, monkeypatch, ways[number])
    result = predictor(case)
    assert tried == ways[: number + 1]
    assert result.label_map.tobytes() == undisturbed.label_map.tobytes()
    assert result.remarks == (() if said is None else (f"the card's memory was too small (0.75 GiB free): {said}",))
    assert result.warnings == undisturbed.warnings == () and undisturbed.remarks == ()


def test_what_did_not_fit_one_pass_is_not_tried_for_the_next(
    model: Path, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, predictor = Predictor(model, "cpu", tta=True)(case), Predictor(model, "cpu", tta=True)
    last = ways_to_run(CUDA, 2)[-1]
    tried = on_a_full_card(predictor, monkeypatch, last)
    result = predictor(case)
    assert tried == ways_to_run(CUDA, 2)[:-1] + [last] * 8
    assert result.label_map.tobytes() == undisturbed.label_map.tobytes()
    assert result.disagreement == undisturbed.disagreement and len(result.remarks) == 1


def test_memory_that_runs_out_in_the_middle_of_the_windows_leaves_no_trace(
    model: Path, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, predictor = Predictor(model, "cpu")(case), Predictor(model, "cpu")
    network, calls = predictor.networks[0], []
    plain = network.forward

    def third_pair_is_too_much(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        if len(x) > 1 and len(calls) > 2:
            raise FULL
        return plain(x)

    monkeypatch.setattr(network, "forward", third_pair_is_too_much)
    monkeypatch.setattr(windows, "ways_to_run", lambda device, batch: [Way(CPU, 2, CPU), Way(CPU, 1, CPU)])
    result = predictor(case)
    assert calls[:3] == [2, 2, 2] and set(calls[3:]) == {1}
    assert result.label_map.tobytes() == undisturbed.label_map.tobytes()


def test_a_card_without_room_for_the_model_itself_is_done_without(
    model: Path, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, plain = Predictor(model, "cpu")(case), nn.Module.to

    def full(self: nn.Module, device: Any) -> nn.Module:
        if torch.device(device).type == "cuda":
            raise FULL
        return plain(self, device)

    monkeypatch.setattr(nn.Module, "to", full)
    monkeypatch.setattr(module, "choose_device", lambda name: CUDA)
    monkeypatch.setattr(windows, "free_card_bytes", lambda device: None)  # it cannot even be asked
    result = Predictor(model, "auto")(case)
    assert result.label_map.tobytes() == undisturbed.label_map.tobytes()
    assert result.remarks == ("the card's memory was too small: ran on the CPU",)


def test_the_work_of_a_full_card_goes_to_the_cpu_only_where_there_is_room(
    model: Path, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor(model, "cpu")
    on_card, on_cpu = (predictor.predicted_bytes(case, on_card=where) for where in (True, False))
    monkeypatch.setattr(module, "predicted_bytes", lambda *a, on_card, **k: 2**30 if on_card else 2**32)
    monkeypatch.setattr("pipeline.predict.memory.machine.machine_bytes", lambda: 2**31)
    on_a_full_card(predictor, monkeypatch, Way(CPU, 2, CPU))
    with pytest.raises(InputError, match=r"takes about 4\.0 GiB of memory, and 2\.0 GiB are left"):
        predictor(case)
    assert on_card <= on_cpu


def test_an_error_that_is_not_about_memory_is_not_tried_again(
    model: Path, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, calls = Predictor(model, "cpu"), []

    def broken(*arguments: Any) -> torch.Tensor:
        calls.append(arguments)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(windows, "_one_pass", broken)
    monkeypatch.setattr(predictor, "device", CUDA)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        predictor(case)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (FULL, True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("could not create a memory object"), True),
        (RuntimeError("expected scalar type Half but found Float"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_an_error_for_want_of_memory_is_told_from_others(error: Exception, is_memory: bool) -> None:
    assert out_of_memory(error) is is_memory
    try:  # as MONAI does
        try:
            raise error
        except Exception as cause:
            raise RuntimeError("patch size (96, 96, 96), mode=gaussian") from cause
    except RuntimeError as wrapped:
        assert out_of_memory(wrapped) is is_memory


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"), FULL])
def test_memory_that_runs_out_on_the_cpu_is_the_cases_own_error_with_the_predicted_number(
    model: Path, case: Case, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    predictor = Predictor(model, "cpu")

    def full(*arguments: Any) -> torch.Tensor:
        raise error

    monkeypatch.setattr(module, "predicted_bytes", lambda *a, **k: 3 * 2**29)
    monkeypatch.setattr("pipeline.predict.memory.machine.machine_bytes", lambda: 2**31)
    monkeypatch.setattr(windows, "_one_pass", full)
    with pytest.raises(InputError) as caught:
        predictor(case)
    assert str(caught.value).startswith(
        f"{case.folder}: segmenting it takes about 1.5 GiB of memory, and 2.0 GiB are left"
    )
