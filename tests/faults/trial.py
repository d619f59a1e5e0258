"""Conditions of the trial that are the same wherever the faults are run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pipeline.prepare.images
import pipeline.segment.run


@contextmanager
def alike_everywhere() -> Iterator[None]:
    """Leave out what would judge the trial instead of the faults.

    The faults are sown into copies of one patient: the warning of that, on every row, has tests of its own. A head of
    noise is no trial of deepbet, which may be installed or not.
    """
    with (
        mock.patch.object(pipeline.segment.run, "same_files", lambda _: []),
        mock.patch.object(pipeline.prepare.images, "is_installed", lambda: False),
    ):
        yield
