"""Facts of a run, at the top of its page."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline import __version__
from pipeline.report.texts import plain


@dataclass(frozen=True)
class Head:
    """Facts of a run, as far as its caller knows them.

    Without ``command`` the page has neither command nor date: two calls from Python with the same input write the same
    bytes.
    """

    started: float | None = None
    """Seconds since 1970."""
    command: str = ""
    folders: Mapping[str, str] = field(default_factory=dict)
    """Folders by their role, such as ``Predictions``."""
    models: Sequence[str] = ()
    tolerance_mm: float = 1.0
    """Of the normalised surface Dice (NSD)."""

    def facts(self) -> dict[str, str]:
        """Return heading and text of each known fact, in the order of the page."""
        date = "" if self.started is None else time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(self.started))
        known = {"Date": date if self.command else "", "Command": self.command, **self.folders}
        known |= {"Model" if len(self.models) == 1 else "Models": ", ".join(self.models), "Version": __version__}
        return {name: text for name, value in known.items() if (text := plain(value))}
