"""The loop on cases made of numbers: it learns, stops, averages, clips, and repeats itself to the bit."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from data.errors import TrainingError
from networks import ARCHITECTURES
from networks.losses import LOSSES, build_loss
from pipeline.config import RunConfig, parse_config
from pipeline.training.cached import TrainingCase
from pipeline.training.distributed import Process
from pipeline.training.loop import _batches, _learn, train
from pipeline.training.progress.trainee import Trainee, _average_with_warm_up
from pipeline.training.sampling import PatchDataset

ALONE = Process(0, 1, torch.device("cpu"))


def recipe(
    dims: int = 2,
    architecture: str = "attention_unet",
    network: dict[str, Any] = {},  # noqa: B006
    **training,
) -> RunConfig:
    return parse_config(
        {
            "name": "tiny",
            "modalities": ["t1c", "flair"],
            "regions": ["WT", "TC"],
            "convention": "brats2023",
            "network": {
                "architecture": architecture,
                "spatial_dims": dims,
                "in_channels": 2,
                "out_channels": 2,
                "channels": [4, 4, 4, 4, 4] if architecture == "vgg19_unet" else [4, 8],
                **network,
            },
            "window": {"size": [16] * dims},
            "training": {
                "patch": [16] * dims,
                "batch": 2,
                "epochs": 2,
                "steps_per_epoch": 2,
                "learning_rate": 0.01,
                "schedule": {"name": "constant", "warmup_steps": 0},
                **training,
            },
        },
        "test",
    )


def ball_case(seed: int) -> TrainingCase:
    """A bright ball with a core in a noisy brain, 24 x 24 x 20 voxels."""
    generator = np.random.default_rng(seed)
    place = np.stack(np.meshgrid(*(np.arange(n) for n in (24, 24, 20)), indexing="ij"), axis=-1)
    distance = np.linalg.norm(place - generator.integers(8, 13, 3), axis=-1)
    masks = np.stack([distance < 6, distance < 3])
    images = generator.normal(0.1, 0.3, (2, 24, 24, 20)) + 2 * masks
    centres = {name: np.argwhere(m).astype(np.int16) for name, m in zip(("WT", "TC"), masks, strict=True)}
    centres["brain"] = place.reshape(-1, 3).astype(np.int16)
    voxels = np.concatenate((images, masks)).astype(np.float16)
    return TrainingCase(f"ball {seed}", "phantom", voxels, 2, centres)


@pytest.fixture(scope="module")
def cases() -> list[TrainingCase]:
    return [ball_case(1), ball_case(2)]


def run(cases: list[TrainingCase], config: RunConfig, trainee: Trainee | None = None, **options: Any) -> Trainee:
    trainee = trainee or Trainee.new(config, ALONE.device)
    train(trainee, PatchDataset(cases, config), config, ALONE, **options)
    return trainee


def scored(*scores: float):
    """A validation that gives these means, one after another."""
    given = iter(scores)
    return lambda network: {"mean_dice": next(given), "dice": {}}


# ------------------------------------------------------------------------------------------------------- it learns


@pytest.mark.parametrize("dims", [2, 3])
def test_some_epochs_lower_the_loss_and_the_average_answers_in_the_images_shape(dims, cases):
    kept = []

    def keep(trainee: Trainee) -> None:
        kept.append(len(trainee.records))

    trainee = run(cases, recipe(dims, epochs=4, steps_per_epoch=8, ema_decay=0.5), keep=keep)
    losses = [record.loss for record in trainee.records]
    assert losses[-1] < 0.8 * losses[0]
    assert kept == [1, 2, 3, 4]
    with torch.no_grad():
        answer = trainee.average.module.eval()(torch.randn(1, 2, *[13] * dims))
    assert answer.shape == (1, 2, *[13] * dims) and torch.isfinite(answer).all()


def combinations() -> list[tuple[str, int, str]]:
    networks = [(name, dims) for name, architecture in ARCHITECTURES.items() for dims in architecture.spatial_dims]
    return [(*network, loss) for network, loss in itertools.product(networks, LOSSES)]


@pytest.mark.parametrize(("architecture", "dims", "loss"), combinations())
def test_every_loss_moves_every_weight_of_every_architecture_with_deep_supervision(architecture, dims, loss, cases):
    """DistributedDataParallel, too, needs a gradient of every weight."""
    config = recipe(
        dims, architecture, {"deep_supervision": True}, loss={"name": loss}, epochs=1, steps_per_epoch=1, weight_decay=0
    )
    trainee = run(cases, config)
    assert np.isfinite(trainee.records[0].loss)
    assert not [name for name, weight in trainee.network.named_parameters() if weight.grad is None]
    before = Trainee.new(config, ALONE.device).network.state_dict()
    after = trainee.network.state_dict()
    heads = [name for name in before if name.endswith("weight") and not torch.equal(before[name], after[name])]
    assert len(heads) > len(list(trainee.network.parameters())) / 4


def test_the_gradient_is_cut_to_the_recipes_length_and_keeps_its_direction(cases):
    config = recipe()
    (batch, *_) = _batches(PatchDataset(cases, config), 0, ALONE, 0)
    gradients = []
    for clip in (1e9, 1e-3):
        trainee = Trainee.new(config, ALONE.device)
        _learn(trainee, trainee.network, batch, build_loss("dice_ce"), ALONE, clip)
        gradients.append(torch.cat([w.grad.flatten() for w in trainee.network.parameters()]))
    whole, cut = gradients
    assert whole.norm() > 1e-2
    assert cut.norm().item() == pytest.approx(1e-3, rel=1e-3)
    assert torch.dot(whole, cut).item() == pytest.approx((whole.norm() * cut.norm()).item(), rel=1e-4)


def test_the_average_follows_quickly_at_first_and_by_the_recipes_decay_later():
    # Weights 0, 1, 1, 1, ... from the first update on. The first is taken as it is; then the old value keeps
    # (1 + n) / (10 + n), n = 1, 2, ..., at most 0.25: 2/11, then 1/4 for ever.
    network = nn.Linear(1, 1, bias=False)
    average = AveragedModel(network, multi_avg_fn=_average_with_warm_up(0.25), use_buffers=True)
    seen = []
    for value in (0.0, 1.0, 1.0, 1.0):
        nn.init.constant_(network.weight, value)
        average.update_parameters(network)
        seen.append(average.module.weight.item())
    expected = [0, 9 / 11, 1 - 2 / 11 / 4, 1 - 2 / 11 / 16]
    np.testing.assert_allclose(seen, expected, rtol=1e-6)


def test_without_decay_the_average_is_the_network_itself(cases):
    trainee = run(cases, recipe(ema_decay=0.0))
    ours, theirs = trainee.average.module.state_dict(), trainee.network.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


# ------------------------------------------------------------------------------------------------ in which numbers


def test_the_network_multiplies_in_bfloat16_where_the_recipe_wants_it_and_learns_the_same(cases):
    curves = {}
    for precision in ("float32", "bfloat16"):
        config = recipe(epochs=6, steps_per_epoch=5, cpu_precision=precision)
        trainee = run(cases, config)
        assert all(weight.dtype == torch.float32 for weight in trainee.network.parameters())
        curves[precision] = np.array([record.loss for record in trainee.records])
    assert np.all(curves["float32"] != curves["bfloat16"])  # it is not done by doing nothing
    np.testing.assert_allclose(curves["bfloat16"], curves["float32"], rtol=0.01)
    assert curves["bfloat16"][-1] < 0.9 * curves["bfloat16"][0]


# ------------------------------------------------------------------------------------- it validates, slows and stops


def test_it_validates_every_few_epochs_and_after_the_last_one_the_average_in_eval_mode(cases):
    seen = []

    def validate(network: nn.Module) -> dict[str, Any]:
        assert not any(module.training for module in network.modules())
        seen.append(network)
        return {"mean_dice": 0.5, "dice": {"WT": 0.5}}

    trainee = run(cases, recipe(epochs=5, steps_per_epoch=1, validate_every=2), validate=validate)
    assert [record.epoch for record in trainee.records if record.mean_dice is not None] == [2, 4, 5]
    assert all(network is trainee.average.module for network in seen)
    assert trainee.records[1].dice == {"WT": 0.5} and trainee.records[0].dice == {}


def test_it_stops_after_as_many_validations_without_a_better_one_as_the_recipe_allows(cases):
    config = recipe(epochs=20, steps_per_epoch=1, validate_every=1, stopping={"patience": 2})
    trainee = run(cases, config, validate=scored(0.1, 0.5, 0.5, 0.4, 0.9))
    assert [record.mean_dice for record in trainee.records] == [0.1, 0.5, 0.5, 0.4]
    run(cases, config, trainee, validate=scored())  # resumed, it still has stopped
    assert len(trainee.records) == 4


def test_on_a_plateau_the_rate_falls_in_the_next_epoch(cases):
    plateau = {"name": "plateau", "patience": 1, "factor": 0.5, "warmup_steps": 0}
    config = recipe(epochs=5, steps_per_epoch=1, validate_every=1, schedule=plateau)
    trainee = run(cases, config, validate=scored(0.5, 0.4, 0.3, 0.3, 0.3))
    assert [record.learning_rate for record in trainee.records] == [0.01, 0.01, 0.01, 0.005, 0.005]


def test_between_validations_no_loss_is_taken_for_a_score(cases, monkeypatch):
    plateau = {"name": "plateau", "patience": 1, "factor": 0.5, "warmup_steps": 0}
    config = recipe(epochs=6, steps_per_epoch=1, validate_every=6, schedule=plateau)
    losses = iter([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    monkeypatch.setattr("pipeline.training.loop._learn", lambda *_: next(losses))
    trainee = run(cases, config, validate=scored(0.5))
    assert {record.learning_rate for record in trainee.records} == {0.01}
    losses = iter([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    trainee = run(cases, config)  # nobody to validate on: then it is the loss that counts
    assert [record.learning_rate for record in trainee.records] == [0.01, 0.01, 0.01, 0.005, 0.005, 0.0025]


def test_when_its_time_is_up_it_ends_the_epoch_and_validates(cases, monkeypatch):
    clock = itertools.count(0, 6)  # six seconds pass whenever it is asked
    monkeypatch.setattr("pipeline.training.loop.time.monotonic", lambda: float(next(clock)))
    config = recipe(epochs=50, steps_per_epoch=1000, validate_every=50, stopping={"minutes": 1.0})
    trainee = run(cases, config, validate=scored(0.5))
    (record,) = trainee.records
    assert record.step == 10 and record.minutes >= 1.0 and record.mean_dice == 0.5
    run(cases, config, trainee, validate=scored())
    assert len(trainee.records) == 1


def test_with_validate_minutes_it_validates_when_so_much_time_has_passed_since_the_last_validation(cases, monkeypatch):
    clock = itertools.count(
        0, 15
    )  # a quarter of a minute whenever it is asked: at the start, then once or twice an epoch
    monkeypatch.setattr("pipeline.training.loop.time.monotonic", lambda: float(next(clock)))
    config = recipe(epochs=9, steps_per_epoch=1, validate_every=1, validate_minutes=0.75)
    records = run(cases, config, validate=scored(*[0.5] * 9)).records
    # .25, .5, .75 (validated, over at 1.0), 1.25, 1.5, 1.75 (over at 2.0), 2.25, 2.5 and the last at 2.75.
    assert [record.epoch for record in records if record.mean_dice is not None] == [3, 6, 9]
    assert [record.minutes for record in records[2::3]] == [1.0, 2.0, 3.0]


def test_the_schedule_follows_the_clock_where_that_is_ahead(cases, monkeypatch):
    clock = itertools.count(0, 6)
    monkeypatch.setattr("pipeline.training.loop.time.monotonic", lambda: float(next(clock)))
    schedule = {"name": "polynomial", "power": 1.0, "warmup_steps": 0}
    config = recipe(epochs=1, steps_per_epoch=4, stopping={"minutes": 1.0}, schedule=schedule)
    # Steps alone: 0, 1/4, 1/2, 3/4; the clock is at 0.1, 0.2, 0.3 and 0.4 minutes: the steps are ahead at the last one.
    assert run(cases, config).records[0].learning_rate == pytest.approx(0.01 * (1 - 3 / 4))
    config = recipe(epochs=1, steps_per_epoch=4, stopping={"minutes": 0.5}, schedule=schedule)
    assert run(cases, config).records[0].learning_rate == pytest.approx(0.01 * (1 - 4 / 5))


@pytest.mark.parametrize("lost", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_run_before_anything_is_kept(lost, cases, monkeypatch):
    losses, kept = iter([1.0, 1.0, 1.0, lost]), []
    monkeypatch.setattr("pipeline.training.loop._learn", lambda *_: next(losses))
    with pytest.raises(TrainingError, match=r"epoch 2: the loss is (nan|inf); lower training.learning_rate \(0.01\)"):
        run(cases, recipe(), keep=lambda trainee: kept.append(trainee.records[-1].epoch))
    assert kept == [1]


def test_every_step_is_reported_with_the_number_of_all(cases):
    steps = []
    trainee = run(cases, recipe(), on_step=lambda done, total, loss: steps.append((done, total, loss)))
    assert [step[:2] for step in steps] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert trainee.records[1].loss == pytest.approx((steps[2][2] + steps[3][2]) / 2)


# ----------------------------------------------------------------------------------------------- it repeats itself


def test_any_number_of_workers_gives_the_same_batches(cases):
    config = recipe(3, epochs=1, steps_per_epoch=6)
    dataset = PatchDataset(cases, config)
    expected = list(_batches(dataset, 3, ALONE, 0))
    given = list(_batches(dataset, 3, ALONE, 2))
    assert len(given) == len(expected) == 6
    for one, other in zip(expected, given, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in ("image", "regions"))


class Threads(PatchDataset):
    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"threads": torch.tensor(torch.get_num_threads())}


@pytest.mark.parametrize("workers", [0, 1])
def test_samples_are_made_on_one_thread_for_two_round_differently_and_the_network_has_all(workers, cases):
    torch.set_num_threads(2)
    try:
        for batch in _batches(Threads(cases, recipe()), 0, ALONE, workers):
            assert batch["threads"].tolist() == [1, 1]
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_processes_share_the_samples_of_each_step(cases):
    config = recipe(batch=4, epochs=1, steps_per_epoch=3)
    dataset = PatchDataset(cases, config)
    shares = [list(_batches(dataset, 1, Process(rank, 2, ALONE.device), 0)) for rank in (0, 1)]
    for step, whole in enumerate(_batches(dataset, 1, ALONE, 0)):
        dealt = torch.stack([shares[0][step]["image"], shares[1][step]["image"]], dim=1).flatten(0, 1)
        assert torch.equal(dealt, whole["image"])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_taken_up_from_its_state_goes_on_to_the_bit(workers, cases):
    config = recipe(network={"dropout": 0.3}, epochs=3, schedule={"name": "plateau", "patience": 1})
    states: list[dict[str, Any]] = []

    def keep(trainee: Trainee) -> None:
        states.append(copy.deepcopy(trainee.state()))

    straight = run(cases, config, keep=keep)
    torch.rand(7)  # somebody draws in between
    resumed = Trainee.new(config, ALONE.device)
    resumed.restore(states[0])
    run(cases, config, resumed, workers=workers)
    assert [r.loss for r in resumed.records] == [r.loss for r in straight.records]
    for part in ("network", "average"):
        ours, theirs = getattr(resumed, part).state_dict(), getattr(straight, part).state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_without_a_scaler_goes_on_with_one():
    begun, on = (Trainee.new(recipe(), ALONE.device) for _ in range(2))
    on = replace(on, scaler=torch.amp.GradScaler("cpu"))
    on.restore(begun.state())
    assert on.scaler.is_enabled() and on.scaler.get_scale() == 65536


def test_another_seed_gives_other_weights_and_other_samples(cases):
    first, second = (run(cases, recipe(seed=seed, epochs=1)).records[0].loss for seed in (0, 1))
    assert first != second
