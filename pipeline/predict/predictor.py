"""One deep call: ``Predictor(models, device)(case)`` gives the segmentation on the case's own grid."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from numpy.typing import NDArray
from torch import nn

from data.case import Case
from data.errors import InputError, Mend, UsageError, advise
from data.grid import Grid
from data.io.read import MAX_VOXELS, ImageHeader, Volume, read_header, read_volumes
from data.labels import load_convention
from networks import stages_of
from pipeline.checkpoint import Checkpoint, open_checkpoint, require_same_regions
from pipeline.config import RunConfig
from pipeline.predict.cascade import blend_into, blend_weights, second_input, tumour_box
from pipeline.predict.device import choose_device, free_card_bytes, out_of_memory
from pipeline.predict.engines import Runner, prepare, prune
from pipeline.predict.memory.forecast import (
    ModelCost,
    gib,
    has_room,
    one_window_bytes,
    predicted_bytes,
    require_room,
    too_large,
)
from pipeline.predict.memory.machine import available_bytes
from pipeline.predict.memory.network import activation_bytes_per_voxel
from pipeline.predict.passes import Pass, passes
from pipeline.predict.region_masks import region_masks, region_parents, to_labels
from pipeline.predict.uncertainty import MemberSpread
from pipeline.predict.windows import infer, sliding, with_window
from transforms.preprocess import grid_of, preprocess_chain, run_chain
from transforms.restore import resample_to, restore

__all__ = ["Predictor", "Segmentation", "region_masks", "region_parents"]

log = logging.getLogger(__name__)

OnStage = Callable[[str, float], None]
"""Called with a stage (a key of :attr:`Segmentation.seconds`) as it begins, and with the share, 0 to 1, of it that is done."""


@dataclass(frozen=True)
class Segmentation:
    """Result for one case, all arrays on the case's own grid.

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
        Standard deviation of the probability over the members, every model in every pass (direction of slices, mirroring);
        None for one member.
    disagreement : region -> float in [0, 1], or None
        1 - mean Dice of the members' masks with the mask of their mean, before post-processing; None for one member.
    remarks : tuple of str
        What was done to get a result that is right all the same, such as about a card whose memory was full.
    engine : str
        What ran the networks, see :mod:`pipeline.predict.engines`; of several models joined by ``+``.
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
    remarks: tuple[str, ...] = ()
    engine: str = "torch"


@dataclass(frozen=True)
class _Stage:
    """Network of a model with its settings, engine, preprocessing, memory cost and mirroring."""

    config: RunConfig
    runner: Runner
    chain: Compose
    cost: ModelCost
    tta: bool


class Predictor:
    """Segments cases with one model, or with the average of several.

    Parameters
    ----------
    models : one or several of Checkpoint, shipped name, or path
        Several must agree on the regions; their probabilities are averaged. Any of them may be a cascade.
    device : str
        See :func:`choose_device`.
    tta : bool
        Average over all mirrorings of the input that the model was trained with (3D: up to 8 passes, 2D: up to 4 for each
        direction of its slices).
    zero_missing : bool
        Replace a missing modality by zeros; only for models that were trained for it.
    max_voxels : int
        Larger volumes are refused from their header.
    engine : str
        ``auto``, or a key of :data:`pipeline.predict.engines.ENGINES`.
    window : str
        ``auto``, as the model says, or the side of a sliding window in voxels.
    level : int, optional
        Of a UNet++: the depth at which it is cut. The whole network by default.

    Raises
    ------
    data.errors.UsageError
        An option that the machine or a model does not have.
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
        engine: str = "auto",
        window: str = "auto",
        level: int | None = None,
    ) -> None:
        listed = [models] if isinstance(models, Checkpoint | str | Path) else list(models)
        if not listed:
            raise UsageError("no model was given; name at least one")
        self.checkpoints = [m if isinstance(m, Checkpoint) else open_checkpoint(m) for m in listed]
        require_same_regions(self.checkpoints)
        self.device = choose_device(device)
        self.tta, self.zero_missing = tta, zero_missing
        self.max_voxels = max_voxels
        # Settings and window first: an option that cannot be is said before anything is loaded.
        settings = [with_window(checkpoint.config, window) for checkpoint in self.checkpoints]
        whole = [prune(checkpoint.build(), level, checkpoint.name) for checkpoint in self.checkpoints]
        self.models = [self._stages(*model, engine) for model in zip(self.checkpoints, settings, whole, strict=True)]
        self.several = sum(len(model) for model in self.models) > 1
        self.configs = [model[-1].config for model in self.models]
        self.networks = [model[-1].runner.network for model in self.models]
        self.costs = [model[-1].cost for model in self.models]
        self.regions = self.configs[0].regions
        self.modalities = tuple(dict.fromkeys(m for config in self.configs for m in config.modalities))
        self._to_device()

    def _stages(
        self, checkpoint: Checkpoint, settings: RunConfig, network: nn.Module, engine: str
    ) -> tuple[_Stage, ...]:
        """Prepare the networks of one model, in the order in which they run."""
        stages: list[_Stage] = []
        for config, plain in zip(settings.stages, stages_of(network), strict=True):
            first = stages[0].cost if stages else None
            cost = ModelCost(config, activation_bytes_per_voxel(plain, config), first)
            chain = preprocess_chain(
                config.modalities,
                **config.preprocess.model_dump(),
                zero_missing=self.zero_missing,
                max_voxels=self.max_voxels,
            )
            runner = prepare(engine, plain, checkpoint, self.device, config)
            first_of = settings.first if config is not settings else None
            tta = self.tta or (first_of is not None and first_of.mirrored)
            stages.append(_Stage(config, runner, chain, cost, tta))
        return tuple(stages)

    def _to_device(self) -> None:
        try:
            for model in self.models:
                for stage in model:
                    stage.runner.network.to(self.device)
        except RuntimeError as error:  # a full card: each case tries again, and says what it did instead
            if not out_of_memory(error):
                raise
            log.info("the card has no room for the model now")

    @property
    def name(self) -> str:
        """Names of the models, joined by ``+``."""
        return "+".join(checkpoint.name for checkpoint in self.checkpoints)

    def __call__(
        self,
        case: Case,
        convention: str | None = None,
        *,
        volumes: dict[str, Volume] | None = None,
        on_stage: OnStage | None = None,
    ) -> Segmentation:
        """Segment one case.

        Parameters
        ----------
        convention : str, optional
            Label convention of the label map; the model's own by default.
        volumes : dict of modality to Volume, optional
            Images of the case that have been read (:func:`data.io.read.read_volumes`); taken out of it. The others are read.
        on_stage : callable, optional
            Called in this thread before anything of a stage is allocated; it may wait, which is not counted as work.

        Raises
        ------
        data.errors.InputError
            A file cannot be used, or the case takes more memory than there is; the text names it, the value and the fix.
        data.errors.SegmentationError
            The network's output is not finite.
        """
        self._check_modalities(case)
        needed = self.predicted_bytes(case)
        require_room(str(case.folder), needed)
        try:
            return self._segment(case, convention, {} if volumes is None else volumes, _Clock(on_stage))
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            log.debug("out of memory in case %r", case.case_id, exc_info=True)
            raise too_large(str(case.folder), needed, available_bytes()) from error

    def predicted_bytes(self, case: Case, *, on_card: bool | None = None) -> int:
        """Predict the peak memory of segmenting a case with all modalities.

        It is in bytes beyond this process as it is; no voxel is read.

        See :func:`pipeline.predict.memory.forecast.predicted_bytes`; ``on_card`` is by default whether the predictor's device is one.
        """
        headers = {
            m: read_header(case.images[m], max_voxels=self.max_voxels) for m in self.modalities if m in case.images
        }
        on_card = self.device.type == "cuda" if on_card is None else on_card
        return predicted_bytes(headers, self.costs, tta=self.tta, on_card=on_card)

    def _segment(self, case: Case, convention: str | None, volumes: dict[str, Volume], clock: _Clock) -> Segmentation:
        spread = self._spread()
        mean: dict[str, NDArray[np.float32]] = {}
        warnings: list[str] = []
        remarks: list[str] = []
        native: ImageHeader | None = None
        background: NDArray[np.float32] | None = None
        for model in self.models:
            prepared = self._prepare(model, case, volumes, clock)
            # Grids of the models' references may differ; the first model's decides.
            native = native or prepared[-1]["native"]
            background = prepared[-1]["background"] if background is None else background
            warnings += [sentence for stage in prepared for sentence in stage["warnings"]]
            with clock.stage("network"):
                images = [stage.pop("image") for stage in prepared]
                probabilities, working, handled = self._infer(model, images, spread, case, clock)
                remarks += handled
            with clock.stage("restore"):
                self._add_to_mean(mean, model[-1].config, restore(probabilities, working, native.grid))
        assert native is not None and background is not None  # there is at least one model
        warnings += self._doubts(native)
        with clock.stage("restore"):
            # The background is FLAIR where the first model reads one.
            flair = background if "flair" in case.images and "flair" in self.configs[0].modalities else None
            if self.configs[0].postprocess.watershed and flair is None:
                warnings.append("no FLAIR image, so that the border of the whole tumour was not refined by watershed")
            label_map, masks, written = to_labels(self.configs[0], self.name, mean, native.grid, flair, convention)
            if lost := [region for region in mean if region not in load_convention(written).regions]:
                fault = (
                    f"the label convention {written} has no label for {', '.join(lost)}: measured, but not in the mask"
                )
                warnings.append(advise(fault, Mend.WRITE_ANOTHER_CONVENTION))
            uncertainty, disagreement = self._disagreeing(spread, native.grid)
        said, done = tuple(dict.fromkeys(warnings)), tuple(dict.fromkeys(remarks))
        engine = "+".join("/".join(dict.fromkeys(s.runner.running for s in model)) for model in self.models)
        return Segmentation(
            label_map,
            masks,
            mean,
            native,
            background,
            written,
            said,
            clock.seconds,
            uncertainty,
            disagreement,
            done,
            engine,
        )

    def _infer(
        self, model: Sequence[_Stage], images: list[MetaTensor], spread: MemberSpread | None, case: Case, clock: _Clock
    ) -> tuple[torch.Tensor, Grid, list[str]]:
        """Run the networks of one model.

        Returns the probabilities of its regions, the grid on which they lie, and remarks about memory.
        """
        if len(model) > 1:
            return self._cascade(model, images, spread, case, clock)
        (stage,), working = model, grid_of(images[0])
        watch = None
        if spread is not None:
            watch = partial(self._add_member, spread, stage.config, working)
        probabilities, said = self._run(stage, images.pop().as_tensor(), case, watch, clock.share)
        return probabilities, working, said

    def _cascade(
        self, model: Sequence[_Stage], images: list[MetaTensor], spread: MemberSpread | None, case: Case, clock: _Clock
    ) -> tuple[torch.Tensor, Grid, list[str]]:
        """Run both networks of a cascade; see :mod:`pipeline.predict.cascade`.

        Returns the same as `_infer`.

        A member is one pass of the second stage, put into the same pass of the first.
        """
        (first, second), (small, image) = model, images
        settings, coarse, working = second.config.first, grid_of(small), grid_of(image)
        assert settings is not None  # there are two stages
        order = [first.config.regions.index(region) for region in second.config.regions]
        members: dict[Pass, torch.Tensor] = {}
        # What is shown is added up in place afterwards.
        keep = None if spread is None else (lambda shown, each: members.update({each: shown[order].cpu()}))
        found, said = self._run(first, small.as_tensor(), case, keep, lambda share: clock.share(share / 2))
        found = found[order]
        base = resample_to(found, coarse, working)
        box = tumour_box(base, working.spacing_mm, settings, second.config.seen_axes)
        if box is None:
            if spread is not None:
                for each, shown in members.items():
                    self._add_member(spread, second.config, coarse, shown, each)
            return found, coarse, said
        fed = base[[second.config.regions.index(region) for region in settings.regions]]
        weight = blend_weights(box, working.shape, working.spacing_mm, settings)
        watch = None
        if spread is not None:
            around = {(each.across, each.mirrored): shown for each, shown in members.items()}
            add = partial(self._add_member, spread, second.config, working)

            def watch(shown: torch.Tensor, each: Pass) -> None:
                same = around.get((each.across, each.mirrored))
                member = base.clone() if same is None else resample_to(same, coarse, working)
                add(blend_into(member, shown.cpu(), box, weight), each)

        answer, more = self._run(
            second,
            second_input(image.as_tensor(), fed, box),
            case,
            watch,
            lambda share: clock.share((1 + share) / 2),
        )
        return blend_into(base, answer, box, weight), working, [*said, *more]

    def _run(
        self,
        stage: _Stage,
        image: torch.Tensor,
        case: Case,
        watch: Callable[[torch.Tensor, Pass], None] | None,
        on_share: Callable[[float], None],
    ) -> tuple[torch.Tensor, list[str]]:
        """Run one network.

        Returns its probabilities (regions, d1, d2, d3), and remarks about memory.
        """
        windowed, slid = self._fitting_window(stage, tuple(image.shape[1:]))
        probabilities, fitted = infer(
            windowed,
            stage.runner.network,
            image,
            self.device,
            tta=stage.tta,
            watch=watch,
            before_cpu=lambda: require_room(str(case.folder), self.predicted_bytes(case, on_card=False)),
            on_share=on_share,
        )
        said = [*slid, *fitted, *stage.runner.remarks()]
        if self.several:  # a single one uses again what it has, which is quicker and takes less
            stage.runner.release()
        return probabilities, said

    def _fitting_window(self, stage: _Stage, shape: tuple[int, ...]) -> tuple[RunConfig, tuple[str, ...]]:
        """Choose sliding windows where one that holds the image would not fit.

        Returns the network's configuration, and remarks.
        """
        config = stage.config
        if not config.window.whole:
            return config, ()
        needed = one_window_bytes(stage.cost, (shape[0], shape[1], shape[2]), tta=stage.tta, members=self._n_members())
        on_card = free_card_bytes(self.device)
        if has_room(needed) if on_card is None else needed <= on_card:
            return config, ()
        free = available_bytes() if on_card is None else on_card
        whole, side = ("x".join(map(str, sides)) for sides in (shape, config.window.size))
        return sliding(config), (
            f"one window of {whole} voxels takes about {gib(needed)}, and {gib(free or 0)} are free: "
            f"ran in sliding windows of {side}",
        )

    def _n_members(self) -> int:
        return sum(len(passes(config, self.tta)) for config in self.configs)

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
        zeros = not untrained and len(missing) < len(self.modalities)
        raise InputError(lack, Mend.ADD_IMAGE_OR_TAKE_ZEROS if zeros else Mend.ADD_IMAGE)

    def _prepare(
        self, model: Sequence[_Stage], case: Case, volumes: dict[str, Volume], clock: _Clock
    ) -> list[dict[str, Any]]:
        """Preprocess a case for each network; the files are read once for all."""
        present = [m for m in model[-1].config.modalities if m in case.images]
        with clock.stage("read"):
            sources = {m: case.images[m] for m in present if m not in volumes}
            read = {m: volumes.pop(m) for m in present if m in volumes}
            read |= read_volumes(sources, max_voxels=self.max_voxels)
        done = []
        for stage in model:
            take = read.pop if stage is model[-1] else read.__getitem__
            data: dict[str, Any] = {m: take(m) for m in stage.config.modalities if m in read}
            # Step by step: within one call of the chain the images that were read would stay to its end.
            for step in stage.chain.transforms:
                with clock.stage("preprocess"):
                    data = run_chain(Compose([step]), data)
            done.append(data)
        return done

    def _add_to_mean(self, mean: dict[str, NDArray[np.float32]], config: RunConfig, restored: torch.Tensor) -> None:
        back = restored.numpy()
        for region in self.regions:
            own = back[config.regions.index(region)]
            share = own / np.float32(len(self.models)) if len(self.models) > 1 else own
            mean[region] = np.add(mean[region], share, out=mean[region]) if region in mean else share

    def _doubts(self, native: ImageHeader) -> list[str]:
        """List the doubts about a case that only the models can tell."""
        deep = [
            checkpoint.name
            for checkpoint, model in zip(self.checkpoints, self.models, strict=True)
            if any(stage.config.network.spatial_dims == 3 for stage in model)
        ]
        if not deep or min(native.grid.shape) > 1:
            return []
        size = "x".join(map(str, native.grid.shape))
        return [f"{native.path}: a single slice ({size}), and {', '.join(deep)} expects volumes; choose a 2D model"]

    def _spread(self) -> MemberSpread | None:
        """Return the collector of the members;

        None where there is only one.
        """
        return MemberSpread(self.configs[0].postprocess.threshold) if self._n_members() > 1 else None

    def _add_member(
        self, spread: MemberSpread, config: RunConfig, working: Grid, probability: torch.Tensor, each: Pass
    ) -> None:
        """Add one pass to the spread.

        It is (regions of ``config``, d1, d2, d3) on ``working``; each model has the same weight, as in the mean.
        """
        if config.regions != self.regions:
            probability = probability[[config.regions.index(region) for region in self.regions]]
        spread.add(probability, working, each.share)

    def _disagreeing(
        self, spread: MemberSpread | None, native: Grid
    ) -> tuple[dict[str, NDArray[np.float32]] | None, dict[str, float] | None]:
        if spread is None or spread.grid is None or len(spread.weights) < 2:  # of a single slice one direction is left
            return None, None
        maps = restore(spread.standard_deviation().cpu(), spread.grid, native).numpy()
        return (
            dict(zip(self.regions, maps, strict=True)),
            dict(zip(self.regions, spread.disagreement(), strict=True)),
        )


class _Clock:
    """Seconds of each step of a case, reported to a listener as it begins."""

    def __init__(self, on_stage: OnStage | None) -> None:
        self.seconds: dict[str, float] = {}
        self.on_stage = on_stage
        self._now = ""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        if name != self._now:
            self._now = name
            self.share(0.0)
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def share(self, done: float) -> None:
        """Report the share of the present step that is done."""
        if self.on_stage is not None:
            self.on_stage(self._now, done)
