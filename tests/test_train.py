"""Training: losses by hand, samples with the recipe's shares, and a loop that learns."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from data.labels import load_convention
from data.phantom import make_phantom
from pipeline.config import RunConfig, parse_config
from pipeline.train import TrainingCase, _draw_slice, dice_bce_loss, draw_samples, supervised_loss, train


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def make_config(dims: int, **training: Any) -> RunConfig:
    return parse_config(
        {
            "name": "tiny",
            "modalities": ["t1c", "flair"],
            "regions": ["WT", "TC"],
            "convention": "brats2023",
            "network": {
                "architecture": "attention_unet" if dims == 3 else "unet_plus_plus",
                "spatial_dims": dims,
                "in_channels": 2,
                "out_channels": 2,
                "channels": [4, 8],
                "deep_supervision": dims == 2,
            },
            "window": {"size": [16] * dims},
            "training": {"patch": [16] * dims, "batch": 2, "learning_rate": 0.02, "ema_decay": 0.5, **training},
        },
        "test",
    )


def make_case(seed: int, kind: str = "phantom") -> TrainingCase:
    phantom = make_phantom(seed, shape=(30, 30, 20), spacing_mm=(8.0, 8.0, 8.0))
    channels = []
    for modality in ("t1c", "flair"):
        array = phantom.images[modality]
        inside = array != 0
        channels.append(np.where(inside, (array - array[inside].mean()) / array[inside].std(), 0))
    masks = load_convention("brats2023").region_masks(phantom.label_map, ["WT", "TC"])
    regions = np.stack(list(masks.values())).astype(np.uint8) * 255
    return TrainingCase(f"{kind} {seed}", np.stack(channels).astype(np.float16), regions, kind)


@pytest.fixture(scope="module")
def cases() -> list[TrainingCase]:
    return [make_case(1), make_case(2)]


# ----------------------------------------------------------------------------------------------------------- loss


def test_the_loss_of_four_voxels_by_hand() -> None:
    # Logits ln 3 and -ln 3 are probabilities 3/4 and 1/4; the target is 1, 1, 0, 0.
    # Dice: overlap 3/4 + 1/4 = 1; squares 2 * (9/16 + 1/16) = 5/4, and 2 of the target: 1 - 3 / (13/4 + 1) = 5/17.
    # Cross-entropy: -ln 3/4 where right, -ln 1/4 where wrong, two each: their mean.
    logits = torch.tensor([math.log(3), -math.log(3)] * 2).reshape(1, 1, 4)
    target = torch.tensor([1.0, 1.0, 0.0, 0.0]).reshape(1, 1, 4)
    expected = 5 / 17 - (math.log(3 / 4) + math.log(1 / 4)) / 2
    assert dice_bce_loss(logits, target).item() == pytest.approx(expected, abs=1e-6)


def test_the_dice_term_is_over_the_batch_and_a_mean_over_regions() -> None:
    # The first region is right in both samples together, the second one is missed: 1 - 1/(n + 1) with n = 3 voxels.
    logits = torch.full((2, 2, 3), -40.0)
    target = torch.zeros(2, 2, 3)
    logits[0, 0] = 40.0
    target[0, 0] = 1.0
    target[1, 1] = 1.0
    entropy = 3 * 40.0 / 12
    assert dice_bce_loss(logits, target).item() == pytest.approx((0 + 3 / 4) / 2 + entropy, abs=1e-5)


def test_right_answers_cost_nothing_also_where_there_is_nothing() -> None:
    for target in (torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)):
        assert dice_bce_loss((target * 2 - 1) * 40, target).item() == pytest.approx(0, abs=1e-6)


def test_coarser_outputs_count_half_as_much_each() -> None:
    target = torch.zeros(1, 1, 4)
    outputs = [torch.full((1, 1, 4), v) for v in (0.5, 1.0, 2.0)]
    a, b, c = (dice_bce_loss(y, target).item() for y in outputs)
    expected = (a + b / 2 + c / 4) / 1.75
    assert supervised_loss(outputs, target).item() == pytest.approx(expected, rel=1e-6)
    assert supervised_loss(outputs[0], target).item() == pytest.approx(a, rel=1e-6)
    assert supervised_loss(outputs[:1], target).item() == pytest.approx(a, rel=1e-6)


# -------------------------------------------------------------------------------------------------------- samples


def test_two_slices_in_three_show_tumour_and_one_in_three_its_core() -> None:
    regions = np.zeros((2, 4, 4, 100), np.uint8)
    regions[0, 1, 1, 40:50] = 255  # oedema
    regions[1, 1, 1, 45] = 255  # core, in one slice of a hundred
    generator = np.random.default_rng(0)
    drawn = np.array([_draw_slice(regions, generator) for _ in range(3000)])
    # Tumour: 1/3 + 1/3 + 1/3 * 10/100 = 0.7; core: 1/3 + 1/3 * 1/10 + 1/3 * 1/100 = 0.37.
    assert ((drawn >= 40) & (drawn < 50)).mean() == pytest.approx(0.7, abs=0.03)
    assert (drawn == 45).mean() == pytest.approx(0.37, abs=0.03)
    assert drawn.min() < 5 and drawn.max() > 94


def test_a_patient_without_tumour_gives_any_slice() -> None:
    generator = np.random.default_rng(0)
    drawn = {_draw_slice(np.zeros((1, 4, 4, 6), np.uint8), generator) for _ in range(100)}
    assert drawn == set(range(6))


@pytest.mark.parametrize("dims", [2, 3])
def test_samples_have_the_networks_shape_and_the_recipes_seed(dims: int, cases: list[TrainingCase]) -> None:
    config = make_config(dims)
    streams = [draw_samples(cases, config, np.random.default_rng(0)) for _ in range(2)]
    for _ in range(3):
        first, second = (next(stream) for stream in streams)
        assert first["image"].shape == (2, *[16] * dims) == first["regions"].shape
        assert first["regions"].min() >= 0 and first["regions"].max() <= 1 + 1e-6
        assert torch.equal(first["image"], second["image"])


def test_kinds_are_drawn_with_the_recipes_shares() -> None:
    def marked(kind: str, value: float) -> TrainingCase:
        image = np.full((2, 24, 24, 3), value, np.float16)
        return TrainingCase(kind, image, np.full((2, 24, 24, 3), 255, np.uint8), kind)

    pool = [marked("patient", 100), marked("patient", 100), marked("phantom", 1000), marked("slice", 10000)]
    config = make_config(2, phantom_share=0.25, slices_share=0.5, patch=(4, 4))
    stream = draw_samples(pool, config, np.random.default_rng(0))
    levels = np.array([float(next(stream)["image"].max()) for _ in range(200)])
    shares = [((levels > low) & (levels < 10 * low)).mean() for low in (30, 300, 3000)]
    np.testing.assert_allclose(shares, [0.25, 0.25, 0.5], atol=0.12)


# ------------------------------------------------------------------------------------------------------- the loop


@pytest.mark.parametrize("dims", [2, 3])
def test_some_steps_on_phantoms_lower_the_loss_and_an_eval_network_is_kept(dims, cases, monkeypatch) -> None:
    clock = iter(range(10**6))
    monkeypatch.setattr("pipeline.train.time.monotonic", lambda: float(next(clock)))  # a second each time it is asked
    kept: list[tuple[nn.Module, dict[str, float]]] = []

    def keep(network: nn.Module, info: dict[str, float]) -> None:
        assert not network.training and not any(module.training for module in network.modules())
        kept.append((network, info))

    state = torch.get_rng_state()
    train(make_config(dims, minutes=1.5), cases, keep, keep_every_seconds=20)
    torch.set_rng_state(state)
    first, last = kept[0][1], kept[-1][1]
    assert len(kept) >= 3 and first["step"] < last["step"] and last["minutes"] >= 1.5
    assert last["loss"] < first["loss"]
    with torch.no_grad():
        answer = kept[-1][0](torch.randn(1, 2, *[13] * dims))
    assert answer.shape == (1, 2, *[13] * dims) and torch.isfinite(answer).all()


def test_the_kept_network_is_the_moving_average_and_the_same_from_the_same_seed(cases, monkeypatch) -> None:
    states = []
    for decay in (0.0, 0.0, 0.9):
        clock = iter(range(10**6))
        monkeypatch.setattr("pipeline.train.time.monotonic", lambda clock=clock: float(next(clock)))
        kept: list[nn.Module] = []
        train(
            make_config(2, minutes=0.2, ema_decay=decay), cases, lambda network, info, kept=kept: kept.append(network)
        )
        states.append(kept[-1].state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])
