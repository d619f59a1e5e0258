"""Recipes and settings: strict, and every refusal one sentence with file, key and value."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from data.errors import UsageError
from networks import build_network
from pipeline.config import RECIPES, load_recipe, parse_config

RECIPE_FILES = sorted(RECIPES.glob("*.yaml"))


def settings(**changes: Any) -> dict[str, Any]:
    """A small recipe as plain data; ``network__norm="group"`` changes one key of a part."""
    plain: dict[str, Any] = {
        "name": "tiny",
        "modalities": ["t1", "t1c", "t2", "flair"],
        "regions": ["WT", "TC", "ET"],
        "convention": "brats2023",
        "network": {
            "architecture": "attention_unet",
            "spatial_dims": 3,
            "in_channels": 4,
            "out_channels": 3,
            "channels": [4, 8],
        },
        "preprocess": {"spacing_mm": [2.0, 2.0, None]},
        "window": {"size": [16, 16, 16]},
        "postprocess": {"min_component_ml": {"WT": 0.5}},
        "training": {"patch": [8, 8, 8]},
    }
    for path, value in changes.items():
        *parts, last = path.split("__")
        place = plain
        for part in parts:
            place = place[part]
        place[last] = value
    return plain


# -------------------------------------------------------------------------------------------------------- recipes


def test_there_are_recipes() -> None:
    assert {"brats_attention_unet_3d", "brats_unet_plus_plus_2d"} <= {path.stem for path in RECIPE_FILES}


@pytest.mark.parametrize("path", RECIPE_FILES, ids=lambda path: path.stem)
def test_every_shipped_recipe_loads_by_name_and_by_path_and_its_network_can_be_built(path: Path) -> None:
    config = load_recipe(path.stem)
    assert config == load_recipe(str(path))
    assert config.name == path.stem
    network = build_network(config.network)
    assert sum(p.numel() for p in network.parameters()) > 0
    assert parse_config(config.model_dump(mode="json"), "again") == config


def test_an_unknown_recipe_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe("resnet")
    known = ", ".join(path.stem for path in RECIPE_FILES)
    assert str(caught.value) == f"no recipe 'resnet'; give a .yaml file or one of: {known}"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"name: a\nname: b\n", "line 2: the key 'name' is said twice; keep one"),
        (b"network:\n  norm: batch\n  norm: group\n", "line 3: the key 'norm' is said twice; keep one"),
        (b"name: [a\n", "is not valid YAML"),
        (b"- a\n", "must hold a mapping (key: value), not list"),
        (b"name: \xff\n", "is not UTF-8 text"),
        (b"name: !!python/object/apply:os.system ['true']\n", "is not valid YAML"),
        (b"", "name: Field required"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_in_one_line_with_its_path(
    tmp_path: Path, content: bytes, sentence: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        load_recipe(str(path))
    text = str(caught.value)
    assert text.startswith(str(path)) and sentence in text and "\n" not in text


def test_a_recipe_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(UsageError, match="cannot be read"):
        load_recipe(str(tmp_path / "folder.yaml"))


def test_a_recipe_of_the_users_own_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yml"
    path.write_text(yaml.safe_dump(settings()), encoding="utf-8")
    config = load_recipe(str(path))
    assert config.network.channels == (4, 8) and config.preprocess.spacing_mm == (2.0, 2.0, None)
    assert config.postprocess.threshold == 0.5 and config.window.overlap == 0.5  # what was not said


# -------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"colour": "red"}, "colour", ["Extra inputs", "'red'"]),
        ({"preprocess__spacing": 1}, "preprocess.spacing", ["Extra inputs", "1"]),
        ({"network__normalisation": "batch"}, "network.normalisation", ["'batch'"]),
        ({"network__spatial_dims": 4}, "network.spatial_dims", ["2 or 3", "4"]),
        ({"network__norm": "layer"}, "network.norm", ["'batch'", "'layer'"]),
        ({"network__channels": "wide"}, "network.channels", ["'wide'"]),
        ({"network__channels": [8]}, "network", ["channels needs 2 to 8 positive widths"]),
        ({"network__architecture": "resnet"}, "network", ["unknown architecture 'resnet'; known: attention_unet"]),
        ({"network__dropout": 2}, "network", ["dropout is a probability below 1, not 2"]),
        ({"network__in_channels": 3}, "recipe", ["in_channels is 3 but there are 4 modalities"]),
        ({"network__out_channels": 2}, "recipe", ["out_channels is 2 but there are 3 regions"]),
        ({"modalities": ["t1", "t1", "t2", "flair"]}, "modalities", ["distinct names"]),
        ({"regions": []}, "regions", ["distinct names"]),
        ({"regions": ["WT", "TC", "XX"]}, "recipe", ["convention brats2023 has no region XX"]),
        ({"regions": ["ET", "TC", "WT"]}, "recipe", ["lists ET before TC, which contains it; put TC first"]),
        ({"convention": "brats1999"}, "recipe", ["brats1999", "brats2023"]),
        ({"window__size": [16, 16]}, "recipe", ["window.size needs 3 numbers, got (16, 16)"]),
        ({"window__size": [16, 16, 0]}, "window.size.2", ["greater than or equal to 1", "0"]),
        ({"window__overlap": 1.0}, "window.overlap", ["less than 1", "1.0"]),
        ({"window__batch": 0}, "window.batch", ["greater than or equal to 1"]),
        ({"preprocess__spacing_mm": [2.0, 2.0]}, "preprocess.spacing_mm.2", ["Field required"]),
        ({"preprocess__spacing_mm": [2.0, 2.0, -1.0]}, "preprocess.spacing_mm.2", ["greater than 0", "-1.0"]),
        ({"preprocess__spacing_mm": [2.0, 2.0, float("inf")]}, "preprocess.spacing_mm.2", ["finite"]),
        ({"preprocess__orientation": "RAX"}, "preprocess.orientation", ["one each of R/L, A/P and S/I", "'RAX'"]),
        ({"preprocess__orientation": "RLS"}, "preprocess.orientation", ["one each", "'RLS'"]),
        ({"preprocess__crop": "brain"}, "preprocess.crop", ["'nonzero' or 'none'", "'brain'"]),
        ({"postprocess__threshold": 0}, "postprocess.threshold", ["greater than 0"]),
        ({"postprocess__min_component_ml": {"wt": 1}}, "recipe", ["min_component_ml names wt"]),
        ({"postprocess__min_component_share": {"wt": 0.1}}, "recipe", ["min_component_share names wt"]),
        ({"postprocess__min_component_share": {"WT": 2}}, "postprocess.min_component_share.WT", ["2"]),
        ({"postprocess__min_component_ml": {"WT": -1}}, "postprocess.min_component_ml.WT", ["-1"]),
        ({"training__patch": [8, 8]}, "recipe", ["training.patch needs 3 numbers, got (8, 8)"]),
        ({"training__phantom_share": 1.5}, "training.phantom_share", ["less than or equal to 1", "1.5"]),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence_with_source_key_and_value(changes, key, words) -> None:
    with pytest.raises(UsageError) as caught:
        parse_config(settings(**changes), "my.yaml")
    text = str(caught.value)
    assert text.startswith(f"my.yaml: {key}: ")
    assert all(word in text for word in words), text
    assert "\n" not in text and len(text) < 350


@pytest.mark.parametrize("wrong", [None, [], "text", 3])
def test_settings_that_are_no_mapping_are_refused(wrong: Any) -> None:
    with pytest.raises(UsageError, match="^my.yaml: recipe: "):
        parse_config(wrong, "my.yaml")


def test_what_is_left_out_is_named() -> None:
    for key in ("name", "network", "modalities", "regions", "convention", "window", "training"):
        broken = copy.deepcopy(settings())
        del broken[key]
        with pytest.raises(UsageError, match=f"^my.yaml: {key}: Field required"):
            parse_config(broken, "my.yaml")


def test_a_configuration_cannot_be_changed_afterwards() -> None:
    config = parse_config(settings(), "my.yaml")
    with pytest.raises(ValidationError):
        config.name = "other"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        config.network.norm = "group"  # type: ignore[misc]
