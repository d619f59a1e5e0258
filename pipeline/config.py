"""What a run computes, as one strict, frozen value: read from a recipe (YAML), it travels inside every checkpoint."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from data.errors import ConventionError, UsageError
from data.labels import load_convention
from data.strict_yaml import read_strict_yaml
from networks import NetworkConfig

RECIPES = Path(__file__).parent / "recipes"

Voxels = Annotated[int, Field(ge=1)]
Millimetres = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Millilitres = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


class Strict(BaseModel):
    """Frozen; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PreprocessConfig(Strict):
    """From the files to the tensor that the network sees (see transforms.preprocess)."""

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

    @field_validator("orientation")
    @classmethod
    def _three_axes(cls, codes: str) -> str:
        if sorted(pair for letter in codes for pair in ("RL", "AP", "SI") if letter in pair) != ["AP", "RL", "SI"]:
            raise ValueError("needs three letters, one each of R/L, A/P and S/I")
        return codes


class WindowConfig(Strict):
    """Sliding-window inference on the working grid."""

    size: tuple[Voxels, ...]
    """Voxels of one window; two numbers for a 2D network (slices across the third axis)."""
    overlap: float = Field(default=0.5, ge=0, lt=1)
    """Share of a window that its neighbour covers again, in each direction."""
    batch: int = Field(default=1, ge=1)
    """Windows (2D: slices) that go through the network together."""


class PostprocessConfig(Strict):
    """From probabilities on the case's own grid to masks."""

    threshold: float = Field(default=0.5, gt=0, lt=1)
    """A voxel belongs to a region where its probability is at least this."""
    nest: bool = True
    """Cut every region to the one that contains it (ET to TC to WT)."""
    min_component_ml: dict[str, Millilitres] = {}
    """Connected components of a region smaller than this volume are removed; a region that is not named keeps all."""
    min_component_share: dict[str, Share] = {}
    """So are those smaller than this share of the region's largest component; the largest always stays."""
    fill_holes: bool = False
    """Fill cavities that are enclosed by a region on all sides."""


class TrainingConfig(Strict):
    """How the weights were, or are to be, found."""

    patch: tuple[Voxels, ...]
    batch: int = Field(default=2, ge=1)
    minutes: float = Field(default=60, gt=0)
    """Wall-clock time; the learning rate follows a cosine over it."""
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    ema_decay: float = Field(default=0.995, ge=0, lt=1)
    """The weights that are kept are a moving average of the ones that are trained."""
    phantom_share: float = Field(default=0.25, ge=0, le=1)
    """Share of the samples that come from phantom patients."""
    slices_share: float = Field(default=0.0, ge=0, le=1)
    """2D: share of the samples that come from single slices."""
    seed: int = 0

    @model_validator(mode="after")
    def _shares(self) -> TrainingConfig:
        if self.phantom_share + self.slices_share > 1:
            raise ValueError(
                f"phantom_share {self.phantom_share} and slices_share {self.slices_share} add up to more than 1"
            )
        return self


class RunConfig(Strict):
    """One experiment: the difference between two experiments is a diff of two files."""

    name: str
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
    missing_modalities: bool = False
    """Trained with modalities left out, so that a missing one may be replaced by zeros."""
    training: TrainingConfig

    @field_validator("modalities", "regions")
    @classmethod
    def _unique(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names or len(set(names)) != len(names):
            raise ValueError(f"needs distinct names, got {names}")
        return names

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        if self.network.in_channels != len(self.modalities):
            raise ValueError(
                f"in_channels is {self.network.in_channels} but there are {len(self.modalities)} modalities"
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
            raise ValueError(f"convention {self.convention} has no region {', '.join(sorted(unknown))}")
        for first, later in combinations(self.regions, 2):
            if known[first] < known[later]:
                raise ValueError(f"regions lists {first} before {later}, which contains it; put {later} first")
        for option in ("min_component_ml", "min_component_share"):
            if unnamed := set(getattr(self.postprocess, option)) - set(self.regions):
                raise ValueError(f"postprocess.{option} names {', '.join(sorted(unnamed))}, which is not in regions")
        return self


def parse_config(settings: Any, source: str) -> RunConfig:
    """Check nested dictionaries and freeze them. Raises :class:`data.errors.UsageError`: source, key and value."""
    try:
        return RunConfig.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "recipe"
        value = repr(first.get("input"))
        value = value if len(value) < 80 else value[:77] + "..."
        raise UsageError(f"{source}: {key}: {first['msg']} (got {value})") from None


def load_recipe(name_or_path: str) -> RunConfig:
    """Read a shipped recipe by name or a YAML file by path. Raises :class:`data.errors.UsageError`."""
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = RECIPES / f"{name_or_path}.yaml"
    try:
        settings = read_strict_yaml(path)
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
    return parse_config(settings, str(path))
