"""What README tells a reader to type works, and what it names is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

import run_pipeline

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PREFIX = "python run_pipeline.py "
COMMANDS = [
    line.removeprefix(PREFIX) for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines()
]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, phantoms) -> Path:
    """A folder in which PATIENTS is there and OUT is shared by the commands, in README's order."""
    root = tmp_path_factory.mktemp("readme")
    (root / "PATIENTS").symlink_to(phantoms)
    return root


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_readme_runs(command, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    assert run_pipeline.main(shlex.split(command)) == 0


def test_the_library_example_of_the_readme_runs_and_the_report_is_its_last_word(
    phantoms, tmp_path, monkeypatch, capsys
):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.S)
    (tmp_path / "PATIENTS").symlink_to(phantoms)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(example, "README.md", "exec"), names)
    assert "voxels" in capsys.readouterr().out
    assert list(names["report"]["status"]) == ["ok", "ok"]
    pd.testing.assert_series_equal(names["report"]["dice_WT"], names["scores"]["dice_WT"])


def test_every_file_that_the_tree_names_is_there():
    (tree,) = re.findall(r"## Where things are\n\n```\n(.*?)```", README, re.S)
    folder, missing = "", []
    for line in tree.splitlines():
        names = re.split(r"\s{2,}", line.strip())[0]
        if not line.startswith(" "):
            folder = names if names.endswith("/") else ""
            continue
        for name in re.findall(r"[a-z_0-9]+(?:\.py|/)", names):
            if not (ROOT / folder / name).exists():
                missing.append(f"{folder}{name}")
    assert not missing


def test_every_link_and_picture_of_the_readme_is_there():
    headings = {
        "#" + line.lstrip("# ").lower().replace(" ", "-") for line in README.splitlines() if line.startswith("#")
    }
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target in headings or (ROOT / target).is_file(), target
