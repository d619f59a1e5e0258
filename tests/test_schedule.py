"""Learning rates by hand, and the plateau rule against torch's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import ScheduleConfig
from pipeline.training.progress.schedule import cools_down, plateau_factor, rate_factor, stalled

NO_WARM_UP = {"warmup_steps": 0}


@pytest.mark.parametrize(("progress", "expected"), [(0.0, 1.0), (0.5, 0.55), (1.0, 0.1), (1.7, 0.1)])
def test_cosine_falls_from_one_to_the_last_share_and_is_half_way_in_the_middle(progress, expected):
    schedule = ScheduleConfig(name="cosine", last=0.1, **NO_WARM_UP)
    assert rate_factor(schedule, progress, 0) == pytest.approx(expected)


@pytest.mark.parametrize(("progress", "expected"), [(0.0, 1.0), (0.75, 0.0625), (1.0, 0.0), (1.2, 0.0)])
def test_polynomial_is_the_remaining_share_to_the_power(progress, expected):
    schedule = ScheduleConfig(name="polynomial", power=2.0, **NO_WARM_UP)
    assert rate_factor(schedule, progress, 0) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("progress", "expected"),
    # A quarter of the last fifth over: 1 - sqrt(1/4) = .5 of what lies above the last share, and so on.
    [(0.0, 1.0), (0.5, 1.0), (0.8, 1.0), (0.85, 0.1 + 0.9 / 2), (0.928, 0.1 + 0.9 * 0.2), (1.0, 0.1), (1.3, 0.1)],
)
def test_after_a_constant_rate_the_cool_down_falls_by_the_root_of_its_progress(progress, expected):
    schedule = ScheduleConfig(name="constant_cooldown", cooldown=0.2, last=0.1, **NO_WARM_UP)
    assert rate_factor(schedule, progress, 0) == pytest.approx(expected)


def test_only_a_schedule_with_a_cool_down_has_one_and_it_begins_after_its_share():
    schedule = ScheduleConfig(name="constant_cooldown", cooldown=0.25)
    assert [cools_down(schedule, progress) for progress in (0.0, 0.75, 0.76, 1.0)] == [False, False, True, True]
    assert not cools_down(ScheduleConfig(name="cosine"), 1.0)


def test_warm_up_rises_in_equal_steps_and_is_over_after_its_number_of_steps():
    schedule = ScheduleConfig(name="constant", warmup_steps=3)
    assert [rate_factor(schedule, 0.0, step) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]


def test_plateau_is_the_product_of_warm_up_and_reductions():
    schedule = ScheduleConfig(name="plateau", warmup_steps=1, patience=1, factor=0.5, last=0.0)
    assert rate_factor(schedule, 0.0, 0, [0.3, 0.2, 0.1]) == pytest.approx(0.25)


SCORES = st.lists(st.sampled_from([-2.0, -0.5, 0.0, 0.25, 0.5, 0.5000001, 0.75]) | st.floats(-3, 3), max_size=40)


@settings(max_examples=200, deadline=None)
@given(scores=SCORES, patience=st.integers(0, 5), factor=st.floats(0.05, 0.95), last=st.floats(0, 0.9))
def test_plateau_is_what_torch_would_have_reached(scores, patience, factor, last):
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    oracle = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimiser, "max", factor=factor, patience=patience, threshold=0, threshold_mode="abs", min_lr=last, eps=0
    )
    for score in scores:
        oracle.step(score)
    assert plateau_factor(scores, patience, factor, last) == optimiser.param_groups[0]["lr"]


@pytest.mark.parametrize(
    ("scores", "patience", "expected"),
    [
        ([], 1, False),
        ([0.1], 1, False),
        ([0.2, 0.1], 1, True),
        ([0.2, 0.2], 1, True),  # as good is not better
        ([0.2, 0.1], 2, False),
        ([0.2, 0.1, 0.1], 2, True),
        ([0.2, 0.1, 0.3], 2, False),
        ([0.5, 0.1, 0.2, 0.3, 0.4], 4, True),  # rising, but still below the best
        ([0.9, 0.1, 0.1, 0.1], None, False),
    ],
)
def test_a_run_has_stalled_when_the_best_reading_is_as_old_as_the_patience(scores, patience, expected):
    assert stalled(scores, patience) is expected
