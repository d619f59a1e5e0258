"""Verbs: configure, train, predict, segment, evaluate, report.

The names in ``__all__`` are the public ones: ``from pipeline import Predictor, segment_cases``. Each is imported from
its module when it is first asked for, because torch's import takes seconds.
"""

from getpass import getuser as _getuser
from importlib import import_module as _import_module
from os import environ as _environ

__version__ = "0.5.0"


def _name_the_user() -> None:
    """Name a user without an entry in the system's list.

    Containers run with any number.

    MONAI asks for one when it is imported.
    """
    try:
        _getuser()
    except (KeyError, OSError, ImportError):
        _environ["LOGNAME"] = "user"


_name_the_user()

_PLACES = {
    "Case": "data.case",
    "Checkpoint": "pipeline.checkpoint",
    "Predictor": "pipeline.predict.predictor",
    "RunConfig": "pipeline.config",
    "ScoreOptions": "pipeline.evaluate.run",
    "SegmentOptions": "pipeline.options",
    "Segmentation": "pipeline.predict.segmentation",
    "TrainOptions": "pipeline.options",
    "discover_cases": "data.find.discover",
    "evaluate_masks": "pipeline.evaluate.run:evaluate",
    "inspect_cases": "pipeline.inspect",
    "load_recipe": "pipeline.config",
    "open_checkpoint": "pipeline.checkpoint",
    "run_training": "pipeline.training.run",
    "segment_cases": "pipeline.segment.run",
    "shipped_models": "pipeline.checkpoint",
}
"""Public name: its module, and its name there where that is another. ``pipeline.evaluate`` is a folder of modules."""

__all__ = [
    "Case",
    "Checkpoint",
    "Predictor",
    "RunConfig",
    "ScoreOptions",
    "SegmentOptions",
    "Segmentation",
    "TrainOptions",
    "__version__",
    "discover_cases",
    "evaluate_masks",
    "inspect_cases",
    "load_recipe",
    "open_checkpoint",
    "run_training",
    "segment_cases",
    "shipped_models",
]


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, there = _PLACES[name].partition(":")
    return getattr(_import_module(module), there or name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
