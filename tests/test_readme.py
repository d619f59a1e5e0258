"""What README and docs/ tell a reader to type works, and what they say of the program is so."""

from __future__ import annotations

import importlib.util
import re
import shlex
import signal
from dataclasses import fields
from pathlib import Path

import pandas as pd
import pytest
import tyro

import run_pipeline
from pipeline.checkpoint import shipped_models
from pipeline.commands import parser
from pipeline.score import catalogue
from pipeline.score.case import ScoreOptions, metric_columns
from pipeline.score.statistics import COMPARISON_COLUMNS, SUMMARY_COLUMNS
from pipeline.score.tables import DETECTION_COLUMNS, LESION_COLUMNS, REPORT_COLUMNS
from pipeline.training.progress.history import EpochRecord
from tools import doc_tables

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SUBJECTS = ("segment", "evaluate", "train", "follow", "web", "results", "speed", "robustness", "house")
DOCS = {subject: (ROOT / "docs" / f"{subject}.md").read_text(encoding="utf-8") for subject in SUBJECTS}
PAGES = {"README.md": README} | {f"docs/{subject}.md": text for subject, text in DOCS.items()}
OTHERS = ("CONTRIBUTING.md", "DECISIONS.md", "CHANGELOG.md")
PREFIX = ".venv/bin/python run_pipeline.py "


def commands_of(page: str) -> list[str]:
    """The lines that a reader pastes; a line that ends in a backslash goes on in the next."""
    blocks = re.findall(r"```sh\n(.*?)```", page, re.S)
    return [line for block in blocks for line in re.sub(r"\\\n\s*", "", block).splitlines()]


OF_README = commands_of(README)
OF_DOCS = [command for subject in ("segment", "evaluate", "train") for command in commands_of(DOCS[subject])]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, phantoms) -> Path:
    """A folder in which the patients are there, and what the commands write is shared by them, in the pages' order."""
    root = tmp_path_factory.mktemp("readme")
    (root / "PATIENTS").symlink_to(phantoms)
    (root / "out" / "demo").mkdir(parents=True)
    (root / "out" / "demo" / "patients").symlink_to(phantoms)
    return root


def run(command: str) -> int:
    return run_pipeline.main(shlex.split(command.removeprefix(PREFIX)))


# ---- what is pasted ----


@pytest.mark.parametrize("command", OF_README)
def test_every_command_of_the_readme_runs(command, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    assert run(command) == 0


@pytest.mark.parametrize("command", OF_DOCS)
def test_every_command_of_the_docs_runs(command, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    assert run(command) == 0


def test_the_readme_has_five_examples_and_every_subcommand_is_shown_on_some_page():
    assert len(OF_README) == 5
    assert all(command.startswith(PREFIX) for command in (*OF_README, *OF_DOCS))
    shown = set(re.findall(rf"(?m)^{re.escape(PREFIX)}(\w+)", "\n".join(PAGES.values()))) | {"demo", "seal"}
    assert shown == {
        "inspect",
        "segment",
        "prepare",
        "merge",
        "evaluate",
        "follow",
        "train",
        "models",
        "recipes",
        "seal",
        "serve",
        "demo",
    }
    assert "`seal MODEL ...`" in DOCS["segment"]
    assert "\nmake demo " in README and "run_pipeline.py demo" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("page", PAGES)
def test_no_page_calls_a_python_that_may_lack_the_packages(page):
    """A bare ``python`` is another one on most machines, or none; ``python3`` makes the environment."""
    told = re.sub(r"<!--.*?-->", "", PAGES[page])
    assert re.findall(r"(?m)(?:^|`)python (?!-m pipeline`).*", told) == []


@pytest.mark.parametrize("page", PAGES)
def test_every_module_that_a_page_runs_is_there(page):
    names = re.findall(r"-m\s+((?:bench|tools)\.[a-z]\w*)", PAGES[page])
    assert [name for name in names if importlib.util.find_spec(name) is None] == []


def test_every_make_target_that_a_page_names_is_there():
    there = set(re.findall(r"(?m)^([\w.-]+):", (ROOT / "Makefile").read_text()))
    named = {name for page in PAGES.values() for name in re.findall(r"(?:^|`)make ([a-z.][\w.-]*)", page, re.M)}
    assert {"demo", "test", "serve"} <= named and named - there == set()


def test_the_library_example_of_the_docs_runs_and_the_report_is_its_last_word(phantoms, tmp_path, monkeypatch, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", DOCS["segment"], re.S)
    (tmp_path / "PATIENTS").symlink_to(phantoms)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(example, "docs/segment.md", "exec"), names)
    assert "voxels" in capsys.readouterr().out
    assert list(names["report"]["status"]) == ["ok", "ok"]
    pd.testing.assert_series_equal(names["report"]["dice_WT"], names["scores"]["dice_WT"])


# ---- the door ----


def test_the_readme_is_short_and_in_the_order_in_which_a_newcomer_asks():
    assert len(README.encode()) <= 9000
    assert re.findall(r"(?m)^#+ (.*)", README)[1:] == [
        *("What it needs, and what to expect", "Two commands", "Five examples", "Where things are", "More", "Licence")
    ]
    assert README.index("](docs/preview.png)") < README.index("## What it needs")


def test_every_folder_that_the_tree_names_is_there_and_every_package_is_named():
    (tree,) = re.findall(r"## Where things are\n\n```\n(.*?)```", README, re.S)
    top, named = "", set()
    for line in tree.splitlines():
        name = line.split()[0]
        top = name if not line.startswith(" ") else top
        named.add(name if name == top else top + name)
    assert [name for name in named if not (ROOT / name).exists()] == []
    packages = {path.parent.relative_to(ROOT) for wing in doc_tables.PACKAGES for path in (ROOT / wing).glob("*/*.py")}
    assert {f"{path.as_posix()}/" for path in packages if path.name != "__pycache__"} - named == set()


# ---- what the pages say is what the program does ----


@pytest.mark.parametrize("part", doc_tables.PARTS)
def test_a_part_that_is_written_from_the_sources_is_what_they_say_now(part):
    file, write = doc_tables.PARTS[part]
    page = (ROOT / "docs" / file).read_text(encoding="utf-8")
    assert doc_tables.write_part(page, part, write()) == page, "run: .venv/bin/python -m tools.doc_tables"


def test_every_key_of_a_recipe_has_a_meaning():
    rows = [[cell.strip() for cell in line.split(" | ")] for line in doc_tables.recipe_keys().splitlines()[2:]]
    assert len(rows) > 90
    assert [row[0] for row in rows if not row[-1].strip("| ")] == []


def test_a_key_stands_with_its_values_its_default_and_its_docstring():
    table = doc_tables.recipe_keys()
    assert (
        "| `window.overlap` | number >= 0, <= 0.8 | `0.5` | Share of a window that its neighbour covers again" in table
    )
    assert "| `preprocess.crop` | `nonzero`, `none` | `nonzero` | Crop to" in table
    assert "| `network.spatial_dims` | `2`, `3` |  | 2: slices" in table
    assert "| `training.loss.parameters` | name: number or true, false | `{}` |" in table
    assert "| `first.recipe` | a recipe |" in table


def test_a_page_without_the_place_for_a_part_is_refused():
    with pytest.raises(ValueError, match="has no part 'losses'"):
        doc_tables.write_part("# A page\n", "losses", "")


def columns_told(page: str, heading: str) -> set[str]:
    """The names in the first column of the table under a heading."""
    section = page.partition(f"{heading}\n")[2].partition("\n#")[0]
    rows = re.findall(r"(?m)^\| (`.*?) \|", section)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_the_columns_of_every_table_are_told():
    measures = catalogue.shown_in(catalogue.Place.REPORT)
    report = {f"{catalogue.report_name(measure)}_<region>" for measure in measures}
    assert columns_told(DOCS["segment"], "### report.csv") == set(REPORT_COLUMNS) | report
    page = DOCS["evaluate"]
    metrics = metric_columns(ScoreOptions(("standard", "brats2023-gli")))
    assert len(metrics) > 25
    assert columns_told(page, "### metrics.csv") == {name.replace("brats2023_gli_", "<set>_") for name in metrics}
    assert columns_told(page, "### lesions.csv") == set(LESION_COLUMNS)
    assert columns_told(page, "### detection.csv") == set(DETECTION_COLUMNS)
    assert columns_told(page, "### summary.csv") == set(SUMMARY_COLUMNS)
    assert columns_told(page, "### comparison.csv") == set(COMPARISON_COLUMNS)
    told = {field.name for field in fields(EpochRecord)} - {"dice"} | {"dice_<region>"}
    assert columns_told(DOCS["train"], "Columns of `history.csv`:") == told


def test_the_exit_codes_are_those_of_the_command_line():
    table = DOCS["segment"].partition("## Exit codes\n")[2].partition("\n## ")[0]
    told = [int(code) for code in re.findall(r"(?m)^\| (\d+) \|", table)]
    ours = [run_pipeline.OK, run_pipeline.SOME_FAILED, run_pipeline.CANNOT_START]
    assert told == [*ours, 128 + signal.SIGINT, 128 + signal.SIGTERM]


@pytest.mark.parametrize(
    ("command", "subject"), [("Segment", "segment"), ("Evaluate", "evaluate"), ("Train", "train"), ("Serve", "web")]
)
def test_every_option_of_a_command_stands_on_its_page(command, subject):
    shown = tyro.extras.get_parser(getattr(parser, command)).format_help()
    options = {*re.findall(r"--[a-z][a-z0-9-]*", shown)} - {"--help"}
    options -= {option.replace("--", "--no-", 1) for option in options}  # the opposite of a switch
    assert options > {"--debug"}
    assert [name for name in sorted(options) if name not in DOCS[subject]] == []


def test_every_shipped_recipe_and_model_is_told():
    recipes = [path.stem for path in (ROOT / "pipeline" / "recipes").glob("*.yaml")]
    assert len(recipes) > 9 and [name for name in recipes if f"`{name}`" not in DOCS["train"]] == []
    models = [checkpoint.name for checkpoint in shipped_models()]
    assert len(models) > 5 and [name for name in models if f"`{name}`" not in DOCS["results"]] == []


# ---- form ----


def headings_of(page: str) -> set[str]:
    """Anchors as GitHub makes them."""
    titles = re.findall(r"(?m)^#+ (.*)", re.sub(r"(?s)```.*?```", "", page))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", [*PAGES, *OTHERS, "SECURITY.md", "docs/deletions.md"])
def test_every_link_and_picture_of_a_page_is_there(name):
    page = (ROOT / name).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", page):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / name).parent / file if file else ROOT / name
        assert path.is_file(), target
        assert not anchor or anchor in headings_of(path.read_text(encoding="utf-8")), target


def test_every_page_of_docs_is_linked_from_the_readme():
    assert [path.name for path in (ROOT / "docs").glob("*.md") if f"](docs/{path.name})" not in README] == []


@pytest.mark.parametrize("name", [*PAGES, *OTHERS])
def test_lines_end_at_120_characters_but_for_tables(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > 120 and not line.startswith("|")] == []
