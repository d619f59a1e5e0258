"""Recipes and settings: strict, and every refusal one sentence with file, key and value."""

from __future__ import annotations

import copy
import re
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from data.errors import UsageError
from data.strict_yaml import line_of
from networks import build_network
from networks.losses import build_loss
from pipeline.config import RECIPES, AugmentConfig, load_recipe, parse_config
from transforms.augment.chain import training_chain

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
    build_loss(config.training.loss.name, config.training.loss.parameters)
    training_chain(config.network.spatial_dims, config.training.patch, **config.augment.of_the_patch)


@pytest.mark.parametrize("path", RECIPE_FILES, ids=lambda path: path.stem)
def test_every_shipped_recipe_is_strict_in_each_of_its_parts_and_names_the_line(path: Path, tmp_path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    parts = [number for number, line in enumerate(lines, start=1) if re.fullmatch(r"[a-z_]+:", line)]
    assert len(parts) >= 3
    for number in (0, *parts):  # a key too many at the top, and as the first of each part
        wrong = [*lines[:number], "  colour: red" if number else "colour: red", *lines[number:]]
        copied = tmp_path / f"{number}.yaml"
        copied.write_text("\n".join(wrong) + "\n", encoding="utf-8")
        with pytest.raises(UsageError) as caught:
            load_recipe(str(copied))
        assert f"{number}.yaml, line {number + 1}: " in str(caught.value)
        assert "colour: unknown key" in str(caught.value)


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
        ({"colour": "red"}, "colour", ["unknown key", "'red'"]),
        ({"preprocess__spacing": 1}, "preprocess.spacing", ["unknown key", "1"]),
        ({"network__normalisation": "batch"}, "network.normalisation", ["unknown key", "'batch'"]),
        ({"network__spatial_dims": 4}, "network.spatial_dims", ["2 or 3", "4"]),
        ({"network__norm": "layer"}, "network.norm", ["'batch'", "'layer'"]),
        ({"network__channels": "wide"}, "network.channels", ["'wide'"]),
        ({"network__channels": [8]}, "network", ["channels needs 2 to 8 positive widths"]),
        ({"network__architecture": "resnet"}, "network", ["unknown architecture 'resnet'; known: attention_unet"]),
        ({"network__dropout": 2}, "network", ["dropout is a probability below 1, not 2"]),
        ({"network__in_channels": 3}, "recipe", ["network.in_channels is 3, not 4: there are 4 modalities"]),
        ({"network__out_channels": 2}, "recipe", ["out_channels is 2 but there are 3 regions"]),
        ({"modalities": ["t1", "t1", "t2", "flair"]}, "modalities", ["distinct names"]),
        ({"regions": []}, "regions", ["distinct names"]),
        ({"regions": ["WT", "TC", "XX"]}, "recipe", ["convention brats2023 has no region XX"]),
        ({"regions": ["ET", "TC", "WT"]}, "recipe", ["lists ET before TC, which contains it; put TC first"]),
        ({"convention": "brats1999"}, "recipe", ["brats1999", "brats2023"]),
        ({"window__size": [16, 16]}, "recipe", ["window.size needs 3 numbers, got (16, 16)"]),
        ({"window__size": [16, 16, 0]}, "window.size.2", ["greater than or equal to 8", "0"]),
        ({"window__overlap": 0.99}, "window.overlap", ["less than or equal to 0.8", "0.99"]),
        ({"window__batch": 0}, "window.batch", ["greater than or equal to 1"]),
        ({"preprocess__spacing_mm": [2.0, 2.0]}, "preprocess.spacing_mm.2", ["Field required"]),
        (
            {"preprocess__spacing_mm": [2.0, 2.0, -1.0]},
            "preprocess.spacing_mm.2",
            ["greater than or equal to 0.05", "-1.0"],
        ),
        ({"preprocess__spacing_mm": [2.0, 2.0, 1e-6]}, "preprocess.spacing_mm.2", ["greater than or equal to 0.05"]),
        ({"preprocess__spacing_mm": [2.0, 1e6, 2.0]}, "preprocess.spacing_mm.1", ["less than or equal to 50"]),
        ({"preprocess__spacing_mm": [2.0, 2.0, float("inf")]}, "preprocess.spacing_mm.2", ["finite"]),
        ({"preprocess__orientation": "RAX"}, "preprocess.orientation", ["one each of R/L, A/P and S/I", "'RAX'"]),
        ({"preprocess__orientation": "RLS"}, "preprocess.orientation", ["one each", "'RLS'"]),
        ({"preprocess__crop": "brain"}, "preprocess.crop", ["'nonzero' or 'none'", "'brain'"]),
        (
            {"training__sampling": {"extra_weights": {"cubes": 1}}},
            "training.sampling.extra_weights.cubes",
            ["'cube'", "'tumour-free'", "'cubes'"],
        ),
        ({"postprocess__threshold": 0}, "postprocess.threshold", ["greater than 0"]),
        ({"postprocess__min_component_ml": {"wt": 1}}, "recipe", ["min_component_ml names wt"]),
        ({"postprocess__min_component_share": {"wt": 0.1}}, "recipe", ["min_component_share names wt"]),
        ({"postprocess__min_component_share": {"WT": 2}}, "postprocess.min_component_share.WT", ["2"]),
        ({"postprocess__min_component_ml": {"WT": -1}}, "postprocess.min_component_ml.WT", ["-1"]),
        ({"training__patch": [8, 8]}, "recipe", ["training.patch needs 3 numbers, got (8, 8)"]),
        ({"training__sampling": {"phantom_share": 1.5}}, "training.sampling.phantom_share", ["equal to 1", "1.5"]),
        (
            {"training__sampling": {"phantom_share": 0.5, "extra_share": 0.6}},
            "training.sampling",
            ["phantom_share 0.5 and extra_share 0.6 add up to more than 1"],
        ),
        ({"training__learning_rate": float("inf")}, "training.learning_rate", ["finite", "inf"]),
        ({"training__learning_rate": 0}, "training.learning_rate", ["greater than 0", "0"]),
        ({"training__stopping": {"minutes": 0}}, "training.stopping.minutes", ["greater than 0"]),
        ({"training__schedule": {"name": "step"}}, "training.schedule.name", ["'cosine', 'polynomial'", "'step'"]),
        ({"training__loss": {"name": "mse"}}, "training.loss", ["unknown loss 'mse'; known: dice, dice_ce"]),
        (
            {"training__loss": {"name": "tversky", "parameters": {"alfa": 0.3}}},
            "training.loss",
            ["loss 'tversky' has no parameter 'alfa'", "alpha"],
        ),
        ({"augment": {"flip_axes": [0, 3]}}, "augment.flip_axes.1", ["less than or equal to 2", "3"]),
        ({"augment": {"gamma": 1.0}}, "augment.gamma", ["less than 1", "1.0"]),
        ({"augment": {"flips": True}}, "augment.flips", ["unknown key", "True"]),
        ({"window__context": 1}, "recipe", ["window.context 1 is for 2D networks"]),
        ({"window__context": 9}, "window.context", ["less than or equal to 8", "9"]),
        ({"missing_modalities": True}, "missing_modalities", ["unknown key", "True"]),
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


# Each change is a line of a recipe and what takes its place; the error names the line on which it then stands.
@pytest.mark.parametrize(
    ("old", "new", "beginning"),
    [
        ("name: tiny", "name: tiny\ncolour: red", "line 2: colour: unknown key"),
        ("  norm: batch", "  norms: batch", "line 11: network.norms: unknown key"),
        ("  norm: batch", "  norm: layer", "line 11: network.norm: "),
        ("  overlap: 0.5", "  # a comment\n\n  overlap: 2", "line 16: window.overlap: "),
        ("  size: [16, 16, 16]", "  size:\n    - 16\n    - 0\n    - 16", "line 15: window.size.1: "),
        ("  patch: [8, 8, 8]", "  epochs: 3", "line 15: training.patch: Field required"),
        ("  patch: [8, 8, 8]", "  pach: [8, 8, 8]", "line 16: training.pach: unknown key"),
        ("  patch: [8, 8, 8]", "  loss: {name: mse}\n  patch: [8, 8, 8]", "line 16: training.loss: unknown loss"),
    ],
)
def test_what_is_wrong_in_a_file_is_refused_with_its_line(tmp_path: Path, old: str, new: str, beginning: str) -> None:
    recipe = """name: tiny
modalities: [t1, t1c, t2, flair]
regions: [WT, TC, ET]
convention: brats2023
network:
  architecture: attention_unet
  spatial_dims: 3
  in_channels: 4
  out_channels: 3
  channels: [4, 8]
  norm: batch
window:
  size: [16, 16, 16]
  overlap: 0.5
training:
  patch: [8, 8, 8]
"""
    path = tmp_path / "mine.yaml"
    path.write_text(recipe, encoding="utf-8")
    load_recipe(str(path))
    assert recipe.count(old) == 1
    path.write_text(recipe.replace(old, new), encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        load_recipe(str(path))
    assert str(caught.value).startswith(f"{path}, {beginning}"), str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_no_line_can_be_blamed_for_is_refused_with_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(settings(regions=["ET", "TC", "WT"])), encoding="utf-8")
    with pytest.raises(UsageError, match="mine.yaml: recipe: regions lists ET before TC"):
        load_recipe(str(path))


def test_a_misspelt_key_is_named_before_the_one_that_it_leaves_missing() -> None:
    broken = settings()
    broken["windows"] = broken.pop("window")
    with pytest.raises(UsageError, match=r"^my.yaml: windows: unknown key \(did you mean window\?\)"):
        parse_config(broken, "my.yaml")


def test_lines_are_those_of_the_last_step_that_the_file_has(tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    path.write_text("a: 1\nb:\n  c:\n  - x: 2\n  - 3\n7: seven\n", encoding="utf-8")
    expected = {
        ("a",): 1,
        ("b",): 2,
        ("b", "c"): 3,
        ("b", "c", 0): 4,
        ("b", "c", 0, "x"): 4,
        ("b", "c", 1): 5,
        ("b", "c", 2): 3,
        ("b", "d", "e"): 2,
        ("a", "b"): 1,
        (7,): 6,
        ("z",): None,
        (): None,
    }
    assert {location: line_of(path, location) for location in expected} == expected


# ------------------------------------------------------------------------------------------------------- meanings


def test_a_flat_network_sees_each_modality_with_its_neighbouring_slices() -> None:
    flat = {
        "network__spatial_dims": 2,
        "window__size": [16, 16],
        "training__patch": [8, 8],
        "window__context": 1,
        "network__in_channels": 12,
    }
    assert parse_config(settings(**flat), "my.yaml").window.context == 1
    with pytest.raises(UsageError, match="in_channels is 4, not 12: there are 4 modalities of 3 slices each"):
        parse_config(settings(**{**flat, "network__in_channels": 4}), "my.yaml")


def test_modalities_may_be_missing_where_they_were_left_out_in_training() -> None:
    assert not parse_config(settings(), "my.yaml").missing_modalities
    assert parse_config(settings(augment={"missing_modality": 0.1}), "my.yaml").missing_modalities


def test_the_augmentation_takes_just_the_options_of_its_configuration() -> None:
    options = {name for name, p in signature(training_chain).parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert options == set(AugmentConfig().of_the_patch)
    for name, value in AugmentConfig().of_the_patch.items():
        assert signature(training_chain).parameters[name].default == value


@pytest.mark.parametrize("scale", [[2.0, 0.7], [0.1, 1.0], [1.0, 5.0], [1.0]])
def test_sizes_of_transplants_are_the_least_and_the_most(scale: list[float]) -> None:
    given = parse_config(settings(augment={"transplant_scale": [0.7, 2.0]}), "my.yaml")
    assert given.augment.transplant_scale == (0.7, 2.0)
    with pytest.raises(UsageError, match="^my.yaml: augment.transplant_scale"):
        parse_config(settings(augment={"transplant_scale": scale}), "my.yaml")


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


def test_options_of_one_architecture_are_written_only_where_a_recipe_sets_some() -> None:
    """Model files, and runs to resume, stay the same as before there were options."""
    assert "options" not in parse_config(settings(), "x").model_dump(mode="json")["network"]
    config = parse_config(settings(network__options={"merge_norm": "instance"}), "x")
    assert config.model_dump(mode="json")["network"]["options"] == {"merge_norm": "instance"}
    assert parse_config(config.model_dump(mode="json"), "again") == config
    with pytest.raises(
        UsageError, match=r"^x: network: .*there is no option 'merge'; options and defaults: merge_norm"
    ):
        parse_config(settings(network__options={"merge": "instance"}), "x")
