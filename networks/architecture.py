"""Description of one architecture, complete for the rest of the program."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any

from networks.layers import PaddedNetwork


@dataclass(frozen=True)
class Architecture:
    """Kind of network that a recipe may name.

    Parameters
    ----------
    build : class of network
        Called with all entries of a :class:`networks.NetworkConfig` by name. Parameters that are keyword-only are the
        architecture's own options, which a recipe sets in ``network.options``.
    first_tensor : str
        Name of the weights that see the images, (features, in_channels, ...). No other tensor depends on
        ``in_channels``.
    heads : str
        Beginning of the names of the tensors with a row for each region. No others depend on ``out_channels``.
    spatial_dims : tuple of int
        2: slices, 3: volumes.
    resolutions : int, optional
        Length of ``channels`` where the architecture fixes it.
    channels_last : tuple of int
        The ``spatial_dims`` that run faster on a CPU with the channels as the innermost axis, as measured by
        ``python -m bench.timings.engines``. Sums are then made in another order.
    """

    build: Callable[..., PaddedNetwork]
    first_tensor: str
    heads: str
    spatial_dims: tuple[int, ...] = (2, 3)
    resolutions: int | None = None
    channels_last: tuple[int, ...] = ()

    @property
    def options(self) -> Mapping[str, inspect.Parameter]:
        """Name, type and default of each of the architecture's own options."""
        parameters = inspect.signature(self.build, eval_str=True).parameters
        return {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}

    def check_options(self, given: Mapping[str, Any]) -> None:
        """Raise ``ValueError`` for an option of another name or type than this architecture's."""
        known = self.options
        for name, value in given.items():
            if name not in known:
                there = ", ".join(f"{key} = {option.default}" for key, option in known.items()) or "none"
                raise ValueError(f"there is no option {name!r}; options and defaults: {there}")
            hint = known[name].annotation
            allowed = typing.get_args(hint) or (hint,)
            if type(value) not in allowed and not (type(value) is int and float in allowed):
                wanted = " or ".join("null" if kind is NoneType else kind.__name__ for kind in allowed)
                raise ValueError(f"option {name} is {value!r}; give {wanted}")
