"""networks/losses.py against hand-worked values, MONAI, finite differences, and one contract over the registry."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses import DiceFocalLoss, DiceLoss, FocalLoss, TverskyLoss

from networks.losses import LOSSES, build_loss, supervised_loss

NAMES = list(LOSSES)
OVERLAPS = ["dice", "tversky", "focal_tversky"]
SHAPES = [(3, 2, 17), (3, 2, 6, 5), (3, 2, 4, 3, 5)]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def logit(*probabilities: float) -> torch.Tensor:
    """Logits ``(1, 1, voxels)`` whose sigmoid is ``probabilities``."""
    return torch.logit(torch.tensor(probabilities, dtype=torch.float64)).reshape(1, 1, -1)


def labels(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).reshape(1, 1, -1)


def random_case(shape: tuple[int, ...] = (4, 3, 5, 4), seed: int = 0, soft: bool = False) -> tuple[torch.Tensor, ...]:
    """Random logits and a target, binary or with shares, in float64."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    target = torch.rand(shape, generator=generator, dtype=torch.float64)
    return logits, target if soft else (target > 0.6).double()


def gradient(loss: Any, logits: torch.Tensor, *rest: Any, **parameters: Any) -> torch.Tensor:
    logits = logits.detach().clone().requires_grad_()
    loss(logits, *rest, **parameters).backward()
    assert logits.grad is not None
    return logits.grad


# ---- values by hand: p = (.8, .4), t = (1, 0) unless said otherwise ----


def test_dice_of_two_voxels_is_as_worked_by_hand():
    # overlap .8, squares .64 + .16 + 1 = 1.8: 1 - (1.6 + 1) / (1.8 + 1)
    assert LOSSES["dice"](logit(0.8, 0.4), labels(1, 0)).item() == pytest.approx(1 - 2.6 / 2.8)
    assert LOSSES["dice"](logit(0.8, 0.4), labels(1, 0), smooth=0.2).item() == pytest.approx(1 - 1.8 / 2.0)


def test_bce_of_two_voxels_is_the_mean_of_minus_the_logarithms():
    expected = -(math.log(0.8) + math.log(0.6)) / 2
    assert LOSSES["bce"](logit(0.8, 0.4), labels(1, 0)).item() == pytest.approx(expected)


def test_dice_ce_is_the_weighted_sum_of_its_two_parts():
    dice, bce = 1 - 2.6 / 2.8, -(math.log(0.8) + math.log(0.6)) / 2
    assert LOSSES["dice_ce"](logit(0.8, 0.4), labels(1, 0)).item() == pytest.approx(dice + bce)
    weighted = LOSSES["dice_ce"](logit(0.8, 0.4), labels(1, 0), dice_weight=2.0, ce_weight=0.5)
    assert weighted.item() == pytest.approx(2 * dice + bce / 2)


def test_focal_weighs_each_voxel_by_its_error_to_the_power_gamma_and_by_alpha():
    inside, outside = -(0.2**2) * math.log(0.8), -(0.4**2) * math.log(0.6)
    focal_only = {"dice_weight": 0.0}
    value = LOSSES["dice_focal"](logit(0.8, 0.4), labels(1, 0), **focal_only)
    assert value.item() == pytest.approx((inside + outside) / 2)
    balanced = LOSSES["dice_focal"](logit(0.8, 0.4), labels(1, 0), alpha=0.25, **focal_only)
    assert balanced.item() == pytest.approx((0.25 * inside + 0.75 * outside) / 2)
    summed = LOSSES["dice_focal"](logit(0.8, 0.4), labels(1, 0), focal_weight=3.0)
    assert summed.item() == pytest.approx(1 - 2.6 / 2.8 + 3 * (inside + outside) / 2)


def test_tversky_alpha_weighs_false_positives_and_beta_false_negatives():
    # TP .8, FP .4, FN .2
    value = LOSSES["tversky"](logit(0.8, 0.4), labels(1, 0))
    assert value.item() == pytest.approx(1 - 1.8 / (1.8 + 0.3 * 0.4 + 0.7 * 0.2))
    only_false_positives = LOSSES["tversky"](logit(0.8, 0.4), labels(1, 0), alpha=1.0, beta=0.0)
    assert only_false_positives.item() == pytest.approx(1 - 1.8 / 2.2)


def test_focal_tversky_takes_the_lost_part_of_each_region_to_one_over_gamma():
    lost = 1 - 1.8 / (1.8 + 0.3 * 0.4 + 0.7 * 0.2)
    assert LOSSES["focal_tversky"](logit(0.8, 0.4), labels(1, 0)).item() == pytest.approx(lost**0.75)
    assert LOSSES["focal_tversky"](logit(0.8, 0.4), labels(1, 0), gamma=2.0).item() == pytest.approx(math.sqrt(lost))
    two_regions = torch.cat([logit(0.8, 0.4), logit(0.5, 0.5)], 1), torch.cat([labels(1, 0), labels(1, 0)], 1)
    other = 1 - 1.5 / (1.5 + 0.3 * 0.5 + 0.7 * 0.5)  # the power before the mean, not after it
    assert LOSSES["focal_tversky"](*two_regions).item() == pytest.approx((lost**0.75 + other**0.75) / 2)


def test_overlap_counts_over_the_batch_by_default_and_per_sample_on_request():
    logits = torch.cat([logit(0.8, 0.4), logit(0.1, 0.1)])
    target = torch.cat([labels(1, 0), labels(0, 0)])
    # whole batch: 1 - (1.6 + 1) / (1.82 + 1); alone: 1 - 2.6 / 2.8 and 1 - 1 / 1.02
    assert LOSSES["dice"](logits, target).item() == pytest.approx(1 - 2.6 / 2.82)
    each = (1 - 2.6 / 2.8 + 1 - 1 / 1.02) / 2
    assert LOSSES["dice"](logits, target, per_sample=True).item() == pytest.approx(each)


# ---- MONAI as an oracle ----


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_dice_is_monais_with_squared_sums_for_hard_and_soft_targets(shape, per_sample, soft):
    logits, target = random_case(shape, soft=soft)
    for smooth in (1.0, 1e-5):
        oracle = DiceLoss(sigmoid=True, squared_pred=True, batch=not per_sample, smooth_nr=smooth, smooth_dr=smooth)
        ours = LOSSES["dice"](logits, target, smooth=smooth, per_sample=per_sample)
        assert ours.item() == pytest.approx(oracle(logits, target).item(), rel=1e-6)
        assert torch.allclose(gradient(LOSSES["dice"], logits, target, smooth=smooth, per_sample=per_sample),
                              gradient(oracle, logits, target), atol=1e-7)  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.7), (0.5, 0.5), (1.0, 0.2)])
def test_tversky_is_monais(shape, per_sample, alpha, beta):
    logits, target = random_case(shape)
    oracle = TverskyLoss(sigmoid=True, alpha=alpha, beta=beta, batch=not per_sample, smooth_nr=1.0, smooth_dr=1.0)
    ours = LOSSES["tversky"](logits, target, alpha=alpha, beta=beta, per_sample=per_sample)
    assert ours.item() == pytest.approx(oracle(logits, target).item(), rel=1e-6)


def test_tversky_with_equal_halves_is_dice_with_plain_sums():
    logits, target = random_case()
    oracle = DiceLoss(sigmoid=True, batch=True, smooth_nr=2.0, smooth_dr=2.0)  # counts everything twice
    assert LOSSES["tversky"](logits, target, alpha=0.5, beta=0.5).item() == pytest.approx(oracle(logits, target).item())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 3.5])
@pytest.mark.parametrize("alpha", [None, 0.25])
def test_focal_is_monais_on_hard_targets(shape, gamma, alpha):
    logits, target = random_case(shape)
    oracle = FocalLoss(gamma=gamma, alpha=alpha)(logits, target)  # computes in float32
    ours = LOSSES["dice_focal"](logits, target, gamma=gamma, alpha=alpha, dice_weight=0.0)
    assert ours.item() == pytest.approx(oracle.item(), rel=1e-5)


def test_dice_focal_is_monais_sum_of_both():
    logits, target = random_case()
    oracle = DiceFocalLoss(
        sigmoid=True, squared_pred=True, batch=True, smooth_nr=1, smooth_dr=1, gamma=2.0, lambda_dice=2, lambda_focal=5
    )
    ours = LOSSES["dice_focal"](logits, target, dice_weight=2, focal_weight=5)
    assert ours.item() == pytest.approx(oracle(logits, target).item(), rel=1e-5)


def test_dice_ce_is_monais_dice_plus_torchs_binary_cross_entropy_also_for_shares():
    # MONAI's DiceCELoss takes a softmax over the regions, which overlap here; so its Dice alone is the oracle.
    logits, target = random_case(soft=True)
    dice = DiceLoss(sigmoid=True, squared_pred=True, batch=True, smooth_nr=1.0, smooth_dr=1.0)(logits, target)
    expected = dice + F.binary_cross_entropy(torch.sigmoid(logits), target)
    assert LOSSES["dice_ce"](logits, target).item() == pytest.approx(expected.item(), rel=1e-6)


# ---- the contract of every loss ----


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_sure_and_right_prediction_costs_next_to_nothing_and_each_error_more(name, shape):
    _, target = random_case(shape)
    values = []
    for wrong in (0, 1, 5, 12):
        logits = 20 * (2 * target - 1)
        logits.flatten()[:wrong] *= -1
        values.append(LOSSES[name](logits, target).item())
    assert 0 <= values[0] < 1e-4
    assert all(later > earlier + 1e-3 for earlier, later in zip(values, values[1:], strict=False))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("per_sample", [False, True])
def test_an_empty_target_with_an_empty_prediction_costs_next_to_nothing(name, per_sample):
    parameters = {} if name == "bce" else {"per_sample": per_sample}
    empty = torch.zeros(2, 3, 8, 8, 8)
    assert 0 <= LOSSES[name](empty - 20, empty, **parameters).item() < 1e-4


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [0.0, 1e-3, 1e4])
def test_value_and_gradient_are_finite_for_logits_of_any_size_and_float_type(name, dtype, size):
    hard, soft = random_case((2, 3, 4, 4))[1], random_case((2, 3, 4, 4), soft=True)[1]
    signs = torch.sign(random_case((2, 3, 4, 4), seed=9)[0])
    for target in (hard, 1 - hard, soft, torch.zeros_like(hard), torch.ones_like(hard)):
        for logits in (size * signs, size * (2 * target - 1), size * (1 - 2 * target)):
            logits = logits.to(dtype).requires_grad_()
            value = LOSSES[name](logits, target.to(dtype))
            value.backward()
            assert value.isfinite() and value >= 0
            assert logits.grad is not None and logits.grad.dtype == dtype and logits.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_logits_and_autocast_give_the_float32_value(name):
    logits, target = (x.half() for x in random_case((2, 2, 40, 40, 44), soft=True))  # more than 65504 voxels
    expected = LOSSES[name](logits.double(), target.double())
    plain = LOSSES[name](logits, target)
    with torch.autocast("cpu", torch.float16):
        mixed = LOSSES[name](logits, target)
    for value in (plain, mixed):
        assert value.dtype == torch.float32 and value.ndim == 0
        assert value.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_the_gradient_is_that_of_finite_differences(name, soft, masked):
    logits, target = random_case((2, 2, 5), soft=soft)
    known = torch.tensor([[True, False], [True, True]]) if masked else None
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, target, known), (logits.requires_grad_(),))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(4)), seed=st.integers(0, 1000), masked=st.booleans(), per_sample=st.booleans())
def test_the_order_of_the_samples_does_not_matter(name, order, seed, masked, per_sample):
    logits, target = random_case(seed=seed, soft=True)
    known = torch.rand(4, 3, generator=torch.Generator().manual_seed(seed)) < 0.6 if masked else None
    parameters = {} if name == "bce" else {"per_sample": per_sample}
    value = LOSSES[name](logits, target, known, **parameters)
    shuffled = LOSSES[name](logits[order], target[order], None if known is None else known[order], **parameters)
    assert shuffled.item() == pytest.approx(value.item(), rel=1e-12)


@pytest.mark.parametrize(
    ("name", "soft"),
    # Tversky is lowest at a hard mask: see the test of shares below.
    [(name, soft) for name in NAMES for soft in (False, True) if not (soft and "tversky" in name)],
)
def test_descending_the_gradient_finds_the_target(name, soft):
    _, target = random_case((2, 2, 6, 6), soft=soft)
    logits = torch.zeros_like(target)
    for step in range(60):  # every logit by .5 * .9^step along its slope's sign, so at most by 5 in all
        logits -= 0.5 * 0.9**step * gradient(LOSSES[name], logits, target).sign()
    assert (torch.sigmoid(logits) - target).abs().max() < 0.01  # 1 - sigmoid(5) is .007


@pytest.mark.parametrize("name", NAMES)
def test_shapes_that_do_not_fit_are_refused_with_both_shapes(name):
    with pytest.raises(ValueError, match=r"\(2, 3, 4\).*\(2, 1, 4\)"):
        LOSSES[name](torch.zeros(2, 3, 4), torch.zeros(2, 1, 4))
    with pytest.raises(ValueError, match=r"batch, regions"):
        LOSSES[name](torch.zeros(2, 3), torch.zeros(2, 3))
    for known in (torch.ones(3, 2, dtype=torch.bool), torch.ones(2, 3)):
        with pytest.raises(ValueError, match=r"known .*\(2, 3\)"):
            LOSSES[name](torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), known)


# ---- shares as targets ----


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("name", ["dice", "dice_ce", "dice_focal", "bce"])
def test_a_share_is_best_answered_by_that_probability(name, share):
    target = torch.full((1, 1, 50), share, dtype=torch.float64)
    grid = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    values = torch.stack([LOSSES[name](torch.logit(p).expand(1, 1, 50), target) for p in grid])
    assert grid[values.argmin()].item() == pytest.approx(share)


@pytest.mark.parametrize("name", ["dice", "dice_focal"])
def test_a_share_of_one_half_answered_by_one_half_costs_nothing(name):
    assert LOSSES[name](torch.zeros(1, 1, 50), torch.full((1, 1, 50), 0.5)).item() == 0.0


def test_tversky_rounds_shares_up_above_alpha_times_the_index():
    # 8 voxels inside, one of a share: with TI near 1 the turning point is a share of .3.
    for share, best in ((0.2, 0.0), (0.4, 1.0)):
        target = labels(*[1.0] * 8, share)
        grid = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
        values = [
            LOSSES["tversky"](torch.logit(labels(*[1.0] * 8, p), eps=1e-9), target, smooth=1e-6).item() for p in grid
        ]
        assert grid[values.index(min(values))] == best


# ---- regions that a reference does not tell ----


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("per_sample", [False, True])
def test_samples_of_which_nothing_is_known_are_as_if_left_out_of_the_batch(name, per_sample):
    parameters = {} if name == "bce" else {"per_sample": per_sample}
    logits, target = random_case(soft=True)
    known = torch.tensor([True, False, True, False])
    masked = known[:, None].expand(4, 3)
    value = LOSSES[name](logits, target, masked, **parameters)
    assert value.item() == pytest.approx(LOSSES[name](logits[known], target[known], **parameters).item(), rel=1e-12)
    slope = gradient(LOSSES[name], logits, target, masked, **parameters)
    assert torch.allclose(slope[known], gradient(LOSSES[name], logits[known], target[known], **parameters))
    assert (slope[~known] == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_region_that_no_sample_knows_is_as_if_left_out(name):
    logits, target = random_case()
    known = torch.tensor([True, False, True]).expand(4, 3)
    value = LOSSES[name](logits, target, known)
    assert value.item() == pytest.approx(LOSSES[name](logits[:, ::2], target[:, ::2]).item(), rel=1e-12)


@pytest.mark.parametrize("name", OVERLAPS)
def test_an_overlap_of_a_batch_is_the_mean_over_regions_of_those_samples_that_know_each(name):
    logits, target = random_case()
    known = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 0], [1, 0, 0]], dtype=torch.bool)
    parts = [LOSSES[name](logits[known[:, r], r : r + 1], target[known[:, r], r : r + 1]).item() for r in (0, 1)]
    assert LOSSES[name](logits, target, known).item() == pytest.approx(sum(parts) / 2, rel=1e-12)


@pytest.mark.parametrize("name", OVERLAPS)
def test_an_overlap_per_sample_is_the_mean_over_known_pairs(name):
    logits, target = random_case()
    known = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 1, 1], [0, 0, 0]], dtype=torch.bool)
    parts = [LOSSES[name](logits[b, r][None, None], target[b, r][None, None]).item() for b, r in known.nonzero()]
    value = LOSSES[name](logits, target, known, per_sample=True)
    assert value.item() == pytest.approx(sum(parts) / 5, rel=1e-12)


def test_bce_is_the_mean_over_the_voxels_of_known_pairs():
    logits, target = random_case(soft=True)
    known = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 1, 1], [0, 0, 0]], dtype=torch.bool)
    expected = F.binary_cross_entropy_with_logits(logits[known], target[known])
    assert LOSSES["bce"](logits, target, known).item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_everything_known_is_the_same_as_no_mask(name):
    logits, target = random_case()
    known = torch.ones(4, 3, dtype=torch.bool)
    assert LOSSES[name](logits, target, known).item() == LOSSES[name](logits, target).item()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_known_may_hold_anything_even_nan(name):
    logits, target = random_case()
    known = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 1, 1], [1, 1, 1]], dtype=torch.bool)
    value, slope = LOSSES[name](logits, target, known).item(), gradient(LOSSES[name], logits, target, known)
    spoilt_logits, spoilt_target = logits.clone(), target.clone()
    spoilt_logits[~known], spoilt_target[~known] = torch.nan, torch.inf
    assert LOSSES[name](spoilt_logits, spoilt_target, known).item() == value
    assert torch.equal(gradient(LOSSES[name], spoilt_logits, spoilt_target, known), slope)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("per_sample", [False, True])
def test_voxels_that_are_not_known_are_as_if_cut_off_the_patch_and_have_no_gradient(name, per_sample):
    parameters = {} if name == "bce" else {"per_sample": per_sample}
    logits, target = random_case(soft=True)
    known = torch.zeros(logits.shape, dtype=torch.bool)
    known[..., 1:3] = True
    value = LOSSES[name](logits, target, known, **parameters)
    assert value.item() == pytest.approx(
        LOSSES[name](logits[..., 1:3], target[..., 1:3], **parameters).item(), rel=1e-12
    )
    slope = gradient(LOSSES[name], logits, target, known, **parameters)
    assert (slope[~known] == 0).all() and (slope[known] != 0).any()
    spoilt = logits.masked_fill(~known, torch.nan), target.masked_fill(~known, torch.nan)
    assert torch.equal(gradient(LOSSES[name], *spoilt, known, **parameters), slope)


@pytest.mark.parametrize("name", NAMES)
def test_a_region_without_a_known_voxel_is_as_if_left_out(name):
    logits, target = random_case()
    known = torch.ones(logits.shape, dtype=torch.bool)
    known[:, 1] = False
    value = LOSSES[name](logits, target, known)
    assert value.item() == pytest.approx(LOSSES[name](logits[:, ::2], target[:, ::2]).item(), rel=1e-12)


def test_bce_is_the_mean_over_known_voxels_where_samples_know_unequally_many():
    logits, target = torch.zeros(2, 1, 3), torch.zeros(2, 1, 3)
    logits[0, 0, 0] = 1.0
    known = torch.tensor([[[True, False, False]], [[True, True, True]]])
    expected = (math.log(1 + math.e) + 3 * math.log(2)) / 4
    assert LOSSES["bce"](logits, target, known).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spatial", [(3,), (4, 3), (2, 3, 4)])
def test_a_mask_of_pairs_is_the_mask_of_all_their_voxels(name, spatial):
    logits, target = torch.randn(2, 3, *spatial), (torch.rand(2, 3, *spatial) > 0.5).float()
    known = torch.tensor([[1, 0, 1], [1, 1, 0]], dtype=torch.bool)
    whole = known.reshape(2, 3, *[1] * len(spatial)).expand(logits.shape)
    assert LOSSES[name](logits, target, known).item() == pytest.approx(
        LOSSES[name](logits, target, whole).item(), rel=1e-6
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("per_sample", [False, True])
def test_nothing_known_gives_zero_with_a_zero_gradient_still_attached(name, per_sample):
    parameters = {} if name == "bce" else {"per_sample": per_sample}
    logits, target = random_case()
    known = torch.zeros(4, 3, dtype=torch.bool)
    assert LOSSES[name](logits, target, known, **parameters).item() == 0
    assert (gradient(LOSSES[name], logits, target, known, **parameters) == 0).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4)])
def test_an_empty_batch_and_an_empty_patch_give_zero(name, shape):
    logits = torch.zeros(shape, requires_grad=True)
    value = LOSSES[name](logits, torch.zeros(shape))
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-4)


# ---- deep supervision ----


def test_deep_supervision_weighs_the_final_output_most_and_the_weights_sum_to_one():
    target = torch.ones(1, 1, 4)
    outputs = [torch.full((1, 1, 4), x) for x in (1.0, 2.0, 3.0)]

    def mean_logit(logits, target, known=None):
        return logits.mean()

    assert supervised_loss(outputs, target, mean_logit).item() == pytest.approx((4 * 1 + 2 * 2 + 1 * 3) / 7)
    assert supervised_loss(tuple(outputs[:2]), target, mean_logit).item() == pytest.approx((2 * 1 + 2) / 3)


@pytest.mark.parametrize("name", NAMES)
def test_one_output_alone_or_in_a_list_or_repeated_is_the_plain_loss(name):
    logits, target = random_case()
    known = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 1, 1], [1, 1, 1]], dtype=torch.bool)
    loss = build_loss(name)
    for outputs in (logits, [logits], [logits] * 4):
        assert supervised_loss(outputs, target, loss, known).item() == pytest.approx(loss(logits, target, known).item())


def test_every_supervised_output_gets_its_share_of_the_gradient():
    logits, target = random_case()
    outputs = [logits.clone().requires_grad_() for _ in range(3)]
    supervised_loss(outputs, target, build_loss("dice_ce")).backward()
    alone = gradient(LOSSES["dice_ce"], logits, target)
    for share, output in zip((4 / 7, 2 / 7, 1 / 7), outputs, strict=True):
        assert output.grad is not None and torch.allclose(output.grad, share * alone)


def test_no_output_at_all_is_refused():
    with pytest.raises(ValueError, match="empty"):
        supervised_loss([], torch.zeros(1, 1, 4), LOSSES["dice"])


# ---- by name ----


def test_the_registry_holds_the_six_losses():
    assert set(NAMES) == {"dice", "dice_ce", "dice_focal", "bce", "tversky", "focal_tversky"}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("dice", {"smooth": 0.5, "per_sample": True}),
        ("dice_ce", {"ce_weight": 0.2}),
        ("dice_focal", {"gamma": 3, "alpha": 0.25}),
        ("bce", {}),
        ("tversky", {"alpha": 0.1, "beta": 0.9}),
        ("focal_tversky", {"gamma": 2.0}),
    ],
)
def test_a_built_loss_is_the_named_one_with_its_parameters(name, parameters):
    logits, target = random_case()
    known = torch.tensor([[1, 1, 0]] * 4, dtype=torch.bool)
    built = build_loss(name, parameters)(logits, target, known)
    assert built.item() == LOSSES[name](logits, target, known, **parameters).item()
    if parameters:
        assert built.item() != LOSSES[name](logits, target, known).item()


def test_an_unknown_name_is_refused_with_the_names_that_there_are():
    with pytest.raises(ValueError, match="'jaccard'.*dice, dice_ce, dice_focal, bce, tversky, focal_tversky"):
        build_loss("jaccard")


def test_an_unknown_parameter_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"'tversky'.*'gamma'.*alpha = 0.3, beta = 0.7, smooth = 1.0, per_sample"):
        build_loss("tversky", {"gamma": 2})
    with pytest.raises(ValueError, match=r"'bce'.*'smooth'.*none"):
        build_loss("bce", {"smooth": 1})
    with pytest.raises(ValueError, match="'known'"):
        build_loss("dice", {"known": None})


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("dice", {"smooth": 0}, "smooth: 0 "),
        ("dice", {"smooth": -1.0}, "smooth: -1.0 "),
        ("dice", {"smooth": math.inf}, "smooth: inf "),
        ("dice", {"smooth": "1"}, "smooth: '1' "),
        ("dice", {"smooth": True}, "smooth: True "),
        ("dice", {"per_sample": 1}, "per_sample: 1 "),
        ("dice_ce", {"ce_weight": -0.1}, "ce_weight: -0.1 "),
        ("dice_ce", {"dice_weight": 0, "ce_weight": 0}, "dice_weight and ce_weight"),
        ("dice_focal", {"gamma": -1}, "gamma: -1 "),
        ("dice_focal", {"alpha": 1.5}, "alpha: 1.5 .* to 1"),
        ("tversky", {"alpha": -0.3}, "alpha: -0.3 "),
        ("tversky", {"beta": math.nan}, "beta: nan "),
        ("tversky", {"alpha": 0, "beta": 0}, "alpha and beta"),
        ("focal_tversky", {"gamma": 0.75}, "gamma: 0.75 .* from 1"),
        ("focal_tversky", {"gamma": None}, "gamma: None "),
    ],
)
def test_a_parameter_out_of_range_is_refused_when_the_loss_is_built(name, parameters, message):
    with pytest.raises(ValueError, match=f"loss '{name}': {message}"):
        build_loss(name, parameters)
    with pytest.raises(ValueError, match=message):
        LOSSES[name](torch.zeros(1, 1, 2), torch.zeros(1, 1, 2), **parameters)


def test_a_loss_warns_of_nothing():
    logits, target = random_case()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in NAMES:
            gradient(build_loss(name), logits, target)
