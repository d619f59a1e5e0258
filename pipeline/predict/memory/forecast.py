"""Memory that a case takes, computed from headers alone, and memory that there is.

The formula follows the life of a case. Each phase holds arrays whose sizes follow from the headers and the model's
configuration; the peak is the largest phase. ``python -m bench.timings.memory`` measures it against real runs and
prints both; the constants below come from that command.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data.case import GRID_ORDER
from data.errors import InputError
from data.io.header import ImageHeader
from pipeline.predict.memory.machine import available_bytes, give_back, workers
from pipeline.predict.passes import passes
from transforms.planes import turning

if TYPE_CHECKING:  # torch takes seconds to import
    from data.grid import Grid
    from pipeline.config import RunConfig

FIXED_BYTES = 80 * 2**20
"""What the first case adds whatever its size: kernels of the CPU, small arrays."""
LIBRARY_BYTES = 128 * 2**20
"""What the first results add: libraries for pictures and tables."""
ACTIVATION_FACTOR = 1.3
"""Measured over counted bytes of a network's pass: scratch of the convolutions, gaps between freed blocks."""
HEADROOM = 1.1
"""On the arrays of the other phases: small temporaries that are not listed, gaps between freed blocks."""

FLOAT = 4
"""Bytes of a float32, the type of every image and probability here."""

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class ModelCost:
    """Memory that one model of a run takes, and the model's configuration.

    Parameters
    ----------
    activation_bytes : float
        Of one voxel of a window, see :func:`pipeline.predict.memory.network.activation_bytes_per_voxel`.
    first : ModelCost, optional
        Of a cascade, whose second network this is.
    """

    config: RunConfig
    activation_bytes: float
    first: ModelCost | None = None


def phases(
    headers: Mapping[str, ImageHeader],
    models: Sequence[ModelCost],
    *,
    tta: bool = False,
    on_card: bool = False,
    working: Shape | None = None,
    elsewhere: Sequence[Shape] = (),
) -> dict[str, int]:
    """Count the bytes of the arrays of each phase of a case.

    Parameters as for :func:`predicted_bytes`.

    With V voxels of the case's own grid, W of the working grid, C modalities, R regions and 4 bytes a float32:

    read        4 V for each modality, and the largest once more, as stored or as float32
    preprocess  the most of: modalities beside their stack, 8 C V; background 4 V and the stack beside its mask or its
                cropped copy, at most 8 C V; what resampling takes; one channel after the other normalised, 4 C W + 24 W
    network     background 4 V; image 4 C W, with neighbouring slices and the mirrored copy, turned 4 C W more; mean
                and spread of the members 12 R W; and either stitched logits 4 R W, their counts 4 W and the activations
                of one batch of windows, or 4 R W for each of three temporaries (seven where there is a spread)
    restore     background, the sums so far, and two arrays of 4 R V on the way to the own grid
    uncertainty probabilities and background 4 (R + 1) V, label map and masks (2 R + 1) V; of several members the spread
                beside its way back, 8 R V
    writing     the same without the spread; a file in the making 12 V
    elsewhere   with masks on N further grids of E voxels each: beside them (N E), the spread and what was made, the
                answers of all models (also during network and restore), 4 R W each, and of one grid 12 E + R E
    picture     the same with 4 R V for several members; the reference (R + 2) V and the libraries for pictures and
                tables

    Of a cascade both networks count, and the second as if its box were the whole of its working grid:

    preprocess  of the first network: the images that were read stay, 4 C V; of the second: beside the first's image
    network     of the first: beside the second's image; of the second: beside the first's answer on both grids, one
                more for each pass on the first's, one of those on the second's, and 8 R W for putting both together
    """
    native = next(headers[m] for m in (*GRID_ORDER, *headers) if m in headers).grid
    voxels, regions = math.prod(native.shape), len(models[0].config.regions)
    members = sum(len(passes(model.config, tta)) for model in models)
    result = dict.fromkeys(("read", "preprocess", "network", "restore"), 0)
    spread = answers = 0
    # What stays while a model is at work: the background, and the mean of the models.
    held = FLOAT * voxels * (1 + (regions if len(models) > 1 else 0))
    for model in models:
        here, spread = _of_one_model(model, headers, native, held, spread, members, tta, on_card, working)
        here["read"] += held if len(models) > 1 else 0
        answers += here.pop("answer")
        result |= {phase: max(result[phase], size) for phase, size in here.items()}
    made = voxels * (FLOAT * (regions + 1) + 2 * regions + 1)
    several = FLOAT * regions * voxels if members > 1 else 0
    result["uncertainty"] = made + 2 * several + spread
    result["writing"] = made + 2 * several + 12 * voxels
    result["picture"] = made + several + (regions + 2) * voxels + LIBRARY_BYTES
    if elsewhere:
        label_maps, largest = sum(map(math.prod, elsewhere)), max(map(math.prod, elsewhere))
        result["network"] += answers
        result["restore"] += answers
        result["elsewhere"] = made + spread + answers + label_maps + (3 * FLOAT + regions) * largest
        result |= {phase: result[phase] + label_maps for phase in ("uncertainty", "writing", "picture")}
    return result


def _of_one_model(
    model: ModelCost,
    headers: Mapping[str, ImageHeader],
    native: Grid,
    held: int,
    spread: int,
    members: int,
    tta: bool,
    on_card: bool,
    working: Shape | None,
) -> tuple[dict[str, int], int]:
    """Count the bytes of each phase of one model.

    Those of the spread so far are included.
    """
    from transforms.restore import grid_at_spacing

    config, regions = model.config, len(model.config.regions)
    along = native.reoriented(config.preprocess.orientation)
    target = grid_at_spacing(along, config.preprocess.spacing_mm)
    shape = working or target.shape
    of_model = {m: headers[m] for m in config.modalities if m in headers}
    if members > 1:  # the spread lies on the first model's grid
        spread = spread or int(regions * math.prod(shape) * (2 * FLOAT + math.ceil(members / 8)))
    before = None if model.first is None else _finding(model, headers, native, shape, tta, on_card, members)
    if before is not None and members > 1:  # where nothing is found, the members lie on the first network's grid
        spread = max(spread, before.spread)
    here = {
        "read": _reading(of_model),
        "preprocess": held + _preprocessing(config, of_model, native, along, target, shape),
        "network": held + spread + _inferring(model, shape, tta, on_card, members, whole=working is not None),
        "restore": held + spread + _resampling(regions, shape, along.shape),
        "answer": FLOAT * regions * math.prod(shape),
    }
    if before is not None:
        here["preprocess"] = max(here["preprocess"] + before.image, held + before.preprocess)
        here["network"] = max(here["network"] + before.answers, held + spread + before.network)
    return here, spread


@dataclass(frozen=True)
class _Finding:
    """Bytes of a cascade's first network.

    They are its image, its own steps, the answers that stay for the second network, and its members.
    """

    image: int
    preprocess: int
    network: int
    answers: int
    spread: int


def _finding(
    model: ModelCost,
    headers: Mapping[str, ImageHeader],
    native: Grid,
    fine: Shape,
    tta: bool,
    on_card: bool,
    members: int,
) -> _Finding:
    from transforms.restore import grid_at_spacing

    assert model.first is not None and model.config.first is not None  # the caller has looked
    tta = tta or model.config.first.mirrored
    config, regions = model.first.config, len(model.config.regions)
    of_first = {m: headers[m] for m in config.modalities if m in headers}
    along = native.reoriented(config.preprocess.orientation)
    target = grid_at_spacing(along, config.preprocess.spacing_mm)
    coarse = math.prod(target.shape)
    kept = sum(FLOAT * math.prod(h.grid.shape) for h in headers.values())
    image = FLOAT * len(config.modalities) * coarse
    theirs, on_fine = FLOAT * len(config.regions) * coarse, FLOAT * regions * math.prod(fine)
    kept_passes = len(passes(config, tta)) * theirs if members > 1 else 0
    second = FLOAT * len(model.config.modalities) * math.prod(fine)
    moved = _resampling(regions, target.shape, fine)
    put_together = max(2 * on_fine, moved - on_fine) + (on_fine if kept_passes else 0)
    return _Finding(
        image,
        kept + _preprocessing(config, of_first, native, along, target, target.shape) if of_first else 0,
        second
        + kept_passes
        + max(_inferring(model.first, target.shape, tta, on_card, members, whole=False), theirs + moved),
        image + second + theirs + kept_passes + on_fine + put_together,
        int(regions * coarse * (2 * FLOAT + math.ceil(members / 8))) if members > 1 else 0,
    )


def predicted_bytes(
    headers: Mapping[str, ImageHeader],
    models: Sequence[ModelCost],
    *,
    tta: bool = False,
    on_card: bool = False,
    working: Shape | None = None,
    elsewhere: Sequence[Shape] = (),
) -> int:
    """Predict the peak memory of segmenting one case.

    It is in bytes beyond the idle process with its models loaded.

    Parameters
    ----------
    headers : modality -> ImageHeader
        Of the images that the models read, at least one.
    models : sequence of ModelCost
    tta : bool
        Average over the mirrorings; several directions of slices are averaged in any case.
    on_card : bool
        The windows' work is in a card's memory, which is not counted.
    working : (d1, d2, d3), optional
        The working grid's shape once it is known. Before, it is that of the whole volume: how much of it the head
        leaves empty stands in no header. A window that is to hold the whole grid counts only then: it is taken where
        this fits, and is a sliding one elsewhere (:func:`one_window_bytes`).
    elsewhere : sequence of (n1, n2, n3)
        Shapes of further grids on which the mask shall lie.
    """
    found = phases(headers, models, tta=tta, on_card=on_card, working=working, elsewhere=elsewhere)
    largest = max(found.values())
    return int(HEADROOM * largest) + FIXED_BYTES


def _reading(headers: Mapping[str, ImageHeader]) -> int:
    sizes = [(math.prod(h.grid.shape), np.dtype(h.dtype).itemsize) for h in headers.values()]
    return sum(FLOAT * voxels for voxels, _ in sizes) + max(voxels * max(FLOAT, stored) for voxels, stored in sizes)


def _preprocessing(
    config: RunConfig, headers: Mapping[str, ImageHeader], native: Grid, along: Grid, target: Grid, working: Shape
) -> int:
    channels, voxels = len(config.modalities), math.prod(native.shape)
    read = sum(FLOAT * math.prod(h.grid.shape) for h in headers.values())
    sizes = [2 * FLOAT * channels * voxels]  # stacking, cropping and turning
    for header in headers.values():
        if not header.grid.matches(native):  # this one may be turned and resampled, the ones before it are so already
            sizes.append(max(read, FLOAT * channels * voxels) + 3 * FLOAT * max(math.prod(header.grid.shape), voxels))
    if config.preprocess.bias_correction or config.preprocess.denoise:
        sizes.append(read + 40 * voxels)  # one image at a time, in SimpleITK's copies and in float64
    if config.preprocess.blank_air:  # the blanked copy, masks, numbered pieces and their count
        sizes.append(2 * FLOAT * channels * voxels + 24 * voxels)
    if along.shape != target.shape:
        sizes.append(_resampling(channels, along.shape, target.shape))
    sizes.append(FLOAT * (channels + 6) * math.prod(working))  # normalising one channel after the other
    return max(sizes)


def _resampling(channels: int, source: Shape, target: Shape) -> int:
    """Count the bytes of resampling axis by axis.

    They are the source, and the largest two neighbours among the results of the axes, or the last result beside its
    padded copy.
    """
    steps = [math.prod((*target[:axis], *source[axis:])) for axis in range(4)]
    between = max(steps[1], steps[1] + steps[2], steps[2] + steps[3], 2 * steps[3])
    return FLOAT * channels * (steps[0] + between)


def one_window_bytes(model: ModelCost, working: Shape, *, tta: bool = False, members: int = 1) -> int:
    """Predict the bytes of a pass in which one window holds the working grid.

    The image that is already there is not counted.
    """
    taken = _inferring(model, working, tta, False, members, whole=True)
    return int(HEADROOM * taken) - FLOAT * len(model.config.inputs) * math.prod(working)


def _inferring(model: ModelCost, working: Shape, tta: bool, on_card: bool, members: int, whole: bool) -> int:
    config, voxels = model.config, math.prod(working)
    image, maps = FLOAT * len(config.inputs) * voxels, FLOAT * len(config.regions) * voxels
    total = maps if tta or len(config.slice_axes) > 1 else 0
    temporaries = (7 if members > 1 else 3) * maps
    if on_card:
        return image + total + temporaries
    turned = image if config.slice_axes != (2,) else 0
    slices = 2 * config.window.context + 1
    inputs = image * slices * 2 if slices > 1 else image * tta  # the stack beside its parts or its mirrored copy
    stitched = maps + FLOAT * voxels
    batch = max(_batch_bytes(model, [working[axis] for axis in turning(a)], whole) for a in config.slice_axes)
    return image + turned + inputs + total + max(stitched + batch, temporaries)


def _batch_bytes(model: ModelCost, seen: Sequence[int], whole: bool) -> int:
    """Windows that go through the network together: their activations and their weighted answers.

    ``seen`` is the working grid's shape as the network sees it, turned.
    """
    config = model.config
    whole = whole and config.window.whole
    window = [n if whole else min(w, n) for w, n in zip(config.window.size, seen, strict=False)]
    halved = 2 ** (len(config.network.channels) - 1)
    padded = math.prod(-(-n // halved) * halved for n in window)
    answers = 2 * FLOAT * len(config.regions) * math.prod(window)
    return int(config.window.batch * (padded * model.activation_bytes * ACTIVATION_FACTOR + answers))


def gib(size: int) -> str:
    """Bytes for a sentence: ``"1.3 GiB"``, with two digits below 1 GiB."""
    return f"{size / 2**30:.{1 if size >= 2**30 else 2}f} GiB"


def too_large(case: str, needed: int, available: int | None) -> InputError:
    """Return the error that refuses a case, with its numbers."""
    each = f" (one of {workers()} processes)" if workers() > 1 else ""
    there = "more than there is" if available is None else f"and {gib(available)} are left for this process{each}"
    return InputError(
        f"{case}: segmenting it takes about {gib(needed)} of memory, {there}; "
        f"{'use fewer processes, ' if workers() > 1 else ''}free memory, take a machine with more, "
        "or resample the images to fewer voxels"
    )


def has_room(needed: int) -> bool:
    """Tell whether so many bytes can be taken.

    Memory that this process holds unused is given back before the answer is no.
    """
    available = available_bytes()
    if available is not None and needed > available and give_back():
        available = available_bytes()
    return available is None or needed <= available


def require_room(case: str, needed: int) -> None:
    """Refuse a case that would not fit, before it is read. Raises :class:`data.errors.InputError` with both numbers."""
    if not has_room(needed):
        raise too_large(case, needed, available_bytes())
