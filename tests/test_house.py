"""Rules of the house that a reader would otherwise have to remember."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("data", "transforms", "networks", "pipeline")
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_prints_exits_or_runs_what_it_reads(path):
    text = path.read_text()
    for forbidden in (
        r"\bprint\(",
        r"\bsys\.exit\(",
        r"\bpickle\b",
        r"weights_only=False",
        r"yaml\.load\(",
        r"(?<![.\w])eval\(",
        r"(?<![.\w])exec\(",
    ):
        assert not re.search(forbidden, text), forbidden


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_in_its_first_line_what_it_is_about(path):
    assert re.match(r'"""\S[^\n]*[^\n\s]', path.read_text())


def test_no_patient_data_or_pickle_is_ever_tracked_but_the_data_package_is():
    ignore = (ROOT / ".gitignore").read_text().splitlines()
    for pattern in ("*.nii", "*.nii.gz", "*.mha", "*.tif", "*.h5", "*.npz", "*.pt", "*.pth", "*.ckpt"):
        assert pattern in ignore
    assert not any(line.strip().rstrip("/") in ("data", "/data") for line in ignore)


def test_every_dependency_is_pinned_for_a_set_up_that_is_known_to_work():
    pins = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    config = (ROOT / "setup.cfg").read_text()
    wanted = re.findall(
        r"^    ([A-Za-z][A-Za-z0-9_.-]*)(?:[<>=!].*)?$",
        config.split("install_requires =")[1].split("[options.package_data]")[0],
        re.M,
    )
    assert len(wanted) > 15
    assert {name.lower() for name in wanted} - pins == set()
