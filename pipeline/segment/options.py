"""Options of a segmentation, each marked with the results that it decides."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, Literal

from data.io.read import MAX_VOXELS


class Decides(Enum):
    """Results of a case that an option decides."""

    FILES = "files"
    """The bytes of the mask and its maps, or their places: with another value a finished case is done again."""
    FILES_BY_MODEL = "files by model"
    """The same, by the content of the files that it names: their SHA-256 counts, their names do not."""
    ROW = "row"
    """Whether there is a mask at all: a finished case is kept, and the parts of one run must agree."""
    NOTHING = "nothing"
    """How the work is done: a finished case is kept, and the parts of one run may differ."""


def _option(default: Any, decides: Decides) -> Any:
    return field(default=default, metadata={"decides": decides})


@dataclass(frozen=True)
class SegmentOptions:
    """Options of a segmentation. The same options on the same files give the same bytes.

    Each is marked with the results that it decides, see :class:`Decides`.
    """

    models: tuple[str, ...] = _option((), Decides.FILES_BY_MODEL)
    """Shipped names or files; their probabilities are averaged. Empty: for each case the shipped model that fits it."""
    device: str = _option("auto", Decides.FILES)
    engine: str = _option("auto", Decides.FILES)
    """Library that runs the network; a voxel on the border may differ between engines."""
    window: str = _option("auto", Decides.FILES)
    level: int | None = _option(None, Decides.FILES)
    tta: bool = _option(False, Decides.FILES)
    convention: str | None = _option(None, Decides.FILES)
    missing: Literal["fail", "skip", "zero"] = _option("fail", Decides.FILES)
    save_probabilities: bool = _option(False, Decides.FILES)
    flat: bool = _option(False, Decides.FILES)
    threads: int | None = _option(None, Decides.NOTHING)
    max_voxels: int = _option(MAX_VOXELS, Decides.ROW)
    overwrite: bool = _option(False, Decides.NOTHING)
    strict: bool = _option(False, Decides.ROW)
    """A warning is an error: no mask is written."""


def options_that_decide(options: SegmentOptions, *decided: Decides) -> dict[str, Any]:
    """Return the values of the options with one of these marks, by name."""
    return {each.name: getattr(options, each.name) for each in fields(options) if each.metadata["decides"] in decided}
