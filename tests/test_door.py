"""Before any work: the version, other names of the program, colours, a Python without the packages, containers."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml

import run_pipeline
from pipeline import __version__

ROOT = Path(__file__).resolve().parent.parent
WINGS = ("data", "transforms", "networks", "pipeline")


def call(*command: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, env=os.environ | {"TERM": "xterm"} | environment, timeout=600
    )


# ---- names and version ----


def test_the_version_is_told_on_its_own(capsys):
    assert run_pipeline.main(["--version"]) == 0
    assert capsys.readouterr().out == f"run_pipeline.py {__version__}\n"


def test_python_m_pipeline_is_the_command_line_with_its_exit_codes(tmp_path):
    done = call(sys.executable, "-m", "pipeline", "--version")
    assert (done.returncode, done.stdout) == (0, f"run_pipeline.py {__version__}\n")
    done = call(sys.executable, "-m", "pipeline", "inspect", str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert done.stderr.startswith("run_pipeline.py: ") and "nowhere" in done.stderr and "Traceback" not in done.stderr


def test_the_citation_and_the_changelog_tell_the_same_version_and_licence():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert cited["version"] == __version__ and f"\n## {__version__}\n" in (ROOT / "CHANGELOG.md").read_text()
    assert cited["license"] == config["metadata"]["license_expression"]
    assert {"cff-version", "message", "title", "authors"} <= set(cited)


# ---- colours ----


def on_a_terminal(*arguments: str, **environment: str) -> str:
    """What a terminal gets: the help goes to a pseudo-terminal."""
    pty = pytest.importorskip("pty", reason="no pseudo-terminals on this system")
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "run_pipeline.py", *arguments],
        cwd=ROOT,
        stdout=follower,
        stderr=follower,
        env={**{k: v for k, v in os.environ.items() if k != "NO_COLOR"}, "TERM": "xterm", **environment},
    )
    os.close(follower)
    shown = b""
    try:
        while piece := os.read(leader, 65536):
            shown += piece
    except OSError:  # Linux's way to say that the other end is closed
        pass
    os.close(leader)
    process.wait(timeout=60)
    return shown.decode()


@pytest.mark.parametrize("arguments", [("--help",), ("segment",)])
def test_no_color_is_heeded_and_colours_are_there_without_it(arguments):
    assert "\x1b[" in on_a_terminal(*arguments)
    assert "\x1b[" in on_a_terminal(*arguments, NO_COLOR="")  # an empty value counts as none
    plain = on_a_terminal(*arguments, NO_COLOR="1")
    assert "\x1b[" not in plain and "segment" in plain


@pytest.mark.parametrize(("value", "coloured"), [("1", False), ("", None), (None, None)])
def test_no_color_is_heeded_by_the_servers_log(monkeypatch, value, coloured):
    uvicorn = pytest.importorskip("uvicorn", reason="the extra `web` is not installed")
    from pipeline.web.app import uvicorn_options

    monkeypatch.delenv("NO_COLOR", raising=False)
    if value is not None:
        monkeypatch.setenv("NO_COLOR", value)
    assert uvicorn.Config("nothing:runs", **uvicorn_options()).use_colors is coloured


# ---- without the packages ----


def bare(folder: Path) -> subprocess.CompletedProcess[str]:
    """The program called by a Python that has no package."""
    return call(sys.executable, "-S", "-E", "run_pipeline.py", "inspect", ".", cwd=folder)


def test_a_python_without_the_packages_is_told_in_one_sentence_how_to_set_up(tmp_path):
    shutil.copy(ROOT / "run_pipeline.py", tmp_path)
    for wing in ("data", "pipeline"):
        shutil.copytree(ROOT / wing, tmp_path / wing, ignore=shutil.ignore_patterns("models", "__pycache__"))
    done = bare(tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"run_pipeline.py: {sys.executable} lacks the package tyro; run `make .venv` in {tmp_path} once, then call "
        f"{tmp_path}/.venv/bin/python run_pipeline.py\n"
    )
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".ready").touch()
    assert bare(tmp_path).stderr == (
        f"run_pipeline.py: {sys.executable} lacks the package tyro; call {tmp_path}/.venv/bin/python run_pipeline.py\n"
    )


def test_a_package_that_is_lacking_later_is_told_by_name(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pipeline.inspect", None)
    assert run_pipeline.main(["inspect", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"run_pipeline.py: {sys.executable} lacks the package pipeline.inspect; set up again, see README.md\n"
    )


def test_a_python_that_is_too_old_is_told_so(tmp_path):
    code = "import runpy, sys; sys.version_info = (3, 10, 2); runpy.run_path('run_pipeline.py', run_name='__main__')"
    done = call(sys.executable, "-c", code)
    assert done.returncode == 2
    assert re.fullmatch(r"run_pipeline\.py: Python \S+ is too old; take 3\.11 or newer, see README\.md\n", done.stderr)


# ---- containers ----


def copied(recipe: str) -> list[str]:
    """Paths that a container's recipe copies, as they lie in the program's folder."""
    text = (ROOT / recipe).read_text()
    if recipe == "Dockerfile":
        return [name for line in re.findall(r"(?m)^COPY (.*)$", text) for name in line.split()[:-1]]
    files = text.partition("%files\n")[2].partition("\n\n")[0]
    return [line.split()[0] for line in files.splitlines()]


def installs(recipe: str) -> list[str]:
    return re.findall(r"(?m)^\s*(?:RUN )?python -m pip install (.*)$", (ROOT / recipe).read_text())


@pytest.mark.parametrize("recipe", ["Dockerfile", "apptainer.def"])
def test_what_a_container_is_made_of_is_there_and_pinned(recipe):
    assert [name for name in copied(recipe) if not (ROOT / name).exists()] == []
    assert set(copied(recipe)) >= {"constraints.txt", "setup.cfg", "pyproject.toml", "run_pipeline.py", *WINGS}
    first, second = installs(recipe)
    assert all("--constraint constraints.txt" in command for command in (first, second))
    assert first.split()[-1] == "torch" and second.split()[-1] == '".[cpu]"'
    version = re.search(r"python:(3\.\d+)-slim", (ROOT / recipe).read_text())
    assert version and version[1] == "3.11"  # the version whose packages constraints.txt pins
    text = (ROOT / recipe).read_text()
    assert "run-pipeline demo" in text and not re.search(r"\b(curl|wget|git clone|ADD http)\b", text)


def test_both_containers_are_made_of_the_same():
    assert sorted(copied("Dockerfile")) == sorted(copied("apptainer.def"))
    assert [c.replace("$TORCH_OPTIONS ", "") for c in installs("Dockerfile")] == installs("apptainer.def")


def test_each_instruction_of_the_dockerfile_is_one_that_there_is():
    lines = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text()).splitlines()
    words = [line.split()[0] for line in lines if line and not line.startswith("#")]
    assert words[0] == "FROM" and set(words) <= {
        *("FROM", "ARG", "WORKDIR", "COPY", "RUN", "ENV", "USER", "ENTRYPOINT", "CMD")
    }
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert ".git" in ignored and ".venv" in ignored and not set(copied("Dockerfile")) & set(ignored)


def test_the_sections_of_the_apptainer_recipe_are_those_that_there_are_and_its_commands_parse():
    text = (ROOT / "apptainer.def").read_text()
    sections = re.split(r"(?m)^%(\w+)\n", text)
    assert sections[1::2] == ["files", "post", "test", "runscript"]
    header = [line for line in sections[0].splitlines() if line and not line.startswith("#")]
    assert header == ["Bootstrap: docker", "From: python:3.11-slim"]
    for name, script in zip(sections[3::2], sections[4::2], strict=True):
        assert subprocess.run(["sh", "-n"], input=script, text=True, capture_output=True).returncode == 0, name


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A plain folder with the paths that a container's recipe copies, and no others."""
    source = tmp_path_factory.mktemp("plain")
    for name in copied("Dockerfile"):
        path, ignored = ROOT / name, shutil.ignore_patterns("__pycache__")
        shutil.copytree(path, source / name, ignore=ignored) if path.is_dir() else shutil.copy(path, source / name)
    return source


@pytest.fixture(scope="module")
def installed(source, tmp_path_factory) -> Path:
    """That folder installed as the recipe does, but for the packages and so without a network."""
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = call(*command, "--disable-pip-version-check", "--target", str(target), ".", cwd=source)
    assert done.returncode == 0, done.stderr
    return target


def test_what_a_container_installs_runs_and_holds_every_weight_and_settings_file(source, installed):
    done = call(sys.executable, "-m", "run_pipeline", "models", cwd=installed, PYTHONPATH=str(installed))
    assert done.returncode == 0, done.stderr
    names = {path.stem for path in (source / "pipeline" / "models").glob("*.safetensors")}
    assert len(names) > 5
    assert {line.split(":")[0] for line in done.stdout.splitlines() if not line.startswith(" ")} == names
    wanted = [path for wing in WINGS for path in (source / wing).rglob("*") if path.is_file()]
    assert len(wanted) > 200
    for path in wanted:
        there = installed / path.relative_to(source)
        assert there.is_file(), f"{path.relative_to(source)} is not in the package; see package_data in setup.cfg"
        assert hashlib.sha256(there.read_bytes()).digest() == hashlib.sha256(path.read_bytes()).digest()


def test_every_package_tells_type_checkers_that_it_has_types(installed):
    assert [wing for wing in WINGS if not (installed / wing / "py.typed").is_file()] == []


def test_the_installed_command_is_the_command_line(installed):
    code = "import sys; from importlib.metadata import distribution as d; " + (
        "(e,) = d('brain-tumour-segmentation').entry_points.select(name='run-pipeline'); "
        "sys.argv = ['run-pipeline', '--version']; sys.exit(e.load()())"
    )
    done = call(
        sys.executable, "-S", "-c", code, cwd=installed, PYTHONPATH=os.pathsep.join([str(installed), *sys.path])
    )
    assert (done.returncode, done.stdout) == (0, f"run_pipeline.py {__version__}\n")
