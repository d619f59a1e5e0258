"""Errors that the library raises on purpose.

SegmentationError            the root; its text is one sentence for a person: where, what value, what to do
├── InputError               something about one patient's files: costs that patient's row, never the run
├── ConventionError          a label convention is unknown, lossy, or cannot be decided
├── CheckpointError          a model file is missing, damaged or does not fit
├── TrainingError            a training run cannot go on
└── UsageError               the run cannot start: an option, a path, a recipe
"""

from __future__ import annotations

from collections.abc import Iterable


def few(items: Iterable[object], most: int = 5) -> str:
    """Join the first few of many things, for a sentence that stays one line.

    Twelve numbers give "1, 2, 3, 4, 5 and 7 more".
    """
    listed = [str(item) for item in items]
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


class SegmentationError(Exception):
    """Root of all errors raised on purpose. ``str(error)`` is one line that names place, value and fix."""


class InputError(SegmentationError):
    """Fault of a patient's file or folder, which cannot be used as it is."""


class ConventionError(SegmentationError):
    """Fault of a label convention.

    It is unknown, loses information, or cannot be decided from the evidence.
    """


class CheckpointError(SegmentationError):
    """Fault of a model file.

    It is missing, damaged, or does not fit the case or the other models.
    """


class TrainingError(SegmentationError):
    """Fault of a training run, which cannot go on.

    Its numbers are not finite.
    """


class UsageError(SegmentationError):
    """Fault of the command: an option, a path or a recipe.

    The run cannot start.
    """
