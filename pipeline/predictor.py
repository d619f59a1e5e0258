"""One deep call: ``Predictor(models, device)(case)`` gives the segmentation on the case's own grid."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers import SliceInferer, SlidingWindowInferer
from monai.transforms import Compose
from numpy.typing import NDArray
from torch import nn

from data.case import Case
from data.errors import InputError, SegmentationError, UsageError
from data.grid import Grid
from data.io import MAX_VOXELS, ImageHeader
from data.labels import LabelConvention, load_convention
from pipeline.checkpoint import Checkpoint, open_checkpoint, require_same_regions
from pipeline.config import RunConfig
from pipeline.device import choose_device
from pipeline.uncertainty import MemberSpread
from transforms.augment import slices_as_channels
from transforms.postprocess import to_masks
from transforms.preprocess import grid_of, preprocess_chain, run_chain
from transforms.restore import restore
from transforms.watershed import refine_by_watershed

log = logging.getLogger(__name__)

EMPTY_WINDOW_LOGIT = -20.0
"""The answer for a window that holds no voxel of the brain, without asking the network."""


@dataclass(frozen=True)
class Segmentation:
    """The result for one case, all arrays on the case's own grid.

    Attributes
    ----------
    label_map : (d1, d2, d3) uint8
        In ``convention``.
    masks : region -> (d1, d2, d3) bool
        As they come back from the label map, so that what is reported is what was written.
    probabilities : region -> (d1, d2, d3) float32 in [0, 1]
    native : ImageHeader
        Of the modality that gives the grid; the writers copy its geometry.
    background : (d1, d2, d3) float32
        FLAIR where there is one, else the reference modality, for pictures.
    warnings : tuple of str
        What was repaired, resampled or is doubtful about the input.
    seconds : stage -> float
        Wall-clock time of read, preprocess, network, restore.
    uncertainty : region -> (d1, d2, d3) float32 in [0, 0.5], or None
        Standard deviation of the probability over the members, every model in every mirrored pass; None for one member.
    disagreement : region -> float in [0, 1], or None
        1 - mean Dice of the members' masks with the mask of their mean, before post-processing; None for one member.
    """

    label_map: NDArray[np.uint8]
    masks: Mapping[str, NDArray[np.bool_]]
    probabilities: Mapping[str, NDArray[np.float32]]
    native: ImageHeader
    background: NDArray[np.float32]
    convention: str
    warnings: tuple[str, ...]
    seconds: Mapping[str, float]
    uncertainty: Mapping[str, NDArray[np.float32]] | None = None
    disagreement: Mapping[str, float] | None = None


def region_parents(convention: LabelConvention, regions: Sequence[str]) -> dict[str, str | None]:
    """For each region the smallest other one that contains it."""
    parents: dict[str, str | None] = {}
    for region in regions:
        around = [r for r in regions if convention.regions[r] > convention.regions[region]]
        parents[region] = min(around, key=lambda r: len(convention.regions[r])) if around else None
    return parents


def region_masks(
    config: RunConfig,
    probabilities: Mapping[str, NDArray[np.float32]],
    grid: Grid,
    flair: NDArray[np.float32] | None,
) -> dict[str, NDArray[np.bool_]]:
    """Post-process the probabilities of one case, all arrays (d1, d2, d3) on its own grid.

    With ``config.postprocess.watershed`` the border of WT is drawn on the edges of ``flair``, before nesting and
    components. The regions within it only follow by nesting: their borders show in T1c, which does not come along.
    Where the case has no FLAIR, WT is thresholded; where the voxel size is unknown, the edges' scale is in voxels.
    """
    drawn = {}
    if config.postprocess.watershed and flair is not None and "WT" in probabilities:
        spacing = grid.spacing_mm if grid.spacing_known else (1.0, 1.0, 1.0)
        drawn["WT"] = refine_by_watershed(probabilities["WT"], flair, spacing, threshold=config.postprocess.threshold)
    return to_masks(
        probabilities,
        region_parents(load_convention(config.convention), config.regions),
        grid.voxel_volume_ml if grid.spacing_known else float("nan"),
        **config.postprocess.model_dump(exclude={"watershed"}),
        drawn=drawn,
    )


class Predictor:
    """Segments cases with one model, or with the average of several.

    Parameters
    ----------
    models : one or several of Checkpoint, shipped name, or path
        Several must agree on the regions; their probabilities are averaged.
    device : str
        See :func:`choose_device`.
    tta : bool
        Average over all mirrorings of the input that the model was trained with (3D: up to 8 passes, 2D: up to 4).
    zero_missing : bool
        Replace a missing modality by zeros; only for models that were trained for it.
    max_voxels : int
        Larger volumes are refused from their header.

    Raises
    ------
    data.errors.CheckpointError
        A model is missing, damaged, or does not agree with the others on the regions.
    """

    def __init__(
        self,
        models: Checkpoint | str | Path | Sequence[Checkpoint | str | Path],
        device: str = "auto",
        *,
        tta: bool = False,
        zero_missing: bool = False,
        max_voxels: int = MAX_VOXELS,
    ) -> None:
        listed = [models] if isinstance(models, Checkpoint | str | Path) else list(models)
        if not listed:
            raise UsageError("no model was given; name at least one")
        self.checkpoints = [m if isinstance(m, Checkpoint) else open_checkpoint(m) for m in listed]
        self.configs: list[RunConfig] = [checkpoint.config for checkpoint in self.checkpoints]
        require_same_regions(self.checkpoints)
        self.regions = self.configs[0].regions
        self.modalities = tuple(dict.fromkeys(m for config in self.configs for m in config.modalities))
        self.device = choose_device(device)
        self.tta, self.zero_missing = tta, zero_missing
        self.networks = [checkpoint.build().to(self.device) for checkpoint in self.checkpoints]
        self.chains = [
            preprocess_chain(
                config.modalities, **config.preprocess.model_dump(), zero_missing=zero_missing, max_voxels=max_voxels
            )
            for config in self.configs
        ]

    @property
    def name(self) -> str:
        """Names of the models, joined by ``+``."""
        return "+".join(checkpoint.name for checkpoint in self.checkpoints)

    def __call__(self, case: Case, convention: str | None = None) -> Segmentation:
        """Segment one case.

        Parameters
        ----------
        convention : str, optional
            Label convention of the label map; the model's own by default.

        Raises
        ------
        data.errors.InputError
            A file cannot be used; the text names it, the value and the fix.
        data.errors.SegmentationError
            The network's output is not finite.
        """
        self._check_modalities(case)
        seconds: dict[str, float] = {}
        spread = self._spread()
        mean: dict[str, NDArray[np.float32]] = {}
        warnings: list[str] = []
        native: ImageHeader | None = None
        background: NDArray[np.float32] | None = None
        for config, network, chain in zip(self.configs, self.networks, self.chains, strict=True):
            prepared = self._prepare(chain, {m: case.images[m] for m in config.modalities if m in case.images}, seconds)
            # Grids of the models' references may differ; the first model's decides.
            native = native or prepared["native"]
            background = prepared["background"] if background is None else background
            warnings += prepared["warnings"]
            with _timed(seconds, "network"):
                working = grid_of(prepared["image"])
                watch = None if spread is None else partial(self._add_member, spread, config, working)
                probabilities = self._infer(config, network, prepared["image"].as_tensor(), watch)
            with _timed(seconds, "restore"):
                back = restore(probabilities, working, native.grid).numpy()
                for region in self.regions:
                    share = back[config.regions.index(region)] / np.float32(len(self.networks))
                    mean[region] = mean[region] + share if region in mean else share
        assert native is not None and background is not None  # there is at least one model
        with _timed(seconds, "restore"):
            # The background is FLAIR where the first model reads one.
            flair = background if "flair" in case.images and "flair" in self.configs[0].modalities else None
            if self.configs[0].postprocess.watershed and flair is None:
                warnings.append("no FLAIR image, so that the border of the whole tumour was not refined by watershed")
            label_map, masks, written = self._to_labels(mean, native, flair, convention)
            uncertainty, disagreement = self._disagreeing(spread, native.grid)
        return Segmentation(
            label_map,
            masks,
            mean,
            native,
            background,
            written,
            tuple(dict.fromkeys(warnings)),
            seconds,
            uncertainty,
            disagreement,
        )

    def _check_modalities(self, case: Case) -> None:
        missing = [m for m in self.modalities if m not in case.images]
        untrained = [
            c.name for c, config in zip(self.checkpoints, self.configs, strict=True) if not config.missing_modalities
        ]
        if not missing or (self.zero_missing and not untrained and len(missing) < len(self.modalities)):
            return
        lack = f"{case.folder.name}: no {', '.join(missing)} image, and {self.name} needs {', '.join(self.modalities)}"
        if self.zero_missing and untrained:
            raise InputError(
                f"{lack}; {', '.join(untrained)} was not trained for missing modalities: "
                "add the file or choose another model"
            )
        raise InputError(f"{lack}; add the file, choose --missing skip, or name another model")

    @staticmethod
    def _prepare(chain: Compose, images: Mapping[str, Any], seconds: dict[str, float]) -> dict[str, Any]:
        with _timed(seconds, "read"):
            loaded = run_chain(Compose(chain.transforms[:1]), images)
        with _timed(seconds, "preprocess"):
            return run_chain(Compose(chain.transforms[1:]), loaded)

    def _to_labels(
        self,
        probabilities: Mapping[str, NDArray[np.float32]],
        native: ImageHeader,
        flair: NDArray[np.float32] | None,
        convention: str | None,
    ) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.bool_]], str]:
        config = self.configs[0]
        own = load_convention(config.convention)
        masks = region_masks(config, probabilities, native.grid, flair)
        written = load_convention(convention) if convention else own
        kept = [r for r in self.regions if r in written.regions]
        if not kept:
            raise InputError(
                f"the convention {written.name} has none of the regions {', '.join(self.regions)} of {self.name}; "
                "choose another with --convention"
            )
        label_map = written.to_label_map({r: masks[r] for r in kept})
        back = written.region_masks(label_map, kept)
        return label_map, {r: back.get(r, masks[r]) for r in self.regions}, written.name

    def _mirrorings(self, config: RunConfig) -> list[tuple[int, ...]]:
        """The axes of a (1, channels, d1, d2, d3) image that each pass mirrors; the first pass mirrors none."""
        spatial = [2 + axis for axis in sorted(set(config.augment.flip_axes)) if axis < config.network.spatial_dims]
        return [axes for n in range(len(spatial) + 1) for axes in combinations(spatial, n)] if self.tta else [()]

    def _spread(self) -> MemberSpread | None:
        """What gathers the members; None where there is only one."""
        n_members = sum(len(self._mirrorings(config)) for config in self.configs)
        return MemberSpread(self.configs[0].postprocess.threshold) if n_members > 1 else None

    def _add_member(self, spread: MemberSpread, config: RunConfig, working: Grid, probability: torch.Tensor) -> None:
        """One pass, (regions of ``config``, d1, d2, d3) on ``working``; as in the mean, each model has the same weight."""
        if config.regions != self.regions:
            probability = probability[[config.regions.index(region) for region in self.regions]]
        spread.add(probability, working, 1 / len(self._mirrorings(config)))

    def _disagreeing(
        self, spread: MemberSpread | None, native: Grid
    ) -> tuple[dict[str, NDArray[np.float32]] | None, dict[str, float] | None]:
        if spread is None or spread.grid is None:
            return None, None
        maps = restore(spread.standard_deviation().cpu(), spread.grid, native).numpy()
        return (
            dict(zip(self.regions, maps, strict=True)),
            dict(zip(self.regions, spread.disagreement(), strict=True)),
        )

    def _infer(
        self,
        config: RunConfig,
        network: nn.Module,
        image: torch.Tensor,
        watch: Callable[[torch.Tensor], None] | None = None,
    ) -> torch.Tensor:
        """Probabilities (regions, d1, d2, d3) float32 on the CPU, of one normalised image on the working grid.

        ``watch`` is shown each pass, (regions, d1, d2, d3), mirrored back; it must leave it as it is.
        """
        image = slices_as_channels(image[None].to(self.device), config.window.context)
        mirrorings = self._mirrorings(config)
        total: torch.Tensor | None = None
        for axes in mirrorings:
            logits = self._windows(config, network, image.flip(axes) if axes else image)
            if not torch.isfinite(logits).all():
                raise SegmentationError(
                    f"{self.name}: the network's output is not finite; the model or the image is damaged"
                )
            probability = torch.sigmoid(logits.float())
            probability = probability.flip(axes) if axes else probability
            if watch is not None:
                watch(probability[0])
            # After the card was full the later passes come back on the CPU.
            total = probability if total is None else total.to(probability.device).add_(probability)
        assert total is not None
        return (total / len(mirrorings))[0].cpu()

    def _windows(self, config: RunConfig, network: nn.Module, image: torch.Tensor) -> torch.Tensor:
        """Gaussian-weighted windows over (1, modalities, d1, d2, d3); a full card: stitch on the CPU, then singly."""
        ask = self._skipping_empty(network, len(config.regions))
        attempts = [(self.device, config.window.batch)]
        if self.device.type == "cuda":
            attempts += [(torch.device("cpu"), config.window.batch), (torch.device("cpu"), 1)]
        for number, (stitch_on, batch) in enumerate(attempts):
            try:
                with torch.inference_mode(), torch.autocast(self.device.type, enabled=self.device.type == "cuda"):
                    logits = _inferer(config, image.shape[2:], batch, stitch_on)(image, ask)
                assert isinstance(logits, torch.Tensor)  # of one output, as the networks have in eval mode
                return logits
            except torch.cuda.OutOfMemoryError:
                if number + 1 == len(attempts):
                    raise
                log.warning("the card's memory is full; stitching on the CPU")
                torch.cuda.empty_cache()
        raise AssertionError("unreachable")

    @staticmethod
    def _skipping_empty(network: nn.Module, n_regions: int) -> Callable[[torch.Tensor], torch.Tensor]:
        def ask(windows: torch.Tensor) -> torch.Tensor:
            full = windows.flatten(1).any(dim=1)
            if bool(full.all()):
                return network(windows)
            logits = windows.new_full((len(windows), n_regions, *windows.shape[2:]), EMPTY_WINDOW_LOGIT)
            if bool(full.any()):
                logits[full] = network(windows[full]).to(logits.dtype)
            return logits

        return ask


def _inferer(config: RunConfig, shape: Sequence[int], batch: int, stitch_on: torch.device) -> SlidingWindowInferer:
    """MONAI's sliding windows; a window never exceeds the image, since the network pads by itself."""
    window = config.window
    options: dict[str, Any] = {
        "overlap": window.overlap,
        "mode": "gaussian",
        "device": stitch_on,
        "sw_batch_size": batch,
    }
    roi = tuple(min(w, n) for w, n in zip(window.size, shape, strict=False))
    if len(roi) == 2:
        return SliceInferer(roi_size=roi, spatial_dim=2, **options)
    return SlidingWindowInferer(roi_size=roi, **options)


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start
