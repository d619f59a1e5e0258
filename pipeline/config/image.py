"""Settings of the way from a case's files to its masks."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from pipeline.config.strict import Millilitres, Millimetres, Share, Strict, WindowSide

Plane = Literal["axial", "coronal", "sagittal"]


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
    """One window holds the whole working grid, however large, where the memory allows it; else windows of ``size``
    slide."""
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
    """Move the unsure border of the whole tumour onto the edges of FLAIR (see transforms.watershed), before the
    rest."""

    @model_validator(mode="after")
    def _threshold_within_the_band(self) -> PostprocessConfig:
        if self.watershed and not 0.2 < self.threshold < 0.8:
            raise ValueError(f"watershed needs a threshold between 0.2 and 0.8, not {self.threshold}")
        return self
