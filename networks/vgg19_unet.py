"""VGG-19 U-Net: a U-Net [1]_ for slices on the encoder of VGG-19 [2]_.

The encoder is VGG-19's convolutional part, with normalisation.

References
----------
.. [1] O. Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015,
       arXiv:1505.04597.
.. [2] K. Simonyan and A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015,
       arXiv:1409.1556, configuration E.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from monai.networks.blocks import Convolution
from monai.networks.layers.factories import Conv
from monai.networks.nets.basic_unet import TwoConv
from safetensors import SafetensorError, safe_open
from torch import nn

from networks.layers import ACTIVATIONS, NORMS, PaddedNetwork, check_widths

VGG19_CONVOLUTIONS = (2, 2, 4, 4, 4)
"""3 x 3 convolutions of each block of configuration E, finest resolution first."""

VGG19_WIDTHS = (64, 128, 256, 512, 512)
"""Feature maps of each block in the published network, and in torchvision's ``vgg19_bn``."""


class VGG19UNet(PaddedNetwork):
    """U-Net in 2D with the five blocks of VGG-19 as its encoder.

    Max pooling lies between them, and transposed convolutions lead up.

    Block 5, at a sixteenth of the resolution, is the bottleneck: VGG-19's fifth pooling served its classifier. Up, each
    level is a 2 x 2 transposed convolution, the skip, and two convolutions of the level's own width, as in the other
    architectures here, so that a comparison with them is one of encoders; linear interpolation would need more
    arithmetic, because the convolution after it sees the coarser level's wider features at full size.

    Parameters
    ----------
    spatial_dims : int
        2; VGG-19 is a network of images.
    channels : sequence of int
        Feature maps of the five blocks. :data:`VGG19_WIDTHS` is the published encoder.
    norm, activation : str
        Keys of :data:`networks.layers.NORMS` and :data:`networks.layers.ACTIVATIONS`; the published encoder has "batch"
        and "relu".
    deep_supervision : bool
        In training, also give logits from each coarser decoder level, upsampled linearly to the input's size.

    Raises
    ------
    ValueError
        Three spatial dimensions, or other than five widths.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int],
        norm: str = "batch",
        activation: str = "relu",
        dropout: float = 0.0,
        deep_supervision: bool = False,
    ) -> None:
        if spatial_dims != 2:
            raise ValueError(f"VGG19UNet is for slices: set spatial_dims to 2, not {spatial_dims}")
        if len(channels) != len(VGG19_CONVOLUTIONS):
            raise ValueError(f"VGG19UNet has 5 blocks: channels needs 5 widths, not {tuple(channels)}")
        check_widths(channels, norm, activation)
        super().__init__(spatial_dims, in_channels, len(channels) - 1, deep_supervision)
        self.channels, self.norm, self.activation = tuple(channels), norm, activation
        act, norm_layer = ACTIVATIONS[activation], NORMS[norm]

        def block(n_in: int, n_out: int, convolutions: int) -> nn.Sequential:
            widths = [n_in] + [n_out] * (convolutions - 1)
            return nn.Sequential(*(Convolution(2, n, n_out, act=act, norm=norm_layer, dropout=dropout) for n in widths))

        inputs = [in_channels, *channels[:-1]]
        self.encoders = nn.ModuleList(map(block, inputs, channels, VGG19_CONVOLUTIONS))
        pairs = list(zip(channels[:-1], channels[1:], strict=True))
        self.upsamplers = nn.ModuleList(
            Conv["convtrans", 2](coarse, fine, kernel_size=2, stride=2) for fine, coarse in pairs
        )
        self.mergers = nn.ModuleList(TwoConv(2, 2 * fine, fine, act, norm_layer, True, dropout) for fine, _ in pairs)
        # Heads for the coarser outputs exist only where they are trained.
        n_heads = len(pairs) if deep_supervision else 1
        self.heads = nn.ModuleList(Conv["conv", 2](fine, out_channels, kernel_size=1) for fine in channels[:n_heads])

    def features(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Compute the features of each encoder block, finest first.

        ``(batch, channels[i], dim_1 / 2**i, dim_2 / 2**i)`` for a size that halves evenly four times.
        """
        features: list[torch.Tensor] = []
        for level, encode in enumerate(self.encoders):
            x = encode(x if level == 0 else F.max_pool2d(x, kernel_size=2))
            features.append(x)
        return features

    def outputs(self, x: torch.Tensor, every_level: bool) -> list[torch.Tensor]:
        size = x.shape[2:]
        *skips, x = self.features(x)
        logits: list[torch.Tensor] = []
        for level in reversed(range(len(skips))):
            x = self.mergers[level](torch.cat((skips[level], self.upsamplers[level](x)), dim=1))
            if level == 0 or every_level:
                y = self.heads[level](x)
                logits.append(y if level == 0 else F.interpolate(y, size=size, mode="bilinear", align_corners=False))
        return logits[::-1]


# ------------------------------------------------------------------------------------------- torchvision's weights


def load_vgg19_bn(network: nn.Module, path: str | Path) -> None:
    """Copy the encoder's weights and running statistics from a state dict of torchvision's ``vgg19_bn``.

    The file's convolutions are those of configuration E, ``features.0`` to ``features.50``; its classifier is ignored.
    The decoder keeps its values. Either every tensor of the encoder is copied or none is.

    Parameters
    ----------
    network : VGG19UNet
        With norm "batch" and activation "relu", and as wide as the file's network: :data:`VGG19_WIDTHS` for
        torchvision's own. Changed in place.
    path : str or Path
        What ``torch.save(model.state_dict(), path)`` wrote (old or new format), or ``.safetensors`` with the same
        names. Read as weights only: code in the file is refused and never runs.

    Raises
    ------
    ValueError
        Another network, or a file that is unreadable, holds code or is not such a state dict; the text names the file,
        what was found and what to do.

    Notes
    -----
    The file's first filters see red, green and blue. With three input channels they are copied as they are. With any
    other number ``n`` each input channel gets the mean of the three, times ``3 / n``: where all input channels are
    equal, the features are those of a grey picture.
    """
    if not isinstance(network, VGG19UNet):
        raise ValueError(
            f"{path}: weights of vgg19_bn are for the architecture vgg19_unet, not {type(network).__name__}"
        )
    if (network.norm, network.activation) != ("batch", "relu"):
        raise ValueError(
            f"{path}: vgg19_bn was trained with norm 'batch' and activation 'relu', not {network.norm!r} and "
            f"{network.activation!r}; set both, or train without this file"
        )
    found = _read_features(Path(path))
    own = dict(_torchvision_tensors(network))
    _check_features(found, own, network, path)
    if network.in_channels != 3:
        mean = found["features.0.weight"].float().mean(dim=1, keepdim=True)
        found["features.0.weight"] = (mean * (3 / network.in_channels)).expand(-1, network.in_channels, -1, -1)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(found[name])


def _torchvision_tensors(network: VGG19UNet) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the encoder's tensors under torchvision's names.

    Torchvision numbers convolutions, norms, ReLUs and poolings in turn.
    """
    index = 0
    for block in network.encoders:
        assert isinstance(block, nn.Sequential)
        for layer in block:
            for name in ("weight", "bias"):
                yield f"features.{index}.{name}", getattr(layer.get_submodule("conv"), name)
            for name in ("weight", "bias", "running_mean", "running_var"):
                yield f"features.{index + 1}.{name}", getattr(layer.get_submodule("adn.N"), name)
            index += 3
        index += 1


def _read_features(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors named ``features.*``.

    The step counts, which the oldest files lack, are left out.
    """
    state: Mapping[str, torch.Tensor]
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                names = [name for name in file.keys() if name.startswith("features.")]  # noqa: SIM118
                state = {name: file.get_tensor(name) for name in names}
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path}: not readable as safetensors ({error}); copy it again from its source") from None
    else:
        state = _read_weights_only(path)
    wanted = {n: t for n, t in state.items() if isinstance(n, str) and n.startswith("features.")}
    return {n: t for n, t in wanted.items() if not n.endswith(".num_batches_tracked")}


def _read_weights_only(path: Path) -> Mapping[str, torch.Tensor]:
    """Read the state dict in a file of ``torch.save``.

    Only tensors and plain containers are let through.
    """
    remedy = "take the file that torchvision offers, or one that torch.save(model.state_dict(), path) wrote"
    try:
        size, unpacked = path.stat().st_size, _unpacked_bytes(path)
        state = torch.load(path, map_location="cpu", weights_only=True) if unpacked <= size else None
    except OSError as error:
        raise ValueError(f"{path}: not readable ({error.strerror or error}); check the path") from None
    except Exception as error:  # what a damaged file raises is anything, from EOFError to IndexError
        # torch's own text advises to read the file with its code allowed, which is the last thing to do.
        refused = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"holds code ({refused[1]}), which was not run" if refused else "not readable as weights"
        raise ValueError(f"{path}: {reason}; {remedy}") from None
    if unpacked > size:  # torch.save never compresses: a file that grows when it is read would decide our memory
        raise ValueError(f"{path}: {size} bytes that unpack to {unpacked}; {remedy}")
    if not isinstance(state, Mapping):
        raise ValueError(f"{path}: holds a {type(state).__name__}, not a state dict; {remedy}")
    return state


def _unpacked_bytes(path: Path) -> int:
    """Return the unpacked size of a zip archive, the format of ``torch.save`` now.

    The format before it has no compression, and gives 0.
    """
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return 0
    with zipfile.ZipFile(path) as archive:
        return sum(entry.file_size for entry in archive.infolist())


def _check_features(
    found: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], network: VGG19UNet, path: str | Path
) -> None:
    """Raise ``ValueError`` unless ``found`` has the names, shapes and finite numbers that ``own`` takes."""
    remedy = "take a state dict of torchvision's vgg19_bn"
    for names, what in ((own.keys() - found.keys(), "lacks"), (found.keys() - own.keys(), "also has")):
        if names:
            count = f"{len(names)} such names"
            raise ValueError(f"{path}: not a vgg19_bn state dict: it {what} {_first(names)} ({count}); {remedy}")
    for name, value in found.items():
        if not isinstance(value, torch.Tensor) or value.layout != torch.strided or not value.is_floating_point():
            kind = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
            raise ValueError(f"{path}: {name} is {kind}, not an array of floating point numbers; {remedy}")
    for name, tensor in own.items():
        value = found[name]
        shape = (len(tensor), 3, 3, 3) if name == "features.0.weight" else tuple(tensor.shape)
        if tuple(value.shape) != shape:
            widths = _widths(found)
            fix = remedy if widths == network.channels else f"set channels to {widths}, or train without this file"
            raise ValueError(
                f"{path}: {name} has shape {tuple(value.shape)}, but a network with channels {network.channels} "
                f"takes {shape}; {fix}"
            )
        if value.is_meta or not torch.isfinite(value.to(tensor.dtype)).all():
            raise ValueError(f"{path}: {name} holds NaN or infinity; copy the file again from its source")


def _first(names: Iterable[str]) -> str:
    """Return the name nearest the input.

    ``features.4.bias`` comes before ``features.10.bias``.
    """
    return min(names, key=lambda name: (int(number[0]) if (number := re.findall(r"\d+", name)) else -1, name))


def _widths(found: Mapping[str, torch.Tensor]) -> tuple[int, ...]:
    """Return the feature maps of each block of the file's network.

    They are the lengths of the biases of the blocks' first convolutions.
    """
    starts = [sum(3 * n + 1 for n in VGG19_CONVOLUTIONS[:block]) for block in range(len(VGG19_CONVOLUTIONS))]
    return tuple(found[f"features.{start}.bias"].numel() for start in starts)
