"""One deep call: ``Predictor(models, device)(case)`` gives the segmentation on the case's own grid."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from data.case import Case
from data.errors import InputError, Mend, UsageError, advise
from data.grid import Grid
from data.io.read import MAX_VOXELS, ImageHeader, Volume, read_header
from data.labels import convention_name, load_convention
from pipeline.checkpoint import Checkpoint, open_checkpoint, require_same_regions
from pipeline.config import RunConfig
from pipeline.execute.stages import Stage
from pipeline.predict.device import choose_device, out_of_memory
from pipeline.predict.engines import prune
from pipeline.predict.given_images import Image, given_case
from pipeline.predict.inference import Clock, OnStage, Work, infer_model, preprocess, ready_networks
from pipeline.predict.memory.forecast import predicted_bytes, require_room, too_large
from pipeline.predict.memory.machine import available_bytes
from pipeline.predict.passes import passes
from pipeline.predict.region_masks import Answer, Own, labels_elsewhere, region_masks, region_parents, to_labels
from pipeline.predict.segmentation import Segmentation
from pipeline.predict.uncertainty import MemberSpread
from pipeline.predict.windows import with_window
from transforms.restore import resample_to, restore

__all__ = ["Predictor", "Segmentation", "region_masks", "region_parents"]

log = logging.getLogger(__name__)


class Predictor:
    """Segments cases with one model, or with the average of several.

    Parameters
    ----------
    models : one or several of Checkpoint, shipped name, or path
        Several must agree on the regions; their probabilities are averaged. Any of them may be a cascade.
    device : str
        See :func:`choose_device`.
    tta : bool
        Average over all mirrorings of the input that the model was trained with (3D: up to 8 passes, 2D: up to 4 for
        each direction of its slices).
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
        self.models = [
            ready_networks(
                *model, engine=engine, device=self.device, tta=tta, zero_missing=zero_missing, max_voxels=max_voxels
            )
            for model in zip(self.checkpoints, settings, whole, strict=True)
        ]
        self.several = sum(len(model) for model in self.models) > 1
        self.configs = [model[-1].config for model in self.models]
        self.networks = [model[-1].runner.network for model in self.models]
        self.costs = [model[-1].cost for model in self.models]
        self.regions = self.configs[0].regions
        self.modalities = tuple(dict.fromkeys(m for config in self.configs for m in config.modalities))
        self._to_device()

    def _to_device(self) -> None:
        try:
            for model in self.models:
                for each in model:
                    each.runner.network.to(self.device)
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
        case: Case | Mapping[str, Image],
        convention: str | None = None,
        *,
        affine: ArrayLike | None = None,
        name: str = "case",
        volumes: dict[str, Volume] | None = None,
        onto: ImageHeader | None = None,
        elsewhere: Mapping[str, Grid] | None = None,
        on_stage: OnStage | None = None,
    ) -> Segmentation:
        """Segment one case.

        Parameters
        ----------
        case : Case, or mapping of modality to file, files of slices, or (d1, d2, d3) array
            Images that are no Case yet are checked as those of one.
        affine : (4, 4) float
            Of arrays: from voxel indices to mm, x to the right, y to the front, z up.
        name : str
            Of a patient that is no Case yet.
        convention : str, optional
            Label convention of the label map; the model's own by default.
        volumes : dict of modality to Volume, optional
            Images of the case that have been read (:func:`data.io.read.read_volumes`); taken out of it. The others are
            read.
        onto : ImageHeader, optional
            Where the answer shall lie; by default on the grid of the first of the images, as `data.case.GRID_ORDER` has
            them. Its axes are parallel to that grid's.
        elsewhere : mapping of str to Grid, optional
            Further grids, on which the mask shall lie too; their affines lead to places in that grid's images.
        on_stage : callable, optional
            Called in this thread before anything of a stage is allocated; it may wait, which is not counted as work.

        Raises
        ------
        data.errors.InputError
            A file cannot be used, or the case takes more memory than there is; the text names it, the value and the
            fix.
        data.errors.SegmentationError
            The network's output is not finite.
        """
        if not isinstance(case, Case):
            with given_case(case, affine, name) as own:
                return self(own, convention, on_stage=on_stage)
        wanted = elsewhere or {}
        needed = self.require_room(case, wanted.values())
        try:
            return self._segment(case, convention, {} if volumes is None else volumes, Clock(on_stage), onto, wanted)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            log.debug("out of memory in case %r", case.case_id, exc_info=True)
            raise too_large(case.shown, needed, available_bytes()) from error

    def require_room(self, case: Case, elsewhere: Iterable[Grid] = (), on_card: bool | None = None) -> int:
        """Refuse a case that lacks images or takes too much memory.

        Returns the bytes that it takes, with masks on the further grids.

        Raises
        ------
        data.errors.InputError
        """
        self._check_modalities(case)
        needed = self.predicted_bytes(case, on_card=on_card, elsewhere=elsewhere)
        require_room(case.shown, needed)
        return needed

    def predicted_bytes(self, case: Case, *, on_card: bool | None = None, elsewhere: Iterable[Grid] = ()) -> int:
        """Predict the peak memory of segmenting a case with all modalities.

        It is in bytes beyond this process as it is; no voxel is read.

        See :func:`pipeline.predict.memory.forecast.predicted_bytes`; ``on_card`` is by default whether the predictor's
        device is one.
        """
        headers = {
            m: read_header(case.images[m], max_voxels=self.max_voxels) for m in self.modalities if m in case.images
        }
        on_card = self.device.type == "cuda" if on_card is None else on_card
        shapes = [grid.shape for grid in elsewhere]
        return predicted_bytes(headers, self.costs, tta=self.tta, on_card=on_card, elsewhere=shapes)

    def _segment(
        self,
        case: Case,
        convention: str | None,
        volumes: dict[str, Volume],
        clock: Clock,
        native: ImageHeader | None,
        elsewhere: Mapping[str, Grid],
    ) -> Segmentation:
        work = self._work(clock, lambda: self.require_room(case, elsewhere.values(), on_card=False))
        mean: dict[str, NDArray[np.float32]] = {}
        answers: list[Answer] = []
        warnings: list[str] = []
        remarks: list[str] = []
        background: NDArray[np.float32] | None = None
        for model in self.models:
            prepared = preprocess(model, case, volumes, clock, self.max_voxels)
            # Grids of the models' references may differ; the first model's decides.
            native = native or prepared[-1]["native"]
            if background is None:
                background = _on_grid(prepared[-1]["background"], prepared[-1]["native"].grid, native.grid)
            warnings += [sentence for each in prepared for sentence in each["warnings"]]
            with clock.stage(Stage.NETWORK):
                images = [each.pop("image") for each in prepared]
                probabilities, working, handled = infer_model(model, images, work)
                remarks += handled
            with clock.stage(Stage.RESTORE):
                self._add_to_mean(mean, model[-1].config, restore(probabilities, working, native.grid))
                answers += [Answer(probabilities.cpu(), working, model[-1].config.regions)] if elsewhere else []
        assert native is not None and background is not None  # there is at least one model
        warnings += self._doubts(native)
        with clock.stage(Stage.RESTORE):
            # The background is FLAIR where the first model reads one.
            flair = background if "flair" in case.images and "flair" in self.configs[0].modalities else None
            label_map, masks, written = to_labels(self.configs[0], self.name, mean, native.grid, flair, convention)
            warnings += self._losses(mean, flair, written)
            own = Own(native.grid, label_map, written, masks, mean, flair)
            there = {name: labels_elsewhere(self.configs[0], answers, own, grid) for name, grid in elsewhere.items()}
            uncertainty, disagreement = self._disagreeing(work.spread, native.grid)
        return Segmentation(
            name=case.case_id,
            label_map=label_map,
            masks=masks,
            probabilities=mean,
            native=native,
            background=background,
            convention=written,
            warnings=tuple(dict.fromkeys(warnings)),
            seconds=clock.seconds,
            uncertainty=uncertainty,
            disagreement=disagreement,
            remarks=tuple(dict.fromkeys(remarks)),
            elsewhere=there,
            engine="+".join("/".join(dict.fromkeys(each.runner.running for each in model)) for model in self.models),
        )

    def _work(self, clock: Clock, require_room: Callable[[], int]) -> Work:
        return Work(self.device, clock, self.regions, self._n_members(), self._spread(), self.several, require_room)

    def _losses(
        self, probabilities: Mapping[str, NDArray[np.float32]], flair: NDArray[np.float32] | None, convention: str
    ) -> list[str]:
        """List the parts of the answer that the label map lacks."""
        lacks = []
        if self.configs[0].postprocess.watershed and flair is None:
            lacks.append("no FLAIR image, so that the border of the whole tumour was not refined by watershed")
        if lost := [region for region in probabilities if region not in load_convention(convention).regions]:
            fault = (
                f"the label convention {convention_name(convention)} has no label for {', '.join(lost)}: "
                "measured, but not in the mask"
            )
            lacks.append(advise(fault, Mend.WRITE_ANOTHER_CONVENTION))
        return lacks

    def _n_members(self) -> int:
        return sum(len(passes(config, self.tta)) for config in self.configs)

    def _check_modalities(self, case: Case) -> None:
        missing = [m for m in self.modalities if m not in case.images]
        untrained = [
            c.name for c, config in zip(self.checkpoints, self.configs, strict=True) if not config.missing_modalities
        ]
        if not missing or (self.zero_missing and not untrained and len(missing) < len(self.modalities)):
            return
        needed = ", ".join(self.modalities)
        lack = f"{Path(case.shown).name}: no {', '.join(missing)} image, and {self.name} needs {needed}"
        if self.zero_missing and untrained:
            raise InputError(
                f"{lack}; {', '.join(untrained)} was not trained for missing modalities: "
                "add the file or choose another model"
            )
        zeros = not untrained and len(missing) < len(self.modalities)
        raise InputError(lack, Mend.ADD_IMAGE_OR_TAKE_ZEROS if zeros else Mend.ADD_IMAGE)

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
            if any(each.config.network.spatial_dims == 3 for each in model)
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


def _on_grid(image: NDArray[np.float32], own: Grid, wanted: Grid) -> NDArray[np.float32]:
    if own.matches(wanted):
        return image
    moved: NDArray[np.float32] = resample_to(torch.from_numpy(image)[None], own, wanted)[0].numpy()
    return moved
