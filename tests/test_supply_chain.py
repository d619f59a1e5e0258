"""What is installed is what is pinned, under licences that we can live with; and the two pages on safety name tests
that exist."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tools.audit import judge
from tools.dependencies import (
    BOOTSTRAP,
    OURS,
    UNKNOWN,
    installed,
    is_strong_copyleft,
    licence,
    licence_of_text,
    needed_by,
    read_pins,
    requirements,
)
from tools.sbom import complete, describe_model, wheel_hashes

ROOT = Path(__file__).resolve().parent.parent
AUDIT_PYTHON = ROOT / ".venv-audit" / "bin" / "python"
PAGES = ("SECURITY.md", "THREAT_MODEL.md", "LICENCES.md")


@pytest.fixture(scope="module")
def environment():
    """The packages of `.venv`; elsewhere somebody else decides what is installed."""
    if Path(sys.prefix).resolve() != (ROOT / ".venv").resolve():
        pytest.skip(f"the tests run in {sys.prefix}, which `make .venv` has not made")
    return installed()


def pinned_by_torch(environment) -> set[str]:
    """What a CUDA build of torch brings: torch itself asks for it at exact versions."""
    exact = {
        canonicalize_name(wanted.name) for wanted in requirements(environment["torch"]) if "==" in str(wanted.specifier)
    }
    return exact | {name for name in environment if name.startswith(("nvidia-", "cuda-"))}


def test_every_installed_package_is_pinned_at_its_very_version(environment):
    pins = read_pins()
    free = BOOTSTRAP | {OURS} | pinned_by_torch(environment)
    assert [name for name in environment if name not in pins and name not in free] == []
    other = {name: environment[name].version for name in pins if name in environment}
    # "2.13.0+cpu" is a build of 2.13.0
    assert {name: version.split("+")[0] for name, version in other.items()} == {name: pins[name] for name in other}


def test_no_pin_is_stale_each_is_asked_for_by_the_program_or_its_development(environment):
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the pins are those of Python 3.11; another version needs a few less")
    needed = needed_by(OURS, ("cluster", "cpu", "dev", "dicom", "raw", "web"), environment)
    assert sorted(set(read_pins()) - set(needed)) == []


def test_the_auditing_tools_are_pinned_too_and_stay_out_of_the_environment_that_segments(environment):
    tools = read_pins(ROOT / "constraints-audit.txt")
    assert {"pip-audit", "cyclonedx-bom"} <= set(tools)
    assert not {"pip-audit", "cyclonedx-bom"} & set(environment)
    asked = re.search(r"constraints-audit\.txt ([a-z][^\n]*)\n\ttouch", (ROOT / "Makefile").read_text())
    assert asked and set(asked[1].split()) <= set(tools)


def test_build_requirements_are_pinned():
    (line,) = re.findall(r"^requires = (\[.*\])$", (ROOT / "pyproject.toml").read_text(), re.M)
    wanted = ast.literal_eval(line)
    assert wanted and all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9.]+", item) for item in wanted)


@pytest.mark.parametrize(
    "line", ["numpy>=2", "numpy", "numpy==2.*", "numpy==2.0\nNumPy==2.1", "-r other.txt", "http://x/y.whl"]
)
def test_a_pin_that_is_none_is_refused(line, tmp_path):
    (tmp_path / "constraints.txt").write_text(line + "\n")
    with pytest.raises(ValueError, match="constraints.txt line"):
        read_pins(tmp_path / "constraints.txt")


def test_needs_are_followed_through_extras_and_markers_and_round_in_circles(tmp_path):
    for name, wants in {
        "top": ["left[fast]", 'never; python_version < "3"'],
        "left": ['quick; extra == "fast"', 'slow; extra == "slow"', "right"],
        "right": ["LEFT"],
        "quick": [],
        "slow": [],
        "never": [],
    }.items():
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0", *(f"Requires-Dist: {want}" for want in wants)]
        (folder / "METADATA").write_text("\n".join(lines) + "\n")
    found = needed_by("top", (), installed([str(tmp_path)]))
    assert found == {"left": {"top", "right"}, "quick": {"left"}, "right": {"left"}}


def test_no_installed_package_is_under_the_gpl_or_agpl(environment):
    licences = {name: licence(distribution) for name, distribution in environment.items()}
    assert {name: found for name, found in licences.items() if is_strong_copyleft(found)} == {}
    stated = {
        name: [line for line in distribution.metadata.get_all("Classifier", []) if "(GPL" in line or "(AGPL" in line]
        for name, distribution in environment.items()
    }
    assert {name: lines for name, lines in stated.items() if lines} == {}


def test_the_licence_of_every_dependency_is_known(environment):
    needed = [name for name in needed_by(OURS, (), environment) if name in read_pins()]
    assert [name for name in needed if licence(environment[name]) == UNKNOWN] == []


@pytest.mark.parametrize(
    ("expression", "strong"),
    [
        ("GPL-3.0-only", True),
        ("AGPL-3.0-or-later", True),
        ("GPL-2.0+", True),
        ("MIT AND GPL-2.0-only", True),
        ("GPL-3.0-only AND (MIT OR BSD-3-Clause)", True),
        ("GPL-2.0-only OR AGPL-3.0-only", True),
        ("MIT OR GPL-2.0-only", False),
        ("LGPL-3.0-or-later", False),
        ("GPL-3.0-or-later WITH GCC-exception-3.1", False),
        ("GPL-3.0-or-later WITH GCC-exception-3.1 AND GPL-3.0-only", True),
        ("MPL-2.0 AND MIT", False),
    ],
)
def test_a_licence_is_strong_copyleft_where_no_choice_without_gpl_is_left(expression, strong):
    assert is_strong_copyleft(expression) is strong


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Apache License\n  Version 2.0, January 2004", "Apache-2.0"),
        ("BSD 3-Clause License\n\nCopyright", "BSD-3-Clause"),
        (
            "Redistribution and use in source and binary\nforms ... The names of its contributors may not be used to "
            "endorse"
            "\nor promote products derived",
            "BSD-3-Clause",
        ),
        (
            "Redistribution and use in source and binary forms, with or without modification, are permitted",
            "BSD-2-Clause",
        ),
        ("Permission is hereby granted, free of charge, to any person", "MIT"),
        ("BSD", None),
        ("All rights reserved.", None),
        ("", None),
    ],
)
def test_a_licence_is_told_by_its_own_words(text, expected):
    assert licence_of_text(text) == expected


def test_the_table_of_licences_has_every_pinned_run_time_dependency_and_nothing_else(environment):
    rows = re.findall(r"^\| ([\w.-]+) \| ([\w.!+-]+) \| ([^|]+) \| [^|]+ \|$", (ROOT / "LICENCES.md").read_text(), re.M)
    table = {canonicalize_name(name): (version, found) for name, version, found in rows if name != "package"}
    pins = read_pins()
    needed = [name for name in needed_by(OURS, (), environment) if name in pins]
    assert {name: table.get(name) for name in needed} == {
        name: (pins[name], licence(environment[name])) for name in needed
    }
    assert {name: version for name, (version, _) in table.items()}.items() <= pins.items()


VULNERABLE = {
    "name": "a",
    "version": "1",
    "vulns": [{"id": "X-1", "fix_versions": ["2"]}, {"id": "X-2", "fix_versions": []}],
}
CLEAN = {"name": "b", "version": "1", "vulns": []}
NOT_THERE = {"name": "c", "skip_reason": "c (1) not found"}


@pytest.mark.parametrize(
    ("dependencies", "status", "words"),
    [
        ([CLEAN, NOT_THERE], 0, "1 packages, no known vulnerability\nnot audited: c (1) not found"),
        ([NOT_THERE, VULNERABLE, CLEAN], 1, "a 1: X-1, mended in 2\na 1: X-2, not mended yet"),
        ([NOT_THERE, NOT_THERE], 0, "skipped: the service knows none of the 2 packages"),
        ([], 0, "skipped: "),
    ],
)
def test_an_audit_ends_clean_vulnerable_or_skipped_and_says_which(dependencies, status, words):
    found, lines = judge(json.dumps({"dependencies": dependencies}), "WARNING: something\n")
    assert (found, "\n".join(lines)[: len(words)]) == (status, words)


def test_an_audit_without_a_network_is_a_stated_skip_but_one_that_broke_is_a_failure():
    status, (line,) = judge("", "Traceback ...\nrequests.exceptions.ConnectionError: no such host")
    assert status == 0 and line.startswith("skipped: ") and line.endswith("no such host")
    status, (line,) = judge("", "ERROR: requirement file constraints.txt contains garbage")
    assert status == 2 and "garbage" in line


def an_environment() -> dict:
    """What cyclonedx-py writes, by its schema, of three packages."""
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"properties": [{"name": "cdx:reproducible", "value": "true"}]},
        "components": [
            {
                "type": "library",
                "bom-ref": "ours",
                "name": OURS,
                "version": "1",
                "externalReferences": [{"type": "distribution", "url": "file:///home/somebody"}],
            },
            {
                "type": "library",
                "bom-ref": "nilearn==0.14.1",
                "name": "nilearn",
                "version": "0.14.1",
                "purl": "pkg:pypi/nilearn@0.14.1",
                "licenses": [{"license": {"name": "License :: OSI Approved :: BSD License"}}],
            },
            {
                "type": "library",
                "bom-ref": "pytest==9",
                "name": "pytest",
                "version": "9",
                "licenses": [{"license": {"id": "MIT"}}],
            },
        ],
        "dependencies": [
            {"ref": "ours", "dependsOn": ["nilearn==0.14.1"]},
            {"ref": "nilearn==0.14.1"},
            {"ref": "pytest==9"},
        ],
    }


def completed() -> dict:
    """The same with one shipped model and one hash."""
    model = min((ROOT / "pipeline" / "models").glob("*.safetensors"))
    return complete(
        an_environment(),
        models=[describe_model(model)],
        hashes={("nilearn", "0.14.1"): "ab" * 32, ("pytest", "8"): "cd" * 32},
        licences={"nilearn": "BSD-3-Clause", "pytest": "Apache-2.0"},
        needed={"nilearn"},
    )


def test_the_bill_of_materials_has_us_as_root_and_names_no_folder_of_this_machine():
    document = completed()
    assert (document["metadata"]["component"]["name"], document["metadata"]["component"]["type"]) == (
        OURS,
        "application",
    )
    assert "file://" not in json.dumps(document)


def test_the_bill_of_materials_has_every_model_with_the_hash_of_its_file():
    (model,) = [item for item in completed()["components"] if item["type"] == "machine-learning-model"]
    path = ROOT / "pipeline" / "models" / f"{model['name']}.safetensors"
    assert model["hashes"][0]["content"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert model["licenses"][0]["license"]["name"]
    (ours,) = [link for link in completed()["dependencies"] if link["ref"] == "ours"]
    assert ours["dependsOn"] == [f"model:{model['name']}", "nilearn==0.14.1"]


def test_the_bill_of_materials_says_spdx_licences_hashes_of_the_same_version_and_what_only_develops():
    nilearn, pytest_ = completed()["components"][:2]
    assert nilearn["licenses"] == [{"expression": "BSD-3-Clause"}] and nilearn["scope"] == "required"
    assert nilearn["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    assert [inside["name"] for inside in nilearn["components"]][0] == "@niivue/niivue"
    assert pytest_["licenses"] == [{"license": {"id": "MIT"}}] and pytest_["scope"] == "excluded"
    assert "hashes" not in pytest_


def test_the_hashes_are_those_that_pip_reported():
    item = {
        "download_info": {"url": "https://x/y.whl", "archive_info": {"hashes": {"sha256": "ef" * 32}}},
        "metadata": {"name": "Typing_Extensions", "version": "4.16.0"},
    }
    folder = {"download_info": {"url": "file:///here", "dir_info": {}}, "metadata": {"name": OURS, "version": "1"}}
    assert wheel_hashes([{"install": [folder]}, {"install": [item]}]) == {("typing-extensions", "4.16.0"): "ef" * 32}


def test_the_bill_of_materials_is_valid_by_the_schema_of_cyclonedx(tmp_path):
    if not AUDIT_PYTHON.is_file():
        pytest.skip("`make sbom` has not been run, so the validator is not installed")
    for document, expected in ((completed(), 0), ({**completed(), "specVersion": "1.6", "components": 3}, 1)):
        path = tmp_path / "sbom.json"
        path.write_text(json.dumps(document))
        command = [AUDIT_PYTHON, "-m", "tools.sbom", "--validate", path]
        assert subprocess.run(command, cwd=ROOT, check=False, capture_output=True).returncode == expected


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_a_page_on_safety_names_exists(page):
    named = re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", (ROOT / page).read_text(encoding="utf-8"))
    assert named
    missing = []
    for path, name in named:
        source = ROOT / path
        functions = (
            {node.name for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.FunctionDef)}
            if source.is_file()
            else set()
        )
        if not source.is_file() or (name and name not in functions):
            missing.append(f"{path}::{name}")
    assert missing == []


@pytest.mark.parametrize("page", ["SECURITY.md", "THREAT_MODEL.md"])
def test_every_make_target_that_a_page_on_safety_names_exists(page):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"`make ([a-z]+)", (ROOT / page).read_text(encoding="utf-8"))) <= targets
