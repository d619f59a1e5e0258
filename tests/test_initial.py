"""pipeline/training/initial.py: what fits is taken and what does not is said; a file that brings nothing is refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from data.errors import CheckpointError, UsageError
from networks import VGG19UNet, build_network
from pipeline.checkpoint import save_checkpoint
from pipeline.config import RunConfig, parse_config
from pipeline.training.initial import initial_network
from tests.test_vgg19_unet import POOLINGS, SMALL, torchvision_vgg19_bn


def recipe(modalities: str = "t1 flair", regions: str = "WT", context: int = 0, **network: Any) -> RunConfig:
    sizes = {"in_channels": (2 * context + 1) * len(modalities.split()), "out_channels": len(regions.split())}
    shape = {"architecture": "unet_plus_plus", "spatial_dims": 2, "channels": (4, 8, 12), **sizes, **network}
    patch = (16,) * shape["spatial_dims"]
    return parse_config(
        {
            "name": "tiny",
            "modalities": modalities.split(),
            "regions": regions.split(),
            "convention": "brats2017",
            "network": shape,
            "window": {"size": patch, "context": context},
            "training": {"patch": patch},
        },
        "test",
    )


@pytest.fixture
def model(tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A model file for ``recipe()``, and its weights: no value is one that a new network has."""
    network = build_network(recipe().network)
    for tensor in network.state_dict().values():
        tensor.copy_(torch.randint(2, 9, tensor.shape))  # float16 holds them exactly
    save_checkpoint(tmp_path / "model.safetensors", network, recipe(), {})
    return tmp_path / "model.safetensors", network.state_dict()


def started_from(source: Path | str, config: RunConfig) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Weights of the initial network, and those that it would have had without a source."""
    torch.manual_seed(5)
    started = initial_network(str(source), config)
    assert started.training and all(p.requires_grad and p.dtype == torch.float32 for p in started.parameters())
    torch.manual_seed(5)
    return started.state_dict(), build_network(config.network).state_dict()


# ------------------------------------------------------------------------------------------------ a model of ours


def test_the_same_network_starts_from_every_weight_and_nothing_is_said(model, caplog) -> None:
    path, weights = model
    started, _ = started_from(path, recipe())
    assert started.keys() == weights.keys()
    assert all(torch.equal(started[name], weights[name]) for name in weights)
    assert caplog.records == []


@pytest.mark.parametrize(
    ("config", "unfit"),
    [(recipe(deep_supervision=True), {"heads.1.weight", "heads.1.bias"})],
    ids=["a further head"],
)
def test_what_has_another_shape_or_is_not_there_stays_random_and_is_logged(model, caplog, config, unfit) -> None:
    path, weights = model
    started, without = started_from(path, config)
    for name, tensor in started.items():
        assert torch.equal(tensor, without[name] if name in unfit else weights[name]), name
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        f"--init {path}: {len(unfit)} of {len(started)} tensors do not fit and stay random, first {min(unfit)}"
    )


def test_input_filters_go_by_modality_whatever_their_order(model, caplog) -> None:
    path, weights = model  # of t1 and flair
    started, without = started_from(path, recipe(modalities="flair t2 t1"))
    first = "nodes.0_0.conv_0.conv.weight"
    for channel, theirs in ((0, 1), (2, 0)):
        assert torch.equal(started[first][:, channel], weights[first][:, theirs])
    assert torch.equal(started[first][:, 1], without[first][:, 1])
    assert all(torch.equal(started[name], weights[name]) for name in weights if name != first)
    (record,) = caplog.records
    assert record.getMessage() == f"--init {path}: it has not all filters of t2, and those start at random"


def test_the_middle_slice_of_a_model_without_context_is_the_middle_slice_of_one_with(model) -> None:
    path, weights = model
    started, without = started_from(path, recipe(context=1))
    first = "nodes.0_0.conv_0.conv.weight"
    for channel in range(6):  # t1 before, at and after the slice, then flair
        middle = {1: 0, 4: 1}.get(channel)
        expected = without[first][:, channel] if middle is None else weights[first][:, middle]
        assert torch.equal(started[first][:, channel], expected), channel


def test_rows_of_the_heads_go_by_region(model, caplog) -> None:
    path, weights = model
    started, without = started_from(path, recipe(regions="WT TC"))
    for name in ("heads.2.weight", "heads.2.bias"):
        assert torch.equal(started[name][0], weights[name][0]) and torch.equal(started[name][1], without[name][1])
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == [
        "it has not all filters of TC, and those start at random"
    ]


@pytest.mark.parametrize(
    ("network", "theirs"),
    [
        ({"channels": (8, 16, 24)}, "unet_plus_plus, spatial_dims 2, channels (8, 16, 24)"),
        ({"spatial_dims": 3}, "unet_plus_plus, spatial_dims 3, channels (4, 8, 12)"),
        ({"architecture": "attention_unet"}, "attention_unet, spatial_dims 2, channels (4, 8, 12)"),
    ],
)
def test_a_model_without_one_convolution_that_fits_is_refused_with_both_shapes(model, network, theirs) -> None:
    # Its step counts fit, and a head's bias: such a start would be random, and the user would not know.
    path, _ = model
    with pytest.raises(UsageError) as caught:
        initial_network(str(path), recipe(**network))
    assert str(caught.value) == (
        f"--init {path}: none of its convolutions fits the recipe: it is unet_plus_plus, spatial_dims 2, "
        f"channels (4, 8, 12), and the recipe says {theirs}; make them agree, or leave --init out"
    )


def test_a_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no model 'nobodys'; give a .safetensors file or one of"):
        initial_network("nobodys", recipe())
    with pytest.raises(CheckpointError, match=r"absent\.safetensors: no such model file"):
        initial_network(str(tmp_path / "absent.safetensors"), recipe())


# -------------------------------------------------------------------------------------------- torchvision's VGG-19

VGG19 = {"architecture": "vgg19_unet", "channels": SMALL}


def test_a_pth_file_gives_the_encoder_and_leaves_the_decoder_random(tmp_path: Path) -> None:
    theirs = torchvision_vgg19_bn(SMALL)
    torch.save(theirs.state_dict(), tmp_path / "vgg.pth")
    config = recipe("t1 t1c flair", **VGG19)
    started, without = started_from(tmp_path / "vgg.pth", config)
    decoder = [name for name in started if not name.startswith("encoders.")]
    assert decoder and all(torch.equal(started[name], without[name]) for name in decoder)
    network = build_network(config.network).eval()
    assert isinstance(network, VGG19UNet)
    network.load_state_dict(started)
    x = torch.randn(1, 3, 16, 32)
    with torch.no_grad():  # the last block's features are theirs only where every block's are
        torch.testing.assert_close(network.features(x)[-1], theirs["features"][: POOLINGS[-1]](x), rtol=1e-5, atol=1e-5)


def test_a_pth_file_for_another_architecture_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        initial_network(str(tmp_path / "absent.pth"), recipe())
    assert str(caught.value) == (
        f"--init {tmp_path / 'absent.pth'}: torchvision's weights are for vgg19_unet, not unet_plus_plus; "
        "take a recipe of vgg19_unet, or a model of ours"
    )


@pytest.mark.parametrize(
    ("content", "options", "sentence"),
    [
        (None, {}, "not readable (No such file or directory); check the path"),
        (b"not weights", {}, "not readable as weights"),
        ({"conv1.weight": torch.ones(2)}, {}, "not a vgg19_bn state dict: it lacks features.0.bias"),
        (torchvision_vgg19_bn(SMALL).state_dict(), {"channels": (2, 3, 4, 5, 6)}, "set channels to (4, 6, 8, 10, 12)"),
        (torchvision_vgg19_bn(SMALL).state_dict(), {"norm": "instance"}, "was trained with norm 'batch'"),
    ],
    ids=["absent", "damaged", "another network", "another width", "another norm"],
)
def test_a_pth_file_that_cannot_be_used_is_refused_with_the_reason(content, options, sentence, tmp_path: Path) -> None:
    path = tmp_path / "vgg.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UsageError) as caught:
        initial_network(str(path), recipe("t1 t1c flair", **{**VGG19, **options}))
    assert str(caught.value).startswith(f"--init {path}: ") and sentence in str(caught.value)
