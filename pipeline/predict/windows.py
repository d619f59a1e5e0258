"""Probabilities of a normalised image, by windows and passes, within the memory there is.

A card that is too small does not cost a patient the mask. One way after another is tried until one fits: smaller
batches, then stitching on the CPU (the card holds single windows only), then the CPU alone. What was done is said.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from monai.inferers import SliceInferer, SlidingWindowInferer
from torch import nn

from data.errors import SegmentationError, UsageError
from pipeline.config import RunConfig
from pipeline.predict.device import free_card_bytes, out_of_memory
from pipeline.predict.passes import Pass, passes
from transforms.planes import slices_as_channels, turned, turned_back, turning, turning_back

log = logging.getLogger(__name__)

EMPTY_WINDOW_LOGIT = -20.0
"""The answer for a window that holds no voxel of the brain, without asking the network."""

SMALLEST_WINDOW, LARGEST_WINDOW = 16, 1024
"""Sides in voxels that may be asked for."""

SPREAD_COPIES = 6
"""Float32 copies of a pass that gathering it may take beside it (see pipeline.predict.uncertainty)."""


@dataclass(frozen=True)
class Way:
    """Devices and batch size of one attempt at a pass.

    They are where the network runs, how many windows go through it together, and where the windows are put together.
    """

    device: torch.device
    batch: int
    stitch_on: torch.device

    def __str__(self) -> str:
        if self.device.type == "cpu":
            return "ran on the CPU"
        batches = f"ran in batches of {self.batch}"
        return batches if self.stitch_on == self.device else f"{batches}, stitched on the CPU"


def ways_to_run(device: torch.device, batch: int) -> list[Way]:
    """List the ways in the order in which they are tried.

    Each takes less of the card's memory than the one before.
    """
    ways = [Way(device, batch, device)]
    if device.type == "cpu":
        return ways
    while batch > 1:
        batch //= 2
        ways.append(Way(device, batch, device))
    cpu = torch.device("cpu")
    return [*ways, Way(device, 1, cpu), Way(cpu, ways[0].batch, cpu)]


def infer(
    config: RunConfig,
    network: nn.Module,
    image: torch.Tensor,
    device: torch.device,
    *,
    tta: bool = False,
    watch: Callable[[torch.Tensor, Pass], None] | None = None,
    before_cpu: Callable[[], object] | None = None,
    on_share: Callable[[float], None] | None = None,
) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Compute the probabilities of one normalised image.

    Returns them, (regions, d1, d2, d3) float32 on the CPU, and remarks about a card that was full.

    Parameters
    ----------
    network : nn.Module
        In ``eval`` mode. Moved to where it runs; the next call moves it back to ``device``.
    image : (inputs, d1, d2, d3) float32 on the CPU
        On the working grid; ``config.inputs``.
    tta : bool
        Average over the mirrorings (:func:`pipeline.predict.passes.passes`).
    watch : callable, optional
        Is shown each pass: its answer (regions, d1, d2, d3) float32, turned and mirrored back, which it must leave as
        it is, and the pass.
    before_cpu : callable, optional
        Called before a full card's work goes to the CPU; it may refuse by an exception.
    on_share : callable, optional
        Is told the share, 0 to 1, of the work that is done, after each batch of windows.

    Raises
    ------
    data.errors.SegmentationError
        The network's output is not finite.
    """
    ways = ways_to_run(device, config.window.batch)
    left: Sequence[Way] = ways
    free = free_card_bytes(device)
    total: torch.Tensor | None = None
    planned = passes(config, tta, image.shape[1:])
    for done, each in enumerate(planned):
        part = _part(on_share, done, len(planned))
        probability, left = _first_that_fits(config, network, image, device, left, each, before_cpu, part)
        room = free_card_bytes(probability.device)
        if room is not None and watch is not None and room < SPREAD_COPIES * probability.nbytes:
            probability = probability.cpu()
        if watch is not None:
            watch(probability[0], each)
        probability.mul_(each.weight)
        # After the card was full the later passes come back on the CPU.
        total = probability if total is None else total.to(probability.device).add_(probability)
    assert total is not None
    mean = (total.cpu() / planned[0].of)[0]
    if len(left) == len(ways):
        return mean, ()
    had = "" if free is None else f" ({free / 2**30:.2f} GiB free)"
    return mean, (f"the card's memory was too small{had}: {left[0]}",)


def _first_that_fits(
    config: RunConfig,
    network: nn.Module,
    image: torch.Tensor,
    device: torch.device,
    ways: Sequence[Way],
    each: Pass,
    before_cpu: Callable[[], object] | None,
    on_share: Callable[[float], None] | None,
) -> tuple[torch.Tensor, Sequence[Way]]:
    """Compute one pass in the first way that fits into memory.

    Returns its answer, and the ways from that one on: what did not fit one pass is not tried for the next.
    """
    seen = [image.shape[1 + axis] for axis in turning(each.across)]
    for number, way in enumerate(ways):
        if number > 0:
            # Outside of the except clause: its traceback would keep the tensors of the way that failed alive.
            log.info("the card's memory is full; trying again: %s", way)
            _release(network, device)
            if way.device.type == "cpu" and before_cpu is not None:
                before_cpu()
        try:
            with _counting(config, network, seen, way, on_share):
                return _one_pass(config, network, image, way, each), ways[number:]
        except (RuntimeError, MemoryError) as error:
            if number + 1 == len(ways) or not out_of_memory(error):
                raise
    raise AssertionError("there is at least one way")


def _part(on_share: Callable[[float], None] | None, done: int, of: int) -> Callable[[float], None] | None:
    return None if on_share is None else lambda share: on_share((done + share) / of)


@contextmanager
def _counting(
    config: RunConfig, network: nn.Module, shape: Sequence[int], way: Way, on_share: Callable[[float], None] | None
) -> Iterator[None]:
    """Report the share of a pass that is done, within the block.

    ``on_share`` is called after each call of the network.

    ``shape`` is that of the image as the network sees it, turned.
    """
    if on_share is None:
        yield
        return
    size, called = window_size(config, shape), 0
    steps = [
        1 if w == n else math.ceil((n - w) / (w * (1 - config.window.overlap))) + 1
        for w, n in zip(size, shape, strict=False)
    ]
    slices = 1 if len(size) == 3 else shape[2]
    calls = math.ceil(math.prod(steps) * slices / way.batch)  # fewer where windows are empty

    def count(*_: Any) -> None:
        nonlocal called
        called += 1
        on_share(min(called / calls, 1.0))

    handle = network.register_forward_hook(count)
    try:
        yield
    finally:
        handle.remove()
        on_share(1.0)


def _one_pass(config: RunConfig, network: nn.Module, image: torch.Tensor, way: Way, each: Pass) -> torch.Tensor:
    """Compute the probabilities of one pass (1, regions, d1, d2, d3).

    The image is turned and mirrored, and the answer is brought back, on ``way.stitch_on``.
    """
    network.to(way.device)
    batch = turned(image[None].to(way.stitch_on), each.across)
    batch = slices_as_channels(batch, config.window.context, config.window.context_step)
    back = turning_back(each.across)
    axes = [2 + back[axis] for axis in each.mirrored]
    batch = batch.flip(axes) if axes else batch
    logits = windows_of(config, network, batch, way)
    if not torch.isfinite(logits).all():
        raise SegmentationError(_not_finite(config, image, logits, way))
    probability = torch.sigmoid(logits.float())
    probability = probability.flip(axes) if axes else probability
    return turned_back(probability, each.across)


def _not_finite(config: RunConfig, image: torch.Tensor, logits: torch.Tensor, way: Way) -> str:
    wrong = logits.numel() - int(torch.isfinite(logits).sum())
    fix = "look for extreme intensities in the images, or choose another model"
    return (
        f"{config.name}: the network's output is not finite in {wrong} of {logits.numel()} values, from normalised "
        f"intensities of {float(image.min()):.4g} to {float(image.max()):.4g}; {fix}"
        + (", or --device cpu, which computes in float32" if way.device.type == "cuda" else "")
    )


def _release(network: nn.Module, device: torch.device) -> None:
    """Give back the memory of the way that failed.

    The next way and other processes can then have it.
    """
    network.to("cpu")
    if device.type == "cuda":
        torch.cuda.empty_cache()


def windows_of(config: RunConfig, network: nn.Module, image: torch.Tensor, way: Way) -> torch.Tensor:
    """Logits (1, regions, d1, d2, d3) of a (1, channels, d1, d2, d3) image.

    Where a window holds the whole image (2D: a whole slice) the network's answer is what there is; smaller windows
    overlap and are weighted by a Gaussian.
    """
    on_card, n_regions = way.device.type == "cuda", len(config.regions)
    ask, size = skipping_empty(network, n_regions), window_size(config, image.shape[2:])
    with torch.inference_mode(), torch.autocast(way.device.type, enabled=on_card):
        if size == tuple(image.shape[2:]):
            logits = ask(image.to(way.device)).to(way.stitch_on)
        elif size == tuple(image.shape[2:4]):
            logits = _slice_by_slice(network, image, n_regions, way)
        else:
            stitched = _inferer(config, size, way)(image, ask)
            assert isinstance(stitched, torch.Tensor)  # of one output, as the networks have in eval mode
            logits = stitched
    return logits


def _slice_by_slice(network: nn.Module, image: torch.Tensor, n_regions: int, way: Way) -> torch.Tensor:
    """Compute the logits (1, regions, d1, d2, d3) of whole slices.

    ``way.batch`` of those that are not empty go together.
    """
    slices = image[0].movedim(-1, 0)
    shape = (len(slices), n_regions, *slices.shape[2:])
    logits = image.new_full(shape, EMPTY_WINDOW_LOGIT)
    for part in slices.flatten(1).any(dim=1).nonzero()[:, 0].split(way.batch):
        logits[part] = network(slices[part].contiguous().to(way.device)).to(logits)
    return logits.movedim(0, -1)[None].contiguous()


def skipping_empty(network: nn.Module, n_regions: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Wrap the network so that windows of zeros alone are answered without it."""

    def ask(windows: torch.Tensor) -> torch.Tensor:
        full = windows.flatten(1).any(dim=1)
        if bool(full.all()):
            return network(windows)
        logits = windows.new_full((len(windows), n_regions, *windows.shape[2:]), EMPTY_WINDOW_LOGIT)
        if bool(full.any()):
            logits[full] = network(windows[full]).to(logits.dtype)
        return logits

    return ask


def with_window(config: RunConfig, window: str) -> RunConfig:
    """Return the configuration with windows as asked for.

    ``window`` is ``auto``, as the model says, or the side of a sliding one in voxels.

    Of a cascade both stages get them. Raises :class:`data.errors.UsageError` where it is neither.
    """
    if window == "auto":
        return config
    if not window.isdecimal() or not SMALLEST_WINDOW <= int(window) <= LARGEST_WINDOW:
        raise UsageError(
            f"--window {window}: give auto, or the side of a sliding window, "
            f"{SMALLEST_WINDOW} to {LARGEST_WINDOW} voxels"
        )
    if config.first is not None:
        first = config.first.model_copy(update={"recipe": with_window(config.first.recipe, window)})
        config = config.model_copy(update={"first": first})
    size = (int(window),) * config.network.spatial_dims
    return _changed(config, size=size, whole=False)


def sliding(config: RunConfig) -> RunConfig:
    """Return the configuration without the one window that holds everything."""
    return _changed(config, whole=False)


def _changed(config: RunConfig, **changes: Any) -> RunConfig:
    return config.model_copy(update={"window": config.window.model_copy(update=changes)})


def window_size(config: RunConfig, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the window's size, at most the image's (d1, d2, d3).

    The network pads by itself.
    """
    if config.window.whole:
        return tuple(shape[: config.network.spatial_dims])
    return tuple(min(w, n) for w, n in zip(config.window.size, shape, strict=False))


def _inferer(config: RunConfig, roi: tuple[int, ...], way: Way) -> SlidingWindowInferer:
    """MONAI's sliding windows."""
    options: dict[str, Any] = {
        "overlap": config.window.overlap,
        "mode": "gaussian",
        "device": way.stitch_on,
        "sw_device": way.device,
        "sw_batch_size": way.batch,
    }
    if len(roi) == 2:
        return SliceInferer(roi_size=roi, spatial_dim=2, **options)
    return SlidingWindowInferer(roi_size=roi, **options)
