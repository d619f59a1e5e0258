"""Networks: one contract for every architecture, and the same numbers as MONAI's with the same weights."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.networks.nets import AttentionUnet, BasicUNetPlusPlus
from torch import nn

from networks import (
    ARCHITECTURES,
    AttentionUNet,
    NetworkConfig,
    UNetPlusPlus,
    build_network,
)
from networks.layers import ACTIVATIONS, MAX_RESOLUTIONS, NORMS

WITH_DIMS = [
    (architecture, dims) for architecture in ARCHITECTURES for dims in ARCHITECTURES[architecture].spatial_dims
]
EVERY = [(*pair, norm, activation) for pair, norm, activation in itertools.product(WITH_DIMS, NORMS, ACTIVATIONS)]
WIDTHS = (4, 8, 12, 12, 12)


def resolutions(architecture: str) -> int:
    return ARCHITECTURES[architecture].resolutions or 3


@pytest.fixture(autouse=True)
def one_thread_and_one_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def config(architecture: str, dims: int, norm: str = "batch", activation: str = "relu", **more: Any) -> NetworkConfig:
    channels = more.pop("channels", WIDTHS[: resolutions(architecture)])
    return NetworkConfig(architecture, dims, 2, 3, channels, norm, activation, **more)  # type: ignore[arg-type]


def scrambled(network: nn.Module) -> nn.Module:
    """Norms start as the identity and their running statistics as 0 and 1, which would hide a mix-up."""
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.2, 1.0) if value.ndim < 2 else value.normal_(0, 0.3)
    return network


# ------------------------------------------------------------------------------------------------------- contract


@pytest.mark.parametrize(("architecture", "dims", "norm", "activation"), EVERY)
def test_any_odd_size_comes_back_and_training_gives_every_level(architecture, dims, norm, activation) -> None:
    network = build_network(config(architecture, dims, norm, activation, deep_supervision=True))
    x = torch.randn(2, 2, *(5, 9, 7)[:dims])
    outputs = network.train()(x)
    # Three resolutions have two decoder levels, VGG-19's five have four.
    assert isinstance(outputs, list) and len(outputs) == resolutions(architecture) - 1
    assert all(y.shape == (2, 3, *x.shape[2:]) for y in outputs)
    with torch.no_grad():
        answer = network.eval()(x)
    assert isinstance(answer, torch.Tensor) and answer.shape == (2, 3, *x.shape[2:])
    assert torch.isfinite(answer).all()


@pytest.mark.parametrize(
    ("architecture", "dims", "norm", "activation", "deep_supervision"),
    # A leaky ReLU lets through what a ReLU does; losses at coarser levels only add ways back.
    [(*one, False) for one in EVERY if "leaky_relu" not in one]
    + [(*pair, "batch", "relu", True) for pair in WITH_DIMS],
)
def test_the_gradient_reaches_every_parameter(architecture, dims, norm, activation, deep_supervision) -> None:
    network = build_network(config(architecture, dims, norm, activation, deep_supervision=deep_supervision)).train()
    # Two voxels a side at the coarsest level: normalising fewer lets next to no gradient through.
    outputs = network(torch.randn(2, 2, *(2 * network.multiple,) * dims))
    outputs = outputs if isinstance(outputs, list) else [outputs]
    torch.stack([(y**2).mean() for y in outputs]).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        if parameter.ndim > 1:  # a bias before a normalisation has none by right
            assert parameter.grad.any(), name


@pytest.mark.parametrize(("architecture", "dims"), WITH_DIMS)
def test_the_first_output_of_training_is_the_final_one(architecture: str, dims: int) -> None:
    network = build_network(config(architecture, dims, "instance", deep_supervision=True))
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # running statistics become those of the one batch below
    x = torch.randn(1, 2, *(8,) * dims)
    first = network.train()(x)[0]
    with torch.no_grad():
        final = network.eval()(x)
    # psi's batch norm divides by n - 1 in the running variance and by n in the batch's: close, not equal.
    torch.testing.assert_close(first, final, atol=0.05, rtol=0.05)


@pytest.mark.parametrize(("architecture", "dims", "norm"), [(*pair, norm) for pair in WITH_DIMS for norm in NORMS])
def test_a_state_dict_brings_back_the_same_function(architecture: str, dims: int, norm: str) -> None:
    first = scrambled(build_network(config(architecture, dims, norm, "prelu", deep_supervision=True))).eval()
    second = build_network(config(architecture, dims, norm, "prelu", deep_supervision=True)).eval()
    second.load_state_dict(first.state_dict())
    x = torch.randn(1, 2, *(6, 7, 5)[:dims])
    with torch.no_grad():
        assert torch.equal(first(x), second(x))


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(WITH_DIMS),
    st.sampled_from(["batch", "instance", "group"]),
    st.lists(st.integers(1, 13), min_size=3, max_size=3),
)
def test_even_the_smallest_images_have_an_answer(pair: tuple[str, int], norm: str, three: list[int]) -> None:
    architecture, dims = pair
    size = three[:dims]
    network = build_network(config(architecture, dims, norm, channels=(4,) * resolutions(architecture))).eval()
    with torch.no_grad():
        answer = network(torch.randn(1, 2, *size))
    assert answer.shape == (1, 3, *size) and torch.isfinite(answer).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_dropout_is_for_training_only(architecture: str) -> None:
    network = build_network(config(architecture, 2, "instance", dropout=0.5))
    x = torch.randn(1, 2, 8, 8)
    with torch.no_grad():
        assert not torch.equal(network.train()(x), network(x))
        assert torch.equal(network.eval()(x), network(x))


@pytest.mark.parametrize(("architecture", "dims"), WITH_DIMS)
def test_every_channel_but_the_last_halves_the_input_once(architecture: str, dims: int) -> None:
    assert build_network(config(architecture, dims)).multiple == 2 ** (resolutions(architecture) - 1)


@pytest.mark.parametrize(("architecture", "dims"), WITH_DIMS)
def test_only_the_first_tensor_depends_on_the_images_and_only_the_heads_on_the_regions(architecture, dims) -> None:
    def shapes(n_in: int, n_out: int) -> dict[str, tuple[int, ...]]:
        about = NetworkConfig(architecture, dims, n_in, n_out, WIDTHS[: resolutions(architecture)])
        network = build_network(replace(about, deep_supervision=True))
        return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}

    known, plain, images, regions = ARCHITECTURES[architecture], shapes(2, 3), shapes(5, 3), shapes(2, 7)
    assert {name for name in plain if plain[name] != images[name]} == {known.first_tensor}
    assert (plain[known.first_tensor][1], images[known.first_tensor][1]) == (2, 5)
    heads = {name for name in plain if name.startswith(known.heads)}
    assert heads and {name for name in plain if plain[name] != regions[name]} == heads
    assert all((plain[name][0], regions[name][0]) == (3, 7) for name in heads)


# -------------------------------------------------------------------------------- options of one architecture alone


def test_options_of_an_architecture_reach_its_network() -> None:
    about = config("unet_plus_plus", 2, options={"head_channels": 6})
    # Node (0, 2) of three widths is the deepest output: its second convolution gives head_channels maps.
    assert build_network(about).state_dict()["nodes.0_2.convs.conv_1.conv.weight"].shape == (6, 6, 3, 3)
    plain = build_network(config("unet_plus_plus", 2)).state_dict()
    assert plain["nodes.0_2.convs.conv_1.conv.weight"].shape == (4, 4, 3, 3)


@pytest.mark.parametrize(
    ("architecture", "options", "sentence"),
    [
        (
            "attention_unet",
            {"head_channels": 6},
            "architecture attention_unet: there is no option 'head_channels'; "
            "options and defaults: merge_norm = None, merge_activation = None",
        ),
        ("vgg19_unet", {"depth": 6}, "architecture vgg19_unet: there is no option 'depth'; options and defaults: none"),
        ("unet_plus_plus", {"head_channels": "6"}, "option head_channels is '6'; give int or null"),
        ("unet_plus_plus", {"head_channels": True}, "option head_channels is True; give int or null"),
        ("unet_plus_plus", {"head_channels": 0}, "head_channels is at least 1, not 0"),
        ("unet_plus_plus", {"head_channels": 2**62}, "architecture unet_plus_plus: "),
        ("attention_unet", {"merge_norm": "layer"}, "unknown norm 'layer'; known: batch, instance, group"),
    ],
)
def test_an_option_that_cannot_be_is_refused_with_the_options_that_there_are(architecture, options, sentence) -> None:
    with pytest.raises(ValueError) as caught:
        config(architecture, 2, options=options)
    assert sentence in str(caught.value)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_without_deep_supervision_there_are_no_heads_that_no_loss_reaches(architecture: str) -> None:
    assert len(build_network(config(architecture, 2)).heads) == 1  # type: ignore[arg-type]
    assert isinstance(build_network(config(architecture, 2)).train()(torch.randn(2, 2, 8, 8)), torch.Tensor)


# --------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"architecture": "resnet"},
            "unknown architecture 'resnet'; known: attention_unet, unet_plus_plus, ",
        ),
        ({"spatial_dims": 4}, "spatial_dims is 2 or 3, not 4"),
        (
            {"architecture": "vgg19_unet", "spatial_dims": 3, "channels": (4,) * 5},
            "architecture vgg19_unet has no spatial_dims 3: set spatial_dims to 2, "
            "or architecture to attention_unet or unet_plus_plus",
        ),
        (
            {"architecture": "vgg19_unet", "channels": (4, 8, 12)},
            "architecture vgg19_unet needs 5 channels, finest resolution first, not (4, 8, 12)",
        ),
        ({"in_channels": 0}, "in_channels and out_channels are at least 1, not 0 and 3"),
        ({"dropout": 1.0}, "dropout is a probability below 1, not 1.0"),
        ({"norm": "layer"}, "unknown norm 'layer'; known: batch, instance, group"),
        ({"activation": "gelu"}, "unknown activation 'gelu'; known: relu, leaky_relu, prelu"),
        ({"channels": (8,)}, "channels needs 2 to 8 positive widths, finest resolution first, not (8,)"),
        ({"channels": (8, 0)}, "channels needs 2 to 8 positive widths, finest resolution first, not (8, 0)"),
        ({"channels": (4,) * (MAX_RESOLUTIONS + 1)}, "channels needs 2 to 8 positive widths"),
        ({"norm": "group", "channels": (8, 10)}, "every width must be a multiple of 4, not (8, 10)"),
    ],
)
def test_a_network_that_cannot_be_is_refused_with_what_there_is(changes: dict[str, Any], sentence: str) -> None:
    good: dict[str, Any] = {"architecture": "unet_plus_plus", "spatial_dims": 2, "in_channels": 2}
    with pytest.raises(ValueError) as caught:
        NetworkConfig(**{**good, "out_channels": 3, "channels": (4, 8), **changes})
    assert sentence in str(caught.value)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (2, 8, 8), (1, 2, 8, 8, 8)])
def test_an_input_of_another_shape_is_refused_with_the_shape_that_is_wanted(architecture: str, shape) -> None:
    with pytest.raises(ValueError) as caught:
        build_network(config(architecture, 2))(torch.zeros(shape))
    assert str(caught.value) == f"expected (batch, 2, dim_1, dim_2), got {shape}"


# ------------------------------------------------------------------------------------------- MONAI as the oracle


def copy_weights(source: list[nn.Module], target: list[nn.Module]) -> None:
    for theirs, ours in zip(source, target, strict=True):
        values, own = list(theirs.state_dict().values()), ours.state_dict()
        ours.load_state_dict(dict(zip(own, values, strict=True)))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("channels", [(4, 8), (4, 6, 10, 16)])
def test_attention_unet_computes_what_monai_computes(dims: int, channels: tuple[int, ...]) -> None:
    theirs = scrambled(AttentionUnet(dims, 2, 3, channels, strides=(2,) * (len(channels) - 1))).eval()
    ours = AttentionUNet(dims, 2, 3, channels, "batch", "relu", merge_norm="instance", merge_activation="prelu").eval()
    # MONAI nests its levels, ours are lists, finest first. MONAI's instance norm there has no scale, ours starts at 1.
    head, layer, reduce = theirs.model
    encoders, gates, upsamplers, mergers = [head.conv], [], [], []
    while True:
        gates.append(layer.attention)
        upsamplers.append(layer.upconv.up)
        mergers.append(layer.merge)
        inner = layer.submodule
        if not isinstance(inner, nn.Sequential):
            encoders.append(inner.conv)
            break
        encoders.append(inner[0].conv)
        layer = inner[1]
    copy_weights(encoders, list(ours.encoders))
    copy_weights(upsamplers, list(ours.upsamplers))
    copy_weights([reduce.conv], [ours.heads[0]])
    for gate, own in zip(gates, ours.gates, strict=True):
        copy_weights([gate.W_g, gate.W_x, gate.psi], [own.gate, own.skip, own.psi])
    for merge, own in zip(mergers, ours.mergers, strict=True):
        copy_weights([merge.conv, merge.adn.A], [own.conv, own.adn.A])
        assert not merge.adn.N.state_dict()
    x = torch.randn(1, 2, *(32, 16, 16)[:dims])
    with torch.no_grad():
        expected, answer = theirs(x), ours(x)
    assert expected.abs().max() > 0.1
    assert (expected - answer).abs().max() < 1e-5


def twins(dims: int, deep_supervision: bool = True) -> tuple[BasicUNetPlusPlus, UNetPlusPlus]:
    features = (4, 6, 8, 8, 10, 5)
    theirs = BasicUNetPlusPlus(dims, 2, 3, features, deep_supervision=deep_supervision).eval()
    ours = UNetPlusPlus(
        dims, 2, 3, features[:5], "instance", "leaky_relu", deep_supervision=deep_supervision, head_channels=features[5]
    ).eval()
    for name, node in ours.nodes.items():
        copy_weights([getattr(theirs, f"conv_{name}" if name.endswith("_0") else f"upcat_{name}")], [node])
    for level, head in ours.heads.items():
        copy_weights([getattr(theirs, f"final_conv_0_{level}")], [head])
    return theirs, ours


@pytest.mark.parametrize("dims", [2, 3])
def test_unet_plus_plus_computes_what_monai_computes_at_every_depth(dims: int) -> None:
    theirs, ours = twins(dims)
    x = torch.randn(1, 2, *(32, 16, 16)[:dims])
    with torch.no_grad():
        expected = theirs(x)
        final = ours(x)
        every = ours.train()(x)  # instance norm and no dropout: the same in training
    assert len(every) == 4
    for answer, wanted in zip(every, reversed(expected), strict=True):
        assert wanted.abs().max() > 0.05
        assert (answer - wanted).abs().max() < 1e-5
    assert (final - expected[-1]).abs().max() < 1e-5


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_a_pruned_unet_plus_plus_computes_what_monai_computes_at_that_depth(dims: int, level: int) -> None:
    theirs, ours = twins(dims)
    x = torch.randn(1, 2, *(32, 16, 16)[:dims])
    with torch.no_grad():
        expected = theirs(x)[level - 1]
        assert (ours.prune(level)(x) - expected).abs().max() < 1e-5


# -------------------------------------------------------------------------------------------------------- pruning


@pytest.mark.parametrize("dims", [2, 3])
def test_pruning_gives_exactly_what_deep_supervision_gave_there_and_removes_parameters(dims: int) -> None:
    x = torch.randn(1, 2, *(9, 8, 11)[:dims])
    sizes = []
    for level in (3, 2, 1):
        torch.manual_seed(1)
        network = UNetPlusPlus(dims, 2, 3, (4, 6, 8, 10), "instance", deep_supervision=True)
        with torch.no_grad():
            every = network.train()(x)  # the deepest first
            pruned = network.prune(level).eval()(x)
        assert torch.equal(pruned, every[3 - level])
        assert len(network.train()(x)) == level
        sizes.append(sum(p.numel() for p in network.parameters()))
    assert sizes[0] > sizes[1] > sizes[2]
    # Level 1 by hand: nodes 0_0, 1_0 and 0_1 and one head. A convolution has 3^dims * in * out weights and out biases,
    # its norm 2 * out; the upsampling 2^dims * in * out and out biases.
    k, up = 3**dims, 2**dims
    nodes = [(2, 4), (4, 4), (4, 6), (6, 6), (4 + 6, 4), (4, 4)]
    assert sizes[2] == sum(k * a * b + 3 * b for a, b in nodes) + (up * 6 * 6 + 6) + (4 * 3 + 3)


def test_only_levels_with_a_trained_output_can_be_pruned_to() -> None:
    with pytest.raises(ValueError, match="no output at level 1; this network has levels 3$"):
        UNetPlusPlus(2, 2, 3, (4, 4, 4, 4)).prune(1)
    network = UNetPlusPlus(2, 2, 3, (4, 4, 4, 4), deep_supervision=True)
    with pytest.raises(ValueError, match="no output at level 4; this network has levels 1, 2, 3$"):
        network.prune(4)
