"""Settings of one experiment, whole, and of the first stage of a cascade."""

from __future__ import annotations

from itertools import combinations
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from data.errors import ConventionError
from data.labels import convention_name, load_convention
from networks import NetworkConfig
from pipeline.config.image import PostprocessConfig, PreprocessConfig, WindowConfig
from pipeline.config.strict import Strict
from pipeline.config.training import AugmentConfig, TrainingConfig
from transforms.planes import slice_axis, turning

NEARLY_ISOTROPIC = 1.2
"""Largest over smallest side of a voxel up to which slices of all directions are alike to one network."""


class FirstStageConfig(Strict):
    """Network that finds the box in which this one works.

    The two are a cascade (see pipeline.predict.cascade).
    """

    recipe: RunConfig
    """Its own settings, whole. A recipe file may name another recipe here, or a file beside it."""
    regions: tuple[str, ...]
    """Regions whose probabilities are further input channels, behind the modalities, in order."""
    threshold: float = Field(default=0.3, gt=0, lt=1)
    """The box holds every voxel to which the first network gives any region with at least this probability."""
    margin_mm: float = Field(default=10.0, ge=0, le=100)
    """Margin of the box around those voxels."""
    smallest_mm: float = Field(default=40.0, ge=0, le=300)
    """No side of the box is shorter, but for where the image ends."""
    blend_mm: float = Field(default=5.0, ge=0, le=100)
    """Depth inside the box's faces over which the first network's answer passes into the second's."""
    mirrored: bool = False
    """The first network's answer is the mean over its mirrorings, as all answers are with ``--tta``; it costs little
    there."""
    share: float = Field(default=0.0, ge=0, lt=1)
    """The first network's share of the answer in the rest of the box: above 0 the two are averaged there."""
    training_probabilities: Literal["simulated"] = "simulated"
    """simulated: degraded from each sample's reference (see transforms.first_stage)."""
    errors: float = Field(default=1.0, ge=0, le=3)
    """Strength of the errors that they get in training; 1: warps of 2 voxels of the first network and the like."""

    @model_validator(mode="after")
    def _two_stages(self) -> FirstStageConfig:
        if self.recipe.first is not None:
            raise ValueError(f"{self.recipe.name} is a cascade itself; name a recipe without first")
        if self.blend_mm > self.margin_mm:
            raise ValueError(
                f"blend_mm {self.blend_mm:g} is more than margin_mm {self.margin_mm:g}: it would reach into the tumour"
            )
        return self


class RunConfig(Strict):
    """Settings of one experiment.

    The difference between two experiments is a diff of two files.
    """

    name: str
    """Name of the model that it makes."""
    network: NetworkConfig
    modalities: tuple[str, ...]
    """Input channels, in order."""
    regions: tuple[str, ...]
    """Output channels, in order; an outer region before the ones inside it."""
    convention: str
    """Label convention that the model writes where a case has none of its own."""
    preprocess: PreprocessConfig = PreprocessConfig()
    window: WindowConfig
    postprocess: PostprocessConfig = PostprocessConfig()
    augment: AugmentConfig = AugmentConfig()
    training: TrainingConfig
    first: FirstStageConfig | None = None
    """The first stage of a cascade, of which this is the second; null: this network works alone."""

    @property
    def missing_modalities(self) -> bool:
        """True where training left modalities out.

        Then a missing one may be replaced by zeros.
        """
        return all(stage.augment.missing_modality > 0 for stage in self.stages)

    @property
    def stages(self) -> tuple[RunConfig, ...]:
        """Settings of each network, in the order in which they run.

        This one's come last.
        """
        return (self,) if self.first is None else (self.first.recipe, self)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the images that the network sees.

        They are the modalities, then the first stage's regions (``"first WT"``).
        """
        return (*self.modalities, *(f"first {region}" for region in (self.first.regions if self.first else ())))

    @property
    def slice_axes(self) -> tuple[int, ...]:
        """Axes of the working grid across which the slices of ``window.planes`` lie.

        They are in the order of the planes; 3D: (2,).
        """
        if self.window.planes == ("axial",):
            return (2,)
        return tuple(slice_axis(plane, self.preprocess.orientation) for plane in self.window.planes)

    @property
    def seen_axes(self) -> frozenset[int]:
        """Axes of the working grid that lie within a window of some direction."""
        return frozenset(axis for a in self.slice_axes for axis in turning(a)[: self.network.spatial_dims])

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave ``first`` out where a network works alone, and ``options`` where it has none.

        Model files and the runs to resume then stay the same as before there were cascades and options.
        """
        plain: dict[str, Any] = handler(self)
        if not self.network.options:
            plain["network"].pop("options", None)
        if self.first is None:
            plain.pop("first", None)
        return plain

    @field_validator("modalities", "regions")
    @classmethod
    def _unique(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names or len(set(names)) != len(names):
            raise ValueError(f"needs distinct names, got {names}")
        return names

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        if self.window.context and self.network.spatial_dims == 3:
            raise ValueError(f"window.context {self.window.context} is for 2D networks; a 3D one sees its neighbours")
        slices = 2 * self.window.context + 1
        if self.network.in_channels != slices * len(self.inputs):
            raise ValueError(
                f"network.in_channels is {self.network.in_channels}, not {slices * len(self.inputs)}: "
                f"there are {len(self.modalities)} modalities"
                + (f" and {len(self.first.regions)} regions of the first stage" if self.first else "")
                + (f" of {slices} slices each" if slices > 1 else "")
            )
        if self.network.out_channels != len(self.regions):
            raise ValueError(f"out_channels is {self.network.out_channels} but there are {len(self.regions)} regions")
        if len(self.window.size) != self.network.spatial_dims:
            raise ValueError(f"window.size needs {self.network.spatial_dims} numbers, got {self.window.size}")
        if len(self.training.patch) != self.network.spatial_dims:
            raise ValueError(f"training.patch needs {self.network.spatial_dims} numbers, got {self.training.patch}")
        try:
            known = load_convention(self.convention).regions
        except ConventionError as error:
            raise ValueError(str(error)) from None
        if unknown := set(self.regions) - set(known):
            raise ValueError(
                f"convention {convention_name(self.convention)} has no region {', '.join(sorted(unknown))}; "
                "name one that has, or leave it out of regions"
            )
        for first, later in combinations(self.regions, 2):
            if known[first] < known[later]:
                raise ValueError(f"regions lists {first} before {later}, which contains it; put {later} first")
        for option in ("min_component_ml", "min_component_share"):
            if unnamed := set(getattr(self.postprocess, option)) - set(self.regions):
                raise ValueError(f"postprocess.{option} names {', '.join(sorted(unnamed))}, which is not in regions")
        return self

    @model_validator(mode="after")
    def _planes_can_be(self) -> RunConfig:
        planes, preprocess = self.window.planes, self.preprocess
        if planes == ("axial",):
            return self
        named = f"window.planes [{', '.join(planes)}]"
        if self.network.spatial_dims == 3:
            raise ValueError(f"{named} is for 2D networks; leave it out")
        if preprocess.orientation[2] not in "SI":
            raise ValueError(
                f"{named}: preprocess.orientation {preprocess.orientation} has no axial slices across its third axis; "
                "end it with S or I"
            )
        sides = [side for side in preprocess.spacing_mm if side is not None]
        if len(planes) > 1 and (len(sides) < 3 or max(sides) > NEARLY_ISOTROPIC * min(sides)):
            shown = ", ".join("null" if side is None else f"{side:g}" for side in preprocess.spacing_mm)
            raise ValueError(
                f"{named}: preprocess.spacing_mm is [{shown}], and slices of several planes are alike only where the "
                f"largest is at most {NEARLY_ISOTROPIC:g} times the smallest; make them equal, or name one plane"
            )
        return self

    @model_validator(mode="after")
    def _follows_its_first_stage(self) -> RunConfig:
        """Check that both stages agree.

        The first stage alone answers outside the box, and no file is read for it that the second does not read.
        """
        if self.first is None:
            return self
        first = self.first.recipe
        for what, wanted, there in (
            ("first.recipe has no region", self.regions, first.regions),
            ("first.recipe reads the modality", first.modalities, self.modalities),
            ("first.regions names", self.first.regions, self.regions),
        ):
            if lacking := [name for name in wanted if name not in there]:
                end = "modalities" if there is self.modalities else "regions"
                holder = f"which {first.name}" if there is first.regions else "which this recipe"
                raise ValueError(
                    f"{what} {', '.join(lacking)}, {holder} does not have among its {end}; make them agree"
                )
        if len(set(self.first.regions)) != len(self.first.regions):
            raise ValueError(f"first.regions needs distinct names, got {self.first.regions}")
        return self


FirstStageConfig.model_rebuild()
RunConfig.model_rebuild()
