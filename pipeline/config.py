"""Settings of a run, as one strict, frozen value.

They are read from a recipe (YAML), and travel inside every checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from data.errors import ConventionError, UsageError
from data.labels import load_convention
from data.strict_yaml import line_of, read_strict_yaml
from networks import NetworkConfig
from networks.losses import build_loss
from transforms.planes import slice_axis, turning

RECIPES = Path(__file__).parent / "recipes"

UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")
"""Pydantic's types of error for an unknown key, in a model and in a dataclass."""

Voxels = Annotated[int, Field(ge=1)]
WindowSide = Annotated[int, Field(ge=8)]
"""With smaller windows, or a larger overlap, a foreign model file could ask for millions of windows a case."""
Millimetres = Annotated[float, Field(ge=0.05, le=50)]
Millilitres = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
ExtraKind = Literal["patient", "cube", "slice", "t1c-slice", "lesion-slice", "silver", "tumour-free", "head"]
"""Kinds of further folders, as `pipeline.training.sources.kinds` knows them (which imports this module)."""
Scale = Annotated[float, Field(ge=0.25, le=4)]
Plane = Literal["axial", "coronal", "sagittal"]

NEARLY_ISOTROPIC = 1.2
"""Largest over smallest side of a voxel up to which slices of all directions are alike to one network."""


class Strict(BaseModel):
    """Frozen settings.

    An unknown key is an error, and so is a number that is not finite.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PreprocessConfig(Strict):
    """Steps from the files to the tensor that the network sees (see transforms.preprocess)."""

    orientation: str = "RAS"
    """Array axes of the working grid, as three letters."""
    spacing_mm: tuple[Millimetres | None, Millimetres | None, Millimetres | None] = (1.0, 1.0, 1.0)
    """Voxel size of the working grid; null keeps the case's own along that axis."""
    crop: Literal["nonzero", "none"] = "nonzero"
    """Crop to the box of non-zero voxels of any modality (the brain, after skull stripping)."""
    normalise: Literal["nonzero", "all", "none"] = "nonzero"
    """z-score each modality over its non-zero voxels, over all voxels, or not."""
    bias_correction: bool = False
    """N4 bias field correction (SimpleITK) before anything else; minutes a case."""
    denoise: bool = False
    """Curvature-driven anisotropic diffusion (SimpleITK), which keeps edges."""
    blank_air: bool = False
    """Set the air around a head that was not skull-stripped to 0, so that ``nonzero`` means the head."""

    @field_validator("orientation")
    @classmethod
    def _three_axes(cls, codes: str) -> str:
        if sorted(pair for letter in codes for pair in ("RL", "AP", "SI") if letter in pair) != ["AP", "RL", "SI"]:
            raise ValueError("needs three letters, one each of R/L, A/P and S/I")
        return codes


class WindowConfig(Strict):
    """Windows in which the network sees the working grid."""

    size: tuple[WindowSide, ...]
    """Voxels of one window; two numbers for a 2D network (slices, see ``planes``)."""
    whole: bool = False
    """One window holds the whole working grid, however large, where the memory allows it; else windows of ``size`` slide."""
    overlap: float = Field(default=0.5, ge=0, le=0.8)
    """Share of a window that its neighbour covers again, in each direction."""
    batch: int = Field(default=1, ge=1)
    """Windows (2D: slices) that go through the network together."""
    context: int = Field(default=0, ge=0, le=8)
    """2D: how many neighbouring slices on each side the network sees as further channels ("2.5D")."""
    context_step: int = Field(default=1, ge=1, le=8)
    """2D: the neighbours are every so many slices apart; at 1 mm a step of 2 shows as much as one of 1 at 2 mm."""
    planes: Annotated[tuple[Plane, ...], Field(min_length=1)] = ("axial",)
    """2D: directions of the slices. Each training sample is cut in one of them, drawn at random; the answer is the mean
    over all. axial alone: across the third axis of the working grid, whatever its orientation."""

    @field_validator("planes")
    @classmethod
    def _each_once(cls, planes: tuple[Plane, ...]) -> tuple[Plane, ...]:
        if len(set(planes)) != len(planes):
            raise ValueError(f"names a plane twice: {', '.join(planes)}; name each once")
        return planes

    @model_serializer(mode="wrap")
    def _without_planes(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave ``planes`` out where the slices are axial.

        Model files and the runs to resume then stay the same as before there were other planes.
        """
        plain: dict[str, Any] = handler(self)
        if self.planes == ("axial",):
            plain.pop("planes", None)
        return plain


class PostprocessConfig(Strict):
    """Steps from probabilities on the case's own grid to masks."""

    threshold: float = Field(default=0.5, gt=0, lt=1)
    """A voxel belongs to a region where its probability is at least this."""
    nest: bool = True
    """Cut every region to the one that contains it (ET to TC to WT)."""
    min_component_ml: dict[str, Millilitres] = {}
    """Connected components of a region smaller than this volume are removed; a region that is not named keeps all."""
    min_component_share: dict[str, Share] = {}
    """Components smaller than this share of the region's largest one are removed; the largest always stays."""
    fill_holes: bool = False
    """Fill cavities that are enclosed by a region on all sides."""
    watershed: bool = False
    """Move the unsure border of the whole tumour onto the edges of FLAIR (see transforms.watershed), before the rest."""

    @model_validator(mode="after")
    def _threshold_within_the_band(self) -> PostprocessConfig:
        if self.watershed and not 0.2 < self.threshold < 0.8:
            raise ValueError(f"watershed needs a threshold between 0.2 and 0.8, not {self.threshold}")
        return self


class AugmentConfig(Strict):
    """Random changes of the training samples (see transforms.augment); 0 turns one off."""

    rotate_degrees: float = Field(default=15.0, ge=0, le=180)
    """Largest rotation about each axis (2D: in the slice)."""
    scale: float = Field(default=0.2, ge=0, lt=1)
    """Largest relative change of size, of the whole and, at half of it, of each axis."""
    elastic: float = Field(default=0.03, ge=0, lt=0.5)
    """Standard deviation of the elastic displacement, as a share of the patch; in a third of the samples."""
    flip_axes: tuple[Annotated[int, Field(ge=0, le=2)], ...] = (0, 1, 2)
    """Axes of the working grid that are mirrored, each in half of the samples; ``--tta`` mirrors the same ones. 2D: where
    they lie within the slices."""
    contrast: float = Field(default=0.3, ge=0, lt=1)
    """Largest relative change of a modality's contrast."""
    brightness: float = Field(default=0.3, ge=0)
    """Largest shift of a modality, in its standard deviations."""
    gamma: float = Field(default=0.4, ge=0, lt=1)
    """Exponent between 1 - gamma and 1 / (1 - gamma), in a third of the samples."""
    bias_field: float = Field(default=0.2, ge=0)
    """Standard deviation of a smooth field that multiplies a modality, in a third of the samples."""
    noise: float = Field(default=0.1, ge=0)
    """Largest standard deviation of the noise, in a third of the samples."""
    blur: float = Field(default=0.8, ge=0)
    """Largest standard deviation of the smoothing in voxels, in a tenth of the samples."""
    low_resolution: Share = 0.2
    """Chance that one modality is sampled down to a quarter to four fifths and up again."""
    missing_modality: Share = 0.0
    """Chance that a sample lacks one modality."""
    transplant: Share = 0.0
    """Chance that a patient's sample shows a lesion of another patient, put into the brain (transforms.transplant)."""
    transplant_scale: tuple[Scale, Scale] | None = None
    """Least and most size of a transplanted lesion, 1 as it was, drawn log-uniformly; null: about 1, from .78 to 1.28."""
    transplant_fade: float | None = Field(default=None, ge=1, le=50)
    """Voxels over which a transplanted lesion fades at a face that cuts it, its labels unknown; null: 3, as at other faces."""
    transplant_whole: Share = 0.0
    """Share of the transplanted lesions that are drawn from those that no face cuts; the others: from all."""

    @field_validator("transplant_scale")
    @classmethod
    def _least_and_most(cls, scale: tuple[float, float] | None) -> tuple[float, float] | None:
        if scale is not None and scale[0] > scale[1]:
            raise ValueError(f"is the least and the most, not {list(scale)}")
        return scale

    @property
    def of_the_patch(self) -> dict[str, Any]:
        """Options of :func:`transforms.augment.training_chain`.

        They are all but those of the steps before a patch is cut out.
        """
        return self.model_dump(exclude={name for name in type(self).model_fields if name.startswith("transplant")})


class LossConfig(Strict):
    """Function that training minimises (see networks.losses)."""

    name: str = "dice_ce"
    """A key of :data:`networks.losses.LOSSES`."""
    parameters: dict[str, float | bool] = {}
    """Parameters of that loss that differ from its defaults."""

    @model_validator(mode="after")
    def _can_be_built(self) -> LossConfig:
        build_loss(self.name, self.parameters)
        return self


class ScheduleConfig(Strict):
    """Learning rate over the epochs (see pipeline.training.progress.schedule)."""

    name: Literal["cosine", "polynomial", "plateau", "constant", "constant_cooldown"] = "cosine"
    """How the rate falls after the warm-up."""
    warmup_steps: int = Field(default=50, ge=0)
    """Steps over which the rate rises to its first value."""
    power: float = Field(default=0.9, gt=0)
    """polynomial: the rate falls as (1 - progress) to this power."""
    factor: float = Field(default=0.3, gt=0, lt=1)
    """plateau: the rate is multiplied by this when it falls."""
    patience: int = Field(default=5, ge=1)
    """plateau: the rate falls when the validation score (without validation: the loss) has not improved in so many readings."""
    last: float = Field(default=0.01, ge=0, lt=1)
    """cosine, plateau, constant_cooldown: the rate does not fall below this share of the first."""
    cooldown: float = Field(default=0.2, gt=0, le=1)
    """constant_cooldown: share of the run, at its end, over which the rate falls; until then nothing depends on how long
    the run is to be."""


class StoppingConfig(Strict):
    """Conditions under which a run ends before its last epoch."""

    patience: int | None = Field(default=None, ge=1)
    """Validations without a better score, after which it stops; null: never."""
    minutes: float | None = Field(default=None, gt=0)
    """Wall-clock time; the schedule then follows the clock where that is ahead of the epochs. Two runs then differ."""


class SamplingConfig(Strict):
    """Choice of the patches that training sees."""

    regions_share: Share = 0.67
    """Share of the samples centred on a region, each region that a patient has with equal chance; the others: brain."""
    extra_share: Share = 0.0
    """Share of the samples that come from the further folders (``--extra``), where there are any."""
    extra_weights: dict[ExtraKind, Annotated[float, Field(ge=0)]] = {}
    """Division of the further folders' share among kinds (``cube``, ``slice``...); empty: each case has equal chance."""
    phantom_share: Share = 0.0
    """Share of the samples that come from synthetic patients."""
    phantoms: int = Field(default=12, ge=0)
    """How many synthetic patients are made."""
    phantom_contrast: Literal["mri", "random", "both"] = "both"
    """Contrast of a synthetic patient: as a clinical scanner shows it, every tissue at random as in SynthSeg, or both in turn."""
    phantom_shapes: Literal["drawn", "real"] = "drawn"
    """Shape of a synthetic patient's glioma: drawn, or that of a real lesion cube (``--extra``), turned and bent."""
    phantom_lesions: tuple[int, int] | None = None
    """Small lesions of a synthetic patient, the least and the most, as of metastases; null: one glioma."""

    @model_validator(mode="after")
    def _lesions_in_order(self) -> SamplingConfig:
        if self.phantom_lesions is not None and not 0 <= self.phantom_lesions[0] <= self.phantom_lesions[1]:
            raise ValueError(f"phantom_lesions is the least and the most, from 0 on, not {list(self.phantom_lesions)}")
        if self.phantom_lesions is not None and self.phantom_shapes == "real":
            raise ValueError("phantom_shapes: real is a glioma's, and phantom_lesions draws small lesions; choose one")
        return self

    @model_validator(mode="after")
    def _shares(self) -> SamplingConfig:
        if self.phantom_share + self.extra_share > 1:
            raise ValueError(
                f"phantom_share {self.phantom_share} and extra_share {self.extra_share} add up to more than 1"
            )
        return self


class TrainingConfig(Strict):
    """Search for the weights, past or planned."""

    patch: tuple[Voxels, ...]
    """Voxels of one training sample on the working grid; two numbers for a 2D network."""
    batch: int = Field(default=2, ge=1)
    """Samples of one step, over all processes."""
    epochs: int = Field(default=100, ge=1)
    """Most epochs; `stopping` may end the run sooner."""
    steps_per_epoch: int = Field(default=100, ge=1)
    """Optimiser steps of an epoch, each over one batch."""
    validate_every: int = Field(default=5, ge=1)
    """Epochs between two validations; the last epoch is always validated."""
    validate_minutes: float | None = Field(default=None, gt=0)
    """Validate instead at the end of the epoch in which so many minutes have passed since the last validation."""
    soup: int = Field(default=0, ge=0, le=50)
    """At the end the weights of so many of the latest validated epochs are averaged, and that is the model where it
    scores better than the best of them; 0: not."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Highest rate of AdamW, which the schedule lowers."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Decoupled weight decay of AdamW."""
    gradient_clip: float = Field(default=5.0, gt=0)
    """Largest norm of the gradient."""
    mixed_precision: bool = True
    """On CUDA bfloat16, or float16 on a card that lacks it; on a CPU what ``cpu_precision`` says. false: float32 everywhere."""
    cpu_precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """On a CPU. auto: bfloat16 products where the CPU has matrix tiles for them (AMX), float32 elsewhere."""
    ema_decay: float = Field(default=0.995, ge=0, lt=1)
    """The weights that are kept are a moving average of the ones that are trained."""
    loss: LossConfig = LossConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    stopping: StoppingConfig = StoppingConfig()
    sampling: SamplingConfig = SamplingConfig()
    seed: int = Field(default=0, ge=0)
    """Decides first weights and samples."""


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
    """The first network's answer is the mean over its mirrorings, as all answers are with ``--tta``; it costs little there."""
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
                f"convention {self.convention} has no region {', '.join(sorted(unknown))}; name one that has, or leave it out "
                "of regions"
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


def parse_config(
    settings: Any, source: str, line_at: Callable[[Sequence[str | int]], int | None] = lambda location: None
) -> RunConfig:
    """Check nested dictionaries and freeze them.

    Parameters
    ----------
    settings : nested dictionaries
    source : str
        Where they stand (a file), for the error's text.
    line_at : callable
        From the keys on the way to a value to its line there, where that is known.

    Raises
    ------
    data.errors.UsageError
        Names source, line, key and value.
    """
    try:
        return RunConfig.model_validate(settings)
    except ValidationError as error:
        # A misspelt key is also a missing one: the spelling is what is to be mended.
        first = min(error.errors(), key=lambda each: each["type"] not in UNKNOWN_KEY)
        key = ".".join(str(part) for part in first["loc"] if part != "[key]") or "recipe"
        value = repr(first.get("input"))
        value = value if len(value) < 80 else value[:77] + "..."
        line = line_at(first["loc"])
        place = source if line is None else f"{source}, line {line}"
        sentence = first["msg"].removeprefix("Value error, ")
        if first["type"] in UNKNOWN_KEY:
            sentence = "unknown key; correct its spelling, or remove it"
        raise UsageError(f"{place}: {key}: {sentence} (got {value})") from None


def load_recipe(name_or_path: str) -> RunConfig:
    """Read a shipped recipe by name or a YAML file by path. Raises :class:`data.errors.UsageError`."""
    path, settings = _read_recipe(name_or_path)
    return parse_config(_with_first_stage(settings, path), str(path), partial(line_of, path))


def _with_first_stage(settings: dict[Any, Any], path: Path) -> dict[Any, Any]:
    """Put the whole recipe in the place of its name in ``first``."""
    first = settings.get("first")
    if not isinstance(first, dict) or not isinstance(named := first.get("recipe"), str):
        return settings
    beside = path.parent / named
    place, inner = _read_recipe(str(beside if Path(named).suffix in (".yaml", ".yml") else named))
    if "first" in inner:  # it might name itself
        line = line_of(path, ("first", "recipe"))
        raise UsageError(f"{path}, line {line}: first.recipe: {named} is a cascade itself; name a recipe without first")
    parse_config(inner, str(place), partial(line_of, place))  # an error in there has its own file and line
    return {**settings, "first": {**first, "recipe": inner}}


def _read_recipe(name_or_path: str) -> tuple[Path, dict[Any, Any]]:
    """Find a recipe and read its settings as they stand there."""
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = RECIPES / f"{name_or_path}.yaml"
    try:
        return path, read_strict_yaml(path)
    except FileNotFoundError:
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
        raise UsageError(f"no recipe {name_or_path!r}; give a .yaml file or one of: {known}") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path}: is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None
    except ValueError as error:
        raise UsageError(str(error)) from None
