"""Rules of the house that a reader would otherwise have to remember."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sentences import broken_sentences, faults_of

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("data", "transforms", "networks", "pipeline")
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
MODULES = [*SOURCES, *(path for folder in ("bench", "tools") for path in sorted((ROOT / folder).rglob("*.py")))]
CODE = [*MODULES, ROOT / "run_pipeline.py"]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
FOLDERS = sorted({path.parent for path in MODULES})
MOST_MODULES, MOST_LINES, MOST_LINES_OF_A_FUNCTION, MOST_CHARACTERS = 14, 350, 60, 120


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=named)
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


@pytest.mark.parametrize("path", SOURCES, ids=named)
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


# ---------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize("folder", FOLDERS, ids=named)
def test_a_folder_holds_no_more_modules_than_one_look_takes_in(folder):
    assert len(list(folder.glob("*.py"))) <= MOST_MODULES


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_a_module_is_about_one_thing_and_therefore_short(path):
    assert len(path.read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", CODE, ids=named)
def test_a_function_fits_a_screen(path):
    functions = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES_OF_A_FUNCTION} == {}


@pytest.mark.parametrize("path", [*CODE, *TESTS, ROOT / "Makefile"], ids=named)
def test_a_line_ends_before_its_reader_must_scroll(path):
    long = [n for n, line in enumerate(path.read_text().splitlines(), 1) if len(line) > MOST_CHARACTERS]
    assert long == []


# ---------------------------------------------------------------------------------------------------- sentences


@pytest.mark.parametrize("path", CODE, ids=named)
def test_a_docstring_begins_with_a_short_plain_sentence(path):
    assert broken_sentences(path.relative_to(ROOT), path.read_text()) == []


@pytest.mark.parametrize(
    ("kind", "text", "faults"),
    [
        ("function", "Return the mask of a case.", []),
        ("function", "The mask of a case.", ["begins with 'The'"]),
        ("function", "Whether a case is whole.", ["begins with 'Whether'"]),
        ("function", "``text`` in capitals.", ["begins with a name, no verb"]),
        ("class", "``NormalizeIntensityd`` in place.", []),
        ("class", "A mask.", ["begins with 'A'"]),
        ("class", "Two masks of one case.", []),
        ("module", "Rooms for nobody but a running process.", ["holds 'nobody'"]),
        ("function", "Read one two three four five six seven eight nine ten eleven twelve thirteen.", []),
        ("function", "Read one two three four five six seven eight nine ten eleven twelve thirteen more.",
         ["15 words"]),
        # only the first sentence counts, and code is one word
        ("function", "Read it. The rest may say what it likes, at any length whatsoever, in one or in many more words.",
         []),
        ("function", "Read ``a, b, c, d, e, f, g, h, i, j, k, l, m, n, o and p`` of a file.", []),
    ],
)  # fmt: skip
def test_the_rule_for_first_sentences_tells_plain_ones_from_others(kind, text, faults):
    assert faults_of(kind, text) == faults


# ---------------------------------------------------------------------------------------------------- the wheel


def test_the_wheel_has_every_module_and_every_file_of_the_tree_and_no_other(tmp_path):
    build = ["egg_info", "--egg-base", str(tmp_path), "build_py", "--build-lib", str(tmp_path / "lib")]
    command = [sys.executable, "-c", "from setuptools import setup; setup()", "--quiet", *build]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert files_of(tmp_path / "lib", *PACKAGES) == files_of(ROOT, *PACKAGES)
    assert sorted(path.name for path in (tmp_path / "lib").iterdir()) == sorted((*PACKAGES, "run_pipeline.py"))


def files_of(root: Path, *folders: str) -> set[str]:
    found = (path for folder in folders for path in (root / folder).rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix() for path in found if "__pycache__" not in path.parts}
