"""Settings of a run, as one strict, frozen value.

They are read from a recipe (YAML), and travel inside every checkpoint.
"""

from __future__ import annotations

from pipeline.config.image import PostprocessConfig, PreprocessConfig, WindowConfig
from pipeline.config.recipe import RECIPES, load_recipe, parse_config
from pipeline.config.run import FirstStageConfig, RunConfig
from pipeline.config.strict import Strict
from pipeline.config.training import (
    AugmentConfig,
    ExtraKind,
    LossConfig,
    SamplingConfig,
    ScheduleConfig,
    StoppingConfig,
    TrainingConfig,
)

__all__ = [
    "RECIPES",
    "AugmentConfig",
    "ExtraKind",
    "FirstStageConfig",
    "LossConfig",
    "PostprocessConfig",
    "PreprocessConfig",
    "RunConfig",
    "SamplingConfig",
    "ScheduleConfig",
    "StoppingConfig",
    "Strict",
    "TrainingConfig",
    "WindowConfig",
    "load_recipe",
    "parse_config",
]
