"""Commands of bench/ and tools/ that the Makefile, the docs and the model cards name."""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from bench.chaos import thousand
from bench.quality import transplants

ROOT = Path(__file__).resolve().parent.parent
MAKEFILE = ROOT / "Makefile"
NAMING = [
    MAKEFILE,
    *(path for pattern in ("*.md", "docs/*.md", "bench/*.md", "pipeline/models/*.md") for path in ROOT.glob(pattern)),
    *(path for pattern in ("data/*.yaml", "pipeline/recipes/*.yaml") for path in ROOT.glob(pattern)),
    *(path for folder in ("bench", "tools") for path in ROOT.glob(f"{folder}/**/*.py")),
]
NAMING.remove(ROOT / "CHANGELOG.md")  # it tells of commands as they were then


@pytest.mark.parametrize("path", NAMING, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_that_is_named_is_a_module_that_can_be_run(path: Path) -> None:
    for name in set(re.findall(r"-m ((?:bench|tools)\.[a-z_.]*[a-z_])", path.read_text(encoding="utf-8"))):
        found = find_spec(name)
        assert found is not None, name
        run = Path(found.origin or "").parent / "__main__.py" if found.submodule_search_locations else found.origin
        assert "main()" in Path(str(run)).read_text(encoding="utf-8"), name


def test_make_thousand_names_no_folder_and_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    (arguments,) = re.findall(r"-m bench\.chaos\.thousand(.*)", MAKEFILE.read_text(encoding="utf-8"))
    seen: list[bool] = []
    monkeypatch.setattr(sys, "argv", ["thousand", *arguments.split()])
    monkeypatch.setattr(thousand, "run", lambda folder, _: seen.append(folder.is_dir()) or 0)
    assert thousand.main() == 0 and seen == [True]


def test_the_sheet_of_samples_shows_the_slice_with_most_tumour_and_draws_what_is_not_known(tmp_path: Path) -> None:
    image, regions = np.zeros((2, 6, 5, 4), np.float32), np.zeros((3, 6, 5, 4), np.float32)
    image[1, ..., 2] = 7
    regions[0, 2:5, 1:3, 2], regions[0, 0, 0, 1] = 1, 1
    regions[0, 0, 0, 2] = np.nan
    shown, shares = transplants.middle_slice(image, regions, 1, 2)
    assert (shown == 7).all() and np.nansum(shares[0]) == 6
    # In 2D with a neighbour on each side, the second modality's middle slice is channel 4 of 0 to 5.
    stack = np.arange(6, dtype=np.float32).reshape(6, 1, 1).repeat(2, axis=1)
    assert (transplants.middle_slice(stack, regions[..., 0], 1, 2)[0] == 4).all()
    transplants.draw_sheet([(shown, shares)] * 11, ("WT", "TC", "ET"), tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
