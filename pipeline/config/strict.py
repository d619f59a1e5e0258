"""Kind of all settings, and the numbers that they hold."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Voxels = Annotated[int, Field(ge=1)]
WindowSide = Annotated[int, Field(ge=8)]
"""With smaller windows, or a larger overlap, a foreign model file could ask for millions of windows a case."""
Millimetres = Annotated[float, Field(ge=0.05, le=50)]
Millilitres = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Scale = Annotated[float, Field(ge=0.25, le=4)]


class Strict(BaseModel):
    """Frozen settings.

    An unknown key is an error, and so is a number that is not finite.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
