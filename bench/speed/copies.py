"""Copies of a few patients under other ids, for batches of any size."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

from data.case import Case


def other_id(case_id: str, number: int) -> str:
    """Replace the last run of digits of ``case_id`` by ``number``.

    It stays as long as it was, and is appended where there is none.

    It is appended where there is none.
    """
    found = list(re.finditer(r"\d+", case_id))
    if not found:
        return f"{case_id}-{number}"
    last = found[-1]
    return case_id[: last.start()] + str(number).zfill(len(last.group())) + case_id[last.end() :]


def copy_patients(cases: Sequence[Case], folder: Path, n: int, *, link: bool = False, first: int = 90001) -> list[str]:
    """Lay ``n`` patients into ``folder``, the given ones in turn; returns their ids.

    Parameters
    ----------
    link : bool
        Hard links, for patients in their thousands; the given ones must lie on the same file system.
    first : int
        Number of the first one.
    """
    names = []
    for number, case in enumerate(islice(cycle(cases), n), first):
        name = other_id(case.case_id, number)
        (folder / name).mkdir(parents=True)
        sources = [*case.images.values(), *([case.reference] if case.reference else [])]
        for path in dict.fromkeys(path for source in sources for path in source.paths):
            target = folder / name / path.name.replace(case.case_id, name)
            (os.link if link else shutil.copyfile)(path, target)
        names.append(name)
    return names
