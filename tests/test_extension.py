"""Where a run of another budget goes on, and how far its schedule is then; numbers by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from data.errors import UsageError
from pipeline.config import RunConfig, parse_config
from pipeline.training.progress.extension import BEFORE_COOLDOWN, enters_cooldown, extend
from pipeline.training.progress.history import EpochRecord
from pipeline.training.progress.state import save_state
from pipeline.training.progress.trainee import Trainee


def recipe(schedule: str, **training: Any) -> RunConfig:
    network = {"architecture": "attention_unet", "spatial_dims": 2, "in_channels": 1, "out_channels": 1}
    return parse_config(
        {
            "name": "tiny",
            "modalities": ["t1c"],
            "regions": ["WT"],
            "convention": "brats2023",
            "network": {**network, "channels": [2, 2]},
            "window": {"size": [8, 8]},
            "training": {
                "patch": [8, 8],
                "epochs": 10,
                "steps_per_epoch": 10,
                "schedule": {"name": schedule, "cooldown": 0.2},
                **training,
            },
        },
        "test",
    )


def trained(config: RunConfig, epochs: int, minutes_an_epoch: float = 1.0) -> Trainee:
    """A trainee that claims to have made so many epochs of ten steps."""
    trainee = Trainee.new(config, torch.device("cpu"))
    trainee.records.extend(EpochRecord(e, 10 * e, minutes_an_epoch * e, 0.1, 1.0) for e in range(1, epochs + 1))
    return trainee


def test_with_the_same_budget_nothing_is_extended(tmp_path):
    config = recipe("cosine")
    trainee = trained(config, 10)
    assert not extend(trainee, config.training, config.training, tmp_path)
    assert trainee.origin == {"step": 0, "minutes": 0.0}


def test_a_run_whose_time_is_over_begins_its_schedule_again_over_the_added_minutes(tmp_path):
    earlier = recipe("cosine", epochs=100, stopping={"minutes": 6.0})
    longer = recipe("cosine", epochs=100, stopping={"minutes": 10.0})
    trainee = trained(earlier, 6)
    assert extend(trainee, earlier.training, longer.training, tmp_path)
    assert trainee.origin == {"step": 60, "minutes": 6.0}
    # Four minutes were added; 940 steps of the recipe are left.
    for step, minutes, expected in ((60, 6.0, 0.0), (70, 7.0, 0.25), (70, 9.0, 0.75), (765, 7.0, 0.75)):
        assert trainee.progress(longer.training, step, minutes) == pytest.approx(expected)
    assert trainee.readings(validated=False) == []  # plateau and patience begin again, too


def test_a_run_that_was_not_over_goes_on_along_the_schedule_of_the_new_length(tmp_path):
    earlier, longer = recipe("cosine"), recipe("cosine", epochs=20)
    trainee = trained(earlier, 5)
    assert extend(trainee, earlier.training, longer.training, tmp_path)
    assert trainee.progress(longer.training, trainee.step, 5.0) == pytest.approx(50 / 200)


def test_a_slower_machine_comes_to_the_cool_down_by_the_clock(tmp_path):
    config = recipe("constant_cooldown", stopping={"minutes": 10.0})
    # Four fifths of ten minutes: after 8. The machine makes an epoch in 3 minutes: the third ends at 9.
    slow = trained(config, 3, minutes_an_epoch=3.0)
    assert enters_cooldown(slow, config.training)
    assert not enters_cooldown(trained(config, 2, minutes_an_epoch=3.0), config.training)
    assert not enters_cooldown(trained(config, 4, minutes_an_epoch=3.0), config.training)  # it is in it already
    # By the steps alone: step 81 of 100 is the first one after four fifths, and it is in epoch 9.
    fast = [enters_cooldown(trained(config, epochs, 0.1), config.training) for epochs in range(1, 11)]
    assert fast == [epochs == 9 for epochs in range(1, 11)]


def test_a_cool_down_is_undone_where_the_state_before_it_is_of_this_run(tmp_path):
    earlier, longer = recipe("constant_cooldown"), recipe("constant_cooldown", epochs=20)
    save_state(tmp_path / BEFORE_COOLDOWN, {"trainee": trained(earlier, 8).state()})
    trainee = trained(earlier, 10)
    assert extend(trainee, earlier.training, longer.training, tmp_path)
    assert len(trainee.records) == 8 and trainee.origin == {"step": 0, "minutes": 0.0}
    assert trainee.progress(longer.training, trainee.step, 8.0) == pytest.approx(80 / 200)


def test_the_state_of_another_run_is_no_way_back(tmp_path):
    earlier, longer = recipe("constant_cooldown"), recipe("constant_cooldown", epochs=20)
    save_state(tmp_path / BEFORE_COOLDOWN, {"trainee": trained(earlier, 8, minutes_an_epoch=2.0).state()})
    trainee = trained(earlier, 10)
    assert extend(trainee, earlier.training, longer.training, tmp_path)
    assert len(trainee.records) == 10 and trainee.origin == {"step": 100, "minutes": 10.0}


def test_minutes_that_no_epoch_can_use_are_refused(tmp_path):
    earlier = recipe("cosine", stopping={"minutes": 60.0})
    longer = recipe("cosine", stopping={"minutes": 90.0})
    with pytest.raises(
        UsageError, match="its 10 epochs are over, so that --minutes 90.0 adds nothing; raise training.epochs"
    ):
        extend(trained(earlier, 10), earlier.training, longer.training, Path(tmp_path))


def test_a_state_of_an_earlier_version_began_its_schedule_at_the_start():
    config = recipe("cosine")
    state = trained(config, 3).state()
    del state["origin"]
    trainee = Trainee.new(config, torch.device("cpu"))
    trainee.restore(state)
    assert trainee.origin == {"step": 0, "minutes": 0.0} and trainee.step == 30
