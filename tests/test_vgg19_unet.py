"""VGG-19 U-Net: the encoder is torchvision's, whose layout is written out here by hand; the file is not trusted."""

from __future__ import annotations

import os
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from networks import AttentionUNet, VGG19UNet, load_vgg19_bn

FULL = (64, 128, 256, 512, 512)
SMALL = (4, 6, 8, 10, 12)
POOLINGS = (6, 13, 26, 39, 52)  # where torchvision's list of layers has them: before each lies a block's last ReLU


@pytest.fixture(autouse=True)
def one_thread_and_one_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def torchvision_vgg19_bn(widths: tuple[int, ...], in_channels: int = 3) -> nn.Module:
    """Configuration E with batch norm: conv, norm, ReLU each time, "M" a max pooling; a stub for the classifier."""
    a, b, c, d, e = widths
    layers: list[nn.Module] = []
    for v in [a, a, "M", b, b, "M", c, c, c, c, "M", d, d, d, d, "M", e, e, e, e, "M"]:
        if isinstance(v, str):
            layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
        else:
            layers += [nn.Conv2d(in_channels, v, kernel_size=3, padding=1), nn.BatchNorm2d(v), nn.ReLU()]
            in_channels = v
    network = nn.ModuleDict({"features": nn.Sequential(*layers), "classifier": nn.Linear(2, 2)})
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # otherwise the identity, which would hide a mix-up
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                assert tensor is not None
                tensor.uniform_(0.5, 1.5)
    return network.eval()


def small_state() -> dict[str, Any]:
    return dict(torchvision_vgg19_bn(SMALL).state_dict())


def small_unet(**options: Any) -> VGG19UNet:
    return VGG19UNet(2, options.pop("in_channels", 3), 1, options.pop("channels", SMALL), **options)


def refusal(state: object, tmp_path: Path, network: nn.Module | None = None, name: str = "vgg.pth") -> str:
    """The text of the error; the network must be what it was."""
    path = tmp_path / name
    if state is not None:
        torch.save(state, path)
    network = network or small_unet()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(ValueError) as caught:
        load_vgg19_bn(network, path)
    assert str(caught.value).startswith(f"{path}: ")
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    return str(caught.value).removeprefix(f"{path}: ")


# ------------------------------------------------------------------------------------------ torchvision as the oracle


@pytest.mark.parametrize(
    ("widths", "form"),
    [(SMALL, "zip"), (SMALL, "legacy"), (SMALL, "safetensors"), (SMALL, "without step counts"), (FULL, "zip")],
)
def test_every_block_computes_what_torchvision_computes(widths: tuple[int, ...], form: str, tmp_path: Path) -> None:
    theirs = torchvision_vgg19_bn(widths)
    state = theirs.state_dict()
    path = tmp_path / ("vgg.safetensors" if form == "safetensors" else "vgg.pth")
    if form == "safetensors":
        save_file(dict(state), path)
    else:
        if form == "without step counts":
            state = OrderedDict((k, v) for k, v in state.items() if not k.endswith("num_batches_tracked"))
        torch.save(state, path, _use_new_zipfile_serialization=form != "legacy")
    ours = small_unet(channels=widths)
    decoder = ours.mergers[0][0].conv.weight.clone()
    load_vgg19_bn(ours.eval(), path)
    x = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        answers, y, expected = ours.features(x), x, []
        for index, layer in enumerate(theirs["features"]):
            if index in POOLINGS:
                expected.append(y)
            y = layer(y)
    assert len(answers) == len(expected) == 5
    for level, (answer, wanted) in enumerate(zip(answers, expected, strict=True)):
        assert wanted.shape == (1, widths[level], 32 // 2**level, 48 // 2**level)
        assert wanted.std() > 1e-3
        torch.testing.assert_close(answer, wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(ours.mergers[0][0].conv.weight, decoder)


def test_the_full_encoder_has_the_published_number_of_parameters() -> None:
    # torchvision: vgg19_bn has 143,678,248 parameters, its three linear layers 512*49*4096+4096, 4096*4096+4096 and
    # 4096*1000+1000.
    published = 143_678_248 - (512 * 49 * 4096 + 4096) - (4096 * 4096 + 4096) - (4096 * 1000 + 1000)
    with torch.device("meta"):
        assert sum(p.numel() for p in VGG19UNet(2, 3, 1, FULL).encoders.parameters()) == published


def test_the_decoder_is_a_u_net_by_hand_count() -> None:
    with torch.device("meta"):
        network = VGG19UNet(2, 3, 5, SMALL)
    own = sum(p.numel() for p in network.parameters()) - sum(p.numel() for p in network.encoders.parameters())
    # A level: 2x2 up with bias; two 3x3 convolutions, the first of up and skip, each with bias and norm.
    pairs = zip(SMALL[:-1], SMALL[1:], strict=True)
    levels = [(4 * g * f + f) + (9 * 2 * f * f + 3 * f) + (9 * f * f + 3 * f) for f, g in pairs]
    assert own == sum(levels) + (4 * 5 + 5)


def test_only_slices_and_five_blocks_are_built() -> None:
    with pytest.raises(ValueError, match="set spatial_dims to 2, not 3"):
        VGG19UNet(3, 3, 1, SMALL)
    with pytest.raises(ValueError, match=r"channels needs 5 widths, not \(4, 8\)"):
        VGG19UNet(2, 3, 1, (4, 8))


# ------------------------------------------------------------------------------------------------------ input channels


@pytest.mark.parametrize(("in_channels", "weight"), [(1, 9.0), (2, 4.5), (4, 2.25), (6, 1.5)])
def test_other_numbers_of_channels_get_the_mean_filter_times_three_over_their_number(
    in_channels: int, weight: float, tmp_path: Path
) -> None:
    state = small_state()
    state["features.0.weight"] = torch.tensor([1.0, 2.0, 6.0]).reshape(1, 3, 1, 1).expand(4, 3, 3, 3).clone()
    torch.save(state, tmp_path / "vgg.pth")
    network = small_unet(in_channels=in_channels)
    load_vgg19_bn(network, tmp_path / "vgg.pth")  # the mean of 1, 2 and 6 is 3; 3 * 3 / in_channels
    first = network.encoders[0][0].conv.weight
    assert first.shape == (4, in_channels, 3, 3)
    torch.testing.assert_close(first, torch.full_like(first, weight))
    assert first.is_contiguous()


def test_three_channels_keep_their_own_filters(tmp_path: Path) -> None:
    state = small_state()
    torch.save(state, tmp_path / "vgg.pth")
    network = small_unet()
    load_vgg19_bn(network, tmp_path / "vgg.pth")
    assert torch.equal(network.encoders[0][0].conv.weight, state["features.0.weight"])


@pytest.mark.parametrize("in_channels", [1, 2, 4])
def test_equal_modalities_have_the_features_of_a_grey_picture(in_channels: int, tmp_path: Path) -> None:
    theirs = torchvision_vgg19_bn(SMALL)
    torch.save(theirs.state_dict(), tmp_path / "vgg.pth")
    network = small_unet(in_channels=in_channels).eval()
    load_vgg19_bn(network, tmp_path / "vgg.pth")
    grey = torch.randn(1, 1, 16, 16)
    with torch.no_grad():
        wanted = theirs["features"][:6](grey.expand(1, 3, 16, 16))
        answer = network.features(grey.expand(1, in_channels, 16, 16))[0]
    torch.testing.assert_close(answer, wanted, rtol=1e-5, atol=1e-5)


# ----------------------------------------------------------------------------------------------------- what is refused


def test_a_narrower_network_is_told_which_width_the_file_has(tmp_path: Path) -> None:
    text = refusal(small_state(), tmp_path, small_unet(channels=(2, 3, 4, 5, 6)))
    assert text == (
        "features.0.weight has shape (4, 3, 3, 3), but a network with channels (2, 3, 4, 5, 6) takes (2, 3, 3, 3); "
        "set channels to (4, 6, 8, 10, 12), or train without this file"
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"features.50.running_var": None}, "it lacks features.50.running_var (1 such names)"),
        ({"features.3.bias": None, "features.14.bias": None}, "it lacks features.3.bias (2 such names)"),
        ({"features.53.weight": torch.ones(2)}, "it also has features.53.weight (1 such names)"),
        ({"features.3.weight": torch.ones(4, 4, 1, 1)}, "features.3.weight has shape (4, 4, 1, 1)"),
        ({"features.0.weight": torch.ones(4, 4, 3, 3)}, "takes (4, 3, 3, 3); take a state dict of torchvision's"),
        ({"features.7.bias": torch.ones(6, dtype=torch.int64)}, "features.7.bias is torch.int64, not an array of"),
        ({"features.7.bias": [1.0] * 6}, "features.7.bias is list, not an array of"),
        ({"features.0.bias": torch.full((4,), float("nan"))}, "features.0.bias holds NaN or infinity"),
        ({"features.0.bias": torch.full((4,), 1e300, dtype=torch.float64)}, "features.0.bias holds NaN or infinity"),
    ],
)
def test_a_file_that_is_not_the_network_is_refused_with_the_tensor(
    change: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    state = {**small_state(), **change}
    assert sentence in refusal({k: v for k, v in state.items() if v is not None}, tmp_path)


def test_vgg19_without_batch_norm_another_network_and_no_state_dict_are_told_apart(tmp_path: Path) -> None:
    plain = {f"features.{i}.{kind}": torch.ones(4) for i in (0, 2, 5, 7, 10) for kind in ("weight", "bias")}
    assert "not a vgg19_bn state dict: it lacks features.1.bias" in refusal(plain, tmp_path)
    assert "it lacks features.0.bias (96 such names)" in refusal({"conv1.weight": torch.ones(2)}, tmp_path)
    assert "holds a list, not a state dict" in refusal([torch.ones(2)], tmp_path)


@pytest.mark.parametrize("options", [{"norm": "instance"}, {"activation": "leaky_relu"}])
def test_a_network_with_another_norm_or_activation_is_refused(options: dict[str, str], tmp_path: Path) -> None:
    assert "set both, or train without this file" in refusal(small_state(), tmp_path, small_unet(**options))


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    text = refusal(small_state(), tmp_path, AttentionUNet(2, 3, 1, (4, 4)))
    assert text == "weights of vgg19_bn are for the architecture vgg19_unet, not AttentionUNet"


@pytest.mark.parametrize("name", ["vgg.pth", "vgg.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04 broken", b"\x80\x02}q\x00."])
def test_a_damaged_file_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert "not readable as" in refusal(None, tmp_path, name=name)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    torch.save(small_state(), tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "vgg.pth").write_bytes(whole[: len(whole) // 2])
    assert "not readable as weights" in refusal(None, tmp_path)


@pytest.mark.parametrize("name", ["absent.pth", "absent.safetensors"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    assert "not readable" in refusal(None, tmp_path, name=name)


def test_an_archive_that_grows_when_it_is_read_is_refused_before_it_is_read(tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(500_000)}, tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(tmp_path / "vgg.pth", "w", 8) as packed:
        for entry in plain.namelist():
            packed.writestr(entry, plain.read(entry))
    assert "bytes that unpack to 2" in refusal(None, tmp_path)


# ---------------------------------------------------------------------------------------------------------------- code


class Attack:
    """Makes a folder when it is read by a loader that runs code."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("place", ["the whole file", "a value among the weights", "the classifier"])
@pytest.mark.parametrize("name", ["vgg.pth", "vgg.safetensors"])
def test_code_in_a_file_does_not_run_and_the_file_is_refused(
    name: str, place: str, new_format: bool, tmp_path: Path
) -> None:
    trace, path = tmp_path / "trace", tmp_path / "attack.pth"
    state: object = Attack(trace)
    if place != "the whole file":
        state = {**small_state(), "classifier.x" if place == "the classifier" else "features.0.bias": Attack(trace)}
    torch.save(state, path, _use_new_zipfile_serialization=new_format)
    torch.load(path, weights_only=False)
    assert trace.is_dir()  # the attack works on a loader that trusts the file
    trace.rmdir()
    path.rename(tmp_path / name)
    text = refusal(None, tmp_path, name=name)
    assert not trace.exists()
    assert "weights_only" not in text  # torch's advice to read it all the same is not passed on
    if name == "vgg.pth":
        assert f"holds code ({os.mkdir.__module__}.mkdir), which was not run" in text


def test_a_whole_module_instead_of_its_state_dict_is_refused(tmp_path: Path) -> None:
    text = refusal(nn.Sequential(nn.Conv2d(3, 4, 3)), tmp_path)
    assert "torch.nn.modules.container.Sequential" in text and "torch.save(model.state_dict(), path)" in text
