"""Settings of the training of a network."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from networks.losses import build_loss
from pipeline.config.strict import Scale, Share, Strict, Voxels

ExtraKind = Literal["patient", "cube", "slice", "t1c-slice", "lesion-slice", "silver", "tumour-free", "head"]
"""Kinds of further folders, as `pipeline.training.sources.kinds` knows them (which imports this module)."""


class AugmentConfig(Strict):
    """Random changes of the training samples (see transforms.augment); 0 turns one off."""

    rotate_degrees: float = Field(default=15.0, ge=0, le=180)
    """Largest rotation about each axis (2D: in the slice)."""
    scale: float = Field(default=0.2, ge=0, lt=1)
    """Largest relative change of size, of the whole and, at half of it, of each axis."""
    elastic: float = Field(default=0.03, ge=0, lt=0.5)
    """Standard deviation of the elastic displacement, as a share of the patch; in a third of the samples."""
    flip_axes: tuple[Annotated[int, Field(ge=0, le=2)], ...] = (0, 1, 2)
    """Axes of the working grid that are mirrored, each in half of the samples; ``--tta`` mirrors the same ones. 2D:
    where they lie within the slices."""
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
    """Chance that a patient's sample shows a lesion of another patient, put in by transforms.augment.transplant."""
    transplant_scale: tuple[Scale, Scale] | None = None
    """Least and most size of a transplanted lesion, 1 as it was, drawn log-uniformly; null: about 1, from .78 to
    1.28."""
    transplant_fade: float | None = Field(default=None, ge=1, le=50)
    """Voxels over which a transplanted lesion fades at a face that cuts it, its labels unknown; null: 3, as at other
    faces."""
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
        """Options of :func:`transforms.augment.chain.training_chain`.

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
    """plateau: the rate falls when the validation score (without validation: the loss) has not improved in so many
    readings."""
    last: float = Field(default=0.01, ge=0, lt=1)
    """cosine, plateau, constant_cooldown: the rate does not fall below this share of the first."""
    cooldown: float = Field(default=0.2, gt=0, le=1)
    """constant_cooldown: share of the run, at its end, over which the rate falls; until then nothing depends on how
    long the run is to be."""


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
    """Division of the further folders' share among kinds (``cube``, ``slice``...); empty: each case has equal
    chance."""
    phantom_share: Share = 0.0
    """Share of the samples that come from synthetic patients."""
    phantoms: int = Field(default=12, ge=0)
    """How many synthetic patients are made."""
    phantom_contrast: Literal["mri", "random", "both"] = "both"
    """Contrast of a synthetic patient: as a clinical scanner shows it, every tissue at random as in SynthSeg, or both
    in turn."""
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
    """On CUDA bfloat16, or float16 on a card that lacks it; on a CPU what ``cpu_precision`` says. false: float32
    everywhere."""
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
