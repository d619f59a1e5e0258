"""Places to which a command writes.

run_pipeline.py alone prints, and hands one of these to the command that it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

OK, SOME_FAILED, CANNOT_START = 0, 1, 2
"""Exit statuses of a command, but for those of a signal."""


class Console(Protocol):
    """Output of one command. Texts may hold names of files: they are printed on one line, and move no cursor."""

    def say(self, text: str) -> None:
        """Print a line of the result."""

    def raw(self, text: str) -> None:
        """Print a text for programs, as it is."""

    def complain(self, text: str) -> None:
        """Print a line about a fault."""

    def cases(self, total: int, quiet: bool) -> AbstractContextManager[Callable[..., None]]:
        """Return the progress of a run over cases.

        It is called with each row of the report.
        """

    def steps(self, quiet: bool) -> AbstractContextManager[Callable[[int, int, float], None]]:
        """Return the progress of a training run, called after each step."""

    def show_log(self) -> None:
        """Print the log's information, not its warnings alone."""
