"""What the Makefile calls can be called as it does."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from bench import thousand

MAKEFILE = Path(__file__).resolve().parent.parent / "Makefile"


def test_make_thousand_names_no_folder_and_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    (arguments,) = re.findall(r"-m bench\.thousand(.*)", MAKEFILE.read_text(encoding="utf-8"))
    seen: list[bool] = []
    monkeypatch.setattr(sys, "argv", ["thousand", *arguments.split()])
    monkeypatch.setattr(thousand, "run", lambda folder, _: seen.append(folder.is_dir()) or 0)
    assert thousand.main() == 0 and seen == [True]
